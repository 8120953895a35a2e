"""A base model small enough to record many real trials with: python -m tests.benchmarks.small_base FOLDER

A Llama of a million weights, trained from nothing as a language model on the docstrings of PACKAGES. Trials
then fine-tune it like any other base model. tests/data/curves_small.jsonl was recorded with it:

    python -m sweeper +experiment=classify model=custom model.name=FOLDER model.dtype=float32 \\
        sweep.name=recorded pruner=none sampler=quasi_random verdict=none budget.trials=150 \\
        budget.failures_in_row=100 data.sizes.train=768 data.sizes.validation=512 task.max_input_tokens=32 \\
        task.evaluation.batch_size=64 task.evaluation.marks_per_epoch=8 trial.learning_rate=2e-3 \\
        'space.batch_size.choices=[4,8,16,32]' space.learning_rate.low=2e-4 space.learning_rate.high=0.1
    python -m tests.benchmarks.record_curves recorded tests/data/curves_small.jsonl
"""

import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import torch
from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel as Decoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.trainers import BpeTrainer
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from sweeper.data.docstrings import harvest

PACKAGES = ("stdlib", "transformers", "mlflow", "networkx", "sympy", "matplotlib", "nltk", "pydantic")
"""None of those that the experiment `classify` tells apart."""

_TOKENS, _BATCH, _STEPS = 48, 32, 1500


def main(folder: Path) -> None:
    """Train tokenizer and model, and save both in Hugging Face's format."""
    torch.manual_seed(0)
    texts = [row.text for row in harvest(PACKAGES)]
    words = _tokenizer(texts)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(words),
            hidden_size=128,
            intermediate_size=256,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=256,
            tie_word_embeddings=True,
            pad_token_id=words.pad_token_id,
            bos_token_id=None,
            eos_token_id=words.eos_token_id,
        )
    )
    print(f"{len(texts)} docstrings, {model.num_parameters()} weights")
    _train(model, _batches(words, texts))
    model.save_pretrained(folder)
    words.save_pretrained(folder)


def _tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    words = Tokenizer(BPE())
    words.pre_tokenizer, words.decoder = ByteLevel(add_prefix_space=False), Decoder()
    special = ["<pad>", "<eos>"]
    words.train_from_iterator(texts, BpeTrainer(vocab_size=4096, special_tokens=special, show_progress=False))
    return PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="<eos>")  # noqa: S106 - names of tokens


def _batches(words: PreTrainedTokenizerFast, texts: list[str]) -> Iterator[torch.Tensor]:
    """All texts, one after another and cut into rows, in an order that is shuffled once; without end."""
    ids = [i for one in words(texts)["input_ids"] for i in [*one, words.eos_token_id]]
    rows = torch.tensor(ids[: len(ids) // _TOKENS * _TOKENS]).view(-1, _TOKENS)
    while True:
        yield from rows[torch.randperm(len(rows))].split(_BATCH)


def _train(model: LlamaForCausalLM, batches: Iterator[torch.Tensor]) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, _STEPS)
    for step, rows in enumerate(islice(batches, _STEPS)):
        loss = model(input_ids=rows, labels=rows).loss
        loss.backward()
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if step % 100 == 0:
            print(f"step {step}: loss {loss.item():.3f}", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))

"""Tiny models of many architectures, as their families save them: with and without a classification head."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers

from sweeper.models.modeling import BaseModel
from sweeper.models.pretrained import Architecture, resolve
from tests import tiny

_SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 64}
_WIDE = _SMALL | {"intermediate_size": 64}
_GROUPED = _WIDE | {"num_key_value_heads": 2}
_GPT = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
_BART = {
    "d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4,
    "decoder_attention_heads": 4, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "max_position_embeddings": 64,
}  # fmt: skip

SHAPES: dict[str, tuple[str, dict[str, Any]]] = {
    "albert": ("Albert", _WIDE | {"embedding_size": 16}),
    "bart": ("Bart", _BART | {"decoder_start_token_id": 0}),
    "bert": ("Bert", _WIDE),
    "bloom": ("Bloom", {"hidden_size": 32, "n_layer": 2, "n_head": 4}),
    "distilbert": ("DistilBert", {"dim": 32, "hidden_dim": 64, "n_layers": 2, "n_heads": 4}),
    "electra": ("Electra", _WIDE | {"embedding_size": 32}),
    "falcon": ("Falcon", _SMALL | {"alibi": True, "multi_query": False, "new_decoder_architecture": False}),
    "gemma3": ("Gemma3Text", _GROUPED | {"head_dim": 8}),
    "gpt2": ("GPT2", _GPT),
    "gptj": ("GPTJ", _GPT | {"rotary_dim": 4}),
    "llama": ("Llama", _GROUPED),
    "mamba": ("Mamba", {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 4}),
    "mixtral": ("Mixtral", _GROUPED | {"num_local_experts": 4, "num_experts_per_tok": 2}),
    "modernbert": ("ModernBert", _WIDE | {"local_attention": 16, "global_attn_every_n_layers": 2}),
    "mpt": ("Mpt", {"d_model": 32, "n_layers": 2, "n_heads": 4, "max_seq_len": 64}),
    "neox": ("GPTNeoX", _WIDE),
    "opt": ("OPT", _SMALL | {"ffn_dim": 64, "word_embed_proj_dim": 32}),
    "phi": ("Phi", _WIDE),
    "qwen2_moe": (
        "Qwen2Moe",
        _GROUPED | {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32,
                    "shared_expert_intermediate_size": 32},
    ),
    "roberta": ("Roberta", _WIDE | {"max_position_embeddings": 66, "type_vocab_size": 1}),
    "t5": (
        "T5",
        {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4, "decoder_start_token_id": 0},
    ),
    "xlnet": ("XLNet", {"d_model": 32, "n_layer": 2, "n_head": 4, "d_inner": 64}),
}  # fmt: skip

_WRITES = {
    "causal": transformers.AutoModelForCausalLM,
    "seq2seq": transformers.AutoModelForSeq2SeqLM,
    "masked": transformers.AutoModelForMaskedLM,
    "classifier": transformers.AutoModelForSequenceClassification,
}


def make(shape: str, what: str, labels: Sequence[str] = (), **changes: Any) -> Any:
    """A model of the architecture `shape` that is `what`: causal, seq2seq, masked or classifier."""
    family, sizes = SHAPES[shape]
    ids = {"vocab_size": len(tiny.tokenizer()), "pad_token_id": 0, "bos_token_id": None, "eos_token_id": 1}
    named = {"id2label": dict(enumerate(labels)), "label2id": {name: i for i, name in enumerate(labels)}}
    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(**sizes | ids | (named if labels else {}) | changes)
    return _WRITES[what].from_config(config)


def load(model: Any, folder: Path, kind: Architecture, **changes: Any) -> BaseModel:
    """`model` as a worker loads it from where it lies."""
    if not folder.exists():
        tiny.save(model, folder)
    wanted = tiny.local(folder, **changes)
    labels = tiny.LABELS if kind == "classifier" else ()
    return BaseModel.load(wanted, resolve(wanted), tiny.config(kind=kind).task, labels)

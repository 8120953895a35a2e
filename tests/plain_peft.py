"""One trial as a person would write it: plain peft, torch.optim.AdamW, a schedule of transformers, a loop.

It shares nothing with sweeper's engines but the rows and, for dropout, the masks.
"""

import copy
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
from transformers import get_scheduler, set_seed

from sweeper.config import TrialSettings
from sweeper.engines.packed.dropout import Dropout, row_key

SCHEDULERS = {"linear": "linear", "cosine": "cosine", "constant": "constant_with_warmup"}


@dataclass(frozen=True)
class Plain:
    """Training losses per step, and the final adapter by PEFT's names."""

    losses: list[float]
    adapter: dict[str, torch.Tensor]


def train(
    model: Any, rows: Sequence[dict[str, Any]], settings: TrialSettings, seed: int, steps: int | None = None
) -> Plain:
    """Train an adapter over a copy of `model`, up to `steps` steps."""
    set_seed(seed)
    lora = settings.lora
    targets = lora.target_modules
    config = LoraConfig(
        task_type="CAUSAL_LM", r=lora.rank, lora_alpha=lora.alpha, lora_dropout=0.0,
        use_rslora=lora.variant == "rslora",
        target_modules=targets if targets == "all-linear" else targets.split(","),
    )  # fmt: skip
    peft = get_peft_model(copy.deepcopy(model), config).train()
    masks = _keyed_dropout(peft, model, lora.dropout)
    trained = [parameter for parameter in peft.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=settings.learning_rate, weight_decay=settings.weight_decay)
    batches = list(_batches(len(rows), settings, seed))
    warmup = math.ceil(settings.warmup * len(batches))
    scheduler = get_scheduler(SCHEDULERS[settings.scheduler], optimizer, warmup, len(batches))
    losses = []
    for step, batch in enumerate(batches[:steps]):
        for module in masks:
            module.keys = [row_key(seed, step, place) for place in range(len(batch))]
        loss, plain = _loss(peft, [rows[i] for i in batch], settings.label_smoothing)
        loss.backward()
        if settings.max_grad_norm:
            torch.nn.utils.clip_grad_norm_(trained, settings.max_grad_norm)
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
        losses.append(plain)
    return Plain(losses, get_peft_model_state_dict(peft, save_embedding_layers=False))


def _batches(rows: int, settings: TrialSettings, seed: int) -> Iterator[list[int]]:
    generator = torch.Generator().manual_seed(seed)
    order: list[int] = []
    for _ in range(settings.epochs):
        order += torch.randperm(rows, generator=generator).tolist()
    for start in range(0, len(order), settings.batch_size):
        yield order[start : start + settings.batch_size]


def _loss(model: Any, rows: Sequence[dict[str, Any]], smoothing: float) -> tuple[torch.Tensor, float]:
    longest = max(len(row["input_ids"]) for row in rows)
    ids = torch.tensor([row["input_ids"] + [0] * (longest - len(row["input_ids"])) for row in rows])
    mask = torch.tensor([[1] * len(r["input_ids"]) + [0] * (longest - len(r["input_ids"])) for r in rows])
    labels = torch.tensor([row["labels"] + [-100] * (longest - len(row["labels"])) for row in rows])
    scores = model(input_ids=ids, attention_mask=mask).logits[:, :-1].flatten(0, 1)
    targets = labels[:, 1:].flatten()
    loss = F.cross_entropy(scores, targets, label_smoothing=smoothing)
    return loss, float(F.cross_entropy(scores.detach(), targets))


class _KeyedDropout(torch.nn.Module):
    def __init__(self, layer: int, rate: float) -> None:
        super().__init__()
        self.layer, self.rate = layer, rate
        self.keys: list[int] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        dropout = Dropout.of(self.keys, [self.rate] * len(self.keys), x.device)
        return x if dropout is None else dropout(x, self.layer)


def _keyed_dropout(peft: Any, model: Any, rate: float) -> list[_KeyedDropout]:
    """Put the packed engine's masks in the place of torch's."""
    linear = [
        name
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and module is not model.get_output_embeddings()
    ]
    found = []
    for name, module in peft.named_modules():
        if hasattr(module, "lora_A"):
            keyed = _KeyedDropout(linear.index(name.removeprefix("base_model.model.")), rate)
            module.lora_dropout["default"] = keyed
            found.append(keyed)
    return found

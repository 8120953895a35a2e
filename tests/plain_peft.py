"""One trial as a person would write it: plain peft, torch.optim.AdamW, a schedule of transformers, a loop.

It shares nothing with sweeper's engines but the rows and, for dropout, the masks.
"""

import copy
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch

import torch
import torch.nn.functional as F
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
from transformers import get_scheduler, set_seed
from transformers.models.t5 import modeling_t5
from transformers.models.t5.modeling_t5 import T5Attention

from sweeper.config import TrialSettings
from sweeper.engines.packed.dropout import Dropout, row_key

_T5_ATTENTION = modeling_t5.eager_attention_forward
SCHEDULERS = {"linear": "linear", "cosine": "cosine", "constant": "constant_with_warmup"}


@dataclass(frozen=True)
class Plain:
    """Training losses per step, and the final adapter by PEFT's names."""

    losses: list[float]
    adapter: dict[str, torch.Tensor]


@patch.object(modeling_t5, "eager_attention_forward", lambda *args, **more: _attend(*args, **more))
def train(
    model: Any, rows: Sequence[dict[str, Any]], settings: TrialSettings, seed: int, steps: int | None = None
) -> Plain:
    """Train an adapter over a copy of `model`, up to `steps` steps."""
    set_seed(seed)
    lora = settings.lora
    targets = lora.target_modules
    config = LoraConfig(
        task_type="SEQ_2_SEQ_LM" if model.config.is_encoder_decoder else "CAUSAL_LM",
        r=lora.rank, lora_alpha=lora.alpha, lora_dropout=0.0, use_rslora=lora.variant == "rslora",
        target_modules=targets if targets == "all-linear" else targets.split(","),
    )  # fmt: skip
    peft = get_peft_model(copy.deepcopy(model), config).train()
    if model.config.is_encoder_decoder:
        peft.get_base_model().set_attn_implementation("eager")
    masks = _Masks()
    _key_dropout(peft, model, lora.dropout, masks)
    trained = [parameter for parameter in peft.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=settings.learning_rate, weight_decay=settings.weight_decay)
    batches = list(_batches(len(rows), settings, seed))
    warmup = math.ceil(settings.warmup * len(batches))
    scheduler = get_scheduler(SCHEDULERS[settings.scheduler], optimizer, warmup, len(batches))
    losses = []
    for step, batch in enumerate(batches[:steps]):
        masks.begin([row_key(seed, step, place) for place in range(len(batch))])
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
    ids, labels = (
        _padded([row["input_ids"] for row in rows], 0),
        _padded([row["labels"] for row in rows], -100),
    )
    mask = _padded([[1] * len(row["input_ids"]) for row in rows], 0)
    if model.config.is_encoder_decoder:
        scores, targets = model(input_ids=ids, attention_mask=mask, labels=labels).logits, labels
    else:
        scores, targets = model(input_ids=ids, attention_mask=mask).logits[:, :-1], labels[:, 1:]
    scores, targets = scores.flatten(0, 1), targets.flatten()
    loss = F.cross_entropy(scores, targets, label_smoothing=smoothing)
    return loss, float(F.cross_entropy(scores.detach(), targets))


def _padded(rows: Sequence[Sequence[int]], value: int) -> torch.Tensor:
    longest = max(map(len, rows))
    return torch.tensor([[*row, *[value] * (longest - len(row))] for row in rows])


@dataclass
class _Masks:
    """The rows of the step that is made."""

    keys: list[int] = field(default_factory=list)
    calls: dict[int, int] = field(default_factory=dict)

    def begin(self, keys: list[int]) -> None:
        self.keys, self.calls = keys, {}


class _KeyedDropout(torch.nn.Module):
    """The packed engine's masks in the place of torch's, for a layer's adapter."""

    def __init__(self, masks: _Masks, layer: int, rate: float) -> None:
        super().__init__()
        self.masks, self.layer, self.rate = masks, layer, rate

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        keys = self.masks.keys
        return Dropout.of(keys, [self.rate] * len(keys), x.device).of_adapters(x, self.layer)


class _KeyedBaseDropout(_KeyedDropout):
    """The same at a site of the base model; `sites` is how many there are."""

    def __init__(self, masks: _Masks, site: int, rate: float, sites: int) -> None:
        super().__init__(masks, site, rate)
        self.sites = sites

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        call = self.masks.calls.get(self.layer, 0)
        self.masks.calls[self.layer] = call + 1
        keys = self.masks.keys
        return Dropout.of(keys, [0.0] * len(keys), x.device).of_base(
            x, self.layer + call * self.sites, self.rate
        )


def _key_dropout(peft: Any, model: Any, rate: float, masks: _Masks) -> None:
    """Layers are numbered first, then the places where the base model itself drops something."""
    linear = [
        name
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and module is not model.get_output_embeddings()
    ]
    own = [name for name, module in model.named_modules() if _own_rate(module)]
    for name, module in peft.named_modules():
        if hasattr(module, "lora_A"):
            layer = linear.index(name.removeprefix("base_model.model."))
            module.lora_dropout["default"] = _KeyedDropout(masks, layer, rate)
    inner = peft.get_base_model()
    for site, name in enumerate(own, start=len(linear)):
        module = inner.get_submodule(name)
        keyed = _KeyedBaseDropout(masks, site, _own_rate(module), len(own))
        if isinstance(module, torch.nn.Dropout):
            inner.set_submodule(name, keyed)
        else:
            module.weights_dropout = keyed


def _attend(module: Any, query: Any, key: Any, value: Any, mask: Any, **more: Any) -> tuple[Any, Any]:
    """T5's plain attention, with its weights dropped by the packed engine's masks."""
    _, weights = _T5_ATTENTION(module, query, key, value, mask, **more | {"dropout": 0.0})
    if module.dropout:
        weights = module.weights_dropout(weights)
    return (weights @ value).transpose(1, 2), weights


def _own_rate(module: Any) -> float:
    if isinstance(module, torch.nn.Dropout):
        return module.p
    return module.dropout if isinstance(module, T5Attention) else 0.0

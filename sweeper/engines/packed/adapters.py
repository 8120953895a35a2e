"""Adapters of the packed engine as PEFT has them: made by it, and written for it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from sweeper.config import TrialSettings
from sweeper.engines.checkpoints import MOMENTS
from sweeper.engines.packed.stack import Adapter, Pairs
from sweeper.models.modeling import BaseModel

_WEIGHTS = "adapter_model.safetensors"
_PREFIX = "base_model.model."


@dataclass(frozen=True)
class Fresh:
    """An adapter before its first step."""

    adapter: Adapter
    config: Any
    """PEFT's."""


def fresh(base: BaseModel, settings: TrialSettings, seed: int) -> Fresh:
    """The adapter that PEFT itself would start with: the same layers, scaling and random values."""
    weights, scaling = {}, 0.0
    with base.put_on(settings, seed) as model:
        config = model.peft_config["default"]
        for name, module in model.named_modules():
            if hasattr(module, "lora_A"):
                a, b = (part["default"].weight.detach().clone() for part in (module.lora_A, module.lora_B))
                weights[name.removeprefix(_PREFIX)] = (a, b)
                scaling = module.scaling["default"]
    return Fresh(Adapter(weights, scaling), config)


def write(adapter: Adapter, config: Any, folder: Path, moments: bool) -> None:
    """An ordinary PEFT folder; with `moments` also what training needs to go on."""
    folder.mkdir(parents=True)
    config.inference_mode = True
    config.save_pretrained(folder)
    save_file(_named(adapter.weights), folder / _WEIGHTS, metadata={"format": "pt"})
    if moments and adapter.moments is not None:
        first, second = map(_named, adapter.moments)
        both = {f"first.{name}": tensor for name, tensor in first.items()}
        both |= {f"second.{name}": tensor for name, tensor in second.items()}
        save_file(both, folder / MOMENTS)


def read(folder: Path, like: Adapter) -> Adapter:
    """The adapter that `write` left in `folder`, shaped `like` a fresh one of the same trial."""
    device = next(iter(like.weights.values()))[0].device
    weights = _pairs(load_file(folder / _WEIGHTS, str(device)), like, "")
    if not (folder / MOMENTS).exists():
        return Adapter(weights, like.scaling)
    both = load_file(folder / MOMENTS, str(device))
    return Adapter(weights, like.scaling, (_pairs(both, like, "first."), _pairs(both, like, "second.")))


def _named(pairs: Pairs) -> dict[str, Tensor]:
    named = {}
    for layer, (a, b) in pairs.items():
        named[f"{_PREFIX}{layer}.lora_A.weight"] = a
        named[f"{_PREFIX}{layer}.lora_B.weight"] = b
    return named


def _pairs(named: dict[str, Tensor], like: Adapter, kind: str) -> Pairs:
    return {
        layer: (
            named[f"{kind}{_PREFIX}{layer}.lora_A.weight"],
            named[f"{kind}{_PREFIX}{layer}.lora_B.weight"],
        )
        for layer in like.weights
    }

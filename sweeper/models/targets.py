"""Which layers of a model an adapter can be put on, and what becomes of weights that two layers share."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from sweeper.config import LoraSettings

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_READ_BY_KERNELS = frozenset({"conv1d", "dt_proj", "out_proj", "x_proj"})
"""Layers whose weights a state-space model's kernels read past an adapter. PEFT refuses two of them."""

_STATE_SPACE = ("falcon_h1", "falcon_mamba", "mamba", "mamba2", "nemotron_h")

_OF_EXPERTS = frozenset({"down_proj", "gate", "gate_proj", "up_proj", "w1", "w2", "w3"})
"""Names that PEFT takes for the stacked weights of all experts, without dropout and DoRA."""


def target_names(lora: LoraSettings) -> list[str]:
    """`lora.target_modules` as a list."""
    return [name.strip() for name in lora.target_modules.split(",") if name.strip()]


def targets(model: "PreTrainedModel", lora: LoraSettings) -> str | list[str]:
    """What PEFT is to put adapters on; of `all-linear` every linear layer that is called as one."""
    if lora.target_modules != "all-linear":
        return target_names(lora)
    left_out = _left_out(model)
    if not left_out:
        return "all-linear"
    import torch

    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear)
        and module is not model.get_output_embeddings()
        and name.rpartition(".")[2] not in left_out
    ]


def refusal(model: "PreTrainedModel", names: Sequence[str]) -> str:
    """Why adapters can't be put on all of the layers `names`, or "". `model` may have no weights."""
    left_out = _left_out(model)
    for name in names:
        leaf = name.rpartition(".")[2]
        if leaf in left_out and leaf in _OF_EXPERTS:
            return (
                f"{name!r} is a part of the experts, whose weights are stacked; say all-linear for the rest"
            )
        if leaf in left_out:
            return (
                f"{name!r} is read by the state-space kernels past any adapter; say all-linear for the rest"
            )
    if getattr(model.config, "is_encoder_decoder", False) and (shared := _shared(model, names)):
        return (
            f"{', '.join(shared)} shares its weights with other layers, and an encoder-decoder can't be "
            "saved with them apart; name other layers, or say all-linear"
        )
    return ""


def untie(model: "PreTrainedModel", names: Sequence[str]) -> None:
    """Give the output layer weights of its own if adapters are to be merged into it or the embeddings."""
    import torch

    output = model.get_output_embeddings()
    if output is None or not _shared(model, names):
        return
    output.weight = torch.nn.Parameter(output.weight.detach().clone(), requires_grad=False)
    model.config.tie_word_embeddings = False
    model.config.get_text_config().tie_word_embeddings = False
    model.all_tied_weights_keys = {}


def _shared(model: "PreTrainedModel", names: Sequence[str]) -> list[str]:
    """Which of the layers share their weights with others."""
    owners: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        owners.setdefault(id(parameter), []).append(name.rpartition(".")[0])
    together = [owner for some in owners.values() if len(some) > 1 for owner in some]
    return sorted({o for o in together for name in names if o == name or o.endswith(f".{name}")})


def _left_out(model: "PreTrainedModel") -> frozenset[str]:
    if model.config.model_type in _STATE_SPACE:
        return _READ_BY_KERNELS
    stacked = any(name.endswith("gate_up_proj") and p.ndim == 3 for name, p in model.named_parameters())
    return _OF_EXPERTS if stacked else frozenset()

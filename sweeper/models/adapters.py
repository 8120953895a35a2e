"""PEFT's linear LoRA layer with a leaner training step, and adapters that go on and off quickly.

PEFT casts the layer's input to float32, multiplies there, and keeps every step of it for the backward pass.
Here the adapter computes in the base model's type, as it would under autocast, and the backward pass is
written out: a training step of SmolLM2 in bfloat16 on two cores takes a quarter less processor time, one in
float32 a few per cent, and there are no float32 copies of the activations. The weights, their gradients and
the optimizer stay in float32. Outside of training the layer takes PEFT's own steps, in place: a score is
what plain PEFT gives.
"""

from typing import Any

import torch
import torch.nn.functional as F
from peft import LoraConfig, PeftModel
from peft.tuners import lora
from peft.tuners.lora.layer import ParamWrapper
from torch import Tensor, nn


def lean(config: LoraConfig) -> LoraConfig:
    """`config`, which makes `LeanLinear` of every linear layer; DoRA needs PEFT's own."""
    if not config.use_dora:
        config._register_custom_module({nn.Linear: LeanLinear})
    return config


class Wrapping:
    """PEFT's model around a base model, whose layers can be taken off and put on again.

    To wrap every layer anew costs a small model's trial a fifth of a second. It is on when made.
    """

    def __init__(self, model: PeftModel) -> None:
        self.model = model
        self._layers: list[tuple[nn.Module, str, lora.LoraLayer]] = []
        for name, module in model.named_modules():
            if isinstance(module, lora.LoraLayer):
                parent, _, child = name.rpartition(".")
                self._layers.append((model.get_submodule(parent), child, module))

    @property
    def is_reusable(self) -> bool:
        """Whether the layers can be put on again: those on the weights of experts are nested."""
        return not any(isinstance(layer, ParamWrapper) for _, _, layer in self._layers)

    def put_on(self, config: LoraConfig) -> None:
        """Put the layers on as `config` says, whose targets are theirs, with fresh weights.

        PEFT makes them, in the order in which it makes them on a bare model: from the same state of torch's
        generator the weights are the same.
        """
        # By name, as PEFT has found them.
        config.target_modules = self.model.peft_config["default"].target_modules
        for parent, name, layer in self._layers:
            setattr(parent, name, layer)
            layer.update_layer("default", config.r, config.lora_alpha, config=config)
            for part in (layer.lora_A, layer.lora_B, layer.lora_embedding_A, layer.lora_embedding_B):
                for weight in part.parameters():  # as PEFT does on a bare model
                    if weight.itemsize < 4:
                        weight.data = weight.data.float()
        self.model.peft_config["default"] = config

    def take_off(self) -> None:
        """Leave the base model as it was."""
        for parent, name, layer in self._layers:
            setattr(parent, name, layer.get_base_layer())
        # PEFT's sign on a model that adapters are on it.
        vars(self.model.get_base_model()).pop("peft_config", None)


def strip(model: nn.Module) -> None:
    """Take off whatever adapters a model has, also where putting them on was cut short."""
    wrapped = [(name, one) for name, one in model.named_modules() if isinstance(one, lora.LoraLayer)]
    for name, layer in wrapped:
        model.set_submodule(name, layer.get_base_layer())
    vars(model).pop("peft_config", None)


_IN_CACHE = 256
"""Rows whose float32 temporaries stay in a CPU's cache; else moving them costs more than products do."""


class LeanLinear(lora.Linear):  # type: ignore[misc]
    """y = x Wᵀ + b + s dropout(x) Aᵀ Bᵀ (Hu et al., arXiv 2106.09685)."""

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """The layer's output for x [..., in]: our own pass in training, else what PEFT gives, to the bit."""
        training, learns = self.training, torch.is_grad_enabled()
        is_plain = (
            not (self.disable_adapters or self.merged or args or kwargs) and len(self.active_adapters) == 1
        )
        if not is_plain or training != learns:
            return super().forward(x, *args, **kwargs)  # type: ignore[no-any-return]
        name = self.active_adapters[0]
        if not training:
            return self._score(x, name)
        dropout = self.lora_dropout[name]
        flat: Tensor = _Adapted.apply(  # type: ignore[no-untyped-call]
            x.flatten(0, -2),
            None if isinstance(dropout, nn.Identity) else dropout(x).flatten(0, -2),
            self.base_layer.weight,
            self.base_layer.bias,
            self.lora_A[name].weight,
            self.lora_B[name].weight,
            self.scaling[name],
        )
        # Viewed out here: Falcon adds to a layer's output in place, which autograd forbids on a view that a
        # Function of our own returns.
        return flat.view(*x.shape[:-1], -1)

    def _score(self, x: Tensor, name: str) -> Tensor:
        """PEFT's steps in PEFT's order, a few rows at a time."""
        result: Tensor = self.base_layer(x)
        a, b = self.lora_A[name].weight, self.lora_B[name].weight
        flat, out = x.reshape(-1, x.shape[-1]), result.view(-1, result.shape[-1])
        at_once = _IN_CACHE if x.device.type == "cpu" else len(flat)
        parts = zip(flat.split(at_once), out.split(at_once), strict=True)  # type: ignore[no-untyped-call]
        for seen, found in parts:
            added = F.linear(F.linear(seen.to(a.dtype), a), b).mul_(self.scaling[name])
            found.copy_(added.add_(found))
        return result


class _Adapted(torch.autograd.Function):
    """`dropped` is x after dropout, None where there is none; `weight` and `bias` get no gradient.

    x is [rows, in], and what is returned is no view of anything.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        dropped: Tensor | None,
        weight: Tensor,
        bias: Tensor | None,
        a: Tensor,
        b: Tensor,
        scaling: float,
    ) -> Tensor:
        """[rows, out]: x W^T + bias + scaling (dropped A^T) B^T, in the type of `x`."""
        seen = x if dropped is None else dropped
        a, b = a.to(x.dtype), (b * scaling).to(x.dtype)
        inner = seen @ a.T
        ctx.save_for_backward(seen, inner, weight, a, b)
        ctx.scaling, ctx.drops = scaling, dropped is not None
        return F.linear(x, weight, bias).addmm_(inner, b.T)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients by x, dropped, A and B, those of A and B in float32; of the rest None."""
        seen, inner, weight, a, b = ctx.saved_tensors
        grad_inner = grad @ b
        grad_a = (grad_inner.T @ seen).float()
        grad_b = (grad.T @ inner).float() * ctx.scaling
        grad_x = grad_dropped = None
        if ctx.needs_input_grad[0]:
            grad_x = grad @ weight
            if ctx.drops:
                grad_dropped = grad_inner @ a
            else:
                grad_x.addmm_(grad_inner, a)
        return grad_x, grad_dropped, None, None, grad_a, grad_b, None

"""The lean LoRA layer against PEFT's own."""

import copy

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn

from sweeper.models.adapters import LeanLinear, lean


class Block(nn.Module):
    """Two layers, the first with a bias, so that gradients also pass through a frozen layer."""

    def __init__(self) -> None:
        super().__init__()
        self.config = {"model_type": "custom"}
        self.first = nn.Linear(6, 5)
        self.second = nn.Linear(5, 4, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.tanh(self.first(x)))  # type: ignore[no-any-return]


def _pair(dtype: torch.dtype, **settings: object) -> tuple[nn.Module, nn.Module]:
    """The same adapted model with PEFT's layers and with ours."""
    torch.manual_seed(1)
    base = Block().to(dtype).requires_grad_(False)
    options = {"r": 3, "lora_alpha": 5.0, "target_modules": ["first", "second"]} | settings
    models = []
    for config in (LoraConfig(**options), lean(LoraConfig(**options))):
        torch.manual_seed(2)
        model = get_peft_model(copy.deepcopy(base), config)
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                nn.init.normal_(weight)
        models.append(model)
    return models[0], models[1]


def _step(model: nn.Module, x: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Output, and gradients of all adapter weights."""
    torch.manual_seed(3)
    found = model.train()(x)
    found.square().sum().backward()
    return found.detach(), [p.grad for p in model.parameters() if p.grad is not None]


@pytest.mark.parametrize("rslora", [False, True])
@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_a_training_step_is_peft_s(dropout: float, rslora: bool) -> None:
    theirs, ours = _pair(torch.float32, lora_dropout=dropout, use_rslora=rslora)
    x = torch.randn(2, 7, 6)
    expected, gradients = _step(theirs, x)
    found, mine = _step(ours, x)
    assert any(isinstance(module, LeanLinear) for module in ours.modules())
    torch.testing.assert_close(found, expected)
    assert len(mine) == 4
    torch.testing.assert_close(mine, gradients, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_the_input_s_gradient_is_peft_s(dropout: float) -> None:
    theirs, ours = _pair(torch.float32, lora_dropout=dropout)
    x, y = (torch.full((3, 6), 0.3, requires_grad=True) for _ in range(2))
    _step(theirs, x)
    _step(ours, y)
    torch.testing.assert_close(y.grad, x.grad)


def test_over_a_bfloat16_base_weights_and_gradients_are_float32_and_close() -> None:
    theirs, ours = _pair(torch.bfloat16)
    x = torch.randn(4, 6).bfloat16()
    expected, gradients = _step(theirs, x)
    found, mine = _step(ours, x)
    assert found.dtype == expected.dtype == torch.bfloat16
    assert {gradient.dtype for gradient in mine} == {torch.float32}
    torch.testing.assert_close(found, expected, rtol=0.05, atol=0.1)
    for one, other in zip(mine, gradients, strict=True):
        assert (one - other).norm() < 0.05 * other.norm()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_outside_of_training_it_is_peft_s_to_the_bit(dtype: torch.dtype) -> None:
    theirs, ours = _pair(dtype)
    x = torch.randn(4, 6).to(dtype)
    with torch.no_grad():
        assert torch.equal(ours.eval()(x), theirs.eval()(x))


def test_dora_keeps_peft_s_layer() -> None:
    _, ours = _pair(torch.float32, use_dora=True)
    assert not any(isinstance(module, LeanLinear) for module in ours.modules())


def test_an_adapter_that_is_off_is_off() -> None:
    _, ours = _pair(torch.float32)
    x = torch.randn(4, 6)
    with ours.disable_adapter():
        found = ours.train()(x)
    base = ours.get_base_model()
    torch.testing.assert_close(found, base.second.base_layer(torch.tanh(base.first.base_layer(x))))


@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_a_model_may_add_to_a_layer_s_output_in_place(dropout: float) -> None:
    theirs, ours = _pair(torch.float32, lora_dropout=dropout)
    for model in (theirs, ours):
        model.get_submodule("base_model.model.first").register_forward_hook(lambda _, args, out: out.add_(1))
    x = torch.randn(2, 7, 6)
    expected, gradients = _step(theirs, x)
    found, mine = _step(ours, x)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(mine, gradients, rtol=1e-4, atol=1e-4)

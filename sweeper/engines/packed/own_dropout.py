"""The base model's own dropout, with the masks of `dropout` in the place of torch's.

T5 is published with a dropout of 0.1: after embeddings, attention and feed-forward layers, inside of the
latter, and of attention weights. The engine `trainer` leaves it on while it trains, so that it is a part of
what a trial is.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface, eager_mask

from sweeper.engines.packed.dropout import Dropout

_ATTENTION = "sweeper_keyed_dropout"


class OwnDropout:
    """Wherever T5 drops something while it trains; `first` is the number of the first site."""

    def __init__(self, model: Any, first: int) -> None:
        self._model = model
        self._first = first
        self._sites = [(name, module) for name, module in model.named_modules() if _rate(module)]
        self._attention = [module for _, module in self._sites if not isinstance(module, nn.Dropout)]
        self._work: Dropout | None = None
        self._calls: Counter[int] = Counter()

    @contextmanager
    def on_model(self) -> Iterator[None]:
        """Within, the model has the hooks."""
        handles = []
        for number, (name, module) in enumerate(self._sites, start=self._first):
            # Nothing outside of blocks is computed again for a backward pass: there, calls can be counted.
            drop = partial(self._drop, number, _rate(module), ".block." in name)
            if isinstance(module, nn.Dropout):
                handles.append(module.register_forward_hook(drop))
            else:
                module.drop_weights = partial(drop, module, ())
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
            for module in self._attention:
                del module.drop_weights

    @contextmanager
    def training(self) -> Iterator[None]:
        """Within, the model, which is in training mode, draws no masks of its own."""
        for _, module in self._sites:
            if isinstance(module, nn.Dropout):
                module.eval()
        if not self._attention:
            yield
            return
        # Fused attention draws its masks where nobody sees them.
        before = self._model.config._attn_implementation
        self._model.set_attn_implementation(_ATTENTION)
        try:
            yield
        finally:
            self._model.set_attn_implementation(before)

    def at_work(self, dropout: Dropout | None) -> None:
        """From now on, drop by `dropout`."""
        self._work, self._calls = dropout, Counter()

    def _drop(
        self, site: int, rate: float, in_block: bool, module: Any, args: tuple[Any, ...], x: Tensor
    ) -> Tensor:
        if self._work is None:
            return x
        # A stack drops its inputs and its outputs by the same module.
        call = 0 if in_block else self._calls[site]
        self._calls[site] += 1
        return self._work.of_base(x, site + call * len(self._sites), rate)


def _rate(module: nn.Module) -> float:
    """What the module itself drops while it trains."""
    rate = module.p if isinstance(module, nn.Dropout) else getattr(module, "dropout", 0.0)
    return rate if isinstance(rate, (float, int)) else 0.0


def _attend(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float = 1.0,
    position_bias: Tensor | None = None,
    **kwargs: Any,
) -> tuple[Tensor, Tensor]:
    """T5's attention, written out; q, k, v [rows, heads, tokens, features]."""
    scores = query @ key.transpose(2, 3) * scaling
    for added in (position_bias, attention_mask):
        scores = scores if added is None else scores + added
    weights = module.drop_weights(scores.softmax(-1))
    return (weights @ value).transpose(1, 2).contiguous(), weights


AttentionInterface.register(_ATTENTION, _attend)
AttentionMaskInterface.register(_ATTENTION, eager_mask)

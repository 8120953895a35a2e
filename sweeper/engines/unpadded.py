"""Rows of unequal length through a decoder without padding.

Embeddings, norms and linear layers, which are nearly all of the work, see the rows laid end to end, as one
row [1, tokens]. Attention alone looks at rows: it spreads queries, keys and values out to [rows, heads,
longest, features], where pads come after everything that looks back, and leaves out their results. Prompts
are read once: their keys and values serve the losses and then what the model writes after them.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AttentionInterface, DynamicCache
from transformers.cache_utils import DynamicLayer

from sweeper.engines import batches
from sweeper.engines.batches import Batch
from sweeper.models.pretrained import Architecture

_MODELS = ("llama", "qwen2", "qwen3")
"""Decoders whose attention is causal and nothing else."""

_SHORT = 256
"""Longest row for which a CPU learns with plain attention. There the fused kernel's backward pass takes six
times as long (8 rows of 65 tokens); its savings in memory count for long rows only."""


def fits(model: Any) -> bool:
    """True if `model` can do without padding."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    config = base.config
    return (
        config.model_type in _MODELS
        and not config.attention_dropout
        and not base.is_activation_checkpointing
        # NEFTune's noise depends on the padded length.
        and not hasattr(base.get_input_embeddings(), "neftune_noise_alpha")
        and base.device.type in ("cpu", "cuda")
        and all(type(layer) is DynamicLayer for layer in DynamicCache(config=config).layers)
    )


def logits(model: Any, kind: Architecture, batch: Batch) -> Tensor:
    """As `batches.logits`, without padding where that goes."""
    if kind == "causal" and fits(model):
        return Reading(batch).logits(model)
    return batches.logits(model, kind, batch)


class Reading:
    """A batch that a model reads, and what it remembers of it."""

    def __init__(self, batch: Batch, room: int = 0, prompts: Sequence[int] = ()) -> None:
        """`room` is the number of tokens that can be written after each prompt, `prompts` are their lengths.

        A row may go on after its prompt: what is written takes the place of that.
        """
        # A row's last token predicts nothing.
        there = batch["attention_mask"][:, 1:].bool()
        self._ids, self._keep = (batch[name][:, :-1][there][None] for name in ("input_ids", "keep"))
        self._places = (there.cumsum(-1) - 1)[there][None]
        self._spread = _Spread(there)
        self._room = room
        self._prompts = torch.tensor(prompts, device=there.device)
        self._memory: dict[int, tuple[Tensor, Tensor]] = {}
        """By layer: keys and values [rows, heads, longest row and room, features]."""

    def logits(self, model: Any) -> Tensor:
        """For the batch's targets, [n, vocabulary], in float32 at least."""
        found = _forward(model, self._attend, self._ids, self._places, self._keep)
        return found.to(torch.promote_types(found.dtype, torch.float32))

    def write(self, model: Any, first: Tensor, ends: Tensor, pad: int) -> Tensor:
        """[rows, up to `room`] the likeliest tokens after the prompts, from `first` [rows] on.

        After one of `ends` a row has only `pad`. Call it once, after `logits`.
        """
        written, over = [first], torch.isin(first, ends)
        while len(written) < self._room and not over.all():
            self._at = self._prompts + len(written) - 1
            self._end = int(self._at.max()) + 1
            token = written[-1][:, None]
            scores = _forward(model, self._attend_step, token, self._at[:, None], logits_to_keep=1)[:, -1]
            # The first of equals, as argmax gives it, which takes four times as long on a CPU.
            likeliest = scores.float().max(-1).indices
            written.append(likeliest.where(~over, pad))
            over |= torch.isin(likeliest, ends)
        return torch.stack(written, dim=1)

    def _attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """Of whole rows, laid end to end."""
        query, key, value = map(self._spread, (query, key, value))
        if self._room:
            self._memory[layer] = (F.pad(key, (0, 0, 0, self._room)), F.pad(value, (0, 0, 0, self._room)))
        if torch.is_grad_enabled() and query.device.type == "cpu" and query.shape[2] <= _SHORT:
            found = _plain(query, key, value, scale)
        else:
            found = F.scaled_dot_product_attention(
                query, key, value, is_causal=True, scale=scale, enable_gqa=True
            )
        return self._spread.back(found)

    def _attend_step(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """Of one more token per row, to all that came before it."""
        rows = torch.arange(len(key), device=key.device)
        keys, values = (part[:, :, : self._end] for part in self._memory[layer])
        keys[rows, :, self._at], values[rows, :, self._at] = key[:, :, 0], value[:, :, 0]
        seen = torch.arange(keys.shape[2], device=key.device) <= self._at[:, None]
        found = F.scaled_dot_product_attention(
            query, keys, values, attn_mask=seen[:, None, None], scale=scale, enable_gqa=True
        )
        return found.transpose(1, 2)


class _Spread:
    """From rows laid end to end to rows beside each other, and back."""

    def __init__(self, there: Tensor) -> None:
        """`there` [rows, longest] is True where a row has a token."""
        self._there = there
        self._by_heads: dict[int, tuple[Tensor, Tensor]] = {}

    def __call__(self, x: Tensor) -> Tensor:
        """[1, heads, tokens, features] to [rows, heads, longest, features], zero in pads."""
        out, back = self._indices(x.shape[1])
        flat = x[0].transpose(0, 1).flatten(0, 1)
        spread: Tensor = _Move.apply(flat, out, back)  # type: ignore[no-untyped-call]
        return spread.view(len(self._there), x.shape[1], -1, x.shape[3])

    def back(self, x: Tensor) -> Tensor:
        """[rows, heads, longest, features] to [1, tokens, heads, features]"""
        out, back = self._indices(x.shape[1])
        moved: Tensor = _Move.apply(x.flatten(0, 2), back, out)  # type: ignore[no-untyped-call]
        return moved.view(1, -1, x.shape[1], x.shape[3])

    def _indices(self, heads: int) -> tuple[Tensor, Tensor]:
        """Where [rows x heads x longest] comes from, and [tokens x heads]."""
        if heads not in self._by_heads:
            rows, longest = self._there.shape
            row, place = self._there.nonzero(as_tuple=True)
            head = torch.arange(heads, device=row.device)
            out = torch.full((rows, heads, longest), len(row) * heads, device=row.device)
            out[row, :, place] = torch.arange(len(row) * heads, device=row.device).view(-1, heads)
            back = (row[:, None] * heads + head) * longest + place[:, None]
            self._by_heads[heads] = (out.flatten(), back.flatten())
        return self._by_heads[heads]


class _Move(torch.autograd.Function):
    """x[to], with zeros where `to` is len(x); `back` is the way of the gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, to: Tensor, back: Tensor) -> Tensor:
        ctx.save_for_backward(back)
        return F.pad(x, (0, 0, 0, 1)).index_select(0, to)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (back,) = ctx.saved_tensors
        return F.pad(grad, (0, 0, 0, 1)).index_select(0, back), None, None


def _plain(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    """Causal attention step by step; heads that share keys and values form one matrix, nothing is copied."""
    longest, features = query.shape[2:]
    groups = query.shape[1] // key.shape[1]
    later = query.new_full((longest, longest), -torch.inf).triu(1).repeat(groups, 1)
    together = query.view(-1, groups * longest, features)
    scores = torch.baddbmm(later, together, key.flatten(0, 1).mT, alpha=scale)
    return torch.bmm(scores.softmax(-1), value.flatten(0, 1)).view(query.shape)


def _forward(
    model: Any, attend: "Attend", ids: Tensor, places: Tensor, logits_to_keep: int | Tensor
) -> Tensor:
    """Logits, with `attend` in the place of the model's attention."""
    config = (model.get_base_model() if hasattr(model, "get_base_model") else model).config
    before = config._attn_implementation
    config._attn_implementation = _ATTENTION
    try:
        found: Tensor = model(
            input_ids=ids,
            position_ids=places,
            logits_to_keep=logits_to_keep,
            use_cache=False,
            attend=attend,
        ).logits
    finally:
        config._attn_implementation = before
    return found


Attend = Callable[[int, Tensor, Tensor, Tensor, float], Tensor]
"""Layer, query, key, value [rows, heads, tokens, features], scale; gives [rows, tokens, heads, features]."""

_ATTENTION = "sweeper_unpadded"
"""Its name in transformers, which knows of no mask for it and makes none."""


def _call(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: None,
    *,
    scaling: float,
    attend: Attend,
    **others: Any,
) -> tuple[Tensor, None]:
    return attend(module.layer_idx, query, key, value, scaling), None


AttentionInterface.register(_ATTENTION, _call)

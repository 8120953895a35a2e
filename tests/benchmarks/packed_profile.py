"""Where the time of packed steps goes, and how much of the device they use.

Counts come from shapes, peaks from a large product and a large copy in the same run.

    matrix products   of the frozen layers forward and backward (their weights have no gradients), of the
                      adapters, of attention over what a causal mask leaves, and of the output layer
    bytes             that have to move at least: weights once per direction, inputs and outputs of every
                      linear layer, the optimizer's four tensors there and back
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from sweeper.engines.packed.layers import Layers
from sweeper.engines.training import wait_for
from sweeper.models.modeling import BaseModel

KINDS = {
    "matrix products": ("aten::mm", "aten::bmm", "aten::addmm", "aten::baddbmm", "aten::linear"),
    "attention": ("attention", "aten::_softmax"),
    "loss": ("log_softmax", "nll_loss", "cross_entropy"),
    "copies": ("aten::copy_", "aten::cat", "aten::index", "aten::gather", "Memcpy", "aten::clone"),
    "optimizer": ("aten::lerp", "aten::linalg_vector_norm", "aten::sqrt", "aten::_foreach"),
}
"""What operations are shown as, by parts of their names; all others are `elementwise and the rest`."""


@dataclass(frozen=True)
class Work:
    """Of one optimizer step of all slots."""

    products: float
    """Floating-point operations in matrix products."""
    bytes: float
    tokens: int


@dataclass(frozen=True)
class Peaks:
    """Measured: operations and bytes per second."""

    products: float
    bytes: float


def work_of(
    base: BaseModel, slots: int, rows: int, length: int, targets: int, rank: int, budget: int
) -> Work:
    """`rows` of `length` tokens in each slot, of which `targets` have a label; adapters on all layers."""
    model, config = base.model, base.model.config
    tokens = slots * rows * length
    layers = [model.get_submodule(name) for name in Layers(model).names]
    frozen = sum(layer.in_features * layer.out_features for layer in layers)
    ends = sum(layer.in_features + layer.out_features for layer in layers)
    head = model.get_output_embeddings()
    scored = slots * rows * targets * head.in_features * head.out_features
    width = config.num_hidden_layers * config.hidden_size
    attention = 12 * slots * rows * length**2 * width / 2
    products = 4 * tokens * frozen + 6 * tokens * rank * ends + 4 * scored + attention
    size = next(model.parameters()).element_size()
    passes = max(1, tokens // budget)
    moved = 2 * passes * frozen * size + 2 * tokens * ends * size + 32 * slots * rank * ends
    return Work(products, moved, tokens)


def peaks_of(device: torch.device, dtype: torch.dtype) -> Peaks:
    """What the device does at most, as far as one large product and one large copy tell."""
    n = 8192 if device.type == "cuda" else 1024
    a, b = (torch.randn(n, n, device=device, dtype=dtype) for _ in range(2))
    source = torch.empty(1 << (30 if device.type == "cuda" else 26), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    product = _fastest(lambda: torch.mm(a, b), device)
    copy = _fastest(lambda: target.copy_(source), device)
    return Peaks(2 * n**3 / product, 2 * source.numel() / copy)


def _fastest(work: Callable[[], Any], device: torch.device) -> float:
    times = []
    for _ in range(10):
        wait_for(device)
        started = time.perf_counter()
        work()
        wait_for(device)
        times.append(time.perf_counter() - started)
    return min(times)


def summary(work: Work, peaks: Peaks, seconds: float) -> str:
    """The shares of the device that steps of `seconds` each use."""
    products, moved = work.products / seconds, work.bytes / seconds
    return (
        f"a step: {seconds * 1e3:.1f} ms for {work.tokens} tokens\n"
        f"matrix products: {work.products / 1e9:.1f} GFLOP, {products / 1e12:.3f} TFLOP/s, "
        f"{products / peaks.products:.1%} of {peaks.products / 1e12:.3f} measured\n"
        f"bytes: {work.bytes / 1e9:.2f} GB at least, {moved / 1e9:.1f} GB/s, "
        f"{moved / peaks.bytes:.1%} of {peaks.bytes / 1e9:.1f} measured"
    )


def by_kind(events: Any, cuda: bool, steps: int, seconds: float) -> str:
    """How much of the time of a step each kind of operation keeps the device at work.

    `events` are of so many steps, each of which takes `seconds` when nobody looks. On a CPU the profile's own
    time is the whole.
    """
    rest = "elementwise and the rest"
    spent = dict.fromkeys([*KINDS, rest], 0.0)
    for event in events:
        kinds = (kind for kind, parts in KINDS.items() if any(part in event.key for part in parts))
        time_of = event.self_device_time_total if cuda else event.self_cpu_time_total
        spent[next(kinds, rest)] += time_of / 1e6 / steps
    whole = seconds if cuda else sum(spent.values())
    spent["waiting for Python"] = max(0.0, whole - sum(spent.values()))
    ordered = sorted(spent.items(), key=lambda one: one[1], reverse=True)
    return "\n".join(f"{kind:28}{of / whole:8.1%}" for kind, of in ordered)

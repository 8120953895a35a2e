"""Which parts of a classifier are its head, and what each trial's head begins with.

The head is what the model's files lack, what depends on the number of classes, and what PEFT trains as a
whole for this task. All else is the pretrained model, on which adapters are put.
"""

import copy
import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sweeper.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_TRAINED_BY_PEFT = ("classifier", "score")
"""How the names end of modules that PEFT trains as a whole with task_type SEQ_CLS, whatever it is told."""

_MAY_LACK = 0.1
"""Share of the pretrained weights that a classifier's files may lack: a small pooler is a twentieth."""


@dataclass(frozen=True)
class Lacking:
    """Parameters that a model's files don't have, and those that they have in another size."""

    missing: frozenset[str] = frozenset()
    other_size: frozenset[str] = frozenset()

    def of(self, model: "PreTrainedModel") -> list[str]:
        """Both, in the order of the model."""
        return [name for name, _ in model.named_parameters() if name in self.missing | self.other_size]


@dataclass(frozen=True)
class Head:
    """What is trained and saved as a whole, whatever the adapters are."""

    modules: tuple[str, ...] = ()
    """None of them lies within another."""
    fresh: tuple[str, ...] = ()
    """Parameters that each trial draws from its seed, in this order. The others begin as shipped."""
    order: tuple[int, ...] = ()
    """Of a shipped head, the output that is for each class of the rows; () if they are in the same order.

    The head stays as it is: who loads an adapter reads its outputs by the names in the model's config.json.
    """
    told: str = ""
    """What there is to say of it."""

    def arranged(self, labels: Sequence[str]) -> tuple[str, ...]:
        """`labels`, which are in the order of the rows' classes, in that of the outputs."""
        order = self.order or range(len(labels))
        return tuple(label for _, label in sorted(zip(order, labels, strict=True)))

    def draw(self, model: "PreTrainedModel", seed: int) -> None:
        """Give what is fresh the values that follow from `seed`."""
        import torch

        generator = torch.Generator().manual_seed(seed)
        for name in self.fresh:
            parameter = model.get_parameter(name)
            values = torch.zeros(parameter.shape)
            if values.ndim > 1:
                spread = getattr(model.config, "initializer_range", 0.02)
                values.normal_(std=spread, generator=generator)
            elif name.endswith(".weight"):  # a norm's
                values.fill_(1.0)
            parameter.data = values.to(parameter.device)


def find_head(
    model: "PreTrainedModel", lacking: Lacking, shipped: Sequence[str], labels: Sequence[str]
) -> Head:
    """The head of a classifier that is to tell `labels` apart.

    `shipped` are the classes that the model's configuration names, in their order. A head whose classes are
    ours by name is kept.
    """
    absent, of_classes = lacking.of(model), _of_classes(model)
    theirs, ours = [name.strip() for name in shipped], [label.strip() for label in labels]
    is_lost = not set(of_classes).isdisjoint(absent)
    why_new = _why_new(theirs, ours, is_lost, is_lost and not lacking.missing.isdisjoint(of_classes))
    fresh = {*absent, *(of_classes if why_new is not None else ())}
    by_peft = (name for name, _ in model.named_modules() if name.endswith(_TRAINED_BY_PEFT))
    modules = _outermost({*map(_owner, (*fresh, *of_classes)), *by_peft})
    drawn = [
        f"{module}.{name}"
        for module in modules
        for name, _ in model.get_submodule(module).named_parameters()
        if f"{module}.{name}" in fresh
    ]
    new = ", ".join(_outermost(set(map(_owner, drawn))))
    if why_new is not None:
        return Head(modules, tuple(drawn), (), f"Classification head: new{why_new} ({new})")
    told = f"Classification head: the model's own, as its labels are those of the rows ({some(ours)})"
    told += f"; new beside it: {new}" if new else ""
    return Head(modules, tuple(drawn), tuple(map(theirs.index, ours)), told)


def _why_new(theirs: Sequence[str], ours: Sequence[str], is_lost: bool, was_none: bool) -> str | None:
    """Why a shipped head can't be kept, "" where there is none; None if it can."""
    if was_none:
        return ""
    if is_lost or len(theirs) != len(ours):
        return f", as the model's own tells {len(theirs)} classes apart and the rows have {len(ours)}"
    if all(re.fullmatch(r"LABEL_\d+", name) for name in theirs):
        return ", as the model's own has no names for its labels"
    if sorted(theirs) != sorted(ours):
        return f", as the model's own has other labels: {some(theirs)}"
    return None


def refuse_lacking(name: str, model: "PreTrainedModel", lacking: Lacking, is_classifier: bool) -> None:
    """Raise ModelError where the files lack what would be neither pretrained nor trained as a head."""
    body = f"{model.base_model_prefix}." if is_classifier else ""
    lost = [one for one in lacking.of(model) if one.startswith(body)]
    sizes = {one: weights.numel() for one, weights in model.named_parameters() if one.startswith(body)}
    much = sum(sizes[one] for one in lost) > (_MAY_LACK if is_classifier else 0) * sum(sizes.values())
    # Beside what a module lacks, it must not hold what is pretrained: it would be trained as a whole.
    mixed = any(
        f"{_owner(one)}.{other}".removeprefix(".") not in lost
        for one in lost
        for other, _ in model.get_submodule(_owner(one)).named_parameters()
    )
    if lost and (much or mixed or not lacking.other_size.isdisjoint(lost)):
        raise ModelError(
            f"{name}: {len(lost)} of the {len(sizes)} weights that its config.json asks for are not in its "
            f"files, or have another size there ({some(lost)}); get the model anew, or the config.json that "
            "belongs to it"
        )


def _of_classes(model: "PreTrainedModel") -> tuple[str, ...]:
    """The parameters whose size depends on the number of classes."""
    import torch

    config = copy.deepcopy(model.config)
    config.num_labels += 1
    with torch.device("meta"):
        other = type(model)(config)
    return tuple(
        name for name, weights in model.named_parameters() if other.get_parameter(name).shape != weights.shape
    )


def _outermost(names: Collection[str]) -> tuple[str, ...]:
    """Without those that lie within others, in order."""
    return tuple(sorted(n for n in names if not any(n.startswith(f"{other}.") for other in names)))


def _owner(parameter: str) -> str:
    return parameter.rpartition(".")[0]


def some(names: Iterable[str]) -> str:
    """The first of them, and how many more there are."""
    every = list(names)
    more = f" and {len(every) - _SHOWN} more" if len(every) > _SHOWN else ""
    return ", ".join(every[:_SHOWN]) + more


_SHOWN = 4

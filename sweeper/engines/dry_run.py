"""One training row through all that trials are going to do, before the first of them is.

What doesn't work with this model, task and space is told then, in words, and not by failed trials. With a
small model it takes seconds; nothing of it is kept.
"""

import functools
import logging
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor

from sweeper.advice import fixed
from sweeper.config import TaskConfig, TrialSettings
from sweeper.engines.batches import Batch, Row, collate
from sweeper.engines.evaluate import Evaluator
from sweeper.engines.training import backward
from sweeper.engines.unpadded import logits
from sweeper.errors import ModelError, OutOfMemoryError, StorageError, SweeperError, first_line
from sweeper.models import modeling
from sweeper.models.modeling import BaseModel
from sweeper.space import Space

_LOG = logging.getLogger(__name__)

_NEW_TOKENS = 4
_STEP = 0.01
"""How far each weight is moved, as by a first step of AdamW, so that the adapter has something to say."""
_CLOSE = 1e-3
"""How far logits may be apart after an adapter was saved and read again, relative to the largest one."""

Work = Callable[[Any, int], None]
"""What is done with a model and a number of rows."""

Memory = Callable[[Work, TrialSettings], None]
"""Does something with the model, as the settings make it trainable, and has words for too little memory."""


def dry_run(
    base: BaseModel,
    task: TaskConfig,
    space: Space,
    rows: Sequence[Row],
    labels: Sequence[str],
    within_memory: Memory,
    folder: Path,
) -> None:
    """Train, generate, save and read again with the longest of `rows`, in every way that `space` has.

    `folder` is where it is saved; nothing is left there. Raises ModelError if a trial could not do that, or
    if what it trains has no influence.
    """
    row = max(rows, key=lambda one: len(one.input_ids) + len(one.labels))
    short = replace(task.generation, max_new_tokens=min(_NEW_TOKENS, task.generation.max_new_tokens))
    samples = replace(task.evaluation, samples=1)
    evaluator = Evaluator(base, replace(task, generation=short, evaluation=samples), [row], labels)
    for settings in _ways(space):
        work = functools.partial(_try, base, settings, row, evaluator, folder)
        try:
            if fault := _fault(work, settings, within_memory):
                way_out = _way_out(base, settings, space, work, within_memory)
                raise ModelError(f"{_told(base, settings)}: {fault}. {way_out}")
        except (OutOfMemoryError, _Advised) as error:
            raise ModelError(f"{_told(base, settings)}: {error}") from error


class _Advised(ModelError):
    """A fault that says itself what may be done about it."""


def _fault(work: Work, settings: TrialSettings, within_memory: Memory) -> str:
    """What went wrong; "" if nothing did. Raises what says itself what may be done."""
    try:
        within_memory(work, settings)
    except (OSError, OutOfMemoryError, _Advised, StorageError, torch.AcceleratorError):
        raise
    except SweeperError as error:
        return str(error)
    except Exception as error:  # whatever a model's own code may raise
        return f"{type(error).__name__}: {first_line(error).rstrip('.')}"
    return ""


def _told(base: BaseModel, settings: TrialSettings) -> str:
    lora = settings.lora
    how = f"method=lora, lora.variant={lora.variant}, lora.target_modules={lora.target_modules}, lora.rank="
    how += f"{lora.rank}, lora.dropout={lora.dropout:g}"
    return f"{base.name} can't be trained with {how if settings.method == 'lora' else 'method=full'}"


def _way_out(
    base: BaseModel, settings: TrialSettings, space: Space, work: Work, within_memory: Memory
) -> str:
    """What may be done about it; that it works without dropout is tried out."""
    if settings.method != "lora":
        return f"Take {fixed(space, method='lora')}, or another model"
    without = replace(settings, lora=replace(settings.lora, dropout=0.0))
    if settings.lora.dropout and not _fault(work, without, within_memory):
        return f"Without dropout it can: {fixed(space, lora__dropout=0)}"
    linear = (name for name, module in base.model.named_modules() if isinstance(module, torch.nn.Linear))
    names = sorted({name.rpartition(".")[2] for name in linear})
    varied = "lora.target_modules" in space.names
    where = "space.lora.target_modules.choices" if varied else "trial.lora.target_modules"
    return f"Name other layers in {where} (it has {', '.join(names)}), or take another model"


def _ways(space: Space) -> Iterator[TrialSettings]:
    """Each method, variant and choice of targets, with the largest rank and dropout, on a single row."""
    one: dict[str, Any] = {"batch_size": 1, "neftune_noise": 0.0, "augment_rate": 0.0}
    one["label_smoothing"] = max(space.values("label_smoothing"))
    largest = {name: max(space.values(name)) for name in ("lora.rank", "lora.dropout")}
    methods = space.values("method")
    if "full" in methods:
        yield space.trial_with({**one, "method": "full"})
    if "lora" in methods:
        # rslora is lora with another factor.
        for variant in dict.fromkeys("dora" if v == "dora" else "lora" for v in space.values("lora.variant")):
            for targets in space.values("lora.target_modules"):
                chosen = {"lora.variant": variant, "lora.target_modules": targets}
                yield space.trial_with({**one, **largest, "method": "lora", **chosen})


def _try(
    base: BaseModel,
    settings: TrialSettings,
    row: Row,
    evaluator: Evaluator,
    folder: Path,
    model: Any,
    micro_batch: int,
) -> None:
    batch = collate([row], base.kind, base.tokenizer.pad_token_id)
    backward(model, base, batch, settings)
    _check_gradients(base, model, settings)
    with torch.no_grad():
        for weights in model.parameters() if settings.method == "lora" else ():
            if weights.grad is not None:
                weights.sub_(_STEP * weights.grad.sign())
    model.zero_grad()
    answers = evaluator.answers(model, _say_nothing)
    evaluator.samples(model, answers, _say_nothing)
    with _emptied(folder):
        _check_saved(base, model, batch, folder)


def _say_nothing(done: int, of: int) -> None:
    """A row is soon evaluated."""


def _check_gradients(base: BaseModel, model: Any, settings: TrialSettings) -> None:
    """Raise ModelError unless the loss tells all that is trained where to go, or log which layers it doesn't.

    An expert that the row was not sent to gets no gradient; others of its name do.
    """
    trained = {name: weights for name, weights in model.named_parameters() if weights.requires_grad}
    broken = [name for name, one in trained.items() if one.grad is not None and not one.grad.isfinite().all()]
    if broken:
        narrow = next(base.model.parameters()).dtype is not torch.float32
        raise _Advised(
            f"the gradient of {broken[0]} is not finite in a first step"
            + ("; try model.dtype=float32" if narrow else "; its weights may be damaged: get the model anew")
        )
    if settings.method == "full":
        learns = {name: weights.grad is not None for name, weights in trained.items()}
        if not any(learns.values()):
            raise ModelError("no weight gets a gradient")
        return
    learning: dict[str, bool] = {}
    for name, weights in trained.items():
        before, found, _ = name.partition(".lora_B.")
        if found:
            target = before.rpartition(".")[2]
            gets_some = weights.grad is not None and bool(weights.grad.any())
            learning[target] = learning.get(target, False) or gets_some
    idle = sorted(target for target, gets_some in learning.items() if not gets_some)
    if not idle:
        return
    if settings.lora.target_modules != "all-linear" or len(idle) == len(learning):
        raise _Advised(
            f"adapters on {', '.join(idle)} learn nothing: the model computes past them; take them out of "
            "lora.target_modules"
        )
    _LOG.warning(
        "Adapters on %s learn nothing with %s, which computes past them; those on %s do",
        ", ".join(idle),
        base.name,
        ", ".join(sorted(learning.keys() - set(idle))),
    )


@contextmanager
def _emptied(folder: Path) -> Iterator[None]:
    shutil.rmtree(folder, ignore_errors=True)  # of a killed process
    try:
        yield
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _check_saved(base: BaseModel, model: Any, batch: Batch, folder: Path) -> None:
    """Raise ModelError if what is trained is something else after it was saved and read again."""
    before = _logits(base, model, batch)
    with modeling.peft_warns():
        modeling.save(model, folder)
    is_adapter = isinstance(model, PeftModel)
    if is_adapter:
        after = _logits_of_adapter(base, model, batch, folder)
    else:
        with torch.no_grad():
            for weights in model.parameters():
                weights.zero_()
        modeling.restore(model, folder)
        after = _logits(base, model, batch)
    apart = float((before - after).abs().max()) / max(float(before.abs().max()), 1e-9)
    if not apart <= _CLOSE:
        what = "adapter" if is_adapter else "model"
        raise ModelError(
            f"its {what} is another one after it was saved and read again (its scores are {apart:.1%} "
            "apart): what a sweep finds could not be used"
        )


_AGAIN = "again"


def _logits_of_adapter(base: BaseModel, model: Any, batch: Batch, folder: Path) -> Tensor:
    with modeling.peft_warns():
        model.load_adapter(folder, _AGAIN, torch_device=str(base.device))
    try:
        model.set_adapter(_AGAIN)
        return _logits(base, model, batch)
    finally:
        model.set_adapter("default")
        model.delete_adapter(_AGAIN)


def _logits(base: BaseModel, model: Any, batch: Batch) -> Tensor:
    model.eval()
    with torch.no_grad():
        on_device = {name: tensor.to(base.device) for name, tensor in batch.items()}
        return logits(model, base.kind, on_device).float()

"""Everything before the first trial: the base model is found, its limits checked, the rows prepared."""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from sweeper.config import Config, ModelConfig, TaskConfig, TrialSettings
from sweeper.config.metrics import TOOL_CALL_MATCH, MetricName
from sweeper.errors import StudyError
from sweeper.events import AuditInfo, DataSetInfo
from sweeper.executors.places import find_places
from sweeper.gate import Viewer, complete, inspect
from sweeper.layout import Layout
from sweeper.loading import read, to_tree
from sweeper.space import Space
from sweeper.storage.disk import check_room, needs
from sweeper.stored import stored_config

if TYPE_CHECKING:
    from datasets import Dataset

    from sweeper.data.prepare import Prepared


class Steps(Viewer, Protocol):
    """Tells a person what takes a while."""

    def step(self, what: str) -> AbstractContextManager[None]:
        """Something that takes a while."""


@dataclass(frozen=True)
class Inputs:
    """What a sweep trains on.

    `config` has the model's revision and number type filled in, so that a resume, or another worker,
    gets the very same base model. `pins` is what the study remembers of them.
    """

    config: Config
    rows: int
    """Training rows of one pass, augmented ones not counted."""
    model: str
    data: tuple[DataSetInfo, ...]
    pins: Mapping[str, Any]
    audit: AuditInfo | None = None
    """None where the rows were not looked at."""


def fingerprint(config: Config, space: Space) -> dict[str, Any]:
    """What defines a sweep, as far as the configuration tells; changing it makes another sweep.

    Left out is what has no influence on a trial's result (where rows lie, how many are evaluated at
    once) and what may change on the way: budget, sampler, pruner, engine, executor, tracking.
    """
    from sweeper.data.manifest import defining

    task, model = to_tree(config.task), to_tree(config.model)
    for name in ("batch_size", "samples"):
        del task["evaluation"][name]
    for name in ("also", "constraints"):  # a task without them is the one that has never heard of them
        if not task[name]:
            del task[name]
    if task["system_turn"] == "keep":
        del task["system_turn"]
    for name in ("revision", "dtype", "device", "gradient_checkpointing", "folder"):
        del model[name]
    return {
        "space": space.fingerprint(),
        "trial": to_tree(config.trial),
        "task": task,
        "data": defining(config.data),
        "model": model,
        "seed": config.sweep.seed,
        "replayed": config.engine.name == "replay",
    }


def settled(config: Config, layout: Layout) -> tuple[Config, str]:
    """The configuration with the columns that it leaves open, and what is to be said of them.

    Those of a sweep that has begun are what they were; else the form of the first rows tells them. Raises
    DataError if there are no rows to be read, or they are in no form that fits the task.
    """
    from sweeper.data import forms, sources

    if config.engine.name == "replay" or not forms.missing(config):
        return forms.settle(config, (), "")
    if layout.config.exists():
        config = _as_begun(config, layout)
    if not forms.missing(config):
        return forms.settle(config, (), "")
    return forms.settle(config, *sources.peek(config.data))


def _as_begun(config: Config, layout: Layout) -> Config:
    """With the columns and the prompt that the sweep was begun with in the place of those left open."""
    try:
        tree, _ = stored_config(layout)
    except StudyError:  # damaged, and to be written anew
        return config
    data = {name: tree["data"].get(name) for name in ("input", "target", "messages")}
    open_ones = {name: value for name, value in data.items() if getattr(config.data, name) is None}
    task = replace(config.task, prompt=config.task.prompt or tree["task"]["prompt"])
    return replace(config, data=replace(config.data, **open_ones), task=task)


def prepare_inputs(
    config: Config,
    space: Space,
    layout: Layout,
    pins: Mapping[str, Any],
    screen: Steps,
    beside: Path | None = None,
) -> Inputs:
    """Find the model, audit the rows and prepare them, or take the frozen ones of an earlier run.

    `pins` are those of the study if there is one already, `beside` rows as in `prepare`. Raises
    AuditRefusal, ModelError, DataError or StudyError.
    """
    if config.engine.name == "replay":
        return _replayed(config)
    from sweeper.data import prepare
    from sweeper.data.checks.amount import left_out
    from sweeper.models import checks, modeling, pretrained

    if pins:
        _refuse_another_model(config, pins)
        _refuse_changed_rows(config, layout)
        config = _pinned(config, pins)
    with screen.step(f"Finding the base model {config.model.name}"):
        resolved = pretrained.resolve(config.model)
        notes = checks.check_files(resolved)
        architecture = pretrained.architecture(resolved, config.task)
        checks.check_task(resolved, architecture)
        tokenizer = pretrained.load_tokenizer(resolved)
        notes += checks.check_tokenizer(resolved, architecture, tokenizer)
        pretrained.check(resolved, config.task, lora_targets(space))
    for note in notes:
        screen.say(note)
    audit = inspect(config, layout, screen, frozen=bool(pins))
    kept = len(list(layout.folder.glob("**/attempt-*/best")))
    needed = needs(config, trained_bytes(resolved.path, space), _workers(config), kept)
    if warning := check_room(layout.folder, needed):
        screen.say(f"Warning: {warning}")
    with screen.step("Preparing the rows"):
        limit = pretrained.positions(resolved)
        prepared = prepare.prepare(config, tokenizer, architecture, layout.rows, limit, beside)
        config = replace(config, task=config.task.with_lengths(prepared.manifest.lengths.taken))
        checks.check_rows(resolved, architecture, tokenizer, _every(prepared))
    if told := modeling.starting_head(resolved, config.task, prepared.labels).told:
        screen.say(told)
    _check_metrics(config.task, prepared)
    if audit is not None:
        audit = complete(config, layout, screen, prepared.manifest.splits, left_out(prepared.manifest))
    if told := prepare.lengths(prepared.manifest):
        screen.say(told)
    if told := prepare.cleaning(prepared.manifest):
        screen.say(told)
    total, *reasons = prepare.fates(prepared.manifest)
    screen.say(total)
    for reason in reasons:
        screen.say(f"  {reason}")
    for warning in prepared.manifest.warnings:
        screen.say(f"Warning: {warning}")
    pinned = {"revision": resolved.revision, "dtype": number_type(config)}
    return Inputs(
        config=_pinned(config, pinned),
        rows=len(prepared.train),
        model=f"{resolved.name} ({resolved.revision})",
        data=prepare.describe(prepared.manifest),
        pins=pinned | {"rows": prepared.digest},
        audit=audit,
    )


def same_lengths(config: Config, fingerprint: Mapping[str, Any]) -> Config:
    """The configuration with the lengths of a study in the place of those that it leaves to the rows."""
    task = fingerprint.get("task", {})
    known = task | task.get("generation", {})
    numbers = {name: known[name] for name in config.task.lengths if isinstance(known.get(name), int)}
    return replace(config, task=config.task.with_lengths(numbers))


def _every(prepared: "Prepared") -> "Iterator[Dataset]":
    """All parts of the rows, the test rows' tokens among them."""
    yield from (prepared.train, prepared.validation)
    if prepared.augmented is not None:
        yield prepared.augmented
    if prepared.manifest.splits["test"].rows:
        yield prepared.open_test()


def number_type(config: Config) -> str:
    """The type of the base's numbers, by its name in torch: the same for all workers, as trials are compared.

    Raises ModelError if it is to be chosen by a device that this machine doesn't have.
    """
    from sweeper.models.pretrained import choose_device, choose_dtype

    if config.executor.name == "ray" and config.model.dtype != "auto":
        return config.model.dtype  # the workers' devices are not this machine's
    return str(choose_dtype(config.model, choose_device(config.model))).removeprefix("torch.")


def _workers(config: Config) -> int:
    """How many there are going to be, as far as this machine tells."""
    if config.executor.name == "inline":
        return 1
    if config.executor.name == "ray":
        return config.executor.workers or 1
    return len(find_places(config))


def _check_metrics(task: TaskConfig, prepared: "Prepared") -> None:
    """Raise DataError if the validation rows lack what a metric that the task names needs: rows in slices, or
    tool calls."""
    from sweeper.metrics import About, check, check_calls

    if any(MetricName.parse(name).metric == TOOL_CALL_MATCH for name in task.named_metrics):
        check_calls(task, prepared.validation["answer"])
    if any(MetricName.parse(name).how != "whole" for name in task.named_metrics):
        check(task, About.read(prepared.validation))


def _pinned(config: Config, pins: Mapping[str, Any]) -> Config:
    """The configuration with the number type, and the hub's commit if it is one, filled in."""
    is_commit = re.fullmatch(r"[0-9a-f]{40}", pins["revision"]) is not None
    found = {"dtype": pins["dtype"]} | ({"revision": pins["revision"]} if is_commit else {})
    return replace(config, model=read(ModelConfig, to_tree(config.model) | found, "model"))


def _refuse_another_model(config: Config, pins: Mapping[str, Any]) -> None:
    """Raise StudyError if the configuration asks for another revision or type than the sweep began with."""
    for name, given in (("revision", config.model.revision), ("dtype", config.model.dtype)):
        if given not in (None, "auto", pins[name]):
            raise StudyError(
                f"model.{name}: {pins[name]} in the study, {given} now; leave it out to go on with "
                f"`{config.sweep.name}`, or begin another sweep: sweep.name={config.sweep.name}_2"
            )


def stored_inputs(config: Config, pins: Mapping[str, Any], layout: Layout) -> Inputs:
    """What a stored sweep was given, as far as its folder tells; nothing is read but descriptions."""
    from sweeper.data import manifest
    from sweeper.data.audit import read_audit

    if config.engine.name == "replay":
        return Inputs(config, pins["rows"], _REPLAYED, (), pins)
    try:
        rows = manifest.read(layout.rows)
        count, data = rows.splits["train"].rows, manifest.describe(rows)
    except (OSError, ValueError):
        count, data = 1, ()
    found = read_audit(layout.audit)
    audit = AuditInfo(found.numbers, layout.audit_page, layout.audit.stat().st_mtime) if found else None
    return Inputs(config, count, f"{config.model.name} ({pins['revision']})", data, pins, audit)


def rows_are_unchanged(config: Config, layout: Layout) -> bool:
    """Whether the frozen rows still are those of the configuration and of the file it names."""
    if config.engine.name == "replay":
        return True
    from sweeper.data.prepare import content_digest, frozen

    manifest = frozen(config, layout.rows)
    # A file that is gone says nothing about the rows: the frozen ones are still there.
    return manifest is not None and content_digest(config.data) in (None, manifest.content)


def _refuse_changed_rows(config: Config, layout: Layout) -> None:
    """Raise StudyError before frozen rows would be replaced by others."""
    if layout.rows.exists() and not rows_are_unchanged(config, layout):
        raise StudyError(
            f"the rows of sweep `{layout.name}` have changed since it began: {config.data.path} has other "
            f"content, or {layout.rows} was damaged. Put the old file back to go on, or begin another sweep: "
            f"sweep.name={layout.name}_2"
        )


def lora_targets(space: Space) -> Sequence[TrialSettings]:
    """Default settings with every LoRA target that the space allows."""
    entry = next((e for e in space.entries if e.name == "lora.target_modules"), None)
    targets = entry.choices if entry is not None else (space.trial.lora.target_modules,)
    return [replace(space.trial, lora=replace(space.trial.lora, target_modules=target)) for target in targets]


def longest(space: Space) -> int:
    """Most epochs that a trial of the space can have."""
    return _largest(space, "epochs", space.trial.epochs)


def _largest(space: Space, name: str, default: int) -> int:
    """The largest value that a trial may have of the setting `name`."""
    entry = next((entry for entry in space.entries if entry.name == name), None)
    if entry is None:
        return default
    return max(default, int(max(entry.choices) if entry.choices else entry.high))


def trained_bytes(folder: Path, space: Space) -> int:
    """Bytes of what a trial trains, at most: adapters of the largest rank on every weight matrix, or all."""
    from safetensors import safe_open

    files = sorted(folder.glob("*.safetensors"))
    if space.trial.method == "full":
        return sum(path.stat().st_size for path in files)
    rank = _largest(space, "lora.rank", space.trial.lora.rank)
    widths = 0
    for path in files:
        with safe_open(path, framework="numpy") as file:
            shapes = [file.get_slice(name).get_shape() for name in file.keys()]  # noqa: SIM118 - no mapping
        widths += sum(sum(shape) for shape in shapes if len(shape) == 2 and max(shape) < _VOCABULARY)
    return 4 * rank * widths


_VOCABULARY = 2**15
"""A weight matrix with so long a side belongs to the words, which no adapter is put on."""


def _replayed(config: Config) -> Inputs:
    """A replay trains nothing: it needs no model, and of the rows only their number."""
    if config.engine.curves is not None:
        from sweeper.engines.replay import further, read_curves

        read_curves(config.engine.curves, further(config.task))
    rows = config.data.sizes.train or 96
    return Inputs(config, rows, _REPLAYED, (), {"rows": rows})


_REPLAYED = "replayed curves"

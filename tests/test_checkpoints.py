"""Checkpoints: complete or not there, recognised when damaged, deleted when nobody needs them."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from sweeper.engines import checkpoints
from sweeper.engines.checkpoints import STATE, TrialState
from sweeper.messages import Decision, Ending
from tests import tiny

WEIGHTS = "adapter_model.safetensors"
OVERRIDES = {
    "trainer": ("engine.report_seconds=1e-9",),
    "packed": ("engine=packed", "engine.slots=1", "engine.report_seconds=1e-9"),
}


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


DAMAGES: tuple[Callable[[Path], None], ...] = (flip, cut, Path.unlink)


@pytest.fixture(scope="module", params=OVERRIDES)
def left(request, tmp_path_factory):
    """An engine, a trial that it left at 20 of its 24 examples, and what the whole trial comes to."""
    folder = tmp_path_factory.mktemp(request.param)
    spec = tiny.spec(folder / "left", tiny.settings())
    tiny.run(spec, decide=leave_at_20, overrides=OVERRIDES[request.param])
    whole = tiny.run(replace(spec, folder=folder / "whole"), overrides=OVERRIDES[request.param])
    return request.param, spec, losses(whole)


def losses(channel: tiny.Script) -> dict[int, float]:
    return {one.mark: one.metrics["loss"] for one in channel.evaluations}


def leave_at_20(progress) -> Decision:
    return Decision.SUSPEND if progress.examples == 20 else Decision.CONTINUE


@pytest.mark.parametrize("damage", DAMAGES, ids=["flipped", "cut", "missing"])
def test_whatever_file_is_damaged_the_checkpoint_before_is_used(left, tmp_path, caplog, damage):
    engine, spec, whole = left
    last = checkpoints.newest(spec.folder)
    assert last.state.examples == 20
    names = sorted(path.name for path in last.folder.iterdir())
    assert {WEIGHTS, STATE} < set(names)
    for name in names:
        copy = shutil.copytree(spec.folder, tmp_path / name)
        damaged = copy / last.folder.relative_to(spec.folder)
        damage(damaged / name)
        told: list[str] = []
        assert checkpoints.newest(copy, told.append).state.examples == 12, name
        assert told == [
            f"the checkpoint {damaged} is damaged: the one before it is used, or the trial begins anew"
        ]
        if name not in (WEIGHTS, STATE):
            continue
        caplog.clear()
        second = tiny.run(replace(spec, attempt=2, folder=copy), overrides=OVERRIDES[engine])
        (outcome,) = second.outcomes
        assert (outcome.ending, outcome.examples, outcome.engine) == (Ending.FINISHED, 12, engine)
        assert losses(second) == pytest.approx(whole)
        assert outcome.warnings[0] == told[0]
        assert caplog.messages.count(f"Trial 0: {told[0]}") == 1


def test_with_every_checkpoint_damaged_the_trial_begins_anew(left, tmp_path):
    engine, spec, whole = left
    copy = shutil.copytree(spec.folder, tmp_path / "copy")
    for path in copy.glob(f"attempt-*/step-*/{WEIGHTS}"):
        flip(path)
    second = tiny.run(replace(spec, attempt=2, folder=copy), overrides=OVERRIDES[engine])
    assert second.outcomes[0].examples == 24
    assert losses(second) == pytest.approx(whole)


def test_a_state_that_was_changed_is_no_state(left, tmp_path):
    _, spec, _ = left
    copy = shutil.copytree(spec.folder, tmp_path / "copy")
    last = checkpoints.newest(copy)
    path = last.folder / STATE
    path.write_text(path.read_text().replace('"examples": 20', '"examples": 24'))
    assert checkpoints.newest(copy).state.examples == 12
    with pytest.raises(
        ValueError, match=r"state\.json is damaged; the trial goes on from the checkpoint before"
    ):
        checkpoints.update(last, last.state)


def sealed(trial: Path, attempt: int, step: int, state: TrialState | None = None) -> checkpoints.Checkpoint:
    written = trial / f"attempt-{attempt}" / ".writing"
    written.mkdir(parents=True)
    (written / WEIGHTS).write_bytes(b"weights")
    return checkpoints.seal(written, checkpoints.place(trial, attempt, step), state or TrialState(step=step))


def test_a_best_mark_without_its_weights_is_forgotten_in_words(tmp_path):
    best = sealed(tmp_path, 1, 3)
    last = sealed(tmp_path, 1, 6, TrialState(step=6, best_folder="attempt-1/step-000003"))
    flip(best.folder / WEIGHTS)
    told: list[str] = []
    assert checkpoints.newest(tmp_path, told.append) == replace(last, state=TrialState(step=6))
    assert told == [f"the best checkpoint {best.folder} is damaged: a later mark will do"]


def test_the_best_and_the_last_are_kept_and_the_best_is_published(tmp_path):
    best, _, last = (sealed(tmp_path, attempt, step) for attempt, step in ((1, 3), (1, 6), (2, 9)))
    checkpoints.keep(tmp_path, [best.folder, last.folder])
    assert sorted(tmp_path.glob("attempt-*/*")) == [best.folder, last.folder]
    (best.folder / ".state.json.77").write_text("half")
    target = checkpoints.publish(best.folder, tmp_path / "attempt-2" / "best")
    assert [path.name for path in target.iterdir()] == [WEIGHTS], "an adapter, and nothing of its training"


def test_of_a_trial_that_is_over_only_what_counts_is_left(tmp_path):
    kept = sealed(tmp_path, 2, 9)
    adapter = checkpoints.publish(kept.folder, tmp_path / "attempt-2" / "best")
    # What kills have left: an adapter of an attempt that was not told, one on its way, half a checkpoint.
    other = sealed(tmp_path, 1, 3)
    checkpoints.publish(other.folder, tmp_path / "attempt-1" / "best")
    for name in (".best", ".writing"):
        (tmp_path / "attempt-2" / name).mkdir()
    (tmp_path / "attempt-2" / ".state.json.77").write_text("half")
    checkpoints.clear(tmp_path, adapter)
    assert sorted(tmp_path.rglob("*")) == [tmp_path / "attempt-2", adapter, adapter / WEIGHTS]
    checkpoints.clear(tmp_path)
    assert list(tmp_path.iterdir()) == []

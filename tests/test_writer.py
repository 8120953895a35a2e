"""The only writer's view of a study: in memory what is in the database, and a step at a time in there."""

import math
import random
import sqlite3
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import TrialState

from sweeper.errors import StorageError
from sweeper.storage.database import open_storage, sole_writer
from sweeper.storage.writer import BatchStorage, SoleWriter

STEP = {"low": 0.0, "high": 1.0}


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'study.db'}"


def opened(url: str, name: str = "sweep") -> SoleWriter:
    database = open_storage(url)
    optuna.create_study(storage=database, study_name=name, load_if_exists=True)
    return sole_writer(database, name)


def stored(url: str, name: str = "sweep") -> optuna.Study:
    """The study as another process reads it."""
    return optuna.load_study(storage=optuna.storages.RDBStorage(url), study_name=name)


def told(study: optuna.Study) -> list[object]:
    """Everything that is known of a study's trials but their ids."""
    return [
        (
            *(t.number, t.state, t.values, t.params, t.distributions, t.user_attrs, t.system_attrs),
            *(t.datetime_start, t.datetime_complete, repr(sorted(t.intermediate_values.items()))),
        )
        for t in study.get_trials()
    ]


def write_something(study: optuna.Study, chance: random.Random) -> None:
    """One of all the things that are written to a study, to one of its trials."""
    storage, trials = study._storage, study.get_trials(deepcopy=False)
    left = [trial for trial in trials if not trial.state.is_finished()]
    what = chance.randrange(8)
    if what == 0 or not left:
        study.enqueue_trial({"x": 0.5}, user_attrs={"origin": "asked"})
    elif what == 1:
        trial = study.ask()
        trial.suggest_float("x", **STEP)
        trial.suggest_categorical("kind", ["a", "b", None])
    else:
        trial_id = chance.choice(left)._trial_id
        key = chance.choice("abc")
        if what == 2:
            values = (0.5, math.nan, math.inf, -math.inf)
            storage.set_trial_intermediate_value(trial_id, chance.randrange(4), chance.choice(values))
        elif what == 3:
            storage.set_trial_user_attr(trial_id, key, {"one": [chance.random(), None], "two": (1, 2)})
        elif what == 4:
            storage.set_trial_system_attr(trial_id, key, chance.random())
        elif what == 5:
            study.set_user_attr(key, chance.random())
        elif what == 6:
            storage.set_trial_state_values(trial_id, TrialState.WAITING)
        else:
            state = chance.choice((TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL))
            values = (chance.random(),) if state is TrialState.COMPLETE else None
            storage.set_trial_state_values(trial_id, state, values)


@pytest.mark.parametrize("seed", range(3))
def test_memory_and_database_tell_the_same_whatever_is_written(url: str, seed: int) -> None:
    other = optuna.create_study(storage=open_storage(url), study_name="other")
    other.ask()  # so that numbers and the database's ids differ
    chance = random.Random(seed)
    for _ in range(3):
        writer = opened(url)
        study = optuna.load_study(storage=writer, study_name="sweep")
        for _ in range(12):
            with writer.step():
                for _ in range(chance.randrange(1, 6)):
                    write_something(study, chance)
        assert told(study) == told(stored(url))
        assert study.user_attrs == stored(url).user_attrs
    assert len(stored(url, "other").trials) == 1


def test_a_step_is_in_the_database_at_its_end_and_not_before(url: str) -> None:
    writer = opened(url)
    study = optuna.load_study(storage=writer, study_name="sweep")
    with writer.step():
        with writer.step():
            study.ask().set_user_attr("a", 1)
        assert len(study.trials) == 1
        assert stored(url).trials == []
    assert [trial.user_attrs for trial in stored(url).trials] == [{"a": 1}]


def test_a_commit_whose_answer_was_lost_is_not_made_twice(url: str) -> None:
    writer = opened(url)
    write = BatchStorage.write

    def answered_late(self: BatchStorage, *said: Any) -> dict[int, int]:
        write(self, *said)
        return write(self, *said)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(BatchStorage, "write", answered_late)
        study = optuna.load_study(storage=writer, study_name="sweep")
        for x in (0.1, 0.2):
            study.enqueue_trial({"x": x}, user_attrs={"origin": "asked"})
        trial = study.ask()
        trial.suggest_float("x", **STEP)
        trial.report(0.5, 1)
        trial.set_user_attr("key", "value")
        study.tell(trial, 1.0)
    assert [trial.number for trial in stored(url).get_trials()] == [0, 1]
    assert told(stored(url)) == told(study)


def test_what_the_database_refused_goes_with_the_next_step(url: str, tmp_path: Path) -> None:
    writer = opened(url)
    study = optuna.load_study(storage=writer, study_name="sweep")
    study.ask()
    with sqlite3.connect(tmp_path / "study.db") as beside:
        beside.execute("CREATE TRIGGER no BEFORE INSERT ON trials BEGIN SELECT RAISE(ABORT, 'no'); END")
    with pytest.raises(StorageError, match="took nothing more"):
        study.ask()
    assert len(stored(url).trials) == 1
    with sqlite3.connect(tmp_path / "study.db") as beside:
        beside.execute("DROP TRIGGER no")
    study.set_user_attr("a", 1)
    assert told(stored(url)) == told(study)
    assert len(study.trials) == 2


def test_trials_that_wait_again_are_found(url: str) -> None:
    study = optuna.load_study(storage=opened(url), study_name="sweep")
    for _ in range(3):
        study.ask()
    for number in (2, 0):
        study._storage.set_trial_state_values(number, TrialState.WAITING)
    waiting = study.get_trials(deepcopy=False, states=(TrialState.WAITING,))
    assert [trial.number for trial in waiting] == [0, 2]
    assert [study.ask().number for _ in range(3)] == [0, 2, 3]


def test_a_finished_trial_stays_as_it_is(url: str) -> None:
    study = optuna.load_study(storage=opened(url), study_name="sweep")
    study.tell(study.ask(), 1.0)
    before = told(stored(url))
    with pytest.raises(optuna.exceptions.UpdateFinishedTrialError, match="can not be updated"):
        study._storage.set_trial_user_attr(0, "a", 1)
    assert told(stored(url)) == before == told(study)


def test_distributions_are_read_back_as_they_were(url: str) -> None:
    study = optuna.load_study(storage=opened(url), study_name="sweep")
    trial = study.ask()
    trial.suggest_float("x", 1e-4, 1e-1, log=True)
    trial.suggest_categorical("kind", ["a", None, 3])
    assert stored(url).trials[0].distributions == {
        "x": FloatDistribution(1e-4, 1e-1, log=True),
        "kind": CategoricalDistribution(["a", None, 3]),
    }

"""Statements that are tried again; the waiting itself is shown with real databases in their own tests."""

import optuna
import psycopg
import pytest
from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.storages import RDBStorage, get_storage
from optuna.trial import TrialState
from sqlalchemy.exc import OperationalError, StatementError

from sweeper.patience import Patient


class Lossy(RDBStorage):
    """A real storage whose next answers get lost once the work is done, as when a connection breaks."""

    losses = 0
    cause: Exception = OperationalError("COMMIT", {}, psycopg.OperationalError("the connection is lost"))

    def set_trial_state_values(self, *arguments, **options):
        done = super().set_trial_state_values(*arguments, **options)
        if self.losses:
            self.losses -= 1
            raise StorageInternalError("the answer is lost") from self.cause
        return done


@pytest.fixture
def storage(tmp_path):
    return Lossy(f"sqlite:///{tmp_path}/study.db")


def a_trial(storage) -> int:
    study = optuna.create_study(storage=get_storage(storage))
    return study.ask()._trial_id


def test_an_ending_whose_answer_got_lost_is_not_told_twice(storage):
    number = a_trial(storage)
    storage.losses = 1
    assert Patient(storage, "study", patience=60.0).set_trial_state_values(number, TrialState.COMPLETE, [1.0])
    assert storage.get_trial(number).value == 1.0
    with pytest.raises(UpdateFinishedTrialError, match="has already finished"):
        Patient(storage, "study").set_trial_state_values(number, TrialState.FAIL)


def test_what_will_never_succeed_is_not_tried_again(storage):
    number = a_trial(storage)
    storage.losses, storage.cause = 1, StatementError("too long", "INSERT", {}, ValueError())
    with pytest.raises(StorageInternalError, match="the answer is lost"):
        Patient(storage, "study", patience=60.0).set_trial_state_values(number, TrialState.COMPLETE, [1.0])
    assert storage.losses == 0

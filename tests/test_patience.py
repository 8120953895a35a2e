"""Statements that are tried again; the waiting itself is shown with real databases in their own tests."""

import optuna
import psycopg
import pytest
from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage, get_storage
from sqlalchemy.exc import OperationalError, StatementError

from sweeper.errors import StorageError
from sweeper.storage.patience import Patient


class Lossy(RDBStorage):
    """A real storage whose next answers get lost once the work is done, as when a connection breaks."""

    losses = 0
    cause: Exception = OperationalError("COMMIT", {}, psycopg.OperationalError("the connection is lost"))

    def set_trial_user_attr(self, *arguments, **options):
        super().set_trial_user_attr(*arguments, **options)
        if self.losses:
            self.losses -= 1
            raise StorageInternalError("the answer is lost") from self.cause


@pytest.fixture
def storage(tmp_path):
    return Lossy(f"sqlite:///{tmp_path}/study.db")


def a_trial(storage) -> int:
    study = optuna.create_study(storage=get_storage(storage))
    return study.ask()._trial_id


def test_what_may_succeed_later_is_tried_again(storage):
    number = a_trial(storage)
    storage.losses = 1
    Patient(storage, "study", patience=60.0).set_trial_user_attr(number, "key", 1)
    assert storage.losses == 0
    assert storage.get_trial(number).user_attrs == {"key": 1}


def test_what_will_never_succeed_is_not_tried_again_and_no_fault_of_a_trial(storage):
    number = a_trial(storage)
    storage.losses, storage.cause = (
        2,
        StatementError("disk I/O error", "INSERT", {}, ValueError("disk I/O error")),
    )
    with pytest.raises(StorageError, match=r"the study database study took nothing more \(disk I/O error\)"):
        Patient(storage, "study", patience=60.0).set_trial_user_attr(number, "key", 1)
    assert storage.losses == 1

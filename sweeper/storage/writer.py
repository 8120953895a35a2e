"""The study database as its only writer sees it: read from memory, written a step at a time.

Optuna asks its database for all unfinished trials whenever it is asked for any, and commits every value and
attribute on its own. With hundreds of workers that is a second for each of their reports. But a study has
one writer, which knows what it has written.
"""

import copy
from collections.abc import Container, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from json import dumps, loads
from typing import Any, cast

from optuna.distributions import BaseDistribution, distribution_to_json
from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage, InMemoryStorage, RDBStorage
from optuna.storages._rdb import models
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import Connection, Table, and_, bindparam, select
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from sweeper.failpoints import reach

_STUDY_USER = models.StudyUserAttributeModel.__table__
_STUDY_SYSTEM = models.StudySystemAttributeModel.__table__
_TRIAL = models.TrialModel.__table__
_PARAM = models.TrialParamModel.__table__
_USER = models.TrialUserAttributeModel.__table__
_SYSTEM = models.TrialSystemAttributeModel.__table__
_REPORT = models.TrialIntermediateValueModel.__table__
_VALUE = models.TrialValueModel.__table__

_KEYS: Mapping[Table, tuple[str, ...]] = {
    _STUDY_USER: ("study_id", "key"),
    _STUDY_SYSTEM: ("study_id", "key"),
    _TRIAL: ("trial_id",),
    _PARAM: ("trial_id", "param_name"),
    _USER: ("trial_id", "key"),
    _SYSTEM: ("trial_id", "key"),
    _REPORT: ("trial_id", "step"),
    _VALUE: ("trial_id", "objective"),
}
"""Optuna's tables, and by what a row of each is found."""
_INSERT = {table: table.insert() for table in _KEYS}
_AT = {
    table: and_(*(table.c[name] == bindparam(f"at_{name}") for name in names))
    for table, names in _KEYS.items()
}
_UPDATE = {table: table.update().where(at) for table, at in _AT.items()}
_DELETE = {table: table.delete().where(at) for table, at in _AT.items()}


@dataclass(frozen=True)
class Row:
    """What a row of one of Optuna's tables is to hold."""

    table: Table
    values: Mapping[str, Any]
    """By column; `trial_id` is the trial's number in its study here."""
    is_there: bool
    """Whether the table has this row already, with other values."""


class BatchStorage(RDBStorage):
    """Optuna's database, which also takes many rows in one transaction."""

    def write(self, rows: Sequence[Row], ids: Mapping[int, int]) -> dict[int, int]:
        """Write all rows, or none; gives the ids of the trials among them that are new.

        `ids`: of the other trials, by number. Rows that are there already, because the answer to an earlier
        try was lost, are replaced. Raises StorageInternalError, as Optuna's own methods do.
        """
        try:
            try:
                return self._write(rows, ids)
            except IntegrityError:
                return self._write(rows, ids, anew=True)
        except SQLAlchemyError as error:
            raise StorageInternalError(f"{len(rows)} rows could not be written") from error

    def _write(self, rows: Sequence[Row], ids: Mapping[int, int], anew: bool = False) -> dict[int, int]:
        """`anew`: rows that are not expected there make room first."""
        batches: dict[tuple[Table, bool], list[dict[str, Any]]] = {}
        with self.engine.begin() as connection:
            new = self._written(connection, rows, max(ids.values(), default=0))
            for row in rows:
                values = dict(row.values)
                is_there = row.is_there
                if "trial_id" in values:
                    number = values.pop("trial_id")
                    if row.table is _TRIAL and not is_there and number not in new:
                        inserted = connection.execute(_INSERT[_TRIAL], values).inserted_primary_key
                        (new[number],) = cast(tuple[int], inserted)
                        continue
                    values["trial_id"] = new[number] if number in new else ids[number]
                    is_there = is_there or row.table is _TRIAL
                if is_there:
                    values |= {f"at_{name}": values.pop(name) for name in _KEYS[row.table]}
                batches.setdefault((row.table, is_there), []).append(values)
            for (table, is_there), batch in batches.items():
                if anew and not is_there:
                    places = [{f"at_{key}": one[key] for key in _KEYS[table]} for one in batch]
                    connection.execute(_DELETE[table], places)
                connection.execute((_UPDATE if is_there else _INSERT)[table], batch)
            reach("study.written")
        return new

    def _written(self, connection: Connection, rows: Sequence[Row], newest: int) -> dict[int, int]:
        """Ids of those new trials among `rows` that were committed by a try whose answer was lost."""
        new = [row.values for row in rows if row.table is _TRIAL and not row.is_there]
        if not new:
            return {}
        columns = _TRIAL.c
        found = connection.execute(
            select(columns.number, columns.trial_id).where(
                columns.trial_id > newest,
                columns.study_id == new[0]["study_id"],
                columns.number.in_([values["number"] for values in new]),
            )
        )
        return {row.number: row.trial_id for row in found}


class SoleWriter(InMemoryStorage):
    """Optuna's storage for the one process that writes a study.

    Every change is in memory at once, and in the database when its `step` ends, all changes of a step
    together: after a kill the step has happened, or it hasn't. What the database refuses stays noted, and
    goes with the next step; so does what an error has interrupted.
    """

    def __init__(self, database: BaseStorage, backend: BatchStorage, name: str) -> None:
        """Read the study `name` from `database`, to be written through `backend` alone from now on."""
        super().__init__()
        self._backend = backend
        self._database_id = database.get_study_id_from_name(name)
        trials = database.get_all_trials(self._database_id, deepcopy=False)
        self._ids = {trial.number: trial._trial_id for trial in trials}
        # Here a trial's id is its number, since the study is alone.
        study = super().create_new_study(database.get_study_directions(self._database_id), name)
        for key, value in database.get_study_user_attrs(self._database_id).items():
            super().set_study_user_attr(study, key, value)
        for key, value in database.get_study_system_attrs(self._database_id).items():
            super().set_study_system_attr(study, key, value)
        self.count = 0
        """How many trials there are."""
        self._waiting: set[int] = set()
        for trial in trials:
            self._sort_in(super().create_new_trial(study, trial))
        self._changes: dict[tuple[Table, int, Any], bool] = {}
        """Table, trial or study, and key of every row to be written; whether it is there already."""
        self._depth = 0

    @contextmanager
    def step(self) -> Iterator[None]:
        """What is written in this block reaches the database together, at its end."""
        self._depth += 1
        try:
            yield
        finally:
            self._depth -= 1
        self._commit()

    @property
    def is_any_waiting(self) -> bool:
        """Whether one of them waits to be taken up."""
        return bool(self._waiting)

    def set_study_user_attr(self, study_id: int, key: str, value: Any) -> None:
        is_there = key in self.get_study_user_attrs(study_id)
        super().set_study_user_attr(study_id, key, _as_read(value))
        self._note(_STUDY_USER, study_id, key, is_there)

    def set_study_system_attr(self, study_id: int, key: str, value: Any) -> None:
        is_there = key in self.get_study_system_attrs(study_id)
        super().set_study_system_attr(study_id, key, _as_read(value))
        self._note(_STUDY_SYSTEM, study_id, key, is_there)

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        number = super().create_new_trial(study_id, template_trial)
        trial = self.get_trial(number)
        self._sort_in(number)
        with self.step():
            self._note(_TRIAL, number, None, False)
            for table, keys in (
                (_PARAM, trial.params),
                (_USER, trial.user_attrs),
                (_SYSTEM, trial.system_attrs),
                (_REPORT, trial.intermediate_values),
                (_VALUE, range(len(trial.values or ()))),
            ):
                for key in keys:
                    self._note(table, number, key, False)
        return number

    def set_trial_param(
        self, trial_id: int, param_name: str, param_value_internal: float, distribution: BaseDistribution
    ) -> None:
        is_there = param_name in self.get_trial(trial_id).params
        super().set_trial_param(trial_id, param_name, param_value_internal, distribution)
        self._note(_PARAM, trial_id, param_name, is_there)

    def set_trial_state_values(
        self, trial_id: int, state: TrialState, values: Sequence[float] | None = None
    ) -> bool:
        known = self.get_trial(trial_id).values or ()
        is_set = super().set_trial_state_values(trial_id, state, values)
        if is_set:
            self._sort_in(trial_id)
            with self.step():
                self._note(_TRIAL, trial_id, None, True)
                for objective in range(len(values or ())):
                    self._note(_VALUE, trial_id, objective, objective < len(known))
        return is_set

    def set_trial_intermediate_value(self, trial_id: int, step: int, intermediate_value: float) -> None:
        is_there = step in self.get_trial(trial_id).intermediate_values
        super().set_trial_intermediate_value(trial_id, step, intermediate_value)
        self._note(_REPORT, trial_id, step, is_there)

    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None:
        is_there = key in self.get_trial(trial_id).user_attrs
        super().set_trial_user_attr(trial_id, key, _as_read(value))
        self._note(_USER, trial_id, key, is_there)

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        is_there = key in self.get_trial(trial_id).system_attrs
        super().set_trial_system_attr(trial_id, key, _as_read(value))
        self._note(_SYSTEM, trial_id, key, is_there)

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        if states != (TrialState.WAITING,):
            return super().get_all_trials(study_id, deepcopy, states)
        # InMemoryStorage looks for these from the last one on that it found; ours come back when they are
        # suspended, and Optuna asks for them again and again.
        waiting = [self.get_trial(number) for number in sorted(self._waiting)]
        return copy.deepcopy(waiting) if deepcopy else waiting

    def _sort_in(self, number: int) -> None:
        self.count = max(self.count, number + 1)
        if self.get_trial(number).state == TrialState.WAITING:
            self._waiting.add(number)
        else:
            self._waiting.discard(number)

    def _note(self, table: Table, owner: int, key: Any, is_there: bool) -> None:
        self._changes.setdefault((table, owner, key), is_there)
        self._commit()

    def _commit(self) -> None:
        if self._depth or not self._changes:
            return
        rows = [self._row(*change, is_there) for change, is_there in self._changes.items()]
        self._ids |= self._backend.write(rows, self._ids)
        self._changes.clear()
        reach("study.committed")

    def _row(self, table: Table, owner: int, key: Any, is_there: bool) -> Row:
        if table in (_STUDY_USER, _STUDY_SYSTEM):
            read = self.get_study_user_attrs if table is _STUDY_USER else self.get_study_system_attrs
            values = {"study_id": self._database_id, "key": key, "value_json": dumps(read(owner)[key])}
        else:
            values = {"trial_id": owner} | self._of_trial(table, self.get_trial(owner), key)
        return Row(table, values, is_there)

    def _of_trial(self, table: Table, trial: FrozenTrial, key: Any) -> dict[str, Any]:
        """The columns of a trial's row as Optuna stores them."""
        if table is _TRIAL:
            return {
                "number": trial.number,
                "study_id": self._database_id,
                "state": trial.state,
                "datetime_start": _utc(trial.datetime_start),
                "datetime_complete": _utc(trial.datetime_complete),
            }
        if table is _PARAM:
            distribution = trial.distributions[key]
            return {
                "param_name": key,
                "param_value": distribution.to_internal_repr(trial.params[key]),
                "distribution_json": distribution_to_json(distribution),
            }
        if table is _REPORT:
            stored = models.TrialIntermediateValueModel.intermediate_value_to_stored_repr
            report, type_of_report = stored(trial.intermediate_values[key])
            return {"step": key, "intermediate_value": report, "intermediate_value_type": type_of_report}
        if table is _VALUE:
            value, kind = models.TrialValueModel.value_to_stored_repr(trial.values[key])
            return {"objective": key, "value": value, "value_type": kind}
        attrs = trial.user_attrs if table is _USER else trial.system_attrs
        return {"key": key, "value_json": dumps(attrs[key])}


def _as_read(value: Any) -> Any:
    """An attribute as it comes back from the database, with lists for tuples."""
    return loads(dumps(value))


def _utc(moment: datetime | None) -> datetime | None:
    return None if moment is None else moment.astimezone(UTC).replace(tzinfo=None)

"""The Optuna study of a sweep: opened or resumed, proposals, reports, results.

Only who holds the sweep's lock writes through this class; `Study.read` gives the same records to anybody.
"""

import functools
import json
import logging
import math
import warnings
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar, cast

import optuna
from optuna.pruners import BasePruner, NopPruner
from optuna.trial import FrozenTrial, Trial
from optuna.trial import TrialState as OptunaState

from sweeper.config import Config, Goals, ObjectiveConfig, SamplerConfig, TrialSettings
from sweeper.credentials import masked
from sweeper.errors import StudyError
from sweeper.events import TrialRecord
from sweeper.failpoints import reach
from sweeper.loading import read, to_tree
from sweeper.messages import BASE, Ending, Evaluation, Outcome, TrialState
from sweeper.space import Space
from sweeper.storage.database import open_storage, sole_writer, sqlite_path
from sweeper.storage.writer import SoleWriter
from sweeper.study.differences import differences
from sweeper.study.objectives import best_of, values
from sweeper.study.outcomes import outcome_tree, with_outcome
from sweeper.study.pruners import EXAMPLES, VIOLATED, BeforeTheEnd
from sweeper.study.samplers import derive_seed, grid_order, make_sampler

optuna.logging.set_verbosity(optuna.logging.WARNING)
logging.getLogger("alembic").setLevel(logging.WARNING)

_STATES = {
    OptunaState.WAITING: TrialState.WAITING,
    OptunaState.RUNNING: TrialState.RUNNING,
    OptunaState.COMPLETE: TrialState.FINISHED,
    OptunaState.PRUNED: TrialState.PRUNED,
    OptunaState.FAIL: TrialState.FAILED,
}
_FINAL = {
    Ending.FINISHED: OptunaState.COMPLETE,
    Ending.PRUNED: OptunaState.PRUNED,
    Ending.FAILED: OptunaState.FAIL,
}


@dataclass(frozen=True)
class Spent:
    """What a trial has cost over its attempts up to number `attempt`."""

    examples: int = 0
    seconds: float = 0.0
    attempt: int = 0

    def __add__(self, other: "Spent") -> "Spent":
        return Spent(
            self.examples + other.examples,
            self.seconds + other.seconds,
            max(self.attempt, other.attempt),
        )


P = ParamSpec("P")
T = TypeVar("T")


def _one_step(method: Callable[Concatenate["Study", P], T]) -> Callable[Concatenate["Study", P], T]:
    """What the method stores is in the database when it returns, all of it or, after a kill, nothing."""

    @functools.wraps(method)
    def call(self: "Study", /, *args: P.args, **kwargs: P.kwargs) -> T:
        with self.step():
            return method(self, *args, **kwargs)

    return call


_RETRAINS, _REPEAT = "retrains", "repeat"
_ORIGIN, _LETTER = "origin", "letter"
_ABOUT = "sweeper"
"""Study attribute with everything that reading the study takes, written in one go."""


def _foreign(name: str, url: str) -> StudyError:
    return StudyError(
        f"`{name}` in {masked(url)} was not made by sweeper; give your sweep another name: sweep.name=..."
    )


class Study:
    """One study in a database. Open it with `Study.open` (to write) or `Study.read`."""

    def __init__(self, study: optuna.Study, space: Space, goals: Goals, seed: int, folder: Path) -> None:
        self._study = study
        self._storage = study._storage
        self._seed = seed
        self._folder = folder
        self.space = space
        self.goals = goals

    @classmethod
    def open(
        cls,
        url: str,
        config: Config,
        space: Space,
        pruner: BasePruner,
        fingerprint: Mapping[str, Any],
        folder: Path,
    ) -> "Study":
        """Create the study or continue it.

        Trials that a dead process left RUNNING are set back to WAITING, to go on under the same
        number. Raises StudyError if the database can't be used, or if the study was made with
        another fingerprint.
        """
        goals, name = config.task.goals, config.sweep.name
        database = open_storage(url, lasting=True)
        optuna.create_study(
            storage=database,
            study_name=name,
            directions=[one.direction for one in goals.objectives],
            load_if_exists=True,
        )
        reach("study.created")
        study = optuna.load_study(storage=sole_writer(database, name), study_name=name)
        self = cls(study, space, goals, config.sweep.seed, folder)
        if _ABOUT in study.user_attrs:
            self.refuse_if_changed(fingerprint)
        elif study.get_trials(deepcopy=False):
            raise _foreign(name, url)
        else:
            about = {
                **to_tree(goals),
                "seed": config.sweep.seed,
                "trial": to_tree(config.trial),
                "space": dict(config.space),
                "fingerprint": dict(fingerprint),
            }
            study.set_user_attr(_ABOUT, about)
            reach("study.described")
        # Optuna's pruners, and ours, compare by one objective.
        study.pruner = NopPruner() if goals.also else pruner
        if isinstance(study.pruner, BeforeTheEnd):
            study.pruner.catch_up(study)
        if self.take_back():
            reach("study.taken_back")
        return self

    @classmethod
    def read(cls, url: str, name: str, folder: Path) -> "Study":
        """The study `name` for reading; raises StudyError if there is none."""
        names = cls.names(url)
        if name not in names:
            # A slash is in the names of what belongs to a sweep.
            known = ", ".join(sorted(known for known in names if "/" not in known)) or "none yet"
            raise StudyError(f"no sweep `{name}` in {masked(url)}; known sweeps: {known}")
        study = optuna.load_study(storage=open_storage(url), study_name=name)
        about = study.user_attrs.get(_ABOUT)
        if about is None:
            raise _foreign(name, url)
        space = Space.parse(about["space"], read(TrialSettings, about["trial"], "trial"))
        goals = {field.name: about[field.name] for field in fields(Goals) if field.name in about}
        return cls(study, space, read(Goals, goals, "task"), about["seed"], folder)

    @classmethod
    def known(cls, url: str, name: str, folder: Path) -> "Study | None":
        """As `read`, but None for a study that isn't there, or that a kill left before it began."""
        if name not in cls.names(url):
            return None
        study = optuna.load_study(storage=open_storage(url), study_name=name)
        if _ABOUT not in study.user_attrs and not study.get_trials(deepcopy=False):
            return None
        return cls.read(url, name, folder)

    @staticmethod
    def names(url: str) -> list[str]:
        """Names of all studies at `url`; empty where there is no database yet."""
        path = sqlite_path(url)
        if path is not None and not path.exists():
            return []
        return list(optuna.get_all_study_names(storage=open_storage(url)))

    @staticmethod
    def delete(url: str, name: str) -> None:
        """Remove the study `name` from the database."""
        optuna.delete_study(study_name=name, storage=open_storage(url))

    def take_back(self) -> list[int]:
        """Have trials wait that a dead process left RUNNING, to go on under the same number; gives these."""
        left = self._study.get_trials(deepcopy=False, states=(OptunaState.RUNNING,))
        for trial in left:
            self._storage.set_trial_state_values(trial._trial_id, OptunaState.WAITING)
        return [trial.number for trial in left]

    def step(self) -> AbstractContextManager[None]:
        """What is stored in this block is in the database at its end; after a kill, all of it or nothing."""
        return cast(SoleWriter, self._storage).step()

    def is_full(self, budget: int) -> bool:
        """Whether `budget` trials are there and none waits: idle workers ask again and again."""
        storage = cast(SoleWriter, self._storage)
        return storage.count >= budget and not storage.is_any_waiting

    def is_over(self, budget: int, sampler: SamplerConfig) -> bool:
        """Whether `budget` trials, or all that a grid has, are there and over."""
        trials = self._study.get_trials(deepcopy=False)
        return all(_STATES[trial.state].is_over for trial in trials) and (
            len(trials) >= budget or (sampler.name == "grid" and self.untaken() is None)
        )

    @_one_step
    def propose(self, budget: int, sampler: SamplerConfig) -> TrialRecord | None:
        """The next trial to train, now RUNNING; None when `budget` trials are there and none waits.

        A waiting trial comes first, under its own number, with its own settings. The sampler is
        made anew for each proposal with a seed of (sweep seed, trial number), so that a resumed
        sweep proposes what an uninterrupted one would.
        """
        waiting = self._study.get_trials(deepcopy=False, states=(OptunaState.WAITING,))
        count = len(self._study.get_trials(deepcopy=False))
        if not waiting and not self._enqueue(count, budget, sampler):
            return None
        number = waiting[0].number if waiting else count
        self._study.sampler = make_sampler(sampler, self.space, self._seed, number)
        with warnings.catch_warnings():
            # A waiting trial of an earlier sampler may lie outside what this one would draw.
            warnings.simplefilter("ignore", UserWarning)
            trial = self._study.ask()
            self.space.suggest(trial)
        trial.set_user_attr("attempt", trial.user_attrs.get("attempt", 0) + 1)
        return self.record(trial.number)

    def _enqueue(self, count: int, budget: int, sampler: SamplerConfig) -> bool:
        """Make room for trial number `count`; False when there is none left to propose."""
        if count >= budget:
            return False
        if count == 0:
            self._study.enqueue_trial(dict(self.space.defaults))
        elif sampler.name == "grid":
            point = self.untaken()
            if point is None:
                return False
            self._study.enqueue_trial(point)
        return True

    def untaken(self) -> dict[str, Any] | None:
        """The next point of the grid; None when every one is taken."""
        taken = {
            frozenset((t.params or t.system_attrs.get("fixed_params", {})).items())
            for t in self._study.get_trials(deepcopy=False)
        }
        points = grid_order(self.space.grid(), self._seed)
        return next((point for point in points if frozenset(point.items()) not in taken), None)

    def enqueue(self, params: Mapping[str, Any], retrains: int, repeat: int) -> None:
        """Have these settings trained, as run number `repeat` of what the sweep's trial `retrains` was."""
        self._study.enqueue_trial(dict(params), user_attrs={_RETRAINS: retrains, _REPEAT: repeat})
        reach("verdict.enqueued")

    @_one_step
    def withdraw(self, number: int) -> None:
        """Have a waiting trial not trained after all; it counts as nobody's run from now on."""
        self._set_attr(number, _REPEAT, 0)
        self._storage.set_trial_state_values(self._frozen(number)._trial_id, OptunaState.FAIL)

    def enqueue_asked(self, params: Mapping[str, Any], origin: str, letter: str, budget: int) -> bool:
        """Have these settings trained, as `letter` asks for: once, however often it is read.

        False while there is no room: trial 0 is the default settings, and `budget` trials are all.
        Raises ConfigError for settings that the space doesn't allow.
        """
        self.space.point(params)
        trials = self._study.get_trials(deepcopy=False)
        if any(trial.user_attrs.get(_LETTER) == letter for trial in trials):
            return True
        if not 0 < len(trials) < budget:
            return False
        # One transaction: the trial is there with all that is known of it, or not at all.
        self._study.enqueue_trial(dict(params), user_attrs={_ORIGIN: origin, _LETTER: letter})
        reach("inbox.enqueued")
        return True

    def give_up(self, number: int, reason: str) -> TrialRecord:
        """End a waiting trial without training it any more: it counts as pruned, for `reason`."""
        return self._end_waiting(Outcome(number, 0, Ending.PRUNED, 0, "", reason))

    def stop(self, number: int, reason: str, best: Evaluation | None, adapter: Path | None) -> TrialRecord:
        """Finish a waiting trial with its best mark, for `reason`; one that reached none counts as pruned.

        `best` is what its newest checkpoint tells, if it has one, and `adapter` what was published of it.
        """
        known = self._frozen(number).user_attrs.get("outcome") or {}
        if best is None and not known.get("best"):
            return self.give_up(number, reason)
        told = Outcome(number, 0, Ending.FINISHED, 0, "", reason, best=best, adapter=adapter)
        return self._end_waiting(told)

    @_one_step
    def _end_waiting(self, told: Outcome) -> TrialRecord:
        """End a waiting trial as `told`; what its last attempt has told beside stays."""
        number, trial = told.trial, self._frozen(told.trial)
        tree = outcome_tree(replace(told, attempt=trial.user_attrs.get("attempt", 0)), self._folder)
        known = trial.user_attrs.get("outcome") or tree
        ours = {key: tree[key] for key in ("ending", "reason", "best", "adapter") if tree[key] is not None}
        self._set_attr(number, "outcome", known | ours)
        self._storage.set_trial_state_values(trial._trial_id, OptunaState.RUNNING)
        # Samplers model only the settings that every trial has: this one needs its own.
        self._study.sampler = optuna.samplers.RandomSampler(self.seed(number))
        self.space.suggest(optuna.Trial(self._study, trial._trial_id))
        if told.ending is Ending.FINISHED:
            self._end(told)
        else:
            self._study.tell(number, state=OptunaState.PRUNED)
        return self.record(number)

    def state(self, number: int) -> TrialState:
        """Where a trial stands; raises StudyError if there is none of this number."""
        trials = self._study.get_trials(deepcopy=False)
        if not 0 <= number < len(trials):
            known = f"its trials: 0 to {len(trials) - 1}" if trials else "it has none yet"
            raise StudyError(f"sweep `{self._study.study_name}` has no trial {number}; {known}")
        return _STATES[trials[number].state]

    def seed(self, number: int) -> int:
        """The seed of trial `number`: data order, adapter init and dropout follow from it.

        In a verdict the runs with the same `repeat` share one, which no trial of the sweep has.
        """
        repeat = 0 if number == BASE else self._frozen(number).user_attrs.get(_REPEAT, 0)
        return (
            derive_seed(self._seed, "repeat", repeat) if repeat else derive_seed(self._seed, "trial", number)
        )

    def set_examples(self, number: int, examples: int) -> None:
        """Store the trial's whole length, which pruners compare by."""
        self._set_attr(number, EXAMPLES, examples)

    @_one_step
    def report(self, number: int, mark: int, value: float, meets: bool = True) -> None:
        """Store the objective at `mark`, and whether the constraints are met there.

        A mark that is stored already keeps its value. With several objectives it is the first one's.
        """
        trial = self._frozen(number)
        if mark not in trial.intermediate_values:
            if not meets:
                self._set_attr(number, VIOLATED, [*trial.user_attrs.get(VIOLATED, ()), mark])
            self._storage.set_trial_intermediate_value(trial._trial_id, mark, value)

    def should_prune(self, number: int) -> bool:
        """What the pruner says of the trial at its last reported mark."""
        return self._study.pruner.prune(self._study, self._frozen(number))

    @_one_step
    def finish(self, outcome: Outcome, spent: Spent) -> TrialRecord:
        """Store how an attempt ended. A suspended or cancelled trial waits to be taken up again."""
        number = outcome.trial
        if number == BASE:
            tree = outcome_tree(outcome, self._folder)
            self._study.set_user_attr("base", tree if outcome.ending is Ending.FINISHED else None)
            return self.record(BASE)
        self._set_attr(number, "outcome", outcome_tree(outcome, self._folder))
        self.spend(number, spent)
        if outcome.ending in _FINAL:
            self._end(outcome)
        else:
            self._storage.set_trial_state_values(self._frozen(number)._trial_id, OptunaState.WAITING)
        return self.record(number)

    def _end(self, outcome: Outcome) -> None:
        """Tell Optuna the result: constraints first, then the objectives, which end the trial."""
        number, record = outcome.trial, self.record(outcome.trial)
        scores = values(record, self.goals)
        if outcome.ending is Ending.FINISHED and None in scores:
            name = self.goals.objectives[scores.index(None)].metric
            outcome = replace(outcome, ending=Ending.FAILED, reason=f"the objective `{name}` has no value")
            self._set_attr(number, "outcome", outcome_tree(outcome, self._folder))
        if record.best_mark is not None and self.goals.constraints:
            trial = Trial(self._study, self._frozen(number)._trial_id)
            for one in self.goals.constraints:
                if str(one) not in trial.constraints:  # a crash may fall between this and the end
                    trial.set_constraint(str(one), one.missed_by(record.metrics.get(one.metric, math.nan)))
        told = [score for score in scores if score is not None]
        self._study.tell(
            number, told if outcome.ending is Ending.FINISHED else None, state=_FINAL[outcome.ending]
        )

    def spend(self, number: int, spent: Spent) -> None:
        """Add to what the trial has cost."""
        before = Spent(**self._frozen(number).user_attrs.get("spent", {}))
        self._set_attr(number, "spent", asdict(before + spent))

    def unaccounted(self) -> list[TrialRecord]:
        """Waiting trials whose last attempt died without a word, so that its cost is not stored."""
        return [
            self._record(trial)
            for trial in self._study.get_trials(deepcopy=False, states=(OptunaState.WAITING,))
            if trial.user_attrs.get("attempt", 0) > trial.user_attrs.get("spent", {}).get("attempt", 0)
        ]

    @property
    def objective(self) -> ObjectiveConfig:
        """The first objective, which curves and pruning follow."""
        return self.goals.objective

    @property
    def running_seconds(self) -> float:
        """Wall-clock time that the sweep has run, added up over all resumes."""
        return float(self._study.user_attrs.get("running_seconds", 0.0))

    @running_seconds.setter
    def running_seconds(self, seconds: float) -> None:
        self._study.set_user_attr("running_seconds", seconds)

    @property
    def fingerprint(self) -> Mapping[str, Any]:
        """What the study was made with."""
        return dict(self._study.user_attrs[_ABOUT]["fingerprint"])

    def refuse_if_changed(self, fingerprint: Mapping[str, Any]) -> None:
        """Raise StudyError, with the differences, if the study was made with another fingerprint."""
        changed = [
            f"  {key}: {before} in the study, {now} now"
            for key, before, now in differences(self.fingerprint, json.loads(json.dumps(fingerprint)))
        ]
        if changed:
            name, lines = self._study.study_name, "\n".join(changed)
            raise StudyError(
                f"sweep `{name}` was begun with other settings, so new trials could not be compared with "
                f"its old ones:\n{lines}\n"
                f"Take the old settings to go on with it, or begin another sweep: sweep.name={name}_2\n"
                f"(`python -m sweeper delete {name}` makes the name free again)"
            )

    def records(self) -> list[TrialRecord]:
        """All trials by number, the base model first once it has been measured."""
        base = [self.record(BASE)] if self._study.user_attrs.get("base") else []
        return base + [self._record(trial) for trial in self._study.get_trials(deepcopy=False)]

    def record(self, number: int) -> TrialRecord:
        """One trial, or the base model."""
        if number == BASE:
            tree = self._study.user_attrs.get("base")
            record = TrialRecord(
                BASE, TrialState.FINISHED if tree else TrialState.WAITING, 1, {}, self.space.trial
            )
            return with_outcome(record, tree, self._folder)
        return self._record(self._frozen(number))

    def best(self) -> TrialRecord | None:
        """The best trial by the rule of `sweeper.study.objectives.best_of`; None if none can be."""
        return best_of(self.records(), self.goals)

    def _record(self, trial: FrozenTrial) -> TrialRecord:
        attrs = trial.user_attrs
        spent = Spent(**attrs.get("spent", {}))
        params = trial.params or trial.system_attrs.get("fixed_params", {})
        record = TrialRecord(
            number=trial.number,
            state=_STATES[trial.state],
            attempt=attrs.get("attempt", 0),
            params=dict(params),
            settings=self.space.settings(params),
            examples=attrs.get(EXAMPLES, 0),
            reports=dict(trial.intermediate_values),
            trained=spent.examples,
            seconds=spent.seconds,
            origin=attrs.get(_ORIGIN, ""),
            retrains=attrs.get(_RETRAINS),
            repeat=attrs.get(_REPEAT, 0),
        )
        return with_outcome(record, attrs.get("outcome"), self._folder)

    def _frozen(self, number: int) -> FrozenTrial:
        trial_id = self._storage.get_trial_id_from_study_id_trial_number(self._study._study_id, number)
        return self._storage.get_trial(trial_id)

    def _set_attr(self, number: int, key: str, value: Any) -> None:
        self._storage.set_trial_user_attr(self._frozen(number)._trial_id, key, value)

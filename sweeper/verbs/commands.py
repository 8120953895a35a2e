"""What a person types to steer a sweep, read and checked before the coordinator hears of it."""

import json
from collections.abc import Sequence

from sweeper.entry import Scalar
from sweeper.errors import ConfigError, Fault, StudyError
from sweeper.inbox import Command, Enqueue, Prune, Stop
from sweeper.loading import dotted, to_tree
from sweeper.study.study import Study

_FORMS = {
    "show": "show N",
    "stop": "stop N [WHY]",
    "prune": "prune N [WHY]",
    "clone": "clone N [SETTING=VALUE ...]",
    "enqueue": "enqueue [SETTING=VALUE ...]",
}


def read_command(words: Sequence[str], study: Study) -> Command:
    """The command that `words` stand for: `stop 7`, `clone 7 learning_rate=3e-4`, `enqueue lora.rank=8`.

    Raises StudyError for a trial that isn't there or is over, ConfigError for settings that the space of the
    sweep doesn't allow.
    """
    match words:
        case ["stop" | "prune" as verb, number, *why]:
            trial = trial_number(number)
            state = study.state(trial)
            if state.is_over:
                done = "stopped" if verb == "stop" else "pruned"
                raise StudyError(f"trial {trial} is over ({state.value}); only others can be {done}")
            return (Stop if verb == "stop" else Prune)(trial, " ".join(why))
        case ["clone", number, *changes]:
            trial = trial_number(number)
            study.state(trial)
            start = dotted(to_tree(study.record(trial).settings))
            params = study.space.point(_settings(changes), start)
            return Enqueue(
                params, " with ".join([f"a clone of trial {trial}", *filter(None, [", ".join(changes)])])
            )
        case ["enqueue", *changes]:
            return Enqueue(study.space.point(_settings(changes)), "enqueued by hand")
        case ["show" | "stop" | "prune" | "clone" as verb]:
            raise StudyError(f"`{verb}` needs a trial number: {_FORMS[verb]}")
    there = ", ".join(_FORMS.values())
    raise StudyError(f"`{' '.join(words)}` can't be done to a trial; there is: {there}")


def trial_number(text: str) -> int:
    """The number of a trial; raises StudyError for anything else."""
    if not (text.isascii() and text.isdecimal()):
        raise StudyError(f"`{text}` is not a trial number; `python -m sweeper trials NAME` lists them")
    return int(text)


def _settings(changes: Sequence[str]) -> dict[str, Scalar]:
    faults = [
        Fault(word, "must be SETTING=VALUE, e.g. learning_rate=3e-4") for word in changes if "=" not in word
    ]
    pairs = [word.partition("=") for word in changes if "=" in word]
    names = [name for name, _, _ in pairs]
    faults += [
        Fault(name, "is given more than once") for name in dict.fromkeys(names) if names.count(name) > 1
    ]
    if faults:
        raise ConfigError(faults, "command")
    return {name: _value(text) for name, _, text in pairs}


def _value(text: str) -> Scalar:
    """A number or true or false, or else the word itself."""
    for read in (json.loads, float):
        try:
            value = read(text)
        except ValueError:
            continue
        if isinstance(value, (bool, int, float)):
            return value
    return text

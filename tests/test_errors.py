"""The kinds of errors: their tree, their exit codes, and how faults read."""

import inspect
import re

import pytest

from sweeper import errors
from sweeper.errors import ConfigError, Fault, SweeperError


def kinds() -> list[type[SweeperError]]:
    return [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, SweeperError)]


def test_the_tree_in_the_docstring_is_the_tree_in_the_code() -> None:
    drawn: dict[str, str | None] = {}
    path: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        found = re.match(r"    ((?:│   |    )*)(├── |└── )?([A-Z][A-Za-z]+)", line)
        if found:
            depth = len(found[1]) // 4 + bool(found[2])
            path[depth:] = [found[3]]
            drawn[found[3]] = path[depth - 1] if depth else None
    parents = {kind.__name__: kind.__bases__[0].__name__ for kind in kinds()}
    assert drawn == parents | {"SweeperError": None}


@pytest.mark.parametrize("kind", kinds())
def test_exit_codes(kind: type[SweeperError]) -> None:
    expected = 3 if kind is errors.AuditRefusal else 2 if issubclass(kind, errors.InputError) else 1
    assert kind.exit_code == expected


def test_faults_are_counted_and_listed() -> None:
    one, two = Fault("trial.epochs", "must be above 0 (given: 0)"), Fault("space", "is empty")
    assert (
        str(ConfigError([one])) == "1 fault in the configuration\n  trial.epochs: must be above 0 (given: 0)"
    )
    assert str(ConfigError([one, two])).splitlines()[0] == "2 faults in the configuration"
    assert ConfigError([one, two]).faults == (one, two)

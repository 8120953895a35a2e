"""Composing a configuration with Hydra: shipped files, the user's own, and the command line."""

import difflib
import functools
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sweeper import space as spaces
from sweeper.config import Config
from sweeper.errors import ConfigError, Fault
from sweeper.loading import dotted, load
from sweeper.space import Space


def compose(overrides: Sequence[str]) -> dict[str, Any]:
    """The configuration as a tree of plain values, interpolations resolved.

    A folder `conf/` in the working directory comes first, the shipped files after it. Raises
    ConfigError for what Hydra refuses, in its words shortened to the point.
    """
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        composed = _compose([_whole(override) for override in overrides])
        missing = sorted(OmegaConf.missing_keys(composed))
        if missing:
            raise ConfigError([Fault(name, f"is needed; give {name}=...") for name in missing])
        tree = OmegaConf.to_container(composed, resolve=True)
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError([_explain(error, overrides)]) from error
    return dict(tree)  # type: ignore[arg-type]


def read_config(tree: dict[str, Any]) -> tuple[Config, Space]:
    """Check a composed tree; raises ConfigError with every fault there is."""
    config = load(tree, spaces.check)
    space = Space.parse(config.space, config.trial)
    faults = []
    if not space.names and config.budget.trials > 1:
        faults.append(
            Fault(
                "space",
                "is empty, so all trials would be alike; say what may vary, e.g. space=lora or "
                "'+space.learning_rate={low: 1e-4, high: 1e-3, log: true}', or set budget.trials=1",
            )
        )
    if config.sampler.name == "grid":
        space.grid()
    if faults:
        raise ConfigError(faults)
    return config, space


def _compose(overrides: Sequence[str]) -> Any:
    from hydra import compose, initialize_config_module

    _look_into_working_directory_first()
    with initialize_config_module("sweeper.conf", version_base="1.3"):
        return compose("config", overrides=list(overrides))


@functools.cache
def _look_into_working_directory_first() -> None:
    """Register what `hydra.searchpath` can't say: it comes after the shipped files."""
    from hydra.core.config_search_path import ConfigSearchPath
    from hydra.core.plugins import Plugins
    from hydra.plugins.search_path_plugin import SearchPathPlugin

    class OwnFilesFirst(SearchPathPlugin):
        def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
            own = Path("conf").resolve()
            if own.is_dir():
                search_path.prepend("working directory", own.as_uri())

    Plugins.instance().register(OwnFilesFirst)


def _whole(override: str) -> str:
    """An experiment stands for the whole configuration, wherever its file says so or not."""
    return re.sub(r"^\+?experiment=", "+experiment@_global_=", override)


def _explain(error: Exception, overrides: Sequence[str]) -> Fault:
    """A fault that says what Hydra found and what to do."""
    text = str(error).strip()
    key = re.search(r"Could not override '([^']+)'", text)
    if key is None:
        broken = _unreadable(overrides)
        if broken is not None:
            return broken
        words = " ".join(line.strip() for line in text.splitlines() if line.strip())
        return Fault("configuration", words.replace("@_global_", ""))
    name = key.group(1)
    groups = [o for o in overrides if not re.match(r"^[+~]*[a-z_]+\.", o) and name not in o]
    known = list(dotted(_plain(groups)))
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.7)
    hint = f"did you mean `{near[0]}`?" if near else "no such name"
    if name.startswith("space."):
        hint += f" A new entry of the space is added with a plus: '+{name}=...'"
    return Fault(name, f"unknown name; {hint}")


def _unreadable(overrides: Sequence[str]) -> Fault | None:
    """The first override that breaks Hydra's grammar."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    parser = OverridesParser.create()
    for override in overrides:
        try:
            parser.parse_override(override)
        except HydraException as error:
            why = str(error).splitlines()[0]
            return Fault(
                override, f"is no override: {why}; lists and braces must close, and be quoted in a shell"
            )
    return None


def _plain(overrides: Sequence[str]) -> dict[str, Any]:
    from omegaconf import OmegaConf

    try:
        return dict(OmegaConf.to_container(_compose([_whole(o) for o in overrides])))  # type: ignore[arg-type]
    except Exception:
        return {}

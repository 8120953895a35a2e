"""Composing a configuration with Hydra: shipped files, the user's own, and the command line."""

import difflib
import functools
import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sweeper import space as spaces
from sweeper.config import Config, TrialSettings
from sweeper.credentials import masked, without_secrets
from sweeper.errors import ConfigError, Fault
from sweeper.inert import OWN_FILES, refuse_files, refuse_line, refuse_tree
from sweeper.loading import dotted, load
from sweeper.space import Space

if TYPE_CHECKING:
    from yaml import MarkedYAMLError


def compose(overrides: Sequence[str]) -> dict[str, Any]:
    """The configuration as a tree of plain values, interpolations resolved.

    A folder `conf/` in the working directory comes first, the shipped files after it. Raises
    ConfigError for what Hydra refuses, in its words shortened to the point.
    """
    import yaml
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        composed = _compose([_with_line_ends(_whole(override)) for override in overrides])
        missing = sorted(OmegaConf.missing_keys(composed))
        if missing:
            raise ConfigError([Fault(name, f"is needed; give {name}=...") for name in missing])
        tree = OmegaConf.to_container(composed, resolve=True)
    except yaml.MarkedYAMLError as error:
        raise ConfigError([_no_yaml(error)]) from error
    except (HydraException, OmegaConfBaseException, yaml.YAMLError, ValueError, OSError) as error:
        raise ConfigError([_explain(error, overrides)]) from error
    return dict(tree)  # type: ignore[arg-type]


def read_config(tree: dict[str, Any], sweeping: bool = True) -> tuple[Config, Space]:
    """Check a composed tree; raises ConfigError with every fault there is.

    `sweeping`: trials are to be made of it, so the space must fit the sampler and the budget.
    """

    def check_space(raw: Mapping[str, Any], trial: TrialSettings) -> Sequence[Fault]:
        faults = spaces.check(raw, trial)
        return _misfits(Space.parse(raw, trial), tree) if sweeping and not faults else faults

    try:
        config = load(tree, check_space)
    except ConfigError as error:
        raise ConfigError([_discreet(fault) for fault in error.faults]) from None
    return config, Space.parse(config.space, config.trial)


def masked_override(text: str) -> str:
    """An override without its secrets, fit to be shown: passwords and tokens are replaced."""
    name, _, value = text.partition("=")
    if name.lstrip("+~-'\"") in _SECRETIVE and "://" not in value:
        shown = masked(value)
        return text if shown == value else f"{name}=***"
    return masked(text) if "://" in text else text


_SECRETIVE = ("sweep.study", "tracking.uri")
"""Settings that may hold a password."""


def _discreet(fault: Fault) -> Fault:
    message = without_secrets(fault.message)
    if fault.field.startswith(_SECRETIVE):
        message = re.sub(r"(?s)\(given: .*\)", "(given: ***)", message)
    return Fault(fault.field, message)


def _misfits(space: Space, tree: Mapping[str, Any]) -> Sequence[Fault]:
    """What is wrong with a space that is right by itself: for this sampler, for so many trials.

    `tree` is not checked yet, so anything may stand where the sampler and the budget should.
    """
    sampler, budget = (tree.get(name) for name in ("sampler", "budget"))
    trials = budget.get("trials") if isinstance(budget, Mapping) else None
    if space.is_empty and isinstance(trials, int) and trials > 1:
        return [
            Fault(
                "space",
                "is empty, so all trials would be alike; say what may vary, e.g. space=lora_small or "
                "'+space.learning_rate={low: 1e-4, high: 1e-3, log: true}', or set budget.trials=1",
            )
        ]
    if isinstance(sampler, Mapping) and sampler.get("name") == "grid":
        try:
            space.grid()
        except ConfigError as error:
            return error.faults
    return []


def _compose(overrides: Sequence[str]) -> Any:
    from hydra import compose, initialize_config_module
    from omegaconf import OmegaConf

    refuse_line(overrides)
    _look_into_working_directory_first()
    with initialize_config_module("sweeper.conf", version_base="1.3"):
        refuse_files(overrides)
        composed = compose("config", overrides=list(overrides))
    refuse_tree(OmegaConf.to_container(composed, resolve=False))
    return composed


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
                search_path.prepend(OWN_FILES, own.as_uri())

    Plugins.instance().register(OwnFilesFirst)


def _whole(override: str) -> str:
    """An experiment stands for the whole configuration, wherever its file says so or not."""
    return re.sub(r"^\+?experiment=", "+experiment@_global_=", override)


def _with_line_ends(override: str) -> str:
    r"""A prompt on the command line with what its \n and \t mean; \\n stands for the two characters.

    Hydra reads no such escapes, and a shell leaves them as they are.
    """
    name, _, value = override.partition("=")
    if name.lstrip("+") != "task.prompt":
        return override
    read = with_line_ends(value)
    if any(read.count(end) > value.count(end) for end in _ESCAPES.values()):
        _log.warning(r"task.prompt: \n is read as a line end, \t as a tab; \\n and \\t are the characters")
    return f"{name}={read}"


def with_line_ends(text: str) -> str:
    r"""`text` with line ends and tabs in the place of \n and \t; \\n and \\t stand for the characters."""
    return re.sub(r"\\(\\?)([nt])", lambda found: f"\\{found[2]}" if found[1] else _ESCAPES[found[2]], text)


_ESCAPES = {"n": "\n", "t": "\t"}
_log = logging.getLogger("sweeper")


def _explain(error: Exception, overrides: Sequence[str]) -> Fault:
    """A fault that says what Hydra found and what to do."""
    text = str(error).strip()
    key = re.search(r"Could not override '([^']+)'", text)
    if key is None:
        broken = _unreadable(overrides) or (_undecodable() if isinstance(error, UnicodeError) else None)
        if broken is not None:
            return broken
        for override in overrides:
            text = text.replace(override, masked_override(override))
        text = text.partition("Config search path:")[0]
        words = without_secrets(" ".join(line.strip() for line in text.splitlines() if line.strip()))
        words = words.replace("@_global_", "")
        option = re.search(r"Could not find '(\w+)/([^']+)'", words)
        if option is not None and (members := _members(option[1])):
            near = difflib.get_close_matches(option[2], members, n=1)
            hint = f"; did you mean `{near[0]}`?" if near else ""
            return Fault(
                option[1], f"there is no option `{option[2]}`; there are: {', '.join(members)}{hint}"
            )
        return Fault("configuration", words)
    name = key.group(1)
    groups = [o for o in overrides if not re.match(r"^[+~]*[a-z_]+\.", o) and name not in o]
    group = name.partition(".")[0]
    having = [f"{group}={one}" for one in _members(group) if name in dotted(_plain([f"{group}={one}"]))]
    if having and group != "space":
        return Fault(name, f"is no setting of the {group} that is chosen; these have it: {', '.join(having)}")
    known = list(dotted(_plain(groups)))
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.7)
    if name.startswith("space."):
        if replacing := _replacing(name, known, overrides):
            return Fault(name, replacing)
        hint = f"did you mean `{near[0]}`? A" if near else "a"
        hint += f" new entry of the space is added with a plus: '+{name}=...'"
    elif near:
        hint = f"did you mean `{near[0]}`?"
    else:
        hint = "settings of a trial are trial.NAME, and --cfg prints every name"
    return Fault(name, f"unknown name; {hint}")


def _replacing(name: str, known: Sequence[str], overrides: Sequence[str]) -> str:
    """How to put what is given for `name` in the place of what the space has there; "" if it has nothing."""
    entry = name.removesuffix(".choices")
    inner = [one.removeprefix(f"{entry}.") for one in known if one.startswith(f"{entry}.")]
    if not inner:
        return ""
    keys = ", ".join(dict.fromkeys(one.partition(".")[0] for one in inner))
    given = next((o.partition("=")[2] for o in overrides if o.startswith(f"{name}=")), "...")
    wanted = given if entry == name else f"{{choices: {given}}}"
    return f"has other keys in the space ({keys}); to replace them: '~{entry}' '+{entry}={wanted}'"


def _unreadable(overrides: Sequence[str]) -> Fault | None:
    """The first override that breaks Hydra's grammar, or sets a whole group to a value."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    parser = OverridesParser.create()
    for override in overrides:
        shown = masked_override(override)
        try:
            parsed = parser.parse_override(override)
        except HydraException as error:
            # Hydra quotes what it could not read.
            why = str(error).splitlines()[0] if shown == override else "it can't be read"
            return Fault(
                shown, f"is no override: {why}; lists and braces must close, and be quoted in a shell"
            )
        members = _members(parsed.key_or_group)
        if members and not parsed.is_delete() and not isinstance(parsed.value(), (str, list)):
            known = ", ".join(members)
            return Fault(shown, f"`{parsed.key_or_group}` is a group; name one of its members: {known}")
    return None


def _members(group: str) -> list[str]:
    """The files of a group, shipped and the user's own, without their suffix."""
    from importlib import resources

    folders = [resources.files("sweeper.conf") / group, Path("conf") / group]
    names = [entry.name for folder in folders if folder.is_dir() for entry in folder.iterdir()]
    return sorted({name.removesuffix(".yaml") for name in names if name.endswith(".yaml")})


def _no_yaml(error: "MarkedYAMLError") -> Fault:
    mark = error.problem_mark
    if mark is None:
        return Fault("configuration", f"a file is no YAML: {error.problem}")
    place = f"line {mark.line + 1}, column {mark.column + 1}"
    return Fault(mark.name, f"is no YAML at {place}: {error.problem}; correct the file")


def _undecodable() -> Fault | None:
    """The first of the user's own files that is no text."""
    for path in sorted(Path("conf").rglob("*.yaml")):
        try:
            path.read_text("utf-8")
        except UnicodeError:
            return Fault(str(path), "is no text in UTF-8; save it as such")
    return None


def _plain(overrides: Sequence[str]) -> dict[str, Any]:
    from omegaconf import OmegaConf

    try:
        return dict(OmegaConf.to_container(_compose([_whole(o) for o in overrides])))  # type: ignore[arg-type]
    except Exception:  # only a hint is lost; what is wrong has been said
        return {}

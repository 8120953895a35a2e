"""Configurations are data: what names code to run, or reads what is no setting, is refused.

Hydra can do more than it is asked to do here: instantiate classes, import packages to look for files in
them, and put environment variables into values, which would then be stored and shown.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sweeper.errors import ConfigError, Fault

OWN_FILES = "working directory"
"""What the search path calls the user's own folder `conf/`."""

_INSTANTIATES = frozenset({"_target_", "_args_", "_partial_", "_recursive_", "_convert_"})
"""Keys by which `hydra.utils.instantiate` finds code and says how to call it."""

_OF_HYDRA = re.compile(r"^[+~]*(?:[^=]*[@:])?hydra\b")
"""An override of Hydra's own settings, or one that puts something among them."""

_IN_DEFAULTS = re.compile(r"^(?:override\s+|optional\s+)*/?(?:[^@]*[@:])?hydra\b")
"""The same as a group in a defaults list."""

_REFERENCE = re.compile(r"\$\{[^${}:]*\}")
"""To another setting, such as `${trial.batch_size}`; with a colon it would call a resolver."""

_OF_HYDRA_ITSELF = "sets something of Hydra, which composes the configuration here and does nothing else"
_NO_SETTINGS = (
    f"{_OF_HYDRA_ITSELF}; leave it out. Files of your own go into a folder conf/ in the working directory"
)
_OURS = {
    r"hydra\.(run|sweep)\.(dir|subdir)$": "what a sweep leaves is kept in sweep.folder, below its sweep.name",
    r"hydra[./]sweeper": (
        "what is tried next is said by sampler=..., how often by budget.trials, and what is best by "
        "task.objective"
    ),
    r"hydra[./]launcher": "where trials run is said by executor=... and executor.workers",
    r"hydra\.searchpath": "files of your own go into a folder conf/ in the working directory",
}
"""What takes the place of Hydra's settings, by how their names begin."""
_NO_CODE = "names code to run, and a configuration is data: every choice is one of a list of names"
_NO_RESOLVER = (
    "can only refer to another setting, like ${trial.batch_size}. A secret comes from the environment "
    "(SWEEPER_STUDY, MLFLOW_TRACKING_TOKEN) or from a file: sweep.study=@FILE, tracking.uri=@FILE"
)


def fault_of_hydra(override: str) -> Fault | None:
    """What is wrong with an override that touches Hydra's own settings; None for any other one."""
    if not _OF_HYDRA.match(override):
        return None
    name = override.partition("=")[0]
    ours = next((ours for names, ours in _OURS.items() if re.match(names, name)), "leave it out")
    return Fault(name, f"{_OF_HYDRA_ITSELF}; {ours}")


def refuse_line(overrides: Sequence[str]) -> None:
    """Raise ConfigError if an override touches Hydra's own settings, before Hydra imports anything for it."""
    _refuse([fault for fault in map(fault_of_hydra, overrides) if fault is not None])


def refuse_files(overrides: Sequence[str]) -> None:
    """Raise ConfigError for those of the user's own files that take part and do what `refuse_line` refuses.

    Hydra has to be initialised, and has composed nothing yet.
    """
    from hydra.core.global_hydra import GlobalHydra
    from hydra.types import RunMode
    from omegaconf import OmegaConf

    # Options in a defaults list are resolved before any file can be looked at.
    OmegaConf.clear_resolver("oc.env")
    loader = GlobalHydra.instance().config_loader()
    own = [source for source in loader.get_sources() if source.provider == OWN_FILES]
    if not own:
        return
    # The root by itself and first: finding the others follows the search path that it may give.
    _refuse(_faults_of_file(own, "config", ""))
    chosen = loader.compute_defaults_list("config", list(overrides), RunMode.RUN).defaults
    found = [_faults_of_file(own, one.config_path or "", one.package or "") for one in chosen]
    _refuse([fault for faults in found for fault in faults])


def refuse_tree(tree: Any) -> None:
    """Raise ConfigError if anything in a composed tree, not resolved yet, is no plain setting."""
    _refuse(list(_faults(tree, "")))


def _refuse(faults: Sequence[Fault]) -> None:
    if faults:
        raise ConfigError(faults)


def _faults_of_file(own: Sequence[Any], path: str, package: str) -> list[Fault]:
    """Of the file at `path` among the user's own; none if it is not there."""
    from omegaconf import OmegaConf

    place = f"conf/{path}.yaml"
    faults = []
    for source in own:
        if path and source.is_config(path):
            tree = OmegaConf.to_container(source.load_config(path).config, resolve=False)
            names = tree if isinstance(tree, dict) else {}
            groups, options = _defaults(names.get("defaults"))
            sets_something = package.partition(".")[0] == "hydra" or "hydra" in names
            if sets_something or path.startswith("hydra/") or any(map(_IN_DEFAULTS.match, groups)):
                faults.append(Fault(place, _NO_SETTINGS))
            faults += [Fault(f"{place}, defaults", _NO_RESOLVER) for option in options if _calls(option)]
    return faults


def _defaults(entries: Any) -> tuple[list[str], list[str]]:
    """The groups (or files) and the options that a defaults list names."""
    named = [
        pair
        for entry in (entries if isinstance(entries, list) else [])
        for pair in (entry.items() if isinstance(entry, Mapping) else [(entry, "")])
    ]
    return [str(group) for group, _ in named], [str(option) for _, option in named]


def _faults(value: Any, name: str) -> Iterator[Fault]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            place = f"{name}.{key}".lstrip(".")
            if key in _INSTANTIATES:
                yield Fault(place, _NO_CODE)
            else:
                yield from _faults(inner, place)
    elif isinstance(value, list):
        for i, inner in enumerate(value):
            yield from _faults(inner, f"{name}.{i}")
    elif isinstance(value, str) and _calls(value):
        yield Fault(name, _NO_RESOLVER)


def _calls(text: str) -> bool:
    """Whether anything is left of the interpolations in `text` once plain references are taken out."""
    before = ""
    while before != text:
        before, text = text, _REFERENCE.sub("", text)
    return "${" in text

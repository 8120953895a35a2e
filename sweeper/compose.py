"""Composing a configuration with Hydra: shipped files, the user's own, and the command line."""

import difflib
import functools
import logging
import re
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sweeper import space as spaces
from sweeper.config import Config, TrialSettings
from sweeper.config.types import expanded
from sweeper.credentials import without_secrets
from sweeper.errors import ConfigError, Fault
from sweeper.habits import from_keys, written
from sweeper.inert import OWN_FILES, refuse_files, refuse_line, refuse_tree
from sweeper.loading import dotted, load
from sweeper.overrides import is_secretive, masked_override, read_line
from sweeper.space import ENTRY_KEYS, Space, setting_names

if TYPE_CHECKING:
    from yaml import MarkedYAMLError


def compose(overrides: Sequence[str]) -> dict[str, Any]:
    """The configuration as a tree of plain values, interpolations resolved.

    A folder `conf/` in the working directory comes first, the shipped files after it. Raises ConfigError with
    every fault there is where an override can't be read or names nothing that is there.
    """
    line = read_line([_at_home(override) for override in overrides], _dotted)
    tree, faults = _tree(line.words)
    if not line.faults and not faults and tree is not None:
        return tree
    if tree is not None:
        faults += _others(tree, faults)
    mended = line.words if line.faults and line.is_mended and not faults else ()
    raise ConfigError([*line.faults, *faults], "configuration" if faults else "command", mended)


def _tree(words: Sequence[str]) -> tuple[dict[str, Any] | None, list[Fault]]:
    """What the words compose to, as if those at fault were what they seem to mean; None where that fails."""
    import yaml
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    faults: list[Fault] = []
    words, guesses = [_with_line_ends(_whole(word)) for word in words], set[str]()
    while True:
        try:
            composed = _compose(words)
            guessed = {guess.partition("=")[0].partition(".")[0] for guess in guesses}
            missing = sorted(OmegaConf.missing_keys(composed))
            if missing and guessed & {name.partition(".")[0] for name in missing}:
                return None, faults
            if missing:
                return None, [*faults, *(Fault(name, f"is needed; give {name}=...") for name in missing)]
            return dict(OmegaConf.to_container(composed, resolve=True)), faults  # type: ignore[arg-type]
        except ConfigError as error:
            return None, [*faults, *error.faults]
        except yaml.MarkedYAMLError as error:
            return None, [*faults, _no_yaml(error)]
        except (HydraException, OmegaConfBaseException, yaml.YAMLError, ValueError, OSError) as error:
            found = _explain(error, words)
            if found.word not in guesses:
                faults.append(found.fault)
            if found.word not in words:
                return None, faults
            place = words.index(found.word)
            words[place : place + 1] = [] if found.word in guesses else found.instead
            guesses.update(found.instead)


def _others(tree: dict[str, Any], known: Sequence[Fault]) -> Sequence[Fault]:
    """The faults of a tree, beside those that are `known` of the same fields."""
    try:
        read_config(tree, sweeping=False)
    except ConfigError as error:
        return [fault for fault in error.faults if fault.field not in {one.field for one in known}]
    return []


def _dotted(words: Sequence[str]) -> Mapping[str, Any]:
    """What some of the words of a line compose to, by dotted name."""
    return dotted(_plain(read_line(words, lambda _: {}).words))


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


def _discreet(fault: Fault) -> Fault:
    message = without_secrets(fault.message)
    if is_secretive(fault.field):
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
    _refuse_foreign_root()
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


_OURS = frozenset({"sweep", "trial", "space", "task", "sampler", "pruner", "budget", "verdict"})
"""Groups and sections that a root of sweeper's has some of, whatever else is in it."""


def _refuse_foreign_root() -> None:
    """Raise ConfigError if the working directory has the conf/config.yaml of another program."""
    from omegaconf import OmegaConf

    root = Path("conf/config.yaml")
    if not root.is_file():
        return
    tree = OmegaConf.to_container(OmegaConf.load(root), resolve=False)
    names = {str(name) for name in tree} if isinstance(tree, dict) else set()
    defaults = tree.get("defaults") if isinstance(tree, dict) else None
    for entry in defaults if isinstance(defaults, list) else []:
        groups = [str(group) for group in entry] if isinstance(entry, dict) else [str(entry)]
        names |= {group.removeprefix("override ").strip("/") for group in groups}
    if not names & _OURS:
        raise ConfigError(
            [
                Fault(
                    str(root),
                    "belongs to another program, and with its folder hides the files of sweeper; run sweeper "
                    "in another folder, and name files from there: mkdir -p tuning && cd tuning, then "
                    "data.path=../rows.jsonl. To have it be sweeper's, begin it with that of sweeper",
                )
            ]
        )


def _at_home(override: str) -> str:
    """A value that begins with ~ as a shell has it at the beginning of a word."""
    path = re.fullmatch(r"([^=\s]+)=(~(?:/[^'\"]*)?)", override)
    return override if path is None else f'{path[1]}="{expanded(path[2])}"'


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


@dataclass(frozen=True)
class _Explained:
    """What Hydra or OmegaConf found."""

    fault: Fault
    word: str = ""
    """The override at fault; empty where it can't be told, or it is a file that is at fault."""
    instead: Sequence[str] = ()
    """What the override seems to mean."""


def _explain(error: Exception, words: Sequence[str]) -> _Explained:
    """What Hydra or OmegaConf found, and what to do, in our words: their advice is for other programs."""
    text = str(error).strip()
    for pattern, explain in _KNOWN.items():
        if found := re.search(pattern, text):
            return explain(found[1], words)
    for word in words:
        if fault := _no_member(word):
            return _Explained(fault, word)
    if isinstance(error, UnicodeError) and (fault := _undecodable()):
        return _Explained(fault)
    for word in words:
        text = text.replace(word, masked_override(word))
    said = without_secrets(" ".join(_ADVICE.sub("", text.partition("Config search path:")[0]).split()))
    return _Explained(Fault("configuration", said.replace("@_global_", "")))


_ADVICE = re.compile(r"(?m)^.*(https?://hydra\.cc|HYDRA_FULL_ERROR|To append to|--multirun|prefix:).*$")
"""Lines of Hydra's that speak of what can't be done here."""


def _unknown_option(found: str, words: Sequence[str]) -> _Explained:
    group, _, option = found.partition("/")
    group = group.replace("@_global_", "")
    members = _members(group)
    near = difflib.get_close_matches(option, members, n=1)
    hint = f"; did you mean `{near[0]}`?" if near else ""
    there = f"there are: {', '.join(members)}" if members else "and no such group"
    there_may_be = (f"{group}={option}", f"{group}@_global_={option}")
    word = next((w for w in words if w.lstrip("+") in there_may_be), "")
    instead = [f"{word.partition('=')[0]}={near[0]}"] if near else []
    return _Explained(Fault(group or option, f"there is no option `{option}`; {there}{hint}"), word, instead)


def _unknown_name(name: str, words: Sequence[str]) -> _Explained:
    word = _word_of(name, words)
    if "@" in word.partition("=")[0] and name in _groups():
        plain = f"{name}={word.partition('=')[2]}"
        return _Explained(Fault(name, f"can't be put elsewhere; write {shlex.quote(plain)}"), word, [plain])
    others = [o for o in words if not re.match(r"^[+~]*[a-z_]+\.", o) and o != word]
    group, value = name.partition(".")[0], word.partition("=")[2]
    having = [f"{group}={one}" for one in _members(group) if name in dotted(_plain([f"{group}={one}"]))]
    if having and group != "space":
        why = f"is no setting of the {group} that is chosen; these have it: {', '.join(having)}"
        return _Explained(Fault(name, why), word)
    known = list(dotted(_plain(others)))
    groups = _groups()
    near = difflib.get_close_matches(name, known if "." in name else [*known, *groups], n=1, cutoff=0.7)
    instead = [f"{one}={value}" for one in near if one.count(".") == name.count(".")]
    hint = ""
    if name.startswith("space."):
        if (whole := _instead_of_entry(name, value, known)) is not None:
            replaced, hint = whole
            return _Explained(Fault(name, hint), word, replaced)
        entry = name.removesuffix(".choices").partition(".")[2]
        if entry in setting_names():
            form = value if name.endswith(entry) else f"{{choices: {value}}}"
            hint, instead = "", [f"+space.{entry}={_ours(form)}"]
        else:
            hint = f"did you mean `{near[0]}`? " if near else ""
        told = shlex.join(instead) if entry in setting_names() else f"'+{name}=...'"
        hint += f"{'A' if hint else 'a'} new entry of the space is added with a plus: {told}"
    elif (named := _ALIASES.get(name.rpartition(".")[2])) and named not in (word, name):
        hint, instead = f"here it is `{named}`", [f"{named}={value}"]
    elif near:
        hint = f"did you mean `{near[0]}`?"
    else:
        hint = "settings of a trial are trial.NAME, and --cfg prints every name"
    return _Explained(Fault(name, f"unknown name; {hint}"), word, instead)


_NAMES_ELSEWHERE = {
    "trial.learning_rate": "lr learning_rate",
    "trial.batch_size": "bs batch_size per_device_train_batch_size train_batch_size",
    "trial.epochs": "epochs num_epochs num_train_epochs n_epochs",
    "trial.scheduler": "scheduler lr_scheduler lr_scheduler_type",
    "trial.warmup": "warmup warmup_ratio",
    "trial.weight_decay": "wd weight_decay",
    "trial.max_grad_norm": "max_grad_norm",
    "trial.label_smoothing": "label_smoothing label_smoothing_factor",
    "trial.neftune_noise": "neftune_noise neftune_noise_alpha",
    "trial.lora.rank": "r rank lora_r lora_rank",
    "trial.lora.alpha": "alpha lora_alpha",
    "trial.lora.dropout": "dropout lora_dropout",
    "trial.lora.target_modules": "target_modules lora_target_modules",
    "sweep.seed": "seed random_seed",
    "budget.trials": "n_trials num_trials num_samples",
    "budget.minutes": "timeout",
    "executor.workers": "n_jobs",
    "model.name": "model_name model_name_or_path base_model",
}
_ALIASES = {alias: name for name, aliases in _NAMES_ELSEWHERE.items() for alias in aliases.split()}
"""Our names of settings by those that other tools have for them."""


def _unknown_deletion(name: str, words: Sequence[str]) -> _Explained:
    word = next((w for w in words if w.startswith("~") and w[1:].partition("=")[0] == name), "")
    group = name.partition(".")[0]
    known = [*_above(dotted(_plain([w for w in words if not w.startswith("~")]))), *_groups()]
    alike = [one for one in known if one.count(".") == name.count(".")]
    near = [one for one in known if one.rpartition(".")[2] == name.rpartition(".")[2]]
    near = near or difflib.get_close_matches(name, alike, n=1, cutoff=0.75)
    if near:
        return _Explained(
            Fault(f"~{name}", f"there is no `{name}`; did you mean `~{near[0]}`?"), word, [f"~{near[0]}"]
        )
    inner = [one for one in known if one.startswith(f"{group}.") and one.count(".") == 1]
    there = f"in `{group}` there are: {', '.join(inner)}" if inner else "--cfg prints every name"
    return _Explained(Fault(f"~{name}", f"there is no `{name}` to take away; {there}"), word)


def _there_already(name: str, words: Sequence[str]) -> _Explained:
    word = next((w for w in words if w.startswith("+") and w.lstrip("+").partition("=")[0] == name), "")
    plain = word.lstrip("+")
    if not word:  # a defaults list says it twice
        told = f"is chosen twice; in a defaults list write `- override /{name}: ...`"
        return _Explained(Fault(name, told))
    value = plain.partition("=")[2]
    if name.startswith("space.") and (
        whole := _instead_of_entry(name, value, list(dotted(_plain(_but(word, words)))))
    ):
        return _Explained(Fault(name, whole[1]), word, whole[0])
    told = f"is there already; leave the plus out: {shlex.quote(masked_override(plain))}"
    return _Explained(Fault(name, told), word, [plain])


_KNOWN: Mapping[str, Callable[[str, Sequence[str]], _Explained]] = {
    r"Could not find '([^']+)'": _unknown_option,
    r"Could not override '([^'@]+)": _unknown_name,
    r"Could not delete (?:from config\. )?'([^']+)'": _unknown_deletion,
    r"Could not append to config\. An item is already at '([^']+)'": _there_already,
    r"Multiple values for ([^.\s]+)\.": _there_already,
    r"force-add of config groups is not supported: '\++([^=]+)": _there_already,
}
"""What Hydra says, by how it says it: the name in it, and what that means."""


def _word_of(name: str, words: Sequence[str]) -> str:
    """The first override of that name; "" where a file names it."""
    return next((w for w in words if re.split("[=@]", w.lstrip("+~"))[0] == name), "")


def _but(word: str, words: Sequence[str]) -> list[str]:
    return [one for one in words if one != word]


def _above(names: Iterable[str]) -> list[str]:
    """The names, and those of the trees in which they stand."""
    parts = (name.split(".") for name in names)
    return list(dict.fromkeys(".".join(one[:n]) for one in parts for n in range(1, len(one) + 1)))


def _groups() -> list[str]:
    from importlib import resources

    folders = [resources.files("sweeper.conf"), Path("conf")]
    found = {
        entry.name for folder in folders if folder.is_dir() for entry in folder.iterdir() if entry.is_dir()
    }
    return sorted(name for name in found if _members(name))


def _instead_of_entry(name: str, value: str, known: Sequence[str]) -> tuple[list[str], str] | None:
    """How to put what is given for `name` in the place of what the space has; None if it has nothing."""
    entry = name.removesuffix(".choices")
    inner = [one.removeprefix(f"{entry}.") for one in known if one.startswith(f"{entry}.")]
    if not inner:
        return None
    keys = ", ".join(dict.fromkeys(one.partition(".")[0] for one in inner))
    wanted = _ours(value) if entry == name else f"{{choices: {value}}}"
    words = [f"~{entry}", f"+{entry}={wanted}"]
    if entry.partition(".")[2] not in setting_names():
        return None
    return words, f"has other keys in the space ({keys}); to replace them: {shlex.join(words)}"


def _ours(text: str) -> str:
    """A distribution of another tool in our form, and any other text as it is."""
    from omegaconf import OmegaConf

    try:
        tree = OmegaConf.to_container(OmegaConf.create(f"x: {text}"))["x"]  # type: ignore[index, call-overload]
    except Exception:  # it is no YAML, and what is wrong with it is told elsewhere
        return text
    if not isinstance(tree, Mapping) or set(tree) <= set(ENTRY_KEYS):
        return text
    form = from_keys(tree)
    return written(form) if form is not None else text


def _no_member(word: str) -> Fault | None:
    """The fault of an override that sets a whole group to a value."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    parsed = OverridesParser.create().parse_override(word)
    members = _members(parsed.key_or_group)
    if not members or parsed.is_delete() or isinstance(parsed.value(), (str, list)):
        return None
    name = parsed.key_or_group
    shown = masked_override(word).replace("@_global_", "")
    return Fault(shown, f"`{name}` is a group; name one of its members: {', '.join(members)}")


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

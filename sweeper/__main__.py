"""The command line: `python -m sweeper [VERB] ...`.

Without a verb everything on the line is an override of the configuration, in Hydra's grammar.
"""

if __name__ == "__main__":
    from sweeper.shadowing import leave_out

    leave_out()  # before anything is imported: `python -m` looks in the working folder first

import argparse
import difflib
import io
import logging
import os
import shlex
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sweeper.errors import InputError

_USAGE = """\
usage: python -m sweeper +experiment=NAME [OVERRIDE ...]   run a sweep, or go on with it
       python -m sweeper audit +experiment=NAME [...]      look at its rows, train nothing
       python -m sweeper rows +experiment=NAME [...] [--split S] [--number N]
                                                           rows as the model sees them, what is learned marked
       python -m sweeper list                              the sweeps there are
       python -m sweeper show NAME                         trials and result of one
       python -m sweeper report NAME                       write the report of one anew, and its model card
       python -m sweeper trials NAME [show N]              its trials, or one of them in full
       python -m sweeper trials NAME --csv                 every score and setting of each, for programs
       python -m sweeper trials NAME stop N [WHY]          finish a trial where it is, and keep it
       python -m sweeper trials NAME prune N [WHY]         give a trial up
       python -m sweeper trials NAME clone N [SETTING=VALUE ...]
       python -m sweeper trials NAME enqueue [SETTING=VALUE ...]
                                                           have settings of yours trained
       python -m sweeper export NAME [--merge] [--to DIR]  its best adapter, or the merged model
       python -m sweeper train NAME                        train its winner on all training rows
       python -m sweeper repair NAME                       mend what a crash left, tell MLflow what it missed
       python -m sweeper delete NAME [--yes]               delete one: trials, runs, files
       python -m sweeper ui [--port N]                     the MLflow UI, to compare trials
       python -m sweeper ui --host ADDRESS --allow-hosts NAME[,NAME ...]
                                                           the same for other machines; it has no login
       python -m sweeper --cfg +experiment=NAME ...        print the composed configuration
       python -m sweeper --version | --help

experiments: {experiments}
overrides:   as Hydra has them, e.g. budget.trials=40 space.lora.rank.choices=[8,16] pruner=none
             ~space.batch_size '+space.warmup={{low: 0.0, high: 0.1}}' data=file data.path=rows.jsonl
             a folder conf/ in the working directory adds your own files to the shipped ones
verbs that take no overrides take --folder DIR for sweeps that are not in sweeps/

exit codes: 0 done, 1 the sweep failed, 2 bad configuration or input, 3 refused by the audit,
            130 interrupted (run again to go on)
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; gives the exit code."""
    line = list(sys.argv[1:] if arguments is None else arguments)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal in ASCII still shows the rest
    if not line or line[0] == "help" or _asks_for_help(line):
        print(_USAGE.format(experiments=_shown(", ".join(_experiments()))), end="")
        return 0
    if line[0] == "--version":
        from sweeper import __version__

        print(f"sweeper {__version__}")
        return 0
    from sweeper.errors import SweeperError

    # What libraries warn of, where no handler was set up.
    if logging.lastResort is not None:
        logging.lastResort.setFormatter(_Harmless())
    try:
        return _dispatch(line)
    except SweeperError as error:
        print(_shown(f"sweeper: {error}"), file=sys.stderr)
        if mended := getattr(error, "mended", ()):
            verb = line[:1] if line[0] in (*_WITH_OVERRIDES, "rows") else []
            print(_shown(f"The whole command:\n  {_command([*verb, *mended])}"), file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("\nsweeper: interrupted; the same command goes on where it stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception:
        print(_shown(traceback.format_exc()), end="", file=sys.stderr)
        return 1


_WITH_OPTIONS = ("rows", "list", "show", "report", "trials", "export", "train", "repair", "delete", "ui")
_WITH_OVERRIDES = ("run", "audit", "--cfg")


def _asks_for_help(line: Sequence[str]) -> bool:
    """Whether the whole usage is asked for; verbs with options tell of these alone."""
    is_known = line[0].startswith("-") or "=" in line[0] or line[0] in _WITH_OVERRIDES
    return is_known and not {"-h", "--help"}.isdisjoint(line)


class _Harmless(logging.Formatter):
    """A message as `_shown` has it."""

    def format(self, record: logging.LogRecord) -> str:
        return _shown(super().format(record))


def _shown(text: str) -> str:
    from sweeper.terminal.plain import shown

    return shown(text)


def _dispatch(line: list[str]) -> int:
    # How long threads spin at OpenMP's barriers before they sleep. Too short, and they pay for waking up
    # (1000: 1.4 s per step instead of 1.05); too long, and a machine with other work stands still (the
    # library's own 300000: 15 s instead of 2.8). Read when torch is imported.
    os.environ.setdefault("GOMP_SPINCOUNT", "5000")
    from sweeper import app

    verb, *rest = line
    if verb == "run":
        return app.run(rest)
    if verb == "audit":
        return app.audit(rest)
    if verb == "--cfg":
        return app.show_config(rest)
    if verb in _WITH_OPTIONS:
        options = _options(verb).parse_intermixed_args(rest)
        if verb == "rows":
            words = options.words
            return app.rows(options.folder, words, options.split, options.number)
        if verb == "list":
            return app.list_sweeps(options.folder)
        if verb == "show":
            return app.show_sweep(options.folder, options.name)
        if verb == "report":
            return app.report(options.folder, options.name)
        if verb == "trials":
            return app.steer(options.folder, options.name, options.words, options.csv)
        if verb == "export":
            return app.export_trial(
                options.folder,
                options.name,
                options.trial,
                options.merge,
                options.to,
                options.mlflow,
                options.push,
            )
        if verb == "train":
            return app.train(options.folder, options.name)
        if verb == "repair":
            return app.repair_sweep(options.folder, options.name)
        if verb == "delete":
            return app.delete_sweep(options.folder, options.name, options.yes)
        return app.ui(options.folder, options.port, options.host, options.allow_hosts)
    if "=" not in verb and not verb.startswith(("-", "~")):
        raise _unknown(verb)
    return app.run(line)


def _command(words: Sequence[str]) -> str:
    """A command line for a shell, without secrets."""
    from sweeper.overrides import masked_override

    return f"python -m sweeper {shlex.join(masked_override(word) for word in words)}"


def _unknown(word: str) -> "InputError":
    """What to say of a first word that is no verb."""
    from sweeper.errors import InputError
    from sweeper.overrides import masked_override

    meant = {verb: verb for verb in (*_WITH_OPTIONS, "run", "audit")}
    meant |= {verb: f"trials NAME {verb}" for verb in ("stop", "prune", "clone", "enqueue")}
    meant |= {name: f"+experiment={name}" for name in _experiments()}
    near = difflib.get_close_matches(word, meant, n=1)
    hint = f"did you mean `{meant[near[0]]}`?" if near else "see python -m sweeper --help."
    return InputError(
        f"unknown command `{masked_override(word)}`; {hint} Overrides have the form name=value."
    )


def _options(verb: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=f"python -m sweeper {verb}")
    parser.add_argument("--folder", type=_path, default=Path("sweeps"), help="where the sweeps are (sweeps/)")
    if verb in ("show", "report", "trials", "export", "train", "repair", "delete"):
        parser.add_argument("name", help="name of the sweep")
    if verb == "trials":
        forms = "show N | stop N [WHY] | prune N [WHY] | clone N [SETTING=VALUE ...]"
        forms += " | enqueue [SETTING=VALUE ...]"
        parser.add_argument("words", nargs="*", metavar="WORD", help=f"{forms}; nothing: list them")
        parser.add_argument("--csv", action="store_true", help="list them as CSV, every score and setting")
    if verb == "rows":
        parser.add_argument(
            "words", nargs="+", metavar="OVERRIDE", help="as for a sweep, or the name of one that has begun"
        )
        parser.add_argument("--split", choices=("train", "validation", "test"), default="train")
        parser.add_argument("--number", type=int, default=3, metavar="N", help="so many rows (3)")
    if verb == "export":
        parser.add_argument("--trial", type=int, metavar="N", help="this one instead of the best")
        parser.add_argument("--merge", action="store_true", help="the whole model, not the adapter alone")
        parser.add_argument(
            "--to", type=_path, metavar="DIR", help="a new folder (NAME/export/ in the sweeps)"
        )
        parser.add_argument("--mlflow", action="store_true", help="register the whole model, as champion")
        parser.add_argument("--push", metavar="ORG/NAME", help="upload it to the hub; HF_TOKEN is needed")
    if verb == "delete":
        parser.add_argument("--yes", action="store_true", help="don't ask")
    if verb == "ui":
        parser.add_argument("--port", type=int, default=5000)
        parser.add_argument("--host", default="127.0.0.1", metavar="ADDRESS", help="to listen at (127.0.0.1)")
        parser.add_argument(
            "--allow-hosts",
            type=lambda text: text.split(","),
            default=[],
            metavar="NAME[,NAME ...]",
            help="names (NAME or NAME:PORT) that it may be asked by; anybody who can reach an address beyond "
            "127.0.0.1 can read, change and delete every run, so such an address needs them",
        )
    return parser


def _path(text: str) -> Path:
    from sweeper.config.types import expanded

    return expanded(text)


def _experiments() -> list[str]:
    from importlib import resources

    shipped = resources.files("sweeper.conf") / "experiment"
    own = Path("conf/experiment")
    found = [entry.name for entry in shipped.iterdir()]
    found += [entry.name for entry in own.iterdir()] if own.is_dir() else []
    return sorted({name.removesuffix(".yaml") for name in found if name.endswith(".yaml")})


if __name__ == "__main__":
    raise SystemExit(main())

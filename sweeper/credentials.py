"""URLs whose secret stands in a file: written `@FILE`, so that no configuration, command or log has it."""

import os
import shlex
import stat
from pathlib import Path

from sweeper.errors import ConfigError, Fault

_OF_OTHERS = stat.S_IRWXG | stat.S_IRWXO


def opened(given: str, setting: str) -> str:
    """The URL that `given` stands for: itself, or for `@FILE` the one word in that file.

    `setting` is where it was given. Raises ConfigError for a file that isn't there, that others than its
    owner have rights to, or that holds something else.
    """
    if not given.startswith("@"):
        return given
    path = Path(given[1:]).expanduser()
    try:
        with path.open(encoding="utf-8") as file:
            rights = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            words = file.read().split()
    except OSError as error:
        raise _fault(setting, f"{path} can't be read: {error.strerror or error}") from error
    except UnicodeDecodeError:
        raise _fault(setting, f"{path} is no text in UTF-8; write the URL into it") from None
    if rights & _OF_OTHERS:
        raise _fault(
            setting,
            f"{path} holds a secret, and others than its owner have rights to it ({rights:04o}); take them "
            f"away: chmod 600 {shlex.quote(str(path))}",
        )
    if len(words) != 1:
        raise _fault(setting, f"{path} must hold one URL and nothing else; it holds {len(words)} words")
    return words[0]


def _fault(setting: str, message: str) -> ConfigError:
    return ConfigError([Fault(setting, message)])

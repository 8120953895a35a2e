"""Secrets of URLs: read from a file where one is named, hidden in whatever is shown or stored.

`@FILE` in the place of a URL stands for the URL in that file: no configuration, command or log has it then.
"""

import os
import re
import shlex
import stat

from sweeper.config.types import expanded
from sweeper.errors import ConfigError, Fault

_OF_OTHERS = stat.S_IRWXG | stat.S_IRWXO


def opened(given: str, setting: str) -> str:
    """The URL that `given` stands for: itself, or for `@FILE` the one word in that file.

    `setting` is where it was given. Raises ConfigError where no file is named, or one that isn't there, that
    others than its owner have rights to, or that holds something else.
    """
    if not given.startswith("@"):
        return given
    if given == "@":
        raise _fault(setting, "@ names no file; write @FILE")
    path = expanded(given[1:])
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
    if not words:
        raise _fault(setting, f"{path} is empty; write the URL into it")
    if len(words) != 1:
        raise _fault(setting, f"{path} must hold one URL and nothing else; it holds {len(words)} words")
    return words[0]


def _fault(setting: str, message: str) -> ConfigError:
    return ConfigError([Fault(setting, message)])


_HIDDEN = r"[^=&;?\s]*(?:pass|pwd|secret|token|key|credential|auth|signature|odbc_connect)[^=&;?\s]*|sig"
"""Names of query values that are nobody's business; one too many is hidden rather than one too few."""


def masked(url: str) -> str:
    """`url` of a database or a tracking server without its secrets, fit for logs and databases.

    Hidden are the user's password and query values whose names promise a secret (password, token, key).
    A plain path stays as it is, and so does `@FILE`.
    """
    if url.startswith("@") or re.fullmatch(r"(file:)?[\w./\\~-]*", url):
        return url
    if "://" not in url:
        return "<unreadable database URL>"
    # Up to the last @: a password may hold one, and is not always quoted as it should be.
    url = re.sub(r"(?s)(://[^/?#:@]*):.*@", r"\1:***@", url)
    url = re.sub(r"(https?://)[^/?#:@]+@", r"\1***@", url)  # a bare token in the user's place
    return re.sub(rf"(?i)([?&;](?:{_HIDDEN})=)[^&]*", r"\1***", url)


def without_secrets(text: str) -> str:
    """`text` with every URL in it masked."""
    return re.sub(r"\S*://\S+", lambda found: masked(found.group()), text)

"""How secrets look: private keys, tokens of well-known services, and random values called a key.

Every repetition is bounded or possessive, so that searching takes time in proportion to the text.
"""

import math
import re
from collections import Counter
from collections.abc import Iterator

_PRIVATE_KEY = re.compile(
    r"-----BEGIN (?:[A-Z0-9]{1,12} ){0,4}PRIVATE KEY(?: BLOCK)?-----"
    r"(?:\s{0,4}+(?:Proc-Type|DEK-Info|Version|Comment):[^\n]{0,200}+\n){0,5}+"
    r"[\sA-Za-z0-9+/=\\]{40,20000}+(?:-----END [A-Z0-9 ]{1,60}-----)?"
)
_JWT = re.compile(r"(?<![\w-])eyJ[\w-]{8,}+\.eyJ[\w-]{8,}+(?:\.[\w-]++)?", re.ASCII)
_TOKENS = re.compile(
    r"""(?<![A-Za-z0-9])(?:
      (?P<aws>(?:AKIA|ASIA)[A-Z0-9]{16})
    | (?P<github>gh[pousr]_[A-Za-z0-9]{36,251}+|github_pat_\w{22,251}+)
    | (?P<huggingface>hf_[A-Za-z0-9]{30,60}+)
    | (?P<openai>sk-[\w-]{20,250}+)
    | (?P<slack>xox[abceoprs]-[A-Za-z0-9-]{10,250}+
               |hooks\.slack\.com/services/[A-Z0-9]{8,16}/[A-Z0-9]{8,16}/\w{16,40}+)
    | (?P<service>AIza[\w-]{35}|npm_[A-Za-z0-9]{36}
                 |[rs]k_(?:live|test)_[A-Za-z0-9]{16,250}+|glpat-[\w-]{20,64}+)
    )(?![A-Za-z0-9])""",
    re.VERBOSE | re.ASCII,
)
_PREFIXES = (
    "AKIA",
    "ASIA",
    "gh",
    "github_pat_",
    "hf_",
    "sk",
    "rk_",
    "xox",
    "slack.com",
    "AIza",
    "glpat-",
    "npm_",
)
_TOKEN_KINDS = {
    "aws": "aws key", "github": "github token", "huggingface": "hugging face token", "openai": "openai key",
    "slack": "slack token", "service": "api key",
}  # fmt: skip

_NAMES = ("key", "secret", "token", "passw", "pwd", "auth")
_NAMED = re.compile(
    r"(?i)(?:api|access|private|account|auth)[_-]?key|secret|token|passw(?:or)?d|pwd|auth(?:orization)?"
)
_ASSIGNED = re.compile(
    r"[\w-]{0,20}+[\"']?\s{0,3}+(?:=>|:=|[:=])\s{0,3}+(?:Bearer |Basic )?[\"']?"
    r"([\w+/=.~-]{16,250}+)(?![\w+/=(\[~-])"
)
_IN_URL = re.compile(r"[a-z][a-z0-9+]{1,12}://([^\s/:@\"'<>{}]{1,64}:([^\s/@\"'<>{}]{4,128}))@")
_PLACEHOLDER = re.compile(r"(?i)pass(?:word|wd)?|pwd|secret|token|x+|\*+|\.+|\$.*|hunter2|mypass\w*")
_ORDINARY = re.compile(r"[A-Za-z]*\d{0,4}(?:[._/=-]+[A-Za-z]*\d{0,4})*", re.ASCII)
"""Words, identifiers, paths, dates and assignments of numbers."""
_LEAST_ENTROPY = 3.3
"""Bits per character. 32 random hexadecimal digits have 3.7 on average, random letters and digits more."""

Found = tuple[int, int, str]
"""Start, end and kind."""


def secrets(text: str) -> Iterator[Found]:
    """Secrets in the order of certainty; a later one may overlap an earlier one."""
    if "PRIVATE KEY" in text:
        for match in _PRIVATE_KEY.finditer(text):
            yield *match.span(), "private key"
    if "eyJ" in text:
        for match in _JWT.finditer(text):
            yield *match.span(), "jwt"
    if any(prefix in text for prefix in _PREFIXES):
        for match in _TOKENS.finditer(text):
            if match.lastgroup != "openai" or _looks_random(match[0]):
                yield *match.span(), _TOKEN_KINDS[str(match.lastgroup)]
    if "://" in text and "@" in text:
        for match in _IN_URL.finditer(text):
            if not _PLACEHOLDER.fullmatch(match[2]):
                yield *match.span(1), "secret"
    lower = text.lower()
    if any(name in lower for name in _NAMES):
        for name in _NAMED.finditer(text):
            value = _ASSIGNED.match(text, name.end())
            if value is not None and _looks_random(value[1]):
                yield *value.span(1), "secret"


def _looks_random(value: str) -> bool:
    if not any(map(str.isdigit, value)) or not any(map(str.isalpha, value)) or _ORDINARY.fullmatch(value):
        return False
    counts = Counter(value).values()
    return -sum(n / len(value) * math.log2(n / len(value)) for n in counts) >= _LEAST_ENTROPY

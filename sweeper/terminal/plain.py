"""Text from elsewhere, fit for any terminal."""

from sweeper.credentials import without_secrets
from sweeper.data.findings import printable


def shown(text: str) -> str:
    """`text` with URLs without their secrets, and what steers a terminal as its code."""
    return printable(without_secrets(text))

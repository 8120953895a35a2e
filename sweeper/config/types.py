"""Types of fields that several groups share."""

import os
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    ValidatorFunctionWrapHandler,
    WrapValidator,
)

STRICT = ConfigDict(extra="forbid", strict=True)

Finite = Annotated[float, Field(allow_inf_nan=False)]
Positive = Annotated[int, Field(ge=1)]
NonNegative = Annotated[int, Field(ge=0)]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegativeFloat = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, lt=1)]


def expanded(path: str | Path) -> Path:
    """With `~` and `~name` as a shell reads them: where there is no such home folder they stay."""
    return Path(os.path.expanduser(path))


UserPath = Annotated[Path, AfterValidator(expanded)]
"""As a shell reads it: `~` is the home folder; relative to the working folder."""

AUTO = 0
"""A length that is still to follow from the rows; in a configuration it is written `auto`."""


def _length(given: Any, as_number: ValidatorFunctionWrapHandler) -> int:
    if given == "auto":
        return AUTO
    if isinstance(given, int):
        return int(as_number(given))
    raise ValueError("must be a number of tokens, 1 or more, or auto")


Length = Annotated[int, Field(ge=1), WrapValidator(_length), PlainSerializer(lambda length: length or "auto")]
"""Tokens, 1 or more. AUTO until the rows are prepared, and never after that."""

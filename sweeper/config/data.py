"""conf/data: where the rows come from, how they are cleaned, looked at and split."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from sweeper.config.types import STRICT, Positive, UserPath


@dataclass(frozen=True)
class PartsConfig:
    """Given splits: file names below `data.path`, or split names of a hub data set."""

    __pydantic_config__ = STRICT

    train: str | None
    validation: str | None
    """null: split off from train."""
    test: str | None
    """null: split off from train."""
    column: str | None = None
    """Column of the rows that says which part each belongs to: train, validation (dev, valid, val), test."""


@dataclass(frozen=True)
class SizesConfig:
    """Rows per split."""

    __pydantic_config__ = STRICT

    train: Positive | None
    """null: every row that the other two leave."""
    validation: Annotated[int, Field(ge=2)]
    test: Annotated[int, Field(ge=0)]


@dataclass(frozen=True)
class AuditConfig:
    """How the rows are looked at before anything is trained; nothing here changes a row."""

    __pydantic_config__ = STRICT

    fail_on: Literal["error", "warning", "never"]
    """From which severity of a finding on a sweep is refused (exit code 3)."""
    groups: str | None
    """Column whose values are compared with each other for bias; null: the column of `slice`."""
    near_duplicates: Annotated[float, Field(gt=0.5, le=1)]
    """Two rows are near-duplicates from this similarity on: the share of words in common. It holds for
    `data.cleaning` and `data.keep_together` too."""
    terms: Mapping[str, tuple[str, ...]]
    """Word lists by the name of the group that they speak of, e.g. {women: [she, her], men: [he, his]}."""
    presidio: bool
    """Look for personal data with Presidio's recognizers too (the extra `presidio`)."""
    spacy: UserPath | None
    """Folder of a spaCy model by which Presidio finds names; null: it knows patterns alone."""
    toxicity: UserPath | None
    """Folder of a classifier of insults and hatred, such as unitary/toxic-bert; null: no look for them."""


CleaningStep = Literal[
    "encoding",
    "whitespace",
    "formats",
    "missing",
    "length",
    "exact_duplicates",
    "near_duplicates",
    "personal",
]
"""What each does: `sweeper.data.cleaning`."""


@dataclass(frozen=True)
class LengthConfig:
    """Bounds of the cleaning step `length`, in characters; null: none. A chat is all input."""

    __pydantic_config__ = STRICT

    min_input: Positive | None
    max_input: Positive | None
    min_target: Positive | None
    max_target: Positive | None


AugmentMethod = Literal["insertion", "deletion", "swap", "synonyms", "back_translation"]
"""What each does: `sweeper.data.augment`."""


@dataclass(frozen=True)
class BackTranslationConfig:
    """Local folders with MarianMT models, in Hugging Face's format with safetensors."""

    __pydantic_config__ = STRICT

    there: UserPath | None
    """From the language of the rows into another one."""
    back: UserPath | None
    """From that language back."""


@dataclass(frozen=True)
class AugmentConfig:
    """The pool of augmented training rows; how much of it a trial takes says `trial.augment_rate`."""

    __pydantic_config__ = STRICT

    methods: tuple[AugmentMethod, ...]
    """Ways to change an input text; none: no pool."""
    copies: Positive
    """Augmented copies of each training row."""
    share_of_words: Annotated[float, Field(gt=0, le=0.5)]
    """So many words of a text are inserted, deleted, swapped or exchanged, one at least."""
    synonyms: UserPath | None
    """A .tsv file (a word and its synonyms a line, between tabs) or a .json object {word: [synonyms]}, for
    the methods `synonyms` and `insertion`."""
    back_translation: BackTranslationConfig


@dataclass(frozen=True)
class DataConfig:
    """Where the rows come from, how they are cleaned and how they are split."""

    __pydantic_config__ = STRICT

    source: Literal["docstrings", "file", "hub"]
    path: UserPath | tuple[UserPath, ...] | None
    """source=file: a file, a pattern such as `shards/*.jsonl`, a folder of files of one kind, a list of
    these, or the folder that holds `parts`. Kinds: `sweeper.data.files.KINDS`.
    source=hub: where the local folder `name` lies now, if it was found elsewhere."""
    name: str | None
    """source=hub: a data set id, or a local folder in the hub's format."""
    subset: str | None
    """source=hub: the data set's configuration name."""
    revision: str | None
    packages: tuple[str, ...]
    """source=docstrings: installed packages to harvest; `stdlib` is the standard library."""
    input: str | None
    """Column with the input text; null: told by the form of the rows (`sweeper.data.forms`)."""
    target: str | None
    """Column with the answer, or the label for task.kind=classify; null: as above."""
    messages: str | None
    """Column with a list of {role, content} for task.kind=chat; null: as above. Several whose messages
    follow each other are joined by a plus: prompt+completion."""
    group: str | None
    """Rows with the same value here never straddle a split."""
    stratify: str | None
    """Keep the shares of this column's values equal over the splits."""
    time: str | None
    """Column with dates, times or numbers: the newest rows go to test, the next to validation. Not
    together with `group` or `stratify`."""
    slice: str | None
    """Column whose value is kept with each row, for looking at results by its values."""
    parts: PartsConfig
    sizes: SizesConfig
    cleaning: tuple[CleaningStep, ...]
    """Steps that clean training and validation rows, in this order; test rows stay as they are."""
    length: LengthConfig
    keep_together: bool
    """No row of one split has a near-duplicate in another; false: only no copy."""
    augment: AugmentConfig
    review: UserPath | None
    """The queue.csv of an audit with a person's decisions in it; null: no row was decided on."""
    audit: AuditConfig
    tools: str | None = "tools"
    """Column with the tools that the assistant of a chat may call, if rows have it; null: left out."""
    target_format: Literal["text", "json"] = "text"
    """json: answers that are objects or lists are written as JSON; text: they are refused."""

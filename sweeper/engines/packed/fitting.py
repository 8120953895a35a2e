"""Which trials can be packed."""

from collections.abc import Collection

from sweeper.config import LoraSettings
from sweeper.engines.trainer import begun_with
from sweeper.messages import TrialSpec
from sweeper.models.modeling import BaseModel
from sweeper.models.targets import target_names

FAMILIES = ("llama", "qwen2", "qwen3", "t5")
"""Model types for which packed training was shown to equal training alone."""


def why_alone(base: BaseModel, layers: Collection[str], spec: TrialSpec) -> str:
    """Why the trial has to be trained on its own, or "" if it can share a batch.

    `layers` are the names of those that can carry packed adapters.
    """
    settings, model = spec.settings, base.model
    if settings.method == "full":
        return "full fine-tuning changes the base model"
    if settings.lora.variant == "dora":
        return "DoRA looks at the base model's weights"
    if settings.neftune_noise:
        return "NEFTune's noise is drawn for a whole batch"
    if base.kind == "classifier":
        return "the classification head is trained as a whole"
    if model.config.model_type not in FAMILIES:
        return f"{model.config.model_type} is none of {', '.join(FAMILIES)}"
    if getattr(model.config, "attention_dropout", 0.0):
        return "the base model drops attention weights"
    if getattr(model, "is_quantized", False):
        return "the base model is quantised"
    if other := sorted(_other_targets(base, layers, settings.lora)):
        return f"its adapters go on {', '.join(other)}"
    if (begun := begun_with(spec.folder)) not in ("", "packed"):
        return f"it began with the engine {begun}"
    return ""


def _other_targets(base: BaseModel, layers: Collection[str], lora: LoraSettings) -> set[str]:
    """Target modules that are no linear layers inside of the model."""
    if lora.target_modules == "all-linear":
        return set()
    return {
        target
        for target in target_names(lora)
        for name, _ in base.model.named_modules()
        if (name == target or name.endswith(f".{target}")) and name not in layers
    }

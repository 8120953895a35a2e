"""Translation into another language and back, by MarianMT models in local folders."""

import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sweeper.config import BackTranslationConfig, ModelConfig
from sweeper.config.types import expanded
from sweeper.errors import DataError, ModelError, installing
from sweeper.models.pretrained import choose_device, resolve

_PIECES = re.compile(r"(\s*\n\s*|(?<=[.!?…])\s+)")
"""What is translated at once: a sentence, or a line. Models know sentences, and cut what is longer."""
_BATCH = 32


class BackTranslator:
    """Both models, loaded when they are first needed."""

    def __init__(self, config: BackTranslationConfig) -> None:
        self._models = [_Model(name, folder) for name, folder in _folders(config)]

    def translate(self, texts: Sequence[str]) -> list[str]:
        """The texts there and back, greedily; what is too long for a model in one piece stays as it is."""
        split = [_PIECES.split(text) for text in texts]
        pieces = sorted({piece for parts in split for piece in parts[::2] if piece.strip()}, key=len)
        known: dict[str, str] = {}
        for start in range(0, len(pieces), _BATCH):
            some = pieces[start : start + _BATCH]
            known |= dict(zip(some, self._there_and_back(some), strict=True))
        return ["".join(known.get(part, part) for part in parts) for parts in split]

    def _there_and_back(self, pieces: Sequence[str]) -> list[str]:
        found: list[str | None] = list(pieces)
        for model in self._models:
            found = model.translate(found)
        return [new or old for new, old in zip(found, pieces, strict=True)]


class _Model:
    def __init__(self, name: str, folder: Path) -> None:
        """`name` is that of the option."""
        self._name = name
        self._folder = folder
        self._loaded: tuple[Any, Any] | None = None

    def translate(self, texts: Sequence[str | None]) -> list[str | None]:
        """Translations; None for None, and for what has more tokens than the model can look at."""
        import torch

        model, tokenizer = self._loaded = self._loaded or self._load()
        limit = model.config.max_position_embeddings
        lengths = [len(tokenizer(text or "", verbose=False)["input_ids"]) for text in texts]
        fitting = [n for n, text in enumerate(texts) if text and lengths[n] <= limit]
        found: list[str | None] = [None] * len(texts)
        if fitting:
            batch = tokenizer([texts[n] for n in fitting], padding=True, return_tensors="pt")
            batch = {name: batch[name].to(model.device) for name in ("input_ids", "attention_mask")}
            most = min(limit - 1, 2 * batch["input_ids"].shape[1] + 16)
            with torch.inference_mode():
                ids = model.generate(**batch, num_beams=1, do_sample=False, max_new_tokens=most)
            for n, text in zip(fitting, tokenizer.batch_decode(ids, skip_special_tokens=True), strict=True):
                found[n] = text.strip()
        return found

    def _load(self) -> tuple[Any, Any]:
        from safetensors import SafetensorError
        from transformers import AutoConfig, AutoTokenizer, MarianMTModel

        path = _local(self._name, self._folder).path
        try:
            kind = AutoConfig.from_pretrained(path, trust_remote_code=False).model_type
            if kind != "marian":
                raise ValueError(f"it is of the kind {kind}")
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "Recommended: pip install sacremoses")  # for rare signs
                tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
            model = MarianMTModel.from_pretrained(path, use_safetensors=True)
        except ImportError as error:
            raise DataError(
                f"{self._name}: {path} needs sentencepiece; install it {installing('translation')}"
            ) from error
        except (OSError, ValueError, KeyError, SafetensorError) as error:
            raise DataError(
                f"{self._name}: {path} can't be loaded as a MarianMT model ({error}); give the folder of one"
            ) from error
        return model.eval().to(choose_device(_as_model(self._folder))), tokenizer


def revisions(config: BackTranslationConfig) -> list[str]:
    """Digests of both models. Raises DataError if one isn't there, or not as safetensors."""
    return [_local(name, folder).revision for name, folder in _folders(config)]


def _folders(config: BackTranslationConfig) -> list[tuple[str, Path]]:
    given = {"there": config.there, "back": config.back}
    return [(f"data.augment.back_translation.{name}", folder) for name, folder in given.items() if folder]


def _local(name: str, folder: Path) -> Any:
    if not expanded(folder).is_dir():
        raise DataError(f"{name}: there is no folder {folder}; give one with a MarianMT model in it")
    try:
        return resolve(_as_model(folder))
    except ModelError as error:
        raise DataError(f"{name}: {error}") from error


def _as_model(folder: Path) -> ModelConfig:
    return ModelConfig(str(folder), False, None, "float32", False, "auto")

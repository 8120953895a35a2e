"""Insults, threats and hatred by a text classifier of the Detoxify family, from a local folder.

Detoxify's own package unpickles its checkpoints, which can run code; the hub has the same models as
safetensors, and those are read here.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from sweeper.config import ModelConfig
from sweeper.config.types import expanded
from sweeper.data.checks.tally import Sample, Tally
from sweeper.data.findings import Batch, Finding
from sweeper.data.personal import masked_part
from sweeper.errors import DataError, ModelError, first_line

SAMPLED = 1000
"""Rows that are looked at, up to a tenth of a second each; all, where there are no more."""

_CHARACTERS = 1000
"""Looked at of each text."""

_BATCH = 16

_TOXIC = 0.5
"""Probability from which on a text is counted."""

LABELS = (
    *("toxic", "toxicity", "severe_toxic", "severe_toxicity", "obscene", "threat", "insult"),
    *("identity_hate", "identity_attack", "sexual_explicit"),
)
"""What the models of the family call it; others of their labels name groups that a text speaks of."""

_GET_ONE = (
    "give the folder of a classifier such as unitary/toxic-bert: hf download unitary/toxic-bert --local-dir "
    "toxic-bert, then data.audit.toxicity=toxic-bert"
)


class Toxicity:
    """Counts rows of a sample that the classifier takes for toxic, by input or answer."""

    def __init__(self, folder: Path, seed: int) -> None:
        """Raises DataError if `folder` holds no such classifier."""
        self._model, self._tokenizer = _load(folder)
        names = {int(n): str(name).lower() for n, name in self._model.config.id2label.items()}
        self._columns = {name: n for n, name in sorted(names.items()) if name in LABELS}
        if not self._columns:
            raise DataError(
                f"data.audit.toxicity: {folder} tells {', '.join(names.values())}, and none of "
                f"{', '.join(LABELS)}; {_GET_ONE}"
            )
        self._sample = Sample(SAMPLED, seed, _CHARACTERS)

    def see(self, batch: Batch) -> None:
        self._sample.see(batch)

    def findings(self) -> Sequence[Finding]:
        """The rows that are toxic by any label, the most so first."""
        rows = self._sample.rows
        scores = dict(
            self._scores(sorted({text for row in rows for text in row[2:] if text.strip()}, key=len))
        )
        tally, counts = Tally(), dict.fromkeys(self._columns, 0)
        for row, split, *texts in rows:
            told = [text for text in texts if text in scores]
            worst = max(told, key=lambda text: max(scores[text]), default=None)
            if worst is None or max(scores[worst]) < _TOXIC:
                continue
            tally.add(row, split, masked_part(worst, 0, 200), max(scores[worst]))
            for place, name in enumerate(self._columns):
                counts[name] += any(scores[text][place] >= _TOXIC for text in told)
        if not tally.count:
            return ()
        kinds = ", ".join(f"{count:,} {name}" for name, count in counts.items() if count)
        return (
            Finding(
                "toxicity",
                "warning",
                f"{tally.count:,} of {len(rows):,} sampled rows are toxic to the classifier ({kinds})",
                "Read some: drop what the model must not learn to say. Such classifiers err on quotes, and "
                "on texts that merely speak of a group.",
                tally.count,
                len(rows),
                tally.examples,
                tally.suspects,
                {name: float(count) for name, count in counts.items()},
            ),
        )

    def _scores(self, texts: Sequence[str]) -> Iterator[tuple[str, list[float]]]:
        """Every text with the probability of each label; several may hold unless the model says not."""
        import torch

        alone = self._model.config.problem_type == "single_label_classification"
        limit = self._model.config.max_position_embeddings - 2  # the Roberta family uses two for itself
        columns = list(self._columns.values())
        for start in range(0, len(texts), _BATCH):
            some = list(texts[start : start + _BATCH])
            batch = self._tokenizer(
                some, padding=True, truncation=True, max_length=limit, return_tensors="pt"
            ).to(self._model.device)
            with torch.inference_mode():
                logits = self._model(**batch).logits.float()
            chances = logits.softmax(-1) if alone else logits.sigmoid()
            yield from zip(some, chances[:, columns].tolist(), strict=True)


def _load(folder: Path) -> tuple[Any, Any]:
    from safetensors import SafetensorError
    from transformers import AutoModelForSequenceClassification

    from sweeper.models import pretrained

    model = ModelConfig(str(folder), False, None, "float32", False, "auto")
    if not expanded(folder).is_dir():
        raise DataError(f"data.audit.toxicity: there is no folder {folder}; {_GET_ONE}")
    try:
        found = pretrained.resolve(model)
        tokenizer = pretrained.load_tokenizer(found)
        classifier = AutoModelForSequenceClassification.from_pretrained(
            found.path, use_safetensors=True, trust_remote_code=False
        )
    except ModelError as error:
        raise DataError(f"data.audit.toxicity: {error}") from error
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise DataError(
            f"data.audit.toxicity: {folder} can't be loaded ({first_line(error)}); {_GET_ONE}"
        ) from error
    return classifier.eval().to(pretrained.choose_device(model)), tokenizer

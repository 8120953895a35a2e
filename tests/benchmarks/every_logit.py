"""sweeper without its saving on the output layer, for comparison: python -m tests.benchmarks.every_logit ...

The arguments are those of `python -m sweeper`. Logits are computed and cast to float32 at every position, and
the cross-entropy runs over all of them and passes over those without a label, just as transformers does it.
The validation loss and generation read the prompts apart.
"""

import sys
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from sweeper.__main__ import main
from sweeper.engines import evaluate, training
from sweeper.engines.batches import IGNORED, Batch


def _every_logit(model: Any, batch: Batch) -> Tensor:
    """[rows, tokens, vocabulary]"""
    inputs = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}
    return model(**inputs, use_cache=False).logits.float()  # type: ignore[no-any-return]


def logits(model: Any, kind: str, batch: Batch) -> Tensor:
    """In the place of `sweeper.engines.batches.logits`, for causal models."""
    return _every_logit(model, batch)[batch["keep"]]


def losses(model: Any, base: Any, batch: Batch, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
    """In the place of `sweeper.engines.training.losses`, without label smoothing."""
    labels = torch.full_like(batch["input_ids"], IGNORED).masked_scatter(batch["keep"], batch["targets"])
    scores = _every_logit(model, batch).flatten(0, 1)
    loss = F.cross_entropy(scores, labels.flatten(), ignore_index=IGNORED, reduction="sum")
    return loss, loss.detach()


if __name__ == "__main__":
    evaluate.logits = logits  # type: ignore[attr-defined]
    evaluate.Evaluator._reads_once = lambda self, model: False  # type: ignore[method-assign]
    training.losses = losses
    sys.exit(main(sys.argv[1:]))

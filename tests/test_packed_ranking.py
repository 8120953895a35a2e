"""In bfloat16 the engine `packed` ranks trials as `trainer` does, and its losses are within seed noise."""

import pytest
import torch

from sweeper.models.modeling import BaseModel
from sweeper.models.pretrained import resolve
from tests import tiny
from tests.benchmarks.packed_ranking import Ranking, docstrings, rank


def disagreement(found: Ranking) -> list[str]:
    """What of it is more than another seed makes of the same trials."""
    pairs = {"order": bool(found.swapped), "mean": found.means_apart > found.noise}
    return [what for what, differs in (pairs | {"loss": found.apart > found.noise}).items() if differs]


def test_on_a_cpu_with_a_tiny_model(tmp_path):
    model = tiny.llama().to(torch.bfloat16)
    with tiny.one_thread():
        base = BaseModel(model, tiny.tokenizer(), "causal", name="tiny")
        found = rank(base, tiny.rows(train=32, validation=32), 8, 4, tmp_path)
    assert len(found.packed) == 8
    assert disagreement(found) == []


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_with_smollm2(tmp_path):
    config = tiny.config("model.dtype=bfloat16", "model.device=cuda")
    base = BaseModel.load(config.model, resolve(config.model), config.task)
    found = rank(base, docstrings(base, 192, 64), 8, 8, tmp_path)
    assert len(found.packed) == 8
    assert disagreement(found) == []


def test_what_counts_as_disagreement():
    trainer, seeds = {0: 1.0, 1: 2.0, 2: 2.05}, {0: 1.1, 1: 1.9, 2: 2.15}
    found = Ranking({0: 1.0, 1: 2.06, 2: 2.0}, trainer, seeds)
    assert found.noise == pytest.approx(0.1)
    assert found.swapped == [], "1 and 2 are nearer to each other than two seeds are"
    assert disagreement(found) == []
    assert disagreement(Ranking({0: 2.1, 1: 2.0, 2: 2.2}, trainer, seeds)) == ["order", "mean", "loss"]
    assert Ranking({0: 2.1, 1: 2.0, 2: 2.2}, trainer, seeds).swapped == [(0, 1)]
    assert Ranking({0: 1.3, 1: 2.3, 2: 2.35}, trainer, seeds).means_apart == pytest.approx(0.3)

"""In bfloat16 the engine `packed` ranks trials as `trainer` does, and its losses are within seed noise."""

import pytest
import torch

from sweeper.models.modeling import BaseModel
from sweeper.models.pretrained import resolve
from tests import tiny
from tests.benchmarks.packed_ranking import Ranking, docstrings, rank


def agree(found: Ranking) -> None:
    assert len(found.packed) == 8
    assert found.swapped == []
    assert found.means_apart <= found.noise
    assert found.apart <= found.noise


def test_on_a_cpu_with_a_tiny_model(tmp_path):
    model = tiny.llama().to(torch.bfloat16)
    with tiny.one_thread():
        base = BaseModel(model, tiny.tokenizer(), "causal", name="tiny")
        agree(rank(base, tiny.rows(train=32, validation=32), 8, 4, tmp_path))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_with_smollm2(tmp_path):
    config = tiny.config("model.dtype=bfloat16", "model.device=cuda")
    base = BaseModel.load(config.model, resolve(config.model), config.task)
    agree(rank(base, docstrings(base, 192, 64), 8, 8, tmp_path))


def test_what_counts_as_disagreement():
    trainer, seeds = {0: 1.0, 1: 2.0, 2: 2.05}, {0: 1.1, 1: 1.9, 2: 2.15}
    found = Ranking({0: 1.0, 1: 2.06, 2: 2.0}, trainer, seeds)
    assert found.noise == pytest.approx(0.1)
    assert found.swapped == [], "1 and 2 are nearer to each other than two seeds are"
    assert Ranking({0: 2.1, 1: 2.0, 2: 2.2}, trainer, seeds).swapped == [(0, 1)]
    assert Ranking({0: 1.3, 1: 2.3, 2: 2.35}, trainer, seeds).means_apart == pytest.approx(0.3)

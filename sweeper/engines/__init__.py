"""Ways to train trials, by name."""

import sys
from typing import TYPE_CHECKING

from sweeper.config import Config
from sweeper.messages import Engine

if TYPE_CHECKING:
    from sweeper.data.prepare import Prepared
    from sweeper.engines.packed.engine import PackedEngine
    from sweeper.models.modeling import BaseModel


def needs_model(config: Config) -> bool:
    """True if the engine trains a model, and therefore wants rows too."""
    return config.engine.name != "replay"


def make_engine(config: Config, base: "BaseModel | None" = None, rows: "Prepared | None" = None) -> Engine:
    """The engine that `config.engine.name` names; `base` and `rows` for those that train a model."""
    if config.engine.name == "replay":
        from sweeper.engines.replay import ReplayEngine

        return ReplayEngine(config)
    if base is None or rows is None:
        raise TypeError(f"the engine {config.engine.name} needs a model and rows")
    from sweeper.engines.auto import AutoEngine
    from sweeper.engines.trainer import TrainerEngine, workbench

    bench = workbench(config, base, rows)

    def packed(slots: int | None = config.engine.slots) -> "PackedEngine":
        from sweeper.engines.packed.engine import PackedEngine

        return PackedEngine(bench, slots, config.engine.token_budget or sys.maxsize)

    # One trial at a time is handed on: nothing is to be tried for it.
    trainer = TrainerEngine(bench, {"packed": lambda: packed(slots=1)})
    if config.engine.name == "auto":
        return AutoEngine(bench, packed, trainer)
    return packed() if config.engine.name == "packed" else trainer

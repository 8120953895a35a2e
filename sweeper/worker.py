"""A worker: loads model and data once, then trains whatever its channel hands out."""

import ctypes
import gc
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sweeper.advice import less_to_load
from sweeper.config import Config
from sweeper.engines import make_engine, needs_model
from sweeper.errors import ModelError, first_line
from sweeper.messages import Channel

if TYPE_CHECKING:
    from sweeper.models.modeling import BaseModel


def run(config: Config, rows_folder: Path, channel: Channel) -> None:
    """Work on `channel` until it says Done.

    `rows_folder` holds the prepared rows; it is not looked at by engines that train no model. Raises
    ModelError or DataError if model or rows can't be loaded.
    """
    if not needs_model(config):
        make_engine(config).run(channel)
        return
    from sweeper.data.prepare import open_rows

    _keep_freed_memory()
    rows = open_rows(rows_folder)
    engine = make_engine(config, _load(config, rows.labels), rows)
    # Trainer collects garbage before every trial: what is loaded by now need not be looked through each time.
    gc.freeze()
    engine.run(channel)


def _load(config: Config, labels: Sequence[str]) -> "BaseModel":
    from sweeper.engines.evaluate import out_of_memory
    from sweeper.models.modeling import BaseModel
    from sweeper.models.pretrained import resolve

    try:
        return BaseModel.load(config.model, resolve(config.model), config.task, labels)
    except RuntimeError as error:
        if not out_of_memory(error):
            raise
        raise ModelError(
            f"{config.model.name} does not fit into memory: {first_line(error)}. {less_to_load(config)}"
        ) from error


def _keep_freed_memory() -> None:
    """Have glibc keep the memory that tensors give back, for the tensors that follow.

    By itself it returns it to the system after every large one and gets it back page by page: on two cores a
    seventh of an evaluation's processor time. The process keeps its peak until it ends.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        trim_threshold, mmap_threshold = -1, -3
        mallopt(trim_threshold, 2**31 - 1)
        mallopt(mmap_threshold, 2**30)

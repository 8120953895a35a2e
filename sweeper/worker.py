"""A worker: loads model and data once, then trains whatever its channel hands out."""

import gc
from pathlib import Path

from sweeper.config import Config
from sweeper.engines import make_engine, needs_model
from sweeper.messages import Channel


def run(config: Config, rows_folder: Path, channel: Channel) -> None:
    """Work on `channel` until it says Done.

    `rows_folder` holds the prepared rows; it is not looked at by engines that train no model. Raises
    ModelError or DataError if model or rows can't be loaded.
    """
    if not needs_model(config):
        make_engine(config).run(channel)
        return
    from sweeper.data.prepare import open_rows
    from sweeper.modeling import BaseModel
    from sweeper.pretrained import resolve

    rows = open_rows(rows_folder)
    base = BaseModel.load(config.model, resolve(config.model), config.task, rows.labels)
    engine = make_engine(config, base, rows)
    # Trainer collects garbage before every trial: what is loaded by now need not be looked through each time.
    gc.freeze()
    engine.run(channel)

"""The journal on disk: every measurement of every trial, one JSON object a line."""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from sweeper.events import Listener, Measurement
from sweeper.failpoints import reach
from sweeper.layout import Layout


class Journal(Listener):
    """Listener that appends each measurement to its trial's metrics.jsonl before anyone else hears it."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout

    def measured(self, point: Measurement) -> None:
        """Append one line."""
        metrics = {k: v if math.isfinite(v) else None for k, v in point.metrics.items()}
        line = json.dumps({**vars(point), "metrics": metrics}).encode()
        with self._opened(self._layout.metrics(point.trial)) as file:
            # A line torn by a kill is closed first, so that only it is lost.
            end = file.seek(0, 2)
            if end:
                file.seek(end - 1)
                if file.read(1) != b"\n":
                    file.write(b"\n")
            file.write(line + b"\n")
        reach("journal.appended")

    def _opened(self, path: Path) -> BinaryIO:
        try:
            return path.open("ab+")
        except FileNotFoundError:  # a folder is made once
            path.parent.mkdir(parents=True, exist_ok=True)
            return path.open("ab+")


def measurements(path: Path) -> Iterator[Measurement]:
    """Read a trial's metrics.jsonl back; lines torn by a kill are left out, a missing file is empty."""
    if not path.exists():
        return
    with path.open(encoding="utf-8", errors="replace") as file:
        for line in file:
            try:
                tree = json.loads(line)
            except ValueError:
                continue
            tree["metrics"] = {k: math.nan if v is None else v for k, v in tree["metrics"].items()}
            yield Measurement(**tree)

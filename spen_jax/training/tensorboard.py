"""Figures of each epoch as TensorBoard's scalars."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np


class TensorBoard:
    """A folder of events, in which `board(epoch, figures)` makes each number a scalar at that epoch.

    `for epoch, (state, metrics) in enumerate(sx.fit(...), 1): board(epoch, metrics)`; lines of `metrics.jsonl` will do
    as well. `figures` is a mapping of names to numbers; what is no single number in it is left out. `tensorboard
    --logdir` shows each such folder as a run. A later writer of the folder adds to it. To be closed, or used as a
    `with` block.

    tensorboardX writes, in pure Python: `pip install 'spen_jax[tensorboard]'`, else ImportError says so.
    """

    def __init__(self, folder: str | Path):
        try:
            from tensorboardX import RecordWriter
            from tensorboardX.proto import event_pb2
        except ImportError:
            raise ImportError(
                "TensorBoard needs tensorboardX: pip install 'spen_jax[tensorboard]'"
            ) from None
        Path(folder).mkdir(parents=True, exist_ok=True)
        self._event = vars(event_pb2)["Event"]
        self._file = RecordWriter(str(Path(folder) / f"events.out.tfevents.{time.time_ns()}"))
        self._write(file_version="brain.Event:2")

    def __call__(self, epoch: int, figures: Mapping[str, Any]) -> None:
        """Writes what is a number among the figures; it is on the disk when this returns."""
        scalars = {name: np.asarray(value) for name, value in figures.items()}
        values = [
            {"tag": name, "simple_value": float(a)}
            for name, a in scalars.items()
            if not a.ndim and a.dtype.kind in "iuf"
        ]
        self._write(step=epoch, summary={"value": values})

    def _write(self, **said):
        self._file.write(self._event(wall_time=time.time(), **said).SerializeToString())
        self._file.flush()

    def close(self) -> None:
        """Closes its file."""
        self._file.close()

    def __enter__(self) -> "TensorBoard":
        """Itself."""
        return self

    def __exit__(self, *_: Any) -> None:
        """Closes it."""
        self.close()

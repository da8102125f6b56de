"""Several label columns that hold one of several values each: labels of 0 and 1, of which one in each column is on."""

from typing import Any

import numpy as np

from spen_jax.cli.rows import Reading
from spen_jax.data.examples import Column


class OneOfEach:
    """A classifier of labels whose answers have, of every such column, the likeliest value and no other."""

    def __init__(self, model: Any, groups: list[slice]):
        self._model, self._groups = model, groups

    def __getattr__(self, name: str) -> Any:
        """What else the classifier has."""
        return getattr(self._model, name)

    def predict(self, x: Any) -> np.ndarray:
        """Labels (N, L) of 0 and 1."""
        on, p = np.array(self._model.predict(x)), np.asarray(self._model.predict_proba(x))
        for group in self._groups:
            on[:, group] = np.arange(group.stop - group.start) == p[:, group].argmax(1)[:, None]
        return on


def one_of_each(model: Any, reading: Any) -> Any:
    """The model, or with `OneOfEach` where several label columns are read and some are nominal."""
    if not isinstance(reading, Reading) or reading.task != "labels" or not _nominal(reading):
        return model
    return OneOfEach(model, [group for column, group in _groups(reading) if _several(column)])


def values_of(reading: Reading, on: np.ndarray) -> tuple[list[str], list[list[Any]]] | None:
    """(names of columns, rows) of labels (N, L) as the columns were written; None where none of them is nominal."""
    if not _nominal(reading):
        return None
    columns = [
        np.array(column.values)[on[:, group].argmax(1)] if _several(column) else on[:, group.start]
        for column, group in _groups(reading)
    ]
    rows = zip(*(column.tolist() for column in columns), strict=True)
    return reading.label_columns, [list(row) for row in rows]


def _nominal(reading: Reading) -> bool:
    return len(reading.label_columns) > 1 and any(_several(c) for c, _ in _groups(reading))


def _several(column: Column) -> bool:
    return column.kind == "category"


def _groups(reading: Reading) -> list[tuple[Column, slice]]:
    """The label columns, and where each stands among the labels."""
    found, at = [], 0
    for name, kind, values, label in reading.columns:
        if label:
            column = Column(name, kind, tuple(values), True)
            found.append((column, slice(at, at + len(column.features))))
            at += len(column.features)
    return found

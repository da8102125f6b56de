"""Sparse text: libsvm's format and that of the extreme-classification repository, `3,17 5:0.5 9:1`.

Rows are taken apart by NumPy, a part of the file at a time, into arrays that are made once.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from spen_jax.data.examples import Examples, fits
from spen_jax.data.files import Progress, print_progress
from spen_jax.data.store_reader import Stored
from spen_jax.data.svmlight_columns import Seen, columns_of_x, columns_of_y, numbers_of
from spen_jax.data.svmlight_rows import census, header_of, parts, skipped

_LONG = 2**24
"""Bytes of a file from which on its progress is shown."""


def read_svmlight(
    path: str | Path,
    *,
    like: Examples | Stored | None = None,
    first: int | None = None,
    progress: Progress | None = None,
) -> Examples:
    """Read libsvm or extreme-classification text; x is CSR, no dense copy of it is made.

    A row is `labels index:value ...`; several labels stand between commas, and a row may have none, nor features: a
    blank line before the last row is such a row. A first line of three numbers says how many rows, features and labels
    there are; indices and labels are then from 0. Otherwise indices are from 1, unless a 0 occurs, and the labels that
    occur become the columns of y, in the order of their numbers; where every row has one number and one of them is
    not whole, y (N, 1) are these numbers, a regression. Comments after # and `qid:` are skipped, which `notes` say.

    Args:
      path: the file, packed or not.
      like: examples, or what was stored, whose features and labels these are to have; others are refused.
      first: 0 or 1, the index of the first feature, where the file would leave it to guessing.
      progress: called as for downloads; by default a line on a terminal, for files of more than 16 MB.

    Raises:
      DataError: names file, line, what was expected and what came.
    """
    return _read(Path(path), like, first, progress)


def _read(
    path: Path, like: Examples | Stored | None, first: int | None, progress: Progress | None
) -> Examples:
    from scipy import sparse

    header = header_of(path)
    counts = census(path, header)
    n = counts.rows
    indices, values = np.empty(counts.pairs, np.int32), np.empty(counts.pairs, np.float32)
    # SciPy gives the indices the type of the starts.
    kind = np.int32 if counts.pairs < 2**31 else np.int64
    starts, label_starts, labels = np.zeros(n + 1, kind), np.zeros(n + 1, np.int64), []
    row, pair, label, seen = 0, 0, 0, Seen()
    for cells in parts(path, header, teller(path, counts.chunks, progress)):
        rows = slice(row + 1, row + 1 + len(cells.ends))
        pairs = slice(pair, pair + len(cells.indices))
        indices[pairs], values[pairs] = cells.indices, cells.values
        starts[rows], label_starts[rows] = cells.ends + pair, cells.label_ends + label
        labels.append(cells.labels)
        seen.add(cells)
        row, pair, label = rows.stop - 1, pairs.stop, label + len(cells.labels)
    starts[row + 1 :], label_starts[row + 1 :] = pair, label
    seen.pad(n)
    names, first, notes = columns_of_x(path, header, seen, like, first)
    indices -= np.int32(first)
    x = sparse.csr_array((values, indices, starts), shape=(n, len(names)))
    marks = np.concatenate(labels) if labels else np.empty(0)
    columns = columns_of_y(path, header, seen, like)
    if columns.is_regression:
        y = numbers_of(path, header, marks)
    else:
        y = matrix_of(columns.places(marks), label_starts, len(columns.names))
        y = y.toarray() if fits(n, len(columns.names), path.stat().st_size) else y
    notes = (*skipped(path), *notes, *columns.notes)
    return Examples(x, y, None, names, columns.names, notes=notes)


def matrix_of(places: np.ndarray, starts: np.ndarray, n_labels: int) -> Any:
    """CSR (rows, labels) of ones, each label once in a row."""
    from scipy import sparse

    ones = np.ones(len(places), np.float32)
    y = sparse.csr_array((ones, places, starts), shape=(len(starts) - 1, n_labels))
    y.sum_duplicates()
    y.data[:] = 1
    return y


def teller(path: Path, n: int, progress: Progress | None) -> Callable[[int], None]:
    """What tells the progress once each of n chunks is done; by default a line on a terminal, for large files."""
    size = path.stat().st_size
    if progress is None and size >= _LONG and sys.stderr.isatty():
        progress = print_progress
    return lambda number: progress(path.name, size * number // n, size) if progress else None

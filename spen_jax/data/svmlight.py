"""Sparse text: libsvm's format and that of the extreme-classification repository, `3,17 5:0.5 9:1`.

Rows are taken apart by NumPy, a part of the file at a time, into arrays that are made once.
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np

from spen_jax.data.examples import Examples, Numbered, counted, fits, several
from spen_jax.data.files import Progress, print_progress
from spen_jax.data.lines import fail
from spen_jax.data.svmlight_rows import (
    MOST,
    cells_of,
    chunks,
    explain,
    header_of,
    line_of,
    rows_of,
    skipped,
)

_LONG = 2**24
"""Bytes of a file from which on its progress is shown."""


def read_svmlight(
    path: str | Path,
    *,
    like: Examples | None = None,
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
      like: examples whose features and labels these are to have; others are refused.
      first: 0 or 1, the index of the first feature, where the file would leave it to guessing.
      progress: called as for downloads; by default a line on a terminal, for files of more than 16 MB.

    Raises:
      DataError: names file, line, what was expected and what came.
    """
    return _read(Path(path), like, first, progress)


def _read(
    path: Path, like: Examples | None, first: int | None, progress: Progress | None
) -> Examples:
    size = path.stat().st_size
    if progress is None and size >= _LONG and sys.stderr.isatty():
        progress = print_progress
    header = header_of(path)
    counts = [(chunk.count(b"\n"), chunk.count(b":")) for chunk in chunks(path, header)]
    n_rows, n_pairs = (sum(c) for c in zip(*counts, strict=True)) if counts else (0, 0)
    n = rows_of(path, header, n_rows)
    indices, values = np.empty(n_pairs, np.int32), np.empty(n_pairs, np.float32)
    # SciPy gives the indices the type of the starts.
    kind = np.int32 if n_pairs < 2**31 else np.int64
    starts, label_starts, labels = np.zeros(n + 1, kind), np.zeros(n + 1, np.int64), []
    row, pair, label, ascending = 0, 0, 0, True
    for number, chunk in enumerate(chunks(path, header), 1):
        if (cells := cells_of(chunk)) is None:
            explain(path, header)
        rows, pairs = (
            slice(row + 1, row + 1 + len(cells.ends)),
            slice(pair, pair + len(cells.indices)),
        )
        indices[pairs], values[pairs] = cells.indices, cells.values
        starts[rows], label_starts[rows] = cells.ends + pair, cells.label_ends + label
        labels.append(cells.labels)
        ascending &= cells.ascending
        row, pair, label = rows.stop - 1, pairs.stop, label + len(cells.labels)
        if progress:
            progress(path.name, size * number // len(counts), size)
    starts[row + 1 :], label_starts[row + 1 :] = pair, label
    x, names, notes = _features(path, header, (values, indices, starts, ascending), like, first)
    marks = np.concatenate(labels) if labels else np.empty(0)
    y, label_names, more = _labels(path, header, marks, label_starts, like, size)
    return Examples(x, y, None, names, label_names, notes=(*skipped(path), *notes, *more))


def _features(path: Path, header: Any, arrays: Any, like: Any, first: int | None) -> Any:
    """CSR, the names of its columns, and notes."""
    from scipy import sparse

    values, indices, starts, ascending = arrays
    least, most = (int(indices.min()), int(indices.max())) if len(indices) else (1, 0)
    notes = []
    if like is not None:
        names = like.feature_names
        if not isinstance(names, Numbered):
            raise ValueError(
                f"like= must be examples read from libsvm text too, got features {several(names)}"
            )
        first = int(names[0]) if len(names) else 1
    elif header:
        first = (1 if least and most == header[1] else 0) if first is None else first
        names = Numbered(header[1], first)
    else:
        guessed, first = first is None, (min(least, 1) if first is None else first)
        names = Numbered(max(most + 1 - first, 0), first)
        if guessed:
            notes.append(f"indices are from {first}" + ("" if first == 0 else ", for no 0 occurs"))
    if len(indices) and (least < first or most >= first + len(names)):
        wrong = (indices < first) | (indices >= first + len(names))
        entry = int(np.argmax(wrong))
        line = line_of(path, header, _row(starts, entry))
        expected = f"an index from {first} to {first + len(names) - 1}"
        fail(path, line, expected, str(indices[entry]))
    indices -= np.int32(first)
    x = sparse.csr_array((values, indices, starts), shape=(len(starts) - 1, len(names)))
    if not ascending:
        x.sort_indices()
        same = np.diff(x.indices) == 0
        inner = starts[1:-1][(starts[1:-1] > 0) & (starts[1:-1] < len(indices))]
        same[inner - 1] = False
        for entry in np.flatnonzero(same)[:1]:
            line = line_of(path, header, _row(starts, entry))
            fail(path, line, "each index once in a row", str(x.indices[entry] + first))
    empty = np.count_nonzero(np.diff(starts) == 0)
    if empty:
        notes.append(f"{counted(empty, 'row')} without features")
    return x, names, notes


def _labels(
    path: Path, header: Any, marks: np.ndarray, starts: np.ndarray, like: Any, size: int
) -> Any:
    """y, the names of its columns, and notes."""
    from scipy import sparse

    n, notes = len(starts) - 1, list[str]()
    counts = np.diff(starts)
    single = bool((counts == 1).all())
    broken = marks != np.floor(marks)
    if (
        single
        and not header
        and (broken.any() if like is None else tuple(like.label_names) == ("target",))
    ):
        return (
            marks.astype(np.float32)[:, None],
            ("target",),
            ["one number a row, not all whole: a regression"],
        )
    for mark in np.flatnonzero(broken | (np.abs(marks) > MOST))[:1]:
        fail(
            path,
            line_of(path, header, _row(starts, mark)),
            "whole numbers as labels",
            f"{marks[mark]:g}",
        )
    distinct, inverse = np.unique(marks.astype(np.int64), return_inverse=True)
    if like is not None:
        names = like.label_names
        known = {name: i for i, name in enumerate(names)}
        columns = np.array([known.get(str(label), -1) for label in distinct], np.int64)
    elif header:
        names = Numbered(
            header[2], int(len(distinct) and distinct[0] > 0 and distinct[-1] == header[2])
        )
        columns = distinct - int(names[0] if len(names) else 0)
    else:
        names = tuple(map(str, distinct))
        columns = np.arange(len(distinct))
    columns[columns >= len(names)] = -1
    places = columns[inverse]
    for mark in np.flatnonzero(places < 0)[:1]:
        line = line_of(path, header, _row(starts, mark))
        fail(path, line, f"a label among the {len(names)}: {several(names)}", f"{marks[mark]:g}")
    y: Any = sparse.csr_array(
        (np.ones(len(places), np.float32), places, starts), shape=(n, len(names))
    )
    y.sum_duplicates()
    y.data[:] = 1
    y = y.toarray() if fits(n, len(names), size) else y
    if single:
        notes.append(f"every row has one label: {len(names)} classes, one-hot")
    elif (counts == 0).any():
        notes.append(f"{counted(np.count_nonzero(counts == 0), 'row')} without labels")
    return y, names, notes


def _row(starts: np.ndarray, entry: int) -> int:
    """The row that an entry stands in."""
    return int(np.searchsorted(starts, entry, side="right")) - 1

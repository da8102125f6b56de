"""Sparse text larger than memory, straight to a folder of arrays: what `read_svmlight` gives, a part at a time."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np

from spen_jax.data.examples import Examples
from spen_jax.data.files import Progress
from spen_jax.data.store_reader import Stored, stored
from spen_jax.data.store_writer import Sparse, Writer, storing
from spen_jax.data.svmlight import matrix_of, teller
from spen_jax.data.svmlight_columns import (
    Labels,
    Seen,
    columns_of_x,
    columns_of_y,
    numbers_of,
)
from spen_jax.data.svmlight_rows import Cells, census, header_of, parts, skipped

_PADDED = 2**16
"""Blank rows that are written at once."""


def store_svmlight(
    path: str | Path,
    folder: str | Path,
    *,
    like: Examples | Stored | None = None,
    first: int | None = None,
    progress: Progress | None = None,
) -> Stored:
    """What `read_svmlight` reads, as a new folder of arrays; memory for some hundred KB of the file and for the names.

    Rows, labels, names, notes and errors are those of `read_svmlight`; x is CSR, and so is y, but for a regression,
    whose y is float32 (N, 1). `stored(folder)` opens the folder again.

    Args:
      path: the file, packed or not.
      folder: a name that nothing has yet; it is there once all is written.
      like: examples, or what was stored, whose features and labels these are to have; others are refused.
      first: 0 or 1, the index of the first feature, where the file would leave it to guessing.
      progress: called as for downloads; by default a line on a terminal, for files of more than 16 MB.

    Raises:
      DataError: names file, line, what was expected and what came.
      FileExistsError: the folder is there.
      OSError: the disk is full; nothing is left then.
    """
    path = Path(path)
    with storing(folder) as writer:
        _store(writer, path, like, first, progress)
    return stored(folder)


def _store(writer: Writer, path: Path, like: Any, first: int | None, progress: Any) -> None:
    from scipy import sparse

    header = header_of(path)
    counts = census(path, header)
    x = writer.add("x", sparse.csr_array((0, 1), dtype=np.float32))
    assert isinstance(x, Sparse)
    likely = (0 if header else 1) if first is None else first
    seen = Seen()
    with tempfile.TemporaryFile(dir=writer.folder) as labels:
        for cells in parts(path, header, teller(path, counts.chunks, progress)):
            x.extend(cells.values, cells.indices - likely, cells.ends)
            _keep(labels, cells)
            seen.add(cells)
        for begin in range(seen.rows, counts.rows, _PADDED):
            n = min(_PADDED, counts.rows - begin)
            none, ends = np.empty(0), np.zeros(n, np.int64)
            x.extend(none, none, ends)
            _keep(labels, Cells(none, none, ends, none, ends, True))
        seen.pad(counts.rows)
        names, first, notes = columns_of_x(path, header, seen, like, first)
        x.columns = len(names)
        if first != likely:
            x.shift(likely - first)
        columns = columns_of_y(path, header, seen, like)
        _write_labels(writer, path, header, columns, labels)
    writer.names = {"x": names, "y": columns.names}
    writer.notes = (*skipped(path), *notes, *columns.notes)


def _write_labels(
    writer: Writer, path: Path, header: Any, columns: Labels, kept: IO[bytes]
) -> None:
    from scipy import sparse

    if columns.is_regression:
        y = writer.add("y", np.empty((0, 1), np.float32))
        for marks, _ in _kept(kept):
            y.append(numbers_of(path, header, marks))
        return
    y = writer.add("y", sparse.csr_array((0, len(columns.names)), dtype=np.float32))
    for marks, ends in _kept(kept):
        starts = np.concatenate([[0], ends])
        y.append(matrix_of(columns.places(marks), starts, len(columns.names)))


def _keep(file: IO[bytes], cells: Cells) -> None:
    """Write the labels of a chunk, whose columns are only known at the end."""
    sizes = np.array([len(cells.labels), len(cells.label_ends)], np.int64)
    for array in (sizes, cells.labels.astype(np.float64), cells.label_ends.astype(np.int64)):
        file.write(array.tobytes())


def _kept(file: IO[bytes]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Labels and their ends, of each chunk."""
    file.seek(0)
    while head := file.read(16):
        n, rows = np.frombuffer(head, np.int64).tolist()
        marks = np.frombuffer(file.read(8 * n), np.float64)
        yield marks, np.frombuffer(file.read(8 * rows), np.int64)

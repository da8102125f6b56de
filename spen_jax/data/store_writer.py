"""Arrays larger than memory into a folder of plain `.npy` files, some rows at a time; `stored` maps them.

A dense field `y` is the file `y.npy`. A sparse field `x` (CSR) is `x.values.npy`, `x.indices.npy` and `x.starts.npy`:
row i holds values[k] in column indices[k] for k from starts[i] up to starts[i + 1]. `index.json` says what they are.
"""

import json
import os
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from spen_jax.data.examples import Numbered
from spen_jax.data.folders import new_folder
from spen_jax.data.growing import BLOCK, KINDS, Entry, Growing

INDEX, FORMAT, VERSION = "index.json", "spen_jax stored arrays", 1
PARTS = ("values", "indices", "starts")
MOST_SHORT = 2**31 - 1
"""Columns and entries that indices and starts of four bytes can count; both have one type, else SciPy copies."""


@contextmanager
def storing(folder: str | Path) -> Iterator["Writer"]:
    """A new folder of arrays, to which `append` adds rows; it takes its name once the block ends without an error.

    Until then, and after an error, there is nothing of that name. What a process that was killed left is removed by the
    next that writes a folder of the same name. No more memory is taken than what is appended at once.

    Raises:
      FileExistsError: something has that name.
      ValueError: nothing was appended, or names that are not as many as the columns.
      OSError: the disk is full, or an `append` failed midway.
    """
    with new_folder(folder) as part:
        writer = Writer(part)
        try:
            yield writer
            writer.finish()
        finally:
            writer.close()


class Writer:
    """Adds rows to a folder of arrays, such as x (n, D), y (n, L): `writer.append(x=x, y=y)`; `storing` makes one."""

    def __init__(self, folder: Path):
        self.folder = folder
        """Where the files lie until the end."""
        self.names: dict[str, Sequence[str]] = {}
        """Of a field's columns, where they have names; `stored` gives them back."""
        self.notes: Sequence[str] = ()
        """What is to be known of the data, in words; given back too."""
        self._fields: dict[str, Dense | Sparse] = {}
        self._is_whole = True

    def append(self, **fields: Any) -> None:
        """Add the same number of rows to every field, such as x (n, D) and y (n, L); the first call says which.

        Arrays keep the type of the first ones; SciPy's sparse matrices become CSR of float32, with each column once in
        a row, in ascending order.

        Raises:
          ValueError: other fields, numbers of rows, shapes, or types than those before; what came is not written.
          OSError: the disk is full. After this, and after values beyond float32, the folder is given up.
        """
        given = {name: _array(name, value) for name, value in fields.items()}
        if not given or (self._fields and {*given} != {*self._fields}):
            known = ", ".join(self._fields) or "at least one"
            raise ValueError(f"expected the fields {known}, got {', '.join(given) or 'none'}")
        counts = {name: a.shape[0] for name, a in given.items()}
        if len({*counts.values()}) > 1:
            raise ValueError(f"expected as many rows in every field, got {counts}")
        for name, array in given.items():
            if name in self._fields:
                self._fields[name].check(array)
        if not self._fields:
            _check_names(given)
        with self._midway():
            for name, array in given.items():
                if name not in self._fields:
                    self.add(name, array)
                self._fields[name].append(array)

    def add(self, name: str, like: Any) -> "Dense | Sparse":
        """A new field of rows like these, none of which are written; for those who fill fields one by one."""
        kind = Sparse if hasattr(like, "tocsr") else Dense
        self._fields[name] = kind(self.folder, name, like)
        return self._fields[name]

    def finish(self) -> None:
        """Complete all files and write the index, as `storing` does at its end; ValueError and OSError as there."""
        rows = {name: field.shape[0] for name, field in self._fields.items()}
        if not rows:
            raise ValueError("nothing was appended: append(x=..., y=...) adds rows")
        if not self._is_whole or len({*rows.values()}) > 1:
            raise OSError(f"an append failed midway ({rows} rows): the folder is given up")
        for name, names in self.names.items():
            shape = self._fields[name].shape if name in self._fields else ()
            if shape[1:] != (len(names),):
                raise ValueError(f"{len(names)} names for the columns of {name}, which is {shape}")
        entries: dict[str, Entry] = {}
        for field in self._fields.values():
            entries |= field.finish()
        said = {
            "fields": {
                name: {"kind": field.kind, "shape": field.shape}
                for name, field in self._fields.items()
            },
            "files": {name: entry._asdict() for name, entry in entries.items()},
            "names": {name: _spelled(names) for name, names in self.names.items()},
            "notes": list(self.notes),
        }
        write_index(self.folder / INDEX, said)

    def close(self) -> None:
        """Let go of all files."""
        for field in self._fields.values():
            field.close()

    @contextmanager
    def _midway(self) -> Iterator[None]:
        self._is_whole, was = False, self._is_whole
        yield
        self._is_whole = was


class Dense:
    """A field of an array (rows, ...)."""

    kind = "dense"

    def __init__(self, folder: Path, name: str, like: np.ndarray):
        self._name = name
        self._file = Growing(folder / f"{name}.npy", like.dtype.newbyteorder("="), like.shape[1:])

    @property
    def shape(self) -> tuple[int, ...]:
        """(rows, ...)."""
        return (self._file.rows, *self._file.row)

    def check(self, array: Any) -> None:
        """ValueError unless these rows are like those before."""
        is_dense = isinstance(array, np.ndarray)
        dtype, row = self._file.dtype, self._file.row
        if not is_dense or array.shape[1:] != row or not np.can_cast(array.dtype, dtype, "safe"):
            found = f"{array.dtype} {array.shape}" if is_dense else "a sparse matrix"
            raise ValueError(
                f"{self._name}: expected {dtype} of shape (n, {', '.join(map(str, row))}), as before, got {found}"
            )

    def append(self, array: np.ndarray) -> None:
        """Write rows."""
        self._file.append(array)

    def finish(self) -> dict[str, Entry]:
        """The finished file by its name."""
        return {self._file.path.name: self._file.finish()}

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()


class Sparse:
    """A field of a CSR matrix (rows, columns) of float32."""

    kind = "sparse"

    def __init__(self, folder: Path, name: str, like: Any):
        self.columns = int(like.shape[1])
        """May still change, for those who `extend` and know it only at the end."""
        self._name = name
        index = np.int32 if self.columns <= MOST_SHORT else np.int64
        self._files: dict[str, Growing] = {}
        for part, dtype in zip(PARTS, (np.float32, index, index), strict=True):
            self._files[part] = Growing(folder / f"{name}.{part}.npy", dtype)
        self._files["starts"].append(np.zeros(1, index))

    @property
    def shape(self) -> tuple[int, ...]:
        """(rows, columns)."""
        return self._files["starts"].rows - 1, self.columns

    def check(self, array: Any) -> None:
        """ValueError unless these rows are like those before."""
        if not hasattr(array, "tocsr") or array.shape[1] != self.columns:
            what = "a sparse matrix" if hasattr(array, "tocsr") else "an array"
            raise ValueError(
                f"{self._name}: expected a sparse matrix of shape (n, {self.columns}), as before,"
                f" got {what} {array.shape}"
            )

    def append(self, array: Any) -> None:
        """Write rows, of which no more than a block is put in order at once."""
        csr = array.tocsr()
        begin, n = 0, csr.shape[0]
        while begin < n:
            most = int(csr.indptr[begin]) + BLOCK // 8
            end = max(int(np.searchsorted(csr.indptr, most, side="right")) - 1, begin + 1)
            part = csr[begin : min(end, n, begin + BLOCK // 8)]
            begin += part.shape[0]
            if not part.has_canonical_format:
                part = part.copy()
                part.sum_duplicates()
            self._write(part)

    def extend(self, values: np.ndarray, indices: np.ndarray, ends: np.ndarray) -> None:
        """Write rows in order: of each, how many of these entries stand before its end."""
        values_file, before = self._files["values"], self._files["values"].rows
        if before + len(values) > MOST_SHORT and self._files["starts"].dtype == np.int32:
            for part in ("indices", "starts"):
                self._files[part] = self._files[part].rewritten(np.int64)
        values_file.append(values)
        self._files["indices"].append(indices)
        self._files["starts"].append(ends.astype(np.int64) + before)

    def shift(self, plus: int) -> None:
        """Add a number to all indices that are written."""
        indices = self._files["indices"]
        self._files["indices"] = indices.rewritten(indices.dtype, plus)

    def _write(self, part: Any) -> None:
        with np.errstate(over="raise"):
            try:
                values = part.data.astype(np.float32)
            except FloatingPointError:
                raise ValueError(
                    f"{self._name}: expected values that float32 can hold, got {np.abs(part.data).max()}"
                ) from None
        self.extend(values, part.indices, part.indptr[1:])

    def finish(self) -> dict[str, Entry]:
        """The finished files by their names."""
        return {file.path.name: file.finish() for file in self._files.values()}

    def close(self) -> None:
        """Let go of the files."""
        for file in self._files.values():
            file.close()


def _array(name: str, value: Any) -> Any:
    """A sparse matrix of real numbers, or an array of numbers with rows."""
    is_sparse = hasattr(value, "tocsr")
    array = value if is_sparse else np.asarray(value)
    kinds = KINDS.replace("c", "") if is_sparse else KINDS
    if array.dtype.kind not in kinds or array.ndim < 1 or (is_sparse and array.ndim != 2):
        expected = "a sparse matrix (n, D) of real numbers" if is_sparse else "an array (n, ...)"
        raise ValueError(f"{name}: expected {expected}, got {array.dtype} of shape {array.shape}")
    return array


def _check_names(names: Mapping[str, Any]) -> None:
    """ValueError for names that cannot be those of files everywhere."""
    folded = {name.casefold() for name in names}
    wrong = [name for name in names if not (name.isidentifier() and name.isascii())]
    if wrong or len(folded) < len(names):
        raise ValueError(
            "expected names of fields such as x or y_soft, which differ not only in case, got"
            f" {', '.join(map(repr, names))}"
        )


def _spelled(names: Sequence[str]) -> Any:
    """Names as JSON has them."""
    if isinstance(names, Numbered):
        return {"n": len(names), "first": int(names[0]) if len(names) else 0}
    return list(names)


def checksum(said: Any) -> int:
    """CRC-32 of what an index says."""
    return zlib.crc32(json.dumps(said).encode())


def write_index(path: Path, said: Any) -> None:
    """Write what `stored` reads first."""
    whole = {"format": FORMAT, "version": VERSION, "checksum": checksum(said), "content": said}
    with open(path, "x") as file:
        json.dump(whole, file)
        file.flush()
        os.fsync(file.fileno())

"""`.npy` files that grow by rows, and the same mapped into memory. NumPy and the standard library only."""

import io
import math
import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from spen_jax.data.archives import HEADERS
from spen_jax.data.files import DataError

BLOCK = 2**20
"""Bytes that are written, or read to be checked, at once."""
KINDS = "biufc"
"""What arrays may hold: truth values, and whole, real and complex numbers."""


class Entry(NamedTuple):
    """What is known of a finished file."""

    dtype: str
    shape: tuple[int, ...]
    size: int
    """Of the file, in bytes."""
    checksum: int
    """CRC-32 of the numbers."""


class Growing:
    """An array (rows, *row) in a new `.npy` file, to which rows are appended."""

    def __init__(self, path: Path, dtype: Any, row: tuple[int, ...] = ()):
        self.path, self.dtype, self.row = path, np.dtype(dtype), row
        self.rows = self._checksum = 0
        self._file = open(path, "xb")
        self._file.write(self._header())

    def append(self, array: np.ndarray) -> None:
        """Write rows, of which no more than a block is converted at once."""
        step = rows_of_block(self.dtype, self.row)
        for begin in range(0, len(array), step):
            block = np.ascontiguousarray(array[begin : begin + step], self.dtype)
            raw = block.reshape(-1).view(np.uint8).data
            self._checksum = zlib.crc32(raw, self._checksum)
            self._file.write(raw)
            self.rows += len(block)

    def rewritten(self, dtype: Any, plus: int = 0) -> "Growing":
        """The same rows in another type, or with a number added, in a file of the same name; this one ends."""
        old = self.path.with_name(f"{self.path.name}.old")
        entry = self.finish()
        os.rename(self.path, old)
        new = Growing(self.path, dtype, self.row)
        try:
            for block in blocks(old, entry):
                new.append(block + block.dtype.type(plus))
        except BaseException:
            new.close()
            raise
        old.unlink()
        return new

    def finish(self) -> Entry:
        """Say in the file's head how many rows there are, and bring all to the disk."""
        self._file.seek(0)
        self._file.write(self._header())
        self._file.flush()
        os.fsync(self._file.fileno())
        size = os.fstat(self._file.fileno()).st_size
        self._file.close()
        return Entry(self.dtype.str, (self.rows, *self.row), size, self._checksum)

    def close(self) -> None:
        """Close a file that is given up, which may be because the disk is full."""
        try:
            self._file.close()
        except OSError:
            pass

    def _header(self) -> bytes:
        """As long whatever the number of rows: NumPy leaves room for it."""
        head = io.BytesIO()
        said = {"descr": self.dtype.str, "fortran_order": False, "shape": (self.rows, *self.row)}
        np.lib.format.write_array_header_1_0(head, said)
        return head.getvalue()


def rows_of_block(dtype: np.dtype, row: tuple[int, ...]) -> int:
    """How many rows fill a block."""
    return max(1, BLOCK // max(1, dtype.itemsize * math.prod(row)))


def blocks(path: Path, entry: Entry) -> Iterator[np.ndarray]:
    """The rows of a file one block after another, read rather than mapped."""
    dtype, row = np.dtype(entry.dtype), entry.shape[1:]
    left, size = entry.shape[0], dtype.itemsize * math.prod(row)
    with open(path, "rb") as file:
        file.seek(entry.size - left * size)
        while left and size:
            n = min(left, rows_of_block(dtype, row))
            block = np.frombuffer(file.read(n * size), dtype)
            yield block.reshape(n, *row)
            left -= n


def mapped(path: Path, entry: Entry) -> np.memmap:
    """The array of a file, mapped into memory; `DataError` where it is not the one that was written."""
    try:
        size = path.stat().st_size
    except FileNotFoundError:
        raise DataError(f"{path}: expected a file of {entry.size} bytes, got none") from None
    if size != entry.size:
        raise DataError(
            f"{path}: expected {entry.size} bytes, got {size}: it was cut or written to; store anew"
        )
    expected = entry.shape, False, np.dtype(entry.dtype)
    with open(path, "rb") as file:
        try:
            found = HEADERS[np.lib.format.read_magic(file)](file)
        # Bytes from anywhere can make NumPy's parser raise nearly anything.
        except Exception as error:
            raise DataError(f"{path}: expected a .npy file, got {error}; store anew") from error
        offset = file.tell()
    if found != expected or size != offset + expected[2].itemsize * math.prod(entry.shape):
        what = "{2} of shape {0}".format(*expected)
        raise DataError(f"{path}: expected {what}, got {found[2]} of shape {found[0]}; store anew")
    return np.memmap(path, expected[2], "r", offset, entry.shape)


def check_numbers(path: Path, entry: Entry) -> None:
    """`DataError` unless the numbers are those that were written; all of them are read."""
    checksum = 0
    for block in blocks(path, entry):
        checksum = zlib.crc32(block.reshape(-1).view(np.uint8).data, checksum)
    if checksum != entry.checksum:
        raise DataError(f"{path}: expected CRC-32 {entry.checksum}, got {checksum}; store anew")

"""Arrays of `.npz` files, read without unpickling and checked. NumPy and the standard library only."""

import math
import os
import zipfile
from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np

from spen_jax.data.files import DataError
from spen_jax.data.lines import TIMES, most_unpacked

PIECE = 2**20
HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


def arrays_of(path: str | Path, names: Collection[str] | None = None) -> dict[str, np.ndarray]:
    """The arrays of a `.npz` by name, all or those of these names; no more memory than they hold, nothing unpickled.

    OSError where the file cannot be opened, `DataError` for whatever else it is: no archive, a damaged one, one that
    claims more than it holds, one that holds more than `lines.most_unpacked` of its size, arrays of Python objects,
    a name that is not there.
    """
    what = "whole arrays" if names is None else f"the arrays {', '.join(names)}"
    with open(path, "rb") as file:
        try:
            with zipfile.ZipFile(file) as archive:
                files = [name for name in archive.namelist() if name.endswith(".npy")]
                if len({*files}) < len(files):
                    raise ValueError("a name stands in it twice")
                _check_sizes(archive, os.fstat(file.fileno()).st_size)
                there = [name.removesuffix(".npy") for name in files]
                return {name: _array(archive, name) for name in (there if names is None else names)}
        # Bytes from anywhere can make zipfile, its decompressors and NumPy's parser raise nearly anything.
        except Exception as error:
            raise DataError(
                f"{path}: expected a NumPy .npz file of {what}, without pickles, got "
                f"{type(error).__name__}: {error}; make or copy the file anew"
            ) from error


def _check_sizes(archive, size):
    """ValueError unless what the entries claim can be held by a file of so many bytes."""
    entries = archive.infolist()
    for entry in entries:
        if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ValueError(f"{entry.filename} is packed as np.savez_compressed does not pack")
    if min((min(e.compress_size, e.file_size) for e in entries), default=0) < 0 or size < sum(
        entry.compress_size for entry in entries
    ):
        raise ValueError(f"its entries claim more than its {size} bytes")
    most, claimed = most_unpacked(size), sum(entry.file_size for entry in entries)
    if claimed > most:
        raise ValueError(
            f"its arrays claim {claimed:,} bytes, and {most:,}, {TIMES} times the file's, are the limit; "
            "np.savez, which does not compress, writes any"
        )


def _array(archive, name):
    try:
        entry = archive.getinfo(f"{name}.npy")
    except KeyError:
        raise ValueError(f"{name} is not a file in the archive") from None
    with archive.open(entry) as file:
        version = np.lib.format.read_magic(file)
        if version not in HEADERS:
            raise ValueError(f"{name} has version {version} of NumPy's format")
        shape, in_columns, dtype = HEADERS[version](file)
        if dtype.hasobject:
            raise ValueError(f"{name} holds Python objects")
        size, held = dtype.itemsize * math.prod(shape), entry.file_size - file.tell()
        if dtype.itemsize == 0:
            raise ValueError(f"{name} has items of no bytes")
        if size != held or min(shape, default=0) < 0:
            raise ValueError(f"{name} claims {size} bytes and holds {held}")
        array = np.empty(math.prod(shape), dtype)
        into = array.view(np.uint8)  # piece by piece: nothing is there twice
        for begin in range(0, size, PIECE):
            piece = file.read(min(PIECE, size - begin))
            if len(piece) < min(PIECE, size - begin):
                raise ValueError(f"{name} ends before its {size} bytes")
            into[begin : begin + len(piece)] = np.frombuffer(piece, np.uint8)
        if file.read(1):  # at the end the checksum is compared
            raise ValueError(f"{name} goes on after its end")
    return array.reshape(shape, order="F" if in_columns else "C")


def read_arrays(path: Path, axes: Mapping[str, int]) -> list[np.ndarray]:
    """The arrays of these names, whole numbers with so many axes; `DataError` for others."""
    arrays = arrays_of(path, axes)
    for name, rank in axes.items():
        is_right = arrays[name].dtype.kind in "iu" and arrays[name].ndim == rank
        found = f"{arrays[name].dtype} of shape {arrays[name].shape}"
        expect(path, is_right, f"{name}, whole numbers with {rank} axes", found)
    return [arrays[name] for name in axes]


def expect(path: Path, holds: bool | np.bool, expected: str, found: str) -> None:
    """`DataError`, which says what was expected and found, unless it holds."""
    if not holds:
        raise DataError(f"{path}: expected {expected}, got {found}; make or copy the file anew")


def expect_range(path: Path, name: str, array: np.ndarray, last: int) -> None:
    """`DataError` unless all of an array lies between 0 and `last`."""
    low, high = array.min(), array.max()
    expect(path, 0 <= low and high <= last, f"{name} from 0 to {last}", f"{low} to {high}")

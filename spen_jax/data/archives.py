"""Arrays of `.npz` files, read without unpickling and checked. NumPy and the standard library only."""

import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from spen_jax.data.files import DataError

# What NumPy raises for files that are none of its own, or damaged.
_UNREADABLE = OSError, ValueError, KeyError, EOFError, TypeError, zipfile.BadZipFile, zlib.error


def read_arrays(path: Path, axes: Mapping[str, int]) -> list[np.ndarray]:
    """The arrays of these names, whole numbers with so many axes; `DataError` for others."""
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as archive:
            arrays = [archive[name] for name in axes]
    except FileNotFoundError:
        raise
    except _UNREADABLE as error:
        raise DataError(
            f"{path}: expected a NumPy .npz file of the arrays {', '.join(axes)}, without pickles, "
            f"got {type(error).__name__}: {error}; make or copy the file anew"
        ) from error
    for (name, rank), array in zip(axes.items(), arrays, strict=True):
        is_right = array.dtype.kind in "iu" and array.ndim == rank
        found = f"{array.dtype} of shape {array.shape}"
        expect(path, is_right, f"{name}, whole numbers with {rank} axes", found)
    return arrays


def expect(path: Path, holds: bool | np.bool, expected: str, found: str) -> None:
    """`DataError`, which says what was expected and found, unless it holds."""
    if not holds:
        raise DataError(f"{path}: expected {expected}, got {found}; make or copy the file anew")


def expect_range(path: Path, name: str, array: np.ndarray, last: int) -> None:
    """`DataError` unless all of an array lies between 0 and `last`."""
    low, high = array.min(), array.max()
    expect(path, 0 <= low and high <= last, f"{name} from 0 to {last}", f"{low} to {high}")

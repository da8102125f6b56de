"""The N L cells of a metric: read, checked, and ordered.

What a user gives is read here, once for all metrics and rules: booleans, integers and floats of any width and any
order in memory, of NumPy, JAX or lists. Masked arrays, complex numbers, strings, dates and objects raise
ValueError by name: their NumPy arrays would be other numbers than they seem.
"""

import operator
from numbers import Real
from typing import Any, NamedTuple

import numpy as np
from jax.typing import ArrayLike

from spen_jax.numbers import real_array


class Cells(NamedTuple):
    """Values float64 (N, L), truth bool (N, L), and which cells count, bool (N, L).

    In a cell that does not count the truth is False.
    """

    values: np.ndarray
    truth: np.ndarray
    counted: np.ndarray

    def ranked(self) -> "Cells":
        """Each row by falling values, of equal ones the lower label first; what does not count last, at -inf."""
        values = np.where(self.counted, self.values, -np.inf)
        order = falling(values)
        return Cells(along(values, order), along(self.truth, order), along(self.counted, order))


def read(name: str, values: ArrayLike, truth: ArrayLike, mask: ArrayLike | None) -> Cells:
    """The cells of finite `values`, called `name`, and of a truth of 0 and 1; ValueError for others.

    Where the mask is False both may be anything, NaN included, and are read as 0.
    """
    for what, given in ((name, values), ("truth", truth)):
        if hasattr(type(given), "tocsr"):
            raise ValueError(f"{what} is a sparse matrix, and this takes arrays: give .toarray()")
    found, y = real_array(name, values).astype(np.float64), real_array("truth", truth)
    if y.ndim != 2 or y.size == 0 or y.shape != found.shape:
        raise ValueError(
            f"{name} and truth must share one shape (N, L), N and L at least 1, but have "
            f"{found.shape} and {y.shape}: give a row to each example"
        )
    counted = read_mask(mask, y.shape)
    if not counted.any():
        raise ValueError("mask must let some label count, but is all False: nothing can be said")
    if mask is not None:
        found, y = np.where(counted, found, 0.0), np.where(counted, y, 0)
    check_binary("truth", y, "round it first; truth is the second argument")
    if not np.isfinite(found).all():
        raise ValueError(
            f"{name} must be finite, but {np.sum(~np.isfinite(found))} of {found.size} entries "
            "are not: find the examples whose inference diverged"
        )
    return Cells(found, y == 1, counted)


def number(name: str, value: Any) -> float:
    """One real number, infinity included; ValueError for anything else."""
    if isinstance(value, Real) or real_array(name, value).ndim == 0:
        if not np.isnan(value := float(value)):
            return value
    raise ValueError(f"{name} must be one number, but is {value}: give a float")


def whole(name: str, value: Any) -> int:
    """One whole number; ValueError for anything else."""
    try:
        return operator.index(value)
    except TypeError as error:
        raise ValueError(f"{name} must be a whole number, but is {value!r}: give an int") from error


def read_mask(mask: ArrayLike | None, shape: tuple[int, ...]) -> np.ndarray:
    """A mask as bool (N, L), all True without one; ValueError if it is something else."""
    if mask is None:
        return np.broadcast_to(True, shape)
    counted = real_array("mask", mask)
    if counted.shape != shape:
        raise ValueError(
            f"mask must have the shape {shape} of what it masks, but has {counted.shape}: "
            "give True to each label that counts"
        )
    check_binary("mask", counted, "give True to each label that counts")
    return counted == 1


def check_binary(name: str, values: np.ndarray, advice: str) -> None:
    """ValueError, with advice, for anything but 0 and 1."""
    other = values[(values != 0) & (values != 1)]
    if other.size:
        raise ValueError(f"{name} must hold only 0 and 1, but holds {other[0]}: {advice}")


def falling(values: np.ndarray) -> np.ndarray:
    """The order of the last axis by falling values, of equal ones the first first."""
    return np.argsort(-values, axis=-1, kind="stable")


def along(values: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Each row of `values` (N, L) in its order, (N, L)."""
    return np.take_along_axis(values, order, axis=1)

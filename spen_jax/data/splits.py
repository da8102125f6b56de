"""Examples in memory: a split, a data set of two, and rows drawn for validation. NumPy only."""

import math
import operator
from numbers import Real
from typing import Any, NamedTuple

import numpy as np


class Split(NamedTuple):
    """N examples: features `x` float32 (N, D), an array or a SciPy matrix, labels `y` float32 (N, L), each 0 or 1.

    A `mask` bool (N, L) is True where y is known and counts; without it, everywhere. Where it is
    False y may be anything, NaN included.
    """

    x: np.ndarray
    y: np.ndarray
    mask: np.ndarray | None = None


class Dataset(NamedTuple):
    """A training and a test split with the same columns, and where they came from.

    `checksums` maps file names to SHA-256 in hex; for synthetic data it maps "train" and "test"
    to the SHA-256 of the bytes of x followed by those of y.
    """

    name: str
    train: Split
    test: Split
    feature_names: tuple[str, ...]
    label_names: tuple[str, ...]
    checksums: dict[str, str]
    synthetic: bool


def split(n: int, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return sorted (training rows, validation rows): a seeded random partition of range(n).

    `fraction`, between 0 and 1, is the share of validation rows; ValueError if either part would
    be empty, and for arguments that are no such numbers.
    """
    n, seed = whole("n", n), whole("seed", seed)
    if not (isinstance(fraction, Real) and math.isfinite(fraction)):
        raise ValueError(f"expected fraction, a number between 0 and 1, got {fraction!r}")
    held_out = round(n * fraction)
    if not 0 < held_out < n:
        raise ValueError(
            f"expected rows in both parts, got {held_out} of n={n} for validation at fraction={fraction}"
        )
    rows = np.random.default_rng(seed).permutation(n)
    return np.sort(rows[held_out:]), np.sort(rows[:held_out])


def whole(name: str, value: Any) -> int:
    """`value`, called `name`, as an int of 0 or more; ValueError for anything else."""
    try:
        number = operator.index(value)
    except TypeError:
        number = -1
    if number < 0:
        raise ValueError(f"expected {name}, a whole number of 0 or more, got {value!r}")
    return number

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
    """A training and a test split, `train` and `test`, with the same columns, and where they came from.

    `name` is the data set's. `feature_names` are the D columns of x, `label_names` the L of y. `checksums` maps file
    names to SHA-256 in hex; for `synthetic` data it maps "train" and "test" to the SHA-256 of the bytes of x followed
    by those of y.
    """

    name: str
    train: Split
    test: Split
    feature_names: tuple[str, ...]
    label_names: tuple[str, ...]
    checksums: dict[str, str]
    synthetic: bool


def split(
    n: int, fraction: float, seed: int, *, y: Any = None, groups: Any = None, times: Any = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return sorted (training rows, validation rows), a partition of range(n): at random, or by one of three more.

    `fraction`, between 0 and 1, is the share of validation rows.

    - `y`: labels (n, L) of 0 and 1, an array or a SciPy matrix, NaN counting as 0. Each label is on in both parts in
      about this proportion, the rarest first: iterative stratification (Sechidis, Tsoumakas & Vlahavas 2011), with
      parts of the same sizes as at random.
    - `groups`: (n,) of anything; rows of one group stay together, such as those of a patient.
    - `times`: (n,) that can be ordered; the last rows validate, those of one time stay together, and the seed has no
      say.

    ValueError if either part would be empty, and for arguments that are not such.
    """
    n, seed = whole("n", n), whole("seed", seed)
    if not (isinstance(fraction, Real) and math.isfinite(fraction)):
        raise ValueError(f"expected fraction, a number between 0 and 1, got {fraction!r}")
    held_out = round(n * fraction)
    if not 0 < held_out < n:
        raise ValueError(
            f"expected rows in both parts, got {held_out} of n={n} for validation at fraction={fraction}"
        )
    given = {"y": y, "groups": groups, "times": times}
    said = [name for name, value in given.items() if value is not None]
    if len(said) > 1:
        raise ValueError(f"expected one of y, groups and times, got {' and '.join(said)}")
    rng = np.random.default_rng(seed)
    if not said:
        rows = rng.permutation(n)
        return np.sort(rows[held_out:]), np.sort(rows[:held_out])
    how = {"y": _by_labels, "groups": _by_groups, "times": _by_times}[said[0]]
    values: Any = given[said[0]]
    length = values.shape[0] if hasattr(values, "shape") else len(values)
    if length != n:
        raise ValueError(f"expected {said[0]} of n={n} rows, got {length}")
    held = how(values, held_out, rng)
    if not 0 < held.sum() < n:
        raise ValueError(f"expected rows in both parts, but all {n} rows have one of {said[0]}")
    return np.flatnonzero(~held), np.flatnonzero(held)


def _by_labels(y: Any, held_out: int, rng: np.random.Generator) -> np.ndarray:
    """Whether each row validates: label by label, from the one with the fewest rows left on."""
    from scipy import sparse

    matrix: Any = sparse.csr_array(np.nan_to_num(y) if isinstance(y, np.ndarray) else y)
    matrix.eliminate_zeros()
    if not np.isin(matrix.data, (0, 1)).all():
        raise ValueError("expected y of 0 and 1 to stratify by, got other numbers")
    n = matrix.shape[0]
    of_row = np.split(matrix.indices, matrix.indptr[1:-1])
    columns = matrix.tocsc()
    share = np.array([1 - held_out / n, held_out / n])
    left = np.array([n - held_out, held_out])
    counts = np.diff(columns.indptr)
    wanted, remaining = share[:, None] * counts, counts.astype(float)
    remaining[counts == 0] = np.inf
    part = np.full(n, -1)

    def put(row: int, wishes: np.ndarray) -> None:
        most = np.where(left > 0, wishes, -np.inf)
        best = np.flatnonzero(most == most.max())
        if len(best) > 1:
            best = best[left[best] == left[best].max()]
        to = best[0] if len(best) == 1 else rng.choice(best)
        part[row] = to
        left[to] -= 1
        wanted[to, of_row[row]] -= 1
        remaining[of_row[row]] -= 1

    while len(counts) and np.isfinite(remaining).any():
        label = int(np.argmin(remaining))
        rows = columns.indices[columns.indptr[label] : columns.indptr[label + 1]]
        for row in rng.permutation(rows[part[rows] < 0]):
            put(int(row), wanted[:, label])
        remaining[remaining <= 0] = np.inf
        remaining[label] = np.inf
    for row in rng.permutation(np.flatnonzero(part < 0)):
        put(int(row), left / share)
    return part == 1


def _by_groups(groups: Any, held_out: int, rng: np.random.Generator) -> np.ndarray:
    """Whether each row validates: groups in random order, as long as that comes nearer to the number of rows."""
    _, group, counts = np.unique(np.asarray(groups), return_inverse=True, return_counts=True)
    order, taken, held = rng.permutation(len(counts)), 0, []
    for each in order:
        if not held or abs(taken + counts[each] - held_out) < abs(taken - held_out):
            held.append(each)
            taken += counts[each]
    return np.isin(group.ravel(), held)


def _by_times(times: Any, held_out: int, rng: np.random.Generator) -> np.ndarray:
    """Whether each row validates: from the time on at which about as many rows are left."""
    found, place, counts = np.unique(np.asarray(times), return_inverse=True, return_counts=True)
    later = np.cumsum(counts[::-1])[::-1]  # rows from each time on
    first = 1 + int(np.argmin(np.abs(later[1:] - held_out))) if len(found) > 1 else 0
    return place.ravel() >= first


def whole(name: str, value: Any) -> int:
    """`value`, called `name`, as an int of 0 or more; ValueError for anything else."""
    try:
        number = operator.index(value)
    except TypeError:
        number = -1
    if number < 0:
        raise ValueError(f"expected {name}, a whole number of 0 or more, got {value!r}")
    return number

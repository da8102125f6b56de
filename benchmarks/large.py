"""Rows for data sets larger than memory, made part by part: features and labels whose popularity is Zipf's.

The feature of rank r is about 1 / (r + 1) as frequent as the first, until rows are full of the first ones; columns are
the ranks, scattered. The labels of a row are those of some of its features, so they can be learnt.
"""

from pathlib import Path

import numpy as np
from scipy import sparse

from spen_jax.data import Stored, stored, storing

_PART = 2**18
"""Entries that are made at once."""


def write(
    folder: str | Path,
    rows: int,
    features: int = 10**6,
    k: int = 100,
    *,
    labels: int = 10_000,
    labels_of_row: int = 3,
    seed: int = 0,
) -> Stored:
    """Store x (rows, features), k entries in every row, and y (rows, labels), at most `labels_of_row`, both CSR."""
    rng = np.random.default_rng(seed)
    with storing(folder) as part:
        for begin in range(0, rows, max(1, _PART // k)):
            n = min(rows - begin, max(1, _PART // k))
            ranks = _ranks(rng, n, features, k)
            x = _matrix(_scattered(ranks, features), features)
            x.data = rng.random(x.nnz, np.float32)
            chosen = np.take_along_axis(ranks, rng.integers(0, k, (n, labels_of_row)), 1)
            part.append(x=x, y=_matrix(_scattered(chosen % labels, labels), labels))
    return stored(folder)


def _ranks(rng: np.random.Generator, n: int, features: int, k: int) -> np.ndarray:
    """(n, k) distinct ranks, ascending in every row."""
    drawn = np.exp(rng.random((n, k)) * np.log(features)).astype(np.int64) - 1
    drawn.sort(1)
    place = np.arange(k)
    # A rank that is taken gives way to the next.
    return np.minimum(np.maximum.accumulate(drawn - place, 1) + place, features - k + place)


def _scattered(ranks: np.ndarray, n: int) -> np.ndarray:
    """Each rank's column, of n."""
    step = int(0.618 * n) | 1
    while np.gcd(step, n) > 1:
        step += 2
    return ranks * step % n


def _matrix(columns: np.ndarray, n: int) -> sparse.csr_array:
    """CSR of ones, (rows, n), a column once in a row."""
    columns = np.sort(columns, 1).astype(np.int32)
    first = np.diff(columns, axis=1, prepend=-1) > 0
    starts = np.concatenate([[0], np.cumsum(first.sum(1))])
    ones = np.ones(starts[-1], np.float32)
    return sparse.csr_array((ones, columns[first], starts), shape=(len(columns), n))

"""Scores, label sets and truths of very many labels: SciPy's sparse matrices (N, L), of which what is not stored is 0.

Nothing here makes an array (N, L). N examples, L labels. Every metric of these gives the number that it gives of the
same arrays; `ranked` and `label_sets` make matrices of label numbers.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from jax.typing import ArrayLike

from spen_jax.metrics.cells import check_binary, falling, whole
from spen_jax.numbers import check_real_type, real_array


def is_compressed(*matrices: Any) -> bool:
    """Whether one of them is a sparse matrix of SciPy's."""
    return any(hasattr(type(a), "tocsr") for a in matrices)


def compressed(name: str, values: Any) -> Any:
    """A matrix (N, L), or an array, as CSR of float64 without stored zeros; ValueError, by name, for others."""
    from scipy.sparse import csr_array

    if is_compressed(values):
        check_real_type(name, values.dtype)
    else:
        values = real_array(name, values)
    if len(values.shape) != 2 or 0 in values.shape:
        raise ValueError(
            f"{name} must be (N, L), N and L at least 1, but is {values.shape}: give a row to each example"
        )
    matrix = csr_array(values, dtype=np.float64, copy=True)
    matrix.sum_duplicates()
    if not np.isfinite(matrix.data).all():
        raise ValueError(f"{name} must be finite: find the examples whose inference diverged")
    matrix.eliminate_zeros()
    return matrix


def read_both(name: str, values: Any, truth: Any, mask: Any) -> tuple[Any, Any]:
    """Values, called `name`, and a truth of 0 and 1, as CSR of one shape; ValueError for others, and for a mask."""
    if mask is not None:
        raise ValueError(
            "a mask needs arrays (N, L): leave out of both sparse matrices what does not count"
        )
    found, y = compressed(name, values), compressed("truth", truth)
    if found.shape != y.shape:
        raise ValueError(
            f"{name} and truth must share one shape (N, L), but have {found.shape} and {y.shape}: "
            "give a row to each example"
        )
    check_binary("truth", y.data, "round it first; truth is the second argument")
    return found, y


def overlap(predicted: Any, truth: Any, mask: Any, axis: int | None) -> tuple[Any, Any, Any]:
    """Along `axis` |A ∩ B|, |A| + |B|, A true, B predicted, and how many cells there are."""
    values, y = read_both("predicted", predicted, truth, mask)
    check_binary("predicted", values.data, "round it first")
    hits, total = (np.asarray(a.sum(axis=axis)).astype(int) for a in (values * y, values + y))
    cells = np.prod(y.shape) if axis is None else np.full(y.shape[1 - axis], y.shape[axis])
    return hits, total, cells


def best(scores: Any, k: int) -> np.ndarray:
    """The labels (N, k) of the k best scores, the best first, of equal ones the lower; ValueError for k not in 1..L."""
    dense = None if is_compressed(scores) else real_array("scores", scores).astype(np.float64)
    matrix = compressed("scores", scores)
    if not 1 <= (k := whole("k", k)) <= matrix.shape[1]:
        raise ValueError(f"k must be in 1..{matrix.shape[1]} (the labels), but is {k}: choose less")
    if dense is not None:
        return falling(dense)[:, :k]
    rows = _rows(matrix)
    order = np.lexsort((matrix.indices, -matrix.data, rows))
    columns, values = matrix.indices[order], matrix.data[order]
    place = np.arange(len(rows)) - matrix.indptr[rows]
    first = (place < k) & (values > 0)
    found = np.full((matrix.shape[0], k), -1, np.int64)
    found[rows[first], place[first]] = columns[first]
    for i in np.flatnonzero(found[:, -1] < 0):
        own = slice(*matrix.indptr[i : i + 2])
        found[i] = _filled(columns[own], values[own], k, matrix.shape[1])
    return found


def _filled(columns, values, k, size):
    """The k best of a row, whose stored ones fall: between positive and negative ones stand the zeros."""
    zeros = np.setdiff1d(np.arange(min(size, k + len(columns))), columns)
    return np.concatenate([columns[values > 0], zeros, columns[values < 0]])[:k]


def hits(labels: np.ndarray, truth: Any) -> np.ndarray:
    """Which of labels (N, k) are true, bool (N, k), by the truth as CSR."""
    size = truth.shape[1]
    cells = _rows(truth).astype(np.int64) * size + truth.indices
    return np.isin(np.arange(len(labels))[:, None] * size + labels, cells)


def best_sums(truth: Any, worth: np.ndarray, k: int) -> np.ndarray:
    """The sum of the k largest worths (L,) of each example's true labels, (N,)."""
    rows, values = _rows(truth), worth[truth.indices]
    order = np.lexsort((-values, rows))
    first = np.arange(len(rows)) - truth.indptr[rows] < k
    return np.bincount(rows[first], values[order][first], minlength=truth.shape[0])


def _rows(matrix):
    """The row of each stored number."""
    return np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))


def ranked(labels: ArrayLike, n_labels: int) -> Any:
    """The numbers `labels` (N, k), the best first, as scores k, k - 1, ..., 1: a CSR matrix (N, n_labels).

    ValueError for what are no whole numbers from 0 to n_labels - 1, and for a label that a row has twice.
    """
    labels = real_array("labels", labels)
    if labels.ndim != 2:
        raise ValueError(f"labels must be (N, k), a row for each example, got {labels.shape}")
    n, k = labels.shape
    scores = np.tile(np.arange(k, 0, -1.0), n)
    return _matrix(labels.ravel(), scores, np.arange(n + 1) * k, n_labels)


def label_sets(lists: Iterable[Sequence[int] | np.ndarray], n_labels: int) -> Any:
    """The label numbers of each example, a list of lists, as a CSR matrix (N, n_labels) of 0 and 1.

    ValueError as `ranked`.
    """
    each = [real_array("labels", one if len(one) else np.zeros(0, int)) for one in lists]
    ends = np.cumsum([0, *map(len, each)])
    flat = np.concatenate(each) if each else np.zeros(0, int)
    return _matrix(flat, np.ones(len(flat)), ends, n_labels)


def _matrix(labels, values, ends, n_labels):
    from scipy.sparse import csr_array

    if labels.size and labels.dtype.kind not in "iu":
        raise ValueError(f"labels must be whole numbers, got {labels.dtype}")
    if labels.size and not 0 <= labels.min() <= labels.max() < n_labels:
        raise ValueError(
            f"labels must lie in 0..{n_labels - 1}, got {labels.min()} to {labels.max()}"
        )
    rows = np.repeat(np.arange(len(ends) - 1), np.diff(ends))
    if len(np.unique(rows.astype(np.int64) * n_labels + labels)) < len(labels):
        raise ValueError("labels of an example must differ, but one has a label twice")
    return csr_array((values, labels, ends), shape=(len(ends) - 1, n_labels))

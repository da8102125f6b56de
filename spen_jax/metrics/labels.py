"""How good predicted label sets and rankings are.

Arguments that mean the same everywhere: `predicted` (N, L) is a decision, 0/1 or bool, one row per
example; `scores` (N, L) are real and finite, larger means likelier; `truth` (N, L), 0 or 1, comes
second. `mask` (N, L), bool, says which cells count; without it, all. The others play no part, and
may hold anything; nor does an example, or in `macro_f1` a label, of which no cell counts. NumPy and
JAX arrays both serve, outside `jit`; other shapes, types or values raise ValueError (`cells`). Every
metric is a float in [0, 1], not per cent.

Of very many labels all but `average_precision` also take SciPy's sparse matrices, without a mask: what they
do not store is 0, and no array (N, L) is made (`compressed`). `propensities` and
`propensity_scored_precision_at_k` take arrays as well.
"""

from typing import Any

import numpy as np
from jax.typing import ArrayLike

from spen_jax.metrics import compressed
from spen_jax.metrics.cells import along, check_binary, number, read, whole
from spen_jax.numbers import real_array


def example_f1(predicted: Any, truth: Any, mask: ArrayLike | None = None) -> float:
    """Mean over examples of 2 |A ∩ B| / (|A| + |B|), A true, B predicted; 1 if both are empty.

    `predicted` and `truth` (N, L) are 0 and 1 or bool, arrays or SciPy's sparse matrices; `mask` (N, L), bool, says
    which cells of arrays count. In [0, 1]. ValueError for other shapes, types and values.
    """
    hits, total, counted = _overlap(predicted, truth, mask, axis=1)
    f1 = np.where(total == 0, 1.0, 2 * hits / np.maximum(total, 1))
    return float(np.mean(f1[counted > 0]))


def micro_f1(predicted: Any, truth: Any, mask: ArrayLike | None = None) -> float:
    """2 |A ∩ B| / (|A| + |B|) over all cells at once, A true, B predicted; 0 if nothing is true or predicted.

    `predicted`, `truth` and `mask` (N, L), 0 and 1, and the errors are those of `example_f1`; in [0, 1].
    """
    hits, total, _ = _overlap(predicted, truth, mask, axis=None)
    return float(2 * hits / np.maximum(total, 1))


def macro_f1(predicted: Any, truth: Any, mask: ArrayLike | None = None) -> float:
    """Mean over labels of 2 |A ∩ B| / (|A| + |B|), A the examples that have it, B those given it.

    A label neither true nor predicted anywhere counts as 0, as with scikit-learn's
    `zero_division=0`: labels that a split happens to lack pull this mean down. `predicted`, `truth` and
    `mask` (N, L), 0 and 1, and the errors are those of `example_f1`; in [0, 1].
    """
    hits, total, counted = _overlap(predicted, truth, mask, axis=0)
    return float(np.mean((2 * hits / np.maximum(total, 1))[counted > 0]))


def hamming_error(predicted: Any, truth: Any, mask: ArrayLike | None = None) -> float:
    """Fraction of the cells that count in which truth and prediction differ.

    `predicted`, `truth` and `mask` (N, L), 0 and 1, and the errors are those of `example_f1`; in [0, 1].
    """
    hits, total, counted = _overlap(predicted, truth, mask, axis=None)
    return float((total - 2 * hits) / counted)


def precision_at_k(scores: Any, truth: Any, k: int, mask: ArrayLike | None = None) -> float:
    """Mean over examples of (true labels among the k best scores) / k, for k in 1..L.

    Of equal scores the lower label index goes first. Where fewer than k labels of an example count,
    it is the share of true ones among these. `scores` (N, L) are real and finite, larger means
    likelier; `truth` (N, L) is 0 and 1; both arrays or SciPy's sparse matrices; `mask` (N, L), bool,
    says which cells of arrays count. In [0, 1]. Raises ValueError for other k, shapes and values.
    """
    if compressed.is_compressed(scores, truth):
        matrix, true = compressed.read_both("scores", scores, truth, mask)
        return float(np.mean(compressed.hits(compressed.best(matrix, k), true)))
    values, y, counted = read("scores", scores, truth, mask).ranked()
    if not 1 <= (k := whole("k", k)) <= y.shape[1]:
        raise ValueError(f"k must be in 1..{y.shape[1]} (the labels), but is {k}: choose less")
    best = np.sum(counted[:, :k], axis=1)
    kept = best > 0
    return float(np.mean(np.sum(y[kept, :k], axis=1) / best[kept]))


def propensities(truth: Any, A: float = 0.55, B: float = 1.5) -> np.ndarray:
    """p_l = 1 / (1 + C (N_l + B)^-A), C = (log N - 1) (B + 1)^A: how likely a true label is recorded as true, (L,).

    N_l of N rows of the training truth (N, L), an array or a sparse matrix, have label l: rare labels are missed more
    often. A and B are those of Wikipedia, which the tables take for sets without their own; Wikipedia-500K
    has 0.5 and 0.4, Amazon 0.6 and 2.6. Source: Jain, Prabhu & Varma (2016), section 4.2.
    ValueError for fewer than 3 rows, of which C is below 0.
    """
    y = compressed.compressed("truth", truth)
    check_binary("truth", y.data, "round it first")
    if y.shape[0] < 3:
        raise ValueError(f"propensities need 3 rows of training truth or more, got {y.shape[0]}")
    A, B = number("A", A), number("B", B)
    C = (np.log(y.shape[0]) - 1) * (B + 1) ** A
    counts = np.bincount(y.indices, minlength=y.shape[1])
    return 1 / (1 + C * (counts + B) ** -A)


def propensity_scored_precision_at_k(
    scores: Any, truth: Any, k: int, propensity: ArrayLike, *, normalised: bool = True
) -> float:
    """Mean over examples of sum over the k best scores of y_l / p_l / k, over that of the best ranking there is.

    With p = `propensity` (L,), that of `propensities` by the training truth, it is an estimate of the precision at k by
    all true labels, those that nobody recorded too; what is rare counts more. The tables have it `normalised`, so that
    the best is 1: the ratio of two means. Without that it may exceed 1. Of equal scores the lower label goes first.
    `scores` (N, L) are finite, `truth` (N, L) 0 and 1, arrays or sparse matrices; k in 1..L. Source: Jain, Prabhu &
    Varma (2016). ValueError for p outside (0, 1], for other k, shapes and values, and, where it is normalised, for a
    truth of no label.
    """
    y = compressed.read_both("scores", scores, truth, None)[1]
    p = real_array("propensity", propensity).astype(np.float64)
    if p.shape != y.shape[1:] or not np.all((p > 0) & (p <= 1)):
        raise ValueError(
            f"propensity must be {y.shape[1:]}, one above 0 and at most 1 for each label, got shape {p.shape}: "
            "give those of metrics.propensities(training truth)"
        )
    labels = compressed.best(scores, k)
    gained = np.sum(compressed.hits(labels, y) / p[labels], axis=1)
    if not normalised:
        return float(np.mean(gained) / k)
    if not y.nnz:
        raise ValueError(
            "truth must hold a true label, but holds none: check how the labels were read"
        )
    return float(np.mean(gained) / np.mean(compressed.best_sums(y, 1 / p, k)))


def average_precision(scores: ArrayLike, truth: ArrayLike, mask: ArrayLike | None = None) -> float:
    """Mean over examples of sum_n (R_n - R_(n-1)) P_n, n counting an example's distinct scores.

    P_n and R_n are precision and recall when all labels scoring at least the n-th highest value are
    predicted, so labels that tie come in together. An example without true labels has no recall
    and is left out; ValueError if no other is left. scikit-learn's
    `average_precision_score(average="samples")`, which counts such an example as 0, agrees on the
    others. `scores` (N, L) are finite, `truth` (N, L) is 0 and 1, `mask` (N, L), bool, says which
    cells count: arrays, no sparse matrices. In [0, 1].
    """
    values, y, _ = read("scores", scores, truth, mask).ranked()
    kept = y.any(axis=1)
    if not kept.any():
        raise ValueError(
            "truth must hold a true label that counts, but holds none: check how the labels were read"
        )
    values, y = values[kept], y[kept]
    place = np.arange(y.shape[1])
    # For each place, the last place of the same score.
    is_end = np.pad(values[:, 1:] < values[:, :-1], ((0, 0), (0, 1)), constant_values=True)
    end = np.minimum.accumulate(np.where(is_end, place, place[-1])[:, ::-1], axis=1)[:, ::-1]
    precision = along(np.cumsum(y, axis=1) / (place + 1), end)
    return float(np.mean(np.sum(y * precision, axis=1) / np.sum(y, axis=1)))


def _overlap(predicted: Any, truth: Any, mask: ArrayLike | None, axis: int | None):
    """Along `axis` |A ∩ B|, |A| + |B|, and how many cells count."""
    if compressed.is_compressed(predicted, truth):
        return compressed.overlap(predicted, truth, mask, axis)
    values, y, counted = read("predicted", predicted, truth, mask)
    check_binary("predicted", values, "round it first")
    return np.sum(y * values, axis=axis), np.sum(y + values, axis=axis), np.sum(counted, axis=axis)

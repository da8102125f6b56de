"""How good predicted label sets and rankings are, and how to turn scores into label sets.

Arguments that mean the same everywhere: `y` (N, L) is the truth, 0 or 1, one row per example;
`predicted` (N, L) is a decision, 0/1 or bool; `scores` (N, L) are real and finite, larger means
likelier. NumPy and JAX arrays both serve, outside `jit`; other shapes or values raise ValueError.
Every metric is a float in [0, 1], not per cent.

There are three ways to decide: `decide` at a fixed threshold, `decide` at the threshold found by
`tune_threshold`, and `expected_f1_sets` of probabilities, such as those of `tune_expected`. The
`tune_` functions suit their result to the rows they see, on which it then looks better than it is:
give them training or validation rows, never test rows.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike


def example_f1(y: ArrayLike, predicted: ArrayLike) -> float:
    """Mean over examples of 2 |A ∩ B| / (|A| + |B|), A true, B predicted; 1 if both are empty."""
    hits, total = _hits_and_total(y, predicted, axis=1)
    return float(np.mean(np.where(total == 0, 1.0, 2 * hits / np.maximum(total, 1))))


def micro_f1(y: ArrayLike, predicted: ArrayLike) -> float:
    """2 |A ∩ B| / (|A| + |B|) over all N L cells at once; 0 if nothing is true or predicted."""
    hits, total = _hits_and_total(y, predicted, axis=None)
    return float(2 * hits / np.maximum(total, 1))


def macro_f1(y: ArrayLike, predicted: ArrayLike) -> float:
    """Mean over labels of 2 |A ∩ B| / (|A| + |B|), A the examples that have it, B those given it.

    A label neither true nor predicted anywhere counts as 0, as with scikit-learn's
    `zero_division=0`: labels that a split happens to lack pull this mean down.
    """
    hits, total = _hits_and_total(y, predicted, axis=0)
    return float(np.mean(2 * hits / np.maximum(total, 1)))


def hamming_error(y: ArrayLike, predicted: ArrayLike) -> float:
    """Fraction of the N L cells in which truth and prediction differ."""
    hits, total = _hits_and_total(y, predicted, axis=None)
    return float((total - 2 * hits) / np.size(y))


def precision_at_k(y: ArrayLike, scores: ArrayLike, k: int) -> float:
    """Mean over examples of (true labels among the k best scores) / k, for k in 1..L.

    Of equal scores the lower label index goes first. Raises ValueError for other k.
    """
    truth, values = _checked(y, scores, "scores")
    if not 1 <= k <= truth.shape[1]:
        raise ValueError(f"k must be in 1..{truth.shape[1]} (the labels), but is {k}: choose less")
    return float(np.mean(_along(truth, _falling(values))[:, :k]))


def average_precision(y: ArrayLike, scores: ArrayLike) -> float:
    """Mean over examples of sum_n (R_n - R_(n-1)) P_n, n counting an example's distinct scores.

    P_n and R_n are precision and recall when all labels scoring at least the n-th highest value are
    predicted, so labels that tie come in together. An example without true labels has no recall
    and is left out; ValueError if no other is left. scikit-learn's
    `average_precision_score(average="samples")`, which counts such an example as 0, agrees on the
    others.
    """
    truth, values = _checked(y, scores, "scores")
    kept = truth.any(axis=1)
    if not kept.any():
        raise ValueError("y must hold a true label, but is all 0: check how the labels were read")
    order = _falling(values[kept])
    truth, values = _along(truth[kept], order), _along(values[kept], order)
    place = np.arange(truth.shape[1])
    # For each place, the last place of the same score.
    is_end = np.pad(values[:, 1:] < values[:, :-1], ((0, 0), (0, 1)), constant_values=True)
    end = np.minimum.accumulate(np.where(is_end, place, place[-1])[:, ::-1], axis=1)[:, ::-1]
    precision = _along(np.cumsum(truth, axis=1) / (place + 1), end)
    return float(np.mean(np.sum(truth * precision, axis=1) / np.sum(truth, axis=1)))


def decide(scores: ArrayLike, threshold: float = 0.5) -> np.ndarray:
    """Return scores >= threshold, bool (N, L); a score at the threshold counts, NaN does not."""
    return np.asarray(scores) >= threshold


def tune_threshold(y: ArrayLike, scores: ArrayLike) -> float:
    """Return the one threshold t that maximises example_f1(y, decide(scores, t)), exactly.

    It lies half-way between two neighbouring scores; it is the lowest score if all labels should be
    predicted, inf if none, and the highest of several best ones. `decide` the same dtype with it.
    Tuning rows only, never test rows. ValueError if a score is not finite.
    """
    truth, values = _checked(y, scores, "scores")
    order = _falling(values)
    f1 = _f1_by_size(_along(truth, order))
    # As the threshold falls, each label that it passes changes the F1 of its own example only.
    gains, values = np.diff(f1, axis=1).ravel(), _along(values, order).ravel()
    order = _falling(values)
    sum_f1 = np.cumsum(np.append(f1[:, 0].sum(), gains[order]))  # 0, 1, .., N L cells predicted
    bounds = np.concatenate([[np.inf], values[order], [-np.inf]])
    best = int(np.argmax(np.where(bounds[:-1] > bounds[1:], sum_f1, -np.inf)))
    high, low = bounds[best], bounds[best + 1]
    # `decide` compares in the dtype of the scores, in which the middle may round down to `low`.
    dtype = np.asarray(scores).dtype
    to_dtype = dtype.type if jnp.issubdtype(dtype, jnp.floating) else np.float64
    middle = float(to_dtype(high / 2 + low / 2))
    return middle if low < middle <= high else float(high)


def expected_f1_sets(p: ArrayLike, allow_empty: bool = True) -> np.ndarray:
    """Return the B that maximise E[F1(A, B)], A holding label i with probability p_i independently.

    `p` (N, L) in [0, 1], else ValueError; returns bool (N, L). The best set of k labels is the k
    most probable ones, so that only k must be searched: Lewis (1995), "Evaluating and optimizing
    autonomous text classification systems"; Jansche (2007), "A maximum expected utility framework
    for binary sequence labeling"; Ye, Chai, Lee and Chieu (2012), "Optimizing F-measures: a tale of
    two approaches".
    """
    values = np.asarray(p, np.float64)
    inside = (values >= 0) & (values <= 1)
    if values.ndim != 2 or values.size == 0 or not inside.all():
        raise ValueError(
            "p must be probabilities (N, L), N and L at least 1, but has shape "
            f"{values.shape} and {np.sum(~inside)} entries outside [0, 1]: use sigmoid(scores)"
        )
    order = _falling(values)
    sizes = np.asarray(_best_sizes(jnp.asarray(_along(values, order), float), allow_empty))
    chosen = np.zeros(values.shape, bool)
    np.put_along_axis(chosen, order, np.arange(values.shape[1]) < sizes[:, None], axis=1)
    return chosen


def tune_expected(y: ArrayLike, z: ArrayLike, allow_empty: bool = True) -> tuple[float, float]:
    """Return (a, b), a > 0, at which expected_f1_sets(sigmoid(a z + b), allow_empty) scores best.

    The score is example_f1.
    The best on a grid, that is: where the logistic fit of y on the scores `z` (N, L) says logit m,
    the grid tries f m + s, f from 0.4 to 2.5 and s from -2 to 2, then a grid a quarter as wide
    around the best of these. The fit is the first candidate and wins ties. Deterministic.
    Tuning rows only, never test rows. ValueError if a score is not finite.
    """
    truth, values = _checked(y, z, "z")
    order = _falling(values)
    truth, values = _along(truth, order), _along(values, order)
    a, b = _fit_logistic(truth, values)
    logits = jnp.asarray(a * values + b, float)
    f1, rows = _f1_by_size(truth), np.arange(len(truth))

    def score(candidate: tuple[float, float]) -> float:
        factor, shift = candidate
        p = jax.nn.sigmoid(factor * logits + shift)
        return float(np.mean(f1[rows, _best_sizes(p, allow_empty)]))

    best = (1.0, 0.0)
    for width in (1.0, 0.25):
        grid = (width * np.linspace(-1, 1, 9)).tolist()
        around = [(best[0] * 2.5**u, best[1] + 2 * v) for u in grid for v in grid]
        best = max([best, *around], key=score)
    factor, shift = best
    return factor * a, factor * b + shift


def _expected_f1_by_size(p: jax.Array) -> jax.Array:
    """E[F1] of the first 0, 1, .., L labels under independent probabilities `p` (N, L); (N, L + 1).

    With M_i the number of true labels besides i, the first k > 0 labels have
        E[F1] = sum_(i <= k) 2 p_i E[1 / (k + 1 + M_i)],
        E[1 / (k + 1 + M_i)] = integral_0^1 t^k prod_(j != i) (1 - p_j + p_j t) dt.
    The integrand is a polynomial of degree below 2 L, so L Gauss-Legendre nodes are exact. It is at
    steepest t^(2 L - 1), where all p are 1; 3 sqrt(L) nodes are off by 2e-7 there for L up to 4000,
    and by less for any other p tried. A fixed number of nodes fails as L grows: 32 of them are off
    by 1e-2 for sparse and 0.5 for certain labels at L = 983. Float32 adds up to 2e-6 at L = 159 and
    5e-5 at L = 983.
    """
    n_labels = p.shape[1]
    nodes, weights = np.polynomial.legendre.leggauss(min(n_labels, int(np.ceil(3 * n_labels**0.5))))
    t = jnp.asarray((nodes[None] + 1) / 2, p.dtype)  # (1, Q)

    def factor(p_k: jax.Array) -> jax.Array:
        return (1 - p_k)[:, None] + p_k[:, None] * t  # (N, Q)

    def multiply(product: jax.Array, p_k: jax.Array) -> tuple[jax.Array, None]:
        return product * factor(p_k), None

    def add_label(carry: tuple[jax.Array, jax.Array], p_k: jax.Array):
        powers, total = carry
        powers, total = powers * t, total + product * p_k[:, None] / factor(p_k)
        return (powers, total), jnp.sum(powers * total, axis=1)

    # Loops over the labels, because (N, L, Q) at once would be gigabytes.
    empty = jnp.zeros((len(p), nodes.size), p.dtype)
    product, _ = jax.lax.scan(multiply, empty + 1, p.T)
    # The factor 2 of F1 cancels the 1/2 by which the weights of [-1, 1] shrink for [0, 1].
    start = (jnp.asarray(weights[None], p.dtype), empty)
    _, values = jax.lax.scan(add_label, start, p.T)  # (L, N)
    return jnp.concatenate([jnp.prod(1 - p, axis=1)[:, None], values.T], axis=1)


@partial(jax.jit, static_argnames="allow_empty")
def _best_sizes(p: jax.Array, allow_empty: bool) -> jax.Array:
    """Sizes (N,) of the sets with the best E[F1], given `p` (N, L) with falling rows."""
    least = 0 if allow_empty else 1
    return least + jnp.argmax(_expected_f1_by_size(p)[:, least:], axis=1)


def _f1_by_size(truth: np.ndarray) -> np.ndarray:
    """F1 of each example when its first 0, 1, .., L labels are predicted; (N, L + 1)."""
    hits = np.pad(np.cumsum(truth, axis=1), ((0, 0), (1, 0)))
    total = truth.sum(axis=1, keepdims=True) + np.arange(truth.shape[1] + 1)
    return np.where(total == 0, 1.0, 2 * hits / np.maximum(total, 1))


def _fit_logistic(truth: np.ndarray, z: np.ndarray) -> tuple[float, float]:
    """Most likely (a, b) in P(y = 1) = sigmoid(a z + b) over all cells, by damped Newton; a > 0."""
    ridge = 1e-6  # moves no ordinary fit, and keeps separable or constant data finite
    mean, scale = z.mean(), z.std() or 1.0
    inputs = np.stack([(z.ravel() - mean) / scale, np.ones(z.size)])  # (2, N L)
    y = truth.ravel().astype(np.float64)

    def loss(theta: np.ndarray) -> float:
        m = theta @ inputs
        return float(np.mean(np.logaddexp(0, m) - y * m) + ridge / 2 * theta @ theta)

    theta = np.zeros(2)
    for _ in range(50):
        p = (1 + np.tanh(theta @ inputs / 2)) / 2
        gradient = inputs @ (p - y) / y.size + ridge * theta
        hessian = (inputs * p * (1 - p)) @ inputs.T / y.size + ridge * np.eye(2)
        step = np.linalg.solve(hessian, gradient)
        while loss(theta - step) > loss(theta) and np.abs(step).max() > 1e-6:
            step = step / 2
        theta = theta - step
        if np.abs(step).max() <= 1e-6:
            break
    a = max(float(theta[0]), 0.01) / scale  # also where larger scores are not likelier to be true
    return float(a), float(theta[1] - a * mean)


def _falling(values: np.ndarray) -> np.ndarray:
    return np.argsort(-values, axis=-1, kind="stable")


def _along(values: np.ndarray, order: np.ndarray) -> np.ndarray:
    return np.take_along_axis(values, order, axis=1)


def _hits_and_total(y: ArrayLike, predicted: ArrayLike, axis: int | None):
    """Count |A ∩ B| and |A| + |B| along `axis`."""
    truth, values = _checked(y, predicted, "predicted")
    _check_binary(values, "predicted")
    return np.sum(truth * values, axis=axis), np.sum(truth + values, axis=axis)


def _checked(y: ArrayLike, other: ArrayLike, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Truth as bool and its partner as float64."""
    truth, values = np.asarray(y), np.asarray(other, np.float64)
    if truth.ndim != 2 or truth.size == 0 or truth.shape != values.shape:
        raise ValueError(
            f"y and {name} must share one shape (N, L), N and L at least 1, but have "
            f"{truth.shape} and {values.shape}: give a row to each example"
        )
    _check_binary(truth, "y")
    if not np.isfinite(values).all():
        raise ValueError(
            f"{name} must be finite, but {np.sum(~np.isfinite(values))} of {values.size} entries "
            "are not: find the examples whose inference diverged"
        )
    return truth == 1, values


def _check_binary(values: np.ndarray, name: str) -> None:
    other = values[(values != 0) & (values != 1)]
    if other.size:
        raise ValueError(f"{name} must hold only 0 and 1, but holds {other[0]}: round it first")

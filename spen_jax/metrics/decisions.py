"""How to turn scores into label sets: one threshold, or the set of best expected F1.

`scores`, `truth` and `mask` (N, L) are those of `spen_jax.metrics.labels`. What is tuned suits the
rows that it was tuned on, on which it then looks better than it is: give training or validation
rows, never test rows.

A `Rule` does either for the relaxed labels y (N, L) of inference: `rule(y)` are the label sets.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, Self

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from spen_jax.metrics.cells import Cells, along, falling, number, read, read_mask
from spen_jax.metrics.compressed import is_compressed
from spen_jax.numbers import real_array


class Rule(Protocol):
    """Label sets for relaxed labels y (N, L) in [0, 1]; a frozen dataclass of numbers, fit for JSON.

    What `Fixed`, `Tuned` and `Expected` are: `rule = Tuned.tune(y, truth)`, then `rule(y)`. `truth` (N, L) is 0 and 1,
    `mask` (N, L), bool, says which labels count; ValueError for other shapes, types and values.
    """

    @classmethod
    def tune(cls, y: ArrayLike, truth: ArrayLike, mask: ArrayLike | None = None) -> Self:
        """The rule of best example F1 on tuning rows; never on test rows."""
        ...

    def __call__(self, y: ArrayLike, mask: ArrayLike | None = None) -> np.ndarray:
        """The label sets, bool (N, L); a label that does not count is in none."""
        ...


@dataclass(frozen=True)
class Fixed:
    """y >= threshold, whatever the tuning rows, for relaxed labels y (N, L) in [0, 1]; a `Rule`.

    ValueError, when it decides, for y that are no real numbers and a threshold that is not one.
    """

    threshold: float = 0.5

    @classmethod
    def tune(cls, y: ArrayLike, truth: ArrayLike, mask: ArrayLike | None = None) -> Self:
        """The threshold 1/2."""
        return cls()

    def __call__(self, y: ArrayLike, mask: ArrayLike | None = None) -> np.ndarray:
        """The label sets, bool (N, L)."""
        return decide(y, self.threshold, mask)


@dataclass(frozen=True)
class Tuned:
    """y >= threshold, at the threshold of `tune_threshold`, for relaxed labels y (N, L) in [0, 1]; a `Rule`.

    `Tuned.tune(y, truth, mask)` finds it on training or validation rows; ValueError as there.
    """

    threshold: float

    @classmethod
    def tune(cls, y: ArrayLike, truth: ArrayLike, mask: ArrayLike | None = None) -> Self:
        """At the threshold of best example F1 on these rows."""
        return cls(tune_threshold(y, truth, mask))

    def __call__(self, y: ArrayLike, mask: ArrayLike | None = None) -> np.ndarray:
        """The label sets, bool (N, L)."""
        return decide(y, self.threshold, mask)


@dataclass(frozen=True)
class Expected:
    """The sets of best expected F1 under p = sigmoid(a z + b), z the logits of y clipped to [1e-7, 1 - 1e-7].

    Unless `allow_empty` each set has a label: right where every row is known to have one. A `Rule` for y (N, L) in
    [0, 1]: `Expected.tune(y, truth, mask)` finds a and b by `tune_expected`, and the sets are those of
    `expected_f1_sets`, where the sources stand. ValueError for a and b that are not finite, and for y outside [0, 1].
    """

    a: float
    b: float
    allow_empty: bool

    def __post_init__(self):
        if not np.isfinite([number("a", self.a), number("b", self.b)]).all():
            raise ValueError(
                f"a and b must be finite, but are {self.a} and {self.b}: tune them again"
            )

    @classmethod
    def tune(
        cls,
        y: ArrayLike,
        truth: ArrayLike,
        mask: ArrayLike | None = None,
        *,
        allow_empty: bool = False,
    ) -> Self:
        """With a and b of `tune_expected`; with many labels a thousand rows are enough, more take minutes."""
        a, b = tune_expected(_logits(y, mask), truth, mask, allow_empty=allow_empty)
        return cls(a, b, bool(allow_empty))

    def __call__(self, y: ArrayLike, mask: ArrayLike | None = None) -> np.ndarray:
        """The label sets, bool (N, L)."""
        p = np.exp(-np.logaddexp(0, -(self.a * _logits(y, mask) + self.b)))
        return expected_f1_sets(p, mask, allow_empty=self.allow_empty)


def decide(scores: Any, threshold: float = 0.5, mask: ArrayLike | None = None) -> Any:
    """Return scores >= threshold, bool (N, L) or of any other shape; a score at the threshold counts, NaN does not.

    Scores of floats are compared in their own type, to which the threshold is rounded. ValueError for scores that
    are no real numbers, and for a threshold that is not one number. Of a sparse matrix of scores the sets are one
    too, without a mask, at a threshold above 0. `mask`, bool of the scores' shape: what does not count is False.
    """
    if is_compressed(scores):
        return _decide_stored(scores, number("threshold", threshold), mask)
    values, least = real_array("scores", scores), np.asarray(number("threshold", threshold))
    if values.dtype.kind == "f":
        with np.errstate(over="ignore"):  # beyond the type a threshold is infinite
            least = least.astype(_type_of(scores)).astype(values.dtype)
    return (values >= least) & read_mask(mask, values.shape)


def _decide_stored(scores, threshold, mask):
    if mask is not None or not threshold > 0:
        raise ValueError(
            "sparse scores need a threshold above 0, which what is not stored stays below, and no mask, got "
            f"threshold {threshold} and {'no' if mask is None else 'a'} mask"
        )
    matrix = scores.tocsr().copy()
    matrix.sum_duplicates()
    matrix.data = decide(matrix.data, threshold)
    matrix.eliminate_zeros()
    return matrix


def _type_of(scores: ArrayLike) -> np.dtype:
    """The type in which scores are compared."""
    dtype = np.asarray(scores).dtype
    return dtype if jnp.issubdtype(dtype, jnp.floating) else np.dtype(np.float64)


def tune_threshold(scores: ArrayLike, truth: ArrayLike, mask: ArrayLike | None = None) -> float:
    """Return the one threshold t that maximises example_f1(decide(scores, t), truth), exactly.

    It lies half-way between two neighbouring scores; it is the lowest score if all labels should be
    predicted, inf if none, and the highest of several best ones. `decide` the same dtype with it.
    `scores` (N, L) are real, `truth` (N, L) 0 and 1, `mask` (N, L), bool, says which cells count.
    Tuning rows only, never test rows. ValueError if a score is not finite, and for other shapes.
    """
    cells = read("scores", scores, truth, mask).ranked()
    f1 = _f1_by_size(cells)
    # As the threshold falls, each label that it passes changes the F1 of its own example only.
    gains, values = np.diff(f1, axis=1).ravel(), cells.values.ravel()
    order = falling(values)
    sum_f1 = np.cumsum(np.append(f1[:, 0].sum(), gains[order]))  # 0, 1, .., N L cells predicted
    # Cells that do not count are at -inf: none is passed on its own.
    bounds = np.concatenate([[np.inf], values[order], [-np.inf]])
    best = int(np.argmax(np.where(bounds[:-1] > bounds[1:], sum_f1, -np.inf)))
    high, low = bounds[best], bounds[best + 1]
    # `decide` compares in the dtype of the scores, in which the middle may round down to `low`.
    middle = float(np.asarray(high / 2 + low / 2).astype(_type_of(scores)))
    return middle if low < middle <= high else float(high)


def expected_f1_sets(
    p: ArrayLike, mask: ArrayLike | None = None, *, allow_empty: bool = True
) -> np.ndarray:
    """Return the B that maximise E[F1(A, B)], A holding label i with probability p_i independently.

    `p` (N, L) in [0, 1], else ValueError; returns bool (N, L). A label that does not count by `mask`,
    bool (N, L), is in no set, and changes no other label's place; unless `allow_empty` each set has one. The best set
    of k labels is the k most probable ones, so that only k must be searched: Lewis (1995), "Evaluating and optimizing
    autonomous text classification systems"; Jansche (2007), "A maximum expected utility framework for binary sequence
    labeling"; Ye, Chai, Lee and Chieu (2012), "Optimizing F-measures: a tale of two approaches".
    """
    values = real_array("p", p).astype(np.float64)
    counted = read_mask(mask, values.shape)
    inside = (values >= 0) & (values <= 1) | ~counted
    if values.ndim != 2 or values.size == 0 or not inside.all():
        raise ValueError(
            "p must be probabilities (N, L), N and L at least 1, but has shape "
            f"{values.shape} and {np.sum(~inside)} entries outside [0, 1]: use sigmoid(scores)"
        )
    order = falling(np.where(counted, values, -1.0))
    sorted_p = along(np.where(counted, values, 0.0), order)
    sizes = np.asarray(best_sizes(jnp.asarray(sorted_p, float), allow_empty))
    chosen = np.zeros(values.shape, bool)
    np.put_along_axis(chosen, order, np.arange(values.shape[1]) < sizes[:, None], axis=1)
    return chosen & counted


def tune_expected(
    z: ArrayLike, truth: ArrayLike, mask: ArrayLike | None = None, *, allow_empty: bool = True
) -> tuple[float, float]:
    """Return (a, b), a > 0, at which expected_f1_sets(sigmoid(a z + b)) have the best example F1.

    The best on a grid, that is: where the logistic fit of truth on the scores `z` (N, L) says logit
    m, the grid tries f m + s, f from 0.4 to 2.5 and s from -2 to 2, then a grid a quarter as wide
    around the best of these. The fit is the first candidate and wins ties. Deterministic.
    `truth` (N, L) is 0 and 1; `mask` (N, L), bool, says which cells count; unless `allow_empty`
    each set has a label. Tuning rows only, never test rows. ValueError if a score is not finite,
    and for other shapes.
    """
    cells = read("z", z, truth, mask).ranked()
    a, b = fit_logistic(cells.values[cells.counted], cells.truth[cells.counted])
    logits = jnp.asarray(a * cells.values + b, float)  # -inf, probability 0, where nothing counts
    f1, rows = _f1_by_size(cells), np.arange(len(cells.truth))

    def score(candidate: tuple[float, float]) -> float:
        factor, shift = candidate
        p = jax.nn.sigmoid(factor * logits + shift)
        return float(np.mean(f1[rows, best_sizes(p, allow_empty)]))

    best = (1.0, 0.0)
    for width in (1.0, 0.25):
        grid = (width * np.linspace(-1, 1, 9)).tolist()
        around = [(best[0] * 2.5**u, best[1] + 2 * v) for u in grid for v in grid]
        best = max([best, *around], key=score)
    factor, shift = best
    return factor * a, factor * b + shift


def expected_f1_by_size(p: jax.Array) -> jax.Array:
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
    empty = jnp.zeros((p.shape[0], nodes.size), p.dtype)
    product, _ = jax.lax.scan(multiply, empty + 1, p.T)
    # The factor 2 of F1 cancels the 1/2 by which the weights of [-1, 1] shrink for [0, 1].
    start = (jnp.asarray(weights[None], p.dtype), empty)
    _, values = jax.lax.scan(add_label, start, p.T)  # (L, N)
    return jnp.concatenate([jnp.prod(1 - p, axis=1)[:, None], values.T], axis=1)


@partial(jax.jit, static_argnames="allow_empty")
def best_sizes(p: jax.Array, allow_empty: bool) -> jax.Array:
    """Sizes (N,) of the sets with the best E[F1], given `p` (N, L) with falling rows."""
    least = 0 if allow_empty else 1
    return least + jnp.argmax(expected_f1_by_size(p)[:, least:], axis=1)


def _f1_by_size(ranked: Cells) -> np.ndarray:
    """F1 of each example when its first 0, 1, .., L labels are predicted; (N, L + 1)."""
    before = ((0, 0), (1, 0))
    hits = np.pad(np.cumsum(ranked.truth, axis=1), before)
    predicted = np.pad(np.cumsum(ranked.counted, axis=1), before)
    total = ranked.truth.sum(axis=1, keepdims=True) + predicted
    return np.where(total == 0, 1.0, 2 * hits / np.maximum(total, 1))


def _logits(y: ArrayLike, mask: ArrayLike | None) -> np.ndarray:
    """Logits of y clipped to [1e-7, 1 - 1e-7], 0 where y does not count; ValueError for no relaxed label."""
    values = real_array("y", y).astype(np.float64)
    values = np.where(read_mask(mask, values.shape), values, 0.5)
    outside = ~((values >= -1e-4) & (values <= 1 + 1e-4))  # rounding may leave y a little outside
    if outside.any():
        raise ValueError(
            f"y must be relaxed labels in [0, 1], but holds {values[outside][0]}: give sigmoid(scores), "
            "or find the examples whose inference diverged"
        )
    values = np.clip(values, 1e-7, 1 - 1e-7)
    return np.log(values) - np.log1p(-values)


def fit_logistic(z: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    """Most likely (a, b) in P(true) = sigmoid(a z + b) over all cells (C,), by damped Newton; a > 0."""
    ridge = 1e-6  # moves no ordinary fit, and keeps separable or constant data finite
    # Of numbers whose squares overflow or vanish there would be no deviation.
    unit = max(np.abs(z).max(), 1e-290)
    z = z / unit
    mean, scale = z.mean(), z.std() or 1.0
    inputs = np.stack([(z - mean) / scale, np.ones(z.size)])  # (2, C)
    y = truth.astype(np.float64)

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
    a = min(a, 1e300 * min(unit, 1.0))  # for scores so small that a is no float
    return float(a / unit), float(theta[1] - a * mean)

"""Energies of many answers at once: the best, their order, their Gibbs distribution.

With E(x, y) for every pair in one matrix (`pairwise`), rows answer the questions about y given x, columns those about x
given y. beta is the inverse temperature, 0 (hot) to infinity (cold). `weights` say what each answer stands for: see
`softmin`. Energies are floats of any width, halves summed in float32, and what is made of them is of their type; whole
numbers become the default float. What is no real number, and weights or beta known to be below 0, raise ValueError by
name. Sources: LeCun et al. (2006); the "actual" softmin of LeCun & Canziani's lectures is `softmin` with
`average=True`.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from spen_jax.blocks import by_rows
from spen_jax.exact.arguments import check_axis, check_batch, check_beta, read_weights
from spen_jax.numbers import floats, indices, real, wide
from spen_jax.types import Energy

Weights = jax.Array | None
"""What each answer of a set stands for, at least 0, as `softmin` reads it; None is 1 for each."""


def pairwise(energy: Energy, params: Any, x: Any, y: Any) -> jax.Array:
    """E(x_i, y_j) of each of B x with each of K y, (B, K).

    Rows answer the questions about y given x, columns those about x given y. `energy` is `(params, x, y) -> scalar` of
    one pair; x and y are arrays or trees of arrays with leading axes B and K. What depends on x alone or on y alone is
    computed B or K times, not B K times.

    ValueError for what is no array of numbers or has no leading axis, and where leading axes within a tree differ.
    """
    check_batch(x=x)
    check_batch(y=y)
    of_one_x = jax.vmap(energy, (None, None, 0))
    return jax.vmap(of_one_x, (None, 0, None))(params, x, y)


def softmin(
    energies: jax.Array,
    beta: jax.Array | float = 1.0,
    *,
    axis: int = -1,
    weights: Weights = None,
    average: bool = False,
) -> jax.Array:
    """F = -1/beta log sum_k w_k exp(-beta E_k) along `axis`, which goes: the free energy of a set.

    With `average` the weights are first divided by their sum, -1/beta log 1/|Z| sum_k w_k exp(-beta E_k), |Z| = sum_k
    w_k: then F falls from the mean at beta = 0 to the minimum at beta = infinity. Without, it is lower by log(sum w) /
    beta, and -infinity at beta = 0 where that sum is above 1. The gradient is `softargmin`, at any beta; the minimum's
    is shared equally by tied answers. A set without a finite energy has F = infinity.

    Args:
      energies: of any shape; infinite ones have no part in it, but for |Z| where that is averaged over.
      beta: inverse temperature >= 0, a number or a scalar array, infinity included; it may be learned.
      axis: of the answers.
      weights: at least 0, what each answer stands for; one for all, (K,) along `axis`, or of a shape that broadcasts to
        `energies`: None is 1 (a finite set); a mask leaves out what only fills up; the volume of a cell makes a sum
        over a grid the integral; 1 / (n q(y)) makes n samples from a density q an estimate of it. They are constants.
      average: whether the weights are normalised.

    Raises:
      ValueError: for what is no real number, an axis that is not there, weights of another shape, a beta that is no
        scalar, and weights or beta known to be below 0.

    Sources: LeCun et al. (2006); with `average` it is the "actual" softmin of LeCun & Canziani's lectures.
    """
    energies = floats("energies", energies)
    dtype = energies.dtype
    energies, beta, weights = _prepared(energies, beta, axis, weights)
    free = _average_softmin(energies, beta, weights)
    if average:
        return free.astype(dtype)
    size = jnp.log(_total(energies, weights))
    none = (size == 0) | (free == jnp.inf)
    return (free - jnp.where(none, 0, size / jnp.where(none, 1, beta))).astype(dtype)


def softargmin(
    energies: jax.Array,
    beta: jax.Array | float = 1.0,
    *,
    axis: int = -1,
    weights: Weights = None,
) -> jax.Array:
    """P_k = w_k exp(-beta E_k) / sum_j w_j exp(-beta E_j): the Gibbs distribution; sums to 1 along `axis`.

    Of the shape (...) of the energies. At beta = infinity all of it is on the minimum, shared equally by tied answers,
    at 0 it follows the weights. Divided by the cells' volumes it is the density on a grid. A set without a finite
    energy gets zeros. Arguments, and ValueError for what does not fit, as in `softmin`.
    """
    energies = floats("energies", energies)
    prepared = _prepared(energies, beta, axis, weights)
    return jnp.moveaxis(_softargmin(*prepared), -1, axis).astype(energies.dtype)


def softmax(
    values: jax.Array,
    beta: jax.Array | float = 1.0,
    *,
    axis: int = -1,
    weights: Weights = None,
    average: bool = False,
) -> jax.Array:
    """1/beta log sum_k w_k exp(beta v_k) along `axis`, the lecture's actual soft-max: -softmin(-v), a value.

    What libraries call softmax is `softargmax`, a distribution. `values` (...), high where good, lose that axis; beta,
    the weights, and ValueError for what does not fit, as in `softmin`: with `average` it rises from the mean at beta =
    0 to the maximum at beta = infinity.
    """
    return -softmin(-floats("values", values), beta, axis=axis, weights=weights, average=average)


def softargmax(
    values: jax.Array,
    beta: jax.Array | float = 1.0,
    *,
    axis: int = -1,
    weights: Weights = None,
) -> jax.Array:
    """w_k exp(beta v_k) / sum_j w_j exp(beta v_j), the distribution that libraries call softmax.

    Of the shape (...) of `values`, high where good; it sums to 1 along `axis`. beta, the weights, and ValueError for
    what does not fit, as in `softmin`.
    """
    return softargmin(-floats("values", values), beta, axis=axis, weights=weights)


def log_probabilities(
    energies: jax.Array,
    beta: jax.Array | float = 1.0,
    *,
    axis: int = -1,
    weights: Weights = None,
) -> jax.Array:
    """log P_k = -beta (E_k - F), P the probability of each member of a set or the density at each point of a grid.

    In nats, of the shape (...) of the energies, whose answers lie along `axis`. Arguments, and ValueError for what does
    not fit, as in `softmin`, with 0 < beta < infinity: at the ends it is not a number. The weights w only normalise.
    `energy_of` goes the other way.
    """
    energies = floats("energies", energies)
    exact = wide(energies)
    above = exact - jnp.expand_dims(softmin(exact, beta, axis=axis, weights=weights), axis)
    return (-jnp.asarray(beta, exact.dtype) * above).astype(energies.dtype)


def energy_of(
    log_probability: jax.Array, beta: jax.Array | float = 1.0, constant: jax.Array | float = 0.0
) -> jax.Array:
    """E = C - log P / beta: one of the many energies whose Gibbs distribution is P.

    `log_probability` in nats, of any shape, which is the result's; beta above 0 and the constant C numbers, or of
    shapes that broadcast to it. `log_probabilities` goes the other way. ValueError for what is no real number, and a
    beta known to be below 0.
    """
    log_probability = floats("log_probability", log_probability)
    check_beta(beta)
    real("constant", constant)
    beta, constant = (jnp.asarray(a, log_probability.dtype) for a in (beta, constant))
    return constant - log_probability / beta


def order(energies: jax.Array, axis: int = -1) -> jax.Array:
    """The indices of all answers from the best (lowest energy) to the worst; the first of equals first.

    Of the shape of `energies`, in which the answers lie along `axis`; what is not a number comes last. ValueError for
    what is no real number, and an axis that is not there.
    """
    energies = floats("energies", energies)
    check_axis("energies", energies, axis)
    return jnp.argsort(energies, axis=axis, stable=True)


def rank(energies: jax.Array, truth: jax.Array) -> jax.Array:
    """1 + the number of other answers whose energy is not above the truth's: (..., K) and indices (...) -> (...).

    `energies` of K answers, `truth` the index of the correct one, from 0; ranks from 1, the best. Ties count against
    the truth, so that an energy that is equal everywhere, or not a number, puts it last. ValueError where the shapes do
    not fit, or the truth is known to be no index below K.
    """
    energies = floats("energies", energies)
    check_axis("energies", energies, -1)
    truth = indices("truth", truth, energies.shape[-1])
    if truth.shape != energies.shape[:-1]:
        raise ValueError(
            f"truth must be an index for each row of energies, of shape {energies.shape[:-1]}, got {truth.shape}"
        )
    correct = jnp.take_along_axis(energies, truth[..., None], axis=-1)[..., 0]
    return by_rows(_not_above, None, energies, correct)


def _not_above(_, energies, correct):
    return jnp.sum(~(energies > correct[..., None]), axis=-1)


def local_minima(energies: jax.Array) -> jax.Array:
    """Which points of a one-dimensional grid are minima of `energies`, (..., K) -> (..., K) booleans.

    A minimum is below its neighbours on both sides, at the ends of the grid on the one it has: several
    answers of one x, where the energy has them. Of a flat stretch the left end counts.

    ValueError for what is no real number, and for one number without an axis.
    """
    energies = floats("energies", energies)
    check_axis("energies", energies, -1)
    if not energies.size:
        return jnp.zeros(energies.shape, bool)
    energies = jnp.moveaxis(energies, -1, 0)
    wall = jnp.full_like(energies[:1], jnp.inf)
    left = jnp.concatenate([wall, energies[:-1]])
    right = jnp.concatenate([energies[1:], wall])

    def rises(later, pair):
        here, next_one = pair
        rising = jnp.where(next_one == here, later, next_one > here)
        return rising, rising

    _, rising = lax.scan(rises, energies[0] == energies[0], (energies, right), reverse=True)
    return jnp.moveaxis((energies < left) & rising, 0, -1)


def _prepared(energies, beta, axis, weights):
    """Energies and weights as floats, at least float32, with the set's axis last, beta as a scalar array."""
    check_axis("energies", energies, axis)
    energies = wide(energies)
    check_beta(beta)
    beta = jnp.asarray(beta, energies.dtype)
    if beta.ndim:
        raise ValueError(f"beta must be one number, got shape {beta.shape}; use vmap for several")
    if weights is not None:
        weights = read_weights(weights, energies.shape, axis).astype(energies.dtype)
        weights = jnp.moveaxis(weights, axis, -1) if weights.ndim > 1 else weights
    return jnp.moveaxis(energies, axis, -1), beta, weights


def _total(energies, weights):
    if weights is None:
        return jnp.asarray(energies.shape[-1], energies.dtype)
    return weights.sum(-1)


def _masked(energies, weights):
    if weights is None:
        return energies
    return jnp.where(_like(energies, weights) > 0, energies, jnp.inf)


def _above(energies, weights):
    """The lowest energy, (...), and how far each is above it, infinite at weight 0."""
    energies = _masked(energies, weights)
    lowest = lax.stop_gradient(jnp.min(energies, axis=-1, initial=jnp.inf))
    low = jnp.where(lowest == jnp.inf, 0, lowest)[..., None]
    return lowest, jnp.where(energies == -jnp.inf, 0, energies - low)


def _like(energies, weights):
    return jnp.broadcast_to(weights, energies.shape)


def _exponents(above, beta):
    """-beta (E - min E), also where one of the two is infinite."""
    finite = above != jnp.inf
    cold = jnp.where(above > 0, -jnp.inf, above)
    warm = -jnp.where(beta == jnp.inf, 1, beta) * jnp.where(finite, above, 0)
    return jnp.where(beta == jnp.inf, cold, jnp.where(finite, warm, -jnp.inf))


def _softargmin(energies, beta, weights):
    terms = jnp.exp(_exponents(_above(energies, weights)[1], beta))
    if weights is not None:
        terms = _like(energies, weights) * terms
    total = jnp.sum(terms, axis=-1, keepdims=True)
    return terms / jnp.where(total == 0, 1, total)


@jax.custom_jvp
def _average_softmin(energies, beta, weights):
    """-1/beta log of the weighted mean of exp(-beta E)."""
    if weights is None or weights.ndim == 1:
        return by_rows(_of_rows, (beta, weights), energies)
    return by_rows(_of_weighted_rows, beta, energies, weights)


def _of_weighted_rows(beta, energies, weights):
    return _of_rows((beta, weights), energies)


def _of_rows(shared, energies):
    """Accurate at any beta: near 0 by log(1 + x), x the mean of exp(-beta E) - 1."""
    beta, weights = shared
    lowest, above = _above(energies, weights)
    exponents = _exponents(above, beta)
    share = 1 if weights is None else _like(energies, weights)
    total = _total(energies, weights)
    total = jnp.where(total == 0, 1, total)
    mean = jnp.sum(share * jnp.exp(exponents), axis=-1) / total

    def accurately():
        less = jnp.sum(share * jnp.expm1(exponents), axis=-1) / total
        return jnp.where(mean > 0.5, jnp.log1p(less), jnp.log(mean))

    logarithm = lax.cond(jnp.any(mean > 0.5), accurately, lambda: jnp.log(mean))
    warm = lowest - logarithm / jnp.where((beta == 0) | (beta == jnp.inf), 1, beta)
    hot = lowest + jnp.sum(jnp.where(share > 0, share * above, 0), axis=-1) / total
    known = jnp.isinf(lowest) | (beta == jnp.inf)
    return jnp.where(known, lowest, jnp.where(beta == 0, hot, warm))


@_average_softmin.defjvp
def _average_softmin_jvp(primals, tangents):
    energies, beta, weights = primals
    value = _average_softmin(energies, beta, weights)
    p = _softargmin(energies, beta, weights)
    slope = jnp.sum(jnp.where(p > 0, p * tangents[0], 0), axis=-1)
    return value, slope + tangents[1] * _slope_in_beta(energies, beta, weights)


def _slope_in_beta(energies, beta, weights):
    """dF/dbeta = -KL(P || W) / beta^2 = -sum_k w_k d_k^2 psi(-beta d_k), d_k = E_k - F, W the normalised weights.

    psi(u) = (exp(u) (u - 1) + 1) / u^2; nothing cancels, whatever beta is. -var(E) / 2 at beta = 0. One that the
    numbers cannot hold is their largest.
    """
    lowest, above = _above(energies, weights)
    # Of differences: beside large energies, F - min E would be rounded away.
    gap = _average_softmin(above, beta, weights)
    exists = jnp.isfinite(lowest) & jnp.isfinite(gap)
    absent = jnp.isinf(above)
    d = jnp.where(absent, 0, above) - jnp.where(exists, gap, 0)[..., None]
    u = -jnp.where(beta == jnp.inf, 1, beta) * d
    small = jnp.abs(u) < 0.5
    near, d = jnp.where(small, u, 0), jnp.where(small, d, 0)  # a large d would overflow as d^2
    series = sum(near**n / (math.factorial(n) * (n + 2)) for n in range(9))
    # d^2 psi(u) is this over beta^2; below u = -100 it is 1 to the last digit.
    far = jnp.where(small, -1, jnp.maximum(u, -100))
    divided = jnp.where(absent, 1, jnp.exp(far) * (far - 1) + 1)
    divisor = jnp.where((beta == 0) | (beta == jnp.inf), 1, beta)
    terms = jnp.where(small & ~absent, d**2 * series, divided / divisor / divisor)
    share = 1 if weights is None else _like(energies, weights)
    slope = -jnp.sum(share * terms, axis=-1) / _total(energies, weights)
    slope = jnp.maximum(slope, jnp.finfo(slope.dtype).min)
    return jnp.where(exists & (beta != jnp.inf), slope, 0)

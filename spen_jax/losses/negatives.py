"""Wrong answers to push up: the most offending one, and those mined from a batch.

Energies are (..., K), one for each candidate; `allowed`, (..., K) booleans, says which candidates are wrong
answers. For a batch of pairs `exact.pairwise` gives all energies as one matrix (B, B) with
the correct ones on its diagonal, and `all_but(jnp.arange(B), B)` or `different` its `allowed`. What is chosen is
an `Offender`; its energy carries the gradient, its index is a constant. Energies are floats of any
type, whole numbers are read as floats; what is no real number, no index or of another shape raises ValueError by name.
"""

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from spen_jax.blocks import by_rows
from spen_jax.domains import NEAR, Domain
from spen_jax.inference import GradientDescent, Solution, Solver, minimize_best
from spen_jax.numbers import floats, indices, real, real_array, rounding, unit, vanishes, wide
from spen_jax.types import Energy


class Offender(NamedTuple):
    """A wrong answer of each example: its `index` among K candidates and its `energy`, both (...).

    The energy carries the gradient, the index is a constant. Where no candidate was allowed the index is K and the
    energy infinite, with which the margin losses and the log loss are at their lowest.
    """

    index: jax.Array
    energy: jax.Array


def all_but(truth: jax.Array, candidates: int) -> jax.Array:
    """Which of K candidates are not the truth, indices (...) -> (..., K) booleans: the `allowed` of `most_offending`.

    `candidates` is K; of a matrix of energies (B, B), `all_but(jnp.arange(B), B)` leaves the diagonal out. ValueError
    for a truth that is no index, or known to lie outside 0 to K - 1.
    """
    truth = indices("truth", truth, candidates)
    index = lax.broadcasted_iota(jnp.int32, (*truth.shape, candidates), truth.ndim)
    return index != truth[..., None]


def different(labels: jax.Array, others: jax.Array | None = None) -> jax.Array:
    """Which pairs of a batch have different labels, (B,) and (K,) (itself by default) -> (B, K) booleans.

    `labels` and `others` hold one number for each example. It is the `allowed` of `most_offending` and the `where` of
    `info_nce`. ValueError for other shapes, and what is no real number.
    """
    own = real("labels", labels)
    other = own if others is None else real("others", others)
    if own.ndim != 1 or other.ndim != 1:
        raise ValueError(
            f"labels and others must be one label an example, (B,) and (K,), got {own.shape} and {other.shape}"
        )
    return jnp.asarray(own[:, None] != other[None])


def outside_ball(candidates: jax.Array, truth: jax.Array, radius: jax.Array | float) -> jax.Array:
    """Which candidates have ||candidate - truth||_2 >= radius, (K, D) and (..., D) -> (..., K) booleans.

    The `allowed` of `most_offending`. Of a continuous answer all those nearer count as correct: the forbidden sphere of
    LeCun's lecture. The radius, one number, may follow a schedule. ValueError for shapes that do not fit, and what is
    no real number.
    """
    candidates, truth = wide(floats("candidates", candidates)), wide(floats("truth", truth))
    if candidates.ndim != 2 or truth.shape[-1:] != candidates.shape[1:]:
        raise ValueError(
            f"candidates and truth must have shapes (K, D) and (..., D), got {candidates.shape} and {truth.shape}"
        )
    candidates = candidates.reshape((1,) * (truth.ndim - 1) + candidates.shape)
    squared = jnp.sum((truth[..., None, :] - candidates) ** 2, axis=-1)
    return squared >= floats("radius", radius) ** 2


def most_offending(
    energies: jax.Array, truth: jax.Array | None = None, *, allowed: jax.Array | None = None
) -> Offender:
    """y_bar = argmin over wrong y of E(x, y), (..., K) -> `Offender` of (...): the wrong answer of lowest energy.

    Where none is wrong its index is K and its energy infinite. ValueError for neither or both of truth and allowed,
    shapes that do not fit, a truth known to be no index below K, and what is no real number.

    Args:
      energies: of all K candidates, (..., K), also padded with infinity.
      truth: index of the correct candidate, (...); all others are wrong.
      allowed: in its place, booleans (..., K), which are wrong: `outside_ball` for a continuous answer on a grid.

    Source: LeCun et al. (2006), section 2.
    """
    energies = _energies(energies)
    fixed = lax.stop_gradient(energies)
    if truth is not None and (
        jnp.shape(truth) != energies.shape[:-1]
        or not jnp.issubdtype(jnp.result_type(truth), jnp.integer)
    ):
        raise ValueError(
            f"truth must be indices of shape {energies.shape[:-1]}, got {jnp.result_type(truth)} "
            f"{jnp.shape(truth)}; a mask is given as allowed="
        )
    if truth is not None and allowed is None:
        truth = indices("truth", truth, energies.shape[-1])
        return _offender(energies, by_rows(_lowest_but, None, fixed, truth))
    if allowed is not None and truth is None:
        allowed = _allowed(allowed, energies.shape)
        return _offender(energies, by_rows(_lowest_of_allowed, None, fixed, allowed))
    raise ValueError("most_offending needs either truth or allowed, exactly one of them")


def hardest(energies: jax.Array, allowed: jax.Array) -> Offender:
    """The negative of lowest energy within the batch: `most_offending` by another name.

    `energies` (..., K) and `allowed`, booleans (..., K), which are negatives, give an `Offender` of (...); where none
    is, its index is K and its energy infinite. ValueError, by name, for what is no real number and shapes that do not
    fit.
    """
    return most_offending(energies, allowed=allowed)


def semi_hard(energies: jax.Array, correct: jax.Array, allowed: jax.Array) -> Offender:
    """The lowest negative above the correct energy; where there is none, the highest negative.

    The hardest ones can collapse an embedding early in training; these give a gradient that does not. Source: Schroff,
    Kalenichenko & Philbin (2015); what to take where there is none is common practice, not theirs.

    An `Offender` of (...); without any negative its index is K and its energy infinite. ValueError, by name, for what
    is no real number and shapes that do not fit.

    Args:
      energies: of K candidates, (..., K).
      correct: energies of the correct answers, (...).
      allowed: which candidates are negatives, booleans (..., K).
    """
    energies, correct = _energies(energies), floats("correct", correct)
    if correct.shape != energies.shape[:-1]:
        raise ValueError(f"correct must have shape {energies.shape[:-1]}, got {correct.shape}")
    fixed, correct = lax.stop_gradient((energies, correct))
    allowed = _allowed(allowed, energies.shape) & (fixed != jnp.inf)
    above = allowed & (fixed > correct[..., None])
    lowest = _lowest_allowed(fixed, above)
    highest = _lowest_allowed(-fixed, allowed)
    return _offender(energies, jnp.where(jnp.any(above, axis=-1), lowest, highest))


def random(key: jax.Array, energies: jax.Array, allowed: jax.Array) -> Offender:
    """A negative drawn uniformly from those allowed, by a PRNG key.

    `energies` (..., K) and `allowed`, booleans (..., K), which are negatives, give an `Offender` of (...); where none
    is, its index is K and its energy infinite. ValueError, by name, for what is no real number and shapes that do not
    fit.
    """
    energies = _energies(energies)
    drawn = jax.random.uniform(key, energies.shape)
    return _offender(energies, _lowest_allowed(drawn, _allowed(allowed, energies.shape)))


@dataclass(frozen=True)
class OutsideBall(Domain):
    """{d : ||d||_2 >= radius} along the last axis: displacements from a truth that count as wrong.

    Not convex: minimise from several starts, without momentum, which circles the ball. Points inside go to one part in
    a million beyond the radius, halves to one in the last place, which survives rounding; 0, which has no nearest
    point, to the first axis.

    Points are (..., D). ValueError for a radius that is not above 0 and finite, and for points without an axis.
    """

    radius: float = 0.2

    def __post_init__(self):
        if not 0 < self.radius < np.inf:
            raise ValueError(f"OutsideBall needs a radius > 0, and finite, got {self.radius}")

    def check(self, y):
        """ValueError for a scalar, and for vectors of no coordinates."""
        super().check(y)
        if not y.shape or not y.shape[-1]:
            raise ValueError(f"OutsideBall needs y of shape (..., D), D at least 1, got {y.shape}")

    def parts(self, y):
        """Each vector is one part: the shape without its last axis."""
        return y.shape[:-1]

    def outside(self, y):
        """Which vectors are shorter than the radius, by more than a ten-thousandth, or not finite."""
        y, near = real_array("y", y), NEAR + 4 * rounding(y)
        with np.errstate(all="ignore"):
            norm = np.linalg.norm(y / float(self.radius), axis=-1)
        return ~((norm >= 1 - near) & np.isfinite(y).all(axis=-1))

    def project(self, y):
        """y, (..., D), moved out to the sphere where it is inside; ValueError as `check` raises."""
        y = floats("y", y)
        self.check(y)
        exact = wide(y)
        beyond = (1 + max(1e-6, float(jnp.finfo(y.dtype).eps))) * self.radius
        first = jnp.zeros_like(exact).at[..., 0].set(1)
        away = jnp.where(vanishes(exact), first, exact)
        far = jnp.linalg.norm(exact, axis=-1, keepdims=True) >= self.radius
        return jnp.where(far, exact, beyond * unit(jnp.where(far, 1, away))).astype(y.dtype)

    def initial(self, shape):
        """The point of the sphere on the first axis, for vectors of a shape (..., D)."""
        return self.project(jnp.zeros(shape))

    def random(self, key, shape):
        """A normal point of a shape (..., D), by a key, moved out to the sphere where it is inside."""
        return self.project(jax.random.normal(key, shape))


def search(
    energy: Energy,
    params: Any,
    x: Any,
    truth: jax.Array,
    starts: jax.Array,
    *,
    radius: float,
    solver: Solver = GradientDescent(momentum=0.0),
    steps: int = 100,
) -> Solution:
    """y_bar of a continuous answer by the solvers: argmin of E(x, y) over ||y - truth||_2 >= radius.

    Args:
      energy: `(params, x, y) -> scalar` for one example.
      params: its parameters.
      x: what the energy sees of the examples, leading axis B.
      truth: (B, D).
      starts: S points to start from, (B, S, D), such as `truth` with noise of several directions.
      radius: of the ball around the truth; another one compiles again.
      solver: the algorithm; momentum makes it circle the ball.
      steps: its steps, all of which are taken.

    Returns:
      The best of the S solutions, constants to differentiation; its `y` is y_bar, its `residual` the largest
      coordinate of the descent direction, on the sphere of that part of it which does not lead inside. The energy to
      train on is `energy` evaluated there.

    Raises:
      ValueError: for a radius that is not above 0 and finite, and as `inference.minimize_best` raises.
    """
    params, x, truth, starts = lax.stop_gradient((params, x, truth, starts))
    around = starts - truth[:, None]
    domain, shifted = OutsideBall(radius), _shifted(energy)
    found = minimize_best(
        shifted, params, (x, truth), around, domain=domain, solver=solver, steps=steps
    )

    def residual(context, d):
        downhill = -jax.grad(shifted, argnums=2)(params, context, d)
        norm = jnp.linalg.norm(d)
        inward = jnp.minimum(downhill @ d / norm, 0) * (norm < (1 + 1e-5) * radius)
        return jnp.max(jnp.abs(downhill - inward * d / norm))

    residuals = jax.vmap(residual)((x, truth), found.y)
    return replace(found, y=truth + found.y, residual=residuals)


@lru_cache(maxsize=256)
def _shifted(energy):
    def of_displacement(params, context, d):
        x, truth = context
        return energy(params, x, truth + d)

    return of_displacement


def _energies(energies):
    """Energies as floats, of one candidate at least."""
    energies = floats("energies", energies)
    if not energies.shape[-1:] > (0,):
        raise ValueError(
            f"energies must be (..., K), of a candidate at least, got {energies.shape}"
        )
    return energies


def _allowed(allowed, shape):
    """Booleans of the shape of the energies."""
    allowed = real("allowed", allowed)
    try:
        if allowed.dtype == bool:
            return jnp.broadcast_to(allowed, shape)
    except ValueError:
        pass
    raise ValueError(
        f"allowed must be booleans of shape {shape}, got {allowed.dtype} {allowed.shape}"
    )


def _lowest_allowed(energies, allowed):
    """The index of the lowest allowed energy, of one that is not a number where there is any; K for none.

    On CPUs the minimum of floats, exact here, is an order of magnitude faster than `argmin`.
    """
    energies = jnp.where(jnp.isnan(energies), -jnp.inf, energies)
    energies = jnp.where(allowed, energies, jnp.inf)
    lowest = jnp.min(energies, axis=-1, keepdims=True)
    size = energies.shape[-1]
    index = lax.broadcasted_iota(
        jnp.float32 if size < 2**24 else jnp.int32, energies.shape, energies.ndim - 1
    )
    chosen = (energies == lowest) & (lowest < jnp.inf)
    return jnp.min(jnp.where(chosen, index, size), axis=-1).astype(jnp.int32)


def _lowest_but(_, energies, truth):
    return _lowest_allowed(energies, all_but(truth, energies.shape[-1]))


def _lowest_of_allowed(_, energies, allowed):
    return _lowest_allowed(energies, allowed)


def _offender(energies, index):
    at = jnp.minimum(index, energies.shape[-1] - 1)[..., None]
    energy = jnp.take_along_axis(energies, at, axis=-1)[..., 0]
    return Offender(index, jnp.where(index < energies.shape[-1], energy, jnp.inf))

"""Wrong answers to push up: the most offending one, and those mined from a batch.

Energies are (..., K), one for each candidate; `allowed`, (..., K) booleans, says which candidates are wrong
answers. For a batch of pairs `gibbs.pairwise` gives all energies as one matrix (B, B) with
the correct ones on its diagonal, and `others` or `different` its `allowed`. What is chosen is
an `Offender`; its energy carries the gradient, its index is a constant.
"""

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from spen_jax.batching import by_rows
from spen_jax.domains import Reals
from spen_jax.gibbs import Energy
from spen_jax.inference import Solution, minimize_best


class Offender(NamedTuple):
    """A wrong answer of each example: its index among the candidates and its energy, both (...).

    Where no candidate was allowed the index is K and the energy infinite, with which the margin losses and
    the log loss are at their lowest.
    """

    index: jax.Array
    energy: jax.Array


def all_but(truth: jax.Array, candidates: int) -> jax.Array:
    """Which of K candidates are not the truth, indices (...) -> (..., K)."""
    return (
        lax.broadcasted_iota(truth.dtype, (*truth.shape, candidates), truth.ndim)
        != truth[..., None]
    )


def different(labels: jax.Array, others: jax.Array | None = None) -> jax.Array:
    """Which pairs of a batch have different labels, (B,) and (K,) (itself by default) -> (B, K)."""
    return labels[:, None] != (labels if others is None else others)[None]


def outside_ball(candidates: jax.Array, truth: jax.Array, radius: jax.Array | float) -> jax.Array:
    """Which candidates are at least `radius` from the truth, (K, D) and (..., D) -> (..., K).

    Of a continuous answer all those nearer count as correct: the forbidden sphere of LeCun's lecture. The
    radius may follow a schedule.
    """
    squared = jnp.sum((truth[..., None, :] - candidates) ** 2, axis=-1)
    return squared >= jnp.asarray(radius) ** 2


def most_offending(
    energies: jax.Array, truth: jax.Array | None = None, *, allowed: jax.Array | None = None
) -> Offender:
    """y_bar = argmin over wrong y of E(x, y): (..., K) -> (...).

    Args:
      energies: of all candidates, also padded with infinity.
      truth: index of the correct candidate, (...); all others are wrong.
      allowed: in its place, which candidates are wrong: `outside_ball` for a continuous answer on a grid.

    Source: LeCun et al. (2006), section 2.
    """
    fixed = lax.stop_gradient(energies)
    if truth is not None and allowed is None:
        return _offender(energies, by_rows(_lowest_but, fixed, truth))
    if allowed is not None and truth is None:
        return _offender(energies, by_rows(_lowest_allowed, fixed, allowed))
    raise ValueError("most_offending needs either truth or allowed, exactly one of them")


def hardest(energies: jax.Array, allowed: jax.Array) -> Offender:
    """The negative of lowest energy within the batch: `most_offending` by another name."""
    return most_offending(energies, allowed=allowed)


def semi_hard(energies: jax.Array, correct: jax.Array, allowed: jax.Array) -> Offender:
    """The lowest negative above the correct energy; where there is none, the highest negative.

    The hardest ones can collapse an embedding early in training; these give a gradient that does not. Source: Schroff,
    Kalenichenko & Philbin (2015), section 3.2.

    Args:
      energies: (..., K).
      correct: energies of the correct answers, (...).
      allowed: which candidates are negatives, (..., K).
    """
    fixed, correct = lax.stop_gradient((energies, correct))
    above = allowed & (fixed > correct[..., None])
    lowest = _lowest_allowed(fixed, above)
    highest = _lowest_allowed(-fixed, allowed)
    return _offender(energies, jnp.where(jnp.any(above, axis=-1), lowest, highest))


def random(key: jax.Array, energies: jax.Array, allowed: jax.Array) -> Offender:
    """A negative drawn uniformly from those allowed."""
    drawn = jax.random.uniform(key, allowed.shape)
    return _offender(energies, _lowest_allowed(drawn, allowed))


@dataclass(frozen=True)
class OutsideBall(Reals):
    """{d : ||d||_2 >= radius} along the last axis: displacements from a truth that count as wrong.

    Not convex: minimise from several starts. 0, which has no nearest point, goes to the first axis.
    """

    radius: float = 0.2

    def __post_init__(self):
        if not self.radius > 0:
            raise ValueError(f"OutsideBall needs a radius > 0, got {self.radius}")

    def project(self, y):
        """y moved out to the sphere where it is inside."""
        norm = jnp.linalg.norm(y, axis=-1, keepdims=True)
        first = jnp.zeros_like(y).at[..., 0].set(self.radius)
        outward = self.radius * y / jnp.where(norm == 0, 1, norm)
        return jnp.where(norm >= self.radius, y, jnp.where(norm == 0, first, outward))

    def initial(self, shape):
        """The point of the sphere on the first axis."""
        return self.project(jnp.zeros(shape))

    def random(self, key, shape):
        """A normal point, moved out to the sphere where it is inside."""
        return self.project(super().random(key, shape))

    def reflect(self, y):
        """Refused: the outside of a ball does not reflect here."""
        raise ValueError(f"{self} cannot reflect; project")


def search(
    energy: Energy,
    params: Any,
    x: Any,
    truth: jax.Array,
    starts: jax.Array,
    *,
    radius: float,
    **options: Any,
) -> Solution:
    """y_bar of a continuous answer by the solvers: argmin of E(x, y) over ||y - truth||_2 >= radius.

    Args:
      energy: `(params, x, y) -> scalar` for one example.
      params: its parameters.
      x: what the energy sees of the examples, leading axis B.
      truth: (B, D).
      starts: S points to start from, (B, S, D), such as `truth` with noise of several directions.
      radius: of the ball around the truth; another one compiles again.
      options: those of `minimize`, but for the domain: solver, steps, ...

    Returns:
      The best of the S solutions, constants to differentiation; its `y` is y_bar. The energy to train on is
      `energy` evaluated there.
    """
    around = starts - truth[:, None]
    domain = OutsideBall(radius)
    found = minimize_best(_shifted(energy), params, (x, truth), around, domain=domain, **options)
    return jax.tree.map(lax.stop_gradient, replace(found, y=truth + found.y))


@lru_cache(maxsize=256)
def _shifted(energy):
    def of_displacement(params, context, d):
        x, truth = context
        return energy(params, x, truth + d)

    return of_displacement


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


def _lowest_but(energies, truth):
    return _lowest_allowed(energies, all_but(truth, energies.shape[-1]))


def _offender(energies, index):
    at = jnp.minimum(index, energies.shape[-1] - 1)[..., None]
    energy = jnp.take_along_axis(energies, at, axis=-1)[..., 0]
    return Offender(index, jnp.where(index < energies.shape[-1], energy, jnp.inf))

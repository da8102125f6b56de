"""The Metropolis rule, by which adjusted samplers accept or reject what they propose."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from spen_jax.sampling.sampler import Info, Target
from spen_jax.trees import select


class Point(NamedTuple):
    """A point y of one chain with its energy, a scalar, and gradient, of y's shape.

    None where a sampler does not need them.
    """

    y: Any
    energy: Any = None
    gradient: Any = None


def point_at(target: Target, y: Any) -> Point:
    """y with its energy and gradient."""
    return Point(y, *jax.value_and_grad(target.energy)(y))


def is_wrong(log_ratio: jax.Array, energy: jax.Array) -> jax.Array:
    """Whether a proposal of this energy, or its log density ratio, is not a number, or the energy -inf.

    An energy of +inf is a density of 0, whatever else is NaN there.
    """
    return jnp.isnan(log_ratio) & (energy != jnp.inf) | (energy == -jnp.inf)


def acceptance(log_ratio: jax.Array, energy: jax.Array) -> Info:
    """min(1, exp(log_ratio)), the probability to accept a proposal of this energy.

    `log_ratio` is log [p(y') q(y | y') / (p(y) q(y' | y))] of a proposal y' drawn from q(. | y): -inf where y' is
    outside the domain, and +inf where p(y) = 0, as at a start of energy +inf. A proposal of energy +inf has probability
    0. One that is not a number, or an energy of -inf, is rejected and flagged. Both are scalars of one chain. Source:
    Metropolis et al. (1953); Hastings (1970).
    """
    wrong = is_wrong(log_ratio, energy)
    never = wrong | (energy == jnp.inf)
    return Info(jnp.where(never, 0, jnp.exp(jnp.minimum(log_ratio, 0))), wrong)


def accept(
    uniform: jax.Array, log_ratio: jax.Array, proposal: Point, point: Point
) -> tuple[Point, Info]:
    """The proposal where a uniform number in [0, 1) is below its acceptance probability, else the point, and an `Info`.

    `uniform` and `log_ratio` are scalars of one chain, the latter as in `acceptance`, which says the probability; the
    proposal's energy is needed, other fields as the sampler has them, alike in both points.
    """
    info = acceptance(log_ratio, proposal.energy)
    return select(uniform < info.acceptance, proposal, point), info

"""Langevin dynamics, unadjusted and Metropolis-adjusted."""

import math
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from spen_jax.checks import check_positive
from spen_jax.domains import Box, Reals
from spen_jax.sampling.metropolis import Point, accept, point_at
from spen_jax.sampling.sampler import Info, consists_of
from spen_jax.trees import every, inner

CHOICES = {"noise": ("gaussian", "two-point"), "boundary": ("reflect", "project")}


class Noise(NamedTuple):
    """The noise xi of a step, in the shapes of y; where adjusted the uniform number that decides, else None."""

    xi: Any
    uniform: Any


@dataclass(frozen=True)
class Langevin:
    """y <- y - h grad E(y) + sqrt(2 h / beta) xi, the unadjusted Langevin algorithm, or MALA.

    h is `step_size`, > 0. Unadjusted, the samples' law differs from exp(-beta E) by O(h), and a point outside the
    domain is brought back by `boundary`: "reflect" keeps the density on reals, boxes and their products, "project"
    works on every domain but lets points pile up on the boundary.

    `noise`: "gaussian", or "two-point": xi_i = -1 or +1, 32 of them from one random word and so several times faster. A
    step has the same mean and covariance, so that away from bounds expectations err by O(h) as before (weak order 1:
    Kloeden & Platen 1992, section 14.1); the tails are lighter. Projected onto a bound both kinds err by more, of the
    order of a step's length, and not alike.

    `adjusted`: the Metropolis-adjusted Langevin algorithm (Besag 1994; Roberts & Tweedie 1996), exact at any h: the
    point above is a proposal y', accepted with probability min(1, exp(-beta [E(y') - E(y) + h/4 |s|^2 - sqrt(h / (2
    beta)) xi.s])), s = grad E(y) + grad E(y'), which is the Metropolis-Hastings ratio of that proposal written without
    cancellation; outside the domain the density is 0, so that `boundary` plays no part. Reals, boxes and their products
    only. ValueError for a domain that the choice does not work on, and for `adjusted` with "two-point". In n dimensions
    h of order n^(-1/3) suits it, such that about 0.57 of the proposals are accepted (Roberts & Rosenthal 1998).
    """

    step_size: float = 0.01
    noise: Literal["gaussian", "two-point"] = "gaussian"
    adjusted: bool = False
    boundary: Literal["reflect", "project"] = "reflect"

    def __post_init__(self):
        check_positive("step_size of Langevin", self.step_size)
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} must be one of {choices}, got {getattr(self, name)!r}")
        if self.adjusted and self.noise == "two-point":
            raise ValueError(
                "adjusted=True needs noise='gaussian': a proposal with two-point noise has no density, which the "
                "acceptance probability is made of; use adjusted=False for two-point noise"
            )

    def check(self, domain):
        """ValueError for a domain that cannot reflect, or with `adjusted` is none of reals, boxes, their products."""
        if not consists_of(domain, (Reals, Box)) and (self.adjusted or self.boundary == "reflect"):
            what = "adjusted=True" if self.adjusted else "boundary='reflect'"
            raise ValueError(
                f"Langevin with {what} samples from Reals and Box, got {domain}; "
                "use Langevin(boundary='project'), unadjusted"
            )

    def draw(self, key, y, size):
        """A `Noise` of each chain."""
        leaves, structure = jax.tree.flatten(y)
        keys = jax.random.split(key, len(leaves) + 1)
        draw = jax.random.normal if self.noise == "gaussian" else _signs
        xi = [draw(k, (*a.shape, size), a.dtype) for k, a in zip(keys[1:], leaves, strict=True)]
        uniform = jax.random.uniform(keys[0], (size,)) if self.adjusted else None
        return Noise(structure.unflatten(xi), uniform)

    def init(self, target, y):
        """The point, where adjusted with its energy and gradient."""
        return point_at(target, y) if self.adjusted else Point(y)

    def step(self, target, state, random):
        """One step, which costs one gradient, and where adjusted one energy with it."""
        gradient = state.gradient if self.adjusted else jax.grad(target.energy)(state.y)
        scale = jnp.sqrt(2 * self.step_size / target.beta)

        def move(y, slope, xi):
            return y - self.step_size * slope + scale.astype(y.dtype) * xi

        y = jax.tree.map(move, state.y, gradient, random.xi)
        if not self.adjusted:
            bring_back = getattr(target.domain, self.boundary)
            return Point(bring_back(y)), Info(jnp.ones(()), jnp.array(False))

        proposal = point_at(target, y)
        s = jax.tree.map(jnp.add, gradient, proposal.gradient)
        rest = self.step_size / 4 * inner(s, s) - scale / 2 * inner(random.xi, s)
        log_ratio = -target.beta * (proposal.energy - state.energy + rest)
        inside = every(jax.tree.map(_no_other, y, target.domain.project(y)))
        # Outside the density is 0, whatever the energy says there.
        log_ratio = jnp.where(inside, log_ratio, -jnp.inf)
        proposal = proposal._replace(energy=jnp.where(inside, proposal.energy, jnp.inf))
        return accept(random.uniform, log_ratio, proposal, state)

    def read(self, target, state):
        """The point and its energy, which unadjusted steps do not know."""
        return state.y, state.energy if self.adjusted else target.energy(state.y)


def _no_other(a, b):
    """Where the numbers are equal, or not to be compared."""
    return (a == b) | jnp.isnan(a)


def _signs(key, shape, dtype):
    """Numbers -1 or +1; 32 consecutive ones along the first axis come from one random word."""
    *lead, size = shape
    rows = math.prod(lead)
    words = jax.random.bits(key, (math.ceil(rows / 32), 1, size), jnp.uint32)
    # Each bit in turn becomes the sign bit of the number 1.
    signs = words << jnp.arange(32, dtype=jnp.uint32)[None, :, None] & jnp.uint32(1 << 31)
    ones = lax.bitcast_convert_type(signs | jnp.uint32(0x3F800000), jnp.float32)
    return ones.reshape(32 * len(words), size)[:rows].astype(dtype).reshape(shape)

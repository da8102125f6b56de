"""A sampler of binary labels that proposes flips by the gradient."""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from spen_jax.domains import Box
from spen_jax.sampling.metropolis import accept, point_at


class Draws(NamedTuple):
    """Gumbel noise of each label's flip and of no change, and the uniform number that decides."""

    flips: jax.Array
    stay: jax.Array
    uniform: jax.Array


class Proposal(NamedTuple):
    """What is proposed at a point: logits beta d / 2, (L,), no change having 0, and log(1 + sum_j exp(logits_j))."""

    logits: jax.Array
    log_total: jax.Array


@dataclass(frozen=True)
class GibbsWithGradients:
    """P(y) = exp(-beta E(y)) / Z on y in {0, 1}^L, one label flipped at a time: exact for any differentiable energy.

    d_i = (2 y_i - 1) dE/dy_i is the first-order estimate of E(y) - E(y with label i flipped). Label i is proposed with
    probability exp(beta d_i / 2) / (1 + sum_j exp(beta d_j / 2)), no change with the rest, and the flip accepted with
    the Metropolis-Hastings probability of the true energies: the estimate, exact for an energy linear in each label,
    decides on speed alone. A step costs one gradient. The source always flips, and then under a flat energy is at an
    even number of labels after even steps only; proposing no change mends that, and where d is exact slows no flip by
    more than half. An energy with entropy, all but infinitely steep at a corner, hardly ever lets it propose that; the
    law is exact all the same. Starting points are rounded. ValueError for another domain than Box(0, 1).

    Source: Grathwohl, Swersky, Hashemi, Duvenaud & Maddison (2021), "Oops I took a gradient"; the square root of the
    ratio: Zanella (2020).
    """

    def check(self, domain):
        """ValueError for another domain than Box(0, 1), whose corners these are."""
        if domain != Box(0, 1):
            raise ValueError(
                f"GibbsWithGradients samples the corners of Box(0, 1), got {domain}; for continuous y use Langevin"
            )

    def draw(self, key, y, size):
        """`Draws` of each chain."""
        flips, stay, uniform = jax.random.split(key, 3)
        return Draws(
            jax.random.gumbel(flips, (*y.shape, size), y.dtype),
            jax.random.gumbel(stay, (size,), y.dtype),
            jax.random.uniform(uniform, (size,)),
        )

    def init(self, target, y):
        """The nearest corner, its energy and gradient."""
        # Rounding would make a number of NaN, which is to be flagged.
        return point_at(target, jnp.where(jnp.isnan(y), y, target.domain.round(y)))

    def step(self, target, state, random):
        """One proposal, which costs one energy and its gradient."""
        forth = _proposal(target, state)
        noisy = forth.logits + random.flips
        highest = jnp.max(noisy)
        # The first of equals; not argmax, so that the chains may stand last.
        order = np.arange(noisy.size).reshape(noisy.shape)
        first = jnp.min(jnp.where(noisy == highest, order, noisy.size))
        flip = (order == first) & (highest > random.stay)

        proposal = point_at(target, jnp.where(flip, 1 - state.y, state.y))
        back = _proposal(target, proposal)
        log_ratio = target.beta * (state.energy - proposal.energy)
        log_ratio = log_ratio + forth.log_total - back.log_total
        log_ratio += jnp.sum(jnp.where(flip, back.logits - forth.logits, 0))
        return accept(random.uniform, log_ratio, proposal, state)

    def read(self, target, state):
        """The point and its energy."""
        return state.y, state.energy


def _proposal(target, point):
    logits = target.beta.astype(point.y.dtype) / 2 * (2 * point.y - 1) * point.gradient
    return Proposal(logits, jnp.logaddexp(jax.nn.logsumexp(logits), 0))

"""Steps that are exact in one part of the energy, which the domain knows."""

import math
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from spen_jax.inference.solvers import Moving, require


@dataclass(frozen=True)
class ProximalGradient:
    """y <- argmin over v of D(v) + <grad R(y), v> + |v - y|^2 / (2 step_size), for an energy E = D + R.

    The domain knows D, which is quadratic: `energies.Measured`, of images that were measured. With H its matrix of
    second derivatives the step is y - (1 / step_size + H)^-1 grad E(y), so that D may be as steep as it likes, R alone
    says how long a step can be: where D is convex and the gradient of R changes no faster than L |v - y|, E never grows
    for step_size up to 2 / L without a momentum, R convex or not. With `momentum` m the step is made at y + m (y -
    y_before). ValueError for a domain that knows no part of the energy, for known parts of y, and unless step_size > 0
    and 0 <= momentum < 1. Sources: Combettes & Wajs (2005); Beck & Teboulle (2009).
    """

    step_size: float = 1.0
    momentum: float = 0.0

    takes_known = False  # the exact step of the parts that are not known is another one

    def __post_init__(self):
        given = f"got {self.step_size} and {self.momentum}"
        message = f"ProximalGradient needs step_size > 0 and 0 <= momentum < 1, {given}"
        require(self.in_range(), message)

    def in_range(self):
        """step_size > 0 and 0 <= momentum < 1."""
        length = (self.step_size > 0) & (self.step_size < math.inf)
        return length & (self.momentum >= 0) & (self.momentum < 1)

    def init(self, y, domain):
        """The point, not moved yet; ValueError for a domain that has no part of the energy."""
        if not hasattr(domain, "newton"):
            raise ValueError(
                "ProximalGradient needs a domain that knows a part of the energy, such as energies.Measured(), got "
                f"{domain}"
            )
        return Moving(y, jax.tree.map(jnp.zeros_like, y))

    def step(self, energy, state, domain):
        """One step."""
        y, moved = state
        ahead = jax.tree.map(lambda a, m: a + self.momentum * m, y, moved)
        step = domain.newton(jax.grad(energy)(ahead), self.step_size)
        new = jax.tree.map(jnp.subtract, ahead, step)
        return Moving(new, jax.tree.map(jnp.subtract, new, y))

    def y(self, state: Any, domain: Any):
        """The current point."""
        return state.y

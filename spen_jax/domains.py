"""Where y lives: a domain projects any point onto itself, starts an inference, and rounds an answer.

Domains act on arrays of any shape; `minimize` gives them one example at a time.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

PROBABILITY_FLOOR = 1e-7  # float32 numbers just below 1 are 6e-8 apart


@dataclass(frozen=True)
class Box:
    """The box {y : lower <= y_i <= upper}; [0, 1] is the convex hull of the binary labellings."""

    lower: float = 0.0
    upper: float = 1.0

    def __post_init__(self):
        if not self.lower < self.upper:
            raise ValueError(
                f"Box needs lower < upper, got lower={self.lower} and upper={self.upper}; swap them?"
            )

    def project(self, y: jax.Array) -> jax.Array:
        """argmin over u in the box of ||u - y||: y clipped to [lower, upper]."""
        return jnp.clip(y, self.lower, self.upper)

    def initial(self, shape: tuple[int, ...]) -> jax.Array:
        """The centre of the box, in every coordinate."""
        return jnp.full(shape, (self.lower + self.upper) / 2)

    def random(self, key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        """A point drawn uniformly from the box."""
        return jax.random.uniform(key, shape, minval=self.lower, maxval=self.upper)

    def round(self, y: jax.Array) -> jax.Array:
        """The nearest corner of the box (the upper bound at the centre)."""
        return jnp.where(y >= (self.lower + self.upper) / 2, self.upper, self.lower)

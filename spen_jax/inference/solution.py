"""What an inference found."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from spen_jax.inference.steps import finite


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["y", "energy", "residual", "stopped_after", "trace"],
    meta_fields=["limit", "tolerance"],
)
@dataclass
class Solution:
    """What an inference found, for each of B examples.

    Attributes:
      y: the point, (B, ...): the last one; with `stop_early`, of an example that failed or ended above the energy it
        began with, the one of lowest energy.
      energy: the objective there, low where good, E(x, y) or with a temperature E(x, y) - temperature H(y), (B,).
      residual: max_i |y - project(y - grad)|_i, (B,): 0 exactly where y satisfies the first-order conditions of a
        minimum on the domain; not a number where the example failed.
      stopped_after: with `stop_early` the steps taken, (B,); else None, see `steps`.
      trace: what was asked for, name -> (B, steps + 1, ...): before the first step and after each.
      limit: the steps allowed.
      tolerance: the residual up to which an example counts as converged.
    """

    y: Any
    energy: jax.Array
    residual: jax.Array
    stopped_after: jax.Array | None
    trace: dict[str, Any]
    limit: int
    tolerance: float

    @classmethod
    def judged_later(
        cls, y: Any, judge: Callable[[], tuple[jax.Array, jax.Array]], limit: int, tolerance: float
    ) -> "Solution":
        """One whose energy and residual, judge(), are computed when somebody asks for them."""
        found = cls.__new__(cls)
        found.__dict__ = {
            "y": y,
            "stopped_after": None,
            "trace": {},
            "limit": limit,
            "tolerance": tolerance,
            "_judge": judge,
        }
        return found

    def __getattr__(self, name: str) -> jax.Array:
        if name not in ("energy", "residual") or "_judge" not in self.__dict__:
            raise AttributeError(f"a Solution has no {name!r}")
        self.energy, self.residual = self.__dict__.pop("_judge")()
        return self.__dict__[name]

    @property
    def steps(self) -> jax.Array:
        """Steps taken, (B,)."""
        if self.stopped_after is None:
            return jnp.full(self.residual.shape, self.limit)
        return self.stopped_after

    @property
    def failed(self) -> jax.Array:
        """Whether the energy or the gradient is not finite, (B,): where it ended, with `stop_early` anywhere."""
        return ~finite(self.energy, self.residual)

    @property
    def converged(self) -> jax.Array:
        """residual <= tolerance and nothing failed, (B,)."""
        return (self.residual <= self.tolerance) & ~self.failed

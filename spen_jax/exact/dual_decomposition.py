"""Dual decomposition: parts of a graph that are solved exactly, made to agree by multipliers; always a lower bound."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax import lax

from spen_jax.exact.field_methods import BOUND, Promises
from spen_jax.exact.iterations import check_steps
from spen_jax.exact.sweeps import polished, size_of


@dataclass(frozen=True)
class DualDecomposition:
    """max over multipliers of sum over parts of min E_part <= min E, by accelerated ascent on a smoothed dual.

    Parts are single factors and variables, of a grid rows and columns. At temperature t each min is -t log sum exp(-E
    / t), whose gradient is by how much the parts' marginals disagree; the temperature falls by stages, in each of
    which Nesterov's method starts anew. The bound is that of the best multipliers at temperature 0, at its highest
    that of the linear programme over the local polytope. Sources: Komodakis, Paragios & Tziritas (2011); smoothed,
    Savchynskyy et al. (2011).

    It answers `best`, with that bound, and nothing else. ValueError for steps and stages that are no whole numbers from
    1 on, and fewer steps than stages.

    Attributes:
      steps: of all stages together.
      stages: how many temperatures, from the size of the energies down.
      cold: the last temperature over the size of the energies.
    """

    steps: int = 1000
    stages: int = 4
    cold: float = 0.001

    def __post_init__(self):
        check_steps(self.steps)
        check_steps(self.stages, name="stages")
        if self.steps < self.stages:
            raise ValueError(f"steps must be at least {self.stages}, one a stage, got {self.steps}")

    def promises(self, field):
        """The best answer, with a bound."""
        return Promises(best=BOUND)

    def check(self, field):
        """Any field will do."""

    def best(self, field, tables):
        """Of the variables' energies with their multipliers, rounded; and the bound."""
        multipliers = lax.stop_gradient(self._multipliers(field, lax.stop_gradient(tables)))
        nodes = field.reparametrised(tables, multipliers)
        y = polished(field, tables, jnp.argmin(nodes, -1))
        return y, field.dual(tables, multipliers, True)

    def _multipliers(self, field, tables):
        """The best found, measured at temperature 0 at the end of each stage."""
        size = jnp.maximum(sum(map(size_of, jax.tree.leaves(tables))), 1e-30)
        rates = field.rates()
        size = jnp.broadcast_to(size, tables.nodes.shape[0])

        def each(a, like):
            return a.reshape(-1, *[1] * (like.ndim - 1))

        def stage(state, share):
            temperature = size * share

            def smooth(multipliers):
                warm = jax.tree.map(lambda a: a / each(temperature, a), (tables, multipliers))
                return jnp.sum(temperature * field.dual(*warm, False))

            def step(state, i):
                now, before = state
                ahead = jax.tree.map(lambda a, b: a + i / (i + 3) * (a - b), now, before)
                slope = jax.grad(smooth)(ahead)
                new = jax.tree.map(
                    lambda a, g, r: a + each(temperature, a) * r * g, ahead, slope, rates
                )
                return (new, now), None

            best, bound = state
            (found, _), _ = lax.scan(
                step, (best, best), jnp.arange(self.steps // self.stages, dtype=bound.dtype)
            )
            value = field.dual(tables, found, True)
            better = value > bound
            best = jax.tree.map(lambda a, b: jnp.where(each(better, a), a, b), found, best)
            return (best, jnp.maximum(value, bound)), None

        start = field.multipliers(tables)
        shares = jnp.geomspace(1, self.cold, self.stages, dtype=tables.nodes.dtype)
        return lax.scan(stage, (start, field.dual(tables, start, True)), shares)[0][0]

"""Changing variables of one colour at a time, given the others: mean field, Gibbs sampling, annealing.

Variables of one colour share no factor, so that all of them can change at once; the energies of a variable's values
given the others are the derivative of the multilinear energy.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from spen_jax.exact.answers import finite
from spen_jax.exact.field_methods import APPROXIMATE, Promises
from spen_jax.exact.iterations import check_steps, moved, repeated


def slopes(field: Any, tables: Any, y: jax.Array) -> jax.Array:
    """dE/dy of relaxed answers: energies of single values given the others, up to a constant, (B, *nodes, K)."""
    return jax.grad(lambda y: jnp.sum(field.multilinear(tables, y)))(y)


def swept(
    field: Any, tables: Any, y: jax.Array, update: Callable[[jax.Array, jax.Array], jax.Array]
) -> jax.Array:
    """y after update(energies, colour) of each colour's variables in turn, (B, *nodes, K)."""
    colours = jnp.asarray(field.colours())

    def one(y, colour):
        new = update(slopes(field, tables, y), colour)
        return jnp.where((colours == colour)[None, ..., None], new, y), None

    return lax.scan(one, y, jnp.arange(field.colours().max() + 1))[0]


def polished(field: Any, tables: Any, y: jax.Array, sweeps: int = 1000) -> jax.Array:
    """Answers in whole numbers (B, *nodes), single variables changed as long as that lowers the energy.

    Likewise from each variable's best value by itself; the better of the two.
    """
    tables = lax.stop_gradient(tables)

    def best(energies, colour):
        return field.one_hot(jnp.argmin(energies, -1))

    def one(state):
        y, _, n = state
        new = swept(field, tables, y, best)
        return new, jnp.any(new != y), n + 1

    def goes_on(state):
        return state[1] & (state[2] < sweeps)

    def of(start):
        found, *_ = lax.while_loop(goes_on, one, (field.one_hot(start), jnp.array(True), 0))
        return found, field.multilinear(tables, found)

    each = lax.map(of, jnp.stack([y, jnp.argmin(tables.nodes, -1)]))
    (first, second), (energy, other) = each
    return jnp.argmax(better((first, energy), (second, other))[0], -1)


@dataclass(frozen=True)
class MeanField:
    """Independent variables nearest to P: F(q) = mean E - H(q) / beta >= F, lowered one colour after the other.

    Variables of one colour share no factor and change at once. `free_energy` is an upper bound at whatever q; the best
    answer is that of the q of a falling temperature, rounded, and then improved by changes of single variables. Source:
    Wainwright & Jordan (2008), section 5.

    It has no samples and no bound of the best. ValueError for sweeps that are no whole number from 1 on.

    Attributes:
      sweeps: over all variables, at most.
      tolerance: a change of all marginals below which no more are made.
    """

    sweeps: int = 100
    tolerance: float = 1e-6

    def __post_init__(self):
        check_steps(self.sweeps, name="sweeps")

    def promises(self, field):
        """An upper bound of F."""
        return Promises(APPROXIMATE, APPROXIMATE, "upper bound")

    def check(self, field):
        """Any field will do."""

    def _settled(self, field, tables):
        def step(y):
            return swept(field, tables, y, lambda energies, _: jax.nn.softmax(-energies, -1))

        return repeated(
            step, jax.nn.softmax(-finite(tables.nodes), -1), self.sweeps, self.tolerance
        )

    def expectations(self, field, tables):
        """F(q), and what q says of single and of joint values."""
        y, residual = self._settled(field, tables)
        entropy = -jnp.sum(
            jnp.where(y > 0, y * jnp.log(jnp.where(y > 0, y, 1)), 0).reshape(y.shape[0], -1), 1
        )
        energy = field.multilinear(tables, y)
        value = jnp.where(energy > 1e20, jnp.inf, energy - entropy)
        return value, field.independent(tables, y), residual

    def best(self, field, tables):
        """Rounded, after temperatures that fall from one at which everything is possible."""
        tables = lax.stop_gradient(tables)
        cooled = _temperatures(tables, self.sweeps)

        def step(y, temperature):
            t = temperature.reshape(-1, *[1] * (y.ndim - 1))
            return swept(field, tables, y, lambda e, _: jax.nn.softmax(-e / t, -1)), None

        y = jax.nn.softmax(
            -finite(tables.nodes) / cooled[0].reshape(-1, *[1] * (tables.nodes.ndim - 1)), -1
        )
        y, _ = lax.scan(step, y, cooled)
        return polished(field, tables, jnp.argmax(y, -1)), unbounded(y)


@dataclass(frozen=True)
class Gibbs:
    """Variables drawn given the others, one colour after the other, by independent chains.

    Samples are the chains' states after so many sweeps; marginals averages over the later half of them, and their
    residual is how far those of one half of the chains are from the other's. Source: Geman & Geman (1984).

    It answers `sample` and `marginals`, which have no derivative, and nothing else. ValueError for sweeps that are no
    whole number from 1 on, and fewer than 2 chains.

    Attributes:
      sweeps: over all variables.
      chains: of each example, for marginals; at least 2.
      seed: of the chains of marginals; samples have a key.
    """

    sweeps: int = 200
    chains: int = 16
    seed: int = 0

    def __post_init__(self):
        check_steps(self.sweeps, name="sweeps")
        if not self.chains >= 2:
            raise ValueError(f"Gibbs needs 2 chains or more, got {self.chains}")

    def promises(self, field):
        """Samples; no free energy."""
        return Promises(marginals=APPROXIMATE, samples=APPROXIMATE)

    def check(self, field):
        """Any field will do."""

    def drawn(self, field, tables, key, n):
        """The states of n chains."""

        def chain(key):
            start, keys = _started(tables, key, self.sweeps)
            y, _ = lax.scan(partial(_drawn, field, tables), start, keys)
            return jnp.argmax(y, -1)

        y = jax.vmap(chain, out_axes=1)(jax.random.split(key, n))
        return y, jnp.zeros(y.shape[0], tables.nodes.dtype)

    def expectations(self, field, tables):
        """Averages; there is no derivative."""
        return _averages(self, field, tables)


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _averages(method, field, tables):
    later = method.sweeps // 2
    none = jax.tree.map(jnp.zeros_like, field.independent(tables, tables.nodes))

    def chain(key):
        start, keys = _started(tables, key, method.sweeps)

        def step(state, key):
            y, total = state
            y, _ = _drawn(field, tables, y, key)
            return (y, jax.tree.map(jnp.add, total, field.independent(tables, y))), None

        y, _ = lax.scan(partial(_drawn, field, tables), start, keys[later:])
        (_, total), _ = lax.scan(step, (y, none), keys[:later] if later else keys)
        return jax.tree.map(lambda a: a / max(later, 1), total)

    found = jax.lax.map(
        chain, jax.random.split(jax.random.key(method.seed), method.chains), batch_size=8
    )
    half = method.chains // 2
    first = _mean(jax.tree.map(lambda a: a[:half], found))
    second = _mean(jax.tree.map(lambda a: a[half:], found))
    mean = _mean(found)
    return jnp.full(tables.nodes.shape[0], jnp.nan, tables.nodes.dtype), mean, moved(first, second)


@_averages.defjvp
def _averages_jvp(method, primals, tangents):
    raise ValueError(
        "marginals by Gibbs sampling are averages of draws and have no derivative: differentiate those of "
        "BeliefPropagation, TreeReweighted, MeanField or Elimination"
    )


@dataclass(frozen=True)
class Annealing:
    """Gibbs sampling at a temperature that falls to 0, the best answer on the way kept (Kirkpatrick et al. 1983).

    It answers `best`, without a bound, and nothing else; single variables of the answer are changed as long as that
    helps. ValueError for sweeps and chains that are no whole numbers from 1 on.

    Attributes:
      sweeps: over all variables.
      chains: of each example; the best of them is the answer.
      seed: of the draws.
    """

    sweeps: int = 200
    chains: int = 8
    seed: int = 0

    def __post_init__(self):
        check_steps(self.sweeps, name="sweeps")
        check_steps(self.chains, name="chains")

    def promises(self, field):
        """The best answer, without a bound."""
        return Promises(best=APPROXIMATE)

    def check(self, field):
        """Any field will do."""

    def best(self, field, tables):
        """Of all chains."""
        tables = lax.stop_gradient(tables)
        cooled = _temperatures(tables, self.sweeps)

        def chain(key):
            start, keys = _started(tables, key, self.sweeps)

            def step(state, given):
                temperature, key = given
                y, _ = _drawn(field, tables, state[0], key, temperature)
                return (y, *better(state[1:], (y, field.multilinear(tables, y)))), None

            first = start, start, field.multilinear(tables, start)
            (_, y, _), _ = lax.scan(step, first, (cooled, keys))
            y = polished(field, tables, jnp.argmax(y, -1))
            return y, field.multilinear(tables, field.one_hot(y))

        keys = jax.random.split(jax.random.key(self.seed), self.chains)
        y, energy = jax.lax.map(chain, keys, batch_size=8)
        best = jnp.argmin(energy, 0).reshape(1, -1, *[1] * (y.ndim - 2))
        return jnp.take_along_axis(y, best, 0)[0], unbounded(y[0])


def _mean(tree):
    return jax.tree.map(lambda a: jnp.mean(a, 0), tree)


def unbounded(y: jax.Array) -> jax.Array:
    """No bound, for each of the answers (B, ...)."""
    return jnp.full(y.shape[0], -jnp.inf)


def better(
    old: tuple[jax.Array, jax.Array], new: tuple[jax.Array, jax.Array]
) -> tuple[jax.Array, jax.Array]:
    """Of each pair of answers (B, ...) the one of lower energy (B,), and that."""
    lower = new[1] < old[1]
    where = lower.reshape(-1, *[1] * (new[0].ndim - 1))
    return jnp.where(where, new[0], old[0]), jnp.where(lower, new[1], old[1])


def _started(tables, key, sweeps):
    """Values drawn alone, one-hot, and a key for each sweep."""
    first, key = jax.random.split(key)
    y = jax.random.categorical(first, -finite(tables.nodes))
    return jax.nn.one_hot(y, tables.nodes.shape[-1], dtype=tables.nodes.dtype), jax.random.split(
        key, sweeps
    )


def _drawn(field, tables, y, key, temperature=None):
    """One sweep at a temperature of each example, None for 1."""
    shape = -1, *[1] * (y.ndim - 1)
    scale = 1 if temperature is None else 1 / temperature.reshape(shape)

    def draw(energies, colour):
        found = jax.random.categorical(jax.random.fold_in(key, colour), -energies * scale)
        return jax.nn.one_hot(found, y.shape[-1], dtype=y.dtype)

    return swept(field, tables, y, draw), None


def _temperatures(tables, steps):
    """Temperatures of each example that fall from the size of its energies to a hundredth, (steps, B)."""
    size = sum(map(size_of, jax.tree.leaves(tables))) + jnp.zeros(tables.nodes.shape[0])
    return jnp.maximum(size, 1e-30)[None] * jnp.geomspace(1, 0.01, steps)[:, None]


def size_of(energies: jax.Array) -> jax.Array:
    """The spread of finite energies of each example, (B or 1,)."""
    flat = energies.reshape(energies.shape[0], -1)
    there = jnp.isfinite(flat)
    count = jnp.maximum(jnp.sum(there, 1), 1)
    mean = jnp.sum(jnp.where(there, flat, 0), 1) / count
    return jnp.sqrt(jnp.sum(jnp.where(there, (flat - mean[:, None]) ** 2, 0), 1) / count)

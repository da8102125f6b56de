"""What follows from the recursion of a `Structure`, and its derivative: compiled once for each kind and shape."""

import math
from collections.abc import Callable
from functools import partial, wraps
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_derivatives import SymbolicZero

from spen_jax.exact.algebras import Several


class Found(NamedTuple):
    """Answers of a `Structure` and their energies, as `best`, `k_best` and `sample` give them.

    Attributes:
      y: whole numbers, as the structure says, -1 where no structure is allowed; (..., *shape), of several
        (..., k, *shape).
      energy: E(y), (...) or (..., k); infinite where no structure is allowed.
    """

    y: jax.Array
    energy: jax.Array


BARRED = 1e30
"""What a forbidden part counts in the energy of a relaxed answer, times its share; above 1e20 that is infinite."""


def finite(energies: jax.Array) -> jax.Array:
    """Energies that can be multiplied by 0: `BARRED` for infinity."""
    return jnp.where(energies == jnp.inf, BARRED, energies)


def or_infinite(energy: jax.Array) -> jax.Array:
    """A sum of such as the energy that it stands for."""
    return jnp.where(energy > 1e20, jnp.inf, energy)


def also_of_none(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function of a structure that gives arrays with its leading axes, also where these hold no example."""

    @wraps(function)
    def run(structure, *args):
        batch = structure.batch_shape
        if math.prod(batch):
            return function(structure, *args)

        def of_one(a):
            own = jnp.shape(a)[: len(batch)] == batch
            return jnp.zeros((1, *jnp.shape(a)[len(batch) :]) if own else jnp.shape(a), a.dtype)

        one, given = jax.tree.map(of_one, (structure, [a for a in args if _is_structure(a)]))
        rest = [given.pop() if _is_structure(a) else a for a in args]
        shapes = jax.eval_shape(lambda: function(one, *rest))
        return jax.tree.map(lambda a: jnp.zeros((*batch, *a.shape[1:]), a.dtype), shapes)

    return run


def _is_structure(a):
    return hasattr(a, "batch_shape")


def scaled(tables: Any, beta: Any) -> Any:
    """beta times energies, where infinite ones stay."""
    return jax.tree.map(lambda e: times_beta(e, jnp.asarray(beta, e.dtype)), tables)


@jax.custom_jvp
def times_beta(energies: jax.Array, beta: jax.Array) -> jax.Array:
    """beta E, infinite where E is, whatever beta."""
    return jnp.where(jnp.isinf(energies), energies, beta * energies)


def _times_beta_jvp(primals, tangents):
    (energies, beta), (change, of_beta) = primals, tangents
    # What is infinite has no part in anything that is differentiated, and 0 times it no value.
    found = jnp.zeros_like(energies)
    if not isinstance(change, SymbolicZero):
        found = beta * change
    if not isinstance(of_beta, SymbolicZero):
        found = found + jnp.where(jnp.isinf(energies), 0, energies) * of_beta
    return times_beta(energies, beta), found


times_beta.defjvp(_times_beta_jvp, symbolic_zeros=True)


@also_of_none
@partial(jax.jit, static_argnums=2)
def free_energy(structure: Any, beta: jax.Array, cold: bool) -> jax.Array:
    """F of each example; the least energy where cold."""
    tables = structure.tables()
    if cold:
        value = structure.least(tables)
    else:
        value = structure.free(scaled(tables, beta))
        value = times_beta(value, 1 / jnp.asarray(beta, value.dtype))
    return value.reshape(structure.batch_shape)


def with_parts(value: Any, tables: Any) -> tuple[jax.Array, Any]:
    """The value of each example, (B,), and its derivative in the tables."""
    energy, back = jax.vjp(value, tables)
    return energy, back(jnp.ones_like(energy))[0]


def in_batch(structure: Any, tree: Any) -> Any:
    """Arrays (B, ...) with the batch's axes."""
    return jax.tree.map(lambda a: a.reshape(*structure.batch_shape, *a.shape[1:]), tree)


@also_of_none
@partial(jax.jit, static_argnums=2)
def marginals(structure: Any, beta: jax.Array, cold: bool) -> Any:
    """P of each part."""
    tables = structure.tables()
    if cold:
        energy, found = with_parts(structure.least, structure.spread(tables))
        found = jax.tree.map(
            lambda a: jnp.where(energy.reshape(-1, *[1] * (a.ndim - 1)) < jnp.inf, a, 0), found
        )
    else:
        found = structure.found_marginals(scaled(tables, beta))
    return in_batch(structure, structure.parts(found))


@also_of_none
@partial(jax.jit, static_argnums=2)
def mean(structure: Any, beta: jax.Array, cold: bool) -> tuple[jax.Array, jax.Array]:
    """F and the mean relaxed answer: the derivative of F in energies that an answer shows."""
    shape = (*structure.batch_shape, *structure.y_shape())
    none = jnp.zeros(shape, jax.tree.leaves(structure.tables())[0].dtype)
    value, back = jax.vjp(lambda e: free_energy(structure.plus(e), beta, cold), none)
    return value, back(jnp.ones_like(value))[0]


@also_of_none
@jax.jit
def best(structure: Any) -> Found:
    """The best of each example."""
    y, value = structure.found_best(lax.stop_gradient(structure.tables()))
    return with_energies(structure, y, value)


@also_of_none
@partial(jax.jit, static_argnums=1)
def k_best(structure: Any, k: int) -> Found:
    """The k best of each example."""
    tables = lax.stop_gradient(structure.tables())
    energies, back = jax.vjp(lambda t: structure.recursion(t, Several(k)), tables)

    def one(i):
        (found,) = back(jnp.zeros_like(energies).at[:, i].set(1))
        return structure.whole(found, energies[:, i])

    y = lax.map(one, jnp.arange(k))
    return with_energies(structure, jnp.moveaxis(y, 0, 1), energies)


@also_of_none
@partial(jax.jit, static_argnums=2)
def sample(structure: Any, key: jax.Array, n: int, beta: jax.Array) -> Found:
    """n drawn for each example."""
    tables = lax.stop_gradient(scaled(structure.tables(), beta))
    y, free = in_batch(structure, structure.found_samples(tables, key, n))
    return Found(y, jnp.where((free < jnp.inf)[..., None], structure.energy(y), jnp.inf))


def with_energies(structure: Any, y: jax.Array, value: jax.Array) -> Found:
    """Answers (B, ...) and their energies (B, ...) as they were found, whose derivatives are those of E(y)."""
    y, value = in_batch(structure, (y, value))
    return Found(y, _valued(structure, y, value))


@jax.custom_jvp
def _valued(structure, y, value):
    """The energies of answers, as they were found; a derivative is that of the energy of the answer."""
    return value


@_valued.defjvp
def _valued_jvp(primals, tangents):
    structure, y, value = primals
    change = jax.jvp(lambda s: s.energy(y), (structure,), tangents[:1])[1]
    return value, jnp.where(value < jnp.inf, change, 0)


def _rounded_up(structure, value):
    """What is not below 0 but for rounding; of an approximation it may be."""
    return jnp.maximum(value, 0) if structure.is_exact else value


@also_of_none
@jax.jit
def entropy(structure: Any, beta: jax.Array) -> jax.Array:
    """beta (mean E - F) of each example."""
    tables = scaled(structure.tables(), beta)
    free, mean = jax.jvp(structure.free, (tables,), (_allowed(tables),))
    found = jnp.where(jnp.isfinite(free), _rounded_up(structure, mean - free), jnp.nan)
    return in_batch(structure, found)


@also_of_none
@jax.jit
def kl(structure: Any, other: Any, beta: jax.Array) -> jax.Array:
    """KL(P || Q), P of the structure and Q of the other."""
    tables, others = structure.tables(), other.tables()
    if jax.tree.map(jnp.shape, tables) != jax.tree.map(jnp.shape, others):
        tables, others = structure.spread(tables), other.spread(others)
    tables, others = scaled(tables, beta), scaled(others, beta)
    free, mean = jax.linearize(structure.free, tables)
    barred = mean(jax.tree.map(lambda e: jnp.isinf(e).astype(e.dtype), others)) > 0
    for ours, its in zip(structure.support(), other.support(), strict=True):
        alike = ours == its
        barred |= ~jnp.all(alike.reshape(alike.shape[0], -1), 1)
    found = (mean(_allowed(others)) - other.free(others)) - (mean(_allowed(tables)) - free)
    found = jnp.where(barred & jnp.isfinite(free), jnp.inf, _rounded_up(structure, found))
    return in_batch(structure, found)


def _allowed(tables):
    """Energies of what is allowed, 0 elsewhere."""
    return jax.tree.map(lambda e: jnp.where(jnp.isinf(e), 0, e), tables)


@also_of_none
@jax.jit
def log_probability(structure: Any, energy: jax.Array, beta: jax.Array) -> jax.Array:
    """beta (F - E) of energies (...) or (..., n)."""
    free = structure.free(scaled(structure.tables(), beta)).reshape(structure.batch_shape)
    free = free.reshape(*free.shape, *[1] * (energy.ndim - free.ndim))
    barred = jnp.isinf(energy)
    found = free - jnp.asarray(beta, energy.dtype) * jnp.where(barred, 0, energy)
    return jnp.where(free == jnp.inf, jnp.nan, jnp.where(barred, -jnp.inf, found))

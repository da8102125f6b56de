"""Small things done to whole trees of arrays."""

from functools import partial, reduce
from typing import Any

import jax
import jax.numpy as jnp


def one_of(batch: Any, axis: int = 0) -> Any:
    """The shapes and types of one example of a batch, whose axis of examples is `axis` of every array."""

    def one(a):
        shape = list(jnp.shape(a))
        del shape[axis]
        return jax.ShapeDtypeStruct(tuple(shape), jnp.result_type(a))

    return jax.tree.map(one, batch)


def select(condition: Any, yes: Any, no: Any) -> Any:
    """The tree `yes` where the condition holds, else `no`."""
    return jax.tree.map(partial(jnp.where, condition), yes, no)


def every(tree: Any) -> jax.Array:
    """Whether all booleans of a tree hold."""
    return reduce(jnp.logical_and, map(jnp.all, jax.tree.leaves(tree)), jnp.array(True))


def all_finite(tree: Any) -> jax.Array:
    """Whether all numbers of a tree are finite."""

    def finite(a):
        if not jnp.issubdtype(jnp.result_type(a), jnp.inexact):
            return jnp.array(True)
        # 0 times infinity is not a number. A sum is vectorised; `jnp.all(jnp.isfinite(a))` takes three times as long.
        return jnp.isfinite(jnp.sum(a * 0))

    return every(jax.tree.map(finite, tree))


def inner(a: Any, b: Any) -> Any:
    """sum over all entries of a b, of two trees alike."""
    return sum(jax.tree.leaves(jax.tree.map(lambda a, b: jnp.sum(a * b), a, b)))

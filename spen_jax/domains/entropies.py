"""Entropies and cross-entropies of probabilities, which stay finite with their gradients up to 0 and 1.

Entropies reduce the last axis. Cross-entropies compare ONE example's y with its truth, arrays of any one
shape or trees of such arrays, and sum over everything. Both are of the type of their arguments, computed in float32 for
halves; whole numbers and booleans are read as floats, and what is no real number raises ValueError by name.
"""

import operator
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from spen_jax.numbers import floats, real, wide

PROBABILITY_FLOOR = 1e-7  # float32 numbers just below 1 are 6e-8 apart
"""The least probability whose logarithm is taken, in entropies and cross-entropies."""
LOGIT_FLOOR = 1e-6
"""Where logits are asked for, points nearer to the boundary (as a share of the width) are moved in."""


def floor_of(floor: float, *leaves: Any) -> float:
    """The floor for logarithms of such arrays, raised so that the reciprocal of no number above it overflows."""
    types = [jnp.result_type(real("y", leaf), 0.0) for leaf in leaves]
    return max([floor, *(float(jnp.finfo(t).tiny) for t in types)])


def binary_entropy(y: jax.Array) -> jax.Array:
    """H(y) = -sum_i [y_i log y_i + (1 - y_i) log(1 - y_i)], (..., L) -> (...), in nats, y in [0, 1].

    Its gradient, -logit(y_i), is infinite at 0 and 1: minimise on logits (`MirrorDescent`) or on [eps, 1 - eps]. Where
    float32 rounds a logit's sigmoid to 0 or 1 the logarithms are those of 1e-7, so that the gradient stays finite. Of
    the type of y, computed in float32 for halves. ValueError for one number, and for what is no real number.
    """
    y, dtype = _read(y)
    on, off = jnp.maximum(y, PROBABILITY_FLOOR), jnp.maximum(1 - y, PROBABILITY_FLOOR)
    entropy = -y * jnp.log(on) - (1 - y) * jnp.log(off)
    # on + off is 1 above the floor; at the floor its derivative makes that of the whole a logit.
    total = on + off
    return jnp.sum(entropy + total - jax.lax.stop_gradient(total), axis=-1).astype(dtype)


def entropy(y: jax.Array) -> jax.Array:
    """H(y) = -sum_k y_k log y_k of distributions over K values, (..., K) -> (...), in nats.

    Below 1e-7 the logarithm is that of 1e-7, so that the gradient, -log y_k - 1, stays finite. Of the type of y,
    computed in float32 for halves. ValueError for one number, and for what is no real number.
    """
    y, dtype = _read(y)
    floored = jnp.maximum(y, PROBABILITY_FLOOR)
    # Below the floor y log(floor) would lose the -1 of the derivative.
    lost = jnp.where(y < PROBABILITY_FLOOR, y, 0)
    each = -y * jnp.log(floored) - lost + jax.lax.stop_gradient(lost)
    return jnp.sum(each, axis=-1).astype(dtype)


def _read(y):
    """y as floats of at least float32 with an axis, and the type of the answer."""
    y = floats("y", y)
    if y.ndim < 1:
        raise ValueError("y needs a last axis, which an entropy sums over, got one number")
    return wide(y), y.dtype


def binary_cross_entropy(y: Any, truth: Any) -> jax.Array:
    """D = -sum_i [t_i log y_i + (1 - t_i) log(1 - y_i)], a scalar in nats, each probability taken as at least 1e-7.

    y and its `truth` t are of one example, in [0, 1], arrays of any one shape or trees of such. Beyond a logit of about
    16 on the wrong side the gradient is therefore 0. In float16, which cannot hold steeper ones, that is at 6e-5 and
    9.7. ValueError where the shapes differ, or one holds no real numbers.
    """
    return -total(binary_log_likelihood(*jax.tree.leaves(y)), y, truth)


def binary_log_likelihood(*leaves: Any) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """t log y + (1 - t) log(1 - y) of each entry, a function of (y, t), floored for y of the types of these arrays."""
    floor = floor_of(PROBABILITY_FLOOR, *leaves)

    def each(y, t):
        log_on = jnp.log(jnp.maximum(y, floor))
        log_off = jnp.log(jnp.maximum(1 - y, floor))
        return t * log_on + (1 - t) * log_off

    return each


def categorical_cross_entropy(y: Any, truth: Any) -> jax.Array:
    """D = -sum_k t_k log y_k, a scalar in nats, y distributions along the last axis, each y_k taken as at least 1e-7.

    y and its `truth` t are of one example, (..., K) both, or trees of such arrays; the sum is over all distributions.
    Where y_k is below 1e-7, in float16 below 6e-5, the gradient is 0. ValueError where the shapes differ, or one holds
    no real numbers.
    """
    floor = floor_of(PROBABILITY_FLOOR, *jax.tree.leaves(y))
    return -total(lambda y, t: t * jnp.log(jnp.maximum(y, floor)), y, truth)


def total(each: Callable[[jax.Array, jax.Array], jax.Array], y: Any, truth: Any) -> jax.Array:
    """sum over all entries, of all leaves of trees, of each(y, truth): a scalar.

    y and its `truth` are arrays of any one shape. `each` sees both as floats of one type, float32 for halves: booleans
    would be added as such. The sum is of the type that the two have together. ValueError where the shapes differ, or
    one holds no real numbers.
    """

    def of_leaf(y, truth):
        y, truth = real("y", y), real("truth", truth)
        if jnp.shape(y) != jnp.shape(truth):
            raise ValueError(
                f"y and its truth need the same shape, got {jnp.shape(y)} and {jnp.shape(truth)}; "
                "costs compare one example, `jax.vmap` makes them those of a batch"
            )
        dtype = jnp.result_type(y, truth, 0.0)
        y, truth = (wide(jnp.asarray(a, dtype)) for a in (y, truth))
        return jnp.sum(each(y, truth)).astype(dtype)

    return jax.tree.reduce(operator.add, jax.tree.map(of_leaf, y, truth))

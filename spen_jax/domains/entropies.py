"""Entropies and cross-entropies of probabilities, which stay finite with their gradients up to 0 and 1.

Entropies reduce the last axis. Cross-entropies compare ONE example's y with its truth, arrays of any one
shape or trees of such arrays, and sum over everything.
"""

import operator
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

PROBABILITY_FLOOR = 1e-7  # float32 numbers just below 1 are 6e-8 apart
LOGIT_FLOOR = 1e-6
"""Where logits are asked for, points nearer to the boundary (as a share of the width) are moved in."""


def binary_entropy(y: jax.Array) -> jax.Array:
    """H(y) = -sum_i y_i log y_i + (1 - y_i) log(1 - y_i), (..., L) -> (...), in nats.

    Its gradient, -logit(y_i), is infinite at 0 and 1: minimise on logits (`MirrorDescent`) or on
    [eps, 1 - eps]. Where float32 rounds a logit's sigmoid to 0 or 1 the logarithms are those of 1e-7, so that
    the gradient stays finite.
    """
    on, off = jnp.maximum(y, PROBABILITY_FLOOR), jnp.maximum(1 - y, PROBABILITY_FLOOR)
    entropy = -y * jnp.log(on) - (1 - y) * jnp.log(off)
    # on + off is 1 above the floor; at the floor its derivative makes that of the whole a logit.
    total = on + off
    return jnp.sum(entropy + total - jax.lax.stop_gradient(total), axis=-1)


def entropy(y: jax.Array) -> jax.Array:
    """H(y) = -sum_k y_k log y_k of distributions over K values, (..., K) -> (...), in nats.

    Below 1e-7 the logarithm is that of 1e-7, so that the gradient, -log y_k - 1, stays finite.
    """
    floored = jnp.maximum(y, PROBABILITY_FLOOR)
    # Below the floor y log(floor) would lose the -1 of the derivative.
    lost = jnp.where(y < PROBABILITY_FLOOR, y, 0)
    return jnp.sum(-y * jnp.log(floored) - lost + jax.lax.stop_gradient(lost), axis=-1)


def binary_cross_entropy(y: Any, truth: Any) -> jax.Array:
    """D = -sum_i t_i log y_i + (1 - t_i) log(1 - y_i), in nats, each probability taken as at least 1e-7.

    Beyond a logit of about 16 on the wrong side the gradient is therefore 0. ValueError where the shapes differ.
    """

    def each(y, t):
        log_on = jnp.log(jnp.maximum(y, PROBABILITY_FLOOR))
        log_off = jnp.log(jnp.maximum(1 - y, PROBABILITY_FLOOR))
        return t * log_on + (1 - t) * log_off

    return -total(each, y, truth)


def categorical_cross_entropy(y: Any, truth: Any) -> jax.Array:
    """D = -sum_k t_k log y_k, in nats, y distributions along the last axis, each y_k taken as at least 1e-7.

    Where y_k is below that the gradient is 0. ValueError where the shapes differ.
    """
    return -total(lambda y, t: t * jnp.log(jnp.maximum(y, PROBABILITY_FLOOR)), y, truth)


def total(each: Callable[[jax.Array, jax.Array], jax.Array], y: Any, truth: Any) -> jax.Array:
    """sum over all entries, of all leaves of trees, of each(y, truth): a scalar.

    `each` sees both as floats of one type: booleans would be added as such. ValueError where the shapes differ.
    """

    def of_leaf(y, truth):
        if jnp.shape(y) != jnp.shape(truth):
            raise ValueError(
                f"y and its truth need the same shape, got {jnp.shape(y)} and {jnp.shape(truth)}; "
                "costs compare one example, `jax.vmap` makes them those of a batch"
            )
        dtype = jnp.result_type(y, truth, 0.0)
        return jnp.sum(each(jnp.asarray(y, dtype), jnp.asarray(truth, dtype)))

    return jax.tree.reduce(operator.add, jax.tree.map(of_leaf, y, truth))

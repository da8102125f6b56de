"""Losses: what a wrong answer costs (of one example), and losses of energies (of any shape).

Costs D(y, truth) compare a relaxed answer y in [0, 1]^L with a truth in {0, 1}^L, both (..., L), and
SUM over the labels: result (...); AssertionError where the shapes differ. Losses take energies of
shape (...) and return (...). The mean over a batch is the caller's.
"""

import chex
import jax
import jax.numpy as jnp

from spen_jax.domains import PROBABILITY_FLOOR


def squared_error(y: jax.Array, truth: jax.Array) -> jax.Array:
    """D = sum_i (y_i - t_i)^2; on binary y the number of wrong labels."""
    chex.assert_equal_shape([y, truth])
    return jnp.sum((y - truth) ** 2, axis=-1)


def hamming(y: jax.Array, truth: jax.Array) -> jax.Array:
    """D = sum_i t_i (1 - y_i) + (1 - t_i) y_i, linear in y; on binary y the number of wrong labels."""
    chex.assert_equal_shape([y, truth])
    return jnp.sum(truth + y - 2 * truth * y, axis=-1)


def cross_entropy(y: jax.Array, truth: jax.Array) -> jax.Array:
    """D = -sum_i t_i log y_i + (1 - t_i) log(1 - y_i), in nats, each probability taken as at least 1e-7.

    Beyond a logit of about 16 on the wrong side the gradient is therefore 0.
    """
    chex.assert_equal_shape([y, truth])
    log_on = jnp.log(jnp.maximum(y, PROBABILITY_FLOOR))
    log_off = jnp.log(jnp.maximum(1 - y, PROBABILITY_FLOOR))
    return -jnp.sum(truth * log_on + (1 - truth) * log_off, axis=-1)


def soft_f1_error(y: jax.Array, truth: jax.Array) -> jax.Array:
    """D = 1 - 2 sum_i y_i t_i / sum_i (y_i + t_i), in [0, 1]; on binary y one minus F1 (0 for empty against empty)."""
    chex.assert_equal_shape([y, truth])
    total = jnp.sum(y + truth, axis=-1)
    positive = total > 0
    f1 = 2 * jnp.sum(y * truth, axis=-1) / jnp.where(positive, total, 1)
    return jnp.where(positive, 1 - f1, 0)


def hinge(correct: jax.Array, wrong: jax.Array, margin: jax.Array | float = 1.0) -> jax.Array:
    """max(0, margin + E_correct - E_wrong).

    With margin D(y_hat, truth) and E_wrong = E(x, y_hat) this is the structured hinge loss of Taskar et al.
    (2003) and Tsochantaridis et al. (2004); for SPENs Belanger & McCallum (2016).
    """
    return jnp.maximum(0, margin + correct - wrong)

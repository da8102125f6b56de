"""Distributions over values, one or several side by side."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from optax import projections

from spen_jax.domains.base import NEAR, Domain, counting
from spen_jax.domains.entropies import (
    LOGIT_FLOOR,
    categorical_cross_entropy,
    entropy,
    floor_of,
    total,
)
from spen_jax.numbers import floats, real, real_array, rounding, wide

FEW = 64
"""Up to so many values comparing all with all takes a fifth of a sort's time on a CPU (measured)."""


@dataclass(frozen=True)
class Simplex(Domain):
    """{y : y_k >= 0, sum_k y_k = 1} along the last axis; of shape (nodes, values), one for each node.

    y is (..., K), a mask of it (...). Its logits are log y, whose point is their softmax, its loss is the cross-entropy
    -sum t log y in nats, and `round` puts 1 at the largest entry. ValueError where a y needs an axis of values and has
    none, for what is no real number, and for reflection.
    """

    def check(self, y):
        """ValueError for a scalar, or for distributions over nothing."""
        super().check(y)
        if 0 in y.shape[-1:]:
            raise ValueError(f"Simplex needs y of shape (..., K), K at least 1, got {y.shape}")
        if not y.shape:
            raise ValueError(
                "Simplex needs y of shape (..., K) for each example, got a scalar; start needs shape "
                "(B, K) or (B, nodes, K), classes by their numbers become rows by jax.nn.one_hot(y, K)"
            )

    @property
    def has_logits(self):
        """Always."""
        return True

    @property
    def flat(self):
        """Always."""
        return True

    def parts(self, y):
        """Each distribution is one part: the shape without its last axis."""
        return y.shape[:-1]

    def outside(self, y):
        """Which rows hold less than 0 or do not sum to 1, by more than a ten-thousandth."""
        y, near = real_array("y", y), NEAR + 4 * rounding(y)
        self.check(y)
        with np.errstate(all="ignore"):
            sums = np.sum(y, axis=-1, dtype=float)
        return ~(np.abs(sums - 1) <= near) | (y < -near).any(axis=-1)

    def advice(self, y):
        """For classes by their numbers, and for rows that are not normalised."""
        whole = (y >= 0).all() and (y == np.round(y)).all()
        if whole and (np.issubdtype(y.dtype, np.integer) or y.max() > 1):
            return "for classes by their numbers give one-hot rows, jax.nn.one_hot(y, K)"
        if (y >= 0).all() and np.isfinite(y).all() and (y.sum(axis=-1) > 0).all():
            return "for rows that do not sum to 1 give y / y.sum(axis=-1, keepdims=True)"
        return ""

    def project(self, y):
        """argmin over u in the simplex of ||u - y||: max(y - tau, 0), tau = max_k (sum_(j: y_j >= y_k) y_j - 1) / n_k.

        n_k are the entries in the sum. Beyond 64 values by Optax, which sorts (Duchi et al. 2008).
        """
        y = self._floats("y", y)
        exact = y.astype(float)  # of other types Optax has no derivative
        # A shift changes nothing but the rounding of large numbers; what is 1 below the largest gets nothing. The
        # maximum's derivative stays out: it is 0 / 0 where a compiler computes y twice and rounds it differently.
        shifted = jnp.maximum(exact - lax.stop_gradient(jnp.max(exact, -1, keepdims=True)), -2)
        if y.shape[-1] > FEW:
            sort = jnp.vectorize(projections.projection_simplex, signature="(k)->(k)")
            return sort(shifted).astype(y.dtype)
        fixed = lax.stop_gradient(shifted)
        counted = fixed[..., None, :] >= fixed[..., :, None]
        sums = jnp.sum(jnp.where(counted, fixed[..., None, :], 0), -1)
        support = fixed > jnp.max((sums - 1) / jnp.sum(counted, -1), -1, keepdims=True)
        total = jnp.sum(jnp.where(support, shifted, 0), -1, keepdims=True)
        tau = (total - 1) / jnp.sum(support, -1, keepdims=True)
        # What is no number stays none.
        return jnp.where(support, jnp.maximum(shifted - tau, 0), 0 * shifted).astype(y.dtype)

    def _floats(self, name, y):
        y = floats(name, y)
        self.check(y)
        return y

    def initial(self, shape):
        """The uniform distribution, 1 / K."""
        return jnp.full(shape, 1 / shape[-1])

    def random(self, key, shape):
        """A distribution drawn uniformly from the simplex."""
        return jax.random.dirichlet(key, jnp.ones(shape[-1]), shape[:-1])

    def round(self, y):
        """1 at the largest entry (the first of equals), 0 elsewhere."""
        y = self._floats("y", y)
        return jax.nn.one_hot(jnp.argmax(y, -1), y.shape[-1], dtype=y.dtype)

    def to_logits(self, y):
        """log y, of y at least 1e-6; 6e-5 in float16."""
        y = floats("y", y)
        return jnp.log(jnp.maximum(wide(y), floor_of(LOGIT_FLOOR, y))).astype(y.dtype)

    def from_logits(self, logits):
        """softmax(logits)."""
        logits = self._floats("logits", logits)
        return jax.nn.softmax(wide(logits), axis=-1).astype(logits.dtype)

    def entropy(self, y):
        """-sum y log y over all nodes and values, a scalar in nats."""
        return jnp.sum(entropy(wide(y := floats("y", y)))).astype(y.dtype)

    def loss(self, y, truth, mask=None):
        """-sum t log y over all nodes and values, a scalar in nats."""
        return categorical_cross_entropy(counting(mask, y), counting(mask, truth))

    def loss_of_scores(self, scores, truth, mask=None):
        """That of softmax(scores)."""

        def each(scores, truth):
            return counting(mask, optax.softmax_cross_entropy(scores, truth))

        return total(each, real("scores", scores), truth)

    def corner(self, gradient):
        """1 at the smallest entry of the gradient."""
        return self.round(-floats("gradient", gradient))

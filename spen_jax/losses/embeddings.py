"""A loss of embeddings, without negatives."""

import jax
import jax.numpy as jnp

from spen_jax.numbers import floats, wide


def vicreg(
    a: jax.Array,
    b: jax.Array,
    *,
    invariance: float = 25.0,
    variance: float = 25.0,
    covariance: float = 1.0,
) -> jax.Array:
    """invariance mean (a - b)^2 + variance [v(a) + v(b)] + covariance [c(a) + c(b)], non-contrastive, a scalar.

    v(z) = 1/D sum_j max(0, 1 - sqrt(var(z_j) + 1e-4)) keeps each coordinate spread out over the batch, c(z) = 1/D times
    the sum of the squared covariances of different coordinates keeps them from repeating each other.
    With `variance = covariance = 0` it is the energy loss of a matcher, and collapses. The weights are the paper's;
    implementations differ in whether they sum or average over coordinates and over a and b.

    Args:
      a: embeddings of a batch, (B, D), B at least 2.
      b: embeddings of what matches them, (B, D).
      invariance: weight of the distance of the two.
      variance: weight of v.
      covariance: weight of c.

    At least 0, low where good. ValueError where the shapes do not fit, or one holds no real numbers.

    Source: Bardes, Ponce & LeCun (2022).
    """
    a, b = floats("a", a), floats("b", b)
    if a.ndim != 2 or a.shape != b.shape or 0 in a.shape:
        raise ValueError(f"a and b must have one shape (B, D), got {a.shape} and {b.shape}")
    if len(a) < 2:
        raise ValueError(f"vicreg needs a batch of at least 2, got shape {a.shape}")
    dtype = jnp.result_type(a, b)
    a, b = wide(a), wide(b)

    def regularised(z):
        centred = z - jnp.mean(z, axis=0, keepdims=True)
        cov = centred.T @ centred / (len(z) - 1)
        spread = jnp.sqrt(jnp.diagonal(cov) + 1e-4)
        off_diagonal = jnp.where(jnp.eye(len(cov), dtype=bool), 0, cov)
        v = jnp.mean(jnp.maximum(0, 1 - spread))
        return variance * v + covariance * jnp.sum(off_diagonal**2) / len(cov)

    loss = invariance * jnp.mean((a - b) ** 2) + regularised(a) + regularised(b)
    return loss.astype(dtype)

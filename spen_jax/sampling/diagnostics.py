"""Whether chains of samples agree, and how much they tell: split R-hat and the effective sample size.

Both take one number of each draw, C chains of S draws along the last two axes, such as `samples.energy`, of any real
type, and count in float32 or finer. ValueError for anything else, or fewer than 4 draws.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from spen_jax.numbers import check_real_type, real_array


def effective_sample_size(y: Any) -> jax.Array:
    """C S / tau, how many independent draws estimate the mean as well as these chains, (..., C, S) -> (...).

    y has one number of each draw, C chains of S draws, such as `samples.energy`, of any real type; it counts in float32
    or finer. tau = -1 + 2 sum_t rho_t over Geyer's (1992) initial positive and monotone sequence, rho_t the
    autocorrelations of all chains together, which chains that disagree make larger. NaN where y has no variance.
    ValueError for fewer than 4 draws, or anything else. Source: Vehtari et al. (2021), section 3.2; Stan's reference
    manual.
    """
    return _effective_sample_size(_draws(y))


@jax.jit
def _effective_sample_size(y):
    chains, draws = y.shape[-2:]
    mean = jnp.mean(y, axis=-1, keepdims=True)
    spectrum = jnp.fft.rfft(y - mean, n=2 * draws)
    covariance = jnp.fft.irfft(jnp.abs(spectrum) ** 2, n=2 * draws)[..., :draws] / draws
    covariance = jnp.mean(covariance, axis=-2)
    within = covariance[..., :1] * draws / (draws - 1)
    total = covariance[..., :1] + (jnp.var(mean, axis=-2, ddof=1) if chains > 1 else 0)
    rho = 1 - (within - covariance) / total
    rho = jnp.concatenate([jnp.ones_like(total), rho[..., 1:]], axis=-1)
    even, odd = rho[..., 0 : draws - 1 : 2], rho[..., 1::2]
    positive = jnp.cumprod(even + odd > 0, axis=-1).astype(bool)
    pairs = lax.cummin(jnp.where(positive, even + odd, 0), axis=even.ndim - 1)
    ends = jnp.pad(positive, [(0, 0)] * (even.ndim - 1) + [(1, 0)], constant_values=True)
    left = jnp.where(ends[..., :-1] & ~positive, jnp.maximum(even, 0), 0)
    tau = -1 + jnp.sum(2 * pairs + left, axis=-1)
    tau = jnp.maximum(
        tau, 1 / math.log10(chains * draws)
    )  # negative correlation is believed so far
    varies = jnp.any(y != y[..., :1, :1], axis=(-2, -1)) & (total[..., 0] > 0)
    return jnp.where(varies, chains * draws / tau, jnp.nan)


def split_r_hat(y: Any) -> jax.Array:
    """sqrt of (estimated variance of the target / variance within half chains), (..., C, S) -> (...).

    y has one number of each draw, C chains of S draws, such as `samples.energy`, of any real type; it counts in float32
    or finer. Near 1 where the halves of all chains agree; a common rule accepts up to 1.01. Of an odd S the middle draw
    is left out. NaN where y has no variance. ValueError for fewer than 4 draws, or anything else. Source: Gelman et al.
    (2013), Bayesian Data Analysis, eq. 11.4.
    """
    return _split_r_hat(_draws(y))


@jax.jit
def _split_r_hat(y):
    half = y.shape[-1] // 2
    halves = jnp.concatenate([y[..., :half], y[..., -half:]], axis=-2)
    within = jnp.mean(jnp.var(halves, axis=-1, ddof=1), axis=-1)
    between = jnp.var(jnp.mean(halves, axis=-1), axis=-1, ddof=1)
    return jnp.sqrt((half - 1) / half + between / within)


def _draws(y):
    """y as floats that can be squared."""
    y = y if isinstance(y, jax.Array) else real_array("y", y)
    check_real_type("y", y.dtype)
    if y.ndim < 2 or y.shape[-1] < 4 or not y.shape[-2]:
        raise ValueError(
            "y must have shape (..., C, S) with at least C = 1 chain and S = 4 draws, got "
            f"{y.shape}; give one number of y, such as samples.y[..., 0] or samples.energy"
        )
    return jnp.asarray(y, jnp.promote_types(jnp.result_type(y, 0.0), jnp.float32))

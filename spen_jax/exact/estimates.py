"""Free energies by samples, where no nodes reach: a Monte Carlo estimate and a variational bound.

An energy is `(params, x, y, z) -> scalar` of one example. Both are averages over a prior p(z); see `free_energy`.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from spen_jax.exact.free_energy import energies_at
from spen_jax.exact.gibbs import softmin
from spen_jax.types import LatentEnergy


class Estimate(NamedTuple):
    """A free energy, `value` (B,), and its standard error, `error` (B,), infinite where none is known."""

    value: jax.Array
    error: jax.Array


def monte_carlo(
    energy: LatentEnergy,
    params: Any,
    x: Any,
    y: Any,
    samples: Any,
    beta: jax.Array | float = 1.0,
) -> Estimate:
    """F_beta = -1/beta log 1/n sum_k exp(-beta E(x, y, z_k)) by n samples of the prior of z, with its standard error.

    An `Estimate`, (B,) each, the error by the delta method. Biased upwards by about beta error^2 / 2: trust it where
    beta times the error is well below 1. At beta = infinity, the lowest sample, and from one sample no error is known:
    it is infinite.

    `energy` is `(params, x, y, z) -> scalar` of one example; x and y have the leading axis B, x may be None; `samples`,
    with leading axis n, serve all examples; beta from 0 on. ValueError where leading axes differ, the energy is no
    scalar, or beta is no scalar or known to be below 0.
    """
    energies = energies_at(energy, params, x, y, samples)
    value = softmin(energies, beta, average=True)
    above = energies - value[:, None]
    safe = jnp.where((beta == 0) | (beta == jnp.inf), 1, beta)
    ratio = jnp.where(beta == 0, -above, jnp.expm1(-safe * above) / safe)
    count = energies.shape[-1]
    # The variance of samples is over n - 1; from one sample there is none.
    error = jnp.std(ratio, axis=-1, ddof=min(1, count - 1)) / np.sqrt(count)
    return Estimate(value, jnp.where((beta == jnp.inf) | (count == 1), jnp.inf, error))


def variational(
    energy: LatentEnergy,
    params: Any,
    x: Any,
    y: Any,
    mean: jax.Array,
    log_std: jax.Array,
    noise: jax.Array,
    beta: jax.Array | float = 1.0,
) -> jax.Array:
    """E_q[E(x, y, z)] + KL(q || p) / beta, q = N(mean, diag exp(2 log_std)), p = N(0, I): on average at least F_beta.

    (B,), differentiable in q: noise added to z, with what it costs to tell more about z than the prior does. Equal to
    F_beta, averaged over the prior, where q is the posterior; of E = -log p(y | z) at beta = 1 it is the negative
    evidence lower bound (Kingma & Welling 2014).

    `energy` is `(params, x, y, z) -> scalar` of one example, x and y have the leading axis B, x may be None; `mean` and
    `log_std` (B, D); `noise` standard normal, (n, D), for all examples; beta above 0. ValueError where leading axes
    differ.
    """

    def of_one(x, y, mean, log_std):
        z = mean[None] + jnp.exp(log_std)[None] * noise
        expected = jnp.mean(jax.vmap(energy, (None, None, None, 0))(params, x, y, z))
        kl = jnp.sum(mean**2 + jnp.exp(2 * log_std) - 1 - 2 * log_std) / 2
        return expected + kl / beta

    return jax.vmap(of_one)(x, y, mean, log_std)

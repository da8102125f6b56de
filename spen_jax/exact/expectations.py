"""Mean energies of labels that are on independently, by all answers of few labels."""

from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from spen_jax.numbers import floats, wide
from spen_jax.types import Energy

MOST = 12
"""Labels whose answers are gone through."""


@lru_cache(maxsize=256)
def expected(energy: Energy) -> Energy:
    """E_q[E(x, y)] as an energy of mu, q(y) = prod_i mu_i^y_i (1 - mu_i)^(1 - y_i), y in {0, 1}^L, L up to 12.

    An energy `(params, x, mu) -> scalar` like every other, (L,): minimised over `Box()` at a temperature T it is mean
    field, E_q[E] - T H(mu) >= -T log sum_y exp(-E(y) / T), a bound at every mu. It is E(mu) itself where E is
    multilinear (single labels and pairs of different ones); of any other energy E(mu) is an approximation,
    and bounds nothing. By the 2^L answers, at each call; the same energy gives the same function. An answer of
    infinite energy makes it infinite wherever it has a probability. Source: Wainwright & Jordan (2008), section 5.

    Raises, where it is called:
      ValueError: for a mu that is no vector, or of more than 12 labels.
    """

    def of_mu(params: Any, x: Any, mu: jax.Array) -> jax.Array:
        mu = floats("mu", mu)
        if mu.ndim != 1:
            raise ValueError(
                f"mu must be probabilities of the labels of one example, (L,), got shape {mu.shape}"
            )
        if len(mu) > MOST:
            raise ValueError(
                f"expected goes through all 2^L answers, of up to {MOST} labels, got {len(mu)}: of single labels and "
                "pairs the energy of mu is its mean, so minimise the energy itself at a temperature; of tables and "
                "counts ask an exact.FactorGraph by MeanField()"
            )
        corners = jnp.asarray(_corners(len(mu)), mu.dtype)
        energies = jax.vmap(energy, (None, None, 0))(params, x, corners)
        q = _probabilities(wide(mu))
        # An impossible answer has no part in the mean; the slope of any other one is its energy.
        energies = jnp.where((q > 0) | jnp.isfinite(energies), energies, 0)
        return jnp.sum(q * energies).astype(energies.dtype)

    return of_mu


def _corners(labels):
    """All answers in the order of the numbers they write, (2^L, L)."""
    return np.arange(2**labels)[:, None] >> np.arange(labels)[::-1] & 1


def _probabilities(mu):
    """q of each of them, (2^L,)."""
    q = jnp.ones(1, mu.dtype)
    for on in jnp.unstack(mu):
        q = (q[:, None] * jnp.stack([1 - on, on])[None]).reshape(-1)
    return q

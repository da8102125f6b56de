import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from normal_chains import assert_mean, normal
from problems import coupled, positive_definite

from spen_jax.domains import Reals
from spen_jax.sampling import HamiltonianMonteCarlo, sample


@pytest.mark.slow
def test_hamiltonian_monte_carlo_samples_a_correlated_normal_law_and_flags_nan():
    pytest.importorskip("blackjax")
    a, b, beta = positive_definite(3), np.array([0.3, -1.0, 2.0]), 2.0

    def energy(params, context, y):
        """NaN, with its gradient, beyond a wall."""
        return coupled(params, context["b"], y) + 1e-9 * jnp.sqrt(context["wall"] - y[0])

    got = sample(
        energy,
        {"A": a},
        {"b": np.stack([b, b]), "wall": np.array([1e6, 0.2])},
        jnp.zeros((2, 100, 3)),
        jax.random.key(0),
        domain=Reals(),
        sampler=HamiltonianMonteCarlo(0.3, 4),  # 6 steps are half a period of one direction
        steps=200,
        warm_up=50,
        beta=beta,
    )
    y, mean, covariance = np.asarray(got.y[0]), np.linalg.solve(a, b), np.linalg.inv(a) / beta
    for i in range(3):
        assert_mean(y[..., i], mean[i])
        for j in range(i + 1):
            assert_mean((y[..., i] - mean[i]) * (y[..., j] - mean[j]), covariance[i, j])
    assert got.info.acceptance[0].min() > 0.8
    assert not got.info.divergent[0].any()
    assert 0 < got.info.divergent[1].min() and got.info.divergent[1].max() < 1
    assert np.all(np.diff(got.y[1, :, 50:], axis=1).any(axis=(1, 2)))  # no chain is frozen
    assert np.isfinite(got.y).all() and got.y[1, ..., 0].max() < 0.2
    last = y[:, -1]
    energies = np.einsum("ci,ij,cj->c", last, a, last) / 2 - last @ b
    np.testing.assert_allclose(got.energy[0, :, -1], energies, rtol=1e-4, atol=1e-4)


def test_hamiltonian_monte_carlo_names_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "blackjax.mcmc", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'spen_jax\[sampling\]'"):
        normal(HamiltonianMonteCarlo(0.1))


def test_hamiltonian_monte_carlo_refuses_settings_that_mean_nothing():
    with pytest.raises(ValueError, match="step_size of Hamil.* must be .*positive .*, got -1"):
        HamiltonianMonteCarlo(-1)
    with pytest.raises(ValueError, match="leapfrog_steps must be a whole number, 1 or more, got 0"):
        HamiltonianMonteCarlo(0.1, 0)

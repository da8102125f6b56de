import jax
import numpy as np
import pytest

from spen_jax.sampling import effective_sample_size, split_r_hat


def autoregression(rho, shape, seed=0):
    noise = np.random.default_rng(seed).normal(size=shape) * np.sqrt(1 - rho**2)
    noise[..., 0] /= np.sqrt(1 - rho**2)
    for t in range(1, shape[-1]):
        noise[..., t] += rho * noise[..., t - 1]
    return noise


def test_effective_sample_size_of_an_autoregression_is_known():
    for rho in (-0.3, 0.0, 0.8):
        sizes = np.asarray(effective_sample_size(autoregression(rho, (60, 4, 1000))))
        ratio = sizes / (4000 * (1 - rho) / (1 + rho))
        # Cutting the sequence off biases it by a few per cent.
        assert abs(ratio.mean() - 1) < 4.5 * ratio.std() / np.sqrt(60) + 0.03


@pytest.mark.slow
def test_diagnostics_agree_with_blackjax():
    blackjax = pytest.importorskip("blackjax.diagnostics")
    ess, r_hat = map(jax.jit, (blackjax.effective_sample_size, blackjax.potential_scale_reduction))
    y = autoregression(0.7, (5, 3, 401)).astype(np.float32)
    y[0, 0] += 1.0  # a chain apart
    for some in (y, y[:, :1]):
        want = ess(np.moveaxis(some, 0, -1))
        np.testing.assert_allclose(effective_sample_size(some), want, rtol=2e-3)
    halves = np.concatenate([y[..., :200], y[..., -200:]], axis=-2)
    np.testing.assert_allclose(split_r_hat(y), r_hat(np.moveaxis(halves, 0, -1)), rtol=1e-5)


def test_diagnostics_see_a_trend_a_constant_and_nan():
    shape = 3, 401
    free = autoregression(0.0, shape)
    alternating = np.broadcast_to((-1.0) ** np.arange(401), shape)
    unknown = np.where(np.arange(401) == 3, np.nan, free)
    y = np.stack([free, free + np.linspace(0, 5, 401), np.ones(shape), alternating, unknown])
    sizes, r_hat = effective_sample_size(y), split_r_hat(y)
    assert r_hat[0] < 1.02 < 1.3 < r_hat[1]
    np.testing.assert_array_equal(np.isnan(sizes), [False, False, True, False, True])
    np.testing.assert_allclose(sizes[3], 1203 * np.log10(1203), rtol=1e-5)


def test_diagnostics_refuse_too_few_draws():
    for diagnostic in (effective_sample_size, split_r_hat):
        with pytest.raises(ValueError, match=r"S = 4 draws, got \(2, 3\)"):
            diagnostic(np.zeros((2, 3)))

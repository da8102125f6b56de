from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from scipy.stats import multivariate_normal

from spen_jax.exact import free_energy, gauss_hermite, monte_carlo, tensor_rule, variational

INF = np.inf
RNG = np.random.default_rng(0)


# Samples of the prior


def spring(a, x, y, z):
    return a * (y - z) ** 2 / 2


def spring_exact(y, beta):
    return np.log1p(beta) / (2 * beta) + y**2 / (2 * (1 + beta))


sampled = partial(monte_carlo, spring, 1.0, None)
sample_once = jax.jit(sampled)
sample_often = jax.jit(jax.vmap(sampled, (None, 0, None)))


def estimates(y, seeds, count, beta):
    """Values and errors (seeds, B) of so many estimates from `count` samples."""
    samples = np.random.default_rng(seeds).normal(0, 1, (seeds, count))
    return jax.tree.map(np.asarray, sample_often(y, samples, beta))


def test_samples_of_the_prior_estimate_the_free_energy_and_their_error(x64):
    y, beta = np.array([0.0, 1.5]), 1.2
    value, error = estimates(y, 800, 400, beta)
    deviation = np.abs(value - spring_exact(y, beta)) / error
    np.testing.assert_allclose(value.std(0), error.mean(0), rtol=0.08)
    for reach, want in [(1, 0.683), (2, 0.954), (3, 0.9973)]:
        np.testing.assert_allclose(
            (deviation < reach).mean(0), want, atol=0.05 if reach < 3 else 0.01
        )


def test_the_estimate_is_biased_upwards_by_half_of_beta_times_the_squared_error(x64):
    y, beta = np.array([1.0]), 2.0
    value, error = estimates(y, 20_000, 100, beta)
    bias = value.mean() - spring_exact(1.0, beta)
    np.testing.assert_allclose(bias, beta * np.var(value) / 2, rtol=0.1)
    np.testing.assert_allclose(bias, beta * np.mean(error**2) / 2, rtol=0.15)


def test_the_error_is_that_of_a_mean_at_beta_0_and_unknown_at_infinity_or_of_one_sample(x64):
    y, z = RNG.normal(0, 1, 4), RNG.normal(0, 1, 50)
    energies = (y[:, None] - z) ** 2 / 2
    hot, warm, cold = (sample_once(y, z, beta) for beta in (0.0, 1e-6, INF))
    np.testing.assert_allclose(hot.value, energies.mean(1))
    np.testing.assert_allclose(hot.error, energies.std(1, ddof=1) / np.sqrt(50))
    np.testing.assert_allclose(warm.error, hot.error, rtol=1e-4)
    np.testing.assert_allclose(cold.value, energies.min(1))
    np.testing.assert_array_equal(cold.error, np.full(4, INF))
    np.testing.assert_array_equal(sample_once(y, z[:1], 1.0).error, np.full(4, INF))


def test_of_two_samples_the_squared_error_is_on_average_the_variance_of_their_mean(x64):
    _, error = estimates(np.zeros(1), 20_000, 2, 0.0)
    np.testing.assert_allclose(np.mean(error**2), 1 / 4, rtol=0.05)  # var(z^2 / 2) / 2


# Distributions of z


def linear(params, x, y, z):
    """-log N(y; W z + x, s^2 I) up to a constant."""
    w, scale = params
    return jnp.sum((y - x - w @ z) ** 2) / (2 * scale**2)


W = np.linalg.qr(RNG.normal(0, 1, (3, 2)))[0] * np.array([1.5, 0.6])
"""W'W is diagonal, so that the posterior has independent coordinates."""
PARAMS = W, 0.8
CROSS = np.sqrt(2) * np.concatenate([np.eye(2), -np.eye(2)])
"""Four points of mean 0 and covariance I: averages of a quadratic over them are exact."""


def linear_exact(x, y, beta, scale=0.8):
    """F_beta of the averaged normal prior, and the mean and covariance of the posterior."""
    precision = np.eye(2) + beta * W.T @ W / scale**2
    covariance = np.linalg.inv(precision)
    mean = beta * (y - x) @ W @ covariance / scale**2
    total = np.eye(3) * scale**2 / beta + W @ W.T
    value = -multivariate_normal(np.zeros(3), total).logpdf(y - x)
    value -= 3 / 2 * np.log(2 * np.pi * scale**2 / beta)
    return value / beta, mean, covariance


@jax.jit
def bound(params, x, y, mean, log_std, noise, beta):
    """The bound and its gradient in parameters, mean and log_std."""

    def of(params, mean, log_std):
        values = variational(linear, params, x, y, mean, log_std, noise, beta)
        return values.sum(), values

    slopes, values = jax.grad(of, (0, 1, 2), has_aux=True)(params, mean, log_std)
    return values, slopes


def test_the_variational_bound_is_the_free_energy_at_the_posterior_and_above_it_elsewhere(x64):
    x, y = RNG.normal(0, 1, (2, 4, 3))
    for beta in (0.3, 1.0, 4.0):
        value, mean, covariance = linear_exact(x, y, beta)
        log_std = np.broadcast_to(np.log(np.diag(covariance)) / 2, mean.shape)
        tight, (_, *of_q) = bound(PARAMS, x, y, mean, log_std, CROSS, beta)
        np.testing.assert_allclose(tight, value, rtol=1e-9)
        for of in of_q:
            np.testing.assert_allclose(of, 0, atol=1e-9)
        for _ in range(10):
            q = mean + RNG.normal(0, 0.5, (4, 2)), log_std + RNG.normal(0, 0.5, (4, 2))
            assert np.all(np.asarray(bound(PARAMS, x, y, *q, CROSS, beta)[0]) > value)
    value, *_ = linear_exact(x, y, 0.3)
    nodes = tensor_rule(gauss_hermite(60), gauss_hermite(60))
    quadrature = free_energy(linear, PARAMS, x, y, nodes, 0.3)
    np.testing.assert_allclose(quadrature, value, rtol=1e-6)


def test_the_variational_gradient_is_finite_wherever_the_code_is_narrow_or_wide():
    mean, log_std = np.float32([[0, 3], [1, -2]]), np.float32([[-9, 3], [0, 1]])
    noise = np.float32(RNG.normal(0, 1, (16, 2)))
    x, y = np.float32(RNG.normal(0, 1, (2, 2, 3)))
    _, slopes = bound(jax.tree.map(np.float32, PARAMS), x, y, mean, log_std, noise, 2.0)
    assert all(np.isfinite(a).all() for a in jax.tree.leaves(slopes))
    np.testing.assert_array_less(0.1, np.abs(slopes[2][0, 1]))

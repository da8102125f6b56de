import jax
import jax.numpy as jnp
import numpy as np
import pytest
from enumerable import KEY, gradient_of, misfits
from problems import Batch, parabola

from spen_jax import Predictor, Reals
from spen_jax.objectives import denoising_score_matching, sliced_score_matching


def quadratic_energy(params, context, y):
    return y @ params["A"] @ y / 2 - params["b"] @ y


PREDICTOR = Predictor(quadratic_energy, domain=Reals())
COVARIANCE = np.array([[1.0, 0.6], [0.6, 2.0]])
MEAN = np.array([0.5, -1.0])
N = 20000


def gaussian_energy(covariance):
    precision = np.linalg.inv(covariance)
    return {"A": precision, "b": precision @ MEAN}


def gaussian_batch(n):
    y = np.random.default_rng(1).multivariate_normal(MEAN, COVARIANCE, n)
    return Batch(np.zeros((n, 1)), y)


def test_denoising_finds_the_density_blurred_by_its_noise(x64):
    sigma = 0.7
    objective = denoising_score_matching(PREDICTOR, sigma=sigma)
    batch = gaussian_batch(N)
    blurred = gaussian_energy(COVARIANCE + sigma**2 * np.eye(2))
    assert np.abs(misfits(objective, blurred, batch, N)).max() < 4.5
    assert np.abs(misfits(objective, gaussian_energy(COVARIANCE), batch, N)).max() > 10


@pytest.mark.parametrize("masked", [False, True])
def test_the_denoising_loss_is_its_formula(masked, x64):
    """dE/dy = -b: 1/2 (sigma^2 ||b||^2 + 2) on average; of a mask that hides the second number half of it is left."""
    sigma, b = 0.4, np.array([0.3, -2.0])
    batch, n = gaussian_batch(N), 2
    if masked:
        n, mask = 1, np.array([[True, False]] * N)
        batch = {"x": batch.x, "y": np.where(mask, batch.y, np.nan), "mask": mask}
    objective = jax.jit(denoising_score_matching(PREDICTOR, sigma=sigma))
    value, metrics = objective({"A": np.zeros((2, 2)), "b": b}, batch, KEY)
    square = b[:n] @ b[:n]
    want = (sigma**2 * square + n) / 2
    # The variance of 1/2 ||sigma b + e||^2 is n / 2 + sigma^2 ||b||^2.
    assert abs(value - want) < 4.5 * np.sqrt((n / 2 + sigma**2 * square) / N)
    np.testing.assert_allclose(metrics["explained"], 1 - want * 2 / n, atol=0.05)
    nothing = objective({"A": np.zeros((2, 2)), "b": np.zeros(2)}, batch, KEY)[1]
    np.testing.assert_allclose(nothing["explained"], 0, atol=1e-12)


@pytest.mark.slow
def test_sliced_score_matching_has_no_slope_at_the_density_of_the_data(x64):
    batch, objective = gaussian_batch(N), sliced_score_matching(PREDICTOR)
    assert np.abs(misfits(objective, gaussian_energy(COVARIANCE), batch, N)).max() < 4.5
    assert np.abs(misfits(objective, gaussian_energy(1.2 * COVARIANCE), batch, N)).max() > 10


def test_sliced_score_matching_of_a_diagonal_gaussian_is_exact(x64):
    """In any shape of y; numbers that do not count are no part of it."""
    rng = np.random.default_rng(0)
    y, mask = rng.normal(size=(50, 2, 3)), rng.random((50, 2, 3)) < 0.8
    a = mask.sum(0) / np.sum(y**2, axis=0, where=mask)

    def energy(params, context, y):
        return parabola(params, jnp.zeros(6), y.reshape(6))

    objective = sliced_score_matching(Predictor(energy, domain=Reals()))
    data = {"x": np.zeros((50, 1)), "y": np.where(mask, y, np.nan), "mask": mask}
    gradient, metrics = gradient_of(objective, {"a": a.reshape(6)}, data)
    np.testing.assert_allclose(gradient["a"], 0, atol=1e-12)
    trace = np.sum(a * mask) / 50
    np.testing.assert_allclose([metrics["slope"], metrics["trace"]], trace)
    np.testing.assert_allclose(metrics["loss"], -trace / 2)


def test_sliced_score_matching_is_on_average_the_trace_of_the_hessian(x64):
    """E = sum of p_ij sin(y_i + 2 y_j) + x.y."""

    def energy(params, context, y):
        return jnp.sum(params * jnp.sin(y[:, None] + 2 * y[None])) + context @ y

    rng, n = np.random.default_rng(2), 4000
    p, x, y = rng.normal(size=(3, 3)), rng.normal(size=(2, 3)), rng.normal(size=(2, 3))
    angle = y[:, :, None] + 2 * y[:, None]
    slopes = (p * np.cos(angle)).sum(2) + 2 * (p * np.cos(angle)).sum(1) + x
    each = -p * np.sin(angle)
    # d^2 / dy_k^2: once by y_i, four times by y_j, and where they are one, (1 + 2)^2.
    trace = (each * (5 + 4 * np.eye(3))).sum((1, 2))
    want = (np.sum(slopes**2, axis=1) / 2 - trace).mean()

    def values(projections):
        predictor = Predictor(energy, domain=Reals())
        objective = sliced_score_matching(predictor, projections=projections)
        each = jax.jit(jax.vmap(lambda key: objective(p, Batch(x, y), key)[0]))
        return np.asarray(each(jax.random.split(KEY, n)))

    one, eight = values(1), values(8)
    for each in (one, eight):
        assert abs(each.mean() - want) < 4.5 * each.std() / np.sqrt(n)
    np.testing.assert_allclose(one.var() / eight.var(), 8, rtol=0.15)


def test_numbers_out_of_range_are_refused():
    with pytest.raises(ValueError, match="sigma must be a number, positive and finite, got 0.0"):
        denoising_score_matching(PREDICTOR, sigma=0.0)
    with pytest.raises(ValueError, match="projections must be a whole"):
        sliced_score_matching(PREDICTOR, projections=0)

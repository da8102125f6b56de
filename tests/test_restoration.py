"""Measurements, priors over images and their problems: closed forms, dense matrices, finite differences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from scipy import ndimage

import spen_jax as sx
from spen_jax import tiles
from spen_jax.energies import (
    Blurred,
    DeepVariation,
    Denoising,
    FieldOfExperts,
    Incomplete,
    Measured,
    Noisy,
    Restoration,
    TotalVariation,
    from_measurement,
)
from spen_jax.inference import ProximalGradient
from spen_jax.networks import NoiseNetwork

PRIORS = {
    "denoising": Denoising(NoiseNetwork((4, 4))),
    "robust": Denoising(NoiseNetwork((4, 4)), 1.0),
    "deep": DeepVariation((4, 4), 3),
    "experts": FieldOfExperts(4, 3),
    "variation": TotalVariation(0.5),
}
LINE = np.array([0.2, 0.6, 0.2])
KERNEL = np.outer(LINE, LINE)


def some(shape=(2, 7, 6), seed=0):
    return np.random.default_rng(seed).random(shape).astype(np.float32)


def one(x):
    return jax.tree.map(lambda a: a[0], x)


def measurements():
    y = some()
    skewed = np.array([[0.1, 0.5, 0.2], [0.0, 0.1, 0.1], [0.0, 0.0, 0.0]])
    return {
        "noisy": Noisy(y, [0.1, 0.2]),
        "incomplete": Incomplete(y, some(seed=1) < 0.5),
        "blurred": Blurred(y, KERNEL, 0.1),
        "periodic": Blurred(y, skewed, 0.1, periodic=True),
    }


def test_a_blur_is_that_of_scipy_mirrored_and_repeated():
    y = some()[0]
    x = one(Blurred(y[None], KERNEL, 1.0))
    np.testing.assert_allclose(x.blur(y), ndimage.convolve(y, KERNEL, mode="reflect"), atol=1e-6)
    skewed = some((3, 5), 3)
    x = one(Blurred(y[None], skewed, 1.0, periodic=True))
    np.testing.assert_allclose(x.blur(y), ndimage.convolve(y, skewed, mode="wrap"), atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["noisy", "blurred", "periodic"])
def test_the_exact_step_solves_with_the_second_derivatives(name, x64):
    x = one(
        jax.tree.map(
            lambda a: a.astype(complex if a.dtype.kind == "c" else float), measurements()[name]
        )
    )
    y, gradient = some((7, 6), 2).astype(float), some((7, 6), 3).astype(float)
    hessian = jax.hessian(x.energy)(y).reshape(42, 42)
    matrix = np.eye(42) / 0.3 + 2.0 * hessian
    expected = np.linalg.solve(matrix, gradient.ravel()).reshape(7, 6)
    np.testing.assert_allclose(x.newton(gradient, 0.3, 2.0), expected, rtol=1e-5, atol=1e-7)


@pytest.mark.slow
def test_what_was_seen_stands_still_and_the_rest_starts_from_means_around_it():
    y, seen = some((1, 9, 8)), some((1, 9, 8), 1) < 0.3
    x = Incomplete(np.where(seen, y, np.nan), seen)
    start = np.asarray(x.start())
    np.testing.assert_array_equal(start[seen], y[seen])
    assert y[seen].min() - 1e-6 <= start.min() and start.max() <= y[seen].max() + 1e-6
    step = one(x).newton(jnp.ones((9, 8)), 0.5)
    np.testing.assert_array_equal(step, np.where(seen[0], 0, 0.5))
    nothing = Incomplete(y, np.zeros_like(seen))
    np.testing.assert_array_equal(nothing.start(), np.full((1, 9, 8), 0.5))


@pytest.mark.slow
@pytest.mark.parametrize("name", PRIORS)
def test_a_prior_has_the_derivative_of_finite_differences_and_objects_to_noise(name, x64):
    prior, y = PRIORS[name], some((9, 10), 4).astype(float)
    params = prior.init(jax.random.key(1), {}, y, method="energy")["params"]
    params = jax.tree.map(lambda a: a.astype(float), params)

    def energy(y):
        return prior.apply({"params": params}, {}, y, method="energy")

    direction = some((9, 10), 5) - 0.5
    slope = jnp.vdot(jax.grad(energy)(y), direction)
    step = 1e-6
    numeric = (energy(y + step * direction) - energy(y - step * direction)) / (2 * step)
    np.testing.assert_allclose(slope, numeric, rtol=1e-6)
    assert prior.apply({"params": params}, y[None], method="features") == {}
    if name in ("experts", "variation"):
        assert energy(y) > energy(np.full_like(y, 0.3)) and abs(energy(np.full_like(y, 0.3))) < 1e-9


@pytest.mark.slow
def test_fields_of_experts_and_total_variation_are_their_formulas():
    y = some((6, 5))
    prior = FieldOfExperts(2, 3)
    params = prior.init(jax.random.key(0), {}, y, method="energy")["params"]
    wide, total = np.pad(y, 1, "edge"), 0.0
    for k, a in enumerate(np.log1p(np.exp(np.asarray(params["a"])))):
        f = np.asarray(params["f"])[:, :, 0, k]
        answers = ndimage.correlate(wide, f - f.mean(), mode="constant")[1:-1, 1:-1]
        total += a * np.log1p(answers**2 / 2).sum()
    got = prior.apply({"params": params}, {}, y, method="energy")
    np.testing.assert_allclose(got, total, rtol=1e-5)
    prior = TotalVariation(0.7, 1e-6)
    params = prior.init(jax.random.key(0), {}, y, method="energy")["params"]
    down, right = np.zeros_like(y), np.zeros_like(y)
    down[:-1], right[:, :-1] = np.diff(y, axis=0), np.diff(y, axis=1)
    got = prior.apply({"params": params}, {}, y, method="energy")
    np.testing.assert_allclose(got, 0.7 * np.hypot(down, right).sum(), rtol=1e-4)


@pytest.mark.slow
def test_a_denoiser_costs_the_size_of_what_it_takes_for_noise():
    y, params = 50 * some((8, 8)), None
    network = NoiseNetwork((4, 4))
    variables = network.init(jax.random.key(0), y[None])
    params = {"network": variables["params"]}
    noise = np.asarray(network.apply(variables, y[None]))
    assert network.apply(variables, y[None] + 7) == pytest.approx(noise, abs=1e-3)

    def energy(width):
        return Denoising(network, width).apply({"params": params}, {}, y, method="energy")

    assert energy(None) == pytest.approx(np.sum(noise**2) / 2, rel=1e-5)
    assert energy(1e3) == pytest.approx(np.sum(noise**2) / 2, rel=0.02)
    assert energy(1e-3) == pytest.approx(1e-3 * np.abs(noise).sum(), rel=0.01)


def problem(prior, x, level=0.1, **options):
    module = Restoration(prior, level)
    params = module.init(jax.random.key(0), x, x.image)["params"]
    features, energy = sx.functions_of(module)
    options = {"domain": Measured(), "solver": ProximalGradient(0.5), "steps": 60} | options
    return params, sx.Predictor(energy, features, **{"start": from_measurement} | options)


@pytest.mark.slow
def test_one_step_of_length_one_from_what_was_seen_is_the_denoiser():
    x = Noisy(some(), [0.1, 0.2])
    options = {"domain": sx.Reals(), "solver": sx.GradientDescent(1.0, momentum=0.0), "steps": 1}
    params, predictor = problem(PRIORS["denoising"], x, None, **options)
    network = {"params": params["prior"]["network"]}

    def found(u):
        return NoiseNetwork((4, 4)).apply(network, u[None])[0]

    for image, level, y in zip(x.image, x.noise, predictor(params, x).y, strict=True):
        u = (image - 0.5) / level
        noise, transposed = jax.vjp(found, u)
        np.testing.assert_allclose(y, image - level * transposed(noise)[0], atol=1e-5)


@pytest.mark.slow
def test_the_energy_is_the_same_problem_at_any_contrast():
    x, twice = Noisy(some(), 0.1), Noisy(2 * (some() - 0.5) + 0.5, 0.2)
    params, predictor = problem(PRIORS["deep"], x, None)
    y = some(seed=7)
    np.testing.assert_allclose(
        4 * predictor.energies(params, x, y),
        predictor.energies(params, twice, 2 * (y - 0.5) + 0.5),
        rtol=1e-5,
    )


@pytest.mark.parametrize("name", ["noisy", "incomplete", "blurred", "periodic"])
def test_steps_end_at_a_minimum_and_never_climb(name):
    x = measurements()[name]
    params, predictor = problem(PRIORS["experts"], x, trace=("energy",), steps=300)
    solution = predictor(params, x)
    path = np.asarray(solution.trace["energy"])
    assert (np.diff(path) <= 1e-4 * np.abs(path[:, 1:])).all()
    assert (np.asarray(solution.residual) < (2e-2 if name == "blurred" else 2e-3)).all()
    if name == "incomplete":
        np.testing.assert_array_equal(np.where(x.seen, solution.y, 0), x.image)


def test_a_quadratic_measurement_alone_is_solved_in_one_long_step():
    x = Blurred(some(), KERNEL, 0.1)
    _, predictor = problem(TotalVariation(1e-9), x, solver=ProximalGradient(1e6), steps=1)
    y = predictor({"prior": {"log_weight": jnp.float32(-20.0)}}, x).y
    np.testing.assert_allclose(jax.vmap(Blurred.blur)(x, y), x.image, atol=1e-4)


@pytest.mark.slow
def test_any_number_of_images_of_any_size_and_both_derivatives_of_the_loss():
    x = Noisy(some((3, 9, 11)), 0.1)
    params, predictor = problem(PRIORS["denoising"], x, None)
    each = [predictor(params, Noisy(image[None], 0.1)).y[0] for image in x.image]
    np.testing.assert_allclose(predictor(params, x).y, np.stack(each), atol=1e-6)

    def loss(params):
        predicted = sx.inference.minimize(
            predictor.energy,
            params,
            predictor.context(params, x),
            x.image,
            **predictor.options(params, differentiate="unrolled", steps=2),
        )
        return jnp.mean(predicted.y**2)

    slopes = jax.tree.leaves(jax.grad(loss)(params))
    assert all(np.isfinite(g).all() for g in slopes) and any(np.any(g != 0) for g in slopes)


@pytest.mark.slow
def test_what_was_seen_stays_whoever_moves_y_and_wherever_it_starts():
    y, seen = some(), some(seed=1) < 0.5
    x = Incomplete(y, seen)
    params, predictor = problem(PRIORS["experts"], x, start=0.5, shape=(7, 6), steps=5)
    np.testing.assert_array_equal(np.where(seen, predictor(params, x).y, 0), x.image)
    other = np.where(seen, 0.9, y)
    np.testing.assert_array_equal(
        predictor.energies(params, x, other), predictor.energies(params, x, y)
    )
    solver = sx.GradientDescent(0.2, momentum=0.0)
    params, predictor = problem(PRIORS["experts"], x, domain=sx.Reals(), solver=solver, steps=5)
    np.testing.assert_array_equal(np.where(seen, predictor(params, x).y, 0), x.image)


class Quadratic(nn.Module):
    """p |y|^2 / 2 + sum of y, whose minimiser is -1 / p."""

    def features(self, h, train=False):
        return {}

    @nn.compact
    def energy(self, context, y):
        p = self.param("p", nn.initializers.constant(2.0), ())
        return p * jnp.sum(y**2) / 2 + jnp.sum(y)


@pytest.mark.slow
def test_implicit_derivatives_leave_out_what_was_seen():
    seen = some(seed=1) < 0.5
    x = Incomplete(some(), seen)
    params, predictor = problem(Quadratic(), x, 0.5, steps=100)

    def total(params):
        options = predictor.options(params, differentiate="implicit")
        context = predictor.context(params, x)
        return jnp.sum(sx.minimize(predictor.energy, params, context, x.start(), **options).y)

    slope = jax.grad(total)(params)["prior"]["p"]
    assert float(slope) == pytest.approx(np.sum(~seen) * 0.5 / 2.0**2, rel=1e-3)


def test_exact_steps_refuse_what_is_known_beside_them():
    x = Noisy(some(), 0.1)
    params, predictor = problem(PRIORS["experts"], x)
    with pytest.raises(ValueError, match="energies.Incomplete"):
        predictor(params, x, known=(some() < 0.5, some()))


@pytest.mark.parametrize(
    "make, said",
    [
        (lambda: Noisy(some()[0], 0.1), "image\\[None\\]"),
        (lambda: Noisy(255 * some(), 0.1), "image / 255"),
        (lambda: Noisy(some() * np.nan, 0.1), "Incomplete"),
        (lambda: Noisy(some(), 0.0), "above 0"),
        (lambda: Noisy(some(), [0.1, 0.1, 0.1]), "one for each of 2 images"),
        (lambda: Incomplete(some(), some()), "booleans"),
        (lambda: Blurred(some(), np.ones((2, 3)), 0.1), "odd sizes"),
        (lambda: Blurred(some(), np.arange(9.0).reshape(3, 3), 0.1), "periodic=True"),
        (lambda: problem(PRIORS["experts"], Incomplete(some(), some() < 1), None), "a level"),
        (lambda: problem(PRIORS["experts"], Noisy(some(), 0.1), -1.0), "level must be above 0"),
        (lambda: Noisy(some(), 25), "noise / 255"),
        (lambda: Noisy(np.round(255 * some()), 5), "noise / 255"),
        (lambda: Noisy(np.stack([some()[0], 255 * some()[1]]), [0.1, 25]), "noise / 255"),
        (lambda: Blurred(255 * some(), KERNEL, 5), "noise / 255"),
        (lambda: Incomplete(255 * some(), some() < 1), "image / 255"),
        (lambda: Blurred(some(), "box", 0.1), "kernel"),
        (
            lambda: Restoration(PRIORS["experts"], 0.1).init(jax.random.key(0), some(), some()),
            "what was measured",
        ),
        (lambda: problem(TotalVariation(-1.0), Noisy(some(), 0.1)), "weight > 0"),
        (lambda: problem(TotalVariation(1.0, 0.0), Noisy(some(), 0.1)), "width > 0"),
        (lambda: problem(FieldOfExperts(2, 4), Noisy(some(), 0.1)), "odd size"),
        (lambda: problem(DeepVariation((2,), 4), Noisy(some(), 0.1)), "odd size"),
        (lambda: problem(Denoising(NoiseNetwork((2, 2)), -1.0), Noisy(some(), 0.1)), "width > 0"),
    ],
)
def test_a_measurement_says_what_it_needs(make, said):
    with pytest.raises(ValueError, match=said):
        make()


@pytest.mark.parametrize("noise", [0.1, 0.5, 5.0, 50.0])
def test_noise_may_leave_the_grey_levels_also_noise_taken_for_less(noise):
    x = some() + noise * np.random.default_rng(1).normal(size=(2, 7, 6))
    Noisy(x, noise)
    Noisy(x, noise / 4)
    Blurred(9 * x, 9 * KERNEL, 9 * noise)


def test_another_shape_of_y_is_refused():
    x = Noisy(some(), 0.1)
    params, predictor = problem(PRIORS["experts"], x)
    with pytest.raises(ValueError, match="of the image that was measured"):
        predictor.energies(params, x, some((2, 1, 1)))


def test_proximal_steps_need_a_domain_that_knows_the_measurement():
    x = Noisy(some(), 0.1)
    params, predictor = problem(PRIORS["experts"], x, domain=sx.Reals())
    with pytest.raises(ValueError, match="Measured"):
        predictor(params, x)
    with pytest.raises(ValueError, match="step_size > 0"):
        ProximalGradient(0.0)


@pytest.mark.parametrize("shape", [(2, 20, 17), (1, 8, 8), (2, 9, 30, 3)])
def test_tiles_cover_an_image_and_join_to_it(shape):
    images = some(shape)
    parts = tiles.cut(images, 8, 3)
    assert parts.shape[1:3] == (8, 8)
    np.testing.assert_allclose(tiles.joined(parts, shape, 3), images, atol=1e-6)
    with pytest.raises(ValueError, match="0 or more below the size"):
        tiles.cut(images, 8, 8)
    with pytest.raises(ValueError, match="multiple of 9"):
        tiles.joined(jnp.zeros((8, 8, 8)), (1, 17, 18), 3)


@pytest.mark.slow
def test_tiles_answer_as_the_whole_image_does():
    x = some((1, 40, 40))
    params, predictor = problem(PRIORS["experts"], Noisy(x, 0.1), None, steps=4)
    whole = predictor(params, Noisy(x, 0.1)).y
    parts = predictor(params, Noisy(tiles.cut(x, 24, 16), 0.1)).y
    np.testing.assert_allclose(tiles.joined(parts, x.shape, 16), whole, atol=0.01)

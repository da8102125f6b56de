"""Inference and objectives in float32 and float64, in both 64-bit modes; points of 16 bits are refused by name."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from spen_jax import (
    Box,
    FrankWolfe,
    GibbsWithGradients,
    GradientDescent,
    LineSearch,
    MirrorDescent,
    OnLogits,
    Optax,
    Predictor,
    Product,
    Reals,
    Simplex,
    fit,
    minimize,
    objectives,
    training,
)
from spen_jax.training import train

RNG = np.random.default_rng(0)
SOLVERS = {
    "descent": (GradientDescent(0.3, momentum=0.2), 60),
    "nesterov": (GradientDescent(0.3, momentum=0.2, nesterov=True), 60),
    "mirror": (MirrorDescent(1.0), 300),
    "logits": (OnLogits(GradientDescent(1.0, momentum=0.5)), 300),
    "line search": (LineSearch(), 40),
    "frank-wolfe": (FrankWolfe(), 900),
    "adam": (Optax(optax.adam(0.05)), 300),
    "lbfgs": (Optax(optax.lbfgs()), 20),
}
MODES = [(False, "float32"), (True, "float32"), (True, "float64")]
SHAPES = {"batch": (70, 3), "one": (1, 3), "scalars": (5,), "empty": (0, 3)}


def bowl(params, x, y):
    return jnp.sum(params * (y - x) ** 2) / 2


def check_bowl(solver, steps, dtype, shape, atol, **options):
    """The minimiser of a bowl inside the box is its centre."""
    centre = RNG.uniform(0.2, 0.8, shape).astype(dtype)
    start = np.full(shape, 0.5, dtype)
    scale = np.asarray(1.5, options.pop("params", dtype))
    found = minimize(bowl, scale, centre, start, solver=solver, steps=steps, **options)
    assert (found.y.dtype, found.y.shape) == (dtype, shape)
    assert found.residual.dtype == dtype and found.energy.shape == shape[:1]
    np.testing.assert_allclose(found.y, centre, atol=atol)
    return found


@pytest.mark.long
@pytest.mark.parametrize("x64, dtype", MODES)
@pytest.mark.parametrize("name", SOLVERS)
def test_every_solver_takes_both_types_in_both_modes(name, x64, dtype):
    solver, steps = SOLVERS[name]
    atol = 0.05 if name == "frank-wolfe" else 2e-3
    with jax.enable_x64(x64):
        check_bowl(solver, steps, dtype, SHAPES["batch"], atol)


@pytest.mark.long
@pytest.mark.parametrize("shape", ["one", "scalars", "empty"])
@pytest.mark.parametrize("name", SOLVERS)
def test_every_solver_takes_one_example_scalars_and_none(name, shape):
    solver, steps = SOLVERS[name]
    with jax.enable_x64(True):
        check_bowl(solver, steps, "float32", SHAPES[shape], 0.05)


@pytest.mark.long
@pytest.mark.parametrize("x64, dtype", MODES)
def test_stopping_early_settings_temperature_and_what_is_known_keep_the_type(x64, dtype):
    with jax.enable_x64(x64):
        plain = SOLVERS["descent"][0]
        for shape in ((70, 3), (0, 3)):
            found = check_bowl(plain, 60, dtype, shape, 2e-3, stop_early=True, trace="energy")
            assert found.trace["energy"].dtype == dtype
        settings = {"step_size": jnp.full(60, 0.3), "momentum": 0.1}
        check_bowl(plain, 60, dtype, (2, 3), 2e-3, settings=settings, temperature=jnp.asarray(0.0))
        known = np.zeros((2, 3), bool), np.zeros((2, 3))
        check_bowl(plain, 60, dtype, (2, 3), 2e-3, known=known)


@pytest.mark.long
@pytest.mark.parametrize("params", ["float16", "bfloat16", "float32", "float64"])
@pytest.mark.parametrize("solver", ["descent", "line search"])
def test_parameters_may_be_of_any_type(solver, params):
    with jax.enable_x64(True):
        params = jnp.dtype(params)
        check_bowl(*SOLVERS[solver], "float32", (70, 3), 3e-3, params=params)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_points_of_16_bits_are_refused_by_name(dtype):
    start = jnp.zeros((2, 3), dtype)
    with pytest.raises(ValueError, match=f"start must be float32 or float64, got {dtype}"):
        minimize(bowl, 1.0, np.zeros((2, 3), np.float32), start)
    with pytest.raises(ValueError, match=f"start must be float32 or float64, got {dtype}"):
        Predictor(bowl, start=start)(1.0, np.zeros((2, 3), np.float32))


@pytest.mark.long
@pytest.mark.parametrize("x64, dtype", MODES)
@pytest.mark.parametrize("mode", ["unrolled", "implicit", "stopped"])
def test_derivatives_have_the_type_of_what_they_are_of(mode, x64, dtype):
    with jax.enable_x64(x64):
        centre = RNG.uniform(0.2, 0.8, (5, 3)).astype(dtype)

        def energies(scale, centre):
            start = jnp.full((5, 3), 0.5, dtype)
            options = {"solver": SOLVERS["descent"][0], "steps": 60, "differentiate": mode}
            found = minimize(bowl, scale, centre, start, **options)
            return jnp.sum(found.y) + jnp.sum(found.energy)

        of_scale, of_centre = jax.grad(energies, (0, 1))(np.asarray(1.5, dtype), centre)
        assert of_scale.dtype == of_centre.dtype == dtype
        np.testing.assert_allclose(of_centre, 0 if mode == "stopped" else 1, atol=3e-3)


@pytest.mark.long
@pytest.mark.parametrize("x64, dtype", MODES)
def test_trees_and_predictors_keep_the_type(x64, dtype):
    def of_tree(params, x, y):
        return jnp.sum((y["a"] - x) ** 2) + jnp.sum((y["b"] - 0.25) ** 2)

    with jax.enable_x64(x64):
        x = RNG.uniform(0.2, 0.8, (5, 3)).astype(dtype)
        start = {"a": np.full((1, 3), 0.5, dtype), "b": np.full((1, 2, 4), 0.25, dtype)}
        domain = Product({"a": Box(), "b": Simplex()})
        predictor = Predictor(
            of_tree, start=start, domain=domain, solver=GradientDescent(0.2, 0.2), steps=60
        )
        found = predictor({}, x)
        assert {a.dtype for a in jax.tree.leaves((found.y, found.energy))} == {np.dtype(dtype)}
        np.testing.assert_allclose(found.y["a"], x, atol=2e-3)
        assert predictor.energies({}, x, found.y).dtype == dtype


def scored(params, x, y):
    return -(params["W"] @ x) @ y + y @ y / 2 + y @ params["A"] @ y / 10


def zeros(context):
    return jnp.zeros((len(context), 3), context.dtype)


NOISE = objectives.IndependentBernoulli(zeros)
ANSWERS = np.array(np.meshgrid(*[[0.0, 1.0]] * 3)).reshape(3, -1).T
OBJECTIVES = {
    "end_to_end": objectives.end_to_end,
    "max_margin": objectives.max_margin,
    "slack": partial(objectives.max_margin, variant="slack"),
    "maximum_likelihood": partial(objectives.maximum_likelihood, answers=ANSWERS),
    "pseudo_likelihood": objectives.pseudo_likelihood,
    "nce": partial(objectives.nce, noise=NOISE, samples=2),
    "ranking_nce": partial(objectives.ranking_nce, noise=NOISE, samples=2),
    "contrastive_divergence": partial(
        objectives.contrastive_divergence, sampler=GibbsWithGradients(), steps=2
    ),
    "deep_value": objectives.deep_value,
    "denoising": partial(objectives.denoising_score_matching, sigma=0.1),
    "sliced": objectives.sliced_score_matching,
}


@pytest.mark.long
@pytest.mark.parametrize("x64, dtype", MODES[::2])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_objective_trains_in_both_types_and_both_modes(name, x64, dtype):
    with jax.enable_x64(x64):
        params = {"W": RNG.normal(size=(3, 2)).astype(dtype), "A": np.eye(3, dtype=dtype)}
        x = RNG.normal(size=(6, 2)).astype(dtype)
        y = (RNG.random((6, 3)) < 0.5).astype(dtype)
        start = np.full((1, 3), 0.5, dtype)
        objective = OBJECTIVES[name](Predictor(scored, start=start, steps=3))
        optimizer = optax.sgd(0.1)
        state = training.init(params, optimizer, jax.random.key(0))
        after, metrics = fit(objective, optimizer, state, {"x": x, "y": y}, epochs=1).last()
        assert np.isfinite(list(metrics.values())).all() and metrics["left_out"] == 0
        assert {a.dtype for a in jax.tree.leaves(after.params)} == {np.dtype(dtype)}
        assert np.any(after.params["W"] != params["W"])


@pytest.mark.long
@pytest.mark.parametrize("kind", [bool, "int8", "uint8", "int32", "float16", "bfloat16", "float64"])
def test_labels_of_any_kind_train_alike(kind):
    params = {"W": np.ones((3, 2), np.float32), "A": np.eye(3, dtype=np.float32)}
    x = np.float32(np.linspace(-1, 1, 12).reshape(6, 2))
    y = np.tile([[True, False, True], [False, False, True]], (3, 1))
    objective = objectives.max_margin(Predictor(scored, shape=(3,), steps=2))
    recipe = training.Recipe(epochs=1, learning_rate=0.1, weight_decay=0.0)

    def trained(y):
        return train(objective, params, {"x": x, "y": y}, recipe, jax.random.key(0)).last().params

    want = trained(y.astype(np.float32))
    np.testing.assert_array_equal(trained(y.astype(jnp.dtype(kind)))["W"], want["W"])


def test_reals_have_no_bounds_on_the_numbers_of_their_type():
    with jax.enable_x64(True):
        for dtype, size in (("float32", 1e30), ("float64", 1e300)):
            start = np.full((2, 3), size, dtype)
            found = minimize(
                lambda p, x, y: jnp.sum(jnp.abs(y - x)),
                None,
                np.zeros((2, 3), dtype),
                start,
                domain=Reals(),
                solver=GradientDescent(1.0, 0.0),
                steps=3,
            )
            assert np.isfinite(found.energy).all() and found.y.dtype == dtype

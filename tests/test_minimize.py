from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from problems import (
    assert_trees_close,
    counting,
    coupled,
    entropic,
    numpy_descent,
    numpy_mirror,
    parabola,
    positive_definite,
)

from spen_jax import Predictor
from spen_jax.domains import Box, Product, Simplex
from spen_jax.inference import (
    FrankWolfe,
    GradientDescent,
    MirrorDescent,
    minimize,
    minimize_best,
)

HALF = GradientDescent(step_size=0.2, momentum=0.5)
A = np.array([1.0, 2.0, 4.0])
# b / a: inside, above, below | below, inside, above | inside three times
B = np.array([[0.3, 5.0, -1.0], [-0.1, 0.5, 4.4], [0.9, 0.2, 2.0]])


def centre(batch, labels=3):
    return jnp.full((batch, labels), 0.5)


# The minimiser


@pytest.mark.parametrize("box", [Box(), Box(-1.0, 2.0)])
@pytest.mark.parametrize("solver", [HALF, GradientDescent(0.2, momentum=0.0)])
def test_descent_finds_the_clipped_minimiser_of_a_separable_quadratic(solver, box):
    found = minimize(parabola, {"a": A}, B, centre(3), solver=solver, domain=box, steps=200)
    best = np.clip(B / A, box.lower, box.upper)
    np.testing.assert_allclose(found.y, best, atol=1e-6)
    np.testing.assert_allclose(found.energy, (A * best**2 / 2 - B * best).sum(1), rtol=1e-5)
    np.testing.assert_allclose(found.residual, 0, atol=1e-6)
    assert found.converged.tolist() == [True] * 3
    assert found.steps.tolist() == [200] * 3
    assert found.trace == {}


def test_descent_meets_the_optimality_conditions_of_a_coupled_quadratic():
    a, b = positive_definite(6), np.random.default_rng(1).normal(size=(5, 6))
    found = minimize(coupled, {"A": a}, b, centre(5, 6), solver=HALF, steps=400)
    y = np.asarray(found.y, float)
    gradient = y @ a - b
    below, above = y == 0, y == 1
    assert below.sum() > 2 and above.sum() > 2 and (~below & ~above).sum() > 2
    np.testing.assert_allclose(gradient[~below & ~above], 0, atol=1e-5)
    assert np.all(gradient[below] > 0) and np.all(gradient[above] < 0)
    assert found.residual.max() < 1e-5 and found.converged.all()


def test_mirror_descent_finds_the_sigmoid_of_the_scores():
    scores = np.array([[-8.0, -1.0, 0.0], [0.3, 2.0, 8.0]])
    found = minimize(entropic, None, scores, centre(2), solver=MirrorDescent(0.5), steps=60)
    np.testing.assert_allclose(found.y, 1 / (1 + np.exp(-scores)), rtol=1e-5)
    np.testing.assert_allclose(found.energy, -np.log1p(np.exp(scores)).sum(1), rtol=1e-5)
    assert found.converged.all()


def test_mirror_descent_stays_finite_where_float32_rounds_the_sigmoid():
    scores = np.array([[-200.0, -30.0, -20.0], [20.0, 30.0, 200.0]])
    found = minimize(entropic, None, scores, centre(2), solver=MirrorDescent(0.5), steps=60)
    np.testing.assert_allclose(found.y, scores > 0, atol=1e-6)
    assert np.isfinite(found.energy).all() and found.converged.all()


# What a solution says of itself


def test_the_residual_is_exactly_0_at_the_minimiser_and_the_projected_step_elsewhere():
    params = {"a": np.float32([2, 2, 2])}
    b = np.float32([[1, -1, 4], [1.4, -1, 4], [9, 1, 1], [1, 1, -0.5]])
    start = np.float32([[0.5, 0, 1], [0.5, 0, 1], [0.5, 0.5, 0.5], [0.5, 0.5, 0.125]])
    found = minimize(parabola, params, b, start, steps=0, tolerance=0.1)
    # By hand: 0; gradient 1 - 1.4; from 0.5 by 8 cut at the bound 1; from 0.125 by 0.75 cut at 0.
    np.testing.assert_allclose(found.residual, [0, 0.4, 0.5, 0.125], rtol=1e-6)
    assert found.residual[0] == 0
    assert found.converged.tolist() == [True, False, False, False]


def test_an_inference_cut_short_says_so():
    found = minimize(parabola, {"a": A}, B, centre(3), solver=HALF, steps=2)
    assert found.converged.tolist() == [False] * 3
    assert np.all(found.residual > 1e-3)


@pytest.mark.parametrize("batch, bad", [(5, 2), (140, 139)])
def test_a_bad_example_is_flagged_and_leaves_its_neighbours_untouched(batch, bad):
    def poisoned(params, context, y):
        return parabola(params, context["b"], y) + context["poison"] * jnp.sum(y)

    def solve(poison):
        context = {"b": np.resize(B, (batch, 3)), "poison": poison}
        return minimize(poisoned, {"a": A}, context, centre(batch), solver=HALF, steps=80)

    poison = np.zeros(batch)
    clean = solve(poison)
    poison[bad] = np.nan
    found = solve(poison)
    assert np.flatnonzero(~found.converged).tolist() == [bad]
    assert np.isnan(found.residual[bad]) and np.isnan(found.energy[bad])
    without = jax.tree.map(lambda a: np.delete(a, bad, 0), (found, clean))
    jax.tree.map(np.testing.assert_array_equal, *without)
    assert clean.converged.all()


# The updates


def test_two_descent_steps_in_numbers():
    def energy(params, context, y):
        return jnp.sum((y - 1) ** 2)

    solver = GradientDescent(step_size=0.1, momentum=0.9)
    found = minimize(energy, None, None, centre(1, 1), solver=solver, steps=3, trace="y")
    # 0.5 + 0.1 * 1; 0.6 + 0.1 * 0.8 + 0.9 * 0.1; 0.77 + 0.1 * 0.46 + 0.9 * 0.17, a point inside
    np.testing.assert_allclose(found.trace["y"][0, :, 0], [0.5, 0.6, 0.77, 0.969], rtol=1e-6)


def test_one_mirror_step_in_numbers():
    def energy(params, context, y):
        return jnp.sum(y**2 + y)

    start = jnp.array([[0.5], [0.2]])
    found = minimize(energy, None, None, start, solver=MirrorDescent(0.25), steps=1)
    # logits 0 and log(1/4); gradients 2 and 1.4
    want = 1 / (1 + np.exp([0.25 * 2, np.log(4) + 0.25 * 1.4]))
    np.testing.assert_allclose(found.y[:, 0], want, rtol=1e-6)

    box = Box(-1.0, 3.0)
    found = minimize(energy, None, None, start, domain=box, solver=MirrorDescent(0.25), steps=1)
    logits = np.log([1.5 / 2.5, 1.2 / 2.8]) - 0.25 * np.array([2, 1.4])
    np.testing.assert_allclose(found.y[:, 0], -1 + 4 / (1 + np.exp(-logits)), rtol=1e-5)


def test_a_start_outside_is_projected_and_mirror_descent_moves_it_off_the_bounds():
    start = jnp.array([[-7.0, 0.0, 0.25], [0.25, 1.0, 7.0]])

    def first(solver):
        return minimize(entropic, None, np.zeros((2, 3)), start, solver=solver, steps=0).y

    np.testing.assert_array_equal(first(HALF), [[0, 0, 0.25], [0.25, 1, 1]])
    np.testing.assert_allclose(first(MirrorDescent())[0], [1e-6, 1e-6, 0.25], rtol=1e-5)
    np.testing.assert_allclose(1 - first(MirrorDescent())[1], [0.75, 1e-6, 1e-6], rtol=0.1)


@pytest.mark.parametrize("batch, labels", [(1, 3), (7, 3), (129, 3), (300, 3), (40, 600)])
def test_descent_equals_a_numpy_loop_however_many_blocks_it_takes(batch, labels):
    a = positive_definite(labels)
    rng = np.random.default_rng(batch)
    b, start = rng.normal(size=(batch, labels)), rng.random((batch, labels))
    solver = GradientDescent(step_size=0.3, momentum=0.9)
    found = minimize(coupled, {"A": a}, b, jnp.asarray(start), solver=solver, steps=12, trace="y")
    path = numpy_descent(lambda y: y @ a - b, start, 12, 0.3, 0.9)
    assert np.mean((path == 0) | (path == 1)) > 0.1 and np.mean((path > 0) & (path < 1)) > 0.1
    assert found.trace["y"].shape == (batch, 13, labels)
    np.testing.assert_allclose(found.trace["y"], np.moveaxis(path, 0, 1), atol=2e-5)
    np.testing.assert_array_equal(found.trace["y"][:, 0], start.astype(np.float32))
    np.testing.assert_array_equal(found.trace["y"][:, -1], found.y)
    y = path[-1]
    np.testing.assert_allclose(found.energy, ((y @ a) * y / 2 - b * y).sum(1), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(
        found.residual, np.abs(y - np.clip(y - (y @ a - b), 0, 1)).max(1), atol=5e-5
    )


@pytest.mark.parametrize("batch", [7, 300])
def test_mirror_descent_equals_a_numpy_loop(batch):
    a = positive_definite(3)
    rng = np.random.default_rng(0)
    b, start = rng.normal(size=(batch, 3)), rng.uniform(0.01, 0.99, (batch, 3))
    found = minimize(
        coupled,
        {"A": a},
        b,
        jnp.asarray(start),
        solver=MirrorDescent(0.8),
        steps=10,
        trace="y",
    )
    path = numpy_mirror(lambda y: y @ a - b, start, 10, 0.8)
    np.testing.assert_allclose(found.trace["y"], np.moveaxis(path, 0, 1), rtol=1e-4)


def test_a_batch_gives_each_example_the_answer_it_gets_alone():
    context = {"b": np.random.default_rng(0).normal(size=(5, 3)), "scale": np.arange(1.0, 6)}

    def energy(params, context, y):
        return context["scale"] * parabola(params, context["b"], y)

    def solve(context, start):
        return minimize(energy, {"a": A}, context, start, solver=HALF, steps=5)

    together = solve(context, centre(5))
    for i in range(5):
        alone = solve(jax.tree.map(lambda a, i=i: a[i : i + 1], context), centre(1))
        assert_trees_close(alone, jax.tree.map(lambda a, i=i: a[i : i + 1], together), rtol=1e-5)


def test_outputs_may_have_any_shape_and_a_batch_may_be_empty():
    def energy(params, context, y):
        return jnp.sum((y - params) ** 2)

    target = np.array([[0.1, 0.9], [0.3, -2.0], [0.5, 7.0]])
    found = minimize(energy, target, None, jnp.zeros((4, 3, 2)), solver=HALF, steps=60)
    np.testing.assert_allclose(found.y, np.tile(np.clip(target, 0, 1), (4, 1, 1)), atol=1e-5)
    assert found.energy.shape == found.residual.shape == found.steps.shape == (4,)
    empty = minimize(energy, target, None, jnp.zeros((0, 3, 2)), solver=HALF, steps=60)
    assert empty.y.shape == (0, 3, 2) and empty.converged.shape == (0,)


# The trace and the progress


@pytest.mark.parametrize("stop_early", [False, True])
@pytest.mark.parametrize("names", ["y", ["energy"], ("residual", "y", "energy")], ids=str)
def test_the_trace_holds_what_was_asked_for_before_and_after_each_step(names, stop_early, x64):
    def solve(trace):
        return minimize(
            parabola,
            {"a": A},
            B,
            centre(3),
            solver=HALF,
            steps=7,
            stop_early=stop_early,
            trace=trace,
        )

    found = solve(names)
    assert set(found.trace) == {names} if isinstance(names, str) else set(names)
    for name, rows in found.trace.items():
        assert rows.shape == ((3, 8, 3) if name == "y" else (3, 8))
        np.testing.assert_allclose(rows[:, -1], getattr(found, name), rtol=1e-12)
    if "energy" in found.trace and "y" in found.trace:
        y, b = np.asarray(found.trace["y"]), B[:, None]
        np.testing.assert_allclose(found.trace["energy"], (A * y**2 / 2 - b * y).sum(-1))
        residual = np.abs(y - np.clip(y - (A * y - b), 0, 1)).max(-1)
        np.testing.assert_allclose(found.trace["residual"], residual, atol=1e-14)
    np.testing.assert_allclose(solve(()).y, found.y, rtol=1e-12)
    assert solve(()).trace == {}


def test_the_trace_of_a_tree_is_a_tree():
    def energy(params, context, y):
        return jnp.sum(y["a"] ** 2) - y["b"] @ jnp.arange(3.0)

    start = {"a": jnp.full((4, 2), 0.5), "b": jnp.full((4, 3), 1 / 3)}
    domain = Product({"a": Box(), "b": Simplex()})
    found = minimize(energy, None, None, start, domain=domain, solver=HALF, steps=40, trace="y")
    assert found.trace["y"]["a"].shape == (4, 41, 2) and found.trace["y"]["b"].shape == (4, 41, 3)
    np.testing.assert_allclose(found.y["a"], 0, atol=1e-6)
    np.testing.assert_allclose(found.y["b"], np.tile([0, 0, 1], (4, 1)), atol=1e-6)


@pytest.mark.parametrize("stop_early", [False, True])
def test_progress_tells_the_step_and_the_total_on_stderr(stop_early, capsys):
    def solve(progress):
        found = minimize(
            parabola,
            {"a": A},
            B,
            centre(3),
            steps=40,
            stop_early=stop_early,
            tolerance=1e-12,
            progress=progress,
        )
        jax.block_until_ready(found)
        jax.effects_barrier()
        return capsys.readouterr()

    told = solve(True)
    assert told.out == "" and told.err.endswith("\n") and told.err.count("\n") == 1
    lines = told.err.strip().split("\r")
    assert 2 < len(lines) <= 22 and all("examples 1 to 3" in line for line in lines if line)
    assert "[####################] step 40 of 40" in lines[-1]
    assert solve(False) == ("", "")


# The best of several starts


@pytest.mark.slow
def test_the_best_of_many_is_the_lowest_that_did_not_fail(x64):
    """-(y - 1/2)^2 on the box falls to both ends, a tilt makes one lower; below the trap it is no number."""

    def energy(params, context, y):
        value = -((y[0] - 0.5) ** 2) - context["tilt"] * y[0]
        return value + 0 * jnp.log(y[0] - context["trap"])

    context = {"tilt": np.array([-0.1, -0.1, 0.1]), "trap": np.array([-1.0, 0.2, 0.2])}
    starts = jnp.tile(jnp.array([[0.4], [0.6], [0.7]]), (3, 1, 1))
    found = minimize_best(energy, None, context, starts, solver=HALF, steps=60, trace="energy")
    np.testing.assert_allclose(found.y[:, 0], [0, 1, 1], atol=1e-9)
    np.testing.assert_allclose(found.energy, [-0.25, -0.15, -0.35])
    assert found.converged.all() and found.trace["energy"].shape == (3, 61)
    hopeless = {"tilt": np.zeros(1), "trap": np.array([2.0])}
    assert minimize_best(energy, None, hopeless, starts[:1], solver=HALF).failed.all()


@pytest.mark.parametrize("shape", [(3,), (3, 0, 3)])
def test_the_best_of_many_needs_an_axis_of_starts(shape):
    with pytest.raises(ValueError, match=r"shape \(B, S, ...\) with S starts .* got"):
        minimize_best(parabola, {"a": A}, B, jnp.zeros(shape))


@pytest.mark.long
@pytest.mark.slow
def test_products_have_the_precision_that_is_asked_for():
    def energy(params, context, y):
        return y @ (params @ y) + context @ y

    A = jnp.eye(3)

    def products(precision, **options):
        def solve(A, b):
            return minimize(energy, A, b, 0.5, shape=(3,), precision=precision, **options).y.sum()

        text = str(jax.make_jaxpr(solve)(A, jnp.ones((2, 3))))
        text += str(jax.make_jaxpr(jax.grad(solve))(A, jnp.ones((2, 3))))
        return text.count("BF16_BF16_F32")

    for options in ({}, {"differentiate": "unrolled"}, {"differentiate": "implicit"}):
        assert products(None, **options) == products("highest", **options) == 0
        rounded = products("BF16_BF16_F32", **options)
        with jax.default_matmul_precision("BF16_BF16_F32"):
            assert products(None, **options) >= rounded > 0
            assert products("highest", **options) < rounded
    with pytest.raises(ValueError, match="precision must be \"highest\", .*, got 'best'"):
        products("best")
    found = Predictor(energy, shape=(3,), precision="highest")(A, jnp.ones((2, 3)))
    assert found.y.shape == (2, 3)


# Under transformations


def test_equal_settings_compile_once():
    energy, traces = counting(parabola)

    def solve(scale, step_size):
        solver = GradientDescent(step_size, momentum=0.5)
        minimize(energy, {"a": scale * A}, scale * B, centre(3), solver=solver, domain=Box())

    solve(1.0, 0.2)
    once = len(traces)
    solve(2.0, 0.2)
    assert len(traces) == once > 0
    solve(2.0, 0.3)
    assert len(traces) > once


def test_minimize_works_inside_jit_and_vmap():
    def solve(a, b):
        return minimize(parabola, {"a": a}, b, centre(3), solver=HALF, steps=9)

    many = np.stack([A, 2 * A, 3 * A])
    mapped = jax.jit(jax.vmap(solve, (0, None)))(many, B)
    assert mapped.y.shape == (3, 3, 3) and mapped.converged.shape == (3, 3)
    for i, a in enumerate(many):
        assert_trees_close(jax.tree.map(lambda v, i=i: v[i], mapped), solve(a, B), rtol=1e-5)


def test_contexts_may_be_any_pytree():
    class Context(NamedTuple):
        b: tuple
        nothing: None = None

    def energy(params, context, y):
        (first, rest), shift = context["c"].b, context["shift"]
        return parabola(params["deep"][0], jnp.concatenate([first, rest]), y) + shift

    context = {"c": Context((B[:, :1], B[:, 1:])), "shift": np.array([0.0, 1.0, 2.0])}
    found = minimize(energy, {"deep": [{"a": A}]}, context, centre(3), solver=HALF, steps=9)
    plain = minimize(parabola, {"a": A}, B, centre(3), solver=HALF, steps=9)
    np.testing.assert_allclose(found.y, plain.y, rtol=1e-6)
    np.testing.assert_allclose(found.energy, plain.energy + context["shift"], rtol=1e-6)


# Errors


def vector(params, context, y):
    return y


def pair(params, context, y):
    return jnp.sum(y), y


@pytest.mark.parametrize(
    "change, message",
    [
        (
            {"differentiate": "through"},
            "one of 'stopped', 'unrolled', 'implicit', .* got 'through'",
        ),
        ({"steps": -1}, "steps must be .*0 or more, got -1"),
        ({"steps": 2.5}, "steps must be a whole number.* got 2.5"),
        ({"start": np.zeros((3, 3), int)}, r"float array .* got shape \(3, 3\) of int32"),
        ({"start": 0.5}, r"a number, .* needs the shape .* shape=\(L,\)"),
        ({"context": {"b": [B[:2]]}}, r"axis of 3 .* context\['b'\]\[0\] has shape \(2, 3\)"),
        ({"context": {"b": 1.0}}, r"context\['b'\] has shape \(\); .* belongs in params"),
        ({"trace": True}, "trace knows 'y', .* got True"),
        ({"tolerance": float("nan")}, "tolerance must be a number, 0 or more, got nan"),
        ({"temperature": -1.0}, "temperature must be 0 or more"),
        ({"settings": 0.1}, "settings must be a dict"),
        ({"start": None}, "the domain's middle, needs the shape"),
        ({"start": {}}, "start must hold an array"),
        ({"known": B > 0}, r"known must be a pair \(mask, y\)"),
        ({"known": (B > 0, B[:2])}, r"the y of known must have the shape .*\(3, 3\), got \(2, 3\)"),
        ({"known": (B[:, 0] > 0, B)}, r"an entry for each part of y, shape \(3, 3\), got \(3,\)"),
        ({"energy": vector}, r"scalar for one example, got .*\(3,\).* y of shape \(3,\)"),
        ({"energy": pair}, r"scalar for one example, got \(Shape"),
        ({"solver": "adam"}, "solver must be one of spen_jax.inference.* got 'adam'"),
        ({"domain": None}, "domain must be one of spen_jax.domains.* got None"),
        ({"domain": Simplex}, "domain must be one of spen_jax.domains.* got <class"),
        ({"trace": "x"}, "trace knows 'y', 'energy', 'residual', got 'x'"),
        ({"trace": ["y", "z"]}, "got 'z'"),
        ({"differentiate": "unrolled", "stop_early": True}, "stop_early .* no reverse mode"),
        ({"temperature": np.ones(30), "stop_early": True}, "temperature for each step needs all"),
        (
            {"solver": FrankWolfe(), "differentiate": "unrolled"},
            "no steps that a derivative could follow",
        ),
        ({"start": np.full((3, 3), 0.5)}, "float64, but JAX's 64-bit mode is off"),
        ({"settings": {"step_size": np.ones(7)}}, r"step_size must be .* of 30 steps, .*\(7,\)"),
        ({"temperature": np.ones((30, 1))}, r"temperature must be one number.*\(30, 1\)"),
        ({"start": {"a": centre(3), "b": centre(2)}}, "same leading axis of examples, got"),
        ({"start": {"a": centre(3)}}, "one array for each example, got the tree"),
    ],
)
def test_errors_say_what_was_expected_and_what_came(change, message):
    arguments = {"energy": parabola, "params": {"a": A}, "context": B, "start": centre(3)}
    with pytest.raises(ValueError, match=message):
        minimize(**(arguments | change))


def test_an_option_that_there_is_not_is_named_with_those_there_are():
    with pytest.raises(TypeError, match="no option step; its options are domain, solver, steps"):
        minimize(parabola, {"a": A}, B, centre(3), step=3)


def test_an_array_where_a_number_must_be_fixed_is_told_where_it_goes():
    with pytest.raises(TypeError, match="unhashable") as raised:
        minimize(parabola, {"a": A}, B, centre(3), tolerance=jnp.ones(()))
    assert any("arrays go to `settings`" in note for note in raised.value.__notes__)


def test_an_error_within_the_energy_names_the_shapes_of_one_example():
    with pytest.raises(ValueError, match=r"a context of shape \(2,\) and y of shape \(3,\)"):
        minimize(parabola, {"a": A}, B[:, :2], centre(3))


def test_a_solver_that_was_not_made_is_refused():
    with pytest.raises(ValueError, match="solver must be"):
        minimize(parabola, {"a": A}, B, centre(3), solver=GradientDescent)


def test_a_context_that_does_not_fit_the_starts_is_named_as_it_came():
    with pytest.raises(ValueError, match=r"axis of 2 .* has shape \(3, 3\)"):
        minimize_best(parabola, {"a": A}, B, jnp.zeros((2, 4, 3)))


@pytest.mark.parametrize("options", [{"stop_early": True}, {"progress": True}], ids=str)
def test_an_empty_batch_has_an_empty_answer(options):
    found = minimize(parabola, {"a": A}, B[:0], centre(0), **options)
    assert found.y.shape == (0, 3)


def test_energy_and_residual_that_come_when_asked_for_are_those_of_one_program():
    def energy(params, context, y):
        return jnp.sum(params * (y - context) ** 2) + jnp.sum(jnp.exp(y))

    context = jnp.asarray(np.random.default_rng(0).uniform(-1, 2, (70, 3)), jnp.float32)
    mask = jnp.zeros((70, 3), bool).at[:, 0].set(True)
    options = {"known": (mask, jnp.full((70, 3), 0.25)), "temperature": 0.1, "steps": 7}

    def solve(context):
        return minimize(energy, jnp.float32(2), context, 0.5, shape=(3,), **options)

    later, at_once = solve(context), jax.jit(solve)(context)
    chex.assert_trees_all_close(later, at_once, rtol=1e-6, atol=1e-6)
    assert later.steps.tolist() == [7] * 70 and not later.failed.any()
    with pytest.raises(AttributeError, match="a Solution has no 'enrgy'"):
        _ = later.enrgy


def test_an_array_of_numpy_that_changes_afterwards_changes_no_energy():
    def energy(params, context, y):
        return jnp.sum((y - context) ** 2)

    context = np.full((4, 3), 2.0, np.float32)
    found = minimize(energy, None, context, 0.5, shape=(3,))
    context[:] = 0
    np.testing.assert_allclose(found.energy, 3.0, rtol=1e-6)

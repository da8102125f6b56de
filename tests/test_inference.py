from typing import NamedTuple

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
    random_batch,
    small_spen,
)

from spen_jax.domains import Box, L2Ball, Product, Simplex
from spen_jax.inference import (
    Implicit,
    Unrolled,
    implied_logits,
    interactions,
    loss_augmented,
    minimize,
    minimize_best,
)
from spen_jax.losses import hamming, squared_error
from spen_jax.solvers import FrankWolfe, GradientDescent, MirrorDescent

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


# Derivatives


def test_stopped_energy_has_the_gradient_of_the_minimum(x64):
    scores = np.array([[-2.0, 0.3, 1.0], [0.0, -0.7, 3.0]])

    def minimum(scores):
        return minimize(
            entropic, None, scores, centre(2), solver=MirrorDescent(), steps=80
        ).energy.sum()

    # min_y -s.y - H(y) = -sum_i log(1 + exp(s_i)), whose derivative is -sigmoid(s_i)
    np.testing.assert_allclose(minimum(scores), -np.log1p(np.exp(scores)).sum())
    np.testing.assert_allclose(jax.grad(minimum)(scores), -1 / (1 + np.exp(-scores)))


def test_stopped_energy_has_the_gradient_of_the_minimum_on_active_bounds(x64):
    def minimum(params, b):
        return minimize(parabola, params, b, centre(3), solver=HALF, steps=200).energy.sum()

    best = np.clip(B / A, 0, 1)
    by_params, by_context = jax.grad(minimum, (0, 1))({"a": A}, B)
    np.testing.assert_allclose(by_params["a"], (best**2 / 2).sum(0))
    np.testing.assert_allclose(by_context, -best, atol=1e-12)


def test_stopped_points_and_residuals_are_constants():
    def everything_but_the_energy(params, b, start):
        found = minimize(parabola, params, b, start, solver=HALF, steps=3, trace="y")
        return found.y.sum() + found.trace["y"].sum() + found.residual.sum()

    gradients = jax.grad(everything_but_the_energy, (0, 1, 2))({"a": A}, B, centre(3))
    assert all(np.all(np.asarray(g) == 0) for g in jax.tree.leaves(gradients))


@pytest.mark.parametrize("batch, momentum", [(2, 0.6), (129, 0.0)])
def test_unrolled_points_have_the_hand_derived_gradient(batch, momentum, x64):
    """With E = a y^2 / 2 - b y the error y - b / a is multiplied by a matrix in each step.

    e_{t+1} = (1 + m - eta a) e_t - m e_{t-1}, so that y_T = b / a + g (y_0 - b / a), where g is
    the sum of the first row of the T-th power of [[1 + m - eta a, -m], [1, 0]].
    """
    eta, steps, a, b = 0.1, 7, np.array([1.5, 2.0]), np.array([0.6, 1.1])

    def factor(a):
        one = np.array([[1 + momentum - eta * a, -momentum], [1.0, 0.0]])
        return np.linalg.matrix_power(one, steps)[0].sum()

    g = np.array([factor(v) for v in a])
    dg = np.array([factor(v + 1e-6) - factor(v - 1e-6) for v in a]) / 2e-6
    start = 0.2

    def solve(params, context, start):
        return minimize(
            parabola,
            params,
            context,
            start,
            solver=GradientDescent(eta, momentum),
            steps=steps,
            differentiate="unrolled",
        )

    arguments = {"a": a}, np.tile(b, (batch, 1)), jnp.full((batch, 2), start)
    np.testing.assert_allclose(solve(*arguments).y[0], b / a + g * (start - b / a))
    by_a, by_b, by_start = jax.grad(lambda *args: solve(*args).y.sum(), (0, 1, 2))(*arguments)
    one = -b / a**2 * (1 - g) + (start - b / a) * dg
    np.testing.assert_allclose(by_a["a"], batch * one, rtol=1e-7)
    np.testing.assert_allclose(by_b, np.tile((1 - g) / a, (batch, 1)))
    np.testing.assert_allclose(by_start, np.tile(g, (batch, 1)))


def test_what_fills_the_last_block_leaves_the_gradient_of_the_rest_alone():
    """129 examples take two blocks of more than 129; none of the filling may divide 0 by 0."""

    def energy(params, context, y):
        return parabola(params, context["b"], y) / context["width"]

    context = {"b": np.tile(B[:1], (129, 1)), "width": np.linspace(1, 2, 129)}

    def last(params):
        return minimize(
            energy,
            params,
            context,
            centre(129),
            solver=GradientDescent(0.1, momentum=0.0),
            steps=1,
            differentiate="unrolled",
        ).y

    # y_1 = 0.5 - 0.1 (a / 2 - b) / width, inside the box in all labels
    gradient = jax.grad(lambda params: last(params).sum())({"a": A})["a"]
    slope = -0.05 * np.sum(1 / context["width"])
    np.testing.assert_allclose(gradient, [slope, slope, slope], rtol=1e-5)


def test_unrolled_energy_is_differentiated_through_y_and_the_residual_never_is(x64):
    def solve(b):
        solver = GradientDescent(0.1, momentum=0.0)
        return minimize(
            parabola, {"a": A}, b, centre(3), solver=solver, steps=2, differentiate="unrolled"
        )

    b = np.array([[0.2, 0.9, 1.4], [0.5, 0.1, 2.2], [0.7, 0.4, 1.0]])
    y = b / A + (1 - 0.1 * A) ** 2 * (0.5 - b / A)
    through_y = (A * y - b) * (1 - (1 - 0.1 * A) ** 2) / A
    np.testing.assert_allclose(jax.grad(lambda b: solve(b).energy.sum())(b), -y + through_y)
    assert np.all(jax.grad(lambda b: solve(b).residual.sum())(b) == 0)


def test_unrolled_gradient_is_0_through_a_bound():
    def last(b):
        return minimize(
            parabola, {"a": A}, b, centre(3), solver=HALF, steps=30, differentiate="unrolled"
        ).y.sum()

    gradient = np.asarray(jax.grad(last)(B))
    assert np.all((gradient == 0) == ((B / A < 0) | (B / A > 1)))


def test_unrolled_mirror_descent_has_the_gradient_of_the_sigmoid_once_converged(x64):
    scores = np.array([[-2.0, 0.3, 1.0]])

    def last(scores):
        return minimize(
            entropic,
            None,
            scores,
            centre(1),
            solver=MirrorDescent(),
            steps=80,
            differentiate="unrolled",
        ).y.sum()

    y = 1 / (1 + np.exp(-scores))
    np.testing.assert_allclose(jax.grad(last)(scores), y * (1 - y))


# The implicit derivative


def test_the_implicit_gradient_of_a_spen_is_that_of_its_converged_unrolling(x64):
    features, energy, params = small_spen(entropy=1.0)
    params = {**params, "c2": np.abs(params["c2"])}
    x = random_batch(5).x

    def loss(params, mode):
        found = minimize(
            energy,
            params,
            features(params, x),
            centre(5, 4),
            solver=MirrorDescent(0.5),
            steps=300,
            differentiate=mode,
        )
        return jnp.sum((found.y - 0.3) ** 2) + found.energy.sum()

    implicit = jax.jit(jax.grad(lambda p: loss(p, Implicit(tolerance=1e-12))))(params)
    unrolled = jax.jit(jax.grad(lambda p: loss(p, "unrolled")))(params)
    assert_trees_close(implicit, unrolled, rtol=1e-6, atol=1e-9)


def scaled_parabola(params, context, y):
    return jnp.sum(context["a"] * y**2) / 2 - context["b"] @ y


def implicit_by_b(context, start, mode, weights=1.0):
    def total(b):
        found = minimize(
            scaled_parabola,
            None,
            {**context, "b": b},
            start,
            solver=HALF,
            steps=300,
            differentiate=mode,
        )
        return jnp.sum(weights * found.y)

    return np.asarray(jax.grad(total)(context["b"]))


def test_a_flat_direction_has_no_derivative_and_its_neighbours_have_theirs(x64):
    context = {"a": np.array([[2.0, 0], [2, 4]]), "b": np.array([[1.0, 0], [1, 2]])}
    got = implicit_by_b(context, centre(2, 2), Implicit(tolerance=1e-12))
    assert np.isnan(got[0]).all()
    np.testing.assert_allclose(got[1], [0.5, 0.25])
    damped = implicit_by_b(context, centre(2, 2), Implicit(tolerance=1e-12, damping=0.1))
    np.testing.assert_allclose(damped, 1 / (context["a"] + 0.1))


def test_of_a_segment_of_minima_only_what_they_share_has_a_derivative(x64):
    """(u.y - c)^2 / 2: all y with u.y = c are minima, so that u.y moves with c and no y_i is determined."""
    u = np.array([1.0, 2.0])

    def valley(params, context, y):
        return (u @ y - context) ** 2 / 2

    def move(weights):
        def total(c):
            found = minimize(
                valley,
                None,
                c,
                centre(1, 2),
                solver=HALF,
                steps=300,
                differentiate=Implicit(tolerance=1e-12),
            )
            return jnp.sum(found.y @ weights)

        return jax.grad(total)(np.array([1.2]))

    np.testing.assert_allclose(move(u), 1)
    assert np.isnan(move(np.array([1.0, 0.0]))).all()


def test_with_all_bounds_active_the_implicit_derivative_is_exactly_0(x64):
    context = {"a": np.ones((2, 2)), "b": np.array([[3.0, -2], [-1, -1]])}
    assert np.all(implicit_by_b(context, centre(2, 2), "implicit") == 0)


def test_implicitly_settings_and_start_have_gradient_0():
    def total(settings, start):
        return minimize(
            parabola, {"a": A}, B, start, settings=settings, steps=50, differentiate="implicit"
        ).y.sum()

    gradients = jax.grad(total, (0, 1))({"step_size": 0.2, "momentum": 0.5}, centre(3))
    assert all(np.all(np.asarray(g) == 0) for g in jax.tree.leaves(gradients))


def test_the_memory_of_a_gradient_does_not_grow_with_steps_or_with_their_root():
    a, b = jnp.asarray(positive_definite(20), jnp.float32), jnp.ones((64, 20))

    def memory(mode, steps):
        def total(a):
            found = minimize(coupled, {"A": a}, b, centre(64, 20), steps=steps, differentiate=mode)
            return found.y.sum()

        compiled = jax.jit(jax.grad(total)).lower(a).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert memory("implicit", 50) == memory("implicit", 500)
    plain = memory("unrolled", 32)
    assert memory("unrolled", 1000) < 3 * plain < 3 * memory(Unrolled(segment=1000), 1000) / 5


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
        ({"start": 0.5}, r"shape \(B, ...\), .* got shape \(\) of float32"),
        ({"context": {"b": [B[:2]]}}, r"axis of 3 .* context\['b'\]\[0\] has shape \(2, 3\)"),
        ({"context": {"b": 1.0}}, r"context\['b'\] has shape \(\); .* belongs in params"),
        ({"trace": True}, "trace knows 'y', .* got True"),
        ({"tolerance": float("nan")}, "tolerance must be 0 or more, got nan"),
        ({"temperature": -1.0}, "temperature must be 0 or more"),
        ({"settings": 0.1}, "settings must be a dict"),
        ({"start": None}, "start must hold an array"),
        ({"energy": vector}, r"scalar for one example, got .*\(3,\).* y of shape \(3,\)"),
        ({"energy": pair}, r"scalar for one example, got \(Shape"),
        ({"solver": "adam"}, "solver must be one of spen_jax.solvers.* got 'adam'"),
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


def test_an_error_within_the_energy_names_the_shapes_of_one_example():
    with pytest.raises(TypeError) as raised:
        minimize(parabola, {"a": A}, B[:, :2], centre(3))
    assert any("context and y of shapes ((2,), (3,))" in note for note in raised.value.__notes__)


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


# What rounding and infinity must not do to an implicit derivative


@pytest.mark.parametrize("domain", [Box(), Simplex()], ids=str)
def test_the_implicit_derivative_survives_saturated_labels_in_float32(domain):
    """Cross-entropy of a confidently wrong label has slope 1 (all but e^-z) in its score."""
    z = np.linspace(5, 15, 101, dtype=np.float32)
    scores = jnp.stack([z, np.zeros_like(z)], axis=1)

    def loss(scores):
        found = minimize(
            linear_in_y,
            None,
            scores,
            jnp.full(scores.shape, 0.5),
            domain=domain,
            solver=MirrorDescent(0.5),
            steps=80,
            temperature=1.0,
            differentiate="implicit",
        )
        wrong = 1 - found.y[:, 0] if isinstance(domain, Box) else found.y[:, 1]
        return -jnp.sum(jnp.log(wrong))

    np.testing.assert_allclose(jax.grad(loss)(scores)[:, 0], 1, atol=0.05)


def linear_in_y(params, scores, y):
    return -scores @ y


def test_an_infinite_curvature_at_an_active_bound_leaves_the_answer_alone():
    def steep(p, context, y):
        return jnp.sum(y**1.5) + p * jnp.sum(y * context)

    def solve(p):
        return minimize(
            steep,
            p,
            jnp.ones((2, 2)),
            jnp.full((2, 2), 0.5),
            solver=GradientDescent(0.1, 0.0),
            steps=200,
            differentiate="implicit",
        ).y

    np.testing.assert_array_equal(solve(0.1), 0)
    np.testing.assert_array_equal(jax.jacobian(solve)(0.1), 0)


def test_damping_is_that_of_the_proximal_step_on_an_active_ball(x64):
    a, b, damping = np.diag([1.0, 3.0]), np.array([[2.0, 1.0]]), 0.7

    def solve(b, extra=0.0, around=0.0, mode="stopped"):
        def energy(params, b, y):
            return coupled({"A": a}, b, y) + extra / 2 * jnp.sum((y - around) ** 2)

        solver = GradientDescent(0.2, 0.0)
        start = jnp.zeros((1, 2))
        options = {"domain": L2Ball(0.5), "steps": 600, "differentiate": mode}
        return minimize(energy, None, b, start, solver=solver, **options).y[0]

    answer = solve(b)
    got = jax.jacobian(lambda b: solve(b, mode=Implicit(tolerance=1e-12, damping=damping)))(b)
    for i in range(2):
        move = 1e-5 * np.eye(2)[[i]]
        up, down = (solve(b + sign * move, damping, answer) for sign in (1, -1))
        np.testing.assert_allclose(got[:, 0, i], (up - down) / 2e-5, rtol=1e-4, atol=1e-6)


# Functions of an energy


@pytest.mark.parametrize("cost", [squared_error, hamming])
def test_loss_augmented_energy_is_the_energy_minus_the_cost(cost):
    truth, y = np.float32([1, 0, 1]), np.float32([0.2, 0.7, 1.0])
    distance = {squared_error: 0.64 + 0.49, hamming: 0.8 + 0.7}[cost]
    augmented = loss_augmented(parabola, cost)
    params, b = {"a": jnp.asarray(A)}, jnp.asarray(B[0])
    want = (A * y**2 / 2 - B[0] * y).sum() - distance
    assert augmented(params, (b, truth), y) == pytest.approx(want, rel=1e-6)
    assert loss_augmented(parabola, cost) is augmented


def test_loss_augmented_inference_finds_the_most_offending_corner_by_enumeration():
    """A concave quadratic, so that the minimum over the box stands in one of its 8 corners."""
    rng = np.random.default_rng(3)
    b, truth = rng.normal(size=(6, 3)), (rng.random((6, 3)) < 0.5).astype(float)
    corners = np.stack(np.meshgrid(*[[0.0, 1.0]] * 3), axis=-1).reshape(-1, 3)
    values = -np.sum((corners - truth[:, None]) ** 2, axis=2) - b @ corners.T
    found = minimize(
        loss_augmented(parabola, squared_error),
        {"a": np.zeros(3)},
        (b, truth),
        centre(6),
        solver=GradientDescent(0.1, momentum=0.0),
        steps=200,
    )
    np.testing.assert_array_equal(found.y, corners[values.argmin(1)])
    np.testing.assert_allclose(found.energy, values.min(1), rtol=1e-5)


def pairwise(params, context, y):
    """A quadratic in y whose diagonal is 0, so that it is linear in each label given the others."""
    return y @ params @ y / 2 - context @ y


W = np.array([[0, 1, -2], [1, 0, 0.5], [-2, 0.5, 0]])


def test_implied_logits_are_the_energy_differences_of_the_gibbs_distribution():
    y = np.array([[0.2, 0.9, 0.4], [1.0, 0.0, 1.0]])

    def with_label(n, i, value):
        return pairwise(W, B[n], np.where(np.arange(3) == i, value, y[n]))

    want = [[with_label(n, i, 0) - with_label(n, i, 1) for i in range(3)] for n in range(2)]
    got = implied_logits(pairwise, W, B[:2], jnp.asarray(y))
    np.testing.assert_allclose(got, want, rtol=1e-5)


def test_interactions_are_the_energies_of_both_minus_those_of_each_in_the_mean():
    def energy(params, context, y):
        return context["scale"] * pairwise(params, context["b"], y)

    def both(n, i, j, off):
        def at(value_i, value_j):
            y = np.full(3, off)
            y[i], y[j] = value_i, value_j
            return energy(W, {"b": B[n], "scale": scale[n]}, y)

        return at(1, 1) - at(1, 0) - at(0, 1) + at(0, 0)

    scale = np.array([1.0, 2.0, 4.0])
    got = interactions(energy, W, {"b": B, "scale": scale}, centre(3))
    assert got.shape == (3, 3)
    for i, j in [(0, 1), (0, 2), (1, 2)]:
        want = np.mean([both(n, i, j, off=0.3) for n in range(3)])
        np.testing.assert_allclose([got[i, j], got[j, i]], want, rtol=1e-5)

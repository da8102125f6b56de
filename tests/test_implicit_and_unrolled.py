import jax
import jax.numpy as jnp
import numpy as np
import pytest
from problems import (
    assert_trees_close,
    coupled,
    entropic,
    parabola,
    positive_definite,
    random_batch,
    small_spen,
)

from spen_jax.domains import Box, L2Ball, Simplex
from spen_jax.inference import (
    GradientDescent,
    Implicit,
    MirrorDescent,
    Unrolled,
    minimize,
)

HALF = GradientDescent(step_size=0.2, momentum=0.5)
A = np.array([1.0, 2.0, 4.0])
# b / a: inside, above, below | below, inside, above | inside three times
B = np.array([[0.3, 5.0, -1.0], [-0.1, 0.5, 4.4], [0.9, 0.2, 2.0]])


def centre(batch, labels=3):
    return jnp.full((batch, labels), 0.5)


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


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.long
@pytest.mark.slow
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


# What rounding and infinity must not do to an implicit derivative


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
def test_damping_is_that_of_the_proximal_step_on_an_active_ball(x64):
    a, b, damping = np.diag([1.0, 3.0]), np.array([[2.0, 1.0]]), 0.7

    def energy(extra, context, y):
        b, around = context
        return coupled({"A": a}, b, y) + extra / 2 * jnp.sum((y - around) ** 2)

    def solve(b, extra=0.0, around=0.0, mode="stopped"):
        options = {"domain": L2Ball(0.5), "steps": 600, "differentiate": mode}
        context = b, jnp.broadcast_to(around, (1, 2))
        solver = GradientDescent(0.2, 0.0)
        return minimize(energy, extra, context, jnp.zeros((1, 2)), solver=solver, **options).y[0]

    answer = solve(b)
    got = jax.jacobian(lambda b: solve(b, mode=Implicit(tolerance=1e-12, damping=damping)))(b)
    for i in range(2):
        move = 1e-5 * np.eye(2)[[i]]
        up, down = (solve(b + sign * move, damping, answer) for sign in (1, -1))
        np.testing.assert_allclose(got[:, 0, i], (up - down) / 2e-5, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_near_the_corners_of_simplices_float32_is_enough_for_the_implicit_derivative():
    """There an entropy's curvatures 1 / y lie a million apart, and rounding is all that remains of the residual."""
    draw = np.random.default_rng(0).normal
    scores, pairs = np.float32(5 * draw(size=(8, 5, 4))), np.float32(0.5 * draw(size=(4, 4)))

    def energy(pairs, scores, y):
        return -jnp.sum(scores * y) - jnp.sum((y[:-1] @ pairs) * y[1:])

    def squares(pairs, mode):
        options = {"domain": Simplex(), "temperature": 1.0, "solver": MirrorDescent(0.5)}
        found = minimize(
            energy, pairs, scores, shape=(5, 4), steps=200, differentiate=mode, **options
        )
        return jnp.sum(found.y**2, (1, 2)), jnp.min(found.y)

    implicit, unrolled = (
        jax.jit(jax.jacrev(lambda p, how=how: squares(p, how)[0]))(pairs)
        for how in ("implicit", "unrolled")
    )
    assert squares(pairs, "stopped")[1] < 1e-5
    np.testing.assert_allclose(implicit, unrolled, atol=1e-3 * np.abs(unrolled).max())

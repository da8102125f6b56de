"""Every solver on every domain it suits, against answers from elsewhere; then what each does by the step."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree
from problems import (
    best_in_ball,
    best_on_faces,
    central_differences,
    parabola,
    positive_definite,
    quadratic,
)

from spen_jax.domains import Box, L2Ball, Product, Reals, Simplex
from spen_jax.inference import (
    FrankWolfe,
    GradientDescent,
    Implicit,
    LineSearch,
    MirrorDescent,
    OnLogits,
    Optax,
    Unrolled,
    minimize,
    minimize_best,
)

RNG = np.random.default_rng(0)
PLAIN = GradientDescent(0.2, momentum=0.0)
HEAVY = GradientDescent(0.2, momentum=0.5)
NESTEROV = GradientDescent(0.2, momentum=0.5, nesterov=True)
ADAM = optax.adam(optax.exponential_decay(0.2, 150, 0.5), eps_root=1e-16)
LBFGS = optax.lbfgs()
# name -> (solver, steps after which it has converged to 1e-8 on the problems below)
SOLVERS = {
    "descent": (PLAIN, 400),
    "heavy ball": (HEAVY, 300),
    "nesterov": (NESTEROV, 300),
    "mirror": (MirrorDescent(0.5), 800),
    "logits": (OnLogits(GradientDescent(0.3, momentum=0.5)), 800),
    "adam on logits": (OnLogits(Optax(ADAM)), 2000),
    "lbfgs on logits": (OnLogits(Optax(LBFGS)), 40),
    "line search": (LineSearch(), 150),
    "sgd": (Optax(optax.sgd(0.2)), 400),
    "adam": (Optax(ADAM), 2000),
    "lbfgs": (Optax(LBFGS), 40),
}


class Case(NamedTuple):
    """`answer(params, context)` of one example is (the numbers of argmin y, min E), by NumPy alone."""

    domain: Any
    energy: Callable
    params: Any
    context: np.ndarray
    shape: Any
    answer: Callable
    solvers: list[str]


@pytest.fixture
def as_users_compile():
    """With XLA's optimisations: without them rounding makes one implicit solve NaN (product-heavy_ball)."""
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", True)


def quadratic_case(domain, shape, solve, shift, solvers, size):
    def answer(params, b):
        y = solve(params["A"], b)
        return y, y @ params["A"] @ y / 2 - b @ y

    a = positive_definite(size)
    context = RNG.normal(size=(3, size)) + shift
    return Case(domain, quadratic, {"A": a}, context, shape, answer, solvers)


def entropic_case(domain, shape, answer, solvers):
    """-s.y - H(y) with s = params * context, H the domain's entropy."""
    size = int(np.prod(shape))

    def energy(params, context, y):
        return -(params * context) @ y.ravel() - domain.entropy(y)

    context = RNG.uniform(-2, 2, size=(3, size))
    return Case(
        domain,
        energy,
        RNG.uniform(0.5, 1, size),
        context,
        shape,
        lambda p, c: answer(p * c),
        solvers,
    )


def sigmoid_answer(domain):
    width = domain.upper - domain.lower
    return lambda s: (
        domain.lower + width / (1 + np.exp(-s)),
        -domain.lower * s.sum() - width * np.log1p(np.exp(s)).sum(),
    )


def softmax_answer(shape):
    def answer(s):
        e = np.exp(s.reshape(shape))
        total = e.sum(-1, keepdims=True)
        return (e / total).ravel(), -np.log(total).sum()

    return answer


def separable_answer(params, b):
    y = np.clip(b / params["a"], 0, 1)
    return y, (params["a"] * y**2 / 2 - b * y).sum()


def faces(lower, upper, sums=()):
    return lambda a, b: best_on_faces(a, b, lower, upper, sums)


A = np.array([1.0, 2.0, 4.0])
# b / a: inside, above, below | below, inside, above | inside three times
B = np.array([[0.3, 5.0, -1.0], [-0.1, 0.5, 4.4], [0.9, 0.2, 2.0]])
FIRST = ["descent", "heavy ball", "nesterov", "line search"]
ROWS = np.kron(np.eye(2), np.ones(3))
CASES = {
    "separable on the box": Case(
        Box(), parabola, {"a": A}, B, (3,), separable_answer, [*FIRST, "mirror", "sgd", "adam"]
    ),
    "coupled on a box": quadratic_case(
        Box(-1, 2), (3,), faces(-1, 2), 1.0, ["heavy ball", "mirror", "adam"], 3
    ),
    "reals": quadratic_case(
        Reals(),
        (3,),
        lambda a, b: np.linalg.solve((a + a.T) / 2, b),
        0.0,
        ["descent", "line search", "adam", "lbfgs"],
        3,
    ),
    "ball": quadratic_case(
        L2Ball(0.7),
        (3,),
        lambda a, b: best_in_ball(a, b, 0.7),
        0.0,
        ["nesterov", "line search", "sgd"],
        3,
    ),
    "simplex": quadratic_case(
        Simplex(), (4,), faces(0, np.inf, np.ones(4)), 0.0, ["heavy ball", "mirror"], 4
    ),
    "rows of simplices": quadratic_case(
        Simplex(), (2, 3), faces(0, np.inf, ROWS), 0.0, ["mirror", "line search"], 6
    ),
    "product": quadratic_case(
        Product({"a": Box(), "b": Simplex()}),
        {"a": (2,), "b": (2,)},
        faces(0, 1, [0, 0, 1, 1]),
        0.3,
        ["heavy ball", "mirror"],
        4,
    ),
    "sigmoid": entropic_case(
        Box(), (3,), sigmoid_answer(Box()), ["mirror", "logits", "adam on logits"]
    ),
    "wide sigmoid": entropic_case(Box(-1, 3), (3,), sigmoid_answer(Box(-1, 3)), ["mirror"]),
    "softmax": entropic_case(
        Simplex(), (4,), softmax_answer((4,)), ["mirror", "logits", "lbfgs on logits"]
    ),
    "rows of softmax": entropic_case(
        Simplex(), (2, 3), softmax_answer((2, 3)), ["mirror", "adam on logits"]
    ),
}
PAIRS = [(case, solver) for case, row in CASES.items() for solver in row.solvers]
WEIGHTS = RNG.normal(size=(3, 6))
SCALES = np.array([1.0, 1.2])


def starts(case, seed=0, batch=3):
    """Random points of the domain, (B, ...)."""
    keys = jax.random.split(jax.random.key(seed), batch)
    return jax.vmap(lambda key: case.domain.random(key, case.shape))(keys)


def solved(case, **options):
    """The solution of the case's examples from random points of its domain."""
    points = starts(case)
    return minimize(case.energy, case.params, case.context, points, domain=case.domain, **options)


@cache
def truth(name, scale):
    """(y, E, dy, dE) of each example by NumPy, the derivatives along (params, context), at scale * params."""
    case = CASES[name]
    flat, unravel = (np.asarray(scale * ravel_pytree(case.params)[0]), ravel_pytree(case.params)[1])

    def both(v):
        params = jax.tree.map(np.asarray, unravel(v[: flat.size]))
        return np.append(*case.answer(params, v[flat.size :]))

    points = [np.append(flat, c) for c in case.context]
    values = np.stack([both(v) for v in points])
    moves = 1e-6 * np.eye(points[0].size)
    by = np.stack([[(both(v + m) - both(v - m)) / 2e-6 for m in moves] for v in points])
    return values[:, :-1], values[:, -1], by[..., :-1], by[..., -1]


def check(name, solver, steps, differentiate, mapped=True, atol=1e-6):
    """Answer, energy and derivatives against NumPy under jit; `mapped` over two settings of the parameters."""
    case = CASES[name]
    start = starts(case)
    size = case.context.shape[1]
    weights, more = WEIGHTS[:, :size], WEIGHTS[:, -1]

    def loss(params, context):
        found = minimize(
            case.energy,
            params,
            context,
            start,
            domain=case.domain,
            solver=solver,
            steps=steps,
            differentiate=differentiate,
        )
        y = jax.vmap(lambda y: ravel_pytree(y)[0])(found.y)
        return jnp.sum(weights * y) + more @ found.energy, (y, found)

    gradient, scales = jax.grad(loss, (0, 1), has_aux=True), SCALES if mapped else SCALES[:1]
    if mapped:
        many = jax.tree.map(lambda a: np.stack([s * a for s in scales]), case.params)
        out = jax.jit(jax.vmap(gradient, (0, None)))(many, case.context)
    else:
        out = jax.tree.map(lambda a: a[None], jax.jit(gradient)(case.params, case.context))
    (by_params, by_context), (ys, found) = out
    by_params, by_context, ys, found = jax.tree.map(np.asarray, (by_params, by_context, ys, found))
    for i, scale in enumerate(scales):
        y, energy, by_y, by_energy = truth(name, scale)
        np.testing.assert_allclose(ys[i], y, atol=atol)
        np.testing.assert_allclose(found.energy[i], energy, atol=atol)
        # A stopped y is a constant; the derivative of its energy is that of the minimum.
        moves = weights if differentiate != "stopped" else 0 * weights
        by = np.einsum("bvy,by->bv", by_y, moves) + more[:, None] * by_energy
        got = np.concatenate([a[i].ravel() for a in jax.tree.leaves(by_params)])
        np.testing.assert_allclose(got, by.sum(0)[:-size], atol=5 * atol)
        np.testing.assert_allclose(by_context[i], by[:, -size:], atol=5 * atol)
    return found


def names(value):
    return value.replace(" ", "_")


IMPLICIT = [
    (case, row.solvers[0])
    for case, row in CASES.items()
    if case not in ("simplex", "wide sigmoid", "rows of softmax")
]
IMPLICIT += [("separable on the box", "line search")]
UNROLLED = [
    ("reals", "descent"),
    ("ball", "nesterov"),
    ("rows of simplices", "mirror"),
    ("sigmoid", "adam on logits"),
    ("coupled on a box", "adam"),
]
STOPPED = [("product", "heavy ball"), ("separable on the box", "mirror")]


# Those whose derivatives are tested are tested with them.
# What takes seconds to compile and differs from others by little.
SLOW = [
    ("rows of simplices", "line search"),
    ("product", "mirror"),
    ("ball", "line search"),
    ("softmax", "lbfgs on logits"),
    ("product", "heavy ball"),
    ("rows of simplices", "mirror"),
]


def slow_ones(pairs):
    """The pairs as parameters, those of SLOW marked."""
    return [pytest.param(*p, marks=[pytest.mark.slow] * (p in SLOW)) for p in sorted(pairs)]


@pytest.mark.parametrize("case, solver", slow_ones({*PAIRS} - {*IMPLICIT, *UNROLLED}), ids=names)
def test_the_answer_is_that_of_the_problem(case, solver, x64):
    solver, steps = SOLVERS[solver]
    found = solved(CASES[case], solver=solver, steps=steps)
    y, energy, *_ = truth(case, 1.0)
    rows = [np.concatenate([np.ravel(a[i]) for a in jax.tree.leaves(found.y)]) for i in range(3)]
    np.testing.assert_allclose(rows, y, atol=1e-6)
    np.testing.assert_allclose(found.energy, energy, atol=1e-6)
    assert np.max(found.residual) < 1e-5


@pytest.mark.parametrize("case, solver", STOPPED, ids=names)
def test_the_derivative_of_a_stopped_energy_is_that_of_the_minimum(case, solver, x64):
    check(case, *SOLVERS[solver], "stopped", mapped=False)


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.parametrize("case, solver", slow_ones(IMPLICIT), ids=names)
def test_the_implicit_derivative_is_that_of_the_problem_whatever_the_solver(
    case, solver, x64, as_users_compile
):
    mapped = case in ("coupled on a box", "softmax")
    found = check(case, *SOLVERS[solver], Implicit(tolerance=1e-12), mapped)
    assert np.max(found.residual) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("case, solver", UNROLLED, ids=names)
def test_unrolled_until_it_has_converged_the_derivative_is_that_of_the_problem(case, solver, x64):
    found = check(case, *SOLVERS[solver], "unrolled", mapped=False)
    assert np.max(found.residual) < 1e-5


def test_line_search_reaches_the_minimum_to_rounding(x64):
    case = CASES["reals"]
    found = solved(
        case,
        solver=LineSearch(),
        steps=400,
    )
    assert found.residual.max() < 1e-12


@pytest.mark.parametrize("name", ["ball", "product", "softmax"])
def test_line_search_never_lets_the_energy_grow(name, x64):
    case = CASES[name]
    found = solved(
        case,
        solver=LineSearch(50.0),
        steps=30,
        trace="energy",
    )
    energies = np.asarray(found.trace["energy"])
    assert np.all(np.diff(energies) <= 1e-14) and np.all(energies[:, 5] < energies[:, 0])


# Frank-Wolfe: too slow for the table


def corners_of(case):
    """Enough corners to find the largest (s - u).A (s - u)."""
    match case.domain:
        case Box(lower, upper):
            return np.stack(np.meshgrid(*[[lower, upper]] * 3), -1).reshape(-1, 3)
        case Simplex():
            return np.eye(case.shape[-1])
    circle = np.random.default_rng(0).normal(size=(2000, 3))
    return 0.7 * circle / np.linalg.norm(circle, axis=1, keepdims=True)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["coupled on a box", "simplex", "ball"])
def test_frank_wolfe_keeps_its_bound(name, x64):
    case, steps = CASES[name], 60
    found = solved(
        case,
        solver=FrankWolfe(),
        steps=steps,
        trace=["energy", "y"],
    )
    best = truth(name, 1.0)[1]
    corners = corners_of(case)
    across = corners[:, None] - corners
    curvature = np.einsum("abi,ij,abj->ab", across, case.params["A"], across).max()
    gap = np.asarray(found.trace["energy"]) - best[:, None]
    t = np.arange(1, steps + 1)
    assert np.all(gap >= -1e-12) and np.all(gap[:, 1:] <= 2 * 1.01 * curvature / (t + 2))
    inside = jax.vmap(jax.vmap(case.domain.project))(found.trace["y"])
    np.testing.assert_allclose(inside, found.trace["y"], atol=1e-12)


def test_the_first_step_of_frank_wolfe_is_a_corner_of_each_part(x64):
    case = CASES["product"]
    found = solved(
        case,
        solver=FrankWolfe(),
        steps=1,
    )
    jax.tree.map(np.testing.assert_array_equal, found.y, case.domain.round(found.y))


@pytest.mark.slow
def test_frank_wolfe_has_the_implicit_derivative_of_the_problem(x64):
    check("separable on the box", FrankWolfe(), 4000, Implicit(tolerance=1e-12), atol=2e-3)


# Several minima


def two_wells(params, context, y):
    """(y^2 - 1)^2 + tilt y: minima near -1 and 1, at roots of a cubic."""
    return jnp.sum((y**2 - 1) ** 2 + context * y)


def wells(tilt):
    """The left and the right minimum."""
    roots = np.sort(np.roots([4, 0, -4, tilt]).real)
    return roots[0], roots[2]


@pytest.mark.slow
def test_one_start_finds_the_well_of_its_basin_and_the_best_of_many_the_global_one(x64):
    tilts = np.array([0.3, -0.3])
    left, right = np.array([wells(t) for t in tilts]).T
    options = {"domain": Box(-2, 2), "solver": GradientDescent(0.05, momentum=0.3), "steps": 200}
    for start, want in [(-0.5, left), (0.5, right)]:
        found = minimize(two_wells, None, tilts, jnp.full(2, start), **options)
        np.testing.assert_allclose(found.y, want, atol=1e-9)
    many = jnp.tile(jnp.array([0.5, 1.5, -0.3]), (2, 1))
    found = minimize_best(two_wells, None, tilts, many, **options)
    np.testing.assert_allclose(found.y, [left[0], right[1]], atol=1e-9)
    assert found.energy.shape == found.residual.shape == found.steps.shape == (2,)


@pytest.mark.slow
def test_the_derivative_of_the_best_is_that_of_the_chosen_well(x64):
    def best(tilt):
        many = jnp.tile(jnp.array([0.5, -0.3]), (2, 1))
        return minimize_best(
            two_wells,
            None,
            tilt,
            many,
            domain=Box(-2, 2),
            solver=GradientDescent(0.05, momentum=0.3),
            steps=200,
            differentiate=Implicit(tolerance=1e-12),
        ).y

    tilts = np.array([0.3, -0.3])
    y = np.array([wells(0.3)[0], wells(-0.3)[1]])
    # 12 y^2 - 4 is the second derivative, 1 the mixed one.
    np.testing.assert_allclose(jax.grad(lambda t: best(t).sum())(tilts), -1 / (12 * y**2 - 4))


# Traps


def trapped(params, context, y):
    """Falls by 1 for each 1 that y falls, and is not a number below the trap."""
    return jnp.sum(y + 0 * jnp.log(y - context))


@pytest.mark.parametrize(
    "batch",
    [
        3,
        70,
    ],
)
def test_an_example_that_fails_stops_at_its_best_finite_point_beside_untouched_neighbours(
    batch, x64
):
    def solve(trap):
        return minimize(
            trapped,
            None,
            np.where(np.arange(batch) == 1, trap, -1.0),
            jnp.full((batch,), 0.9),
            solver=GradientDescent(0.1, momentum=0.0),
            steps=30,
            stop_early=True,
            trace="y",
        )

    found, clean = solve(0.35), solve(-1.0)
    assert np.flatnonzero(found.failed).tolist() == [1] and not clean.failed.any()
    np.testing.assert_allclose([found.y[1], found.energy[1]], 0.4)
    assert np.isnan(found.residual[1]) and not found.converged[1]
    assert clean.converged.all() and np.all(clean.y == 0)
    without = jax.tree.map(lambda a: np.delete(a, 1, 0), (found, clean))
    jax.tree.map(np.testing.assert_array_equal, *without)


def test_an_energy_without_a_bottom_fails_and_keeps_a_finite_point(x64):
    def falling(params, context, y):
        return -jnp.sum(y**4)

    found = minimize(
        falling,
        None,
        None,
        jnp.ones((2, 1)),
        domain=Reals(),
        solver=PLAIN,
        steps=50,
        stop_early=True,
    )
    assert found.failed.all() and not found.converged.any()
    assert np.isfinite(found.y).all() and np.all(found.energy < -1)


@pytest.mark.parametrize(
    "solver", [MirrorDescent(), OnLogits(), LineSearch(), FrankWolfe(), Optax(ADAM)]
)
def test_no_solver_takes_a_failed_example_for_converged(solver):
    def energy(params, context, y):
        return jnp.sum(y**2) + context

    bad = np.array([np.nan, 0.0, np.inf])
    found = minimize(energy, None, bad, jnp.full((3, 2), 0.5), solver=solver, stop_early=True)
    assert found.failed.tolist() == [True, False, True]
    assert not found.converged[0] and not found.converged[2]


# Stopping early


@dataclass(frozen=True)
class Counted:
    """Another solver; `count` hears of every step of every example, a solver of its own as users write them."""

    solver: Any
    count: Callable

    def init(self, y, domain):
        return self.solver.init(y, domain)

    def step(self, energy, state, domain):
        jax.debug.callback(self.count)
        return self.solver.step(energy, state, domain)

    def y(self, state, domain):
        return self.solver.y(state, domain)


@pytest.mark.slow
def test_each_example_stops_by_itself_and_the_loop_with_the_slowest(x64):
    """With step 0.1 and a = 1 the residual |y - b| shrinks by 0.9 a step; starts at different distances."""
    calls = []
    far = np.array([0.0, 1e-3, 0.02, 0.4])
    found = minimize(
        parabola,
        {"a": np.ones(1)},
        np.full((4, 1), 0.5),
        0.5 + jnp.asarray(far)[:, None],
        solver=Counted(GradientDescent(0.1, momentum=0.0), lambda: calls.append(0)),
        steps=100,
        tolerance=2e-3,
        stop_early=True,
        trace=["y", "energy", "residual"],
    )
    jax.effects_barrier()
    least = np.maximum(0, np.ceil(np.log(2e-3 / np.maximum(far, 1e-9)) / np.log(0.9)))
    steps = np.asarray(found.steps)
    assert np.all(least <= steps) and np.all(steps < least + 4) and steps[0] == steps[1] == 0
    assert found.converged.all() and np.all(found.residual <= 2e-3)
    assert steps.max() <= len(calls) <= steps.max() + 4
    np.testing.assert_allclose(found.y[:, 0], 0.5 + far * 0.9**steps)
    rows = np.asarray(found.trace["y"])[..., 0]
    want = 0.5 + far[:, None] * 0.9 ** np.minimum(np.arange(101), steps[:, None])
    np.testing.assert_allclose(rows, want)
    np.testing.assert_array_equal(found.trace["residual"][:, -1], found.residual)
    np.testing.assert_array_equal(found.trace["energy"][:, -1], found.energy)


@pytest.mark.parametrize("name, solver", [("simplex", "mirror"), ("sigmoid", "adam on logits")])
def test_stopping_early_gives_the_point_of_a_run_of_so_many_steps(name, solver, x64):
    case, (solver, _) = CASES[name], SOLVERS[solver]

    def solve(stop_early):
        return solved(
            case,
            solver=solver,
            steps=400,
            tolerance=2e-3,
            stop_early=stop_early,
            trace="y",
        )

    early, full = (jax.tree.map(np.asarray, solve(stop)) for stop in (True, False))
    assert early.converged.all() and len(set(early.steps.tolist())) > 1 and early.steps.max() < 400
    for i, steps in enumerate(early.steps.tolist()):
        np.testing.assert_allclose(
            early.trace["y"][i, : steps + 1], full.trace["y"][i, : steps + 1]
        )
        np.testing.assert_array_equal(
            early.trace["y"][i, steps:], early.trace["y"][i, [steps] * (401 - steps)]
        )
        np.testing.assert_array_equal(early.y[i], early.trace["y"][i, -1])


@pytest.mark.slow
def test_stopped_early_the_derivatives_are_those_of_the_answer(x64):
    def solve(b, mode):
        return minimize(
            parabola,
            {"a": A},
            b,
            jnp.full((3, 3), 0.5),
            solver=HEAVY,
            steps=300,
            tolerance=1e-9,
            stop_early=True,
            differentiate=mode,
        )

    gradient = jax.grad(lambda b: solve(b, "implicit").y.sum())(B)
    np.testing.assert_allclose(gradient, ((B > 0) & (B / A < 1)) / A, atol=1e-6)
    gradient = jax.grad(lambda b: solve(b, "stopped").energy.sum())(B)
    np.testing.assert_allclose(gradient, -np.clip(B / A, 0, 1), atol=1e-8)


# Unrolled


INSIDE = np.array([[0.3, 0.9, 1.9], [0.5, 1.2, 1.0]])  # b / A within the box


def descended(params, b, mode="unrolled", solver=PLAIN, steps=10, settings=None, **options):
    start = jnp.full(b.shape, 0.4)
    return minimize(
        parabola,
        params,
        b,
        start,
        solver=solver,
        steps=steps,
        settings=settings,
        differentiate=mode,
        **options,
    )


@pytest.mark.parametrize("last", [1, 4, 10, 99])
def test_unrolled_for_the_last_steps_the_derivative_is_the_truncated_sum(last, x64):
    """y_{t+1} = (1 - eta a) y_t + eta b, so that dy/db = sum_{j<k} (1 - eta a)^j eta."""
    k = min(last, 10)
    by_a, by_b = jax.grad(lambda p, b: descended(p, b, Unrolled(last)).y.sum(), (0, 1))(
        {"a": A}, INSIDE
    )
    rate = 1 - 0.2 * A
    np.testing.assert_allclose(by_b, np.tile(sum(0.2 * rate**j for j in range(k)), (2, 1)))
    path = [INSIDE / A + rate**t * (0.4 - INSIDE / A) for t in range(10)]
    np.testing.assert_allclose(
        by_a["a"], sum(-0.2 * rate**j * path[9 - j] for j in range(k)).sum(0)
    )


@pytest.mark.slow
def test_segments_change_nothing_but_the_memory(x64):
    def solve(mode):
        def loss(params):
            found = descended(params, INSIDE, mode, NESTEROV, trace="y")
            return found.trace["y"].sum(), found.y

        return jax.grad(loss, has_aux=True)({"a": A})

    for plain, cut in [
        ("unrolled", Unrolled(segment=3)),
        (Unrolled(last=7), Unrolled(last=7, segment=2)),
    ]:
        jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-12), solve(cut), solve(plain))


# Settings and temperature


STEP_SIZES = 0.05 + 0.2 * np.random.default_rng(5).random(10)


@pytest.mark.slow
@pytest.mark.parametrize(
    "solver, settings",
    [
        (GradientDescent(), {"step_size": 0.15, "momentum": 0.4}),
        (NESTEROV, {"step_size": STEP_SIZES}),
        (MirrorDescent(), {"step_size": STEP_SIZES}),
        (OnLogits(HEAVY), {"step_size": 3 * STEP_SIZES, "momentum": 0.3}),
    ],
    ids=["heavy ball", "nesterov", "mirror", "logits"],
)
def test_settings_have_the_gradient_of_central_differences(solver, settings, x64):
    def loss(settings):
        found = descended({"a": A}, INSIDE, "unrolled", solver, settings=settings)
        return jnp.sum(found.y**2) + found.energy.sum()

    got = jax.jit(jax.grad(loss))(settings)
    want = central_differences(loss, jax.tree.map(jnp.asarray, settings))
    assert got.keys() == want.keys()
    for name in want:
        assert np.all(want[name] != 0)
        np.testing.assert_allclose(got[name], want[name], rtol=1e-5, atol=1e-9)


def numpy_loop(b, step_sizes, momenta, nesterov=False):
    """The projected heavy ball, or Nesterov's, on the parabola over [0, 1]."""
    path = [np.full(b.shape, 0.4)] * 2
    for step_size, momentum in zip(step_sizes, momenta, strict=True):
        ahead = path[-1] + momentum * (path[-1] - path[-2])
        gradient = A * (ahead if nesterov else path[-1]) - b
        path.append(np.clip(ahead - step_size * gradient, 0, 1))
    return np.stack(path[1:], 1)


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("momentum", [0.7, np.linspace(0, 0.9, 10)], ids=["one", "each"])
def test_settings_of_each_step_equal_a_numpy_loop(nesterov, momentum, x64):
    solver = GradientDescent(nesterov=nesterov)
    settings = {"step_size": STEP_SIZES, "momentum": momentum}
    found = descended({"a": A}, B, "stopped", solver, settings=settings, trace="y")
    path = numpy_loop(B, STEP_SIZES, np.broadcast_to(momentum, 10), nesterov)
    assert np.any(path == 0) and np.any(path == 1)
    np.testing.assert_allclose(found.trace["y"], path, atol=1e-14)


def test_settings_reach_the_solver_inside_and_equal_one_built_with_them():
    inner = descended({"a": A}, B, solver=OnLogits(), settings={"step_size": 0.3, "momentum": 0.2})
    built = descended({"a": A}, B, solver=OnLogits(GradientDescent(0.3, momentum=0.2)))
    np.testing.assert_allclose(inner.y, built.y, rtol=1e-6)


@pytest.mark.parametrize("solver", [PLAIN, OnLogits(), FrankWolfe(), Optax(ADAM)])
def test_settings_that_a_solver_does_not_have_are_named(solver):
    with pytest.raises(ValueError, match=r"no .* \['speed'\]"):
        descended({"a": A}, B, "stopped", solver, settings={"speed": 1.0})


def test_settings_out_of_range_are_refused():
    with pytest.raises(ValueError, match="momentum < 1"):
        descended({"a": A}, B, settings={"momentum": 2.0})


@pytest.mark.parametrize("domain", [Box(), Box(-1, 3), Simplex()], ids=str)
def test_a_temperature_smooths_to_the_sigmoid_or_softmax_of_the_scores(domain, x64):
    def linear(params, scores, y):
        return -scores @ y

    scores, t = np.array([[-1.0, 0.3, 2.0], [0.5, 0.1, -0.2]]), 0.7
    answer = softmax_answer((3,)) if isinstance(domain, Simplex) else sigmoid_answer(domain)
    start = jax.vmap(lambda _: domain.initial((3,)))(scores)
    found = minimize(
        linear,
        None,
        scores,
        start,
        domain=domain,
        solver=MirrorDescent(0.5),
        steps=150,
        temperature=t,
    )
    want = [answer(s / t) for s in scores]
    np.testing.assert_allclose(found.y, [y for y, _ in want], atol=1e-9)
    np.testing.assert_allclose(found.energy, [t * e for _, e in want], atol=1e-9)
    assert found.converged.all()


@pytest.mark.slow
def test_a_schedule_of_temperatures_equals_a_numpy_loop(x64):
    temperatures = np.geomspace(2, 0.1, 10)

    def solve(temperatures):
        return descended(
            {"a": A}, B, solver=MirrorDescent(0.5), temperature=temperatures, trace="y"
        )

    y, path = np.full(B.shape, 0.4), []
    logits = np.log(y / (1 - y))
    for t in temperatures:
        logits = logits - 0.5 * (A * y - B + t * np.log(y / (1 - y)))
        y = 1 / (1 + np.exp(-logits))
        path.append(y)
    found = solve(temperatures)
    np.testing.assert_allclose(found.trace["y"][:, 1:], np.stack(path, 1))
    entropy = -(y * np.log(y) + (1 - y) * np.log(1 - y)).sum(1)
    energy = (A * y**2 / 2 - B * y).sum(1) - temperatures[-1] * entropy
    np.testing.assert_allclose(found.energy, energy)
    got = jax.grad(lambda t: solve(t).y.sum())(temperatures)
    np.testing.assert_allclose(
        got, central_differences(lambda t: solve(t).y.sum(), temperatures), rtol=1e-5
    )


@pytest.mark.slow
def test_mirror_descent_on_the_simplex_is_exponentiated_gradient(x64):
    case = CASES["simplex"]
    start = starts(case)
    found = minimize(
        case.energy,
        case.params,
        case.context,
        start,
        domain=Simplex(),
        solver=MirrorDescent(0.3),
        steps=8,
        trace="y",
    )
    y = np.asarray(start)
    for t in range(1, 9):
        y = y * np.exp(-0.3 * (y @ case.params["A"] - case.context))
        y /= y.sum(1, keepdims=True)
        np.testing.assert_allclose(found.trace["y"][:, t], y, rtol=1e-10)


@pytest.mark.parametrize(
    "make",
    [
        lambda: GradientDescent(0.0),
        lambda: GradientDescent(0.1, momentum=1.0),
        lambda: GradientDescent(0.1, momentum=-0.1),
        lambda: MirrorDescent(-1.0),
        lambda: LineSearch(0.0),
        lambda: LineSearch(1.0, decrease=0.5),
        lambda: Unrolled(last=0),
        lambda: Unrolled(segment=1.5),
        lambda: Implicit(steps=0),
        lambda: Implicit(damping=-1.0),
    ],
)
def test_numbers_out_of_range_are_refused_with_what_is_allowed(make):
    with pytest.raises(ValueError, match=r"needs .* got"):
        make()


@pytest.mark.parametrize(
    "domain, solver, message",
    [
        (Reals(), MirrorDescent(), "no logits"),
        (L2Ball(), OnLogits(), "no logits"),
        (Reals(), FrankWolfe(), "linear oracle"),
        (Box(0, float("inf")), FrankWolfe(), "two finite bounds"),
    ],
)
def test_a_solver_on_a_domain_that_lacks_what_it_needs_says_so(domain, solver, message):
    with pytest.raises(ValueError, match=message):
        minimize(parabola, {"a": A}, B, jnp.full((3, 3), 0.5), domain=domain, solver=solver)


@pytest.mark.parametrize(
    "solver, stop_early",
    [
        (PLAIN, True),
        (LineSearch(), False),
        (FrankWolfe(), False),
    ],
)
def test_a_float32_start_beside_float64_parameters_stays_float32(solver, stop_early, x64):
    start = jnp.full((3, 3), 0.5, jnp.float32)
    found = minimize(parabola, {"a": A}, B, start, solver=solver, stop_early=stop_early)
    assert found.y.dtype == jnp.float32

"""Derivatives of answers, first and second, in forward and reverse mode: right where promised, else refused."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from spen_jax import (
    Box,
    FrankWolfe,
    GradientDescent,
    L2Ball,
    LineSearch,
    MirrorDescent,
    OnLogits,
    Optax,
    Product,
    Reals,
    Simplex,
    Unrolled,
    minimize,
)

WAYS = {
    "reverse": jax.grad,
    "forward": jax.jacfwd,
    "forward over reverse": lambda f: jax.jacfwd(jax.grad(f)),
    "reverse over forward": lambda f: jax.grad(jax.jacfwd(f)),
    "reverse over reverse": lambda f: jax.grad(jax.grad(f)),
    "forward over forward": lambda f: jax.jacfwd(jax.jacfwd(f)),
}
TWICE = "forward over reverse", "reverse over reverse"
STEP = 1e-3
PULL = np.array([0.9, -0.4, 0.3])
CURVED = np.array([1.0, 2.0, 4.0])


class Case(NamedTuple):
    """An energy of p and of one y, where y lives, and where inference of p = 0.7 starts."""

    energy: object
    domain: object
    start: object
    temperature: float | None = None


def bowl(p, x, y):
    """Curved, with a cubic in y that makes third derivatives matter."""
    return CURVED @ y**2 / 2 + 0.1 * jnp.sum(y**3) - jnp.sin(p) * (PULL @ y) - p**2 * y[0] / 4


def outside(p, x, y):
    """Wants less than nothing of the second of three."""
    return bowl(p, x, y) + 3 * y[1]


def exponential(p, x, y):
    return jnp.sum(jnp.exp(y) - (1 + p) * y)


def of_tree(p, x, y):
    return bowl(p, x, y["a"]) + bowl(p * 0.8, x, y["b"]) + p * y["a"] @ y["b"] / 5


MIDDLE = np.array([0.3, 0.4, 0.3])
CASES = {
    "reals": Case(exponential, Reals(), MIDDLE),
    "box, one bound active": Case(bowl, Box(), MIDDLE),
    "box with entropy": Case(bowl, Box(), MIDDLE, 0.3),
    "simplex": Case(bowl, Simplex(), MIDDLE),
    "simplex, one bound active": Case(outside, Simplex(), MIDDLE),
    "simplex with entropy": Case(bowl, Simplex(), MIDDLE, 0.3),
    "on the sphere": Case(bowl, L2Ball(0.3), MIDDLE / 4),
    "tree": Case(
        of_tree,
        Product({"a": Box(), "b": Simplex()}),
        {"a": MIDDLE, "b": MIDDLE},
    ),
}
DESCENT = GradientDescent(0.15, momentum=0.3)


def found(case, p, solver=DESCENT, steps=400, mode="implicit", start=None):
    start = case.start if start is None else start
    return minimize(
        case.energy,
        p,
        jnp.zeros((1, 1)),
        jax.tree.map(lambda a: a[None], start),
        domain=case.domain,
        solver=solver,
        steps=steps,
        temperature=case.temperature,
        differentiate=mode,
    )


def of_energy(case, p, **options):
    return found(case, p, **options).energy[0]


def of_both(case, p, **options):
    """A curved function of the answer, its energy and p."""
    solution = found(case, p, **options)
    flat = jnp.concatenate([a[0] for a in jax.tree.leaves(solution.y)])
    return jnp.sin(flat @ jnp.arange(1.0, flat.size + 1)) + p * flat[0] + solution.energy[0]


def differences(function, p):
    """The first and second derivative by central differences."""
    low, here, high = (float(function(q)) for q in (p - STEP, p, p + STEP))
    return (high - low) / (2 * STEP), (high - 2 * here + low) / STEP**2


def check(function, reference=None, ways=WAYS, p=0.7):
    """All derivatives of a function against differences of the reference, itself by default."""
    reference = jax.jit(reference or function)
    first, second = differences(reference, p)
    assert abs(first) > 1e-3  # no zero is right by accident
    assert abs(second) > 1e-2 or not {*TWICE} & {*ways}
    got = jax.jit(lambda p: [WAYS[way](function)(p) for way in ways])(p)
    want = [second if "over" in way else first for way in ways]
    np.testing.assert_allclose(got, want, rtol=3e-5, atol=3e-5)


LONG = "tree", "descent"  # the dearest of many


def and_slow(names, *slow):
    """The names as parameters, some of them slow or for releases."""
    marks = {n: [pytest.mark.slow] for n in slow} | {n: [pytest.mark.long] for n in LONG}
    return [pytest.param(n, marks=marks.get(n, [])) for n in names]


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.parametrize("name", and_slow(CASES, *{*CASES} - {"box, one bound active"}))
def test_implicit_derivatives_of_any_kind_are_those_of_the_minimiser(name, x64):
    case = CASES[name]
    converged = {"steps": 2000} if case.temperature else {}
    ways = WAYS if name in ("reals", "tree") else ("reverse", *TWICE)
    check(partial(of_both, case, **converged), ways=ways)


@pytest.mark.slow
def test_the_third_derivative_of_a_minimiser_is_right(x64):
    # argmin exp(y) - (1 + p) y = log(1 + p), the least energy (1 + p) (1 - log(1 + p)).
    case, p = Case(exponential, Reals(), jnp.zeros(1)), 1.0
    third = jax.jit(jax.grad(jax.grad(jax.grad(lambda p: found(case, p).y[0, 0]))))
    np.testing.assert_allclose(third(p), 2 / (1 + p) ** 3, rtol=1e-6)
    second = jax.jit(jax.grad(jax.grad(lambda p: found(case, p).energy[0] ** 2)))
    least = (1 + p) * (1 - np.log(1 + p))
    want = 2 * np.log(1 + p) ** 2 - 2 * least / (1 + p)
    np.testing.assert_allclose(second(p), want, rtol=1e-6)


def in_a_map(answer):
    return lambda p: jax.lax.map(answer, p[None])[0]


def in_a_scan(answer):
    return lambda p: jax.lax.scan(lambda q, _: (q, answer(q)), p, None, length=2)[1][1]


def by_vmap(answer):
    return lambda p: jax.vmap(answer)(jnp.stack([p, 2 * p]))[0]


AROUND = [in_a_map, *(pytest.param(f, marks=pytest.mark.slow) for f in (in_a_scan, by_vmap))]
AROUND += [pytest.param(f, marks=pytest.mark.slow) for f in (jax.checkpoint, jax.jit)]


@pytest.mark.slow
@pytest.mark.parametrize("around", AROUND, ids=["map", "scan", "vmap", "checkpoint", "jit"])
def test_loops_and_maps_around_an_answer_keep_its_second_derivative_or_its_refusal(around, x64):
    case, p = Case(exponential, Reals(), np.zeros(1)), 1.0
    answer = around(lambda p: found(case, p).y[0, 0])
    np.testing.assert_allclose(jax.grad(jax.grad(answer))(p), -1 / (1 + p) ** 2, rtol=1e-6)
    np.testing.assert_allclose(jax.hessian(answer)(p), -1 / (1 + p) ** 2, rtol=1e-6)
    with pytest.raises(NotImplementedError, match="y is a constant"):
        jax.grad(jax.grad(around(lambda p: of_energy(case, p, mode="stopped"))))(p)


@pytest.mark.slow
def test_what_is_known_moves_as_it_is_given(x64):
    def answer(value, mode):
        known = np.array([[True, False]]), jnp.stack([value, 0.0])[None]
        energy = lambda p, x, y: jnp.sum((y - 0.3) ** 2) + y[0] * y[1]  # noqa: E731
        options = {"solver": DESCENT, "steps": 300, "domain": Reals(), "differentiate": mode}
        return minimize(energy, None, None, np.zeros((1, 2)), known=known, **options).y[0]

    for mode in ("implicit", "unrolled"):
        slope = jax.jacrev(partial(answer, mode=mode))(0.8)
        np.testing.assert_allclose(slope, [1, -0.5], atol=1e-6)


@pytest.mark.long
@pytest.mark.slow
def test_across_the_sphere_an_energy_has_its_derivative_in_reverse(x64):
    case = CASES["on the sphere"]
    slopes = jax.vmap(jax.grad(partial(of_energy, case)))(jnp.linspace(0.3, 1.2, 7))
    forward = jax.vmap(jax.jacfwd(partial(of_energy, case)))(jnp.linspace(0.3, 1.2, 7))
    np.testing.assert_allclose(slopes, forward, rtol=1e-6)


@pytest.mark.slow
def test_many_examples_in_blocks_have_second_derivatives_of_their_own(x64):
    p = jnp.linspace(0.5, 2, 600)

    def answers(p):
        def energy(_, p, y):
            return jnp.sum(jnp.exp(y) - p * y)

        start = jnp.zeros((600, 1))
        options = {"solver": GradientDescent(0.2, 0.3), "steps": 300, "domain": Reals()}
        return minimize(energy, None, p, start, differentiate="implicit", **options).y[:, 0]

    ones = jnp.ones_like(p)
    slope = jax.jit(lambda p: jax.jvp(answers, (p,), (ones,))[1])
    second = jax.jit(lambda p: jax.jvp(slope, (p,), (ones,))[1])
    np.testing.assert_allclose(slope(p), 1 / p, rtol=1e-6)
    np.testing.assert_allclose(second(p), -1 / p**2, rtol=1e-6)
    backwards = jax.jit(jax.grad(lambda p: jnp.sum(jax.grad(lambda q: jnp.sum(answers(q)))(p))))
    np.testing.assert_allclose(backwards(p), -1 / p**2, rtol=1e-6)


UNROLLED = {
    "descent": ("box with entropy", DESCENT),
    "nesterov": ("reals", GradientDescent(0.1, 0.5, nesterov=True)),
    "projected": ("simplex", DESCENT),
    "sphere": ("on the sphere", DESCENT),
    "mirror": ("simplex with entropy", MirrorDescent(0.5)),
    "on logits": ("box with entropy", OnLogits(GradientDescent(0.3, 0.5))),
    "adam": ("reals", Optax(optax.adam(0.1, eps_root=1e-8))),
    "tree": ("tree", DESCENT),
}


@pytest.mark.parametrize("name", and_slow(UNROLLED, *{*UNROLLED} - {"nesterov"}))
def test_unrolled_derivatives_are_those_of_the_steps(name, x64):
    case, solver = UNROLLED[name]
    few = {"solver": solver, "steps": 6, "mode": "unrolled"}
    ways = WAYS if name in ("descent", "tree") else ("reverse", *TWICE)
    check(partial(of_both, CASES[case], **few), ways=ways)


@pytest.mark.slow
def test_truncated_derivatives_are_those_of_the_last_steps_from_where_they_begin(x64):
    case = CASES["box with entropy"]
    mirror = {"solver": MirrorDescent(0.3)}
    begin = jax.tree.map(lambda a: a[0], found(case, 0.7, steps=4, **mirror).y)
    check(
        partial(of_both, case, steps=7, mode=Unrolled(last=3), **mirror),
        partial(of_both, case, steps=3, start=begin, **mirror),
        ways=("reverse", *TWICE),
    )


@pytest.mark.parametrize("case", and_slow(CASES, *{*CASES} - {"reals", "box with entropy"}))
def test_stopped_the_energy_has_its_first_derivative_and_refuses_a_second(case, x64):
    case = CASES[case]
    function = partial(of_energy, case, mode="stopped", steps=2000 if case.temperature else 400)
    check(function, ways=("reverse", "forward"))
    for way in WAYS:
        if "over" in way:
            with pytest.raises(NotImplementedError, match="y is a constant.*'implicit'"):
                WAYS[way](function)(0.7)


@pytest.mark.slow
def test_stopped_an_answer_of_constants_has_a_second_derivative_beside_it(x64):
    case = CASES["box with entropy"]

    def energy_there(p):
        y = found(case, jax.lax.stop_gradient(p), mode="stopped").y
        return case.energy(p, None, y[0])

    y = found(case, 0.7, mode="stopped").y[0]
    want = jax.grad(jax.grad(lambda p: case.energy(p, None, y)))(0.7)
    np.testing.assert_allclose(jax.grad(jax.grad(energy_there))(0.7), want)
    assert jax.grad(lambda p: found(case, p, mode="stopped").y[0, 0])(0.7) == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    "solver",
    [FrankWolfe(), LineSearch(), Optax(optax.lbfgs()), OnLogits(Optax(optax.lbfgs()))],
    ids=["frank-wolfe", "line search", "lbfgs", "lbfgs on logits"],
)
def test_what_cannot_be_unrolled_says_so(solver, x64):
    with pytest.raises(ValueError, match="differentiate it as 'stopped' or 'implicit'"):
        found(CASES["box, one bound active"], 0.7, solver, 5, "unrolled")
    if isinstance(solver, Optax):
        assert np.isfinite(found(CASES["box, one bound active"], 0.7, solver, 5).y).all()


@pytest.mark.slow
def test_a_search_with_a_derivative_of_its_own_can_be_unrolled(x64):
    class Newton(NamedTuple):
        """A solver whose step solves a linear system by conjugate gradients, which loop without end."""

        def init(self, y, domain):
            return y

        def step(self, energy, state, domain):
            slope = jax.grad(energy)(state)
            matrix = partial(jax.jvp, jax.grad(energy), (state,))
            return state - jax.scipy.sparse.linalg.cg(lambda v: matrix((v,))[1], slope)[0]

        def y(self, state, domain):
            return state

    options = {"solver": Newton(), "steps": 8}
    slope = jax.grad(partial(of_both, CASES["reals"], mode="unrolled", **options))(0.7)
    np.testing.assert_allclose(slope, jax.grad(partial(of_both, CASES["reals"]))(0.7), rtol=1e-6)


def test_a_learned_number_out_of_range_fails_and_a_given_one_is_refused(x64):
    case = CASES["reals"]

    @jax.jit
    def learned(size, temperature):
        return minimize(
            case.energy,
            0.7,
            jnp.zeros((1, 1)),
            case.start[None],
            settings={"step_size": size},
            temperature=temperature,
            domain=Box(),
        )

    assert not learned(0.1, 0.0).failed.any()
    for size, temperature in ((-0.1, 0.0), (jnp.inf, 0.0), (jnp.nan, 0.0), (0.1, -1.0)):
        solution = learned(size, temperature)
        assert solution.failed.all() and np.isnan(solution.y).all()
    with pytest.raises(ValueError, match="step_size > 0 .*, got -0.1"):
        minimize(case.energy, 0.7, None, case.start[None], settings={"step_size": -0.1})

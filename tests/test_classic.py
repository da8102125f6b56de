from collections.abc import Callable
from functools import partial
from math import exp, sin, sqrt, tanh
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import spen_jax as sx
from spen_jax import losses
from spen_jax.energies import (
    Binary,
    Huber,
    ImplicitRegressor,
    JointEmbedding,
    LinearMachine,
    Matcher,
    Multiclass,
    RadialBasis,
    Regressor,
    Saturated,
    absolute,
    cosine,
    gaussian_bumps,
    linear,
    minus_product,
    squared,
)
from spen_jax.exact import pairwise, softargmin

SOLVER = sx.GradientDescent(step_size=0.2, momentum=0.5)
X = np.array([1.0, -2.0, 0.5])
ONE = {"w": np.array([0.5, 1.0, -1.0]), "b": np.array(0.25)}  # w'x + b = -1.75
TWO = {"w": np.array([[1.0, 0], [0, 1], [2, -2]]), "b": np.array([0.5, -1])}  # (2.5, -4)
CENTERS = np.array([[2.0, -4], [2.5, 0], [0, 0]])
BOTH = np.array([-1.0, 1.0])


def sine(params, y):
    return jnp.sin(params["a"] * y)


def zero_one(y, r):
    return jnp.where(y * r > 0, 0.0, 1.0)


class Case(NamedTuple):
    """E(x, y) by hand, and the answers among which `best` is looked for."""

    name: str
    energy: Callable
    params: Any
    y: Any
    value: float
    answers: Any = None


CASES = [
    Case("regressor", Regressor(linear), TWO, np.array([1.5, -2]), (1 + 4) / 2),
    Case(
        "scalar regressor", Regressor(lambda p, x: linear(p, x)[None]), ONE, np.ones(1), 2.75**2 / 2
    ),
    Case(
        "implicit regressor",
        ImplicitRegressor(linear, sine),
        {"x": TWO, "y": {"a": np.array(2.0)}},
        np.array([1.0, 0.5]),
        ((2.5 - sin(2)) ** 2 + (-4 - sin(1)) ** 2) / 2,
    ),
    Case("absolute", Regressor(linear, absolute), TWO, np.array([1.5, -2]), 1 + 2),
    Case(
        "huber", Regressor(linear, Huber(1.5)), TWO, np.array([1.5, -2]), 1 / 2 + 1.5 * (2 - 0.75)
    ),
    Case(
        "joint embedding",
        JointEmbedding(linear, sine),
        {"x": TWO, "y": {"a": np.array(2.0)}},
        np.array([1.0, 0.5]),
        1 - (2.5 * sin(2) - 4 * sin(1)) / sqrt(2.5**2 + 16) / sqrt(sin(2) ** 2 + sin(1) ** 2),
    ),
    Case("binary", Binary(linear), ONE, np.array(1.0), 1.75, BOTH),
    Case("linear machine", LinearMachine(), ONE, np.array(-1.0), -1.75, BOTH),
    Case(
        "linear machine, squashed",
        LinearMachine(squared, jnp.tanh),
        ONE,
        np.array(1.0),
        (1 + tanh(1.75)) ** 2 / 2,
        BOTH,
    ),
    Case("linear machine, zero-one", LinearMachine(zero_one), ONE, np.array(1.0), 1.0, BOTH),
    Case("multiclass", Multiclass(linear), TWO, 1, -4.0, np.arange(2)),
    Case(
        "radial basis",
        RadialBasis(linear),
        {"g": TWO, "centers": CENTERS},
        2,
        (6.25 + 16) / 2,
        np.arange(3),
    ),
    Case("matcher", Matcher(linear), TWO, np.array([1.0, 0, 0]), (1 + 9) / 2),
    Case(
        "matcher, cosine",
        Matcher(lambda p, x: p["scale"] * x, cosine),
        {"scale": np.array(3.0)},
        np.array([2.0, -1, 0]),
        1 - 4 / sqrt(5.25 * 5),
    ),
    Case(
        "saturated",
        Saturated(Regressor(linear), 2.0),
        TWO,
        np.array([1.5, -2]),
        2 * (1 - exp(-1.25)),
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_an_energy_has_the_value_by_hand_and_the_gradient_of_finite_differences(case, x64):
    """The gradient in parameters, input and, where it is continuous, answer."""
    continuous = np.issubdtype(np.asarray(case.y).dtype, np.floating)
    flat, unravel = ravel_pytree((case.params, X, *([case.y] if continuous else [])))

    def of(flat):
        params, x, *y = unravel(flat)
        return case.energy(params, x, *(y or [case.y]))

    moves = 1e-6 * np.eye(flat.size)
    rows = np.asarray(flat) + np.concatenate([0 * moves[:1], moves, -moves])
    values, slopes = jax.jit(jax.vmap(jax.value_and_grad(of)))(rows)
    np.testing.assert_allclose(values[0], case.value, rtol=1e-12)
    above, below = np.split(np.asarray(values)[1:], 2)
    np.testing.assert_allclose(slopes[0], (above - below) / 2e-6, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize(
    "case", [c for c in CASES if c.answers is not None], ids=lambda case: case.name
)
def test_the_best_discrete_answer_is_that_of_enumeration(case):
    params = jax.tree.map(np.float32, case.params)
    x = np.float32(np.random.default_rng(0).normal(0, 2, (20, 3)))

    @jax.jit
    def by_both(params, x):
        all_at_once = getattr(case.energy, "energies", None)
        return (
            pairwise(case.energy, params, x, case.answers),
            jax.vmap(case.energy.best, (None, 0))(params, x),
            all_at_once and jax.vmap(all_at_once, (None, 0))(params, x),
        )

    energies, best, of_all = by_both(params, x)
    np.testing.assert_array_equal(best, case.answers[np.argmin(energies, axis=1)])
    assert len(set(np.asarray(best).tolist())) > 1
    if of_all is not None:
        np.testing.assert_allclose(of_all, energies, rtol=1e-5, atol=1e-6)


def test_classifiers_that_do_not_know_answer_minus_one():
    zero = {"w": np.zeros(3, np.float32), "b": np.float32(0)}
    machines = Binary(linear), LinearMachine(), LinearMachine(squared, jnp.tanh)
    answers = jax.jit(lambda p, x: [machine.best(p, x) for machine in machines])(zero, X)
    assert answers == [-1, -1, -1]


def minimiser(energy, params, x, start):
    found = sx.minimize(
        energy, params, x, start, domain=sx.Reals(), solver=SOLVER, steps=150, tolerance=1e-4
    )
    assert found.converged.all()
    return found.y


@pytest.mark.parametrize("capped", [False, True])
def test_the_minimiser_of_a_regressor_saturated_or_not_is_its_best_answer(capped):
    energy = Regressor(linear)
    params = jax.tree.map(np.float32, TWO)
    x = np.float32(np.random.default_rng(1).normal(size=(4, 3)))
    best = x @ params["w"] + params["b"]
    np.testing.assert_allclose(energy.best(params, x[0]), best[0], rtol=1e-5)
    saturated = Saturated(energy, 8.0) if capped else energy
    got = minimiser(saturated, params, x, best + np.float32([1, -2]))
    np.testing.assert_allclose(got, best, atol=1e-3)


def test_an_implicit_regressor_has_several_answers_found_from_several_starts():
    energy = ImplicitRegressor(lambda p, x: x, lambda p, y: p * y**2)
    params = {"x": None, "y": np.float32(0.5)}
    x = np.float32([[2.0], [2.0]])
    got = minimiser(energy, params, x, np.float32([[1.0], [-0.5]]))
    np.testing.assert_allclose(got, [[2], [-2]], atol=1e-3)


def test_the_best_match_is_the_input_itself_and_among_candidates_the_nearest():
    energy = Matcher(linear)
    params = {"w": np.float32([[2.0, 0.5], [0, 1]]), "b": np.ones(2, np.float32)}
    rng = np.random.default_rng(2)
    x, others = (np.float32(rng.normal(size=(n, 2))) for n in (4, 6))
    np.testing.assert_allclose(minimiser(energy, params, x, np.zeros_like(x)), x, atol=1e-2)
    got = np.argmin(jax.jit(partial(pairwise, energy))(params, x, others), axis=1)
    apart = (x[:, None] - others[None]) @ params["w"]
    np.testing.assert_array_equal(got, np.linalg.norm(apart, axis=-1).argmin(1))


def test_equal_energies_are_equal_objects_and_others_are_not():
    for make in (
        lambda: Regressor(linear),
        lambda: Regressor(linear, Huber(0.5)),
        lambda: ImplicitRegressor(linear, sine),
        lambda: JointEmbedding(linear, sine),
        lambda: Binary(linear),
        lambda: LinearMachine(squared, jnp.tanh),
        lambda: Multiclass(linear),
        lambda: RadialBasis(linear),
        lambda: Matcher(linear, cosine),
        lambda: Saturated(Regressor(linear), 2.0),
    ):
        assert make() == make() and hash(make()) == hash(make())
    assert Matcher(linear) != Matcher(linear, cosine)
    assert Regressor(linear) != Binary(linear)
    assert Saturated(Regressor(linear)) != Saturated(Regressor(linear), 2.0)


@pytest.mark.parametrize("ceiling", [0.0, -1.0, np.nan])
def test_a_ceiling_is_above_0(ceiling):
    with pytest.raises(ValueError, match="ceiling > 0"):
        Saturated(Regressor(linear), ceiling)


# The lectures' models.

RNG = np.random.default_rng(8)
POINTS, LABELS, WEIGHTS = RNG.normal(size=(8, 3)), np.tile(BOTH, 4), RNG.normal(size=3)
R = POINTS @ WEIGHTS


def per_example(*functions):
    """function(w, x, y) of the eight points and its gradients in w, of each of the functions."""

    @jax.jit
    def all_of_them(w, x, y):
        return [jax.vmap(jax.value_and_grad(f), (None, 0, 0))(w, x, y) for f in functions]

    return all_of_them(WEIGHTS, POINTS, LABELS)


def with_bias(w):
    return {"w": w, "b": jnp.zeros(())}


def test_logistic_regression(x64):
    """L = log(1 + exp(-y r)), dL/dw = -((y + 1) / 2 - sigmoid(r)) x, P(y) = sigmoid(y r)."""
    models = [
        (LinearMachine(lambda y, r: -y * r / 2), 1.0),
        (LinearMachine(), 0.5),
        (Binary(linear), 0.5),
    ]

    def energies(energy, w, x):
        return jnp.stack([energy(with_bias(w), x, y) for y in BOTH])

    def loss(energy, beta, w, x, y):
        correct = energy(with_bias(w), x, y)
        return beta * losses.nll(correct, energies(energy, w, x), beta)

    def chance(energy, beta, w, x, y):
        return softargmin(energies(energy, w, x), beta)[1]

    sigmoid = 1 / (1 + np.exp(-R))
    for value, slopes in per_example(*(partial(loss, *model) for model in models)):
        np.testing.assert_allclose(value, np.log(1 + np.exp(-LABELS * R)))
        np.testing.assert_allclose(slopes, -((LABELS + 1) / 2 - sigmoid)[:, None] * POINTS)
    for value, _ in per_example(*(partial(chance, *model) for model in models)):
        np.testing.assert_allclose(value, sigmoid)


def test_linear_regression_and_the_perceptron_have_the_gradients_of_the_lecture(x64):
    """(r - y) x of the energy loss; the perceptron's update is (y - sign r) x."""

    def regression(w, x, y):
        regressor = Regressor(lambda p, x: linear(p, x)[None])
        return losses.energy_loss(regressor(with_bias(w), x, y[None]))

    def perceptron(w, x, y):
        energies = jnp.stack([LinearMachine()(with_bias(w), x, answer) for answer in BOTH])
        return losses.perceptron(LinearMachine()(with_bias(w), x, y), energies)

    (_, by_regression), (_, by_perceptron) = per_example(regression, perceptron)
    np.testing.assert_allclose(by_regression, (R - LABELS)[:, None] * POINTS)
    assert len(set(zip(LABELS, np.sign(R), strict=True))) == 4
    want = -(LABELS - np.sign(R))[:, None] * POINTS
    np.testing.assert_allclose(by_perceptron, want, atol=1e-12)


def test_collapsed_parameters_minimise_the_energy_and_perceptron_losses_but_not_square_square():
    x = np.float32(RNG.normal(size=(4, 3)))
    nothing = jax.tree.map(lambda a: np.zeros_like(a, np.float32), TWO)
    basis = {"g": nothing, "centers": np.zeros((5, 2), np.float32)}

    @jax.jit
    def of(x):
        matches = pairwise(Matcher(linear), nothing, x, x[::-1])
        classes = pairwise(RadialBasis(linear), basis, x, jnp.arange(5))
        return [
            (
                losses.energy_loss(energies[:, 0]),
                losses.perceptron(energies[:, 0], energies),
                losses.square_square(energies[:, 0], energies[:, 1], 1.5),
            )
            for energies in (matches, classes)
        ]

    for by_energy, by_perceptron, by_margin in of(x):
        np.testing.assert_array_equal(by_energy, np.zeros(4))
        np.testing.assert_array_equal(by_perceptron, np.zeros(4))
        np.testing.assert_array_equal(by_margin, np.full(4, 1.5**2))


# What energies are made of.


def test_cosine_is_one_at_zero_vectors_with_gradient_zero_and_does_not_see_lengths(x64):
    a, b = np.random.default_rng(4).normal(size=(2, 3, 5))
    zeros = np.zeros((3, 5))
    left = [a, 1e-200 * a, 1e200 * a, a, a, zeros, a, zeros]
    right = [b, b / 7, b / 7, a, -a, a, zeros, zeros]
    of = jax.jit(jax.vmap(jax.value_and_grad(cosine, (0, 1))))
    values, slopes = of(np.concatenate(left), np.concatenate(right))
    plain, small, large, same, opposite, *undefined = np.asarray(values).reshape(8, 3)
    norms = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
    np.testing.assert_allclose(plain, 1 - (a * b).sum(-1) / norms)
    np.testing.assert_allclose([small, large], [plain, plain])
    np.testing.assert_allclose(same, 0, atol=1e-12)
    np.testing.assert_allclose(opposite, 2)
    np.testing.assert_array_equal(undefined, 1)
    of_left, of_right = (np.asarray(s).reshape(8, 3, 5)[5:] for s in slopes)
    assert np.isfinite(of_left).all() and np.isfinite(of_right).all()
    np.testing.assert_array_equal(of_right[[1, 2]], 0)
    np.testing.assert_array_equal(of_left[[0, 2]], 0)


def test_gaussian_bumps_fall_with_the_distance_from_their_centers():
    rng = np.random.default_rng(5)
    x, centers = np.float32(rng.normal(size=(5, 3))), np.float32(rng.normal(size=(6, 3)))
    squares = ((x[:, None] - centers) ** 2).sum(-1)
    bumps = jax.jit(jax.vmap(lambda x: gaussian_bumps(x, centers, 0.7)))(x)
    np.testing.assert_allclose(bumps, np.exp(-squares / 0.98), rtol=1e-4)


def test_distances_of_scalars():
    y, r = np.float32([1, -1, 2]), np.float32([3, 0.5, 2])
    np.testing.assert_array_equal(squared(y, r), [2, 1.125, 0])
    np.testing.assert_array_equal(minus_product(y, r), [-3, 0.5, -4])

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
from spen_jax.architectures import (
    Binary,
    ImplicitRegressor,
    LinearMachine,
    Matcher,
    Multiclass,
    RadialBasis,
    Regressor,
    Saturated,
    cosine,
    gaussian_bumps,
    linear,
    product,
    squared,
)
from spen_jax.gibbs import pairwise, softargmin

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
every_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


@every_case
def test_an_energy_has_the_value_computed_by_hand(case):
    params, x, y = jax.tree.map(jnp.asarray, (case.params, X, case.y))
    batch = jax.jit(jax.vmap(case.energy, (None, 0, 0)))
    got = batch(params, jnp.stack([x, x + 1]), jnp.stack([y, y]))
    assert got.shape == (2,)
    np.testing.assert_allclose(got[0], case.value, rtol=1e-6)


@every_case
def test_the_gradient_in_parameters_and_answer_is_that_of_finite_differences(case, x64):
    continuous = np.issubdtype(np.asarray(case.y).dtype, np.floating)
    flat, unravel = ravel_pytree((case.params, X, *([case.y] if continuous else [])))

    def of(flat):
        params, x, *y = unravel(flat)
        return case.energy(params, x, *(y or [case.y]))

    moves = 1e-6 * np.eye(flat.size)
    rows = np.asarray(flat) + np.concatenate([0 * moves[:1], moves, -moves])
    values, slopes = jax.jit(jax.vmap(jax.value_and_grad(of)))(rows)
    above, below = np.split(np.asarray(values[1:]), 2)
    np.testing.assert_allclose(slopes[0], (above - below) / 2e-6, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize(
    "case", [c for c in CASES if c.answers is not None], ids=lambda case: case.name
)
def test_the_best_discrete_answer_is_that_of_enumeration(case):
    params = jax.tree.map(jnp.float32, case.params)
    x = jnp.float32(np.random.default_rng(0).normal(0, 2, (20, 3)))
    energies = jax.jit(lambda x, y: pairwise(case.energy, params, x, y))(x, case.answers)
    best = jax.jit(jax.vmap(case.energy.best, (None, 0)))(params, x)
    np.testing.assert_array_equal(best, case.answers[np.argmin(energies, axis=1)])
    assert len(set(np.asarray(best).tolist())) > 1
    if hasattr(case.energy, "energies"):
        of_all = jax.vmap(case.energy.energies, (None, 0))(params, x)
        np.testing.assert_allclose(of_all, energies, rtol=1e-5, atol=1e-6)


def test_classifiers_that_do_not_know_answer_minus_one():
    zero = {"w": jnp.zeros(3), "b": jnp.zeros(())}
    for machine in (Binary(linear), LinearMachine(), LinearMachine(squared, jnp.tanh)):
        assert machine.best(zero, jnp.float32(X)) == -1


def minimiser(energy, params, x, start):
    found = sx.minimize(
        energy, params, x, start, domain=sx.Reals(), solver=SOLVER, steps=150, tolerance=1e-4
    )
    assert found.converged.all()
    return found.y


@pytest.mark.parametrize("capped", [False, True])
def test_the_minimiser_of_a_regressor_saturated_or_not_is_its_best_answer(capped):
    energy = Regressor(linear)
    params = jax.tree.map(jnp.float32, TWO)
    x = jnp.float32(np.random.default_rng(1).normal(size=(4, 3)))
    best = jax.vmap(energy.best, (None, 0))(params, x)
    np.testing.assert_allclose(best, x @ params["w"] + params["b"][None], rtol=1e-5)
    saturated = Saturated(energy, 8.0) if capped else energy
    got = minimiser(saturated, params, x, best + jnp.float32([[1, -2]]))
    np.testing.assert_allclose(got, best, atol=1e-3)


def test_an_implicit_regressor_has_several_answers_found_from_several_starts():
    energy = ImplicitRegressor(lambda p, x: x, lambda p, y: p * y**2)
    params = {"x": None, "y": jnp.float32(0.5)}
    x = jnp.float32([[2.0], [2.0]])
    got = minimiser(energy, params, x, jnp.float32([[1.0], [-0.5]]))
    np.testing.assert_allclose(got, [[2], [-2]], atol=1e-3)


def test_the_best_match_is_the_input_itself_and_among_candidates_the_nearest():
    energy = Matcher(linear)
    params = {"w": jnp.float32([[2.0, 0.5], [0, 1]]), "b": jnp.ones(2)}
    rng = np.random.default_rng(2)
    x, others = (np.float32(rng.normal(size=(n, 2))) for n in (4, 6))
    np.testing.assert_allclose(minimiser(energy, params, x, np.zeros_like(x)), x, atol=1e-2)
    got = np.argmin(pairwise(energy, params, x, others), axis=1)
    apart = (x[:, None] - others[None]) @ np.asarray(params["w"])
    np.testing.assert_array_equal(got, np.linalg.norm(apart, axis=-1).argmin(1))


def test_equal_energies_are_equal_objects_and_others_are_not():
    for make in (
        lambda: Regressor(linear),
        lambda: ImplicitRegressor(linear, sine),
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


def per_example(loss):
    """loss(w, x, y) of the eight points and its gradients in w."""
    return jax.jit(jax.vmap(jax.value_and_grad(loss), (None, 0, 0)))(WEIGHTS, POINTS, LABELS)


def with_bias(w):
    return {"w": w, "b": jnp.zeros(())}


@pytest.mark.parametrize(
    "energy, beta",
    [
        (LinearMachine(lambda y, r: -y * r / 2), 1.0),
        (LinearMachine(), 0.5),
        (Binary(linear), 0.5),
    ],
    ids=["halved", "linear machine", "binary"],
)
def test_logistic_regression(energy, beta, x64):
    """L = log(1 + exp(-y r)), dL/dw = -((y + 1) / 2 - sigmoid(r)) x, P(y) = sigmoid(y r)."""

    def energies(w, x):
        return jnp.stack([energy(with_bias(w), x, y) for y in BOTH])

    def loss(w, x, y):
        return beta * losses.nll(energy(with_bias(w), x, y), energies(w, x), beta)

    value, slopes = per_example(loss)
    sigmoid = 1 / (1 + np.exp(-R))
    np.testing.assert_allclose(value, np.log(1 + np.exp(-LABELS * R)))
    np.testing.assert_allclose(slopes, -((LABELS + 1) / 2 - sigmoid)[:, None] * POINTS)
    p = jax.jit(jax.vmap(lambda x: softargmin(energies(WEIGHTS, x), beta)))(POINTS)
    np.testing.assert_allclose(p, np.stack([1 - sigmoid, sigmoid], axis=1))


def test_linear_regression_and_the_perceptron_have_the_gradients_of_the_lecture(x64):
    """(r - y) x of the energy loss; the perceptron's update is (y - sign r) x."""

    def regression(w, x, y):
        regressor = Regressor(lambda p, x: linear(p, x)[None])
        return losses.energy_loss(regressor(with_bias(w), x, y[None]))

    def perceptron(w, x, y):
        energies = jnp.stack([LinearMachine()(with_bias(w), x, answer) for answer in BOTH])
        return losses.perceptron(LinearMachine()(with_bias(w), x, y), energies)

    np.testing.assert_allclose(per_example(regression)[1], (R - LABELS)[:, None] * POINTS)
    assert len(set(zip(LABELS, np.sign(R), strict=True))) == 4
    want = -(LABELS - np.sign(R))[:, None] * POINTS
    np.testing.assert_allclose(per_example(perceptron)[1], want, atol=1e-12)


def test_collapsed_parameters_minimise_the_energy_and_perceptron_losses_but_not_square_square():
    x = jnp.float32(RNG.normal(size=(4, 3)))
    nothing = jax.tree.map(jnp.zeros_like, jax.tree.map(jnp.float32, TWO))
    basis = {"g": nothing, "centers": jnp.zeros((5, 2))}
    matches = jax.jit(partial(pairwise, Matcher(linear)))(nothing, x, x[::-1])
    classes = jax.jit(partial(pairwise, RadialBasis(linear)))(basis, x, jnp.arange(5))
    for energies in (matches, classes):
        correct, wrong = energies[:, 0], energies[:, 1]
        np.testing.assert_array_equal(losses.energy_loss(correct), 0)
        np.testing.assert_array_equal(jax.jit(losses.perceptron)(correct, energies), 0)
        np.testing.assert_array_equal(losses.square_square(correct, wrong, 1.5), 1.5**2)


# What energies are made of.


def test_cosine_is_one_at_zero_vectors_with_gradient_zero_and_does_not_see_lengths(x64):
    a, b = np.random.default_rng(4).normal(size=(2, 3, 5))
    norms = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
    np.testing.assert_allclose(cosine(a, b), 1 - (a * b).sum(-1) / norms)
    for scale in (1e-200, 1e200):
        np.testing.assert_allclose(cosine(scale * a, b / 7), cosine(a, b))
    np.testing.assert_allclose(cosine(a, a), 0, atol=1e-12)
    np.testing.assert_allclose(cosine(a, -a), 2)
    zeros = jnp.zeros(5)
    for vectors in ((zeros, a[0]), (a[0], zeros), (zeros, zeros)):
        value, slopes = jax.jit(jax.value_and_grad(cosine, (0, 1)))(*vectors)
        assert value == 1
        for slope, vector, other in zip(slopes, vectors, vectors[::-1], strict=True):
            if not np.any(other):
                np.testing.assert_array_equal(slope, 0)
            assert np.isfinite(slope).all() and slope.shape == vector.shape


def test_gaussian_bumps_fall_with_the_distance_from_their_centers():
    rng = np.random.default_rng(5)
    x, centers = np.float32(rng.normal(size=(5, 3))), np.float32(rng.normal(size=(6, 3)))
    squares = ((x[:, None] - centers) ** 2).sum(-1)
    bumps = jax.jit(jax.vmap(lambda x: gaussian_bumps(x, centers, 0.7)))(x)
    np.testing.assert_allclose(bumps, np.exp(-squares / 0.98), rtol=1e-4)


def test_distances_of_scalars():
    y, r = jnp.float32([1, -1, 2]), jnp.float32([3, 0.5, 2])
    np.testing.assert_array_equal(squared(y, r), [2, 1.125, 0])
    np.testing.assert_array_equal(product(y, r), [-3, 0.5, -4])

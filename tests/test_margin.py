from dataclasses import replace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from enumerable import KEY, flat, gradient_of, total_gradient
from problems import (
    Batch,
    assert_trees_close,
    central_differences,
    largest_difference,
    numpy_descent,
    numpy_mirror,
    parabola,
    random_batch,
)

from spen_jax import (
    Box,
    GradientDescent,
    MirrorDescent,
    Predictor,
    Product,
    losses,
    minimize,
    minimize_best,
)
from spen_jax.objectives import loss_augmented, margin_loss, max_margin, offending

VARIANTS = ["margin", "slack", "perceptron", "contrastive"]
A = np.array([3.0, 4.0, 5.0, 6.0])  # more than the 2 of the squared error: E - D stays convex
MASK = np.array([[True, True, False, True], [False, True, True, True]] * 3)
ALL = np.ones_like(MASK)
# Costs of one label, and their slopes.
SQUARED = (lambda y, t: (y - t) ** 2), (lambda y, t: 2 * (y - t))
HAMMING = (lambda y, t: y + t - 2 * y * t), (lambda y, t: 1 - 2 * t)


def parabola_of_x(params, x, y):
    """An energy without features: b = W x."""
    return parabola(params, params["W"] @ x, y)


def problem():
    """Six examples, of which three have the lowest corner as their truth."""
    params, batch = {"W": np.random.default_rng(3).normal(0, 6, (4, 3)), "a": A}, random_batch(6)
    batch.y[:3] = (batch.x @ params["W"].T > A / 2)[:3]
    return params, batch


class Reference(NamedTuple):
    """What max-margin makes of a batch, in NumPy."""

    y_hat: np.ndarray
    correct: np.ndarray
    wrong: np.ndarray
    costs: np.ndarray
    each: np.ndarray
    residual: np.ndarray


def reference(find, variant, augmented, cost, params, batch, counts=ALL):
    """`find(slope)` is the answer, slope(y) that of what is searched; labels that do not count are 0 to all."""
    a, b = params["a"], batch.x @ params["W"].T
    truth, (d, slope_of_d) = batch.y * counts, cost

    def energy(y):
        y = y * counts
        return (a * y**2 / 2 - b * y).sum(1)

    def slope(y):
        down, away = (a * y - b) * counts, slope_of_d(y, truth) * counts
        if not augmented or variant in ("perceptron", "contrastive"):
            return down
        if variant == "margin":
            return down - away
        violation = (1 + energy(truth) - energy(y))[:, None]
        by_cost = (d(y, truth) * counts).sum(1, keepdims=True)
        return np.where(violation > 0, by_cost * down - violation * away, down)

    y = find(slope)
    correct, wrong, costs = energy(truth), energy(y), (d(y, truth) * counts).sum(1)
    residual = np.abs(y - np.clip(y - slope(y), 0, 1)).max(1)
    each = by_formula(variant, correct, wrong, costs)
    return Reference(y * counts, correct, wrong, costs, each, residual)


def partial_gradient(found, variant, batch, counts):
    """The gradient where the answers are constants, by the formula."""
    weight = (found.each > 0) * (found.costs if variant == "slack" else 1) / 6
    truth = batch.y * counts
    return {
        "W": np.einsum("b,bl,bd->ld", weight, found.y_hat - truth, batch.x),
        "a": weight @ (truth**2 - found.y_hat**2) / 2,
    }


def descent(slope):
    return numpy_descent(slope, np.full((6, 4), 0.4), 3, 0.1, 0.5)[-1]


def mirror(slope):
    return numpy_mirror(slope, np.full((6, 4), 0.4), 3, 0.1)[-1]


DESCENT = Predictor(parabola_of_x, start=0.4, solver=GradientDescent(0.1, 0.5), steps=3)
MIRROR = Predictor(parabola_of_x, start=0.4, solver=MirrorDescent(0.1), steps=3)


# Each variant by its formula


def by_formula(variant, correct, wrong, costs):
    return {
        "margin": np.maximum(0, costs - wrong + correct),
        "slack": costs * np.maximum(0, 1 - wrong + correct),
        "perceptron": np.maximum(0, correct - wrong),
        "contrastive": np.maximum(0, 1 - wrong + correct),
    }[variant]


def test_each_variant_has_its_own_value():
    correct, wrong, costs = np.array([[1.0, 1.5, 3.0], [2.0, 1.5, 4.0], [0.0, 5.0, 2.0]]).T
    table = {
        "margin": [2.5, 4.5, 0.0],
        "slack": [1.5, 6.0, 0.0],
        "perceptron": [0.0, 0.5, 0.0],
        "contrastive": [0.5, 1.5, 0.0],
    }
    for variant, want in table.items():
        np.testing.assert_allclose(margin_loss(variant, correct, wrong, costs), want)


@pytest.mark.parametrize(
    "variant, augmented, masked, options, cost",
    [
        ("margin", True, False, {}, SQUARED),  # the default cost
        ("margin", False, True, {"cost": losses.hamming}, HAMMING),
        ("slack", True, True, {"cost": losses.hamming}, HAMMING),
        ("slack", False, False, {"cost": losses.hamming}, HAMMING),
        ("perceptron", True, False, {"cost": losses.hamming}, HAMMING),
        ("contrastive", True, True, {"cost": losses.hamming}, HAMMING),
        ("contrastive", False, False, {}, SQUARED),
    ],
)
def test_value_gradient_and_metrics_are_the_formulas_at_the_answers_of_inference(
    variant, augmented, masked, options, cost, x64
):
    params, batch = problem()
    counts = MASK if masked else ALL
    found = reference(descent, variant, augmented, cost, params, batch, counts)
    assert 0 < np.count_nonzero(found.each) < 6 or variant == "contrastive"

    objective = max_margin(DESCENT, variant=variant, augmented=augmented, **options)
    data = {"x": batch.x, "y": np.where(counts, batch.y, np.nan)}
    data |= {"mask": MASK} if masked else {}
    gradient, metrics = gradient_of(objective, params, data)
    want = {
        "cost": found.costs.mean(),
        "gap": (found.wrong - found.correct).mean(),
        "loss": found.each.mean(),
        "residual": found.residual.mean(),
        "violated": (found.each > 0).mean(),
    }
    assert_trees_close(metrics, want, rtol=1e-6)
    partial = partial_gradient(found, variant, batch, counts)
    assert_trees_close(gradient, partial, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize(
    "variant, cost, predictor, find",
    [("margin", SQUARED, DESCENT, descent), ("slack", HAMMING, MIRROR, mirror)],
    ids=["margin", "slack"],
)
def test_the_unrolled_gradient_is_the_total_one_and_that_at_fixed_answers_is_not(
    variant, cost, predictor, find, x64
):
    params, batch = problem()

    def value(params):
        return reference(find, variant, True, cost, params, batch).each.mean()

    objective = max_margin(
        replace(predictor, differentiate="unrolled"),
        cost=losses.squared_error if cost is SQUARED else losses.hamming,
        variant=variant,
    )
    gradient, metrics = gradient_of(objective, params, batch)
    np.testing.assert_allclose(metrics["loss"], value(params))
    want = total_gradient(value, params)
    assert_trees_close(gradient, want, rtol=1e-6, atol=1e-7)
    found = reference(find, variant, True, cost, params, batch)
    assert largest_difference(partial_gradient(found, variant, batch, ALL), want) > 0.01


def constant_cost(y, truth):
    return jnp.ones(())


@pytest.mark.parametrize("plain", [False, True], ids=["augmented", "plain"])
def test_the_stopped_gradient_at_the_optimum_is_the_total_one(plain, x64):
    """The envelope theorem, inside and on bounds: what inference maximises has no slope in y_hat at its maximum."""
    params, batch = problem()
    away = np.zeros((6, 4)) if plain else 1 - 2 * batch.y

    def value(params):
        b = batch.x @ params["W"].T
        best = np.clip((b + away) / params["a"], 0, 1)
        energy = (params["a"] * (best**2 - batch.y**2) / 2 - b * (best - batch.y)).sum(1)
        cost = 1 if plain else (best + batch.y - 2 * best * batch.y).sum(1)
        return np.maximum(0, cost - energy).mean()

    # Plain inference minimises E alone: the slope of D would remain, were it not constant.
    cost = constant_cost if plain else losses.hamming
    predictor = Predictor(parabola_of_x, solver=GradientDescent(0.15, 0.3), steps=300)
    gradient, metrics = gradient_of(
        max_margin(predictor, cost=cost, augmented=not plain), params, batch
    )
    assert metrics["residual"] < 1e-9
    np.testing.assert_allclose(metrics["loss"], value(params))
    assert_trees_close(gradient, total_gradient(value, params), rtol=1e-6, atol=1e-7)


def test_the_stopped_slack_gradient_at_the_optimum_is_the_total_one(x64):
    params, batch = problem()
    predictor = Predictor(parabola_of_x, solver=MirrorDescent(0.02), steps=3000)
    objective = max_margin(predictor, variant="slack", cost=losses.hamming)
    gradient, metrics = gradient_of(objective, params, batch)
    assert metrics["residual"] < 1e-9
    want = central_differences(lambda params: objective(params, batch, KEY)[0], params)
    assert_trees_close(gradient, want, rtol=1e-6, atol=1e-7)


# What the most offending answer minimises

GRID = np.stack(np.meshgrid(*[np.linspace(0, 1, 101)] * 2), -1).reshape(-1, 2)


def ridges(params, context, y):
    return params["c"] @ jax.nn.softplus(params["C"] @ y) - context @ y


@pytest.mark.parametrize("variant", ["margin", "slack", "perceptron"])
def test_the_most_offending_answer_is_that_of_a_search_over_all_answers(variant, x64):
    rng = np.random.default_rng(3)
    params = {"c": rng.normal(0, 1.5, 3), "C": rng.normal(0, 1.5, (3, 2))}
    x, truth = rng.normal(0, 1.5, (12, 2)), (rng.random((12, 2)) < 0.5).astype(float)

    def energies(y):
        return np.logaddexp(0, y @ params["C"].T) @ params["c"] - np.sum(x[:, None] * y, -1)

    correct, on_grid = energies(truth[:, None])[:, 0], energies(GRID[None])
    costs = np.abs(GRID[None] - truth[:, None]).sum(-1)
    violations = by_formula(variant, correct[:, None], on_grid, costs)
    searched = offending(variant, ridges, losses.hamming)
    found = minimize_best(
        searched,
        params,
        (x, truth),
        rng.random((12, 6, 2)),
        solver=GradientDescent(0.01, 0.8),
        steps=400,
    )
    wrong = energies(np.asarray(found.y)[:, None])[:, 0]
    value = by_formula(variant, correct, wrong, np.abs(found.y - truth).sum(-1))
    # No worse than the best of the grid, and no better than the grid's own coarseness explains.
    np.testing.assert_array_less(violations.max(1) - 1e-5, value)
    np.testing.assert_allclose(value, violations.max(1), atol=2e-3)
    reported = value if variant == "slack" else value - correct
    violated = value > 1e-6
    assert violated.sum() >= 3
    np.testing.assert_allclose(-found.energy[violated], reported[violated], atol=1e-9)
    if variant != "perceptron":  # the loss bounds the cost of the prediction from above
        of_the_prediction = costs[np.arange(12), np.argmin(on_grid, axis=1)]
        assert np.all(value >= of_the_prediction - 1e-9)
        assert np.any(value > of_the_prediction + 0.1) and np.any(of_the_prediction > 0.5)


def test_slack_inference_leaves_points_where_the_margin_holds(x64):
    """There D [m]_+ is flat, and D m would lead it to the truth, where the loss is 0 whatever the energy."""

    def energy(params, context, y):  # the truth is (1, 1); (0, 1) offends, and the middle does not
        return 20 * y[0] * (1 - y[0]) + 0.3 * (1 - y[0]) + 5 * (1 - y[1])

    truth, start = jnp.ones((1, 2)), np.array([[0.3, 0.5]])
    assert energy(None, None, start[0]) > 1
    searched = offending("slack", energy, losses.squared_error)
    found = minimize(
        searched, None, (None, truth), start, solver=GradientDescent(0.01, 0.0), steps=300
    )
    np.testing.assert_allclose(found.energy, -(1 - 0.3))
    np.testing.assert_allclose(found.y, [[0, 1]])


def test_equal_arguments_give_the_same_offending_energy_so_that_nothing_compiles_twice():
    for variant in VARIANTS:
        first, second = (offending(variant, parabola, losses.hamming) for _ in range(2))
        assert first is second
    assert offending("margin", parabola, losses.hamming) is loss_augmented(parabola, losses.hamming)


# Any shape of y


def test_a_tree_of_any_shapes_is_the_same_numbers_in_a_row(x64):
    params, batch = problem()

    def of_tree(params, x, y):
        return parabola_of_x(params, x, jnp.concatenate([y["first"], y["rest"].reshape(3)]))

    found = reference(descent, "margin", True, SQUARED, params, batch)
    domain = Product({"first": Box(), "rest": Box()})
    objective = max_margin(replace(DESCENT, energy=of_tree, domain=domain))
    y = {"first": batch.y[:, :1], "rest": batch.y[:, 1:].reshape(6, 1, 3)}
    gradient, metrics = gradient_of(objective, params, Batch(batch.x, y))
    want = partial_gradient(found, "margin", batch, ALL)
    assert_trees_close(gradient, want, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(metrics["cost"], found.costs.mean())


# What is refused


def test_an_unknown_variant_is_refused_before_anything_is_traced():
    message = "variant must be one of 'margin', 'slack', 'perceptron', 'contrastive', got 'hinge'"
    with pytest.raises(ValueError, match=message):
        max_margin(Predictor(parabola), variant="hinge", augmented=False)
    with pytest.raises(ValueError, match=message):
        offending("hinge", parabola, losses.hamming)
    with pytest.raises(ValueError, match=message):
        margin_loss("hinge", 0.0, 0.0, 0.0)


def test_slack_rescaling_with_a_temperature_is_refused():
    with pytest.raises(ValueError, match="put the entropy into the energy"):
        max_margin(Predictor(parabola, temperature=0.1), variant="slack")


def test_with_a_temperature_the_energy_of_the_answer_is_less_its_entropy(x64):
    """E = -s.y - H(y) has its minimum -sum softplus(s) at sigmoid(s)."""
    params, batch = {"W": np.random.default_rng(0).normal(size=(3, 4))}, random_batch(5)
    predictor = Predictor(
        lambda params, x, y: -(x @ params["W"]) @ y, temperature=1.0, solver=MirrorDescent(1.0)
    )
    objective = max_margin(predictor, variant="perceptron", augmented=False)
    gradient, metrics = gradient_of(objective, params, batch)
    s = batch.x @ params["W"]
    want = np.logaddexp(0, s).sum(1) - (s * batch.y).sum(1)
    np.testing.assert_allclose(metrics["loss"], want.mean())
    want = batch.x.T @ (1 / (1 + np.exp(-s)) - batch.y) / 5
    np.testing.assert_allclose(flat(gradient), want.ravel())

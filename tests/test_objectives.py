import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from problems import (
    Batch,
    assert_trees_close,
    central_differences,
    largest_difference,
    parabola,
    random_batch,
    random_like,
    small_spen,
)

from spen_jax import (
    FeatureNetwork,
    GradientDescent,
    Implicit,
    MirrorDescent,
    Unrolled,
    end_to_end,
    feed_forward,
    loss_augmented,
    losses,
    max_margin,
    minimize,
    minimize_best,
)
from spen_jax.domains import binary_entropy
from spen_jax.objectives import increasing, margin_loss, offending

KEY = jax.random.key(0)
CONVERGED = {"solver": MirrorDescent(0.4), "steps": 300}
FEW = {"solver": GradientDescent(0.3, momentum=0.5), "steps": 4}
A = np.array([3.0, 4.0, 5.0, 6.0])  # more than the 2 of the squared error: E - D stays convex


def parabola_of_x(params, x, y):
    """An energy without features: b = W x."""
    return parabola(params, params["W"] @ x, y)


def linear(params, x):
    return x @ params["W"].T


def parabola_problem(n=5):
    return {"a": A, "W": np.random.default_rng(4).normal(0, 3, (4, 3))}, random_batch(n)


def entropic_spen(**settings):
    """A SPEN whose loss-augmented energy is convex: entropy curves by 4 or more, the cost by 2."""
    features, energy, params = small_spen(entropy=1.0, scale=0.6, **settings)
    return features, energy, params | {"c2": np.abs(params["c2"])}


def evaluate(objective, params, batch, key=KEY):
    return jax.jit(objective)(params, batch, key)


def gradient_of(objective, params, batch):
    """(gradient, metrics)"""
    return jax.jit(jax.grad(objective, has_aux=True))(params, batch, KEY)


def differences_of(objective, params, batch):
    return central_differences(lambda params: objective(params, batch, KEY)[0], params)


# The gradient of the max-margin loss


def constant_cost(y, truth):
    return jnp.ones(())


@pytest.mark.parametrize(
    "cost, augmented",
    [
        (losses.squared_error, True),
        (losses.hamming, True),
        # Plain inference minimises E alone: the slope of D would remain.
        (constant_cost, False),
    ],
)
def test_stopped_max_margin_gradient_at_the_optimum_is_the_total_one(cost, augmented, x64):
    """The envelope theorem: D(y_hat) - E(y_hat) has no slope in y_hat at the minimum of E - D."""
    features, energy, params = entropic_spen(sees_features=True)
    batch = random_batch(3)
    objective = max_margin(energy, features, cost=cost, augmented=augmented, **CONVERGED)
    gradient, metrics = gradient_of(objective, params, batch)
    assert metrics["residual"] < 1e-9 and metrics["violated"] == 1
    want = differences_of(objective, params, batch)
    assert_trees_close(gradient, want, rtol=1e-6, atol=1e-8)


def test_stopped_max_margin_gradient_is_the_total_one_on_active_bounds(x64):
    params, batch = parabola_problem()
    objective = max_margin(parabola_of_x, solver=GradientDescent(0.15, 0.3), steps=300)
    gradient, _ = gradient_of(objective, params, batch)
    want = differences_of(objective, params, batch)
    assert_trees_close(gradient, want, rtol=1e-6, atol=1e-8)


def test_stopped_max_margin_gradient_away_from_the_optimum_is_only_a_partial_one(x64):
    params, batch = parabola_problem()
    objective = max_margin(parabola_of_x, **FEW)
    gradient, _ = gradient_of(objective, params, batch)
    want = differences_of(objective, params, batch)
    assert largest_difference(gradient, want) > 0.01


@pytest.mark.parametrize(
    "solver, augmented",
    [(GradientDescent(0.1, momentum=0.5), True), (MirrorDescent(0.4), False)],
)
def test_unrolled_max_margin_gradient_is_the_total_one_anywhere(solver, augmented, x64):
    features, energy, params = small_spen(n_labels=3, sees_features=True)
    batch = random_batch(5, n_labels=3, seed=8)
    unrolled = max_margin(
        energy,
        features,
        augmented=augmented,
        start=0.4,
        solver=solver,
        steps=4,
        differentiate="unrolled",
    )
    gradient, metrics = gradient_of(unrolled, params, batch)
    assert 0 < metrics["violated"] < 1 and metrics["residual"] > 0.01
    want = differences_of(unrolled, params, batch)
    assert_trees_close(gradient, want, rtol=1e-6, atol=1e-8)


# The value of the max-margin loss


def test_max_margin_loss_equals_a_loop_over_examples_and_labels(x64):
    features, energy, params = small_spen()
    batch = random_batch(6)
    context = features(params, batch.x)
    augmented = loss_augmented(energy, losses.squared_error)
    start = jnp.full(batch.y.shape, 0.5)
    y_hat = np.asarray(minimize(augmented, params, (context, batch.y), start, **FEW).y)
    each, gaps, costs = [], [], []
    for n in range(6):
        one = jax.tree.map(lambda a, n=n: a[n], context)
        costs.append(sum((y_hat[n, i] - batch.y[n, i]) ** 2 for i in range(4)))
        gaps.append(float(energy(params, one, y_hat[n]) - energy(params, one, batch.y[n])))
        each.append(max(0.0, costs[n] - gaps[n]))
    assert 0 < np.count_nonzero(each) < 6

    loss, metrics = evaluate(max_margin(energy, features, **FEW), params, batch)
    found = minimize(augmented, params, (context, batch.y), start, **FEW)
    want = {
        "loss": sum(each) / 6,
        "cost": sum(costs) / 6,
        "gap": sum(gaps) / 6,
        "violated": np.count_nonzero(each) / 6,
        "residual": found.residual.mean(),
    }
    np.testing.assert_allclose(loss, want["loss"])
    assert_trees_close(metrics, want, rtol=1e-7)


def test_max_margin_with_plain_inference_compares_with_the_minimiser_of_the_energy(x64):
    params, batch = parabola_problem()
    objective = max_margin(parabola_of_x, augmented=False, solver=GradientDescent(0.2, 0.3))
    b = batch.x @ params["W"].T
    best = np.clip(b / A, 0, 1)

    def energy(y):
        return (A * y**2 / 2 - b * y).sum(1)

    cost = ((best - batch.y) ** 2).sum(1)
    want = np.maximum(0, cost - energy(best) + energy(batch.y)).mean()
    np.testing.assert_allclose(evaluate(objective, params, batch)[0], want, rtol=1e-4)


def test_max_margin_with_no_cost_is_the_perceptron_loss(x64):
    params, batch = parabola_problem()
    b = batch.x @ params["W"].T
    best = np.clip(b / A, 0, 1)

    def no_cost(y, truth):
        return jnp.zeros(())

    for augmented in (True, False):
        objective = max_margin(
            parabola_of_x,
            cost=no_cost,
            augmented=augmented,
            solver=GradientDescent(0.15, 0.3),
            steps=300,
        )
        gradient, metrics = gradient_of(objective, params, batch)
        want = (A * (batch.y**2 - best**2) / 2 - b * (batch.y - best)).sum(1).mean()
        np.testing.assert_allclose(metrics["loss"], want)
        np.testing.assert_allclose(gradient["a"], ((batch.y**2 - best**2) / 2).mean(0))
        np.testing.assert_allclose(gradient["W"], (best - batch.y).T @ batch.x / 5, atol=1e-9)
        assert metrics["cost"] == 0


def test_max_margin_loss_bounds_the_cost_of_the_prediction_from_above(x64):
    params, batch = parabola_problem(20)
    b = batch.x @ params["W"].T
    cost = ((np.clip(b / A, 0, 1) - batch.y) ** 2).sum(1)
    objective = max_margin(parabola_of_x, solver=GradientDescent(0.15, 0.3), steps=300)
    each = jax.jit(jax.vmap(lambda x, y: objective(params, Batch(x[None], y[None]), KEY)[0]))
    assert np.all(each(*batch) >= cost - 1e-9)


def test_the_default_cost_is_the_squared_error(x64):
    params, batch = parabola_problem()
    by_default, named, other = (
        float(evaluate(max_margin(parabola_of_x, **cost, **FEW), params, batch)[0])
        for cost in ({}, {"cost": losses.squared_error}, {"cost": losses.hamming})
    )
    assert by_default == named != other


# Its variants

VARIANTS = ["margin", "slack", "perceptron", "contrastive"]
GRID = np.stack(np.meshgrid(*[np.linspace(0, 1, 101)] * 2), -1).reshape(-1, 2)


def by_formula(variant, correct, wrong, costs):
    return {
        "margin": np.maximum(0, costs - wrong + correct),
        "slack": costs * np.maximum(0, 1 - wrong + correct),
        "perceptron": np.maximum(0, correct - wrong),
        "contrastive": np.maximum(0, 1 - wrong + correct),
    }[variant]


def two_labels(n=12, scale=1.5):
    """A SPEN of two labels; of each example all energies and costs on a grid of y, and the context."""
    features, energy, params = small_spen(n_labels=2, sees_features=True, scale=scale, seed=3)
    batch = random_batch(n, n_labels=2, seed=5)
    context = features(params, batch.x)
    over_grid = jax.vmap(energy, (None, None, 0))
    on_grid = jax.jit(jax.vmap(over_grid, (None, 0, None)))(params, context, jnp.asarray(GRID))
    correct = jax.vmap(energy, (None, 0, 0))(params, context, batch.y)
    costs = np.abs(GRID[None] - batch.y[:, None]).sum(-1)
    return (features, energy, params), batch, context, *map(np.asarray, (correct, on_grid, costs))


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


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_most_offending_answer_is_that_of_a_search_over_all_answers(variant, x64):
    (_, energy, params), batch, context, correct, on_grid, costs = two_labels()
    violations = by_formula(variant, correct[:, None], on_grid, costs)
    if variant in ("perceptron", "contrastive"):
        assert np.any(violations.max(1) > 0)
    searched = offending(variant, energy, losses.hamming)
    starts = np.random.default_rng(0).random((12, 8, 2))
    found = minimize_best(
        searched, params, (context, batch.y), starts, solver=GradientDescent(0.005, 0.8), steps=800
    )
    wrong = jax.vmap(energy, (None, 0, 0))(params, context, found.y)
    cost = losses.hamming(found.y, batch.y)
    value = by_formula(variant, correct, np.asarray(wrong), np.asarray(cost))
    # No worse than the best of the grid, and no better than the grid's own coarseness explains.
    np.testing.assert_array_less(violations.max(1) - 1e-5, value)
    np.testing.assert_allclose(value, violations.max(1), atol=2e-3)
    reported = {
        "margin": value - correct,
        "slack": value,
        "perceptron": value - correct,
        "contrastive": value - 1 - correct,
    }[variant]
    violated = value > 1e-6
    assert violated.sum() >= 3
    np.testing.assert_allclose(-found.energy[violated], reported[violated], atol=1e-9)


def test_slack_inference_leaves_points_where_the_margin_holds(x64):
    """There D [m]_+ is flat, and D m would lead it to the truth, where the loss is 0 whatever the energy."""

    def energy(params, context, y):  # the truth is (1, 1); (0, 1) offends, and the middle does not
        return 20 * y[0] * (1 - y[0]) + 0.3 * (1 - y[0]) + 5 * (1 - y[1])

    truth, start = jnp.ones((1, 2)), jnp.array([[0.3, 0.5]])
    assert energy(None, None, start[0]) > 1 + energy(None, None, truth[0])
    searched = offending("slack", energy, losses.squared_error)
    found = minimize(
        searched, None, (None, truth), start, solver=GradientDescent(0.01, 0.0), steps=300
    )
    np.testing.assert_allclose(found.energy, -(1 - 0.3))
    np.testing.assert_allclose(found.y, [[0, 1]])


@pytest.mark.parametrize("variant", VARIANTS)
def test_at_the_most_offending_answer_loss_and_gradient_are_those_of_the_formula(variant, x64):
    (features, energy, params), batch, context, correct, on_grid, costs = two_labels()
    worst = np.argmax(by_formula(variant, correct[:, None], on_grid, costs), axis=1)
    y_hat = jnp.asarray(GRID[worst])

    def formula(params):
        energies = jax.vmap(energy, (None, 0, 0))
        context = features(params, batch.x)
        right, wrong = energies(params, context, batch.y), energies(params, context, y_hat)
        cost = jnp.sum(jnp.abs(y_hat - batch.y), axis=1)
        margin = {"margin": cost, "perceptron": 0}.get(variant, 1)
        each = jnp.maximum(0, margin - wrong + right) * (cost if variant == "slack" else 1)
        return jnp.mean(each)

    there = {"start": lambda context, key: y_hat, "steps": 0}
    objective = max_margin(energy, features, cost=losses.hamming, variant=variant, **there)
    gradient, metrics = gradient_of(objective, params, batch)
    value, want = jax.jit(jax.value_and_grad(formula))(params)
    assert value > 0.1
    np.testing.assert_allclose(metrics["loss"], value)
    assert_trees_close(gradient, want, rtol=1e-9, atol=1e-12)

    at_worst = np.arange(12), worst
    wrong, cost = on_grid[at_worst], costs[at_worst]
    np.testing.assert_allclose(metrics["gap"], np.mean(wrong - correct))
    np.testing.assert_allclose(metrics["cost"], np.mean(cost))
    each = by_formula(variant, correct, wrong, cost)
    np.testing.assert_allclose(metrics["violated"], np.mean(each > 0), rtol=1e-6)
    if variant in ("margin", "slack"):
        of_the_prediction = costs[np.arange(12), np.argmin(on_grid, axis=1)]
        assert np.all(each >= of_the_prediction - 1e-12)
        assert np.any(each > of_the_prediction + 0.1) and np.any(of_the_prediction > 0.5)


@pytest.mark.parametrize(
    "variant, augmented",
    [("slack", True), ("slack", False), ("perceptron", False), ("contrastive", True)],
)
def test_each_variant_is_its_formula_at_the_answer_of_its_own_inference(variant, augmented, x64):
    (features, energy, params), batch, context, correct, *_ = two_labels()
    truth = jnp.asarray(batch.y)
    searched, given = energy, context
    if augmented:
        searched, given = offending(variant, energy, losses.hamming), (context, truth)
    y_hat = minimize(searched, params, given, jnp.full((12, 2), 0.5), **FEW).y
    wrong = np.asarray(jax.vmap(energy, (None, 0, 0))(params, context, y_hat))
    cost = np.asarray(losses.hamming(y_hat, truth))
    options = {"cost": losses.hamming, "variant": variant, "augmented": augmented, **FEW}
    loss, metrics = evaluate(max_margin(energy, features, **options), params, batch)
    np.testing.assert_allclose(loss, by_formula(variant, correct, wrong, cost).mean())
    np.testing.assert_allclose(metrics["gap"], np.mean(wrong - correct))


def test_the_perceptron_is_margin_rescaling_without_a_cost(x64):
    features, energy, params = small_spen()
    batch = random_batch(6)

    def no_cost(y, truth):
        return jnp.zeros(())

    want = gradient_of(max_margin(energy, features, cost=no_cost, **FEW), params, batch)
    assert want[1]["loss"] > 0
    for augmented in (True, False):
        got = gradient_of(
            max_margin(energy, features, variant="perceptron", augmented=augmented, **FEW),
            params,
            batch,
        )
        assert got[1].pop("cost") > 0
        assert_trees_close(got[0], want[0], rtol=1e-12)
        for name, value in got[1].items():
            np.testing.assert_allclose(value, want[1][name], rtol=1e-12)


def test_the_contrastive_variant_is_slack_rescaling_with_a_cost_of_one(x64):
    features, energy, params = small_spen()
    batch = random_batch(6)
    slack = max_margin(energy, features, variant="slack", cost=constant_cost, **FEW)
    want = gradient_of(slack, params, batch)
    assert want[1]["loss"] > 0
    for augmented in (True, False):
        options = {"variant": "contrastive", "cost": constant_cost, "augmented": augmented}
        got = gradient_of(max_margin(energy, features, **options, **FEW), params, batch)
        assert_trees_close(got, want, rtol=1e-9, atol=1e-12)


def test_stopped_slack_gradient_at_the_optimum_is_the_total_one(x64):
    features, energy, params = entropic_spen(sees_features=True)
    batch = random_batch(3)
    objective = max_margin(
        energy, features, variant="slack", solver=MirrorDescent(0.05), steps=3000
    )
    gradient, metrics = gradient_of(objective, params, batch)
    assert metrics["residual"] < 1e-9 and metrics["violated"] == 1
    want = differences_of(objective, params, batch)
    assert_trees_close(gradient, want, rtol=1e-6, atol=1e-8)


def test_unrolled_slack_gradient_is_the_total_one_anywhere(x64):
    features, energy, params = small_spen(n_labels=3, sees_features=True)
    objective = max_margin(
        energy,
        features,
        variant="slack",
        start=0.4,
        solver=MirrorDescent(0.3),
        steps=4,
        differentiate="unrolled",
    )
    batch = random_batch(5, n_labels=3, seed=8)
    gradient, metrics = gradient_of(objective, params, batch)
    assert metrics["violated"] > 0 and metrics["residual"] > 0.01
    want = differences_of(objective, params, batch)
    assert_trees_close(gradient, want, rtol=1e-6, atol=1e-8)


def test_equal_arguments_give_the_same_offending_energy_so_that_nothing_compiles_twice():
    for variant in VARIANTS:
        first, second = (offending(variant, parabola, losses.hamming) for _ in range(2))
        assert first is second
    assert offending("margin", parabola, losses.hamming) is loss_augmented(parabola, losses.hamming)


def test_an_unknown_variant_is_refused_before_anything_is_traced():
    message = "variant must be one of 'margin', 'slack', 'perceptron', 'contrastive', got 'hinge'"
    with pytest.raises(ValueError, match=message):
        max_margin(parabola, variant="hinge", augmented=False)
    with pytest.raises(ValueError, match=message):
        offending("hinge", parabola, losses.hamming)
    with pytest.raises(ValueError, match=message):
        margin_loss("hinge", 0.0, 0.0, 0.0)


# Learning through the steps


@pytest.mark.parametrize("weights", [None, (0.1, 0.0, 0.5, 2.0)])
def test_end_to_end_loss_and_gradient_are_those_of_the_weighted_points(weights, x64):
    features, energy, params = small_spen(entropy=0.5)
    batch = random_batch(4)
    settings = {"solver": MirrorDescent(0.7), "steps": 3, "start": 0.3}
    objective = end_to_end(energy, features, weights=weights, **settings)
    gradient, metrics = gradient_of(objective, params, batch)
    path = np.asarray(
        minimize(
            energy,
            params,
            features(params, batch.x),
            jnp.full(batch.y.shape, 0.3),
            solver=MirrorDescent(0.7),
            steps=3,
            trace="y",
        ).trace["y"]
    )
    by_hand = 0.0
    for n in range(4):
        for t, w in enumerate(weights or (0, 0, 0, 1)):
            for i in range(4):
                p = path[n, t, i] if batch.y[n, i] else 1 - path[n, t, i]
                by_hand -= w * np.log(p) / 4
    np.testing.assert_allclose(metrics["loss"], by_hand)
    assert set(metrics) == {"loss", "last", "residual", "converged"}
    want = differences_of(objective, params, batch)
    assert_trees_close(gradient, want, rtol=1e-6, atol=1e-8)


def test_end_to_end_learns_the_steps_of_inference_too(x64):
    params, batch = parabola_problem()
    params = {**params, "log_step": np.log([0.3, 0.2, 0.1, 0.05])}

    def energy(params, x, y):
        return parabola_of_x({k: v for k, v in params.items() if k != "log_step"}, x, y)

    objective = end_to_end(
        energy,
        loss=losses.squared_error,
        solver=GradientDescent(0.3, momentum=0.0),
        steps=4,
        settings=lambda params: {"step_size": jnp.exp(params["log_step"])},
    )
    gradient, _ = gradient_of(objective, params, batch)
    assert np.all(np.asarray(gradient["log_step"]) != 0)
    assert_trees_close(gradient, differences_of(objective, params, batch), rtol=1e-6, atol=1e-8)


def test_weights_of_steps_need_steps_that_are_differentiated():
    with pytest.raises(ValueError, match="unrolled steps, got 'implicit'"):
        end_to_end(parabola_of_x, steps=1, weights=[0, 1], differentiate="implicit")


def test_by_default_only_the_last_point_counts(x64):
    params, batch = parabola_problem()
    settings = {"loss": losses.squared_error, **FEW}

    def run(**weights):
        return evaluate(end_to_end(parabola_of_x, **settings, **weights), params, batch)

    last, metrics = run()
    explicit, same = run(weights=[0, 0, 0, 0, 1])
    first, rest = run(weights=[1, 0, 0, 0, 0])
    np.testing.assert_allclose(last, explicit)
    assert first == 4 * 0.5**2
    for got in (metrics, same, rest):
        np.testing.assert_allclose(got["last"], last)


@pytest.mark.parametrize("n", [0, 4, 6])
def test_end_to_end_refuses_weights_for_another_number_of_points(n):
    with pytest.raises(ValueError, match=rf"steps \+ 1 = 5 numbers.* got {n}"):
        end_to_end(parabola, weights=[1.0] * n, steps=4)


@pytest.mark.parametrize("steps, want", [(1, [0, 1]), (3, [0, 2 / 11, 3 / 11, 6 / 11])])
def test_increasing_weights_are_one_over_the_steps_left_and_sum_to_one(steps, want):
    np.testing.assert_allclose(increasing(steps), want)


def test_increasing_weights_need_a_step():
    with pytest.raises(ValueError, match="steps of 1 or more, got 0"):
        increasing(0)


@pytest.mark.parametrize("weights", [None, increasing(3)], ids=["last", "increasing"])
def test_slow_convergence_costs_the_squared_length_of_the_last_step(weights, x64):
    features, energy, params = small_spen(entropy=0.5)
    batch = random_batch(4)
    settings = {"solver": MirrorDescent(0.7), "steps": 3}
    penalised, plain = (
        end_to_end(energy, features, weights=weights, convergence=c, **settings) for c in (2.5, 0.0)
    )
    gradient, metrics = gradient_of(penalised, params, batch)
    start, context = jnp.full(batch.y.shape, 0.5), features(params, batch.x)
    path = minimize(energy, params, context, start, trace="y", **settings).trace["y"]
    length = np.mean([np.linalg.norm(p[3] - p[2]) ** 2 for p in path])
    without, _ = evaluate(plain, params, batch)
    assert length > 0.001
    np.testing.assert_allclose(metrics["loss"], without + 2.5 * length)
    want = differences_of(penalised, params, batch)
    assert_trees_close(gradient, want, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"convergence": 1.0, "differentiate": "implicit"}, "unrolled steps, got 'implicit'"),
        ({"convergence": -1.0}, "convergence must be 0 or more"),
        ({"convergence": 1.0, "steps": 0}, "needs a step"),
        ({"differentiate": "stopped"}, "has no gradient"),
        ({"stop_early": True}, 'needs differentiate="implicit"'),
        ({"stop_early": True, "differentiate": Unrolled(last=2)}, 'differentiate="implicit"'),
    ],
)
def test_end_to_end_refuses_options_that_do_not_go_together(options, message):
    with pytest.raises(ValueError, match=message):
        end_to_end(parabola_of_x, **options)


# Learning through the minimiser


def parabola_with_entropy(params, x, y):
    return parabola_of_x(params, x, y) - binary_entropy(y)


@pytest.mark.parametrize("interior", [True, False], ids=["interior", "active bounds"])
def test_the_implicit_gradient_is_that_of_converged_unrolled_steps(interior, x64):
    energy = parabola_with_entropy if interior else parabola_of_x
    solver = MirrorDescent(0.2) if interior else GradientDescent(0.15, 0.3)
    params, batch = parabola_problem()
    options = {"loss": losses.squared_error, "solver": solver, "steps": 300, "tolerance": 1e-9}
    unrolled = gradient_of(end_to_end(energy, **options), params, batch)
    mode = Implicit(tolerance=1e-11)
    implicit = end_to_end(energy, differentiate=mode, stop_early=not interior, **options)
    gradient, metrics = gradient_of(implicit, params, batch)
    assert metrics["converged"] == 1
    assert largest_difference(gradient, jax.tree.map(jnp.zeros_like, gradient)) > 0.01
    assert_trees_close(gradient, unrolled[0], rtol=1e-6, atol=1e-8)
    y = minimize(energy, params, batch.x, jnp.full(batch.y.shape, 0.5), solver=solver, steps=300).y
    on_bounds = np.mean((y == 0) | (y == 1))
    assert on_bounds == 0 if interior else 0 < on_bounds < 1


def test_the_metrics_show_what_share_of_the_examples_converged(x64):
    params, batch = parabola_problem(20)
    options = {"solver": GradientDescent(0.3, 0.0), "steps": 4, "tolerance": 0.05}
    found = minimize(parabola_of_x, params, batch.x, jnp.full(batch.y.shape, 0.5), **options)
    share = np.mean(np.asarray(found.residual) <= 0.05)
    assert 0 < share < 1
    for mode in ("unrolled", "implicit"):
        objective = end_to_end(
            parabola_of_x, loss=losses.squared_error, differentiate=mode, **options
        )
        assert abs(evaluate(objective, params, batch)[1]["converged"] - share) < 1e-6


# A network alone


def test_feed_forward_loss_is_the_mean_cross_entropy_of_examples(x64):
    network = FeatureNetwork(4, (5,))
    batch = random_batch(6)
    params = random_like(jax.eval_shape(network.init, KEY, batch.x)["params"])

    def logits(params, x):
        return network.apply({"params": params}, x)

    gradient, metrics = gradient_of(feed_forward(logits), params, batch)

    def theirs(params):
        z = logits(params, batch.x)
        return optax.sigmoid_binary_cross_entropy(z, batch.y).sum(1).mean()

    loss, their_gradient = jax.jit(jax.value_and_grad(theirs))(params)
    assert set(metrics) == {"loss"}
    np.testing.assert_allclose(metrics["loss"], loss)
    assert_trees_close(gradient, their_gradient, rtol=1e-6, atol=1e-9)


# What all share


def one_example_cost(y, truth):
    """Written for one example, as `minimize` has energies: it sums over all that it is given."""
    return jnp.sum((y - truth) ** 2)


@pytest.mark.parametrize(
    "make",
    [
        lambda cost: max_margin(parabola_of_x, cost=cost, **FEW),
        lambda cost: end_to_end(parabola_of_x, loss=cost, **FEW),
        lambda cost: end_to_end(parabola_of_x, loss=cost, weights=[1] * 5, **FEW),
        lambda cost: feed_forward(linear, cost),
    ],
    ids=["max_margin", "end_to_end", "end_to_end weighted", "feed_forward"],
)
def test_a_cost_written_for_one_example_gives_the_mean_over_the_batch(make, x64):
    params, batch = parabola_problem()
    got, want = (
        evaluate(make(cost), params, batch)[0] for cost in (one_example_cost, losses.squared_error)
    )
    np.testing.assert_allclose(got, want)


MAKERS = [
    lambda **kw: max_margin(parabola, **kw),
    lambda **kw: end_to_end(parabola, **kw),
]


@pytest.mark.parametrize("make", MAKERS, ids=["max_margin", "end_to_end"])
def test_features_get_the_key_if_they_have_a_place_for_it(make):
    params, batch = parabola_problem()

    def noisy(params, x, key):
        return linear(params, x) + jax.random.normal(key, (len(x), 4))

    def optional(params, x, key=None):
        return noisy(params, x, key)

    def losses_with_two_keys(features):
        objective = jax.jit(make(features=features, **FEW))
        return [float(objective(params, batch, jax.random.key(i))[0]) for i in (0, 1)]

    first, second = losses_with_two_keys(linear)
    assert first == second
    first, second = losses_with_two_keys(noisy)
    assert first != second
    assert losses_with_two_keys(optional) == [first, second]


@pytest.mark.parametrize("make", MAKERS, ids=["max_margin", "end_to_end"])
def test_inference_may_start_at_a_constant_or_where_a_function_says(make):
    params, batch = parabola_problem()

    def losses_with_two_keys(start):
        objective = jax.jit(make(features=linear, start=start, **FEW))
        return [float(objective(params, batch, jax.random.key(i))[0]) for i in (0, 1)]

    def constant(context, key):
        return jnp.full(context.shape, 0.2)

    def random(context, key):
        return jax.random.uniform(key, context.shape)

    first, second = losses_with_two_keys(constant)
    assert first == second == losses_with_two_keys(0.2)[0] != losses_with_two_keys(0.9)[0]
    first, second = losses_with_two_keys(random)
    assert first != second


@pytest.mark.parametrize("make", MAKERS, ids=["max_margin", "end_to_end"])
def test_features_and_starts_get_different_keys_and_starts_get_the_context(make):
    params, batch = parabola_problem()
    seen = []

    def features(params, x, key):
        jax.debug.callback(lambda *a: seen.append(a), jax.random.key_data(key), ordered=True)
        return linear(params, x)

    def start(context, key):
        key = jax.random.key_data(key)
        jax.debug.callback(lambda *a: seen.append(a), key, context, ordered=True)
        return jnp.full(context.shape, 0.5)

    evaluate(make(features=features, start=start, **FEW), params, batch)
    jax.effects_barrier()
    (dropout_key,), (start_key, context) = seen
    assert dropout_key.tolist() != start_key.tolist()
    np.testing.assert_allclose(context, batch.x @ params["W"].T, rtol=1e-5)


def test_without_features_the_energy_sees_x_itself(x64):
    params, batch = parabola_problem()
    for make in (max_margin, end_to_end):
        alone = evaluate(make(parabola_of_x, **FEW), params, batch)
        with_features = evaluate(make(parabola, linear, **FEW), params, batch)
        assert_trees_close(alone, with_features, rtol=1e-9)


# The pages of the documentation


def page(name):
    """What the page defines, its blocks run in order."""
    text = (Path(__file__).parents[1] / "docs" / "objectives" / f"{name}.md").read_text()
    names = {}
    exec("\n".join(re.findall(r"```python\n(.*?)```", text, re.DOTALL)), names)
    return names


def test_the_page_on_max_margin_runs_as_printed():
    names = page("max_margin")
    assert 0 < names["metrics"]["violated"] <= 1
    got = evaluate(names["slack"], names["learned"], names["data"].train)[0]
    assert got < evaluate(names["slack"], names["params"], names["data"].train)[0] - 1
    assert np.mean(names["each"]) > 0.1


def test_the_page_on_end_to_end_learning_runs_as_printed():
    names = page("end_to_end")
    objective, both = names["objective"], names["both"]
    before = {"model": names["params"], "log_step": np.log(np.full(5, 0.5, np.float32))}
    after = evaluate(objective, both, names["data"].train)[0]
    assert after < 0.7 * evaluate(objective, before, names["data"].train)[0]
    assert np.all(np.abs(both["log_step"] - before["log_step"]) > 0.01)


def test_the_page_on_implicit_differentiation_runs_as_printed():
    names = page("implicit")
    assert names["metrics"]["converged"] == 1
    before = evaluate(names["objective"], names["params"], names["data"].train)[0]
    assert names["metrics"]["loss"] < 0.7 * before

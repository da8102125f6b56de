import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from enumerable import KEY, gradient_of, total_gradient
from problems import (
    Batch,
    assert_trees_close,
    numpy_descent,
    numpy_mirror,
    parabola,
    random_batch,
)

from spen_jax import (
    Box,
    GradientDescent,
    Implicit,
    MirrorDescent,
    Predictor,
    Product,
    Reals,
    Simplex,
    Unrolled,
    losses,
)
from spen_jax.objectives import end_to_end, feed_forward, increasing, max_margin

A = np.array([3.0, 4.0, 5.0, 6.0])


def parabola_of_x(params, x, y):
    """An energy without features: b = W x."""
    return parabola(params, params["W"] @ x, y)


def linear(params, x):
    return x @ params["W"].T


def problem(n=5):
    return {"W": np.random.default_rng(4).normal(0, 3, (4, 3)), "a": A}, random_batch(n)


def cross_entropy(y, truth):
    return -np.sum(truth * np.log(y) + (1 - truth) * np.log(1 - y), axis=-1)


# Learning through the steps


def test_by_default_it_is_the_cross_entropy_of_the_last_point(x64):
    params, batch = problem()
    predictor = Predictor(parabola_of_x, start=0.3, solver=MirrorDescent(0.2), steps=3)
    gradient, metrics = gradient_of(end_to_end(predictor), params, batch)

    def last(params):
        b = batch.x @ params["W"].T
        return numpy_mirror(lambda y: params["a"] * y - b, np.full((5, 4), 0.3), 3, 0.2)[-1]

    def value(params):
        return cross_entropy(last(params), batch.y).mean()

    want = {"loss": value(params), "last": value(params)}
    assert_trees_close(metrics, want, rtol=1e-7)
    assert_trees_close(gradient, total_gradient(value, params), rtol=1e-6, atol=1e-7)


def path_of(params, batch):
    """Projected gradient descent with a size for each step, in NumPy."""
    sizes, b = iter(np.exp(params["log_step"])), batch.x @ params["W"].T
    start = np.full(b.shape, 0.5)
    return numpy_descent(lambda y: next(sizes) * (params["a"] * y - b), start, 3, 1.0, 0.0)


def test_weighted_points_a_long_last_step_and_learned_steps_have_their_part_in_it(x64):
    params, batch = problem()
    params["log_step"] = np.log([0.1, 0.05, 0.2])
    weights = (0.1, 0.0, 0.5, 2.0)

    def energy(params, x, y):
        return parabola_of_x({"W": params["W"], "a": params["a"]}, x, y)

    predictor = Predictor(
        energy,
        start=0.5,
        solver=GradientDescent(0.3, momentum=0.0),
        steps=3,
        settings=lambda params: {"step_size": jnp.exp(params["log_step"])},
        tolerance=0.05,
    )
    objective = end_to_end(predictor, loss=losses.squared_error, weights=weights, convergence=2.5)
    gradient, metrics = gradient_of(objective, params, batch)

    def length(path):
        return ((path[3] - path[2]) ** 2).sum(1).mean()

    def value(params):
        path = path_of(params, batch)
        each = ((path - batch.y) ** 2).sum(-1).mean(1)
        return weights @ each + 2.5 * length(path)

    path = path_of(params, batch)
    assert length(path) > 0.01
    np.testing.assert_allclose(metrics["loss"], value(params))
    np.testing.assert_allclose(metrics["last"], ((path[3] - batch.y) ** 2).sum(1).mean())
    assert np.all(np.asarray(gradient["log_step"]) != 0)
    assert_trees_close(gradient, total_gradient(value, params), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("steps, want", [(1, [0, 1]), (3, [0, 2 / 11, 3 / 11, 6 / 11])])
def test_increasing_weights_are_one_over_the_steps_left_and_sum_to_one(steps, want):
    np.testing.assert_allclose(increasing(steps), want)


def test_increasing_weights_need_a_step():
    with pytest.raises(ValueError, match="steps of 1 or more, got 0"):
        increasing(0)


@pytest.mark.parametrize("n", [0, 4, 6])
def test_weights_for_another_number_of_points_are_refused(n):
    with pytest.raises(ValueError, match=rf"steps \+ 1 = 5 numbers.* got {n}"):
        end_to_end(Predictor(parabola, steps=4), weights=[1.0] * n)


@pytest.mark.parametrize(
    "settings, options, message",
    [
        ({"differentiate": "implicit"}, {"convergence": 1.0}, "unrolled steps, got 'implicit'"),
        ({"differentiate": "implicit", "steps": 1}, {"weights": [0, 1]}, "unrolled steps, got"),
        ({}, {"convergence": -1.0}, "convergence must be 0 or more"),
        ({"steps": 0}, {"convergence": 1.0}, "needs a step"),
        ({"differentiate": "stopped"}, {}, "has no gradient"),
        ({"stop_early": True}, {}, 'needs differentiate="implicit"'),
        (
            {"stop_early": True, "differentiate": Unrolled(last=2)},
            {},
            'differentiate="implicit"',
        ),
        ({}, {"known": 1.5}, "between 0 and 1, got 1.5"),
    ],
)
def test_options_that_do_not_go_together_are_refused(settings, options, message):
    with pytest.raises(ValueError, match=message):
        end_to_end(Predictor(parabola_of_x, **settings), **options)


# Learning through the minimiser


@pytest.mark.slow
def test_the_implicit_gradient_is_that_of_the_minimiser_inside_and_on_bounds(x64):
    """argmin of the parabola on the box is b / a clipped."""
    params, batch = problem(8)
    predictor = Predictor(
        parabola_of_x,
        solver=GradientDescent(0.15, 0.3),
        steps=300,
        tolerance=1e-9,
        stop_early=True,
        differentiate=Implicit(tolerance=1e-11),
    )
    objective = end_to_end(predictor, loss=losses.squared_error)
    gradient, metrics = gradient_of(objective, params, batch)
    assert metrics["converged"] == 1
    b = batch.x @ params["W"].T
    y, free = np.clip(b / A, 0, 1), (b > 0) & (b < A)
    assert 0 < free.mean() < 1
    slope = 2 * (y - batch.y) * free / A / 8
    np.testing.assert_allclose(metrics["loss"], ((y - batch.y) ** 2).sum(1).mean())
    want = {"W": slope.T @ batch.x, "a": -(slope * y).sum(0)}
    assert_trees_close(gradient, want, rtol=1e-6, atol=1e-8)


# The loss follows the domain


def nothing(params, x, y):
    return sum(jnp.sum(0 * leaf) for leaf in jax.tree.leaves(y))


@pytest.mark.parametrize(
    "domain, truth, want",
    [
        (Simplex(), np.eye(5), math.log(5)),
        (
            Product({"rows": Simplex(), "some": Box(-1, 1)}),
            {"rows": np.stack([np.eye(5)] * 3, 1), "some": np.ones((5, 2))},
            3 * math.log(5) + 2 * math.log(2),
        ),
    ],
    ids=["simplex", "product"],
)
def test_the_loss_of_the_middle_is_that_of_its_domain(domain, truth, want):
    truth = jax.tree.map(np.float32, truth)
    batch = Batch(np.zeros((5, 1), np.float32), truth)

    def scores(params, x):  # of 0, which are the middle
        return jax.tree.map(jnp.zeros_like, truth)

    through = end_to_end(Predictor(nothing, domain=domain, steps=0))
    alone = feed_forward(scores, domain=domain)
    values = jax.jit(lambda *a: (through(*a)[0], alone(*a)[0]))(None, batch, KEY)
    np.testing.assert_allclose(values, want, rtol=1e-6)


def test_a_tree_of_any_shapes_is_the_same_numbers_in_a_row(x64):
    params, batch = problem()
    params["log_step"] = np.log([0.1] * 3)

    def of_tree(params, x, y):
        params = {"W": params["W"], "a": params["a"]}
        return parabola_of_x(params, x, jnp.concatenate([y["first"], y["rest"].reshape(3)]))

    predictor = Predictor(
        of_tree,
        domain=Product({"first": Box(), "rest": Box()}),
        start=0.5,
        solver=GradientDescent(0.1, 0.0),
        steps=3,
    )
    options = {"loss": losses.squared_error, "weights": [0.2, 0.3, 0, 0.5], "convergence": 0.7}
    objective = end_to_end(predictor, **options)
    y = {"first": batch.y[:, :1], "rest": batch.y[:, 1:].reshape(5, 1, 3)}
    path = path_of(params, batch)
    each = ((path - batch.y) ** 2).sum(-1).mean(1)
    want = options["weights"] @ each + 0.7 * ((path[3] - path[2]) ** 2).sum(1).mean()
    got = jax.jit(objective)(params, Batch(batch.x, y), KEY)[0]
    np.testing.assert_allclose(got, want)


# What is known, and what counts


def test_what_is_known_is_held_through_inference_and_the_rest_is_judged(x64):
    """Labels that lie together: from zero, those not told end where the mean of those told says."""

    def together(params, x, y):
        return 10 * jnp.sum((y - jnp.mean(y)) ** 2)

    truth = np.repeat([[1.0], [0.0]], 400, axis=0) * np.ones(5)
    predictor = Predictor(
        together, start=0.5, domain=Box(-1, 2), steps=40, solver=GradientDescent(0.05, 0)
    )
    objective = jax.jit(end_to_end(predictor, loss=losses.squared_error, known=1.0))
    # A label told pulls the others onto the truth, which costs nothing; told none, all stay in the middle.
    batch = Batch(np.zeros((800, 1)), truth)
    value, metrics = objective(None, batch, KEY)
    # Shares uniform in [0, 1]: of 5 labels none is told to 1 of 6 examples.
    none = value / (5 * 0.25)
    assert abs(none - 1 / 6) < 4.5 * np.sqrt(5 / 36 / 800)


@pytest.mark.parametrize("on", [False, True])
def test_with_known_on_labels_that_are_off_are_not_told_but_judged(on, x64):
    """Found is 1/2 whatever is told, so that the loss says how many labels of each example were not told."""
    truth = np.repeat([[1.0, 1, 0, 0], [0, 0, 0, 0]], 2000, axis=0)
    predictor = Predictor(nothing, start=0.5, steps=1, solver=GradientDescent(0.1, 0))
    objective = end_to_end(predictor, loss=losses.squared_error, known=1.0, known_on=on)
    half = {"weight": np.repeat([1.0, 0.0], 2000)}
    told = {}
    for name, weight in (("some", half["weight"]), ("none", 1 - half["weight"])):
        batch = {"x": np.zeros((4000, 1)), "y": truth, "weight": weight}
        told[name] = 4 - jax.jit(objective)(None, batch, KEY)[0] / 0.25
    # Shares uniform in [0, 1]: half of what may be told is.
    assert abs(told["some"] - (1 if on else 2)) < 0.1
    assert told["none"] == pytest.approx(0 if on else 2, abs=0.1)
    assert not on or told["none"] == 0


def test_parts_that_do_not_count_are_found_like_the_others_but_not_judged(x64):
    params, batch = problem(6)
    predictor = Predictor(parabola_of_x, start=0.3, solver=MirrorDescent(0.7), steps=2)
    length = np.array([1, 2, 3, 4, 4, 0])
    data = {"x": batch.x, "y": batch.y, "length": length}
    value = jax.jit(end_to_end(predictor))(params, data, KEY)[0]
    b = batch.x @ params["W"].T
    y = numpy_mirror(lambda y: A * y - b, np.full((6, 4), 0.3), 2, 0.7)[-1]
    each = -np.log(np.where(batch.y == 1, y, 1 - y))
    counts = np.arange(4) < length[:, None]
    np.testing.assert_allclose(value, np.sum(each * counts) / 6)


# A network alone


def test_feed_forward_is_the_mean_loss_of_the_network(x64):
    params, batch = problem(6)
    gradient, metrics = gradient_of(feed_forward(linear), params, batch)

    def theirs(params):
        z = linear(params, batch.x)
        return optax.sigmoid_binary_cross_entropy(z, batch.y).sum(1).mean()

    loss, their_gradient = jax.jit(jax.value_and_grad(theirs))(params)
    assert set(metrics) == {"loss"}
    np.testing.assert_allclose(metrics["loss"], loss)
    assert_trees_close(gradient, their_gradient, rtol=1e-6, atol=1e-9)

    mask = np.arange(4)[None] < np.array([[1], [2], [3], [4], [4], [0]])
    objective = feed_forward(linear, loss=losses.squared_error, domain=Reals())
    value = objective(params, {"x": batch.x, "y": batch.y, "mask": mask}, KEY)[0]
    want = np.sum(mask * (batch.x @ params["W"].T - batch.y) ** 2) / 6
    np.testing.assert_allclose(value, want)


@pytest.mark.slow
def test_weights_of_examples_are_repetitions_in_the_mean(x64):
    params, batch = problem()
    repeats = np.array([2, 0, 1, 3, 1])
    weighted = dict(x=batch.x, y=batch.y, weight=repeats.astype(float))
    repeated = dict(x=np.repeat(batch.x, repeats, 0), y=np.repeat(batch.y, repeats, 0))
    predictor = Predictor(parabola_of_x, steps=3, solver=MirrorDescent())
    for objective in (
        end_to_end(predictor, weights=increasing(3)),
        feed_forward(linear, domain=Box()),
    ):
        assert_trees_close(objective(params, weighted, KEY)[0], objective(params, repeated, KEY)[0])
    nothing_counts = weighted | {"weight": np.zeros(5)}
    assert end_to_end(predictor)(params, nothing_counts, KEY)[0] == 0
    with pytest.raises(ValueError, match="does not weigh examples"):
        max_margin(predictor)(params, weighted, KEY)
    with pytest.raises(ValueError, match="one number for each of 5"):
        end_to_end(predictor)(params, weighted | {"weight": np.ones(4)}, KEY)

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from problems import Batch, assert_trees_close, counting

from spen_jax import (
    SPEN,
    FeatureNetwork,
    GradientDescent,
    MirrorDescent,
    end_to_end,
    fit,
    functions_of,
    max_margin,
    minimize,
    training,
)

RNG = np.random.default_rng(0)
DATA = Batch(np.float32(RNG.normal(size=(10, 3))), np.float32(RNG.normal(size=(10,))))
PARAMS = {"w": np.float32([0.1, -0.2, 0.3]), "b": np.float32(0.5)}
ADAM = optax.adamw(0.1, weight_decay=0.2)


def regression(params, batch, key):
    """A mean squared error, with noise that the key draws on the target."""
    noise = 0.1 * jax.random.normal(key)
    error = batch.x @ params["w"] + params["b"] - batch.y - noise
    value = jnp.mean(error**2)
    return value, {"loss": value, "noise": noise}


def start(seed=0):
    return training.init(PARAMS, ADAM, jax.random.key(seed))


def run(objective=regression, seed=0, data=DATA, **settings):
    settings = {"epochs": 2, "batch_size": 4} | settings
    return list(fit(objective, ADAM, start(seed), data, **settings))


def test_a_step_is_the_optax_step_on_the_chosen_rows():
    state, rows = start(), np.array([7, 1, 1, 4])
    params, optimizer_state = PARAMS, ADAM.init(PARAMS)
    for _ in range(2):
        _, key = jax.random.split(state.key)
        x, y = DATA.x[rows], DATA.y[rows]
        noise = 0.1 * float(jax.random.normal(key))
        error = x @ params["w"] + params["b"] - y - noise
        gradient = {"w": 2 * x.T @ error / 4, "b": 2 * error.mean()}
        updates, optimizer_state = ADAM.update(gradient, optimizer_state, params)
        params = optax.apply_updates(params, updates)

        before, (state, metrics) = state, training.step(regression, ADAM, state, DATA, rows)
        np.testing.assert_allclose(metrics["loss"], np.mean(error**2), rtol=1e-5)
        assert not np.array_equal(*(jax.random.key_data(s.key) for s in (before, state)))
        assert_trees_close(state.params, params, rtol=1e-4)
        assert_trees_close(state.opt_state, optimizer_state, rtol=1e-4)


def test_the_same_key_gives_bit_identical_numbers_and_another_key_others():
    (one, one_metrics), (same, same_metrics), (other, _) = run()[-1], run()[-1], run(seed=1)[-1]
    for a, b, c in zip(*map(jax.tree.leaves, (one.params, same.params, other.params)), strict=True):
        np.testing.assert_array_equal(a, b)
        assert np.any(a != c)
    assert one_metrics == same_metrics


def test_a_fit_that_goes_on_from_a_state_equals_one_that_never_stopped():
    _, (whole, metrics) = run()
    (half, _), _ = run()
    [(resumed, again)] = fit(regression, ADAM, half, DATA, epochs=1, batch_size=4)
    assert metrics == again
    for a, b in zip(*map(jax.tree.leaves, (whole.params, resumed.params)), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("n, batch_size, steps", [(10, 4, 3), (10, 5, 2), (3, 128, 1), (7, 6, 2)])
def test_an_epoch_sees_each_example_once_but_for_the_filling_of_its_last_batch(
    n, batch_size, steps
):
    def seen(params, batch, key):
        assert len(batch) == min(batch_size, n)
        return jnp.sum(params["b"]), {f"{i}": jnp.sum(batch == i) for i in range(n)}

    rows = np.arange(n)
    epochs = run(seen, data=rows, batch_size=batch_size, epochs=3)
    assert training.steps_per_epoch(n, batch_size) == steps
    counts = np.array([[steps * metrics[f"{i}"] for i in range(n)] for _, metrics in epochs])
    counts = counts.round(4)
    filling = steps * min(batch_size, n) - n
    assert np.all((counts == 1) | (counts == 2)) and np.all((counts == 2).sum(1) == filling)
    if filling:  # each epoch has an order of its own
        assert len(np.unique(counts, axis=0)) > 1


def test_the_metrics_of_an_epoch_are_the_means_over_its_steps():
    def ordered(params, batch, key):
        return jnp.sum(params["b"]), {"sum": jnp.sum(batch), "one": jnp.ones(())}

    [(_, metrics)] = run(ordered, data=np.arange(12.0), epochs=1)
    assert metrics == {"sum": 66 / 3, "one": 1.0}
    assert all(type(v) is float for v in metrics.values())


def test_fit_traces_its_objective_once():
    objective, traces = counting(regression)
    run(objective, epochs=3)
    assert len(traces) == 1
    run(objective, seed=5)
    assert len(traces) == 1


@pytest.mark.parametrize(
    "data, batch_size, message",
    [
        ({"x": np.zeros(5), "y": np.zeros(3)}, 2, "5.*3|3.*5"),
        (np.zeros(0), 2, "0 examples"),
        (np.zeros(5), 0, "batch_size.*0"),
        (np.zeros(5), -2, "batch_size.*-2"),
    ],
)
def test_fit_refuses_data_and_batches_that_cannot_be(data, batch_size, message):
    def nothing(params, batch, key):
        return jnp.sum(params["b"]), {}

    with pytest.raises(ValueError, match=message):
        run(nothing, data=data, batch_size=batch_size)


def test_best_keeps_the_first_of_the_highest_scores_and_counts_the_epochs_since():
    best, history = training.Best(), []
    for epoch, score in enumerate([0.3, 0.5, 0.4, 0.5, 0.6, 0.1], start=1):
        best = best.update(f"params {epoch}", score)
        history.append((best.params, best.score, best.epoch, best.stale))
    assert history == [
        ("params 1", 0.3, 1, 0),
        ("params 2", 0.5, 2, 0),
        ("params 2", 0.5, 2, 1),
        ("params 2", 0.5, 2, 2),
        ("params 5", 0.6, 5, 0),
        ("params 5", 0.6, 5, 1),
    ]
    unscored = training.Best().update("params", float("nan"))
    assert unscored.params is None and unscored.epoch == 0 and unscored.stale == 1


# A small problem is learned


def exclusive_or(n, seed):
    """Two labels of which exactly one is on: the first where the signs of the inputs differ."""
    x = np.random.default_rng(seed).uniform(-1, 1, (n, 2)).astype(np.float32)
    first = x[:, 0] * x[:, 1] < 0
    return Batch(x, np.stack([first, ~first], axis=1).astype(np.float32))


MODULE = SPEN(FeatureNetwork(2, (16,)), n_global=4)
FEATURES, ENERGY = functions_of(MODULE)
DESCENT = {"solver": GradientDescent(0.2, momentum=0.5), "steps": 10}


@pytest.mark.parametrize(
    "objective, inference",
    [
        (max_margin(ENERGY, FEATURES, **DESCENT), DESCENT),
        (
            end_to_end(ENERGY, FEATURES, solver=MirrorDescent(1.0), steps=5),
            {"solver": MirrorDescent(1.0), "steps": 5},
        ),
    ],
    ids=["max_margin", "end_to_end"],
)
def test_an_exclusive_or_of_two_labels_is_learned(objective, inference):
    train, test = exclusive_or(200, seed=0), exclusive_or(200, seed=1)
    params = jax.jit(MODULE.init)(jax.random.key(0), train.x, train.y)["params"]

    def exact(params):
        """(share of examples with both labels right, share with exactly one label on)"""
        y = minimize(
            ENERGY, params, FEATURES(params, test.x), jnp.full((200, 2), 0.5), **inference
        ).y
        on = np.asarray(y) >= 0.5
        return np.mean(np.all(on == test.y, axis=1)), np.mean(on.sum(1) == 1)

    optimizer = optax.adam(0.02)
    state = training.init(params, optimizer, jax.random.key(0))
    history = list(fit(objective, optimizer, state, train, epochs=60, batch_size=50))
    assert exact(params)[0] < 0.7
    right, exclusive = exact(history[-1][0].params)
    assert right > 0.9 and exclusive > 0.95
    assert history[-1][1]["loss"] < 0.3 * history[0][1]["loss"]


def test_inference_in_batches_compiles_once_though_the_last_batch_is_smaller():
    traces = []

    def energy(params, x, y):
        traces.append(1)
        return jnp.sum((y - params * x) ** 2)

    def predict(x):
        return minimize(energy, 0.5, x, jnp.full(x.shape, 0.5), solver=GradientDescent(0.5, 0.0))

    x = np.random.default_rng(0).uniform(size=(23, 3)).astype(np.float32)
    training.in_batches(predict, x[:10], batch_size=10)
    after_the_first = len(traces)
    solution = training.in_batches(predict, x, batch_size=10)
    assert len(traces) == after_the_first
    np.testing.assert_allclose(solution.y, 0.5 * x, atol=1e-6)
    assert solution.energy.shape == (23,)

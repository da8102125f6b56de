import re
from pathlib import Path
from typing import NamedTuple

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
from spen_jax.training import average_of, averaged, spectral, stable

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


# Fields of the data that training writes


class Chains(NamedTuple):
    x: jax.Array
    visits: jax.Array
    chains: dict[str, jax.Array]


def chains_of(n, module=np):
    x = module.arange(1, n + 1, dtype=np.float32)
    zeros = module.zeros((n, 2, 3), dtype=np.float32)
    return Chains(x, module.zeros(n, dtype=np.int32), {"a": zeros, "b": zeros[:, 0]})


def visiting(params, batch, key):
    """Each visit adds x to all numbers of an example's chains."""
    x = batch.x[:, None]
    moved = {"a": batch.chains["a"] + x[..., None], "b": batch.chains["b"] + x}
    wrong = jnp.abs(batch.chains["a"] - (batch.visits * batch.x)[:, None, None]).max()
    wrong += jnp.abs(batch.chains["b"] - (batch.visits * batch.x)[:, None]).max()
    metrics = {"wrong": wrong, "visits": batch.visits + 1, "seen": jnp.mean(batch.visits)}
    return jnp.sum(params["b"]), metrics | {"chains": moved}


@pytest.mark.parametrize("module", [np, jnp])
def test_a_metric_named_as_a_field_is_written_into_the_rows_of_its_batch(module):
    data, (objective, traces) = chains_of(12, module), counting(visiting)
    history = [metrics for _, metrics in run(objective, data=data, epochs=3)]
    assert history == [{"wrong": 0, "seen": epoch} for epoch in range(3)]
    assert len(traces) == 1
    for a in jax.tree.leaves((data.visits, data.chains)):  # what the caller passed
        assert not np.asarray(a).any()


def test_the_examples_that_fill_the_last_batch_go_on_from_what_was_written_before():
    [(_, first), (_, second)] = run(visiting, data=chains_of(10))
    assert first == {"wrong": 0, "seen": pytest.approx(2 / 12)}
    # All ten, of 12 visits, and the two that fill, of 2 or 3 each.
    assert second["wrong"] == 0 and 15.9 < 12 * second["seen"] < 18.1


def test_a_row_that_is_not_finite_is_not_written():
    def failing(params, batch, key):
        seen = jnp.sum(batch.chains["b"])
        once = jnp.where(batch.x[:, None] == 3, jnp.nan, 1.0)
        chains = {"a": batch.chains["a"], "b": batch.chains["b"] + once}
        return jnp.sum(params["b"]), {"chains": chains, "seen": seen}

    history = [metrics for _, metrics in run(failing, data=chains_of(4), epochs=3)]
    assert history == [{"seen": 3 * 3 * epoch} for epoch in range(3)]


@pytest.mark.parametrize(
    "new, message",
    [
        (jnp.zeros((4, 3), jnp.int32), r"'visits'.*\(4,\) int32.*\(4, 3\) int32"),
        (jnp.zeros(4), r"'visits'.*\(4,\) int32.*\(4,\) float32"),
        (jnp.zeros((), jnp.int32), r"'visits'.*another name"),
        ({"a": jnp.zeros(4, jnp.int32)}, "'visits'"),
    ],
)
def test_a_metric_that_does_not_fit_the_field_of_its_name_is_refused(new, message):
    def objective(params, batch, key):
        return jnp.sum(params["b"]), {"visits": new}

    with pytest.raises(ValueError, match=message):
        run(objective, data=chains_of(8))


# Stability


class Marked(NamedTuple):
    x: jax.Array
    bad: jax.Array


def marked(params, batch, key):
    """mean (w - x)^2 / 2, not a number where the batch has a bad row."""
    value = jnp.mean((params["w"] - batch.x) ** 2) / 2
    value = value * jnp.where(jnp.any(batch.bad), jnp.nan, 1)
    return value, {"loss": value}


def fit_marked(optimizer, bad, **settings):
    data = Marked(np.ones(len(bad), np.float32), np.array(bad))
    state = training.init({"w": jnp.zeros(())}, optimizer, jax.random.key(0))
    yield from fit(marked, optimizer, state, data, **({"epochs": 1, "batch_size": 1} | settings))


def momentum_path(steps):
    """(params, losses) of heavy-ball steps of 0.1, momentum 0.5, on (w - 1)^2 / 2 from 0."""
    w, velocity, path, losses = 0.0, 0.0, [], []
    for _ in range(steps):
        losses.append((w - 1) ** 2 / 2)
        velocity = 0.5 * velocity + (w - 1)
        w -= 0.1 * velocity
        path.append(w)
    return path, losses


def test_a_step_that_is_not_finite_is_skipped_alone_and_reported():
    optimizer = stable(optax.sgd(0.1, momentum=0.5), average=0.8)
    [(state, metrics)] = fit_marked(optimizer, [False, True, False, False])
    path, losses = momentum_path(3)
    assert metrics == {"loss": pytest.approx(np.mean(losses)), "skipped": 1}
    np.testing.assert_allclose(state.params["w"], path[-1], rtol=1e-6)
    weights = 0.8 ** np.arange(3)[::-1]  # the skipped step has no share
    want = weights @ path / weights.sum()
    np.testing.assert_allclose(average_of(state)["w"], want, rtol=1e-6)
    [(_, metrics)] = fit_marked(optimizer, [False] * 4)
    assert metrics == {"loss": pytest.approx(np.mean(momentum_path(4)[1])), "skipped": 0}


def test_a_step_that_is_not_finite_leaves_parameters_and_state_as_they_were():
    optimizer = stable(optax.adam(0.1))
    data = Marked(np.ones(2, np.float32), np.array([False, True]))
    state = training.init({"w": jnp.zeros(())}, optimizer, jax.random.key(0))
    state, _ = training.step(marked, optimizer, state, data, np.array([0]))
    after, metrics = training.step(marked, optimizer, state, data, np.array([1]))
    assert np.isnan(metrics["loss"])
    kept, still = ((s.params, s.opt_state.inner_state) for s in (state, after))
    jax.tree.map(np.testing.assert_array_equal, kept, still)


def test_a_training_that_goes_on_failing_ends_with_an_error_and_a_sound_state():
    epochs = fit_marked(stable(optax.sgd(0.1), skip=3), [True] * 2, epochs=9)
    state, metrics = next(epochs)  # two failures in a row: skipped
    assert metrics["skipped"] == 2 and np.isnan(metrics["loss"])
    with pytest.raises(
        FloatingPointError, match=r"not finite: params\['w'\]\. .*state yielded last"
    ):
        next(epochs)  # and four
    assert state.params["w"] == 0
    good = fit_marked(stable(optax.sgd(0.1), skip=4), [True] * 2, epochs=2)
    assert [metrics["skipped"] for _, metrics in good] == [2, 2]


def test_gradients_are_clipped_to_a_norm_of_all_together():
    gradient = {"a": jnp.array([3.0, 0]), "b": jnp.array(4.0)}
    for clip, scale in [(2.0, 0.4), (6.0, 1.0), (None, 1.0)]:
        optimizer = stable(optax.sgd(1.0), clip=clip)
        updates, _ = optimizer.update(gradient, optimizer.init(gradient), gradient)
        want = jax.tree.map(lambda g, scale=scale: -scale * g, gradient)
        assert_trees_close(updates, want, rtol=1e-6)


@pytest.mark.parametrize("decay", [0.5, 0.9999])
def test_the_average_is_that_of_the_parameters_after_each_step(decay, x64):
    optimizer = averaged(optax.sgd(0.3), decay)
    params = {"w": jnp.array([1.0, -2.0])}
    state = optimizer.init(params)
    np.testing.assert_array_equal(average_of(state)["w"], params["w"])
    path = []
    for t in range(1, 6):
        updates, state = optimizer.update({"w": jnp.array([t, 1.0])}, state, params)
        np.testing.assert_allclose(updates["w"], [-0.3 * t, -0.3])
        params = optax.apply_updates(params, updates)
        path.append(params["w"])
        weights = decay ** np.arange(t)[::-1]
        want = weights @ np.array(path) / weights.sum()
        np.testing.assert_allclose(average_of(state)["w"], want, rtol=1e-9)


def test_an_average_is_kept_in_single_precision_too():
    optimizer = averaged(optax.sgd(1.0), 0.9999)
    params = {"w": jnp.ones(())}
    _, state = optimizer.update({"w": jnp.array(-1.0)}, optimizer.init(params), params)
    assert average_of(state)["w"] == pytest.approx(2, rel=1e-6)


def test_average_of_wants_one_average():
    for optimizer in (ADAM, optax.chain(averaged(ADAM), averaged(ADAM))):
        with pytest.raises(ValueError, match="one averaged.*found"):
            average_of(optimizer.init(PARAMS))


MATRICES = {
    "tall": (7, 3),
    "wide": (3, 7),
    "kernel": (2, 4, 3),
    "row": (1, 5),
    "bias": (5,),
    "none": (0, 4),
}


def test_spectral_norms_keep_their_limit_and_smaller_matrices_are_untouched():
    rng = np.random.default_rng(0)
    params = {k: np.float32(rng.normal(size=s) / 3) for k, s in MATRICES.items()}
    params["zero"] = np.zeros((3, 3), np.float32)
    free, bound = optax.sgd(1.0), optax.chain(optax.sgd(1.0), spectral(1.2))
    state, step = bound.init(params), jax.jit(bound.update)
    inside = outside = 0
    for _ in range(4):
        gradient = jax.tree.map(lambda a: np.float32(rng.normal(size=a.shape) / 3), params)
        gradient["zero"][:] = 0
        updates, state = step(gradient, state, params)
        freely, _ = free.update(gradient, free.init(params), params)
        new, unbound = (optax.apply_updates(params, u) for u in (updates, freely))
        for name, w in new.items():
            matrix = np.asarray(unbound[name]).reshape(-1, w.shape[-1])
            norm = np.linalg.norm(matrix, 2) if w.ndim > 1 and w.size else 0
            if norm > 1.2:
                outside += 1
                np.testing.assert_allclose(w, unbound[name] * (1.2 / norm), atol=2e-6)
                limited = np.linalg.norm(np.asarray(w).reshape(-1, w.shape[-1]), 2)
                assert limited == pytest.approx(1.2, rel=1e-5)
            else:
                inside += 1
                np.testing.assert_array_equal(updates[name], freely[name])
        params = new
    assert inside > 12 and outside > 3  # bias, none and zero are always inside


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: stable(ADAM, clip=0), "clip.*got 0"),
        (lambda: stable(ADAM, clip=float("inf")), "clip.*None"),
        (lambda: stable(ADAM, skip=-1), "skip.*got -1"),
        (lambda: averaged(ADAM, 1.0), "decay.*got 1.0"),
        (lambda: spectral(0.0), "limit.*got 0"),
        (lambda: averaged(ADAM).update(PARAMS, averaged(ADAM).init(PARAMS)), "needs the param"),
        (lambda: spectral(1.0).update(PARAMS, ()), "needs the param"),
    ],
)
def test_settings_that_cannot_be_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_the_page_on_stability_runs_as_printed():
    page = Path(__file__).parents[1] / "docs" / "objectives" / "stability.md"
    names = {}
    exec("\n".join(re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)), names)
    assert names


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

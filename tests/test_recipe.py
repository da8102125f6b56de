import itertools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from problems import Batch, assert_trees_close

import spen_jax as sx
from spen_jax.objectives import PLAYERS
from spen_jax.training import Best, Recipe, average_of, fit, init, train

RNG = np.random.default_rng(0)
DATA = Batch(np.float32(RNG.normal(size=(10, 3))), np.float32(RNG.normal(size=(10,))))
PARAMS = {"w": np.float32([0.1, -0.2, 0.3]), "b": np.float32(0.5)}
RECIPE = Recipe(epochs=5, learning_rate=0.1, weight_decay=0.1, batch_size=4, average=0.8)


def regression(params, batch, key):
    error = batch.x @ params["w"] + params["b"] - batch.y - 0.1 * jax.random.normal(key)
    return jnp.mean(error**2), {"loss": jnp.mean(error**2)}


def run(recipe=RECIPE, scores=None, **settings):
    """All that `train` yields, with these scores in turn."""
    given = iter(scores or ())
    score = None if scores is None else lambda params: next(given)
    return list(train(regression, PARAMS, DATA, recipe, jax.random.key(3), score=score, **settings))


def loop(recipe=RECIPE, epochs=5):
    """The averaged parameters and the metrics of each epoch, as `fit` yields them."""
    optimizer = recipe.optimizer(10)
    first = init(PARAMS, optimizer, jax.random.key(3))
    return [
        (average_of(state), metrics)
        for state, metrics in fit(
            regression, optimizer, first, DATA, epochs=epochs, batch_size=recipe.batch_size
        )
    ]


def same(a, b):
    pairs = zip(*map(jax.tree.leaves, (a, b)), strict=True)
    return all(np.array_equal(u, v) for u, v in pairs)


# The best epoch


def test_best_keeps_the_first_of_the_highest_scores_and_counts_the_epochs_since():
    best, history = Best(), []
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
    unscored = Best().update("params", float("nan"))
    assert unscored.params is None and unscored.epoch == 0 and unscored.stale == 1


# The optimizer


def rate_of(step, steps, peak):
    """Up over a tenth of the steps, and one, then down as a cosine to 0 at the one after the last."""
    warm = steps // 10 + 1
    if step < warm:
        return peak * step / warm
    return peak * (1 + np.cos(np.pi * (step - warm) / (steps + 1 - warm))) / 2


def numpy_path(params, gradients, recipe, steps):
    """Clipped AdamW with the recipe's rates and factors, by its formula: the parameters after each step."""
    factors = {k: next((f for text, f in recipe.rates if text in k), 1.0) for k in params}
    m = v = dict.fromkeys(params, 0.0)
    for t, gradient in enumerate(gradients):
        gradient = {k: g * (factors[k] != 0) for k, g in gradient.items()}
        norm = np.sqrt(sum(np.sum(g**2) for g in gradient.values()))
        gradient = {k: g * min(1, recipe.clip / norm) for k, g in gradient.items()}
        m = {k: 0.9 * m[k] + 0.1 * g for k, g in gradient.items()}
        v = {k: 0.999 * v[k] + 0.001 * g**2 for k, g in gradient.items()}
        new = {}
        for k, p in params.items():
            adam = m[k] / (1 - 0.9 ** (t + 1)) / (np.sqrt(v[k] / (1 - 0.999 ** (t + 1))) + 1e-8)
            rate = rate_of(t, steps, recipe.learning_rate)
            new[k] = (
                p - factors[k] * rate * adam - (factors[k] != 0) * rate * recipe.weight_decay * p
            )
        params = new
        yield params


def updated(optimizer, params, gradients):
    """The parameters after each step of an optimizer, one compiled."""
    state, update = optimizer.init(params), jax.jit(optimizer.update)
    for gradient in gradients:
        updates, state = update(gradient, state, params)
        params = jax.tree.map(lambda p, u: p + np.asarray(u), params, updates)
        yield params


THREE = {"network": np.ones(2), "c": np.ones(()), "terms": np.ones(3)}


def test_the_optimizer_is_clipped_adamw_with_a_rate_that_warms_up_and_falls(x64):
    recipe = Recipe(6, 0.1, 0.2, 16, rates=(("net", 0.5), ("c", 0.0), ("n", 9.0)))
    rng = np.random.default_rng(0)
    gradients = [{k: s * rng.normal(size=p.shape) for k, p in THREE.items()} for s in (9, 1, 1) * 4]
    got = list(updated(recipe.optimizer(20), THREE, gradients))  # 12 steps
    want = list(numpy_path(THREE, gradients, recipe, 12))
    assert_trees_close(got, want, rtol=1e-6)
    np.testing.assert_array_equal(got[-1]["c"], 1)  # frozen
    np.testing.assert_array_equal(got[0]["terms"], 1)  # the rate begins at 0


def test_players_alternate_each_with_a_schedule_of_its_own_steps(x64):
    recipe = Recipe(3, 0.1, 0.2, 16, alternate=True)
    rng = np.random.default_rng(0)
    player = {"w": np.ones(2)}
    gradients = [{name: {"w": rng.normal(size=2)} for name in PLAYERS} for _ in range(6)]
    path = list(updated(recipe.optimizer(20), dict.fromkeys(PLAYERS, player), gradients))
    for first, name in enumerate(("energy", *(set(PLAYERS) - {"energy"}))):
        own = [gradient[name] for gradient in gradients[first::2]]
        want = list(numpy_path(player, own, recipe, 3))
        assert_trees_close([p[name] for p in path[first::2]], want, rtol=1e-6)
        for t in range(first + 1, 6, 2):  # the other's turn
            assert same(path[t - 1][name], path[t][name])


def test_equal_settings_give_the_same_optimizer_and_what_a_step_does_not_see_makes_no_other():
    one = RECIPE.optimizer(10)
    assert Recipe(5, 0.1, 0.1, 4, average=0.8).optimizer(10) is one
    assert replace(RECIPE, patience=2, keep="last").optimizer(10) is one
    assert RECIPE.optimizer(9) is one  # as many steps
    for other in (
        replace(RECIPE, epochs=6).optimizer(10),
        replace(RECIPE, clip=1.0).optimizer(10),
        replace(RECIPE, rates=(("w", 0.1),)).optimizer(10),
        RECIPE.optimizer(13),
    ):
        assert other is not one


@pytest.mark.parametrize(
    "change, message",
    [
        ({"epochs": 0}, "epochs.*got 0"),
        ({"batch_size": 0}, "batch_size.*got 0"),
        ({"clip": 0.0}, "clip.*got 0"),
        ({"keep": "first"}, "keep must be 'best' or 'last', got 'first'"),
        ({"patience": 0}, "patience.*got 0"),
    ],
)
def test_a_recipe_that_cannot_be_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        replace(RECIPE, **change)


# A training


@pytest.mark.slow
def test_a_training_without_a_score_is_a_loop_over_fit_that_keeps_the_last_epoch():
    history = run()
    assert [trained.epoch for trained in history] == [1, 2, 3, 4, 5]
    for trained, (params, metrics) in zip(history, loop(), strict=True):
        assert same(trained.params, params)
        assert trained.metrics == metrics and trained.scores == ()
    clock = history[-1].clock
    assert clock[0] > 0 and np.all(np.diff(clock) > 0) and history[1].clock == clock[:2]
    assert history[-1].seconds == clock[-1]


def test_the_epoch_is_kept_whose_last_three_scores_are_best_in_the_mean():
    # Means of up to three:  0.2  0.5  0.5  0.6  0.4
    scores = [0.2, 0.8, 0.5, 0.5, 0.2]
    history, path = run(scores=scores), loop()
    assert [trained.epoch for trained in history] == [1, 2, 2, 4, 4]
    for trained in history:
        assert same(trained.params, path[trained.epoch - 1][0])
    assert history[-1].scores == tuple(scores) and history[0].scores == (0.2,)


def test_a_training_stops_when_its_patience_is_over_or_where_it_is_told_to():
    falling = [5.0, 4, 3, 2, 1]
    patient = replace(RECIPE, patience=2)
    assert [trained.epoch for trained in run(patient, falling)] == [1, 1, 1]
    last = run(replace(patient, keep="last"), falling)
    assert [trained.epoch for trained in last] == [1, 2, 3, 4, 5]
    assert same(last[-1].params, run()[-1].params)
    stopped = run(stop_after=2)
    assert len(stopped) == 2 and same(stopped[-1].params, run()[1].params)
    [untrained] = run(stop_after=0)
    assert untrained.params is PARAMS and (untrained.epoch, untrained.seconds) == (0, 0)
    [*_, hopeless] = run(scores=[np.nan] * 5)  # no epoch is better than none
    assert hopeless.params is PARAMS and hopeless.epoch == 0


def test_what_the_caller_does_between_epochs_is_not_on_the_clock(monkeypatch):
    now = itertools.count()
    monkeypatch.setattr("time.perf_counter", lambda: float(next(now)))
    training = train(regression, PARAMS, DATA, RECIPE, jax.random.key(3))
    for _ in range(5):
        trained = next(training)
        next(now)
    assert trained.clock == (1, 2, 3, 4, 5)


# A small problem is learned


def exclusive_or(n, seed):
    """Two labels of which exactly one is on: the first where the signs of the inputs differ."""
    x = np.random.default_rng(seed).uniform(-1, 1, (n, 2)).astype(np.float32)
    first = x[:, 0] * x[:, 1] < 0
    return Batch(x, np.stack([first, ~first], axis=1).astype(np.float32))


MODULE = sx.SPEN(sx.FeatureNetwork(2, (16,)), n_global=4)
FEATURES, ENERGY = sx.functions_of(MODULE)


@pytest.mark.slow
@pytest.mark.parametrize(
    "make, solver, steps",
    [
        # The README trains by max-margin too.
        pytest.param(
            sx.objectives.max_margin,
            sx.GradientDescent(0.2, momentum=0.5),
            10,
            marks=pytest.mark.slow,
        ),
        (sx.objectives.end_to_end, sx.MirrorDescent(1.0), 5),
    ],
    ids=["max_margin", "end_to_end"],
)
def test_an_exclusive_or_of_two_labels_is_learned(make, solver, steps):
    training_rows, test_rows = exclusive_or(200, seed=0), exclusive_or(200, seed=1)
    params = jax.jit(MODULE.init)(jax.random.key(0), training_rows.x, training_rows.y)["params"]
    predictor = sx.Predictor(ENERGY, FEATURES, shape=(2,), solver=solver, steps=steps)

    def right(params):
        """The share of test examples with both labels right."""
        on = np.asarray(predictor(params, test_rows.x).y) >= 0.5
        return np.mean(np.all(on == test_rows.y, axis=1))

    recipe = Recipe(50, 0.03, 0.0, 50, average=0.9)
    history = list(train(make(predictor), params, training_rows, recipe, jax.random.key(0)))
    assert right(params) < 0.7 and right(history[-1].params) > 0.9
    assert history[-1].metrics["loss"] < 0.3 * history[0].metrics["loss"]

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
    parabola,
    random_batch,
    small_spen,
)

from spen_jax import (
    SPEN,
    Box,
    FeatureNetwork,
    GradientDescent,
    fit,
    functions_of,
    losses,
    minimize,
    training,
)
from spen_jax.value_networks import adversarial, deep_value, value_loss

PAGE = Path(__file__).parents[1] / "docs" / "objectives" / "value_networks.md"
KEY = jax.random.key(0)
FEW = {"solver": GradientDescent(0.2, momentum=0.5), "steps": 6}
INSIDE = Box(0.1, 0.9)
ALL = "truth", "inference", "adversarial"


def by_hand(energy, oracle):
    """The cross-entropy by its formula."""
    v = 1 / (1 + np.exp(energy))
    return -oracle * np.log(v) - (1 - oracle) * np.log(1 - v)


def evaluate(objective, params, batch, key=KEY):
    return jax.jit(objective)(params, batch, key)


def f1(y, truth):
    return 2 * np.sum(y * truth, -1) / np.sum(y + truth, -1)


# The loss


def test_the_loss_is_the_cross_entropy_of_the_value_against_the_oracle(x64):
    energy, oracle = np.meshgrid(np.linspace(-4, 4, 9), np.linspace(0, 1, 5))
    np.testing.assert_allclose(value_loss(energy, oracle), by_hand(energy, oracle), rtol=1e-12)


def test_the_loss_pulls_by_the_difference_of_oracle_and_value():
    energy, oracle = np.float32([-200, -1, 0, 2, 200]), np.float32([0.3, 0.9, 0.5, 0, 1])
    slope = jax.vmap(jax.grad(value_loss))(energy, oracle)
    np.testing.assert_allclose(slope, oracle - jax.nn.sigmoid(-energy), atol=1e-6)
    loss = value_loss(energy, oracle)
    np.testing.assert_allclose(loss[jnp.array([0, 4])], [140, 200], rtol=1e-6)


def bounded_error(y, truth):
    """In [0.2, 0.8], so that the oracle's logit is finite."""
    return 0.2 + 0.6 * losses.soft_f1_error(y, truth)


def oracle_energy(params, x, y):
    """The energy whose value is the oracle's, for x the truth, moved by a parameter."""
    value = 1 - bounded_error(y, x)
    return params["shift"] - jnp.log(value / (1 - value))


@pytest.mark.parametrize("source", ALL)
def test_the_loss_is_at_its_minimum_where_the_value_is_the_oracles(source, x64):
    truth = random_batch(6, n_labels=5).y
    truth[truth.sum(1) == 0, 0] = 1
    objective = deep_value(oracle_energy, oracle_error=bounded_error, sources=[source], **FEW)

    def at(shift):
        params = {"shift": jnp.array(shift)}
        return jax.jit(jax.grad(objective, has_aux=True))(params, Batch(truth, truth), KEY)

    slope, metrics = at(0.0)
    np.testing.assert_allclose(slope["shift"], 0, atol=1e-12)
    np.testing.assert_allclose(metrics["error"], 0, atol=1e-12)
    slope, metrics = at(0.3)
    assert slope["shift"] > 0.01 and metrics["error"] > 0.01


# The points


def found_by_hand(params, batch, features, energy):
    """The points of each source: the truth, and those of two calls of `minimize`."""
    context, start = features(params, batch.x), jnp.full(batch.y.shape, 0.4)

    def negative(params, context, y):
        inner, truth = context
        v = 1 / (1 + jnp.exp(energy(params, inner, y)))
        oracle = 2 * jnp.sum(y * truth) / jnp.sum(y + truth)
        return oracle * jnp.log(v) + (1 - oracle) * jnp.log(1 - v)

    inferred = minimize(energy, params, context, start, domain=INSIDE, **FEW).y
    worst = minimize(negative, params, (context, batch.y), start, domain=INSIDE, **FEW).y
    return {"truth": batch.y, "inference": np.asarray(inferred), "adversarial": np.asarray(worst)}


def test_loss_gradient_and_metrics_are_the_mean_over_sources_at_fixed_points(x64):
    features, energy, params = small_spen(sees_features=True)
    batch = random_batch(5)
    batch.y[batch.y.sum(1) == 0, 0] = 1  # no truth is empty: its F1 by formula is 0 / 0
    points = found_by_hand(params, batch, features, energy)
    assert min(map(np.min, list(points.values())[1:])) == 0.1  # the domain plays a part
    oracle = {name: f1(y, batch.y) for name, y in points.items()}
    np.testing.assert_array_equal(oracle["truth"], 1)
    assert min(map(np.min, oracle.values())) >= 0

    def energies(params):
        context = features(params, batch.x)
        return {s: jax.vmap(energy, (None, 0, 0))(params, context, y) for s, y in points.items()}

    values = {s: 1 / (1 + np.exp(e)) for s, e in energies(params).items()}
    for sources in (ALL, ALL[1:2]):
        objective = deep_value(energy, features, sources=sources, start=0.4, domain=INSIDE, **FEW)
        gradient, metrics = jax.jit(jax.grad(objective, has_aux=True))(params, batch, KEY)
        each = [by_hand(energies(params)[s], oracle[s]) for s in sources]
        want = {
            "loss": np.mean(each),
            "error": np.mean([abs(values[s] - oracle[s]) for s in sources]),
        }
        if "truth" in sources:
            want["value"] = np.mean(values["truth"])
        if "inference" in sources:
            want["oracle"] = np.mean(oracle["inference"])
        assert_trees_close(metrics, want, rtol=1e-9)

        def loss(params, sources=sources):
            found = energies(params)
            losses_of = [jnp.logaddexp(0, -found[s]) + oracle[s] * found[s] for s in sources]
            return jnp.mean(jnp.stack(losses_of))

        assert_trees_close(gradient, central_differences(loss, params), rtol=1e-6, atol=1e-8)


def test_inference_lowers_the_energy_and_the_adversary_raises_the_loss_of_each_example(x64):
    features, energy, params = small_spen(scale=0.5)
    batch = random_batch(8, seed=3)
    context, start = features(params, batch.x), jnp.full(batch.y.shape, 0.5)
    for searched, known in [
        (energy, context),
        (adversarial(energy, losses.soft_f1_error), (context, batch.y)),
    ]:
        found = minimize(searched, params, known, start, **FEW, trace="energy").trace["energy"]
        assert np.all(found[:, -1] < found[:, 0] - 1e-4)

    def losses_after(steps):
        only = deep_value(energy, features, sources=["adversarial"], **(FEW | {"steps": steps}))
        return jax.jit(jax.vmap(lambda x, y: only(params, Batch(x[None], y[None]), KEY)[0]))(*batch)

    assert np.all(losses_after(6) > losses_after(0) + 1e-4)


def test_the_adversary_finds_the_largest_loss_of_a_grid(x64):
    b, truth = (
        np.array([[2.0, -1.0], [-0.5, 3.0], [0.4, 0.3]]),
        np.array([[1.0, 0], [0, 1], [1, 1]]),
    )
    grid = np.stack(np.meshgrid(*[np.linspace(0, 1, 101)] * 2), -1).reshape(-1, 2)

    def half_hamming(y, truth):
        return losses.hamming(y, truth) / 2

    def linear(params, context, y):
        return -context @ y

    searched = adversarial(linear, half_hamming)
    for b_n, t in zip(b, truth, strict=True):
        oracle = 1 - np.abs(grid - t).sum(1) / 2
        largest = by_hand(-grid @ b_n, oracle).max()
        corners = jnp.array([[0.05, 0.05], [0.05, 0.95], [0.95, 0.05], [0.95, 0.95]])
        known = tuple(jnp.tile(a, (4, 1)) for a in (b_n, t))
        found = minimize(searched, {}, known, corners, solver=GradientDescent(0.3, 0.5), steps=200)
        np.testing.assert_allclose(-found.energy.min(), largest, rtol=1e-4)


def test_equal_arguments_give_the_same_adversary():
    assert adversarial(parabola, losses.hamming) is adversarial(parabola, losses.hamming)
    assert adversarial(parabola, losses.hamming) is not adversarial(parabola, losses.squared_error)


@pytest.mark.parametrize("sources", [(), ("truth", "truth"), ("random",), "truth"], ids=repr)
def test_sources_that_are_not_known_repeated_or_none_are_refused(sources):
    with pytest.raises(ValueError, match="'truth', 'inference', 'adversarial', each once, got"):
        deep_value(parabola, sources=sources)


def test_features_and_starts_get_different_keys():
    params, batch = {"a": jnp.ones(4)}, random_batch(3)
    batch = Batch(jnp.float32(batch.x), jnp.float32(batch.y))

    def noisy(params, x, key):
        return jax.random.uniform(key, (len(x), 4))

    def the_same(context, key):
        return context - jax.random.uniform(key, context.shape)

    seen = []

    def error(y, truth):
        jax.debug.callback(lambda a: seen.append(np.asarray(a)), y)
        return losses.soft_f1_error(y, truth)

    objective = deep_value(
        parabola, noisy, oracle_error=error, sources=["inference"], start=the_same, steps=0
    )
    evaluate(objective, params, batch)
    jax.effects_barrier()
    assert len(seen) == 3 and all(np.any(y > 0) for y in seen)


# Learning


def test_a_value_network_learns_to_predict_labels_that_exclude_each_other():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(1400, 6)).astype(np.float32)
    z = x @ rng.normal(size=(6, 4))
    y = (z == z.max(1, keepdims=True)).astype(np.float32)
    train, test = Batch(x[:1000], y[:1000]), Batch(x[1000:], y[1000:])

    spen = SPEN(FeatureNetwork(4, (32,)), n_global=32, sees_features=True)
    features, energy = functions_of(spen)
    params = spen.init(KEY, x[:1], y[:1])["params"]
    inference = {"solver": GradientDescent(0.3, momentum=0.5), "steps": 10}

    def score(params):
        context = features(params, test.x)
        start = jnp.full(test.y.shape, 0.5)
        answer = minimize(energy, params, context, start, **inference).y > 0.5
        return np.mean(np.all(answer == test.y, axis=1))

    objective, optimizer = deep_value(energy, features, **inference), optax.adam(0.03)
    state = training.init(params, optimizer, KEY)
    *_, (state, metrics) = fit(objective, optimizer, state, train, epochs=15, batch_size=100)
    assert metrics["oracle"] > 0.85 and metrics["value"] > 0.85 and metrics["error"] < 0.2
    assert score(params) < 0.3 and score(state.params) > 0.75  # chance is 1 / 4


def test_the_page_runs_as_printed(capsys):
    exec("\n".join(re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)), {})
    _, f1, check = capsys.readouterr().out.splitlines()
    claimed, achieved, correlation = map(float, check.split())
    assert float(f1) == pytest.approx(0.79, abs=0.02)
    np.testing.assert_allclose([claimed, achieved, correlation], [0.88, 0.78, 0.5], atol=0.05)

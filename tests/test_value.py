import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from enumerable import KEY, coupled_labels, features_of, gradient_of, sigmoid
from problems import Batch, assert_trees_close, numpy_descent, parabola, random_batch

from spen_jax import (
    GradientDescent,
    Predictor,
    losses,
    minimize,
    training,
)
from spen_jax.objectives import adversarial, deep_value, value_loss

FEW = {"solver": GradientDescent(0.2, momentum=0.5), "steps": 4}
ALL = "truth", "inference", "adversarial"


def by_hand(energy, oracle):
    """The cross-entropy by its formula."""
    v = 1 / (1 + np.exp(energy))
    return -oracle * np.log(v) - (1 - oracle) * np.log(1 - v)


# The loss


def test_the_loss_is_the_cross_entropy_of_the_value_against_the_oracle(x64):
    energy, oracle = np.meshgrid(np.linspace(-4, 4, 9), np.linspace(0, 1, 5))
    np.testing.assert_allclose(value_loss(energy, oracle), by_hand(energy, oracle), rtol=1e-12)


def test_the_loss_pulls_by_the_difference_of_oracle_and_value():
    energy, oracle = np.float32([-200, -1, 0, 2, 200]), np.float32([0.3, 0.9, 0.5, 0, 1])
    loss, slope = jax.jit(jax.vmap(jax.value_and_grad(value_loss)))(energy, oracle)
    np.testing.assert_allclose(slope, oracle - jax.nn.sigmoid(-energy), atol=1e-6)
    np.testing.assert_allclose(np.asarray(loss)[[0, 4]], [140, 200], rtol=1e-6)


def bounded_error(y, truth):
    """In [0.2, 0.8], so that the oracle's logit is finite."""
    return 0.2 + 0.6 * losses.soft_f1_error(y, truth)


def oracle_energy(params, x, y):
    """The energy whose value is the oracle's, for x the truth, moved by a parameter."""
    value = 1 - bounded_error(y, x)
    return params["shift"] - jnp.log(value / (1 - value))


def test_the_loss_is_at_its_minimum_where_the_value_is_the_oracles(x64):
    truth = random_batch(6, n_labels=5).y
    truth[truth.sum(1) == 0, 0] = 1
    objective = deep_value(Predictor(oracle_energy, **FEW), oracle_error=bounded_error)
    at = jax.jit(jax.grad(objective, has_aux=True))
    slope, metrics = at({"shift": 0.0}, Batch(truth, truth), KEY)
    np.testing.assert_allclose(slope["shift"], 0, atol=1e-12)
    np.testing.assert_allclose(metrics["error"], 0, atol=1e-12)
    slope, metrics = at({"shift": 0.3}, Batch(truth, truth), KEY)
    assert slope["shift"] > 0.01 and metrics["error"] > 0.01


# The points

A = np.array([3.0, 4.0, 5.0, 6.0])


def parabola_of_x(params, x, y):
    return parabola(params, params["W"] @ x, y)


def half_hamming(y, truth):
    return losses.hamming(y, truth) / 4


@pytest.mark.parametrize("sources, masked", [(ALL, True), (ALL[1:], False)])
def test_loss_gradient_and_metrics_are_the_mean_over_sources_at_fixed_points(sources, masked, x64):
    """The points by descent in NumPy; labels that do not count are 0 to energy and oracle."""
    params = {"W": np.random.default_rng(4).normal(0, 3, (4, 3)), "a": A}
    batch = random_batch(5)
    counts = np.ones((5, 4), bool)
    if masked:
        counts[0, :3] = counts[2, 1] = False
    b, truth = batch.x @ params["W"].T, batch.y * counts

    def energy(y):
        return (A * (y * counts) ** 2 / 2 - b * y * counts).sum(1)

    def oracle(y):
        return 1 - ((y + truth - 2 * y * truth) * counts).sum(1) / 4

    def down(y):
        return (A * y - b) * counts

    def worse(y):  # the slope of minus the cross-entropy
        pull, e = (oracle(y) - sigmoid(-energy(y)))[:, None], energy(y)[:, None]
        return -(pull * down(y) - e * (1 - 2 * truth) * counts / 4)

    start = np.full((5, 4), 0.4)
    points = {
        "truth": truth,
        "inference": numpy_descent(down, start, 4, 0.2, 0.5)[-1],
        "adversarial": numpy_descent(worse, start, 4, 0.2, 0.5)[-1],
    }
    predictor = Predictor(parabola_of_x, start=0.4, **FEW)
    objective = deep_value(predictor, oracle_error=half_hamming, sources=sources)
    data = {"x": batch.x, "y": np.where(counts, batch.y, np.nan), "mask": counts}
    gradient, metrics = gradient_of(objective, params, data if masked else batch)

    y = np.stack([points[s] for s in sources])
    energies, oracles = (np.stack([f(points[s]) for s in sources]) for f in (energy, oracle))
    values = sigmoid(-energies)
    want = {
        "loss": by_hand(energies, oracles).mean(),
        "error": np.abs(values - oracles).mean(),
        "oracle": oracles[sources.index("inference")].mean(),
    }
    if "truth" in sources:
        want["value"] = values[0].mean()
    assert_trees_close(metrics, want, rtol=1e-9)
    pull, y = (oracles - values) / oracles.size, y * counts
    want = {
        "W": -np.einsum("sb,sbl,bd->ld", pull, y, batch.x),
        "a": np.einsum("sb,sbl->l", pull, y**2) / 2,
    }
    assert_trees_close(gradient, want, rtol=1e-7, atol=1e-12)


def test_the_adversary_finds_the_largest_loss_of_a_grid(x64):
    b = np.array([[2.0, -1.0], [-0.5, 3.0], [0.4, 0.3]])
    truth = np.array([[1.0, 0], [0, 1], [1, 1]])
    grid = np.stack(np.meshgrid(*[np.linspace(0, 1, 101)] * 2), -1).reshape(-1, 2)

    def linear(params, context, y):
        return -context @ y

    searched = adversarial(linear, lambda y, truth: losses.hamming(y, truth) / 2)
    corners = np.array([[0.05, 0.05], [0.05, 0.95], [0.95, 0.05], [0.95, 0.95]])
    known = np.repeat(b, 4, axis=0), np.repeat(truth, 4, axis=0)
    found = minimize(
        searched, {}, known, np.tile(corners, (3, 1)), solver=GradientDescent(0.3, 0.5), steps=200
    )
    oracle = 1 - np.abs(grid[None] - truth[:, None]).sum(-1) / 2
    largest = by_hand(-b @ grid.T, oracle).max(1)
    np.testing.assert_allclose(-found.energy.reshape(3, 4).min(1), largest, rtol=1e-4)


def test_equal_arguments_give_the_same_adversary():
    assert adversarial(parabola, losses.hamming) is adversarial(parabola, losses.hamming)
    assert adversarial(parabola, losses.hamming) is not adversarial(parabola, losses.squared_error)


@pytest.mark.parametrize("sources", [(), ("truth", "truth"), ("random",), "truth"], ids=repr)
def test_sources_that_are_not_known_repeated_or_none_are_refused(sources):
    with pytest.raises(ValueError, match="'truth', 'inference', 'adversarial', each once, got"):
        deep_value(Predictor(parabola), sources=sources)


# Learning


@pytest.mark.slow
def test_a_value_network_learns_to_predict_labels_that_exclude_each_other():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(1400, 6)).astype(np.float32)
    z = x @ rng.normal(size=(6, 4))
    y = (z == z.max(1, keepdims=True)).astype(np.float32)
    train, test = Batch(x[:1000], y[:1000]), Batch(x[1000:], y[1000:])
    shapes = {"U": (6, 32), "W": (32, 4), "b": (4,), "C": (32, 4), "c": (32,)}
    params = {k: rng.normal(0, 0.3, s).astype(np.float32) for k, s in shapes.items()}
    predictor = Predictor(
        coupled_labels,
        lambda params, x: features_of(params, jnp.tanh(x @ params["U"])),
        start=0.5,
        shape=(4,),
        solver=GradientDescent(0.3, momentum=0.5),
        steps=10,
    )

    def score(params):
        answer = np.asarray(predictor(params, test.x).y) > 0.5
        return np.mean(np.all(answer == test.y, axis=1))

    objective = deep_value(predictor)
    optimizer = optax.adam(optax.cosine_decay_schedule(0.05, 300))
    state = training.init(params, optimizer, KEY)
    rows = rng.integers(1000, size=(300, 100))
    learn = jax.jit(lambda state, data: training.scan(objective, optimizer, state, data))
    state, metrics = learn(state, jax.tree.map(lambda a: a[rows], train))
    metrics = {k: np.mean(v[-10:]) for k, v in metrics.items()}
    assert metrics["oracle"] > 0.85 and metrics["value"] > 0.85 and metrics["error"] < 0.2
    assert score(params) < 0.3 and score(state.params) > 0.75  # chance is 1 / 4

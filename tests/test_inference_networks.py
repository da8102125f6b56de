import itertools
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

from spen_jax import fit, logits_of, losses, minimize, training
from spen_jax.energies import FeatureNetwork
from spen_jax.inference_networks import PLAYERS, alternating, energy_as_loss, inference_network

PAGE = Path(__file__).parents[1] / "docs" / "objectives" / "inference_networks.md"
KEY = jax.random.key(0)
VARIANTS = "margin", "slack", "perceptron", "contrastive"


def table(logits, x):
    """A predictor with free logits for each example."""
    return logits


def linear_network(phi, x):
    return x @ phi["w"]


def problem(n=6, seed=1):
    """(features, energy, params of both players, batch)."""
    features, energy, theta = small_spen(seed, scale=0.6, sees_features=True)
    phi = {"w": np.random.default_rng(seed).normal(size=(3, 4))}
    return features, energy, {"energy": theta, "predictor": phi}, random_batch(n)


def energies_of(features, energy, theta, batch, y):
    return jax.vmap(energy, (None, 0, 0))(theta, features(theta, batch.x), y)


def gradient_of(objective, params, batch, key=KEY):
    """(gradient, metrics)"""
    return jax.jit(jax.grad(objective, has_aux=True))(params, batch, key)


def cross_entropy(y_hat, truth):
    return -jnp.sum(jnp.log(jnp.where(truth == 1, y_hat, 1 - y_hat)), axis=1)


def below_zero_cut(excess):
    return jnp.where(excess > 0, excess, 0)


# What the energy minimises of (correct, wrong, D), and the predictor of the same.
OF_ENERGY = {
    "margin": lambda e, e_hat, d: below_zero_cut(d - e_hat + e),
    "slack": lambda e, e_hat, d: d * below_zero_cut(1 - e_hat + e),
    "perceptron": lambda e, e_hat, d: below_zero_cut(e - e_hat),
    "contrastive": lambda e, e_hat, d: below_zero_cut(1 - e_hat + e),
}
OF_PREDICTOR = {
    "margin": lambda e, e_hat, d: e_hat - d,
    "slack": lambda e, e_hat, d: jnp.where(1 + e > e_hat, d, 1) * (e_hat - e - 1),
    "perceptron": lambda e, e_hat, d: e_hat,
    "contrastive": lambda e, e_hat, d: e_hat,
}


@pytest.mark.parametrize(
    "variant, augmented", [*itertools.product(VARIANTS, [True]), ("margin", False)]
)
def test_each_player_has_the_gradient_of_its_own_loss_alone(variant, augmented, x64):
    features, energy, params, batch = problem()
    y_hat = jax.nn.sigmoid(batch.x @ params["predictor"]["w"])

    def parts(theta, y_hat):
        correct, wrong = (energies_of(features, energy, theta, batch, y) for y in (batch.y, y_hat))
        return correct, wrong, jnp.sum((y_hat - batch.y) ** 2, axis=1)

    def of_energy(theta):
        return jnp.mean(OF_ENERGY[variant](*parts(theta, y_hat)))

    def of_predictor(phi):
        y_hat = jax.nn.sigmoid(batch.x @ phi["w"])
        each = OF_PREDICTOR[variant if augmented else "perceptron"]
        offence = each(*parts(params["energy"], y_hat))
        return jnp.mean(offence + 0.3 * cross_entropy(y_hat, batch.y))

    objective = inference_network(
        energy,
        features,
        predict=linear_network,
        variant=variant,
        augmented=augmented,
        cross_entropy=0.3,
    )
    gradient, metrics = gradient_of(objective, params, batch)
    want = {
        "energy": central_differences(of_energy, params["energy"]),
        "predictor": central_differences(of_predictor, params["predictor"]),
    }
    assert_trees_close(gradient, want, rtol=1e-6, atol=1e-8)

    correct, wrong, costs = parts(params["energy"], y_hat)
    each = OF_ENERGY[variant](correct, wrong, costs)
    assert 0 < np.count_nonzero(each) < 6, "the batch should have both kinds of examples"
    by_hand = {
        "loss": np.mean(each),
        "predictor": of_predictor(params["predictor"]),
        "cost": np.mean(costs),
        "gap": np.mean(wrong - correct),
        "violated": np.mean(each > 0),
    }
    assert_trees_close(metrics, by_hand, rtol=1e-9)


def linear(theta, x, y):
    return -(theta @ x) @ y


def descend(objective, params, batch, rate, steps):
    """The parameters after so many steps of gradient descent of the predictor alone."""

    @jax.jit
    def step(_, params):
        gradient = jax.grad(objective, has_aux=True)(params, batch, KEY)[0]
        moved = params["predictor"] - rate * gradient["predictor"]
        return params | {"predictor": moved}

    return jax.lax.fori_loop(0, steps, step, params)


# Slack is left out: a product of two linear functions may be largest inside an edge.
@pytest.mark.parametrize("variant", ["margin", "perceptron", "contrastive"])
def test_free_logits_end_at_the_most_offending_of_all_labellings(variant, x64):
    batch = random_batch(7)
    theta = np.random.default_rng(2).normal(0, 2, (4, 3))
    objective = inference_network(
        linear, predict=table, cost=losses.hamming, variant=variant, cross_entropy=0.0
    )
    params = {"energy": theta, "predictor": np.zeros((7, 4))}
    found = descend(objective, params, batch, 5.0, 4000)
    answers = jax.nn.sigmoid(found["predictor"])

    corners = np.array(list(itertools.product([0.0, 1.0], repeat=4)))
    s = batch.x @ theta.T
    for n in range(7):
        d = np.abs(corners - batch.y[n]).sum(1)
        e, e_hat = -s[n] @ batch.y[n], -(corners @ s[n])
        worst = corners[np.argmin(OF_PREDICTOR[variant](e, e_hat, d))]
        np.testing.assert_allclose(answers[n], worst, atol=0.05)


def test_the_predictor_learns_on_where_the_margin_is_kept_but_the_energy_does_not(x64):
    batch = random_batch(5)
    best = np.where(batch.y == 1, 1.0, -1.0)

    def certain(theta, x, y):  # x is the truth as +-1: lower by far at the truth
        return -theta * x @ y

    objective = inference_network(certain, predict=table)
    params = {"energy": jnp.array(10.0), "predictor": np.zeros((5, 4))}
    gradient, metrics = gradient_of(objective, params, Batch(best, batch.y))
    assert metrics["violated"] == 0 and gradient["energy"] == 0
    assert np.all(np.sign(gradient["predictor"]) == -best)


def test_an_answer_that_is_certain_and_wrong_is_still_corrected():
    batch = Batch(jnp.zeros((1, 2)), jnp.ones((1, 2)))
    objective = inference_network(lambda theta, x, y: 0 * jnp.sum(y), predict=table)
    params = {"energy": jnp.zeros(()), "predictor": jnp.full((1, 2), -60.0)}
    np.testing.assert_allclose(gradient_of(objective, params, batch)[0]["predictor"], -1, rtol=1e-5)


def test_a_trained_network_predicts_near_minimisers_of_its_energy():
    x = np.random.default_rng(0).uniform(-1, 1, (300, 2)).astype(np.float32)

    def energy(theta, x, y):  # convex and coupled: the labels share what x gives
        return jnp.sum((y - x @ theta) ** 2) + (jnp.sum(y) - 1) ** 2

    theta = jnp.float32([[1, -1, 0.5], [0.3, 1, -1]])
    network = FeatureNetwork(3, (32,))
    phi = network.init(KEY, x)["params"]
    objective = inference_network(
        energy, predict=logits_of(network), variant="perceptron", cross_entropy=0.0
    )
    batch = Batch(x, np.zeros((300, 3), np.float32))
    optimizer = optax.partition(
        {"energy": optax.set_to_zero(), "predictor": optax.adam(0.02)}, PLAYERS
    )
    state = training.init({"energy": theta, "predictor": phi}, optimizer, KEY)
    *_, (state, _) = fit(objective, optimizer, state, batch, epochs=150, batch_size=300)
    np.testing.assert_array_equal(state.params["energy"], theta)

    fresh = np.random.default_rng(1).uniform(-1, 1, (200, 2)).astype(np.float32)
    middle = jnp.full((200, 3), 0.5)
    lowest = minimize(energy, theta, fresh, middle, steps=200).energy
    answers = jax.nn.sigmoid(logits_of(network)(state.params["predictor"], fresh))
    at_answers, at_start = (
        jax.vmap(energy, (None, 0, 0))(theta, fresh, y) for y in (answers, middle)
    )
    assert np.mean(at_answers - lowest) < 0.05 * np.mean(at_start - lowest)
    refined = minimize(energy, theta, fresh, answers, steps=3).energy
    assert np.mean(refined - lowest) < 0.5 * np.mean(at_answers - lowest)


# The energy as a loss


def seal(energy, features, **options):
    return energy_as_loss(energy, features, predict=linear_network, weight=0.7, **options)


def test_with_a_fixed_energy_only_the_task_network_learns(x64):
    features, energy, params, batch = problem()

    def of_predictor(phi):
        y_hat = jax.nn.sigmoid(batch.x @ phi["w"])
        e = energies_of(features, energy, params["energy"], batch, y_hat)
        return jnp.mean(cross_entropy(y_hat, batch.y) + 0.7 * e)

    gradient, metrics = gradient_of(seal(energy, features), params, batch)
    assert all(np.all(g == 0) for g in jax.tree.leaves(gradient["energy"]))
    want = central_differences(of_predictor, params["predictor"])
    assert_trees_close(gradient["predictor"], want, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(metrics["loss"], of_predictor(params["predictor"]))
    np.testing.assert_allclose(metrics["loss"], metrics["task"] + 0.7 * metrics["energy"])
    assert set(metrics) == {"loss", "task", "energy"}


def test_the_energy_learned_by_margins_has_the_gradient_of_the_inference_networks_player(x64):
    features, energy, params, batch = problem()
    cost = losses.hamming
    fixed, metrics = gradient_of(seal(energy, features), params, batch)
    moving, more = gradient_of(seal(energy, features, learn="margin", cost=cost), params, batch)
    player, theirs = gradient_of(
        inference_network(energy, features, predict=linear_network, cost=cost), params, batch
    )
    assert_trees_close(moving["energy"], player["energy"], rtol=1e-9)
    assert_trees_close(moving["predictor"], fixed["predictor"], rtol=1e-9)
    assert_trees_close(more, metrics | {"learned": theirs["loss"]}, rtol=1e-9)


def independent(theta, x, y):
    """-log q(y) less a constant, q the independent labels of `linear_network`, moved by theta's shift."""
    return -(x @ theta["w"]) @ y + theta["shift"] * jnp.sum(y)


def test_an_energy_that_is_the_predictors_own_distribution_ranks_all_alike(x64):
    *_, params, batch = problem()
    params["energy"] = params["predictor"] | {"shift": jnp.zeros(())}
    objective = jax.jit(seal(independent, None, learn="ranking", samples=3))
    for seed in (0, 1):
        _, metrics = objective(params, batch, jax.random.key(seed))
        np.testing.assert_allclose(metrics["learned"], np.log(4), rtol=1e-12)


def test_ranking_against_many_samples_is_the_likelihood_by_enumeration(x64):
    features, energy, params, batch = problem(2)
    corners = jnp.array(list(itertools.product([0.0, 1.0], repeat=4)))

    def likelihood(theta):
        context = features(theta, batch.x)
        everything = jax.vmap(lambda c: jax.vmap(energy, (None, None, 0))(theta, c, corners))(
            context
        )
        correct = jax.vmap(energy, (None, 0, 0))(theta, context, batch.y)
        return jnp.mean(correct + jax.nn.logsumexp(-everything, axis=1))

    samples = 20_000
    objective = seal(energy, features, learn="ranking", samples=samples)
    gradient, metrics = gradient_of(objective, params, batch)
    fixed, _ = gradient_of(seal(energy, features), params, batch)
    q = jax.nn.sigmoid(batch.x @ params["predictor"]["w"])
    want = likelihood(params["energy"]) - jnp.mean(cross_entropy(q, batch.y))
    np.testing.assert_allclose(metrics["learned"] - np.log(samples + 1), want, atol=0.03)
    wanted = jax.grad(likelihood)(params["energy"])
    assert_trees_close(gradient["energy"], wanted, atol=0.03)
    assert_trees_close(gradient["predictor"], fixed["predictor"], rtol=1e-9)


def test_ranking_draws_other_samples_with_another_key(x64):
    features, energy, params, batch = problem()
    objective = jax.jit(seal(energy, features, learn="ranking", samples=3))
    first, second, again = (
        float(objective(params, batch, jax.random.key(i))[1]["learned"]) for i in (0, 1, 0)
    )
    assert first == again != second


def test_an_energy_that_knows_the_task_helps_where_few_examples_have_labels():
    rng = np.random.default_rng(3)
    x = rng.normal(size=(900, 8)).astype(np.float32)
    w = rng.normal(size=(4, 8)).astype(np.float32)
    best = (x @ w.T).argmax(1)
    y = np.eye(4, dtype=np.float32)[best]
    known = np.where(np.arange(900)[:, None] < 20, y, -1)[:500]  # -1: not labelled

    def energy(theta, x, y):  # one label, and the scores say which
        return -(theta @ x) @ y + 4 * (jnp.sum(y) - 1) ** 2

    def where_labelled(y, truth):
        return jnp.where(truth[0] < 0, 0, losses.cross_entropy(y, jnp.abs(truth)))

    network = FeatureNetwork(4, ())
    params = {"energy": w, "predictor": network.init(KEY, x)["params"]}
    predict, optimizer = logits_of(network), optax.adam(0.05)

    def right(weight):
        objective = energy_as_loss(energy, predict=predict, loss=where_labelled, weight=weight)
        state = training.init(params, optimizer, KEY)
        data = Batch(x[:500], known)
        *_, (state, _) = fit(objective, optimizer, state, data, epochs=60, batch_size=500)
        np.testing.assert_array_equal(state.params["energy"], w)
        return np.mean(predict(state.params["predictor"], x[500:]).argmax(1) == best[500:])

    without, helped = right(0.0), right(0.3)
    assert without < 0.8 and helped > 0.9


# Taking turns


def test_the_players_take_turns_as_if_each_had_its_optimiser_alone():
    first, second = optax.adamw(optax.exponential_decay(0.1, 1, 0.5)), optax.adam(0.2)
    params = {"energy": {"a": jnp.float32([1, 2])}, "predictor": jnp.float32([3])}
    both = alternating(first, second, predictor_steps=2)
    state = both.init(params)
    alone = {"energy": first.init(params["energy"]), "predictor": second.init(params["predictor"])}
    want = params
    update = jax.jit(both.update)
    for t in range(7):
        gradient = jax.tree.map(lambda a, t=t: jnp.cos(a + t), params)
        updates, state = update(gradient, state, params)
        params = optax.apply_updates(params, updates)

        turn, optimizer = ("energy", first) if t % 3 == 0 else ("predictor", second)
        moves, alone[turn] = optimizer.update(gradient[turn], alone[turn], want[turn])
        want = want | {turn: optax.apply_updates(want[turn], moves)}
        assert_trees_close(params, want, rtol=1e-5)
        for player in PLAYERS:
            got = optax.tree.get(state.inner_states[player], "mu")
            moments = optax.tree.get(alone[player], "mu")
            for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(moments), strict=True):
                np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7)


def test_equal_turns_are_the_same_transformation():
    energy_optimizer, predictor_optimizer = optax.adam(0.1), optax.sgd(0.1)
    made = alternating(energy_optimizer, predictor_optimizer)
    assert made is alternating(energy_optimizer, predictor_optimizer)
    assert made is not alternating(energy_optimizer, predictor_optimizer, 2)


def test_training_in_turns_moves_one_player_a_step(x64):
    features, energy, params, batch = problem()
    objective = inference_network(energy, features, predict=linear_network)
    optimizer = alternating(optax.adam(0.1), optax.adam(0.1))
    state = training.init(params, optimizer, KEY)
    rows = np.arange(6)
    for turn, idle in [("energy", "predictor"), ("predictor", "energy")] * 2:
        before = state.params
        state, _ = training.step(objective, optimizer, state, batch, rows)
        moved = jax.tree.map(lambda a, b: bool(np.any(a != b)), state.params, before)
        assert not any(jax.tree.leaves(moved[idle])) and any(jax.tree.leaves(moved[turn]))


# What is refused, and keys

MAKERS = [
    lambda **kw: inference_network(parabola, **kw),
    lambda **kw: energy_as_loss(parabola, **kw),
    lambda **kw: energy_as_loss(parabola, learn="ranking", **kw),
]


@pytest.mark.parametrize("make", MAKERS, ids=["inference network", "static", "ranking"])
def test_both_networks_get_keys_of_their_own(make):
    seen = {}

    def features(theta, x, key):
        seen["features"] = key
        return x

    def predict(phi, x, key):
        seen["predict"] = key
        return phi

    params = {"energy": {"a": jnp.ones(4)}, "predictor": jnp.zeros((2, 4))}
    batch = Batch(jnp.ones((2, 4)), jnp.ones((2, 4)))
    make(features=features, predict=predict)(params, batch, KEY)
    keys = [KEY, *seen.values()]
    assert len({tuple(np.asarray(jax.random.key_data(k))) for k in keys}) == 3


@pytest.mark.parametrize("make", MAKERS, ids=["inference network", "static", "ranking"])
def test_a_truth_of_booleans_is_that_of_floats(make):
    params = {"energy": {"a": jnp.ones(4)}, "predictor": jnp.full((2, 4), 0.3)}
    truth = np.array([[1, 0, 1, 1], [0, 0, 1, 0]])
    objective = jax.jit(make(predict=table))
    got, want = (
        objective(params, Batch(jnp.ones((2, 4)), jnp.asarray(truth, dtype)), KEY)
        for dtype in (bool, jnp.float32)
    )
    assert_trees_close(got, want, rtol=1e-6)


@pytest.mark.parametrize("make", MAKERS[:2], ids=["inference network", "energy as loss"])
def test_parameters_and_logits_that_do_not_fit_are_refused(make):
    batch = Batch(jnp.ones((2, 4)), jnp.ones((2, 4)))
    objective = make(predict=table)
    for params in ({"energy": 1.0}, [1.0]):
        with pytest.raises(ValueError, match='"energy": theta, "predictor": phi.*, got'):
            objective(params, batch, KEY)
    params = {"energy": {"a": jnp.ones(4)}, "predictor": jnp.zeros((2, 3))}
    with pytest.raises(ValueError, match=r"truth's shape \(2, 4\), got \(2, 3\)"):
        objective(params, batch, KEY)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: inference_network(parabola, predict=table, cross_entropy=-1), "0 or more"),
        (lambda: inference_network(parabola, predict=table, variant="hinge"), "'slack'.*'hinge'"),
        (lambda: energy_as_loss(parabola, predict=table, weight=float("nan")), "0 or more"),
        (lambda: energy_as_loss(parabola, predict=table, learn="nce"), "'ranking', got 'nce'"),
        (lambda: energy_as_loss(parabola, predict=table, samples=0), "1 or more, got 0"),
        (lambda: alternating(optax.sgd(1.0), optax.sgd(1.0), 0), "1 or more, got 0"),
    ],
)
def test_settings_out_of_range_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_the_page_runs_as_printed(capsys):
    names = {}
    exec("\n".join(re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)), names)
    lines = capsys.readouterr().out.splitlines()
    joint, retuned, refined, alone, with_energy, ranked = (
        float(line.split("}")[-1].split()[0]) for line in [*lines[1:6], lines[-1]]
    )
    assert min(joint, retuned, refined) > 0.74 and ranked > 0.74
    np.testing.assert_allclose([alone, with_energy], [0.49, 0.75], atol=0.04)
    energies = names["refined"].trace["energy"].mean(0)
    assert np.all(np.diff(energies) < 0)

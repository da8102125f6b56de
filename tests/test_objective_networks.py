import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from enumerable import (
    CORNERS,
    KEY,
    PREDICTOR,
    corners_of,
    energies,
    flat,
    gradient_of,
    problem,
    sigmoid,
    slopes,
    slopes_in_y,
)
from problems import Batch, assert_trees_close, parabola, random_batch

from spen_jax import (
    Box,
    GradientDescent,
    Predictor,
    Reals,
    Simplex,
    losses,
    minimize,
)
from spen_jax.objectives import PLAYERS, alternating, energy_as_loss, inference_network

VARIANTS = "margin", "slack", "perceptron", "contrastive"


def table(logits, x):
    """Free logits for each example."""
    return logits


def linear_network(phi, x):
    return x @ phi["w"]


def two_players(n=6):
    """(params of both players, batch, the answers)."""
    theta, batch = problem(n)
    phi = {"w": np.random.default_rng(1).normal(size=(3, 4))}
    return {"energy": theta, "answer": phi}, batch, sigmoid(batch.x @ phi["w"])


def cross_entropy(y_hat, truth):
    return -np.log(np.where(truth == 1, y_hat, 1 - y_hat))


def at_both(theta, batch, y_hat):
    """E(truth), E(y_hat), and their slopes in the parameters."""
    points = np.stack([batch.y, y_hat], axis=1)
    e, slope = energies(theta, batch.x, points), slopes(theta, batch.x, points)
    return e[:, 0], e[:, 1], slope[:, 0], slope[:, 1]


def through_the_network(batch, y_hat, by_y):
    """The gradient in w of a loss whose slope in the answers is `by_y`."""
    return batch.x.T @ (by_y * y_hat * (1 - y_hat))


# What the energy minimises of (correct, wrong, D), and the answer of the same: for slack, E_hat by its factor.
OF_ENERGY = {
    "margin": lambda e, e_hat, d: np.maximum(0, d - e_hat + e),
    "slack": lambda e, e_hat, d: d * np.maximum(0, 1 - e_hat + e),
    "perceptron": lambda e, e_hat, d: np.maximum(0, e - e_hat),
    "contrastive": lambda e, e_hat, d: np.maximum(0, 1 - e_hat + e),
}
OF_ANSWER = {
    "margin": lambda e, e_hat, d: e_hat - d,
    "slack": lambda e, e_hat, d: np.where(1 + e > e_hat, d, 1) * (e_hat - e - 1),
    "perceptron": lambda e, e_hat, d: e_hat,
    "contrastive": lambda e, e_hat, d: e_hat,
}


@pytest.mark.parametrize(
    "variant, augmented", [("margin", True), ("slack", True), ("margin", False)]
)
def test_each_player_has_the_gradient_of_its_own_loss_alone(variant, augmented, x64):
    params, batch, y_hat = two_players()
    correct, wrong, up, down = at_both(params["energy"], batch, y_hat)
    costs = ((y_hat - batch.y) ** 2).sum(1)
    each = OF_ENERGY[variant](correct, wrong, costs)
    assert 0 < np.count_nonzero(each) < 6, "the batch should have both kinds of examples"
    weight = (each > 0) * (costs if variant == "slack" else 1) / 6

    searched = variant if augmented else "perceptron"
    apart = cross_entropy(y_hat, batch.y).sum(1)
    answers = (OF_ANSWER[searched](correct, wrong, costs) + 0.3 * apart).mean()
    by_e = np.where(correct + 1 > wrong, costs, 1) if searched == "slack" else np.ones(6)
    by_d = {"margin": -np.ones(6), "slack": np.minimum(0, wrong - correct - 1)}
    by_y = by_e[:, None] * slopes_in_y(params["energy"], batch.x, y_hat)
    by_y += by_d.get(searched, np.zeros(6))[:, None] * 2 * (y_hat - batch.y)
    by_y += 0.3 * (y_hat - batch.y) / (y_hat * (1 - y_hat))

    objective = inference_network(
        PREDICTOR, answer=linear_network, variant=variant, augmented=augmented, cross_entropy=0.3
    )
    gradient, metrics = gradient_of(objective, params, batch)
    np.testing.assert_allclose(flat(gradient["energy"]), weight @ (up - down), atol=1e-9)
    want = through_the_network(batch, y_hat, by_y / 6)
    np.testing.assert_allclose(gradient["answer"]["w"], want, rtol=1e-7, atol=1e-10)
    want = {
        "loss": np.mean(each),
        "answer": answers,
        "cost": np.mean(costs),
        "gap": np.mean(wrong - correct),
        "violated": np.mean(each > 0),
    }
    assert_trees_close(metrics, want, rtol=1e-7)


def linear(theta, x, y):
    return -(theta @ x) @ y


# Slack is left out: a product of two linear functions may be largest inside an edge.
@pytest.mark.parametrize("variant", ["margin", "perceptron", "contrastive"])
def test_free_logits_end_at_the_most_offending_of_all_labellings(variant, x64):
    batch = random_batch(7)
    theta = np.random.default_rng(2).normal(0, 2, (4, 3))
    objective = inference_network(
        Predictor(linear), answer=table, cost=losses.hamming, variant=variant, cross_entropy=0.0
    )

    @jax.jit
    def descend(phi):
        def step(_, phi):
            params = {"energy": theta, "answer": phi}
            return phi - 5 * jax.grad(objective, has_aux=True)(params, batch, KEY)[0]["answer"]

        return jax.lax.fori_loop(0, 4000, step, phi)

    answers = sigmoid(np.asarray(descend(np.zeros((7, 4)))))
    s = batch.x @ theta.T
    for n in range(7):
        d = np.abs(CORNERS - batch.y[n]).sum(1)
        e, e_hat = -s[n] @ batch.y[n], -(CORNERS @ s[n])
        worst = CORNERS[np.argmin(OF_ANSWER[variant](e, e_hat, d))]
        np.testing.assert_allclose(answers[n], worst, atol=0.05)


def test_the_answer_learns_on_where_the_margin_is_kept_but_the_energy_does_not(x64):
    batch = random_batch(5)
    best = np.where(batch.y == 1, 1.0, -1.0)

    def certain(theta, x, y):  # x is the truth as +-1: lower by far at the truth
        return -theta * x @ y

    objective = inference_network(Predictor(certain), answer=table)
    params = {"energy": 10.0, "answer": np.zeros((5, 4))}
    gradient, metrics = gradient_of(objective, params, Batch(best, batch.y))
    assert metrics["violated"] == 0 and gradient["energy"] == 0
    assert np.all(np.sign(gradient["answer"]) == -best)


@pytest.mark.parametrize("domain", [Box(), Simplex()], ids=["labels", "one of many"])
def test_an_answer_that_is_certain_and_wrong_is_still_corrected(domain):
    """From the scores, by sigmoid or softmax: the slope of the loss is what is missing."""
    batch = Batch(np.zeros((1, 2), np.float32), np.float32([[1, 0]]))
    free = Predictor(lambda theta, x, y: 0 * jnp.sum(y), domain=domain)
    params = {"energy": 0.0, "answer": np.float32([[-60, 60]])}
    network, seal = inference_network(free, answer=table), energy_as_loss(free, answer=table)
    slopes = jax.jit(jax.jacrev(lambda params: [f(params, batch, KEY)[0] for f in (network, seal)]))
    for slope in slopes(params):
        np.testing.assert_allclose(slope["answer"], [[-1, 1]], rtol=1e-5)


def test_labels_that_do_not_count_are_no_part_of_any_loss(x64):
    params, batch, y_hat = two_players(3)
    mask = np.array([[True, True, False, True]] * 3)
    data = {"x": batch.x, "y": np.where(mask, batch.y, np.nan), "mask": mask}
    seen, hidden = Batch(batch.x, batch.y * mask), y_hat * mask
    correct, wrong, *_ = at_both(params["energy"], seen, hidden)
    costs = ((hidden - seen.y) ** 2).sum(1)
    apart = (cross_entropy(y_hat, batch.y) * mask).sum(1)
    network = inference_network(PREDICTOR, answer=linear_network)
    seal = energy_as_loss(PREDICTOR, answer=linear_network, learn="margin")
    both = jax.jit(lambda *a: (network(*a)[1], seal(*a)[1]))
    got, other = both(params, data, KEY)
    np.testing.assert_allclose(got["loss"], OF_ENERGY["margin"](correct, wrong, costs).mean())
    np.testing.assert_allclose(got["answer"], (wrong - costs + apart).mean())
    np.testing.assert_allclose(other["task"], apart.mean())
    # A network that is to answer in full is judged in full.
    whole = at_both(params["energy"], seen, y_hat)[1]
    np.testing.assert_allclose(other["energy"], whole.mean())
    np.testing.assert_allclose(other["learned"], got["loss"])


def adam(objective, optimizer, params, batch, steps):
    """The parameters after so many full steps, in one compiled loop."""

    @jax.jit
    def learn(params):
        def step(carry, _):
            params, state = carry
            gradient = jax.grad(objective, has_aux=True)(params, batch, KEY)[0]
            updates, state = optimizer.update(gradient, state, params)
            return (optax.apply_updates(params, updates), state), None

        return jax.lax.scan(step, (params, optimizer.init(params)), None, length=steps)[0][0]

    return learn(params)


@pytest.mark.slow
def test_a_trained_network_predicts_near_minimisers_of_its_energy():
    x = np.random.default_rng(0).uniform(-1, 1, (300, 2)).astype(np.float32)

    def energy(theta, x, y):  # convex and coupled: the labels share what x gives
        return jnp.sum((y - x @ theta) ** 2) + (jnp.sum(y) - 1) ** 2

    def answer(phi, x):
        return jnp.tanh(x @ phi["u"] + phi["b"][None]) @ phi["v"]

    rng, theta = np.random.default_rng(2), np.float32([[1, -1, 0.5], [0.3, 1, -1]])
    phi = {"u": rng.normal(size=(2, 32)), "b": rng.normal(size=32), "v": np.zeros((32, 3))}
    params = {"energy": theta, "answer": jax.tree.map(np.float32, phi)}
    objective = inference_network(
        Predictor(energy), answer=answer, variant="perceptron", cross_entropy=0.0
    )
    batch = Batch(x, np.zeros((300, 3), np.float32))
    optimizer = optax.partition(
        {"energy": optax.set_to_zero(), "answer": optax.adam(0.02)}, PLAYERS
    )
    trained = adam(objective, optimizer, params, batch, 150)
    np.testing.assert_array_equal(trained["energy"], theta)

    fresh = np.random.default_rng(1).uniform(-1, 1, (200, 2)).astype(np.float32)
    answers = jax.nn.sigmoid(answer(trained["answer"], fresh))
    options = {"trace": "energy", "solver": GradientDescent(0.1)}
    path = minimize(energy, theta, fresh, 0.5, shape=(3,), steps=200, **options).trace["energy"]
    lowest, at_start = np.asarray(path[:, -1]), np.asarray(path[:, 0])
    path = np.asarray(minimize(energy, theta, fresh, answers, steps=3, **options).trace["energy"])
    assert np.mean(path[:, 0] - lowest) < 0.05 * np.mean(at_start - lowest)
    assert np.mean(path[:, -1] - lowest) < 0.5 * np.mean(path[:, 0] - lowest)


# The energy as a loss


def seal(predictor, **options):
    return energy_as_loss(predictor, answer=linear_network, weight=0.7, **options)


@pytest.mark.parametrize("learn", [None, "margin"])
def test_the_task_network_learns_from_a_fixed_energy_and_the_energy_from_fixed_answers(learn, x64):
    params, batch, y_hat = two_players()
    gradient, metrics = gradient_of(
        seal(PREDICTOR, learn=learn, cost=losses.hamming), params, batch
    )
    correct, wrong, up, down = at_both(params["energy"], batch, y_hat)
    task = cross_entropy(y_hat, batch.y).sum(1).mean()
    want = {"loss": task + 0.7 * wrong.mean(), "task": task, "energy": wrong.mean()}
    weight = np.zeros(6)
    if learn:
        costs = np.abs(y_hat - batch.y).sum(1)
        each = OF_ENERGY["margin"](correct, wrong, costs)
        want["learned"], weight = each.mean(), (each > 0) / 6
    assert_trees_close(metrics, want, rtol=1e-9)
    np.testing.assert_allclose(flat(gradient["energy"]), weight @ (up - down), atol=1e-9)
    by_y = (y_hat - batch.y) / (y_hat * (1 - y_hat))
    by_y += 0.7 * slopes_in_y(params["energy"], batch.x, y_hat)
    want = through_the_network(batch, y_hat, by_y / 6)
    np.testing.assert_allclose(gradient["answer"]["w"], want, rtol=1e-7, atol=1e-10)


def independent(theta, x, y):
    """-log q(y) less a constant, q the independent parts of the network, moved by theta's shift."""
    return -jnp.sum((x @ theta["w"]).reshape(y.shape) * y) + theta["shift"] * jnp.sum(y)


@pytest.mark.parametrize("domain", [Box(), Simplex()], ids=["labels", "rows"])
def test_an_energy_that_is_the_networks_own_distribution_ranks_all_alike(domain, x64):
    params, batch, _ = two_players()
    params["energy"] = params["answer"] | {"shift": 0.0}

    def answer(phi, x):
        scores = linear_network(phi, x)
        return scores if domain == Box() else scores.reshape(6, 2, 2)

    if domain != Box():
        batch = Batch(batch.x, np.eye(2)[np.random.default_rng(0).integers(2, size=(6, 2))])
    objective = jax.jit(
        energy_as_loss(
            Predictor(independent, domain=domain), answer=answer, learn="ranking_nce", samples=3
        )
    )
    for seed in (0, 1):
        _, metrics = objective(params, batch, jax.random.key(seed))
        np.testing.assert_allclose(metrics["learned"], np.log(4), rtol=1e-12)


@pytest.mark.slow
def test_ranking_against_many_samples_is_the_likelihood_by_enumeration(x64):
    params, batch, q = two_players(2)
    samples = 5000
    objective = seal(PREDICTOR, learn="ranking_nce", samples=samples)
    compiled = jax.jit(jax.grad(objective, has_aux=True))
    (gradient, metrics), (_, other) = (compiled(params, batch, jax.random.key(i)) for i in (0, 1))
    assert metrics["learned"] != other["learned"]  # of another key

    theta, points = params["energy"], corners_of(batch)
    e, correct = energies(theta, batch.x, points), energies(theta, batch.x, batch.y[:, None])[:, 0]
    nll = correct + np.logaddexp.reduce(-e, axis=1)
    want = np.mean(nll) - cross_entropy(q, batch.y).sum(1).mean()
    np.testing.assert_allclose(metrics["learned"] - np.log(samples + 1), want, atol=0.06)
    p = np.exp(-e) / np.exp(-e).sum(1, keepdims=True)
    truth = slopes(theta, batch.x, batch.y[:, None])[:, 0]
    want = (truth - np.einsum("bk,bkp->bp", p, slopes(theta, batch.x, points))).mean(0)
    np.testing.assert_allclose(flat(gradient["energy"]), want, atol=0.06)
    by_y = (q - batch.y) / (q * (1 - q)) + 0.7 * slopes_in_y(theta, batch.x, q)
    want = through_the_network(batch, q, by_y / 2)
    np.testing.assert_allclose(gradient["answer"]["w"], want, rtol=1e-7)


def test_an_energy_that_knows_the_task_helps_where_few_examples_have_labels():
    rng = np.random.default_rng(3)
    x = rng.normal(size=(900, 8)).astype(np.float32)
    w = rng.normal(size=(4, 8)).astype(np.float32)
    best = (x @ w.T).argmax(1)
    labelled = np.arange(500) < 12
    data = {"x": x[:500], "y": np.eye(4, dtype=np.float32)[best[:500]], "mask": labelled}

    def energy(theta, x, y):  # one label, and the scores say which
        return -(theta @ x) @ y + 4 * (jnp.sum(y) - 1) ** 2

    phi = {"w": np.zeros((8, 4), np.float32), "b": np.zeros(4, np.float32)}
    params = {"energy": w, "answer": phi}

    def answer(phi, x):
        return x @ phi["w"] + phi["b"][None]

    def right(weight):
        objective = energy_as_loss(Predictor(energy), answer=answer, weight=weight)
        trained = adam(objective, optax.adam(0.05), params, data, 60)
        np.testing.assert_array_equal(trained["energy"], w)
        return np.mean(answer(trained["answer"], x[500:]).argmax(1) == best[500:])

    without, helped = right(0.0), right(0.3)
    assert without < 0.8 and helped > 0.9


# Taking turns


def test_the_players_take_turns_as_if_each_had_its_optimiser_alone():
    first, second = optax.adamw(optax.exponential_decay(0.1, 1, 0.5)), optax.adam(0.2)
    params = {"energy": {"a": jnp.float32([1, 2])}, "answer": jnp.float32([3])}
    both = alternating(first, second, answer_steps=2)
    state = both.init(params)
    alone = {"energy": first.init(params["energy"]), "answer": second.init(params["answer"])}
    want = params
    update = jax.jit(both.update)
    updates_of = {"energy": jax.jit(first.update), "answer": jax.jit(second.update)}
    for t in range(5):
        gradient = jax.tree.map(lambda a, t=t: jnp.cos(a + t), params)
        updates, state = update(gradient, state, params)
        params = optax.apply_updates(params, updates)

        turn = "energy" if t % 3 == 0 else "answer"
        moves, alone[turn] = updates_of[turn](gradient[turn], alone[turn], want[turn])
        want = want | {turn: optax.apply_updates(want[turn], moves)}
        assert_trees_close(params, want, rtol=1e-5)
        for player in PLAYERS:
            got = optax.tree.get(state.inner_states[player], "mu")
            moments = optax.tree.get(alone[player], "mu")
            for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(moments), strict=True):
                np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7)


def test_equal_turns_are_the_same_transformation():
    energy_optimizer, answer_optimizer = optax.adam(0.1), optax.sgd(0.1)
    made = alternating(energy_optimizer, answer_optimizer)
    assert made is alternating(energy_optimizer, answer_optimizer)
    assert made is not alternating(energy_optimizer, answer_optimizer, 2)


# What is refused

MAKERS = [
    lambda **kw: inference_network(Predictor(parabola), **kw),
    lambda **kw: energy_as_loss(Predictor(parabola), **kw),
]


@pytest.mark.parametrize("make", MAKERS, ids=["inference network", "energy as loss"])
def test_parameters_and_scores_that_do_not_fit_are_refused(make):
    batch = Batch(jnp.ones((2, 4)), jnp.ones((2, 4)))
    objective = make(answer=table)
    for params in ({"energy": 1.0}, [1.0]):
        with pytest.raises(ValueError, match='"energy": theta, "answer": phi.*, got'):
            objective(params, batch, KEY)
    params = {"energy": {"a": jnp.ones(4)}, "answer": jnp.zeros((2, 3))}
    with pytest.raises(ValueError, match=r"truth's shape \(2, 4\), got \(2, 3\)"):
        objective(params, batch, KEY)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda p: inference_network(p, answer=table, cross_entropy=-1), "0 or more"),
        (lambda p: inference_network(p, answer=table, variant="hinge"), "'slack'.*'hinge'"),
        (lambda p: energy_as_loss(p, answer=table, weight=float("nan")), "0 or more"),
        (lambda p: energy_as_loss(p, answer=table, learn="nce"), "'ranking_nce', got 'nce'"),
        (lambda p: energy_as_loss(p, answer=table, samples=0), "1 or more, got 0"),
        (lambda p: alternating(optax.sgd(1.0), optax.sgd(1.0), 0), "1 or more, got 0"),
    ],
)
def test_settings_out_of_range_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make(Predictor(parabola))


@pytest.mark.parametrize("domain", [Box(-1, 1), Reals()], ids=str)
def test_ranking_is_refused_where_independent_parts_cannot_be_drawn(domain):
    with pytest.raises(ValueError, match=r"on Box\(0, 1\) or a Simplex"):
        energy_as_loss(Predictor(parabola, domain=domain), answer=table, learn="ranking_nce")

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from enumerable import CORNERS, KEY, PREDICTOR, energies, flat, gradient_of, problem, slopes
from problems import Batch, parabola

from spen_jax import Langevin, Predictor, Reals
from spen_jax.data import Split
from spen_jax.objectives import Replay, contrastive_divergence, replay
from spen_jax.sampling import GibbsWithGradients

FLIPS = GibbsWithGradients()


@pytest.mark.slow
def test_chains_that_have_mixed_have_the_gradient_of_the_likelihood(x64):
    """Of the second example two labels do not count: its distribution is over the other two."""
    params, batch = problem()
    mask = np.array([[True] * 4, [True, False, False, True]])
    points = CORNERS * mask[:, None]
    p = np.exp(-energies(params, batch.x, points))
    p /= p.sum(1, keepdims=True)
    each = slopes(params, batch.x, points)
    mean = np.einsum("bk,bkp->bp", p, each)
    truth = slopes(params, batch.x, (batch.y * mask)[:, None])[:, 0]
    want = (truth - mean).mean(0)
    chains = 2000
    variance = np.einsum("bk,bkp->bp", p, (each - mean[:, None]) ** 2)
    error = np.sqrt(variance.sum(0) / chains) / 2 + 1e-12
    assert np.max(np.abs(want) / error) > 10  # chains that stayed at the truth would have slope 0

    objective = contrastive_divergence(PREDICTOR, sampler=FLIPS, steps=60, chains=chains)
    data = {"x": batch.x, "y": np.where(mask, batch.y, np.nan), "mask": mask}
    gradient, metrics = gradient_of(objective, params, data)
    assert np.max(np.abs(flat(gradient) - want) / error) < 4.5
    assert metrics["divergent"] == 0 < metrics["acceptance"] < 1
    assert metrics["loss"] == -metrics["gap"] and "chains" not in metrics


@pytest.mark.slow
def test_on_the_reals_it_has_the_closed_form_of_a_gaussian(x64):
    a, b, y, chains = np.array([1.0, 2.0]), np.array([0.5, -1.0]), np.array([1.5, 0.7]), 4000

    def energy(params, context, y):
        return parabola(params, params["b"], y)

    objective = contrastive_divergence(
        Predictor(energy, domain=Reals()),
        sampler=Langevin(0.3, adjusted=True),
        steps=60,
        chains=chains,
        start=lambda context, key: jax.random.normal(key, (1, chains, 2)),
    )
    batch = Batch(np.zeros((1, 1)), y[None])
    gradient, _ = gradient_of(objective, {"a": a, "b": b}, batch)
    mean, variance = b / a, 1 / a
    # E = a y^2 / 2 - b y, and the variance of y^2 is 2 s^4 + 4 m^2 s^2.
    want = {"a": (y**2 - mean**2 - variance) / 2, "b": mean - y}
    errors = {
        "a": np.sqrt((2 * variance**2 + 4 * mean**2 * variance) / chains) / 2,
        "b": np.sqrt(variance / chains),
    }
    for name in want:
        assert np.all(np.abs(gradient[name] - want[name]) < 4.5 * errors[name])


def test_persistent_chains_go_on_or_begin_anew_and_the_penalty_is_on_squares(x64):
    """Steps so small that the chains stay where they began."""
    params, batch = problem(2)
    standing = np.random.default_rng(3).uniform(0.2, 0.8, (2, 400, 4))
    share, weight = 0.3, 0.2
    objective = contrastive_divergence(
        PREDICTOR,
        sampler=Langevin(1e-30, adjusted=True),
        steps=2,
        chains=400,
        persistent=True,
        restart=share,
        magnitude=weight,
    )
    gradient, metrics = gradient_of(objective, params, Replay(batch.x, batch.y, standing))
    chains = np.asarray(metrics["chains"])
    stayed = np.abs(chains - standing).max(-1) < 1e-9
    anew = np.abs(chains - batch.y[:, None]).max(-1) < 1e-9
    assert np.all(stayed ^ anew)
    assert np.all(np.abs(anew.mean(1) - share) < 4.5 * np.sqrt(share * (1 - share) / 400))

    correct = energies(params, batch.x, batch.y[:, None])[:, 0]
    wrong = energies(params, batch.x, chains)
    gap = (wrong.mean(1) - correct).mean()
    np.testing.assert_allclose(metrics["gap"], gap)
    penalty = (correct**2).mean() + (wrong**2).mean()
    np.testing.assert_allclose(metrics["loss"], -gap + weight * penalty)
    up = slopes(params, batch.x, batch.y[:, None])[:, 0]
    down = slopes(params, batch.x, chains)
    want = (up * (1 + 2 * weight * correct)[:, None]).mean(0)
    want -= (down * (1 - 2 * weight * wrong)[..., None]).mean((0, 1))
    np.testing.assert_allclose(flat(gradient), want, rtol=1e-8, atol=1e-10)


def test_a_replay_starts_at_random_corners():
    data = Split(np.zeros((300, 2), np.float32), np.zeros((300, 4), np.float32))
    made = replay(data, KEY, chains=3)
    assert made.x is data.x and made.y is data.y and made.chains.shape == (300, 3, 4)
    chains = np.asarray(made.chains)
    assert set(np.unique(chains)) == {0.0, 1.0}
    assert abs(chains.mean() - 0.5) < 4.5 * 0.5 / np.sqrt(3600)
    points = np.asarray(replay(data, KEY, domain=Reals()).chains)
    assert points.shape == (300, 1, 4) and abs(points.std() - 1) < 0.1
    mask = np.ones((300, 4), bool)
    np.testing.assert_array_equal(replay(Split(*data[:2], mask), KEY).mask, mask)


def test_a_replay_of_data_without_y_says_what_it_needs():
    for data in (np.zeros((3, 2)), Split(np.zeros((3, 2)), None)):
        with pytest.raises(ValueError, match="a batch needs fields x and y"):
            replay(data, KEY)


def boltzmann(params, context, y):
    return -params["b"] @ y - y @ params["W"] @ y


@pytest.mark.slow
def test_persistent_chains_learn_the_moments_of_a_boltzmann_machine():
    rng = np.random.default_rng(0)
    weights = {"b": rng.normal(size=4), "W": np.triu(1.5 * rng.normal(size=(4, 4)), 1)}

    def law(params):
        pairs = np.einsum("ki,ij,kj->k", CORNERS, params["W"], CORNERS)
        p = np.exp(CORNERS @ params["b"] + pairs)
        return p / p.sum()

    y = CORNERS[rng.choice(16, 400, p=law(weights))].astype(np.float32)
    data = replay(Split(np.zeros((400, 1), np.float32), y), KEY)
    objective = contrastive_divergence(
        Predictor(boltzmann), sampler=FLIPS, steps=2, persistent=True, restart=0.0
    )
    rates = 0.5 * np.geomspace(1, 0.02, 400)

    @jax.jit
    def learn(params, data):
        def step(carry, now):
            params, chains = carry
            rate, key = now
            gradient, metrics = jax.grad(objective, has_aux=True)(
                params, data._replace(chains=chains), key
            )
            params = jax.tree.map(lambda p, g: p - rate * g, params, gradient)
            return (params, metrics["chains"]), None

        keys = jax.random.split(KEY, len(rates))
        return jax.lax.scan(step, (params, data.chains), (jnp.asarray(rates), keys))[0][0]

    params = learn({"b": jnp.zeros(4), "W": jnp.zeros((4, 4))}, data)
    p = law(jax.tree.map(np.asarray, params))
    # The enumerated maximum of the likelihood has the moments of the data.
    got = np.einsum("k,ki,kj->ij", p, CORNERS, CORNERS)
    want = y.T @ y / 400
    assert np.abs(got - want).max() < 0.02
    untrained = np.full((4, 4), 0.25) + 0.25 * np.eye(4)
    assert np.abs(untrained - want).max() > 0.2


@pytest.mark.parametrize(
    "options, message",
    [
        ({"steps": 0}, "steps must be a whole"),
        ({"chains": 0}, "chains must be a"),
        ({"restart": 2.0}, "restart is a prob"),
        ({"magnitude": -1.0}, "magnitude must"),
        ({"persistent": True}, "needs a batch with a field chains"),
        (
            {"chains": 2, "start": lambda context: jnp.zeros((2, 4))},
            r"start must have shape \(2, 2, 4\), got \(2, 4\)",
        ),
    ],
)
def test_what_does_not_fit_is_refused_in_a_sentence(options, message, x64):
    params, batch = problem()
    with pytest.raises(ValueError, match=message):
        objective = contrastive_divergence(PREDICTOR, sampler=FLIPS, **options)
        jax.eval_shape(objective, params, batch, KEY)


def test_chains_of_another_number_are_refused(x64):
    params, batch = problem()
    objective = contrastive_divergence(PREDICTOR, sampler=FLIPS, chains=2, persistent=True)
    data = Replay(batch.x, batch.y, np.zeros((2, 3, 4)))
    with pytest.raises(ValueError, match=r"chains must have shape \(2, 2, 4\), got \(2, 3, 4\)"):
        jax.eval_shape(objective, params, data, KEY)
    with pytest.raises(ValueError, match="chains must be a whole number"):
        replay(batch, KEY, chains=0)

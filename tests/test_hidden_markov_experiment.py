import contextlib
import io
import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("matplotlib")
pytest.importorskip("tyro")
pytest.importorskip("rich")
pytest.importorskip("sklearn")

from sklearn.naive_bayes import MultinomialNB

from experiments.lecture import hidden_markov, hidden_markov_figures
from spen_jax.exact import HiddenMarkov

EVERY = np.array(list(itertools.product(range(3), repeat=5)))  # all paths of 5 places, 3 states


def random_models(rng):
    """Two classes, three states, four symbols: energies that are no -log probabilities."""
    shapes = (2, 3), (2, 3, 3), (2, 3, 4)
    return HiddenMarkov(*(jnp.asarray(rng.normal(size=shape)) for shape in shapes))


def of_paths(models, x):
    """E(x, y, z) of all z, (B, T) -> (B, classes, Z)."""
    start, transitions, emissions = map(np.asarray, models)
    steps = transitions[:, EVERY[:, :-1], EVERY[:, 1:]].sum(-1)
    shown = emissions[:, EVERY[None], x[:, None]].sum(-1).transpose(1, 0, 2)
    return (start[:, EVERY[:, 0]] + steps)[None] + shown


@pytest.mark.slow
def test_free_energies_of_classes_are_those_of_all_paths(x64):
    rng = np.random.default_rng(0)
    models, x = random_models(rng), rng.integers(0, 4, (6, 5))
    every = of_paths(models, x)
    warm, cold = (hidden_markov.energies(models, x, beta) for beta in (1.0, float("inf")))
    np.testing.assert_allclose(warm, -np.log(np.exp(-every).sum(-1)), rtol=1e-12)
    np.testing.assert_allclose(cold, every.min(-1), rtol=1e-12)


@pytest.mark.slow
def test_the_slope_of_the_nll_is_what_its_class_expects_less_what_all_do(x64):
    rng = np.random.default_rng(1)
    models, x, y = random_models(rng), rng.integers(0, 4, (6, 5)), np.array([0, 1, 1, 0, 1, 0])
    every = of_paths(models, x)
    of_class = np.exp(-every).sum(-1)
    posterior = np.exp(-every) / of_class[..., None]
    weight = np.eye(2)[y] - of_class / of_class.sum(1, keepdims=True)
    counts = np.eye(3)[EVERY]  # (Z, T, K)
    emitted = np.einsum("bcz,ztk,btv->bckv", posterior, counts, np.eye(4)[x])
    moved = np.einsum("bcz,ztk,ztl->bckl", posterior, counts[:, :-1], counts[:, 1:])
    slope = jax.jit(
        jax.grad(lambda m: hidden_markov.loss_of(hidden_markov.energies(m, x, 1.0), y, False))
    )(models)
    for got, expected in ((slope.emissions, emitted), (slope.transitions, moved)):
        np.testing.assert_allclose(
            got, np.einsum("bc,bc...->c...", weight, expected) / 6, atol=1e-12
        )


@pytest.mark.slow
def test_one_state_is_naive_bayes_on_a_bag_of_symbols(x64):
    rng = np.random.default_rng(2)
    x, y = rng.integers(0, 6, (60, 8)), rng.integers(0, 3, 60)
    bags = np.eye(6)[x].sum(1)
    theirs = MultinomialNB(fit_prior=False).fit(bags, y)
    models = HiddenMarkov(
        jnp.zeros((3, 1)), jnp.zeros((3, 1, 1)), -jnp.asarray(theirs.feature_log_prob_)[:, None]
    )
    ours = hidden_markov.energies(models, x, 1.0)
    joint = theirs.predict_joint_log_proba(bags)
    np.testing.assert_allclose(-ours, joint - np.log(1 / 3), rtol=1e-10)


@pytest.mark.slow
def test_states_that_are_not_there_have_no_part():
    models = hidden_markov.drawn(jax.random.key(0))
    few = hidden_markov.limited(models, 3)
    small = HiddenMarkov(few.start[:, :3], few.transitions[:, :3, :3], few.emissions[:, :3])
    x = np.random.default_rng(0).integers(0, 24, (5, 8))
    got, want = (jax.jit(lambda m: hidden_markov.energies(m, x, 1.0))(m) for m in (few, small))
    np.testing.assert_allclose(got, want, rtol=1e-5)
    even = hidden_markov.spread_out(hidden_markov.normalised(few), 0.5)
    np.testing.assert_allclose(jnp.exp(-even.start).sum(1), 1, rtol=1e-5)
    np.testing.assert_array_equal(even.start[:, 3:], jnp.inf)
    assert hidden_markov.off_probabilities(even) < 1e-5
    assert hidden_markov.off_probabilities(few) > 0.1


def test_both_losses_are_those_of_their_names(x64):
    e, y = np.array([[1.0, 3, 2], [0.5, 0, 4]]), np.array([0, 0])
    nll = e[:, 0] + np.log(np.exp(-e).sum(1))
    got = jax.jit(lambda e: [hidden_markov.loss_of(e, y, hinge) for hinge in (False, True)])(e)
    np.testing.assert_allclose(got, [nll.mean(), (0 + 1.5) / 2])


def test_shifted_digits_are_a_row_up_or_down():
    digits = hidden_markov.load(0)
    plain, shifted = np.split(digits.images[hidden_markov.TRAIN + hidden_markov.CHOOSE :], 2)
    up = (shifted[:, :-1] == plain[:, 1:]).all((1, 2))
    down = (shifted[:, 1:] == plain[:, :-1]).all((1, 2))
    assert (up | down).all() and 0.4 < up.mean() < 0.6
    assert digits.x.shape == (1797 + 597, 8) and digits.x.max() == 23
    counts = np.bincount(digits.y[: hidden_markov.TRAIN])
    assert counts.max() <= hidden_markov.MOST


def test_states_in_the_figure_are_numbered_by_when_they_come():
    far = 50.0
    forward = far * (1 - np.eye(3)[[2, 0, 1]])  # 0 to 2, 2 to 1
    forward[1] = far * (1 - np.eye(3)[1])
    model = HiddenMarkov(
        jnp.array([[0, far, far]]), jnp.asarray(forward)[None], jnp.zeros((1, 3, 2))
    )
    got = hidden_markov_figures.paths(jax.tree.map(jnp.float32, model), np.zeros((2, 4), int))
    np.testing.assert_array_equal(got[:, 0], [[0, 1, 2, 2]] * 2)


@pytest.mark.long
def test_a_short_run_tells_digits_apart_and_draws(tmp_path, monkeypatch):
    few = {
        name: hidden_markov.TRAININGS[name]
        for name in (hidden_markov.STANDARD, "NLL, kept probabilities")
    }
    monkeypatch.setattr(hidden_markov, "TRAININGS", few)
    monkeypatch.setattr(hidden_markov, "COUNTS", (1, 6))
    monkeypatch.setattr(hidden_markov, "STARTS", 1)
    monkeypatch.setattr(hidden_markov, "SNAPSHOTS", 2)
    out = tmp_path / "run"
    with contextlib.redirect_stdout(io.StringIO()):
        hidden_markov.main(hidden_markov.Config(seeds=(5,), steps=300, out=out))
    result = json.loads((out / "result.json").read_text())
    rows = {name: of["right, warm"][0] for name, of in result["rows"].items()}
    assert rows["Baum-Welch"] > 85 and rows[f"{hidden_markov.STANDARD}, from scratch"] > 75
    assert result["states"]["1"]["Baum-Welch"]["right, warm"][0] < 80
    off = result["off_probabilities"]
    assert off["NLL, kept probabilities, from Baum-Welch"][0] < 1e-4
    assert off[f"{hidden_markov.STANDARD}, from Baum-Welch"][0] > 1e-2
    assert (out / "hidden-markov.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("settings", [{"seeds": (0, 0)}, {"steps": 9}])
def test_bad_settings_end_the_hidden_markov_models_with_one_line(settings, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        hidden_markov.main(hidden_markov.Config(out=tmp_path / "run", **settings))
    assert stop.value.code == 2 and not (tmp_path / "run").exists()
    assert len(capsys.readouterr().err.splitlines()) == 1

import contextlib
import io
import json
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from problems import random_like

pytest.importorskip("matplotlib")
pytest.importorskip("tyro")
sklearn_linear = pytest.importorskip("sklearn.linear_model")

import spen_jax as sx  # noqa: E402
from experiments import shared  # noqa: E402
from experiments.labels import experts, protocol, runs, stacking  # noqa: E402


def rows(n, n_labels, seed=0):
    """Rows of length 8 with as many words as labels, each of which makes its label likelier."""
    rng = np.random.default_rng(seed)
    y = (rng.random((n, n_labels)) < 0.3).astype(np.float32)
    x = (y + 0.5 * rng.random(y.shape)).astype(np.float32)
    return sx.data.Split(8 * x / np.linalg.norm(x, axis=1, keepdims=True), y)


def test_no_expert_has_seen_the_fold_of_a_row_it_judges_and_test_rows_meet_experts_that_saw_all():
    asked = []

    def seen(x, y, seed):
        """Says of every row whether it was among those that it was fitted on, and of how many."""
        asked.append((len(x), seed))
        assert len(x) == len(y)
        return lambda z: np.stack([np.isin(z[:, 0], x[:, 0]), np.full(len(z), len(x))], axis=1)

    data = sx.data.Split(np.arange(22.0)[:, None], np.zeros((22, 2)))
    s, s_test = experts.cross_fit(data, data.x, 3, (seen, seen))
    assert s.shape == s_test.shape == (22, 2, 2)
    assert not s[..., 0].any() and s_test[..., 0].all()
    assert set(s[:, 0, 1]) == {17, 18} and set(s_test[:, 1, 1]) == {22}
    assert len({seed for _, seed in asked}) == experts.FOLDS + 1
    other, _ = experts.cross_fit(data, data.x, 4, (seen,))
    assert (other[:, 0, 1] != s[:, 0, 1]).any()  # the seed deals out the folds


def test_the_experts_agree_with_scikit_learn_and_with_the_formula_of_the_neighbours():
    data, test = rows(60, 4), rows(7, 4, seed=1)
    x, z, y = data.x / 8, test.x / 8, data.y.copy()
    y[:, 2], y[:, 3] = 0, 1
    logistic = np.asarray(experts.logistic_regression(data.x, y, 0)(test.x))
    peer = sklearn_linear.LogisticRegression(solver="liblinear", C=10).fit(x, y[:, 1])
    np.testing.assert_allclose(logistic[:, 1], peer.decision_function(z), rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(logistic[:, 2:], np.log(121) * np.ones((7, 1)) * [-1, 1], rtol=1e-6)

    least = sklearn_linear.Ridge(alpha=1.0, fit_intercept=False).fit(x, y - y.mean(0))
    want = 6 * (least.predict(z) + y.mean(0)) - 3
    np.testing.assert_allclose(experts.ridge(data.x, y, 0)(test.x), want, atol=1e-4)

    for row, logits in zip(z, experts.neighbours(data.x, y, 0, k=20, power=5)(test.x), strict=True):
        nearest = sorted(range(60), key=lambda i: -float(row @ x[i]))[:20]
        weights = np.array([float(row @ x[i]) ** 5 for i in nearest])
        share = (weights @ y[nearest] + y.mean(0).clip(1e-3, 0.999) / 32) / (weights.sum() + 1 / 32)
        np.testing.assert_allclose(logits, np.log(share / (1 - share)), rtol=1e-3)


@pytest.mark.slow
def test_the_perceptron_learns_which_word_makes_which_label():
    data, test = rows(200, 4), rows(100, 4, seed=1)
    logits = experts.perceptron(np.tile(data.x, (2, 1)), np.tile(data.y, (2, 1)), 0)(test.x)
    assert sx.metrics.average_precision(logits, test.y) > 0.9


@pytest.mark.slow
def test_the_energy_is_its_formula_and_without_terms_the_answer_is_the_sigmoid_of_s():
    def softplus(a):
        return np.logaddexp(a, 0)

    s = np.random.default_rng(0).normal(size=(5, 3, 4)).astype(np.float32)
    y = np.random.default_rng(1).uniform(0.1, 0.9, (5, 4)).astype(np.float32)
    built = stacking.modules(stacking.Settings(hidden=6), 3, 4)
    for name in ("control", "spen"):
        module = built[name]
        params = random_like(module.init(jax.random.key(0), s, y)["params"], scale=0.5)
        p = jax.tree.map(np.asarray, params)
        inputs = 1 / (1 + np.exp(-s.reshape(5, 12)))
        hidden = np.maximum(inputs @ p["U"]["kernel"] + p["U"]["bias"], 0)
        logits = np.einsum("bkl,k->bl", s, p["a"]) + p["b"]
        logits += hidden @ p["V"]["kernel"] + p["V"]["bias"]
        want = -np.sum(logits * y, 1) + np.sum(y * np.log(y) + (1 - y) * np.log(1 - y), 1)
        if name == "spen":
            deep, pairs, count = (p[f"terms_{i}"] for i in range(3))
            sums = y @ deep["W_1"].T + inputs @ deep["Cx"]["kernel"] + deep["b_1"]
            want += softplus(sums) @ deep["c"]
            pair = (pairs["R"] + pairs["R"].T) / 2 * (1 - np.eye(4))
            want += np.einsum("bi,ij,bj->b", y, pair, y) / 2
            want += softplus(np.outer(y.sum(1), count["w"]) + count["b"]) @ count["c"]
        else:
            model = stacking.build("control", stacking.Settings(hidden=6), 3, 4, True)
            found = model.predictor(params, s)
            np.testing.assert_allclose(found.y, 1 / (1 + np.exp(-logits)), rtol=1e-5)
            assert found.residual.max() < 1e-5
        got = module.apply({"params": params}, jnp.asarray(s), jnp.asarray(y))
        np.testing.assert_allclose(got, want, rtol=1e-4)


@pytest.mark.parametrize("hidden", [64, 160])
def test_the_control_has_as_many_parameters_as_the_spen(hidden):
    built = stacking.modules(stacking.Settings(hidden=hidden), 4, 159)
    sizes = {name: stacking.size(module, 4) for name, module in built.items()}
    assert sizes["control"] == pytest.approx(sizes["spen"], rel=0.01)
    assert sizes["unaries"] < sizes["energy"] < sizes["spen"]


def test_every_trial_is_different_and_a_longer_list_begins_with_the_shorter():
    drawn = stacking.draw_settings(6)
    assert len(set(drawn)) == 6 and drawn[0] == stacking.Settings()
    assert stacking.draw_settings(3) == drawn[:3]


@pytest.mark.long
def test_a_run_writes_its_folder_and_chooses_nothing_on_test_rows(tmp_path, monkeypatch):
    whole = sx.data.exclusive_blocks(0, 80, 16)  # as many test rows as validation rows: one shape
    train, test = (part._replace(x=np.float32(part.x > 0)) for part in (whole.train, whole.test))
    whole = whole._replace(train=train, test=test)
    monkeypatch.setattr(
        stacking, "EXPERTS", (experts.ridge, partial(experts.neighbours, k=9, power=3))
    )
    monkeypatch.setattr(stacking, "TITLES", {k: stacking.TITLES[k] for k in ("control", "spen")})

    monkeypatch.setattr(stacking, "STEPS", 1)
    # Another number of rows would compile every step again; that of a search is tested with its refit.
    monkeypatch.setattr(protocol, "train", partial(protocol.train, refit=False))
    monkeypatch.setattr(stacking, "SEARCHED", ("control",))

    def run(name, dataset):
        monkeypatch.setattr(runs, "load", lambda *_, **__: dataset)
        config = stacking.Config(trials=2, quick=True, out=tmp_path / name)
        with contextlib.redirect_stdout(io.StringIO()):
            stacking.main(config)
        shared.synthetic = False
        return json.loads((tmp_path / name / "result.json").read_text())

    first = run("first", whole)
    models = first["models"]
    gain = models["spen"]["test_f1_tuned"][0] - models["control"]["test_f1_tuned"][0]
    assert first["gain_over_control"]["tuned"] == [pytest.approx(gain)]
    assert (tmp_path / "first" / "stacking.png").read_bytes().startswith(b"\x89PNG")
    assert not list((tmp_path / "first").glob("*.part"))
    for name, own in models.items():
        (scores,) = own["validation_f1"]
        assert len(scores) == (2 if name == "control" else 1)
        assert own["settings"][0] == first["trials"][int(np.argmax(scores))]
        assert own["step_size"][0] > 0

    swapped = whole._replace(test=whole.test._replace(y=1 - whole.test.y))
    second = run("second", swapped)["models"]
    for name, own in models.items():
        for what in ("validation_f1", "settings", "rules"):
            assert second[name][what] == own[what]
        assert second[name]["test_f1_tuned"] != own["test_f1_tuned"]


@pytest.mark.parametrize("settings", [{"seeds": (1, 1)}, {"seeds": ()}, {"trials": 0}])
def test_bad_settings_end_the_run_with_one_line(settings, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        stacking.main(stacking.Config(out=tmp_path / "run", **settings))
    assert stop.value.code == 2 and not (tmp_path / "run").exists()
    assert len(capsys.readouterr().err.splitlines()) == 1

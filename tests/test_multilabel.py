import contextlib
import io
import json
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from problems import random_like

import spen_jax as sx

pytest.importorskip("matplotlib")
pytest.importorskip("sklearn")
sys.path.insert(0, str(Path(__file__).parent.parent / "experiments"))

import baselines  # noqa: E402
import methods  # noqa: E402
import multilabel  # noqa: E402
import recipes  # noqa: E402
import scarce  # noqa: E402
import tune  # noqa: E402


@pytest.fixture
def blocks(monkeypatch):
    """Small exclusive blocks in the place of every data set."""
    dataset = sx.synthetic.exclusive_blocks(0, 150, 60)
    monkeypatch.setattr(multilabel, "load", lambda *_, **__: dataset)
    return dataset


def quietly(function, *args):
    with contextlib.redirect_stdout(io.StringIO()):
        return function(*args)


def test_words_become_tf_idf_and_numbers_are_standardised():
    words = np.array([[1, 0, 1], [1, 1, 0], [0, 0, 0], [1, 0, 0]], np.float32)
    inputs = multilabel.Inputs.of(words)
    idf = np.log(4 / (1 + np.array([3, 1, 1])))
    np.testing.assert_allclose(inputs(words)[0], 8 * idf * words[0] / np.hypot(*idf[[0, 2]]), 1e-6)
    np.testing.assert_array_equal(inputs(words)[2], 0)
    np.testing.assert_array_equal(inputs(words), multilabel.Inputs(**inputs._asdict())(words))

    numbers = np.random.default_rng(0).normal(3, 5, (50, 4)).astype(np.float32)
    standard = multilabel.Inputs.of(numbers)(numbers)
    np.testing.assert_allclose(standard.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(standard.std(0), 1, atol=1e-5)


def test_what_other_rows_say_of_a_row_is_what_they_say_without_it():
    rng = np.random.default_rng(0)
    x = (rng.random((60, 12)) < 0.4).astype(np.float32)
    y = (rng.random((60, 5)) < 0.3).astype(np.float32)
    inputs = multilabel.Inputs.of(x, y)
    seen = inputs.of_training_rows()
    assert seen.shape == (60, 12 + 2 * 5)
    np.testing.assert_allclose(seen[:, :12], multilabel.Inputs.of(x)(x), rtol=1e-5)
    for i in (0, 17):
        without = np.arange(60) != i
        # Centred by the mean of all rows, as the closed form is.
        apart = inputs._replace(x=x[without], y=y[without])
        known = multilabel._unit(apart._own(apart.x))
        ridge = np.linalg.solve(
            known.T @ known + np.eye(12), known.T @ (y[without] - y.mean(axis=0))
        )
        own = multilabel._unit(inputs._own(x[i : i + 1]))
        np.testing.assert_allclose(seen[i, 17:], 4 * (own @ ridge)[0], atol=1e-4)
        np.testing.assert_allclose(seen[i, 12:17], apart(x[i : i + 1])[0, 12:17], atol=1e-6)

    changed = y.copy()
    changed[7] = 1 - changed[7]
    other = multilabel.Inputs.of(x, changed)
    centre = y.mean(axis=0) - changed.mean(axis=0)  # all that a row's own labels change
    here, there = seen[7, 17:], other.of_training_rows()[7, 17:]
    assert np.abs(there - here).max() < 4 * np.abs(centre).max() * 2
    np.testing.assert_allclose(other.of_training_rows()[7, 12:17], seen[7, 12:17], atol=1e-6)


def test_validation_rows_see_no_label_of_a_validation_row(blocks):
    rows = multilabel.rows_of(blocks, 5, others=True)
    _, held_out = sx.data.split(150, 0.2, 5)
    y = blocks.train.y.copy()
    y[held_out] = 1 - y[held_out]
    other = multilabel.rows_of(
        blocks._replace(train=sx.data.Split(blocks.train.x, y)), 5, others=True
    )
    np.testing.assert_array_equal(rows.valid.x, other.valid.x)
    np.testing.assert_array_equal(rows.part.x, other.part.x)
    assert not np.array_equal(rows.test.x, other.test.x)  # test rows see all training rows


def test_what_other_rows_say_enters_the_hidden_layer_and_by_two_scalars_the_logits():
    network = recipes.NetworkWithOthers(3, 5, input_dropout=0.9, dropout=0.9)
    x = np.random.default_rng(0).normal(size=(4, 2 + 2 * 3)).astype(np.float32)
    p = random_like(network.init(jax.random.key(0), x)["params"])
    h = np.maximum(x @ p["hidden_0"]["kernel"] + p["hidden_0"]["bias"], 0)
    want = h @ p["output"]["kernel"] + p["output"]["bias"]
    want = want + p["others"][0] * x[:, 2:5] + p["others"][1] * x[:, 5:8]
    np.testing.assert_allclose(network.apply({"params": p}, x), want, rtol=1e-4)
    masks = {"dropout": jax.random.key(1)}
    hidden = network.apply({"params": p}, x, True, rngs=masks, method="hidden")
    np.testing.assert_allclose(hidden[:, 5:], x[:, 2:])  # never dropped out


def test_the_rows_of_a_seed_part_the_training_rows_and_leave_the_test_rows_alone(blocks):
    rows = multilabel.rows_of(blocks, 5)
    assert (len(rows.part.x), len(rows.valid.x), len(rows.test.x)) == (120, 30, 60)
    together = np.concatenate([rows.part.x, rows.valid.x])
    np.testing.assert_array_equal(np.unique(together, axis=0), np.unique(rows.data.x, axis=0))
    np.testing.assert_array_equal(rows.test.y, blocks.test.y)
    assert not rows.allow_empty  # four labels an example
    other = multilabel.rows_of(blocks, 6)
    assert not np.array_equal(rows.valid.x, other.valid.x)


def test_a_trained_network_takes_the_place_of_every_network_and_of_nothing_else():
    network = {"hidden_0": 1, "output": 2}
    pair = {"energy": {"network": 0, "C1": 5}, "predictor": {"network": 0}}
    got = multilabel.on_network(pair, network)
    assert got == {"energy": {"network": network, "C1": 5}, "predictor": {"network": network}}
    assert multilabel.on_network({"hidden_0": 7, "output": 8}, network) == network


def test_the_comparison_trains_each_method_beside_its_control(blocks, tmp_path):
    names = ("persistent",)
    config = methods.Config(
        dataset="scene", methods=names, seeds=(0,), quick=True, baselines=False, out=tmp_path / "m"
    )
    quietly(methods.main, config)
    saved = json.loads((tmp_path / "m" / "result.json").read_text())
    assert set(saved["models"]) == {"network", *names, *(f"{n}, control" for n in names)}
    for name in names:
        row = saved["models"][name]
        control = saved["models"][f"{name}, control"]
        gain = row["test_f1_tuned"][0] - control["test_f1_tuned"][0]
        assert row["gain"]["tuned"] == [pytest.approx(gain)]
        assert len(row["f1_by_step"][0]) == methods.STEPS + 1
        low, middle, high = row["energy_gap"][0]
        assert low <= middle <= high
    for figure in ("seconds", "steps", "gap"):
        assert (tmp_path / "m" / f"{figure}.png").read_bytes().startswith(b"\x89PNG")


def test_the_likelihood_of_many_labels_is_not_enumerated(capsys):
    with pytest.raises(SystemExit):
        recipes.build(recipes.settings_of("scene", "likelihood"), "likelihood", 16)
    assert "10 labels at most, here 16: take ranking" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(recipes.METHODS) - {"likelihood"}))
def test_every_method_trains_and_answers(blocks, name):
    rows = multilabel.rows_of(blocks, 0, others=name == "end-to-end-others")
    settings = recipes.settings_of("scene", name, methods.QUICK)
    models = recipes.build(settings, name, 16)
    outcome = multilabel.run_seed(models, rows, 0, None)
    for measures in outcome.measures.values():
        assert 0 < measures["test_f1_tuned"] <= 100


def test_a_method_that_starts_from_the_network_starts_at_its_answers(blocks):
    rows = multilabel.rows_of(blocks, 0)
    settings = recipes.settings_of("scene", "max-margin", methods.QUICK)
    network, control, _ = recipes.build(settings, "max-margin", 16).values()
    key = jax.random.key(0)
    learned = network.init(key, rows.data.x[:1], rows.data.y[:1])
    start = multilabel.on_network(control.init(key, rows.data.x[:1], rows.data.y[:1]), learned)
    y, z, residual = multilabel.predicted(control, start, rows.test.x)
    np.testing.assert_allclose(y, multilabel.predicted(network, learned, rows.test.x)[0], atol=1e-5)
    assert residual.max() < 1e-4  # without a global term the network's answer is the minimiser


def test_fewer_rows_are_drawn_by_the_seed(blocks):
    part = scarce.part_of(blocks, 0.2, 0)
    assert len(part.train.x) == 30
    assert not np.array_equal(part.train.x, scarce.part_of(blocks, 0.2, 1).train.x)


def test_trials_begin_with_the_defaults_and_do_not_repeat():
    for method in recipes.METHODS:
        if method == "end-to-end-others":
            continue
        grid = tune.grid_of(method)
        trials = tune.draw(grid, recipes.DEFAULTS["bibtex"], 20)
        assert trials[0] == {} and len(trials) == 20
        assert len({tuple(sorted(t.items(), key=str)) for t in trials}) == 20
        assert tune.draw(grid, recipes.DEFAULTS["bibtex"], 5) == trials[:5]


def test_tuning_scores_a_half_of_the_rows_by_rules_tuned_on_the_other(blocks):
    stripped = tune.without_test(blocks)
    assert len(stripped.test.x) == 0
    rows = multilabel.rows_of(blocks, 0)
    truth = np.asarray(rows.valid.y)
    right = multilabel.Model("", None, (), lambda _, x: (truth, 20 * truth - 10, np.zeros(len(x))))
    assert tune.held_out_f1(right, None, rows, 0) == {"tuned": 100, "expected": 100}


@pytest.mark.slow
def test_the_curve_has_a_point_for_each_share(blocks, tmp_path):
    config = scarce.Config(
        dataset="scene", shares=(0.5, 1.0), seeds=(0,), quick=True, out=tmp_path / "s"
    )
    quietly(scarce.main, config)
    saved = json.loads((tmp_path / "s" / "result.json").read_text())
    assert [row["rows"] for row in saved["shares"].values()] == [75, 150]
    assert (tmp_path / "s" / "scarce.png").exists()


def test_the_baselines_choose_their_regularisation_and_beat_chance(blocks, monkeypatch):
    monkeypatch.setattr(baselines, "STRENGTHS", (1e-9, 0.1))
    monkeypatch.setattr(baselines, "CHAINS", 2)
    y = blocks.train.y.copy()
    y[:, 3] = 0  # a label that is never on
    rows = multilabel.rows_of(blocks._replace(train=sx.data.Split(blocks.train.x, y)), 0)
    for name in baselines.BASELINES:
        found = baselines.run(rows, name, 0)
        assert found["C"] == 0.1  # at the other the weights are 0
        assert found["test_f1_tuned"] > 55

import contextlib
import io
import json
from functools import partial

import jax
import numpy as np
import pytest
from problems import random_like

import spen_jax as sx

pytest.importorskip("matplotlib")
pytest.importorskip("sklearn")
pytest.importorskip("tyro")

from experiments.labels import baselines, methods, models, protocol, runs, scarce, tune
from experiments.labels.inputs import Inputs, NetworkWithOthers, unit
from experiments.labels.settings import DEFAULTS, settings_of

SHORT = "max-margin", "end-to-end"


@pytest.fixture
def blocks(monkeypatch):
    """Small exclusive blocks in the place of every data set."""
    dataset = sx.data.exclusive_blocks(0, 160, 32)  # as many test as validation rows: one shape
    monkeypatch.setattr(runs, "load", lambda *_, **__: dataset)
    return dataset


def quietly(function, *args):
    with contextlib.redirect_stdout(io.StringIO()):
        return function(*args)


def test_words_become_tf_idf_and_numbers_are_standardised():
    words = np.array([[1, 0, 1], [1, 1, 0], [0, 0, 0], [1, 0, 0]], np.float32)
    inputs = Inputs.of(words)
    idf = np.log(4 / (1 + np.array([3, 1, 1])))
    np.testing.assert_allclose(inputs(words)[0], 8 * idf * words[0] / np.hypot(*idf[[0, 2]]), 1e-6)
    np.testing.assert_array_equal(inputs(words)[2], 0)
    np.testing.assert_array_equal(inputs(words), Inputs(**inputs._asdict())(words))

    numbers = np.random.default_rng(0).normal(3, 5, (50, 4)).astype(np.float32)
    standard = Inputs.of(numbers)(numbers)
    np.testing.assert_allclose(standard.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(standard.std(0), 1, atol=1e-5)


def test_what_other_rows_say_of_a_row_is_what_they_say_without_it():
    rng = np.random.default_rng(0)
    x = (rng.random((60, 12)) < 0.4).astype(np.float32)
    y = (rng.random((60, 5)) < 0.3).astype(np.float32)
    inputs = Inputs.of(x, y)
    seen = inputs.of_training_rows()
    assert seen.shape == (60, 12 + 2 * 5)
    np.testing.assert_allclose(seen[:, :12], Inputs.of(x)(x), rtol=1e-5)
    for i in (0, 17):
        without = np.arange(60) != i
        # Centred by the mean of all rows, as the closed form is.
        apart = inputs._replace(x=x[without], y=y[without])
        known = unit(apart.own(apart.x))
        ridge = np.linalg.solve(
            known.T @ known + np.eye(12), known.T @ (y[without] - y.mean(axis=0))
        )
        own = unit(inputs.own(x[i : i + 1]))
        np.testing.assert_allclose(seen[i, 17:], 4 * (own @ ridge)[0], atol=1e-4)
        np.testing.assert_allclose(seen[i, 12:17], apart(x[i : i + 1])[0, 12:17], atol=1e-6)

    changed = y.copy()
    changed[7] = 1 - changed[7]
    other = Inputs.of(x, changed)
    centre = y.mean(axis=0) - changed.mean(axis=0)  # all that a row's own labels change
    here, there = seen[7, 17:], other.of_training_rows()[7, 17:]
    assert np.abs(there - here).max() < 4 * np.abs(centre).max() * 2
    np.testing.assert_allclose(other.of_training_rows()[7, 12:17], seen[7, 12:17], atol=1e-6)


def test_validation_rows_see_no_label_of_a_validation_row(blocks):
    rows, _ = protocol.rows_of(blocks, 5, others=True)
    _, held_out = sx.data.split(160, 0.2, 5)
    y = blocks.train.y.copy()
    y[held_out] = 1 - y[held_out]
    changed = blocks._replace(train=sx.data.Split(blocks.train.x, y))
    other, _ = protocol.rows_of(changed, 5, others=True)
    np.testing.assert_array_equal(rows.valid.x, other.valid.x)
    np.testing.assert_array_equal(rows.part.x, other.part.x)
    assert not np.array_equal(rows.test.x, other.test.x)  # test rows see all training rows


@pytest.mark.slow
def test_what_other_rows_say_enters_the_hidden_layer_and_by_two_scalars_the_logits():
    network = NetworkWithOthers(3, 5, input_dropout=0.9, dropout=0.9)
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
    rows, _ = protocol.rows_of(blocks, 5)
    assert (len(rows.part.x), len(rows.valid.x), len(rows.test.x)) == (128, 32, 32)
    together = np.concatenate([rows.part.x, rows.valid.x])
    np.testing.assert_array_equal(np.unique(together, axis=0), np.unique(rows.data.x, axis=0))
    np.testing.assert_array_equal(rows.test.y, blocks.test.y)
    assert not rows.allow_empty  # four labels an example
    other, _ = protocol.rows_of(blocks, 6)
    assert not np.array_equal(rows.valid.x, other.valid.x)


def test_a_trained_network_takes_the_place_of_every_network_and_of_nothing_else():
    network = {"hidden_0": 1, "output": 2}
    pair = {"energy": {"network": 0, "C1": 5}, "answer": {"network": 0}}
    got = protocol.on_network(pair, network)
    assert got == {"energy": {"network": network, "C1": 5}, "answer": {"network": network}}


@pytest.mark.long
def test_the_comparison_trains_each_method_beside_its_control(blocks, tmp_path, monkeypatch):
    config = methods.Config(
        dataset="scene", methods=("seal-dynamic",), seeds=(0,), quick=True, out=tmp_path / "m"
    )
    monkeypatch.setattr(baselines, "BASELINES", {})
    # Another number of rows would compile every step again; that of a search is tested with its refit.
    monkeypatch.setattr(protocol, "train", partial(protocol.train, refit=False))
    quietly(methods.main, config)
    saved = json.loads((tmp_path / "m" / "result.json").read_text())["models"]
    assert list(saved) == ["network", "seal-dynamic, control", "seal-dynamic"]
    row, control = saved["seal-dynamic"], saved["seal-dynamic, control"]
    gain = row["test_f1_tuned"][0] - control["test_f1_tuned"][0]
    assert row["gain"]["tuned"] == [pytest.approx(gain)]
    assert len(row["f1_by_step"][0]) == methods.STEPS + 1
    low, middle, high = row["energy_gap"][0]
    assert low <= middle <= high
    for figure in ("seconds", "steps", "gap"):
        assert (tmp_path / "m" / f"{figure}.png").read_bytes().startswith(b"\x89PNG")


def test_the_likelihood_of_many_labels_is_not_enumerated(capsys):
    with pytest.raises(SystemExit):
        models.build(settings_of("scene", "likelihood")[0], "likelihood", 16)
    assert "10 labels at most, here 16: take ranking" in capsys.readouterr().err


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        name if name in SHORT else pytest.param(name, marks=pytest.mark.long)
        for name in sorted(set(models.METHODS) - {"likelihood"})
    ],
)
def test_every_method_trains_and_answers(blocks, name):
    rows, _ = protocol.rows_of(blocks, 0, others=name == "end-to-end-others")
    settings, _ = settings_of("scene", name, quick=True)
    outcomes = protocol.run_seed(models.build(settings, name, 16), rows, 0, None)
    for outcome in outcomes.values():
        assert 0 < outcome.measures["test_f1_tuned"] <= 100


@pytest.mark.slow
@pytest.mark.parametrize("name", ["max-margin", "seal-static"])
def test_a_method_that_starts_from_the_network_starts_at_its_answers(blocks, name):
    rows, _ = protocol.rows_of(blocks, 0)
    settings, _ = settings_of("scene", name, quick=True)
    network, control, _ = models.build(settings, name, 16).values()
    example = jax.random.key(0), rows.data.x[:1], rows.data.y[:1]
    learned = network.init(*example)
    start = protocol.on_network(control.init(*example), learned)
    found = control.predictor(start, rows.test.x)
    np.testing.assert_allclose(found.y, network.predictor(learned, rows.test.x).y, atol=1e-5)
    assert (
        found.residual.max() < 1e-4
    )  # without a global term the network's answer is the minimiser


def test_fewer_rows_are_drawn_by_the_seed(blocks):
    part = scarce.part_of(blocks, 0.2, 0)
    assert len(part.train.x) == 32
    assert not np.array_equal(part.train.x, scarce.part_of(blocks, 0.2, 1).train.x)


def test_trials_begin_with_the_defaults_and_do_not_repeat():
    for method in models.METHODS:
        if method == "end-to-end-others":
            continue
        grid = tune.grid_of(method)
        trials = tune.draw(grid, DEFAULTS["bibtex"], 20)
        assert trials[0] == {} and len(trials) == 20
        assert len({tuple(sorted(t.items(), key=str)) for t in trials}) == 20
        assert tune.draw(grid, DEFAULTS["bibtex"], 5) == trials[:5]


def test_tuning_scores_a_half_of_the_rows_by_rules_tuned_on_the_other(blocks):
    rows, _ = protocol.rows_of(blocks, 0)
    right = protocol.Model("", None, (), models.alone(sx.FeatureNetwork(16, ())))
    # A network whose logits are its inputs, which are the truth.
    params = {"output": {"kernel": 20 * np.eye(16), "bias": np.full(16, -10.0)}}
    known = rows._replace(valid=rows.valid._replace(x=rows.valid.y))
    f1 = tune.held_out(right, params, known, 0)
    assert f1 == {"tuned": 100, "expected": 100, "score": 100}


@pytest.mark.long
@pytest.mark.slow
def test_a_search_takes_the_better_candidate_and_trains_it_on_all_rows(blocks):
    rows, _ = protocol.rows_of(blocks, 0)
    slow, quick = (
        models.network_model(settings_of("scene", "nce", override, quick=True)[0], 16)
        for override in ({"learning_rate": 1e-6}, {"learning_rate": 0.03, "epochs": 12})
    )
    best, scores, outcome = protocol.search((slow, quick), rows, 0, None)
    assert best == 1 and scores[1] > scores[0]
    alone = protocol.run_seed({"": quick}, rows, 0, None)[""]
    assert outcome.measures == alone.measures


@pytest.mark.long
def test_the_curve_has_a_point_for_each_share(blocks, tmp_path):
    config = scarce.Config(
        dataset="scene", shares=(0.5, 1.0), seeds=(0,), quick=True, out=tmp_path / "s"
    )
    quietly(scarce.main, config)
    saved = json.loads((tmp_path / "s" / "result.json").read_text())
    assert [row["rows"] for row in saved["shares"].values()] == [80, 160]
    assert (tmp_path / "s" / "scarce.png").exists()


@pytest.mark.slow
def test_the_baselines_choose_their_regularisation_and_beat_chance(blocks):
    y = blocks.train.y.copy()
    y[:, 3] = 0  # a label that is never on
    changed = blocks._replace(train=sx.data.Split(blocks.train.x, y))
    rows, _ = protocol.rows_of(changed, 0)
    for name in baselines.BASELINES:
        found = baselines.run(rows, name, 0, (1e-9, 0.1), 2)
        assert found["C"] == 0.1  # at the other the weights are 0
        assert found["test_f1_tuned"] > 55

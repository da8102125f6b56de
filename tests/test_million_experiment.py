import json

import numpy as np
import pytest

pytest.importorskip("matplotlib")
pytest.importorskip("tyro")

from experiments.labels import million
from experiments.labels.zipf import Task
from spen_jax import metrics


def test_no_ranking_of_made_up_rows_is_better_than_that_of_who_knows_the_topics():
    task = Task(200, 60, topics=4, labels_each=5)
    x, y, about = task.rows(np.random.default_rng(0), 30_000)
    assert x.shape == (30_000, 200) and y.shape == (30_000, 60)
    assert set(np.unique(y.sum(1))) <= {1, 2, 3, 4, 5}
    # The labels' shares among rows of the same two topics, counted.
    for pair in ((0, 1), (2, 2)):
        rows = np.flatnonzero((about == pair).all(1))
        share = y[rows].mean(0)
        best = task.best(about[rows[:1]], 5)[0]
        assert len(set(best)) == 5
        np.testing.assert_allclose(share[best], np.sort(share)[::-1][:5], atol=0.05)
        assert not np.any(share[[*{*range(60)} - {*np.flatnonzero(share)}]])
    alike = task.rows(np.random.default_rng(0), 30_000)[1]
    np.testing.assert_array_equal(alike.indices, y.indices)


@pytest.mark.long
@pytest.mark.slow
def test_a_run_trains_from_files_and_writes_its_folder(tmp_path):
    result = million.main(million.Config(quick=True, out=tmp_path / "run"))
    saved = json.loads((tmp_path / "run" / "result.json").read_text())
    assert set(saved) == set(result)
    of = saved["million"]
    assert list(of)[:2] == ["LabelSPEN", "LabelSPEN, as learnt"] and len(of) == 6
    assert len(saved["few"]) == 5
    for found in (*of.values(), *saved["few"].values()):
        assert all(0 <= found[f"precision_at_{k}"] <= 100 for k in (1, 3, 5))
    best, popular = (
        of[name]["precision_at_5"] for name in ("who knows the topics", "most popular")
    )
    assert popular < of["LabelSPEN"]["precision_at_5"] <= best + 3
    assert (tmp_path / "run" / "rows-2000" / "index.json").exists()


def test_the_start_says_of_every_label_how_frequent_it_is_as_a_step_sees_it():
    task = Task(50, 40, topics=4)
    x, y, _ = task.rows(np.random.default_rng(0), 500)
    spen = million.sx.energies.LabelSPEN(million.sx.FeatureNetwork(40, (6,)), entropy=1.0)
    shares = np.linspace(-3, 0, 40)
    params = million.started(spen, {"x": x, "y": y}, shares, million.jax.random.key(0))
    logits = million.sx.functions_of(spen)[0](params, x[:3])["logits"]
    share = (y.sum(0) + 0.1) / 500
    want = np.log(share / (1 - share)) - shares
    np.testing.assert_allclose(logits, np.tile(want, (3, 1)), rtol=1e-4)
    assert np.std(params["network"]["hidden_0"]["kernel"]) == pytest.approx(0.3, rel=0.2)


def test_precisions_of_the_truth_itself_are_whole():
    task = Task(50, 40, topics=4, labels_each=8)
    x, y, about = task.rows(np.random.default_rng(0), 200)
    some = np.flatnonzero(np.diff(y.indptr) >= 5)
    labels = np.array([y.indices[y.indptr[i] :][:5] for i in some])
    rows = million.Rows(task, {"x": x, "y": y}, x[some], y[some], about[some])
    found = million.measured(labels, rows)
    assert found["precision_at_5"] == pytest.approx(100)
    assert found["propensity_scored_at_5"] < 100 + 1e-6
    assert metrics.propensities(y).shape == (40,)


def test_bad_settings_end_the_run_with_one_line(tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        million.main(million.Config(labels=300, out=tmp_path / "run"))
    assert stop.value.code == 2 and not (tmp_path / "run").exists()
    assert len(capsys.readouterr().err.splitlines()) == 1

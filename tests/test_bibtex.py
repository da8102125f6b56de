import contextlib
import io
import json
from functools import partial

import numpy as np
import pytest

pytest.importorskip("matplotlib")
pytest.importorskip("tyro")

from experiments import bibtex, shared
from experiments.labels import exclusive, figures, protocol, runs
from spen_jax import data
from spen_jax.training import checkpoints


@pytest.fixture
def offline(monkeypatch):
    """No data set was named, the cache is empty and nothing can be downloaded."""

    def refuse(*_):
        raise data.DownloadError("no address delivered bibtex.xml")

    monkeypatch.delenv("SPEN_JAX_DATA", raising=False)
    monkeypatch.setattr(data, "load", refuse)
    whole = data.tagging_corpus(n_train=80, n_test=16)

    def first(split):  # words and tags, at least one for each row
        y = split.y[:, :12].copy()
        y[y.sum(axis=1) == 0, 0] = 1
        return data.Split(split.x[:, :50], y)

    few = whole._replace(
        train=first(whole.train),
        test=first(whole.test),
        feature_names=whole.feature_names[:50],
        label_names=whole.label_names[:12],
    )
    monkeypatch.setattr(data, "tagging_corpus", lambda: few)
    yield
    shared.synthetic = False


@pytest.mark.long
def test_the_main_job_offline_runs_on_the_stand_in_and_says_so_in_every_line(
    offline, tmp_path, capsys
):
    out = tmp_path / "run"
    result = bibtex.main(bibtex.Config(quick=True, seeds=(3,), out=out))
    printed = capsys.readouterr().out
    assert "could not be downloaded" in printed
    lines = [line for line in printed.splitlines() if line.strip()]
    assert lines and all(line.startswith("synthetic") for line in lines)
    assert "published" not in printed

    saved = json.loads((out / "result.json").read_text())
    assert saved["data"]["name"] == "synthetic"
    assert set(saved["data"]["checksums"]) == {"train", "test"}
    assert (saved["method"], saved["seeds"]) == ("end-to-end", [3])
    assert saved["seconds"] > 0
    for model in ("control", "spen"):
        for rule in protocol.RULES:
            (f1,) = saved[model][f"test_f1_{rule}"]
            assert 0 <= f1 <= 100
    gain = saved["spen"]["test_f1_tuned"][0] - saved["control"]["test_f1_tuned"][0]
    assert saved["gain_of_the_energy"]["tuned"] == [pytest.approx(gain)]
    assert result["spen"]["test_f1_tuned"] == saved["spen"]["test_f1_tuned"]

    for figure in ("inference", "training", "tags", "examples"):
        assert (out / f"{figure}.png").read_bytes().startswith(b"\x89PNG")
    for parameters in out.glob("*.spen"):
        assert checkpoints.load(parameters)[1]["synthetic"]
    assert not list(out.glob("*.part"))

    tags = bibtex.main(bibtex.Config(run=out, predict=("word_0001", "word_0002 word_0003")))
    assert len(tags) == 1 and tags[0]
    assert capsys.readouterr().out.startswith("synthetic")


@pytest.mark.slow
def test_the_same_seed_gives_the_same_run_and_its_features_start_another(tmp_path, monkeypatch):
    blocks = data.exclusive_blocks(0, 80, 16)
    monkeypatch.setattr(runs, "load", lambda *_: blocks)
    monkeypatch.setattr(figures, "draw", lambda *_: None)

    def run(name, **settings):
        config = bibtex.Config(
            method="max-margin", quick=True, refit=False, out=tmp_path / name, **settings
        )
        with contextlib.redirect_stdout(io.StringIO()):
            result = bibtex.main(config)
        params, _ = checkpoints.load(tmp_path / name / "spen-seed0.spen")
        return result, params

    first, params = run("first")
    again, same = run("again")
    assert first["spen"] == again["spen"]
    np.testing.assert_array_equal(params["model"]["C1"], same["model"]["C1"])

    # Without training the features again, the same energy follows from the saved ones.
    features = tmp_path / "first" / "features-seed0.spen"
    reused, same = run("reused", features=features)
    np.testing.assert_array_equal(params["model"]["C1"], same["model"]["C1"])
    assert reused["control"]["test_f1_tuned"] == first["control"]["test_f1_tuned"]

    with pytest.raises(SystemExit):
        run("other-seed", features=features, seeds=(1,))


def test_a_folder_that_was_named_but_lacks_the_files_ends_the_main_job(tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        bibtex.main(bibtex.Config(data_dir=tmp_path, out=tmp_path / "run"))
    assert stop.value.code == 2
    assert "bibtex-train.arff" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_an_arff_file_is_predicted_row_by_row_whatever_the_order_of_its_columns(tmp_path):
    known = {"alpha": 0, "beta": 1}
    file = tmp_path / "query.arff"
    file.write_text(
        "@relation q\n@attribute beta {0,1}\n@attribute TAG_x {0,1}\n@attribute alpha {0,1}\n"
        "@data\n{0 1}\n{1 1,2 1}\n"
    )
    x = bibtex.read_query((str(file),), known, {"TAG_x"})
    np.testing.assert_array_equal(x, [[0, 1], [1, 0]])
    with pytest.raises(SystemExit):
        bibtex.read_query((str(file),), known, set())


def test_words_of_a_query_are_marked_and_those_that_no_entry_has_are_named(capsys):
    known = {"alpha": 0, "beta": 1, "gamma": 2}
    x = bibtex.read_query(("Gamma, alpha", "delta"), known, set())
    np.testing.assert_array_equal(x, [[1, 0, 1]])
    assert "left out: delta" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        bibtex.read_query(("delta",), known, set())


def test_an_output_folder_with_files_is_refused(tmp_path):
    (tmp_path / "mine.txt").write_text("keep me")
    with pytest.raises(SystemExit):
        shared.new_folder(tmp_path, "bibtex")
    assert (tmp_path / "mine.txt").read_text() == "keep me"


def test_a_setting_that_is_not_known_or_cannot_be_ends_the_run_with_one_line(tmp_path, capsys):
    for override in ({"depth": 3}, {"dropout": 1.0}, {"epochs": 0}):
        with pytest.raises(SystemExit) as stop:
            bibtex.main(bibtex.Config(override=override, out=tmp_path / "run"))
        assert stop.value.code == 2 and not (tmp_path / "run").exists()
        assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.long
@pytest.mark.slow
def test_a_small_run_of_the_exclusive_blocks_writes_its_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(exclusive, "WEIGHT_DECAYS", (0.03,))
    # Another number of rows would compile every step again; that of a search is tested with its refit.
    monkeypatch.setattr(protocol, "train", partial(protocol.train, refit=False))
    config = exclusive.Config(
        sizes=(80,),
        noises=(0.1,),
        noisy_size=80,
        draws=(0,),
        n_test=16,
        updates=10,
        out=tmp_path / "run",
    )
    with contextlib.redirect_stdout(io.StringIO()):
        exclusive.main(config)
    saved = json.loads((tmp_path / "run" / "result.json").read_text())
    assert [(task["size"], task["noise"]) for task in saved["tasks"]] == [(80, 0), (80, 0.1)]
    for task in saved["tasks"]:
        for model in ("linear", "mlp", "spen"):
            assert len(task[model]) == 1 and 0 < task[model][0] <= 100
    assert (tmp_path / "run" / "exclusive.png").exists()

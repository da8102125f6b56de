import contextlib
import io
import json
import os
import re
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import spen_jax as sx
from spen_jax import checkpoints, data

pytest.importorskip("matplotlib")
pytest.importorskip("tyro")
ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "experiments"))

import bibtex  # noqa: E402
import exclusive  # noqa: E402
import shared  # noqa: E402

RULES = ("test_f1_fixed", "test_f1_tuned", "test_f1_expected")


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """No data set was named, the cache is empty and nothing can be downloaded."""

    def refuse(*_):
        raise data.DownloadError("no address delivered bibtex.xml")

    monkeypatch.delenv("SPEN_JAX_DATA", raising=False)
    monkeypatch.setattr(data, "load", refuse)
    yield
    shared.synthetic = False


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
        for rule in RULES:
            assert len(saved[model][rule]) == 1 and 0 <= saved[model][rule][0] <= 100
    gain = saved["spen"]["test_f1_tuned"][0] - saved["control"]["test_f1_tuned"][0]
    assert saved["gain_of_the_energy"]["tuned"] == [pytest.approx(gain)]
    assert result["spen"]["test_f1_tuned"] == saved["spen"]["test_f1_tuned"]

    for figure in ("inference", "training", "tags", "examples"):
        assert (out / f"{figure}.png").read_bytes().startswith(b"\x89PNG")
    for parameters in out.glob("*.npz"):
        assert checkpoints.load(parameters)[1]["synthetic"]
    assert not list(out.glob("*.part"))

    tags = bibtex.main(bibtex.Config(run=out, predict=("word_0001", "word_0002 word_0003")))
    assert len(tags) == 1 and tags[0]
    assert capsys.readouterr().out.startswith("synthetic")


def test_the_same_seed_gives_the_same_run_and_its_features_start_another(offline, tmp_path):
    def run(name, **settings):
        config = bibtex.Config(
            method="max-margin", quick=True, refit=False, out=tmp_path / name, **settings
        )
        with contextlib.redirect_stdout(io.StringIO()):
            result = bibtex.main(config)
        params, _ = checkpoints.load(tmp_path / name / "spen-seed0.npz")
        return result, params

    first, params = run("first")
    again, same = run("again")
    assert first["spen"] == again["spen"]
    np.testing.assert_array_equal(params["model"]["C1"], same["model"]["C1"])

    # Without training the features again, the same energy follows from the saved ones.
    features = tmp_path / "first" / "features-seed0.npz"
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


def test_an_output_folder_with_files_is_refused(tmp_path):
    (tmp_path / "mine.txt").write_text("keep me")
    with pytest.raises(SystemExit):
        shared.new_folder(tmp_path, "bibtex")
    assert (tmp_path / "mine.txt").read_text() == "keep me"


def test_a_small_run_of_the_exclusive_blocks_writes_its_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(exclusive, "WEIGHT_DECAYS", (0.03,))
    config = exclusive.Config(
        sizes=(200,),
        noises=(0.1,),
        noisy_size=200,
        draws=(0,),
        n_test=300,
        updates=30,
        out=tmp_path / "run",
    )
    with contextlib.redirect_stdout(io.StringIO()):
        exclusive.main(config)
    saved = json.loads((tmp_path / "run" / "result.json").read_text())
    assert [(task["size"], task["noise"]) for task in saved["tasks"]] == [(200, 0), (200, 0.1)]
    for task in saved["tasks"]:
        for model in ("linear", "mlp", "spen"):
            assert len(task[model]) == 1 and 0 < task[model][0] <= 100
    assert (tmp_path / "run" / "exclusive.png").exists()


def run_example(number):
    """The last line that the README's example of this number prints."""
    text = (ROOT / "README.md").read_text()
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(re.findall(r"```python\n(.*?)```", text, re.DOTALL)[number], {})
    return printed.getvalue().splitlines()[-1]


def test_the_fifteen_lines_of_the_readme_run_and_learn():
    assert (
        float(run_example(0).split()[0]) > 0.83
    )  # a linear model of each label alone reaches 0.80


@pytest.mark.skipif("SPEN_JAX_DATA" not in os.environ, reason="needs the files of Scene")
def test_the_readme_trains_a_spen_on_scene():
    assert float(run_example(6)) > 0.65


def test_end_to_end_learns_the_exclusive_blocks_with_its_defaults():
    def energy(params, x, y):
        units = params["C"] @ y - 1
        return -(params["W"] @ x) @ y + sx.energies.softplus(units).sum()

    blocks = sx.synthetic.exclusive_blocks(seed=0, n_train=2000)
    start = 0.3 * jax.random.normal(jax.random.key(0), (32, 16))
    optimizer = optax.adam(0.01)
    params = {"W": jnp.zeros((16, 64)), "C": start}
    first = sx.training.init(params, optimizer, jax.random.key(1))
    *_, (state, _) = sx.fit(sx.end_to_end(energy), optimizer, first, blocks.train, epochs=20)
    half = jnp.full(blocks.test.y.shape, 0.5)
    solver = sx.MirrorDescent()
    y = sx.minimize(energy, state.params, blocks.test.x, half, solver=solver, steps=10).y
    assert sx.metrics.example_f1(blocks.test.y, y > 0.5) > 0.85

"""`--resume DIR` of the experiments: the same settings, the same end, nothing left behind."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from experiments import shared
from spen_jax import training

RECIPE = training.Recipe(epochs=5, learning_rate=0.1, weight_decay=0.0, batch_size=8)
X = jax.random.normal(jax.random.key(5), (20, 3))


@dataclass(frozen=True)
class Config:
    rate: float = 1.0
    out: Path | None = None


def objective(params, batch, key):
    loss = jnp.mean((batch["x"] @ params["w"] - 1) ** 2) + params["w"].sum() * jax.random.normal(
        key
    )
    return loss, {"loss": loss}


def main(config, stop=None):
    """Two trainings; `stop` is raised in the second epoch of the second one."""
    folder = shared.new_folder(config.out, "some")
    params, scores = {"w": jnp.full(3, config.rate)}, []

    def score(params):
        scores.append(float(params["w"][0]))
        if stop and len(scores) == 7:
            raise stop
        return scores[-1]

    for name in ("same", "same"):
        steps = training.train(objective, params, {"x": X}, RECIPE, jax.random.key(1), score=score)
        with shared.progress_bars() as progress:
            params = shared.followed(steps, progress, name, 5).params
    shared.write_json(folder / "result.json", {"w": params["w"]})


def run(monkeypatch, *arguments, stop=None):
    monkeypatch.setattr(shared, "_run", shared._Run())
    monkeypatch.setattr(sys, "argv", ["some.py", *map(str, arguments)])
    shared.run(lambda config: main(config, stop), Config, "Some.", all_cores=False)


@pytest.mark.slow
def test_a_run_that_was_broken_off_goes_on_to_the_same_end(tmp_path, monkeypatch, capsys):
    one, two = tmp_path / "one", tmp_path / "two"
    run(monkeypatch, "--rate", 2.5, "--out", one)
    with pytest.raises(SystemExit) as end:
        run(monkeypatch, "--rate", 2.5, "--out", two, stop=KeyboardInterrupt)
    assert end.value.code == 130
    assert f"some.py: broken off; --resume {two} goes on" in capsys.readouterr().err
    (two / ".result.json.123.part").write_text("{")
    with open(two / "metrics.jsonl", "a") as file:
        file.write('{"training": "tw')
    monkeypatch.chdir(tmp_path)
    run(monkeypatch, "--resume", "two")
    assert sorted(p.name for p in two.iterdir()) == ["metrics.jsonl", "result.json"]
    assert (one / "result.json").read_bytes() == (two / "result.json").read_bytes()
    lines = [
        [json.loads(s) for s in (f / "metrics.jsonl").read_text().splitlines()] for f in (one, two)
    ]
    assert len(lines[0]) == 10
    for a, b in zip(*lines, strict=True):
        assert a | {"seconds": 0} == b | {"seconds": 0}


@pytest.mark.slow
def test_what_cannot_be_gone_on_with_is_refused(tmp_path, monkeypatch, capsys):
    with pytest.raises(SystemExit):
        run(monkeypatch, "--out", tmp_path / "a", stop=KeyboardInterrupt)
    for arguments, words in (
        (("--resume", tmp_path), "no run that was broken off is there"),
        ((f"--resume={tmp_path}",), "no run that was broken off is there"),
        (("--resume", tmp_path / "a", "--rate", 3), "a folder and nothing else"),
    ):
        with pytest.raises(SystemExit) as end:
            run(monkeypatch, *arguments)
        assert end.value.code == 2 and words in capsys.readouterr().err
    monkeypatch.setattr(shared, "_run", shared._Run())
    monkeypatch.setattr(sys, "argv", ["other.py", "--resume", str(tmp_path / "a")])
    with pytest.raises(SystemExit):
        shared.run(main, Config, "Other.", all_cores=False)
    assert "is a run of some.py" in capsys.readouterr().err


def test_a_main_that_is_called_keeps_nothing(tmp_path):
    main(Config(out=tmp_path / "a"))
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["result.json"]

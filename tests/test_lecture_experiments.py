import contextlib
import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("matplotlib")
pytest.importorskip("tyro")
pytest.importorskip("sklearn")
ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "experiments"))

import parabola  # noqa: E402
import probabilities  # noqa: E402


def run(module, **settings):
    with contextlib.redirect_stdout(io.StringIO()):
        module.main(module.Config(**settings))
    return json.loads((settings["out"] / "result.json").read_text())


def test_the_energy_loss_works_on_a_and_collapses_on_b_where_square_square_does_not(
    tmp_path, monkeypatch
):
    few = {name: parabola.LOSSES[name] for name in ("energy", "square_square")}
    monkeypatch.setattr(parabola, "LOSSES", few)
    one = {"parabola": parabola.PATTERNS["parabola"]}
    monkeypatch.setattr(parabola, "PATTERNS", one)
    out = tmp_path / "run"
    result = run(parabola, seeds=(0, 7), steps=1000, out=out)
    assert result["collapsed"] == {
        "energy": {"A": 0, "B": 1},
        "square_square": {"A": 0, "B": 0},
    }
    assert max(result["parabola"]["error"]["square_square"]["B"]) < 0.05
    assert min(result["parabola"]["answers_with_a_minimum"]["square_square"]["B"]) > 0.95
    for name in ("parabola-A.png", "parabola-B.png"):
        assert (out / name).read_bytes().startswith(b"\x89PNG")
    assert (out / "parabola-B.gif").read_bytes().startswith(b"GIF89a")
    assert not list(out.glob("*.part"))


def test_the_eye_has_two_answers_and_a_surface_is_judged_by_both_criteria():
    answers, grid = parabola.PATTERNS["eye"]
    x = parabola.X[:, None]
    distance = np.asarray(parabola.distances(grid, answers(x)).min(-1))
    random = np.random.default_rng(0).random(distance.shape)
    perfect = parabola.measure(np.stack([random, distance]), 0 * answers(x), answers, grid)
    assert not perfect.collapsed and perfect.answers_found == 1 and perfect.error < 0.02
    flat = parabola.measure(np.stack([random, 1e-3 * distance]), 0 * answers(x), answers, grid)
    assert flat.collapsed and flat.error < 0.02
    upside_down = parabola.measure(np.stack([random, distance]), 0 * x, lambda x: 0 * x, grid)
    assert upside_down.collapsed  # the mean, 0, is then right everywhere


@pytest.mark.parametrize("settings", [{"seeds": (1, 1)}, {"steps": 3}])
def test_bad_settings_end_the_parabola_with_one_line(settings, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        parabola.main(parabola.Config(out=tmp_path / "run", **settings))
    assert stop.value.code == 2 and not (tmp_path / "run").exists()
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_scores_of_models_trained_apart_are_not_comparable(tmp_path):
    result = run(probabilities, seeds=(7,), steps=60, digit_steps=200, out=tmp_path / "run")
    assert result["same_answers"]["answers_agree"]
    quadratic, scaled, saturated = result["same_answers"]["partition"].values()
    assert quadratic[0] == pytest.approx(np.sqrt(2 * np.pi) / 10, rel=1e-4)
    assert quadratic[-1] == pytest.approx(quadratic[0], rel=1e-3)
    assert scaled[0] == pytest.approx(quadratic[0] / 2 / np.e, rel=1e-4)
    assert saturated[-1] > 50 * saturated[0]
    ways = result["two_experts"]["nll"]
    (told,), (apart,), (ten,), (together,) = (
        ways[way] for way in ("told which", "apart", "times 10", "end to end")
    )
    assert told > 96 and together > 94 and apart < together - 3 and ten < apart - 10
    for name in ("ravine.png", "same_answers.png"):
        assert (tmp_path / "run" / name).read_bytes().startswith(b"\x89PNG")

import contextlib
import io
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("matplotlib")
pytest.importorskip("tyro")
pytest.importorskip("sklearn")

from matplotlib import pyplot as plt  # noqa: E402
from PIL import Image  # noqa: E402

from experiments import shared  # noqa: E402
from experiments.lecture import parabola, probabilities  # noqa: E402

FIGURES = sorted((Path(__file__).parents[1] / "docs" / "figures").glob("*.png"))


def run(module, **settings):
    with contextlib.redirect_stdout(io.StringIO()):
        module.main(module.Config(**settings))
    return json.loads((settings["out"] / "result.json").read_text())


@pytest.mark.long
def test_the_energy_loss_works_on_a_and_collapses_on_b_where_square_square_does_not(
    tmp_path, monkeypatch
):
    few = {name: parabola.LOSSES[name] for name in ("energy", "square-square")}
    monkeypatch.setattr(parabola, "LOSSES", few)
    monkeypatch.setattr(parabola, "PATTERNS", {"parabola": parabola.PATTERNS["parabola"]})
    monkeypatch.setattr(parabola, "SNAPSHOTS", 4)
    monkeypatch.setattr(parabola, "WHEN", np.linspace(0, 1, 4))
    out = tmp_path / "run"
    result = run(parabola, seeds=(0, 7), steps=1000, out=out)
    collapsed = {
        name: {loss: of["collapsed"] for loss, of in result[name].items()}
        for name in ("parabola-A", "parabola-B")
    }
    neither, both = [False, False], [True, True]
    assert collapsed == {
        "parabola-A": {"energy": neither, "square-square": neither},
        "parabola-B": {"energy": both, "square-square": neither},
    }
    dug = result["parabola-B"]["square-square"]
    assert max(dug["error"]) < 0.05 and min(dug["found"]) > 0.95
    for name in ("parabola-A.png", "parabola-B.png"):
        assert (out / name).read_bytes().startswith(b"\x89PNG")
    assert (out / "parabola-B.gif").read_bytes().startswith(b"GIF89a")


def test_the_eye_has_two_answers_and_a_surface_is_judged_by_both_criteria():
    eye = parabola.PATTERNS["eye"]
    distance = np.asarray(eye.distances(parabola.X).min(-1))
    random = np.random.default_rng(0).random(distance.shape)
    zero = eye._replace(answers=lambda x: 0 * x)

    @jax.jit
    def judged(untrained, surface):
        on_data, both = jnp.zeros((81, 2)), jnp.stack([untrained, surface])
        return [parabola.measure(both, on_data, curve) for curve in (eye, zero)]

    perfect, upside_down = judged(random, distance)
    assert not perfect["collapsed"] and perfect["found"] == 1 and perfect["error"] < 0.02
    assert upside_down["collapsed"]  # the mean, 0, is then right everywhere
    flat, _ = judged(random, 1e-3 * distance)
    assert flat["collapsed"] and flat["error"] < 0.02


def test_the_flattest_surface_of_a_training_is_found_and_when_it_was():
    curve, on_data = parabola.PATTERNS["parabola"], jnp.zeros((81, 1))
    distance = curve.distances(parabola.X).min(-1)
    ranges = np.array([2.0, 0.5, 0.1, 4.0, 8.0, 16.0])
    surfaces = jnp.asarray(ranges)[:, None, None] * distance[None] / distance.max()
    measured = jax.jit(lambda s: parabola.measure(s, on_data, curve))(surfaces)
    assert measured["flattest"] == pytest.approx(0.05, rel=1e-5)
    assert measured["flattest_at"] == pytest.approx(parabola.WHEN[2], rel=1e-5)
    assert measured["after_a_tenth"] == pytest.approx(0.05, rel=1e-5)  # a third of the snapshots


@pytest.mark.parametrize("settings", [{"seeds": (1, 1)}, {"steps": 3}])
def test_bad_settings_end_the_parabola_with_one_line(settings, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        parabola.main(parabola.Config(out=tmp_path / "run", **settings))
    assert stop.value.code == 2 and not (tmp_path / "run").exists()
    assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.long
def test_scores_of_models_trained_apart_are_not_comparable(tmp_path, monkeypatch):
    monkeypatch.setattr(probabilities, "LOSSES", {"NLL": probabilities.LOSSES["NLL"]})
    result = run(probabilities, seeds=(7,), steps=60, digit_steps=200, out=tmp_path / "run")
    assert result["answers_agree"]
    quadratic, scaled, saturated = (list(of.values()) for of in result["partition"].values())
    assert quadratic[0] == pytest.approx(np.sqrt(2 * np.pi) / 10, rel=1e-4)
    assert quadratic[-1] == pytest.approx(quadratic[0], rel=1e-3)
    assert scaled[0] == pytest.approx(quadratic[0] / 2 / np.e, rel=1e-4)
    assert saturated[-1] > 50 * saturated[0]
    (told,), (apart,), (ten,), (together,) = (
        result["two_experts"]["NLL"][way]
        for way in ("told which", "apart", "times 10", "end to end")
    )
    assert told > 96 and together > 94 and apart < together - 3 and ten < apart - 10
    for name in ("ravine.png", "same_answers.png"):
        assert (tmp_path / "run" / name).read_bytes().startswith(b"\x89PNG")


def test_a_figure_is_saved_as_it_is_drawn(tmp_path):
    figure, axis = plt.subplots(figsize=(4, 3))
    image = axis.imshow(np.arange(256.0).reshape(16, 16), cmap="RdBu_r")
    figure.colorbar(image)
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=100, bbox_inches="tight")
    shared.save_figure(figure, tmp_path / "figure.png")
    with Image.open(tmp_path / "figure.png") as saved, Image.open(drawn) as whole:
        assert saved.mode == "RGB" and not plt.fignum_exists(figure.number)
        np.testing.assert_array_equal(saved, whole.convert("RGB"))


@pytest.mark.parametrize("path", FIGURES, ids=lambda path: path.stem)
def test_each_figure_of_the_pages_has_full_colour_and_a_size_that_a_page_can_carry(path):
    with Image.open(path) as image:
        assert image.mode in ("RGB", "RGBA")
    assert path.stat().st_size < 300_000

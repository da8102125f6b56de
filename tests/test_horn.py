import contextlib
import io
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("matplotlib")
pytest.importorskip("tyro")
pytest.importorskip("rich")

from experiments import shared
from experiments.lecture import horn


def sketch(figure, path):
    """In place of `save_figure`: small, and without layout, which takes longest."""
    figure.set_layout_engine("none")
    figure.savefig(path, dpi=20)
    shared.matplotlib.pyplot.close(figure)


@pytest.mark.long
def test_the_half_axes_are_learned_and_a_free_z_memorises_every_point(tmp_path, monkeypatch):
    monkeypatch.setattr(horn, "LIMITS", {"free": horn.LIMITS["free"]})
    monkeypatch.setattr(horn, "DIMENSIONS", (8,))
    monkeypatch.setattr(horn, "STARTS", 3)
    monkeypatch.setattr(horn, "SIDE", 9)
    monkeypatch.setattr(shared, "save_figure", sketch)
    out = tmp_path / "run"
    with contextlib.redirect_stdout(io.StringIO()):
        horn.main(horn.Config(seeds=(0,), steps=800, free_steps=300, out=out))
    result = json.loads((out / "result.json").read_text())
    cold, warm = result["axes"]["cold"], result["axes"]["beta = 1"]
    # What is averaged over pulls the small ellipses inwards.
    assert cold["axes_error"][0] < 0.1 and warm["axes_error"][0] > 0.05
    assert cold["axes_error"][0] in cold["axes_error_of_each_start"][0]
    assert cold["held_out_free_energy"][0] < 0.1
    free = result["free_z"]["free"]["8"]
    assert free["held_out"][0] < 0.01 and free["gap_of"]["gap"][0] < 0.1
    for name in ("horn.png", "planes.png"):
        assert (out / name).read_bytes().startswith(b"\x89PNG")


@pytest.mark.long
def test_a_ball_keeps_z_from_reaching_outwards_but_not_inside():
    _, mean = horn.learn_decoder(jnp.arange(1), "ball", 8, 300)
    gaps = horn.gaps(mean)
    assert mean["held_out"][0] < 0.05
    assert gaps["twice"][0] > 0.5 and abs(gaps["centre"][0]) < 0.1


@pytest.mark.slow
def test_the_data_lie_on_the_horn():
    ends = np.asarray(horn.half_axes(jnp.array([0.0, 1.0])))
    np.testing.assert_allclose(ends, [[2, 1.5], [1.5 * np.e**2, 2 * np.e**2]], rtol=1e-6)
    x, y = horn.data(jax.random.key(0), horn.X)
    assert x.shape == (51 * 24, 1) and y.shape == (51 * 24, 2)
    on_circle = np.asarray(y / horn.half_axes(x[:, 0]))
    angle = np.arctan2(on_circle[:, 1], on_circle[:, 0])
    off = np.asarray(y - horn.on_horn(x[:, 0], jnp.asarray(angle)))
    assert 0.02 < np.std(off) < 0.05  # the noise across the ellipse only
    assert np.max(np.abs(off)) < 0.25
    np.testing.assert_allclose(np.diff(np.sort(angle[-24:])), 2 * np.pi / 24, atol=0.05)


@pytest.mark.slow
def test_a_perfect_horn_is_low_on_itself_and_high_elsewhere():
    gaps = horn.gaps(horn.mean_of_the_horn())
    # (min rho)^2 over the mean of both squares at the centre; about 1 at twice the ellipse.
    rho = np.asarray(horn.half_axes(horn.BETWEEN))
    centre = np.mean(rho.min(1) ** 2 / np.mean(rho**2, axis=1))
    assert float(gaps["centre"]) == pytest.approx(centre, abs=0.01)
    assert 0.9 < gaps["twice"] < 1.05 and 0.4 < gaps["box"] < gaps["twice"]
    each = [float(gaps[kind]) for kind in horn.KINDS]
    assert float(gaps["gap"]) == pytest.approx(np.mean(each), rel=1e-6)


def test_the_start_of_lowest_training_free_energy_is_kept_whatever_failed():
    value, held = jnp.array([3.0, 1.0, jnp.nan]), jnp.array([5.0, 6.0, 7.0])
    assert float(horn.lowest({"held_out": held}, value)["held_out"]) == 6


@pytest.mark.parametrize("settings", [{"seeds": (1, 1)}, {"seeds": ()}, {"free_steps": 0}])
def test_bad_settings_end_with_one_line(settings, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        horn.main(horn.Config(out=tmp_path / "run", **settings))
    assert stop.value.code == 2 and not (tmp_path / "run").exists()
    assert len(capsys.readouterr().err.splitlines()) == 1

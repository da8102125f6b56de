import contextlib
import io
import json

import numpy as np
import pytest

pytest.importorskip("matplotlib")
pytest.importorskip("tyro")
pytest.importorskip("rich")

from experiments import shared
from experiments.lecture import ellipse, ellipse_figures


def sketch(figure, path):
    """In place of `save_figure`: small, and without layout, which takes longest."""
    figure.set_layout_engine("none")
    figure.savefig(path, dpi=20)
    shared.matplotlib.pyplot.close(figure)


@pytest.mark.long
def test_both_trainings_find_the_half_axes_and_colder_is_lower(tmp_path, monkeypatch):
    monkeypatch.setattr(ellipse, "HELD_OUT", 24)
    monkeypatch.setattr(ellipse, "SNAPSHOTS", 2)
    monkeypatch.setattr(ellipse, "SWEEP", np.array([0.15, 0.3, 0.6, 2, 200]))
    monkeypatch.setattr(shared, "save_figure", sketch)
    out, printed = tmp_path / "run", io.StringIO()
    config = ellipse.Config(seeds=(0,), steps=200, decoder_steps=20, out=out)
    with contextlib.redirect_stdout(printed):
        ellipse.main(config)
    result = json.loads((out / "result.json").read_text())
    for trained in ("cold, 48 angles", "beta = 200, 288 angles"):
        found = result["axes_by_training"][trained]
        np.testing.assert_allclose(found, [[2, 1.5]], atol=0.08)
    for of_training in result["free_energy"].values():
        for free in of_training.values():
            for points in ("train", "held_out"):
                from_cold = [free[beta][points] for beta in free]
                assert np.all(np.diff(from_cold, axis=0) >= 0)
    # Too hot, and training gives up an axis.
    sweep = result["axes_of_first_seed_by_beta"]
    beta, axes = np.asarray(sweep["beta"]), np.asarray(sweep["axes"])
    for i, critical in enumerate(sweep["collapse_expected_below"]):
        assert axes[beta < 0.8 * critical, i].max() < 0.05
        assert axes[beta > 1.25 * critical, i].min() > 0.4
    assert result["grid_error"]["beta = 1"] < 1e-4 < result["grid_error"]["beta = 200"]
    names = "energies", "free-energy", "relaxation", "posteriors", "half-axes", "overfitting"
    assert sorted(path.stem for path in out.glob("*.png")) == sorted(names)
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in out.glob("*.png"))
    assert all(sentence[:20] in printed.getvalue() for sentence in result["verdict"])


def test_points_lie_around_the_ellipse_at_equal_steps_from_an_offset(monkeypatch):
    y, fresh = ellipse.draw(0)
    monkeypatch.setattr(ellipse, "NOISE", 0.0)
    true_y, true_fresh = ellipse.draw(0)
    for on in (true_y, true_fresh):
        np.testing.assert_allclose(np.sum((on / np.array([[2, 1.5]])) ** 2, axis=1), 1, rtol=1e-5)
    t = np.unwrap(np.arctan2(true_y[:, 1] / 1.5, true_y[:, 0] / 2))
    np.testing.assert_allclose(np.diff(t), np.pi / 12, rtol=1e-4)
    assert y.shape == (24, 2) and 0 <= t[0] < np.pi / 12
    assert fresh.shape == (ellipse.HELD_OUT, 2)
    np.testing.assert_allclose(np.std(fresh - true_fresh, axis=0), 1 / 20, rtol=0.15)
    other = ellipse.draw(1)[0]
    assert not np.allclose(true_y[0], other[0])


def test_the_curvature_at_the_centre_is_that_of_the_free_energy():
    radii, beta = np.array([2.0, 1.5]), np.array([0.7])
    step = 0.05
    points = step * np.array([[0, 0], [1, 0], [-1, 0], [0, 1], [0, -1]])
    centre, *around = ellipse_figures.free_energies(radii, points, beta)[0]
    expected = (np.sum(np.reshape(around, (2, 2)), axis=1) - 2 * centre) / step**2
    np.testing.assert_allclose(ellipse_figures.curvatures(radii, beta)[0], expected, atol=0.02)


@pytest.mark.parametrize("settings", [{"seeds": (1, 1)}, {"steps": 3}, {"decoder_steps": 0}])
def test_bad_settings_end_the_ellipse_with_one_line(settings, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        ellipse.main(ellipse.Config(out=tmp_path / "run", **settings))
    assert stop.value.code == 2 and not (tmp_path / "run").exists()
    assert len(capsys.readouterr().err.splitlines()) == 1

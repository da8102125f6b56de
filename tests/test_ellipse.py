import contextlib
import io
import json
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("matplotlib")
pytest.importorskip("tyro")
pytest.importorskip("rich")
sys.path.insert(0, str(Path(__file__).parent.parent / "experiments"))

import ellipse  # noqa: E402
import ellipse_figures  # noqa: E402


def test_both_trainings_find_the_half_axes_and_colder_is_lower(tmp_path, monkeypatch):
    monkeypatch.setattr(ellipse, "HELD_OUT", 24)
    monkeypatch.setattr(ellipse, "SNAPSHOTS", 2)
    monkeypatch.setattr(ellipse, "SWEEP", np.array([0.15, 0.3, 0.6, 2, 200]))
    out, printed = tmp_path / "run", io.StringIO()
    config = ellipse.Config(seeds=(0, 7), steps=200, decoder_steps=20, out=out)
    with contextlib.redirect_stdout(printed):
        ellipse.main(config)
    result = json.loads((out / "result.json").read_text())
    for axes in ("axes", "axes_marginalised"):
        np.testing.assert_allclose(result[axes], [[2, 1.5]] * 2, atol=0.08)
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
    for name in (
        "energies",
        "free-energy",
        "relaxation",
        "posteriors",
        "manifolds",
        "cold-and-marginalised",
        "overfitting",
    ):
        assert (out / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    assert not list(out.glob("*.part"))
    assert all(sentence[:20] in printed.getvalue() for sentence in result["verdict"])


def test_points_lie_around_the_ellipse_at_equal_steps_from_an_offset():
    np.testing.assert_allclose(ellipse.rho(0.0), [2, 1.5])
    np.testing.assert_allclose(ellipse.rho(1.0), np.exp(2) * np.array([1.5, 2]), rtol=1e-6)
    t = ellipse.angles(jax.random.key(3))
    np.testing.assert_allclose(np.diff(t), np.pi / 12, rtol=1e-4)
    assert len(t) == 24 and 0 <= t[0] < np.pi / 12 and t[-1] < 2 * np.pi
    assert t[0] != ellipse.angles(jax.random.key(4))[0]
    many = jnp.linspace(0, 2 * jnp.pi, 2000)
    noise = ellipse.points(jax.random.key(0), many) - 1.0 * jnp.stack(
        [2 * jnp.cos(many), 1.5 * jnp.sin(many)], axis=-1
    )
    np.testing.assert_allclose(np.std(noise, axis=0), 1 / 20, rtol=0.1)
    y, fresh = ellipse.draw(0)
    assert y.shape == (24, 2) and fresh.shape == (ellipse.HELD_OUT, 2)
    assert not np.array_equal(y, ellipse.draw(1)[0])


def test_the_curvature_at_the_centre_is_that_of_the_free_energy():
    radii, beta = jnp.array([2.0, 1.5]), 0.7

    def free(y):
        return ellipse_figures.free_energies(radii, y, jnp.array([beta]))[0]

    step = 0.05 * jnp.eye(2)
    centre = free(jnp.zeros((1, 2)))
    expected = (free(step) + free(-step) - 2 * centre[0]) / 0.05**2
    found = ellipse_figures.curvatures(radii, jnp.array([beta]))[0]
    np.testing.assert_allclose(found, expected, atol=0.02)


@pytest.mark.parametrize("settings", [{"seeds": (1, 1)}, {"steps": 3}, {"decoder_steps": 0}])
def test_bad_settings_end_the_ellipse_with_one_line(settings, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        ellipse.main(ellipse.Config(out=tmp_path / "run", **settings))
    assert stop.value.code == 2 and not (tmp_path / "run").exists()
    assert len(capsys.readouterr().err.splitlines()) == 1

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
ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "experiments"))

import horn  # noqa: E402


def test_the_half_axes_are_learned_and_a_free_z_memorises_every_point(tmp_path):
    settings = {
        "seeds": (0,),
        "steps": 800,
        "starts": 3,
        "free_steps": 300,
        "dimensions": (8,),
        "limits": ("free",),
        "grid": 9,
    }
    out = tmp_path / "run"
    with contextlib.redirect_stdout(io.StringIO()):
        horn.main(horn.Config(**settings, out=out))
    result = json.loads((out / "result.json").read_text())
    (error,) = result["axes_error"]
    (warm,) = result["axes"]["beta = 1"]["axes_error"]
    assert error < 0.1 and warm > 0.05  # what is averaged over pulls the small ellipses inwards
    assert result["axes"]["cold"]["held_out_free_energy"][0] < 0.1
    free = result["free_z"]["free"]["8"]
    assert free["held_out"][0] < 0.01 and free["gap"][0] < 0.1
    for name in ("horn.png", "planes.png", "gaps.png"):
        assert (out / name).read_bytes().startswith(b"\x89PNG")
    assert not list(out.glob("*.part"))


def test_a_ball_keeps_z_from_reaching_outwards_but_not_inside():
    run = horn.summary_of_free(horn.learn_decoder(jnp.arange(1), "ball", 8, 300))
    (held,), gaps = run["held_out"], run["gap_of_kind"]
    assert held < 0.05 and gaps["twice"][0] > 0.5 and abs(gaps["centre"][0]) < 0.1


def test_the_data_lie_on_the_horn():
    ends = np.asarray(horn.half_axes(jnp.array([0.0, 1.0])))
    np.testing.assert_allclose(ends, [[2, 1.5], [1.5 * np.e**2, 2 * np.e**2]], rtol=1e-6)
    x, y = horn.data(jax.random.key(0), horn.X)
    assert x.shape == (51 * 24, 1) and y.shape == (51 * 24, 2)
    on_circle = y / horn.half_axes(x[:, 0])
    angle = jnp.arctan2(on_circle[:, 1], on_circle[:, 0])
    off = y - horn.on_horn(x[:, 0], angle)
    assert 0.02 < float(jnp.std(off)) < 0.05  # the noise across the ellipse only
    assert float(jnp.max(jnp.abs(off))) < 0.25
    steps = jnp.diff(jnp.sort(angle[-24:]))
    np.testing.assert_allclose(steps, 2 * np.pi / 24, atol=0.05)


def test_a_perfect_horn_is_low_on_itself_and_high_elsewhere():
    gap = horn.gap_of_the_horn()
    # (min rho)^2 over the mean of both squares at the centre; about 1 at twice the ellipse.
    rho = np.asarray(horn.half_axes(horn.BETWEEN))
    centre = np.mean(rho.min(1) ** 2 / np.mean(rho**2, axis=1))
    assert gap["centre"] == pytest.approx(centre, abs=0.01)
    assert 0.9 < gap["twice"] < 1.05 and 0.4 < gap["box"] < gap["twice"]


def test_of_each_seed_the_start_of_lowest_training_free_energy_is_kept():
    training = np.array([[3.0, 1.0], [np.nan, 2.0]])
    held = np.array([[5.0, 6.0], [7.0, 8.0]])
    runs = horn.Axes({}, {}, training, held, np.array([[0.01, 0.3], [0.02, 0.04]]))
    best = horn.kept(runs)
    assert best.held_out.tolist() == [6.0, 8.0] and best.error.tolist() == [0.3, 0.04]
    assert horn.summary_of_axes(runs)["starts_within_5_percent"] == 0.75


@pytest.mark.parametrize(
    "settings",
    [
        {"seeds": (1, 1)},
        {"seeds": ()},
        {"steps": 0},
        {"learning_rate": 0.0},
        {"dimensions": (0,)},
        {"limits": ("cube",)},
    ],
)
def test_bad_settings_end_with_one_line(settings, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        horn.main(horn.Config(out=tmp_path / "run", **settings))
    assert stop.value.code == 2 and not (tmp_path / "run").exists()
    assert len(capsys.readouterr().err.splitlines()) == 1

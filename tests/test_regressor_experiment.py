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
pytest.importorskip("sklearn")

from scipy.special import xlogy
from scipy.stats import norm

from experiments.lecture import regressor
from spen_jax.energies import Regressor, linear


@pytest.mark.slow
def test_each_distance_is_least_at_the_statistic_of_its_name(x64):
    found = regressor.expected_heights()
    cumulative = 0.8 * norm(0, 0.1).cdf(found["median"]) + 0.2 * norm(1.5, 0.5).cdf(found["median"])
    assert found["mean"] == pytest.approx(0.3) and cumulative == pytest.approx(0.5, abs=1e-6)
    assert found["mode"] == pytest.approx(0, abs=1e-3)
    assert found["euclidean"] == pytest.approx(0.3, abs=2e-4)
    assert found["absolute"] == pytest.approx(found["median"], abs=2e-4)
    assert found["pinball, 0.9"] == pytest.approx(1.5, abs=2e-4)  # 0.8 + 0.2 / 2
    assert found["bounded"] == pytest.approx(0, abs=1e-3)
    assert found["median"] < found["Huber, delta 0.3"] < found["mean"]


def test_the_distances_of_a_users_own_are_least_at_g_and_as_by_hand():
    y, r = np.float32([[0, 3], [2, 2]]), np.float32([[1, 2], [2, 2]])
    half_deviance = np.sum(xlogy(y, y / r) - y + r, -1)
    np.testing.assert_allclose(regressor.poisson(y, r), half_deviance, rtol=1e-6)
    np.testing.assert_allclose(regressor.pinball(y, r), [0.1 + 0.9, 0], rtol=1e-6)


@pytest.mark.long
@pytest.mark.slow
def test_linear_ones_on_the_table_are_the_regressions_that_others_call_by_name(x64):
    found = regressor.compare(30_000)
    for name in regressor.LINEAR:
        assert found[name]["difference"] < 1e-3, name
    assert found["euclidean, LMS"]["difference"] < 3e-3


def test_the_lms_rule_is_a_step_down_the_energy_of_one_row():
    params = {"w": jnp.array([[0.5], [-1.0]]), "b": jnp.array([0.25])}
    x, y = jnp.array([2.0, 3.0]), jnp.array([1.0])
    error = 1.0 - (0.5 * 2 - 3 + 0.25)  # y - r
    slope = jax.grad(Regressor(linear))(params, x, y)
    np.testing.assert_allclose(slope["w"][:, 0], -error * x, rtol=1e-6)


@pytest.mark.long
def test_trained_networks_answer_as_their_distance_says(tmp_path, monkeypatch):
    monkeypatch.setattr(regressor, "compare", lambda steps: {})
    out = tmp_path / "run"
    with contextlib.redirect_stdout(io.StringIO()):
        regressor.main(regressor.Config(seeds=(5, 6), steps=1000, out=out))
    result = json.loads((out / "result.json").read_text())
    for name, of in result["heights"].items():
        if name != "bounded, from above":
            np.testing.assert_allclose(of["height"], of["expected"], atol=0.12, err_msg=name)
    # A bounded energy stays among the outliers that it started from.
    assert min(result["heights"]["bounded, from above"]["height"]) > 1
    assert max(result["heights"]["bounded"]["to_the_mode"]) < 0.05
    assert max(result["free_scale"]["range_left"]) < 0.1
    assert (out / "distances.png").read_bytes().startswith(b"\x89PNG")


def test_a_difference_from_the_library_ends_the_script_with_one_line(tmp_path, monkeypatch, capsys):
    wrong = {"absolute": {"difference": 0.01}, "euclidean, LMS": {"difference": 1.0}}
    monkeypatch.setattr(regressor, "compare", lambda steps: wrong)
    learnt = {"heights": {}, "curves": {}, "free_scale": {"range_left": [0.1]}}
    monkeypatch.setattr(regressor, "learn", lambda config: ({}, learnt))
    monkeypatch.setattr(regressor, "draw_energies", lambda *_: None)
    monkeypatch.setattr(regressor.shared, "save_figure", lambda *_: None)
    with pytest.raises(SystemExit) as stop:
        regressor.main(regressor.Config(out=tmp_path / "run"))
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert "absolute" in error and "LMS" not in error and len(error.splitlines()) == 1


@pytest.mark.parametrize("settings", [{"seeds": (1, 1)}, {"steps": 0}])
def test_bad_settings_end_the_regressor_with_one_line(settings, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        regressor.main(regressor.Config(out=tmp_path / "run", **settings))
    assert stop.value.code == 2 and not (tmp_path / "run").exists()
    assert len(capsys.readouterr().err.splitlines()) == 1

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

from experiments.lecture import mean_field


@pytest.mark.long
def test_no_bound_is_on_the_wrong_side_and_a_temperature_is_that_of_its_own_distribution(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(mean_field, "ENERGIES", 8)
    monkeypatch.setattr(mean_field, "COUPLINGS", (0.25, 1.0))
    monkeypatch.setattr(mean_field, "TEMPERATURES", np.array([0.2, 3.0]))
    out = tmp_path / "run"
    with contextlib.redirect_stdout(io.StringIO()):
        mean_field.main(mean_field.Config(seeds=(7, 8), steps=800, out=out))
    result = json.loads((out / "result.json").read_text())
    assert result["wrong_sides"] == 0
    weak, strong = (result["at_one"][f"{s}, temperature 1"] for s in ("0.25", "1"))
    alone = result["at_one"]["1, each label alone"]
    assert max(weak["gap"]) < min(strong["gap"]) < max(strong["gap"]) < min(alone["gap"])
    for of in result["temperatures"].values():
        assert max(of["mean_error"]) < min(of["error_at_beta_1"])
    assert min(result["units"]["c ≥ 0, E(μ)"]["violated"]) > 4
    assert (out / "mean-field.png").read_bytes().startswith(b"\x89PNG")


def test_the_truth_is_that_of_all_answers(x64):
    x = jax.tree.map(lambda a: a[:2], mean_field.draw_pairs(0, 1.0))
    free, marginals, least = mean_field.truth(mean_field.pairs, x, 0.5)
    w = np.zeros((2, 10, 10))
    w[:, mean_field.FIRST, mean_field.SECOND] = x["w"]
    y = mean_field.CORNERS
    energies = x["u"] @ y.T + np.einsum("ki,bij,kj->bk", y, w, y)
    p = np.exp(-energies / 0.5)
    np.testing.assert_allclose(free, -0.5 * np.log(p.sum(1)), rtol=1e-10)
    np.testing.assert_allclose(marginals, p @ y / p.sum(1, keepdims=True), rtol=1e-9)
    np.testing.assert_allclose(least, energies.min(1), rtol=1e-12)


def test_a_bound_on_the_wrong_side_ends_the_script_with_one_line(tmp_path, monkeypatch, capsys):
    good = mean_field.judged(jnp.ones(2), jnp.zeros((2, 3)), jnp.zeros(2), jnp.zeros((2, 3)))
    bad = mean_field.judged(-jnp.ones(2), jnp.zeros((2, 3)), jnp.zeros(2), jnp.zeros((2, 3)))
    lost = mean_field.judged(jnp.nan * jnp.ones(2), *(jnp.zeros((2, 3)), jnp.zeros(2)), 0.0)
    assert (good["violated"], bad["violated"], lost["violated"]) == (0, 2, 2)
    monkeypatch.setattr(mean_field, "at_one", lambda config: {"pairs": good})
    monkeypatch.setattr(mean_field, "over_temperatures", lambda config: {"1": bad})
    # Units of other signs promise nothing.
    monkeypatch.setattr(mean_field, "of_units", lambda config: {"c ≥ 0, E(μ)": bad})
    monkeypatch.setattr(mean_field, "draw", lambda result: None)
    monkeypatch.setattr(mean_field.shared, "save_figure", lambda *_: None)
    with pytest.raises(SystemExit) as stop:
        mean_field.main(mean_field.Config(out=tmp_path / "run"))
    assert stop.value.code == 2
    assert capsys.readouterr().err.count("2 bounds lie on the wrong side") == 1


@pytest.mark.parametrize("settings", [{"seeds": ()}, {"steps": 3}])
def test_bad_settings_end_mean_field_with_one_line(settings, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        mean_field.main(mean_field.Config(out=tmp_path / "run", **settings))
    assert stop.value.code == 2 and not (tmp_path / "run").exists()
    assert len(capsys.readouterr().err.splitlines()) == 1

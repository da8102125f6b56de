import json

import numpy as np
import pytest

pytest.importorskip("matplotlib")
pytest.importorskip("tyro")

from experiments.labels import many, runs
from spen_jax import data


@pytest.mark.long
def test_a_run_compares_arrays_and_sparse_rows_and_writes_its_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "load", lambda *_: data.exclusive_blocks(0, 300, 60))
    config = many.Config(dataset="scene", shortlists=(4, 99), quick=True, out=tmp_path / "run")
    result = many.main(config)
    saved = json.loads((tmp_path / "run" / "result.json").read_text())
    assert list(saved["forms"]) == ["arrays", "sparse"] and list(saved["shortlists"]) == ["4"]
    for found in (*result["forms"].values(), *result["shortlists"].values()):
        measures = {k: v for k, (v,) in found.items() if k.startswith(("test", "prec", "prop"))}
        assert len(measures) == 9
        assert all(0 <= value <= 100 + 1e-9 for value in measures.values())
    assert all(found["seconds"][0] > 0 for found in result["forms"].values())


def test_the_label_rows_of_the_sparse_form_are_the_same_energy_trained_at_the_same_rates():
    settings, _ = many.settings_of("scene", "end-to-end", quick=True)
    module = many.module_of("sparse", settings, 16)
    phase = many.phase_of(many.models.predictor_of(module, settings.steps), settings)
    rates = dict(phase.recipe.rates)
    assert (rates["['W']"], rates["['bias']"], rates["network"]) == (1.0, 1.0, 1.0)
    assert rates[""] == settings.global_rate
    like = many.module_of("arrays", settings, 16)
    assert (module.n_global, module.entropy) == (like.n_global, like.entropy)
    assert np.isclose(module.global_scale, like.global_scale)


@pytest.mark.parametrize("wrong", [{"forms": ("rows",)}, {"seeds": (1, 1)}])
def test_bad_settings_end_the_run_with_one_line(wrong, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        many.main(many.Config(out=tmp_path / "run", **wrong))
    assert stop.value.code == 2 and not (tmp_path / "run").exists()
    assert len(capsys.readouterr().err.splitlines()) == 1

"""The experiment on the estimators' defaults, in short."""

import json

import pytest

from experiments.labels import defaults


@pytest.mark.long
def test_classes_and_made_up_label_sets_are_measured_beside_linear_models(tmp_path):
    config = defaults.Config(("iris", "made-100"), seeds=(0,), out=tmp_path / "run")
    result = defaults.main(config)
    iris, made = result["sets"]["iris"], result["sets"]["made-100"]
    assert iris["spen"][0] > 85 < iris["logistic"][0]
    assert made["spen"][0] > made["logistic"][0] > 50  # at a half too few labels are on
    written = json.loads((tmp_path / "run" / "result.json").read_text())
    assert written["sets"]["iris"]["spen"] == iris["spen"]


def test_sets_that_there_are_not_end_it(tmp_path):
    with pytest.raises(SystemExit):
        defaults.main(defaults.Config(("mnist",), out=tmp_path / "run"))

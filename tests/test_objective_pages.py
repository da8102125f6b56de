import re
from pathlib import Path

import jax
import numpy as np
import pytest
from enumerable import KEY

pytestmark = pytest.mark.slow


def page(name):
    """What the page defines, its blocks run in order."""
    text = (Path(__file__).parents[1] / f"docs/theory/objectives/{name}.md").read_text()
    names = {}
    exec("\n".join(re.findall(r"```python\n(.*?)```", text, re.DOTALL)), names)
    return names


def value(objective, params, data):
    return jax.jit(objective)(params, data, KEY)[0]


def test_the_page_on_max_margin_runs_as_printed():
    names = page("max_margin")
    assert 0 < names["metrics"]["violated"] <= 1
    np.testing.assert_allclose(names["tenth"], [0.86, 0.72], atol=0.05)
    np.testing.assert_allclose(names["tenfold"], [1, 0.12], atol=0.08)
    got = value(names["slack"], names["learned"], names["data"].train)
    assert got < value(names["slack"], names["params"], names["data"].train) - 1
    assert np.mean(names["each"]) > 0.1


def test_the_page_on_end_to_end_learning_runs_as_printed():
    names = page("end_to_end")
    objective, both = names["objective"], names["both"]
    before = {"model": names["params"], "log_step": np.log(np.full(5, 0.5, np.float32))}
    after = value(objective, both, names["data"].train)
    assert after < 0.7 * value(objective, before, names["data"].train)
    assert np.all(np.abs(both["log_step"] - before["log_step"]) > 0.01)


def test_the_page_on_implicit_differentiation_runs_as_printed():
    names = page("implicit")
    assert names["metrics"]["converged"] == 1
    before = value(names["objective"], names["params"], names["data"].train)
    assert names["metrics"]["loss"] < 0.7 * before


def test_the_page_on_the_likelihood_runs_as_printed():
    names = page("likelihood")
    assert {"by_enumeration", "persistent", "against_noise", "one_at_a_time"} <= names.keys()


def test_the_page_on_value_networks_runs_as_printed(capsys):
    page("value_networks")
    _, f1, check = capsys.readouterr().out.splitlines()
    claimed, achieved, correlation = map(float, check.split())
    assert float(f1) == pytest.approx(0.79, abs=0.02)
    np.testing.assert_allclose([claimed, achieved, correlation], [0.88, 0.78, 0.5], atol=0.05)


def test_the_page_on_inference_networks_runs_as_printed(capsys):
    names = page("inference_networks")
    lines = capsys.readouterr().out.splitlines()
    joint, retuned, refined, alone, with_energy, ranked = (
        float(line.split("}")[-1].split()[0]) for line in [*lines[1:6], lines[-1]]
    )
    assert min(joint, retuned, refined) > 0.74 and ranked > 0.74
    np.testing.assert_allclose([alone, with_energy], [0.49, 0.75], atol=0.04)
    energies = names["refined"].trace["energy"].mean(0)
    assert np.all(np.diff(energies) < 0)

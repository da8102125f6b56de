import re
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import optax
import pytest

ROOT = Path(__file__).parents[1]


def run(text):
    names = {}
    exec("\n".join(re.findall(r"```python\n(.*?)```", text, re.DOTALL)), names)
    return names


def section(title):
    return (ROOT / "README.md").read_text().split(f"\n## {title}\n")[1].split("\n## ")[0]


def test_the_inference_section_runs_as_printed(capsys):
    run(section("Inference"))
    converged, shape, points, r_hat = capsys.readouterr().out.splitlines()
    assert converged.startswith("True") and converged.endswith("(100, 201)")
    assert shape == "(5, 5, 5)"
    assert points.startswith("(100, 4, 2000, 5)")
    assert float(r_hat.split()[0]) < 1.02


def test_the_section_on_losses_runs_as_printed(capsys):
    names = run(section("Losses, and which of them collapse"))
    hinge, nll, probabilities = capsys.readouterr().out.splitlines()
    energies, y = names["energies"], names["y"]
    assert float(nll) == pytest.approx(
        float(optax.softmax_cross_entropy_with_integer_labels(-energies, y).mean()), rel=1e-5
    )
    assert float(hinge) > 0
    assert sum(map(float, probabilities.strip("[]").split())) == pytest.approx(1, abs=1e-6)


def test_the_page_on_energies_runs_as_printed(capsys):
    names = run((ROOT / "docs" / "energies.md").read_text())
    printed = capsys.readouterr().out.splitlines()
    assert printed[:2] == ["[-2.  2.]", "[-2.  2.]"]
    np.testing.assert_allclose(jnp.sum(names["density"]) * 0.01, 1, rtol=1e-5)
    np.testing.assert_allclose(names["found"].y, [[-2.0]], atol=1e-3)
    np.testing.assert_array_equal(names["best_y"], names["order_of_y"][:, 0])
    np.testing.assert_array_equal(names["best_x"], names["order_of_x"][0])
    np.testing.assert_allclose(names["p_of_x"].sum(0), 1, rtol=1e-5)
    assert [line.split(",")[0] for line in printed if line.startswith("Report")] == [
        "Report(minima=True",
        "Report(minima=True",
        "Report(minima=False",
    ]
    assert printed[-2:] == ["1.0", "True"]


def test_the_section_on_latent_variables_runs_as_printed(capsys):
    run(section("Latent variables"))
    lines = capsys.readouterr().out.splitlines()
    cold, warm, hot = (float(line.strip("]").split()[-1]) for line in lines)
    assert cold == pytest.approx(2.25) and cold < warm < hot == pytest.approx(3.125)


def test_the_page_on_latent_variables_runs_as_printed(capsys):
    names = run((ROOT / "docs" / "latent.md").read_text())
    printed = capsys.readouterr().out.splitlines()
    np.testing.assert_allclose(names["found"].energy, [0, 2.25], atol=1e-4)
    np.testing.assert_allclose(names["joint"].energy, [0, 0], atol=1e-2)
    np.testing.assert_allclose(jnp.sum(names["p"]), 1, rtol=1e-5)
    np.testing.assert_allclose(
        names["several"].y[names["several"].distinct], [[-1], [1]], atol=1e-3
    )
    for line in printed[-2:]:  # the half-axes, cold and contrastive
        axes = [float(a) for a in line.split("]")[0].strip("[ ").split()]
        np.testing.assert_allclose(axes, [2, 1.5], atol=0.08)


def test_the_section_on_training_runs_as_printed(capsys):
    run(section("Every way to train"))
    lines = [line.split(" {")[0].rsplit(" ", 1) for line in capsys.readouterr().out.splitlines()]
    f1 = {name: float(value) for name, value in lines}
    assert set(f1) == {"max-margin", "end to end", "ranking", "deep value"}
    assert all(value > 0.5 for value in f1.values())  # all labels on: 0.4


@pytest.mark.parametrize("page", sorted((ROOT / "docs").rglob("*.md")), ids=lambda page: page.name)
def test_what_a_page_links_to_is_there(page):
    links = re.findall(r"\]\(([^)#]+)", page.read_text())
    assert all((page.parent / link).exists() for link in links)

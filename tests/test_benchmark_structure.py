"""The benchmark of inference in structures compares its contestants, at small sizes."""

import numpy as np
import pytest

from benchmarks import cuts, grids, structure


@pytest.mark.long
def test_contestants_agree_and_each_has_a_row(monkeypatch):
    sizes = {
        "PLACES": 5,
        "LABELS": 3,
        "BATCHES": (2,),
        "SENTENCES": 4,
        "WORDS": 5,
        "SECONDS": 0.01,
    }
    for name, size in sizes.items():
        monkeypatch.setattr(structure, name, size)
    rows = structure.measure("chain") + structure.measure("tree")
    times = {(r["structure"], r["name"], r["batch"]) for r in rows if "seconds" in r}
    assert {("chain", name, 2) for name in ("spen_jax", "jax_logsumexp")} <= times
    assert ("chain, best", "spen_jax", 2) in times
    assert {
        ("tree", "spen_jax", 4),
        ("tree", "jax_slogdet", 4),
        ("tree, best", "networkx", 2),
    } <= times
    assert {("projective tree", "spen_jax", 4), ("projective tree, best", "spen_jax", 4)} <= times
    assert all(r["seconds"] > 0 for r in rows if "seconds" in r)
    errors = {(r["structure"], r["name"]): r["error"] for r in rows if "error" in r}
    assert errors["tree, error", "spen_jax"] < 1e-3 < errors["tree, error", "jax_slogdet"]
    assert errors["chain, error", "spen_jax"] < 1e-5
    assert "| tree: jax_slogdet" in structure.report(rows)


@pytest.fixture
def small_grids(monkeypatch):
    sizes = {
        "SIDES": (4, 6),
        "STEPS": 9,
        "POTTS_SIDE": 3,
        "VALUES": 3,
        "SEEDS": 2,
        "GRAPH_SIDE": 2,
        "SECONDS": 0.01,
    }
    for name, size in sizes.items():
        monkeypatch.setattr(grids, name, size)
    monkeypatch.setattr(cuts, "SIDE", 5)


@pytest.mark.long
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_contestants_on_grids_agree_and_each_has_a_row(small_grids):
    rows = structure.measure("grid")
    times = {(r["structure"], r["name"]) for r in rows if "seconds" in r}
    methods = "DualDecomposition", "TreeReweighted", "LinearProgramme"
    expected = dict.fromkeys(
        ("grid", "grid, gradient", "grid, best"), ("spen_jax", "jax_logsumexp")
    )
    expected |= dict.fromkeys(("potts, normal", "potts, attractive"), methods)
    expected |= {"cut": ("spen_jax", "scipy", "scipy_hundredths"), "graph": ("spen_jax",)}
    assert {(question, n) for question, names in expected.items() for n in names} <= times
    values = {(r["structure"], r["name"]): r["value"] for r in rows if "value" in r}
    assert {("grid, MiB, 4", "spen_jax"), ("grid, MiB, 6", "jax_logsumexp")} <= {*values}
    assert values["grid, energy", "spen_jax"] <= values["grid, energy", "jax_logsumexp"] + 1e-6
    assert all(abs(v) < 0.1 for (q, _), v in values.items() if q.startswith("potts, gap"))
    assert "| cut, energy: scipy_hundredths" in structure.report(rows)


def test_a_wrong_contestant_on_a_grid_is_found(small_grids):
    given = cuts.energies()
    right = {"spen_jax": lambda: cuts.of_scipy(*given, 10**6)}
    for name in ("maxflow", "scipy"):
        wrong = right | {name: lambda: 1 - cuts.of_scipy(*given, 10**6)}
        with pytest.raises(SystemExit, match=f"{name} does not reach"):
            cuts.check(wrong)
    with pytest.raises(SystemExit, match="equal marginals"):
        grids.check_graphs({"spen_jax": lambda: np.ones(2), "pgmpy": lambda: np.zeros(2)})


def test_scipy_finds_the_cut_of_every_answer(small_grids, monkeypatch):
    monkeypatch.setattr(cuts, "SIDE", 3)
    given = cuts.energies()
    every = np.array(list(np.ndindex(*[2] * 9))).reshape(-1, 3, 3)
    least = min(cuts.energy_of(y, *given) for y in every)
    found = cuts.energy_of(cuts.of_scipy(*given, 10**6), *given)
    assert found == pytest.approx(least, abs=1e-4)

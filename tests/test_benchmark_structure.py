"""The benchmark of exact inference compares its contestants, at small sizes."""

import pytest

from benchmarks import structure


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
    rows = structure.measure()
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

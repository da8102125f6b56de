import itertools
import json
from pathlib import Path

import pytest
from test_benchmarks import ROOT, run

SCRIPT = ROOT / "benchmarks" / "energies.py"


@pytest.mark.long
def test_the_benchmark_of_energies_times_all_contestants_once_their_answers_are_equal(tmp_path):
    """The script itself stops unless all contestants find the same y, loss and gradient."""
    file, energies = tmp_path / "rows.json", ["chain", "hyper"]
    small = ["--batches", "3", "--seconds", "0.02", "--energies", *energies]
    done = run(*small, "--json", str(file), script=SCRIPT)
    assert done.returncode == 0, done.stderr
    rows = json.loads(file.read_text())
    names = ["spen_jax", "jax_plain", "jax_vmap"]
    got = [(r["energy"], r["batch"], r["task"], r["name"]) for r in rows]
    assert got == list(itertools.product(energies, (3,), ("infer", "train"), names))
    assert all(set(r) == {"energy", "task", "batch", "name", "seconds"} for r in rows)
    assert all(r["seconds"] > 0 for r in rows)
    heads = ("infer 3", "train 3")
    assert all(f"| {name}" in done.stdout for name in [*energies, *heads])
    assert "The least is " in done.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["rows.json"]


@pytest.mark.long
def test_the_benchmark_of_energies_refuses_answers_that_differ():
    code = (
        "import numpy as np; from benchmarks.energies import check; y = np.ones((2, 3)); "
        "check('same', {'jax_plain': y, 'spen_jax': y * 1.00001}); "
        "check('chain, infer', {'jax_plain': y, 'spen_jax': y * 1.001})"
    )
    done = run(code, script=Path("-c"))
    assert done.returncode == 1
    assert "chain, infer: spen_jax and jax_plain differ by 0.001 of the size of y" in done.stderr


@pytest.mark.long
def test_the_benchmark_of_energies_refuses_an_energy_it_does_not_know():
    done = run("--energies", "chain", "chains", script=SCRIPT)
    assert done.returncode == 2
    assert "invalid choice: 'chains'" in done.stderr

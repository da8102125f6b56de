import itertools
import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "benchmarks" / "inference.py"
SLOW = "torch_eager,torch_eager_hoisted,torch_compile,jaxopt"


def run(*arguments, script=SCRIPT):
    path = os.pathsep.join(p for p in (str(ROOT), os.environ.get("PYTHONPATH")) if p)
    return subprocess.run(
        [sys.executable, str(script), *arguments],
        env=os.environ | {"PYTHONPATH": path, "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
def test_the_inference_benchmark_compares_its_contestants_and_writes_a_row_for_each(tmp_path):
    file = tmp_path / "rows.json"
    small = "--batches 8 --steps 3 --threads 1 --seconds 0.02".split()
    done = run(*small, "--without", SLOW, "--json", str(file))
    assert done.returncode == 0, done.stderr
    rows = json.loads(file.read_text())
    names = ["spen_jax", "spen_jax_compiled", "spen_jax_dense", "spen_jax_flax"]
    names += ["jax_plain", "optax_loop"]
    assert [(r["name"], r["batch"]) for r in rows] == [(name, 8) for name in names]
    for row in rows:
        assert row["threads"] == 1
        assert row["median_seconds"] > 0
        assert row["compile_seconds"] >= 0
        steps = row["example_steps_per_second"] * row["median_seconds"]
        assert abs(steps - 3 * row["batch"]) < 1e-6
    assert "Speed of spen_jax / speed of the peer, 1 thread" in done.stdout
    assert all(f"| {name}" in done.stdout for name in names)
    assert [path.name for path in tmp_path.iterdir()] == ["rows.json"]


@pytest.mark.long
@pytest.mark.slow
def test_the_inference_benchmark_on_an_accelerator_says_what_precision_does(tmp_path):
    """Here on a CPU, which it says, and where no precision does anything."""
    file = tmp_path / "rows.json"
    small = "--device gpu --batches 1,9 --steps 3 --seconds 0.02".split()
    done = run(*small, "--without", SLOW, "--json", str(file))
    assert done.returncode == 0, done.stderr
    assert "JAX finds no accelerator" in done.stderr
    rows = json.loads(file.read_text())
    own = [f"spen_jax, {p}" for p in ("default", "highest", "tensorfloat32", "bfloat16")]
    assert [r["name"] for r in rows] == 2 * [*own, "jax_plain"]
    for row in rows:
        if row["name"] in own:
            assert row["error"] < 1e-5
            assert row["changed"] == 0
    assert "Decisions that change" in done.stdout


@pytest.mark.long
@pytest.mark.slow
def test_the_benchmark_of_restoration_compares_what_it_times():
    code = (
        "from benchmarks import restoration as r; r.SIDE, r.STEPS, r.PATCHES, r.PATCH = 8, 2, 2, 8; "
        "r.WIDTHS, r.SECONDS = (4, 4), 0.01; rows = r.measure(); "
        "print(*(row['task'] + ':' + row['name'] for row in rows if row['seconds'] > 0)); "
        "y = r.np.ones(3); r.check_equal('infer', {'spen_jax': y, 'other': 1.01 * y})"
    )
    done = run(code, script=Path("-c"))
    assert done.returncode and "infer: other is off by 1.0e-02" in done.stderr
    assert {"infer:spen_jax", "train:jax_plain"} <= {*done.stdout.split()}


@pytest.mark.long
@pytest.mark.slow
def test_the_benchmark_of_convolutions_compares_what_it_times():
    code = (
        "from benchmarks import convolutions as c; c.IMAGES, c.SIDE, c.STEPS, c.SECONDS = 2, 6, 2, 0.01; "
        "c.ROWS = c.NETWORK_STEPS = 2; rows = c.measure(); "
        "print(*(row['task'] + ':' + row['name'] for row in rows if row['seconds'] > 0)); "
        "r = {'jax_plain': rows[0]['seconds'] * c.np.ones(2)}; c.check_equal('infer', r); "
        "c.check_equal('infer', r | {'other': 1.001 * r['jax_plain']})"
    )
    done = run(code, script=Path("-c"))
    names = ["spen_jax", "jax_plain", "jax_steps"]
    assert {f"{task}:{n}" for task in ("infer", "train", "network") for n in names} <= {
        *done.stdout.split()
    }
    assert "infer: other is off by 1.0e-03 of the largest number" in done.stderr


def test_the_inference_benchmark_refuses_a_peer_it_does_not_know():
    done = run("--without", "spen_jax,torchh")
    assert done.returncode == 2
    assert "no such peer: spen_jax, torchh" in done.stderr


@pytest.mark.long
def test_the_training_benchmark_times_a_step_of_each_objective(tmp_path):
    """Where PyTorch is installed, the script itself stops unless both compute the same loss and gradient."""
    file = tmp_path / "rows.json"
    small = "--threads 1 --seconds 0.02".split()
    done = run(*small, "--json", str(file), script=ROOT / "benchmarks" / "training.py")
    assert done.returncode == 0, done.stderr
    rows = json.loads(file.read_text())
    names = ["spen_jax", "torch_eager"] if find_spec("torch") else ["spen_jax"]
    kinds = "max-margin", "end-to-end"
    layers = "product", "product and gradient", "training step"
    got = [(r["kind"], r["batch"], r["name"]) for r in rows]
    assert got == [
        *itertools.product(kinds, (100, 512), names),
        *((kind, b, n) for b in (128, 512) for kind in layers for n in ("sparse", "dense")),
    ]
    assert all(r["seconds"] > 0 and r["threads"] == 1 for r in rows)
    assert "Milliseconds of a training step, 1 thread\n" in done.stdout
    assert "Milliseconds of a first layer of 1,000 units, 1 thread\n" in done.stdout


@pytest.mark.long
def test_the_benchmark_of_cold_starts_says_what_takes_the_seconds(tmp_path):
    file = tmp_path / "rows.json"
    done = run("--repeats", "1", "--json", str(file), script=ROOT / "benchmarks" / "compile.py")
    assert done.returncode == 0, done.stderr
    rows = json.loads(file.read_text())
    assert len(rows) == 8 and {row["start"] for row in rows} == {"cold", "warm"}
    for row in rows:
        parts = [row[part] for part in ("imports", "tracing", "lowering", "all else")]
        assert min(parts) >= 0 and row["programs"] >= 1
        assert sum(parts) + row["compiling or loading"] == pytest.approx(row["all"])
    cold, warm = (
        [r["compiling or loading"] for r in rows if r["start"] == s] for s in ("cold", "warm")
    )
    assert sum(warm) < sum(cold) / 2


def test_the_benchmark_of_structures_refuses_a_part_it_does_not_know():
    done = run("--only", "lattice", script=ROOT / "benchmarks" / "structure.py")
    assert done.returncode == 2
    assert "invalid choice: 'lattice'" in done.stderr


@pytest.mark.slow
def test_the_benchmark_of_many_labels_writes_a_row_with_its_own_memory(tmp_path):
    file, rows = tmp_path / "row.json", []
    for shortlist in ("all", "200"):
        given = ["--row", "3000", shortlist, "--json", str(file)]
        done = run(*given, script=ROOT / "benchmarks" / "labels.py")
        assert done.returncode == 0, done.stderr
        rows += json.loads(file.read_text())
    assert [(row["labels"], row["shortlist"]) for row in rows] == [(3000, None), (3000, 200)]
    assert all(row["seconds"] > 0 and 0.05 < row["gib"] < 2 for row in rows)
    precisions = [row["precision_at_5"] for row in rows]
    assert min(precisions) > 0.3 and abs(precisions[0] - precisions[1]) < 0.02

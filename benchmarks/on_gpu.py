"""Inference on an accelerator: the seconds of a call, and what the precision of products does to its answers.

`benchmarks/inference.py --device gpu` runs it: the energy of problem.py, 30 steps, contestants of contestants.py with
all of a call compiled, `spen_jax` once for each precision of the energy's products (`minimize(precision=...)`). PyTorch
runs where it has the same device. Answers are held against the same loop in NumPy, in float64: the largest error of a
y, and how many of the labels, y at or above 1/2, come out otherwise.
"""

import argparse
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks import harness
from benchmarks.contestants import CONTESTANTS
from benchmarks.problem import MOMENTUM, STEP, Problem, jax_arrays, plain_energy, random_problem

PRECISIONS = None, "highest", "tensorfloat32", "bfloat16"
BATCHES = 1, 64, 2_515, 32_768, 262_144
PEERS = "jax_plain", "torch_eager_hoisted", "torch_compile"


def ours(problem: Problem, steps: int, precision: str | None) -> Callable[[], Any]:
    """`minimize` inside `jit`."""
    import jax

    from spen_jax import minimize

    def solve(*arrays):
        return minimize(plain_energy(), *arrays, steps=steps, precision=precision).y

    compiled, arrays = jax.jit(solve), jax_arrays(problem)
    return lambda: compiled(*arrays)


def in_float64(problem: Problem, steps: int) -> np.ndarray:
    """The points that `GradientDescent` of `spen_jax` reaches, (B, LABELS)."""
    y = before = problem.start.astype(np.float64)
    for _ in range(steps):
        units = 1 / (1 + np.exp(-(y @ problem.C1.T + problem.b)))
        slope = (units * problem.c2) @ problem.C1 - problem.logits
        y, before = np.clip(y - STEP * slope + MOMENTUM * (y - before), 0, 1), y
    return y


def contestants(problem: Problem, options: argparse.Namespace) -> dict[str, Callable[[], Any]]:
    """Ours by precision, then the peers that run here."""
    import jax

    runs = {f"spen_jax, {p or 'default'}": ours(problem, options.steps, p) for p in PRECISIONS}
    for name in PEERS:
        if name in options.without or not harness.installed(name):
            continue
        if not name.startswith("torch"):
            runs[name] = CONTESTANTS[name](problem, options.steps)
            continue
        import torch

        if jax.default_backend() == "gpu" and torch.cuda.is_available():
            torch.set_default_device("cuda")
            run = CONTESTANTS[name](problem, options.steps)
            runs[name] = lambda run=run: (run(), torch.cuda.synchronize())[0]
    return runs


def measure(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Rows of name, batch, steps, seconds, device; of ours also error and changed decisions."""
    import jax

    rows = []
    for batch in options.batches:
        print(f"batch {batch}: compiling, comparing, timing", file=sys.stderr)
        problem = random_problem(batch)
        runs, truth = contestants(problem, options), in_float64(problem, options.steps)
        found = {name: run() for name, run in runs.items()}
        for name, seconds in harness.interleaved(runs, options.seconds).items():
            row = {"name": name, "batch": batch, "steps": options.steps, "seconds": seconds}
            row["device"] = jax.devices()[0].device_kind
            if name.startswith("spen_jax"):
                y = np.asarray(found[name])
                row["error"] = float(np.max(np.abs(y - truth)))
                row["changed"] = int(np.sum((y >= 0.5) != (truth >= 0.5)))
            rows.append(row)
    return rows


def report(rows: list[dict[str, Any]]) -> None:
    """Prints microseconds, errors and changed decisions."""
    batches = list(dict.fromkeys(row["batch"] for row in rows))
    cells = {(row["name"], row["batch"]): row for row in rows}

    def show(title, names, cell):
        lines = [
            [n, *(cell(cells[n, b]) if (n, b) in cells else "-" for b in batches)] for n in names
        ]
        print(f"\n{title}\n")
        print(harness.table(["", *(f"batch {b:,}" for b in batches)], lines))

    names = list(dict.fromkeys(row["name"] for row in rows))
    own = [name for name in names if name.startswith("spen_jax")]
    device, steps = rows[0]["device"], rows[0]["steps"]
    title = f"Microseconds of a call, {steps} steps, {device}"
    show(title, names, lambda row: f"{1e6 * row['seconds']:,.0f}")
    show("Largest error of a y", own, lambda row: f"{row['error']:.1e}")
    show("Decisions that change", own, lambda row: f"{row['changed']:,}")

"""Benchmark of inference: the example-steps per second of spen_jax and of its peers.

An example-step is one step of the minimisation of one example's energy over its labels. The energy
has the size of the BibTeX data set (problem.py); steps of 0.1 with momentum 0.95, in the box
[0, 1]. Claim: at batches of 512 and 2,515, `spen_jax.minimize` makes on one thread at least 7
times the steps of PyTorch's autograd and 1.5 times those of `torch.compile`; on two threads
(`sx.parallel.all_cores()`) at least 1.6 times its own on one, and more than `torch.compile` on two.

`--device gpu` measures on the accelerator that JAX finds instead, see on_gpu.py. README.md says how to read the tables,
and prints those of one run. About 3 minutes.
"""

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import harness, on_gpu
from benchmarks.contestants import CONTESTANTS, OWN_ITERATION
from benchmarks.problem import (
    GLOBAL,
    LABELS,
    MOMENTUM,
    STEP,
    Problem,
    interior,
    random_problem,
)

OPTIONAL = "torch", "jaxopt"


def check(problem: Problem, names: list[str], steps: int) -> dict[str, float]:
    """The seconds of each contestant's first call, after seeing that all solve the same problem.

    Where no bound is reached, every point agrees with a loop in NumPy up to 1e-3. On the problem
    itself contestants with the same iteration agree on every point up to 1e-3, and all that have
    momentum reach the same mean energy within 2 %.

    Raises:
      RuntimeError: where two of them disagree.
    """
    inside = interior(problem, steps)
    seconds, points, families, reached = {}, {}, {}, {}
    for name in names:
        iteration = OWN_ITERATION.get(name, "velocity")
        momentum = 0.0 if iteration == "no momentum" else MOMENTUM
        y, seconds[name] = harness.first_call(CONTESTANTS[name](inside, steps))
        _same(name, np.asarray(y), "NumPy, inside the bounds,", _loop(inside, steps, momentum))
        points[name] = np.asarray(CONTESTANTS[name](problem, steps)())
        other = families.setdefault(iteration, name)
        _same(name, points[name], other, points[other])
        if momentum:
            reached[name] = float(problem.energies(points[name]).mean())
    best = min(reached.values())
    for name, energy in reached.items():
        if energy > best + 0.02 * abs(best):
            raise RuntimeError(f"{name} reached a mean energy of {energy:.4f}, others {best:.4f}")
    return seconds


def _loop(problem: Problem, steps: int, momentum: float) -> np.ndarray:
    """Gradient descent without bounds, in float64."""
    y, velocity, logits = problem.start.astype(np.float64), 0.0, problem.logits
    for _ in range(steps):
        units = 1 / (1 + np.exp(-(y @ problem.C1.T + problem.b)))
        velocity = momentum * velocity + (units * problem.c2) @ problem.C1 - logits
        y = y - STEP * velocity
    return y


def _same(name: str, y: np.ndarray, other: str, expected: np.ndarray) -> None:
    gap = float(np.abs(y - expected).max())
    if not gap <= 1e-3:
        raise RuntimeError(f"{name} and {other} differ by {gap:.2g} after the same steps")


def operations() -> int:
    """Floating-point operations of an example-step: two products with C1, 8 a label, 6 a unit.

    A label: y - y_before, times the momentum, plus y, the gradient's two parts added, times the
    step, subtracted, held against two bounds. A unit: bias, sigmoid (counted as 4), times c2.
    """
    return 4 * LABELS * GLOBAL + 8 * LABELS + 6 * GLOBAL


def matrix_rate(seconds: float, clock: Callable[[], float]) -> float:
    """Operations per second of JAX's matrix product: the better of two sizes that fit in caches."""
    import jax
    import jax.numpy as jnp

    product = jax.jit(jnp.matmul)
    squares = {n: jnp.ones((n, n), jnp.float32) for n in (256, 512)}
    runs = {str(n): lambda a=a: product(a, a) for n, a in squares.items()}
    medians = harness.interleaved(runs, seconds, clock)
    return max(2 * n**3 / medians[str(n)] for n in squares)


def measure(threads: int, options: argparse.Namespace) -> dict[str, Any]:
    """The rows of one number of threads; runs in a process of its own."""
    harness.pin(threads)
    if threads > 1:
        from spen_jax.parallel import all_cores

        all_cores(threads)
    names, missing = [], []
    for name in options.names:
        try:
            CONTESTANTS[name](random_problem(1), 1)
            names.append(name)
        except ModuleNotFoundError as error:
            if error.name not in OPTIONAL:
                raise
            missing.append(f"{name} is left out: {error.name} is not installed")
    if any("torch" in name for name in names):
        import torch

        torch.set_num_threads(threads)
    # The processor's own seconds leave out what other processes take of a shared processor.
    clock = time.process_time if threads == 1 else time.perf_counter
    rate = matrix_rate(min(1.0, options.seconds), clock)
    rows = []
    for batch in options.batches:
        print(f"threads {threads}, batch {batch}: compiling, comparing, timing", file=sys.stderr)
        running = [n for n in names if n != "torch_compile" or batch in options.compile_batches]
        problem = random_problem(batch)
        first = check(problem, running, options.steps)
        runs = {name: CONTESTANTS[name](problem, options.steps) for name in running}
        for name, median in harness.interleaved(runs, options.seconds, clock).items():
            speed = batch * options.steps / median
            rows.append(
                {
                    "name": name,
                    "batch": batch,
                    "threads": threads,
                    "steps": options.steps,
                    "example_steps_per_second": speed,
                    "median_seconds": median,
                    "clock": "processor" if clock is time.process_time else "wall",
                    "compile_seconds": max(0.0, first[name] - median),
                    "roofline": speed * operations() / rate,
                }
            )
    return {"rows": rows, "missing": missing, "matrix_rate": rate}


def report(rows: list[dict[str, Any]], rate: float) -> None:
    """Prints the tables of one number of threads."""
    names = list(dict.fromkeys(row["name"] for row in rows))
    batches = list(dict.fromkeys(row["batch"] for row in rows))
    cells = {(row["name"], row["batch"]): row for row in rows}
    own, threads, speed = names[0], rows[0]["threads"], "example_steps_per_second"

    def show(title, names, cell):
        print(f"\n{title}, {threads} thread{'s' * (threads > 1)}\n")
        lines = [
            [name, *(cell(cells[name, b]) if (name, b) in cells else "-" for b in batches)]
            for name in names
        ]
        print(harness.table(["", *(f"batch {b}" for b in batches)], lines))

    def ratio(row):
        return f"{cells[own, row['batch']][speed] / row[speed]:.3g}"

    show("Million example-steps per second", names, lambda row: f"{row[speed] / 1e6:.3g}")
    show(f"Speed of {own} / speed of the peer", names[1:], ratio)
    show("Per cent of the roofline", [own], lambda row: f"{100 * row['roofline']:.3g}")
    print(
        f"\nThe roofline is {rate / operations() / 1e6:.1f} million example-steps per second: "
        f"{operations():,} operations each, a matrix product makes {rate / 1e9:.0f} GFLOP/s."
    )
    show("Seconds to compile", names, lambda row: f"{row['compile_seconds']:.1f}")


def gained(rows: list[dict[str, Any]]) -> None:
    """Prints what more threads gained over one, for the contestants that are our own."""
    speed = {
        (row["name"], row["threads"], row["batch"]): row["example_steps_per_second"] for row in rows
    }
    batches = list(dict.fromkeys(row["batch"] for row in rows))
    names = dict.fromkeys(row["name"] for row in rows if row["name"].startswith("spen_jax"))
    for threads in sorted({row["threads"] for row in rows} - {1}):
        if not any(row["threads"] == 1 for row in rows):
            return
        print(f"\nSpeed on {threads} threads / speed on 1\n")
        lines = [
            [name, *(f"{speed[name, threads, b] / speed[name, 1, b]:.3g}" for b in batches)]
            for name in names
        ]
        print(harness.table(["", *(f"batch {b}" for b in batches)], lines))


def parse(arguments: list[str]) -> argparse.Namespace:
    """The options, and as `names` the contestants that run."""
    cpus = len(harness.available_cpus())
    peers = [name for name in CONTESTANTS if name != "spen_jax"]

    def numbers(text: str) -> list[int]:
        values = list(dict.fromkeys(cpus if v == "all" else int(v) for v in text.split(",")))
        if min(values) < 1:
            raise argparse.ArgumentTypeError(f"expected numbers of 1 or more, got {text}")
        return values

    def some_peers(text: str) -> list[str]:
        if unknown := set(text.split(",")) - {*peers}:
            raise argparse.ArgumentTypeError(f"no such peer: {', '.join(sorted(unknown))}")
        return text.split(",")

    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--device", choices=("cpu", "gpu"), default="cpu", help="where (%(default)s)")
    add("--batches", type=numbers, help="batch sizes (1,64,512,2515; on a gpu up to 262144)")
    add("--threads", type=numbers, default="1,all", help="numbers of threads (%(default)s)")
    add("--steps", type=int, default=30, help="steps of one inference (%(default)s)")
    add("--seconds", type=float, default=5.0, help="of timing for each batch (%(default)s)")
    add("--without", type=some_peers, default=[], help=f"leave out some of {','.join(peers)}")
    add(
        "--compile-batches",
        type=numbers,
        default="1,64,512,2515",
        help="batch sizes for torch_compile, 10 to 25 s of compilation each (%(default)s)",
    )
    add("--json", help="file for the rows, a list of objects")
    add("--worker", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.batches is None:
        options.batches = on_gpu.BATCHES if options.device == "gpu" else (1, 64, 512, 2515)
    if options.steps < 1:
        parser.error(f"--steps must be 1 or more, got {options.steps}")
    if options.json and not Path(options.json).absolute().parent.is_dir():
        parser.error(f"--json: there is no folder for {options.json}")
    options.names = [name for name in CONTESTANTS if name not in options.without]
    return options


def main(arguments: list[str]) -> None:
    """Measures each number of threads in a fresh process, prints the tables, writes the rows."""
    options = parse(arguments)
    if options.worker:
        return harness.write_json(options.json, measure(options.worker, options))
    print(harness.machine(harness.PACKAGES))
    if options.device == "gpu":
        import jax

        if jax.default_backend() == "cpu":
            print("JAX finds no accelerator: these are figures of the CPU", file=sys.stderr)
        rows = on_gpu.measure(options)
        on_gpu.report(rows)
        return harness.write_json(options.json, rows) if options.json else None
    rows = []
    for threads in options.threads:
        answer = harness.fresh_process(__file__, [*arguments, "--worker", str(threads)], threads)
        for line in answer["missing"]:
            print(line)
        report(answer["rows"], answer["matrix_rate"])
        rows += answer["rows"]
    gained(rows)
    if options.json:
        harness.write_json(options.json, rows)


if __name__ == "__main__":
    main(sys.argv[1:])

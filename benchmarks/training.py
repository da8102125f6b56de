"""Training: the seconds of one step, spen_jax against eager PyTorch, and what compilation costs.

The energy of problem.py, of the size of the BibTeX data set; a step takes 100 examples, trains the local and
the global term on their features h by SGD with momentum 0.9, and is what a user writes: `training.step` here,
`torch.autograd` there, both with the potentials W h + d computed once a step.

- max-margin: loss-augmented inference by 30 steps of gradient descent with momentum, stopped.
- end-to-end: cross-entropy through 10 unrolled steps of mirror descent, in PyTorch by `create_graph=True`.

Claim: on one thread spen_jax takes the max-margin step at least 7 times, the end-to-end step at least 3.5 times as
fast. Before anything is timed, both have computed the same loss and the same gradient. About 1 minute; README.md
prints one run.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from benchmarks import harness
from benchmarks.problem import LABELS, MOMENTUM, STEP, plain_energy, random_problem

KINDS = "max-margin", "end-to-end"
BATCH, DESCENT_STEPS, MIRROR_STEPS, MIRROR_STEP = 100, 30, 10, 0.1
RATE, SGD_MOMENTUM = 1e-3, 0.9
TOLERANCE = 1e-4
NAMES = "W", "d", "C1", "b", "c2"


class Data(NamedTuple):
    """Features h (B, HIDDEN) and labels (B, LABELS), as float32."""

    x: np.ndarray
    y: np.ndarray


def random_data() -> tuple[dict[str, np.ndarray], Data]:
    """The weights of `random_problem`, its features, and labels of which each is on in 1.5 % of the examples."""
    problem = random_problem(BATCH)
    on = np.random.default_rng(1).random((BATCH, LABELS)) < 0.015
    weights = {name: getattr(problem, name) for name in NAMES}
    return weights, Data(problem.h, on.astype(np.float32))


class Contestant(NamedTuple):
    """`step()` takes one step and returns its loss; `gradient()` is (loss, gradient by name) at the first weights."""

    step: Callable[[], Any]
    gradient: Callable[[], tuple[float, dict[str, np.ndarray]]]


def _ours(kind: str) -> tuple[Any, Any, Any, Any, Any]:
    """The arguments of `training.step`."""
    import jax
    import optax

    from spen_jax import GradientDescent, MirrorDescent, Predictor, objectives, training

    def features(params, h):
        return h @ params["W"].T + params["d"]

    predictor = partial(Predictor, plain_energy(), features)
    if kind == "max-margin":
        descent = predictor(solver=GradientDescent(STEP, MOMENTUM), steps=DESCENT_STEPS)
        objective = objectives.max_margin(descent)
    else:
        mirror = predictor(solver=MirrorDescent(MIRROR_STEP), steps=MIRROR_STEPS)
        objective = objectives.end_to_end(mirror)
    weights, data = jax.device_put(random_data())
    optimizer = optax.sgd(RATE, momentum=SGD_MOMENTUM)
    state = training.init(weights, optimizer, jax.random.key(0))
    return objective, optimizer, state, data, np.arange(BATCH)


def spen_jax(kind: str) -> Contestant:
    """`training.step`."""
    import jax

    from spen_jax import training

    objective, optimizer, state, data, rows = _ours(kind)
    first = state.params

    def step():
        nonlocal state
        state, metrics = training.step(objective, optimizer, state, data, rows)
        return metrics["loss"]

    def gradient():
        both = jax.jit(jax.value_and_grad(objective, has_aux=True))
        (loss, _), slopes = both(first, data, jax.random.key(0))
        return float(loss), jax.tree.map(np.asarray, slopes)

    return Contestant(step, gradient)


def torch_eager(kind: str) -> Contestant:
    """The same in PyTorch, operation by operation; during stopped inference no weight asks for a gradient."""
    import torch
    from torch.nn import functional as F

    weights, data = random_data()
    params = {name: torch.tensor(w, requires_grad=True) for name, w in weights.items()}
    x, y = map(torch.from_numpy, data)
    rows = torch.arange(BATCH)
    optimizer = torch.optim.SGD(params.values(), lr=RATE, momentum=SGD_MOMENTUM)

    def energies(params, logits, y):
        return F.softplus(F.linear(y, params["C1"], params["b"])) @ params["c2"] - (y * logits).sum(
            -1
        )

    def max_margin(logits, truth):
        fixed, given = {name: p.detach() for name, p in params.items()}, logits.detach()
        y = torch.full_like(truth, 0.5)
        moved = torch.zeros_like(y)
        for _ in range(DESCENT_STEPS):
            y.requires_grad_()
            total = (energies(fixed, given, y) - ((y - truth) ** 2).sum(-1)).sum()
            (slope,) = torch.autograd.grad(total, y)
            with torch.no_grad():
                aim = (y + MOMENTUM * moved - STEP * slope).clamp_(0, 1)
                y, moved = aim, aim - y
        costs = ((y - truth) ** 2).sum(-1)
        return F.relu(costs - energies(params, logits, y) + energies(params, logits, truth)).mean()

    def end_to_end(logits, truth):
        at = torch.zeros_like(truth).requires_grad_()
        for _ in range(MIRROR_STEPS):
            y = torch.sigmoid(at)
            total = energies(params, logits, y).sum()
            (slope,) = torch.autograd.grad(total, y, create_graph=True)
            at = at - MIRROR_STEP * slope
        return F.binary_cross_entropy(torch.sigmoid(at), truth, reduction="sum") / BATCH

    objective = {"max-margin": max_margin, "end-to-end": end_to_end}[kind]

    def loss():
        h, truth = x[rows], y[rows]
        return objective(F.linear(h, params["W"], params["d"]), truth)

    def step():
        optimizer.zero_grad()
        value = loss()
        value.backward()
        optimizer.step()
        return value.item()

    def gradient():
        value = loss()
        slopes = torch.autograd.grad(value, list(params.values()))
        return value.item(), dict(zip(params, (g.numpy() for g in slopes), strict=True))

    return Contestant(step, gradient)


def check(kind: str, ours: Contestant, other: Contestant) -> None:
    """Both compute the same loss and gradient, and after 3 steps still the same loss.

    Raises:
      RuntimeError: where they differ by more than TOLERANCE, relative to the largest number of each array.
    """
    (loss, slopes), (their_loss, theirs) = ours.gradient(), other.gradient()
    pairs = {"loss": (loss, their_loss)} | {n: (slopes[n], theirs[n]) for n in NAMES}
    for _ in range(3):
        pairs["loss after 3 steps"] = float(ours.step()), float(other.step())
    for name, (a, b) in pairs.items():
        gap = float(np.max(np.abs(np.subtract(a, b))) / np.max(np.abs(b)))
        if not gap <= TOLERANCE:
            raise RuntimeError(f"{kind}: {name} differs from PyTorch's by {gap:.2g} of its size")


def measure(threads: int, seconds: float) -> list[dict[str, Any]]:
    """A row for each objective and contestant, in a process of so many threads."""
    harness.pin(threads)
    contestants: dict[str, Callable[[str], Contestant]] = {"spen_jax": spen_jax}
    if harness.installed("torch_eager"):
        import torch

        torch.set_num_threads(threads)
        contestants["torch_eager"] = torch_eager
    clock = time.process_time if threads == 1 else time.perf_counter
    rows = []
    for kind in KINDS:
        print(f"threads {threads}, {kind}: comparing, timing", file=sys.stderr)
        made = {name: make(kind) for name, make in contestants.items()}
        if "torch_eager" in made:
            check(kind, made["spen_jax"], made["torch_eager"])
        runs = {name: c.step for name, c in made.items()}
        for name, median in harness.interleaved(runs, seconds, clock).items():
            rows.append({"kind": kind, "name": name, "threads": threads, "seconds": median})
    return rows


def first_call(kind: str, folder: str) -> dict[str, float]:
    """Seconds until the step can run, tracing and then compiling or, where `folder` has it, loading."""
    import jax

    harness.pin(1)
    jax.config.update("jax_enable_compilation_cache", True)
    jax.config.update("jax_compilation_cache_dir", folder)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    from spen_jax import training

    arguments = _ours(kind)
    clock = time.process_time
    start = clock()
    lowered = training.step.lower(*arguments)
    traced = clock()
    lowered.compile()
    return {"trace": traced - start, "compile": clock() - traced}


def compilation() -> list[dict[str, Any]]:
    """A row for each objective: the same process twice, first with an empty persistent cache."""
    rows = []
    for kind in KINDS:
        with tempfile.TemporaryDirectory() as folder:
            arguments = ["--first-call", kind, folder]
            empty, full = (harness.fresh_process(__file__, arguments, 1) for _ in range(2))
        rows.append({"kind": kind, **empty, "load": full["compile"]})
    return rows


def report(rows: list[dict[str, Any]]) -> None:
    """Prints the table of one number of threads."""
    threads = rows[0]["threads"]
    cells = {(row["kind"], row["name"]): row["seconds"] for row in rows}
    names = list(dict.fromkeys(row["name"] for row in rows))
    lines = []
    for kind in KINDS:
        times = [cells[kind, name] for name in names]
        lines.append([kind, *(f"{1e3 * s:.2f}" for s in times), f"{times[-1] / times[0]:.3g}"])
    print(
        f"\nMilliseconds of a training step, batch {BATCH}, {threads} thread{'s' * (threads > 1)}\n"
    )
    print(harness.table(["", *names, "ratio"], lines))


def parse(arguments: list[str]) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--threads", type=int, nargs="+", default=[1], help="numbers of threads (%(default)s)")
    add("--seconds", type=float, default=15.0, help="of timing for each objective (%(default)s)")
    add("--without-compilation", action="store_true", help="leave out how long compilation takes")
    add("--json", help="file for the rows, an object of two lists")
    add("--worker", type=int, help=argparse.SUPPRESS)
    add("--first-call", nargs=2, help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def main(arguments: list[str]) -> None:
    """Measures each number of threads in a fresh process, prints the tables, writes the rows."""
    options = parse(arguments)
    if options.worker:
        return harness.write_json(options.json, measure(options.worker, options.seconds))
    if options.first_call:
        return harness.write_json(options.json, first_call(*options.first_call))
    print(harness.machine(harness.PACKAGES))
    steps = []
    for threads in options.threads:
        worker = ["--worker", str(threads), "--seconds", str(options.seconds)]
        rows = harness.fresh_process(__file__, worker, threads)
        report(rows)
        steps += rows
    compiled = [] if options.without_compilation else compilation()
    if compiled:
        print("\nProcessor seconds before the first step, once a process\n")
        lines = [
            [row["kind"], *(f"{row[n]:.2f}" for n in ("trace", "compile", "load"))]
            for row in compiled
        ]
        print(harness.table(["", "tracing", "compiling", "or loading"], lines))
    if options.json:
        harness.write_json(options.json, {"steps": steps, "compilation": compiled})


if __name__ == "__main__":
    main(sys.argv[1:])

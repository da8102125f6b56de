"""Training: the seconds of one step, spen_jax against eager PyTorch, on one thread and on all.

The energy of problem.py, of the size of the BibTeX data set; a step takes 100 or 512 examples, trains the local and
the global term on their features h by SGD with momentum 0.9, and is what a user writes: `training.step` here,
`torch.autograd` there, both with the potentials W h + d computed once a step.

- max-margin: loss-augmented inference by 30 steps of gradient descent with momentum, stopped.
- end-to-end: cross-entropy through 10 unrolled steps of mirror descent, in PyTorch by `create_graph=True`.

And a first layer of 1,000 units on rows of words, 4 % of which are not 0, as sparse rows against the same as arrays,
on one thread: the product, the product and its gradient in W, a whole `training.step` of a feature network by AdamW.

Claim: on one thread, at 100 examples, spen_jax takes the max-margin step at least 7 times, the end-to-end step at least
3.5 times as fast, and sparse rows make product and gradient at least 4 times as fast as dense ones. Before anything is
timed, both have computed the same loss and the same gradient, products up to 1e-6. About 4 minutes; README.md prints
one run. The words are BibTeX's where the environment variable SPEN_JAX_DATA names the folder of its folder, else made
up.
"""

import argparse
import itertools
import os
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from benchmarks import harness
from benchmarks.problem import LABELS, MOMENTUM, STEP, plain_energy, random_problem

KINDS = "max-margin", "end-to-end"
BATCHES, DESCENT_STEPS, MIRROR_STEPS, MIRROR_STEP = (100, 512), 30, 10, 0.1
RATE, SGD_MOMENTUM = 1e-3, 0.9
TOLERANCE = 1e-4
LAYERS = "product", "product and gradient", "training step"
LAYER_BATCHES, UNITS, LAYER_TOLERANCE = (128, 512), 1000, 1e-6
NAMES = "W", "d", "C1", "b", "c2"


class Data(NamedTuple):
    """Features h (B, HIDDEN) and labels (B, LABELS), as float32."""

    x: np.ndarray
    y: np.ndarray


def random_data(batch: int) -> tuple[dict[str, np.ndarray], Data]:
    """The weights of `random_problem`, its features, and labels of which each is on in 1.5 % of the examples."""
    problem = random_problem(batch)
    on = np.random.default_rng(1).random((batch, LABELS)) < 0.015
    weights = {name: getattr(problem, name) for name in NAMES}
    return weights, Data(problem.h, on.astype(np.float32))


class Contestant(NamedTuple):
    """`step()` takes one step and returns its loss; `gradient()` is (loss, gradient by name) at the first weights."""

    step: Callable[[], Any]
    gradient: Callable[[], tuple[float, dict[str, np.ndarray]]]


def _ours(kind: str, batch: int) -> tuple[Any, Any, Any, Any, Any]:
    """The arguments of `training.step`."""
    import jax
    import optax

    from spen_jax import GradientDescent, MirrorDescent, Predictor, objectives, training
    from spen_jax.parallel import everywhere

    def features(params, h):
        return h @ params["W"].T + params["d"]

    predictor = partial(Predictor, plain_energy(), features)
    if kind == "max-margin":
        descent = predictor(solver=GradientDescent(STEP, MOMENTUM), steps=DESCENT_STEPS)
        objective = objectives.max_margin(descent)
    else:
        mirror = predictor(solver=MirrorDescent(MIRROR_STEP), steps=MIRROR_STEPS)
        objective = objectives.end_to_end(mirror)
    weights, data = everywhere(jax.device_put(random_data(batch)))
    optimizer = optax.sgd(RATE, momentum=SGD_MOMENTUM)
    state = training.init(weights, optimizer, jax.random.key(0))
    return objective, optimizer, everywhere(state), data, np.arange(batch)


def spen_jax(kind: str, batch: int) -> Contestant:
    """`training.step`."""
    import jax

    from spen_jax import training

    objective, optimizer, state, data, rows = _ours(kind, batch)
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


def torch_eager(kind: str, batch: int) -> Contestant:
    """The same in PyTorch, operation by operation; during stopped inference no weight asks for a gradient."""
    import torch
    from torch.nn import functional as F

    weights, data = random_data(batch)
    params = {name: torch.tensor(w, requires_grad=True) for name, w in weights.items()}
    x, y = map(torch.from_numpy, data)
    rows = torch.arange(batch)
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
        return F.binary_cross_entropy(torch.sigmoid(at), truth, reduction="sum") / batch

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


def words() -> Any:
    """The training rows of BibTeX, or of made-up ones of its size."""
    from spen_jax import data

    return (data.load("bibtex") if os.environ.get("SPEN_JAX_DATA") else data.tagging_corpus()).train


def layers(batch: int) -> dict[tuple[str, str], Callable[[], Any]]:
    """The first layer's three measures by ("sparse" or "dense"): what is to be timed.

    RuntimeError where a product or gradient differs by more than LAYER_TOLERANCE of the largest number.
    """
    import jax
    import optax
    from scipy.sparse import csr_array

    from spen_jax import FeatureNetwork, logits_of, objectives, sparse, training

    whole = words()
    rows = np.random.default_rng(0).permutation(len(whole.y))[:batch]
    w, slope = (
        jax.random.normal(jax.random.key(i), (n, UNITS))
        for i, n in enumerate((whole.x.shape[1], batch))
    )
    network: Any = FeatureNetwork(whole.y.shape[1], (UNITS,), input_dropout=0.3, dropout=0.8)
    params = network.init(jax.random.key(0), whole.x[:1])["params"]
    objective, optimizer = objectives.feed_forward(logits_of(network)), optax.adamw(1e-3)
    state = training.init(params, optimizer, jax.random.key(0))

    @jax.jit
    def product(x):
        return x @ w

    @jax.jit
    def both(x, w):
        out, back = jax.vjp(lambda w: x @ w, w)
        return out, back(slope)[0]

    runs, found = {}, {}
    matrix, y = csr_array(whole.x), jax.device_put(whole.y)
    forms = {
        "sparse": (sparse.rows(matrix, rows), sparse.Matrix("x", matrix)),
        "dense": (whole.x[rows], jax.device_put(whole.x)),
    }
    for name, (part, x) in forms.items():
        part, data = jax.device_put(part), {"x": x, "y": y}
        step = partial(training.step, objective, optimizer, state, data, rows)
        calls = partial(product, part), partial(both, part, w), step
        runs |= {(kind, name): call for kind, call in zip(LAYERS, calls, strict=True)}
        found[name] = product(part), *both(part, w)
    for a, b in zip(found["sparse"], found["dense"], strict=True):
        gap = float(np.max(np.abs(np.subtract(a, b))) / np.max(np.abs(b)))
        if not gap <= LAYER_TOLERANCE:
            raise RuntimeError(f"sparse and dense first layers differ by {gap:.2g} of their size")
    return runs


def measure_layers(seconds: float, clock: Callable[[], float]) -> list[dict[str, Any]]:
    """A row for each measure, batch and form of the rows."""
    rows = []
    for batch in LAYER_BATCHES:
        print(f"first layer, {batch}: comparing, timing", file=sys.stderr)
        runs = layers(batch)
        for kind in LAYERS:
            # One call a turn: the gradients of several, kept until all are there, would lie in memory that is new.
            pair = {name: runs[kind, name] for name in ("sparse", "dense")}
            for name, median in harness.interleaved(pair, seconds, clock, turn=0).items():
                row = {"kind": kind, "batch": batch, "name": name, "threads": 1}
                rows.append(row | {"seconds": median})
    return rows


def measure(threads: int, seconds: float) -> list[dict[str, Any]]:
    """A row for each objective and contestant, in a process of so many threads."""
    harness.pin(threads)
    if threads > 1:
        from spen_jax.parallel import all_cores

        all_cores(threads)
    contestants: dict[str, Callable[[str, int], Contestant]] = {"spen_jax": spen_jax}
    if harness.installed("torch_eager"):
        import torch

        torch.set_num_threads(threads)
        contestants["torch_eager"] = torch_eager
    clock = time.process_time if threads == 1 else time.perf_counter
    rows = []
    for kind, batch in itertools.product(KINDS, BATCHES):
        print(f"threads {threads}, {kind}, {batch}: comparing, timing", file=sys.stderr)
        made = {name: make(kind, batch) for name, make in contestants.items()}
        if "torch_eager" in made:
            check(kind, made["spen_jax"], made["torch_eager"])
        runs = {name: c.step for name, c in made.items()}
        for name, median in harness.interleaved(runs, seconds, clock).items():
            row = {"kind": kind, "batch": batch, "name": name, "threads": threads}
            rows.append(row | {"seconds": median})
    return rows + (measure_layers(seconds, clock) if threads == 1 else [])


def report_layers(rows: list[dict[str, Any]]) -> None:
    """Prints the table of first layers."""
    lines = []
    for kind, batch in itertools.product(LAYERS, LAYER_BATCHES):
        times = {r["name"]: r["seconds"] for r in rows if (r["kind"], r["batch"]) == (kind, batch)}
        both = times["sparse"], times["dense"]
        ratio = f"{both[1] / both[0]:.3g}"
        lines.append([f"{kind}, {batch}", *(f"{1e3 * s:.2f}" for s in both), ratio])
    print("\nMilliseconds of a first layer of 1,000 units, 1 thread\n")
    print(harness.table(["", "sparse", "dense", "ratio"], lines))


def report(rows: list[dict[str, Any]], one: list[dict[str, Any]]) -> None:
    """Prints the table of one number of threads, beside our own on one thread where that is known."""

    def seconds(of, **wanted):
        return next((r["seconds"] for r in of if wanted.items() <= r.items()), None)

    threads = rows[0]["threads"]
    rows = [row for row in rows if row["kind"] in KINDS]
    names = list(dict.fromkeys(row["name"] for row in rows))
    lines = []
    for kind, batch in itertools.product(KINDS, BATCHES):
        times = [seconds(rows, kind=kind, batch=batch, name=name) or np.nan for name in names]
        line = [
            f"{kind}, {batch}",
            *(f"{1e3 * s:.2f}" for s in times),
            f"{times[-1] / times[0]:.3g}",
        ]
        alone = seconds(one, kind=kind, batch=batch, name="spen_jax")
        lines.append(line + ([] if alone is None else [f"{alone / times[0]:.3g}"]))
    headers = ["", *names, "ratio", *(["spen_jax on 1 / this"] if one else [])]
    print(f"\nMilliseconds of a training step, {threads} thread{'s' * (threads > 1)}\n")
    print(harness.table(headers, lines))


def parse(arguments: list[str]) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    cpus = len(harness.available_cpus())
    default = sorted({1, cpus})
    add("--threads", type=int, nargs="+", default=default, help="numbers of threads (%(default)s)")
    add("--seconds", type=float, default=15.0, help="of timing for each objective (%(default)s)")
    add("--json", help="file for the rows, a list of objects")
    add("--worker", type=int, help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def main(arguments: list[str]) -> None:
    """Measures each number of threads in a fresh process, prints the tables, writes the rows."""
    options = parse(arguments)
    if options.worker:
        return harness.write_json(options.json, measure(options.worker, options.seconds))
    print(harness.machine(harness.PACKAGES))
    rows = []
    for threads in options.threads:
        worker = ["--worker", str(threads), "--seconds", str(options.seconds)]
        found = harness.fresh_process(__file__, worker, threads)
        report(found, [row for row in rows if row["threads"] == 1])
        if threads == 1:
            report_layers(found)
        rows += found
    if options.json:
        harness.write_json(options.json, rows)


if __name__ == "__main__":
    main(sys.argv[1:])

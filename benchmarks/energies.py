"""Fifteen kinds of energies that people write: spen_jax against the better of two plain JAX loops, on one thread.

- infer: 20 steps of gradient descent with momentum on a box, by `minimize`.
- train: the squared error through 10 unrolled steps of mirror descent, its value and gradient in the parameters,
  by `objectives.end_to_end`, which also computes its metrics.

The plain loops do the same by a compiled `lax.scan`: `jax_plain` maps the gradient over the batch inside the scan,
`jax_vmap` maps the scan of one example. Which is better depends on the energy, and so nobody knows beforehand.
Claim: at batches of 64 and 512 both are at least .94 times as fast as the better plain loop on every one, with equal
answers; at batch 1 the Python of a call shows.
Before anything is timed, all three have found the same y, or the same loss and gradient. Times are those of the
processor. 10^5 variables are left out at batch 512, where training would keep gigabytes. About 12 minutes.
"""

import argparse
import itertools
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

# JAX makes its threads when it is first used, not when it is imported: a worker fixes their number before.
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.nn import sigmoid, softmax, softplus, tanh
from jax.scipy.special import logsumexp

import spen_jax as sx
from benchmarks import harness
from benchmarks.problem import MOMENTUM, STEP, plain_energy

TASKS, BATCHES = ("infer", "train"), (1, 64, 512)
CONTESTANTS = "spen_jax", "jax_plain", "jax_vmap"
DESCENT_STEPS, MIRROR_STEPS, MIRROR_STEP = 20, 10, 0.5
TOLERANCE = 1e-4
EDGES = np.random.default_rng(2).integers(60, size=(2, 200))


def quadratic(params, A, y):
    """A matrix of each example: y'A(x) y + b.y."""
    return y @ A @ y + params["b"] @ y


def chain(params, logits, y):
    """Neighbours in a sequence, (T, K)."""
    return -jnp.sum(logits * y) - jnp.sum(y[:-1] @ params["W"] * y[1:])


def windows(params, logits, y):
    """Units that see three neighbours of a sequence."""
    seen = jnp.concatenate([y[:-2], y[1:-1], y[2:]], axis=1)
    return jnp.sum(softplus(seen @ params["W"].T + params["b"]) @ params["c"]) - jnp.sum(logits * y)


def attention(params, logits, y):
    """Each position looks at all."""
    q, k, v = y @ params["Q"], y @ params["K"], y @ params["V"]
    return -jnp.sum(logits * (y + softmax(q @ k.T) @ v))


def recurrent(params, logits, y):
    """A GRU reads the sequence."""

    def read(h, letter):
        r, z, n = jnp.split(params["W"] @ letter, 3)
        hr, hz, hn = jnp.split(params["U"] @ h, 3)
        z = sigmoid(z + hz)
        return (1 - z) * tanh(n + sigmoid(r + hr) * hn) + z * h, None

    h, _ = lax.scan(read, jnp.zeros(32), y)
    return params["c"] @ h - jnp.sum(logits * y)


def graph(params, logits, y):
    """A weight for each edge."""
    return jnp.sum(params["w"] * y[EDGES[0]] * y[EDGES[1]]) - logits @ y


def soft_maximum(params, logits, y):
    """The soft maximum of linear functions."""
    return logsumexp(params["W"] @ y + params["b"]) - logits @ y


def cumulative(params, logits, y):
    """Units that see how much there is up to each place."""
    return params["c"] @ softplus(jnp.cumsum(y) - params["b"]) - logits @ y


def ordered(params, logits, y):
    """Weights by rank."""
    return params["w"] @ jnp.sort(y) - logits @ y


def spectrum(params, logits, y):
    """Weights by frequency."""
    return params["w"] @ jnp.abs(jnp.fft.rfft(y, norm="ortho")) ** 2 - logits @ y


def long(params, logits, y):
    """Each variable and its neighbour."""
    return jnp.sum(params["w"] * y**2) + jnp.sum(jnp.diff(y) ** 2) / 2 - logits @ y


def grid(params, logits, y):
    """Differences along both axes."""
    down, right = jnp.diff(y, axis=0), jnp.diff(y, axis=1)
    both = jnp.stack([jnp.sum(down**2), jnp.sum(right**2)])
    return params["w"] @ both - jnp.sum(logits * y)


def deep(params, logits, y):
    """A perceptron with two hidden layers."""
    units = softplus(params["W1"] @ y + params["b1"])
    return params["c"] @ softplus(params["W2"] @ units + params["b2"]) - logits @ y


def hyper(params, W, y):
    """Units whose weights are those of the example."""
    return jnp.sum(softplus(W @ y + params["b"]))


class Kind(NamedTuple):
    """An energy and the shapes of its arrays.

    Attributes:
      energy: `(params, context, y) -> scalar` of one example.
      params: the shape of each, whose numbers are normal over the root of the last axis; or the array itself.
      context: the shape of one example's, normal alike.
      shape: that of one y; None where it is that of the context.
      most: the largest batch.
    """

    energy: Any
    params: dict[str, Any]
    context: tuple[int, ...]
    shape: tuple[int, ...] | None = None
    most: int = 512


KINDS = {
    "labels": Kind(plain_energy(), {"C1": (16, 159), "b": (16,), "c2": (16,)}, (159,)),
    "matrices 50": Kind(quadratic, {"b": (50,)}, (50, 50), (50,)),
    "matrices 200": Kind(quadratic, {"b": (200,)}, (200, 200), (200,)),
    "chain": Kind(chain, {"W": (10, 10)}, (20, 10)),
    "windows": Kind(windows, {"W": (32, 30), "b": (32,), "c": (32,)}, (20, 10)),
    "attention": Kind(attention, {"Q": (8, 8), "K": (8, 8), "V": (8, 8)}, (16, 8)),
    "gru": Kind(recurrent, {"W": (96, 8), "U": (96, 32), "c": (32,)}, (16, 8)),
    "graph": Kind(graph, {"w": (200,)}, (60,)),
    "log-sum-exp": Kind(soft_maximum, {"W": (64, 100), "b": (64,)}, (100,)),
    "cumulative sum": Kind(cumulative, {"b": (100,), "c": (100,)}, (100,)),
    # Weights that fall push ranks apart: where they pull them together, rounding decides the ranks.
    "sort": Kind(ordered, {"w": np.linspace(0.1, -0.1, 100, dtype=np.float32)}, (100,)),
    "fft": Kind(spectrum, {"w": (65,)}, (128,)),
    "long": Kind(long, {"w": (100_000,)}, (100_000,), most=64),
    "grid": Kind(grid, {"w": np.array([0.5, 0.3], np.float32)}, (32, 32)),
    "deep": Kind(
        deep,
        {"W1": (512, 100), "b1": (512,), "W2": (512, 512), "b2": (512,), "c": (512,)},
        (100,),
    ),
    "hyper": Kind(hyper, {"b": (16,)}, (16, 128), (128,)),
}


class Problem(NamedTuple):
    """One energy with numbers, on the device; one start for all examples."""

    energy: Any
    params: Any
    context: Any
    start: Any
    truth: Any


def random_problem(kind: Kind, batch: int) -> Problem:
    """Weights, examples, a start in [1/4, 3/4] and truths in [0, 1], by a seed."""
    rng = np.random.default_rng(0)

    def normal(*shape: int) -> np.ndarray:
        return (rng.standard_normal(shape) / shape[-1] ** 0.5).astype(np.float32)

    params = {n: normal(*p) if isinstance(p, tuple) else p for n, p in kind.params.items()}
    shape = kind.shape or kind.context
    start = rng.uniform(0.25, 0.75, (1, *shape)).astype(np.float32)
    truth = rng.random((batch, *shape), np.float32)
    return Problem(
        kind.energy, *jax.device_put((params, normal(batch, *kind.context), start, truth))
    )


def descend(slope: Callable[[Any], Any], start: jax.Array) -> jax.Array:
    """The steps of `GradientDescent` from the start, of one example or of a batch."""

    def step(carry, _):
        y, before = carry
        return (jnp.clip(y - STEP * slope(y) + MOMENTUM * (y - before), 0, 1), y), None

    return lax.scan(step, (start, start), length=DESCENT_STEPS)[0][0]


def mirror(slope: Callable[[Any], Any], start: jax.Array) -> jax.Array:
    """The steps of `MirrorDescent`."""

    def step(logits, _):
        return logits - MIRROR_STEP * slope(sigmoid(logits)), None

    logits = jnp.log(start) - jnp.log1p(-start)
    return sigmoid(lax.scan(step, logits, length=MIRROR_STEPS)[0])


def inside(energy: Any, walk: Any, params: Any, context: Any, start: Any) -> jax.Array:
    """The loop of a batch: each step maps the gradient."""
    slope = jax.vmap(jax.grad(energy, 2), (None, 0, 0))
    return walk(lambda y: slope(params, context, y), start)


def outside(energy: Any, walk: Any, params: Any, context: Any, start: Any) -> jax.Array:
    """The loop of one example, mapped."""

    def one(context, start):
        return walk(lambda y: jax.grad(energy, 2)(params, context, y), start)

    return jax.vmap(one)(context, start)


def infer(problem: Problem) -> dict[str, Callable[[], Any]]:
    """For each contestant what returns y, (B, ...)."""
    energy, params, context, _, truth = problem
    start = jnp.broadcast_to(problem.start, truth.shape)
    solver = sx.GradientDescent(STEP, MOMENTUM)

    def ours():
        return sx.minimize(energy, params, context, start, solver=solver, steps=DESCENT_STEPS).y

    def plain(order):
        return partial(jax.jit(partial(order, energy, descend)), params, context, start)

    return dict(zip(CONTESTANTS, (ours, plain(inside), plain(outside)), strict=True))


def train(problem: Problem) -> dict[str, Callable[[], Any]]:
    """For each contestant what returns (loss, gradient in the parameters)."""
    energy, params, context, start, truth = problem
    predictor = sx.Predictor(
        energy, start=start, solver=sx.MirrorDescent(MIRROR_STEP), steps=MIRROR_STEPS
    )
    objective = sx.objectives.end_to_end(predictor, loss=sx.losses.squared_error)
    both = jax.jit(jax.value_and_grad(objective, has_aux=True))
    key = jax.random.key(0)

    def ours():
        (loss, _), slopes = both(params, (context, truth), key)
        return loss, slopes

    def plain(order):
        def loss(params, context, truth):
            y = order(energy, mirror, params, context, jnp.broadcast_to(start, truth.shape))
            return jnp.sum((y - truth) ** 2) / len(truth)

        return partial(jax.jit(jax.value_and_grad(loss)), params, context, truth)

    return dict(zip(CONTESTANTS, (ours, plain(inside), plain(outside)), strict=True))


def check(what: str, found: dict[str, Any]) -> None:
    """All contestants found the same arrays.

    Raises:
      RuntimeError: where one differs by more than TOLERANCE, as norms, from those of `jax_plain`.
    """
    expected = jax.tree.leaves_with_path(found["jax_plain"])
    for name, result in found.items():
        for (path, b), a in zip(expected, jax.tree.leaves(result), strict=True):
            gap = float(jnp.linalg.norm(jnp.ravel(a - b)) / jnp.linalg.norm(jnp.ravel(b)))
            if not gap <= TOLERANCE:
                part = jax.tree_util.keystr(path) or "y"
                raise RuntimeError(
                    f"{what}: {name} and jax_plain differ by {gap:.2g} of the size of {part}"
                )


def measure(options: argparse.Namespace) -> list[dict[str, Any]]:
    """A row for each energy, task, batch and contestant, in a process of one thread."""
    rows = []
    for name, batch, task in itertools.product(options.energies, options.batches, options.tasks):
        kind = KINDS[name]
        if batch > kind.most:
            continue
        cell = {"energy": name, "task": task, "batch": batch}
        what = f"{name}, {task}, batch {batch}"
        print(f"{what}: comparing, timing", file=sys.stderr)
        runs = {"infer": infer, "train": train}[task](random_problem(kind, batch))
        check(what, {contestant: run() for contestant, run in runs.items()})
        medians = harness.interleaved(runs, options.seconds, time.process_time, least=3)
        rows += [cell | {"name": n, "seconds": seconds} for n, seconds in medians.items()]
    return rows


def ratios(rows: list[dict[str, Any]]) -> dict[Any, float]:
    """Of each (energy, task, batch) the seconds of the better plain loop over those of spen_jax."""
    seconds = {(r["energy"], r["task"], r["batch"], r["name"]): r["seconds"] for r in rows}
    cells = dict.fromkeys(key[:3] for key in seconds)
    ours, *others = CONTESTANTS
    return {c: min(seconds[(*c, o)] for o in others) / seconds[(*c, ours)] for c in cells}


def report(rows: list[dict[str, Any]]) -> None:
    """Prints the table and the least ratio."""
    found = ratios(rows)
    columns = list(itertools.product(*(dict.fromkeys(key[i] for key in found) for i in (1, 2))))
    lines = [
        [name, *(f"{found[name, *c]:.2f}" if (name, *c) in found else "-" for c in columns)]
        for name in dict.fromkeys(key[0] for key in found)
    ]
    print("\nSeconds of the better plain loop / those of spen_jax, 1 thread\n")
    print(harness.table(["", *(f"{task} {batch}" for task, batch in columns)], lines))
    name, task, batch = least = min(found, key=lambda key: found[key])
    print(f"\nThe least is {found[least]:.2f}: {name}, {task}, batch {batch}.")


def parse(arguments: list[str]) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--energies", nargs="+", choices=KINDS, default=list(KINDS), metavar="NAME", help="these")
    add("--tasks", nargs="+", choices=TASKS, default=TASKS, help="%(default)s")
    add("--batches", type=int, nargs="+", default=BATCHES, help="%(default)s")
    add("--seconds", type=float, default=2.0, help="of timing for each (%(default)s)")
    add("--json", help="file for the rows, a list of objects")
    add("--worker", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def main(arguments: list[str]) -> None:
    """Measures in a fresh process, prints the table, writes the rows."""
    options = parse(arguments)
    if options.worker:
        harness.pin(1)
        return harness.write_json(options.json, measure(options))
    print(harness.machine(harness.PACKAGES))
    rows = harness.fresh_process(__file__, ["--worker", *arguments], 1)
    report(rows)
    if options.json:
        harness.write_json(options.json, rows)


if __name__ == "__main__":
    main(sys.argv[1:])

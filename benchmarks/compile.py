"""Cold starts: the seconds from `import` to the first prediction and to the first training step, and what takes them.

A SPEN of the size of the BibTeX data set predicts 100 rows and takes one end-to-end step on 100 rows, each in new
processes: without a compilation cache, and with what an earlier one left there (`sx.parallel.keep_compiled`). Beside it
the same in plain JAX: the energy minimised by `jit(vmap(scan(grad)))`, a cross-entropy through it, Optax.

Claim: a warm process spends less time compiling than importing, and a cold one at most half as much again as plain JAX.
About 2 minutes; README.md prints one run.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks import harness

ROWS, WORDS, LABELS, HIDDEN, UNITS = 100, 1836, 159, 150, 16
STEPS = 10
EVENTS = {
    "/jax/core/compile/jaxpr_trace_duration": "tracing",
    "/jax/core/compile/jaxpr_to_mlir_module_duration": "lowering",
    "/jax/core/compile/backend_compile_duration": "compiling or loading",
}
PARTS = "imports", *EVENTS.values(), "all else"


def ours(x: Any, y: Any) -> tuple[Any, Any]:
    """A first prediction and a first training step of spen_jax, as functions."""
    import jax
    import optax

    import spen_jax as sx

    features, energy = sx.functions_of(
        model := sx.SPEN(sx.FeatureNetwork(LABELS, (HIDDEN,)), UNITS)
    )
    params = jax.jit(model.init)(jax.random.key(0), x[:1], y[:1])["params"]
    predictor = sx.Predictor(energy, features, steps=STEPS, shape=(LABELS,))
    objective, optimizer = sx.objectives.end_to_end(predictor), optax.adam(1e-3)

    def step():
        state = sx.training.init(params, optimizer, jax.random.key(1))
        return sx.training.step(objective, optimizer, state, {"x": x, "y": y}, np.arange(ROWS))

    return lambda: predictor(params, x).y, step


def plain(x: Any, y: Any) -> tuple[Any, Any]:
    """The same in plain JAX."""
    import flax.linen as nn
    import jax
    import jax.numpy as jnp
    import optax

    network = nn.Sequential([nn.Dense(HIDDEN), nn.relu, nn.Dense(LABELS)])
    keys = jax.random.split(jax.random.key(0), 2)
    params = {
        "network": jax.jit(network.init)(keys[0], x[:1]),
        "C1": jax.random.normal(keys[1], (UNITS, LABELS)) / LABELS**0.5,
        "c2": jnp.ones(UNITS),
    }

    def energy(params, logits, y):
        return params["c2"] @ jax.nn.softplus(params["C1"] @ y) - logits @ y

    def solve(params, logits):
        def move(at, _):
            return at - jax.grad(energy, 2)(params, logits, jax.nn.sigmoid(at)), None

        return jax.lax.scan(move, jnp.zeros(LABELS), length=STEPS)[0]

    def predict(params, x):
        return jax.vmap(solve, (None, 0))(params, network.apply(params["network"], x))

    optimizer = optax.adam(1e-3)

    @jax.jit
    def step(params, opt_state, x, y):
        def loss(params):
            return optax.sigmoid_binary_cross_entropy(predict(params, x), y).sum(-1).mean()

        updates, opt_state = optimizer.update(jax.grad(loss)(params), opt_state, params)
        return optax.apply_updates(params, updates), opt_state

    return lambda: jax.jit(predict)(params, x), lambda: step(params, optimizer.init(params), x, y)


def measure(name: str, task: int, cache: str | None) -> dict[str, float]:
    """The seconds of a process up to its first prediction (task 0) or training step (1), by what took them."""
    begin = time.perf_counter()
    import jax

    if name == "spen_jax":
        import spen_jax as sx  # noqa: F401
    else:
        import flax.linen as nn
        import optax  # noqa: F401

        nn.Module  # noqa: B018
    seconds = dict.fromkeys(PARTS, 0.0) | {"imports": time.perf_counter() - begin, "programs": 0}

    def note(event: str, duration_secs: float, **_: Any) -> None:
        if event in EVENTS:
            seconds[EVENTS[event]] += duration_secs
            seconds["programs"] += EVENTS[event].startswith("compiling")

    jax.monitoring.register_event_duration_secs_listener(note)
    if cache:
        from spen_jax.parallel import keep_compiled

        keep_compiled(cache)
    rng = np.random.default_rng(0)
    x = (rng.random((ROWS, WORDS)) < 0.04).astype(np.float32)
    y = (rng.random((ROWS, LABELS)) < 0.02).astype(np.float32)
    jax.block_until_ready({"spen_jax": ours, "plain JAX": plain}[name](x, y)[task]())
    total = time.perf_counter() - begin
    seconds["all else"] = total - sum(seconds[part] for part in PARTS)
    return seconds | {"all": total}


def run(name: str, task: int, cache: str | None) -> dict[str, float]:
    """`measure` in a new process."""
    command = [sys.executable, "-m", "benchmarks.compile", "--worker", name, str(task), cache or ""]
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    environment.pop("JAX_COMPILATION_CACHE_DIR", None)
    root = Path(__file__).parents[1]
    done = subprocess.run(command, env=environment, cwd=root, capture_output=True, text=True)  # noqa: PLW1510
    if done.returncode:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", help="file for the rows, a list of objects")
    parser.add_argument(
        "--repeats", type=int, default=3, help="processes of each kind; medians are printed"
    )
    parser.add_argument("--worker", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        name, task, cache = options.worker
        print(json.dumps(measure(name, int(task), cache or None)))
        return
    print(harness.machine(harness.PACKAGES))
    rows = []
    for task, title in enumerate(("first prediction", "first training step")):
        for name in ("spen_jax", "plain JAX"):
            for kind in ("cold", "warm"):
                with tempfile.TemporaryDirectory() as folder:
                    if kind == "warm":
                        run(name, task, folder)
                    cache = folder if kind == "warm" else None
                    times = [run(name, task, cache) for _ in range(options.repeats)]
                row = {key: median(t[key] for t in times) for key in times[0]}
                rows.append({"task": title, "name": name, "start": kind} | row)
                print(f"{title}, {name}, {kind}: {row['all']:.1f} s", file=sys.stderr)
        print(f"\nSeconds from import to the {title}, median of {options.repeats} processes\n")
        shown = [row for row in rows if row["task"] == title]
        headers = ["", *(f"{row['name']}, {row['start']}" for row in shown)]
        lines = [[part, *(f"{row[part]:.2f}" for row in shown)] for part in (*PARTS, "all")]
        lines.append(["programs", *(f"{row['programs']:.0f}" for row in shown)])
        print(harness.table(headers, lines))
    if options.json:
        harness.write_json(options.json, rows)


if __name__ == "__main__":
    main()

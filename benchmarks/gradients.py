"""What it costs to differentiate an inference of 1,000 steps on 64 examples.

The energy of problem.py, one thread; memory is that of the compiled program's temporary arrays. Claims: with
rematerialisation, the default, 1,000 unrolled steps take less than 3 times the memory of 32 steps without, and less
than 2.5 times the time of 1,000 steps without; the implicit gradient's memory does not grow with the
steps. About 1 minute; README.md prints one run.
"""

import time
from typing import Any

from benchmarks import harness
from benchmarks.problem import jax_arrays, plain_energy, random_problem

BATCH = 64


def measure() -> list[dict]:
    """A row for each way to differentiate."""
    import jax
    import jax.numpy as jnp

    from spen_jax import Implicit, Unrolled, minimize

    energy = plain_energy()
    params, logits, start = jax_arrays(random_problem(BATCH))

    def gradient(steps: int, mode: Any):
        def loss(params, logits):
            options: Any = {"steps": steps, "differentiate": mode}
            return jnp.sum(minimize(energy, params, logits, start, **options).y ** 2)

        return jax.jit(jax.grad(loss, argnums=(0, 1))).lower(params, logits).compile()

    def temporary(compiled: Any) -> int:
        return compiled.memory_analysis().temp_size_in_bytes

    ways = {
        "unrolled, 32 steps, all kept": gradient(32, Unrolled(segment=32)),
        "unrolled, 1,000 steps, all kept": gradient(1000, Unrolled(segment=1000)),
        "unrolled, 1,000 steps": gradient(1000, "unrolled"),
        "last 32 of 1,000 steps": gradient(1000, Unrolled(last=32)),
        "implicit, 100 steps": gradient(100, Implicit()),
        "implicit, 1,000 steps": gradient(1000, Implicit()),
    }
    runs = {name: lambda f=f: f(params, logits) for name, f in ways.items()}
    seconds = harness.interleaved(runs, 10.0, time.process_time)
    return [{"name": n, "seconds": seconds[n], "bytes": temporary(f)} for n, f in ways.items()]


if __name__ == "__main__":
    rows = harness.on_one_thread(__file__, __doc__, measure)
    print(f"\nGradient in the parameters and potentials of {BATCH} examples, 1 thread\n")
    lines = [[r["name"], f"{r['bytes'] / 1e6:.2f}", f"{1e3 * r['seconds']:.1f}"] for r in rows]
    print(harness.table(["", "MB", "ms"], lines))
    few, all_kept, default = rows[:3]
    print(
        f"\n1,000 steps with rematerialisation: {default['bytes'] / few['bytes']:.2f} times the memory of 32 "
        f"without, {default['seconds'] / all_kept['seconds']:.2f} times the time of 1,000 without."
    )

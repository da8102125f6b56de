"""Time of an inference step against the number of labels.

The energy of problem.py with 64 global units, 256 examples, 30 steps, one thread. Claim: the time grows
linearly with the labels once these are many, and stays below that of PyTorch and of plain JAX.
About 3 minutes; README.md prints the table of one run.
"""

import time

from benchmarks import harness
from benchmarks.contestants import CONTESTANTS
from benchmarks.problem import random_problem

LABEL_COUNTS, UNITS, BATCH, STEPS = (159, 1_000, 4_000, 16_000), 64, 256, 30
NAMES = "spen_jax", "jax_plain", "jaxopt", "torch_eager_hoisted"


def measure() -> list[dict]:
    """Nanoseconds of an example-step, one row for each number of labels."""
    names = [name for name in NAMES if harness.installed(name)]
    rows = []
    for labels in LABEL_COUNTS:
        problem = random_problem(BATCH, labels=labels, units=UNITS)
        runs = {name: CONTESTANTS[name](problem, STEPS) for name in names}
        medians = harness.interleaved(runs, 5.0, time.process_time)
        steps = BATCH * STEPS
        rows.append({"labels": labels} | {n: 1e9 * s / steps for n, s in medians.items()})
    return rows


if __name__ == "__main__":
    rows = harness.on_one_thread(__file__, __doc__, measure)
    names = [name for name in rows[0] if name != "labels"]
    print(f"\nNanoseconds of an example-step, {UNITS} global units, batch {BATCH}, 1 thread\n")
    cells = [[f"{r['labels']:,}", *(f"{r[n]:,.0f}" for n in names)] for r in rows]
    per_label = [f"{r['spen_jax'] / r['labels']:.2f}" for r in rows]
    for line, value in zip(cells, per_label, strict=True):
        line.append(value)
    print(harness.table(["labels", *names, "spen_jax, each label"], cells))

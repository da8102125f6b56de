"""Time of an inference step against the number of labels, up to a million of them.

Up to 16,000 labels: the energy of problem.py with 64 global units, 256 examples, 30 steps, one thread. Claim: the time
grows linearly with the labels once these are many, and stays below that of PyTorch and of plain JAX.

Up to 1,000,000, over all labels and over the best 1,000: the task of many_labels.py, 64 units, 32 examples, 20 steps,
one thread, each row in a process of its own, whose peak of memory it reports. Claims: a million labels need less than
2 GiB, time is linear in them, and over the best 1,000 inference takes at least 50 times less for the same precision@5.
About 5 minutes; README.md prints the tables of one run. --only takes one part; --json without it writes the second.
"""

import argparse
import sys
import time

from benchmarks import harness
from benchmarks.contestants import CONTESTANTS
from benchmarks.many_labels import row
from benchmarks.problem import random_problem

LABEL_COUNTS, UNITS, BATCH, STEPS = (159, 1_000, 4_000, 16_000), 64, 256, 30
MANY, SHORTLIST = (10_000, 100_000, 1_000_000), 1_000
NAMES = "spen_jax", "jax_plain", "jaxopt", "torch_eager_hoisted"
PARTS = "steps", "many"


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


def many() -> list[dict]:
    """A row for each number of labels, over all of them and over a shortlist, each of a process of its own."""
    rows = []
    for labels in MANY:
        for shortlist in ("all", str(SHORTLIST)):
            given = ["--row", str(labels), shortlist]
            rows += harness.fresh_process(__file__, given, 1)
            print(f"{labels:,} labels, {shortlist}: {rows[-1]['seconds']:.3g} s", file=sys.stderr)
    return rows


def options() -> argparse.Namespace:
    """Those of the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", help="file for the rows, a list of objects")
    parser.add_argument("--only", choices=PARTS, help="one part of it")
    parser.add_argument("--row", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def table_of_steps(rows: list[dict]) -> str:
    """Nanoseconds of an example-step, and of each label."""
    names = [name for name in rows[0] if name != "labels"]
    cells = [
        [
            f"{r['labels']:,}",
            *(f"{r[n]:,.0f}" for n in names),
            f"{r['spen_jax'] / r['labels']:.2f}",
        ]
        for r in rows
    ]
    return harness.table(["labels", *names, "spen_jax, each label"], cells)


def table_of_many(rows: list[dict]) -> str:
    """Seconds, memory and precision."""
    headers = ["labels", "inference over", "20 steps, s", "before them, s", "GiB", "precision@5, %"]
    cells = [
        [
            f"{r['labels']:,}",
            "all" if r["shortlist"] is None else f"the best {r['shortlist']:,}",
            f"{r['seconds']:.4f}",
            f"{r['before']:.4f}",
            f"{r['gib']:.2f}",
            f"{100 * r['precision_at_5']:.2f}",
        ]
        for r in rows
    ]
    return harness.table(headers, cells)


def main() -> None:
    """Measure what the command line asks for."""
    given = options()
    if given.row or given.worker:
        harness.pin(1)
    if given.row:
        labels, shortlist = given.row
        one = row(int(labels), None if shortlist == "all" else int(shortlist))
        return harness.write_json(given.json, [one])
    if given.worker:
        return harness.write_json(given.json, measure())
    print(harness.machine(harness.PACKAGES))
    if given.only != "many":
        rows = harness.fresh_process(__file__, ["--worker"], 1)
        print(f"\nNanoseconds of an example-step, {UNITS} global units, batch {BATCH}, 1 thread\n")
        print(table_of_steps(rows))
        if given.only and given.json:
            harness.write_json(given.json, rows)
    if given.only != "steps":
        rows = many()
        print("\nOf 32 examples: inference, and the potentials and the choice before it\n")
        print(table_of_many(rows))
        if given.json:
            harness.write_json(given.json, rows)
    return None


if __name__ == "__main__":
    main()

"""Early stopping on a trained BibTeX SPEN against a fixed run of 100 steps.

Its argument is the folder of a finished `experiments/bibtex.py`, whose first seed's SPEN it takes; the data are
found as there, through SPEN_JAX_DATA. Claim: stopping each example at its tolerance takes at most half the time
for the test set, with the same decisions (y >= the tuned threshold) for at least 99.9 % of the labels. One thread,
half a minute. README.md prints one run.
"""

import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import harness

STEPS = 100


def measure(run: str) -> list[dict]:
    """A row for the fixed run and one for each tolerance."""
    import jax

    import spen_jax as sx
    from experiments.bibtex import finished

    predictor, params, inputs, meta = finished(Path(run))
    params, x = jax.device_put((params, inputs(sx.data.load("bibtex").test.x)))
    context = jax.jit(predictor.context)(params, x)
    start = predictor.points(context)

    def solve(**options):
        options |= {"solver": sx.MirrorDescent(0.5), "steps": STEPS}
        return sx.minimize(predictor.energy, params, context, start, **options)

    ways: dict[str, Any] = {"fixed": solve}
    for tolerance in (1e-2, 1e-3):
        ways[f"{tolerance:g}"] = lambda t=tolerance: solve(tolerance=t, stop_early=True)
    found = {name: way() for name, way in ways.items()}
    seconds = harness.interleaved(ways, 10.0, time.process_time)
    threshold = meta["rules"]["tuned"]["threshold"]
    decided = {name: np.asarray(s.y) >= threshold for name, s in found.items()}
    return [
        {
            "name": name,
            "seconds": seconds[name],
            "steps": float(np.mean(s.steps)),
            "same": float(np.mean(decided[name] == decided["fixed"])),
            "energy": float(np.mean(s.energy)),
            "converged": float(np.mean(s.residual <= (1e-3 if name == "fixed" else float(name)))),
        }
        for name, s in found.items()
    ]


if __name__ == "__main__":
    if len(sys.argv) == 4 and sys.argv[2] == "--json":
        harness.pin(1)
        harness.write_json(sys.argv[3], measure(sys.argv[1]))
        raise SystemExit
    if len(sys.argv) != 2 or not (Path(sys.argv[1]) / "result.json").is_file():
        raise SystemExit(f"usage: {sys.argv[0]} RUN, the folder of a finished bibtex run")
    print(harness.machine(harness.PACKAGES))
    rows = harness.fresh_process(__file__, sys.argv[1:], 1)
    fixed = rows[0]["seconds"]
    print(f"\nInference on the test set, {STEPS} steps at most, 1 thread\n")
    lines = [
        [
            r["name"] if r["name"] == "fixed" else f"tolerance {r['name']}",
            f"{1e3 * r['seconds']:.1f}",
            f"{r['seconds'] / fixed:.2f}",
            f"{r['steps']:.1f}",
            f"{100 * r['same']:.3f}",
            f"{100 * r['converged']:.1f}",
        ]
        for r in rows
    ]
    print(harness.table(["", "ms", "of fixed", "mean steps", "same, %", "converged, %"], lines))

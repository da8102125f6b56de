"""Langevin sampling: the example-steps per second of spen_jax and of torchebm.

The energy of problem.py on the box [0, 1], steps of 0.01, temperature 1, points outside projected back, the
last point kept, one thread. Claim: with Gaussian noise at least 0.9 times torchebm's `LangevinDynamics` (both are
bound by random numbers), with two-point noise at least 6 times. About 1 minute; README.md prints one run.
"""

import time

import numpy as np

from benchmarks import harness
from benchmarks.problem import jax_arrays, plain_energy, random_problem

BATCHES, STEPS, STEP = (64, 512, 2515), 100, 0.01


def ours(problem, noise):
    """`sample` with this noise, and a new key for each call."""
    import jax

    from spen_jax.sampling import Langevin, sample

    params, logits, start = jax_arrays(problem)
    sampler = Langevin(STEP, noise=noise, boundary="project")
    keys = iter(jax.random.split(jax.random.key(0), 100_000))

    def run():
        key, chains = next(keys), start[:, None]
        energy = plain_energy()
        found = sample(
            energy, params, logits, chains, key, sampler=sampler, steps=STEPS, thin=STEPS
        )
        return found.y[:, 0, 0]

    return run


def torchebm(problem):
    """`LangevinDynamics`, clamped to the box; the potentials W h + d are computed beforehand."""
    import torch
    from torch.nn import functional as F
    from torchebm.core import BaseModel
    from torchebm.samplers import LangevinDynamics

    C1, b, c2, logits = map(torch.from_numpy, (problem.C1, problem.b, problem.c2, problem.logits))

    class Energy(BaseModel):
        def forward(self, x):
            return F.softplus(F.linear(x, C1, b)) @ c2 - (x * logits).sum(-1)

    torch.set_num_threads(1)
    sampler = LangevinDynamics(Energy(), step_size=STEP, noise_scale=1.0, clamp=(0.0, 1.0))
    start = torch.from_numpy(problem.start)
    return lambda: sampler.sample(x=start.clone(), n_steps=STEPS)


def measure() -> list[dict]:
    """A row for each batch and sampler, after seeing that both Gaussian ones reach the same mean energy."""
    rows = []
    for batch in BATCHES:
        problem = random_problem(batch)
        runs = {f"spen_jax, {noise}": ours(problem, noise) for noise in ("gaussian", "two-point")}
        if harness.installed("torchebm"):
            runs["torchebm"] = torchebm(problem)
        energies = {name: problem.energies(np.asarray(run())) for name, run in runs.items()}
        means = {name: float(e.mean()) for name, e in energies.items()}
        error = energies["spen_jax, gaussian"].std() / batch**0.5
        if "torchebm" in means and abs(means["torchebm"] - means["spen_jax, gaussian"]) > 6 * error:
            raise RuntimeError(
                f"the samplers disagree: mean energies {means}, standard error {error}"
            )
        for name, seconds in harness.interleaved(runs, 5.0, time.process_time).items():
            speed, mean = batch * STEPS / seconds, means[name]
            rows.append(
                {
                    "name": name,
                    "batch": batch,
                    "example_steps_per_second": speed,
                    "mean_energy": mean,
                }
            )
    return rows


if __name__ == "__main__":
    rows = harness.on_one_thread(__file__, __doc__, measure)
    speeds = {(r["name"], r["batch"]): r["example_steps_per_second"] for r in rows}
    names = list(dict.fromkeys(r["name"] for r in rows))
    print("\nMillion example-steps per second, 1 thread\n")
    lines = [[n, *(f"{speeds[n, b] / 1e6:.3g}" for b in BATCHES)] for n in names]
    if "torchebm" in names:
        lines += [
            [f"{n} / torchebm", *(f"{speeds[n, b] / speeds['torchebm', b]:.3g}" for b in BATCHES)]
            for n in names[:2]
        ]
    print(harness.table(["", *(f"batch {b}" for b in BATCHES)], lines))
    reached = [f"{r['name']} {r['mean_energy']:.2f}" for r in rows if r["batch"] == BATCHES[-1]]
    print(f"\nMean energy reached at batch {BATCHES[-1]}: {', '.join(reached)}.")

"""What it costs to enumerate 10,000 classes for 1,024 examples.

The negative log-likelihood, the most offending incorrect answer and the rank of the truth from one matrix of energies,
compiled together; and the gradient of the likelihood. Claims: the three together take less than
the time of `jax.nn.log_softmax` over the matrix, and make no array of its size. One thread.
About 1 minute; README.md prints one run.
"""

import time
from typing import Any

from benchmarks import harness

EXAMPLES, CLASSES = 1_024, 10_000


def measure() -> list[dict]:
    """A row for each way, with its milliseconds and the temporary memory of the compiled program."""
    import jax
    import jax.numpy as jnp

    from spen_jax import exact, losses

    energies = 3 * jax.random.normal(jax.random.key(0), (EXAMPLES, CLASSES))
    truth = jax.random.randint(jax.random.key(1), (EXAMPLES,), 0, CLASSES)

    def correct(e, y):
        return jnp.take_along_axis(e, y[:, None], axis=1)[:, 0]

    def library(e, y):
        likelihood = losses.nll(correct(e, y), e)
        return likelihood, losses.most_offending(e, y), exact.rank(e, y)

    def plain(e, y):
        others = jnp.where(jnp.arange(CLASSES)[None] == y[:, None], jnp.inf, e)
        offender = jnp.argmin(others, axis=1)
        rank = jnp.sum(e <= correct(e, y)[:, None], axis=1)
        return correct(jax.nn.log_softmax(-e), y), offender, others.min(axis=1), rank

    def nll_gradient(e, y):
        return jax.grad(lambda e: jnp.mean(losses.nll(correct(e, y), e)))(e)

    def plain_gradient(e, y):
        return jax.grad(lambda e: -jnp.mean(correct(jax.nn.log_softmax(-e), y)))(e)

    ways = {
        "log_softmax": lambda e, y: jax.nn.log_softmax(-e),
        "spen_jax: NLL, offender, rank": library,
        "plain JAX: NLL, offender, rank": plain,
        "gradient of log_softmax": plain_gradient,
        "spen_jax: gradient of the NLL": nll_gradient,
    }

    def temporary(compiled: Any) -> float:
        return compiled.memory_analysis().temp_size_in_bytes / 1e6

    compiled = {name: jax.jit(way).lower(energies, truth).compile() for name, way in ways.items()}
    runs = {name: lambda c=c: c(energies, truth) for name, c in compiled.items()}
    medians = harness.interleaved(runs, 15.0, time.process_time)
    return [
        {
            "way": name,
            "milliseconds": 1e3 * medians[name],
            "of_log_softmax": medians[name] / medians["log_softmax"],
            "temporary_megabytes": temporary(compiled[name]),
        }
        for name in ways
    ]


if __name__ == "__main__":
    rows = harness.on_one_thread(__file__, __doc__, measure)
    print(f"\n{EXAMPLES:,} examples, {CLASSES:,} classes: {EXAMPLES * CLASSES * 4e-6:.0f} MB\n")
    cells = [
        (
            r["way"],
            f"{r['milliseconds']:.1f}",
            f"{r['of_log_softmax']:.2f}",
            f"{r['temporary_megabytes']:.1f}",
        )
        for r in rows
    ]
    print(harness.table(["", "ms", "of log_softmax", "temporary MB"], cells))

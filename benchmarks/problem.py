"""The energy of the benchmarks, with random weights.

E(h, y) = -(W h + d).y + c2.softplus(C1 y + b): the SPEN of Belanger & McCallum (2016) at the size
of the BibTeX data set, with 150 hidden units h >= 0, 159 labels y in [0, 1] and 16 global units.
"""

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

LABELS, HIDDEN, GLOBAL = 159, 150, 16
STEP, MOMENTUM = 0.1, 0.95


class Problem(NamedTuple):
    """One energy and a batch of B examples, as float32 NumPy arrays."""

    W: np.ndarray
    d: np.ndarray
    C1: np.ndarray
    b: np.ndarray
    c2: np.ndarray
    h: np.ndarray
    """(B, HIDDEN)."""
    start: np.ndarray
    """The first points, (B, LABELS), all 1/2."""

    @property
    def logits(self) -> np.ndarray:
        """W h + d of each example, (B, LABELS)."""
        return self.h @ self.W.T + self.d

    def energies(self, y: np.ndarray) -> np.ndarray:
        """E(h, y) in float64, (B, LABELS) -> (B,): the judge of all contestants."""
        units = np.logaddexp(y.astype(np.float64) @ self.C1.T + self.b, 0)
        return units @ self.c2 - np.sum(y * self.logits, -1)


def random_problem(batch: int, seed: int = 0, labels: int = LABELS, units: int = GLOBAL) -> Problem:
    """Normally distributed weights of the size training starts from; features max(0, normal)."""
    rng = np.random.default_rng(seed)

    def normal(*shape: int, scale: float = 1.0) -> np.ndarray:
        return (scale * rng.standard_normal(shape)).astype(np.float32)

    return Problem(
        W=normal(labels, HIDDEN, scale=HIDDEN**-0.5),
        d=normal(labels),
        C1=normal(units, labels, scale=labels**-0.5),
        b=normal(units),
        c2=normal(units),
        h=np.maximum(normal(batch, HIDDEN), 0),
        start=np.full((batch, labels), 0.5, np.float32),
    )


def interior(problem: Problem, steps: int) -> Problem:
    """The problem, its energy scaled down until no point comes nearer than 0.05 to a bound.

    No |dE/dy_i| exceeds G = max |logits| + max_i sum_j |c2_j C1_ji|. The t-th step with momentum m
    is then no longer than STEP G (1 + m + ... + m^(t-1)); the sum of these lengths is made 0.45.
    """
    slope = np.abs(problem.logits).max() + (np.abs(problem.c2) @ np.abs(problem.C1)).max()
    path = STEP * sum((1 - MOMENTUM**t) / (1 - MOMENTUM) for t in range(1, steps + 1))
    scale = np.float32(0.45 / (path * slope))
    return problem._replace(W=scale * problem.W, d=scale * problem.d, c2=scale * problem.c2)


@lru_cache
def plain_energy() -> Any:
    """E as a plain JAX function `(params, logits, y) -> scalar` of one example, with W h + d given."""
    from spen_jax.energies import softplus

    def energy(params, logits, y):
        return params["c2"] @ softplus(params["C1"] @ y + params["b"]) - logits @ y

    return energy


def jax_arrays(problem: Problem) -> tuple[Any, Any, Any]:
    """(params, logits, start) of `plain_energy`, on the device."""
    import jax

    params = {name: getattr(problem, name) for name in ("C1", "b", "c2")}
    return jax.device_put((params, problem.logits, problem.start))

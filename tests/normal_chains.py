"""Chains whose law is normal, and how a mean is held against what it ought to be."""

import jax
import jax.numpy as jnp
import numpy as np
from problems import parabola

from spen_jax.domains import Reals
from spen_jax.sampling import Langevin, sample

A = {"a": np.array([1.0, 2.0])}
B = np.array([[0.0, 0.0], [0.5, -1.0]])
START = jnp.zeros((2, 300, 2))
"""600 chains of two numbers are three blocks."""
KEPT = {"steps": 400, "warm_up": 100, "thin": 4}


def normal(sampler=Langevin(0.4), seed=0, energy=parabola, start=START, **options):
    """Samples of the normal law with variances 1 / (beta a) and means b / a, for the two examples of B.

    Whoever asks for the same sampler shares what was compiled.
    """
    options = {"domain": Reals(), **KEPT, "sampler": sampler} | options
    got = sample(energy, A, B, start, jax.random.key(seed), **options)
    return jax.tree.map(np.asarray, got)


def standard_errors(values, expected):
    """(mean - expected) / standard error of values (C, S) of C chains, which are independent."""
    means = np.mean(values, axis=-1, dtype=float)
    return (means.mean() - expected) / (means.std(ddof=1) / len(means) ** 0.5)


def assert_mean(values, expected):
    assert abs(standard_errors(values, expected)) < 4.5

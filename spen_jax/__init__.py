"""Energy-based structured prediction in JAX: define an energy, minimise it over outputs, train it."""

from spen_jax import (
    checkpoints,
    data,
    diagnostics,
    domains,
    energies,
    inference,
    losses,
    metrics,
    objectives,
    sampling,
    solvers,
    synthetic,
    training,
)
from spen_jax.domains import Box, L2Ball, Product, Reals, Simplex
from spen_jax.energies import SPEN, FeatureNetwork, functions_of, logits_of
from spen_jax.inference import (
    Implicit,
    Solution,
    Unrolled,
    implied_logits,
    interactions,
    loss_augmented,
    minimize,
    minimize_best,
)
from spen_jax.objectives import end_to_end, feed_forward, max_margin
from spen_jax.sampling import HamiltonianMonteCarlo, Langevin, sample
from spen_jax.solvers import (
    FrankWolfe,
    GradientDescent,
    LineSearch,
    MirrorDescent,
    OnLogits,
    Optax,
)
from spen_jax.training import fit

__version__ = "0.1.0"

__all__ = [
    "SPEN",
    "Box",
    "FeatureNetwork",
    "FrankWolfe",
    "GradientDescent",
    "HamiltonianMonteCarlo",
    "Implicit",
    "L2Ball",
    "Langevin",
    "LineSearch",
    "MirrorDescent",
    "OnLogits",
    "Optax",
    "Product",
    "Reals",
    "Simplex",
    "Solution",
    "Unrolled",
    "checkpoints",
    "data",
    "diagnostics",
    "domains",
    "end_to_end",
    "energies",
    "feed_forward",
    "fit",
    "functions_of",
    "implied_logits",
    "inference",
    "interactions",
    "loss_augmented",
    "logits_of",
    "losses",
    "max_margin",
    "metrics",
    "minimize",
    "minimize_best",
    "objectives",
    "sample",
    "sampling",
    "solvers",
    "synthetic",
    "training",
]

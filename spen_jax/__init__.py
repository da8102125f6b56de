"""Energy-based structured prediction in JAX: define an energy, minimise it over outputs, train it."""

from spen_jax import starting as starting  # before all that takes its time

# isort: split
from pathlib import Path
from typing import Any

from spen_jax import (
    bundles,
    data,
    domains,
    energies,
    exact,
    inference,
    interop,
    losses,
    metrics,
    networks,
    objectives,
    parallel,
    sampling,
    sparse,
    training,
)
from spen_jax.domains import Box, L2Ball, Product, Reals, Simplex
from spen_jax.energies import SPEN, implied_logits, interactions
from spen_jax.exporting import export
from spen_jax.inference import (
    Exact,
    FrankWolfe,
    GradientDescent,
    Implicit,
    LineSearch,
    MirrorDescent,
    OnLogits,
    Optax,
    Solution,
    Unrolled,
    minimize,
    minimize_best,
)
from spen_jax.networks import FeatureNetwork, functions_of, logits_of
from spen_jax.predictor import Predictor
from spen_jax.sampling import GibbsWithGradients, HamiltonianMonteCarlo, Langevin, sample
from spen_jax.shortlists import Shortlist
from spen_jax.training import fit

__version__ = "0.1.0"


def load(path: str | Path) -> Any:
    """A fitted estimator, of the file that its `save(path)` wrote; see `spen_jax.estimators.saving`.

    Needs `pip install 'spen_jax[estimators]'`, else ImportError. `BundleError`, a ValueError, for any other file,
    OSError where there is none. Parameters alone are read by `training.load`, exported predictors by `serving.load`.
    """
    from spen_jax.estimators import load
    from spen_jax.training.checkpoints import holds_parameters

    try:
        return load(path)
    except bundles.BundleError:
        if holds_parameters(bundles.read(path)):
            raise bundles.BundleError(
                f"{path} holds parameters alone: spen_jax.training.load reads it"
            ) from None
        raise


__all__ = [
    "Box",
    "Exact",
    "FeatureNetwork",
    "FrankWolfe",
    "GibbsWithGradients",
    "GradientDescent",
    "HamiltonianMonteCarlo",
    "Implicit",
    "L2Ball",
    "Langevin",
    "LineSearch",
    "MirrorDescent",
    "OnLogits",
    "Optax",
    "Predictor",
    "Product",
    "Reals",
    "SPEN",
    "Shortlist",
    "Simplex",
    "Solution",
    "Unrolled",
    "data",
    "domains",
    "energies",
    "exact",
    "export",
    "fit",
    "functions_of",
    "implied_logits",
    "inference",
    "interactions",
    "interop",
    "load",
    "logits_of",
    "losses",
    "metrics",
    "minimize",
    "minimize_best",
    "networks",
    "objectives",
    "parallel",
    "sample",
    "sampling",
    "sparse",
    "training",
]

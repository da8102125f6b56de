"""Points with density proportional to exp(-beta E)."""

from spen_jax.sampling.chains import Samples, sample
from spen_jax.sampling.diagnostics import effective_sample_size, split_r_hat
from spen_jax.sampling.gibbs_with_gradients import GibbsWithGradients
from spen_jax.sampling.hamiltonian import HamiltonianMonteCarlo
from spen_jax.sampling.langevin import Langevin
from spen_jax.sampling.metropolis import Point, accept, acceptance
from spen_jax.sampling.plan import Options
from spen_jax.sampling.sampler import Info, Sampler, Target

__all__ = [
    "GibbsWithGradients",
    "HamiltonianMonteCarlo",
    "Info",
    "Langevin",
    "Options",
    "Point",
    "Sampler",
    "Samples",
    "Target",
    "accept",
    "acceptance",
    "effective_sample_size",
    "sample",
    "split_r_hat",
]

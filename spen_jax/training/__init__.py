"""Training with Optax: one step, epochs, a compiled loop, recipes and protocols."""

from spen_jax.bundles import replacing
from spen_jax.training.checkpoints import load, save
from spen_jax.training.epochs import Epochs
from spen_jax.training.fit import fit, steps_per_epoch
from spen_jax.training.optimizers import Averaged, average_of, averaged, spectral, stable
from spen_jax.training.positions import CheckpointError
from spen_jax.training.protocol import Phase, Refitted, choose_then_refit, fit_phases
from spen_jax.training.recipe import Best, Recipe, Trained, train
from spen_jax.training.resuming import Checkpoints, Stopped, resumable
from spen_jax.training.steps import State, init, scan, step
from spen_jax.training.tensorboard import TensorBoard
from spen_jax.training.touching import log_shares, touching

__all__ = [
    "Averaged",
    "Best",
    "CheckpointError",
    "Checkpoints",
    "Epochs",
    "Phase",
    "Recipe",
    "Refitted",
    "State",
    "Stopped",
    "TensorBoard",
    "Trained",
    "average_of",
    "averaged",
    "choose_then_refit",
    "fit",
    "fit_phases",
    "init",
    "load",
    "log_shares",
    "replacing",
    "resumable",
    "save",
    "scan",
    "spectral",
    "stable",
    "step",
    "steps_per_epoch",
    "touching",
    "train",
]

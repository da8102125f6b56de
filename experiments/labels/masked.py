"""A feed-forward network that is told some of a row's labels: the control of suggest.py. B rows, L labels."""

from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

import spen_jax as sx
from spen_jax import sparse
from spen_jax.estimators.inputs import Scaling
from spen_jax.networks import Dense
from spen_jax.training import Epochs, Recipe, Trained, train
from spen_jax.types import Objective


class Masked(nn.Module):
    """z = V g(W x + T t + b) + c [+ A t], t (L,) 1 for labels told to be on.

    Labels are told only where they are on, so that the mask of what is told is t itself, and one input says both.

    Attributes:
      n_labels: L.
      width: hidden units.
      input_dropout: share of x left out in training; of t nothing is, beyond what is not told.
      dropout: share of the hidden units left out in training.
      pairs: whether there is the matrix A (L, L), which begins at 0.
    """

    n_labels: int
    width: int
    input_dropout: float
    dropout: float
    pairs: bool = False

    @nn.compact
    def __call__(self, x: Any, told: jax.Array, train: bool = False) -> jax.Array:
        """The logits, (B, D) and (B, L) -> (B, L)."""
        drop_input = nn.Dropout(self.input_dropout, deterministic=not train)
        x = sparse.on_values(drop_input, sparse.whole(x))
        sums = Dense(self.width, name="W")(x) + nn.Dense(self.width, use_bias=False, name="T")(told)
        h = nn.Dropout(self.dropout, deterministic=not train)(nn.relu(sums))
        z = nn.Dense(self.n_labels, name="V")(h)
        if self.pairs:
            zeros = nn.initializers.zeros
            z += nn.Dense(self.n_labels, use_bias=False, kernel_init=zeros, name="A")(told)
        return z


@lru_cache(maxsize=16)
def objective_of(module: Any, share: float) -> Objective:
    """Tells each row's labels that are on with a probability drawn from [0, share]; cross-entropy of all others."""

    def objective(params, batch, key):
        drop_key, share_key, told_key = jax.random.split(key, 3)
        y = jnp.asarray(batch["y"])
        shares = jax.random.uniform(share_key, (len(y), 1), maxval=share)
        told = y * (jax.random.uniform(told_key, y.shape) < shares)
        rngs = {"dropout": drop_key}
        z = module.apply({"params": params}, batch["x"], told, train=True, rngs=rngs)
        value = jnp.mean(_loss(z, y, told))
        return value, {"loss": value}

    return objective


def _loss(z, y, told):
    """Of each row: cross-entropy of what was not told."""
    return jnp.sum(jnp.where(told > 0, 0, optax.sigmoid_binary_cross_entropy(z, y)), axis=1)


@jax.jit(static_argnums=0)
def _logits(module, params, x, told):
    return module.apply({"params": params}, x, told)


def logits(module: Masked, params: Any, x: Any, told: np.ndarray) -> np.ndarray:
    """Of N rows, 500 at a time, (N, D) and (N, L) -> (N, L)."""
    found = []
    for begin in range(0, len(told), 500):
        rows = np.minimum(np.arange(begin, begin + 500), len(told) - 1)
        cut = x[rows].toarray() if sparse.is_scipy(x) else x[rows]
        found.append(np.asarray(_logits(module, params, cut, told[rows])))
    return np.concatenate(found)[: len(told)]


def drawn(y: np.ndarray, share: float, seed: int) -> np.ndarray:
    """What is told of rows y (N, L), as training draws it."""
    rng = np.random.default_rng(seed)
    shares = share * rng.random((len(y), 1))
    return (y * (rng.random(y.shape) < shares)).astype(np.float32)


def training(
    module: Any, data: sx.data.Split, recipe: Recipe, share: float, seed: int
) -> tuple[Scaling, Epochs[Trained]]:
    """How x is scaled, as `SPENClassifier` scales it, and the epochs; a fifth of the rows chooses among these."""
    scaling = Scaling.of(data.x)
    x, y = scaling(data.x), data.y.astype(np.float32)
    rows, held = sx.data.split(len(y), 0.2, seed)
    few = held[:2000]
    told, x_few = drawn(y[few], share, seed), x[few]
    key = jax.random.key(seed)
    dense = x[:1].toarray() if sparse.is_scipy(x) else x[:1]
    params = module.init(key, jnp.asarray(dense), jnp.asarray(y[:1]))["params"]

    def score(params):
        z = logits(module, params, x_few, told)
        return -float(jnp.mean(_loss(z, y[few], told)))

    part = {"x": x[rows], "y": y[rows]}
    return scaling, train(objective_of(module, share), params, part, recipe, key, score=score)

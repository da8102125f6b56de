"""What is said about arguments of energies of many answers before anything is traced."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from spen_jax.numbers import known, real


def check_batch(**trees: Any) -> None:
    """ValueError, by name, where arrays of trees are none that JAX knows, or do not share their leading axis."""
    lengths = {}
    for name, tree in trees.items():
        for path, leaf in jax.tree.leaves_with_path(tree):
            where = name + jax.tree_util.keystr(path)
            # Energies may see complex numbers and keys.
            if not isinstance(leaf, jax.Array) and np.asarray(leaf).dtype.kind != "c":
                real(where, leaf)
            if not jnp.shape(leaf):
                raise ValueError(f"{where} must have a leading axis, got one number")
            lengths[where] = jnp.shape(leaf)[0]
    if len(set(lengths.values())) > 1:
        raise ValueError(
            f"{' and '.join(trees)} must share their leading axis, got lengths {lengths}"
        )


def check_beta(beta: Any) -> None:
    """ValueError for what is no real number, and for one known to be below 0: traced ones are not looked at."""
    numbers = known(real("beta", beta))
    if numbers is not None and not np.all(numbers >= 0):
        raise ValueError(f"beta, the inverse temperature, must be at least 0, got {beta}")


def check_axis(name: str, values: jax.Array, axis: int) -> None:
    """ValueError where an array has no such axis."""
    if not -values.ndim <= axis < values.ndim:
        raise ValueError(
            f"{name} must have an axis of answers, axis={axis}, got shape {values.shape}"
        )


def read_weights(weights: Any, shape: tuple[int, ...], axis: int) -> jax.Array:
    """Weights (K,), or of the whole shape, as constants; ValueError for others, and for those known to be below 0."""
    weights = real("weights", weights)
    numbers = known(weights)
    if numbers is not None and not np.all(numbers >= 0):
        raise ValueError(f"weights must be at least 0, got {numbers[~(numbers >= 0)][0]}")
    whole = shape if weights.ndim > 1 else shape[axis:][:1]
    try:
        return lax.stop_gradient(jnp.broadcast_to(weights, whole))
    except ValueError as error:
        raise ValueError(
            f"weights must be of shape {whole}, or broadcast to it, got {weights.shape}"
        ) from error

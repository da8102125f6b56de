"""What is said about arguments of energies of many answers before anything is traced."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from spen_jax.numbers import floats, known, real, wide


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
    """ValueError for a beta that is no real number, or known to be below 0: traced ones are not looked at.

    beta, the inverse temperature, is a number or an array of any shape, infinity included.
    """
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


def read_energies(name: str, values: Any, shape: tuple[int | None, ...]) -> jax.Array:
    """Energies as floats of 32 bits or more, of leading axes and those of `shape`, None for any.

    ValueError, by name, for others.
    """
    values = wide(floats(name, values))
    last = values.shape[max(values.ndim - len(shape), 0) :]
    if len(last) < len(shape) or any(n not in (None, m) for n, m in zip(shape, last, strict=True)):
        wanted = ", ".join("any" if n is None else str(n) for n in shape)
        raise ValueError(f"{name} must have the last axes ({wanted}), got shape {values.shape}")
    return values


def read_shared(
    name: str, values: Any, batch: tuple[int, ...], shape: tuple[int, ...]
) -> jax.Array:
    """Energies as floats, of `shape` or of that for each example; ValueError, by name, for other shapes."""
    values = wide(floats(name, values))
    if values.shape not in (shape, (*batch, *shape)):
        raise ValueError(
            f"{name} must be of shape {shape}, or {(*batch, *shape)} for examples of their own, got {values.shape}"
        )
    return values


def read_mask(mask: Any, lengths: Any, shape: tuple[int, ...]) -> jax.Array | None:
    """A mask, or lengths as a mask, of a shape (..., T); None for neither. ValueError for what does not fit."""
    if mask is not None and lengths is not None:
        raise ValueError("a structure has a mask or lengths, not both")
    if lengths is not None:
        lengths = real("lengths", lengths)
        numbers = known(lengths)
        if not jnp.issubdtype(lengths.dtype, jnp.integer) or lengths.shape != shape[:-1]:
            raise ValueError(
                f"lengths must be whole numbers of shape {shape[:-1]}, got {lengths.dtype} of shape {lengths.shape}"
            )
        if (
            numbers is not None
            and numbers.size
            and not 0 <= numbers.min() <= numbers.max() <= shape[-1]
        ):
            raise ValueError(
                f"lengths must lie from 0 to {shape[-1]}, got {numbers.min()} to {numbers.max()}"
            )
        places = jnp.arange(shape[-1]).reshape(*[1] * lengths.ndim, -1)
        return places < jnp.asarray(lengths)[..., None]
    if mask is None:
        return None
    mask = real("mask", mask)
    if mask.dtype != bool or mask.shape != shape:
        raise ValueError(
            f"mask must be booleans of shape {shape}, got {mask.dtype} of shape {mask.shape}"
        )
    return jnp.asarray(mask)

"""Arrays that a user gives, read as real numbers: what NumPy or JAX would take in silence is refused by name."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer


def real_array(name: str, values: Any) -> np.ndarray:
    """`values` as a NumPy array of booleans, integers or floats; halves become float32, nothing else is copied.

    ValueError, which says `name`, for masked arrays, complex numbers, strings, dates, objects and ragged lists, and
    while JAX traces.
    """
    if isinstance(values, Tracer):
        raise ValueError(
            f"{name} must be one array of real numbers, outside jit; it is being traced"
        )
    array = np.asarray(real(name, values))
    if jnp.issubdtype(array.dtype, jnp.floating) and array.dtype.itemsize < 4:
        return array.astype(np.float32)
    # NumPy has no sums of types such as int4.
    return array.astype(np.int32) if array.dtype.kind == "V" else array


def real(name: str, values: Any) -> jax.Array | np.ndarray:
    """`values` as they are where they are a JAX array, traced or not, else as a NumPy array; refused as above."""
    if isinstance(values, jax.Array):
        check_real_type(name, values.dtype)
        return values
    if type(values) is np.ndarray and values.dtype.kind in "biuf":
        return values
    if isinstance(values, np.ma.MaskedArray):
        raise ValueError(
            f"{name} must be an array of numbers, got a masked array, whose mask would be lost; "
            f"give {name}.data, and ~{name}.mask as the mask where one is taken"
        )
    try:
        array = np.asarray(values)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{name} must be one array of real numbers; NumPy says: {error}"
        ) from error
    check_real_type(name, array.dtype)
    return array


def rounding(values: Any) -> float:
    """The relative distance of neighbouring numbers of the type of an array, 0 for whole numbers."""
    dtype = np.asarray(values).dtype
    return float(jnp.finfo(dtype).eps) if jnp.issubdtype(dtype, jnp.floating) else 0.0


def check_real_type(name: str, dtype: Any) -> None:
    """ValueError for a type that is not boolean, integer or float."""
    kinds = jnp.bool_, jnp.integer, jnp.floating
    real = any(jnp.issubdtype(dtype, kind) for kind in kinds)
    # NumPy counts spans of time among the integers.
    if not real or dtype == jax.dtypes.float0 or np.issubdtype(dtype, np.timedelta64):
        raise ValueError(
            f"{name} must hold booleans or real numbers, got the type {dtype}; convert it to floats"
        )


def is_plain(a: Any) -> bool:
    """Whether it is an array of numbers at first sight, as nearly all are."""
    return isinstance(a, jax.Array) or type(a) is np.ndarray and a.dtype.kind in "biufc"


def check_array(name: str, a: Any) -> None:
    """ValueError, by name, for what is no array of numbers: texts, objects, dates, an array with a mask of its own."""
    if is_plain(a):
        return
    if isinstance(a, np.ma.MaskedArray):
        raise ValueError(
            f"{name} is a masked array, whose mask would be lost: fill it, {name}.filled(0)"
        )
    try:
        dtype = jnp.result_type(np.asarray(a) if isinstance(a, str | bytes) else a)
    except (TypeError, ValueError):
        raise ValueError(
            f"{name} must be an array of numbers, got {getattr(a, 'dtype', type(a).__name__)}"
        ) from None
    if not jnp.issubdtype(dtype, jnp.number) and dtype != jnp.bool_:
        raise ValueError(f"{name} must be an array of numbers, got {dtype}")


def floats(name: str, values: Any) -> jax.Array:
    """`values` as a JAX array of floats: of their own type, of the default one where they are none.

    Also while JAX traces. ValueError, which says `name`, as `real_array` raises.
    """
    values = real(name, values)
    if isinstance(values, jax.Array) and jnp.issubdtype(values.dtype, jnp.floating):
        return values
    return jnp.asarray(values, jnp.result_type(values, 0.0))


def wide(y: jax.Array) -> jax.Array:
    """Floats as they are, but halves as float32, in which what is computed of them is right to their last place."""
    return y.astype(jnp.float32) if jnp.finfo(y.dtype).bits < 32 else y


def vanishes(v: jax.Array) -> jax.Array:
    """Where vectors along the last axis, which stays, are 0 or subnormal, which compilers take for 0 or do not."""
    return jnp.max(jnp.abs(v), axis=-1, keepdims=True, initial=0) < jnp.finfo(v.dtype).tiny


def unit(v: jax.Array) -> jax.Array:
    """v / ||v|| along the last axis, 0 for what `vanishes`; no other size of v makes it overflow or vanish."""
    none = vanishes(v)
    largest = lax.stop_gradient(jnp.max(jnp.abs(v), axis=-1, keepdims=True, initial=0))
    # By its root, twice: the reciprocal of the largest numbers is 0.
    scale = 1 / jnp.sqrt(jnp.where(none, 1, largest))
    v = jnp.where(none, 0, v) * scale * scale
    squared = jnp.sum(v**2, axis=-1, keepdims=True)
    return v / jnp.sqrt(jnp.where(squared == 0, 1, squared))


def known(values: Any) -> np.ndarray | None:
    """The numbers where they can be looked at: not while JAX traces them, nor where other hosts hold them."""
    if isinstance(values, Tracer) or not getattr(values, "is_fully_addressable", True):
        return None
    return np.asarray(values)


def indices(name: str, values: Any, size: int) -> jax.Array:
    """Whole numbers from 0 to size - 1, as int32; ValueError, which says `name`, for others where they are known."""
    values = real(name, values)
    if not jnp.issubdtype(values.dtype, jnp.integer):
        raise ValueError(f"{name} must be indices, whole numbers, got {values.dtype}")
    found = known(values)
    if found is not None and found.size and not 0 <= found.min() <= found.max() < size:
        raise ValueError(
            f"{name} must be indices from 0 to {size - 1}, got {found.min()} to {found.max()}"
        )
    return jnp.asarray(values, jnp.int32)

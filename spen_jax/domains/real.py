"""Arrays that a user gives, read as real numbers: what NumPy or JAX would take in silence is refused by name."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def real_array(name: str, values: Any) -> np.ndarray:
    """`values` as a NumPy array of booleans, integers or floats; halves become float32, nothing else is copied.

    ValueError, which says `name`, for masked arrays, complex numbers, strings, dates, objects and ragged lists.
    """
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
    if jnp.issubdtype(array.dtype, jnp.floating) and array.dtype.itemsize < 4:
        return array.astype(np.float32)
    # NumPy has no sums of types such as int4.
    return array.astype(np.int32) if array.dtype.kind == "V" else array


def rounding(values: Any) -> float:
    """The relative distance of neighbouring numbers of the type of an array, 0 for whole numbers."""
    dtype = np.asarray(values).dtype
    return float(jnp.finfo(dtype).eps) if jnp.issubdtype(dtype, jnp.floating) else 0.0


def check_real_type(name: str, dtype: Any) -> None:
    """ValueError for a type that is not boolean, integer or float."""
    real = jnp.bool_, jnp.integer, jnp.floating
    if dtype == jax.dtypes.float0 or not any(jnp.issubdtype(dtype, kind) for kind in real):
        raise ValueError(
            f"{name} must hold booleans or real numbers, got the type {dtype}; convert it to floats"
        )

"""The fields of training data: which values of y count, and what training writes back into them."""

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp


def fields_of(data: Any) -> dict[str, Any]:
    """The fields of a NamedTuple, a dict or a dataclass by name; none of other data."""
    if isinstance(data, dict):
        return data
    if dataclasses.is_dataclass(data):
        return {field.name: getattr(data, field.name) for field in dataclasses.fields(data)}
    return data._asdict() if hasattr(data, "_asdict") else {}


def replaced(data: Any, **fields: Any) -> Any:
    """`data` with other fields of these names."""
    if isinstance(data, dict):
        return data | fields
    if dataclasses.is_dataclass(data):
        return dataclasses.replace(data, **fields)  # pyright: ignore[reportArgumentType]
    return data._replace(**fields)


def counting(data: Any) -> Any:
    """`data`, with y zero where by the field `mask` it does not count, whatever stands there."""
    fields = fields_of(data)
    mask = fields.get("mask")
    if mask is None or "y" not in fields:
        return data

    def zeroed(y, mask):
        return jnp.where(mask.reshape(*mask.shape, *[1] * (y.ndim - mask.ndim)), y, 0)

    if isinstance(mask, jax.Array):
        return replaced(data, y=jax.tree.map(lambda y: zeroed(y, mask), fields["y"]))
    return replaced(data, y=jax.tree.map(zeroed, fields["y"], mask))


def written_back(
    data: Any, rows: Any, metrics: dict[str, Any], owned: set[str]
) -> tuple[Any, dict[str, Any]]:
    """`data` with the metrics named as its fields written into `rows`, and the other metrics.

    `owned` has the names of the fields that are the training's own, and gets more: those of the caller are copied
    first, since what is written into is donated. Raises ValueError for rows that do not fit, and for a metric
    that is neither a field nor a scalar.
    """
    fields = fields_of(data)
    for name in sorted(set(metrics) & set(fields)):
        field, new = fields[name], metrics.pop(name)
        if name not in owned:
            _check_rows(name, field, new, len(rows))
            field = jax.tree.map(lambda a: jnp.array(a, copy=True), field)
            owned.add(name)
        data = replaced(data, **{name: _written(field, rows, new)})
    if wrong := [name for name, value in metrics.items() if jnp.ndim(value)]:
        raise ValueError(
            f"the metrics {', '.join(wrong)} must be scalars, or have the name of a field of data, a NamedTuple, "
            f"dict or dataclass, whose rows they replace; data is a {type(data).__name__}"
        )
    return data, metrics


@partial(jax.jit, donate_argnums=0)
def _written(field: Any, rows: Any, new: Any) -> Any:
    def write(old, new):
        if jnp.issubdtype(new.dtype, jnp.inexact):
            # A chain that is once not a number would stay so for good.
            finite = jnp.isfinite(new).reshape(len(new), -1).all(axis=1)
            new = jnp.where(finite.reshape(-1, *[1] * (new.ndim - 1)), new, old[rows])
        return old.at[rows].set(new)

    return jax.tree.map(write, field, new)


def _check_rows(name, field, new, batch_size):
    def described(tree, rows):
        return jax.tree.map(lambda a: f"{(*rows(a),)} {a.dtype}", tree)

    want = described(field, lambda a: (batch_size, *a.shape[1:]))
    got = described(new, lambda a: a.shape)
    if got != want:
        raise ValueError(
            f"the metric {name!r} is written into data.{name} and needs its rows for the batch, {want}, got "
            f"{got}; give a metric that is to be averaged another name"
        )

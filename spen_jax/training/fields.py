"""The fields of training data: which values of y count, and what training writes back into them."""

import dataclasses
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from spen_jax import parallel
from spen_jax.checks import check_arrays
from spen_jax.objectives import read
from spen_jax.objectives.batch import check_dense
from spen_jax.sparse import Matrix, has_rows, matrices

SHOWN = 1024


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


def checked(data: Any) -> tuple[Any, int]:
    """The data as arrays, but for SciPy's matrices, which stay on the host as `sparse.Matrix`; and its N examples.

    ValueError for what are no numbers, do not share a leading axis or are not finite, and for a sparse y.
    """
    data = matrices(data=data)
    check_arrays(data=data)
    n = shared_axis(data, "fit needs data whose arrays share a leading axis of examples")
    check_dense(data)
    data = jax.tree.map(lambda a: a if isinstance(a, Matrix | np.memmap) else jnp.asarray(a), data)
    check_finite(shown(data))
    return data, n


def shown(data: Any) -> Any:
    """The data; where some are memory-mapped SHOWN examples at even distances, for to look at all would read all."""
    leaves, structure = jax.tree.flatten(data)
    if not any(is_mapped(a) for a in leaves):
        return data
    rows = np.unique(np.linspace(0, np.shape(leaves[0])[0] - 1, SHOWN).astype(int))
    some = [a.some(rows) if isinstance(a, Matrix) else jnp.asarray(a[rows]) for a in leaves]
    return structure.unflatten(some)


def is_mapped(a: Any) -> bool:
    """Whether an array lies in a file, `np.memmap`; a `Matrix` whether its numbers do."""
    a = a.values if isinstance(a, Matrix) else a
    while isinstance(a, np.ndarray) and not isinstance(a, np.memmap):
        a = a.base
    return isinstance(a, np.memmap)


@jax.jit
def rows_of_all(arrays: Any, rows: Any) -> Any:
    """The examples `rows` of a tree of arrays."""
    return jax.tree.map(lambda a: a[rows], arrays)


def shared_axis(tree: Any, need: str) -> int:
    """The length of the leading axis that all arrays share; ValueError where they share none, or it is empty."""
    sizes = sorted({np.shape(a)[:1] for a in jax.tree.leaves(tree)})
    if len(sizes) != 1 or not sizes[0] or not sizes[0][0]:
        got = " and ".join(str(*s) if s else "no" for s in sizes) or "no"
        raise ValueError(f"{need}, at least one, got arrays of {got} {need.split()[-1]}")
    return sizes[0][0]


def check_finite(data: Any) -> None:
    """ValueError for numbers that are not finite, but for those of y that by `mask` or `length` do not count."""
    wrong = _not_finite(data)
    if wrong and {"mask", "length"} & set(fields_of(data)):
        wrong = _not_finite(replaced(data, y=read(data, weighted=True).y))
    for where, count in wrong.items():
        raise ValueError(
            f"data{where} must be finite, but {count} of its values are not; drop or mend those rows, or say in a "
            "field `mask` which parts of y count"
        )


def _not_finite(data):
    """How many numbers of each array are not finite, by its path, where there are any."""
    found = {}
    for path, a in jax.tree.leaves_with_path(data):
        if jnp.issubdtype(a.dtype, jnp.floating):
            finite = np.isfinite(a.values) if isinstance(a, Matrix) else jnp.isfinite(a)
            if not finite.all():
                found[jax.tree_util.keystr(path)] = int((~finite).sum())
    return found


def fields_in(groups: Sequence[Any], owned: Sequence[set[str]]) -> dict[str, Any]:
    """The arrays of the fields of each group that are the training's own, by group, name and path."""
    return {
        f"{g} {name}{jax.tree_util.keystr(path)}": a
        for g, names in enumerate(owned)
        for name in sorted(names)
        for path, a in jax.tree.leaves_with_path(fields_of(groups[g])[name])
    }


def with_fields(
    groups: Sequence[Any], arrays: Mapping[str, Any], owned: Sequence[set[str]]
) -> list[Any]:
    """The groups with such arrays in their fields, whose names go into `owned`."""
    groups = list(groups)
    for g, name in {(int(g), rest.split("[")[0]) for g, rest in (k.split(" ", 1) for k in arrays)}:

        def leaf(path, old, start=f"{g} {name}"):
            whole = jnp.array(arrays[start + jax.tree_util.keystr(path)])
            sharding = getattr(old, "sharding", None)  # none of a mapped one
            return whole if sharding is None else parallel.put(whole, sharding)

        field = jax.tree.map_with_path(leaf, fields_of(groups[g])[name])
        groups[g] = replaced(groups[g], **{name: field})
        owned[g].add(name)
    return groups


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
        written = _written(parallel.places(field), field, rows, new, metrics.get("left_out", 0))
        data = replaced(data, **{name: written})
    if wrong := [name for name, value in metrics.items() if jnp.ndim(value)]:
        raise ValueError(
            f"the metrics {', '.join(wrong)} must be scalars, or have the name of a field of data, a NamedTuple, "
            f"dict or dataclass, whose rows they replace; data is a {type(data).__name__}"
        )
    return data, metrics


@partial(jax.jit, static_argnums=0, donate_argnums=1)
def _written(places: Any, field: Any, rows: Any, new: Any, left_out: Any) -> Any:
    def write(left_out, rows, old, new):
        new = jnp.where(
            left_out > 0, old[rows], new
        )  # of a step that was not taken nothing is kept
        if jnp.issubdtype(new.dtype, jnp.inexact):
            # A chain that is once not a number would stay so for good.
            finite = jnp.isfinite(new).reshape(len(new), -1).all(axis=1)
            new = jnp.where(finite.reshape(-1, *[1] * (new.ndim - 1)), new, old[rows])
        return old.at[rows].set(new)

    def of_arrays(field, rows, new, left_out):
        return parallel.kept(jax.tree.map(partial(write, left_out, rows), field, new), places)

    out = parallel.specs(field, places)
    return parallel.automatic(of_arrays, field, rows, new, left_out, out=out)


def _check_rows(name, field, new, batch_size):
    if has_rows(field):
        raise ValueError(
            f"the metric {name!r} is written into data.{name}, which may not be sparse"
        )

    def described(tree, rows):
        return jax.tree.map(lambda a: f"{(*rows(a),)} {a.dtype}", tree)

    want = described(field, lambda a: (batch_size, *a.shape[1:]))
    got = described(new, lambda a: a.shape)
    if got != want:
        raise ValueError(
            f"the metric {name!r} is written into data.{name} and needs its rows for the batch, {want}, got "
            f"{got}; give a metric that is to be averaged another name"
        )

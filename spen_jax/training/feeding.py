"""Rows of data that stay on the host, SciPy's matrices and memory-mapped arrays: cut ahead of their step."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from spen_jax import parallel, sparse
from spen_jax.training.fields import rows_of_all
from spen_jax.training.touching import Touching

AHEAD = 2
"""Batches that are cut before they are asked for."""


class Cut(NamedTuple):
    """The rows of a batch of what stays on the host: of each leaf of the data, None of others; and touched columns."""

    parts: list[Any]
    columns: dict[str, np.ndarray]


def stays(leaf: Any) -> bool:
    """Whether an array of the data stays on the host: a `sparse.Matrix`, or a memory-mapped one."""
    return isinstance(leaf, sparse.Matrix | np.memmap)


def any_stays(data: Any) -> bool:
    """Whether an array of a tree stays on the host."""
    return any(map(stays, jax.tree.leaves(data)))


def cut(optimizer: Any, data: Any, rows: np.ndarray, mesh: Any = None) -> Cut:
    """The rows of what stays on the host, of memory-mapped arrays those of this process on a mesh."""
    touched, columns = {}, {}
    if isinstance(optimizer, Touching):
        touched, columns = optimizer.cut(data, rows)
    own = rows if mesh is None else rows[parallel.own_rows(mesh, len(rows))]

    def part(leaf):
        if id(leaf) in touched:
            return touched[id(leaf)]
        if isinstance(leaf, sparse.Matrix):
            return leaf[rows]
        return np.asarray(leaf[own]) if stays(leaf) else None

    return Cut([part(leaf) for leaf in jax.tree.leaves(data)], columns)


def joined(data: Any, rows: np.ndarray, found: Cut, mesh: Any = None) -> Any:
    """The whole batch, what was cut on the host put on the device or mesh and the rows of everything else."""
    leaves, structure = jax.tree.flatten(data)

    def placed(part):
        if part is None or sparse.is_rows(part) or mesh is None:
            return jax.device_put(part)
        return parallel.of_own_rows(mesh, part, len(rows))

    return structure.unflatten(_filled(leaves, map(placed, found.parts), rows))


def _filled(leaves, parts, rows):
    """The parts of what stays on the host, and the rows of everything else."""
    others = iter(rows_of_all([a for a in leaves if not stays(a)], rows))
    return [p if stays(a) else next(others) for a, p in zip(leaves, parts, strict=True)]


def one_by_one(data: Any, rows: np.ndarray) -> Any:
    """The rows as batches of one: arrays (B, ...), and sparse `Rows` whose own arrays have a leading axis B."""
    leaves, structure = jax.tree.flatten(data)

    def part(leaf):
        if isinstance(leaf, sparse.Matrix):
            return leaf[rows[:, None]]
        return jnp.asarray(leaf[rows]) if stays(leaf) else None

    return structure.unflatten(_filled(leaves, map(part, leaves), rows))


def ahead(function: Callable[..., Any], items: Iterable[Any]) -> Iterator[tuple[Any, Any]]:
    """(item, function(*item)) one by one, which another thread works out while the caller is busy with those before."""
    with ThreadPoolExecutor(1) as pool:
        waiting = deque()
        try:
            for item in items:
                waiting.append((item, pool.submit(function, *item)))
                if len(waiting) > AHEAD:
                    item, found = waiting.popleft()
                    yield item, found.result()
            while waiting:
                item, found = waiting.popleft()
                yield item, found.result()
        finally:
            for _, found in waiting:
                found.cancel()

"""Where a training stands, as arrays by path and back, and what it began with in a line."""

import ast
import hashlib
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from spen_jax import parallel
from spen_jax.sparse import Matrix
from spen_jax.training.sums import is_cut, sums_of


class CheckpointError(ValueError):
    """A checkpoint that is damaged, of another training, or in use; the message names it and says what to do.

    A ValueError, which `fit` raises where it is given `Checkpoints`.
    """


class Position(NamedTuple):
    """Where a training stands between two steps."""

    state: Any
    """The `training.State`."""
    fields: dict[str, Any]
    """What the objective wrote into the data, such as chains."""
    history: list[dict[str, Any]]
    """The metrics of this epoch's steps so far; none between two epochs."""
    order_key: Any
    """Of this epoch's order."""
    means: dict[str, Any]
    """The metrics of the last whole epoch."""
    epoch: int = 0
    """Whole epochs."""
    steps: int = 0
    """Taken in all."""

    @property
    def number(self) -> int:
        """Of its checkpoint: one more with each step and each end of an epoch."""
        return self.steps + self.epoch


def plain(now: Position) -> dict[str, Any]:
    """A position as a tree of arrays: the history by metric, in one row for each step."""
    history: list[dict[str, Any]] = jax.device_get(now.history)
    names = history[0] if history else {}
    rows = {name: np.stack([step[name] for step in history]) for name in names}
    return now._asdict() | {"history": rows}


def rows_of(history: Any) -> list[dict[str, Any]]:
    """The history of each step, of arrays by metric."""
    count = len(next(iter(history.values()), ()))
    return [{name: rows[i] for name, rows in history.items()} for i in range(count)]


def is_key(leaf: Any) -> bool:
    """Whether a leaf, or the shape of one, is of typed random keys."""
    return jnp.issubdtype(getattr(leaf, "dtype", np.dtype(float)), jax.dtypes.prng_key)


def arrays_of_tree(tree: Any) -> dict[str, Any]:
    """Copies of a tree's leaves by path: nothing that is written can change meanwhile. What is cut stays where it is.

    `CheckpointError` for leaves that are no numbers.
    """

    def of(path, leaf):
        leaf = jax.random.key_data(leaf) if is_key(leaf) else leaf
        if is_cut(leaf):
            return leaf
        array = np.array(leaf)
        if array.dtype.kind not in "biufcV":
            raise CheckpointError(
                f"extra{path} is {array.dtype}: it may hold numbers and arrays only"
            )
        return array

    return {
        jax.tree_util.keystr(path): of(jax.tree_util.keystr(path[1:]), a)
        for path, a in jax.tree.leaves_with_path(tree)
    }


def restored(like: Any, arrays: Mapping[str, Any]) -> Any:
    """A tree like this one, with the arrays of their paths; history, fields and means are all that were written.

    `CheckpointError` where the paths are others.
    """
    free = [f"['position']['{name}']" for name in ("history", "fields", "means")]

    def leaf(path, old):
        array = arrays[jax.tree_util.keystr(path)]
        if is_key(old):
            key = jax.random.wrap_key_data(jnp.asarray(array), impl=jax.random.key_impl(old))
            return key if old.is_fully_addressable else parallel.put(key, old.sharding)
        if isinstance(old, jax.Array):
            return parallel.put(array, old.sharding)
        return array if isinstance(old, np.ndarray) else array.item()

    own = {jax.tree_util.keystr(path) for path, _ in jax.tree.leaves_with_path(like)}
    others = {path for path in arrays if not path.startswith(tuple(free))}
    if wrong := sorted(own ^ others):
        raise CheckpointError(
            f"the checkpoint and this training do not fit: {', '.join(wrong[:3])} is in one of them only; begin with "
            "the extra that the broken one began with"
        )
    tree = jax.tree.map_with_path(leaf, like)
    for part in free:
        inside = {path.removeprefix(part): a for path, a in arrays.items() if path.startswith(part)}
        tree["position"][part.split("'")[3]] = {
            ast.literal_eval(path)[0]: a for path, a in inside.items()
        }
    return tree


def fingerprint(start: Position, data: Any, *texts: str) -> str:
    """Of what a training begins with: parameters, key and data in full, and of texts, such as its program's.

    The same on any number of devices and processes, all of which have to call it.
    """
    sums = sums_of(arrays_of_tree(start.state))
    found = hashlib.sha256(str(sorted(sums.items())).encode())
    for leaf in jax.tree.leaves(data):
        for a in leaf.parts if isinstance(leaf, Matrix) else (leaf,):
            values = parallel.fetched(jax.random.key_data(a) if is_key(a) else a)
            found.update(f"{values.dtype} {values.shape}".encode())
            found.update(np.ascontiguousarray(values).tobytes())
    for text in texts:
        found.update(re.sub("0x[0-9a-f]+", "", text).encode())  # addresses differ from run to run
    return found.hexdigest()

"""Saving and loading parameters: one `.npz` of plain arrays and one JSON text; nothing is ever unpickled."""

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax.traverse_util import unflatten_dict

from spen_jax.bundles import replacing
from spen_jax.data import DataError
from spen_jax.data.archives import arrays_of

_META = "__metadata__"
_RESERVED = {_META, "file", "allow_pickle"}  # the last two are arguments of np.savez


def save(path: str | Path, params: Any, metadata: dict | None = None) -> None:
    """Writes nested dicts of arrays, under names like "network/output/kernel", to a temporary file, then renames it.

    `metadata` is anything JSON can hold, such as the settings that rebuild the model. Raises
    TypeError for a tree with anything but string-keyed dicts above its arrays, and for arrays of
    anything but NumPy's own numbers (bfloat16 would come back as raw bytes).
    """
    arrays = {}
    for keys, leaf in jax.tree.leaves_with_path(params):
        names = [getattr(k, "key", None) for k in keys]
        if not names or not all(isinstance(n, str) and "/" not in n for n in names):
            raise TypeError(
                "save expects nested dicts with string keys without '/', got a leaf at "
                f"params{jax.tree_util.keystr(keys)}; turn lists and tuples into dicts"
            )
        name, array = "/".join(map(str, names)), np.asarray(leaf)
        if name in _RESERVED or array.dtype.kind not in "biufc":
            raise TypeError(
                f"save cannot store {name!r} of {array.dtype}: it stores NumPy's own numbers, under "
                f"any names but {sorted(_RESERVED)}; rename it, or turn it into float32"
            )
        arrays[name] = array
    arrays[_META] = np.array(json.dumps(metadata or {}))
    with replacing(path) as file:
        np.savez(file, **arrays)


def load(path: str | Path) -> tuple[Any, dict]:
    """The params and metadata of `save`.

    Raises OSError where there is nothing to read, ValueError for any other kind of file.
    """
    try:
        arrays = arrays_of(path)
        metadata = json.loads(str(arrays.pop(_META)))
        params = unflatten_dict(arrays, sep="/")
    except (DataError, KeyError, ValueError, AttributeError, TypeError, RecursionError):
        raise ValueError(
            f"{path} is damaged, or not a parameter file written by spen_jax.training.checkpoints.save"
        ) from None
    return params, metadata


def check_like(params: Any, expected: Any, source: str | Path) -> None:
    """Raises ValueError unless `params` has the tree and the shapes of `expected`, naming the first that differs."""
    got = {jax.tree_util.keystr(k): np.shape(v) for k, v in jax.tree.leaves_with_path(params)}
    want = {jax.tree_util.keystr(k): np.shape(v) for k, v in jax.tree.leaves_with_path(expected)}
    for name in sorted(want | got):
        if want.get(name) != got.get(name):
            raise ValueError(
                f"{source}: parameter {name} should have shape {want.get(name, '(absent)')}, "
                f"got {got.get(name, '(absent)')}; was it saved by a model with other settings?"
            )

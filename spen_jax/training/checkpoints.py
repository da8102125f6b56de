"""Parameters as a file: a bundle (`spen_jax.bundles`) of named arrays and JSON; nothing is ever unpickled."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import FlattenedIndexKey, SequenceKey

from spen_jax.bundles import BundleError, Contents, read, write
from spen_jax.serving import DTYPES, PROGRAMS
from spen_jax.training.positions import is_key

CLASS = "parameters"
"""What the file's state says that it holds."""


def save(path: str | Path, params: Any, metadata: dict | None = None) -> None:
    """Writes the tree `params` to `path`; `load` gives the same tree, equal to the bit.

    It has a temporary name until it is whole. The tree is made of dicts, lists, tuples and whatever else is a pytree of
    JAX, and of arrays of booleans and real numbers (bfloat16 among them), typed random keys, text, Python's numbers and
    None. Arrays have names such as "network/output/kernel" for any reader of safetensors; those of keys are their data.
    Files end in `.spen`. `metadata` is anything JSON can hold, such as the settings that rebuild the model.

    Raises TypeError, which says where, for a leaf of another kind, such as complex numbers.
    """
    arrays: dict[str, np.ndarray] = {}
    tree = _plain(params, (), arrays)
    write(path, Contents({"class": CLASS, "tree": tree, "metadata": metadata or {}}, arrays, {}))


def load(path: str | Path, like: Any = None) -> tuple[Any, dict]:
    """The params and metadata of the file at `path` that `save` wrote; arrays are NumPy's.

    Without `like` dicts, lists and tuples are what they were, and of other pytrees (NamedTuples, dataclasses) those
    with named fields are dicts and the rest lists. With `like`, a tree of arrays or of their shapes, such as
    `jax.eval_shape` gives, the result is a tree of its very types, and whatever it holds besides leaves is its own.

    Raises:
      OSError: where there is nothing to read.
      BundleError: a ValueError, for any other kind of file, a damaged one, and one of a later version.
      ValueError: for leaves with other names or shapes than `like`; the first that differs is named.
    """
    with open(path, "rb") as file:
        if file.read(4) == b"PK\x03\x04":
            raise BundleError(
                f"{path} is a .npz, in which an earlier version kept parameters: train again"
            )
    contents = read(path)
    state, arrays, _ = contents
    if not holds_parameters(contents):
        kind = state.get("class") if isinstance(state, dict) else "model of another kind"
        reader = "spen_jax.serving.load" if kind == "Predictor" else "spen_jax.load"
        raise BundleError(f"{path} holds no parameters but a {kind}: {reader} reads it")
    try:
        params, metadata = _read(state["tree"], arrays), state["metadata"]
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise BundleError(f"{path} holds no parameters that can be made: {error!r}") from None
    return (params if like is None else _fitted(params, like, path)), metadata


def holds_parameters(contents: Contents) -> bool:
    """Whether a bundle is a file of `save`."""
    return isinstance(contents.state, dict) and contents.state.get("class") == CLASS


def _plain(value: Any, path: tuple[str, ...], arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    """A tree as JSON, one kind to what it is; arrays go into `arrays` under their names."""
    if value is None or type(value) in (bool, int, float, str):
        return {"value": value}
    if isinstance(value, jax.Array) and is_key(value):
        data = np.asarray(jax.random.key_data(value))
        return {"key": _added(data, path, arrays), "of": str(jax.random.key_impl(value))}
    if isinstance(value, np.ndarray | np.generic | jax.Array):
        return {"array": _added(np.asarray(value), path, arrays)}
    kind, parts = _parts(value, path)
    made = [(key, _plain(part, (*path, str(key)), arrays)) for key, part in parts]
    return {kind: made if kind == "dict" else [part for _, part in made]}


def _parts(value, path):
    """What holds them (a dict, a list or a tuple) and the parts of a node with their keys."""
    if type(value) is dict:
        if wrong := [k for k in value if type(k) not in (bool, int, float, str)]:
            raise TypeError(
                f"save takes text and numbers as keys of dicts, got {wrong[0]!r} at {_name(path)}"
            )
        return "dict", [*value.items()]
    below = jax.tree.leaves_with_path(value, is_leaf=lambda part: part is not value)
    if any(not keys for keys, _ in below):
        raise TypeError(
            f"save takes arrays, numbers, text, random keys and None, got a {type(value).__name__} at "
            f"{_name(path)}"
        )
    numbered = SequenceKey | FlattenedIndexKey
    if type(value) is tuple:
        kind = "tuple"
    elif type(value) is list or below and isinstance(below[0][0][0], numbered):
        kind = "list"
    else:
        kind = "dict"
    return kind, [(_key(*keys), part) for keys, part in below]


def _key(entry):
    """Of one step of a path of JAX: a dict's key, a field's name, or a number."""
    return next(getattr(entry, a) for a in ("key", "name", "idx") if hasattr(entry, a))


def _name(path):
    return "/".join(path) or "params"


def _added(array, path, arrays):
    """The name under which it is added, of which there is one only and which bundles do not keep for themselves."""
    name = _name(path)
    if array.dtype not in DTYPES.values():
        raise TypeError(
            f"save stores booleans and real numbers, got {array.dtype} at {name}; turn it into another type"
        )
    while name in arrays or name == "__metadata__" or name.startswith(PROGRAMS):
        name = f"~{name}"
    arrays[name] = array
    return name


def _read(made: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Any:
    """What `_plain` made JSON of."""
    (kind, held), *_ = made.items()  # in the order of their names
    if kind == "value":
        return held
    if kind == "array":
        return arrays[held]
    if kind == "key":
        return jax.random.wrap_key_data(jnp.asarray(arrays[held]), impl=made["of"])
    if kind == "dict":
        return {key: _read(part, arrays) for key, part in held}
    parts = [_read(part, arrays) for part in held]
    return {"list": list, "tuple": tuple}[kind](parts)


def _fitted(params, like, source):
    """The leaves of params in the tree of `like`."""
    own, want = _leaves(params), _leaves(like)
    for path in sorted(want | own):
        expected, got = (_said(t[path]) if path in t else "absent" for t in (want, own))
        if expected != got:
            raise ValueError(
                f"{source}: parameter {_name(path)} should be {expected}, got {got}; was it saved by a model with "
                "other settings?"
            )
    return jax.tree.unflatten(jax.tree.structure(like), [own[path] for path in want])


def _leaves(tree):
    return {
        tuple(str(_key(entry)) for entry in path): leaf
        for path, leaf in jax.tree.leaves_with_path(tree)
    }


def _said(leaf):
    kind = f"random keys ({leaf.dtype})" if is_key(leaf) else "an array"
    return f"{kind} of shape {np.shape(leaf)}"

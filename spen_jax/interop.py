"""Weights from elsewhere and back: arrays by name, as PyTorch's `state_dict` has them, and our parameters.

    names = interop.energy_network(hidden=2)
    params = interop.to_params("spen.safetensors", names, like=spen.init(key, x, y)["params"])
    interop.write("back.safetensors", interop.to_arrays(params, names))

PyTorch is not needed: a file is `.npz` or `.safetensors`, and nothing is ever unpickled.
"""

import zipfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from spen_jax.bundles import replacing
from spen_jax.data.archives import arrays_of

PICKLES = ".pt", ".pth", ".bin", ".ckpt", ".pkl"
ADVICE = "write it by safetensors.torch.save_file(model.state_dict(), 'weights.safetensors')"


class Change(NamedTuple):
    """What makes our array of theirs, and theirs of ours: two functions of a NumPy array, each the other's inverse.

    The `change` of a `Name`: interop.AS_IS, TRANSPOSED, NEGATIVE and COLUMN, (N, 1) there and (N,) here, or your own.
    """

    here: Callable[[np.ndarray], np.ndarray]
    there: Callable[[np.ndarray], np.ndarray]


AS_IS = Change(np.asarray, np.asarray)
"""The same array there and here."""
TRANSPOSED = Change(np.transpose, np.transpose)
"""(M, N) there is its transpose (N, M) here."""
NEGATIVE = Change(np.negative, np.negative)
"""An array there is minus it here."""
COLUMN = Change(lambda a: a[:, 0], lambda a: a[:, None])
"""A column (N, 1) there is a vector (N,) here."""


class Name(NamedTuple):
    """Where an array stands there and here.

    Attributes:
      theirs: its name, such as "fc1.weight". None where they have none: our array is 0, and must be when it goes back.
      ours: its path in the parameters, such as "hidden_0/kernel". None where we have none: it is let go, and comes back
        from `rest`.
      change: how it is laid out.
    """

    theirs: str | None
    ours: str | None
    change: Change = AS_IS


Names = Iterable[Name]
"""What stands where, a `Name` for each array."""


def linear(theirs: str, ours: str) -> tuple[Name, ...]:
    """x W' + b: `nn.Linear`, weight (out, in) and bias (out,), as Flax's `Dense`, kernel (in, out) and bias.

    `theirs` is the layer's name there, such as "fc1", `ours` its path here, such as "hidden_0". Returns two `Name`.
    """
    return (
        Name(f"{theirs}.weight", f"{ours}/kernel", TRANSPOSED),
        Name(f"{theirs}.bias", f"{ours}/bias"),
    )


def feature_mlp(hidden: int = 2) -> tuple[Name, ...]:
    """The notes' `FeatureMLP` as a `FeatureNetwork`: fc1, fc2, ... are hidden_0, hidden_1, ..., the last is output.

    `hidden` is the number of hidden layers. Returns names for `to_params` and `to_arrays`, as `linear` lays them out.
    """
    layers = [linear(f"fc{i + 1}", f"hidden_{i}") for i in range(hidden)]
    return sum([*layers, linear(f"fc{hidden + 1}", "output")], ())


def energy_network(
    hidden: int = 2, features: str = "feature_extractor.", energy: str = "model."
) -> tuple[Name, ...]:
    """The notes' `FeatureMLP` and `EnergyNetwork`, E = y . B'F(x) + c2 . g(C1'y), as a `SPEN`.

    B (H, L) is minus our last layer's kernel, C1 (L, M) our C1 transposed, c2 (M, 1) a column; our b and the last
    layer's bias, which they lack, are 0. Their fc3 made B before training and is not in the energy: it is let go.

    Args:
      hidden: how many hidden layers; fc1 to fc<hidden> make F(x).
      features: what stands before the names of the feature network.
      energy: what stands before B, C1 and c2.

    Returns names for `to_params` and `to_arrays`.
    """
    layers = [linear(f"{features}fc{i + 1}", f"network/hidden_{i}") for i in range(hidden)]
    last = f"{features}fc{hidden + 1}"
    return (
        *sum(layers, ()),
        Name(f"{last}.weight", None),
        Name(f"{last}.bias", None),
        Name(f"{energy}B", "network/output/kernel", NEGATIVE),
        Name(None, "network/output/bias"),
        Name(f"{energy}C1", "C1", TRANSPOSED),
        Name(None, "b"),
        Name(f"{energy}c2", "c2", COLUMN),
    )


def to_params(source: Mapping[str, Any] | str | Path, names: Names, like: Any) -> Any:
    """Parameters, nested dicts of arrays, of arrays by name.

    Args:
      source: a dict, PyTorch's `state_dict` too, or the path of a `.npz` or `.safetensors`.
      names: what stands where: `feature_mlp`, `energy_network`, or a list of one's own.
      like: parameters, or their shapes, such as `module.init(...)["params"]` or `jax.eval_shape` of it: the shapes
        and types that the result has.

    Raises ValueError for names that are missing or left over, of all of them at once, for shapes that do not fit, and
    for what is no finite number; what `read` raises for a file.
    """
    arrays = source if isinstance(source, Mapping) else read(source)
    names, shapes = tuple(names), flatten_dict(like, sep="/")
    _check_paths(names, shapes, like)
    _check_names(arrays, {n.theirs for n in names if n.theirs})
    flat = {n.ours: _here(n, arrays, shapes[n.ours]) for n in names if n.ours}
    return unflatten_dict(flat, sep="/")


def to_arrays(
    params: Any, names: Names, rest: Mapping[str, Any] | None = None
) -> dict[str, np.ndarray]:
    """Arrays by name, of parameters: the way back of `to_params`.

    Args:
      params: nested dicts of arrays.
      names: what stands where, those of `to_params`.
      rest: where the arrays come from that parameters have no place for; None leaves them out.

    Raises ValueError for parameters that the names do not have, and for those that must be 0 and are not, since they
    would be lost.
    """
    names, flat = tuple(names), flatten_dict(params, sep="/")
    _check_paths(names, flat, params)
    arrays = {}
    for name in names:
        if name.ours is None:
            if rest is not None and name.theirs is not None:
                arrays[name.theirs] = _array(name.theirs, rest)
        elif name.theirs is None:
            if np.any(np.asarray(flat[name.ours])):
                raise ValueError(
                    f"the parameter {name.ours} is not 0, and there is no place for it there: keep it at 0 in training "
                    "(docs/do/pytorch.md), or give its Name one in theirs"
                )
        else:
            array = np.asarray(name.change.there(np.asarray(flat[name.ours])), order="C")
            if not np.array_equal(arrays.get(name.theirs, array), array):
                raise ValueError(
                    f"{name.theirs} stands for several parameters, {name.ours} among them, and these differ"
                )
            arrays[name.theirs] = array
    return arrays


def read(path: str | Path, prefix: str = "") -> dict[str, np.ndarray]:
    """The arrays of the `.npz` or `.safetensors` at `path`, by name, with a prefix before each, as NumPy's.

    OSError where there is no file; ValueError for another kind of file, PyTorch's own among them, which are pickles,
    and for a damaged one.
    """
    path = Path(path)
    if path.suffix in PICKLES:
        raise ValueError(f"{path} is a pickle, which can run any code and is not read: {ADVICE}")
    if path.suffix not in (".npz", ".safetensors"):
        raise ValueError(f"weights are read from .npz and .safetensors, got {path}: {ADVICE}")
    arrays = _of_safetensors(path) if path.suffix == ".safetensors" else arrays_of(path)
    return {prefix + name: array for name, array in arrays.items()}


def write(path: str | Path, arrays: Mapping[str, Any]) -> None:
    """Writes arrays by name to `path`, `.npz` or `.safetensors`, which takes its name once it is whole.

    `arrays` are NumPy's, JAX's or PyTorch's on the CPU. ValueError for another ending, and, by name, for what is no
    array of numbers that the file has a place for.
    """
    path = Path(path)
    if path.suffix not in (".npz", ".safetensors"):
        raise ValueError(f"weights are written as .npz or .safetensors, got {path}")
    # safetensors writes memory as it lies.
    whole = {name: np.asarray(_array(name, arrays), order="C") for name in arrays}
    for name, array in whole.items():
        if array.dtype.kind not in "biufc" and path.suffix == ".npz" or array.dtype.hasobject:
            raise ValueError(
                f"{name} is {array.dtype}, which {path.suffix} has no place for: make it numbers of NumPy's own types"
            )
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.numpy import save

        try:
            data = save(whole)
        except (SafetensorError, KeyError) as error:
            odd = [
                f"{name} is {a.dtype}" for name, a in whole.items() if a.dtype.kind not in "biuf"
            ]
            raise ValueError(
                f".safetensors has no place for one of these: {', '.join(odd)}"
            ) from error
        with replacing(path) as file:
            file.write(data)
    else:
        with replacing(path) as file, zipfile.ZipFile(file, "w") as archive:
            for name, array in whole.items():
                with archive.open(f"{name}.npy", "w", force_zip64=True) as entry:
                    np.lib.format.write_array(entry, array, allow_pickle=False)


def _of_safetensors(path):
    from safetensors import SafetensorError, safe_open

    with open(path, "rb"):
        pass  # what cannot be read says so in Python's words
    try:
        with safe_open(str(path), "numpy") as file:
            return {name: file.get_tensor(name) for name in file.keys()}
    except (SafetensorError, OSError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path} is damaged, or holds what NumPy has no type for, such as bfloat16: {error}"
        ) from None


def _array(name, arrays):
    try:
        array = np.asarray(arrays[name])
    except (RuntimeError, TypeError) as error:
        raise ValueError(
            f"{name} is no array: {error}; give model.state_dict(), moved to the CPU"
        ) from None
    except KeyError:
        raise ValueError(f"{name} is missing from the arrays that `rest` gives") from None
    return array


def _here(name, arrays, expected):
    """One of our arrays, of the expected shape and type."""
    if name.theirs is None:
        return np.zeros(expected.shape, expected.dtype)
    array = _array(name.theirs, arrays)
    shape = name.change.there(np.zeros(expected.shape)).shape
    if array.shape != shape:
        raise ValueError(
            f"{name.theirs} has shape {array.shape}; as {name.ours} of this model it must have {shape}"
        )
    for what, dtype in ((name.theirs, array.dtype), (f"the model's {name.ours}", expected.dtype)):
        if not jnp.issubdtype(dtype, jnp.floating):
            raise ValueError(f"{what} must be floats, got {dtype}")
    with np.errstate(over="ignore"):
        array = np.asarray(name.change.here(array), order="C").astype(expected.dtype)
    if not np.isfinite(array).all():
        raise ValueError(
            f"{name.theirs} holds numbers that are not finite, or too large for {expected.dtype}"
        )
    return array


def _check_names(arrays, wanted):
    missing, left = sorted(wanted - {*arrays}), sorted({*arrays} - wanted)
    if missing or left:
        raise ValueError(
            f"the names do not fit: missing {', '.join(missing) or 'none'}; left over {', '.join(left) or 'none'}. "
            "Give names that say where each belongs (spen_jax.interop.Name), or a prefix to read(path, prefix)"
        )


def _check_paths(names, flat, tree):
    paths = [n.ours for n in names if n.ours]
    if any("/" in part for keys in flatten_dict(tree) for part in keys):
        raise ValueError("keys of parameters must have no '/' in them: paths are written with it")
    wrong = sorted({*paths} ^ {*flat})
    if wrong or len({*paths}) < len(paths):
        raise ValueError(
            f"names and model do not fit each other: {', '.join(wrong) or 'a path named twice'} stands in one of them "
            "only; look at the number of hidden layers, and at the model's options"
        )

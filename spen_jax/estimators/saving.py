"""One file for a fitted estimator: arrays as safetensors, all else as JSON in its header; nothing is ever unpickled.

The header's entries: `format` "spen_jax estimator", `version` of the format, `library` that wrote it, `state`, the JSON
of class, parameters and fitted attributes, and `sha256` of state and arrays.
"""

import dataclasses
import hashlib
import json
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import numpy as np

from spen_jax import metrics
from spen_jax.data import Lexicon, Vocabulary
from spen_jax.estimators import tagger_inputs, tagger_model
from spen_jax.estimators.deciding import Decision
from spen_jax.estimators.inputs import Scaling
from spen_jax.estimators.learning import Settings
from spen_jax.estimators.model import Shape
from spen_jax.training.checkpoints import replacing

FORMAT = "spen_jax estimator"
VERSION = 1
RECORDS: dict[str, type] = {
    "Shape": Shape,
    "Settings": Settings,
    "Scaling": Scaling,
    "Decision": Decision,
    "Expected": metrics.Expected,
    "Tuned": metrics.Tuned,
    "Fixed": metrics.Fixed,
    "tagger Shape": tagger_model.Shape,
    "Vectors": tagger_inputs.Vectors,
    "Words": tagger_inputs.Words,
    "Bags": tagger_inputs.Bags,
    "Lexicon": Lexicon,
    "Vocabulary": Vocabulary,
}
"""What a file may hold beside plain values: tuples with names and frozen dataclasses, by name."""
TRAINING = "moments_", "rng_"
"""What training alone needs: `partial_fit` on a loaded estimator begins with new ones."""


def save(estimator: Any, path: str | Path) -> None:
    """Writes a fitted estimator, under a temporary name that is then renamed.

    Its `random_state` is kept where it is a number. TypeError for an attribute that cannot be written.
    """
    from safetensors.numpy import save as to_bytes

    arrays: dict[str, np.ndarray] = {}
    params = estimator.get_params(deep=False)
    if not isinstance(params.get("random_state"), int | np.integer | type(None)):
        params["random_state"] = None
    fitted = {
        name: None if name in TRAINING else value
        for name, value in vars(estimator).items()
        if name.endswith("_")
    }
    state = {
        "class": type(estimator).__name__,
        "params": _plain(params, "params", arrays),
        "fitted": _plain(fitted, "fitted", arrays),
        "output": getattr(estimator, "_sklearn_output_config", {}).get("transform"),
    }
    text = json.dumps(state, allow_nan=True, sort_keys=True)
    header = {
        "format": FORMAT,
        "version": str(VERSION),
        "library": version("spen_jax"),
        "state": text,
        "sha256": _digest(text, arrays),
    }
    with replacing(path) as file:
        file.write(to_bytes(arrays, header))


def load(path: str | Path) -> Any:
    """The estimator of `save`, ready to predict.

    OSError where there is no file; ValueError for a file of another kind, a damaged one, and one of a later version.
    """
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder: give the file that save(path) wrote")
    with open(path, "rb"):
        pass  # what cannot be read says so in Python's words
    try:
        with safe_open(str(path), "numpy") as file:
            header = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}
    except (SafetensorError, OSError, ValueError) as error:
        raise ValueError(
            f"{path} is damaged, or no file that an estimator's save(path) wrote: {error}"
        ) from None
    if header.get("format") != FORMAT:
        raise ValueError(
            f"{path} holds arrays, but no estimator of spen_jax: give the file that save(path) wrote"
        )
    if header.get("version", "").isdecimal() and int(header["version"]) > VERSION:
        raise ValueError(
            f"{path} has version {header['version']} of the format, written by spen_jax {header.get('library')}; this "
            f"one reads up to {VERSION}: install a later spen_jax"
        )
    if _digest(header.get("state", ""), arrays) != header.get("sha256"):
        raise ValueError(
            f"{path} is damaged: its checksum is not that of what it holds; get it again"
        )
    try:
        return _made(json.loads(header["state"]), arrays)
    except (KeyError, TypeError, AttributeError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} holds no estimator that can be made: {error!r}") from None


def written_by(path: str | Path) -> str:
    """The version of spen_jax that wrote a file which `load` has read."""
    from safetensors import safe_open

    with safe_open(str(path), "numpy") as file:
        return (file.metadata() or {}).get("library", "")


def _made(state: dict[str, Any], arrays: dict[str, np.ndarray]) -> Any:
    from spen_jax import estimators

    kinds = estimators.SPENClassifier, estimators.SPENRegressor, estimators.SPENSequenceTagger
    (kind,) = [kind for kind in kinds if kind.__name__ == state["class"]]
    estimator: Any = kind(**_read(state["params"], arrays))
    for name, value in _read(state["fitted"], arrays).items():
        if not name.endswith("_") or name.startswith("_"):
            raise ValueError(f"{name} is no fitted attribute")
        setattr(estimator, name, value)
    if state.get("output"):
        estimator.set_output(transform=state["output"])
    return estimator


def _digest(text: str, arrays: dict[str, np.ndarray]) -> str:
    digest = hashlib.sha256(text.encode())
    for name in sorted(arrays):
        a = np.ascontiguousarray(arrays[name])
        digest.update(f"{name} {a.dtype} {a.shape}".encode())
        digest.update(a.tobytes())
    return digest.hexdigest()


def _plain(value: Any, name: str, arrays: dict[str, np.ndarray]) -> Any:
    """A value as JSON; arrays of numbers go into `arrays` under their path."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, np.generic):
        return _plain(value.item(), name, arrays)
    if isinstance(value, np.ndarray):
        if value.dtype.kind in "biuf":
            arrays[name] = np.ascontiguousarray(value)
            return {"array": name}
        if all(isinstance(item, str) for item in value.ravel().tolist()):
            return {"texts": value.tolist(), "object": value.dtype == object}
    record = next((name for name, kind in RECORDS.items() if kind is type(value)), None)
    if record is not None:
        given = cast(Any, value)
        fields = given._asdict() if hasattr(given, "_asdict") else _fields(given)
        return {"record": record, "fields": _plain(fields, name, arrays)["dict"]}
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {"dict": {k: _plain(v, f"{name}.{k}", arrays) for k, v in value.items()}}
    if isinstance(value, list | tuple):
        items = [_plain(v, f"{name}.{i}", arrays) for i, v in enumerate(value)]
        return {"tuple" if isinstance(value, tuple) else "list": items}
    raise TypeError(f"{name} is a {type(value).__name__}, which a saved estimator cannot hold")


def _fields(value):
    return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}


def _read(value: Any, arrays: dict[str, np.ndarray]) -> Any:
    """What `_plain` made JSON of."""
    if not isinstance(value, dict):
        return value
    if "record" in value:
        fields = {k: _read(v, arrays) for k, v in value["fields"].items()}
        return RECORDS[value["record"]](**fields)
    ((kind, held),) = [item for item in value.items() if item[0] != "object"]
    if kind == "array":
        return arrays[held]
    if kind == "texts":
        return np.array(held, dtype=object if value["object"] else str)
    if kind == "dict":
        return {k: _read(v, arrays) for k, v in held.items()}
    items = [_read(v, arrays) for v in held]
    return tuple(items) if kind == "tuple" else items

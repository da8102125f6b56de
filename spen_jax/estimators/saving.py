"""One file for a fitted estimator, a bundle (`spen_jax.bundles`); nothing is ever unpickled.

Its state is the JSON of class, parameters and fitted attributes, whose numbers are the bundle's arrays.
"""

import dataclasses
from pathlib import Path
from typing import Any, cast

import numpy as np

from spen_jax import metrics
from spen_jax.bundles import BundleError, Contents, read
from spen_jax.data import Lexicon, Vocabulary
from spen_jax.estimators import tagger_inputs, tagger_model
from spen_jax.estimators.deciding import Decision
from spen_jax.estimators.inputs import Scaling
from spen_jax.estimators.learning import Settings
from spen_jax.estimators.model import Shape

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


def contents_of(estimator: Any) -> Contents:
    """A fitted estimator as a bundle without programs.

    Its `random_state` is kept where it is a number. TypeError for an attribute that cannot be written.
    """
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
    return Contents(state, arrays, {})


def load(path: str | Path) -> Any:
    """The estimator of the file `path` that its `save` wrote, ready to predict; nothing is unpickled.

    OSError where there is no file; `BundleError`, a ValueError, for a file of another kind, a damaged one, and one of a
    later version.
    """
    state, arrays, _ = read(path)
    if isinstance(state, dict) and state.get("class") == "Predictor":
        raise BundleError(
            f"{path} holds no estimator but a predictor: spen_jax.serving.load reads it"
        )
    try:
        return _made(state, arrays)
    except (KeyError, TypeError, AttributeError, ValueError, RecursionError) as error:
        raise BundleError(f"{path} holds no estimator that can be made: {error!r}") from None


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

"""Estimators as programs, which `spen_jax.serving` runs alone: what `save(path, programs=True)` adds to a file.

Scaling and decision are NumPy's and stand in the bundle as numbers; the network and inference are one program of CHUNK
rows, as the estimator itself runs them, and one of any number of rows for other devices. Taggers: `tagger_programs`.
"""

from functools import partial
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from spen_jax.bundles import Contents
from spen_jax.estimators import tagger_programs
from spen_jax.estimators.learning import CHUNK, mean_of_members
from spen_jax.estimators.saving import contents_of, load
from spen_jax.exporting import Program, exported, rule_of

FLATS = "fitted.flats_"


def with_programs(estimator: Any, contents: Contents) -> Contents:
    """A fitted estimator's contents with its programs."""
    shape: Any = estimator.shape_
    kind = shape.kind
    if hasattr(estimator, "reader_"):
        return tagger_programs.with_programs(estimator, contents)
    function = partial(_answers, shape.answering)
    row = np.zeros((1, shape.inputs), np.float32)
    weights = {FLATS: jnp.asarray(estimator.flats_)}
    scaling = {
        "kind": estimator.scaling_.kind,
        "arrays": [f"fitted.scaling_.{s}" for s in ("shift", "scale")],
    }
    serving = {
        "answer": kind,
        "scaling": scaling,
        "inputs": {"x": {"array": {"shape": [shape.inputs], "dtype": "float64"}}},
        "rule": None,
        "names": None,
    }
    if kind == "numbers":
        serving |= {
            "one": bool(estimator.one_number_),
            "arrays": ["fitted.y_shift_", "fitted.y_scale_"],
        }
    else:
        serving |= {"names": estimator.classes_.tolist()}
    if kind == "labels":
        decision = estimator.decision_
        rule = {"count": decision.count} if decision.rule is None else rule_of(decision.rule)
        serving |= {"rule": rule, "calibration": [float(decision.a), float(decision.b)]}
    none = np.zeros((1, shape.outputs))
    known = (none.astype(bool), none.astype(np.float32)) if kind == "labels" else None
    program = Program(function, weights, {"x": row}, [CHUNK], known)
    return exported(contents, program, serving)


def exported_anew(path: str | Path) -> Contents:
    """The contents of an estimator's file with programs made now; ValueError and TypeError where it holds none."""
    estimator = load(path)
    return with_programs(estimator, contents_of(estimator))


def _answers(shape, weights, given):
    return {"y": mean_of_members(shape, weights[0], given["x"], given.get("known"))}

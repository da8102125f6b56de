"""The tagger as a program, which `spen_jax.serving` runs alone: one for any number of sequences, places and features.

It is equal to the bit to programs of fixed sizes: a derivative that is unrolled has the examples first in any batch,
and batches of 32 are one block.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from spen_jax.bundles import Contents
from spen_jax.estimators.tagger_learning import answer
from spen_jax.estimators.tagger_model import Shape, fields_like
from spen_jax.exporting import ANY, PLATFORMS, described, serialised
from spen_jax.serving.sequences import CHUNK, LEAST_WIDTH

FLAT = "fitted.flat_"


def with_programs(tagger: Any, contents: Contents) -> Contents:
    """A fitted tagger's contents with its program."""
    shape: Shape = tagger.shape_.answering
    program = serialised(
        partial(_answers, shape),
        PLATFORMS,
        [jax.ShapeDtypeStruct(tagger.flat_.shape, np.float32)],
        _open(shape),
    )
    serving = {
        "answer": "tags",
        "names": tagger.classes_.tolist(),
        "inputs": {"x": {"sequences": shape.kind}},
        "optional": {"known": {"labels": None}},
        "sizes": [CHUNK],
    }
    return described(contents, {ANY: program}, {FLAT: jnp.asarray(tagger.flat_)}, serving)


def _open(shape):
    """x and what is known of a batch whose sequences, places and features of a place are any number."""
    from jax import export  # here: it takes time, and needs a package of its own

    least = [f"places >= {LEAST_WIDTH}"]
    B, T, F = export.symbolic_shape("sequences, places, features", constraints=least)

    def like(a):
        each = (F,) if shape.kind == "features" else a.shape
        return jax.ShapeDtypeStruct((B, T, *each), a.dtype)

    place = jax.ShapeDtypeStruct((B, T), bool)
    labels = jax.ShapeDtypeStruct((B, T, shape.labels), np.float32)
    fields = {name: like(a) for name, a in fields_like(shape).items()}
    return {"x": {"fields": fields, "mask": place}, "known": (place, labels)}


def _answers(shape, weights, given):
    return {"y": answer(shape, weights[0], given["x"], given["known"])}

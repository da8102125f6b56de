"""Answers from a bundle, with jax and NumPy alone: this folder imports nothing else of spen_jax and may be copied.

    bundle = load("weather.spen")
    bundle(x)["y"]

A bundle is one safetensors file (8 bytes of length, a JSON header, arrays): the model's settings, its weights, and as
arrays of bytes the programs of `jax.export` that answer, which jax reads with the package flatbuffers. Nothing is
unpickled, but a program is code: load files of those you trust. N rows, D inputs, L outputs.
"""

# Relative, so that a copy works under any name.
from .bundle import DAYS, Bundle, batches, load
from .files import (
    DTYPES,
    FORMAT,
    PROGRAMS,
    VERSION,
    BundleError,
    Contents,
    digest,
    read,
)

__all__ = [
    "DAYS",
    "DTYPES",
    "FORMAT",
    "PROGRAMS",
    "VERSION",
    "Bundle",
    "BundleError",
    "Contents",
    "batches",
    "digest",
    "load",
    "read",
]

"""Bundles: one safetensors file for a model, its state as JSON in the header beside a checksum; nothing is unpickled.

The header's entries: `format` "spen_jax bundle", `version` of the format, `library` that wrote it, `state`, and
`sha256` of state, arrays and programs. Programs are arrays of bytes named "programs/...". The one reader is in
`serving`, which stands alone.
"""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import IO, Any

import numpy as np

from spen_jax.serving import (
    DTYPES,
    FORMAT,
    PROGRAMS,
    VERSION,
    BundleError,
    Contents,
    digest,
    read,
)

__all__ = ["BundleError", "Contents", "read", "replacing", "write"]


def write(path: str | Path, contents: Contents) -> None:
    """Writes a bundle, under a temporary name that is then renamed; `read` gives the same contents.

    `contents` are the state, anything JSON holds, NumPy's arrays by name, and programs as bytes by name. TypeError for
    an array of another type than safetensors has, or under a program's name; OSError where it cannot be written.
    """
    arrays = dict(contents.arrays)
    if taken := [name for name in arrays if name.startswith(PROGRAMS) or name == "__metadata__"]:
        raise TypeError(f"{taken[0]} is a name that bundles keep for themselves")
    for name, program in contents.programs.items():
        arrays[PROGRAMS + name] = np.frombuffer(program, np.uint8)
    # The widest numbers first, so that all stand where processors like them.
    names = sorted(arrays, key=lambda name: (-arrays[name].dtype.itemsize, name))
    text = json.dumps(contents.state, allow_nan=True, sort_keys=True)
    entries: dict[str, Any] = {
        "__metadata__": {
            "format": FORMAT,
            "version": str(VERSION),
            "library": version("spen_jax"),
            "state": text,
            "sha256": digest(text, arrays),
        }
    }
    entries |= _entries({name: arrays[name] for name in names})
    header = json.dumps(entries, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    with replacing(path) as file:
        file.write(len(header).to_bytes(8, "little") + header)
        for name in names:
            file.write(np.ascontiguousarray(arrays[name]).reshape(-1).view(np.uint8).data)


def _entries(arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """What the header says of each array."""
    types = {np.dtype(dtype): name for name, dtype in DTYPES.items()}
    entries, begin = {}, 0
    for name, a in arrays.items():
        if a.dtype not in types:
            raise TypeError(f"{name} is an array of {a.dtype}, which a bundle cannot hold")
        end = begin + a.nbytes
        kind = types[a.dtype]
        entries[name] = {"dtype": kind, "shape": list(a.shape), "data_offsets": [begin, end]}
        begin = end
    return entries


@contextmanager
def replacing(path: str | Path) -> Iterator[IO[bytes]]:
    """A new binary file that takes the name `path` only if the block ends without an error.

    `with replacing("a.json") as file: file.write(b"{}")`; a file that had the name stays whole until then. OSError
    where it cannot be written.
    """
    path = Path(path)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with open(part, "wb") as file:
            yield file
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)

"""One file for a model, and its one reader: 8 bytes of length, a JSON header, arrays (safetensors)."""

import hashlib
import json
import math
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

FORMAT, EARLIER = "spen_jax bundle", "spen_jax estimator"
"""What the header of a bundle calls itself, and what one of an earlier version does."""
VERSION = 1
"""Of the format that is written, and the latest that is read."""
PROGRAMS = "programs/"
"""What the names of arrays begin with that are programs."""
DTYPES: dict[str, np.dtype] = {
    name: np.dtype("?" if name == "BOOL" else f"<{name[0].lower()}{int(name[1:]) // 8}")
    for name in "BOOL U8 I8 U16 I16 F16 U32 I32 F32 U64 I64 F64".split()
} | {"BF16": np.dtype(jnp.bfloat16)}
"""The types that a file may hold, by safetensors' names."""


class BundleError(ValueError):
    """A file that is no bundle, is damaged, of a later version, without programs or with programs that expired.

    A ValueError.
    """


class Contents(NamedTuple):
    """What a file holds, its checksum in order: the state, arrays by name, programs by name.

    The state is what JSON holds; arrays are NumPy's, of `DTYPES`; programs are bytes, of `jax.export`.
    """

    state: Any
    arrays: dict[str, np.ndarray]
    programs: dict[str, bytes]


def read(path: str | Path) -> Contents:
    """What the bundle at `path` holds, all of it read once; nothing is unpickled, and no program run.

    OSError where there is no file; `BundleError` for a file of another kind, a damaged one, and one of a later version.
    """
    path = Path(path)
    content = bytearray(path.stat().st_size)
    with open(path, "rb") as file:
        del content[file.readinto(content) :]
    try:
        header, arrays = _parsed(content)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise BundleError(f"{path} is damaged, or no bundle of spen_jax: {error}") from None
    if header.get("format") not in (FORMAT, EARLIER):
        raise BundleError(
            f"{path} holds arrays, but no estimator or predictor of spen_jax: give the file that save or export wrote"
        )
    version = header.get("version", "")
    if version.isdecimal() and int(version) > VERSION:
        raise BundleError(
            f"{path} has version {version} of the format, written by spen_jax {header.get('library')}; this "
            f"one reads up to {VERSION}: install a later spen_jax"
        )
    text = header.get("state", "")
    if version != str(VERSION) or digest(text, arrays) != header.get("sha256"):
        raise BundleError(
            f"{path} is damaged: its checksum is not that of what it holds; get it again"
        )
    try:
        state = json.loads(text)
    except (ValueError, RecursionError):
        raise BundleError(
            f"{path} holds no estimator that can be made: its state is no JSON"
        ) from None
    names = [name for name in arrays if name.startswith(PROGRAMS)]
    programs = {name[len(PROGRAMS) :]: arrays.pop(name).tobytes() for name in names}
    return Contents(state, arrays, programs)


def digest(text: str, arrays: dict[str, np.ndarray]) -> str:
    """The SHA-256, in hex, of a state and of arrays, their names, types and shapes; `text` is the state's JSON."""
    found = hashlib.sha256(text.encode())
    for name in sorted(arrays):
        a = arrays[name]
        found.update(f"{name} {a.dtype} {a.shape}".encode())
        found.update(np.ascontiguousarray(a).reshape(-1).view(np.uint8).data)
    return found.hexdigest()


def _parsed(content):
    """The texts and the arrays of a safetensors file; ValueError, and others of a wrong type, for no such file."""
    length = int.from_bytes(content[:8], "little")
    if len(content) < 8 or length > len(content) - 8:
        raise ValueError("it ends before its header does")
    entries = json.loads(bytes(content[8 : 8 + length]))
    texts = {name: str(text) for name, text in entries.pop("__metadata__", {}).items()}
    begin, held, arrays, ends = 8 + length, len(content) - 8 - length, {}, 0
    for name, entry in sorted(entries.items(), key=lambda item: item[1]["data_offsets"]):
        dtype, shape = np.dtype(DTYPES[entry["dtype"]]), tuple(entry["shape"])
        first, last = entry["data_offsets"]
        whole = all(type(n) is int and n >= 0 for n in (*shape, first, last))
        size = math.prod(shape) * dtype.itemsize if whole else -1
        if first != ends or last - first != size or last > held:
            raise ValueError(f"{name} claims bytes that are not its own")
        a = np.frombuffer(content, np.uint8, size, begin + first) if size else np.zeros(0, np.uint8)
        arrays[name], ends = a.view(dtype).reshape(shape), last
    if ends != held:
        raise ValueError("it holds bytes that belong to no array")
    return texts, arrays

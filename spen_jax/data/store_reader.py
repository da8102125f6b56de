"""Arrays larger than memory from a folder of `.npy` files, mapped and checked; `storing` writes such folders."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from spen_jax.data.examples import Numbered
from spen_jax.data.files import DataError
from spen_jax.data.growing import KINDS, Entry, blocks, check_numbers, mapped
from spen_jax.data.store_writer import FORMAT, INDEX, PARTS, VERSION, checksum

SMALL = 2**26
"""Bytes of all files up to which their checksums are always compared."""


@dataclass(frozen=True)
class Stored:
    """What a folder of arrays holds, as `stored` opens it; `fields` is what training takes, a dict of (N, ...)."""

    fields: dict[str, Any]
    """By name, `np.memmap` (N, ...), or SciPy's `csr_array` (N, D) float32 whose arrays are such; read-only."""
    names: Mapping[str, Sequence[str]]
    """Of a field's columns, where they have names."""
    notes: tuple[str, ...] = ()
    """What is known of the data, in words."""

    @property
    def feature_names(self) -> Sequence[str]:
        """The columns of x, () where they have no names."""
        return self.names.get("x", ())

    @property
    def label_names(self) -> Sequence[str]:
        """The columns of y, () where they have no names."""
        return self.names.get("y", ())

    def __repr__(self) -> str:
        """Shapes and notes, not values."""
        lines = [f"{name} {a.dtype} {a.shape}" for name, a in self.fields.items()]
        return "\n  ".join(["Stored:", *lines, *self.notes])


def stored(folder: str | Path, *, check: bool = False) -> Stored:
    """The arrays of a folder that `storing` wrote, mapped into memory: pages are read when they are asked for.

    That files are there and have the sizes, types and shapes they were written with is always checked, and that the
    starts of sparse rows ascend. Sparse fields are marked canonical without looking. Nothing is unpickled.

    Args:
      folder: what `storing` or `store_svmlight` wrote.
      check: also read all numbers once and compare checksums, as is always done for less than 64 MB.

    Raises:
      DataError: names the file that is missing, cut, damaged, or of another version.
      OSError: for a folder that is not there or cannot be read.
    """
    folder = Path(folder)
    fields, entries, names, notes = _index(folder)
    arrays = {file: mapped(folder / file, entry) for file, entry in entries.items()}
    if check or sum(entry.size for entry in entries.values()) <= SMALL:
        for file, entry in entries.items():
            check_numbers(folder / file, entry)
    found: dict[str, Any] = {}
    for name, (kind, shape) in fields.items():
        files = _files_of(name, kind)
        if kind == "dense":
            found[name] = arrays[files[0]]
        else:
            _check_starts(folder / files[2], entries[files[2]], entries[files[0]].shape[0])
            found[name] = _csr(shape, *(arrays[file] for file in files))
    return Stored(found, names, notes)


def _index(folder: Path) -> tuple[dict, dict[str, Entry], dict[str, Sequence[str]], tuple]:
    """Kind and shape of fields, files, names and notes."""
    path = folder / INDEX
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        if not folder.is_dir():
            raise FileNotFoundError(f"{folder}: expected a folder that storing() wrote") from None
        raise DataError(f"{path}: expected the index that storing() writes, got none") from None
    try:
        said = json.loads(raw)
        if said["format"] != FORMAT:
            raise ValueError(f"the format {said['format']!r}")
        version, content = said["version"], said["content"]
        if version == VERSION and checksum(content) != said["checksum"]:
            raise ValueError("another checksum than that of its content")
        read = None if version != VERSION else _read(content)
    # Bytes from anywhere, deeply nested ones among them.
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise DataError(
            f"{path}: expected the index that storing() writes, got {type(error).__name__}: {error}; store anew"
        ) from error
    if read is None:
        raise DataError(
            f"{path}: expected version {VERSION} of the format, got {version!r}: store anew, or read it with the"
            " spen_jax that wrote it"
        )
    return read


def _read(content: Any) -> tuple[dict, dict[str, Entry], dict[str, Sequence[str]], tuple]:
    """What an index says, if it fits together; any of a few errors if not."""
    entries = {
        file: Entry(
            np.dtype(e["dtype"]).str, _shape(e["shape"]), int(e["size"]), int(e["checksum"])
        )
        for file, e in content["files"].items()
    }
    if any(np.dtype(entry.dtype).kind not in KINDS for entry in entries.values()):
        raise ValueError("arrays that hold no numbers")
    fields = {n: (f["kind"], _shape(f["shape"])) for n, f in content["fields"].items()}
    for name, (kind, shape) in fields.items():
        parts = [entries[file] for file in _files_of(name, kind)]
        if kind == "dense":
            fits = parts[0].shape == shape
        else:
            values, indices, starts = parts
            fits = values.shape == indices.shape == (math.prod(values.shape),)
            fits &= len(shape) == 2 and starts.shape == (shape[0] + 1,)
            fits &= values.dtype == np.dtype(np.float32).str
            fits &= indices.dtype == starts.dtype and np.dtype(starts.dtype).kind == "i"
        if not fits:
            raise ValueError(f"files that do not make {name} {shape}")
    if {*entries} != {file for name, (kind, _) in fields.items() for file in _files_of(name, kind)}:
        raise ValueError("files of no field")
    names = {name: _names(each) for name, each in content["names"].items()}
    return fields, entries, names, tuple(map(str, content["notes"]))


def _files_of(name: str, kind: str) -> list[str]:
    if kind not in ("dense", "sparse") or not name.isidentifier():
        raise ValueError(f"a field {name!r} of the kind {kind!r}")
    return [f"{name}.npy"] if kind == "dense" else [f"{name}.{part}.npy" for part in PARTS]


def _shape(said: Any) -> tuple[int, ...]:
    if not said or not all(type(n) is int and n >= 0 for n in said):
        raise ValueError(f"the shape {said}")
    return tuple(said)


def _names(said: Any) -> Sequence[str]:
    return Numbered(said["n"], said["first"]) if isinstance(said, dict) else tuple(map(str, said))


def _check_starts(path: Path, entry: Entry, entries: int) -> None:
    """`DataError` unless starts ascend from 0 to the number of entries: SciPy trusts them."""
    last = 0
    for i, block in enumerate(blocks(path, entry)):
        if (i == 0 and block[0] != 0) or block[0] < last or (np.diff(block) < 0).any():
            raise DataError(f"{path}: expected starts of rows that ascend from 0; store anew")
        last = int(block[-1])
    if last != entries:
        raise DataError(f"{path}: expected starts of rows up to {entries}, got {last}; store anew")


def _csr(shape: tuple[int, ...], values: Any, indices: Any, starts: Any) -> Any:
    """CSR of mapped arrays; the constructor of SciPy would read all of them."""
    from scipy import sparse

    made = sparse.csr_array(shape, dtype=np.float32)
    made.data, made.indices, made.indptr = values, indices, starts
    made.has_sorted_indices = made.has_canonical_format = True
    return made

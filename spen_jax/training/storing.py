"""One checkpoint on disk: arrays by path, what is said of them, and their checksums.

Arrays that a process has whole are written by the first process, and their SHA-256 stands beside them; of those cut
over processes each writes its part, and `sums` stand beside them. Each reads for itself, on whatever devices.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from spen_jax.serving import digest
from spen_jax.training.sums import is_cut, sums_of

VERSION = 2


def saved(folder: Path, begun: str, arrays: Mapping[str, Any]) -> Any:
    """Begins to write arrays, of a training that began so, in the background; `.result()` waits until all is there."""
    import orbax.checkpoint.experimental.v1 as ocp

    cut = {name: a for name, a in arrays.items() if is_cut(a)}
    whole = {name: a for name, a in arrays.items() if name not in cut}
    said: dict[str, Any] = {"version": VERSION, "begun": begun}
    said |= {"sha256": digest("", whole), "sums": sums_of(cut)}
    # Orbax takes no array without numbers.
    said["empty"] = {n: [a.shape, a.dtype.name] for n, a in whole.items() if not a.size}
    full = {name: a for name, a in arrays.items() if a.size}
    return ocp.save_async(str(folder), full, custom_metadata=said)


def loaded(folder: Path, like: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What a checkpoint says of itself, and its arrays: in NumPy, or as those of `like` that are cut; not `verified`.

    It waits for no other process.
    """
    import orbax.checkpoint.experimental.v1 as ocp

    alone = ocp.Context()
    alone.multiprocessing.primary_host = jax.process_index()
    alone.multiprocessing.active_processes = {jax.process_index()}
    with alone:
        there = ocp.metadata(str(folder))
        said: Any = there.custom_metadata
        if said["version"] != VERSION:
            raise ValueError(f"version {said['version']} of the format, and this reads {VERSION}")
        written: Any = there.metadata
        wanted = {name: _wanted(a, like.get(name)) for name, a in written.items()}
        arrays = dict(ocp.load(str(folder), wanted))
    arrays |= {name: np.zeros(*of) for name, of in said["empty"].items()}
    return said, arrays


def _wanted(written, like):
    if is_cut(like) and like.shape == written.shape:
        return jax.ShapeDtypeStruct(written.shape, written.dtype, sharding=like.sharding)
    return np.ndarray


def verified(said: Mapping[str, Any], arrays: Mapping[str, Any]) -> None:
    """ValueError unless the arrays are what was written; all processes have to call it."""
    cut = {name: a for name, a in arrays.items() if name in said["sums"]}
    whole = {name: a for name, a in arrays.items() if name not in cut}
    if digest("", whole) != said["sha256"] or sums_of(cut) != said["sums"]:
        raise ValueError("its checksum is not that of what was written")

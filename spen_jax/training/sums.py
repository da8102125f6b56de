"""Checksums that are sums: of an array cut over processes each adds up its own part, and none has the whole.

Of the bits b of word i of an array, in its order of rows, lane k adds mix(k + mix(i) xor b) modulo 2^32; with LANES of
them that is a number of 128 bits. mix is the finaliser of MurmurHash3 (A. Appleby, 2011). It finds what is damaged, not
what is forged.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

LANES, BLOCK = 4, 2**16
STEP = 0x9E3779B9


def is_cut(a: Any) -> bool:
    """Whether an array is one of which no process has the whole."""
    return isinstance(a, jax.Array) and not (a.is_fully_addressable or a.is_fully_replicated)


def sums_of(arrays: Mapping[str, Any]) -> dict[str, str]:
    """The type, shape and checksum of each array; all processes have to call it where one is cut."""
    cut = {name: a for name, a in arrays.items() if is_cut(a)}
    found = {name: of_host(np.asarray(a)) for name, a in arrays.items() if name not in cut}
    found |= jax.device_get(of_devices(cut)) if cut else {}
    return {name: f"{a.dtype} {a.shape} {_hex(found[name])}" for name, a in arrays.items()}


def _hex(lanes):
    return "".join(f"{int(n):08x}" for n in lanes)


def of_host(a: np.ndarray) -> list[int]:
    """The LANES of an array of this process."""
    words = np.ascontiguousarray(a).reshape(-1)
    width = min(a.dtype.itemsize, 4)
    words, total = words.view(f"u{width}"), [0] * LANES
    for begin in range(0, words.size, BLOCK):
        part = words[begin : begin + BLOCK].astype(np.uint32)
        places = np.arange(begin, begin + part.size).astype(np.uint32)
        mixed = _mix(places) ^ part
        for k in range(LANES):
            total[k] += int(_mix(mixed + np.uint32(k * STEP % 2**32)).sum(dtype=np.uint32))
    return [n % 2**32 for n in total]


@jax.jit
def of_devices(arrays: Any) -> Any:
    """Those of each array of a tree, (LANES,), wherever its parts lie."""
    return jax.tree.map(_of_array, arrays)


def _of_array(a):
    if jnp.iscomplexobj(a):
        a = jnp.stack([a.real, a.imag], axis=-1)
    if a.dtype == bool:
        a = a.astype(jnp.uint8)
    kind = {1: jnp.uint8, 2: jnp.uint16}.get(a.dtype.itemsize, jnp.uint32)
    words = lax.bitcast_convert_type(a, kind).astype(jnp.uint32)  # of 8 bytes two, in a new axis
    places, stride = jnp.zeros(words.shape, jnp.uint32), 1
    for axis in reversed(range(words.ndim)):
        along = lax.broadcasted_iota(jnp.uint32, words.shape, axis)
        places += along * jnp.uint32(stride % 2**32)
        stride *= words.shape[axis]
    mixed = _mix(places) ^ words
    lanes = [_mix(mixed + jnp.uint32(k * STEP % 2**32)) for k in range(LANES)]
    return jnp.stack(list(map(partial(jnp.sum, dtype=jnp.uint32), lanes)))


def _mix(a):
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        a = (a ^ (a >> np.uint32(shift))) * np.uint32(factor)
    return a ^ (a >> np.uint32(16))

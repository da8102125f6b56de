"""Parts of a batch: blocks that stay in a core's cache within a compiled function, and batches that call one."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer

from spen_jax import parallel, sparse


def in_blocks(
    solve: Callable[[Any, Any], Any],
    shared: Any,
    batch: Any,
    numbers: int,
    *,
    again: bool = False,
) -> Any:
    """solve(shared, block) for consecutive blocks of examples, one after another, and the results joined.

    `batch` and the results are pytrees of arrays with the examples along the first axis; a step works on
    so many `numbers` an example. The last block is filled with copies of the last example, which are cut off again.
    Where the batch stands on a mesh, each device works on its own examples, in blocks of their own; `solve` then closes
    over no traced arrays but gets them as `shared`.
    With `again` a backward pass repeats a block's forward pass, so that only one block's steps are kept.
    """
    return parallel.over_devices(partial(_in_blocks, solve, numbers, again), shared, batch)


def _in_blocks(solve, numbers, again, shared, batch):
    size = jax.tree.leaves(batch)[0].shape[0]
    blocks, block = block_sizes(size, numbers)
    if blocks == 1:
        return solve(shared, batch)
    if again:
        solve = jax.checkpoint(solve, prevent_cse=False)

    def split(a):
        a = jnp.pad(a, [(0, blocks * block - size)] + [(0, 0)] * (a.ndim - 1), mode="edge")
        return a.reshape(blocks, block, *a.shape[1:])

    def join(a):
        return a.reshape(blocks * block, *a.shape[2:])[:size]

    return jax.tree.map(join, lax.map(partial(solve, shared), jax.tree.map(split, batch)))


def block_sizes(batch: int, numbers: int) -> tuple[int, int]:
    """How many blocks of how many examples, for so many `numbers` an example.

    On a CPU one array of a block holds about 40,000 numbers (160 kB), so that the handful a step
    touches stays in a core's second-level cache; blocks of fewer than 32 examples would waste its
    vector units. Elsewhere one block, and for a batch whose size is open.
    """
    if jax.default_backend() != "cpu" or not is_number(batch):
        return 1, batch
    fits = 256
    while fits > 32 and fits * numbers > 40960:
        fits //= 2
    blocks = max(1, math.ceil(batch / fits))
    block = math.ceil(batch / blocks)
    return blocks, (block if blocks == 1 else math.ceil(block / 8) * 8)


def is_number(size: Any) -> bool:
    """Whether a size is a number; one that is open is a symbol, of `jax.export.symbolic_shape`."""
    return isinstance(size, int | np.integer)


def by_rows(function: Callable[..., Any], shared: Any, *arrays: jax.Array) -> Any:
    """function(shared, *arrays) of arrays (..., K) and (...), first of all of them (..., K), reducing the last axis.

    A large first array is worked on in blocks of rows, so that what is computed from it stays in a core's
    cache and nothing of its size is made: compiled once for each function, which is to be the same object again.
    Not to be differentiated.
    """
    *shape, width = arrays[0].shape
    rows = math.prod(shape)
    if rows * width < 2**18 or block_sizes(rows, width)[0] == 1:
        return function(shared, *arrays)
    return _by_rows(function, shared, arrays)


@partial(jax.jit, static_argnums=0)
def _by_rows(function, shared, arrays):
    *shape, width = arrays[0].shape
    flat = [a.reshape(math.prod(shape), *a.shape[len(shape) :]) for a in arrays]
    found = in_blocks(lambda shared, block: function(shared, *block), shared, flat, width)
    return jax.tree.map(lambda a: a.reshape(*shape, *a.shape[1:]), found)


def in_batches(
    function: Callable[[Any, Any], Any],
    shared: Any,
    batch: Any,
    size: int,
    steps: int,
    *,
    always: bool = False,
) -> Any:
    """function(shared, part) for parts of a batch of at most `size` examples, joined: few sizes are compiled.

    `batch` and the results are pytrees whose arrays have a leading axis of examples, on which the function takes so
    many `steps`. The sizes are powers of 8; what is
    left over runs in the next size, filled up with copies of the last example whose results are dropped, or in up
    to three runs of the size below. Parts are cut and joined on the host, where no shape is compiled, and spread over
    the mesh in use; a batch that stands on a mesh already runs whole, unless it is `always` to be cut alike. Within
    `jit`, `grad` and the like the function gets the whole batch: the program around it has one size.
    A `sparse.Matrix` is cut to `sparse.Rows`, and its batch runs on one device. ValueError for arrays of different
    lengths.
    """
    leaves = jax.tree.leaves(batch)
    n = np.shape(leaves[0])[0]
    for path, a in jax.tree.leaves_with_path(batch):
        if np.shape(a)[:1] != (n,):
            raise ValueError(
                f"all arrays of a batch need its leading axis of {n} examples, but the one at "
                f"{jax.tree_util.keystr(path)} has shape {np.shape(a)}"
            )
    sizes = _sizes(n, size)
    if sizes in ([], [n]) or (parallel.mesh_of(batch) is not None and not always):
        return parallel.call(function, shared, sparse.cut(batch, np.arange(n)), steps)
    whole, results = batch, []
    batch = jax.tree.map(
        lambda a: a if isinstance(a, sparse.Matrix) else parallel.on_host(a), batch
    )
    for first, length in zip(np.cumsum([0, *sizes]), sizes, strict=False):
        rows = np.minimum(np.arange(first, first + length), n - 1)
        part = jax.tree.map(lambda a, rows=rows: a[rows], batch)
        results.append(parallel.call(function, shared, part, steps))
        if any(isinstance(a, Tracer) for a in jax.tree.leaves(results)):
            # A program is being made around it.
            return function(shared, sparse.cut(whole, np.arange(n)))

    def joined(*parts):
        # jnp.asarray would compile a copy of each new shape.
        return jax.device_put(np.concatenate(list(map(parallel.fetched, parts)))[:n])

    return jax.tree.map(joined, *results)


def _sizes(n, most):
    """The sizes of the runs that n examples are made in."""
    powers = [8**k for k in range(10) if 8**k < most] + [most]
    sizes = []
    while n > 0:
        next_one = next((p for p in powers if p >= n), most)
        below = powers[max(powers.index(next_one) - 1, 0)]
        sizes.append(below if next_one > n and n <= 3 * below else next_one)
        n -= sizes[-1]
    return sizes

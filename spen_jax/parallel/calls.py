"""Calls of a compiled function: on the mesh in use, where that is worth it."""

import math
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.extend.core import jaxprs_in_params
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from spen_jax import convolutions
from spen_jax.parallel.meshes import axis_of, in_use, mesh_of_any, moved, on_host, standing_on
from spen_jax.sparse import has_rows

LEAST = 2**20
"""Steps times numbers of a batch below which it runs on one device: to wake the others would take longer."""
OPERATIONS, AGAIN = 1e8, 5000
"""What a training step on a CPU must have at least to be spread, and for each of its parameters; see `worth_it`."""


def call(function: Callable[[Any, Any], Any], shared: Any, batch: Any, steps: int) -> Any:
    """function(shared, batch), on the mesh in use where so many steps on so many numbers are worth it.

    A batch that stands on a mesh runs there, a traced one as it is. Without a mesh in use that of `shared` is taken.
    Where the devices do not divide the examples, it is filled up and the results are cut on the host. The arrays of the
    batch and of the results have the examples along the first axis, (B, ...). A batch with sparse rows runs on one
    device. What `minimize`, `sample` and a `Predictor` call.
    """
    if _one_device():
        return function(shared, batch)
    if has_rows(batch):
        return function(*jax.tree.map(_on_one, (shared, batch)))
    leaves = jax.tree.leaves(batch)
    standing = mesh_of_any(batch)
    mesh: Any = standing or in_use()
    if mesh is None and jax.sharding.get_abstract_mesh().empty:
        mesh = mesh_of_any(shared)
    axis = None if mesh is None else axis_of(mesh, None)
    if (
        mesh is None
        or axis is None
        or any(isinstance(a, Tracer) for a in (*leaves, *jax.tree.leaves(shared)))
    ):
        return function(shared, batch)
    if standing is not None:
        return function(moved(shared, mesh), moved(batch, mesh))
    rows, parts = jnp.shape(leaves[0])[0], mesh.shape[axis]
    work = steps * sum(map(jnp.size, leaves))
    if (rows < parts or work < LEAST) and jax.process_count() == 1:
        return function(*jax.tree.map(_on_one, (shared, batch)))
    found = function(moved(shared, mesh), jax.tree.map(partial(_filled_up, mesh), batch))
    if not rows % parts:
        return found
    if any(isinstance(a, Tracer) for a in jax.tree.leaves(found)):  # the function closes over one
        return jax.tree.map(lambda a: a[:rows], found)
    return jax.tree.map(lambda a: jax.device_put(fetched(a)[:rows]), found)


@cache
def _one_device():
    return jax.device_count() == 1


def _filled_up(mesh, a):
    """An array spread over the devices, with copies of its last row where they do not divide its length."""
    sharding, a = NamedSharding(mesh, P(axis_of(mesh))), on_host(a)
    rows, parts = len(a), mesh.shape[axis_of(mesh)]
    if isinstance(a, jax.Array):
        return jax.device_put(a[np.minimum(np.arange(rows + -rows % parts), rows - 1)], sharding)

    def part(index):
        own = a[index]
        short = (index[0].stop or rows + -rows % parts) - (index[0].start or 0) - len(own)
        return np.concatenate([own, np.repeat(a[-1:], short, axis=0)]) if short else own

    shape = (rows + -rows % parts, *a.shape[1:])
    return jax.make_array_from_callback(shape, sharding, part)


def fetched(a: Any) -> np.ndarray:
    """The array `a` as NumPy's, whole, wherever it stands; in each process where there are several, all of which call.

    `parallel.fetched(state.params["W"])` of an array that `sharded` has cut over processes, which NumPy cannot read.
    """
    if isinstance(a, jax.Array) and not a.is_fully_addressable:
        a = _gathering(standing_on(a))(a)
    return np.asarray(a)


@cache
def _gathering(mesh):
    return jax.jit(lambda a: a, out_shardings=NamedSharding(mesh, P()))


def beside(where: Any, tree: Any) -> Any:
    """The tree on a mesh, or that of an array of `where`: everywhere, but for what stands on it already.

    Where no array of `where` stands on a mesh of several devices the tree is returned as it is.
    """
    mesh = where if isinstance(where, Mesh) else mesh_of_any(where)
    return tree if mesh is None else moved(tree, mesh)


def worth_it(jaxpr: Callable[[], Any], params: Any, rows: int) -> bool:
    """Whether training steps on so many rows, which compute `jaxpr()`, are to run on the mesh in use.

    Always on accelerators and over several processes. The cores of a CPU have to be woken for each step, and each
    updates all parameters: that takes as long as 10^8 operations of matrix products, and 5,000 for each number of the
    tree `params`, so that `fit` spreads a step of as many `operations`. False without a mesh in use.
    """
    mesh = in_use()
    if mesh is None:
        return False
    if jax.default_backend() != "cpu" or jax.process_count() > 1:
        return True
    if rows < mesh.size:
        return False
    return operations(jaxpr()) >= OPERATIONS + AGAIN * sum(map(jnp.size, jax.tree.leaves(params)))


def operations(jaxpr: Any) -> float:
    """Operations of the matrix products and convolutions of a jaxpr; a loop of unknown length counts once.

    `operations(jax.make_jaxpr(f)(x).jaxpr)`, a float: two for each number multiplied, a product and a sum.
    """
    total = 0.0
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == "dot_general":
            (over, _), _ = eqn.params["dimension_numbers"]
            shape = eqn.invars[0].aval.shape
            total += 2 * eqn.outvars[0].aval.size * math.prod(shape[i] for i in over)
        elif (convolution := convolutions.result_and_kernel(eqn)) is not None:
            result, kernel = convolution
            out_features = kernel.shape[eqn.params["dimension_numbers"].rhs_spec[0]]
            total += 2 * result.size * kernel.size / out_features
        else:
            inner = [operations(j) for j in jaxprs_in_params(eqn.params)] or [0.0]
            once = max(inner) if eqn.primitive.name == "cond" else sum(inner)
            total += once * eqn.params.get("length", 1)
    return total


def _on_one(a):
    """An array on one device, free to meet those on others."""
    if isinstance(a, Tracer) or standing_on(a) is None:
        return a
    if jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
        data = jax.device_put(fetched(jax.random.key_data(a)))
        return jax.random.wrap_key_data(data, impl=jax.random.key_impl(a))
    return jax.device_put(fetched(a))

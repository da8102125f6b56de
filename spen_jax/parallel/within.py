"""Within a program: each device's own examples, rows and state that stand where they stood."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.core import Tracer
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from spen_jax.parallel.meshes import axis_of, standing_on
from spen_jax.sparse import is_rows

EVERYWHERE = P()


def mesh_of(*trees: Any) -> Any:
    """The mesh that arrays of `trees` stand on, abstract where traced; None on one device and in a device's part."""
    found = None
    for a in filter(lambda a: isinstance(a, jax.Array), jax.tree.leaves(trees)):
        mesh = jax.typeof(a).sharding.mesh if isinstance(a, Tracer) else standing_on(a)
        if mesh is None or mesh.empty or mesh.size == 1:
            continue
        if AxisType.Manual in mesh.axis_types:
            return None
        found = found or mesh
    return found


def over_devices(function: Callable[[Any, Any], Any], shared: Any, batch: Any) -> Any:
    """function(shared, part) of each device's own examples, the results joined; of all where there is one.

    `batch` and the results are pytrees of arrays with the examples along the first axis. What is shared is everywhere;
    derivatives in it are summed over the devices. Where these do not divide the examples, copies of the last
    one fill them up, and are cut off again. Within a traced function: a mesh is seen by where the batch stands.
    """
    mesh, axis = _mesh_and_axis(batch)
    if axis is None:
        return function(shared, batch)
    if AxisType.Explicit in mesh.axis_types:
        return automatic(partial(over_devices, function), shared, batch, batched=True)
    if mesh.shape[axis] == 1:  # the devices lie along other axes, along which XLA cuts
        return function(shared, batch)
    size = jnp.shape(jax.tree.leaves(batch)[0])[0]
    short = -size % mesh.shape[axis]
    if short:
        batch = jax.tree.map(
            lambda a: jnp.pad(a, [(0, short)] + [(0, 0)] * (a.ndim - 1), mode="edge"), batch
        )
    each = jax.shard_map(
        function,
        mesh=mesh,
        in_specs=(P(), P(axis)),
        out_specs=P(axis),
        axis_names={axis},
        check_vma=False,
    )
    found = each(shared, batch)
    return jax.tree.map(lambda a: a[:size], found) if short else found


def taken(data: Any, rows: Any) -> Any:
    """The examples `rows` of data that stand everywhere, each device's own on it; sparse `Rows` are cut already.

    Where the devices do not divide their number, XLA fills them up and leaves what it filled in out of every sum.
    """
    mesh, axis = _mesh_and_axis(data, rows)
    if axis is None:
        return jax.tree.map(lambda a: a if is_rows(a) else a[rows], data, is_leaf=is_rows)
    size = len(rows)
    rows = jnp.pad(jnp.asarray(rows), (0, -size % mesh.shape[axis]), mode="edge")

    def take(a):
        return lax.with_sharding_constraint(a[rows], NamedSharding(mesh, P(axis)))[:size]

    return jax.tree.map(take, data)


def automatic(
    function: Callable[..., Any], *args: Any, batched: bool = False, out: Any = EVERYWHERE
) -> Any:
    """function(*args) with XLA cutting the work, where arrays stand on a mesh of explicit axes too.

    The results lie along the batch if they are `batched` and the devices divide that of the last argument, else as
    `out` says, a `PartitionSpec` or a tree of them; everywhere by default.
    """
    mesh, axis = _mesh_and_axis(args)
    if mesh is None or AxisType.Explicit not in mesh.axis_types:
        return function(*args)
    if batched and axis and not jnp.shape(jax.tree.leaves(args[-1])[0])[0] % mesh.shape[axis]:
        out = P(axis)
    out = jax.tree.map(
        lambda spec: NamedSharding(mesh, spec), out, is_leaf=lambda a: isinstance(a, P)
    )
    return jax.sharding.auto_axes(function, out_sharding=out)(*args)


def specs(tree: Any, where: tuple[Any, ...] | None) -> Any:
    """How a tree is to lie that stood as `places` found it, `where`: a tree of `PartitionSpec`, `P()` for None."""
    if where is None:
        return P()
    found = [sharding.spec if isinstance(sharding, NamedSharding) else P() for sharding in where]
    return jax.tree.structure(tree).unflatten(found)


def places(tree: Any) -> tuple[Any, ...] | None:
    """How each array of a tree stands on its mesh; None where the first does not, or is traced."""
    leaves = jax.tree.leaves(tree)
    first = next((a for a in leaves if isinstance(a, jax.Array)), None)
    if first is None or isinstance(first, Tracer) or standing_on(first) is None:
        return None
    return tuple(getattr(a, "sharding", None) for a in leaves)


def kept(tree: Any, where: tuple[Any, ...] | None) -> Any:
    """The tree, in a traced function, with its arrays standing as `places` found them, `where`; for None as it is."""
    if where is None:
        return tree
    leaves, structure = jax.tree.flatten(tree)

    def keep(a, sharding):
        if not isinstance(sharding, NamedSharding):
            return a
        names = sharding.mesh.axis_names
        mesh: Any = sharding.mesh
        mesh = Mesh(mesh.devices, names, axis_types=(AxisType.Auto,) * len(names))
        return lax.with_sharding_constraint(a, NamedSharding(mesh, sharding.spec))

    return structure.unflatten(map(keep, leaves, where))


def _mesh_and_axis(*trees) -> tuple[Any, str | None]:
    """The mesh, and the axis of it that a batch lies along, None each where there is none."""
    mesh = mesh_of(*trees)
    return mesh, None if mesh is None else axis_of(mesh, None)

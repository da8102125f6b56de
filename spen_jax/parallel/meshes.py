"""Which devices: the cores of one machine, its accelerators, a mesh of one's own; and arrays put on them."""

import os
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

AXIS, LABELS = "batch", "labels"

# On a CPU XLA cuts loops over more than a few thousand numbers in pieces for several threads. Those of a block are so
# short that handing them over takes longer than running them, and threads in search of work hold up the other devices.
_ONE_THREAD_EACH = (
    "--xla_disable_hlo_passes=cpu-parallel-task-assigner --xla_cpu_multi_thread_eigen=false"
)
_chosen: dict[str, Mesh | None] = {}


def all_cores(cores: int | None = None) -> Mesh:
    """Makes each core of this machine a device of JAX, and spreads batches over all of them from now on.

    To be called before anything is computed, in each process, where there are several after
    `jax.distributed.initialize`. A program whose arrays stand on one device then runs on one core, but for its large
    matrix products. With an accelerator the devices are the accelerators, as by `all_devices`.

    Args:
      cores: how many; None for all that this process may run on.

    Returns:
      The mesh, of the axis "batch".

    Raises:
      RuntimeError: where JAX has computed something before, after which its devices are settled.
      ValueError: for a number below 1.
    """
    cores = len(_processors()) if cores is None else cores
    if cores != int(cores) or cores < 1:
        raise ValueError(f"cores must be a whole number, 1 or more, or None for all, got {cores}")
    if _chosen.get("cores") is not None and jax.local_device_count() == cores:
        return use(_chosen["cores"])
    flags = os.environ.get("XLA_FLAGS")
    try:
        jax.config.update("jax_num_cpu_devices", int(cores))
        os.environ["XLA_FLAGS"] = f"{flags or ''} {_ONE_THREAD_EACH}".strip()
        jax.devices()  # XLA reads the flags now; programs that this one starts are to choose their own
    except RuntimeError as error:
        if "before" not in str(error):
            raise
        raise RuntimeError(
            "all_cores() comes too late: JAX has computed something already, and its devices are settled. Call it "
            "first, right after the imports; a module that makes an array as it is imported must come after it"
        ) from None
    finally:
        if flags is None:
            os.environ.pop("XLA_FLAGS", None)
        else:
            os.environ["XLA_FLAGS"] = flags
    _chosen["cores"] = all_devices()
    return _chosen["cores"]


def all_devices() -> Mesh:
    """Spreads batches over all devices of JAX's default backend, those of all processes, from now on.

    Returns the mesh, of the axis "batch". Of the cores of a CPU `all_cores` makes devices.
    """
    return use(jax.make_mesh((jax.device_count(),), (AXIS,), axis_types=(AxisType.Auto,)))


def use(mesh: Mesh | None) -> Any:
    """Spreads batches over a mesh from now on, None for over none: `minimize`, `sample`, `Predictor` and `fit` do so.

    `mesh` is one of `jax.make_mesh`, whose axis "batch", or only axis, batches lie along; it is returned. ValueError
    for a mesh of several axes of which none is "batch".
    """
    if mesh is not None:
        axis_of(mesh)
    _chosen["mesh"] = mesh
    return mesh


def in_use() -> Mesh | None:
    """The mesh that `all_cores`, `all_devices` or `use` chose last; None where there is none."""
    return _chosen.get("mesh")


def split(batch: Any, mesh: Mesh | None = None) -> Any:
    """A tree of arrays with their examples spread over the devices; where these do not divide them, everywhere.

    `batch` holds arrays (B, ...); `mesh` is by default the one in use; without one nothing is moved. ValueError for a
    mesh of several axes of which none is "batch".
    """
    mesh = mesh or in_use()
    if mesh is None:
        return batch
    axis = axis_of(mesh)

    def part(a):
        divides = jnp.ndim(a) and not jnp.shape(a)[0] % mesh.shape[axis]
        return put(a, NamedSharding(mesh, P(axis) if divides else P()))

    return jax.tree.map(part, batch)


def everywhere(tree: Any, mesh: Mesh | None = None) -> Any:
    """A tree of arrays, such as parameters, with a copy on each device of the mesh, by default the one in use.

    Without one nothing is moved. Arrays may have any shape; random keys go too.
    """
    mesh = mesh or in_use()
    if mesh is None:
        return tree
    return jax.tree.map(lambda a: put(a, NamedSharding(mesh, P())), tree)


def sharded(tree: Any, mesh: Mesh | None = None) -> Any:
    """A tree of arrays, such as a training's state, each cut along its longest axis that the devices divide.

    Fully sharded data parallel training: what a step needs whole it gathers, and gradients are summed into the parts.
    Arrays without such an axis, and random keys, are everywhere. `mesh` is by default the one in use; without one
    nothing is moved. ValueError for a mesh of several axes of which none is "batch". Source: Rajbhandari et al. (2020).
    """
    mesh = mesh or in_use()
    if mesh is None:
        return tree
    axis = axis_of(mesh)

    def part(a):
        fits = [n if not n % mesh.shape[axis] else 0 for n in jnp.shape(a)]
        keys = jnp.issubdtype(jnp.result_type(a), jax.dtypes.prng_key)
        if keys or not any(fits):
            return put(a, NamedSharding(mesh, P()))
        longest = int(np.argmax(fits))
        return put(a, NamedSharding(mesh, P(*[None] * longest, axis)))

    return jax.tree.map(part, tree)


def label_mesh(batch: int = 1) -> Mesh:
    """A mesh of all devices with the axes "batch" and "labels", `batch` of them along the first; see `by_label`.

    ValueError for a number that does not divide that of the devices.
    """
    count = jax.device_count()
    if batch < 1 or count % batch:
        raise ValueError(f"batch must divide the number of devices, {count}, got {batch}")
    return jax.make_mesh((batch, count // batch), (AXIS, LABELS), axis_types=(AxisType.Auto,) * 2)


def by_label(tree: Any, n_labels: int, mesh: Mesh) -> Any:
    """A tree of arrays, such as a LabelSPEN's parameters, with the rows of n_labels labels spread over a mesh.

    An array whose first axis is n_labels long lies along the axis "labels", each other one everywhere. What is computed
    of them follows: with x on the mesh too, by `split`, each device has its own labels' potentials, relaxed labels and
    gradients, and a step of inference says one thing between devices, the sums over labels that the global units see,
    (B, M). An energy that looks at two labels at once makes XLA say more.
    ValueError for a mesh without the axes "batch" and "labels", and where the devices do not divide the labels.
    """
    if not {AXIS, LABELS} <= {*mesh.axis_names}:
        raise ValueError(
            f"labels lie along the axis {LABELS!r} of a mesh that also has {AXIS!r}, such as label_mesh(), got "
            f"{mesh.axis_names}"
        )
    parts = mesh.shape[LABELS]
    if n_labels % parts:
        raise ValueError(
            f"{parts} devices must divide {n_labels} labels: add {-n_labels % parts} rows of zeros whose bias is -100"
        )

    def part(a):
        along = jnp.ndim(a) and len(a) == n_labels
        return put(a, NamedSharding(mesh, P(LABELS) if along else P()))

    return jax.tree.map(part, tree)


def check_divided(mesh: Mesh, count: int) -> None:
    """ValueError unless the devices of the mesh divide `count`, the rows of a batch of memory-mapped data."""
    parts = mesh.shape[axis_of(mesh)]
    if count % parts:
        raise ValueError(
            f"memory-mapped data on {parts} devices need a batch size that these divide, got {count}"
        )


def own_rows(mesh: Mesh, count: int) -> np.ndarray:
    """Which rows of a batch on the mesh lie on devices of this process: all where the devices do not divide them.

    Of `count` rows their numbers, ascending, whole numbers (n,): what this process has to read for `of_own_rows`.
    """
    places = _of_rows(mesh, count).addressable_devices_indices_map((count,))
    return np.unique(np.concatenate([np.arange(count)[at] for at in places.values() if at]))


def of_own_rows(mesh: Mesh, part: np.ndarray, count: int) -> jax.Array:
    """The batch (count, ...) on the mesh of which each process gives its `own_rows`, `part` (n, ...) of NumPy's."""
    sharding = _of_rows(mesh, count)
    return jax.make_array_from_process_local_data(sharding, part, (count, *part.shape[1:]))


def _of_rows(mesh, count):
    axis = axis_of(mesh)
    return NamedSharding(mesh, P() if count % mesh.shape[axis] else P(axis))


def axis_of(mesh: Any, otherwise: Any = "error") -> Any:
    """The axis of a mesh that batches lie along; ValueError, or what is given otherwise, where none is named so."""
    names = mesh.axis_names
    if AXIS in names:
        return AXIS
    if len(names) == 1:
        return names[0]
    if otherwise == "error":
        raise ValueError(
            f"a mesh to spread a batch over needs an axis named {AXIS!r}, or one axis only, got {names}"
        )
    return otherwise


def standing_on(a: Any) -> Any:
    """The mesh of several devices that an array stands on."""
    sharding = getattr(a, "sharding", None)
    if isinstance(sharding, NamedSharding) and sharding.mesh.size > 1:
        return sharding.mesh
    return None


def mesh_of_any(tree: Any) -> Any:
    """The first mesh that an array of a tree stands on."""
    return next(filter(None, map(standing_on, jax.tree.leaves(tree))), None)


def moved(tree: Any, mesh: Any) -> Any:
    """The tree with what does not stand on the mesh yet everywhere on it."""
    everywhere = NamedSharding(mesh, P())
    return jax.tree.map(lambda a: a if standing_on(a) == mesh else put(a, everywhere), tree)


def put(a: Any, sharding: Any) -> Any:
    """The array `a`, which each process has, as a `jax.sharding.Sharding` says; one that stands so already as it is."""
    standing = getattr(a, "sharding", None)
    if standing == sharding:
        return a
    if not sharding.is_fully_addressable:  # each process gives its own devices their part
        if jnp.issubdtype(jnp.result_type(a), jax.dtypes.prng_key):
            data = put(jax.random.key_data(a), sharding)
            return jax.random.wrap_key_data(data, impl=jax.random.key_impl(a))
        a = np.asarray(a)
        return jax.make_array_from_callback(a.shape, sharding, lambda index: a[index])
    if standing is not None and len(standing.device_set) == 1 and jax.default_backend() == "cpu":
        a = on_host(a)  # without a copy, and from there JAX cuts an array in less time
    return jax.device_put(a, sharding)


def on_host(a: Any) -> Any:
    """The array `a` as NumPy's, which is cut without compiling; random keys, which NumPy does not have, as they are."""
    keys = jnp.issubdtype(jnp.result_type(a), jax.dtypes.prng_key)
    return a if keys else np.asarray(a)


def _processors():
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return range(os.cpu_count() or 1)

"""Many devices: the cores of one machine, its accelerators, or those of several processes.

Computation follows the data. Where a batch stands on a mesh of devices, each device works on its own examples:
inference, sampling and whatever else goes through `blocks.in_blocks` without a word between them, a training step with
one sum of gradients and metrics. A training means the same on any mesh, its means over the batch and random numbers
included.

`all_cores()`, `all_devices()` or `use(mesh)` say once where `minimize`, `sample`, a `Predictor` and `fit` put the
arrays they are given; `split`, `everywhere` and `sharded` put them by hand. The batch lies along a mesh's axis
"batch", or the only one that it has. Very many labels are spread too, along an axis "labels": `label_mesh`, `by_label`.
"""

from spen_jax.parallel.calls import beside, call, fetched, operations, worth_it
from spen_jax.parallel.compiled import keep_compiled, keep_memory
from spen_jax.parallel.meshes import (
    all_cores,
    all_devices,
    by_label,
    check_divided,
    everywhere,
    in_use,
    label_mesh,
    of_own_rows,
    on_host,
    own_rows,
    put,
    sharded,
    split,
    use,
)
from spen_jax.parallel.processes import gathered, leading, several, together
from spen_jax.parallel.within import automatic, kept, mesh_of, over_devices, places, specs, taken

__all__ = [
    "all_cores",
    "all_devices",
    "automatic",
    "beside",
    "by_label",
    "call",
    "check_divided",
    "everywhere",
    "fetched",
    "gathered",
    "in_use",
    "keep_compiled",
    "keep_memory",
    "kept",
    "label_mesh",
    "leading",
    "mesh_of",
    "of_own_rows",
    "on_host",
    "over_devices",
    "operations",
    "own_rows",
    "places",
    "put",
    "several",
    "sharded",
    "specs",
    "split",
    "taken",
    "together",
    "use",
    "worth_it",
]

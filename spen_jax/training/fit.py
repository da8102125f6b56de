"""Training: a generator of epochs. Logging, evaluation and saving stay with the caller."""

from collections.abc import Sequence
from itertools import repeat
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax

from spen_jax import parallel, sparse
from spen_jax.checks import check_whole
from spen_jax.data import Groups
from spen_jax.predictor import Predictor
from spen_jax.training.epochs import Epochs
from spen_jax.training.feeding import ahead, any_stays, cut, stays
from spen_jax.training.fields import checked, fields_in, shown, with_fields, written_back
from spen_jax.training.positions import CheckpointError, Position, fingerprint
from spen_jax.training.resuming import Checkpoints, checkpoints_of
from spen_jax.training.steps import (
    State,
    begun,
    each_sound,
    ended,
    mesh_for,
    step_on,
    traced,
    with_key,
)
from spen_jax.training.touching import Touching
from spen_jax.types import Objective

TRIES = 3
"""How often the sound examples of a batch that was not finite are tried."""


def fit(
    objective: Objective,
    optimizer: optax.GradientTransformation | Touching,
    state: State,
    data: Any,
    *,
    epochs: int,
    batch_size: int = 128,
    checkpoints: Checkpoints | str | Path | None = None,
) -> Epochs[tuple[State, dict[str, float]]]:
    """Yields (state, mean metrics of the epoch) after each pass over `data`, in an order drawn from the state's key.

    To be looped over; `fit(...).last()` trains all epochs and gives the last pair. `objective` is one of `objectives`,
    or your own `(params, batch, key) -> (scalar, metrics)`; `optimizer` Optax's, or `touching`; `state` that of
    `training.init`.

    `data` is a pytree, such as a `spen_jax.data.Split` or a dict with x and y, whose leaves share their leading axis
    of N examples. Every step sees `batch_size` examples (all N where there are fewer), so that it
    compiles once: the last batch of an epoch is filled up with the first examples of that epoch's
    order. The same state gives the same numbers.

    A metric with the name of a field of `data` (a NamedTuple, a dict or a dataclass with, say, x, y and chains) is not
    averaged but written into that field, in the rows of the batch, before the next step: the replay buffer of
    persistent chains. It needs the field's shape with B in front, and its dtype. A row that is not finite is not
    written. Other metrics must be scalars.
    The arrays that the caller passed are never changed; what was written ends with the generator.
    Where state or data stand on a mesh, or one in use is worth it, each device works on its own rows; see `parallel`.
    SciPy's sparse matrices in `data` stay on the host, where each step's rows are cut as `sparse.Rows`, and run on one
    device. Memory-mapped arrays (N, ...) stay on the disk likewise, for any number of devices.

    Of `spen_jax.data.Groups`, examples of several lengths, each step sees examples of one group, all groups in one
    drawn order, and there is one program for each width. A group smaller than `batch_size` is a batch of its own size,
    in which each example weighs more; metrics are means over steps.

    An example whose loss or gradient is not finite is left out: a batch that holds one changes nothing, and at the end
    of the epoch its other examples make a step, for which each is tried alone, up to TRIES times where chance decides.
    The metric "left_out" is the number of examples that no step of the epoch saw. (Where the objective takes no batch
    of one, all of the batch are left out.)

    With `checkpoints`, a folder or `training.Checkpoints`, all of this is written while it runs, and the same call goes
    on after any end, a killed process too, to the same numbers to the bit. It yields the epochs that are
    left, or where all are over the last one again.

    Raises:
      CheckpointError: for checkpoints that are damaged, of another training, or in use by another process.
      Stopped: where there are checkpoints and SIGTERM or Ctrl-C came; the step is over and written.
      ValueError: for data without a shared leading axis, with values that are not finite (but for those of y that by
        the field `mask` or `length` do not count), or with a y outside the domain of the objective's predictor; for
        sparse rows beside a mesh; for a batch size below 1 or a negative number of epochs; at the first step for a
        metric that is neither a scalar nor fits the field of its name.
      FloatingPointError: where all examples of an epoch had to be left out; the state yielded last is sound.
    """
    _check(objective, optimizer, state)
    check_whole("epochs", epochs, 0)
    check_whole("batch_size", batch_size, 1)
    groups = [checked(group)[0] for group in (data if isinstance(data, Groups) else (data,))]
    for group in groups:
        getattr(objective, "check_data", lambda _: None)(shown(group))
        if isinstance(optimizer, Touching):
            optimizer.check(state.params, group)
    if not groups:
        raise ValueError("fit needs at least one group of examples, got none")
    sizes = [min(batch_size, n) for n in sizes_of(groups)]

    most = int(np.argmax(sizes_of(groups)))

    def of_step():
        rows = np.arange(sizes[most])
        return traced(objective, optimizer, state, groups[most], rows).jaxpr.jaxpr

    if sparse.has_rows(groups):
        mesh_for(state, groups)
    elif parallel.mesh_of(state, groups) is None and parallel.worth_it(
        of_step, state.params, sizes[most]
    ):
        state = parallel.everywhere(state)
    state, groups = _beside(state, groups)
    mesh = parallel.mesh_of(state)
    for group, size in zip(groups, sizes, strict=True):
        if mesh is not None and any_stays(group):
            parallel.check_divided(mesh, size)
    kept = checkpoints_of(checkpoints)
    return Epochs(_fit(objective, optimizer, state, groups, int(epochs), sizes, kept), "fit")


def _beside(state, groups):
    """State and groups on the mesh that one of them stands on, but for what stays on the host."""
    leaves, structure = jax.tree.flatten((state, groups))
    moved = [a for a in leaves if not stays(a)]
    found = iter(parallel.beside(moved, moved))
    return structure.unflatten([a if stays(a) else next(found) for a in leaves])


def _check(objective, optimizer, state):
    """ValueError for what is no objective, optimizer or state."""
    if isinstance(objective, Predictor) or not callable(objective):
        raise ValueError(
            "fit needs an objective first, (params, batch, key) -> (scalar, metrics), such as "
            f"objectives.end_to_end(predictor), got a {type(objective).__name__}"
        )
    if isinstance(optimizer, type) or not hasattr(optimizer, "update"):
        raise ValueError(
            f"fit needs an Optax optimizer such as optax.adam(1e-3), got {optimizer!r}"
        )
    if not isinstance(state, State):
        raise ValueError(
            f"fit needs the state of training.init(params, optimizer, key), got a {type(state).__name__}"
        )


def _fit(objective, optimizer, state, groups, epochs, sizes, checkpoints):
    start = Position(state, {}, [], state.key, {})
    if checkpoints is None:
        yield from _epochs(objective, optimizer, start, groups, epochs, sizes, None)
        return
    if not epochs:
        return
    programs = _programs(objective, optimizer, state, groups, sizes)
    first = fingerprint(start, [shown(group) for group in groups], str(sizes), *programs)
    with checkpoints.training(start, first) as at:
        if at.epoch > epochs:
            raise CheckpointError(
                f"{checkpoints.folder} has {at.epoch} epochs of this training, and {epochs} were asked for: "
                "give another folder, or as many epochs"
            )
        if at.epoch == epochs or checkpoints.over(checkpoints.extra):
            checkpoints.epochs, checkpoints.heard.working = at.epoch, False
            yield at.state, {name: float(value) for name, value in at.means.items()}
            return
        yield from _epochs(objective, optimizer, at, groups, epochs, sizes, checkpoints)


def _programs(objective, optimizer, state, groups, sizes):
    """The step on each group in JAX's words, which name the objective, the optimizer and their numbers, no devices."""
    texts, state = [], jax.tree.map(_anywhere, state)
    for group, size in zip(groups, sizes, strict=True):
        if not sparse.has_rows(group):
            group = jax.tree.map(_anywhere, group)
        texts.append(str(traced(objective, optimizer, state, group, np.arange(size)).jaxpr))
    return texts


def _anywhere(a):
    return jax.ShapeDtypeStruct(np.shape(a), a.dtype)


def _epochs(objective, optimizer, at, groups, epochs, sizes, checkpoints):
    """The epochs that are left from a position on."""
    owned: list[set[str]] = [set() for _ in groups]
    groups = with_fields(groups, at.fields, owned)
    state, order_key, history, steps, means = at.state, at.order_key, at.history, at.steps, at.means
    mesh, state = parallel.mesh_of(state), begun(optimizer, state)

    def prepared(g, rows):
        return cut(optimizer, groups[g], rows, mesh) if any_stays(groups[g]) else None

    def taken(state, g, rows, found):
        state, metrics = step_on(objective, optimizer, state, groups[g], rows, found)
        groups[g], metrics = written_back(groups[g], rows, metrics, owned[g])
        return state, metrics

    def after(state, epoch, over=False):
        def now():
            fields = fields_in(groups, owned)
            return Position(ended(state), fields, history, order_key, means, epoch, steps)

        if checkpoints is not None:
            checkpoints.after_step(steps, now, over)

    for epoch in range(at.epoch, epochs):
        if not history:
            key, order_key = jax.random.split(state.key)
            state = with_key(state, key)
        batches = _order(order_key, groups, sizes)
        left = batches[len(history) :]
        fed = ahead(prepared, left) if any_stays(groups) else zip(left, repeat(None), strict=False)
        for (g, rows), found in fed:
            state, metrics = taken(state, g, rows, found)
            history.append(metrics)
            steps += 1
            after(state, epoch)
        state, history, missing = _again(
            taken, prepared, objective, optimizer, state, groups, batches, history
        )
        means, history = _means(history, missing), []
        if checkpoints is not None:
            checkpoints.epochs = epoch + 1
            checkpoints.heard.working = False
        try:
            yield ended(state), means
        except GeneratorExit:
            # Elsewhere the caller's extra may be that of the epoch before.
            if checkpoints is not None and checkpoints.over(checkpoints.extra):
                after(state, epoch + 1, over=True)
            raise
        if checkpoints is not None:
            checkpoints.heard.working = True
        after(state, epoch + 1, over=epoch + 1 == epochs)


def _again(taken, prepared, objective, optimizer, state, groups, batches, history):
    """The batches that were left out, once more with their sound examples; how many examples no step saw."""
    history, missing = jax.device_get(history), set()
    for i in np.flatnonzero([metrics["left_out"] for metrics in history]):
        g, tried = batches[i]
        rows = tried
        for _ in range(TRIES):
            state, rows = _sound_rows(objective, optimizer, state, groups[g], tried)
            if not len(rows):
                break
            state, metrics = taken(state, g, rows, prepared(g, rows))
            if not metrics["left_out"]:
                history[i] = jax.device_get(metrics)
                break
        seen = {*rows} if not history[i]["left_out"] else set()
        missing |= {(g, row) for row in {*tried} - seen}
    return state, history, len(missing)


def _order(key, groups, sizes):
    """The batches of an epoch, (group, rows) each, filled up with the first of their group's order."""
    if len(groups) == 1:
        return [(0, rows) for rows in _batches(key, *sizes_of(groups), *sizes)]
    batches = []
    for g, (n, size) in enumerate(zip(sizes_of(groups), sizes, strict=True)):
        batches += [(g, rows) for rows in _batches(jax.random.fold_in(key, g), n, size)]
    return [batches[i] for i in np.asarray(jax.random.permutation(key, len(batches)))]


def _batches(key, n, batch_size):
    order = np.asarray(jax.random.permutation(key, n))
    return np.concatenate([order, order[: -n % batch_size]]).reshape(-1, batch_size)


def _sound_rows(objective, optimizer, state, data, rows):
    """The state with another key, and those of a batch's rows on which alone a step could be taken."""
    key, each_key = jax.random.split(state.key)
    alone, state = with_key(state, each_key), with_key(state, key)
    try:
        sound = each_sound(objective, optimizer, alone, data, rows)
    except (AssertionError, IndexError, TypeError, ValueError):  # it wants larger batches
        return state, rows[:0]
    return state, rows[parallel.fetched(sound)]


def _means(history, missing):
    """The mean metrics of the steps that were taken, and how many examples no step saw."""
    taken = [metrics for metrics in history if not metrics["left_out"]]
    if not taken:
        raise FloatingPointError(
            "no example of this epoch has a loss, a gradient and new parameters that are finite. The state yielded "
            "last, or if there was none the one given to fit, is sound: go on from it with a lower learning rate or "
            "clip, an entropy in the energy, or a spectral limit"
        )
    means = {name: float(np.mean([metrics[name] for metrics in taken])) for name in taken[0]}
    return means | {"left_out": float(missing)}


def sizes_of(groups: Sequence[Any]) -> list[int]:
    """How many examples each group of them holds."""
    return [np.shape(jax.tree.leaves(group)[0])[0] for group in groups]


def steps_per_epoch(n: int | Sequence[int], batch_size: int) -> int:
    """How many steps `fit` takes for one pass over n examples, or groups of so many, for learning-rate schedules.

    That is the sum over groups of ceil(n / min(batch_size, n)): the steps of left-out examples are not in it. `n` and
    `batch_size` are whole numbers, 1 or more.
    """
    return sum(-(-size // min(batch_size, size)) for size in np.atleast_1d(n).tolist())

"""Training: one compiled Optax step, a generator of epochs, and a compiled loop for small problems.

Logging, evaluation and saving stay with the caller.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import PartitionSpec as P

from spen_jax import parallel, sparse
from spen_jax.checks import check_whole
from spen_jax.convolutions import fast
from spen_jax.predictor import Predictor
from spen_jax.training.epochs import Epochs
from spen_jax.training.fields import checked, cut_all, shared_axis, written_back
from spen_jax.trees import all_finite, every, select
from spen_jax.types import Objective

TRIES = 3
"""How often the sound examples of a batch that was not finite are tried."""


class State(NamedTuple):
    """What a training carries from step to step."""

    params: Any
    opt_state: Any
    key: jax.Array


def init(params: Any, optimizer: optax.GradientTransformation, key: jax.Array) -> State:
    """The state before the first step; the key, one of `jax.random.key`, decides all that is random."""
    if not isinstance(key, jax.Array):
        raise ValueError(f"key must be a random key, jax.random.key(0), got {key!r}")
    return State(params, optimizer.init(params), key)


def step(
    objective: Objective,
    optimizer: optax.GradientTransformation,
    state: State,
    data: Any,
    rows: Any,
) -> tuple[State, dict[str, jax.Array]]:
    """One step of `optimizer` on the examples `rows` of `data`: gradient, update, metrics.

    Where the loss, the gradient, the new parameters or the optimizer's new state would not be finite, only the key of
    the state is another one, and the metric "left_out", else 0, is the number of examples.

    Where state and data stand on a mesh (`parallel.everywhere`), each device works on its own of the rows, and the
    step is that of one device: gradient and metrics are summed once. The state stays where it stands.
    The rows of a SciPy matrix in `data` are cut on the host, and run on one device: ValueError where the state stands
    on a mesh.
    """
    places = parallel.places(state)
    data = sparse.matrices(data=data)
    if sparse.has_rows(data):  # what is compiled then serves any number of rows
        data, rows = cut_all(_cut(state, data, rows), rows), np.arange(len(rows))
    if places is not None:
        rows = parallel.beside(state, rows)
    return _compiled_step(objective, optimizer, places, state, data, rows)


@partial(jax.jit, static_argnums=(0, 1, 2))
def _compiled_step(objective, optimizer, places, state, data, rows):
    def of_arrays(state, data, rows):
        batch = parallel.taken(data, rows)
        state, metrics, sound = _step(objective, optimizer, state, batch)
        metrics |= {"left_out": jnp.where(sound, 0, len(rows))}
        return parallel.kept(state, places), metrics

    return parallel.automatic(
        of_arrays, state, data, rows, out=(parallel.specs(state, places), P())
    )


def _cut(state, data, rows):
    """The data with the rows, of each step where they are (S, B), of what is sparse."""
    if sparse.has_rows(data) and parallel.mesh_of(state, data) is not None:
        raise ValueError(
            "sparse rows are trained on one device, but state or data stand on a mesh of several: leave them where "
            "they were made, without parallel.everywhere, sharded or split, or give dense rows, x.toarray()"
        )
    return sparse.cut(data, rows)


def _step(objective, optimizer, state, batch):
    """The next state, or where a number is not finite the same with another key; metrics; and whether it was taken."""
    key, step_key = jax.random.split(state.key)
    descend = jax.value_and_grad(fast(objective), has_aux=True)
    (value, metrics), gradient = descend(state.params, batch, step_key)
    updates, opt_state = optimizer.update(gradient, state.opt_state, state.params)
    new = State(optax.apply_updates(state.params, updates), opt_state, key)
    sound = all_finite((value, gradient, new.params)) & ~_loses(state.opt_state, opt_state)
    return select(sound, new, state._replace(key=key)), metrics, sound


def _loses(old, new):
    """Whether a number is finite no longer, as where an optimizer squares a gradient; what was infinite may stay so."""

    def lost(old, new):
        if not jnp.issubdtype(jnp.result_type(new), jnp.inexact):
            return jnp.array(False)
        return jnp.any(jnp.isfinite(old) & ~jnp.isfinite(new))

    def some_lost():
        return ~every(jax.tree.map(lambda old, new: ~lost(old, new), old, new))

    return jax.lax.cond(all_finite(new), lambda: jnp.array(False), some_lost)


@partial(jax.jit, static_argnames=("objective", "optimizer"))
def _each_sound(objective, optimizer, state, data, rows):
    """Whether a step on each of the examples alone could be taken, (len(rows),); sparse rows are cut one by one."""

    def of_arrays(state, data, rows):
        def sound(at):
            place, row = at

            def one_of(a):
                if sparse.is_rows(a):
                    return jax.tree.map(lambda part: part[place], a)
                return a[row][None]

            one = jax.tree.map(one_of, data, is_leaf=sparse.is_rows)
            return _step(objective, optimizer, state, one)[2]

        return jax.lax.map(sound, (jnp.arange(len(rows)), rows))

    return parallel.automatic(of_arrays, state, data, rows)


def scan(
    objective: Objective,
    optimizer: optax.GradientTransformation,
    state: State,
    batches: Any,
    *,
    at: Sequence[int] | None = None,
    buffers: dict[str, Any] | None = None,
) -> tuple[Any, ...]:
    """(state, metrics (S, ...)) after a step on each of the S entries of the pytree `batches`, in one compiled loop.

    For small problems: a whole training is one function to `jit`, and to `vmap` over seeds or settings; it is not
    compiled here. A step that would not be finite is not taken, and counts in the metric "skipped" as 1, else 0.
    Entry s of every leaf is the batch of step s: rows of data that the objective closes over, keys, a radius that
    shrinks. An objective of all data takes `jnp.arange(steps)` and does not look at it.

    Args:
      objective: what to minimise, `(params, batch, key) -> (scalar, metrics)`.
      optimizer: any.
      state: of `init`; with the same state and batches the steps are those of `step`.
      batches: leaves (S, ...).
      at: numbers of steps, 0 to S, ascending. The parameters after so many steps are a third result, (len(at), ...).
      buffers: arrays that training writes, such as latent codes. The objective is given (batch, buffers) for a
        batch, and gives the new arrays, whole, as metrics of the same names. Of these `metrics` has the last.

    Raises ValueError for batches without a shared leading axis, steps `at` that are not ascending in 0, ..., S, and
    an objective that does not give its buffers back.
    """
    total = shared_axis(batches, "scan needs batches whose arrays share a leading axis of steps")
    times, repeats = _times(at, total)
    # The place of the snapshot after each step; one past their end, where there is none, is not written.
    place = np.full(total + 1, len(times))
    place[times] = np.arange(len(times))
    state, buffers = jax.tree.map(jnp.asarray, (state, buffers))
    kept = None
    if at is not None:
        kept = jax.tree.map(lambda p: jnp.broadcast_to(p, (len(times), *p.shape)), state.params)

    def one(carry, given):
        (state, kept, buffers), (batch, place) = carry, given
        seen = batch if buffers is None else (batch, buffers)
        state, metrics, sound = _step(objective, optimizer, state, seen)
        if kept is not None:
            kept = jax.tree.map(lambda a, p: a.at[place].set(p, mode="drop"), kept, state.params)
        if buffers is not None:
            new, metrics = _parted(metrics, buffers)
            buffers = select(sound, new, buffers)
        return (state, kept, buffers), metrics | {"skipped": 1 - sound}

    carry, metrics = jax.lax.scan(one, (state, kept, buffers), (batches, place[1:]))
    state, kept, buffers = carry
    metrics = metrics | (buffers or {})
    if at is None:
        return state, metrics
    return state, metrics, jax.tree.map(lambda a: a[repeats], kept)


def _times(at, total):
    """The different numbers of steps among `at`, and which of them each of `at` is."""
    given = np.asarray(() if at is None else at)
    times = given.astype(int)
    if np.any(times != given) or np.any(np.diff(times, prepend=0, append=total) < 0):
        raise ValueError(f"at must be ascending whole numbers from 0 to {total}, got {at}")
    return np.unique(times, return_inverse=True)


def _parted(metrics, buffers):
    """The new buffers among the metrics, and the other metrics."""
    if missing := sorted(set(buffers) - set(metrics)):
        raise ValueError(
            f"the objective must return the buffers it is given among its metrics, but {', '.join(missing)} "
            f"are not among {', '.join(sorted(metrics))}"
        )
    others = {name: value for name, value in metrics.items() if name not in buffers}
    return {name: metrics[name] for name in buffers}, others


def fit(
    objective: Objective,
    optimizer: optax.GradientTransformation,
    state: State,
    data: Any,
    *,
    epochs: int,
    batch_size: int = 128,
) -> Epochs[tuple[State, dict[str, float]]]:
    """Yields (state, mean metrics of the epoch) after each pass over `data`, in an order drawn from the state's key.

    To be looped over; `fit(...).last()` trains all epochs and gives the last pair.

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
    device.

    An example whose loss or gradient is not finite is left out: a batch that holds one changes nothing, and at the end
    of the epoch its other examples make a step, for which each is tried alone, up to TRIES times where chance decides.
    The metric "left_out" is the number of examples that no step of the epoch saw. (Where the objective takes no batch
    of one, all of the batch are left out.)

    Raises:
      ValueError: for data without a shared leading axis, with values that are not finite (but for those of y that by
        the field `mask` or `length` do not count), or with a y outside the domain of the objective's predictor; for
        sparse rows beside a mesh; for a batch size below 1 or a negative number of epochs; at the first step for a
        metric that is neither a scalar nor fits the field of its name.
      FloatingPointError: where all examples of an epoch had to be left out; the state yielded last is sound.
    """
    _check(objective, optimizer, state)
    check_whole("epochs", epochs, 0)
    check_whole("batch_size", batch_size, 1)
    data, n = checked(data)
    getattr(objective, "check_data", lambda _: None)(data)
    batch_size = min(batch_size, n)

    def of_step():
        rows = np.arange(batch_size)
        return _compiled_step.trace(objective, optimizer, None, state, data, rows).jaxpr.jaxpr

    if sparse.has_rows(data):
        _cut(state, data, np.arange(batch_size))
    elif parallel.mesh_of(state, data) is None and parallel.worth_it(
        of_step, state.params, batch_size
    ):
        state = parallel.everywhere(state)
    state, data = parallel.beside((state, data), (state, data))
    return Epochs(_fit(objective, optimizer, state, data, int(epochs), batch_size), "fit")


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


def _fit(objective, optimizer, state, data, epochs, batch_size):
    owned: set[str] = set()
    n = np.shape(jax.tree.leaves(data)[0])[0]
    for _ in range(epochs):
        key, order_key = jax.random.split(state.key)
        state = state._replace(key=key)
        order = np.asarray(jax.random.permutation(order_key, n))
        order = np.concatenate([order, order[: -n % batch_size]]).reshape(-1, batch_size)
        history = []
        for rows in order:
            state, metrics = step(objective, optimizer, state, data, rows)
            data, metrics = written_back(data, rows, metrics, owned)
            history.append(metrics)
        history, missing = jax.device_get(history), set()
        for i in np.flatnonzero([metrics["left_out"] for metrics in history]):
            for _ in range(TRIES):
                state, rows = _sound_rows(objective, optimizer, state, data, order[i])
                if not len(rows):
                    break
                state, metrics = step(objective, optimizer, state, data, rows)
                data, metrics = written_back(data, rows, metrics, owned)
                if not metrics["left_out"]:
                    history[i] = jax.device_get(metrics)
                    break
            missing |= {*order[i]} - ({*rows} if not history[i]["left_out"] else set())
        yield state, _means(history, len(missing))


def _sound_rows(objective, optimizer, state, data, rows):
    """The state with another key, and those of a batch's rows on which alone a step could be taken."""
    key, each_key = jax.random.split(state.key)
    alone = state._replace(key=each_key)
    state = state._replace(key=key)
    try:
        alone_too = _cut(state, data, rows[:, None])
        sound = _each_sound(objective, optimizer, alone, alone_too, rows)
    except (AssertionError, IndexError, TypeError, ValueError):  # it wants larger batches
        return state, rows[:0]
    return state, rows[np.asarray(sound)]


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


def steps_per_epoch(n: int, batch_size: int) -> int:
    """How many steps `fit` takes for one pass over n examples, for learning-rate schedules."""
    return -(-n // min(batch_size, n))

"""One compiled Optax step on some examples of the data, and a compiled loop of steps for small problems."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import PartitionSpec as P

from spen_jax import parallel, sparse
from spen_jax.convolutions import fast
from spen_jax.training.feeding import Cut, any_stays, cut, joined, one_by_one
from spen_jax.training.fields import shared_axis
from spen_jax.training.touching import Packed, Touching, packed
from spen_jax.trees import all_finite, every, select
from spen_jax.types import Objective


class State(NamedTuple):
    """What a training carries from step to step, as `init` makes it; `step`, `scan` and `fit` return new ones.

    `params` are the parameters, a tree of arrays, `opt_state` the optimizer's state, `key` the random key, ().
    """

    params: Any
    opt_state: Any
    key: jax.Array


def init(params: Any, optimizer: optax.GradientTransformation | Touching, key: jax.Array) -> State:
    """The state before the first step; the key (), one of `jax.random.key`, decides all that is random.

    `params` is a tree of arrays of floats, `optimizer` Optax's or `touching`. Weak types, such as that of
    `jnp.full(3, 0.5)`, are made strong, lest a step compiles again for its own results. ValueError for a key that is no
    array of JAX's, for parameters that are no floats, by name, and for a table of `touching` that is none of them.
    """
    if not isinstance(key, jax.Array):
        raise ValueError(f"key must be a random key, jax.random.key(0), got {key!r}")
    _check_floats(params)
    params = jax.tree.map(_strong, params)
    return State(params, jax.tree.map(_strong, optimizer.init(params)), key)


def _check_floats(params):
    types = {
        jax.tree_util.keystr(path): jnp.result_type(leaf)
        for path, leaf in jax.tree.leaves_with_path(params)
    }
    wrong = [f"{n} {t}" for n, t in types.items() if not jnp.issubdtype(t, jnp.inexact)]
    if wrong:
        raise ValueError(
            f"params must be floats, which have a gradient, got {', '.join(wrong)}. Keep what is no parameter out: "
            "of an NNX module by graphdef, params, rest = nnx.split(module, nnx.Param, ...), and in the functions "
            "nnx.merge(graphdef, params, rest, copy=True)"
        )


def _strong(leaf):
    if isinstance(leaf, float):
        return jnp.asarray(leaf, jnp.result_type(leaf))
    weak = isinstance(leaf, jax.Array) and leaf.weak_type
    return jax.lax.convert_element_type(leaf, leaf.dtype) if weak else leaf


def step(
    objective: Objective,
    optimizer: optax.GradientTransformation | Touching,
    state: State,
    data: Any,
    rows: Any,
) -> tuple[State, dict[str, jax.Array]]:
    """One step of `optimizer` on the examples `rows` of `data`: gradient, update, metrics.

    `objective` is `(params, batch, key) -> (scalar, metrics)`, `data` a tree of arrays (N, ...) and `rows` (B,) whole
    numbers. Returns the next state and the metrics of the step.
    Where the loss, the gradient, the new parameters or the optimizer's new state would not be finite, only the key of
    the state is another one, and the metric "left_out", else 0, is the number of examples.

    Where state and data stand on a mesh (`parallel.everywhere`), each device works on its own of the rows, and the
    step is that of one device: gradient and metrics are summed once. The state stays where it stands.
    The rows of SciPy matrices and memory-mapped arrays in `data` are cut on the host; those of a SciPy matrix run on
    one device: ValueError where the state stands on a mesh. With `touching` a copy is made of the whole state, which
    `fit` does once an epoch.
    """
    data = sparse.matrices(data=data)
    found = None
    if isinstance(optimizer, Touching):
        optimizer.check(state.params, data)
    if any_stays(data):
        found = cut(optimizer, data, np.asarray(rows), mesh_for(state, data))
    state, metrics = step_on(objective, optimizer, begun(optimizer, state), data, rows, found)
    return ended(state), metrics


def begun(optimizer: Any, state: State) -> State | Packed:
    """The state as steps of the optimizer take it, which for `Touching` is a copy."""
    return packed(optimizer, *state) if isinstance(optimizer, Touching) else state


def ended(state: State | Packed) -> State:
    """The state that steps have come to."""
    if not isinstance(state, Packed):
        return state
    params, opt_state = state.parts()
    return State(params, opt_state, jnp.copy(state.key))


def with_key(state: State | Packed, key: jax.Array) -> Any:
    """The state with another key."""
    return replace(state, key=key) if isinstance(state, Packed) else state._replace(key=key)


def step_on(
    objective: Objective, optimizer: Any, state: Any, data: Any, rows: Any, found: Cut | None
) -> tuple[Any, dict[str, jax.Array]]:
    """`step` on a state that has `begun`, with what was cut already of what stays on the host."""
    places = parallel.places(state)
    if found is not None:
        batch = joined(data, rows, found, parallel.mesh_of(state))
        if isinstance(state, Packed):
            return _touching_step(objective, optimizer, state, batch, found.columns)
        return compiled_step(objective, optimizer, places, state, batch, None)
    if places is not None:
        rows = parallel.beside(state, rows)
    return compiled_step(objective, optimizer, places, state, data, rows)


@partial(jax.jit, static_argnums=(0, 1, 2))
def compiled_step(
    objective: Objective,
    optimizer: optax.GradientTransformation,
    places: Any,
    state: State,
    data: Any,
    rows: Any,
) -> tuple[State, dict[str, jax.Array]]:
    """`step` on arrays, of which the rows None are all; `places` are those of the state on its mesh."""

    def of_arrays(state, data, rows):
        batch = data if rows is None else parallel.taken(data, rows)
        state, metrics, sound = _step(objective, optimizer, state, batch)
        metrics |= {"left_out": jnp.where(sound, 0, _size(batch))}
        return parallel.kept(state, places), metrics

    return parallel.automatic(
        of_arrays, state, data, rows, out=(parallel.specs(state, places), P())
    )


@partial(jax.jit, static_argnums=(0, 1), donate_argnums=2)
def _touching_step(objective, optimizer, state, batch, columns):
    """The state with new rows in place of the touched ones: its arrays are given away."""
    part, metrics, sound = _touching(objective, optimizer, state, batch, columns)
    new = state.with_rows(columns, packed(optimizer, *part), sound)
    return new, metrics | {"left_out": jnp.where(sound, 0, _size(batch))}


@partial(jax.jit, static_argnums=(0, 1))
def _touching(objective, optimizer, state, batch, columns):
    """`_step` on the touched rows of each table, which the new state has alone."""
    params, opt_state = state.rows(columns).parts()
    return _step(objective, optimizer, State(params, opt_state, state.key), batch)


def traced(objective: Objective, optimizer: Any, state: State, data: Any, rows: np.ndarray) -> Any:
    """The program of a step on some rows of the data, on one device, as JAX has traced it."""
    if not sparse.has_rows(data):
        return compiled_step.trace(objective, optimizer, None, state, data, rows)
    found = cut(optimizer, data, rows)
    batch = joined(data, rows, found)
    if isinstance(optimizer, Touching):
        like = jax.eval_shape(partial(begun, optimizer), state)
        return _touching_step.trace(objective, optimizer, like, batch, found.columns)
    return compiled_step.trace(objective, optimizer, None, state, batch, None)


def _size(batch):
    return len(jax.tree.leaves(batch, is_leaf=sparse.is_rows)[0])


def mesh_for(state: Any, data: Any) -> Any:
    """The mesh that a state stands on; ValueError where it, or data, are on one and some of the data are sparse."""
    mesh = parallel.mesh_of(state)
    if sparse.has_rows(data) and parallel.mesh_of(state, data) is not None:
        raise ValueError(
            "sparse rows are trained on one device, but state or data stand on a mesh of several: leave them where "
            "they were made, without parallel.everywhere, sharded or split, or give dense rows, x.toarray()"
        )
    return mesh


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


def each_sound(objective: Objective, optimizer: Any, state: Any, data: Any, rows: Any) -> Any:
    """Whether a step on each of the examples alone could be taken from a state that has begun, (len(rows),)."""
    if isinstance(optimizer, Touching):
        return np.array([_sound_alone(objective, optimizer, state, data, row) for row in rows])
    if any_stays(data):
        data, rows = one_by_one(data, rows), np.arange(len(rows))
    return _each_sound(objective, optimizer, state, data, rows)


def _sound_alone(objective, optimizer, state, data, row):
    row = np.array([row])
    found = cut(optimizer, data, row)
    batch = joined(data, row, found)
    return _touching(objective, optimizer, state, batch, found.columns)[2]


@partial(jax.jit, static_argnums=(0, 1))
def _each_sound(objective, optimizer, state, data, rows):
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

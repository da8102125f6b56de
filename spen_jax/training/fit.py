"""Training: one compiled Optax step, a generator of epochs, and a compiled loop for small problems.

Logging, evaluation and saving stay with the caller.
"""

import math
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from spen_jax.checks import check_whole
from spen_jax.training.fields import check_finite, written_back
from spen_jax.training.optimizers import states_of
from spen_jax.types import Objective


class State(NamedTuple):
    """What a training carries from step to step."""

    params: Any
    opt_state: Any
    key: jax.Array


def init(params: Any, optimizer: optax.GradientTransformation, key: jax.Array) -> State:
    """The state before the first step; the key decides the order of the examples and all that is random."""
    return State(params, optimizer.init(params), key)


@partial(jax.jit, static_argnames=("objective", "optimizer"))
def step(
    objective: Objective,
    optimizer: optax.GradientTransformation,
    state: State,
    data: Any,
    rows: Any,
) -> tuple[State, dict[str, jax.Array]]:
    """One step of `optimizer` on the examples `rows` of `data`: gradient, update, metrics."""
    return _step(objective, optimizer, state, jax.tree.map(lambda a: a[rows], data))


def _step(objective, optimizer, state, batch):
    key, step_key = jax.random.split(state.key)
    gradient, metrics = jax.grad(objective, has_aux=True)(state.params, batch, step_key)
    updates, opt_state = optimizer.update(gradient, state.opt_state, state.params)
    return State(optax.apply_updates(state.params, updates), opt_state, key), metrics


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
    compiled here. Entry s of every leaf is the batch of step s: rows of data that the objective closes over,
    keys, a radius that shrinks. An objective of all data takes `jnp.arange(steps)` and does not look at it.

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
    total = _shared_axis(batches, "scan needs batches whose arrays share a leading axis of steps")
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
        state, metrics = _step(objective, optimizer, state, seen)
        if kept is not None:
            kept = jax.tree.map(lambda a, p: a.at[place].set(p, mode="drop"), kept, state.params)
        if buffers is not None:
            buffers, metrics = _parted(metrics, buffers)
        return (state, kept, buffers), metrics

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
) -> Iterator[tuple[State, dict[str, float]]]:
    """Yields (state, mean metrics of the epoch) after each pass over `data`, in an order drawn from the state's key.

    `data` is a pytree, such as a `spen_jax.data.Split` or a dict with x and y, whose leaves share their leading axis
    of N examples. Every step sees `batch_size` examples (all N where there are fewer), so that it
    compiles once: the last batch of an epoch is filled up with the first examples of that epoch's
    order. The same state gives the same numbers.

    A metric with the name of a field of `data` (a NamedTuple, a dict or a dataclass with, say, x, y and chains) is not
    averaged but written into that field, in the rows of the batch, before the next step: the replay buffer of
    persistent chains. It needs the field's shape with B in front, and its dtype. A row that is not finite is not
    written. Other metrics must be scalars.
    The arrays that the caller passed are never changed; what was written ends with the generator.

    With an optimizer that is guarded (`stable`), the metrics are means over the steps that were taken, and
    "skipped" is the number of the others. Where the guard has given up, so that the parameters are not finite at the
    end of an epoch, it raises FloatingPointError; the state yielded last is sound.

    Raises ValueError, at the first epoch, for data without a shared leading axis or with values that are not
    finite (but for those of y that by the field `mask` or `length` do not count), for a batch size below 1, and
    for a metric that is neither a scalar nor fits the field of its name.
    """
    data = jax.tree.map(jnp.asarray, data)
    n = _shared_axis(data, "fit needs data whose arrays share a leading axis of examples")
    check_finite(data)
    check_whole("batch_size", batch_size, 1)
    batch_size = min(batch_size, n)
    owned: set[str] = set()
    for _ in range(epochs):
        key, order_key = jax.random.split(state.key)
        state = state._replace(key=key)
        order = np.asarray(jax.random.permutation(order_key, n))
        order = np.concatenate([order, order[: -n % batch_size]]).reshape(-1, batch_size)
        history, taken = [], []
        for rows in order:
            state, metrics = step(objective, optimizer, state, data, rows)
            data, metrics = written_back(data, rows, metrics, owned)
            history.append(metrics)
            guards = states_of(optax.ApplyIfFiniteState, state.opt_state)
            taken.append([guard.last_finite for guard in guards])
        yield state, _means(state.params, history, taken)


def _shared_axis(tree, need):
    """The length of the leading axis that all arrays share; ValueError where they share none, or it is empty."""
    sizes = sorted({jnp.shape(a)[:1] for a in jax.tree.leaves(tree)})
    if len(sizes) != 1 or not sizes[0] or not sizes[0][0]:
        got = " and ".join(str(*s) if s else "no" for s in sizes) or "no"
        raise ValueError(f"{need}, at least one, got arrays of {got} {need.split()[-1]}")
    return sizes[0][0]


def _means(params, history, taken):
    """The mean metrics of the steps that were taken; FloatingPointError where they left `params` not finite."""
    history, taken = jax.device_get((history, taken))
    kept = [metrics for metrics, flags in zip(history, taken, strict=True) if all(flags)]
    means = {k: float(np.mean([m[k] for m in kept])) if kept else math.nan for k in history[0]}
    if taken[0]:
        _check_params(params)
        means["skipped"] = float(len(history) - len(kept))
    return means


def _check_params(params):
    wrong = [
        f"params{jax.tree_util.keystr(path)}"
        for path, a in jax.tree.leaves_with_path(params)
        if not np.isfinite(a).all()
    ]
    if wrong:
        raise FloatingPointError(
            f"not finite: {', '.join(wrong)}. More steps in a row than the optimizer skips had a gradient that is not "
            "finite, or a step overflowed. The state yielded last, or if there was none the one given to fit, is "
            "sound: go on from it with a lower learning rate or clip, an entropy in the energy, or a spectral limit"
        )


def steps_per_epoch(n: int, batch_size: int) -> int:
    """How many steps `fit` takes for one pass over n examples, for learning-rate schedules."""
    return -(-n // min(batch_size, n))

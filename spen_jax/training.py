"""Training: one compiled Optax step, and a generator of epochs.

Logging, evaluation and saving stay with the caller.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from spen_jax.objectives import Objective


class State(NamedTuple):
    """What a training carries from step to step."""

    params: Any
    opt_state: Any
    key: jax.Array


class Best(NamedTuple):
    """The best parameters so far, for early stopping: `best = best.update(params, score)`."""

    params: Any = None
    score: float = float("-inf")
    epoch: int = 0
    """The epoch of the best score, counted from 1; 0 before the first update."""

    stale: int = 0
    """Epochs since."""

    def update(self, params: Any, score: float) -> "Best":
        """Takes the parameters of the next epoch if their score (higher is better) is strictly the best."""
        epoch = self.epoch + self.stale + 1
        if score > self.score:
            return Best(params, score, epoch, 0)
        return self._replace(stale=self.stale + 1)


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
    key, step_key = jax.random.split(state.key)
    batch = jax.tree.map(lambda a: a[rows], data)
    gradient, metrics = jax.grad(objective, has_aux=True)(state.params, batch, step_key)
    updates, opt_state = optimizer.update(gradient, state.opt_state, state.params)
    return State(optax.apply_updates(state.params, updates), opt_state, key), metrics


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

    `data` is a pytree (such as `spen_jax.data.Split`) whose leaves share their leading axis of N
    examples. Every step sees `batch_size` examples (all N where there are fewer), so that it
    compiles once: the last batch of an epoch is filled up with the first examples of that epoch's
    order. The same state gives the same numbers. Raises ValueError, at the first epoch, for data
    without a shared leading axis or with values that are not finite, and for a batch size below 1.
    """
    data = jax.tree.map(jnp.asarray, data)
    sizes = sorted({a.shape[:1] for a in jax.tree.leaves(data)})
    if len(sizes) != 1 or not sizes[0] or not sizes[0][0]:
        raise ValueError(
            "fit needs data whose arrays share a leading axis of at least one example, got arrays "
            f"of {' and '.join(str(*s) if s else 'no' for s in sizes) or 'no'} examples"
        )
    for path, a in jax.tree.leaves_with_path(data):
        if jnp.issubdtype(a.dtype, jnp.floating) and not jnp.isfinite(a).all():
            raise ValueError(
                f"data{jax.tree_util.keystr(path)} must be finite, but {int(jnp.sum(~jnp.isfinite(a)))} of "
                "its values are not; drop or mend those rows"
            )
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    n = sizes[0][0]
    batch_size = min(batch_size, n)
    for _ in range(epochs):
        key, order_key = jax.random.split(state.key)
        state = state._replace(key=key)
        order = np.asarray(jax.random.permutation(order_key, n))
        order = np.concatenate([order, order[: -n % batch_size]]).reshape(-1, batch_size)
        history = []
        for rows in order:
            state, metrics = step(objective, optimizer, state, data, rows)
            history.append(metrics)
        history = jax.device_get(history)
        yield state, {k: float(np.mean([m[k] for m in history])) for k in history[0]}


def steps_per_epoch(n: int, batch_size: int) -> int:
    """How many steps `fit` takes for one pass over n examples, for learning-rate schedules."""
    return -(-n // min(batch_size, n))


def in_batches(function: Callable[..., Any], data: Any, batch_size: int = 512) -> Any:
    """function(data) in batches of one size, joined: for a compiled function and more data than fit at once.

    `data` and the result are pytrees whose leaves have a leading axis of N examples. The last batch is
    filled up with copies of its last example, whose results are dropped, so that nothing is compiled
    for a smaller one. (`minimize` makes blocks by itself; what needs this is mostly the features.)
    """
    n = len(jax.tree.leaves(data)[0])
    if n < 1 or batch_size < 1:
        raise ValueError(f"in_batches needs examples and batch_size >= 1, got {n} and {batch_size}")
    results = []
    for first in range(0, n, batch_size):
        rows = np.minimum(np.arange(first, first + min(batch_size, n)), n - 1)
        results.append(function(jax.tree.map(lambda a, rows=rows: a[rows], data)))
    return jax.tree.map(lambda *parts: jnp.concatenate(parts)[:n], *results)

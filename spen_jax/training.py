"""Training: one compiled Optax step, a generator of epochs, and what keeps a training stable.

Logging, evaluation and saving stay with the caller. `stable`, `averaged` and `spectral` are Optax
transformations like any other: what they know is in the optimizer's state, and `fit` reads it there.
"""

import math
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
    order. The same state gives the same numbers.

    A metric with the name of a field of `data` (a NamedTuple with, say, x, y and chains) is not averaged but
    written into that field, in the rows of the batch, before the next step: the replay buffer of persistent
    chains. It needs the field's shape with B in front, and its dtype. A row that is not finite is not written.
    Other metrics must be scalars.
    The arrays that the caller passed are never changed; what was written ends with the generator.

    With an optimizer that is guarded (`stable`), the metrics are means over the steps that were taken, and
    "skipped" is the number of the others. Where the guard has given up, so that the parameters are not finite at the
    end of an epoch, it raises FloatingPointError; the state yielded last is sound.

    Raises ValueError, at the first epoch, for data without a shared leading axis or with values that are not
    finite, for a batch size below 1, and for a metric that is neither a scalar nor fits the field of its name.
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
    buffers: set[str] = set()
    for _ in range(epochs):
        key, order_key = jax.random.split(state.key)
        state = state._replace(key=key)
        order = np.asarray(jax.random.permutation(order_key, n))
        order = np.concatenate([order, order[: -n % batch_size]]).reshape(-1, batch_size)
        history, taken = [], []
        for rows in order:
            state, metrics = step(objective, optimizer, state, data, rows)
            for name in sorted(set(metrics) & set(getattr(data, "_fields", ()))):
                field, new = getattr(data, name), metrics.pop(name)
                if name not in buffers:
                    _check_rows(name, field, new, batch_size)
                    # The arrays that the caller passed are not to be donated.
                    field = jax.tree.map(lambda a: jnp.array(a, copy=True), field)
                    buffers.add(name)
                data = data._replace(**{name: _written(field, rows, new)})
            if wrong := [name for name, value in metrics.items() if jnp.ndim(value)]:
                raise ValueError(
                    f"the metrics {', '.join(wrong)} must be scalars, or have the name of a field of data, a "
                    f"NamedTuple whose rows they replace; data is a {type(data).__name__}"
                )
            history.append(metrics)
            taken.append([guard.last_finite for guard in _found(_GUARD, state.opt_state)])
        history, taken = jax.device_get((history, taken))
        kept = [metrics for metrics, flags in zip(history, taken, strict=True) if all(flags)]
        means = {k: float(np.mean([m[k] for m in kept])) if kept else math.nan for k in history[0]}
        if taken[0]:
            _check_finite(state.params)
            means["skipped"] = float(len(history) - len(kept))
        yield state, means


@partial(jax.jit, donate_argnums=0)
def _written(field: Any, rows: Any, new: Any) -> Any:
    def write(old, new):
        if jnp.issubdtype(new.dtype, jnp.inexact):
            # A chain that is once not a number would stay so for good.
            finite = jnp.isfinite(new).reshape(len(new), -1).all(axis=1)
            new = jnp.where(finite.reshape(-1, *[1] * (new.ndim - 1)), new, old[rows])
        return old.at[rows].set(new)

    return jax.tree.map(write, field, new)


def _check_rows(name: str, field: Any, new: Any, batch_size: int) -> None:
    def described(tree, rows):
        return jax.tree.map(lambda a: f"{(*rows(a),)} {a.dtype}", tree)

    want = described(field, lambda a: (batch_size, *a.shape[1:]))
    got = described(new, lambda a: a.shape)
    if got != want:
        raise ValueError(
            f"the metric {name!r} is written into data.{name} and needs its rows for the batch, {want}, got "
            f"{got}; give a metric that is to be averaged another name"
        )


def _check_finite(params: Any) -> None:
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


# Stability: Optax transformations.


class Averaged(NamedTuple):
    """The state of `averaged`."""

    inner: Any
    average: Any
    count: jax.Array


def stable(
    optimizer: optax.GradientTransformation,
    *,
    clip: float | None = 5.0,
    skip: int = 10,
    average: float | None = None,
) -> optax.GradientTransformation:
    """`optimizer` on gradients clipped to a global norm of `clip`, taking no step where one is not finite.

    A step with a gradient that is not finite changes neither the parameters nor the optimizer's state. After more than
    `skip` such steps in a row `optax.apply_if_finite`, which this is, lets the next one through; `fit` then
    raises FloatingPointError at the end of that epoch. It goes around the whole optimizer (of two players around
    `inference_networks.alternating`), so that `fit` counts each step once.

    Args:
      optimizer: any; a `spectral` limit belongs inside it, at the end of its chain.
      clip: the largest Euclidean norm of all gradients together; None for no limit: a gradient that is finite but
        overflows when Adam squares it then freezes its parameter, unseen.
      skip: how many steps in a row may be skipped, 0 or more.
      average: decay of an average of the parameters, see `averaged`; None for none.
    """
    if clip is not None and not 0 < clip < math.inf:
        raise ValueError(f"clip must be positive and finite, or None for no limit, got {clip}")
    if skip != int(skip) or skip < 0:
        raise ValueError(f"skip must be a whole number of steps, 0 or more, got {skip}")
    if clip is not None:
        optimizer = optax.chain(optax.clip_by_global_norm(clip), optimizer)
    if average is not None:
        # Inside the guard, so that a skipped step is not averaged either.
        optimizer = averaged(optimizer, average)
    return optax.apply_if_finite(optimizer, int(skip))


def averaged(
    optimizer: optax.GradientTransformation, decay: float = 0.99
) -> optax.GradientTransformation:
    """sum_s decay^(t-s) params_s / sum_s decay^(t-s), s = 1, ..., t, is kept in the optimizer's state: `average_of`.

    The steps themselves are those of `optimizer`. The average reaches back about 1 / (1 - decay) steps, and holds
    no share of the parameters that training began with. Where several transformations are chained this wraps
    them all. (`optax.ema` averages updates.) Source: Polyak & Juditsky (1992), there with equal weights.
    """
    if not 0 < decay < 1:
        raise ValueError(f"decay must be between 0 and 1, such as 0.99, got {decay}")
    inner = optax.with_extra_args_support(optimizer)

    def start(params):
        average = jax.tree.map(jnp.asarray, params)
        return Averaged(inner.init(params), average, jnp.zeros((), jnp.int32))

    def update(updates, state, params=None, **extra):
        if params is None:
            raise ValueError(
                "averaged needs the parameters: optimizer.update(grads, state, params)"
            )
        updates, inner_state = inner.update(updates, state.inner, params, **extra)
        count = state.count + 1
        # The share of the newest; 1 - decay^t loses its digits where decay is near 1.
        share = (1 - decay) / -jnp.expm1(count * math.log(decay))
        average = jax.tree.map(
            lambda old, new: (old + share * (new - old)).astype(old.dtype),
            state.average,
            optax.apply_updates(params, updates),
        )
        return updates, Averaged(inner_state, average, count)

    return optax.GradientTransformationExtraArgs(start, update)


def average_of(state: Any) -> Any:
    """The averaged parameters in a `State`, or in an optimizer's state; before the first step the parameters.

    Raises ValueError unless there is exactly one average, see `averaged`.
    """
    found = _found(Averaged, getattr(state, "opt_state", state))
    if len(found) != 1:
        raise ValueError(
            f"average_of needs the state of one averaged(optimizer), or stable(optimizer, average=0.99), "
            f"found {len(found)} averages"
        )
    return found[0].average


def spectral(limit: float) -> optax.GradientTransformation:
    """max over u of ||W u|| / ||u|| <= `limit` for every matrix W after the step: a larger one is scaled back to it.

    To be chained last, `optax.chain(optax.adam(1e-3), spectral(2.0))`. Arrays of more axes count as matrices with the
    last axis as columns, those of fewer are left alone. `optax.masked` restricts it to some parameters. It finds
    the eigenvalues of W'W or WW', the smaller, in each step: cheap up to some hundred rows or columns. Projection in
    place of the normalised weights of Miyato et al. (2018), with the same bound on a layer's slope.
    """
    if not limit > 0:
        raise ValueError(f"limit must be positive, got {limit}")

    def constrained(update, param):
        if param.ndim < 2 or not param.size:
            return update
        new = param + update
        matrix = new.reshape(-1, new.shape[-1])
        wide = matrix if len(matrix) < matrix.shape[1] else matrix.T
        gram = jnp.matmul(wide, wide.T, precision="highest")
        norm = jnp.sqrt(jnp.linalg.eigvalsh(gram)[-1])
        return jnp.where(norm > limit, new * (limit / norm) - param, update).astype(update.dtype)

    def update(updates, state, params=None):
        if params is None:
            raise ValueError(
                "spectral needs the parameters: optimizer.update(grads, state, params)"
            )
        return jax.tree.map(constrained, updates, params), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


_GUARD = optax.ApplyIfFiniteState


def _found(kind: type, state: Any) -> list[Any]:
    """The states of one kind in an optimizer's state, those inside other transformations too."""
    leaves = jax.tree.leaves(state, is_leaf=lambda s: isinstance(s, kind))
    return [leaf for leaf in leaves if isinstance(leaf, kind)]

"""What keeps a training stable: Optax transformations like any other.

What they know is in the optimizer's state, and `fit` reads it there.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax


class Averaged(NamedTuple):
    """The state of `averaged`; `average_of` finds the average in it.

    inner is the state of the optimizer inside, average a tree like the parameters, count () the steps taken.
    """

    inner: Any
    average: Any
    count: jax.Array


def stable(
    optimizer: optax.GradientTransformation,
    *,
    clip: float | None = 5.0,
    average: float | None = None,
) -> optax.GradientTransformation:
    """`optimizer` on gradients clipped to a global norm of `clip`, with an average of the parameters.

    What is not finite needs no guard here: `fit`, `step` and `scan` take no such step.

    Args:
      optimizer: any; a `spectral` limit belongs inside it, at the end of its chain.
      clip: the largest Euclidean norm of all gradients together; None for no limit: a gradient that is finite but
        overflows when Adam squares it then freezes its parameter, unseen.
      average: decay of an average of the parameters, in (0, 1), see `averaged`; None for none.

    Raises ValueError for a clip that is not positive and finite, and for a decay outside (0, 1). Source of the clip:
    Pascanu, Mikolov & Bengio (2013).
    """
    if clip is not None and not 0 < clip < math.inf:
        raise ValueError(f"clip must be positive and finite, or None for no limit, got {clip}")
    if clip is not None:
        optimizer = optax.chain(optax.clip_by_global_norm(clip), optimizer)
    return optimizer if average is None else averaged(optimizer, average)


def averaged(
    optimizer: optax.GradientTransformation, decay: float = 0.99
) -> optax.GradientTransformation:
    """sum_s decay^(t-s) params_s / sum_s decay^(t-s), s = 1, ..., t, is kept in the optimizer's state: `average_of`.

    The steps themselves are those of `optimizer`. The average reaches back about 1 / (1 - decay) steps, and holds
    no share of the parameters that training began with. Where several transformations are chained this wraps
    them all. (`optax.ema` averages updates.) ValueError for a decay outside (0, 1), and for an update without the
    parameters. Source: Polyak & Juditsky (1992), there with equal weights.
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

    A tree like the parameters, arrays of the same shapes and types.
    Raises ValueError unless there is exactly one average, see `averaged`.
    """
    state = getattr(state, "opt_state", state)
    leaves = jax.tree.leaves(state, is_leaf=lambda s: isinstance(s, Averaged))
    found = [leaf for leaf in leaves if isinstance(leaf, Averaged)]
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
    place of the normalised weights of Miyato et al. (2018), with the same bound on a layer's slope. ValueError for a
    limit that is not positive, and for an update without the parameters.
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

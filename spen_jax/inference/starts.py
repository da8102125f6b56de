"""Where inference starts: a number, an array, a function of the context, or the domain's middle."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from spen_jax.arguments import handing, parameters_of
from spen_jax.checks import as_points, check_arrays
from spen_jax.domains import Domain


def points(
    start: Any, domain: Domain, context: Any, like: Any, key: jax.Array | None = None
) -> Any:
    """The first points of a batch, (B, ...), not yet projected.

    Args:
      start: a number for all coordinates; an array (or tree) of points (B, ...), or (1, ...) for one of all examples; a
        function of the context, which is handed `key` and `domain` where it has parameters of those names; None for the
        domain's middle.
      domain: where y lives.
      context: of B examples.
      like: what has the shapes of y, (B, ...), such as the truth; or the shape of one example's y, a tuple; or None.
      key: for a function that draws.

    A domain that needs its context starts where it says itself. ValueError for a start there; for a number, or the
    middle, without a shape to take; for a function that draws, without a key.
    """
    if domain.needs_context:
        if start is not None:
            raise ValueError(
                f"inference on {domain} starts at the structure's own marginals: give no start"
            )
        return domain.start(context)
    if isinstance(start, jax.Array) and start.ndim:
        return start if start.shape[0] != 1 else _repeated(start, context)
    if callable(start):
        if key is None and parameters_of(start).get("key") is False:
            raise ValueError(
                "this start has a parameter key, to draw by, and got none: give one, such as "
                "predictor(params, x, key=jax.random.key(0))"
            )
        return as_points(handing(start, key=key, domain=domain)(context))
    check_arrays(start=start)
    if start is not None and not _is_number(start):
        return _repeated(as_points(start), context)
    if like is None:
        raise ValueError(
            "a start that is a number, or the domain's middle, needs the shape of one example's y: give "
            "shape=(L,), or start with an array (1, L), or with a function of the context"
        )
    if isinstance(like, tuple) and all(isinstance(n, int) for n in like):
        shapes = (_examples(context), *like)
    else:
        shapes = jax.tree.map(jnp.shape, like)
    if start is None:
        return domain.initial(shapes)
    dtype = jnp.result_type(float)
    return jax.tree.map(lambda shape: jnp.full(shape, start, dtype), shapes, is_leaf=_is_shape)


def _is_number(start):
    return not isinstance(start, dict | list | tuple) and np.ndim(start) == 0


def _is_shape(shape):
    return isinstance(shape, tuple) and jax.tree_util.all_leaves(shape)


def _examples(context):
    leaves = jax.tree.leaves(context)
    if not leaves:
        raise ValueError(
            "the context holds no array that says how many examples there are: give start as (B, ...)"
        )
    return jnp.shape(leaves[0])[0]


def _repeated(start, context):
    """One point for all examples where there is only one."""
    known = jax.tree.leaves(context)
    if not known or (size := np.shape(known[0])[0]) == 1:
        return start
    if any(jnp.shape(a)[:1] != (1,) for a in jax.tree.leaves(start)):
        return start
    return jax.tree.map(lambda a: jnp.broadcast_to(a, (size, *a.shape[1:])), start)

"""Loops of methods that take steps, which a backward pass goes through without keeping all of them."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax


def repeated(
    step: Callable[[Any], Any], state: Any, steps: int, tolerance: float
) -> tuple[Any, jax.Array]:
    """The state after so many steps, and how far the last one moved it, (B,); no more once all are below a tolerance.

    Steps come in about sqrt(steps) blocks of as many, whose insides a backward pass computes again: it keeps 2
    sqrt(steps) states. How far they move is looked at once in each block.
    """
    block = math.isqrt(max(steps - 1, 0)) + 1
    again = jax.checkpoint(lambda s, _: (step(s), None))

    @jax.checkpoint
    def several(given):
        before, _ = lax.scan(again, given[0], length=block - 1)
        after, _ = again(before, None)
        return after, moved(before, after)

    def one(given, _):
        return lax.cond(jnp.all(given[1] <= tolerance), lambda g: g, several, given), None

    first = jax.eval_shape(several, (state, None))[1]
    given = state, jnp.full(first.shape, jnp.inf, first.dtype)
    return lax.scan(one, given, length=-(-steps // block))[0]


def moved(old: Any, new: Any) -> jax.Array:
    """The largest change of an entry, of arrays (B, ...), other than of what was and is forbidden, (B,)."""

    def of(a, b):
        change = jnp.where(jnp.minimum(a, b) < 1e15, jnp.abs(b - a), 0)
        return jnp.max(change.reshape(a.shape[0], -1), 1, initial=0)

    each = jax.tree.leaves(jax.tree.map(of, old, new))
    return jnp.max(jnp.stack(each), 0)


def check_steps(steps: int, damping: float = 0.0, name: str = "steps") -> None:
    """ValueError for numbers out of range."""
    if not (isinstance(steps, int) and steps >= 1):
        raise ValueError(f"{name} must be a whole number from 1 on, got {steps}")
    if not 0 <= damping < 1:
        raise ValueError(f"damping must be at least 0 and below 1, got {damping}")

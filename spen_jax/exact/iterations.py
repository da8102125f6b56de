"""Loops of methods that take steps, which a backward pass goes through without keeping all of them."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax


def repeated(
    step: Callable[[Any], tuple[Any, jax.Array]], state: Any, steps: int, tolerance: float
) -> tuple[Any, jax.Array]:
    """The state after so many steps, and how far the last one moved, (B,); no more steps once all are below a
    tolerance.

    `step` gives a state and how far it moved, (B,). Steps come in about sqrt(steps) blocks, whose insides a backward
    pass computes again: it keeps 2 sqrt(steps) states.
    """
    block = math.isqrt(max(steps - 1, 0)) + 1

    @jax.checkpoint
    def several(given):
        state, _ = given
        state, moved = lax.scan(lambda s, _: step(s), state, length=block)
        return state, moved[-1]

    def one(given, _):
        return lax.cond(jnp.all(given[1] <= tolerance), lambda g: g, several, given), None

    first = jax.eval_shape(step, state)[1]
    given = state, jnp.full(first.shape, jnp.inf, first.dtype)
    return lax.scan(one, given, length=-(-steps // block))[0] if steps else given


def moved(old: Any, new: Any) -> jax.Array:
    """The largest change of an entry, of arrays (B, ...) other than what is forbidden, (B,)."""

    def of(a, b):
        change = jnp.where(jnp.maximum(a, b) < 1e15, jnp.abs(b - a), 0)
        return jnp.max(change.reshape(len(a), -1), 1, initial=0)

    each = jax.tree.leaves(jax.tree.map(of, old, new))
    return jnp.max(jnp.stack(each), 0)


def check_steps(steps: int, damping: float = 0.0, name: str = "steps") -> None:
    """ValueError for numbers out of range."""
    if not (isinstance(steps, int) and steps >= 1):
        raise ValueError(f"{name} must be a whole number from 1 on, got {steps}")
    if not 0 <= damping < 1:
        raise ValueError(f"damping must be at least 0 and below 1, got {damping}")

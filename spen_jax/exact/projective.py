"""Projective dependency trees: no two arcs cross when drawn above the words, and none covers the root."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from spen_jax.blocks import in_blocks
from spen_jax.exact.algebras import Algebra


class Charts(NamedTuple):
    """Spans of the widths so far, (B, K, N), a span for each place i of N; all but `row` also for each k of K.

    A complete span has all of its head's words on one side, an open one ends at the word that its arc leads to.
    """

    right: jax.Array  # complete, head i: from i to i + k
    left: jax.Array  # complete, head i + k
    open_right: jax.Array  # arc from i to i + k + 1
    ends_left: jax.Array  # complete, head at the end: from i + k + 1 to i + width
    ends_right: jax.Array  # complete, head i + k + 1, likewise
    ends_open: jax.Array  # arc from i + width to i + k
    row_left: jax.Array  # the last width's complete ones, (B, N)
    row_right: jax.Array


def projective(arcs: jax.Array, one_root: bool, algebra: Algebra) -> jax.Array:
    """What the algebra makes of all projective trees, (B, n, n + 1) -> (B,).

    Eisner (1996): spans grow from both ends of their heads, so that each tree is made in one way only. The cost is
    n^3; all spans of one width are made at once, and memory is that of one block of examples.
    """
    size, n, _ = arcs.shape
    batch = arcs, jnp.arange(size)
    return in_blocks(partial(_block, one_root, algebra), None, batch, n * n, again=True)


def _block(one_root, algebra, _, batch):
    arcs, number = batch
    algebra = algebra.at(number[0])
    if one_root:
        charts = _filled(arcs[:, :, 1:], algebra)
        left = charts.left[:, :, 0]
        right = _newer(charts.row_right, charts.ends_right)[:, :, 0]
        roots = algebra.both(algebra.table(arcs[:, :, 0]), algebra.both(left, right))
        return algebra.either(roots, 1)
    above = [(0, 0), (1, 0), (0, 0)]
    return _filled(jnp.pad(arcs, above, constant_values=jnp.inf), algebra).row_right[:, 0]


def _filled(arcs, algebra):
    """The charts of all widths; arcs of shape (B, N, N), to the row from the column."""
    size, n, _ = arcs.shape
    one = algebra.either(algebra.table(jnp.zeros((size, n, 1), arcs.dtype)), 2)
    none = algebra.none((size, n, n), arcs.dtype)
    complete = _newer(one, none)
    charts = Charts(complete, complete, none, none, none, none, one, one)
    leftward, rightward = _diagonals(arcs), _diagonals(jnp.swapaxes(arcs, 1, 2))
    step = partial(_wider, algebra)
    return lax.scan(step, charts, (jnp.arange(1, n), leftward[1:], rightward[1:]))[0]


def _wider(algebra, charts, given):
    """All spans one word wider."""
    width, leftward, rightward = given
    algebra = algebra.at(width)
    leftward, rightward = algebra.table(leftward), algebra.table(rightward)
    ends_left = _shifted(_newer(charts.row_left, charts.ends_left))
    ends_right = _shifted(_newer(charts.row_right, charts.ends_right))
    opened = algebra.either(algebra.both(charts.right, ends_left), 1)
    open_left = algebra.both(leftward, opened)
    open_right = _put(charts.open_right, algebra.both(rightward, opened), width - 1)
    ends_open = _newer(open_left, _shifted(charts.ends_open))
    left = algebra.either(algebra.both(charts.left, ends_open), 1)
    right = algebra.either(algebra.both(open_right, ends_right), 1)
    whole = _put(charts.right, right, width), _put(charts.left, left, width)
    return Charts(*whole, open_right, ends_left, ends_right, ends_open, left, right), None


def _newer(row, chart):
    """A chart with a row put first, and its last dropped."""
    return jnp.concatenate([row[:, None], chart[:, :-1]], 1)


def _put(chart, row, k):
    return lax.dynamic_update_slice_in_dim(chart, row[:, None], k, 1)


def _shifted(chart):
    """Those of place i + 1 at i."""
    last = jnp.full_like(chart[:, :, :1], jnp.inf)
    return jnp.concatenate([chart[:, :, 1:], last], 2)


def _diagonals(table: Any) -> jax.Array:
    """(B, N, N) to (N, B, N): entry (i, i + w) at (w, i), infinite beyond; by reshaping alone."""
    size, n, _ = table.shape
    wide = jnp.pad(table, [(0, 0), (0, 0), (0, n)], constant_values=jnp.inf)
    flat = jnp.pad(wide.reshape(size, -1), [(0, 0), (0, n)], constant_values=jnp.inf)
    return jnp.transpose(flat.reshape(size, n, 2 * n + 1)[:, :, :n], (2, 0, 1))

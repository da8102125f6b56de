"""Energies of relaxed labels of an image, whose derivatives are what mean field and Gibbs sampling ask at each step."""

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero

from spen_jax.exact.answers import finite
from spen_jax.exact.field_methods import Tables
from spen_jax.exact.grid_links import (
    each_link,
    from_sender,
    is_shared,
    over_labels,
    product,
    window,
)


def multilinear(tables: Tables, counts: jax.Array | None, y: jax.Array) -> jax.Array:
    """sum of y_i . nodes_i and of y_i' links_ij y_j over neighbours, (B,), of y (B, H, W, K).

    A forbidden part counts `BARRED` times its share. counts (B, H, W) are the pixels that have links, None for all.
    """
    linked = y if counts is None else jnp.where(counts[..., None], y, 0)
    labels_first = jnp.moveaxis(linked, -1, 1)

    def link(offset, table):
        first, second = (window(labels_first, offset, ahead, 2) for ahead in (False, True))
        return bilinear(finite(table), first, second)

    of_links = jax.tree.leaves(each_link(link, tables.links))
    return sum(of_links, jnp.sum(y * finite(tables.nodes), (1, 2, 3)))


@jax.custom_jvp
def bilinear(table: jax.Array, first: jax.Array, second: jax.Array) -> jax.Array:
    """sum of first(a) table(a, b) second(b) over links and labels, (B,); y are (B, K, H', W')."""
    return jnp.sum(_met(table, first, True) * second, (1, 2, 3))


def _bilinear_jvp(primals, tangents):
    """Without sums over labels backward, in which loops over an image take many times longer."""
    table, first, second = primals
    of_table, of_first, of_second = tangents
    ahead = _met(table, first, True)
    value = jnp.sum(ahead * second, (1, 2, 3))
    change = jnp.zeros_like(value)
    if not isinstance(of_second, SymbolicZero):
        change += jnp.sum(ahead * of_second, (1, 2, 3))
    if not isinstance(of_first, SymbolicZero):
        change += jnp.sum(_met(table, second, False) * of_first, (1, 2, 3))
    if not isinstance(of_table, SymbolicZero):
        change += jnp.sum(_met(of_table, first, True) * second, (1, 2, 3))
    return value, change


bilinear.defjvp(_bilinear_jvp, symbolic_zeros=True)


def _met(table, y, ahead):
    """What the labels of one end mean for those of the other: sum_a table(a, b) y(a), (B, K, H', W')."""
    seen = from_sender(table, ahead)
    if is_shared(table):
        return product(seen, y)

    def step(total, given):
        here, mine = given
        return total + here * mine, None

    return over_labels(step, jnp.zeros_like(y), seen, y)

"""Bounds of images from chains: each row, column or diagonal alone is a chain, whose free energy is exact."""

import jax
import jax.numpy as jnp
from jax import lax

from spen_jax.exact.algebras import Least, Sum
from spen_jax.exact.field_methods import Tables
from spen_jax.exact.grid_links import OFFSETS, is_shared, linked, placed
from spen_jax.exact.grid_messages import tamed


def dual(tables: Tables, counts: jax.Array | None, shares: jax.Array, cold: bool) -> jax.Array:
    """sum_t 1/T F_t(T (u_t, links of t)), (B,), T families of chains; cold: sum_t min E_t(u_t, links of t).

    Infinite energies count a large number. Where the shares u, (T, B, H, W, K), sum to the nodes it lies below the free
    energy, or the least energy: F is concave in the energies. Source: Wainwright, Jaakkola & Willsky (2005).
    """
    tables, large = tamed(tables)
    nodes, shares = tables.nodes, jnp.where(jnp.isinf(shares), large, shares)
    families = [pair for pair in zip(OFFSETS, tables.links, strict=True) if pair[1] is not None]
    if not families:
        families = [(OFFSETS.down, jnp.zeros((1, 1, 1, *nodes.shape[-1:] * 2), nodes.dtype))]
    scale = 1 if cold else len(families)
    total = jnp.zeros(nodes.shape[0], nodes.dtype)
    for (offset, table), mine in zip(families, shares, strict=True):
        mask = linked(counts, offset)
        if mask is None:
            _, height, width, _ = nodes.shape
            mask = jnp.ones((1, max(height - offset[0], 0), max(width - abs(offset[1]), 0)), bool)
        total += of_chains(scale * mine, scale * table, mask, offset, cold) / scale
    return total


def of_chains(
    nodes: jax.Array, table: jax.Array, mask: jax.Array, offset: tuple[int, int], cold: bool
) -> jax.Array:
    """The free or the least energy of all chains along an offset, (B,).

    Nodes (B, H, W, K), a table (B or 1, H' or 1, W' or 1, K, K), and which links count, (B or 1, H', W').
    """
    if offset == (0, 1):
        nodes, table, mask = (jnp.swapaxes(a, 1, 2) for a in (nodes, table, mask))
        offset = 1, 0
    algebra = Least() if cold else Sum()
    # Rows move along the offset in a circle. Where no link is, all that has come so far goes on as one number.
    mask = placed(mask, offset, True)[:, 1:]
    own = not is_shared(table)
    tables = jnp.moveaxis(placed(table, offset, True)[:, 1:], 1, 0) if own else None

    def step(carry, row):
        before, total = carry
        node, link, here = row
        before = jnp.roll(before, offset[1], 1)
        here = here if own else table[:, 0]
        moved = algebra.either(here + before[..., None], 2)
        moved = jnp.where(link[..., None], moved, algebra.either(before, 2)[..., None])
        return normal(moved + node, total), None

    def normal(energies, total):
        least = lax.stop_gradient(jnp.min(energies, -1))
        return energies - least[..., None], total + jnp.sum(least, 1)

    first = normal(nodes[:, 0], jnp.zeros(nodes.shape[0], nodes.dtype))
    rows = jnp.moveaxis(nodes[:, 1:], 1, 0), jnp.moveaxis(mask, 1, 0), tables
    (last, total), _ = lax.scan(step, first, rows)
    return total + jnp.sum(algebra.either(last, 2), 1)

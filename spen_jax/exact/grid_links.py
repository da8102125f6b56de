"""Neighbours in an image: directions, windows of images where links stand, and sums over the labels of one end.

Images of labels come here as (B, K, H, W): rows of an image fill vector units, whatever K; tables of links from the
sender, whose labels come first, (K, B or 1, K, H' or 1, W' or 1).
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

UNROLLED = 8
"""So many labels of a sender are written out in one loop over the image."""


class Links(NamedTuple):
    """One for each direction between neighbours, None where the grid has none."""

    down: Any = None
    right: Any = None
    down_right: Any = None
    down_left: Any = None


OFFSETS = Links((1, 0), (0, 1), (1, 1), (1, -1))
"""From the earlier pixel of a link to the later one."""


def each_link(function: Any, *links: Links) -> Links:
    """function(offset, *of one direction) for each direction that there is."""
    found = (
        None if given[0] is None else function(offset, *given)
        for offset, *given in zip(OFFSETS, *links, strict=True)
    )
    return Links(*found)


def window(image: Any, offset: tuple[int, int], ahead: bool, axis: int = 1) -> Any:
    """An image, rows along an axis and columns along the next, at the later or the earlier pixels of all links."""
    for size, after in zip(image.shape[axis : axis + 2], _cut(offset, ahead), strict=True):
        image = image[(slice(None),) * axis + (slice(after[0], max(size - after[1], after[0])),)]
        axis += 1
    return image


def placed(links: jax.Array, offset: tuple[int, int], ahead: bool, axis: int = 1) -> jax.Array:
    """Values of links, rows along an axis and columns along the next, as an image: 0 where there is no link."""
    around = [(0, 0)] * links.ndim
    return jnp.pad(links, [*around[:axis], *_cut(offset, ahead), *around[axis + 2 :]])


def _cut(offset, ahead):
    """How many rows, and columns, at the start and at the end of an image have no link of this offset."""
    cut = [(max(n, 0), max(-n, 0)) for n in offset]
    return cut if ahead else [pair[::-1] for pair in cut]


def linked(counts: jax.Array | None, offset: tuple[int, int]) -> Any:
    """Which links count, (B, H', W'); None for all."""
    if counts is None:
        return None
    return window(counts, offset, True) & window(counts, offset, False)


def is_shared(table: jax.Array) -> bool:
    """Whether all links of an image have one table."""
    return table.shape[1] == table.shape[2] == 1


def from_sender(table: jax.Array, ahead: bool) -> jax.Array:
    """A table (B, H', W', K, K) as one end sees it, which sends ahead or back."""
    return jnp.moveaxis(table, (-2, -1) if ahead else (-1, -2), (0, 2))


def product(table: jax.Array, y: jax.Array) -> jax.Array:
    """sum_a table(a, b) y(a), (B, K, H', W'), of a table shared by all links, (K, B or 1, K, 1, 1)."""
    highest = lax.Precision.HIGHEST
    if table.shape[1] == 1:
        return jnp.einsum("bihw,ij->bjhw", y, table[:, 0, :, 0, 0], precision=highest)
    return jnp.einsum("bihw,ibj->bjhw", y, table[..., 0, 0], precision=highest)


def over_labels(step: Any, start: jax.Array, table: jax.Array, y: jax.Array) -> jax.Array:
    """step(so far, (table(a, .), y(a))) for one label a of the sender after another."""
    labels = len(table)
    given = table, jnp.moveaxis(y, 1, 0)[:, :, None]
    return lax.scan(step, start, given, unroll=min(labels, UNROLLED))[0]

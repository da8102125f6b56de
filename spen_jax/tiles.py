"""Large images in overlapping tiles: cut, answered as a batch of small ones, averaged where they overlap.

    parts = cut(images, 128, 32)
    found = predictor(params, Noisy(parts, level)).y
    y = joined(found, images.shape, 32)

Memory is that of a batch of tiles, not of the image. An energy that sees w pixels around a pixel answers as it would
for the whole but within w pixels of the edges of tiles, which an overlap of 2 w and more outweighs.
"""

import math
from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike


def cut(images: ArrayLike, size: int, overlap: int) -> jax.Array:
    """Tiles of size x size pixels, (B, H, W, ...) -> (B n, size, size, ...), neighbours sharing `overlap` or more.

    The n tiles of an image stand one after the other, row by row. ValueError for sizes that do not fit.
    """
    images = jnp.asarray(images)
    places = _places(images.shape, size, overlap)
    parts = [images[:, top : top + size, left : left + size] for top, left in places]
    return jnp.stack(parts, 1).reshape(-1, size, size, *images.shape[3:])


def joined(tiles: ArrayLike, shape: tuple[int, ...], overlap: int) -> jax.Array:
    """The images (B, H, W, ...) of tiles as `cut` makes them: weighted means, weights falling to the edges of tiles.

    Args:
      tiles: (B n, size, size, ...).
      shape: that of the images, of which H and W count.
      overlap: as they were cut.
    """
    tiles = jnp.asarray(tiles)
    size, rest = tiles.shape[1], tiles.shape[3:]
    places = _places(shape, size, overlap)
    if len(tiles) % len(places) or tiles.shape[1:3] != (size, size):
        raise ValueError(
            f"tiles must be a multiple of {len(places)}, as cut makes of {tuple(shape)}, size by size, got "
            f"{tiles.shape}"
        )
    parts = tiles.reshape(-1, len(places), *tiles.shape[1:])
    ramp = np.minimum(np.arange(size) + 1, size - np.arange(size)) / (overlap + 1)
    weight = np.outer(np.minimum(ramp, 1), np.minimum(ramp, 1)).astype(np.float32)
    spread = weight.reshape(size, size, *[1] * len(rest))
    total = jnp.zeros((len(parts), *shape[1:3], *rest), tiles.dtype)
    weights = np.zeros((*shape[1:3], *[1] * len(rest)), np.float32)
    for k, (top, left) in enumerate(places):
        here = slice(top, top + size), slice(left, left + size)
        total = total.at[:, *here].add(spread[None] * parts[:, k])
        weights[here] += spread
    return total / weights[None]


def _places(shape, size, overlap):
    if len(shape) < 3 or not 1 <= size <= min(shape[1:3]) or not 0 <= overlap < size:
        raise ValueError(
            "tiles need images (B, H, W, ...), a size up to the smaller of H and W, and an overlap below the size, "
            f"got shape {tuple(shape)}, size {size} and overlap {overlap}"
        )

    def starts(length):
        count = 1 + math.ceil((length - size) / (size - overlap))
        return np.linspace(0, length - size, count).round().astype(int).tolist()

    return [*product(starts(shape[1]), starts(shape[2]))]

"""Large images in overlapping tiles: cut, answered as a batch of small ones, averaged where they overlap.

    parts = cut(images, 128, 32)
    found = predictor(params, Noisy(parts, level)).y
    y = joined(found, images.shape, 32)

Memory is that of a batch of tiles, not of the image. Tiles start at multiples of size - overlap, which a network with
pools wants to be a multiple of all of them: 4 for `NoiseNetwork`. Pixels at a tile's edge have seen less than they
would in the whole image: their weight falls to nearly 0, so that an overlap of twice what inference sees around a
pixel, which grows with its steps, is enough.
"""

import math
from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from spen_jax.numbers import real


def cut(images: ArrayLike, size: int, overlap: int) -> jax.Array:
    """Tiles of size x size pixels of `images` (B, H, W, ...): (B n, size, size, ...), neighbours sharing `overlap`.

    The n tiles of an image stand one after the other, row by row. Where the last ones reach beyond the image they hold
    its edge again: answers at that edge are those of an image that goes on so. ValueError for other axes, and for an
    overlap that is not below the size.
    """
    images = jnp.asarray(real("images", images))
    starts = _starts(images.shape, size, overlap)
    edges = [
        (0, of[-1] + size - length) for of, length in zip(starts, images.shape[1:3], strict=True)
    ]
    rest = images.shape[3:]
    wide = jnp.pad(images, [(0, 0), *edges, *[(0, 0)] * len(rest)], "edge")
    parts = [wide[:, top : top + size, left : left + size] for top, left in product(*starts)]
    return jnp.stack(parts, 1).reshape(-1, size, size, *rest)


def joined(tiles: ArrayLike, shape: tuple[int, ...], overlap: int) -> jax.Array:
    """The images (B, H, W, ...) of tiles as `cut` makes them: means, weights growing as sin^2 through the overlap.

    Args:
      tiles: (B n, size, size, ...).
      shape: that of the images, of which H and W count.
      overlap: as they were cut.

    Returns (B, H, W, ...), floats. ValueError for tiles whose number is not that of such images, and for other axes.
    """
    tiles = jnp.asarray(real("tiles", tiles))
    tiles = tiles.astype(jnp.result_type(tiles, jnp.float32))
    size = tiles.shape[1] if tiles.ndim > 2 else 0
    starts = _starts(shape, size, overlap)
    count = len(starts[0]) * len(starts[1])
    if tiles.shape[2] != size or not len(tiles) or len(tiles) % count:
        raise ValueError(
            f"tiles must be a multiple of {count}, as cut makes of {tuple(shape)}, size by size, got {tiles.shape}"
        )
    parts = tiles.reshape(-1, count, *tiles.shape[1:])
    rest = [1] * (tiles.ndim - 3)
    inside = np.minimum(np.arange(size), np.arange(size)[::-1]) + 0.5
    ramp = np.sin(np.pi / 2 * np.minimum(1, inside / max(overlap, 1))) ** 2
    weight = np.outer(ramp, ramp).reshape(size, size, *rest).astype(np.float32)
    height, width = (of[-1] + size for of in starts)
    total = jnp.zeros((len(parts), height, width, *tiles.shape[3:]), tiles.dtype)
    weights = np.zeros((height, width, *rest), np.float32)
    for k, (top, left) in enumerate(product(*starts)):
        here = slice(top, top + size), slice(left, left + size)
        total = total.at[:, *here].add((weight[None] * parts[:, k]).astype(tiles.dtype))
        weights[here] += weight
    return (total / weights[None])[:, : shape[1], : shape[2]]


def _starts(shape, size, overlap):
    if len(shape) < 3 or not 0 <= overlap < size:
        raise ValueError(
            "tiles need images (B, H, W, ...), and an overlap of 0 or more below the size, got "
            f"shape {tuple(shape)}, size {size} and overlap {overlap}"
        )
    counts = [1 + max(0, math.ceil((length - size) / (size - overlap))) for length in shape[1:3]]
    return [[k * (size - overlap) for k in range(count)] for count in counts]

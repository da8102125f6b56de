"""Networks over images (Flax Linen), for images of any height and width. B images, H rows, W columns, C channels."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn


class UNet(nn.Module):
    """logits(x) of every pixel: down by mean pools and up again, each scale handing its layer over to the way up.

    x (B, H, W, C) -> (B, H, W, K), or (B, H, W) without `outputs`; scores high where good. Each scale has two
    convolutions of 3 x 3, each followed by a GroupNorm, over up to eight groups of the channels of one image, and the
    activation. So any height and width will do, odd ones too, at training and later; what falls off the image counts as
    0. Source: Ronneberger, Fischer & Brox (2015), with normalisation, mean for largest, and the nearest pixel in place
    of learnt ways up. ValueError for no scale, widths below 1, and an x of other axes.

    Attributes:
      widths: the channels of each scale, the image's own first: each further one is half as high and wide.
      outputs: K, logits of every pixel; None for one without an axis, of two labels.
      activation: smooth, so that the logits' derivatives are.
    """

    widths: tuple[int, ...] = (16, 32, 64)
    outputs: int | None = None
    activation: Callable[[jax.Array], jax.Array] = nn.silu

    def setup(self):
        """Names the scales' layers down_0, down_1, ..., up_0, ..., and the last one output; ValueError for no scale."""
        if not self.widths or min(self.widths) < 1:
            raise ValueError(f"UNet needs a width for each scale, at least 1, got {self.widths}")
        scales = range(len(self.widths))
        self.down = [self._block(self.widths[i], f"down_{i}") for i in scales]
        self.up = [self._block(self.widths[i], f"up_{i}") for i in scales[:-1]]
        self.last = nn.Conv(self.outputs or 1, (1, 1), name="output")

    def _block(self, width, name):
        return _Block(width, self.activation, name=name)

    def hidden(self, x: jax.Array, train: bool = False) -> jax.Array:
        """The last layer, (B, H, W, C) -> (B, H, W, widths[0]); ValueError for other axes."""
        if jnp.ndim(x) != 4:
            raise ValueError(f"UNet needs images (B, H, W, C), got the shape {jnp.shape(x)}")
        h, passed = self.down[0](x), []
        for block in self.down[1:]:
            passed.append(h)
            h = block(mean_pool(h, 2))
        for block, wide in zip(self.up[::-1], passed[::-1], strict=True):
            h = block(jnp.concatenate([wide, doubled(h, (wide.shape[1], wide.shape[2]))], -1))
        return h

    def output(self, h: jax.Array) -> jax.Array:
        """The logits, (B, H, W, widths[0]) -> (B, H, W, outputs), or (B, H, W) without outputs."""
        s = self.last(h)
        return s[..., 0] if self.outputs is None else s

    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """The logits of images, (B, H, W, C) -> (B, H, W, K), or (B, H, W) without `outputs`."""
        return self.output(self.hidden(x, train))


class _Block(nn.Module):
    """Two convolutions of 3 x 3, normalised."""

    width: int
    activation: Any

    @nn.compact
    def __call__(self, h):
        for _ in range(2):
            h = nn.Conv(self.width, (3, 3), use_bias=False)(h)
            h = self.activation(nn.GroupNorm(math.gcd(8, self.width))(h))
        return h


def mean_pool(images: jax.Array, size: int) -> jax.Array:
    """The means of blocks of `size` x `size` pixels, (..., H, W, C) -> (..., ceil(H / size), ceil(W / size), C).

    Blocks at the lower and right edge of `images` may be smaller; they are means of what they have.
    """
    *batch, height, width, channels = images.shape
    rows, columns = -(-height // size), -(-width // size)
    edges = [(0, rows * size - height), (0, columns * size - width), (0, 0)]
    wide = jnp.pad(images, [(0, 0)] * len(batch) + edges)
    sums = wide.reshape(*batch, rows, size, columns, size, channels).sum((-4, -2))
    if (rows * size, columns * size) == (height, width):
        return sums / size**2
    has = np.pad(np.ones((height, width), np.float32), edges[:2])
    counts = has.reshape(rows, size, columns, size).sum((1, 3))
    return sums / counts.reshape(*[1] * len(batch), rows, columns, 1).astype(sums.dtype)


def doubled(h: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Each place as 2 x 2 pixels, (B, H, W, C) -> (B, 2 H, 2 W, C), cut to a height and width."""
    batch, rows, columns, channels = h.shape
    shape = batch, rows, 2, columns, 2, channels
    wide = jnp.broadcast_to(h[:, :, None, :, None], shape)
    return wide.reshape(batch, 2 * rows, 2 * columns, channels)[:, : size[0], : size[1]]

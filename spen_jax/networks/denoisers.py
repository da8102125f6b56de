"""A network that finds the noise in an image (Flax Linen): for denoisers, and for the energies made of them.

B images of any size H, W; u (B, H, W) are grey levels less 1/2 in units of the noise, so that one network serves all
levels of noise: it is told the level by what it is given.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from spen_jax.networks.images import doubled, mean_pool


class NoiseNetwork(nn.Module):
    """R(u), what of an image u is noise of standard deviation 1: convolutions at 1/2 and 1/4 of its resolution.

    u (B, H, W) are grey levels less 1/2 in units of the noise, of any size: what a call is given tells it the level, so
    that one network serves all; R(u) (B, H, W) is in the same units. Each 2 x 2 pixels become four features first, so
    that no layer runs at the full resolution; two convolutions of widths[0], on their means over 2 x 2 again 1 + deep
    of widths[1], one of widths[0] on both together, and back. The first filters are of mean 0 and see the edge's pixels
    beyond it: brightness makes no difference. As a residual network the denoised image is u - R(u). Sources: Zhang et
    al. (2017) for the residual, (2018) for the features of 2 x 2; Ronneberger, Fischer & Brox (2015).

    Attributes:
      widths: features at 1/2 and 1/4 of the resolution.
      deep: further convolutions at 1/4.
      activation: smooth where an energy is made of it.
    """

    widths: tuple[int, int] = (32, 64)
    deep: int = 2
    activation: Callable[[jax.Array], jax.Array] = nn.softplus

    @nn.compact
    def __call__(self, u: jax.Array) -> jax.Array:
        """(B, H, W) -> (B, H, W)."""
        rows, columns = u.shape[1:]
        u = jnp.pad(u, [(0, 0), (0, -rows % 4), (0, -columns % 4)], "edge")
        half, quarter = self.widths

        def layer(h, width):
            return self.activation(nn.Conv(width, (3, 3))(h))

        wide = jnp.pad(gathered(u[..., None]), [(0, 0), (1, 1), (1, 1), (0, 0)], "edge")
        first = Contrast(half, (3, 3), padding="VALID")(wide)
        fine = layer(self.activation(first), half)
        coarse = layer(mean_pool(fine, 2), quarter)
        for _ in range(self.deep):
            coarse = layer(coarse, quarter)
        both = fine + doubled(nn.Conv(half, (1, 1))(coarse), (fine.shape[1], fine.shape[2]))
        found = nn.Conv(4, (3, 3))(layer(both, half))
        return spread(found)[:, :rows, :columns, 0]


class Contrast(nn.Conv):
    """A convolution whose filters are of mean 0: what it adds to all inputs alike makes no difference."""

    def param(self, name: str, *args: Any, **kwargs: Any) -> Any:
        """The kernel less the means of its filters, anything else as it is."""
        value = super().param(name, *args, **kwargs)
        return value - jnp.mean(value, (0, 1, 2), keepdims=True) if name == "kernel" else value


def gathered(h: jax.Array) -> jax.Array:
    """The features of each 2 x 2 side by side, (B, H, W, C) -> (B, H / 2, W / 2, 4 C)."""
    batch, rows, columns, width = h.shape
    h = h.reshape(batch, rows // 2, 2, columns // 2, 2, width)
    return h.transpose(0, 1, 3, 2, 4, 5).reshape(batch, rows // 2, columns // 2, 4 * width)


def spread(h: jax.Array) -> jax.Array:
    """The inverse of `gathered`, (B, H, W, 4 C) -> (B, 2 H, 2 W, C)."""
    batch, rows, columns, width = h.shape
    h = h.reshape(batch, rows, columns, 2, 2, width // 4)
    return h.transpose(0, 1, 3, 2, 4, 5).reshape(batch, 2 * rows, 2 * columns, width // 4)

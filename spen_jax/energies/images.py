"""SPENs over the pixels of images (Flax Linen): unary potentials of any network, and further terms.

E(x, y) = -s(x).y + terms - entropy H(y): y (H, W) in `Box()`, how much each pixel is of the second of two labels, or
y (H, W, K) in `Simplex()`, a distribution over K labels of each pixel.

A network is a Flax module with `hidden(x, train) -> h (B, H, W, F)` and `output(h) -> s`, of a batch, such as
`networks.UNet`. A term is one with `features(h, train) -> context`, of a batch, and `energy(context, y) -> scalar`,
of one example. B images, H rows, W columns, F hidden units of a pixel, K labels.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from spen_jax.domains import Box, Simplex
from spen_jax.energies.spen import softplus
from spen_jax.energies.structured import energies_of, energy_over
from spen_jax.exact import Grid
from spen_jax.networks import Dense, mean_pool

_normal = nn.initializers.normal


class ImageSPEN(nn.Module):
    """E = -sum of s . y + terms - entropy H(y), y (H, W) on `Box()` or (H, W, K) on `Simplex()`.

    B images of H rows and W columns, K labels; of two labels y is the share of the second. The network's `output` says
    which: s has the shape of y, ValueError for another y. Where the terms are convolutions, as `Patches` are, and the
    network is one too, images of any height and width will do.

    Attributes:
      network: of a batch: `hidden(x, train) -> (B, H, W, F)`, `output(h) -> s (B, H, W)` or (B, H, W, K).
      terms: such as `Patches()`, modules with `features(h, train) -> context` of a batch and
        `energy(context, y) -> scalar` of one example; their parameters stand under "terms_0", "terms_1", ...
      entropy: weight of the pixels' entropy. With weight 1 and no terms the minimiser is sigmoid(s), or softmax(s).
    """

    network: Any
    terms: tuple[Any, ...] = ()
    entropy: float = 0.0

    def features(self, x: Any, train: bool = False) -> dict[str, Any]:
        """The context: "logits" s, and where there are terms what they keep, "terms"."""
        h = self.network.hidden(x, train)
        context: dict[str, Any] = {"logits": self.network.output(h)}
        if self.terms:
            context["terms"] = [term.features(h, train) for term in self.terms]
        return context

    def energy(self, context: dict[str, Any], y: jax.Array) -> jax.Array:
        """E(x, y) of one example, y (H, W) or (H, W, K); ValueError for another shape than that of the logits."""
        if (shape := context["logits"].shape) != jnp.shape(y):
            raise ValueError(
                f"the network has logits {shape} for each image, and y must have that shape, got {jnp.shape(y)}"
            )
        return energy_over(self, context, y, Box() if len(shape) == 2 else Simplex())

    def __call__(self, x: Any, y: jax.Array) -> jax.Array:
        """The energies of a batch, (B,); makes `init` see all parameters."""
        return energies_of(self, self.features(x), y)


class Patches(nn.Module):
    """-sum over places of a v . u, u = g(W_n * ... g(W_1 * y + b_1 [+ Cx h]) ... + b_n): convolutions over masks.

    A term of `ImageSPEN`, y (H, W) or (H, W, K), h (H, W, F) the network's hidden units. Smooth, not convex: it says
    which shapes go together. Layer i sees squares of sizes[i] places, each of them a mean over scales[i] x scales[i]
    pixels; a are the pixels of a place of the last, 1 without pools. Beyond the image y is 0, as every layer is: no
    label, of two the first. It starts with slopes in y of about a tenth: inference first follows the unaries, but
    training finds a way. ValueError for sizes and scales that cannot be.

    Attributes:
      widths: units of each layer.
      sizes: places that each layer sees, in height and width, odd numbers.
      scales: pixels that a place of each layer is high and wide, each a multiple of the one before: where it grows, the
        layer before is pooled by means.
      sees_features: whether the first layer has Cx h, so that the patches see x and y together.
      activation: g, smooth.
    """

    widths: tuple[int, ...] = (16, 32, 32)
    sizes: tuple[int, ...] = (5, 5, 3)
    scales: tuple[int, ...] = (1, 2, 2)
    sees_features: bool = False
    activation: Callable[[jax.Array], jax.Array] = softplus

    def setup(self):
        """Declares Cx (F, widths[0]) where the term sees the features; ValueError for layers that cannot be."""
        if not len(self.widths) == len(self.sizes) == len(self.scales) > 0:
            raise ValueError(
                "Patches needs a size and a scale for each width, "
                f"got widths={self.widths}, sizes={self.sizes} and scales={self.scales}"
            )
        if any(size < 1 or size % 2 == 0 for size in self.sizes):
            raise ValueError(f"Patches needs odd sizes, whose middle is a place, got {self.sizes}")
        steps = zip((1, *self.scales), self.scales, strict=False)
        if any(wide < 1 or wide % narrow for narrow, wide in steps):
            raise ValueError(
                f"Patches needs scales of which each is a multiple of the one before, got {self.scales}"
            )
        self.Cx = Dense(self.widths[0], use_bias=False) if self.sees_features else None

    def features(self, h: jax.Array, train: bool = False) -> dict[str, jax.Array]:
        """The context: "shift" (B, H', W', widths[0]) where the term sees the features, else {}."""
        return {"shift": self.Cx(mean_pool(h, self.scales[0]))} if self.Cx else {}

    @nn.compact
    def energy(self, context: dict[str, jax.Array], y: jax.Array) -> jax.Array:
        """The term of one example, y (H, W) or (H, W, K); declares W_i (sizes[i], sizes[i], in, widths[i]), b_i, v."""
        units, before = y if jnp.ndim(y) == 3 else y[..., None], 1
        layers = zip(self.widths, self.sizes, self.scales, strict=True)
        for i, (width, size, scale) in enumerate(layers):
            units = mean_pool(units, scale // before) if scale > before else units
            before, inputs = scale, units.shape[-1]
            # Of K labels of a pixel one is on: the fan-in of the first layer counts places.
            start = _normal((size**2 * (1 if i == 0 else inputs)) ** -0.5)
            W = self.param(f"W_{i + 1}", start, (size, size, inputs, width))
            b = self.param(f"b_{i + 1}", nn.initializers.zeros, (width,))
            sums = over_pixels(units, W) + b[None, None]
            if i == 0 and "shift" in context:
                sums += context["shift"]
            units = self.activation(sums)
        # At 0 the activation's slope is about one half, which is what each layer leaves of slopes.
        start = 0.1 * 2.0 ** len(self.widths) / units.shape[-1] ** 0.5
        v = self.param("v", _normal(start), (units.shape[-1],))
        # A pool shares slopes among the pixels of a place; so they, and steps of v, are those of a term without.
        return -(before**2) * jnp.sum(units @ v)


class Neighbours(nn.Module):
    """sum over neighbouring pixels of y_i'A_d y_j, a table A_d (K, K) for each direction d: the links of `exact.Grid`.

    A term of `ImageSPEN`. Relaxed, for gradient inference beside other terms; `Grid` itself, with the same tables, has
    the exact answers. It starts at 0. y is (H, W, K), or of two labels (H, W), the share of the second.

    Attributes:
      diagonal: whether diagonal neighbours count too.
    """

    diagonal: bool = False

    def features(self, h: jax.Array, train: bool = False) -> dict[str, jax.Array]:
        """{}: the term does not depend on x."""
        return {}

    @nn.compact
    def energy(self, context: dict[str, Any], y: jax.Array) -> jax.Array:
        """The term of one example, y (H, W) or (H, W, K); declares down, right, down_right, down_left (K, K)."""
        shares = y if jnp.ndim(y) == 3 else jnp.stack([1 - y, y], -1)
        K = shares.shape[-1]
        directions = ("down", "right", "down_right", "down_left")[: 4 if self.diagonal else 2]
        tables = [self.param(name, nn.initializers.zeros, (K, K)) for name in directions]
        return Grid(jnp.zeros_like(shares), *tables).energy(shares)


def over_pixels(units: jax.Array, W: jax.Array) -> jax.Array:
    """The convolution over pixels, (H, W, in) by (size, size, in, out) to (H, W, out), with zeros beyond the edges."""
    dtype = jnp.result_type(units, W)
    edge = len(W) // 2
    return lax.conv_general_dilated(
        units[None].astype(dtype),
        W.astype(dtype),
        (1, 1),
        [(edge, edge)] * 2,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )[0]

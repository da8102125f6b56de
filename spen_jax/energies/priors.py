"""Priors over images (Flax Linen): how unlikely an image is by itself, as terms of an energy.

A prior is a term of images y (H, W) of any size, such as `ImageSPEN` and `Restoration` take: `features(h, train) -> {}`
and `energy(context, y) -> scalar`. `Restoration` gives it grey levels in units of the noise, so that it is told how
strong that is. All are smooth, and but for `DeepVariation` none is below 0.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from spen_jax.energies.images import over_pixels
from spen_jax.energies.spen import softplus
from spen_jax.networks import mean_pool

_normal = nn.initializers.normal


class _Prior(nn.Module):
    """A term that does not depend on x."""

    def features(self, h: jax.Array, train: bool = False) -> dict[str, jax.Array]:
        """{}: the term does not depend on x."""
        return {}


def _check(term: Any, **above: float) -> None:
    """ValueError for numbers that are not above 0, and for filters without a middle."""
    for name, value in above.items():
        if not value > 0:
            raise ValueError(f"{type(term).__name__} needs {name} > 0, got {value}")
    if (size := getattr(term, "size", 1)) < 1 or size % 2 == 0:
        raise ValueError(
            f"{type(term).__name__} needs an odd size, whose middle is a pixel, got {size}"
        )


class TotalVariation(_Prior):
    """weight * sum over places of sqrt(dx^2 + dy^2 + width^2) - width, dx and dy differences of neighbours.

    A prior over images y (H, W) of any size, at least 0. Convex, smooth for width > 0; learns the weight,
    exp(log_weight). ValueError for a weight or a width that is not above 0. Source: Rudin, Osher & Fatemi (1992).

    Attributes:
      weight: at the start.
      width: below about which a difference d costs d^2 / (2 width).
    """

    weight: float = 1.0
    width: float = 0.1

    @nn.compact
    def energy(self, context: dict[str, Any], y: jax.Array) -> jax.Array:
        """The term of one image, y (H, W); declares log_weight."""
        _check(self, weight=self.weight, width=self.width)
        log_weight = self.param("log_weight", nn.initializers.constant(jnp.log(self.weight)), ())
        down = jnp.pad(y[1:] - y[:-1], [(0, 1), (0, 0)])
        right = jnp.pad(y[:, 1:] - y[:, :-1], [(0, 0), (0, 1)])
        sizes = jnp.sqrt(down**2 + right**2 + self.width**2) - self.width
        return jnp.exp(log_weight) * jnp.sum(sizes)


class FieldOfExperts(_Prior):
    """sum_k a_k sum over places of log(1 + (f_k * y)^2 / 2): Student's t experts on the answers of filters.

    A prior over images y (H, W) of any size, at least 0. a_k = softplus(of the parameter a), above 0; the filters f_k
    are learned and of mean 0, so that brightness costs nothing. Robust: what a filter objects to costs ever less the
    larger it is. ValueError for an even size. Sources: Roth & Black (2005, 2009).

    Attributes:
      filters: how many.
      size: of each, in height and width, an odd number.
    """

    filters: int = 24
    size: int = 5

    @nn.compact
    def energy(self, context: dict[str, Any], y: jax.Array) -> jax.Array:
        """The term of one image, y (H, W); declares f (size, size, 1, filters) and a (filters,)."""
        _check(self)
        f = self.param("f", _normal(1 / self.size), (self.size, self.size, 1, self.filters))
        a = self.param("a", nn.initializers.constant(-2.0), (self.filters,))
        edge = self.size // 2
        around = jnp.pad(y, edge, "edge")
        answers = over_pixels(around[..., None], f - jnp.mean(f, (0, 1), keepdims=True))
        answers = answers[edge : edge + y.shape[0], edge : edge + y.shape[1]]
        return jnp.sum(jnp.log1p(answers**2 / 2) @ softplus(a))


class DeepVariation(_Prior):
    """sum over scales and places of v_s . u_s, u_s the layers of a smooth convolutional network: a deep prior.

    A prior over images y (H, W) of any size. Two convolutions at each scale, the first of all followed by sqrt(1 +
    a^2) - 1, the others by a softplus; the means over 2 x 2 go to the next scale. The first filters are of mean 0:
    brightness costs nothing. As `Restoration` has it, it is told the noise. After the total deep variation of Kobler et
    al. (2020), whose blocks go back up too. It need not have a lower bound: where nothing was measured y can run away.
    ValueError for an even size.

    Attributes:
      widths: features at each scale, the image's own first.
      size: of the first filters, in height and width, an odd number.
    """

    widths: tuple[int, ...] = (32, 48)
    size: int = 7

    @nn.compact
    def energy(self, context: dict[str, Any], y: jax.Array) -> jax.Array:
        """The term of one image, y (H, W); declares W_s_i, b_s_i and v_s for each scale s."""
        _check(self)
        edge = self.size // 2
        units = jnp.pad(y, edge, "edge")[..., None]
        total = jnp.zeros((), y.dtype)
        for s, width in enumerate(self.widths):
            units = mean_pool(units, 2) if s else units
            for i in range(2):
                first = s == i == 0
                units = self._layer(
                    units, f"{s + 1}_{i + 1}", width, self.size if first else 3, first
                )
                if first:
                    units = units[edge : edge + y.shape[0], edge : edge + y.shape[1]]
            total += jnp.sum(units @ self.param(f"v_{s + 1}", _normal(0.1 / width**0.5), (width,)))
        return total

    def _layer(self, units, name, width, size, first):
        inputs = units.shape[-1]
        W = self.param(
            f"W_{name}", _normal((size**2 * inputs) ** -0.5), (size, size, inputs, width)
        )
        b = self.param(f"b_{name}", nn.initializers.zeros, (width,))
        if first:
            W -= jnp.mean(W, (0, 1), keepdims=True)
            return jnp.sqrt(1 + (over_pixels(units, W) + b[None, None]) ** 2) - 1
        return softplus(over_pixels(units, W) + b[None, None])


class Denoising(_Prior):
    """sum of |R(y)|^2 / 2, R(y) = y - N(y) what a denoiser N takes for noise: a prior over images y (H, W).

    With `width` w it is the sum of w^2 (sqrt(1 + (R / w)^2) - 1), which is the same where R is small. At least 0, and 0
    for images that N leaves alone. One step of length 1 down its slope, y - J(y)'R(y) with J the derivative of R, is a
    denoiser itself, and is what to train. With a width what R finds costs at most w |R|, so that the slope stays of the
    size of noise on textures that training has never shown, where without one it has grown a hundredfold. ValueError
    for a width that is not above 0. Sources: Hurault, Leclaire & Papadakis (2022), gradient step denoisers; Romano,
    Elad & Milanfar (2017).

    Attributes:
      network: R, a Flax module (B, H, W) -> (B, H, W), such as `NoiseNetwork`.
      width: w, or None for the square alone.
    """

    network: Callable[[jax.Array], jax.Array]
    width: float | None = None

    def energy(self, context: dict[str, Any], y: jax.Array) -> jax.Array:
        """The term of one image, y (H, W)."""
        _check(self, width=1.0 if self.width is None else self.width)
        found = self.network(y[None])
        if self.width is None:
            return jnp.sum(found**2) / 2
        return self.width**2 * jnp.sum(jnp.sqrt(1 + (found / self.width) ** 2) - 1)

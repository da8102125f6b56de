"""Terms over sequences (Flax Linen), for `ChainSPEN(network, terms=(Windows(),))`; see `energies.structured`.

B examples, T places, K labels, H hidden units; y (T, K) is 0 in places that do not count, and so is
every layer of a term, so that nothing beyond a sequence's end has a say.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from spen_jax.energies.spen import softplus
from spen_jax.networks import Dense

_normal = nn.initializers.normal


class Windows(nn.Module):
    """-sum_t v.u_t, u = g(W_n * ... g(W_1 * y + b_1 [+ Cx h]) ... + b_n): convolutions over windows of y.

    A term of `ChainSPEN`, y (T, K) and h (T, H) of one example. Smooth, not convex: it says which labels go together
    within sum(sizes) - n + 1 places. It starts small, so that inference first follows the unaries. ValueError for sizes
    that are even, or not one for each width.

    Attributes:
      widths: units of each layer.
      sizes: places that each layer sees, odd numbers.
      sees_features: whether the first layer has Cx h_t, so that the windows see x and y together.
      activation: g, smooth.
      dropout: the share of units of the last layer left out in a training step, the same at all places and for all y.
      corruption: the share of places whose y the windows do not see in a training step: they must not lean on knowing
        all of a word.
    """

    widths: tuple[int, ...] = (256, 256)
    sizes: tuple[int, ...] = (5, 3)
    sees_features: bool = False
    activation: Callable[[jax.Array], jax.Array] = softplus
    dropout: float = 0.0
    corruption: float = 0.0

    def setup(self):
        """Declares Cx (H, widths[0]) where the windows see the features; ValueError for sizes that cannot be."""
        if len(self.widths) != len(self.sizes) or not self.widths:
            raise ValueError(
                f"Windows needs a size for each width, got widths={self.widths} and sizes={self.sizes}"
            )
        if any(size < 1 or size % 2 == 0 for size in self.sizes):
            raise ValueError(f"Windows needs odd sizes, whose middle is a place, got {self.sizes}")
        self.Cx = Dense(self.widths[0], use_bias=False) if self.sees_features else None
        self.drop = nn.Dropout(self.dropout)
        self.drop_places = nn.Dropout(self.corruption)

    def features(self, h: jax.Array, train: bool, mask: jax.Array) -> dict[str, Any]:
        """The context: "mask" (B, T) and, where they play a part, "shift" (B, T, widths[0]), "keep", "seen"."""
        context: dict[str, Any] = {"mask": mask}
        if self.Cx:
            context["shift"] = self.Cx(h)
        if train and self.dropout:
            ones = jnp.ones((len(mask), self.widths[-1]))
            context["keep"] = self.drop(ones, deterministic=False)
        if train and self.corruption:
            seen = self.drop_places(jnp.ones(mask.shape), deterministic=False)
            context["seen"] = seen > 0
        return context

    @nn.compact
    def energy(self, context: dict[str, Any], y: jax.Array) -> jax.Array:
        """The term of one example, y (T, K); declares W_i (sizes[i], in, widths[i]), b_i and v."""
        counts = context["mask"][:, None]
        units = jnp.where(context["seen"][:, None], y, 0) if "seen" in context else y
        for i, (width, size) in enumerate(zip(self.widths, self.sizes, strict=True)):
            fan_in = size * units.shape[-1]
            # Of a first layer's window one entry in K is on: its fan-in counts places.
            start = _normal((size if i == 0 else fan_in) ** -0.5)
            W = self.param(f"W_{i + 1}", start, (size, units.shape[-1], width))
            b = self.param(f"b_{i + 1}", nn.initializers.zeros, (width,))
            sums = over_places(units, W) + b[None]
            if i == 0 and "shift" in context:
                sums += context["shift"]
            units = jnp.where(counts, self.activation(sums), 0)
        v = self.param("v", _normal(0.1 / units.shape[-1] ** 0.5), (units.shape[-1],))
        return -jnp.sum(units @ (v * context["keep"] if "keep" in context else v))


class LanguageModel(nn.Module):
    """-w sum_t y_t . log softmax(V g(W * (y_(t-n), ..., y_(t-1)) + b) + c): a language model of labels as an energy.

    A term of `ChainSPEN`, y (T, K), in nats; g is the softplus. At weight w = 1 and one-hot y it is -log p(y) for p
    over all sequences of a length, so that it can be trained by itself, on labels without any x, by its own mean
    energy, and cannot collapse: what is low somewhere is high elsewhere. Places before the first have no label. Source:
    Bengio et al. (2003), relaxed.

    Attributes:
      order: n, how many labels back it looks.
      width: hidden units.
      weight: w.
    """

    order: int = 4
    width: int = 128
    weight: float = 1.0

    def features(self, h: jax.Array, train: bool, mask: jax.Array) -> dict[str, jax.Array]:
        """{}: the term does not depend on x, and a row of 0 costs nothing."""
        return {}

    @nn.compact
    def energy(self, context: dict[str, Any], y: jax.Array) -> jax.Array:
        """The term of one example, y (T, K); declares W (n, K, width), b, V (width, K) and c."""
        (_, K), width = y.shape, self.width
        W = self.param("W", _normal(self.order**-0.5), (self.order, K, width))
        b = self.param("b", nn.initializers.zeros, (width,))
        V = self.param("V", _normal(width**-0.5), (width, K))
        c = self.param("c", nn.initializers.zeros, (K,))
        before = jnp.pad(y[:-1], [(self.order, 0), (0, 0)])
        sums = _convolution(before, W, "VALID")
        scores = softplus(sums + b[None]) @ V + c[None]
        return -self.weight * jnp.sum(y * jax.nn.log_softmax(scores))


def over_places(units: jax.Array, W: jax.Array) -> jax.Array:
    """The convolution over places, (T, in) by (size, in, out) to (T, out), with zeros beyond the ends."""
    edge = len(W) // 2
    return _convolution(units, W, [(edge, edge)])


def _convolution(units: jax.Array, W: jax.Array, padding: Any) -> jax.Array:
    dtype = jnp.result_type(
        units, W
    )  # what a product of both would have; a convolution asks for equal ones
    return lax.conv_general_dilated(
        units[None].astype(dtype),
        W.astype(dtype),
        (1,),
        padding,
        dimension_numbers=("NWC", "WIO", "NWC"),
    )[0]

"""What numbers snakes without pairs: windows alone, a network, an energy over windows, its layers without an energy.

B grids of H x W pixels, K = 11 labels; x (B, H, W, 5) colours, y (B, H, W, 11).
"""

from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

import spen_jax as sx
from experiments.structure.sequences import from_network
from experiments.structure.snakes_data import LABELS, windows
from spen_jax.convolutions import fast
from spen_jax.energies import softplus
from spen_jax.energies.images import ImageSPEN, Patches, over_pixels
from spen_jax.objectives import read

STEPS = 12
WIDTHS, SIZES = (64, 64), (3, 1)
LAST_HALF = (0.0,) * (STEPS // 2 + 1) + (1 / (STEPS // 2),) * (STEPS // 2)


class Alone(nn.Module):
    """s = W w + b of the colours w of 3 x 3 pixels."""

    def setup(self):
        """One layer."""
        self.last = nn.Dense(LABELS)

    def hidden(self, x, train=False):
        """The windows, (B, H, W, 45)."""
        return windows(x)

    def output(self, h):
        """The logits, (B, H, W, 11)."""
        return self.last(h)

    def __call__(self, x, train=False):
        """The logits of grids."""
        return self.output(self.hidden(x))


class Convolutional(nn.Module):
    """Five convolutions of 3 x 3, so that a pixel sees 11 x 11."""

    @nn.compact
    def __call__(self, x, train=False):
        """The logits of grids."""
        for _ in range(4):
            x = nn.silu(nn.Conv(64, (3, 3))(x))
        return nn.Conv(LABELS, (3, 3))(x)


class Iterated(nn.Module):
    """z <- z + a (s + f(softmax(z), w) - z) from z = s: the energy's layers without an energy, one to labels added.

    Attributes:
      steps: how often.
      step_size: a.
      tied: whether f has the same weights each time.
    """

    steps: int = STEPS
    step_size: float = 0.5
    tied: bool = True

    def setup(self):
        """s, and the weights of f, one set or one for each step."""
        self.alone = Alone()
        sets = 1 if self.tied else self.steps
        widths, sizes = (LABELS, *WIDTHS, LABELS), (*SIZES, 1)
        layers = []
        for i, size in enumerate(sizes):
            # Of a first window one entry in K is on, and the last layer starts small, as the energy's do.
            fan_in = size**2 * (1 if i == 0 else widths[i])
            start = nn.initializers.normal((0.1 if i == len(WIDTHS) else 1) * fan_in**-0.5)
            shape = (sets, size, size, widths[i], widths[i + 1])
            W = self.param(f"W_{i + 1}", start, shape)
            b = self.param(f"b_{i + 1}", nn.initializers.zeros, (sets, widths[i + 1]))
            layers.append((W, b))
        self.layers = layers
        seen = nn.initializers.lecun_normal(batch_axis=0)
        self.Cx = self.param("Cx", seen, (sets, 45, WIDTHS[0]))

    def path(self, x, train=False):
        """All z, (steps + 1, B, H, W, 11)."""
        s = self.alone(x)
        seen = jnp.einsum("bhwi,tij->tbhwj", windows(x), self.Cx)  # what is the same at all z
        one = jax.tree.map(lambda a: a[0], (self.layers, seen)) if self.tied else None

        def f(units, layers, seen):
            for i, (W, b) in enumerate(layers):
                sums = jax.vmap(over_pixels, (0, None))(units, W) + b[None, None, None]
                sums = sums + seen if i == 0 else sums
                units = sums if i == len(layers) - 1 else softplus(sums)
            return units

        def step(z, weights):
            z = z + self.step_size * (s + f(jax.nn.softmax(z), *(one or weights)) - z)
            return z, z

        each = None if self.tied else (self.layers, seen)
        return jnp.concatenate([s[None], lax.scan(step, s, each, self.steps)[1]])

    def __call__(self, x, train=False):
        """The last z, (B, H, W, 11)."""
        return self.path(x, train)[-1]


SPEN = ImageSPEN(
    Alone(), terms=(Patches(widths=WIDTHS, sizes=SIZES, scales=(1, 1), sees_features=True),)
)


@lru_cache
def of_iterates(module: Any, weights: tuple[float, ...]) -> Any:
    """The objective of a module with a `path`: cross-entropies of its iterates, weighted as those of a SPEN are."""
    judge = jax.vmap(sx.Simplex().loss_of_scores)

    def objective(params, batch, key):
        x, y, *_ = read(batch)
        path = module.apply({"params": params}, x, method="path")
        each = jax.vmap(lambda z: jnp.mean(judge(z, y)))(path)
        value = jnp.asarray(weights) @ each
        return value, {"loss": value, "last": each[-1]}

    return fast(objective)


def by_window_energy(trace: tuple[str, ...] = ()) -> sx.Predictor:
    """z <- z / 2 - grad E / 2 from z = s, entropic mirror descent on E - H, unrolled."""
    return from_network(SPEN, STEPS, trace)

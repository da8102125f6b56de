"""What reads words, letter by letter: networks of letters alone, with a chain, recurrent, iterated, and the SPEN.

B words, T places, K = 26 letters; x (B, T, 128) pixels, y (B, T, K).
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

import spen_jax as sx
from experiments.structure.sequences import (
    answered,
    chain_of,
    from_network,
    init_of,
    of_iterates,
    scored,
)
from spen_jax.energies import softplus
from spen_jax.energies.sequences import over_places

LETTERS, ROWS, COLUMNS = 26, 16, 8
STEPS = 10
LAST_HALF = (0.0,) * 6 + (0.2,) * 5


class Linear(nn.Module):
    """s_t = W x_t + b."""

    def setup(self):
        """One layer."""
        self.output = nn.Dense(LETTERS)

    def hidden(self, x, train=False, mask=None):
        """The pixels themselves."""
        return x

    def __call__(self, x, train=False, mask=None):
        """The logits, (B, T, K)."""
        return self.output(x)


class Convolutional(nn.Module):
    """Two convolutions of 3 x 3 with pools and a dense layer, of each letter; in training it moves by up to a pixel."""

    def setup(self):
        """Its layers."""
        self.convolutions = [nn.Conv(16, (3, 3)), nn.Conv(32, (3, 3))]
        self.dense = nn.Dense(192)
        self.output = nn.Dense(LETTERS)
        self.drop, self.drop_dense = nn.Dropout(0.3), nn.Dropout(0.5)

    def hidden(self, x, train=False, mask=None):
        """(B, T, 128) -> (B, T, 192)."""
        images = x.reshape(-1, ROWS, COLUMNS, 1)
        if train:
            images = moved(self.make_rng("dropout"), images)
        for convolution in self.convolutions:
            images = pooled(nn.relu(convolution(images)))
        h = self.drop(images.reshape(len(images), -1), deterministic=not train)
        h = self.drop_dense(nn.relu(self.dense(h)), deterministic=not train)
        return h.reshape(*x.shape[:2], -1)

    def __call__(self, x, train=False, mask=None):
        """The logits, (B, T, K)."""
        return self.output(self.hidden(x, train))


def moved(key, images):
    """Each image moved by -1, 0 or 1 pixels both ways."""
    wide = jnp.pad(images, [(0, 0), (1, 1), (1, 1), (0, 0)])
    starts = jax.random.randint(key, (len(images), 2), 0, 3)

    def cut(image, start):
        return lax.dynamic_slice(image, (*start, 0), (ROWS, COLUMNS, 1))

    return jax.vmap(cut)(wide, starts)


def pooled(images):
    """The largest of each 2 x 2, (n, r, c, k) -> (n, r / 2, c / 2, k)."""
    n, rows, columns, channels = images.shape
    return images.reshape(n, rows // 2, 2, columns // 2, 2, channels).max((2, 4))


class Recurrent(nn.Module):
    """Letters' features through recurrent layers in both directions."""

    units: int = 128
    layers: int = 3

    def setup(self):
        """Its layers."""
        self.letters = Convolutional()
        self.recurrent = [sx.networks.GRU(self.units) for _ in range(self.layers)]
        self.output = nn.Dense(LETTERS)
        self.drop = nn.Dropout(0.3)

    def __call__(self, x, train=False, mask=None):
        """The logits, (B, T, K)."""
        h = self.letters.hidden(x, train)
        for layer in self.recurrent:
            h = self.drop(layer(h, mask), deterministic=not train)
        return self.output(h)


class Iterated(nn.Module):
    """z <- z + a (s + f(softmax(z)) - z) from z = s, f convolutions over places: the energy's layers without an energy.

    Attributes:
      steps: how often, the same weights each time.
      step_size: a.
      widths: of the layers of f before the last, which has K.
      sizes: places that each layer sees.
    """

    steps: int = STEPS
    step_size: float = 0.5
    widths: tuple[int, ...] = (256, 256)
    sizes: tuple[int, ...] = (5, 3, 1)

    def setup(self):
        """Weights of f's layers."""
        self.letters = Convolutional()
        widths = (LETTERS, *self.widths, LETTERS)
        self.W = [
            self.param(
                f"W_{i + 1}",
                # As in the energy: of a first window one entry in K is on, and the last layer starts small.
                nn.initializers.normal(
                    (0.1 if i == len(self.widths) else 1)
                    * (size * (1 if i == 0 else widths[i])) ** -0.5
                ),
                (size, widths[i], widths[i + 1]),
            )
            for i, size in enumerate(self.sizes)
        ]
        self.b = [
            self.param(f"b_{i + 1}", nn.initializers.zeros, (width,))
            for i, width in enumerate(widths[1:])
        ]

    def path(self, x, train=False, mask=None):
        """All z, (steps + 1, B, T, K)."""
        s = self.letters(x, train)
        counts = jnp.ones(s.shape[:2], bool) if mask is None else mask

        def f(y, counts):
            units = y
            for i, (W, b) in enumerate(zip(self.W, self.b, strict=True)):
                sums = over_places(units, W) + b[None]
                last = i == len(self.W) - 1
                units = jnp.where(counts[:, None], sums if last else softplus(sums), 0)
            return units

        def step(z, _):
            y = jnp.where(counts[..., None], jax.nn.softmax(z), 0)
            z = z + self.step_size * (s + jax.vmap(f)(y, counts) - z)
            return z, z

        return jnp.concatenate([s[None], lax.scan(step, s, None, self.steps)[1]])

    def __call__(self, x, train=False, mask=None):
        """The last z, (B, T, K)."""
        return self.path(x, train, mask)[-1]


class Contestant(NamedTuple):
    """A model, what trains it, and the logits or relaxed letters that it answers."""

    title: str
    init: Callable[[jax.Array, Any], Any]  # (key, batch) -> parameters
    objective: Any
    answer: Callable[..., Any]  # (params, x, mask) -> (B, T, K), largest at the letter that is read
    rate: float


def feed_forward(title, module, rate):
    """A network alone, by cross-entropy."""
    objective = sx.objectives.feed_forward(sx.logits_of(module), domain=sx.Simplex())
    return Contestant(title, init_of(module), objective, scored(module), rate)


def chain(title, network, rate, objective=sx.objectives.maximum_likelihood):
    """A conditional random field on a network, or with another objective what that makes of it."""
    module = sx.energies.ChainSPEN(network)
    features, _ = sx.functions_of(module)
    predictor = sx.Predictor.of_structure(chain_of, features)
    return Contestant(title, init_of(module, True), objective(predictor), answered(predictor), rate)


def iterated(title, module, rate):
    """A network whose iterates of the last half are all judged, as the SPEN's are."""
    weights = LAST_HALF if module.steps == STEPS else (0.0,) * module.steps + (1.0,)

    objective = of_iterates(module, weights)
    return Contestant(title, init_of(module), objective, scored(module), rate)


def spen(title, module, rate):
    """An energy, through the unrolled steps of inference."""
    predictor = from_network(module, STEPS)
    objective = sx.objectives.end_to_end(predictor, weights=LAST_HALF)
    return Contestant(title, init_of(module, True), objective, answered(predictor), rate)


SPEN = sx.energies.ChainSPEN(Convolutional(), terms=(sx.energies.Windows(),))
max_margin = partial(sx.objectives.max_margin, cost=sx.losses.hamming)
CONTESTANTS = {
    "linear": feed_forward("linear, each letter alone", Linear(), 0.01),
    "linear-crf": chain("linear-chain CRF", Linear(), 0.02),
    "m3n": chain("max-margin Markov network", Linear(), 0.02, max_margin),
    "cnn": feed_forward("CNN, each letter alone", Convolutional(), 0.004),
    "crf": chain("CNN and CRF", Convolutional(), 0.004),
    "bigru": feed_forward("CNN and bidirectional GRU", Recurrent(), 0.004),
    "once": iterated("the energy's layers once", Iterated(steps=1, step_size=1.0), 0.004),
    "tied": iterated("the same, iterated, no energy", Iterated(), 0.004),
    "reach": iterated(
        "iterated, with a way back of its own",
        Iterated(widths=(256, 256, 256), sizes=(5, 3, 3, 5)),
        0.002,
    ),
    "spen": spen("SPEN", SPEN, 0.004),
}

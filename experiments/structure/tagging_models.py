"""Taggers: a network alone, with a chain, with an energy of windows of tags, and with the same layers and no energy.

B sentences, T places, K tags, H units; x is what a `Lexicon` makes of sentences, y (B, T, K).
"""

from collections.abc import Callable
from functools import lru_cache
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
from spen_jax.energies import ChainSPEN, Windows, softplus
from spen_jax.energies.sequences import over_places
from spen_jax.networks import Tagger, WordEncoder

STEPS, STEP_SIZE = 6, 0.5
LAST_HALF = (0.0,) * 3 + (0.25,) * 4
"""How much each iterate counts in the loss, the start first."""
WIDTHS, SIZES = (64, 64), (5, 3)


class Tied(nn.Module):
    """z <- z + (s + f(softmax(z)) - z) / 2 from z = s, the same f each time: the energy's layers without an energy.

    f has the windows' two convolutions and a third one that brings their units back to tags, for which the energy
    has its own gradient.
    """

    network: Tagger

    @nn.compact
    def path(self, x: Any, train: bool = False, mask: Any = None) -> jax.Array:
        """All z, (steps + 1, B, T, K)."""
        s = self.network(x, train, mask)
        counts = (jnp.ones(s.shape[:2], bool) if mask is None else mask)[..., None]
        tags, start = s.shape[-1], nn.initializers.normal
        each = (tags, *WIDTHS), (*WIDTHS, tags), (*SIZES, 3), (5, 5 * WIDTHS[0], 300 * WIDTHS[1])
        layers = [
            (
                self.param(f"W_{i}", start(fan_in**-0.5), (size, inside, out)),
                self.param(f"b_{i}", nn.initializers.zeros, (out,)),
            )
            for i, (inside, out, size, fan_in) in enumerate(zip(*each, strict=True))
        ]

        def step(z, _):
            units = jax.nn.softmax(z) * counts
            for i, (W, b) in enumerate(layers):
                sums = jax.vmap(over_places, (0, None))(units, W) + b[None, None]
                units = (sums if i == len(layers) - 1 else softplus(sums)) * counts
            z = z + STEP_SIZE * (s + units - z)
            return z, z

        return jnp.concatenate([s[None], lax.scan(step, s, None, STEPS)[1]])

    def __call__(self, x: Any, train: bool = False, mask: Any = None) -> jax.Array:
        """The last z, (B, T, K)."""
        return self.path(x, train, mask)[-1]


class Model(NamedTuple):
    """What is trained, and the scores that it answers with."""

    title: str
    network: Tagger
    init: Callable[[jax.Array, Any], Any]  # (key, batch) -> parameters
    objective: Any
    answer: Callable[..., jax.Array]  # (params, x, mask) -> (B, T, K), largest at the tag; compiled
    has_network: bool = True  # whether the tagger's parameters stand under "network"

    def on(self, network: Any, key: jax.Array, batch: Any) -> Any:
        """Parameters to start from, with a tagger that is trained already."""
        if not self.has_network:
            return network
        return self.init(key, batch) | {"network": network}


def models(encoder: WordEncoder, tags: int) -> dict[str, Model]:
    """By name; the first is the network that the others start from."""
    network = Tagger(encoder, tags)
    return {
        "softmax": alone(network),
        "crf": crf(network),
        "spen": spen(network),
        "tied": tied(network),
    }


def alone(network: Any) -> Model:
    """The network by itself, each tag by cross-entropy."""
    objective = sx.objectives.feed_forward(sx.logits_of(network), domain=sx.Simplex())
    title = "BiGRU, each tag alone"
    return Model(title, network, init_of(network), objective, scored(network), False)


def tied(network: Any) -> Model:
    """The control."""
    module: Any = Tied(network)
    of = init_of(module), of_iterates(module, LAST_HALF), scored(module)
    return Model("the same layers, no energy", network, *of)


def crf(network: Any) -> Model:
    """The conditional random field, exact in training and answers."""
    predictor = crf_of(network)
    objective = sx.objectives.maximum_likelihood(predictor)
    return Model("CRF", network, init_of(ChainSPEN(network), True), objective, answered(predictor))


@lru_cache
def crf_of(network: Any) -> sx.Predictor:
    """The best tags of a chain beside a network."""
    features, _ = sx.functions_of(ChainSPEN(network))
    return sx.Predictor.of_structure(chain_of, features)


def spen(network: Any) -> Model:
    """The SPEN, trained through its steps."""
    predictor = predictor_of(network)
    objective = sx.objectives.end_to_end(predictor, weights=LAST_HALF)
    return Model(
        "SPEN", network, init_of(spen_module(network), True), objective, answered(predictor)
    )


def spen_module(network: Tagger) -> ChainSPEN:
    """Tags alone, transitions, and windows of 7 tags."""
    return ChainSPEN(network, terms=(Windows(WIDTHS, SIZES),))


@lru_cache
def predictor_of(network: Any, trace: tuple[str, ...] = ()) -> sx.Predictor:
    """z <- z / 2 - grad E / 2 from z = s: mirror descent from the network's own answer."""
    return from_network(spen_module(network), STEPS, trace)

"""Losses of energies between all places of a batch of sequences: which pairs are right, and InfoNCE of them."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from spen_jax.losses.pairs import Number
from spen_jax.losses.sets import info_nce
from spen_jax.numbers import floats, real


class Ahead(NamedTuple):
    """For K offsets and B sequences of T places, N = B T candidates: which energies are right, as `pairs_ahead` finds.

    `correct` (K, B, T): the energy of the place k ahead; `everything` (K, B, T, N): of all places; `where` of that
    shape, booleans: which of them are negatives; `counts` (K, B, T), booleans: where both places are there. Elsewhere
    `correct` is another place's energy and means nothing.
    """

    correct: jax.Array
    everything: jax.Array
    where: jax.Array
    counts: jax.Array

    def mean(self, losses: jax.Array) -> jax.Array:
        """The mean of losses (K, B, T) over the places that count, (K,); 0 for an offset that no place has."""
        total = jnp.sum(losses, axis=(1, 2), where=self.counts)
        return total / jnp.maximum(jnp.sum(self.counts, axis=(1, 2)), 1)


def pairs_ahead(energies: jax.Array, mask: Any = None) -> Ahead:
    """Which of the energies of all pairs of places are right: place (b, t) and place (b, t + k), k = 1, ..., K.

    An `Ahead`. Negatives are all other places of the batch, those of the same sequence too, and places before t.

    Args:
      energies: (K, B, T, B, T), contexts first, then candidates: as `energies.PredictiveCoding` gives them.
      mask: (B, T), False where a place is padding, which is neither positive nor negative.

    ValueError for other shapes, and what is no real number.
    """
    energies = floats("energies", energies)
    shape = energies.shape
    if len(shape) != 5 or shape[1:3] != shape[3:]:
        raise ValueError(
            f"energies must be (K, B, T, B, T), of all places with each other, got {shape}"
        )
    K, B, T = shape[:3]
    there = jnp.asarray(real("mask", jnp.ones((B, T), bool) if mask is None else mask)) != 0
    if there.shape != (B, T):
        raise ValueError(f"mask must be (B, T), here {(B, T)}, got {there.shape}")
    ahead = jnp.arange(T)[None] + jnp.arange(1, K + 1)[:, None]  # (K, T)
    inside = jnp.minimum(ahead, T - 1)
    counts = (ahead < T)[:, None] & there[None] & jnp.moveaxis(there[:, inside], 1, 0)
    place = jnp.arange(B)[None, :, None] * T + inside[:, None]  # (K, B, T)
    everything = energies.reshape(K, B, T, B * T)
    correct = jnp.take_along_axis(everything, place[..., None], axis=-1)[..., 0]
    others = jnp.arange(B * T)[None, None, None] != place[..., None]
    return Ahead(correct, everything, others & there.reshape(1, 1, 1, B * T), counts)


def info_nce_ahead(energies: jax.Array, mask: Any = None, beta: Number = 1.0) -> jax.Array:
    """The mean of `info_nce` over all places with one k ahead, for each of K offsets: (K, B, T, B, T) -> (K,).

    In nats; 0 for an offset that no place has. With N places in the batch, log(N) less the loss is on average at most
    log(N) and at most the mutual information, in nats, of the context and what comes k later, if the negatives are
    independent draws of what may come. Places of the same sequence are not: with them it is an estimate, no bound.

    Args:
      energies: (K, B, T, B, T), contexts first, then candidates: as `energies.PredictiveCoding` gives them.
      mask: (B, T), False where a place is padding, which is neither positive nor negative.
      beta: inverse temperature > 0.

    ValueError for other shapes, and what is no real number.

    Source: van den Oord, Li & Vinyals (2018), of whom the bound is, too.
    """
    pairs = pairs_ahead(energies, mask)
    return pairs.mean(info_nce(pairs.correct, pairs.everything, beta, where=pairs.where))

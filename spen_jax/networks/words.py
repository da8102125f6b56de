"""Words in their sentence as vectors, from scratch (Flax Linen): embeddings of words and their letters, then GRUs.

B sentences, T places, C characters of a word, H units, K tags.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from spen_jax.networks.recurrent import GRU

UNKNOWN = 1
"""The number of a word that a lexicon does not have; 0 stands beyond the end."""


class WordEncoder(nn.Module):
    """h (B, T, 2 H): every word in its sentence, by stacked GRUs over its embeddings; beyond the mask 0.

    x is what a `data.Lexicon` makes, whole numbers "words" (B, T), "suffixes" (B, T, 2) and "characters" (B, T, C). In
    training, which needs an rng named "dropout", a word is unknown with probability `word_dropout`, so that the vector
    of unknown words learns what the context says of a word; dropout leaves out the same inputs of a layer at all places
    of a sentence (Gal & Ghahramani 2016). A word's characters pass a convolution of width 3 and the greatest value of
    each filter.

    Attributes:
      sizes: how many words, suffixes and characters there are, a `data.Lexicon`'s `sizes`.
      units: H, of each direction.
      layers: stacked GRUs.
      embeddings: of a word, a suffix, a character.
      filters: of the convolution.
      dropout: before each layer and after the last.
      word_dropout: the share of training words that are unknown.
    """

    sizes: tuple[int, int, int]
    units: int = 192
    layers: int = 2
    embeddings: tuple[int, int, int] = (100, 25, 25)
    filters: int = 50
    dropout: float = 0.4
    word_dropout: float = 0.1

    @nn.compact
    def __call__(self, x: dict[str, Any], train: bool = False, mask: Any = None) -> jax.Array:
        """The vectors (B, T, 2 H) of x; without a mask (B, T) all places are words."""
        words, (of_word, of_suffix, _) = x["words"], self.embeddings
        if train and self.word_dropout:
            unknown = jax.random.bernoulli(
                self.make_rng("dropout"), self.word_dropout, jnp.shape(words)
            )
            words = jnp.where(unknown & (words > 0), UNKNOWN, words)
        suffix = nn.Embed(self.sizes[1], of_suffix, name="suffixes")(x["suffixes"])
        parts = [
            nn.Embed(self.sizes[0], of_word, name="words")(words),
            suffix.reshape(*suffix.shape[:2], -1),
            self._of_characters(x["characters"]),
        ]
        h, drop = jnp.concatenate(parts, -1), nn.Dropout(self.dropout, broadcast_dims=(1,))
        for layer in range(self.layers):
            h = drop(h, deterministic=not train)
            h = GRU(self.units, name=f"layer_{layer}")(h, mask)
        return drop(h, deterministic=not train)

    def _of_characters(self, ids: Any) -> jax.Array:
        """(B, T, C) -> (B, T, filters)."""
        there = (ids > 0)[..., None]
        c = nn.Embed(self.sizes[2], self.embeddings[2], name="characters")(ids) * there
        around = jnp.pad(c, ((0, 0), (0, 0), (1, 1), (0, 0)))
        windows = jnp.concatenate([around[:, :, :-2], c, around[:, :, 2:]], -1)
        return jnp.max(nn.relu(nn.Dense(self.filters, name="filters")(windows)) * there, axis=2)


class Tagger(nn.Module):
    """A tag for each word, by a softmax of its own: s_t = W h_t + b of the vectors of a `WordEncoder`, (B, T, K).

    Logits, high where good: the control of a SPEN over sequences, and as its network what gives the unary potentials. x
    and the mask (B, T) are those of the encoder.

    - `encoder`: h (B, T, 2 H) of the words.
    - `tags`: K.
    """

    encoder: WordEncoder
    tags: int

    def setup(self):
        """Names the last layer."""
        self.output = nn.Dense(self.tags)

    def hidden(self, x: Any, train: bool = False, mask: Any = None) -> jax.Array:
        """h (B, T, 2 H), the encoder's."""
        return self.encoder(x, train, mask)

    def __call__(self, x: Any, train: bool = False, mask: Any = None) -> jax.Array:
        """The logits, (B, T, K)."""
        return self.output(self.hidden(x, train, mask))

"""Words in their sentence as vectors, from scratch: embeddings of words, suffixes and characters, then GRUs.

B sentences, T places, C characters of a word. A `Lexicon` numbers what the training sentences have; what it
makes of sentences is the input of a `WordEncoder`, whose vectors a tagger, a parser or what you like reads.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from spen_jax.data import Vocabulary, padded
from spen_jax.networks import GRU

UNKNOWN = 1
"""What a `Vocabulary` gives a word that it does not have; 0 stands beyond the end."""
SUFFIXES = 2, 3
CHARACTERS = 14


@dataclass(frozen=True)
class Lexicon:
    """The words, suffixes and characters of training sentences, by number."""

    words: Vocabulary
    """Lower case, every digit a 0."""
    suffixes: Vocabulary
    characters: Vocabulary

    @classmethod
    def of(cls, sentences: Sequence[Sequence[str]], least: int = 2) -> "Lexicon":
        """Of sentences, sequences of words: those that stand there fewer than `least` times are unknown.

        Suffixes and characters have to stand there twice: nothing in training leaves them out by chance, as word
        dropout does words, and what is unknown must be seen there to be learned.
        """
        return cls(
            Vocabulary.of([[normal(w) for w in s] for s in sentences], least),
            Vocabulary.of([[e for w in s for e in suffixes(w)] for s in sentences], 2),
            Vocabulary.of([[c for w in s for c in w] for s in sentences], 2),
        )

    def __call__(self, sentences: Sequence[Sequence[str]]) -> tuple[dict[str, np.ndarray], Any]:
        """x of "words" (B, T), "suffixes" (B, T, 2) and "characters" (B, T, C), int32, and the mask (B, T).

        Of a word of more than C characters the middle is left out.
        """
        kinds = list(dict.fromkeys(w for s in sentences for w in s))
        of = {
            "words": self.words.ids(map(normal, kinds)),
            "suffixes": np.array([self.suffixes.ids(suffixes(w)) for w in kinds]),
            "characters": padded([self.characters.ids(ends_of(w)) for w in kinds], CHARACTERS)[0],
        }
        numbers = {word: i for i, word in enumerate(kinds)}
        at, mask = padded([[numbers[w] for w in s] for s in sentences], fill=len(kinds))
        beyond = {name: np.append(ids, np.zeros_like(ids[:1]), axis=0) for name, ids in of.items()}
        return {name: ids.astype(np.int32)[at] for name, ids in beyond.items()}, mask


def normal(word: str) -> str:
    """A word as its embedding knows it: lower case, every digit a 0."""
    return re.sub(r"\d", "0", word.lower())


def suffixes(word: str) -> list[str]:
    """The last two and three characters; a word as short as that is its own suffix, marked as such."""
    word = normal(word)
    return [word[-n:] if len(word) > n else f"^{word}" for n in SUFFIXES]


def ends_of(word: str) -> str:
    """At most C characters of a word, from both ends."""
    half = CHARACTERS // 2
    return word if len(word) <= CHARACTERS else word[:half] + word[-half:]


class WordEncoder(nn.Module):
    """h (B, T, 2 H): every word in its sentence, by stacked GRUs over its embeddings; beyond the mask 0.

    x is what a `Lexicon` makes. In training, which needs an rng named "dropout", a word is unknown with
    probability `word_dropout`, so that the vector of unknown words learns what the context says of a word; dropout
    leaves out the same inputs of a layer at all places of a sentence (Gal & Ghahramani 2016). A word's characters
    pass a convolution of width 3 and the greatest value of each filter.

    Attributes:
      sizes: how many words, suffixes and characters there are, `WordEncoder.sizes_of(lexicon)`.
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

    @staticmethod
    def sizes_of(lexicon: Lexicon) -> tuple[int, int, int]:
        """How many words, suffixes and characters, rounded up: lexicons of about a size share what is compiled."""

        def up(vocabulary: Vocabulary, to: int) -> int:
            return -(-len(vocabulary) // to) * to

        return up(lexicon.words, 1024), up(lexicon.suffixes, 512), up(lexicon.characters, 64)

    @nn.compact
    def __call__(self, x: dict[str, Any], train: bool = False, mask: Any = None) -> jax.Array:
        """The vectors; without a mask all places are words."""
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

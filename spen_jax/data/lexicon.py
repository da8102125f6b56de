"""Words as numbers: those of their texts, their last characters and all of their characters. NumPy only.

B sentences, T places, C characters of a word. A `Lexicon` numbers what the training sentences have; what it makes of
sentences is the input of a `spen_jax.networks.WordEncoder`.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from spen_jax.data.batches import padded
from spen_jax.data.vocabulary import Vocabulary

SUFFIXES = 2, 3
CHARACTERS = 14


@dataclass(frozen=True)
class Lexicon:
    """The words, suffixes and characters of training sentences, by number: inputs of `networks.WordEncoder`.

    `lexicon = Lexicon.of(sentences)`, then `x, mask = lexicon(sentences)`: x["words"] (B, T), x["suffixes"] (B, T, 2)
    and x["characters"] (B, T, 14), int32, where 0 is padding and 1 unknown, and mask bool (B, T).
    """

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
        of = self.of_words(kinds)
        numbers = {word: i for i, word in enumerate(kinds)}
        at, mask = padded([[numbers[w] for w in s] for s in sentences], fill=len(kinds))
        beyond = {name: np.append(ids, np.zeros_like(ids[:1]), axis=0) for name, ids in of.items()}
        return {name: ids[at] for name, ids in beyond.items()}, mask

    def of_words(self, words: Sequence[str]) -> dict[str, np.ndarray]:
        """The numbers of n words without their sentences: (n,), (n, 2) and (n, C), int32."""
        of = {
            "words": self.words.ids(map(normal, words)),
            "suffixes": np.array([self.suffixes.ids(suffixes(w)) for w in words]).reshape(
                -1, len(SUFFIXES)
            ),
            "characters": padded(
                [[], *(self.characters.ids(ends_of(w)) for w in words)], CHARACTERS
            )[0][1:],
        }
        return {name: ids.astype(np.int32) for name, ids in of.items()}

    @property
    def sizes(self) -> tuple[int, int, int]:
        """How many words, suffixes and characters, rounded up: lexicons of about a size share what is compiled."""

        def up(vocabulary: Vocabulary, to: int) -> int:
            return -(-len(vocabulary) // to) * to

        return up(self.words, 1024), up(self.suffixes, 512), up(self.characters, 64)


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

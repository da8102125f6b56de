"""What becomes of sequences: vectors, words, or features of each place, as arrays of all places one after the other.

N sequences, S places of all together, D numbers of a vector, F features of a place. A reader, `Vectors`, `Words` or
`Bags`, is fitted to training sequences by `reader_of` and makes the fields of any sequences of its kind.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np

from spen_jax.data import Lexicon
from spen_jax.estimators.inputs import standard
from spen_jax.serving.sequences import (
    alike,
    feature_fields,
    kind_of,
    texts,
    vector_fields,
    vectors,
    weights_of,
    word_fields,
)

SIZES_OF = 1024
"""Vocabularies are rounded up to a multiple of it: those of about a size share what is compiled."""


@dataclass(frozen=True)
class Vectors:
    """(x - shift) scale of vectors (D,), cut at 10 standard deviations; a constant column becomes 0."""

    kind: ClassVar[str] = "vectors"
    shift: np.ndarray
    scale: np.ndarray

    @classmethod
    def of(cls, sequences: Sequence[Any]) -> "Vectors":
        """Fitted to the places of those sequences; ValueError for what are no vectors of one size, or not finite."""
        x = np.concatenate(vectors(sequences, None))
        return cls(*standard(x))

    @property
    def inputs(self) -> tuple[int, ...]:
        """(D,)."""
        return (len(self.shift),)

    def __call__(self, sequences: Sequence[Any]) -> dict[str, np.ndarray]:
        """The field "values" (S + 1, D); ValueError as for `of`."""
        return vector_fields(sequences, self.shift, self.scale)


@dataclass(frozen=True)
class Words:
    """The numbers that a lexicon gives to words."""

    kind: ClassVar[str] = "words"
    lexicon: Lexicon

    @classmethod
    def of(cls, sequences: Sequence[Any]) -> "Words":
        """With the words of those sequences; ValueError where a place is no text."""
        sequences = [texts(i, s) for i, s in enumerate(sequences)]
        return cls(Lexicon.of(sequences, least_of(len(sequences))))

    @property
    def inputs(self) -> tuple[int, ...]:
        """How many words, suffixes and characters."""
        return self.lexicon.sizes

    def __call__(self, sequences: Sequence[Any]) -> dict[str, np.ndarray]:
        """The fields "words" (S + 1,), "suffixes" (S + 1, 2) and "characters" (S + 1, 14); ValueError as for `of`."""
        return word_fields(sequences, self.lexicon.of_words)


@dataclass(frozen=True)
class Bags:
    """Features of each place by number, 0 for none; weights over their root mean square where it is over 1."""

    kind: ClassVar[str] = "features"
    names: tuple[str, ...]
    scale: np.ndarray
    """(names + 1,), the first for none."""

    @classmethod
    def of(cls, sequences: Sequence[Any]) -> "Bags":
        """Features that have a weight in the training sequences, of more than 4,000 at least twice."""
        counts: Counter[str] = Counter()
        squares: Counter[str] = Counter()
        for i, sequence in enumerate(sequences):
            for t, place in enumerate(sequence):
                for name, weight in weights_of(place, i, t):
                    counts[name] += 1
                    squares[name] += weight**2  # pyright: ignore[reportArgumentType]
        least = least_of(len(sequences))
        names = sorted(name for name, count in counts.items() if count >= least)
        if not names:
            raise ValueError(
                "X has no feature: each place is to be a dict such as {'word': 'the', 'length': 3}"
            )
        root = np.sqrt([1.0, *(squares[name] / counts[name] for name in names)])
        return cls(tuple(names), (1 / np.maximum(root, 1)).astype(np.float32))

    @cached_property
    def _numbers(self):
        return {name: number for number, name in enumerate(self.names, 1)}

    @property
    def inputs(self) -> tuple[int, ...]:
        """How many features, rounded up."""
        return (-(-(len(self.names) + 1) // SIZES_OF) * SIZES_OF,)

    def __call__(self, sequences: Sequence[Any]) -> dict[str, np.ndarray]:
        """The fields "ids" and "weights" (S + 1, F), F a power of 2; features that training has not are left out."""
        return feature_fields(sequences, self._numbers, self.scale)


Reader = Vectors | Words | Bags
KINDS: dict[str, type[Reader]] = {kind.kind: kind for kind in (Vectors, Words, Bags)}


def least_of(n: int) -> int:
    """How often a word or a feature must stand in n sequences to be known: in few, one look is much."""
    return 1 if n <= 4000 else 2


def reader_of(sequences: Sequence[Any]) -> Reader:
    """That of the sequences' kind, fitted to them; ValueError for what is of no kind, or of several."""
    kind, _ = _first_of(sequences)
    if kind is not None:
        return KINDS[kind].of(alike(sequences, kind))
    raise ValueError(
        "X has no places: all of its sequences are empty, so that there is nothing to learn"
    )


def reads(reader: Reader, sequences: Sequence[Any]) -> bool:
    """Whether the sequences look like those that the reader was fitted to."""
    kind, size = _first_of(sequences)
    return kind == reader.kind and (kind != "vectors" or (size,) == reader.inputs)


def _first_of(sequences):
    """(kind, entries of the first place) of the first sequence that is not empty; None where there is none."""
    for i, sequence in enumerate(sequences):
        if len(sequence):
            return kind_of(sequence, i), len(sequence[0])
    return None, 0

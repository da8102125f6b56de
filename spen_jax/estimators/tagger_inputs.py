"""What becomes of sequences: vectors, words, or features of each place, as arrays of all places one after the other.

N sequences, S places of all together, D numbers of a vector, F features of a place. A reader, `Vectors`, `Words` or
`Bags`, is fitted to training sequences by `reader_of` and makes the fields of any sequences of its kind.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from numbers import Real
from typing import Any, ClassVar, NamedTuple

import numpy as np

from spen_jax.data import Lexicon
from spen_jax.estimators.inputs import standard

FAR = 10.0
"""Standard deviations beyond which a number counts as so far away."""
SIZES_OF = 1024
"""Vocabularies are rounded up to a multiple of it: those of about a size share what is compiled."""


class Places(NamedTuple):
    """N sequences: fields (S + 1, ...), whose last row stands beyond every end; where each begins, how long it is."""

    fields: dict[str, np.ndarray]
    begins: np.ndarray
    lengths: np.ndarray

    def at(self, rows: np.ndarray, width: int) -> np.ndarray:
        """The numbers (n, width) of the places of those sequences; -1 beyond an end."""
        each = np.arange(width)
        places = self.begins[rows, None] + each
        return np.where(each < self.lengths[rows, None], places, -1)


@dataclass(frozen=True)
class Vectors:
    """(x - shift) scale of vectors (D,), cut at 10 standard deviations; a constant column becomes 0."""

    kind: ClassVar[str] = "vectors"
    shift: np.ndarray
    scale: np.ndarray

    @classmethod
    def of(cls, sequences: Sequence[Any]) -> "Vectors":
        """Fitted to the places of those sequences; ValueError for what are no vectors of one size, or not finite."""
        x = np.concatenate(_vectors(sequences, None))
        return cls(*standard(x))

    @property
    def inputs(self) -> tuple[int, ...]:
        """(D,)."""
        return (len(self.shift),)

    def __call__(self, sequences: Sequence[Any]) -> dict[str, np.ndarray]:
        """The field "values" (S + 1, D); ValueError as for `of`."""
        D = len(self.shift)
        x = np.concatenate([np.zeros((0, D)), *_vectors(sequences, D)])
        x = np.clip((x - self.shift) * self.scale, -FAR, FAR).astype(np.float32)
        return {"values": np.append(x, np.zeros((1, D), np.float32), axis=0)}


@dataclass(frozen=True)
class Words:
    """The numbers that a lexicon gives to words."""

    kind: ClassVar[str] = "words"
    lexicon: Lexicon

    @classmethod
    def of(cls, sequences: Sequence[Any]) -> "Words":
        """With the words of those sequences; ValueError where a place is no text."""
        sequences = [_texts(i, s) for i, s in enumerate(sequences)]
        return cls(Lexicon.of(sequences, least_of(len(sequences))))

    @property
    def inputs(self) -> tuple[int, ...]:
        """How many words, suffixes and characters."""
        return self.lexicon.sizes

    def __call__(self, sequences: Sequence[Any]) -> dict[str, np.ndarray]:
        """The fields "words" (S + 1,), "suffixes" (S + 1, 2) and "characters" (S + 1, 14); ValueError as for `of`."""
        words = [w for i, s in enumerate(sequences) for w in _texts(i, s)]
        kinds = {word: number for number, word in enumerate(dict.fromkeys(words))}
        at = np.array([*(kinds[w] for w in words), len(kinds)])
        of = self.lexicon.of_words(list(kinds))
        beyond = {name: np.zeros((1, *a.shape[1:]), a.dtype) for name, a in of.items()}
        return {name: np.append(a, beyond[name], axis=0)[at] for name, a in of.items()}


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
        numbers, at, ids, weights = self._numbers, [], [], []
        S = 0
        for i, sequence in enumerate(sequences):
            for t, place in enumerate(sequence):
                for name, weight in weights_of(place, i, t):
                    if name in numbers:
                        at.append(S)
                        ids.append(numbers[name])
                        weights.append(weight)
                S += 1
        place, each = np.array(at, int), np.bincount(np.array(at, int), minlength=S + 1)
        F = power_of_2(int(each.max()), 4)
        rank = np.arange(len(place)) - np.repeat(np.cumsum(each) - each, each)
        found = {"ids": np.zeros((S + 1, F), np.int32), "weights": np.zeros((S + 1, F), np.float32)}
        found["ids"][place, rank] = ids
        found["weights"][place, rank] = (
            np.array(weights, np.float32) * self.scale[np.array(ids, int)]
        )
        return found


Reader = Vectors | Words | Bags
KINDS: dict[str, type[Reader]] = {kind.kind: kind for kind in (Vectors, Words, Bags)}
CALLED = {"vectors": "vectors of numbers", "words": "texts", "features": "features"}


def least_of(n: int) -> int:
    """How often a word or a feature must stand in n sequences to be known: in few, one look is much."""
    return 1 if n <= 4000 else 2


def power_of_2(n: int, least: int = 1) -> int:
    """The first power of 2 that is at least n."""
    return max(least, 1 << max(int(n) - 1, 0).bit_length())


def reader_of(sequences: Sequence[Any]) -> Reader:
    """That of the sequences' kind, fitted to them; ValueError for what is of no kind, or of several."""
    kind, _ = _first_of(sequences)
    if kind is not None:
        return KINDS[kind].of(_alike(sequences, kind))
    raise ValueError(
        "X has no places: all of its sequences are empty, so that there is nothing to learn"
    )


def reads(reader: Reader, sequences: Sequence[Any]) -> bool:
    """Whether the sequences look like those that the reader was fitted to."""
    kind, size = _first_of(sequences)
    return kind == reader.kind and (kind != "vectors" or (size,) == reader.inputs)


def places_of(reader: Reader, sequences: Sequence[Any]) -> Places:
    """The sequences as a fitted reader has them; ValueError for sequences of another kind."""
    fields = reader(_alike(sequences, reader.kind))
    lengths = np.array([len(s) for s in sequences], int)
    return Places(fields, np.cumsum(lengths) - lengths, lengths)


def sequences_of(X: Any) -> list[Any]:
    """X as a list; ValueError for what is no list of sequences."""
    if isinstance(X, str | Mapping) or hasattr(X, "columns") or not hasattr(X, "__len__"):
        raise ValueError(
            f"X must be a list of sequences, such as [['the', 'dog'], ['it', 'ran']], got a {type(X).__name__}"
        )
    sequences = list(X)
    for i, sequence in enumerate(sequences):
        if isinstance(sequence, str | Mapping) or not hasattr(sequence, "__len__"):
            raise ValueError(
                f"X must be a list of sequences, but X[{i}] is {_short(sequence)}: a single sequence is "
                "given as [sequence]"
            )
    return sequences


def _first_of(sequences):
    """(kind, entries of the first place) of the first sequence that is not empty; None where there is none."""
    for i, sequence in enumerate(sequences):
        if len(sequence):
            return _kind(sequence, i), len(sequence[0])
    return None, 0


def _alike(sequences, kind):
    for i, sequence in enumerate(sequences):
        if len(sequence) and (found := _kind(sequence, i)) != kind:
            raise ValueError(
                f"X must hold {CALLED[kind]} throughout, as its first sequences or those of fit do, but X[{i}] holds "
                f"{CALLED[found]}: keep them apart, one estimator each"
            )
    return sequences


def _kind(sequence, i):
    first = sequence[0]
    if isinstance(first, str):
        return "words"
    if isinstance(first, Mapping | set | frozenset):
        return "features"
    if isinstance(first, list | tuple) and any(isinstance(name, str) for name in first):
        return "features"
    if isinstance(first, list | tuple | np.ndarray) and np.ndim(first) == 1:
        return "vectors"
    raise ValueError(
        f"X[{i}][0] must be a vector of numbers, a text or a dict of features, got {_short(first)}"
        + (
            ": sequences of one number at a place are given as (T, 1)"
            if isinstance(first, Real)
            else ""
        )
    )


def _texts(i, sequence):
    for t, word in enumerate(sequence):
        if not isinstance(word, str):
            raise ValueError(
                f"X[{i}] holds texts, but X[{i}][{t}] is {_short(word)}: give every place as a text"
            )
    return [str(word) for word in sequence]


def _vectors(sequences, D):
    """float64 (T, D) of each sequence that is not empty."""
    found = []
    for i, sequence in enumerate(sequences):
        if not len(sequence):
            continue
        x = _numbers(sequence)
        if x.ndim != 2:
            raise ValueError(
                f"X[{i}] must be an array (T, D) of numbers, a vector for each place, got {_short(sequence)}"
            )
        D = x.shape[1] if D is None else D
        if x.shape[1] != D:
            raise ValueError(
                f"X[{i}] has vectors of {x.shape[1]} numbers, but those before it, or of fit, have {D}: all "
                "must be of one size"
            )
        if not np.isfinite(x).all():
            t, column = np.argwhere(~np.isfinite(x))[0]
            raise ValueError(
                f"Input X contains {'NaN' if np.isnan(x[t, column]) else 'infinity'}: sequence {i}, place {t}, column "
                f"{column}; fill it first, for instance with the column's mean"
            )
        found.append(x)
    return found


def _numbers(sequence) -> np.ndarray:
    try:
        return np.asarray(sequence, np.float64)
    except (TypeError, ValueError):
        return np.zeros(())


def weights_of(place: Any, i: int, t: int) -> Iterator[tuple[str, float]]:
    """(name, weight) of the features of place t of sequence i, as CRFsuite names them.

    Of a dict: a text, or each of several, is the feature "name=text" of weight 1; True is "name", a number its weight;
    False, 0 and None are none. Of a list or set of texts: each with weight 1. ValueError for anything else.
    """
    if isinstance(place, list | tuple | set | frozenset):
        place = dict.fromkeys(place, True)
    if not isinstance(place, Mapping):
        raise ValueError(
            f"X[{i}] holds features, but X[{i}][{t}] is {_short(place)}: give every place as a dict"
        )
    for name, value in place.items():
        if isinstance(value, str):
            yield f"{name}={value}", 1.0
        elif isinstance(value, Real | np.bool_):
            weight = float(value)
            if not np.isfinite(weight):
                raise ValueError(
                    f"X[{i}][{t}][{name!r}] is {value}: give a finite number, or leave the feature out"
                )
            if weight:
                yield str(name), weight
        elif isinstance(value, list | tuple | set | frozenset) and all(
            isinstance(v, str) for v in value
        ):
            yield from ((f"{name}={v}", 1.0) for v in value)
        elif value is not None:
            raise ValueError(
                f"X[{i}][{t}][{name!r}] must be a text, texts, a number or a boolean, got {_short(value)}"
            )


def _short(value):
    text = repr(value)
    return f"{text[:40]}..." if len(text) > 43 else text

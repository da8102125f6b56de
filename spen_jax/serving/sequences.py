"""What a tagger makes of sequences, and how it answers them: batches of few widths, always filled up.

N sequences, S places of all together, T places of a batch's width, D numbers of a vector, F features of a place, K
labels. A reader makes fields of sequences, arrays of all places one after the other.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from numbers import Real
from typing import Any, NamedTuple

import numpy as np

from .files import Contents

FAR = 10.0
"""Standard deviations beyond which a number counts as so far away."""
CHUNK = 32
"""Sequences that are answered at once, fewer of the widest: another number of them is no other program."""
LEAST_WIDTH, MOST_WIDTH = 8, 256
"""The narrowest batch, and the widest of so many sequences."""
SUFFIXES, CHARACTERS = (2, 3), 14
"""The endings and the most characters that stand for a word."""
CALLED = {"vectors": "vectors of numbers", "words": "texts", "features": "features"}


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


class Reader(NamedTuple):
    """What kind of sequences a tagger was fitted to, and what makes fields of them."""

    kind: str
    of: Callable[[Sequence[Any]], dict[str, np.ndarray]]

    def __call__(self, sequences: Sequence[Any]) -> dict[str, np.ndarray]:
        """The fields of sequences, (S + 1, ...)."""
        return self.of(sequences)


def reader_in(contents: Contents) -> Reader:
    """The reader of a tagger's file; KeyError and others where it holds none."""
    reader = contents.state["fitted"]["dict"]["reader_"]
    given, arrays = reader["fields"], contents.arrays
    if reader["record"] == "Vectors":
        shift, scale = (arrays[given[name]["array"]] for name in ("shift", "scale"))
        return Reader("vectors", lambda s: vector_fields(s, shift, scale))
    if reader["record"] == "Bags":
        numbers = {name: i for i, name in enumerate(given["names"]["tuple"], 1)}
        weights = arrays[given["scale"]["array"]]
        return Reader("features", lambda s: feature_fields(s, numbers, weights))
    named = given["lexicon"]["fields"]
    ids = [
        {item: i for i, item in enumerate(named[name]["fields"]["items"]["tuple"], 2)}
        for name in ("words", "suffixes", "characters")
    ]
    return Reader("words", lambda s: word_fields(s, lambda words: _of_words(words, *ids)))


def places_of(reader: Any, sequences: Sequence[Any]) -> Places:
    """The sequences as a reader has them; ValueError for sequences of another kind."""
    fields = reader(alike(sequences, reader.kind))
    lengths = np.array([len(s) for s in sequences], int)
    return Places(fields, np.cumsum(lengths) - lengths, lengths)


def answers(
    run: Callable[[Any, Any], Any],
    places: Places,
    K: int,
    *,
    rows: np.ndarray | None = None,
    known: np.ndarray | None = None,
    most: int = CHUNK,
) -> list[np.ndarray]:
    """y (T, K) of each sequence, or of those `rows`; `known` are labels (S + 1,) held fixed, -1 elsewhere.

    run(x, (mask, y)) answers a batch of `most` sequences, of fewer that are wider than 256 places.
    """
    rows = np.arange(len(places.lengths)) if rows is None else rows
    lengths, found = places.lengths[rows], []
    labels = np.full(len(next(iter(places.fields.values()))), -1) if known is None else known
    width = np.array([power_of_2(n, LEAST_WIDTH) for n in lengths], int)
    for w in np.unique(width[lengths > 0]):
        of_width = np.flatnonzero((width == w) & (lengths > 0))
        many = max(most * MOST_WIDTH // max(int(w), MOST_WIDTH), 1)
        for first in range(0, len(of_width), many):
            chunk = of_width[first : first + many]
            at = places.at(rows[np.resize(chunk, many)], int(w))
            told = labels[at]
            hold = told >= 0, (told[..., None] == np.arange(K)).astype(np.float32)
            found.append((chunk, run(inputs_at(places, at), hold)))
    result = [np.zeros((0, K), np.float32)] * len(rows)
    for chunk, y in found:
        for i, one in zip(chunk, np.asarray(y), strict=False):
            result[i] = one[: lengths[i]]
    return result


def inputs_at(places: Places, at: np.ndarray) -> dict[str, Any]:
    """x of a model, of the places at (B, T)."""
    return {"fields": {name: a[at] for name, a in places.fields.items()}, "mask": at >= 0}


def power_of_2(n: int, least: int = 1) -> int:
    """The first power of 2 that is at least n."""
    return max(least, 1 << max(int(n) - 1, 0).bit_length())


# Fields


def vector_fields(
    sequences: Sequence[Any], shift: np.ndarray, scale: np.ndarray
) -> dict[str, np.ndarray]:
    """The field "values" (S + 1, D), (x - shift) scale, cut at 10; ValueError as for `vectors`."""
    D = len(shift)
    x = np.concatenate([np.zeros((0, D)), *vectors(sequences, D)])
    x = np.clip((x - shift) * scale, -FAR, FAR).astype(np.float32)
    return {"values": np.append(x, np.zeros((1, D), np.float32), axis=0)}


def word_fields(
    sequences: Sequence[Any], of_words: Callable[[list[str]], dict[str, np.ndarray]]
) -> dict[str, np.ndarray]:
    """The fields "words" (S + 1,), "suffixes" (S + 1, 2) and "characters" (S + 1, 14); ValueError as for `texts`.

    `of_words` makes them of distinct words.
    """
    words = [w for i, s in enumerate(sequences) for w in texts(i, s)]
    kinds = {word: number for number, word in enumerate(dict.fromkeys(words))}
    at = np.array([*(kinds[w] for w in words), len(kinds)])
    of = of_words(list(kinds))
    beyond = {name: np.zeros((1, *a.shape[1:]), a.dtype) for name, a in of.items()}
    return {name: np.append(a, beyond[name], axis=0)[at] for name, a in of.items()}


def feature_fields(
    sequences: Sequence[Any], numbers: Mapping[str, int], scale: np.ndarray
) -> dict[str, np.ndarray]:
    """The fields "ids" and "weights" (S + 1, F), F a power of 2; features without a number are left out.

    `scale` is of each number. ValueError as for `weights_of`.
    """
    at, ids, weights, S = [], [], [], 0
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
    found["weights"][place, rank] = np.array(weights, np.float32) * scale[np.array(ids, int)]
    return found


def _of_words(words, by_word, by_suffix, by_character):
    """The numbers of n words as a `spen_jax.data.Lexicon` has them, int32; 1 for what it does not know."""
    normal = [re.sub(r"\d", "0", word.lower()) for word in words]
    characters = np.zeros((len(words), CHARACTERS), np.int32)
    half = CHARACTERS // 2
    for row, word in zip(characters, words, strict=True):
        ends = word if len(word) <= CHARACTERS else word[:half] + word[-half:]
        row[: len(ends)] = [by_character.get(c, 1) for c in ends]
    suffixes = [
        by_suffix.get(word[-n:] if len(word) > n else f"^{word}", 1)
        for word in normal
        for n in SUFFIXES
    ]
    return {
        "words": np.array([by_word.get(word, 1) for word in normal], np.int32),
        "suffixes": np.array(suffixes, np.int32).reshape(-1, len(SUFFIXES)),
        "characters": characters,
    }


# What is given


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


def alike(sequences: Sequence[Any], kind: str) -> Sequence[Any]:
    """The sequences; ValueError where one is of another kind than `kind`."""
    for i, sequence in enumerate(sequences):
        if len(sequence) and (found := kind_of(sequence, i)) != kind:
            raise ValueError(
                f"X must hold {CALLED[kind]} throughout, as its first sequences or those of fit do, but X[{i}] holds "
                f"{CALLED[found]}: keep them apart, one estimator each"
            )
    return sequences


def kind_of(sequence: Any, i: int) -> str:
    """The kind of sequence i by its first place: words, features or vectors; ValueError for none of these."""
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


def texts(i: int, sequence: Any) -> list[str]:
    """The words of sequence i; ValueError where a place is no text."""
    for t, word in enumerate(sequence):
        if not isinstance(word, str):
            raise ValueError(
                f"X[{i}] holds texts, but X[{i}][{t}] is {_short(word)}: give every place as a text"
            )
    return [str(word) for word in sequence]


def vectors(sequences: Sequence[Any], D: int | None) -> list[np.ndarray]:
    """float64 (T, D) of each sequence that is not empty; ValueError for what are no finite vectors of one size."""
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

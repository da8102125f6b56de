"""Texts as whole numbers, and back. NumPy and the standard library only."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Vocabulary:
    """Distinct texts, `items`, and their ids.

    An open vocabulary, of words, has ids beside those of its items: 0 for padding and 1 for what is
    unknown, so that item i has the id i + 2. A `closed` one, of labels, has no others: item i has
    the id i, and an unknown text is an error. ValueError for items that are no distinct texts.
    """

    items: tuple[str, ...]
    closed: bool = False

    def __post_init__(self):
        object.__setattr__(self, "items", tuple(self.items))
        _check_texts(self.items)
        if len({*self.items}) < len(self.items):
            twice = next(item for item, count in Counter(self.items).items() if count > 1)
            raise ValueError(f"items must be distinct, but {twice!r} occurs more than once")

    @classmethod
    def of(
        cls, sequences: Iterable[Iterable[str]], least: int = 1, closed: bool = False
    ) -> "Vocabulary":
        """The texts that occur at least `least` times in all, by falling count, then in order of code.

        A text in the place of a sequence is one of its characters.
        """
        if not isinstance(least, int) or least < 1:
            raise ValueError(f"least must be a whole number of 1 or more, got {least!r}")
        counts = Counter(chain.from_iterable(sequences))
        _check_texts(counts)
        kept = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))
        return cls(tuple(item for item, count in kept if count >= least), closed)

    def __len__(self) -> int:
        """The number of ids, those of padding and unknown included."""
        return len(self._names)

    def ids(self, sequence: Iterable[str]) -> np.ndarray:
        """The ids of n texts, int32 (n,); of a closed vocabulary ValueError for an unknown one."""
        sequence = list(sequence)
        _check_texts(sequence)
        if not self.closed:
            return np.array([self._ids.get(item, 1) for item in sequence], np.int32)
        for item in sequence:
            if item not in self._ids:
                raise ValueError(f"{item!r} is none of the {len(self)} items {_some(self.items)}")
        return np.array([self._ids[item] for item in sequence], np.int32)

    def strings(self, ids: Any) -> tuple[str, ...]:
        """The texts of n ids (n,); "<padding>" for 0 and "<unknown>" for 1 unless it is closed.

        ValueError for what is no id: leave out what stands beyond the end of a sequence.
        """
        found = np.asarray(ids)
        if found.ndim != 1 or found.size and found.dtype.kind not in "iu":
            raise ValueError(
                f"ids must be whole numbers (n,), got {found.dtype} of shape {found.shape}"
            )
        wrong = found[(found < 0) | (found >= len(self))]
        if wrong.size:
            raise ValueError(f"ids must be from 0 to {len(self) - 1}, got {wrong[0]}")
        return tuple(self._names[i] for i in found.tolist())

    @cached_property
    def _names(self) -> tuple[str, ...]:
        return self.items if self.closed else ("<padding>", "<unknown>", *self.items)

    @cached_property
    def _ids(self) -> dict[str, int]:
        return {item: i for i, item in enumerate(self.items, 0 if self.closed else 2)}


def _check_texts(items: Iterable[str]) -> None:
    for item in items:
        if not isinstance(item, str):
            raise ValueError(f"a vocabulary holds texts, got {item!r}: give lists of words")


def _some(items: tuple[str, ...]) -> str:
    return ", ".join(items) if len(items) <= 20 else f"{', '.join(items[:20])}, ..."

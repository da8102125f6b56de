"""Until the data arrive in the library."""

import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from spen_jax.data import padded

__all__ = ["padded", "Vocabulary", "load_treebank", "token_accuracy", "whole_accuracy"]


class Sentence(NamedTuple):
    """One."""

    words: Any
    tags: Any


class Treebank(NamedTuple):
    """Splits."""

    name: str
    train: Any
    valid: Any
    test: Any
    checksums: Any


@dataclass(frozen=True)
class Vocabulary:
    """Numbers."""

    names: tuple
    closed: bool = False

    def __post_init__(self):
        start = 0 if self.closed else 2
        object.__setattr__(self, "_ids", {w: i + start for i, w in enumerate(self.names)})

    @classmethod
    def of(cls, sequences, least=1, closed=False):
        """Of."""
        counts = Counter(w for s in sequences for w in s)
        return cls(tuple(sorted(w for w, n in counts.items() if n >= least)), closed)

    def __len__(self):
        return len(self.names) + (0 if self.closed else 2)

    def ids(self, words):
        """Ids."""
        if self.closed:
            return np.array([self._ids[w] for w in words], np.int32)
        return np.array([self._ids.get(w, 1) for w in words], np.int32)


def _read(path):
    found, words, tags = [], [], []
    for line in path.read_text().splitlines():
        if not line:
            found.append(Sentence(tuple(words), tuple(tags)))
            words, tags = [], []
        elif line[0] != "#":
            f = line.split("\t")
            if f[0].isdigit():
                words.append(f[1])
                tags.append(f[3])
    return found


def load_treebank(name="ud_english_ewt", data_dir=None):
    """EWT."""
    folder = Path(data_dir or os.environ["SPEN_JAX_DATA"]) / name
    return Treebank(
        name, *(_read(folder / f"en_ewt-ud-{s}.conllu") for s in ("train", "dev", "test")), {}
    )


def token_accuracy(y, truth, mask):
    """Share of places."""
    return float(np.mean((y == truth)[mask]))


def whole_accuracy(y, truth, mask):
    """Share of sentences."""
    return float(np.mean(np.all((y == truth) | ~mask, axis=1)))

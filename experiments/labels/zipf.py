"""Rows of very many features and labels, made up so that the labels can be learnt, and stored part by part.

A row is about two topics. Each of its words, but for a share of noise, and each of its labels belongs to one of the
two, drawn evenly. Which of the topic's words or labels it is does not depend on the row: a topic's rank alike wherever
it occurs. Topics, a topic's words and its labels are as popular as Zipf has it: of n the one of rank r is drawn with
probability log((r + 1) / r) / log(n + 1). Nearly all labels are rare. `best` is the ranking of one who knows the
topics: no other has a better precision in the mean.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.sparse import csr_array

import spen_jax as sx

PART = 4096
"""Rows that are made at once."""


@dataclass(frozen=True)
class Task:
    """How wide rows are, and what is in one."""

    features: int
    labels: int
    topics: int
    words_each: int = 40
    labels_each: int = 8
    noise: float = 0.3

    def write(self, folder: Path, rows: int, seed: int) -> dict[str, csr_array]:
        """Stores x (rows, features), every row of length about 1, and y (rows, labels), and opens them."""
        rng = np.random.default_rng(seed)
        with sx.data.storing(folder) as part:
            for first in range(0, rows, PART):
                x, y, _ = self.rows(rng, min(PART, rows - first))
                part.append(x=x, y=y)
        return sx.data.stored(folder).fields

    def rows(self, rng: np.random.Generator, n: int) -> tuple[csr_array, csr_array, np.ndarray]:
        """x (n, features), y (n, labels) and the two topics (n, 2) of new rows."""
        about = zipf(rng, (n, 2), self.topics)
        of_word = self._one_of(rng, about, self.words_each)
        noise = rng.random(of_word.shape) < self.noise
        of_word = np.where(noise, zipf(rng, of_word.shape, self.topics), of_word)
        of_label = self._one_of(rng, about, self.labels_each)
        x = self._matrix(rng, of_word, self.features)
        x.data *= np.float32(self.words_each**-0.5)
        return x, self._matrix(rng, of_label, self.labels), about

    def best(self, about: np.ndarray, k: int) -> np.ndarray:
        """The k likeliest labels (n, k) by the topics: the first of the one, of the other, the second of the one, ...

        Of a row whose topics are one and the same its first k.
        """
        both = about[:, 0] != about[:, 1]
        place = np.arange(k)
        topic = np.where(both[:, None], about[:, place % 2], about[:, :1])
        place = np.where(both[:, None], place // 2, place)
        return scattered(self.labels)[place * self.topics + topic]

    def _one_of(self, rng, about, each):
        return np.take_along_axis(about, rng.integers(0, 2, (len(about), each)), 1)

    def _matrix(self, rng, topic, size):
        """Ones at a drawn word or label of each of these topics (n, each)."""
        rank = zipf(rng, topic.shape, size // self.topics) * self.topics + topic
        columns = scattered(size)[rank].ravel()
        starts = np.arange(0, topic.size + 1, topic.shape[1])
        ones = np.ones(topic.size, np.float32)
        matrix = csr_array((ones, columns, starts), (len(topic), size))
        matrix.sum_duplicates()
        matrix.data[:] = 1
        return matrix


def zipf(rng: np.random.Generator, shape: tuple[int, ...], n: int) -> np.ndarray:
    """Numbers from 0 to n - 1, r with probability log((r + 2) / (r + 1)) / log(n + 1)."""
    return np.minimum(np.exp(rng.random(shape) * np.log(n + 1)).astype(np.int64) - 1, n - 1)


def scattered(size: int) -> np.ndarray:
    """The column of each rank, the same for all rows of this width: neighbours in rank are none in memory."""
    return np.random.default_rng(size).permutation(size).astype(np.int32)

"""Strips of handwriting: the letters of a word one after the other, of changed widths, with gaps or overlaps."""

import os
from pathlib import Path
from typing import NamedTuple

import numpy as np

from experiments import shared

HEIGHT, LONGEST, LETTERS = 16, 9, 26  # pixels down; columns of the longest segment; the alphabet
SQUEEZE, GAPS = (0.6, 1.0), (-1, 0, 1)  # a letter's new width over its old one; columns between two
ALPHABET = np.array(list("abcdefghijklmnopqrstuvwxyz"))


class Strips(NamedTuple):
    """N strips, padded on the right: what is seen, what is to be found, and where the letters are, which nobody tells.

    Attributes:
      image: ink in [0, 1], (N, 16, T).
      width: columns that count, (N,).
      word: letters, -1 beyond the last, (N, n).
      first: each letter's first column of ink, (N, n); `width` beyond the last.
      after: the column after each letter's ink, likewise.
      fold: of the data, (N,).
    """

    image: np.ndarray
    width: np.ndarray
    word: np.ndarray
    first: np.ndarray
    after: np.ndarray
    fold: np.ndarray

    def of(self, rows: np.ndarray) -> "Strips":
        """Some of them."""
        return Strips(*(a[rows] for a in self))

    @property
    def letters(self) -> np.ndarray:
        """How many letters each has, (N,)."""
        return np.sum(self.word >= 0, axis=1)

    @property
    def cuts(self) -> np.ndarray:
        """Where each letter's segment begins, and the last one ends, (N, n + 1): a gap belongs to the letter before."""
        begin = np.maximum(self.first, np.pad(self.after[:, :-1], [(0, 0), (1, 0)]))
        return np.concatenate([begin, self.width[:, None]], axis=1)


class Words(NamedTuple):
    """The data: letters' images (N, 16, 8), their labels (N,), the first letter of each word (W + 1,), folds (W,)."""

    pixels: np.ndarray
    labels: np.ndarray
    offsets: np.ndarray
    folds: np.ndarray

    def lexicon(self) -> np.ndarray:
        """The distinct words in alphabetical order, -1 beyond the last letter, (V, n)."""
        words = {tuple(self.labels[a:b]) for a, b in zip(self.offsets, self.offsets[1:], strict=False)}
        most = max(map(len, words))
        return np.array([[*w, *[-1] * (most - len(w))] for w in sorted(words)], np.int32)


def load() -> Words:
    """The OCR letters from the folder that SPEN_JAX_DATA names."""
    path = Path(os.environ.get("SPEN_JAX_DATA", "data")) / "ocr" / "ocr_letters.npz"
    if not path.exists():
        shared.fail(f"{path} is not there; name the folder of the data by SPEN_JAX_DATA")
    with np.load(path, allow_pickle=False) as data:
        return Words(
            data["pixels"].reshape(-1, HEIGHT, 8).astype(np.float32),
            data["labels"].astype(np.int32),
            data["word_offsets"],
            data["folds"].astype(np.int32),
        )


def resampling(old: int, new: int) -> np.ndarray:
    """The matrix (old, new) that makes `new` columns of `old` ones, each the mean of what it covers."""
    edges, columns = np.arange(new + 1) * old / new, np.arange(old)[:, None]
    covered = np.minimum(edges[1:], columns + 1) - np.maximum(edges[:-1], columns)
    return np.maximum(covered, 0) * new / old


def squeezed(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A letter's image cut to the columns of its ink, and these made fewer at random, (16, at most 8)."""
    ink = np.flatnonzero(image.any(axis=0))
    image = image[:, ink[0] : ink[-1] + 1]
    old = image.shape[1]
    new = max(1, round(old * rng.uniform(*SQUEEZE)))
    return image @ resampling(old, new)


def strips(words: Words, longest: int, seed: int) -> Strips:
    """A strip for each word of at most so many letters; widths and gaps drawn by the seed."""
    rng, rows = np.random.default_rng(seed), []
    for i in np.flatnonzero(np.diff(words.offsets) <= longest):
        of = slice(*words.offsets[i : i + 2])
        images, first, after = [squeezed(a, rng) for a in words.pixels[of]], [], []
        image, begin = np.zeros((HEIGHT, LONGEST * longest), np.float32), 0
        for j, letter in enumerate(images):
            if j:  # none hides the one before it or is hidden by it
                begin = max(end + rng.choice(GAPS), first[-1] + 1, end + 1 - letter.shape[1])
            end = begin + letter.shape[1]
            where = np.s_[:, begin:end]
            image[where] = np.maximum(image[where], letter)
            first.append(begin)
            after.append(end)
        rows.append((image, end, words.labels[of], first, after, words.folds[i]))

    def padded(values, fills):
        each = zip(values, fills, strict=True)
        return np.array([[*v, *[fill] * (longest - len(v))] for v, fill in each], np.int32)

    images, width, labels, first, after, folds = zip(*rows, strict=True)
    return Strips(
        np.stack(images)[:, :, : max(width)],
        np.array(width, np.int32),
        padded(labels, [-1] * len(rows)),
        padded(first, width),
        padded(after, width),
        np.array(folds),
    )


def spelled(word: np.ndarray) -> str:
    """Letters as text, up to the first -1."""
    return "".join(ALPHABET[[k for k in word if k >= 0]])


def distance(a: str, b: str) -> int:
    """The edit distance: how many letters must be put in, taken out or changed."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        above, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            above, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, above + (x != y))
    return row[-1]

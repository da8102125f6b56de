"""Strips of handwriting: the letters of a word one after the other, of changed widths, with gaps or overlaps."""

from typing import Any, NamedTuple

import numpy as np

from spen_jax.data import Letters

HEIGHT, LONGEST, LETTERS = 16, 9, 26  # pixels down; columns of the longest segment; the alphabet
SQUEEZE, GAPS = (0.6, 1.0), (-1, 0, 1)  # a letter's new width over its old one; columns between two


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
    def words(self) -> list[list[int]]:
        """Their letters."""
        return spelled(self.word)

    @property
    def cuts(self) -> np.ndarray:
        """Where each letter's segment begins, and the last one ends, (N, n + 1): a gap belongs to the letter before."""
        begin = np.maximum(self.first, np.pad(self.after[:, :-1], [(0, 0), (1, 0)]))
        return np.concatenate([begin, self.width[:, None]], axis=1)


def equal_cuts(width: np.ndarray, parts: np.ndarray, most: int) -> np.ndarray:
    """Cuts of strips into so many equal parts, (N, most + 1); the width beyond the last."""
    share = np.minimum(np.arange(most + 1) / parts[:, None], 1)
    return np.rint(share * width[:, None]).astype(np.int32)


def lexicon(letters: Letters) -> np.ndarray:
    """The distinct words in alphabetical order of their letters, -1 beyond the last, (V, n)."""
    return np.unique(letters.y, axis=0)


def spelled(words: np.ndarray) -> list[list[int]]:
    """The letters of each word of (N, n), -1 where there is none."""
    return [[int(k) for k in word if k >= 0] for word in words]


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


def strips(data: Letters, longest: int, seed: tuple[int, ...]) -> Strips:
    """A strip for each word of at most so many letters; widths and gaps drawn by the seed; T = 9 times `longest`."""
    rng, rows = np.random.default_rng(seed), []
    for x, y, mask, fold in zip(data.x, data.y, data.mask, data.folds, strict=True):
        if np.sum(mask) > longest:
            continue
        images, first, after = [squeezed(a.reshape(HEIGHT, -1), rng) for a in x[mask]], [], []
        image, begin, end = np.zeros((HEIGHT, LONGEST * longest), np.float32), 0, 0
        for j, letter in enumerate(images):
            if j:  # none hides the one before it or is hidden by it
                begin = max(end + rng.choice(GAPS), first[-1] + 1, end + 1 - letter.shape[1])
            end = begin + letter.shape[1]
            where = np.s_[:, begin:end]
            image[where] = np.maximum(image[where], letter)
            first.append(begin)
            after.append(end)
        rows.append((image, end, y[mask], first, after, fold))

    def padded(values, fills):
        each = zip(values, fills, strict=True)
        return np.array([[*v, *[fill] * (longest - len(v))] for v, fill in each], np.int32)

    images, width, labels, first, after, folds = zip(*rows, strict=True)
    return Strips(
        np.stack(images),
        np.array(width, np.int32),
        padded(labels, [-1] * len(rows)),
        padded(first, width),
        padded(after, width),
        np.array(folds),
    )


def distance(a: list[int], b: list[int]) -> int:
    """The edit distance: how many letters must be put in, taken out or changed."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        above, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            above, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, above + (x != y))
    return row[-1]


def error_rate(found: list[list[int]], truth: list[list[int]]) -> float:
    """Letters to put in, take out or change, of all answers together, over those of the truth."""
    return sum(map(distance, found, truth)) / sum(map(len, truth))


def near(cuts: list[np.ndarray], strips: Strips) -> float:
    """F1 of the cuts between letters, found within a pixel of true ones, which a gap or an overlap leaves two of."""
    right = 0
    for at, first, after, n in zip(cuts, strips.first, strips.after, strips.letters, strict=True):
        left = sorted(at)
        for begin, end in zip(
            first[1:n], after[: n - 1], strict=True
        ):  # each cut stands for one border at most
            near = [c for c in left if min(begin, end) - 1 <= c <= max(begin, end) + 1]
            right += bool(near)
            left = [c for c in left if not near or c > near[0]]
    return 2 * right / (sum(map(len, cuts)) + np.sum(strips.letters - 1))


def read(y: Any) -> tuple[list[list[int]], list[np.ndarray]]:
    """Letters, and cuts between them, of labels at the beginnings of segments (N, T)."""
    labels = np.asarray(y)
    words = [[int(k) for k in row if k >= 0] for row in labels]
    return words, [np.flatnonzero(row >= 0)[1:] for row in labels]


def reading(found: list[list[int]], cuts: list[np.ndarray], seen: Strips) -> dict[str, float]:
    """How well letters and cuts between them were found, as shares."""
    right = [word == truth for word, truth in zip(found, seen.words, strict=True)]
    wrong = error_rate(found, seen.words)
    return {"letters_wrong": wrong, "words_right": float(np.mean(right)), "cuts": near(cuts, seen)}

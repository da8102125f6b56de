"""Sentences of a treebank as taggers see them: samples of the training sentences, groups of about equal length."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

import spen_jax as sx
from spen_jax.data import Groups, Lexicon, Sentence, Treebank, Vocabulary, by_length, padded
from spen_jax.data.lexicon import normal

TRAINED = 16, 32, 80
"""Widths of training sentences: of more, compiling would take longer than the places beyond the ends."""
TESTED, ROWS = (16, 32, 64), 64
"""Widths of sentences to be tagged, and how many at once."""


class Task(NamedTuple):
    """What one training sees: its sentences, and what is made of them."""

    sentences: Sequence[Sentence]
    lexicon: Lexicon
    tags: Vocabulary
    train: Groups
    valid: "Tested"


class Tested(NamedTuple):
    """Sentences to measure on: their groups, true tags and mask (N, T), and which words the training has not."""

    groups: Groups
    truth: np.ndarray
    mask: np.ndarray
    unknown: np.ndarray

    def tags(self, answer: Callable[..., Any], params: Any) -> np.ndarray:
        """(N, T): the tags that `answer(params, x, mask)` scores highest, -1 beyond the end."""
        scores = self.answers(lambda x, mask: answer(params, x, mask))
        return np.where(self.mask, np.argmax(scores, -1), -1)

    def answers(self, of: Callable[[Any, Any], Any]) -> np.ndarray:
        """(N, T, ...): of(x, mask) of all sentences, so many at once that one program serves each group."""
        found = []
        for group in self.groups:
            n = len(group["mask"])
            parts = []
            for first in range(0, n, ROWS):
                rows = np.minimum(np.arange(first, first + ROWS), n - 1)
                x = {name: a[rows] for name, a in group["x"].items()}
                parts.append(np.asarray(of(x, group["mask"][rows])))
            found.append(np.concatenate(parts)[:n])
        return self.groups.back(found, self.mask.shape[1])

    def measures(self, tags: np.ndarray) -> dict[str, float]:
        """In per cent: tokens, those of words that no training sentence has, and whole sentences."""
        truth, mask, new = self.truth, self.mask, self.mask & self.unknown
        of = {
            "tokens": sx.metrics.token_accuracy(tags, truth, mask),
            "unknown_words": sx.metrics.token_accuracy(tags, truth, new) if new.any() else np.nan,
            "sentences": sx.metrics.whole_accuracy(tags, truth, mask),
        }
        return {name: 100 * value for name, value in of.items()}


def sample(sentences: Sequence[Sentence], n: int, seed: int) -> list[Sentence]:
    """n sentences at random, all where n is as many; for every seed as many of each length: they share programs."""
    if n >= len(sentences):
        return list(sentences)
    rng = np.random.default_rng(seed)
    place = np.searchsorted(TRAINED, [len(s.words) for s in sentences])
    counts = np.bincount(place)
    ends = np.round(n * np.cumsum(counts) / counts.sum()).astype(int)
    rows = [
        rng.choice(np.flatnonzero(place == i), many, replace=False)
        for i, many in enumerate(np.diff(ends, prepend=0))
    ]
    return [sentences[i] for i in np.sort(np.concatenate(rows))]


def cut(sentence: Sentence) -> list[Sentence]:
    """A sentence in pieces of at most as many words as training has places for: 18 of 12,544 are longer."""
    longest, n = TRAINED[-1], len(sentence.words)
    parts = [slice(first, first + longest) for first in range(0, n, longest)]
    return [sentence._replace(words=sentence.words[p], tags=sentence.tags[p]) for p in parts]


def task(treebank: Treebank, n: int, seed: int, least: int = 2) -> Task:
    """A sample of the training sentences, and what is made of it; words that it has less often are unknown."""
    some = sample(treebank.train, n, seed)
    lexicon = Lexicon.of([s.words for s in some], least)
    every = (*treebank.train, *treebank.valid, *treebank.test)
    tags = Vocabulary.of([s.tags for s in every], closed=True)
    pieces = [piece for sentence in some for piece in cut(sentence)]
    groups, _, _ = grouped(pieces, lexicon, tags, TRAINED)
    return Task(some, lexicon, tags, groups, tested(treebank.valid, some, lexicon, tags))


def tested(
    sentences: Sequence[Sentence], train: Sequence[Sentence], lexicon: Lexicon, tags: Vocabulary
) -> Tested:
    """Sentences to measure on, of models that were trained on others."""
    groups, truth, mask = grouped(sentences, lexicon, tags, TESTED)
    known = {normal(w) for s in train for w in s.words}
    unknown, _ = padded([[normal(w) not in known for w in s.words] for s in sentences])
    return Tested(groups, truth, mask, unknown)


def grouped(
    sentences: Sequence[Sentence], lexicon: Lexicon, tags: Vocabulary, widths: Sequence[int]
) -> tuple[Groups, np.ndarray, np.ndarray]:
    """Groups of x, y and mask; true tags (N, T), -1 beyond the end; and the mask."""
    x, mask = lexicon([s.words for s in sentences])
    truth, _ = padded([tags.ids(s.tags) for s in sentences], fill=-1)
    y = (truth[..., None] == np.arange(len(tags))).astype(np.float32)
    longest = mask.shape[1]
    fitting = [w for w in widths if w < longest]
    return by_length({"x": x, "y": y, "mask": mask}, mask, [*fitting, longest]), truth, mask

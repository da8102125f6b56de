"""What inference changes, what the errors look like, and what the learned energy knows of tags."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import spen_jax as sx
from experiments.structure.tagging_data import Tested

ASKED = 0.15
"""The share of places that are asked for where all others are told."""


def steps_of(predictor: sx.Predictor, params: Any, test: Tested) -> np.ndarray:
    """The tags after each step of inference, the start first, (N, T, steps + 1); the predictor traces y."""

    @jax.jit
    def path(params, x, mask):
        y = predictor(params, x, mask=mask).trace["y"]  # (B, steps + 1, T, K)
        return jnp.moveaxis(jnp.argmax(y, -1), 1, 2)

    return test.answers(lambda x, mask: path(params, x, mask))


def changes(steps: np.ndarray, test: Tested) -> dict[str, list[Any]]:
    """Of each step: tokens right in per cent, and how many tags are not those of the start, by what came of them."""
    steps, truth = steps[test.mask], test.truth[test.mask][:, None]
    start, right = steps[:, :1], steps == truth
    other, was = steps != start, start == truth
    return {
        "tokens": (100 * right.mean(0)).tolist(),
        "corrected": (other & right).sum(0).tolist(),
        "spoiled": (other & was).sum(0).tolist(),
        "wrong_as_before": (other & ~right & ~was).sum(0).tolist(),
    }


def examples(
    steps: np.ndarray, test: Tested, words: Sequence[Sequence[str]], names: Sequence[str], many: int
) -> list[dict[str, Any]]:
    """Sentences of 5 to 16 words in which inference changed a tag, with the tags before, after and true."""
    before, after = steps[..., 0], steps[..., -1]
    different = (before != after) & test.mask
    found = []
    for row in np.flatnonzero(different.any(1)).tolist():
        if 5 <= len(words[row]) <= 16 and len(found) < many:
            changed = []
            for t in np.flatnonzero(different[row]).tolist():
                tags = (names[int(a[row, t])] for a in (before, after, test.truth))
                both = dict(zip(("before", "after", "true"), tags, strict=True))
                changed.append({"word": words[row][t]} | both)
            found.append({"words": " ".join(words[row]), "changed": changed})
    return found


def confusions(tags: np.ndarray, test: Tested, names: Sequence[str]) -> dict[str, Any]:
    """How often which tag is taken for which, and the share of errors that are on words not seen in training."""
    wrong = (tags != test.truth) & test.mask
    pairs = Counter(zip(test.truth[wrong].tolist(), tags[wrong].tolist(), strict=True))
    return {
        "errors": int(wrong.sum()),
        "of_them_on_unknown_words": int(test.unknown[wrong].sum()),
        "unknown_words_percent": 100 * np.mean(test.unknown[test.mask]),
        "pairs": [(names[a], names[b], n) for (a, b), n in pairs.most_common(12)],
    }


def strange(tags: Any, mask: np.ndarray, seen: set[tuple[int, ...]]) -> float:
    """Of three tags in a row, the per cent that stand nowhere in the training sentences."""
    found = [t for row, m in zip(tags, mask, strict=True) for t in in_threes(row[m])]
    return 100 * float(np.mean([t not in seen for t in found]))


def in_threes(tags: Any) -> list[tuple[int, ...]]:
    """All three tags in a row of a sentence; -1 stands before and after it."""
    around = [-1, *map(int, tags), -1]
    return list(zip(around, around[1:], around[2:], strict=False))


def asked_of(test: Tested) -> np.ndarray:
    """Places drawn at random, whose tags are asked for where all others are told, (N, T)."""
    return test.mask & (np.random.default_rng(0).random(test.mask.shape) < ASKED)


def told(predictor: sx.Predictor, params: Any, test: Tested) -> np.ndarray:
    """The tags (N, T) where the true tags of all places that are not asked for are known.

    What an energy gains by it is more than it could gain by the best inference of all tags.
    """
    asked, answers = asked_of(test), []
    for group, rows in zip(test.groups, test.groups.rows, strict=True):
        known = group["mask"] & ~asked[rows][:, : group["mask"].shape[1]]
        y = predictor(params, group["x"], mask=group["mask"], known=(known, group["y"])).y
        answers.append(np.argmax(np.asarray(y), -1))
    return test.groups.back(answers, test.mask.shape[1])


def at_asked(tags: np.ndarray, test: Tested) -> float:
    """Tokens right in per cent at the places that are asked for."""
    return 100 * sx.metrics.token_accuracy(tags, test.truth, asked_of(test))


def bigrams(sentences: Sequence[Sequence[int]], tags: int) -> np.ndarray:
    """log P(a, b) / P(a) P(b) of neighbouring tags, (K, K), half a pair added to each count."""
    counts = np.full((tags, tags), 0.5)
    for row in sentences:
        np.add.at(counts, (np.asarray(row[:-1], int), np.asarray(row[1:], int)), 1)
    p = counts / counts.sum()
    return np.log(p) - np.log(p.sum(1, keepdims=True)) - np.log(p.sum(0, keepdims=True))

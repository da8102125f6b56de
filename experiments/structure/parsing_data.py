"""Sentences of a treebank as groups of arrays for a parser, and the scores of its answers."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from experiments.structure.encoder import Lexicon
from spen_jax.data import Groups, Sentence, Vocabulary, by_length, padded
from spen_jax.metrics import attachment

ROWS = 64  # sentences that are parsed at once


class Numbers(NamedTuple):
    """What of the training sentences has a number."""

    lexicon: Lexicon
    relations: Vocabulary

    @classmethod
    def of(cls, sentences: Sequence[Sentence]) -> "Numbers":
        """Words, suffixes, characters; relations."""
        relations = Vocabulary.of([s.relations for s in sentences], closed=True)
        return cls(Lexicon.of([s.words for s in sentences]), relations)

    def groups(self, sentences: Sequence[Sentence], widths: Sequence[int]) -> Groups:
        """Dicts of "x", "heads", "relations" and "mask", in groups of about equal length.

        The last width is at least that of the longest sentence, whatever `widths` says. A relation that training does
        not have is -1.
        """
        x, mask = self.lexicon([s.words for s in sentences])
        known = {name: i for i, name in enumerate(self.relations.items)}
        data = {
            "x": x,
            "heads": padded([np.array(s.heads, np.int32) for s in sentences], fill=-1)[0],
            "relations": padded(
                [np.array([known.get(r, -1) for r in s.relations], np.int32) for s in sentences]
            )[0],
            "mask": mask,
        }
        longest = mask.shape[1]
        return by_length(data, mask, [*(w for w in widths if w < longest), longest])


def short(sentences: Sequence[Sentence], longest: int) -> list[Sentence]:
    """Those of at most so many words."""
    return [s for s in sentences if len(s.words) <= longest]


def in_chunks(function: Callable[..., Any], *arrays: Any) -> Any:
    """function(*arrays) of trees of arrays (N, ...), ROWS of them at a time so that it compiles once."""
    import jax

    n = len(jax.tree.leaves(arrays)[0])
    found = []
    for start in range(0, n, ROWS):
        rows = np.minimum(np.arange(start, start + ROWS), n - 1)
        part = function(*jax.tree.map(lambda a, rows=rows: a[rows], arrays))
        found.append(jax.tree.map(lambda a: np.asarray(a)[: n - start], part))
    return jax.tree.map(lambda *parts: np.concatenate(parts), *found)


def scored(groups: Groups, found: Sequence[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Per cent of words with the right head, and with head and relation, and of whole trees: {answer: scores}."""

    def together(arrays, fill):
        width = max(a.shape[1] for a in arrays)
        return groups.back(arrays, width, fill)

    heads, relations = (together([g[k] for g in groups], -1) for k in ("heads", "relations"))
    mask = together([g["mask"] for g in groups], False).astype(bool)
    scores = {}
    for name in found[0]:
        own = [together([f[name][i] for f in found], -1) for i in range(len(found[0][name]))]
        labels = (own[1], relations) if len(own) > 1 else ()
        got = attachment(own[0], heads, mask, *labels)
        scores[name] = {"unlabelled": 100 * got.unlabelled, "whole": 100 * got.whole}
        if got.labelled is not None:
            scores[name]["labelled"] = 100 * got.labelled
        scores[name]["no_tree"] = 100 * float(np.mean(~are_trees(own[0], mask)))
    return scores


def are_trees(heads: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Whether heads (N, n) are trees with one root, (N,)."""
    places = np.arange(heads.shape[1] + 1)
    above = np.concatenate([np.zeros((len(heads), 1), int), np.where(mask, heads, 0)], axis=1)
    at = np.broadcast_to(places[None], above.shape)
    for _ in places:
        at = np.take_along_axis(above, at, axis=1)
        if not at.any():
            break
    return ~at.any(1) & (np.sum((heads == 0) & mask, axis=1) == 1)

"""Sentences of a treebank as groups of arrays for a parser, and the scores of its answers."""

import hashlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from spen_jax.data import Groups, Lexicon, Sentence, Vocabulary, by_length, padded
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

    def checksum(self) -> str:
        """SHA-256 of all of them in their order: parameters suit the words that they were learned with."""
        of = self.lexicon.words, self.lexicon.suffixes, self.lexicon.characters, self.relations
        return hashlib.sha256("\0".join(repr(v.items) for v in of).encode()).hexdigest()

    def groups(self, sentences: Sequence[Sentence], widths: Sequence[int], longest: int) -> Groups:
        """Dicts of "x", "heads", "relations" and "mask", in groups of these widths and of the `longest`.

        A relation that training does not have is -1.
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
        beyond = longest - mask.shape[1]

        def wider(a, fill=0):
            edges = [(0, 0), (0, beyond)] + [(0, 0)] * (a.ndim - 2)
            return np.pad(a, edges, constant_values=fill)

        data = jax.tree.map(wider, data) | {"heads": wider(data["heads"], -1)}
        return by_length(data, data["mask"], [*(w for w in widths if w < longest), longest])


def short(sentences: Sequence[Sentence], longest: int) -> list[Sentence]:
    """Those of at most so many words."""
    return [s for s in sentences if len(s.words) <= longest]


def in_chunks(function: Callable[..., Any], *arrays: Any, key: Any = None) -> Any:
    """What a function makes of trees of arrays (N, ...), ROWS of them at a time so that it compiles once.

    The function is called as (key, *arrays), with another key each time, or None.
    """
    n = len(jax.tree.leaves(arrays)[0])
    found = []
    for first in range(0, n, ROWS):
        rows = np.minimum(np.arange(first, first + ROWS), n - 1)
        own = None if key is None else jax.random.fold_in(key, first)
        part = jax.device_get(function(own, *jax.tree.map(_rows(rows), arrays)))
        found.append(jax.tree.map(_rows(slice(n - first)), part))
    return jax.tree.map(lambda *parts: np.concatenate(parts), *found)


def _rows(rows):
    return lambda a: a[rows]


def up_to(groups: Groups, width: int) -> Groups:
    """The groups that are no wider."""
    kept = [i for i, group in enumerate(groups) if group["mask"].shape[1] <= width]
    return Groups([groups[i] for i in kept], [groups.rows[i] for i in kept])


def projective(groups: Groups) -> Groups:
    """The sentences whose true arcs do not cross."""
    kept = [np.flatnonzero(no_arcs_cross(g["heads"], g["mask"])) for g in groups]
    made = [jax.tree.map(_rows(rows), g) for g, rows in zip(groups, kept, strict=True)]
    rows = [own[at] for own, at in zip(groups.rows, kept, strict=True)]
    return Groups(made, rows)


def no_arcs_cross(heads: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Whether no two arcs of trees (N, n) cross, the root standing before the first word, (N,)."""
    at = np.arange(1, heads.shape[1] + 1)[None]
    left = np.where(mask, np.minimum(heads, at), 0)
    right = np.where(mask, np.maximum(heads, at), 0)
    starts, ends = left[:, None], right[:, None]
    inside = (left[..., None] < starts) & (starts < right[..., None])
    return ~np.any(inside & (ends > right[..., None]), axis=(1, 2))


def together(groups: Groups, arrays: Sequence[np.ndarray]) -> np.ndarray:
    """Arrays (n, t) of each group as one (N, T), in the order of the sentences, with -1 beyond the end."""
    return groups.back(arrays, max(a.shape[1] for a in arrays), -1)


def truth_of(groups: Groups) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Heads, relations and the mask of all sentences, (N, T)."""
    heads, relations = (together(groups, [g[k] for g in groups]) for k in ("heads", "relations"))
    return heads, relations, heads >= 0


def answer_of(groups: Groups, found: Sequence[dict[str, Any]], name: str) -> list[np.ndarray]:
    """Heads and relations of an answer, (N, T) each."""
    return [
        together(
            groups,
            [np.where(g["mask"], f[name][i], -1) for g, f in zip(groups, found, strict=True)],
        )
        for i in range(len(found[0][name]))
    ]


def scored(groups: Groups, found: Sequence[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Per cent of words with the right head, of those with its relation too, of whole trees: {answer: scores}."""
    heads, relations, mask = truth_of(groups)
    scores = {}
    for name in found[0]:
        own = answer_of(groups, found, name)
        got = attachment(own[0], heads, mask, *((own[1], relations) if len(own) > 1 else ()))
        scores[name] = {"unlabelled": 100 * got.unlabelled, "whole": 100 * got.whole}
        if got.labelled is not None:
            scores[name]["labelled"] = 100 * got.labelled
        scores[name]["no_tree"] = 100 * float(np.mean(~are_trees(own[0], mask)))
    return scores


def changes(groups: Groups, found: Sequence[dict[str, Any]]) -> dict[str, int]:
    """What the steps of inference changed: words whose head became right or wrong, sentences better or worse."""
    heads, _, mask = truth_of(groups)
    before, after = (
        (answer_of(groups, found, name)[0] == heads) & mask for name in ("step 0", "any")
    )
    gained = np.sum(after, 1) - np.sum(before, 1)
    return {
        "heads_mended": int(np.sum(after & ~before)),
        "heads_broken": int(np.sum(before & ~after)),
        "sentences_better": int(np.sum(gained > 0)),
        "sentences_worse": int(np.sum(gained < 0)),
    }


def example_of(groups: Groups, found: Sequence[dict[str, Any]], least: int = 10) -> Any:
    """The sentence of `least` to 16 words in which inference mends most heads, the first of equals.

    Its row, and (heads, relations) before and after; None where it mends none.
    """
    heads, _, mask = truth_of(groups)
    before, after = (answer_of(groups, found, name) for name in ("step 0", "any"))
    lengths = np.sum(mask, 1)
    right = [np.sum((own[0] == heads) & mask, 1) for own in (before, after)]
    gains = np.where((lengths >= least) & (lengths <= 16), right[1] - right[0], 0)
    row = int(np.argmax(gains))
    if gains[row] <= 0:
        return None
    n = lengths[row]
    return row, [a[row, :n] for a in before], [a[row, :n] for a in after]


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

"""How good predicted sequences, trees and spans are.

Arguments that mean the same everywhere: `y` or `heads` (N, T), the answers, and `truth` (N, T), which
comes second, are whole numbers, one row to each example. `mask` (N, T), bool, says which places
count; without it, all. The others play no part, nor does an example of which no place counts. NumPy
and JAX arrays both serve, outside `jit`; other shapes, types or values raise ValueError. Every metric is a
float in [0, 1], not per cent.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jax.typing import ArrayLike

from spen_jax.metrics.cells import read_mask
from spen_jax.numbers import real_array

Entity = tuple[str, int, int]


class Attachment(NamedTuple):
    """How much of trees is right: of all words, `unlabelled` their heads, `labelled` heads and relations too.

    `labelled` is None without relations; `whole` is the share of sentences whose heads are all right. Each is in
    [0, 1]; `attachment` makes it.
    """

    unlabelled: float
    labelled: float | None
    whole: float


def token_accuracy(y: ArrayLike, truth: ArrayLike, mask: ArrayLike | None = None) -> float:
    """The share of places, of all examples together, whose label is right, in [0, 1].

    `y`, the answers, and `truth` (N, T) are whole numbers, `mask` (N, T), bool, says which places count. ValueError for
    other shapes and types, and where none counts.
    """
    right, counted = _right("y", y, "truth", truth, mask)
    return float(np.mean(right[counted]))


def whole_accuracy(y: ArrayLike, truth: ArrayLike, mask: ArrayLike | None = None) -> float:
    """The share of examples whose labels are all right, in [0, 1], of those of which some place counts.

    `y`, `truth` and `mask` (N, T), and the errors, are those of `token_accuracy`.
    """
    return _wholly(*_right("y", y, "truth", truth, mask))


def attachment(
    heads: ArrayLike,
    truth: ArrayLike,
    mask: ArrayLike | None = None,
    relations: ArrayLike | None = None,
    true_relations: ArrayLike | None = None,
) -> Attachment:
    """The shares of words with the right head, and with the right head and relation, and of whole trees.

    `heads` and `truth` (N, T) are whole numbers, the place of each word's head, and `mask` (N, T), bool, says which
    words count; ValueError for others. `relations` and `true_relations` (N, T) are whole numbers, both given or
    neither. Every word that the mask lets count does, punctuation as well: leave it out of the mask where others do.
    Numbers of this kind are called UAS and LAS.
    """
    right, counted = _right("heads", heads, "truth", truth, mask)
    labelled = None
    if relations is not None or true_relations is not None:
        if relations is None or true_relations is None:
            raise ValueError("relations and true_relations must both be given, or neither")
        alike, _ = _right("relations", relations, "true_relations", true_relations, None)
        if alike.shape != right.shape:
            raise ValueError(
                f"relations must have the shape {right.shape} of heads, but have {alike.shape}"
            )
        labelled = float(np.mean((right & alike)[counted]))
    return Attachment(float(np.mean(right[counted])), labelled, _wholly(right, counted))


def entities(tags: Sequence[str]) -> list[Entity]:
    """The spans (kind, start, stop), words start up to but without stop, of the tags of one sentence.

    Tags are O, or B-kind and I-kind (IOB1 or IOB2), E-kind for an entity's last word and S-kind for its
    only one. A word goes on with the entity of the word before, tagged B or I, if it is tagged I or E
    with the same kind; any other word with a kind begins an entity, as I after O does. Tags without a
    kind are of kind "_". This is what seqeval's default mode takes for entities. ValueError for other tags.
    """
    return _spans("tags", tags)


def entity_f1(tags: Sequence[Sequence[str]], truth: Sequence[Sequence[str]]) -> float:
    """2 |A ∩ B| / (|A| + |B|) over the entities of all sentences at once, A true, B predicted.

    An entity is right where its kind, start and stop are; 0 if nothing is true or predicted. `tags`, the predicted,
    and `truth` have one list to each sentence, as `entities` reads them; ValueError for other tags and lengths. In
    [0, 1]. It agrees with seqeval's `f1_score`, with the arguments in the other order. Source: Tjong Kim Sang & De
    Meulder (2003), CoNLL's measure.
    """
    if isinstance(tags, str) or isinstance(truth, str) or len(tags) != len(truth):
        raise ValueError(
            f"tags and truth must hold the same sentences, but hold {len(tags)} and {len(truth)}"
        )
    hits = total = 0
    for i, (answer, true) in enumerate(zip(tags, truth, strict=True)):
        if len(answer) != len(true):
            raise ValueError(
                f"tags[{i}] and truth[{i}] must be of one length, but have {len(answer)} and {len(true)} tags"
            )
        predicted, actual = {*_spans(f"tags[{i}]", answer)}, {*_spans(f"truth[{i}]", true)}
        hits += len(predicted & actual)
        total += len(predicted) + len(actual)
    return 2 * hits / max(total, 1)


def _spans(name: str, tags: Sequence[str]) -> list[Entity]:
    """The entities of tags, which errors call `name`."""
    if isinstance(tags, str):
        raise ValueError(f"{name} must be a list of tags, got the text {tags!r}")
    found: list[Entity] = []
    goes_on = False
    for place, tag in enumerate(tags):
        prefix, _, kind = tag.partition("-") if isinstance(tag, str) else ("", "", "")
        if prefix not in ("B", "I", "E", "S") and tag != "O":
            raise ValueError(f"{name} must be O, or B-, I-, E- or S- with a kind, got {tag!r}")
        if prefix == "O":
            goes_on = False
            continue
        kind, start = kind or "_", place
        if goes_on and prefix in "IE" and found[-1][0] == kind:
            start = found.pop()[1]
        found.append((kind, start, place + 1))
        goes_on = prefix in "BI"
    return found


def _right(
    name: str, y: ArrayLike, truth_name: str, truth: ArrayLike, mask: ArrayLike | None
) -> tuple[np.ndarray, np.ndarray]:
    """Where the answer is right, and which places count, both bool (N, T)."""
    found, true = _whole_numbers(name, y), _whole_numbers(truth_name, truth)
    if found.shape != true.shape or found.ndim != 2 or not found.size:
        raise ValueError(
            f"{name} and {truth_name} must share one shape (N, T), N and T at least 1, but have "
            f"{found.shape} and {true.shape}: give a row to each example"
        )
    counted = read_mask(mask, found.shape)
    if not counted.any():
        raise ValueError("mask must let some place count, but is all False: nothing can be said")
    return np.equal(found, true), counted


def _whole_numbers(name: str, values: ArrayLike) -> np.ndarray:
    array = real_array(name, values)
    if array.dtype.kind not in "iu":
        raise ValueError(
            f"{name} must be whole numbers, such as argmax gives, but is {array.dtype}"
        )
    return array


def _wholly(right: np.ndarray, counted: np.ndarray) -> float:
    whole = np.all(right | ~counted, axis=1)
    return float(np.mean(whole[np.any(counted, axis=1)]))

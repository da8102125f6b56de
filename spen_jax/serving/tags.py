"""What becomes of labels of sequences: the number of each, -1 where one is not known, and back again."""

from collections.abc import Sequence
from typing import Any

import numpy as np

NOT_KNOWN, UNSEEN = -1, -2


def read_tags(
    y: Any,
    lengths: np.ndarray,
    classes: np.ndarray | None = None,
    name: str = "y",
    *,
    unseen: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """(classes (K,), numbers int32 (S + 1,) of the labels of all places, -1 where None or NaN, and at the end).

    With `classes` labels have to be of these, or with `unseen` others are -2.
    ValueError, which names the sequence, for labels that are not as many as places, are no texts or whole numbers, or
    are not of the classes, and where there is none at all to learn from.
    """
    rows = _rows(y, lengths, name)
    labels = [label for row in rows for label in row if label is not None]
    if classes is None:
        if not labels:
            raise ValueError(f"{name} has no label: at least one place must have one")
        if len({isinstance(label, str) for label in labels}) > 1:
            raise ValueError(f"labels must be all texts or all whole numbers, but {name} has both")
        classes = np.array(sorted(set(labels)))
    numbers: dict[Any, int] = {label: k for k, label in enumerate(classes.tolist())}
    numbers[None] = NOT_KNOWN
    for i, row in enumerate(rows):
        for t, label in enumerate(row):
            if label not in numbers and not unseen:
                raise ValueError(
                    f"{name}[{i}][{t}] is {label!r}, which is none of the {len(classes)} labels of fit, "
                    "those in classes_"
                )
    return classes, np.array(
        [*(numbers.get(label, UNSEEN) for row in rows for label in row), NOT_KNOWN], np.int32
    )


def _rows(y, lengths, name):
    if y is None or isinstance(y, str) or not hasattr(y, "__len__"):
        raise ValueError(
            f"requires {name} to be passed, a list of labels for each sequence, but the target y is {y!r}"
        )
    if len(y) != len(lengths):
        raise ValueError(
            f"Found input variables with inconsistent numbers of samples: X has {len(lengths)} sequences and {name} "
            f"{len(y)}, give a list of labels for each"
        )
    rows = []
    for i, (row, T) in enumerate(zip(y, lengths, strict=True)):
        if row is None:
            row = [None] * T
        if isinstance(row, str) or not hasattr(row, "__len__") or len(row) != T:
            got = (
                repr(row)
                if isinstance(row, str) or not hasattr(row, "__len__")
                else f"{len(row)} labels"
            )
            raise ValueError(
                f"X[{i}] has {T} places, but {name}[{i}] is {got}: give a label for each place, None where it is not "
                "known"
            )
        rows.append([_label(label, i, t, name) for t, label in enumerate(row)])
    return rows


def _label(label, i, t, name):
    if label is None or label != label:
        return None
    if isinstance(label, str):
        return str(label)
    if isinstance(label, int | np.integer) and not isinstance(label, bool):
        return int(label)
    raise ValueError(f"{name}[{i}][{t}] must be a text, a whole number or None, got {label!r}")


def tags_of(classes: np.ndarray, answers: Sequence[np.ndarray]) -> list[list[Any]]:
    """The labels of the greatest of each row of (T, K)."""
    return [classes[a.argmax(axis=1)].tolist() for a in answers]

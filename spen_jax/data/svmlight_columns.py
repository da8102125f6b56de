"""What the columns of x and y are, from what occurs in sparse text; for reading it into memory or a folder."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np

from spen_jax.data.examples import Numbered, counted, several
from spen_jax.data.files import DataError
from spen_jax.data.lines import fail
from spen_jax.data.numbers import LARGEST
from spen_jax.data.svmlight_rows import MOST, Cells, line_of, parts

_MERGED = 2**16
"""Labels that wait, at least, until those that occur are put in order once more."""


class Seen:
    """What occurs in rows, gathered a part of a file at a time: `add` each, then ask."""

    def __init__(self) -> None:
        self.rows = self.bare = self.unlabelled = self.multiple = 0
        """Rows, and those without features, without labels, with several."""
        self.least, self.most = 1, 0
        """Of the indices; these where there are none."""
        self.is_whole = self.is_countable = True
        """Whether all labels are whole numbers, and such as columns can be counted by."""
        self._distinct, self._waiting, self._n = np.empty(0, np.int64), [], 0

    def add(self, cells: Cells) -> None:
        """Gather what occurs in these rows."""
        pairs, marks = (np.diff(ends, prepend=0) for ends in (cells.ends, cells.label_ends))
        if len(cells.indices):
            low, high = int(cells.indices.min()), int(cells.indices.max())
            nothing = self.most < self.least
            self.least = low if nothing else min(self.least, low)
            self.most = high if nothing else max(self.most, high)
        self.rows += len(pairs)
        self.bare += int((pairs == 0).sum())
        self.unlabelled += int((marks == 0).sum())
        self.multiple += int((marks > 1).sum())
        self.is_whole &= not _broken(cells.labels).any()
        self.is_countable &= not _uncountable(cells.labels).any()
        if self.is_countable:
            self._waiting.append(np.unique(cells.labels.astype(np.int64)))
            self._n += len(self._waiting[-1])
            if self._n > max(_MERGED, len(self._distinct)):
                self._merge()

    def pad(self, n: int) -> None:
        """Blank rows at the end, up to n rows in all."""
        more = n - self.rows
        self.rows, self.bare, self.unlabelled = n, self.bare + more, self.unlabelled + more

    @property
    def distinct(self) -> np.ndarray:
        """The labels that occur, ascending, int64."""
        self._merge()
        return self._distinct

    @property
    def single(self) -> bool:
        """Whether every row has one label."""
        return not (self.unlabelled or self.multiple)

    def _merge(self) -> None:
        self._distinct = np.unique(np.concatenate([self._distinct, *self._waiting]))
        self._waiting, self._n = [], 0


def _broken(marks: np.ndarray) -> np.ndarray:
    return marks != np.floor(marks)


def _uncountable(marks: np.ndarray) -> np.ndarray:
    return _broken(marks) | (np.abs(marks) > MOST)


def columns_of_x(
    path: Path, header: Any, seen: Seen, like: Any, first: int | None
) -> tuple[Numbered, int, list[str]]:
    """The names of features, the index of the first, and notes; `DataError` for an index beyond them."""
    notes = []
    if like is not None:
        names = like.feature_names
        if not isinstance(names, Numbered):
            raise ValueError(
                f"like= must be examples read from libsvm text too, got features {several(names)}"
            )
        first = int(names[0]) if len(names) else 1
    elif header:
        is_from_one = seen.least and seen.most == header[1]
        first = (1 if is_from_one else 0) if first is None else first
        names = Numbered(header[1], first)
    else:
        guessed, first = first is None, (min(seen.least, 1) if first is None else first)
        names = Numbered(max(seen.most + 1 - first, 0), first)
        if guessed:
            notes.append(f"indices are from {first}" + ("" if first == 0 else ", for no 0 occurs"))
    last = first + len(names) - 1
    if seen.least <= seen.most and (seen.least < first or seen.most > last):
        _refuse_index(path, header, first, last)
    if seen.bare:
        notes.append(f"{counted(seen.bare, 'row')} without features")
    return names, first, notes


class Labels(NamedTuple):
    """What the columns of y are."""

    names: Sequence[str]
    is_regression: bool
    """Whether y are the numbers themselves, one a row."""
    known: np.ndarray
    """The labels that occur, ascending."""
    columns: np.ndarray
    """Of each of them, its column."""
    notes: list[str]

    def places(self, marks: np.ndarray) -> np.ndarray:
        """The columns of labels."""
        return self.columns[np.searchsorted(self.known, marks.astype(np.int64))]


def columns_of_y(path: Path, header: Any, seen: Seen, like: Any) -> Labels:
    """What the columns of y are; `DataError` for labels that are none of them."""
    is_target = not seen.is_whole if like is None else tuple(like.label_names[:2]) == ("target",)
    if seen.single and not header and is_target:
        notes = ["one number a row, not all whole: a regression"]
        return Labels(("target",), True, np.empty(0, np.int64), np.empty(0, np.int64), notes)
    if not seen.is_countable:
        _refuse_label(path, header, _uncountable, "whole numbers as labels")
    distinct = seen.distinct
    if like is not None:
        names = like.label_names
        known = {name: i for i, name in enumerate(names)}
        columns = np.array([known.get(str(label), -1) for label in distinct], np.int64)
    elif header:
        is_from_one = len(distinct) and distinct[0] > 0 and distinct[-1] == header[2]
        names = Numbered(header[2], int(is_from_one))
        columns = distinct - int(names[0] if len(names) else 0)
    else:
        names = tuple(map(str, distinct))
        columns = np.arange(len(distinct))
    unknown = distinct[(columns < 0) | (columns >= len(names))]
    if len(unknown):
        expected = f"a label among the {len(names)}: {several(names)}"
        _refuse_label(path, header, lambda marks: np.isin(marks, unknown), expected)
    notes = []
    if seen.single:
        notes.append(f"every row has one label: {len(names)} classes, one-hot")
    elif seen.unlabelled:
        notes.append(f"{counted(seen.unlabelled, 'row')} without labels")
    return Labels(names, False, distinct, columns, notes)


def numbers_of(path: Path, header: Any, marks: np.ndarray) -> np.ndarray:
    """The numbers of a regression, float32 (n, 1); `DataError` for one beyond float32."""
    if len(marks) and np.abs(marks).max() > LARGEST:
        wanted = "a value that float32 can hold"
        _refuse_label(path, header, lambda each: np.abs(each) > LARGEST, wanted)
    return marks.astype(np.float32)[:, None]


def _refuse_index(path: Path, header: Any, first: int, last: int) -> NoReturn:
    """Raise the error of the first index that is not among those expected."""
    row = 0
    for cells in parts(path, header):
        wrong = (cells.indices < first) | (cells.indices > last)
        if wrong.any():
            entry = int(np.argmax(wrong))
            row += int(np.searchsorted(cells.ends, entry, side="right"))
            said = f"an index from {first} to {last}"
            fail(path, line_of(path, header, row), said, str(cells.indices[entry]))
        row += len(cells.ends)
    raise DataError(f"{path}: changed while it was read")


def _refuse_label(
    path: Path, header: Any, wrong: Callable[[np.ndarray], np.ndarray], expected: str
) -> NoReturn:
    """Raise the error of the first label that is wrong."""
    row = 0
    for cells in parts(path, header):
        found = wrong(cells.labels)
        if found.any():
            entry = int(np.argmax(found))
            row += int(np.searchsorted(cells.label_ends, entry, side="right"))
            fail(path, line_of(path, header, row), expected, f"{cells.labels[entry]:g}")
        row += len(cells.label_ends)
    raise DataError(f"{path}: changed while it was read")

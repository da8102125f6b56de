"""What every reader gives: rows, their labels, what the columns are called, and what was done with them.

N rows, D features, L labels. NumPy, and SciPy where something is sparse.
"""

import fnmatch
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import compress
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from spen_jax.data.files import DataError

Labels = str | Path | int | Sequence[str] | None
"""Which columns are labels: names or patterns ("tag_*"), the first n or with -n the last n, the path of a Mulan .xml;
() for none; None for those that the file itself declares."""

Missing = Literal["nan", "error"]
"""What a missing feature becomes."""

PAIRS = tuple(
    frozenset(pair.split())
    for pair in ("0 1", "-1 1", "false true", "f t", "no yes", "n y", "off on")
)
ON = frozenset("1 true t yes y on".split())
ROOM = 2**26
"""Bytes that a dense array may take in any case; a larger one only where it takes at most TIMES those of the file."""
TIMES = 10


class Column(NamedTuple):
    """One column of a table: the `name` that it had, and what became of it."""

    name: str
    kind: str
    """"number", "binary" (one feature, 0 or 1), "category" (one-hot), "date" (days since 1970), "text", "left out";
    of labels also "tags", several of its values in one cell."""
    values: tuple[str, ...] = ()
    """Of a category all that it can be, in the order of their features; of a binary one (off, on)."""
    label: bool = False
    """Whether it went into y."""
    separator: str | None = None
    """What stands between the labels of a cell, of "tags"; rows that are read `like=` these have it too."""

    @property
    def features(self) -> tuple[str, ...]:
        """The names of what it becomes in x or y."""
        if self.kind == "category":
            return tuple(f"{self.name}={value}" for value in self.values)
        if self.kind == "tags":
            return self.values
        return () if self.kind in ("text", "left out") else (self.name,)


class Numbered(Sequence[str]):
    """The names str(first), ..., str(first + n - 1), made when they are asked for."""

    def __init__(self, n: int, first: int = 0):
        self._range = range(first, first + n)

    def __len__(self) -> int:
        return len(self._range)

    def __getitem__(self, place: Any) -> Any:
        found = self._range[place]
        return tuple(map(str, found)) if isinstance(place, slice) else str(found)

    def __contains__(self, name: object) -> bool:
        return (
            isinstance(name, str)
            and name.isdecimal()
            and str(int(name)) == name
            and int(name) in self._range
        )

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Numbered):
            return self._range == other._range
        return (
            isinstance(other, Sequence)
            and len(self) == len(other)
            and all(map(str.__eq__, self, other))
        )

    def __hash__(self) -> int:
        return hash(self._range)

    def __repr__(self) -> str:
        return f"Numbered({len(self)}, {self._range.start})"


@dataclass(frozen=True)
class Examples:
    """What a file or frame holds; `x`, `y` and `mask` are those of a `Split`.

    `feature_names` are those of the D columns of x, `label_names` of the L of y. `x` is float32 (N, D), an array, or a
    SciPy CSR array where the file is sparse. `y` is float32 (N, L): 0 or 1, or the numbers of a regression; a CSR array
    where a dense one would take more than 64 MB and ten times the file.
    """

    x: Any
    y: Any
    mask: np.ndarray | None
    """bool (N, L), False where a label is missing, which is NaN in y; None where all are known."""
    feature_names: Sequence[str]
    label_names: Sequence[str]
    columns: tuple[Column, ...] = ()
    """Of a table, what each of its columns became; `read(..., like=these)` reads another file alike."""
    text: dict[str, list[str]] = field(default_factory=dict)
    """Columns of free text, which are not in x; for a vectoriser such as scikit-learn's."""
    notes: tuple[str, ...] = ()
    """What was found and done, in words."""

    def __repr__(self) -> str:
        """Shapes and notes, not values."""
        lines = [
            f"{len(self.feature_names)} features x {self.x.shape}",
            f"{len(self.label_names)} labels y {self.y.shape}",
        ]
        return "\n  ".join(["Examples:", *lines, *self.notes])


def on_of(values: Iterable[str]) -> tuple[str, str] | None:
    """(off, on) of what two-valued columns are spelled like, in lower case; None for anything else.

    0 and 1, -1 and 1, false and true, f and t, no and yes, n and y, off and on, also where only one of them occurs.
    """
    found = {_plain(value) for value in values}
    for pair in PAIRS:
        if found and found <= pair:
            (on,) = pair & ON
            (off,) = pair - ON
            return off, on
    return None


def is_on(value: str) -> bool:
    """Whether a value of a two-valued column is the one that stands for 1."""
    return _plain(value) in ON


def _plain(value: str) -> str:
    value = value.strip().lower()
    return {"+1": "1", "1.0": "1", "0.0": "0", "-1.0": "-1"}.get(value, value)


def column_of(name: str, values: Sequence[str]) -> Column:
    """A column of these values: binary where they are spelled so, else a category."""
    pair = on_of(values) if len(values) <= 2 else None
    if pair and [v.strip().lower() for v in values] not in (
        ["f"],
        ["n"],
    ):  # of one letter it might be anything
        off, on = ([v for v in values if is_on(v) == which] for which in (False, True))
        cases = str.upper if values[0].isupper() else str.title if values[0].istitle() else str
        off, on = off or [cases(pair[0])], on or [cases(pair[1])]
        if len(off) == len(on) == 1:
            return Column(name, "binary", (off[0], on[0]))
    return Column(name, "category", tuple(values))


def chosen(labels: str | int | np.integer | Sequence[str], names: Sequence[str]) -> list[int]:
    """The places of the labels among the names; ValueError, which says what there is, for those that are not there."""
    if isinstance(labels, int | np.integer):
        labels = int(labels)
        if not 0 < abs(labels) <= len(names):
            raise ValueError(
                f"labels={labels}: expected at most the {len(names)} columns there are, and not 0"
            )
        return list(range(labels)) if labels > 0 else list(range(len(names) + labels, len(names)))
    wanted = [labels] if isinstance(labels, str) else list(labels)
    found: dict[int, None] = {}
    for pattern in wanted:
        exact = [i for i, name in enumerate(names) if name == pattern]
        places = exact or [
            i for i, name in enumerate(names) if fnmatch.fnmatchcase(name, str(pattern))
        ]
        if not places:
            raise ValueError(f"no column is called {pattern!r}; there are {several(names)}")
        found.update(dict.fromkeys(places))
    return sorted(found)


def counted(n: Any, what: str) -> str:
    """A number with its noun, in the plural but for 1."""
    return f"{n:,} {what}" + "s" * bool(n != 1)


def several(names: Iterable[str], most: int = 8) -> str:
    """The first names, and how many there are beyond them."""
    names = names if isinstance(names, Sequence) else list(names)
    beyond = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(repr(name) for name in names[:most]) + beyond


class Entries(NamedTuple):
    """The cells of a table as numbers, of categories places in `Column.values`; NaN is missing."""

    n: int
    values: np.ndarray
    """(n * columns,) of a dense table, row by row; else (entries,)."""
    rows: np.ndarray | None = None
    places: np.ndarray | None = None
    """The columns of a sparse table's entries."""
    absent: np.ndarray | None = None
    """(columns,): what a sparse table says where it says nothing."""


def examples_of(
    entries: Entries, columns: Sequence[Column], size: int, notes: Sequence[str], tags: Any = None
) -> Examples:
    """x, y and their names from the cells of a table; `size` is that of its file in bytes.

    `DataError`, which does not know the file's name, where gaps would be more NaN than fit.

    `tags`, CSR (n, values), are the cells of a column of that kind, which is the only label.
    """
    make = _dense_side if entries.rows is None else _sparse_side
    sides = [[c.label == side for c in columns] for side in (False, True)]
    x, y = (make(entries, np.array(s, bool), [*compress(columns, s)], size) for s in sides)
    features, labels = (
        tuple(f for c in columns if c.label == side for f in c.features) for side in (False, True)
    )
    y = y if tags is None else tags
    y = y.toarray() if not isinstance(y, np.ndarray) and fits(*y.shape, size) else y
    mask = None
    if isinstance(y, np.ndarray) and np.isnan(y).any():
        mask = ~np.isnan(y)
        notes = (*notes, f"{counted((~mask).sum(), 'label')} missing: NaN in y, False in the mask")
    said = (*notes, *_said(x, columns))
    return Examples(x, y, mask, features, labels, tuple(columns), notes=said)


def _said(x: Any, columns: Sequence[Column]) -> list[str]:
    """What became of the columns that are not numbers, and what is missing."""
    notes = []
    for kind, what in (
        ("binary", "of two values: 0 or 1"),
        ("category", "of several values: one column for each"),
        ("tags", "of several values in a cell: one column for each"),
        ("date", "of dates: days since 1970-01-01"),
        ("text", "of text: not in x but in .text"),
        ("left out", "left out"),
    ):
        for label in (False, True):
            found = [
                c for c in columns if (c.kind, c.label) == (kind, label) and c.values != ("0", "1")
            ]
            told = [f"{c.name}: {c.values[1]} is 1" if kind == "binary" else c.name for c in found]
            if found:
                called = counted(len(found), "label" if label else "column")
                notes.append(f"{called} {what} ({several(told, 4)})")
    gone = np.isnan(x if isinstance(x, np.ndarray) else x.data)
    return [*notes, f"{counted(gone.sum(), 'value')} of x missing: NaN"] if gone.any() else notes


def _dense_side(entries: Entries, side: np.ndarray, columns: Sequence[Column], size: int) -> Any:
    """(n, features) float32, or CSR where that is much smaller."""
    raw = entries.values.reshape(entries.n, len(side))[:, side]
    if all(len(c.features) == 1 and c.kind != "category" for c in columns):
        return np.ascontiguousarray(raw, np.float32)
    width = sum(len(c.features) for c in columns)
    if not fits(entries.n, width, size):
        rows, places = (a.ravel() for a in np.indices(raw.shape))
        return _csr(
            Entries(entries.n, raw.ravel(), rows, places, np.zeros(len(columns))), columns, size
        )
    out = np.zeros((entries.n, width), np.float32)
    at = 0
    for codes, column in zip(raw.T, columns, strict=True):
        n = len(column.features)
        if column.kind == "category":
            known = ~np.isnan(codes)
            out[np.flatnonzero(known), at + codes[known].astype(int)] = 1
            out[~known, at : at + n] = np.nan
        elif n:
            out[:, at] = codes
        at += n
    return out


def _sparse_side(entries: Entries, side: np.ndarray, columns: Sequence[Column], size: int) -> Any:
    """(n, features) CSR, or an array where most columns say something by saying nothing."""
    assert entries.places is not None and entries.rows is not None and entries.absent is not None
    own, n = side[entries.places], entries.n
    places = (np.cumsum(side) - 1)[entries.places[own]]
    rows, values, absent = entries.rows[own], entries.values[own], entries.absent[side]
    loud = sum(c.kind == "category" or a != 0 for c, a in zip(columns, absent, strict=True))
    if 2 * loud > len(columns) and fits(n, sum(len(c.features) for c in columns), size):
        raw = np.tile(absent.astype(np.float32), (n, 1))
        raw[rows, places] = values
        return _dense_side(Entries(n, raw.ravel()), np.ones(len(columns), bool), columns, size)
    return _csr(Entries(n, values, rows, places, absent), columns, size)


def _csr(entries: Entries, columns: Sequence[Column], size: int) -> Any:
    from scipy import sparse

    n, values, rows, places, absent = entries
    nans = 0
    assert rows is not None and places is not None and absent is not None
    widths = np.array([len(c.features) for c in columns], np.int64)
    starts = np.concatenate([[0], np.cumsum(widths)])
    filled = np.array([c.kind == "category" for c in columns], bool) | (absent != 0)
    plain = ~filled[places] & (widths[places] > 0)
    parts = [(rows[plain], starts[places[plain]], values[plain])]
    for place in map(int, np.flatnonzero(filled & (widths > 0))):  # they say something in silence
        own, codes = places == place, np.full(n, absent[place])
        codes[rows[own]] = values[own]
        known, width = ~np.isnan(codes), widths[place]
        nans += int((~known).sum() * width)
        if not fits(nans, 1, size):
            name = columns[place].name
            raise DataError(
                f"expected few gaps in columns of many values, got {nans:,} NaN as far as {name!r}; drop= leaves it out"
            )
        if columns[place].kind == "category":
            parts.append(
                (
                    np.flatnonzero(known),
                    starts[place] + codes[known].astype(int),
                    np.ones(known.sum()),
                )
            )
        else:
            parts.append((np.flatnonzero(known), np.full(known.sum(), starts[place]), codes[known]))
        gone = np.repeat(np.flatnonzero(~known), width)
        parts.append(
            (
                gone,
                starts[place] + np.tile(np.arange(width), (~known).sum()),
                np.full(len(gone), np.nan),
            )
        )
    where, at, what = (np.concatenate(each) for each in zip(*parts, strict=True))
    made = sparse.csr_array((what.astype(np.float32), (where, at)), shape=(n, int(starts[-1])))
    made.eliminate_zeros()
    made.sort_indices()
    return made


def fits(rows: int, columns: int, size: int) -> bool:
    """Whether a dense float32 array is small enough, for a file of so many bytes."""
    return 4 * rows * columns <= max(ROOM, TIMES * size)

"""Tables with names over their columns: CSV and its kin, Parquet, and the frames of pandas, polars and Arrow."""

import datetime
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from spen_jax.data import columns as kinds
from spen_jax.data.cells import Table, Text, frame_of, table_of
from spen_jax.data.columns import Refused, Told, is_missing
from spen_jax.data.examples import (
    Column,
    Entries,
    Examples,
    Labels,
    Missing,
    chosen,
    counted,
    examples_of,
    several,
)
from spen_jax.data.files import DataError
from spen_jax.data.lines import short


def read_table(
    source: Any,
    labels: Labels = None,
    *,
    separator: str | None = None,
    columns: Mapping[str, str] | None = None,
    drop: str | Sequence[str] = (),
    like: Examples | None = None,
    missing: Missing = "nan",
    text: Text = Text(),
) -> Examples:
    """Read a table: CSV with any of , ; tab | between its cells, Parquet (with pyarrow), or a frame.

    A frame is one of pandas or polars, an Arrow table, or a dict of columns; its types are taken at their word. In text
    a column is of numbers where every cell is one and none has a leading zero; of ISO dates, as days since 1970; of
    two values spelled as in ARFF files; of a category, one-hot; else of free text, which goes to `text`. Identifiers
    are left out. `notes` say what became of each, `columns` says otherwise: {"zip": "category", "no": "left out"}.

    Args:
      source: a path or a frame.
      labels: the columns that are labels: names, patterns, the first n or with -n the last n; () for none.
      separator: of one label column whose cells hold several labels; a frame's cells may be lists of them.
      columns: kinds by name: "number", "category", "date", "text", "left out".
      drop: columns to leave out, by name or pattern.
      like: examples that this table is to be read as: their columns, values and labels; others are refused.
      missing: of features: "nan", or "error", which names row and column.
      text: how the file is written, where that is not as most are: `Text(decimal=",")`, `Text(header=False)`.

    Raises:
      DataError: names file, line or row, column, what was expected and what came.
      ValueError: for a decimal mark or a kind of column that there is not.
    """
    if text.decimal not in (".", ","):
        raise ValueError(f"decimal must be '.' or ',', got {text.decimal!r}")
    if bad := [k for k in (columns or {}).values() if k not in kinds.KINDS]:
        raise ValueError(f"columns= takes the kinds {', '.join(kinds.KINDS)}, got {bad[0]!r}")
    known = {c.name: c for c in like.columns} if like else {}
    said = dict(columns or {}) | {name: c.kind for name, c in known.items()}
    words = {name for name, kind in said.items() if kind != "number"}
    if separator is not None and isinstance(labels, str):
        words.add(labels)
    is_file = isinstance(source, str | Path)
    table = table_of(Path(source), text, words) if is_file else frame_of(source)
    for name in columns or {}:
        if name not in table.names:
            raise DataError(
                f"{table.where}: no column is called {name!r}; there are {several(table.names)}"
            )
    said |= {table.names[i]: "left out" for i in _places(table, drop)}
    is_label, notes = _which(table, labels, like)
    tags = separator is not None or any(c.kind == "tags" for c in known.values())
    told, y = list[Told](), None
    for place, (name, label) in enumerate(zip(table.names, is_label, strict=True)):
        cells = table.cells[place]
        try:
            if label and (tags or _lists(cells)):
                found, y = _tags(name, cells, separator, known.get(name), sum(is_label))
            elif like is None:
                found = _told(table, name, cells, said.get(name), label, text.decimal)
            else:
                found = _alike(known.get(name), name, cells, text.decimal)
            if (
                missing == "error"
                and not label
                and (gone := np.flatnonzero(np.isnan(found.values))).size
            ):
                raise Refused(
                    int(gone[0]), f"a value for {name!r}", "none, which missing='nan' keeps"
                )
        except Refused as refused:
            table.reject(refused)
        values = found.values.astype(np.float32)
        told.append(found._replace(column=found.column._replace(label=label), values=values))
        table.cells[place] = None  # it may be large
    return _together(table, _in_order(table, told, like), notes, y)


def _together(table: Table, told: list[Told], notes: tuple[str, ...], y: Any) -> Examples:
    values = np.stack([t.values for t in told], 1)
    said = (*table.notes, *notes, *(line for t in told for line in t.note.splitlines()))
    entries = Entries(table.n, values.ravel())
    try:
        found = examples_of(entries, [t.column for t in told], table.size, said, y)
    except DataError as error:
        raise DataError(f"{table.where}: {error}") from None
    found.text.update({t.column.name: t.text for t in told if t.text is not None})
    return found


# Which column is what


def _which(
    table: Table, labels: Labels, like: Examples | None
) -> tuple[list[bool], tuple[str, ...]]:
    """Whether each column is a label."""
    if labels is None and like is not None:
        wanted = {c.name for c in like.columns if c.label}
        return [name in wanted for name in table.names], ()
    if labels is None:
        note = "nothing says which columns are labels: y has no columns; labels= does"
        return [False] * len(table.names), (note,)
    places = {*_places(table, labels)}
    return [i in places for i in range(len(table.names))], ()


def _places(table: Table, which: Any) -> list[int]:
    if isinstance(which, Path):
        raise ValueError(
            f"labels={str(which)!r}: a file of labels belongs to ARFF, of a table give names of columns"
        )
    try:
        return chosen(
            which if isinstance(which, str | int | np.integer) else [str(name) for name in which],
            table.names,
        )
    except ValueError as error:
        raise DataError(f"{table.where}: {error}") from None


def _told(table: Table, name: str, cells: Any, kind: str | None, label: bool, decimal: str) -> Told:
    """What a column is, by its kind or its values."""
    if kind == "left out":
        return Told(Column(name, kind), np.zeros(table.n))
    if isinstance(cells, np.ndarray):
        if kind in (None, "number"):
            return kinds.as_numbers(cells, name, kind is not None, label)
        if kind == "date":
            raise Refused(0, f"dates in {name!r}", f"the number {cells[0]:g}")
        words = [kinds.word(v) for v in cells]
        return kinds.as_words(words, name, kind, label)
    types = {type(v) for v in cells if not is_missing(v)}
    if types and all(issubclass(t, datetime.date) for t in types):
        if kind in (None, "date"):
            return kinds.as_dates(cells, name)
        return kinds.as_words(
            [None if is_missing(v) else v.isoformat() for v in cells], name, kind, label
        )
    if types <= {bool, np.bool_}:
        return kinds.as_words([None if is_missing(v) else str(v) for v in cells], name, kind, label)
    if not types <= {str}:
        row = next(
            i for i, v in enumerate(cells) if not is_missing(v) and type(v) not in (str, bool)
        )
        raise Refused(
            row,
            f"numbers, words, dates or truth values, all alike, in {name!r}",
            f"{short(repr(cells[row]))}",
        )
    words = [None if is_missing(v) or v == "" else v for v in cells]
    if kind == "number":
        return Told(Column(name, kind), kinds.said_numbers(words, name, decimal))
    if not table.typed and kind is None:
        kinds.check_alike(words, name, decimal)
    return kinds.as_words(words, name, kind, label)


def _alike(column: Column | None, name: str, cells: Any, decimal: str) -> Told:
    """A column as that of other examples."""
    if column is None:
        return Told(
            Column(name, "left out"),
            np.zeros(len(cells)),
            note=f"{name!r} was not there before: left out",
        )
    if isinstance(cells, np.ndarray):
        if column.kind in ("number", "left out"):
            return Told(column, cells if column.kind == "number" else np.zeros(len(cells)))
        return kinds.alike(column, [kinds.word(v) for v in cells], decimal)
    if column.kind == "number" and all(is_missing(v) or v == "" for v in cells):
        return Told(column, np.full(len(cells), np.nan))
    if column.kind == "date" and not any(isinstance(v, str) for v in cells):
        return kinds.as_dates(cells, column.name)
    return kinds.alike(
        column, [None if is_missing(v) or v == "" else str(v) for v in cells], decimal
    )


def _in_order(table: Table, told: list[Told], like: Examples | None) -> list[Told]:
    """The columns of other examples in their order; labels may be absent."""
    if like is None:
        return told
    by_name = {t.column.name: t for t in told}
    for column in like.columns:
        if column.name not in by_name and not column.label and column.kind != "left out":
            raise DataError(
                f"{table.where}: expected a column {column.name!r}, got {several(table.names)}"
            )
    names = {c.name for c in like.columns}
    first = [by_name[c.name] for c in like.columns if c.name in by_name]
    return first + [t for t in told if t.column.name not in names]


def _lists(cells: Any) -> bool:
    return not isinstance(cells, np.ndarray) and any(
        isinstance(v, list | tuple | set | frozenset | np.ndarray) for v in cells
    )


def _tags(name: str, cells: Any, separator: str | None, known: Column | None, labels: int) -> Any:
    """The column of several labels a cell, and y as CSR."""
    from scipy import sparse

    if labels > 1:
        raise Refused(
            None,
            "one label column where cells hold several labels",
            f"{labels}, {name!r} among them",
        )
    if isinstance(cells, np.ndarray):
        cells = [kinds.word(v) for v in cells]
    if _is_matrix(cells):
        raise Refused(
            0, f"the names of labels in {name!r}, or a column for each label", short(repr(cells[0]))
        )
    if separator is None and known:
        separator = known.separator
    each = [_split(cell, separator) for cell in cells]
    cells, note = _without_unknown(name, cells, each, () if known is None else known.values)
    distinct = sorted({tag for tags in each for tag in tags})
    column = known or Column(name, "tags", tuple(distinct), separator=separator)
    notes = [note, "" if known else kinds.alike_but_for_case(name, distinct)]
    places = {tag: i for i, tag in enumerate(column.values)}
    for row, tags in enumerate(each):
        if unknown := [tag for tag in tags if tag not in places]:
            raise Refused(row, f"for {name!r} some of {several(column.values)}", repr(unknown[0]))
    starts = np.concatenate([[0], np.cumsum([len(tags) for tags in each])])
    at = np.array([places[tag] for tags in each for tag in tags], np.int64)
    y: Any = sparse.csr_array(
        (np.ones(len(at), np.float32), at, starts), shape=(len(each), len(column.values))
    )
    gone = np.flatnonzero([is_missing(cell) for cell in cells])
    if len(gone):
        y = y.toarray()
        y[gone] = np.nan
    empty = sum(not tags for tags in each) - len(gone)
    notes.append(f"{counted(empty, 'row')} without {name}: all labels are 0" if empty else "")
    return Told(column, np.zeros(len(each)), note="\n".join(filter(None, notes))), y


def _without_unknown(
    name: str, cells: Sequence[Any], each: list[list[str]], names: Sequence[str]
) -> tuple[list[Any], str]:
    """The cells with None, and `each` without labels, where a cell says no more than "NA" or "?"; and a note.

    Not where such a word is a label: one of `names`, or beside others in some cell.
    """
    labels = {*names, *(tag for tags in each if len(tags) > 1 for tag in tags)}
    found, said = list(cells), dict[str, int]()
    for row, tags in enumerate(each):
        if not isinstance(cells[row], str) or len(tags) != 1 or tags[0] in labels:
            continue
        if tags[0].lower() in kinds.MISSING:
            said[tags[0]] = said.get(tags[0], 0) + 1
            found[row], each[row] = None, []
    if not said:
        return found, ""
    rows = counted(sum(said.values()), "row")
    return found, (
        f"{rows} where {name!r} is {several(said)}: their labels are not known; an empty cell is a row without labels"
    )


def _is_matrix(cells: Any) -> bool:
    """Whether cells are rows of a matrix of zeros and ones."""
    first = [cell for cell in cells if not is_missing(cell) and not isinstance(cell, str)]
    if not first or not all(hasattr(cell, "__len__") for cell in first):
        return False
    numbers = all(isinstance(v, int | float | np.number | np.bool_) for cell in first for v in cell)
    alike = len({len(cell) for cell in first}) == 1
    return (
        numbers and alike and len(first[0]) > 1 and all(v in (0, 1) for cell in first for v in cell)
    )


def _split(cell: Any, separator: str | None) -> list[str]:
    if is_missing(cell):
        return []
    if isinstance(cell, str):
        parts = cell.split(separator)
    else:
        parts = [
            str(tag)
            for tag in (cell if hasattr(cell, "__iter__") else [cell])
            if not is_missing(tag)
        ]
    return list(dict.fromkeys(part.strip() for part in parts if part.strip()))

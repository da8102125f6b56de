"""What a column of a table is: a number, one of two values, a category, a date, text, or an identifier.

A kind is said by the values alone where that is safe; `notes` of what is read say which it was, and `columns=` says
otherwise. Two things are never turned into numbers: codes with a leading zero, and identifiers, which are left out.
"""

import datetime
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from spen_jax.data.examples import Column, column_of, on_of
from spen_jax.data.numbers import LARGEST, NUMBER, numbers

KINDS = "number", "category", "date", "text", "left out"
"""What `columns=` may say."""
MISSING = frozenset(
    ["", "na", "n/a", "#n/a", "nan", "null", "none", "?", "<na>", "#value!", "#div/0!"]
)
"""What stands for nothing among numbers and dates, in lower case, and alone in a cell of several labels; among other
words only an empty cell does."""
_IDENTIFIER = re.compile(
    r"(?i:(?:.*[_\s.-])?(?:id|uuid|guid)|index|idx|key|row|rownum|unnamed: 0)|.*[a-z]I[Dd]|",
    re.ASCII,
)
_SOME_CODE = re.compile(r"(?:^| )[-+]?0\d+(?= |$)", re.ASCII)
_CODE = re.compile(r"[-+]?0\d+", re.ASCII)
_MARKED = re.compile(r"[-+]?\d+(?:[.,]\d+)*", re.ASCII)
_THOUSANDS = re.compile(r"[-+]?\d{1,3}(?:[.,]\d{3})+", re.ASCII)
_ISO = re.compile(
    r"\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d(?:\.\d{1,6})?)?(?:Z|[-+]\d\d:?\d\d)?)?", re.ASCII
)
_SOME_DATE = re.compile(r"\d{1,2}[/.-]\d{1,2}[/.-](?:\d{4}|\d\d)", re.ASCII)
_CODES = 10
"""Rows from which on a word that is another one in each is told to be an identifier, as it seems."""
_MOST, _SOME = 1000, 100
"""Values of a category at most, and from which on one that is new in every second row is text."""
_EPOCH = datetime.datetime(1970, 1, 1)


class Told(NamedTuple):
    """A column, its numbers or codes (N,) with NaN where missing, or its text."""

    column: Column
    values: np.ndarray
    text: list[str] | None = None
    note: str = ""


class Refused(ValueError):
    """A value that its column cannot have: the row, what was expected, what came."""

    def __init__(self, row: int | None, expected: str, found: str):
        super().__init__(row, expected, found)
        self.row, self.expected, self.found = row, expected, found


def is_missing(value: Any) -> bool:
    """None, NaN, and what pandas has for them."""
    return (
        value is None
        or (isinstance(value, float) and value != value)
        or type(value).__name__ in ("NAType", "NaTType")
    )


def is_code(cell: str) -> bool:
    """Whether a whole number has a zero before it, so that it is a code."""
    return bool(_CODE.fullmatch(cell))


def as_numbers(values: np.ndarray, name: str, said: bool, is_label: bool) -> Told:
    """A column of numbers, unless it numbers the rows; NaN is missing."""
    known = values[~np.isnan(values)]
    whole = len(known) > 1 and bool((known == np.floor(known)).all())
    if (
        not said
        and not is_label
        and whole
        and _IDENTIFIER.fullmatch(name)
        and len(np.unique(known)) == len(known)
    ):
        return _left_out(name, len(values))
    note = ""
    if whole and np.abs(known).max(initial=0) > 2**24:
        note = f"{name!r} holds whole numbers above 16,777,216, whose last digits float32 rounds"
    if is_label and not np.isin(known, (0, 1)).all():
        note = f"the label {name!r} holds numbers: a regression; columns={{{name!r}: 'category'}} makes classes of them"
    return Told(Column(name, "number"), values, note=note)


def as_words(cells: Sequence[str | None], name: str, kind: str | None, is_label: bool) -> Told:
    """A column of words, None where missing: what `kind` says, or one of two values, dates, a category, text."""
    known = [cell for cell in cells if cell is not None]
    values = sorted({*known})
    if kind == "text":
        return _text(cells, name)
    if not known and kind is None:
        return Told(Column(name, "number"), np.full(len(cells), np.nan))
    if kind == "category" or is_label and kind is None:
        column = Column(name, "category", tuple(values)) if kind else column_of(name, values)
        note = alike_but_for_case(name, values) if is_label else ""
        return coded(cells, column)._replace(note=note)
    dates = [cell for cell in known if cell.lower() not in MISSING]
    if dates and all(_ISO.fullmatch(cell) for cell in dates):
        return _dates(
            name, _days([None if c is None or c.lower() in MISSING else c for c in cells])
        )
    if kind == "date":
        row = next(i for i, c in enumerate(cells) if c is not None and not _ISO.fullmatch(c))
        raise Refused(row, f"a date such as 2024-12-31 for {name!r}", repr(cells[row]))
    if dates and all(_SOME_DATE.fullmatch(cell) for cell in dates):
        expected = f"dates such as 2024-12-31 in {name!r}, or columns={{{name!r}: 'category'}} or 'left out'"
        raise Refused(
            cells.index(dates[0]), expected, f"{dates[0]!r}, whose day and month are guesswork"
        )
    if len(values) <= 2 and on_of(values):
        return coded(cells, column_of(name, values))
    words = sum(len(cell.split()) for cell in values) / len(values)
    if len(values) == len(known) > 1 and words <= 1 and _IDENTIFIER.fullmatch(name):
        return _left_out(name, len(cells))
    note = ""
    if len(values) == len(known) >= _CODES and max(len(cell.split()) for cell in values) == 1:
        note = f"{name!r} is another word in every row: an identifier, as it seems; drop={name!r} leaves it out"
    if words > 3 or len(values) > _MOST or (len(values) > _SOME and len(values) > len(cells) / 2):
        return _text(cells, name)._replace(note=note)
    return coded(cells, Column(name, "category", tuple(values)))._replace(note=note)


def alike_but_for_case(name: str, labels: Sequence[str]) -> str:
    """A note on labels that are the same words in other letters, such as "Billing" and "billing"; "" without."""
    spelled: dict[str, list[str]] = {}
    for label in labels:
        spelled.setdefault(label.casefold(), []).append(label)
    several = [same for same in spelled.values() if len(same) > 1]
    if not several:
        return ""
    shown = "; ".join(", ".join(map(repr, same)) for same in several[:4])
    beyond = f" and {len(several) - 4:,} more" if len(several) > 4 else ""
    return f"labels of {name!r} that differ in case only are different ones: {shown}{beyond}"


def check_alike(cells: Sequence[str | None], name: str, decimal: str) -> None:
    """`Refused` for text that might have been meant as numbers: most of it is, or all with the other decimal mark."""
    known = [(row, cell) for row, cell in enumerate(cells) if cell and cell.lower() not in MISSING]
    other = "," if decimal == "." else "."
    with_other = [row for row, cell in known if other in cell]
    if with_other and all(_MARKED.fullmatch(cell) or NUMBER.fullmatch(cell) for _, cell in known):
        row = with_other[0]
        if all(_THOUSANDS.fullmatch(cells[row] or "") for row in with_other):
            advice = "a mark of thousands or of decimals: write it without"
        else:
            advice = f"text=Text(decimal={other!r}) reads decimal marks"
        raise Refused(row, f"numbers with {decimal!r} in {name!r}", f"{cells[row]!r}; {advice}")
    odd = [(row, cell) for row, cell in known if not NUMBER.fullmatch(cell.replace(decimal, "."))]
    if odd and 2 * len(odd) <= len(known):
        expected = (
            f"a number for {name!r}, as most of its cells are, or columns={{{name!r}: 'category'}}"
        )
        raise Refused(odd[0][0], expected, repr(odd[0][1]))


def coded(cells: Sequence[str | None], column: Column) -> Told:
    """The places of the values of a column that is known; `Refused` for others."""
    places = {value: float(i) for i, value in enumerate(column.values)}
    found = np.empty(len(cells))
    for i, cell in enumerate(cells):
        if cell is not None and cell not in places:
            said = ", ".join(repr(v) for v in column.values[:8]) + (
                " ..." if len(column.values) > 8 else ""
            )
            raise Refused(i, f"for {column.name!r} one of {said}", repr(cell))
        found[i] = np.nan if cell is None else places[cell]
    return Told(column, found)


def as_dates(values: Sequence[Any], name: str) -> Told:
    """A column of dates, and times, as days since 1970; `Refused` for anything else."""
    days = np.full(len(values), np.nan)
    for i, value in enumerate(values):
        try:
            days[i] = np.nan if is_missing(value) else _day(value)
        except (TypeError, AttributeError, OverflowError):
            raise Refused(i, f"a date in {name!r}", repr(value)) from None
    return _dates(name, days)


def alike(column: Column, cells: Sequence[str | None], decimal: str) -> Told:
    """Words read as the column of other examples was."""
    if column.kind == "left out":
        return Told(column, np.zeros(len(cells)))
    if column.kind == "text":
        return _text(cells, column.name)
    if column.kind == "date":
        return (
            as_words(cells, column.name, "date", False)
            if any(cells)
            else Told(column, np.full(len(cells), np.nan))
        )
    if column.kind == "number":
        return Told(column, said_numbers(cells, column.name, decimal))
    return coded(cells, column)


def plain_numbers(cells: Sequence[str], decimal: str) -> np.ndarray | None:
    """float64 of cells, NaN where they say nothing; None where one is not a number that float32 can hold, or a code."""
    if decimal == "." and (all_of_them := numbers(cells)) is not None:
        return None if _SOME_CODE.search(" ".join(cells)) else all_of_them
    found = np.empty(len(cells))
    for i, cell in enumerate(cells):
        number = cell if decimal == "." else cell.replace(decimal, ".") if "." not in cell else "x"
        if cell.lower() in MISSING:
            found[i] = np.nan
        elif NUMBER.fullmatch(number) and not is_code(number) and abs(float(number)) <= LARGEST:
            found[i] = float(number)
        else:
            return None
    return found


def said_numbers(cells: Sequence[str | None], name: str, decimal: str) -> np.ndarray:
    """float64 of cells that must be numbers, codes among them; `Refused` for others."""
    found = np.full(len(cells), np.nan)
    for i, cell in enumerate(cells):
        if cell is not None and cell.lower() not in MISSING:
            number = cell.replace(decimal, ".") if decimal == "." or "." not in cell else ""
            if not NUMBER.fullmatch(number) or abs(float(number)) > LARGEST:
                raise Refused(i, f"a number for {name!r}", repr(cell))
            found[i] = float(number)
    return found


def word(number: float) -> str | None:
    """A number as a word, None for NaN."""
    return (
        None
        if number != number
        else str(int(number))
        if number == int(number)
        else repr(float(number))
    )


def _dates(name: str, days: np.ndarray) -> Told:
    times = bool((days[~np.isnan(days)] % 1).any())
    note = (
        f"{name!r} has times of day, which days in float32 tell apart by three minutes"
        if times
        else ""
    )
    return Told(Column(name, "date"), days, note=note)


def _left_out(name: str, n: int) -> Told:
    keep = f"columns={{{name!r}: 'number'}} or 'category' keeps it"
    why = f"{name!r} is another one in every row: an identifier, left out; {keep}"
    return Told(Column(name, "left out"), np.zeros(n), note=why)


def _text(cells: Sequence[str | None], name: str) -> Told:
    return Told(Column(name, "text"), np.zeros(len(cells)), [cell or "" for cell in cells])


def _days(cells: Sequence[str | None]) -> np.ndarray:
    found = np.empty(len(cells))
    for i, cell in enumerate(cells):
        try:
            found[i] = np.nan if cell is None else _day(datetime.datetime.fromisoformat(cell))
        except (ValueError, OverflowError):  # the latter of the year 1 east of Greenwich
            raise Refused(i, "a date that there is", repr(cell)) from None
    return found


def _day(value: Any) -> float:
    if not isinstance(value, datetime.datetime):
        return float((value - _EPOCH.date()).days)
    if value.tzinfo is not None:
        value = value.astimezone(datetime.UTC).replace(tzinfo=None)
    return (value - _EPOCH).total_seconds() / 86400

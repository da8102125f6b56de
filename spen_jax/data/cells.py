"""What stands in tables: the cells of text files and Parquet, and of the frames of pandas, polars and Arrow."""

import csv
import decimal
import json
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np

from spen_jax.data import columns as kinds
from spen_jax.data.columns import Refused, is_missing
from spen_jax.data.examples import several
from spen_jax.data.files import DataError
from spen_jax.data.lines import TIMES, decoded, fail, most_unpacked, short
from spen_jax.data.numbers import LARGEST, NUMBER

DELIMITERS = ",;\t|"
_ARROW = "the pyarrow Table"
_ROWS = 2000
"""Records that are turned into columns at once."""


class Text(NamedTuple):
    """How a table is written as text: `read(path, text=Text(decimal=","))`."""

    decimal: str = "."
    """What stands between whole and decimal places, "." or ","."""
    header: bool = True
    """Whether the first row has the columns' names; without it they are "1", "2", ..."""
    encoding: str | None = None
    """Of text that is neither UTF-8, nor UTF-16 with its mark, nor Windows-1252."""


@dataclass
class Table:
    """Columns by name: float64 with NaN of numbers, else lists of strings or of what a frame has."""

    where: str
    names: list[str]
    cells: list[Any]
    n: int
    size: int
    typed: bool
    """Whether the types of the cells were said, by a frame."""
    lines: Any = None
    """Of a file's records the lines."""
    notes: tuple[str, ...] = ()

    def reject(self, refused: Refused) -> NoReturn:
        """`DataError` at a row."""
        row = refused.row
        place = (
            ""
            if row is None
            else f":{self.lines[row]}"
            if self.lines is not None
            else f", row {row}"
        )
        raise DataError(
            f"{self.where}{place}: expected {refused.expected}, got {refused.found}"
        ) from None


# Frames


def frame_of(frame: Any) -> Table:
    """The columns of pandas' and polars' frames, of Arrow's tables, of dicts."""
    what = f"the {type(frame).__module__.split('.')[0]} {type(frame).__name__}"
    if isinstance(frame, Mapping):
        items, what = list(frame.items()), "the dict of columns"
    elif hasattr(frame, "column_names") and hasattr(frame, "to_pydict"):  # Arrow
        items = [(name, frame.column(i).to_pylist()) for i, name in enumerate(frame.column_names)]
    elif hasattr(frame, "get_columns"):  # polars
        items = [(series.name, series.to_list()) for series in frame.get_columns()]
    elif hasattr(frame, "items") and hasattr(frame, "columns"):  # pandas
        items = list(frame.items())
    else:
        raise DataError(
            f"expected a path, a frame of pandas or polars, an Arrow table or a dict of columns, got {what}"
        )
    names = [str(name) for name, _ in items]
    if len({*names}) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise DataError(f"{what}: expected each column name once, got {twice!r} twice")
    cells = []
    for name, values in items:
        try:
            cells.append(_plain(values))
        except Refused as refused:
            row = "" if refused.row is None else f", row {refused.row}"
            said = f"expected {refused.expected} in {str(name)!r}, got {refused.found}"
            raise DataError(f"{what}{row}: {said}") from None
        except TypeError:
            raise DataError(
                f"{what}: expected a column {str(name)!r}, got {type(values).__name__}"
            ) from None
    lengths = {len(values) for values in cells}
    if len(lengths) != 1 or 0 in lengths:
        raise DataError(
            f"{what}: expected columns of one length, at least 1, got {sorted(lengths) or 'no columns'}"
        )
    size = sum(a.nbytes if isinstance(a, np.ndarray) else 8 * len(a) for a in cells)
    return Table(what, names, cells, lengths.pop(), size, typed=True)


def _plain(values: Any) -> Any:
    """float64 of what NumPy holds as real numbers, or Python's own; else a list of objects."""
    categories = str(getattr(values, "dtype", "")) == "category"
    array = None if categories else getattr(values, "to_numpy", None)
    found = array() if array else values if isinstance(values, np.ndarray) else None
    if (
        found is not None
        and found.dtype.kind in "iu"
        and np.abs(found.astype(float)).max(initial=0) >= 2**53
    ):
        return [str(v) for v in found.tolist()]  # numbers that large are names
    if found is not None and found.ndim == 1 and found.dtype.kind in "iuf":
        return _held(found.astype(float))
    if found is not None and found.dtype.kind == "M":
        return found.astype("datetime64[us]").tolist()
    objects = values.tolist() if hasattr(values, "tolist") else list(values)
    if categories:
        return [None if is_missing(v) else str(v) for v in objects]
    numbers = [v for v in objects if not is_missing(v)]
    kinds_of = int | float | np.number | decimal.Decimal
    if numbers and all(isinstance(v, kinds_of) and not isinstance(v, bool) for v in numbers):
        try:
            return _held(np.array([np.nan if is_missing(v) else float(v) for v in objects]))
        except OverflowError:
            raise Refused(None, "numbers that float32 can hold", "one beyond them") from None
    return objects


def _held(numbers: np.ndarray) -> np.ndarray:
    """The numbers; `Refused` for those that float32 cannot hold."""
    for row in np.flatnonzero(np.abs(numbers) > LARGEST)[:1]:
        raise Refused(int(row), "a number that float32 can hold", f"{numbers[row]:g}")
    return numbers


# Files


def table_of(path: Path, how: Text, words: set[str]) -> Table:
    """The columns of CSV and its kin, those named in `words` not as numbers whatever they hold, or of Parquet."""
    with open(path, "rb") as file:
        if file.read(4) == b"PAR1":
            return _parquet(path)
    text, notes = decoded(path, how.encoding)
    text = text.removeprefix("\ufeff")
    if said := re.match(r"sep=([^\n])\r?\n", text):  # of Excel
        text = "\n" + text[said.end() :]
    delimiter = said[1] if said else _delimiter(text)
    names, first = _names(path, text, delimiter, how.header)
    may = [name not in words for name in names]
    numeric, n = _which_are_numbers(path, text, delimiter, may, first, how.decimal)
    if not n:
        fail(
            path, 1 + text.count("\n"), "rows below the names of the columns", "the end of the file"
        )
    cells: list[Any] = [np.empty(n) if number else [] for number in numeric]
    at = np.empty(n, np.int32)
    intern: dict[str, str] = {}
    row = 0
    for lines, block in _blocks(path, text, delimiter, len(names), first):
        rows = slice(row, row + len(lines))
        at[rows], row = lines, rows.stop
        for place, column in enumerate(zip(*block, strict=True)):
            if numeric[place]:
                cells[place][rows] = kinds.plain_numbers(column, how.decimal)
            else:
                cells[place] += [intern.setdefault(cell, cell) for cell in column]
    said = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}.get(
        delimiter, repr(delimiter)
    )
    return Table(
        str(path),
        names,
        cells,
        len(at),
        len(text),
        False,
        at,
        (*notes, f"cells stand between {said}"),
    )


def _parquet(path: Path) -> Table:
    try:
        from pyarrow import parquet
    except ImportError:
        raise ImportError(
            f"{path} is Parquet: pip install 'spen_jax[parquet]' for pyarrow, which reads it"
        ) from None
    try:
        about = parquet.read_metadata(path)
        _check_size(path, about.num_rows * about.num_columns)
        table = parquet.read_table(path)
        said = json.loads((table.schema.metadata or {}).get(b"pandas", b"{}"))
        index = [name for name in said.get("index_columns", ()) if isinstance(name, str)]
        index = [name for name in index if name in table.column_names]
        found = frame_of(table.drop_columns(index))
    except DataError as error:
        raise DataError(str(error).replace(_ARROW, str(path), 1)) from None
    except OSError as error:
        if error.errno is not None and error.filename is not None:  # of the file system
            raise
        raise DataError(f"{path}: expected Parquet, got {_first(error)}") from None
    # Arrow raises what it finds, of damaged text and dates too; ArrowException is among them.
    except Exception as error:
        raise DataError(f"{path}: expected Parquet, got {_first(error)}") from None
    found.where = str(path)
    if index:
        found.notes = (f"the index of the frame that was written is left out ({several(index)})",)
    return found


def _check_size(path: Path, cells: int) -> None:
    """`DataError` for so many cells as no table of the file's size has."""
    most = most_unpacked(path.stat().st_size) // 8
    if not 0 <= cells <= most:
        expected = f"at most {most:,} cells, as of {TIMES} times its bytes"
        raise DataError(
            f"{path}: expected {expected}, got {cells:,}; pass the table of pyarrow.parquet.read_table"
        )


def _first(error: Exception) -> str:
    """The first line of what an error says, or its name."""
    return next(iter(str(error).splitlines()), "") or type(error).__name__


def _records(path: Path, text: str, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """(line, cells, stripped) of all records that are not blank."""
    at = 0

    def lines() -> Iterator[str]:
        nonlocal at
        while at < len(text):
            end = text.find("\n", at)
            end = len(text) if end < 0 else end + 1
            line, at = text[at:end], end
            yield line

    limit = csv.field_size_limit(sys.maxsize)
    try:
        reader = csv.reader(
            lines(), delimiter=delimiter, strict=True, skipinitialspace=delimiter not in "\t "
        )
    except (TypeError, ValueError) as error:  # of what sep= names
        csv.field_size_limit(limit)
        fail(path, 1, f"cells between one of {DELIMITERS!r}", f"{delimiter!r}: {error}")
    try:
        while True:
            line = reader.line_num + 1
            try:
                row = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                fail(path, line, "cells with both their quotes", str(error))
            if delimiter == "\t" and any("\t" in cell and "\n" in cell for cell in row):
                fail(path, line, "cells with both their quotes", repr(short("\t".join(row))))
            if row and (len(row) > 1 or row[0].strip()):
                yield line, [cell.strip() for cell in row]
    finally:
        csv.field_size_limit(limit)


def _delimiter(text: str) -> str:
    """The sign that cuts the first lines into the most cells, as many in each."""
    end = text.find("\n", 2**16)
    sample, best = text if end < 0 else text[:end], (0, 0, ",")
    for place, sign in enumerate(DELIMITERS):
        try:
            counts = [len(row) for _, row in islice(_records(Path(), sample, sign), 100)]
        except DataError:
            continue
        even = len({*counts}) == 1
        if counts and counts[0] > 1:
            best = max(best, (even * counts[0], -place, sign))
    if best[0] == 0:  # no sign does, so that there will be an error: of the likeliest
        first = sample.split("\n", 1)[0]
        return max(DELIMITERS, key=lambda sign: (first.count(sign), -DELIMITERS.index(sign)))
    return best[2]


def _names(path: Path, text: str, delimiter: str, header: bool) -> tuple[list[str], int]:
    """The names of the columns, and the line from which on rows are read."""
    first = next(_records(path, text, delimiter), None)
    if first is None:
        fail(path, 1, "a row of names of columns", "the end of the file")
    line, names = first
    if len(names) == 1 and re.search(r"\S[\s:]+\S", names[0]):
        fail(path, line, "names between commas, semicolons, tabs or bars", repr(short(names[0])))
    if not header:
        return [str(i + 1) for i in range(len(names))], 0
    if any(NUMBER.fullmatch(name) and not name.isdecimal() for name in names) or all(
        map(str.isdecimal, names)
    ):
        fail(
            path,
            line,
            "a row of names of columns",
            f"numbers, {short(str(names))}; text=Text(header=False) reads them as a row",
        )
    if len({*names}) < len(names):
        twice = next(name for i, name in enumerate(names) if name in names[:i])
        fail(path, line, "each column name once", f"{twice!r} twice")
    return names, line


def _blocks(
    path: Path, text: str, delimiter: str, width: int, first: int
) -> Iterator[tuple[list[int], list[Any]]]:
    """Lines and records below a line, some thousand at once."""
    records = ((line, row) for line, row in _records(path, text, delimiter) if line > first)
    while block := [*islice(records, max(1, _ROWS * 50 // max(width, 50)))]:
        for line, row in block:
            if len(row) != width:
                fail(path, line, f"{width} cells", f"{len(row)} in {short(delimiter.join(row))!r}")
        yield [line for line, _ in block], [row for _, row in block]


def _which_are_numbers(
    path: Path, text: str, delimiter: str, may: list[bool], first: int, decimal: str
) -> tuple[list[bool], int]:
    """Which of the columns that may hold nothing but numbers, at least one; and how many rows there are."""
    some, n = [False] * len(may), 0
    for lines, block in _blocks(path, text, delimiter, len(may), first):
        n += len(lines)
        for place, column in enumerate(zip(*block, strict=True)):
            if may[place]:
                found = kinds.plain_numbers(column, decimal)
                may[place] = found is not None
                some[place] |= found is not None and bool((~np.isnan(found)).any())
    return [a and b for a, b in zip(may, some, strict=True)], n

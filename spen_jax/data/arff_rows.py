"""The header's attributes and the rows of ARFF files, cell by cell; `spen_jax.data.arff` reads files with them."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np

from spen_jax.data.examples import Column, Entries, several
from spen_jax.data.files import DataError
from spen_jax.data.lines import fail, short
from spen_jax.data.numbers import LARGEST, NUMBER, numbers

_QUOTED = re.compile(r"""\s*('(?:\\.|[^\\'])*'|"(?:\\.|[^\\"])*")\s*""")
_BARE = {"": re.compile(r"[^,]*"), "}": re.compile(r"[^,}]*")}
_WORD = re.compile(r"""'(?:\\.|[^\\'])*'(?!\S)|"(?:\\.|[^\\"])*"(?!\S)|[^\s,]+(?!\S)""")
_MARKS = re.compile(r"""\\.|['",]""")
_COMMENT = re.compile(r"(?:^|\s)%")
_INDEX = re.compile(r"\s*(\d+)\s+", re.ASCII)
_ENTRY = re.compile(
    r"""\s*(\d+\s+(?:'(?:\\.|[^\\'])*'|"(?:\\.|[^\\"])*"|[^,}'"\s][^,}]*))\s*([,}])""", re.ASCII
)
_BLOCK = 2**17
"""Characters of rows that are taken apart at once."""


class Attribute(NamedTuple):
    """What a header declares."""

    name: str
    kind: str
    """"numeric", "nominal", or one of those that are refused."""
    values: tuple[str, ...]
    line: int


def cells_of(text: str, at: int, end: str) -> tuple[list[str], int]:
    """The stripped cells from a place on, quotes kept, and the place after `end`, 0 where it is missing.

    `end` is a closing brace, or "" for the end of the line or a comment.
    """
    found: list[str] = []
    while True:
        match = _QUOTED.match(text, at)
        if match and (match.end() == len(text) or text[match.end()] in f",%{end}"):
            found.append(match[1])
        else:
            match = _BARE[end].match(text, at)
            assert match
            found.append(match[0].strip())
            if not end and (comment := _COMMENT.search(match[0])):
                found[-1] = match[0][: comment.start()].strip()
                return found, len(text)
        at = match.end()
        if at == len(text) or text[at] != ",":
            closed = text[at : at + 1] == end if end else True
            return found, at + 1 if closed else 0
        at += 1


def comma_outside(line: str) -> bool:
    """Whether a comma stands outside of quotes; where they do not close, anywhere."""
    open_quote = ""
    for match in _MARKS.finditer(line):
        mark = match[0]
        if mark == "," and not open_quote:
            return True
        if mark in ("'", '"') and open_quote in ("", mark):
            open_quote = "" if open_quote else mark
    return bool(open_quote) and "," in line


def bare(cell: str) -> str:
    """A cell without its quotes."""
    if len(cell) > 1 and cell[0] in "'\"" and cell[-1] == cell[0]:
        return re.sub(r"\\(['\"])", r"\1", cell[1:-1])
    return cell


@dataclass(frozen=True)
class Rows:
    """How the rows of one file are read: to numbers, and of nominal attributes to the places of their values."""

    path: Path
    attributes: Sequence[Attribute]
    columns: Sequence[Column]
    binary: np.ndarray
    """Which columns have to be 0 or 1."""
    missing: np.ndarray
    """Which may have missing values."""

    def read(self, lines: Iterator[tuple[int, str]]) -> Entries:
        """All rows, some thousand characters at once."""
        lines = chain([first := next(lines)], lines)
        if not first[1]:
            fail(self.path, first[0], "rows after @data", "the end of the file")
        sparse = first[1][0] == "{"
        n, block, size, parts = 0, [], 0, []
        for number, line in lines:
            if line:
                block.append((number, line))
                size += len(line)
            if block and (size > _BLOCK or not line):
                taken = [self._sparse(*each) if sparse else self._dense(*each) for each in block]
                rows = np.repeat(
                    np.arange(len(block), dtype=np.int32), [len(cells) for _, cells in taken]
                )
                places = np.concatenate([p for p, _ in taken]).astype(np.int32)
                cells = [cell for _, cells in taken for cell in cells]
                values = self._values(
                    np.array([number for number, _ in block])[rows], places, cells
                )
                parts.append((values, rows + np.int32(n), places) if sparse else (values,))
                n, block, size = n + len(block), [], 0
        found = [np.concatenate(each) for each in zip(*parts, strict=True)]
        return Entries(n, *found, absent=self._absent()) if sparse else Entries(n, *found)

    def _absent(self) -> np.ndarray:
        """What a sparse row says of a column by not naming it: 0, and of a nominal one the first value."""
        both = zip(self.attributes, self.columns, strict=True)
        return np.array(
            [float(c.values.index(a.values[0])) if a.values and c.values else 0.0 for a, c in both]
        )

    def _dense(self, number: int, line: str) -> tuple[Any, list[str]]:
        width = len(self.attributes)
        if "'" in line or '"' in line or "%" in line:
            cells, _ = cells_of(line, 0, "")
        else:
            cells = [cell.strip() for cell in line.split(",")]
        if not comma_outside(line):  # Weka takes blanks between them as well
            words = _WORD.findall(line)
            cells = words if len(words) == width else cells
        if len(cells) == width + 1 and not cells[-1]:  # and commas for blanks
            cells = cells[:-1]
        if len(cells) != width:
            weight = len(cells) == width + 1 and cells[-1][:1] == "{"
            what = (
                f"a row with a weight, {cells[-1]}"
                if weight
                else f"{len(cells)} in {short(line)!r}"
            )
            fail(self.path, number, f"{width} values", what)
        return np.arange(width), cells

    def _sparse(self, number: int, line: str) -> tuple[Any, list[str]]:
        places, cells = dict[int, None](), list[str]()
        width = len(self.attributes)
        if line[0] != "{":
            fail(self.path, number, "a row '{index value,...}'", repr(short(line)))
        for entry in self._entries(number, line):
            match = _INDEX.match(entry)
            place = int(match[1]) if match and len(match[1]) < 10 else width
            if not match:
                fail(self.path, number, "'index value'", repr(short(entry)))
            if place >= width:
                fail(self.path, number, f"an index from 0 to {width - 1}", repr(short(entry)))
            if place in places:
                fail(self.path, number, "each index once in a row", repr(short(entry)))
            places[place] = None
            cells.append(entry[match.end() :].strip())
        return np.fromiter(places, np.int64, len(places)), cells

    def _entries(self, number: int, line: str) -> list[str]:
        """The entries between the braces, stripped at neither end."""
        if "'" not in line and '"' not in line and "%" not in line:
            body = line[1:-1].strip()
            if line[-1] == "}" and "}" not in body:
                return body.split(",") if body else []
        found, at = [], len(line) - len(line[1:].lstrip())
        end = line[at : at + 1] == "}"
        while not end and (match := _ENTRY.match(line, at)):
            found.append(match[1])
            at, end = match.end(), match[2] == "}"
        rest = line[at + (not found) :].strip() if end else line
        if end and (not rest or rest[0] == "%"):
            return found
        what = "a row with a weight, " if end and rest[0] == "," else ""
        fail(self.path, number, "a row '{index value,...}'", what + repr(short(line)))

    def _values(self, lines: np.ndarray, places: np.ndarray, cells: list[str]) -> np.ndarray:
        """float32 of every cell; NaN where it is missing."""
        found = numbers(cells) if self.plain else None
        if found is None:
            found, errors = np.empty(len(cells)), list[DataError]()
            at = np.flatnonzero(self._numeric[places])
            plain = numbers([cells[i] for i in at])
            if plain is not None:
                found[at] = plain
            left = (
                np.flatnonzero(~self._numeric[places])
                if plain is not None
                else np.arange(len(cells))
            )
            order = left[np.argsort(places[left], kind="stable")]
            ends = np.flatnonzero(np.diff(places[order])) + 1
            for entries in np.split(order, ends) if len(order) else ():
                try:
                    found[entries] = self._of_column(int(places[entries[0]]), lines, cells, entries)
                except DataError as error:
                    errors.append(error)
            if errors:
                raise min(errors, key=lambda error: error.line or 0)
        wrong = self.binary[places] & ~np.isnan(found) & (found != 0) & (found != 1)
        for bad in np.flatnonzero(wrong)[:1]:
            self._reject(int(lines[bad]), int(places[bad]), cells[bad])
        return found.astype(np.float32)

    @cached_property
    def plain(self) -> bool:
        """Whether what is written is what is meant, in every column."""
        return all(a.kind == "numeric" or a.values == ("0", "1") for a in self.attributes)

    @cached_property
    def _numeric(self) -> np.ndarray:
        return np.array([c.kind == "number" for c in self.columns], bool)

    @cached_property
    def _codes(self) -> list[dict[str, float]]:
        """Of nominal attributes what each of their values becomes."""
        return [{v: float(i) for i, v in enumerate(c.values)} for c in self.columns]

    def _of_column(
        self, place: int, lines: np.ndarray, cells: list[str], entries: np.ndarray
    ) -> Any:
        given = [cells[i] for i in entries]
        attribute, column = self.attributes[place], self.columns[place]
        if column.kind == "left out":
            return 0.0
        if attribute.kind == "numeric" and (found := numbers(given)) is not None:
            return found
        known = self._known[place]
        found = np.empty(len(given))
        for i, cell in enumerate(given):
            if cell not in known:
                known[cell] = self._value(place, int(lines[entries[i]]), cell)
            found[i] = known[cell]
        return found

    @cached_property
    def _known(self) -> list[dict[str, float]]:
        return [{} for _ in self.attributes]

    def _value(self, place: int, line: int, cell: str) -> float:
        """One cell that was not seen in this column before."""
        attribute = self.attributes[place]
        value, codes = bare(cell), self._codes[place]
        if cell == "?" or (cell.lower() == "nan" and cell not in codes):
            if not self.missing[place]:
                fail(
                    self.path,
                    line,
                    f"a value for {attribute.name!r}",
                    f"{cell!r}, which missing='nan' keeps",
                )
            return np.nan
        number = float(value) if NUMBER.fullmatch(value) else None
        if attribute.kind == "numeric" and number is not None and abs(number) <= LARGEST:
            return number
        if value not in codes and number is not None:  # 1.0 for 1
            value = next(
                (v for v in attribute.values if NUMBER.fullmatch(v) and float(v) == number), value
            )
        if value not in codes or (value not in attribute.values and len(attribute.values) < 2):
            self._reject(line, place, cell)
        return codes[value]

    def _reject(self, line: int, place: int, cell: str) -> NoReturn:
        attribute = self.attributes[place]
        if attribute.kind == "nominal":
            expected = f"{several(attribute.values)} for {attribute.name!r}"
        elif self.binary[place]:
            expected = f"0 or 1 for {attribute.name!r}"
        else:
            beyond = " that float32 can hold" if NUMBER.fullmatch(cell) else ""
            expected = f"a number for {attribute.name!r}{beyond}"
        fail(self.path, int(line), expected, repr(short(cell)))

"""The rows of sparse text, many at once; `spen_jax.data.svmlight` reads files with them."""

import codecs
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np

from spen_jax.data.examples import counted
from spen_jax.data.files import DataError
from spen_jax.data.lines import fail, opened, short
from spen_jax.data.numbers import LARGEST, NUMBER, numbers_at

CHUNK = 2**18
"""Bytes that are taken apart at once."""
MOST = 2**31 - 2
_HEADER = re.compile(rb"[ \t]*(\d{1,10})[ \t]+(\d{1,10})[ \t]+(\d{1,10})[ \t\r]*\n?")
_COMMENT_LINE, _COMMENT = re.compile(rb"(?m)^[ \t]*#[^\n]*\n"), re.compile(rb"[ \t]*#[^\n]*")
_QUERY = re.compile(rb"(?<=[ \t])qid:[^\s#]+")
_LABELS = re.compile(rf"{NUMBER.pattern}(?:,{NUMBER.pattern})*", re.ASCII | re.IGNORECASE)
_PAIR = re.compile(rf"(\d+):({NUMBER.pattern})", re.ASCII | re.IGNORECASE)
_KINDS = bytes(
    1 if chr(b) in ":, \t\r\n" else 0 if chr(b) in "0123456789+-.eE" else 2 for b in range(256)
)
"""Of each character whether it stands between numbers (1), in them (0), or nowhere (2)."""
_TENS = np.array([0, *(10**k for k in range(1, 12))])
"""A whole number from _TENS[k - 1] on has k digits."""
_COMMA, _COLON, _NEWLINE = b",:\n"


def header_of(path: Path) -> tuple[int, int, int] | None:
    """Rows, features and labels, where the first line says so."""
    with opened(path) as file:
        match = _HEADER.fullmatch(file.readline(200))
    return (int(match[1]), int(match[2]), int(match[3])) if match else None


def chunks(path: Path, header: Any) -> Iterator[bytes]:
    """Whole lines without comments, many at once; blank lines at the end are left out."""
    with opened(path) as file:
        if header:
            file.readline()
        blank, parts = b"", []
        while data := file.read(CHUNK):
            if file.tell() == len(data):
                data = data.removeprefix(codecs.BOM_UTF8)
            cut = data.rfind(b"\n") + 1
            if not cut:
                parts.append(data)
                continue
            chunk, parts = _plain(b"".join([*parts, data[:cut]])), [data[cut:]]
            body = chunk.rstrip(b"\n\r")
            if body.strip():
                yield blank + body + b"\n"
                blank = b""
                chunk = chunk[len(body) :].split(b"\n", 1)[1]
            blank += chunk
        body = _plain(b"".join(parts) + b"\n").rstrip(b"\n\r")
        if body.strip():
            yield blank + body + b"\n"


def _plain(chunk: bytes) -> bytes:
    """Without comments and queries."""
    if b"#" in chunk:
        chunk = _COMMENT.sub(b"", _COMMENT_LINE.sub(b"", chunk))
    return _QUERY.sub(b"", chunk) if b"qid:" in chunk else chunk


class Census(NamedTuple):
    """What there is to be read, counted before."""

    chunks: int
    rows: int
    pairs: int


def census(path: Path, header: Any) -> Census:
    """How many chunks there are, rows, blank ones at the end included, and pairs; `DataError` for rows that lack."""
    n, rows, pairs = 0, 0, 0
    for chunk in chunks(path, header):
        n, rows, pairs = n + 1, rows + chunk.count(b"\n"), pairs + chunk.count(b":")
    return Census(n, rows_of(path, header, rows), pairs)


def rows_of(path: Path, header: Any, n: int) -> int:
    """How many rows there are, blank ones at the end included where the first line counts them."""
    if not header:
        if not n:
            fail(path, 1, "rows 'labels index:value ...'", "the end of the file")
        return n
    if n < header[0]:
        with opened(path) as file:
            lines = sum(1 for line in file if not line.lstrip().startswith(b"#")) - 1
        if lines < header[0]:
            fail(path, 1, f"{header[0]} rows, as the first line says", str(lines))
    elif n > header[0]:
        fail(path, 1, f"{header[0]} rows, as the first line says", str(n))
    return header[0]


def skipped(path: Path) -> list[str]:
    """What was left out, in words."""
    with opened(path) as file:
        comments, queries = 0, 0
        while data := file.read(CHUNK):
            comments, queries = comments + data.count(b"#"), queries + data.count(b"qid:")
    notes = [f"{counted(comments, 'comment')} skipped"] if comments else []
    return notes + ([f"qid: of {counted(queries, 'row')} skipped"] if queries else [])


class Cells(NamedTuple):
    """What stands in a chunk of whole lines."""

    indices: np.ndarray
    values: np.ndarray
    ends: np.ndarray
    """Of each row, how many pairs stand before its end."""
    labels: np.ndarray
    label_ends: np.ndarray
    ascending: bool
    """Whether indices ascend within every row."""


def cells_of(chunk: bytes) -> Cells | None:
    """The cells of whole lines; None where one is not what it should be."""
    text = np.frombuffer(chunk, np.uint8)
    kinds = chunk.translate(_KINDS)
    if b"\x02" in kinds:
        return None
    edges = np.flatnonzero(np.diff(np.frombuffer(kinds, np.uint8), prepend=np.uint8(1)))
    begins, ends = edges[::2].copy(), edges[1::2].copy()
    before, after = (
        text[begins - 1],
        text[ends],
    )  # before the first stands, as it were, the last newline
    is_index, is_value = after == _COLON, before == _COLON
    colons = np.count_nonzero(text == _COLON)
    # As many as colons, so each colon stands right between an index and a value.
    if (is_index & is_value).any() or not colons == np.count_nonzero(is_index) == np.count_nonzero(
        is_value
    ):
        return None
    label = ~(is_index | is_value)
    pieces = [numbers_at(text, begins[which], ends[which]) for which in (is_index, is_value, label)]
    indices, values, labels = pieces
    if indices is None or values is None or labels is None:
        return None
    if colons and (indices.max() > MOST or indices.min() < 0 or np.abs(values).max() > LARGEST):
        return None
    longer = ends[is_index] - begins[is_index] != np.searchsorted(_TENS, indices, side="right")
    for i in np.flatnonzero(longer):  # leading zeros, or no whole number
        if not text[begins[is_index][i] : ends[is_index][i]].tobytes().isdigit():
            return None
    newlines, pairs = np.flatnonzero(text == _NEWLINE), begins[is_index]
    row_ends = np.searchsorted(pairs, newlines)
    places, heads = begins[label], before[label] != _COMMA
    rows = np.searchsorted(newlines, places)
    first_pair = np.concatenate([[0], row_ends])[rows]
    commas = np.count_nonzero(text == _COMMA)
    if (
        (np.searchsorted(pairs, places) != first_pair).any()  # labels come first
        or not commas == np.count_nonzero(~heads) == np.count_nonzero(after[label] == _COMMA)
        or (np.diff(rows[heads]) == 0).any()  # one list of them a row
    ):
        return None
    falls = np.diff(indices) <= 0
    falls[row_ends[(row_ends > 0) & (row_ends < len(indices))] - 1] = False
    label_ends = np.searchsorted(places, newlines)
    return Cells(indices, values, row_ends, labels, label_ends, not falls.any())


def parts(
    path: Path, header: Any, told: Callable[[int], None] = lambda number: None
) -> Iterator[Cells]:
    """The cells of all chunks, in every row by ascending index; `told` is called with the number of each.

    `DataError` names the first line that is not what it should be, or has an index twice.
    """
    row = 0
    for number, chunk in enumerate(chunks(path, header), 1):
        cells = cells_of(chunk)
        if cells is None:
            explain(path, header)
        yield cells if cells.ascending else _in_order(path, header, cells, row)
        row += len(cells.ends)
        told(number)


def _in_order(path: Path, header: Any, cells: Cells, row: int) -> Cells:
    """The same by ascending index; the first row has that number."""
    rows = np.repeat(np.arange(len(cells.ends)), np.diff(cells.ends, prepend=0))
    order = np.lexsort((cells.indices, rows))
    indices = cells.indices[order]
    for entry in np.flatnonzero((np.diff(indices) == 0) & (np.diff(rows) == 0))[:1]:
        line = line_of(path, header, row + int(rows[entry]))
        fail(path, line, "each index once in a row", str(indices[entry]))
    return cells._replace(indices=indices, values=cells.values[order], ascending=True)


def _rows_in_words(path: Path, header: Any) -> Iterator[tuple[int, str]]:
    """(line number, row without comment and query) of every line that is not only a comment."""
    with opened(path) as file:
        for number, line in enumerate(file, 1):
            if not (header and number == 1) and not line.lstrip(b" \t").startswith(b"#"):
                yield number, _plain(line).decode("latin-1").rstrip("\r\n")


def explain(path: Path, header: Any) -> NoReturn:
    """Raise the error of the first line that is not what it should be."""
    for number, row in _rows_in_words(path, header):
        tokens = [token for token in re.split(r"[ \t\r]+", row) if token]
        labels = tokens.pop(0) if tokens and ":" not in tokens[0] else ""
        if labels and not _LABELS.fullmatch(labels):
            fail(path, number, "labels, numbers between commas", repr(short(labels)))
        for token in tokens:
            match = _PAIR.fullmatch(token)
            if not match:
                fail(path, number, "'index:value'", repr(short(token)))
            if int(match[1][:12]) > MOST:
                fail(path, number, f"an index of at most {MOST}", repr(short(token)))
            if abs(float(match[2])) > LARGEST:
                fail(path, number, "a value that float32 can hold", repr(short(token)))
    raise DataError(f"{path}: expected rows 'labels index:value ...', got other text")


def line_of(path: Path, header: Any, row: int) -> int:
    """The line of a row."""
    return next(number for i, (number, _) in enumerate(_rows_in_words(path, header)) if i == row)

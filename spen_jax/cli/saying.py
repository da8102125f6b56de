"""What the commands say: results on standard output, notes on standard error, errors in one line."""

import contextlib
import json
import math
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any


class Usage(Exception):
    """Options that do not go together or that are not there: exit code 2."""


class Wrong(Exception):
    """Data or a file that is not what it should be: exit code 1."""


@dataclass(frozen=True)
class Voice:
    """How much is said: `quiet` leaves out notes and tables, with `json` the result is one object of JSON."""

    quiet: bool = False
    json: bool = False

    def note(self, *lines: str) -> None:
        """To standard error, unless quiet."""
        if self.quiet:
            return
        with contextlib.suppress(OSError):  # nobody reads them, or the place is full
            print(*map(in_options, lines), sep="\n", file=sys.stderr, flush=True)

    def result(self, value: Mapping[str, Any], lines: Iterable[str]) -> None:
        """The value as JSON, or the lines, to standard output."""
        if self.json:
            print(json.dumps(plain(value), allow_nan=False))
        elif not self.quiet:
            print(*lines, sep="\n")


def one_line(error: Any) -> str:
    """The message of an error, in one line; of a file of the system what it is and which."""
    if isinstance(error, OSError) and error.strerror:
        return f"{'the output' if error.filename is None else error.filename}: {error.strerror}"
    text = " ".join(str(error).split())
    return in_options(text) or type(error).__name__


def in_options(text: str) -> str:
    """Words of the library about its arguments as those about options."""
    text = re.sub(r"columns=\{'([^']*)': '([^']*)'\}", r"--columns '\1=\2'", text)
    text = re.sub(r"text=Text\(decimal='(.)'\)", r"--decimal '\1'", text)
    return re.sub(r"(?<![-\w])(labels|separator|columns|drop)= ?", r"--\1 ", text)


def table(rows: Sequence[Sequence[Any]]) -> list[str]:
    """Lines with the cells of each column under one another; numbers stand to the right."""
    texts = [[_cell(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
    right = [all(isinstance(row[i], int | float) for row in rows[-1:]) for i in range(len(widths))]
    return [
        "  ".join(
            text.rjust(width) if to_right else text.ljust(width)
            for text, width, to_right in zip(row, widths, right, strict=True)
        ).rstrip()
        for row in texts
    ]


def _cell(cell: Any) -> str:
    if isinstance(cell, float):
        return f"{cell:.4f}" if abs(cell) < 1000 else f"{cell:.6g}"
    return f"{cell:,}" if isinstance(cell, int) else str(cell)


def plain(value: Any) -> Any:
    """A value as strict JSON can hold it: numbers that are not finite become null, paths text."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, bool | int | str) or value is None:
        return value
    if hasattr(value, "item"):
        return plain(value.item())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return str(value)

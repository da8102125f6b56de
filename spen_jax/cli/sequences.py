"""Files of a word a line: which column has the words and which the labels, of CoNLL-U and of plain columns."""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from spen_jax import data
from spen_jax.cli.saying import Usage, Wrong
from spen_jax.data.lines import opened, read_lines

_HEAD = 2**16
_CONLLU = re.compile(r"1(?:-\d+)?\t[^\t]+(?:\t[^\t]+){8}")
_PAIR = re.compile(r"\s\d+:[-+.\d]")
"""Of libsvm text."""
_DECLARES = re.compile(r"@(relation|attribute|data)\b", re.IGNORECASE)
"""Of ARFF."""
OF_CONLLU = {"upos": "tags", "xpos": "fine_tags"}


@dataclass(frozen=True)
class Columns:
    """How the sequences of a model are read: CoNLL-U, or so many columns, of which one has the labels."""

    conllu: bool
    count: int
    label: str
    """Of CoNLL-U "upos" or "xpos", else the column's number from 1; words stand in column 1."""

    @classmethod
    def from_json(cls, said: Mapping[str, Any], where: Path) -> "Columns":
        """What `as_json` gave; `Wrong` for anything else."""
        try:
            found = cls(**{name: value for name, value in said.items() if name != "kind"})
            if tuple(map(type, (found.conllu, found.count, found.label))) != (bool, int, str):
                raise TypeError("expected what train writes")
            if found.label not in OF_CONLLU and not 1 < int(found.label) <= found.count:
                raise ValueError(f"there is no column {found.label}")
            return found
        except (TypeError, ValueError) as error:
            raise Wrong(
                f"{where} is damaged: {error}; train anew, or copy the folder anew"
            ) from None

    def as_json(self) -> dict[str, Any]:
        """For `reading.json`."""
        return {"kind": "sequences", **asdict(self)}


def _beginning(path: Path) -> list[str]:
    """The first lines of a text, none that is cut; [] of what is no UTF-8."""
    with opened(path) as file:
        head = file.read(_HEAD)
    try:
        text = head.decode("utf-8-sig", "strict" if len(head) < _HEAD else "ignore")
    except UnicodeDecodeError:
        return []
    lines = text.replace("\r\n", "\n").split("\n")
    return lines if len(head) < _HEAD else lines[:-1]


def is_conllu(path: Path) -> bool:
    """Whether the first line that is no comment is a word of CoNLL-U."""
    said = [line for line in _beginning(path) if line and line[0] != "#"]
    return bool(said) and bool(_CONLLU.fullmatch(said[0]))


def has_sequences(path: Path) -> bool:
    """Whether a file has a word a line, in as many columns throughout, and blank lines between sentences."""
    if is_conllu(path):
        return True
    text = "\n".join(_beginning(path)).strip()
    lines = [line for line in text.split("\n") if not line.startswith("-DOCSTART-")]
    words = [line.split() for line in lines if line.strip()]
    blank = len(words) < len(lines)
    widths = {len(entries) for entries in words}
    pairs = sum(bool(_PAIR.search(line)) for line in lines)
    others = 2 * pairs > len(words) or any(_DECLARES.match(line) for line in lines)
    return blank and len(widths) == 1 and min(widths) > 1 and not others


def columns_of(path: Path, label: str | None) -> Columns:
    """How to read a file to learn from; `Usage` for a label column that it does not have."""
    if is_conllu(path):
        label = label or "upos"
        if label not in OF_CONLLU:
            raise Usage(f"--labels of CoNLL-U is one of {', '.join(OF_CONLLU)}, got {label!r}")
        return Columns(True, 10, label)
    count = _width(path)
    place = _number(label, count)
    return Columns(False, count, str(place))


def _width(path: Path) -> int:
    words = [
        line for line in read_lines(path) if line.strip() and not line.startswith("-DOCSTART-")
    ]
    return len(words[0].split()) if words else 1


def _number(label: str | None, count: int) -> int:
    try:
        place = count if label is None else int(label)
    except ValueError:
        place = 0
    place = place + count + 1 if place < 0 else place
    if not 1 < place <= count:
        raise Usage(
            f"--labels is the number of the column with the labels, from 2 to {max(count, 2)} or -1 for the last, got "
            f"{label or 'a file of one column'}"
        )
    return place


def read_sequences(
    path: Path, columns: Columns, with_labels: bool
) -> tuple[list[list[str]], list[list[str]] | None]:
    """(words, labels) of each sentence; without labels the file may also have words alone, or be CoNLL-U or not.

    `DataError` for what is no such file.
    """
    if columns.conllu if with_labels else is_conllu(path):
        sentences = data.read_conllu(path)
        words = [list(sentence.words) for sentence in sentences]
        if not with_labels:
            return words, None
        return words, [list(getattr(sentence, OF_CONLLU[columns.label])) for sentence in sentences]
    count = columns.count if with_labels else _width(path)
    found = data.read_columns(path, [str(i + 1) for i in range(count)])
    words = [list(sentence["1"]) for sentence in found]
    return words, [list(s[columns.label]) for s in found] if with_labels else None

"""ARFF files as people have them, those of MEKA and Mulan among them.

Dense or sparse rows (`{index value, ...}`, indices from 0); numeric and nominal attributes; names and values with or
without quotes; '?' and NaN for what is missing; comments after %. Dates, strings, relations and weights of rows are
refused by name. Source: the format's description in Weka's manual (Bouckaert et al. 2010).
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from spen_jax.data.arff_rows import Attribute, Rows, bare, cells_of
from spen_jax.data.examples import (
    Column,
    Examples,
    Labels,
    Missing,
    chosen,
    column_of,
    examples_of,
)
from spen_jax.data.files import DataError
from spen_jax.data.lines import decoded, fail, short
from spen_jax.data.mulan import labels_of

_NAME = re.compile(
    r"""@attribute\s+(?: '((?:\\.|[^\\'])*)' | "((?:\\.|[^\\"])*)" | ([^\s'"]\S*)(?=\s) )\s*(.*)""",
    re.ASCII | re.IGNORECASE | re.VERBOSE,
)
_NAME_AND_BRACE = re.compile(
    r"""@attribute\s+(?:(?!)()())?([^\s'"{]+)(\{.*)""", re.ASCII | re.IGNORECASE
)
_KIND = re.compile(
    r"(numeric|real|integer)(?:\s*(?:\[[^\]]*\]|\{[^}]*\}))?\s*(?:%.*)?", re.ASCII | re.IGNORECASE
)
_REFUSED = re.compile(r"(string|date|relational)\b", re.ASCII | re.IGNORECASE)
_MEKA = re.compile(r"[^:]*:\s*(?:[^:]*\s)?-[Cc]\s+(-?[1-9]\d{0,8})(?![\d.])", re.ASCII)


def read_arff(
    path: str | Path,
    labels: Labels = None,
    *,
    drop: str | Sequence[str] = (),
    missing: Missing = "nan",
    encoding: str | None = None,
) -> Examples:
    r"""Read one ARFF file, packed or not; columns are in the file's order.

    A numeric attribute is one feature. A nominal one spelled in any way for no and yes ({0,1}, {TRUE,FALSE}, {y,n}) is
    one feature of 0 and 1; any other is one-hot, with names `attribute=value`. In a sparse row what is not said is 0,
    and of a nominal attribute the value that is declared first. A backslash escapes a quote in a quoted name and is
    itself everywhere else.

    Args:
      path: the file.
      labels: which attributes are labels. Without it: the file's MEKA header says so (`-C 6`: the first six, `-C -6`:
        the last), or KEEL's `@outputs`, or the Mulan .xml of the same name beside it; where none is there, y has no
        columns, and `notes` say so.
      drop: attributes to leave out, by name or pattern; strings and dates have to be.
      missing: of features; "nan" keeps '?' as NaN, "error" refuses it. A missing label is NaN and False in `mask`.
      encoding: where the text is neither UTF-8 nor Windows-1252.

    Raises:
      DataError: names file, line, what was expected and what came.
    """
    path = Path(path)
    text, notes = decoded(path, encoding)
    lines, size = _lines(text), path.stat().st_size
    relation, attributes, outputs = _header(path, lines)
    names = [a.name for a in attributes]
    out = {*_places(path, drop, names)} if drop else set()
    for i, a in enumerate(attributes):
        if a.kind not in ("numeric", "nominal") and i not in out:
            fail(
                path,
                a.line,
                f"the type numeric or nominal for {a.name!r}",
                f"{a.kind}; drop= leaves it out",
            )
    is_label, strict, why = _which_labels(
        path, labels if labels is not None else outputs or None, relation, names
    )
    is_label[list(out)] = False
    columns = [
        Column(a.name, "left out") if i in out else
        Column(a.name, "number") if a.kind == "numeric" else column_of(a.name, a.values)
        for i, a in enumerate(attributes)
    ]  # fmt: skip
    may_lack = is_label | (missing == "nan") | np.array([c.kind == "left out" for c in columns])
    numeric = np.array([a.kind == "numeric" for a in attributes])
    binary = np.array([c.kind == "binary" for c in columns]) | (is_label & strict & numeric)
    rows = Rows(path, attributes, columns, binary, may_lack)
    columns = [c._replace(label=bool(label)) for c, label in zip(columns, is_label, strict=True)]
    entries = rows.read(lines)
    try:
        return examples_of(entries, columns, size, (*notes, *why))
    except DataError as error:
        raise DataError(f"{path}: {error}") from None


def _lines(text: str) -> Iterator[tuple[int, str]]:
    """(number, stripped line) of all that are neither blank nor comments, and last (number, "")."""
    at, number, end = 0, 0, 0
    while end >= 0:
        end = text.find("\n", at)
        line, at, number = text[at : end if end >= 0 else None].strip(), end + 1, number + 1
        if line and line[0] != "%":
            yield number, line
    yield number, ""


# What stands before the rows


def attributes_of(path: Path) -> tuple[list[Attribute], int]:
    """What a file declares, and the line of its first row."""
    lines = _lines(decoded(path)[0])
    return _header(path, lines)[1], next(lines)[0]


def _header(path: Path, lines: Iterator[tuple[int, str]]) -> tuple[str, list[Attribute], list[str]]:
    """The relation's name, the attributes, and which are outputs, as KEEL says; `lines` are left at the first row."""
    relation, declared, outputs = "", dict[str, Attribute](), list[str]()
    for number, line in lines:
        keyword = line.split(None, 1)[0].lower() if line else ""
        if keyword == "@data" and declared:
            return relation, [*declared.values()], outputs
        if keyword == "@relation":
            relation = bare(cells_of(line, 9, "")[0][0])
            continue
        if keyword in ("@input", "@inputs", "@output", "@outputs"):
            said = [bare(cell) for cell in cells_of(line, len(keyword), "")[0]]
            outputs += said if keyword.startswith("@output") else []
            continue
        if not line:
            fail(path, number, "@data after the attributes", "the end of the file")
        attribute = _attribute(path, number, line)
        if attribute.name in declared:
            first = declared[attribute.name].line
            fail(path, number, "a new attribute name", f"{attribute.name!r} of line {first}")
        declared[attribute.name] = attribute
    raise AssertionError("the last line is empty")


def _attribute(path: Path, number: int, line: str) -> Attribute:
    said = ""
    for pattern in (_NAME, _NAME_AND_BRACE):
        if not (match := pattern.fullmatch(line)):
            continue
        single, double, plain, kind = match.groups()
        quoted = double if single is None else single
        name = plain if quoted is None else re.sub(r"\\(['\"])", r"\1", quoted)
        said = said or f"{short(kind)!r} for {name!r}"
        if _KIND.fullmatch(kind):
            return Attribute(name, "numeric", (), number)
        if refused := _REFUSED.match(kind):
            return Attribute(name, refused[1].lower(), (), number)
        if kind.startswith("{"):
            found, after = cells_of(kind, 1, "}")
            rest = kind[after:].strip()
            found = found[:-1] if len(found) > 1 and not found[-1] else found
            values = [bare(v) for v in found]
            if after and (not rest or rest[0] == "%") and values and "" not in found:
                if len({*values}) < len(values):
                    fail(path, number, f"each value of {name!r} once", repr(short(kind)))
                return Attribute(name, "nominal", tuple(values), number)
    if said:
        fail(path, number, "the type numeric or {value,value,...}", said)
    fail(path, number, "'@attribute name type' or @data", repr(short(line)))


def _places(path: Path, which: Any, names: Sequence[str]) -> list[int]:
    try:
        return chosen(which, names)
    except ValueError as error:
        raise DataError(f"{path}: {error}") from None


def _which_labels(
    path: Path, labels: Labels, relation: str, names: Sequence[str]
) -> tuple[np.ndarray, bool, tuple[str, ...]]:
    """Whether each attribute is a label, whether each has to be 0 or 1, and who said so."""
    is_label, notes, strict = np.zeros(len(names), bool), (), False
    meka = _MEKA.match(relation)
    if labels is None:
        beside = _beside(path)
        if meka:
            labels, notes = int(meka[1]), (f"labels by the header's -C {meka[1]}",)
        elif beside:
            labels, notes = beside, (f"labels by {beside.name}, which lies beside",)
        else:
            return (
                is_label,
                False,
                ("nothing says which attributes are labels: y has no columns; labels= does",),
            )
    if isinstance(labels, Path) or (isinstance(labels, str) and labels.lower().endswith(".xml")):
        xml, strict = Path(labels), True
        of_xml, nested = labels_of(xml)
        if nested:
            notes += (
                f"the hierarchy of {xml.name} is flattened: each of its labels stands for itself",
            )
        # Some writers escape more than quotes.
        plain = {re.sub(r"\\(.)", r"\1", name): name for name in names}
        known = {*names}
        wanted = {
            label if label in known else plain.get(label, label): line
            for label, line in of_xml.items()
        }
        for label, line in wanted.items():
            if label not in known:
                fail(
                    xml, line, f"a label that {path.name} declares", f"unknown attribute {label!r}"
                )
        places = [i for i, name in enumerate(names) if name in wanted]
    else:
        places = _places(path, labels, names)
    is_label[places] = True
    return is_label, strict, notes


def _beside(path: Path) -> Path | None:
    """The .xml of a file's name, or of its data set's."""
    stem = path.name.split(".arff")[0] if ".arff" in path.name else path.stem
    for name in (stem, re.sub(r"[-_](train|test)$", "", stem, flags=re.IGNORECASE)):
        found = path.with_name(f"{name}.xml")
        if found.is_file() and "<label" in found.read_bytes().replace(b"\0", b"").decode("latin-1"):
            return found
    return None

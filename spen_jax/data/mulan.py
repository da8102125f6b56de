"""The Mulan files of a multi-label data set: `<name>-train.arff`, `<name>-test.arff`, `<name>.xml`.

`load("bibtex")` is all that most scripts need; `name`, `data_dir` and `progress` are those of
`spen_jax.data.files`. NumPy and the standard library only. Files that are not what they should be
raise `DataError`, which names the file and, wherever a line is at fault, the line.
"""

import re
from itertools import zip_longest
from pathlib import Path
from typing import NoReturn
from xml.parsers import expat

import numpy as np

from spen_jax.data.files import Progress, check_reader, find, print_progress, sha256, verify
from spen_jax.data.lines import fail, read_lines, short
from spen_jax.data.splits import Dataset, Split


def load(
    name: str, data_dir: str | Path | None = None, progress: Progress = print_progress
) -> Dataset:
    """Find or download a data set, check every file's SHA-256, and read both splits.

    Raises what `find` raises, `DataError` for a file that is not the published one, and ValueError
    for a data set that another function reads.
    """
    check_reader("load", name)
    folder = find(name, data_dir, progress)
    verify(name, folder)
    return read_mulan(folder, name)


def read_mulan(folder: str | Path, name: str) -> Dataset:
    """Read `<name>-train.arff`, `<name>-test.arff` and `<name>.xml` of any Mulan data set.

    Raises `DataError` as `read_arff` does, and if the two splits declare different attributes.
    """
    train, test, xml = paths = [
        Path(folder) / f"{name}{end}" for end in ("-train.arff", "-test.arff", ".xml")
    ]
    train_split, features, labels = read_arff(train, xml)
    test_split, test_features, test_labels = read_arff(test, xml)
    for a, b in zip_longest(features + labels, test_features + test_labels):
        if a != b:
            declared, rows = _read_lines(test)
            line = declared[b][1] if b in declared else rows[0][0]
            fail(test, line, f"the attributes of {train.name}", f"{b!r} in place of {a!r}")
    checksums = {path.name: sha256(path) for path in paths}
    return Dataset(name, train_split, test_split, features, labels, checksums, synthetic=False)


def read_arff(
    arff: str | Path, xml: str | Path | None = None
) -> tuple[Split, tuple[str, ...], tuple[str, ...]]:
    r"""Read one ARFF file into (split, feature names, label names), columns in the file's order.

    The Mulan `xml` says which attributes are labels; in what order it does so has no effect.
    Without it all columns are features, and y has none. Rows are sparse (`{index value,...}`,
    indices from 0) or dense; attributes are numeric or {0,1}. A backslash escapes a quote inside a
    quoted name and is itself everywhere else.

    Raises `DataError` for anything else, missing values and unknown labels included.
    """
    arff = Path(arff)
    declared, rows = _read_lines(arff)
    labels = {} if xml is None else _read_labels(Path(xml))
    for label, line in labels.items():
        if label not in declared:
            fail(
                Path(xml or ""),
                line,
                f"a label that {arff.name} declares",
                f"unknown attribute {label!r}",
            )
    is_binary = np.array(
        [kind == "{0,1}" or name in labels for name, (kind, _) in declared.items()]
    )
    values = _read_rows(arff, rows, list(declared), is_binary)
    is_label = np.array([name in labels for name in declared])
    split = Split(values.compress(~is_label, axis=1), values.compress(is_label, axis=1))
    feature_names = tuple(name for name in declared if name not in labels)
    return split, feature_names, tuple(name for name in declared if name in labels)


_ATTRIBUTE = re.compile(
    r"""@attribute\s+(?: '((?:\\.|[^\\'])*)' | "((?:\\.|[^\\"])*)" | ([^\s'"]\S*)(?=\s) )\s*(.*)""",
    re.ASCII | re.IGNORECASE | re.VERBOSE,
)
_NUMBER = r"\s*[-+]?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?\s*"
_DENSE_ENTRY = re.compile(_NUMBER, re.ASCII | re.IGNORECASE)
_SPARSE_ENTRY = re.compile(r"\s*\d+\s" + _NUMBER, re.ASCII | re.IGNORECASE)


def _read_lines(path: Path) -> tuple[dict[str, tuple[str, int]], list[tuple[int, str]]]:
    """Return {attribute name: (type, line)} and the rows as (line, text)."""
    stripped = [(number, line.strip()) for number, line in enumerate(read_lines(path), 1)]
    lines = [(number, line) for number, line in stripped if line and line[0] != "%"]
    declared: dict[str, tuple[str, int]] = {}
    for place, (number, line) in enumerate(lines, 1):
        keyword = line.split(None, 1)[0].lower()
        if keyword == "@data" and declared:
            if place == len(lines):
                fail(path, len(stripped), "rows after @data", "the end of the file")
            return declared, lines[place:]
        if keyword == "@relation":
            continue
        if not (match := _ATTRIBUTE.fullmatch(line)):
            fail(path, number, "'@attribute name type' or @data", repr(short(line)))
        single, double, bare, kind = match.groups()
        quoted = double if single is None else single
        name = bare if quoted is None else re.sub(r"\\(['\"])", r"\1", quoted)
        kind = "".join(kind.lower().split())
        if kind not in ("numeric", "real", "integer", "{0,1}"):
            fail(path, number, f"the type numeric or {{0,1}} for {name!r}", repr(short(kind)))
        if name in declared:
            fail(path, number, "a new attribute name", f"{name!r} of line {declared[name][1]}")
        declared[name] = kind, number
    fail(path, len(stripped), "@data after the attributes", "the end of the file")


def _read_rows(
    path: Path, rows: list[tuple[int, str]], names: list[str], is_binary: np.ndarray
) -> np.ndarray:
    """Return float32 (rows, attributes) with zeros where a sparse row says nothing."""
    width = len(names)
    sparse = rows[0][1][0] == "{"
    entries: list[str] = []
    counts: list[int] = []
    for number, row in rows:
        if sparse:
            if row[0] != "{" or row[-1] != "}":
                fail(path, number, "a row '{index value,...}'", repr(short(row)))
            row = row[1:-1].strip()
        cells = row.split(",") if row else []
        if not sparse and len(cells) != width:
            fail(path, number, f"{width} values", f"{len(cells)} in {short(row)!r}")
        entries += cells
        counts.append(len(cells))
    row_of = np.repeat(np.arange(len(rows)), counts)

    def reject(bad: int, expected: str) -> NoReturn:
        fail(path, rows[row_of[bad]][0], expected, repr(entries[bad].strip()))

    # The pattern goes first, since float() also takes 'nan', 'inf' and '1_000'.
    pattern = _SPARSE_ENTRY if sparse else _DENSE_ENTRY
    for place, entry in enumerate(entries):
        if not pattern.fullmatch(entry):
            reject(place, "'index number'" if sparse else f"a number for {names[place % width]!r}")
    numbers = np.array([float(token) for token in " ".join(entries).split()])
    if sparse:
        columns, numbers = numbers.reshape(-1, 2).T  # (entries, 2)
        for bad in np.flatnonzero(columns >= width)[:1]:
            reject(bad, f"an index from 0 to {width - 1}")
        columns = columns.astype(np.int64)
        first = np.unique(row_of * width + columns, return_index=True)[1]
        if len(first) < len(entries):
            reject(np.setdiff1d(np.arange(len(entries)), first)[0], "each index once in a row")
    else:
        columns = np.tile(np.arange(width), len(rows))
    for bad in np.flatnonzero(np.abs(numbers) > np.finfo(np.float32).max)[:1]:
        reject(bad, "a number that float32 can hold")
    for bad in np.flatnonzero(is_binary[columns] & (numbers != 0) & (numbers != 1))[:1]:
        reject(bad, f"0 or 1 for {names[columns[bad]]!r}")
    values = np.zeros((len(rows), width), np.float32)
    values[row_of, columns] = numbers
    return values


def _read_labels(path: Path) -> dict[str, int]:
    """Return {label name: line}."""
    labels: dict[str, int] = {}
    parser = expat.ParserCreate("utf-8")

    def start(tag: str, given: dict[str, str]) -> None:
        if tag.rpartition(":")[2] != "label":
            return
        line, label = parser.CurrentLineNumber, given.get("name")
        if label is None or label in labels:
            found = "no name" if label is None else f"{label!r} of line {labels[label]}"
            fail(path, line, "a label with a new name", found)
        labels[label] = line

    def doctype(*_: object) -> None:
        fail(path, parser.CurrentLineNumber, "plain elements", "a DOCTYPE, which is refused")

    parser.StartElementHandler = start
    parser.StartDoctypeDeclHandler = doctype
    try:
        parser.Parse(path.read_bytes(), True)
    except expat.ExpatError as error:
        fail(path, error.lineno, "well-formed XML", repr(expat.ErrorString(error.code)))
    if not labels:
        fail(path, parser.CurrentLineNumber, "at least one <label name=...>", "none")
    return labels

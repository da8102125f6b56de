"""Multi-label data sets: the Mulan files and their checked download.

`load("bibtex")` is all that most scripts need. NumPy and the standard library only. What several
functions share:

`name`
    One of `SOURCES`: bibtex, delicious, scene, yeast. A folder of that name holds
    `<name>-train.arff`, `<name>-test.arff` and `<name>.xml`.
`data_dir`
    The folder that holds the folder `<name>`. Without it: the environment's `SPEN_JAX_DATA`; else
    the cache, which is `SPEN_JAX_CACHE`, or `$XDG_CACHE_HOME/spen_jax`, or `~/.cache/spen_jax`,
    and which a download fills. A folder that was named is final: nothing else stands in for it.
`progress`
    Called with (file name, bytes done, bytes in all or None) as a download proceeds; the two
    numbers are equal at its end.

Files that are not what they should be raise `DataError`, which names the file and, wherever a
line is at fault, the line.
"""

import hashlib
import http.client
import os
import re
import secrets
import sys
import urllib.request
from collections.abc import Callable, Mapping
from itertools import zip_longest
from pathlib import Path
from typing import NamedTuple, NoReturn
from xml.parsers import expat

import numpy as np

Progress = Callable[[str, int, int | None], None]


class Split(NamedTuple):
    """N examples: features `x` float32 (N, D) and labels `y` float32 (N, L), each 0 or 1."""

    x: np.ndarray
    y: np.ndarray


class Dataset(NamedTuple):
    """A training and a test split with the same columns, and where they came from.

    `checksums` maps file names to SHA-256 in hex; for synthetic data it maps "train" and "test"
    to the SHA-256 of the bytes of x followed by those of y.
    """

    name: str
    train: Split
    test: Split
    feature_names: tuple[str, ...]
    label_names: tuple[str, ...]
    checksums: dict[str, str]
    synthetic: bool


class Source(NamedTuple):
    """Where a data set is published: SHA-256 by file name, and base addresses, best first."""

    files: dict[str, str]
    addresses: tuple[str, ...]


class DataError(ValueError):
    """A data file that is damaged or malformed; the message is one sentence that says where."""


class DownloadError(OSError):
    """No address delivered a file; the message says why, and what to do without a network."""


_MULAN = (
    "https://raw.githubusercontent.com/tsoumakas/mulan/"
    "43f6389095ad71984264db4387a8074b22bc7d4a/data/multi-label/"
)
_RETRY = "delete the file and load again to download it, or copy it anew"


def _source(name: str, train: str, test: str, xml: str, *mirrors: str) -> Source:
    files = {f"{name}-train.arff": train, f"{name}-test.arff": test, f"{name}.xml": xml}
    return Source(files, (f"{_MULAN}{name}/", *mirrors))


SOURCES: Mapping[str, Source] = {
    "bibtex": _source(
        "bibtex",
        "8dcc9de6e0b2cebaec8c1f4fac78431adeeb73cfd3ab879b530a66d366e59174",
        "9b03329cde64d3f994bdf7fbbac3f3b10fe185c311cb9ae725475f59c7f3f922",
        "08fe20013c1e75dcf1888c185f5187c95e76495b8518ce289b4d3afce38d1232",
        "https://raw.githubusercontent.com/gyglim/dvn/"
        "5fbfd2bf6a13701a3cb70f29b8dc4f7817780988/mlc_datasets/bibtex/",
        "https://raw.githubusercontent.com/philqc/deep-value-networks-pytorch/"
        "15ec69dca1becc80b4f61fa8d59730b19d63c87f/data/bibtex/",
    ),
    "delicious": _source(
        "delicious",
        "030186cdb542ebdd32052fcdbb1ebe30115b3a22518c1b4b198c45eb827aebe1",
        "2dfb01723a819914b0ca83361177ed413ce3f2169851d9f228d4692915d63944",
        "4e0c0f93c7d86a39b9fca4aaefaa00e9428f2c80277732dfbf03ca48e2c14da2",
    ),
    "scene": _source(
        "scene",
        "b53ba93bdf412de922e3960389bcee24744fa3e872ce610511fc1d750888b64d",
        "ea38d20296b3ff7e220f477a3b802a9bcb2d768881fe6ee163efbc97ea527a42",
        "55d8b247b949ad5c52e5a73d8c6775ec6e5469ce9682465b45b333b68ee4bcc5",
    ),
    "yeast": _source(
        "yeast",
        "e759dc991ff54694a4ff9c4314f3be0d6fd2b1994a4b563f57e416394c6aebbd",
        "4aaac102bff9669a765bf0b378602e5cc8c3b181048282e2f003117b496d552a",
        "c3056cc26444b5158b1588d1b73bec9c45429e10f0957ad085903423cb81f247",
    ),
}


def print_progress(file: str, done: int, total: int | None) -> None:
    """Show one line on standard error for each file that is being downloaded."""
    of_all = "" if total is None else f" of {total / 1e6:.1f}"
    end = "\n" if done == total else ""
    print(f"\r{file}: {done / 1e6:.1f}{of_all} MB", end=end, file=sys.stderr, flush=True)


def load(
    name: str, data_dir: str | Path | None = None, progress: Progress = print_progress
) -> Dataset:
    """Find or download a data set, check every file's SHA-256, and read both splits.

    Raises what `find` raises, and `DataError` for a file that is not the published one.
    """
    folder = find(name, data_dir, progress)
    for file, expected in SOURCES[name].files.items():
        if (found := _sha256(folder / file)) != expected:
            raise DataError(f"{folder / file}: expected SHA-256 {expected}, got {found}; {_RETRY}")
    return read_mulan(folder, name)


def find(
    name: str, data_dir: str | Path | None = None, progress: Progress = print_progress
) -> Path:
    """Return the folder that holds the files of a data set, downloading them if no one named one.

    Raises ValueError for an unknown name, FileNotFoundError if a named folder lacks a file, and
    `DownloadError`.
    """
    if name not in SOURCES:
        raise ValueError(f"expected a data set among {', '.join(SOURCES)}, got {name!r}")
    named_by = "SPEN_JAX_DATA" if data_dir is None else "the argument data_dir"
    root = (os.environ.get("SPEN_JAX_DATA") or None) if data_dir is None else data_dir
    folder = (_cache() if root is None else Path(root).expanduser()) / name
    missing = [file for file in SOURCES[name].files if not (folder / file).is_file()]
    if missing and root is not None:
        raise FileNotFoundError(
            f"{', '.join(missing)} missing from {folder}, which {named_by} points to; put the"
            f" files there, name the folder that holds {name}/, or name none to download them"
        )
    for file in missing:
        _download(SOURCES[name], file, folder, progress)
    return folder


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
            _fail(test, line, f"the attributes of {train.name}", f"{b!r} in place of {a!r}")
    checksums = {path.name: _sha256(path) for path in paths}
    return Dataset(name, train_split, test_split, features, labels, checksums, synthetic=False)


def read_arff(
    arff: str | Path, xml: str | Path | None = None
) -> tuple[Split, tuple[str, ...], tuple[str, ...]]:
    r"""Read one ARFF file into (split, feature names, label names), columns in the file's order.

    The Mulan `xml` says which attributes are labels; in what order it does so has no effect.
    Without it all columns are features, and y has none. Rows
    are sparse (`{index value,...}`, indices from 0) or dense; attributes are numeric or {0,1}.
    A backslash escapes a quote inside a quoted name and is itself everywhere else.

    Raises `DataError` for anything else, missing values and unknown labels included.
    """
    arff = Path(arff)
    declared, rows = _read_lines(arff)
    labels = {} if xml is None else _read_labels(Path(xml))
    for label, line in labels.items():
        if label not in declared:
            _fail(
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
    try:
        text = path.read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        _fail(path, line, "UTF-8 text", f"the byte {error.object[error.start]:#04x}")
    # Not splitlines(), which also breaks lines at characters that editors do not count.
    stripped = [(number, line.strip()) for number, line in enumerate(text.split("\n"), 1)]
    lines = [(number, line) for number, line in stripped if line and line[0] != "%"]
    declared: dict[str, tuple[str, int]] = {}
    for place, (number, line) in enumerate(lines, 1):
        keyword = line.split(None, 1)[0].lower()
        if keyword == "@data" and declared:
            if place == len(lines):
                _fail(path, len(stripped), "rows after @data", "the end of the file")
            return declared, lines[place:]
        if keyword == "@relation":
            continue
        if not (match := _ATTRIBUTE.fullmatch(line)):
            _fail(path, number, "'@attribute name type' or @data", repr(_short(line)))
        single, double, bare, kind = match.groups()
        quoted = double if single is None else single
        name = bare if quoted is None else re.sub(r"\\(['\"])", r"\1", quoted)
        kind = "".join(kind.lower().split())
        if kind not in ("numeric", "real", "integer", "{0,1}"):
            _fail(path, number, f"the type numeric or {{0,1}} for {name!r}", repr(_short(kind)))
        if name in declared:
            _fail(path, number, "a new attribute name", f"{name!r} of line {declared[name][1]}")
        declared[name] = kind, number
    _fail(path, len(stripped), "@data after the attributes", "the end of the file")


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
                _fail(path, number, "a row '{index value,...}'", repr(_short(row)))
            row = row[1:-1].strip()
        cells = row.split(",") if row else []
        if not sparse and len(cells) != width:
            _fail(path, number, f"{width} values", f"{len(cells)} in {_short(row)!r}")
        entries += cells
        counts.append(len(cells))
    row_of = np.repeat(np.arange(len(rows)), counts)

    def reject(bad: int, expected: str) -> NoReturn:
        _fail(path, rows[row_of[bad]][0], expected, repr(entries[bad].strip()))

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
            _fail(path, line, "a label with a new name", found)
        labels[label] = line

    def doctype(*_: object) -> None:
        _fail(path, parser.CurrentLineNumber, "plain elements", "a DOCTYPE, which is refused")

    parser.StartElementHandler = start
    parser.StartDoctypeDeclHandler = doctype
    try:
        parser.Parse(path.read_bytes(), True)
    except expat.ExpatError as error:
        _fail(path, error.lineno, "well-formed XML", repr(expat.ErrorString(error.code)))
    if not labels:
        _fail(path, parser.CurrentLineNumber, "at least one <label name=...>", "none")
    return labels


def _fail(path: Path, line: int, expected: str, found: str) -> NoReturn:
    raise DataError(f"{path}:{line}: expected {expected}, got {found}")


def _short(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:40]}...{text[-15:]}"


def _cache() -> Path:
    if named := os.environ.get("SPEN_JAX_CACHE"):
        return Path(named).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "spen_jax"


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _download(source: Source, file: str, folder: Path, progress: Progress) -> None:
    failures: list[str] = []
    for address in source.addresses:
        try:
            return _fetch(address + file, folder / file, source.files[file], progress)
        except (OSError, http.client.HTTPException) as error:
            failures.append(f"{address + file}: {str(error) or type(error).__name__}")
    raise DownloadError(
        f"no address delivered {file} ({'; '.join(failures)}); without a network, put"
        f" {', '.join(source.files)} into {folder}, or name the folder that holds {folder.name}/"
        " with data_dir, --data-dir or SPEN_JAX_DATA"
    )


def _fetch(address: str, path: Path, expected: str, progress: Progress) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    digest, done = hashlib.sha256(), 0
    try:
        with urllib.request.urlopen(address, timeout=30) as response, open(part, "wb") as file:
            total = response.length  # None where the server does not say
            while chunk := response.read(1 << 16):
                file.write(chunk)
                digest.update(chunk)
                done += len(chunk)
                progress(path.name, done, total)
        if total is not None and done != total:
            raise OSError(f"the connection closed after {done} of {total} bytes")
        if digest.hexdigest() != expected:
            raise OSError(f"expected SHA-256 {expected}, got {digest.hexdigest()}")
        os.replace(part, path)
        if total is None:
            progress(path.name, done, done)
    finally:
        part.unlink(missing_ok=True)


def split(n: int, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return sorted (training rows, validation rows): a seeded random partition of range(n).

    `fraction`, between 0 and 1, is the share of validation rows; ValueError if either part would
    be empty.
    """
    held_out = round(n * fraction)
    if not 0 < held_out < n:
        raise ValueError(f"expected rows in both parts, got {held_out} of {n} for validation")
    rows = np.random.default_rng(seed).permutation(n)
    return np.sort(rows[held_out:]), np.sort(rows[:held_out])

"""One way in: the format of a file by its content."""

import re
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

from spen_jax.data.arff import read_arff
from spen_jax.data.cells import Text
from spen_jax.data.examples import Examples, Labels, Missing
from spen_jax.data.files import DataError
from spen_jax.data.lines import MARKS, OTHERS, opened
from spen_jax.data.numbers import NUMBER
from spen_jax.data.svmlight import read_svmlight
from spen_jax.data.tables import read_table

_HEAD = 2**16
_DECLARES = re.compile(r"@(relation|attribute|data)\b", re.IGNORECASE)
_LABELS = rf"{NUMBER.pattern}(?:,{NUMBER.pattern})*"
_SVM = re.compile(rf"(?:{_LABELS}\s+)?(?:qid:\S+\s+)?\d+:[-+.\d]", re.ASCII | re.IGNORECASE)
_ONLY_LABELS = re.compile(rf"{_LABELS}(?:\s+#.*)?", re.ASCII | re.IGNORECASE)


def read(
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
    """Read a file or a frame of examples, whatever its format; what it is called does not matter.

    ARFF, MEKA's and Mulan's among them (`read_arff`); libsvm and extreme-classification text (`read_svmlight`); CSV,
    TSV and Parquet, and frames of pandas, polars and Arrow (`read_table`). Files may be packed by gzip, bzip2 or xz.
    What only one format has is an argument of its own function.

    Args:
      source: the path of a file, or a frame.
      labels: which columns are labels, where the format does not say so: names, patterns ("tag_*"), the first n or with
        -n the last n, the path of a Mulan .xml; () for none.
      separator: between the labels in the cells of one label column of a table.
      columns: kinds of a table's columns by name, where their values do not say what they are, see `read_table`.
      drop: columns to leave out, by name or pattern.
      like: examples that these are to be read as, such as those of training: the same features and labels.
      missing: of features: "nan", or "error", which names the place. A missing label is NaN in y and False in `mask`.
      text: how a table is written, where that is not as most are: `Text(decimal=",")`, `Text(header=False)`; its
        encoding is that of ARFF files too.

    Raises:
      DataError: names file, line, what was expected and what came.
      ValueError: for arguments that its format does not take.
      OSError: for a file that cannot be read.
    """
    if missing not in ("nan", "error"):
        raise ValueError(f"missing must be 'nan' or 'error', got {missing!r}")
    kind = format_of(Path(source), text) if isinstance(source, str | Path) else "table"
    of_tables = {"separator": separator, "columns": columns}
    if kind != "table" and (
        given := [name for name, value in of_tables.items() if value is not None]
    ):
        raise ValueError(f"{given[0]}= is for tables, but {source} is {kind}")
    if kind == "arff":
        if labels is None and like is not None:
            labels = [c.name for c in like.columns if c.label]
        found = read_arff(source, labels, drop=drop, missing=missing, encoding=text.encoding)
        return found if like is None else _checked(found, like, source)
    if kind == "libsvm":
        if labels is not None or drop:
            raise ValueError(
                f"{source} is libsvm text, whose rows begin with their labels: labels= and drop= say nothing there"
            )
        return read_svmlight(source, like=like)
    return read_table(
        source,
        labels,
        separator=separator,
        columns=columns,
        drop=drop,
        like=like,
        missing=missing,
        text=text,
    )


def _checked(found: Examples, like: Examples, source: Any) -> Examples:
    """What was found, if its columns are the others'."""
    for here, there in zip_longest(found.columns, like.columns):
        if here != there:
            what = "none" if here is None else repr(here.name)
            raise DataError(
                f"{source}: expected the attributes of the others, got {what} for {there and there.name!r}"
            )
    return found


def format_of(path: Path, text: Text = Text()) -> str:
    """Whether a file is "arff", "libsvm" or a "table", by its beginning; `DataError` for what is none of them."""
    with opened(path) as file:
        head = file.read(_HEAD)
    for mark, what in OTHERS.items():
        if head.startswith(mark):
            raise DataError(f"{path}: expected ARFF, libsvm text, CSV or Parquet, got {what}")
    if head.startswith(b"PAR1"):
        return "table"
    coding = next((c for mark, c in MARKS.items() if head.startswith(mark)), "latin-1")
    try:
        content = head.decode(text.encoding or coding, "replace")
    except (ValueError, LookupError, ArithmeticError) as error:
        raise DataError(f"{path}: expected text in {text.encoding}, got {error}") from None
    lines = [line.strip() for line in content.split("\n")]
    if len(head) == _HEAD and len(lines) > 1:
        lines = lines[:-1]  # it may be cut
    said = [line for line in lines if line and line[0] not in "%#"]
    if not any(lines):
        raise DataError(f"{path}:1: expected ARFF, libsvm text or a table, got the end of the file")
    if any(_DECLARES.match(line) for line in said):
        return "arff"
    if said and said[0][0] in "[{":
        raise DataError(
            f"{path}: expected examples, got JSON: give a dict of columns, or a frame made of it"
        )
    if said and said[0][0] == "<":
        raise DataError(
            f"{path}: expected examples, got XML: give it as labels=, beside its ARFF file"
        )
    if said and re.fullmatch(r"1\t[^\t]+\t[^\t]+\t(?:[A-Z]+|_)(?:\t[^\t]+){6}", said[0]):
        raise DataError(f"{path}: expected examples, got CoNLL-U: read_conllu reads it")
    rows = [line for line in said if not _ONLY_LABELS.fullmatch(line)]
    if rows and re.fullmatch(r"\d+[ \t]+\d+[ \t]+\d+", rows[0], re.ASCII):
        rows = rows[1:]
    of_svm = sum(bool(_SVM.match(line)) for line in rows)
    if of_svm and 2 * of_svm >= len(rows):  # one that is not is an error of that line
        return "libsvm"
    if not said:
        raise DataError(
            f"{path}: expected ARFF, libsvm text or a table, got comments and blank lines"
        )
    return "table"

"""Tables of rows: which columns are what, kept so that the next file is read like the one that was learned from."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from spen_jax import data
from spen_jax.cli.saying import Wrong
from spen_jax.data.cells import Text
from spen_jax.data.columns import KINDS
from spen_jax.data.examples import Column, Examples, Numbered, several
from spen_jax.data.reading import format_of

Task = Literal["labels", "classes", "numbers", "sequences"]
READ_KINDS = *KINDS, "binary", "tags"
MOST_WORDS = 20_000
"""Of each column of text."""


class Named:
    """Labels (N, L) of 0, 1 and NaN with their names, as the estimators take a frame."""

    def __init__(self, values: np.ndarray, names: Sequence[str]):
        self.values, self.columns, self.shape = values, list(names), values.shape

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, which: Any) -> Any:
        """A column by its name, or rows."""
        if isinstance(which, str):
            return self.values[:, self.columns.index(which)]
        return Named(self.values[which], self.columns)

    def to_numpy(self) -> np.ndarray:
        """The numbers alone."""
        return self.values


@dataclass(frozen=True)
class Words:
    """The words of a column of text and their inverse document frequencies."""

    words: list[str]
    idf: list[float]


@dataclass(frozen=True)
class Reading:
    """How the rows of a model are read: what its columns became, what fills their gaps, and what is predicted."""

    task: Task
    labels: list[str]
    """The names of labels, classes or numbers."""
    features: list[str] | dict[str, int]
    """Names, or the first number and how many where a file has numbers only."""
    columns: list[list[Any]]
    """Of a table name, kind, values and whether it is a label, as `data.Column`."""
    separator: str | None = None
    decimal: str = "."
    fills: list[float] | None = None
    """Of each feature what stands for a missing one: its mean; None where none was missing in sparse rows."""
    words: dict[str, Words] = field(default_factory=dict)

    @classmethod
    def of(cls, examples: Examples, task: Task, how: "How") -> "Reading":
        """That of a file for training."""
        names = examples.feature_names
        numbered = isinstance(names, Numbered)
        features: Any = (
            {"first": int(names[0]) if len(names) else 1, "count": len(names)}
            if numbered
            else list(names)
        )
        return cls(
            task,
            names_of(examples, task),
            features,
            [[c.name, c.kind, list(c.values), c.label] for c in examples.columns],
            how.separator,
            how.decimal,
            _fills(examples.x),
            {name: _words(texts) for name, texts in examples.text.items() if any(texts)},
        )

    @classmethod
    def from_json(cls, said: Mapping[str, Any], where: Path) -> "Reading":
        """What `as_json` gave; `Wrong` for anything else."""
        try:
            given = {name: value for name, value in said.items() if name != "kind"}
            words = {name: Words(**w) for name, w in given.pop("words").items()}
            found = cls(**given, words=words)
            found._check()
            return found
        except (TypeError, AttributeError, KeyError, ValueError) as error:
            raise Wrong(
                f"{where} is damaged: {error}; train anew, or copy the folder anew"
            ) from None

    def _check(self) -> None:
        """TypeError or ValueError unless all is what `as_json` gives."""
        names, features = self.labels, self.features
        numbered = isinstance(features, dict) and {*map(type, features.values())} == {int}
        width = features["count"] if isinstance(features, dict) else len(features)
        lengths = [(len(w.words), len(w.idf)) for w in self.words.values()]
        right = {
            "task": self.task in get_args(Task),
            "labels": _are(names, str),
            "features": numbered or _are(features, str),
            "columns": all(
                (type(name), type(label)) == (str, bool)
                and kind in READ_KINDS
                and _are(values, str)
                for name, kind, values, label in self.columns
            ),
            "separator": isinstance(self.separator, str | None),
            "decimal": self.decimal in (".", ","),
            "fills": self.fills is None or _are(self.fills, float) and len(self.fills) == width,
            "words": all(a == b for a, b in lengths)
            and all(_are(w.words, str) and _are(w.idf, float) for w in self.words.values()),
        }
        if wrong := [name for name, holds in right.items() if not holds]:
            raise ValueError(f"{wrong[0]!r} is not what train writes")

    def as_json(self) -> dict[str, Any]:
        """For `reading.json`."""
        return {"kind": "rows", **asdict(self)}

    def like(self, with_labels: bool) -> Examples:
        """Examples without rows that others are read as; without labels their columns are left alone."""
        columns = [Column(n, kind, tuple(values), label) for n, kind, values, label in self.columns]
        if not with_labels:
            columns = [Column(c.name, "left out") if c.label else c for c in columns]
        features = self.features
        if isinstance(features, dict):
            features = Numbered(features["count"], features["first"])
        none: Any = np.zeros((0, len(features)), np.float32)
        return Examples(none, none, None, features, self.labels, tuple(columns))

    @property
    def label_columns(self) -> list[str]:
        """The names of the columns that were labels."""
        return [column[0] for column in self.columns if column[3]]

    def x(self, examples: Examples) -> Any:
        """Features (N, D), without gaps, and the words of text columns behind them."""
        parts = [_filled(examples.x, self.fills)] if examples.x.shape[1] else []
        for name, words in self.words.items():
            parts.append(_vectors(words).transform(examples.text.get(name, [])))
        if not parts:
            raise Wrong("no column is left to learn from: numbers, categories, dates or text")
        if len(parts) == 1:
            return parts[0]
        from scipy import sparse

        return sparse.hstack([sparse.csr_array(part) for part in parts], format="csr")

    def y(self, examples: Examples) -> Any:
        """What is learned: labels as `Named`, classes (N,) as texts with None where missing, numbers (N,) or (N, L)."""
        y = examples.y if isinstance(examples.y, np.ndarray) else examples.y.toarray()
        if self.task == "labels":
            return Named(y, self.labels)
        if self.task == "numbers":
            return y[:, 0] if y.shape[1] == 1 else y
        known = [not np.isnan(row).any() for row in y]
        at = np.nan_to_num(y)
        code = at[:, 0].astype(int) if y.shape[1] == 1 else at.argmax(axis=1)
        return np.array(
            [self.labels[c] if k else None for c, k in zip(code, known, strict=True)], object
        )


def _are(values: Any, kind: type) -> bool:
    return isinstance(values, list) and all(isinstance(value, kind) for value in values)


def _fills(x: Any) -> list[float] | None:
    if isinstance(x, np.ndarray):
        known = ~np.isnan(x)
        sums = np.sum(np.where(known, x, 0), axis=0, dtype=np.float64)
        return (sums / np.maximum(known.sum(axis=0), 1)).tolist()
    if not np.isnan(x.data).any():
        return None
    known = np.isnan(x.data)
    gone = np.bincount(x.indices[known], minlength=x.shape[1])
    sums = np.bincount(x.indices, np.nan_to_num(x.data), minlength=x.shape[1])
    return (sums / np.maximum(x.shape[0] - gone, 1)).tolist()


def _filled(x: Any, fills: list[float] | None) -> Any:
    if isinstance(x, np.ndarray):
        return np.where(np.isnan(x), np.zeros(x.shape[1]) if fills is None else fills, x)
    gone = np.isnan(x.data)
    if gone.any():
        x = x.copy()
        x.data[gone] = 0 if fills is None else np.asarray(fills)[x.indices[gone]]
    return x


def _words(texts: list[str]) -> Words:
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectors = TfidfVectorizer(max_features=MOST_WORDS, token_pattern=r"(?u)\b\w+\b")
    try:
        vectors.fit(texts)
    except ValueError:  # not a single word
        return Words([], [])
    return Words(vectors.get_feature_names_out().tolist(), vectors.idf_.tolist())


def _vectors(words: Words) -> Any:
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectors = TfidfVectorizer(vocabulary=words.words or ["-"], token_pattern=r"(?u)\b\w+\b")
    vectors.idf_ = np.asarray(words.idf or [1.0])
    return vectors


# What a file's labels are


@dataclass(frozen=True)
class How:
    """What is said of a file to learn from: arguments of `data.read`."""

    labels: Any = None
    separator: str | None = None
    columns: dict[str, str] = field(default_factory=dict)
    drop: Sequence[str] = ()
    decimal: str = "."

    def read(self, path: Path, kind: str) -> Examples:
        """The examples of a file of that kind."""
        if kind == "libsvm":
            return data.read(path)
        if kind == "arff":
            return data.read(path, self.labels, drop=self.drop)
        return data.read(
            path,
            self.labels,
            separator=self.separator,
            columns=self.columns,
            drop=self.drop,
            text=Text(decimal=self.decimal),
        )


def names_of(examples: Examples, task: Task) -> list[str]:
    """What labels, classes or numbers are called."""
    labels = [c for c in examples.columns if c.label]
    if task == "classes" and len(labels) == 1:
        return list(labels[0].values) or ["0", "1"]
    return list(examples.label_names)


# Reading another file


def read_like(path: Path, reading: Reading, with_labels: bool) -> Examples:
    """A file as that of training was read; `Wrong` where it lacks the labels that it is to be compared with."""
    of_table = format_of(path) == "table"
    if bool(reading.columns) != (format_of(path) != "libsvm"):
        raise Wrong(
            f"{path} is {'a table' if of_table else format_of(path)}, but the model was trained on rows "
            f"{'with' if reading.columns else 'without'} names of columns"
        )
    like = reading.like(with_labels or not of_table)
    if of_table:
        separator = reading.separator if with_labels else None
        text = Text(decimal=reading.decimal)
        examples = data.read(path, like=like, separator=separator, text=text)
    else:
        examples = data.read(path, like=like)
    if with_labels and examples.y.shape[1] != len(reading.labels) and reading.task != "classes":
        raise Wrong(_lacks(path, reading))
    if with_labels and not examples.y.shape[1]:
        raise Wrong(_lacks(path, reading))
    return examples


def _lacks(path: Path, reading: Reading) -> str:
    return f"{path} lacks labels to compare with, in {several(reading.label_columns)}: predict needs none"

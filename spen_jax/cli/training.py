"""`spen-jax train`."""

import contextlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, cast

import numpy as np
from tyro.conf import Positional

from spen_jax import data, parallel
from spen_jax.cli import folders, hosts
from spen_jax.cli.nominal import one_of_each
from spen_jax.cli.options import Flag, option
from spen_jax.cli.rows import How, Reading, Task
from spen_jax.cli.saying import Usage, Voice, Wrong, table
from spen_jax.cli.scores import FIRST, rows_of, scores
from spen_jax.cli.sequences import Columns, columns_of, has_sequences, read_sequences
from spen_jax.cli.tasks import read_rows
from spen_jax.data.examples import counted
from spen_jax.estimators import SPENClassifier, SPENRegressor, SPENSequenceTagger
from spen_jax.estimators.progress import listening

FEWEST, USUAL = 20, 0.2
"""Rows below which none are kept for validation unless --valid says so, and the share that is."""

NOT_KEPT = {"resume", "json", "quiet"}
"""Of the settings, for `--resume`."""


@dataclass(frozen=True)
class Train:
    """Learn from a file, and write a folder with the model, its settings, a line for each epoch and a score.

    DATA is ARFF, libsvm or extreme-classification text, CSV, TSV or Parquet, or a word a line (CoNLL columns, CoNLL-U).
    """

    data: Annotated[Positional[Path | None], option("DATA")] = None
    """the file to learn from"""
    out: Annotated[Path | None, option("DIR")] = None
    """the folder to write, new or empty"""
    resume: Annotated[Path | None, option("DIR")] = None
    """go on with the training in DIR that was broken off; alone, its settings are in the folder"""
    labels: Annotated[tuple[str, ...], option("COLUMN ...")] = ()
    """labels by name or pattern ("tag_*"), the first 3, the last -1, an .xml; CoNLL: the column's number, upos, xpos"""
    separator: Annotated[str | None, option("TEXT")] = None
    """what stands between several labels in a cell; by default ; or | where there is one"""
    columns: Annotated[tuple[str, ...], option("NAME=KIND ...")] = ()
    """kinds of columns that are not what they look like: number, category, date, text"""
    drop: Annotated[tuple[str, ...], option("COLUMN ...")] = ()
    """columns to leave out, by name or pattern"""
    decimal: Annotated[Literal[".", ","], option("MARK")] = "."
    """the decimal mark of a table, a point or a comma"""
    task: Annotated[Task | None, option("{labels,classes,numbers,sequences}")] = None
    """what is predicted; by default what the labels look like, which is said"""
    valid: Annotated[float | None, option("SHARE")] = None
    """rows that are not learned from but give the score; by default 0.2 of 20 rows or more, 0 for none"""
    epochs: Annotated[int | None, option("N")] = None
    """passes over the data, at most; by default what follows from the data"""
    settings: Annotated[tuple[str, ...], option("NAME=VALUE ...", "set")] = ()
    """other arguments of the estimator, such as members=1 dropout=0.3"""
    seed: Annotated[int, option("N")] = 0
    """decides which rows validate, and the training; by default 0"""
    tensorboard: Flag = False
    """write the lines of metrics.jsonl as TensorBoard's events too, into DIR/tensorboard"""
    json: Flag = False
    """print the summary as JSON"""
    quiet: Flag = False
    """print nothing but errors, and what --json asks for"""

    def __call__(self) -> None:
        """Trains, and writes the folder."""
        hosts.join()
        if self.resume is not None:
            if self != Train(resume=self.resume, json=self.json, quiet=self.quiet):
                raise Usage(
                    "--resume takes a folder and no other settings: they are those of the beginning"
                )
            said = folders.broken_off(self.resume)
            given, goes_on = _said(said, self), True
            if data.sha256(given.source) != said.get("data_sha256"):
                raise Wrong(f"{given.source} is not what it was when {self.resume} began")
        else:
            given, goes_on = self, False
        if given.data is None or given.out is None:
            raise Usage("train takes DATA and --out DIR, or --resume DIR")
        with hosts.lost():
            given.train(given.out, goes_on)

    @property
    def source(self) -> Path:
        """The file to learn from."""
        return cast(Path, self.data)

    def train(self, out: Path, goes_on: bool) -> None:
        """Trains, and writes the folder `out`, or goes on with what was begun there."""
        voice, began = Voice(self._silent(), self.json and parallel.leading()), time.monotonic()
        self._check()
        with parallel.together(Wrong):
            if not goes_on and parallel.leading():
                folders.check_new(out)
            learned = self._read()
        estimator = self._estimator(learned.task)
        voice.note(*learned.notes)
        train, held = self._parts(learned)
        voice.note(f"training on {train.size:,} {learned.what}, validating on {held.size:,}")
        with folders.begun(out, None if goes_on else self._as_json()):
            with contextlib.closing(folders.Log(out, self.tensorboard)) as log, listening(log):
                estimator.fit(part(learned.x, train), part(learned.y, train))
            found = {}
            if held.size:
                of_held = part(learned.x, held), part(learned.y, held)
                found = scores(learned.task, one_of_each(estimator, learned.reading), *of_held)
            summary = {
                "model": str(out),
                "task": learned.task,
                "trained_on": int(train.size),
                "validated_on": int(held.size),
                "validation": found,
                "epochs": log.lines,
                "seconds": round(time.monotonic() - began, 1),
            }
            if parallel.leading():
                self._write(out, estimator, learned, summary)
        voice.result(summary, _lines(summary))

    def _silent(self) -> bool:
        return self.quiet or not parallel.leading()

    def _as_json(self) -> dict[str, Any]:
        """What `--resume` needs."""
        said = {name: value for name, value in asdict(self).items() if name not in NOT_KEPT}
        where = {"data": str(self.source.absolute()), "out": str(self.out)}
        return said | where | {"data_sha256": data.sha256(self.source)}

    def _check(self) -> None:
        if self.separator == "":
            raise Usage("--separator is the text between labels in a cell, got none")
        if self.valid is not None and not 0 <= self.valid < 1:
            raise Usage(f"--valid is a share from 0 to less than 1, got {self.valid:g}")
        if self.epochs is not None and self.epochs < 1:
            raise Usage(f"--epochs must be 1 or more, got {self.epochs}")
        if not 0 <= self.seed < 2**31:
            raise Usage(f"--seed must be from 0 to 2147483647, got {self.seed}")

    def _read(self) -> "Learned":
        if self.task == "sequences" or self.task is None and has_sequences(self.source):
            return self._sequences()
        kinds = dict(_pair(one, "--columns", "KIND") for one in self.columns)
        how = How(columns_said(self.labels), self.separator, kinds, self.drop, self.decimal)
        examples, reading, notes = read_rows(self.source, how, self.task)
        y = reading.y(examples)
        known = known_rows(reading.task, y)
        if not known.any():
            raise Wrong(f"{self.source} has no row whose labels are known")
        if not known.all():
            notes.append(f"{counted((~known).sum(), 'row')} without a known label: left out")
        rows = np.flatnonzero(known)
        x, y = part(reading.x(examples), rows), part(y, rows)
        return Learned(reading.task, x, y, "rows", reading, notes)

    def _sequences(self) -> "Learned":
        if self.separator is not None or self.drop or self.columns or len(self.labels) > 1:
            raise Usage(
                "of sequences --labels is one column, and of the options of tables there is none"
            )
        columns = columns_of(self.source, self.labels[0] if self.labels else None)
        words, tags = read_sequences(self.source, columns, with_labels=True)
        name = columns.label if columns.conllu else f"of column {columns.label}"
        notes = [f"sequences of words, labels {name}"]
        return Learned("sequences", words, tags, "sequences", columns, notes)

    def _parts(self, learned: "Learned") -> tuple[np.ndarray, np.ndarray]:
        """Rows to learn from and rows that validate."""
        n = len(learned.y)
        valid = (USUAL if n >= FEWEST else 0.0) if self.valid is None else self.valid
        if not valid:
            return np.arange(n), np.arange(0)
        strata: Any = None
        if learned.task == "labels":
            strata = learned.y.to_numpy()
        if learned.task == "classes":
            strata = (learned.y[:, None] == np.unique(learned.y)[None]).astype(float)
        try:
            return data.split(n, valid, self.seed, y=strata)
        except ValueError as error:
            raise Usage(f"--valid {valid:g}: {error}") from None

    def _estimator(self, task: Task) -> Any:
        kind = {"numbers": SPENRegressor, "sequences": SPENSequenceTagger}.get(task, SPENClassifier)
        estimator: Any = kind(random_state=self.seed, verbose=not self._silent())
        names = {*estimator.get_params()} - {"random_state", "verbose", "warm_start", "epochs"}
        given: dict[str, Any] = {} if self.epochs is None else {"epochs": self.epochs}
        for setting in self.settings:
            name, text = _pair(setting, "--set", "VALUE")
            if name not in names:
                raise Usage(f"--set takes one of {', '.join(sorted(names))}, got {name!r}")
            given[name] = _value(text)
        return estimator.set_params(**given)

    def _write(
        self, out: Path, estimator: Any, learned: "Learned", summary: dict[str, Any]
    ) -> None:
        estimator.verbose = False
        config = {
            "data": str(self.source),
            "data_sha256": data.sha256(self.source),
            "task": learned.task,
            "labels": list(self.labels),
            "separator": getattr(learned.reading, "separator", None),
            "columns": list(self.columns),
            "drop": list(self.drop),
            "decimal": self.decimal,
            "valid": self.valid,
            "seed": self.seed,
            "estimator": type(estimator).__name__,
            "arguments": estimator.get_params(),
            "spen_jax": version("spen_jax"),
            "written": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        folders.write_json(out / folders.CONFIG, config)
        folders.write_json(out / folders.READING, learned.reading.as_json())
        folders.write_json(out / folders.SUMMARY, summary)
        estimator.save(out / folders.MODEL)


def _said(said: Mapping[str, Any], now: Train) -> Train:
    """The settings of a training that was broken off; what is shown is as it is said now."""
    kept: dict[str, Any] = {
        name: tuple(v) if isinstance(v, list) else v for name, v in said.items()
    }
    kept.pop("data_sha256", None)
    texts = "labels", "columns", "drop", "settings"
    sure = {"data": str, "decimal": str, "seed": int} | dict.fromkeys(texts, tuple)
    maybe = {"separator": str, "task": str, "valid": int | float, "epochs": int}
    kinds = sure | {name: kind | None for name, kind in maybe.items()}
    try:
        if wrong := [name for name, kind in kinds.items() if not isinstance(kept[name], kind)]:
            raise TypeError(wrong[0])
        if not all(isinstance(text, str) for name in texts for text in kept[name]):
            raise TypeError(texts)
        where = {"data": Path(kept["data"]), "out": now.resume}
        return Train(**kept | where, json=now.json, quiet=now.quiet)
    except (KeyError, TypeError) as error:
        raise Wrong(
            f"{now.resume}: what was begun there is damaged: {error!r}; train anew into another folder"
        ) from None


class Learned(NamedTuple):
    """What is learned from: the task, x and y, what its rows are called, how they were read, and notes."""

    task: Task
    x: Any
    y: Any
    what: str
    reading: Reading | Columns
    notes: list[str]


def columns_said(labels: Sequence[str]) -> Any:
    """What `data.read` takes for labels: None, a whole number, a path or names."""
    if not labels:
        return None
    if len(labels) == 1:
        with contextlib.suppress(ValueError):
            return int(labels[0])
        return Path(labels[0]) if labels[0].endswith(".xml") else labels[0]
    return list(labels)


def known_rows(task: Task, y: Any) -> np.ndarray:
    """bool (N,): rows of which something is known, for classes and numbers all."""
    if task == "labels":
        return ~np.isnan(y.to_numpy()).all(axis=1)
    if task == "classes":
        return np.array([name is not None for name in y], bool)
    return ~np.isnan(y.reshape(len(y), -1)).any(axis=1)


def part(values: Any, rows: np.ndarray) -> Any:
    """Those rows of an array, a matrix, `Named` labels or a list."""
    return [values[i] for i in rows] if isinstance(values, list) else values[rows]


def _pair(text: str, name: str, what: str) -> tuple[str, str]:
    key, equals, value = text.rpartition("=")
    if not equals or not key:
        raise Usage(f"{name} takes NAME={what}, got {text!r}")
    return key, value


def _value(text: str) -> Any:
    try:
        return json.loads({"None": "null", "True": "true", "False": "false"}.get(text, text))
    except ValueError:
        return text


def _lines(summary: dict[str, Any]) -> list[str]:
    first = FIRST[summary["task"]]
    figures = summary["validation"]
    rows: list[tuple[str, Any]] = rows_of(figures) if figures else []
    said = [
        f"{summary['model']}: {summary['task']}, {summary['epochs']:,} epochs in {summary['seconds']} s"
    ]
    if not figures:
        return [*said, f"no rows validated; evaluate says how good it is ({first}) on another file"]
    return [*said, f"on {summary['validated_on']:,} validation rows:", *table(rows)]

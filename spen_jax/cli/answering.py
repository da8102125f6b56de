"""`spen-jax predict` and `spen-jax evaluate`."""

import csv
import io
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from spen_jax.cli import folders
from spen_jax.cli.nominal import one_of_each, values_of
from spen_jax.cli.options import DataPath, Flag, ModelPath, OutPath
from spen_jax.cli.rows import Reading, read_like
from spen_jax.cli.saying import Usage, Voice, Wrong, one_line, table
from spen_jax.cli.scores import rows_of, scores
from spen_jax.cli.sequences import Columns, read_sequences
from spen_jax.cli.training import known_rows, part
from spen_jax.data.examples import counted

STDIN = "standard input"


@dataclass(frozen=True)
class Predict:
    """Answer the rows or sentences of a file with a trained model.

    DATA is read like the file of training, labels in it are not looked at. The answers are CSV, one line a row in the
    file's order, below a line of names; of sentences a word and its label a line, as in CoNLL columns.
    """

    model: ModelPath
    """the folder that train wrote"""
    data: DataPath
    """the file to answer, - for standard input"""
    out: OutPath = Path("-")
    """the file to write; by default -, standard output"""
    proba: Flag = False
    """write the probability of each label or class, not of numbers"""
    quiet: Flag = False
    """print nothing but errors, and the answers where they go to standard output"""

    def __call__(self) -> None:
        """Predicts, and writes the answers."""
        to_file = str(self.out) != "-"
        if to_file:
            folders.check_writable(self.out)
        trained = trained_of(self.model)
        if self.proba and trained.task == "numbers":
            raise Usage("--proba: numbers have no probabilities")
        with named(self.data) as path:
            write = self._sequences if isinstance(trained.reading, Columns) else self._rows
            lines, count = write(trained, path)
        if not to_file:
            sys.stdout.writelines(lines)
            sys.stdout.flush()
            return
        with folders.answers_to(self.out) as file:
            file.writelines(line.encode() for line in lines)
        Voice(self.quiet).note(f"{self.out}: {count}")

    def _rows(self, trained: "Trained", path: Path) -> tuple[Iterable[str], str]:
        reading: Any = trained.reading
        examples = read_like(path, reading, with_labels=False)
        x = reading.x(examples)
        if self.proba:
            header, rows = reading.labels, trained.model.predict_proba(x).tolist()
        else:
            header, rows = _answers(reading, trained.model.predict(x))
        return _csv([header, *rows]), counted(x.shape[0], "row")

    def _sequences(self, trained: "Trained", path: Path) -> tuple[Iterable[str], str]:
        columns: Any = trained.reading
        words, _ = read_sequences(path, columns, with_labels=False)
        tags = trained.model.predict(words)
        found = trained.model.predict_proba(words) if self.proba else None
        lines = ["word\tlabel\t" + "\t".join(trained.model.classes_) + "\n"] if self.proba else []
        for i, sentence in enumerate(words):
            for t, word in enumerate(sentence):
                p = [f"{v:.6g}" for v in found[i][t]] if found is not None else []
                lines.append("\t".join([word, tags[i][t], *p]) + "\n")
            lines.append("\n")
        return lines, counted(len(words), "sequence")


@dataclass(frozen=True)
class Evaluate:
    """Compare a trained model's answers with the labels of a file, which is read like that of training."""

    model: ModelPath
    """the folder that train wrote"""
    data: DataPath
    """a file with labels, - for standard input"""
    json: Flag = False
    """print one JSON object"""
    quiet: Flag = False
    """print nothing but errors, and what --json asks for"""

    def __call__(self) -> None:
        """Prints how good the answers are."""
        trained = trained_of(self.model)
        with named(self.data) as path:
            x, y = _with_truth(trained, path)
        n = len(y)
        figures = scores(trained.task, trained.model, x, y)
        result = {"model": str(self.model), "data": str(self.data), "task": trained.task, "rows": n}
        what = "sequence" if trained.task == "sequences" else "row"
        lines = [f"{self.model} on {self.data}, {counted(n, what)}:", *table(rows_of(figures))]
        Voice(self.quiet, self.json).result(result | figures, lines)


class Trained(NamedTuple):
    """A model that was trained, its task, and how its files are read."""

    model: Any
    task: str
    reading: Reading | Columns


def trained_of(given: Path) -> Trained:
    """The model of a folder that `train` wrote; `Wrong` for anything else."""
    model, said, path = folders.model_of(given)
    where = path.parent / folders.READING
    if not said:
        raise Wrong(f"{where} is missing: give a folder that `spen-jax train` wrote")
    if said.get("kind") == "sequences":
        reading, task = Columns.from_json(said, where), "sequences"
    else:
        reading = Reading.from_json(said, where)
        task = reading.task
    kinds = {"numbers": "SPENRegressor", "sequences": "SPENSequenceTagger"}
    if type(model).__name__ != kinds.get(task, "SPENClassifier"):
        raise Wrong(
            f"{where} is of {task}, but {path} is a {type(model).__name__}: they belong apart"
        )
    return Trained(one_of_each(model, reading), task, reading)


def _with_truth(trained: Trained, path: Path) -> tuple[Any, Any]:
    if isinstance(trained.reading, Columns):
        words, tags = read_sequences(path, trained.reading, with_labels=True)
        return words, tags
    examples = read_like(path, trained.reading, with_labels=True)
    y = trained.reading.y(examples)
    rows = np.flatnonzero(known_rows(trained.reading.task, y))
    if not len(rows):
        raise Wrong(f"{path} has no row whose labels are known")
    return part(trained.reading.x(examples), rows), part(y, rows)


def _answers(reading: Reading, found: Any) -> tuple[list[str], list[list[Any]]]:
    """(names of columns, rows) of what a model predicts."""
    names = reading.label_columns
    if reading.task == "labels" and len(names) == 1 and reading.separator is not None:
        labels = np.array(reading.labels)
        rows = [[reading.separator.join(labels[row > 0].tolist())] for row in np.asarray(found)]
        return names, rows
    if reading.task == "classes":
        return names if len(names) == 1 else ["class"], [[name] for name in found.tolist()]
    values = np.asarray(found)
    if reading.task == "labels" and (nominal := values_of(reading, values)):
        return nominal
    return reading.labels, values.reshape(len(values), -1).tolist()


def _csv(rows: Sequence[Sequence[Any]]) -> Iterator[str]:
    for row in rows:
        line = io.StringIO()
        cells = [f"{cell:.6g}" if isinstance(cell, float) else cell for cell in row]
        csv.writer(line, lineterminator="\n").writerow(cells)
        yield line.getvalue()


@contextmanager
def named(path: Path) -> Iterator[Path]:
    """The path, or that of a copy of standard input where it is -; errors then speak of standard input."""
    if str(path) != "-":
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "stdin"
        with open(copy, "wb") as file:
            shutil.copyfileobj(sys.stdin.buffer, file)
        try:
            yield copy
        except (Wrong, ValueError) as error:
            raise Wrong(one_line(error).replace(str(copy), STDIN)) from None

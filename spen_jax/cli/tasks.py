"""What the labels of a file to learn from are: said, or guessed by what they look like."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from spen_jax.cli.rows import How, Reading, Task
from spen_jax.cli.saying import Usage
from spen_jax.data.columns import KINDS
from spen_jax.data.examples import Examples, counted, several
from spen_jax.data.reading import format_of

SEPARATORS = ";", "|"
"""Taken for what separates labels in the cells of one column, where one occurs and none was named."""


def read_rows(path: Path, how: How, task: Task | None) -> tuple[Examples, Reading, list[str]]:
    """(examples, how they are read, notes) of a file to learn from; `Usage` where it is not said what is a label."""
    kind, notes = format_of(path), list[str]()
    check_how(path, kind, how)
    examples = how.read(path, kind)
    if not examples.y.shape[1]:
        names = [c.name for c in examples.columns]
        raise Usage(
            f"{path} does not say which columns are labels: --labels names them, of {several(names)}"
        )
    if kind == "table" and how.separator is None and task in (None, "labels"):
        if found := _separator(examples):
            notes.append(f"labels stand between {found!r}, as it seems; --separator says otherwise")
            how = replace(how, separator=found)
            examples = how.read(path, kind)
    if task is None:
        task = guessed(examples)
        notes.append(f"--task {task}, as it seems: {_seen(examples, task)}")
    numeric = [c.name for c in examples.columns if c.label and c.kind == "number"]
    if task == "classes" and kind == "table" and len(numeric) == 1:
        how = replace(how, columns=how.columns | {numeric[0]: "category"})
        examples = how.read(path, kind)
    check_task(examples, task, path)
    return examples, Reading.of(examples, task, how), [*examples.notes, *notes]


def check_how(path: Path, kind: str, how: How) -> None:
    """`Usage` for options that this kind of file does not take, and for kinds of columns that there are not."""
    for name, what in how.columns.items():
        if what not in KINDS:
            raise Usage(f"--columns takes {', '.join(KINDS)}, got {what!r} for {name!r}")
    tables = {"--separator": how.separator, "--columns": how.columns}
    options = tables | {"--labels": how.labels, "--drop": how.drop}
    allowed = {"table": options, "arff": {"--labels", "--drop"}, "libsvm": set()}[kind]
    for name, value in options.items():
        if value is not None and value != () and value != {} and name not in allowed:
            what = "libsvm text, whose rows begin with their labels" if kind == "libsvm" else "ARFF"
            raise Usage(f"{path} is {what}: leave out {name}")


def _separator(examples: Examples) -> str | None:
    labels = [c for c in examples.columns if c.label]
    if len(labels) != 1 or labels[0].kind not in ("category", "binary"):
        return None
    return next((s for s in SEPARATORS if any(s in value for value in labels[0].values)), None)


def guessed(examples: Examples) -> Task:
    """What the labels look like."""
    kinds = [c.kind for c in examples.columns if c.label]
    if kinds in (["category"], ["binary"]):
        return "classes"
    if not _of_zero_and_one(examples.y):
        return "numbers"
    if kinds == ["number"]:
        return "classes"
    return "classes" if not examples.columns and _one_each(examples.y) else "labels"


def _seen(examples: Examples, task: Task) -> str:
    names = [c.name for c in examples.columns if c.label] or examples.label_names
    of = counted(
        len(examples.label_names), {"classes": "value", "labels": "label"}.get(task, "number")
    )
    return f"{several(names, 4)}" if task == "numbers" else f"{of} of {several(names, 4)}"


def check_task(examples: Examples, task: Task, path: Path) -> None:
    """`Usage` where these labels cannot be what the task says."""
    labels = [c for c in examples.columns if c.label]
    if task == "sequences":
        raise Usage(f"{path} has rows, not sequences: a word a line, blank lines between")
    if task == "numbers" and any(c.kind != "number" for c in labels):
        raise Usage(
            f"--task numbers: the labels of {path} are words: {several(examples.label_names)}"
        )
    if task == "labels" and not _of_zero_and_one(examples.y):
        raise Usage(
            f"--task labels: the labels of {path} are other numbers than 0 and 1: --task numbers or classes"
        )
    if task == "labels" and examples.y.shape[1] < 2:
        raise Usage(
            "--task labels needs two labels or more; one column of two values is --task classes"
        )
    if task == "classes" and examples.y.shape[1] > 1 and not _one_each(examples.y):
        raise Usage(f"--task classes: not every row of {path} has exactly one label: --task labels")
    if task == "classes" and examples.y.shape[1] == 1 and not _of_zero_and_one(examples.y):
        raise Usage(f"--task classes: the labels of {path} are numbers: --task numbers")


def _of_zero_and_one(y: Any) -> bool:
    values = y if isinstance(y, np.ndarray) else y.data
    return bool(np.isin(values[~np.isnan(values)], (0, 1)).all())


def _one_each(y: Any) -> bool:
    """Whether every row that is known has one label, and there are several."""
    sums = np.asarray(y.sum(axis=1)).ravel()
    return y.shape[1] > 1 and bool((sums[~np.isnan(sums)] == 1).all())

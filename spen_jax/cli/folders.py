"""The folder of a trained model: what lies in it, how it is begun, and how it is read again."""

import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from spen_jax import parallel
from spen_jax.cli import ending
from spen_jax.cli.saying import Wrong, plain
from spen_jax.training import TensorBoard, replacing, resumable

MODEL, CONFIG, READING = "model.safetensors", "config.json", "reading.json"
METRICS, SUMMARY, EVENTS = "metrics.jsonl", "summary.json", "tensorboard"
BEGUN, KEPT = "begun.json", "checkpoints"
"""While a training is not over."""


def check_new(folder: Path) -> None:
    """`Wrong` unless the folder is not there yet, or empty, and can be written to."""
    if (folder / BEGUN).exists():
        raise Wrong(
            f"--out {folder} holds a training that was broken off: --resume {folder} goes on, or name a new folder"
        )
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise Wrong(f"--out {folder} exists and is not an empty folder: name a new one")
    above = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not above.is_dir() or not os.access(above, os.W_OK):
        raise Wrong(f"--out {folder}: {above} is no folder that can be written to")


@contextmanager
def begun(folder: Path, arguments: Mapping[str, Any] | None) -> Iterator[None]:
    """Of a `with` block that trains into the folder: a new one with these arguments, or None for one to go on with.

    A signal leaves what it goes on from; an error in a new folder leaves nothing. Of several processes the first alone
    makes and removes what is no checkpoint, and where there is one an error leaves it: another process may have died.
    """
    if not parallel.leading():
        with resumable(folder / KEPT):
            yield
        return
    made = not folder.exists()
    if arguments is not None:
        check_new(folder)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            write_json(folder / BEGUN, arguments)
        except BaseException:  # also a signal: there is nothing yet to go on from
            _leave_nothing(folder, made)
            raise
    ending.advise(f"spen-jax train --resume {folder} goes on")
    try:
        with resumable(folder / KEPT):
            yield
    except Exception as error:
        if arguments is not None and not (parallel.several() and _has_checkpoints(folder)):
            _leave_nothing(folder, made)
        if isinstance(error, BrokenPipeError):  # of progress, not of a result
            raise Wrong("nobody reads standard error any more: --quiet") from None
        raise
    shutil.rmtree(folder / KEPT, ignore_errors=True)
    (folder / BEGUN).unlink()
    ending.advise(None)


def _has_checkpoints(folder: Path) -> bool:
    return any(path.name.isdecimal() for path in (folder / KEPT).glob("*/*"))


def _leave_nothing(folder: Path, made: bool) -> None:
    """Empties a folder that is there, and removes it where it was made for this."""
    if not folder.is_dir():
        return
    for path in folder.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    if made:
        folder.rmdir()


def broken_off(folder: Path) -> dict[str, Any]:
    """The arguments of a training that was broken off; `Wrong` where there is none."""
    if not (folder / BEGUN).is_file():
        raise Wrong(f"--resume {folder}: no training that was broken off is there")
    return read_json(folder / BEGUN)


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Strict JSON, under a temporary name that is then renamed."""
    with replacing(path) as file:
        file.write((json.dumps(plain(value), indent=2, allow_nan=False) + "\n").encode())


class Log:
    """`metrics.jsonl` of a folder: a line for each epoch, as an estimator tells of it; none where another process does.

    `shown` is for TensorBoard's events too, and `Wrong` raised where tensorboardX is not installed.
    """

    def __init__(self, folder: Path, shown: bool = False):
        self._path, self._began, self.lines = folder / METRICS, time.monotonic(), 0
        self._board: TensorBoard | None = None
        if not parallel.leading():
            return
        self._path.write_text("")
        if shown:
            shutil.rmtree(folder / EVENTS, ignore_errors=True)  # a training that goes on tells all
            try:
                self._board = TensorBoard(folder / EVENTS)
            except ImportError as error:
                raise Wrong(f"--tensorboard: {error}") from None

    def __call__(self, done: int, total: int, figures: Mapping[str, float]) -> None:
        """Adds a line: `epoch` of at most `of`, seconds since the beginning, and the figures."""
        seconds = round(time.monotonic() - self._began, 3)
        line = {"epoch": done, "of": total, "seconds": seconds, **figures}
        if self._board is not None:
            self._board(done, {"seconds": seconds, **figures})
        if parallel.leading():
            with open(self._path, "a") as file:
                file.write(json.dumps(plain(line), allow_nan=False) + "\n")
        self.lines = done

    def close(self) -> None:
        """Closes the events."""
        if self._board is not None:
            self._board.close()


def model_of(given: Path) -> tuple[Any, dict[str, Any], Path]:
    """(estimator, what reading.json says or {}, the file) of a model's folder or file; `Wrong` for anything else."""
    from spen_jax.estimators import load

    path = given / MODEL if given.is_dir() else given
    if given.is_dir() and not path.exists():
        raise Wrong(f"{given} has no {MODEL}: give a folder that `spen-jax train` wrote")
    estimator = load(path)
    reading = path.parent / READING
    return estimator, read_json(reading) if reading.exists() else {}, path


def read_json(path: Path) -> dict[str, Any]:
    """The object in a file that `write_json` wrote; `Wrong` for what is none."""
    try:
        found = json.loads(path.read_text("utf-8"))
    except (ValueError, RecursionError) as error:
        raise Wrong(f"{path} is damaged: {error}; copy the folder anew") from None
    if not isinstance(found, dict):
        raise Wrong(f"{path} is damaged: expected an object, got {type(found).__name__}")
    return found


@contextmanager
def answers_to(path: Path) -> Iterator[IO[bytes]]:
    """A file to write that takes its name once it is whole; a pipe or device is written to as it is.

    `Wrong` where nothing can be written.
    """
    check_writable(path)
    if path.exists() and not path.is_file():
        with open(path, "wb") as file:
            yield file
        return
    with replacing(path.resolve()) as file:  # a link stays one
        yield file


def check_writable(path: Path) -> None:
    """`Wrong` where nothing can be written, before anything is computed."""
    if path.is_dir():
        raise Wrong(f"--out {path} is a folder: name a file, or - for standard output")
    if not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
        raise Wrong(f"--out {path}: {path.parent} is no folder that can be written to")

"""A bar where a terminal is, a line each second where not; and whoever else wants to hear of each epoch."""

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Protocol

Listener = Callable[[int, int, Mapping[str, float]], None]
"""Called with epochs done, at most how many, and the figures of the last one."""
_listener: ContextVar[Listener | None] = ContextVar("listener", default=None)


class Report(Protocol):
    """What a training calls after each epoch, with a note for people and figures for programs."""

    def __call__(self, note: str, **figures: float) -> None:
        """Once an epoch."""


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Within the block every epoch of an estimator's `fit` is told to the listener, `verbose` or not.

    Epochs count through all members; figures are such as `loss`, of held-out rows, and `training_loss`.
    """
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


@contextmanager
def reporting(estimator: Any, total: int) -> Iterator[Report]:
    """A function to call after each of at most `total` epochs, with a note; silent unless `verbose` or heard."""
    listener, count = _listener.get(), 0
    with _shown(estimator, total) as show:

        def report(note: str, **figures: float) -> None:
            nonlocal count
            count += 1
            show(note)
            if listener is not None:
                listener(count, total, figures)

        yield report


@contextmanager
def _shown(estimator, total):
    if not estimator.verbose:
        yield lambda note: None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True)
    name, done, last = type(estimator).__name__, 0, time.monotonic()
    columns = (
        TextColumn(name),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as progress:
        bar = progress.add_task("", total=total, note="")

        def report(note: str) -> None:
            nonlocal done, last
            done += 1
            progress.update(bar, completed=done, note=note)
            if not console.is_terminal and time.monotonic() - last > 1:
                last = time.monotonic()
                said = f", {note}" if note else ""
                print(f"{name}: epoch {done} of at most {total}{said}", file=sys.stderr)

        yield report

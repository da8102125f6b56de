"""A bar where a terminal is, a line each second where not."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def reporting(estimator: Any, total: int) -> Iterator[Callable[[str], None]]:
    """A function to call after each of at most `total` epochs, with a note; silent unless `verbose`."""
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
                print(f"{name}: epoch {done} of at most {total}, {note}", file=sys.stderr)

        yield report

"""What the lecture's experiments do alike: a run from its settings to its folder, a look at its progress, a table."""

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.table import Column, Table

from experiments import shared


class Run(NamedTuple):
    """A run in progress."""

    folder: Path
    began: float

    def finish(self, result: dict[str, Any], *printed: Any, **versions: str) -> dict[str, Any]:
        """Write result.json, with the versions and the seconds; print tables and sentences; return the result."""
        seconds = time.perf_counter() - self.began
        result = result | {"environment": shared.environment() | versions, "seconds": seconds}
        shared.write_json(self.folder / "result.json", result)
        for what in (*printed, f"{seconds:.0f} s; wrote {self.folder}"):
            shared.console.print(what)
        return result


def begin(config: Any, name: str, **least: int) -> Run:
    """Check the seeds, where there are any, and the `least` settings may be; make the folder with config.json."""
    began = time.perf_counter()
    shared.check_seeds(getattr(config, "seeds", (0,)))
    shared.check_least(config, **least)
    folder = shared.new_folder(config.out, name)
    shared.write_json(folder / "config.json", vars(config))
    return Run(folder, began)


def tracked(cases: Sequence[tuple[str, ...]]) -> Iterator[tuple[str, ...]]:
    """The cases, one after another, under a progress bar that names the one in work."""
    with shared.progress_bars() as progress:
        bar = progress.add_task("", total=len(cases), note="")
        for case in cases:
            progress.update(bar, description=", ".join(case))
            yield case
            progress.advance(bar)


def summary(title: str, rows: dict[str, dict[str, Any]], columns: Sequence[str] = ()) -> Table:
    """The table of {row: {column: value}}, all columns unless some are named.

    A value is text, a number, several (mean ± spread), several booleans (how many), or {condition: whether it holds}.
    """

    def shown(value):
        if isinstance(value, dict):
            return ", ".join(name for name, holds in value.items() if holds) or "none"
        if isinstance(value, str):
            return value
        if np.asarray(value).dtype == bool:
            return f"{np.sum(value)} of {np.size(value)}"
        mean = f"{np.mean(value):.3g}"
        return f"{mean} ± {np.std(value, ddof=1):.2g}" if np.size(value) > 1 else mean

    columns = columns or list(dict.fromkeys(column for row in rows.values() for column in row))
    headers = (column.replace("_", " ") for column in columns)
    table = Table(Column(no_wrap=True), *headers, title=title)
    for name, row in rows.items():
        table.add_row(name, *(shown(row.get(column, "")) for column in columns))
    return table

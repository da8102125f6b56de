"""Markdown tables of what the experiments with factor graphs measure."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from experiments import shared

Rows = dict[str, dict[str, str]]


def markdown(rows: Rows, title: str = "") -> str:
    """{row: {column: text}} as a table in Markdown; a row without a column is empty there."""
    columns = list(dict.fromkeys(column for row in rows.values() for column in row))
    lines = [f"| {' | '.join([title, *columns])} |", f"|---{'|---' * len(columns)}|"]
    for name, row in rows.items():
        lines.append(f"| {' | '.join([name, *(row.get(c, '') for c in columns)])} |")
    return "\n".join(lines) + "\n"


def several(values: Sequence[Any], digits: str) -> str:
    """Of each setting one number, as "0.1 / 0.2 / 0.3"; one number alone where all read the same."""
    said = [f"{value:{digits}}" for value in values]
    said = [text if float(text) else text.lstrip("+-") for text in said]
    return said[0] if len(set(said)) == 1 else " / ".join(said)


def spread(values: Any, digits: str) -> str:
    """Mean and, of several, sample standard deviation, "0.12 ± 0.03"."""
    values = np.asarray(values, float)
    mean = f"{values.mean():{digits}}"
    return f"{mean} ± {values.std(ddof=1):{digits}}" if values.size > 1 else mean


def show(text: str) -> None:
    """Print it as it is, whatever the width of the terminal."""
    shared.console.print(text, soft_wrap=True, markup=False)

"""The figures and tables of horn.py: the horn in space, the free energy over the plane of y, and the gaps."""

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import shared
from rich.table import Table

KINDS = {"centre": "centre", "twice": "twice the ellipse", "box": "random points of the box"}
TITLES = {
    "free": "free",
    "penalty": "0.1 ‖z‖²",
    "ball": "‖z‖ ≤ 1",
    "noise": "noise",
    "circle": "(‖z‖² − 1)²",
}


def draw_horn(
    x: Any,
    y: Any,
    learned: dict[str, Any],
    rings: Any,
    axes: dict[str, Any],
    held: Any,
    truth: Any,
    path: Path,
) -> None:
    """The data and the model's ellipses in space, by name, and the half-axes over x."""
    x, y, rings = np.asarray(x)[:, 0], np.asarray(y), np.asarray(rings)
    figure = plt.figure(figsize=(13, 4.4))
    angle = np.linspace(0, 2 * np.pi, 97)
    for index, (name, radii) in enumerate(learned.items()):
        axis: Any = figure.add_subplot(1, 3, index + 1, projection="3d")
        axis.scatter(x[::5], y[::5, 0], y[::5, 1], s=3, c="tab:blue", alpha=0.7)
        for at, (first, second) in zip(rings, np.asarray(radii), strict=True):
            ring = np.full(angle.shape, at), first * np.cos(angle), second * np.sin(angle)
            axis.plot(*ring, c="tab:red", lw=1)
        axis.set(xlabel="x", ylabel="y₁", zlabel="y₂", title=name)
        axis.view_init(18, -60)
        axis.tick_params(labelsize=7)
    axis = figure.add_subplot(1, 3, 3)
    colours = "tab:red", "tab:orange", "tab:green"
    for (name, radii), colour in zip(axes.items(), colours, strict=False):
        for i, style in enumerate(("-", "--")):
            ratio = np.asarray(radii)[:, i] / np.asarray(truth)[:, i]
            axis.plot(
                held, ratio, style, c=colour, lw=1.4, label=f"{name}, |f{'₁₂'[i]}| / ρ{'₁₂'[i]}"
            )
    axis.axhspan(0.95, 1.05, color="0.9", zorder=0)
    axis.axhline(1, color="0.5", lw=0.8)
    axis.set(xlabel="x, held out", title="learned half-axis over the true one (grey: within 5 %)")
    axis.title.set_fontsize(10)
    axis.legend(fontsize=7)
    figure.tight_layout(w_pad=3)
    shared.save_figure(figure, path, colours=128)


def draw_planes(
    planes: dict[str, dict[int, Any]], grid: Any, ring: Any, y: Any, path: Path
) -> None:
    """Heat maps of the free energy at one x: a row for each dimension of z, a column for each limit."""
    rows = len(next(iter(planes.values())))
    figure, axes = plt.subplots(
        rows, len(planes), figsize=(2.3 * len(planes) + 0.8, 2.3 * rows + 0.4), squeeze=False,
        sharex=True, sharey=True, layout="constrained",
    )  # fmt: skip
    extent = (grid[0], grid[-1], grid[0], grid[-1])
    image: Any = None
    for column, (limit, of) in zip(axes.T, planes.items(), strict=True):
        column[0].set_title(TITLES[limit], fontsize=9)
        for axis, (dimension, plane) in zip(column, of.items(), strict=True):
            image = axis.imshow(
                np.asarray(plane), origin="lower", extent=extent, vmin=0, vmax=1, cmap="magma"
            )
            axis.plot(*np.asarray(ring).T, ":", c="cyan", lw=0.9)
            axis.plot(*np.asarray(y).T, ".", c="white", ms=2)
            axis.tick_params(labelsize=7)
            if axis is axes[list(of).index(dimension), 0]:
                axis.set_ylabel(f"z of {dimension}\ny₂", fontsize=9)
        column[-1].set_xlabel("y₁", fontsize=9)
    label = "free energy over the variance of y"
    figure.colorbar(image, ax=axes, shrink=0.8, label=label, extend="both")
    shared.save_figure(figure, path, colours=128)


def draw_gaps(free: dict[str, dict[int, dict]], horn: dict[str, float], path: Path) -> None:
    """Bars of the gap, a panel for each kind of point off the horn; dotted: that of the true horn."""
    figure, axes = plt.subplots(1, len(KINDS), figsize=(11, 3.3), sharey=True, layout="constrained")
    dimensions = list(next(iter(free.values())))
    width = 0.8 / len(dimensions)
    for axis, (kind, title) in zip(axes, KINDS.items(), strict=True):
        for i, dimension in enumerate(dimensions):
            values = [np.asarray(of[dimension]["gap_of_kind"][kind]) for of in free.values()]
            spread = [np.std(v, ddof=1) if len(v) > 1 else 0 for v in values]
            at = np.arange(len(values)) + (i - (len(dimensions) - 1) / 2) * width
            means = [np.mean(v) for v in values]
            colour = plt.get_cmap("viridis")(0.15 + 0.7 * i / max(len(dimensions) - 1, 1))
            axis.bar(
                at, means, width, yerr=spread, color=colour, capsize=2, error_kw={"lw": 0.8},
                label=f"z of {dimension}",
            )  # fmt: skip
        axis.axhline(horn[kind], ls=":", c="tab:red", lw=1.2, label="the true horn")
        axis.axhline(0, c="black", lw=0.6)
        axis.set_title(title, fontsize=10)
        axis.set_xticks(range(len(free)), [TITLES[limit] for limit in free], fontsize=8)
    axes[0].set_ylabel(
        "gap: free energy off the horn less\nheld-out, over the variance", fontsize=9
    )
    axes[-1].legend(fontsize=8)
    shared.save_figure(figure, path, colours=128)


def spread(values: Any) -> str:
    """Mean and sample standard deviation."""
    mean = f"{np.mean(values):.2f}"
    return f"{mean} ± {np.std(values, ddof=1):.2f}" if len(values) > 1 else mean


def report(result: dict, folder: Path) -> None:
    """Print both tables."""
    table = Table("free energy", title="Half-axes: largest relative error on held-out x")
    names = "each seed", "all starts within 5 %", "F in training", "F held out"
    for name in names:
        table.add_column(name, justify="right")
    for name, of in result["axes"].items():
        errors = ", ".join(f"{100 * e:.1f} %" for e in of["axes_error"])
        cells = [errors, f"{of['starts_within_5_percent']:.0%}"]
        cells += [f"{np.mean(of[f'{p}_free_energy']):.3f}" for p in ("training", "held_out")]
        table.add_row(name, *cells)
    shared.console.print(table)
    horn = result["gap_of_the_horn"]
    table = Table("limit on z", "dimensions", title="Free energy over the variance, and gaps to it")
    for name in ("held out", *KINDS, "gap: mean"):
        table.add_column(name, justify="right")
    for limit, of in result["free_z"].items():
        for dimension, run in of.items():
            values = [run["held_out"], *(run["gap_of_kind"][k] for k in KINDS), run["gap"]]
            cells = [spread(v) for v in values]
            table.add_row(TITLES[limit], str(dimension), *cells)
    table.add_row("the true horn", "", "", *(f"{horn[k]:.3f}" for k in (*KINDS, "gap")))
    shared.console.print(table)
    shared.console.print(f"{result['seconds']:.0f} s; wrote {folder}")

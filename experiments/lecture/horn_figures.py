"""The figures and tables of horn.py: the horn in space, the free energy over the plane of y, and the gaps."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np

from experiments import shared
from experiments.lecture import runs

KINDS = {"centre": "centre", "twice": "twice the ellipse", "box": "random points of the box"}
TITLES = {
    "free": "free",
    "penalty": "0.1 ‖z‖²",
    "ball": "‖z‖ ≤ 1",
    "noise": "noise",
    "circle": "(‖z‖² − 1)²",
}


def draw_horn(
    points: Any, rings: Any, learned: dict[str, Any], held: Any, ratios: dict[str, Any], path: Path
) -> None:
    """The data and the model's ellipses at the x of `rings`, by name, and learned over true half-axes at held-out x."""
    figure = plt.figure(figsize=(13, 4.4))
    x, y = (np.asarray(a)[::5] for a in points)
    angle = np.linspace(0, 2 * np.pi, 97)
    for index, (name, radii) in enumerate(learned.items()):
        axis: Any = figure.add_subplot(1, 3, index + 1, projection="3d")
        axis.scatter(x[:, 0], *y.T, s=3, c="tab:blue", alpha=0.7)
        for at, (first, second) in zip(rings, np.asarray(radii), strict=True):
            ring = first * np.cos(angle), second * np.sin(angle)
            axis.plot(np.full(angle.shape, at), *ring, c="tab:red", lw=1)
        axis.set(xlabel="x", ylabel="y₁", zlabel="y₂", title=name)
        axis.view_init(18, -60)
        axis.tick_params(labelsize=7)
    axis = figure.add_subplot(1, 3, 3)
    for (name, ratio), colour in zip(ratios.items(), ("red", "orange", "green"), strict=True):
        for i, (style, of) in enumerate({"-": "|f₁| / ρ₁", "--": "|f₂| / ρ₂"}.items()):
            look = {"c": f"tab:{colour}", "lw": 1.4, "label": f"{name}, {of}"}
            axis.plot(held, ratio[:, i], style, **look)
    axis.axhspan(0.95, 1.05, color="0.9", zorder=0)
    axis.axhline(1, color="0.5", lw=0.8)
    axis.set_xlabel("x, held out")
    axis.set_title("learned half-axis over the true one (grey: within 5 %)", fontsize=10)
    axis.legend(fontsize=7)
    figure.tight_layout(w_pad=3)
    shared.save_figure(figure, path, colours=128)


def draw_planes(planes: dict[str, dict], grid: Any, ring: Any, y: Any, path: Path) -> None:
    """Heat maps of the free energy at one x: a row for each dimension of z, a column for each limit."""
    dimensions = list(next(iter(planes.values())))
    across, down = len(planes), len(dimensions)
    size = 2.3 * across + 0.8, 2.3 * down + 0.4
    look = {"sharex": True, "sharey": True, "squeeze": False, "layout": "constrained"}
    figure, axes = plt.subplots(down, across, figsize=size, **look)
    extent, image = (grid[0], grid[-1]) * 2, None
    for column, (limit, of) in zip(axes.T, planes.items(), strict=True):
        column[0].set_title(TITLES[limit], fontsize=9)
        for axis, plane in zip(column, of.values(), strict=True):
            look = {"origin": "lower", "vmin": 0, "vmax": 1, "cmap": "magma"}
            image = axis.imshow(np.asarray(plane), extent=extent, **look)
            axis.plot(*np.asarray(ring).T, ":", c="cyan", lw=0.9)
            axis.plot(*np.asarray(y).T, ".", c="white", ms=2)
            axis.tick_params(labelsize=7)
        column[-1].set_xlabel("y₁", fontsize=9)
    for axis, dimension in zip(axes[:, 0], dimensions, strict=True):
        axis.set_ylabel(f"z of {dimension}\ny₂", fontsize=9)
    label = "free energy over the variance of y"
    figure.colorbar(image, ax=axes, shrink=0.8, label=label, extend="both")
    shared.save_figure(figure, path, colours=128)


def draw_gaps(free: dict[str, dict[int, dict]], horn: dict[str, float], path: Path) -> None:
    """Bars of the gap, a panel for each kind of point off the horn; dotted: that of the true horn."""
    figure, axes = plt.subplots(1, len(KINDS), figsize=(11, 3.3), sharey=True, layout="constrained")
    dimensions = list(next(iter(free.values())))
    width, last = 0.8 / len(dimensions), len(dimensions) - 1
    for axis, (kind, title) in zip(axes, KINDS.items(), strict=True):
        for i, dimension in enumerate(dimensions):
            values = np.array([of[dimension]["gap_of_kind"][kind] for of in free.values()])
            spread = values.std(axis=1, ddof=1) if values.shape[1] > 1 else None
            look = {"color": plt.get_cmap("viridis")(0.15 + 0.7 * i / max(last, 1)), "capsize": 2}
            look |= {"yerr": spread, "error_kw": {"lw": 0.8}, "label": f"z of {dimension}"}
            at = np.arange(len(values)) + (i - last / 2) * width
            axis.bar(at, values.mean(axis=1), width, **look)
        axis.axhline(horn[kind], ls=":", c="tab:red", lw=1.2, label="the true horn")
        axis.axhline(0, c="black", lw=0.6)
        axis.set_title(title, fontsize=10)
        axis.set_xticks(range(len(free)), [TITLES[limit] for limit in free], fontsize=8)
    label = "gap: free energy off the horn less\nheld-out, over the variance"
    axes[0].set_ylabel(label, fontsize=9)
    axes[-1].legend(fontsize=8)
    shared.save_figure(figure, path, colours=128)


def spread(values: Any) -> str:
    """Mean and sample standard deviation."""
    mean = f"{np.mean(values):.2f}"
    return f"{mean} ± {np.std(values, ddof=1):.2f}" if len(values) > 1 else mean


def report(result: dict) -> Iterator[Any]:
    """Both tables."""
    rows = []
    for name, of in result["axes"].items():
        errors = ", ".join(f"{100 * e:.1f} %" for e in of["axes_error"])
        means = (f"{np.mean(of[f'{p}_free_energy']):.3f}" for p in ("training", "held_out"))
        rows.append((name, errors, f"{of['starts_within_5_percent']:.0%}", *means))
    columns = "free energy", "each seed", "all starts within 5 %", "F in training", "F held out"
    yield runs.table("Half-axes: largest relative error on held-out x", columns, rows)
    rows = []
    for limit, of in result["free_z"].items():
        for dimension, run in of.items():
            values = run["held_out"], *run["gap_of_kind"].values(), run["gap"]
            rows.append((TITLES[limit], str(dimension), *map(spread, values)))
    rows.append(
        ("the true horn", "", "", *(f"{g:.3f}" for g in result["gap_of_the_horn"].values()))
    )
    columns = "limit on z", "dimensions", "held out", *KINDS, "gap: mean"
    yield runs.table("Free energy over the variance, and gaps to it", columns, rows)

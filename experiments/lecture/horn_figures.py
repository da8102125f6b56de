"""The figures and tables of horn.py: the horn in space, the free energy over the plane of y, and the gaps."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np

from experiments import shared
from experiments.lecture import runs

KINDS = "centre", "twice", "box"
"""Of points off the horn: its centre, twice the ellipse, random ones of a box."""
TITLES = {"free": "free", "penalty": "0.1 ‖z‖²", "circle": "(‖z‖² − 1)²"}
TITLES |= {"ball": "‖z‖ ≤ 1", "noise": "noise"}


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
    shared.save_figure(figure, path)


def draw_planes(planes: dict[str, dict], grid: Any, ring: Any, y: Any, path: Path) -> None:
    """Heat maps of the free energy at one x: a row for each dimension of z, a column for each limit."""
    dimensions = list(next(iter(planes.values())))
    across, down = len(planes), len(dimensions)
    size = 2.3 * across + 0.8, 2.3 * down + 0.4
    look = {"sharex": True, "sharey": True, "squeeze": False, "layout": "compressed"}
    figure, axes = plt.subplots(down, across, figsize=size, **look)
    extent = (grid[0], grid[-1]) * 2
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
    shared.save_figure(figure, path)


def report(result: dict) -> Iterator[Any]:
    """Tables of part 1, and of each gap in part 2."""
    rows = {
        name: {
            "each seed, %": ", ".join(f"{100 * e:.1f}" for e in of["axes_error"]),
            "starts < 5 %": f"{np.mean(of['axes_error_of_each_start'] < 0.05):.0%}",
            "F, train": f"{np.mean(of['training_free_energy']):.3f}",
            "F, held": f"{np.mean(of['held_out_free_energy']):.3f}",
        }
        for name, of in result["axes"].items()
    }
    yield runs.summary("Half-axes: largest relative error on held-out x", rows)
    for kind, of_horn in result["gap_of_the_horn"].items():
        rows = {
            TITLES[limit]: {f"z of {d}": run["gap_of"][kind] for d, run in of.items()}
            for limit, of in result["free_z"].items()
        }
        yield runs.summary(f"{kind}: F less that held out; of the true horn {of_horn:.2f}", rows)

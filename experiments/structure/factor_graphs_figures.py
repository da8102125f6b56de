"""Figures of what the experiments with factor graphs measure."""

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np

from experiments import shared
from experiments.structure.factor_graphs_grids import COUPLINGS, SETTLED
from experiments.structure.factor_graphs_random import SCALES

LINES = ("o-", "s--", "^:", "D-", "v--", "x-", "P-")
BOUNDS = {
    "linear programme: bound": ("C0", "-"),
    "dual decomposition: bound": ("C1", "--"),
    "tree-reweighted: bound": ("C2", ":"),
}
ENERGIES = {
    "linear programme": ("C0", "s"),
    "tree-reweighted": ("C2", "^"),
    "belief propagation": ("C3", "o"),
    "mean field": ("C4", "x"),
}


def draw_errors(result: dict[str, Any], path: Path) -> None:
    """The mean error of marginals against the coupling, of each method, a panel for each number of neighbours."""
    look: Any = {"layout": "constrained", "sharey": True}
    figure, axes = plt.subplots(1, len(result), figsize=(9, 3.6), **look)
    for axis, (degree, of) in zip(axes, result.items(), strict=True):
        for line, (name, values) in zip(LINES, of["marginals"].items(), strict=False):
            axis.plot(SCALES, values["mean"], line, label=name, ms=5)
        axis.set(xscale="log", yscale="log", title=f"{degree} neighbours on average")
        axis.set(xlabel="scale of the pairs' energies")
        axis.set_xticks(SCALES, [f"{s:g}" for s in SCALES])
        axis.minorticks_off()
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("mean error of marginals")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right center", fontsize=8)
    shared.save_figure(figure, path)


def draw_bounds(drawings: dict[int, dict[str, Any]], path: Path) -> None:
    """Bounds and energies reached less the optimum, graphs in the order of the linear programme's bound."""
    look: Any = {"layout": "constrained", "sharex": True, "squeeze": False}
    figure, axes = plt.subplots(len(drawings), 2, figsize=(10, 6), **look)
    for row, (degree, of) in zip(axes, drawings.items(), strict=True):
        for axis, s in zip(row, (1, 2), strict=True):
            order = np.argsort(-of["linear programme: bound"][s])
            for name, (colour, line) in BOUNDS.items():
                axis.plot(of[name][s][order], line, color=colour, label=name, lw=1.6)
            for name, (colour, mark) in ENERGIES.items():
                above = of[name][s][order]
                there = np.flatnonzero(above > 1e-4)
                label = f"{name}: energy" if axis is axes[0, 0] else None
                axis.plot(there, above[there], mark, color=colour, ms=4, label=label, alpha=0.8)
            axis.axhline(0, color="black", lw=0.8)
            axis.set_title(f"{degree} neighbours, scale {SCALES[s]:g}", fontsize=10)
            axis.grid(alpha=0.3)
        row[0].set_ylabel("less the optimum")
    for axis in axes[-1]:
        axis.set_xlabel("graphs, by the linear programme's bound")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    shared.save_figure(figure, path)


def draw_pictures(truth: np.ndarray, noisy: np.ndarray, found: Any, path: Path) -> None:
    """The truth, what is seen, and every method's answer, pixels that are wrong in red."""
    shown = {"truth": truth, "what is seen": noisy}
    titles = {name: name for name in shown}
    for name, of in found.items():
        if name != "each pixel alone":
            shown[name] = of.y[0]
            said = name.replace(", ", ",\n")
            titles[name] = f"{said}\n+{of.above[0]:.1f}, {of.right[0]:.1f} %"
    columns = 5
    rows = -(-len(shown) // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(2 * columns, 2.5 * rows), layout="constrained", squeeze=False
    )
    colours = np.array([[[255, 255, 255], [20, 20, 20]], [[255, 170, 160], [190, 30, 20]]])
    for axis in axes.flat[len(shown) :]:
        axis.axis("off")
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_color("lightgrey")
    for axis, (name, y) in zip(axes.flat, shown.items(), strict=False):
        axis.imshow(colours[(y != truth).astype(int), y].astype(np.uint8), interpolation="nearest")
        axis.set_title(titles[name], fontsize=9)
    figure.suptitle("energy above the optimum, pixels right; wrong pixels in red", fontsize=10)
    shared.save_figure(figure, path)


def draw_schedules(result: dict[str, Any], path: Path) -> None:
    """How far messages still move, and how wrong the marginals are, against the coupling."""
    figure, axes = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained")
    for line, (name, of) in zip(LINES, result.items(), strict=False):
        residual = np.median(np.asarray(of["residual"]), 1)
        axes[0].plot(COUPLINGS, np.maximum(residual, 1e-7), line, label=name, ms=5)
        axes[1].plot(COUPLINGS, np.asarray(of["error"]).mean(1), line, ms=5)
    axes[0].axhline(SETTLED, color="black", lw=0.8)
    axes[0].set(yscale="log", ylabel="how far messages still move, median")
    axes[1].set(ylabel="mean error of marginals", ylim=(0, None))
    for axis in axes:
        axis.set_xlabel("coupling")
        axis.grid(alpha=0.3)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    shared.save_figure(figure, path)

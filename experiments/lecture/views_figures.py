"""The picture of joint embeddings: energies of all pairs with and without negatives, and digits put together."""

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.patches import Rectangle

from experiments import shared

PAIRS, QUERIES, BEST = 60, 8, 5
MATRICES = "untrained network", "energy loss", "InfoNCE"
GALLERIES = "InfoNCE", "CCA"


def draw(matrices: dict[str, np.ndarray], test: Any, path: Path) -> None:
    """Energies of the first pairs, and under some upper halves the lower ones of lowest energy."""
    figure = plt.figure(figsize=(11, 8.4), layout="constrained")
    parts: Any = figure.subfigures(2, 1, height_ratios=(1, 1.05))
    top, bottom = parts
    partners, drawn = np.argmax(test.belongs, axis=1), None
    axes = top.subplots(1, len(MATRICES))
    for axis, name in zip(axes, MATRICES, strict=True):
        square = matrices[name][:PAIRS, partners[:PAIRS]]
        drawn = axis.imshow(square, vmin=0, vmax=2, cmap="viridis")
        axis.set(title=name, xticks=[], yticks=[], xlabel="lower halves, y")
    axes[0].set_ylabel("upper halves, x")
    assert drawn is not None
    top.colorbar(drawn, ax=axes, label="E = 1 − cos", pad=0.01)
    top.suptitle(f"Energies of {PAIRS} test digits, right pairs on the diagonal")
    for axis, name in zip(bottom.subplots(1, len(GALLERIES)), GALLERIES, strict=True):
        draw_galleries(axis, matrices[name], test, partners)
        axis.set_title(f"{name}: the best five lower halves under each upper half")
    shared.save_figure(figure, path)


def draw_galleries(axis: Any, E: np.ndarray, test: Any, partners: np.ndarray) -> None:
    """A row for each query: the digit itself, then its upper half on the lower halves of lowest energy."""
    canvas = np.full((QUERIES * 9, (BEST + 1) * 9 + 4), np.nan)
    for i in range(QUERIES):
        found = [partners[i], *np.argsort(E[i], kind="stable")[:BEST]]
        for j, row in enumerate(found):
            left = 9 * j + 4 * (j > 0)
            whole = np.concatenate([test.x[i], test.y[row]]).reshape(8, 8)
            canvas[9 * i : 9 * i + 8, left : left + 8] = whole
            if j and test.belongs[i, row]:
                corner = left - 0.8, 9 * i - 0.8
                axis.add_patch(Rectangle(corner, 8.6, 8.6, fill=False, ec="tab:red", lw=2))
    axis.imshow(canvas, cmap="gray_r")
    axis.set(xticks=[4, 36], yticks=[], ylim=(QUERIES * 9, -1.5))
    axis.set_xticklabels(["the digit", "found (the right one in red)"])
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)

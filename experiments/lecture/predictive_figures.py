"""The picture of predictive coding: what it expects in words never seen, and how many letters it needs."""

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.patches import Rectangle

from experiments import shared

STRIPS, SEEN, BEST, MOST = 8, 6, 6, 7
LINES = {
    "words": ("tab:blue", "-"),
    "words, last letter only": ("tab:blue", ":"),
    "words and English": ("tab:red", "-"),
    "words and English, last letter only": ("tab:red", ":"),
}


def draw(outcomes: list[Any], path: Path) -> None:
    """Queries of the first seed, and letters right by how many were seen, over all seeds."""
    figure = plt.figure(figsize=(11, 4.6), layout="constrained")
    parts: Any = figure.subfigures(1, 2, width_ratios=(1, 1.25))
    left, right = parts
    draw_strips(left.subplots(), outcomes[0])
    axes = right.subplots(1, 2, sharey=True)
    for axis, part in zip(axes, ("known", "unseen"), strict=True):
        columns = np.concatenate([of.queries[part].column for of in outcomes])
        for name, (colour, style) in LINES.items():
            hits = np.concatenate([of.hits[part][name] for of in outcomes])
            shares = [100 * np.mean(hits[columns == t]) for t in places(columns)]
            axis.plot(np.arange(len(shares)) + 1, shares, style, color=colour, label=name)
        axis.set(title=f"{part} words", xlabel="letters seen", ylim=(0, 100))
    axes[0].set_ylabel("next letter right, %")
    right.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    shared.save_figure(figure, path)


def places(columns: np.ndarray) -> range:
    """The places that have queries, up to MOST, without a gap."""
    there = np.isin(np.arange(MOST), columns)
    return range(int(np.argmin(there)) if not there.all() else MOST)


def draw_strips(axis: Any, outcome: Any) -> None:
    """A row for each query: the last letters seen, the true next one, and those of lowest energy."""
    of, E = outcome.queries["unseen"], outcome.energies
    some = np.flatnonzero(of.column >= min(2, of.column.max()))[:STRIPS]
    width = 9 * (SEEN + 1 + BEST) + 8
    canvas = np.full((18 * len(some), width), np.nan)
    for i, query in enumerate(some):
        row, column, top = of.row[query], of.column[query], 18 * i
        seen = of.words.x[row, max(0, column + 1 - SEEN) : column + 1]
        best = np.argsort(E[query], kind="stable")[:BEST]
        for j, image in enumerate(seen):
            at = 9 * (SEEN - len(seen) + j)
            canvas[top : top + 16, at : at + 8] = image.reshape(16, 8)
        at = 9 * SEEN + 4
        canvas[top : top + 16, at : at + 8] = of.images[query].reshape(16, 8)
        for j, other in enumerate(best):
            at = 9 * (SEEN + 1 + j) + 8
            canvas[top : top + 16, at : at + 8] = of.images[other].reshape(16, 8)
            if of.letters[other] == of.letters[query]:
                frame = Rectangle((at - 1, top - 1), 9, 17.5, fill=False, ec="tab:red", lw=1.5)
                axis.add_patch(frame)
    axis.imshow(canvas, cmap="gray_r")
    axis.set(xticks=[9 * SEEN / 2, 9 * SEEN + 8, 9 * (SEEN + 1 + BEST / 2) + 8], yticks=[])
    axis.set(xticklabels=["letters seen", "next", "lowest energies"], ylim=(18 * len(some), -2))
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)
    axis.set_title("unseen words; right letters in red")

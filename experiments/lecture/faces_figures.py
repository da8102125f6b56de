"""The tables and figures of faces.py: scenes with maps of their energies, and what is measured over beta."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np

from experiments import shared
from experiments.lecture.faces_scenes import PATCH, STEP, Views, windows

SHOWN = 7
PIXELS = 5.0  # within which a place is found
TABLES = {
    "Is there a face? Area under the curve at the least energy, and of the free energy with its equal error, %": (
        "area",
        "area_free",
        "equal_error",
    ),
    "Where? Found by the least energy, and by the mean of the posterior, % of scenes with a face": (
        "place",
        "scale",
        "angle",
        "pixels",
        "place_mean",
        "scale_mean",
        "angle_mean",
    ),
}


def heat(each: np.ndarray, views: Views) -> np.ndarray:
    """The least energy over scale and angle at each pixel, (side, side), of energies (P, A); NaN where no window is."""
    pixels, best, start = np.arange(views.side), np.full((views.side,) * 2, np.inf), 0
    for size in views.sizes():
        count, scale = windows(size), views.side / size
        level = each[start : start + count**2].min(axis=-1).reshape(count, count)
        start += count**2
        at = ((pixels + 0.5) / scale - PATCH / 2) / STEP
        near = np.clip(np.round(at).astype(int), 0, count - 1)
        inside = np.abs(at - near) <= 0.5
        level = np.where(inside[:, None] & inside[None], level[near][:, near], np.inf)
        best = np.minimum(best, level)
    return np.where(np.isfinite(best), best, np.nan)


def box(pose: np.ndarray) -> np.ndarray:
    """Corners (columns, rows) of a window at a pose, from its upper left and back, then a line to its upper edge."""
    row, column, log_scale, angle = pose
    half, turn = PATCH / 2 * 2**log_scale, np.deg2rad(angle)
    down = half * np.array([-1, -1, 1, 1, -1, np.nan, 0, -1])
    right = half * np.array([-1, 1, 1, -1, -1, np.nan, 0, 0])
    rows = np.cos(turn) * down - np.sin(turn) * right
    columns = np.sin(turn) * down + np.cos(turn) * right
    return np.stack([column + columns, row + rows])


def draw_scenes(rows: Sequence[tuple[Any, ...]], below: float, path: Path) -> None:
    """(image, map of energies, pose found, true pose or None, whether a face) of each scene, one column each.

    Red titles are errors, where energies `below` a level mean a face.
    """
    widths = [1.0] * (len(rows) - 1) + [1.5]
    figure, axes = plt.subplots(
        2, len(rows), figsize=(1.8 * sum(widths), 4.2), layout="constrained", width_ratios=widths
    )
    image_of_map: Any = None
    for (image, energy, found, true, face), (top, under) in zip(rows, axes.T, strict=True):
        least = np.nanmin(energy)
        top.imshow(image, cmap="gray", vmin=0, vmax=1)
        if least < below:
            top.plot(*box(found), c="tab:red", lw=1.8)
        if true is not None and face:
            top.plot(*box(true), c="tab:cyan", lw=1.2, ls="--")
        kind = "astronaut" if true is None else ("a face" if face else "no face")
        right = (least < below) == bool(face)
        top.set_title(f"{kind}\nE − T = {least:.2f}", fontsize=9, color="black" if right else "red")
        image_of_map = under.imshow(energy, cmap="magma", vmin=-3, vmax=6)
        under.plot(found[1], found[0], "+", c="white")
        for axis in (top, under):
            axis.set(xticks=[], yticks=[], xlim=(0, len(image) - 1), ylim=(len(image) - 1, 0))
    figure.suptitle(f"A face where the least E − T is below {below:.2f}", fontsize=10)
    figure.colorbar(image_of_map, ax=axes, label="least E − T over\nscale and angle", shrink=0.6)
    shared.save_figure(figure, path)


def draw_curves(
    tested: dict[str, list], betas: Sequence[float], pose: tuple[Any, Any], path: Path
) -> None:
    """Areas under the curve and places found over beta, mean of seeds; angles found over true ones, of one seed."""
    figure, axes = plt.subplots(1, 3, figsize=(13, 4), layout="constrained")
    at = np.arange(len(betas))
    words = {
        "area": "area under the curve, %",
        "place": "place found within 5 pixels by the mean pose, %",
    }
    for axis, (measure, title) in zip(axes, words.items(), strict=False):
        for i, (name, each) in enumerate(tested.items()):
            values = np.mean([one["by_beta"][measure] for one in each], axis=0)
            axis.plot(at, values, "o-", ms=3, c=f"C{i}", label=name)
        axis.set_xticks(at, [f"{b:g}" if np.isfinite(b) else "∞" for b in betas])
        axis.set(xlabel="β of the answer", title=title)
    axes[0].legend(fontsize=7)
    true, found = pose
    near = np.hypot(*(true - found)[:, :2].T) <= PIXELS
    for which, colour, label in ((near, "tab:blue", "place found"), (~near, "0.7", "place missed")):
        axes[2].plot(true[which, 3], found[which, 3], ".", c=colour, label=label)
    axes[2].plot([-60, 60], [-60, 60], c="0.5", lw=0.8)
    axes[2].set(
        xlabel="true angle, °", ylabel="angle of the least energy, °", title="all told, first seed"
    )
    axes[2].legend(fontsize=8)
    shared.save_figure(figure, path)

"""The figures of parsing.py: what each step of inference changes, and one sentence's arcs before and after."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.patches import PathPatch
from matplotlib.path import Path as Curve

from experiments import shared

RIGHT, WRONG, MENDED = "0.55", "tab:red", "tab:green"
COLOURS = "tab:blue", "tab:purple", "tab:orange"


def draw_steps(
    rows: dict[str, list[Any]], steps: dict[str, int], levels: dict[str, str], path: Path
) -> None:
    """Attachment against the step of inference for parsers with an energy, the others' as level lines.

    rows: of each parser one a seed, with "test" scores; steps: those with an energy, and how many they were trained
    through; levels: {row: how its line is called}.
    """
    figure, axes = plt.subplots(1, 3, figsize=(12.5, 3.6))
    titles = {
        "unlabelled": "words with the right head, %",
        "labelled": "words with the right head and relation, %",
        "whole": "sentences with all heads right, %",
    }
    for axis, (score, title) in zip(axes, titles.items(), strict=True):
        for (name, count), colour in zip(steps.items(), COLOURS, strict=False):
            answers = [*(f"step {t}" for t in range(count)), "any"]
            each = [[row["test"][a][score] for a in answers] for row in rows[name]]
            axis.plot(np.array(each).T, c=colour, lw=0.7, alpha=0.4)
            axis.plot(np.mean(each, 0), "o-", c=colour, ms=5, label=name)
        for (name, called), style in zip(levels.items(), ("-", "--", ":", "-."), strict=False):
            level = np.mean([row["test"]["any"][score] for row in rows[name]])
            axis.axhline(level, c="0.35", lw=1.1, ls=style, label=called)
        axis.set_title(title, fontsize=10)
        axis.set_xticks(range(1 + max(steps.values())))
        axis.set_xlabel("step of inference (0: marginals of the arcs alone)", fontsize=9)
        axis.spines[["top", "right"]].set_visible(False)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.tight_layout(w_pad=2, rect=(0, 0.07, 1, 1))
    figure.legend(handles, labels, loc="lower center", ncols=len(labels), fontsize=9, frameon=False)
    shared.save_figure(figure, path)


def draw_arcs(
    words: Sequence[str], trees: dict[str, tuple[Any, Any]], truth: Any, path: Path
) -> None:
    """Trees over the words of one sentence, one above the other: {title: (heads, relations)}, then the truth.

    Wrong arcs are red; arcs that are right but were wrong in the tree above are green.
    """
    panels = trees | {"truth": truth}
    places = _places(words)
    tops = [_height(heads, places) for heads, _ in panels.values()]
    width = max(7.0, min(13.0, 0.115 * places[-1] + 1))
    scale = width / (places[-1] + 12)
    figure, axes = plt.subplots(
        len(panels),
        1,
        figsize=(width, sum(scale * t + 0.75 for t in tops)),
        gridspec_kw={"height_ratios": [scale * t + 0.75 for t in tops]},
        squeeze=False,
    )
    before = None
    for axis, (title, (heads, relations)), top in zip(
        axes[:, 0], panels.items(), tops, strict=True
    ):
        right = np.asarray(heads) == np.asarray(truth[0])
        mended = (
            right & ~before if before is not None and title != "truth" else np.zeros_like(right)
        )
        colours = np.where(right, np.where(mended, MENDED, RIGHT), WRONG)
        _tree(axis, words, places, heads, relations, colours)
        axis.set(xlim=(places[0] - 6, places[-1] + 6), ylim=(-3.2, top + 3), xticks=[], yticks=[])
        wrong = "" if title == "truth" else f": {int(np.sum(~right))} of {len(right)} heads wrong"
        axis.set_title(title + wrong, fontsize=10, loc="left")
        axis.spines[:].set_visible(False)
        before = right
    figure.tight_layout(h_pad=0.6)
    shared.save_figure(figure, path)


def _places(words):
    """Where the middle of each word stands, in widths of a letter."""
    widths = np.array([max(len(word), 3) + 2.5 for word in words])
    return np.cumsum(widths) - widths / 2


def _arc_height(distance):
    return 1.6 + 1.15 * np.sqrt(distance)


def _height(heads, places):
    spans = [abs(places[d] - places[h - 1]) for d, h in enumerate(heads) if h > 0]
    return max([4.0, *(_arc_height(s) for s in spans)]) + 1


def _tree(axis, words, places, heads, relations, colours):
    for d, (word, head) in enumerate(zip(words, heads, strict=True)):
        axis.text(places[d], -0.6, word, ha="center", va="top", fontsize=9)
        look = {"ec": colours[d], "lw": 1.3, "fc": "none"}
        if head == 0:
            high = 4.0
            axis.plot([places[d]] * 2, [0.4, high], c=colours[d], lw=1.3)
            _head(axis, places[d], colours[d])
            axis.text(places[d], high + 0.2, "root", ha="center", fontsize=7, color=colours[d])
            continue
        # Away from the middle of the head, so that arcs of one head stand apart.
        start = places[head - 1] + np.sign(places[d] - places[head - 1]) * 0.8
        high = _arc_height(abs(places[d] - start))
        points = [(start, 0.2), (start, high * 1.33), (places[d], high * 1.33), (places[d], 0.4)]
        curve = Curve(points, [Curve.MOVETO, Curve.CURVE4, Curve.CURVE4, Curve.CURVE4])
        axis.add_patch(PathPatch(curve, **look))
        _head(axis, places[d], colours[d])
        axis.text(
            (start + places[d]) / 2, high, relations[d], ha="center", va="center", fontsize=6.5, color=colours[d],
            bbox={"fc": "white", "ec": "none", "pad": 0.6},
        )  # fmt: skip


def _head(axis, x, colour):
    axis.plot([x], [0.45], marker="v", ms=4, c=colour)

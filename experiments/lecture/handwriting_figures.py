"""The figures of handwriting.py: the segments of a strip as arcs, and the cuts found before, during and after."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.patches import Arc

from experiments import shared
from experiments.lecture.handwriting_energies import every, of_word, table
from experiments.lecture.handwriting_strips import Strips

ROWS = 4


def segments(y: np.ndarray, width: int) -> list[tuple[int, int, int]]:
    """(begin, end, label) of labels where segments begin, -1 elsewhere."""
    begin = np.flatnonzero(y >= 0)
    return [(int(a), int(b), int(y[a])) for a, b in zip(begin, [*begin[1:], width], strict=True)]


def best_paths(params: Any, strips: Strips) -> tuple[np.ndarray, list, list]:
    """Energies (N, T, L, 26), the segments of each best answer and of each right word."""

    @jax.jit
    def of(params, image, width, word):
        energies = table(params, image)
        right = of_word(energies, width, word).best().y
        return energies, every(energies, width).best().y, right

    energies, best, right = map(np.asarray, of(params, *strips[:3]))
    best = [segments(y, w) for y, w in zip(best, strips.width, strict=True)]
    right = [segments(y, w) for y, w in zip(right, strips.width, strict=True)]
    right = [
        [(a, b, int(word[i])) for a, b, i in path]
        for path, word in zip(right, strips.word, strict=True)
    ]
    return energies, best, right


def draw_graph(params: Any, strips: Strips, alphabet: Any, path: Path) -> None:
    """One strip: segments of low energy as arcs, above the best path and below that of the right word."""
    last = jax.tree.map(lambda p: p[-1], params)
    some = strips.of(np.flatnonzero(strips.letters <= 6)[:300])
    energies, best, right = best_paths(last, some)
    wrong = [
        sum(x != y for x, y in zip(b, r, strict=False)) for b, r in zip(best, right, strict=True)
    ]
    odd = [len(b) == len(r) + 1 for b, r in zip(best, right, strict=True)]
    fits = [o and n >= 5 for o, n in zip(odd, some.letters, strict=True)]
    i = int(np.argmax(fits)) if any(fits) else int(np.argmax(wrong))
    width, table_of = int(some.width[i]), energies[i]
    probability = np.asarray(every(jnp.asarray(table_of), width).marginals().segments)
    figure, axis = plt.subplots(figsize=(12, 6.4), layout="constrained")
    tall, low = 7.0, 0.0
    extent = (0, width, low, tall)
    axis.imshow(some.image[i][:, :width], cmap="Greys", extent=extent, aspect="auto", vmax=1.3)
    taken = {(a, b, k) for a, b, k in best[i] + right[i]}
    order = np.argsort(-probability, axis=None)[:40]
    for a, n, k in zip(*np.unravel_index(order, probability.shape), strict=True):
        if (a, a + n + 1, k) not in taken:
            _arc(axis, (a, a + n + 1), tall, "0.75", 1, 1)
    for route, base, side, colour in (
        (best[i], tall, 1, "tab:red"),
        (right[i], low, -1, "tab:blue"),
    ):
        for a, b, k in route:
            _arc(axis, (a, b), base, colour, side, 2.4)
            height = base + side * ((b - a) * 0.42 + 0.55)
            words = f"{alphabet[k]}  {table_of[a, b - a - 1, k]:.1f}"
            look = {"ha": "center", "va": "center", "fontsize": 12, "color": colour, "zorder": 5}
            look["bbox"] = {"fc": "white", "ec": "none", "pad": 1, "alpha": 0.85}
            axis.text((a + b) / 2, height, words, **look)
    for first, after in zip(some.first[i][1:], some.after[i], strict=False):
        if first < width:
            axis.plot([(first + after) / 2] * 2, [low, tall], ":", c="tab:green", lw=1.6)
    sums = [sum(table_of[a, b - a - 1, k] for a, b, k in route) for route in (best[i], right[i])]
    texts = ["".join(alphabet[k] for *_, k in route) for route in (best[i], right[i])]
    axis.set_title(
        f"above, red: the best answer, “{texts[0]}”, energy {sums[0]:.1f};  grey: other likely segments\n"
        f"below, blue: the best cuts of the right word, “{texts[1]}”, energy {sums[1]:.1f};  "
        "dotted: the true borders",
        fontsize=12,
    )
    axis.set(xlim=(-0.5, width + 0.5), ylim=(-5.2, 12.2), yticks=[], xlabel="column of the strip")
    for side in ("left", "right", "top"):
        axis.spines[side].set_visible(False)
    shared.save_figure(figure, path)


def _arc(axis, ends, base, colour, side, wide):
    a, b = ends
    angles = (0, 180) if side > 0 else (180, 360)
    arc = Arc(((a + b) / 2, base), b - a, 0.84 * (b - a), theta1=angles[0], theta2=angles[1])
    arc.set(color=colour, lw=wide, zorder=2 + (wide > 1))
    axis.add_patch(arc)


def draw_cuts(params: Any, strips: Strips, alphabet: Any, path: Path) -> None:
    """Strips in rows; the best answers of the parameters before, early and after training in columns."""
    lengths = np.resize(np.unique(strips.letters)[::-1], ROWS)
    alike = [np.flatnonzero(strips.letters == n) for n in lengths]
    rows = [int(of[-1 - i % len(of)]) for i, of in enumerate(alike)]
    some, titles = (
        strips.of(np.array(rows)),
        ("before training", "after 20 steps", "after training"),
    )
    figure, axes = plt.subplots(
        len(rows), 3, figsize=(14, 1.75 * len(rows) + 0.5), layout="constrained", squeeze=False
    )
    for column, title in enumerate(titles):
        _, best, _ = best_paths(jax.tree.map(lambda p, c=column: p[c], params), some)
        for row, route in enumerate(best):
            axis, width = axes[row, column], int(some.width[row])
            axis.imshow(
                some.image[row][:, :width], cmap="Greys", vmax=1.3, extent=(0, width, 16, 0)
            )
            size = 11 if len(route) < width / 2 else 6
            for a, b, k in route:
                axis.text((a + b) / 2, -1.6, alphabet[k], ha="center", va="center", fontsize=size)
                if a:
                    axis.plot([a, a], [0, 16], c="tab:red", lw=1.4)
            for first, after in zip(some.first[row][1:], some.after[row], strict=False):
                if first < width:
                    axis.plot([(first + after) / 2] * 2, [16, 18.4], c="tab:green", lw=3)
            axis.set(xlim=(-0.5, np.max(some.width) + 0.5), ylim=(18.6, -3.4), xticks=[], yticks=[])
            axis.set_frame_on(False)
            if not row:
                axis.set_title(title, fontsize=13)
    figure.suptitle(
        "Cuts and letters of the lowest energy (red, above); true borders (green, below)"
    )
    shared.save_figure(figure, path)

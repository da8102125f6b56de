"""Pictures of words: what inference changes step by step, and what knowing the words costs elsewhere."""

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np

import spen_jax as sx
from experiments import shared
from experiments.structure.sequences import from_network
from experiments.structure.words_models import COLUMNS, CONTESTANTS, ROWS, SPEN, STEPS

SHOWN = 6


def draw_steps(params: Any, groups: Any, path: Path) -> None:
    """Letters and words right after each step, and words that inference mended, as it read them on the way."""
    predictor = from_network(SPEN, STEPS)
    features: Any = predictor.features
    right, read = [], []
    for g in groups:
        context = features(params, g["x"], mask=g["mask"])
        found = sx.minimize(
            predictor.energy,
            params,
            context,
            predictor.points(context),
            **predictor.options(params, trace="y"),
        )
        answer = np.argmax(found.trace["y"], -1)  # (B, steps + 1, T)
        right.append((answer == np.argmax(g["y"], -1)[:, None]) | ~g["mask"][:, None])
        read.append(answer)
    counts = np.concatenate([g["mask"].sum(1) for g in groups]).sum()
    wrong = sum((~r).sum((0, 2)) for r in right)
    whole = np.concatenate([r.all(2) for r in right]).mean(0)
    figure = plt.figure(figsize=(12, 5.2), layout="constrained")
    parts: Any = figure.subfigures(1, 2, width_ratios=(1, 2.1))
    axis = parts[0].subplots()
    axis.plot(100 * (1 - wrong / counts), "o-", label="letters")
    axis.plot(100 * whole, "s-", label="words")
    axis.set(
        xlabel="steps of inference",
        ylabel="read right, test words, %",
        xticks=range(0, STEPS + 1, 2),
    )
    axis.legend()
    axis.grid(alpha=0.3)
    draw_examples(parts[1], groups, right, read)
    shared.save_figure(figure, path)


def draw_examples(figure: Any, groups: Any, right: Any, read: Any) -> None:
    """Words of a middle group that were wrong at first and right in the end: images, and readings by step."""
    middle = len(groups) // 2
    g, r, a = groups[middle], right[middle], read[middle]
    mended = np.flatnonzero(r[:, -1].all(1) & ~r[:, 0].all(1))
    by_hardness = mended[np.argsort((r[mended, 0] & g["mask"][mended]).sum(1), kind="stable")]
    _, first = np.unique(np.argmax(g["y"][by_hardness], -1), axis=0, return_index=True)
    hardest = by_hardness[np.sort(first)][:SHOWN]  # of each word one
    axes = figure.subplots(SHOWN, 1)
    for axis in axes:
        axis.axis("off")
    for axis, i in zip(axes, hardest, strict=False):
        n = g["mask"][i].sum()
        image = g["x"][i, :n].reshape(n, ROWS, COLUMNS).transpose(1, 0, 2).reshape(ROWS, -1)
        axis.imshow(image, cmap="Greys", extent=(0, n, 0, 2), aspect="auto")
        axis.set(xlim=(0, 33), ylim=(0, 2))
        for column, step in enumerate((0, 1, 2, 4, STEPS)):
            at = 10.5 + 4.6 * column
            for k in range(n):
                color = "black" if r[i, step, k] else "red"
                axis.text(
                    at + 0.42 * k,
                    0.8,
                    chr(97 + a[i, step, k]),
                    color=color,
                    family="monospace",
                    fontsize=11,
                )
            if axis is axes[0]:
                axis.text(at, 2.3, f"step {step}", fontsize=9)


def draw_unseen(settings: dict[str, Any], path: Path) -> None:
    """Letters right of known and of unseen words, by the strings that were learnt from."""
    figure, axes = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
    for axis, what in zip(axes, ("letters", "words"), strict=True):
        for i, name in enumerate(next(iter(settings.values()))):
            for kind, line in (("known", ":"), ("unseen", "-")):
                values = np.array([of[name][kind][what] for of in settings.values()])
                if values.size:
                    label = CONTESTANTS[name].title if kind == "unseen" else None
                    axis.errorbar(
                        range(len(settings)),
                        values.mean(1),
                        values.std(1),
                        color=f"C{i}",
                        ls=line,
                        marker="o",
                        label=label,
                    )
        axis.set_xticks(range(len(settings)), settings, fontsize=8)
        axis.set(ylabel=f"{what} right, %", title="dotted: words learnt from; lines: unseen words")
        axis.grid(alpha=0.3)
    axes[0].legend(fontsize=8)
    shared.save_figure(figure, path)

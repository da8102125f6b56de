"""The figures of one multi-label training."""

from pathlib import Path

import jax
import matplotlib.pyplot as plt
import numpy as np
import shared
from matplotlib.ticker import MaxNLocator
from multilabel import Model, Outcome, Rows

import spen_jax as sx
from spen_jax import metrics


def draw(
    folder: Path,
    mark: str,
    dataset: sx.data.Dataset,
    models: dict[str, Model],
    outcome: Outcome,
    rows: Rows,
    steps: int,
) -> None:
    """Write inference.png, training.png, tags.png and examples.png.

    Args:
      folder: where to.
      mark: what every title begins with.
      dataset: for the names of words and tags.
      models: by name; "spen" is drawn.
      outcome: of one seed.
      rows: of that seed.
      steps: how many steps training and prediction take.
    """
    model, params = models["spen"], outcome.params["spen"]
    threshold, test = outcome.decisions["spen"].threshold, rows.test
    few = jax.tree.map(lambda a: a[:2515], test)
    iterates, energies = map(np.asarray, model.trace(params, few.x, max(20, steps)))
    y = iterates[:200, steps]
    pairs = np.asarray(model.interactions(params, few.x[:200], y))
    tags = [name.removeprefix("TAG_") for name in dataset.label_names]
    energy = np.mean(energies, axis=0)
    _inference(folder / "inference.png", mark, energy, iterates, few.y, threshold, steps)
    scores = {f"{models[n].title}: {phase}": t.scores for (n, phase), t in outcome.chosen.items()}
    _training(folder / "training.png", mark, scores)
    _interactions(folder / "tags.png", mark, pairs, tags)
    _examples(folder / "examples.png", mark, dataset, iterates, threshold, steps, tags)


def _inference(path, mark, energy, iterates, truth, threshold, steps):
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
    at = np.arange(len(energy))
    left.plot(at, energy, "o-", ms=3)
    left.set(xlabel="inference step", ylabel="mean energy, nats", title=f"{mark}energy")
    f1 = [100 * metrics.example_f1(truth, metrics.decide(iterates[:, t], threshold)) for t in at]
    right.plot(at, f1, "o-", ms=3, color="C1")
    title = f"{mark}F1 at the threshold tuned for step {steps}"
    right.set(xlabel="inference step", ylabel="test F1, %", title=title)
    for axis, least in ((left, 0.1), (right, 2)):
        low, high = axis.get_ylim()
        if high - low < least:
            middle = (low + high) / 2
            axis.set_ylim(middle - least / 2, middle + least / 2)
        axis.axvline(steps, color="k", lw=0.8, ls=":", label=f"{steps} steps, as trained")
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.grid(alpha=0.3)
        axis.legend()
    shared.save_figure(figure, path)


def _training(path, mark, scores):
    """Phases of one model follow each other."""
    figure, axis = plt.subplots(figsize=(7, 4))
    past: dict[str, int] = {}
    for name, values in scores.items():
        model = name.split(":")[0]
        first = past.get(model, 0) + 1
        past[model] = first + len(values) - 1
        if values:
            epochs = np.arange(first, first + len(values))
            axis.plot(epochs, 100 * np.asarray(values), ".-", ms=3, label=name)
    axis.set(
        xlabel="epoch", ylabel="validation F1, %", title=f"{mark}validation F1 through training"
    )
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.grid(alpha=0.3)
    axis.legend()
    shared.save_figure(figure, path)


def _interactions(path, mark, pairs, tags):
    i, j = np.triu_indices(len(tags), 1)
    order = np.argsort(pairs[i, j])
    figure, axes = plt.subplots(1, 2, figsize=(11, 5), layout="constrained")
    widest = 1.05 * np.max(np.abs(pairs[i, j]))
    for axis, which, title, color, limits in (
        (axes[0], order[:15], "attract most", "C0", (-widest, 0)),
        (axes[1], order[::-1][:15], "repel most", "C3", (0, widest)),
    ):
        axis.barh(np.arange(len(which)), pairs[i[which], j[which]], color=color)
        names = [f"{tags[a]} + {tags[b]}" for a, b in zip(i[which], j[which], strict=True)]
        axis.set_yticks(np.arange(len(which)), names)
        axis.invert_yaxis()
        axis.set(title=f"{mark}tags that {title}", xlim=limits)
        axis.set_xlabel(
            r"$\partial^2 E/\partial y_i \partial y_j$, nats, mean over 200 test entries"
        )
        axis.xaxis.set_major_locator(MaxNLocator(5))
    shared.save_figure(figure, path)


def _examples(path, mark, dataset, iterates, threshold, steps, tags):
    """The first test entries whose tags inference changed, right or wrong."""
    before = metrics.decide(iterates[:, 0], threshold)
    after = metrics.decide(iterates[:, steps], threshold)
    shown = np.flatnonzero((before != after).any(axis=1))[:7]
    words = np.asarray(dataset.feature_names)
    rarity = np.sum(dataset.train.x > 0, axis=0)
    rows = []
    for n in shown:
        on = np.flatnonzero(dataset.test.x[n])
        rarest = on[np.argsort(rarity[on], kind="stable")][:8]
        sets = (dataset.test.y[n] > 0, before[n], after[n])
        named = (", ".join(np.asarray(tags)[s]) or "(none)" for s in sets)
        rows.append([_wrap(", ".join(words[rarest])), *map(_wrap, named)])
    figure, axis = plt.subplots(figsize=(13, 0.8 + 0.95 * max(len(rows), 1)))
    axis.axis("off")
    axis.set_title(
        f"{mark}the first test entries whose tags the inference changed (threshold tuned for its last step)"
    )
    header = ["rarest words", "true tags", "tags before inference", "tags after"]
    table = axis.table(rows or [["none"] * 4], colLabels=header, loc="center", cellLoc="left")
    table.auto_set_font_size(False)
    table.set_fontsize(8.5)
    table.scale(1, 3.8)
    shared.save_figure(figure, path)


def _wrap(text: str, width: int = 36) -> str:
    lines = [""]
    for word in text.split(" "):
        if len(lines[-1]) + len(word) > width:
            lines.append("")
        lines[-1] += word + " "
    shown = [line.rstrip() for line in lines[:4]]
    return "\n".join(shown) + (" ..." if len(lines) > 4 else "")

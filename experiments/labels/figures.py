"""What the figures of the multi-label experiments share, and those of one training."""

import textwrap
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.ticker import MaxNLocator

import spen_jax as sx
from experiments import shared
from experiments.labels.protocol import Model, Outcome, Rows, taken
from experiments.labels.runs import Run
from spen_jax import metrics


def plot_range(
    axis: Any, at: Sequence[float], values: Sequence[Sequence[float]], label: str
) -> None:
    """The mean of several values at each point as a line, and their range as a band."""
    (line,) = axis.plot(at, [np.mean(v) for v in values], "o-", label=label)
    low, high = ([f(v) for v in values] for f in (min, max))
    axis.fill_between(at, low, high, color=line.get_color(), alpha=0.2)


def finish(
    axis: Any,
    title: str,
    xlabel: str = "",
    ylabel: str = "",
    *,
    counts: Sequence[int] = (),
    legend: Literal["inside", "beside"] = "inside",
) -> None:
    """Title, names, grid, and a legend where there are labels; a logarithmic axis for `counts` of rows."""
    axis.set(title=title, xlabel=xlabel, ylabel=ylabel)
    if counts:
        axis.set_xscale("log")
        axis.set_xticks(counts, [f"{n:,}" for n in counts])
        axis.minorticks_off()
    axis.grid(alpha=0.3)
    if legend == "beside":
        axis.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    elif axis.get_legend_handles_labels()[0]:
        axis.legend()


def draw(
    run: Run, mark: str, models: dict[str, Model], outcomes: dict[str, Outcome], rows: Rows
) -> None:
    """Write inference.png, training.png, tags.png and examples.png of one seed's outcomes; titles begin with `mark`."""
    predictor, spen = models["spen"].predictor, outcomes["spen"]
    params, few, steps = spen.params, taken(rows.test, slice(2515)), predictor.steps
    longer = replace(predictor, steps=max(20, steps), trace=("y", "energy"))
    trace = {name: np.asarray(a) for name, a in longer(params, few.x).trace.items()}
    y = trace["y"]
    tags = [name.removeprefix("TAG_") for name in run.dataset.label_names]
    f1 = [metrics.example_f1(spen.rules.tuned(y[:, t]), few.y) for t in range(y.shape[1])]
    energy = np.mean(trace["energy"], axis=0)
    _inference(run.folder / "inference.png", mark, energy, 100 * np.array(f1), steps)
    _training(run.folder / "training.png", mark, models, outcomes)
    at = y[:200, steps]
    context = predictor.context(params, few.x[:200])
    pairs = np.asarray(sx.interactions(predictor.energy, params, context, at))
    _interactions(run.folder / "tags.png", mark, pairs, tags)
    sets = [spen.rules.tuned(y[:, t]) for t in (0, steps)]
    _examples(run.folder / "examples.png", mark, run.dataset, sets, np.array(tags))


def _inference(path: Path, mark, energy, f1, steps):
    figure, axes = plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
    right = f"{mark}F1 at the threshold tuned for step {steps}"
    for axis, values, color, least, name, title in (
        (axes[0], energy, "C0", 0.1, "mean energy, nats", f"{mark}energy"),
        (axes[1], f1, "C1", 2, "test F1, %", right),
    ):
        axis.plot(values, "o-", ms=3, color=color)
        low, high = axis.get_ylim()
        if high - low < least:
            axis.set_ylim((low + high - least) / 2, (low + high + least) / 2)
        axis.axvline(steps, color="k", lw=0.8, ls=":", label=f"{steps} steps, as trained")
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        finish(axis, title, "inference step", name)
    shared.save_figure(figure, path)


def _training(path: Path, mark, models, outcomes):
    """Phases of one model follow each other."""
    figure, axis = plt.subplots(figsize=(7, 4))
    for name, model in models.items():
        past = 0
        for phase, trained in zip(model.phases, outcomes[name].chosen, strict=True):
            epochs = past + 1 + np.arange(len(trained.scores))
            label = f"{model.title}: {phase.name}" if trained.scores else None
            axis.plot(epochs, 100 * np.asarray(trained.scores), ".-", ms=3, label=label)
            past += len(trained.scores)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    finish(axis, f"{mark}validation F1 through training", "epoch", "validation F1, %")
    shared.save_figure(figure, path)


def _interactions(path: Path, mark, pairs, tags):
    i, j = np.triu_indices(len(tags), 1)
    order = np.argsort(pairs[i, j])
    figure, axes = plt.subplots(1, 2, figsize=(11, 5), layout="constrained")
    widest = 1.05 * np.max(np.abs(pairs[i, j]))
    for axis, which, title, color, limits in (
        (axes[0], order[:15], "attract most", "C0", (-widest, 0)),
        (axes[1], order[::-1][:15], "repel most", "C3", (0, widest)),
    ):
        names = [f"{tags[a]} + {tags[b]}" for a, b in zip(i[which], j[which], strict=True)]
        axis.barh(np.arange(len(which)), pairs[i[which], j[which]], color=color)
        axis.set_yticks(np.arange(len(which)), names)
        axis.invert_yaxis()
        axis.set(title=f"{mark}tags that {title}", xlim=limits)
        axis.set_xlabel(
            r"$\partial^2 E/\partial y_i \partial y_j$, nats, mean over 200 test entries"
        )
        axis.xaxis.set_major_locator(MaxNLocator(5))
    shared.save_figure(figure, path)


def _examples(path: Path, mark, dataset, sets, tags):
    """The first test entries whose tags inference changed, right or wrong."""
    before, after = sets
    words = np.asarray(dataset.feature_names)
    rarity = np.sum(dataset.train.x > 0, axis=0)
    rows = []
    for n in np.flatnonzero((before != after).any(axis=1))[:7]:
        on = np.flatnonzero(dataset.test.x[n])
        rarest = words[on[np.argsort(rarity[on], kind="stable")][:8]]
        named = (tags[s] for s in (dataset.test.y[n] > 0, before[n], after[n]))
        texts = (", ".join(names) or "(none)" for names in (rarest, *named))
        rows.append(
            ["\n".join(textwrap.wrap(t, 36, max_lines=4, placeholder=" ...")) for t in texts]
        )
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

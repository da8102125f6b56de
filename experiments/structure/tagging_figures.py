"""The figures and the tables of tagging.py."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np

from experiments import shared
from experiments.lecture import runs
from experiments.structure import tagging_analysis as analysis

TITLES = {
    "before": "the network they start from",
    "softmax": "BiGRU, each tag alone",
    "crf": "CRF",
    "spen": "SPEN",
    "tied": "the same layers, no energy",
}
MEASURES = {"tokens": "tokens", "unknown_words": "unknown words", "sentences": "whole sentences"}
COLOURS = {"corrected": "tab:green", "spoiled": "tab:red", "wrong_as_before": "0.6"}


def draw_steps(of: dict[str, dict[str, Any]], path: Path) -> None:
    """Accuracy, and tags that inference has changed, step by step: a column for each number of sentences."""
    look: Any = {"squeeze": False, "sharex": True, "figsize": (4.2 * len(of), 5)}
    figure, axes = plt.subplots(2, len(of), **look)
    for (name, found), (upper, lower) in zip(of.items(), axes.T, strict=True):
        steps = np.arange(len(found["tokens"]))
        upper.plot(steps, found["tokens"], "o-", c="tab:blue", ms=4)
        middle = np.mean(found["tokens"])
        upper.set_ylim(middle - 0.5, middle + 0.5)
        upper.set_title(f"{name} training sentences", fontsize=10)
        under = np.zeros(len(steps))
        for kind, colour in COLOURS.items():
            counts = np.array(found[kind])
            label = kind.replace("_", " ")
            lower.bar(steps, counts, bottom=under, color=colour, label=label)
            under += counts
        lower.set_xlabel("steps of inference")
    axes[0, 0].set_ylabel("test tokens right, %")
    axes[1, 0].set_ylabel("tags changed")
    handles, labels = axes[1, 0].get_legend_handles_labels()
    figure.tight_layout(rect=(0, 0.08, 1, 1))
    figure.legend(handles, labels, loc="lower center", ncols=3, fontsize=8, frameon=False)
    shared.save_figure(figure, path)


def draw_pairs(
    energy: np.ndarray, information: np.ndarray, names: Sequence[str], path: Path
) -> None:
    """Which tags attract each other: minus the CRF's energies of transitions, beside what counting the pairs says."""
    figure, axes = plt.subplots(1, 2, figsize=(11, 5), layout="compressed")
    tables = {"CRF beside its BiGRU: −A": -energy, "counted: log P(a, b) / P(a) P(b)": information}
    for axis, (title, table) in zip(axes, tables.items(), strict=True):
        limit = float(np.max(np.abs(table)))
        image = axis.imshow(table, cmap="RdBu_r", vmin=-limit, vmax=limit)
        axis.set_xticks(range(len(names)), names, rotation=90, fontsize=7)
        axis.set_yticks(range(len(names)), names, fontsize=7)
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("next tag", fontsize=9)
        figure.colorbar(image, ax=axis, shrink=0.75)
    axes[0].set_ylabel("tag", fontsize=9)
    shared.save_figure(figure, path)


def table(n: str | int, models: dict[str, dict[str, list[float]]]) -> Any:
    """Mean and spread of each model."""
    rows = {
        TITLES[name]: {
            title: cell(np.mean(of[m])) + spread_of(of[m]) for m, title in MEASURES.items()
        }
        for name, of in models.items()
    }
    return runs.summary(f"{n} sentences: test, % right", rows)


def cell(value: Any) -> str:
    """A number with two digits, or nothing where there is none."""
    return "" if value is None or np.isnan(value) else f"{value:.2f}"


def spread_of(values: Sequence[float]) -> str:
    """± the sample standard deviation of several values."""
    return f" ± {np.std(values, ddof=1):.2f}" if len(values) > 1 else ""


def draw(result: dict[str, Any], sentences: Any, folder: Path) -> None:
    """Both figures of a run, the second of its last number of sentences, whose tags are given."""
    steps = {n: of["steps"] for n, of in result["insides"].items()}
    draw_steps(steps, folder / "steps.png")
    names, last = result["tags"], list(result["insides"].values())[-1]
    information = analysis.bigrams(sentences, len(names))
    draw_pairs(last["transitions"], information, names, folder / "pairs.png")


def report(result: dict[str, Any]) -> Iterator[Any]:
    """What was found inside, in a table for each number of sentences, and sentences that inference changed."""
    for n, of in result["insides"].items():
        last = {kind: counts[-1] for kind, counts in of["steps"].items()}
        yield (
            f"{n} sentences: inference changes {sum(last[k] for k in COLOURS)} test tags, "
            f"{last['corrected']} for better, {last['spoiled']} for worse"
        )
        rows = {
            str(TITLES.get(name, name)): {
                "three tags in a row never seen, %": cell(of["threes_not_seen"][name]),
                "right where asked": cell(of["neighbours_found"].get(name)),
                "and all others told": cell(of["neighbours_told"].get(name)),
            }
            for name in of["threes_not_seen"]
        }
        yield runs.summary(f"{n} sentences, the first seed", rows)
        pairs = ", ".join(f"{a} as {b} {k}" for a, b, k in of["confusions"]["pairs"][:8])
        yield f"errors of the network alone: {of['confusions']['errors']}; {pairs}"
        for example in of["examples"][:4]:
            words = ", ".join(
                f"{c['word']}: {c['before']} -> {c['after']} (true {c['true']})"
                for c in example["changed"]
            )
            yield f"  {example['words']}  ({words})"

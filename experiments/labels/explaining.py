"""Which labels a fitted energy relates, how strongly they pull each other, and whether that decides anything.

Three trainings of `SPENClassifier`: as it is by default; with a matrix of pairs; with pairs, and told some
labels in training. "Deaf" is inference whose terms see the mean answer of the training rows in place of y: no label
then hears another, and all else is as it was. Writes explain-interactions.png and explain-inference.png of the third,
on BibTeX.

    python experiments/labels/explaining.py --out FOLDER
    python experiments/labels/explaining.py --dataset yeast
"""

from pathlib import Path
from typing import Any, Literal, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import tyro
from scipy.sparse import csr_array

import spen_jax as sx
from experiments import shared
from spen_jax import metrics
from spen_jax.estimators import SPENClassifier
from spen_jax.estimators.explaining import explanation_of
from spen_jax.estimators.interactions import read, sigmoid
from spen_jax.estimators.learning import answers
from spen_jax.estimators.plots import plot_inference, plot_interactions

SETTINGS = {"default": {}, "pairs": {"pairs": True}, "told": {"pairs": True, "known_share": 0.5}}
ROW, KNOWN = 553, ["topic7"]
"""The test row that is drawn."""


class Rows(NamedTuple):
    """x (N, D), dense or CSR, and their label sets."""

    x: Any
    sets: list[list[str]]


def rows_of(split: Any, names: list[str]) -> Rows:
    """A part of the data as the estimator takes it."""
    words = np.count_nonzero(split.x) < 0.15 * split.x.size
    sets = [[n for n, on in zip(names, row, strict=True) if on] for row in split.y]
    return Rows(csr_array(split.x) if words else split.x, sets)


def deaf(model: SPENClassifier, x: Any) -> np.ndarray:
    """y (N, L) where the energy's terms see the mean answer in place of y."""
    found = []
    for flat in model.flats_:
        member = read(model.shape_, flat, x)
        of = member.of
        units = member.shift + of.C @ model.mean_y_ + of.d
        z = member.s - (of.k * sigmoid(units)) @ of.C
        if of.A is not None:
            z = z + of.A @ model.mean_y_
        kept = 0.5**model.shape_.steps  # the mirror steps of 1/2 from s towards z
        found.append(sigmoid(kept * member.s + (1 - kept) * z))
    return np.mean(found, axis=0)


def judge(model: SPENClassifier, rows: Rows) -> dict[str, float]:
    """How large pulls are (labels of y at least 0.1 in 300 rows), and F1 with and without them."""
    x = model.scaling_(rows.x)
    largest = []
    for i in range(300):
        found = explanation_of(model.shape_, model.flats_, x[[i]], model.classes_, top=None)
        counts = np.maximum(found.before, found.after)[found.of] >= 0.1
        largest += np.abs(found.pulls[counts]).max(axis=1).tolist()
    truth = np.array([[name in labels for name in model.classes_] for labels in rows.sets])
    decide = model.decision_
    on = decide.sets(decide.probabilities(answers(model.shape_, model.flats_, x)))
    without = decide.sets(decide.probabilities(deaf(model, x)))
    return {
        "median pull": float(np.median(largest)),
        "99 %": float(np.quantile(largest, 0.99)),
        "agreement": model.interactions_.agreement,
        "F1": 100 * float(metrics.example_f1(on, truth)),
        "F1 deaf": 100 * float(metrics.example_f1(without, truth)),
        "% of rows decided otherwise": 100 * float(np.mean((on != without).any(axis=1))),
    }


def draw(model: SPENClassifier, rows: Rows, folder: Path) -> None:
    """Write both figures."""
    folder.mkdir(parents=True, exist_ok=True)
    figure = plot_interactions(model).figure
    shared.save_figure(figure, folder / "explain-interactions.png")
    figure, axes = plt.subplots(1, 2, figsize=(12, 4.3), layout="constrained")
    x = rows.x[[ROW]]
    for ax, known in zip(axes, (None, KNOWN), strict=True):
        plot_inference(model.explain(x, known=known), top=8, ax=ax, truth=rows.sets[ROW])
        ax.set_title(f"told {', '.join(known)}" if known else "told nothing", loc="left")
    shared.save_figure(figure, folder / "explain-inference.png")


def main(
    out: Path = Path("runs/explaining"),
    dataset: Literal["bibtex", "delicious", "scene", "yeast"] = "bibtex",
) -> None:
    """Say which labels a fitted energy relates, with three settings; of BibTeX also drawn into the folder `out`."""
    data = sx.data.load(dataset)
    names = [name.removeprefix("TAG_") for name in data.label_names]
    train, test = rows_of(data.train, names), rows_of(data.test, names)
    for name in SETTINGS:
        model = SPENClassifier(random_state=0, **SETTINGS[name]).fit(*train)
        print(name, {key: round(value, 2) for key, value in judge(model, test).items()})
        print(model.interactions_)
        if name == "told" and dataset == "bibtex":
            draw(model, test, out)
            print(model.explain(test.x[[ROW]], known=KNOWN))


if __name__ == "__main__":
    tyro.cli(main)

"""Does `SPENClassifier()` do without tuning? Its defaults beside tuned logistic regressions and classifier chains.

The question: example-averaged F1 on test rows of the estimator as it is, with no setting given, beside the better of
what scikit-learn's user would tune: a logistic regression a label, or chains of them, with C chosen on a fifth of the
training rows and fitted again on all of them; each with its own decision, a half, and with the decision that the
estimator takes by itself, the set of the best expected F1; and what its energy's global term adds to that.

Expected: at least as good everywhere; mostly by the decision where labels are many, and by the network where rows are
few words wide.

Protocol: BibTeX, Delicious, Scene and Yeast have their own test rows; of scikit-learn's small sets each seed draws 30 %
as test rows, and of its made-up label sets (`make_multilabel_classification`) new rows. One column of classes has one
label a row, and F1 is the share of right rows.
Minutes: two for the small sets, Scene and Yeast, and five seeds; 40 with BibTeX, hours with Delicious, nearly all for
the logistic regressions.
"""

import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from rich.table import Table
from sklearn import datasets
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import spen_jax as sx
from experiments import shared
from experiments.labels import baselines, protocol, runs
from experiments.labels.inputs import Inputs, compressed
from spen_jax.estimators import SPENClassifier

SMALL: dict[str, Callable[..., Any]] = {
    "iris": datasets.load_iris,
    "wine": datasets.load_wine,
    "breast_cancer": datasets.load_breast_cancer,
    "digits": datasets.load_digits,
}
MADE = {"made-100": (100, 20, 5, 2), "made-400": (400, 72, 6, 2), "made-1000": (1000, 100, 30, 3)}
"""Rows, features, labels and labels a row of made-up label sets; 1,000 more rows are test rows."""
MULAN = "yeast", "scene", "bibtex", "delicious"
FEW = 0.03, 0.1, 0.3, 1.0
"""Of C on the large sets; at their inputs of length 8 a tenth is about 10 at length 1."""


@dataclass(frozen=True)
class Config:
    """The estimator's defaults beside tuned linear models."""

    sets: tuple[str, ...] = (*SMALL, *MADE, "yeast", "scene")  # also bibtex and delicious
    seeds: runs.Seeds = (0, 1, 2, 3, 4)
    baselines: bool = True  # whether linear models are fitted too
    data_dir: runs.DataDir = None
    out: runs.Out = None
    quick: runs.Quick = False


def of_classes(name: str, seed: int) -> tuple[dict[str, float], tuple[Any, ...]]:
    """A tuned logistic regression's score, and (x, y, test x, test y) of one column of classes."""
    x, y = SMALL[name](return_X_y=True)
    x, xt, y, yt = train_test_split(x, y, test_size=0.3, random_state=seed, stratify=y)
    linear = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
    grid = {"logisticregression__C": baselines.STRENGTHS}
    found: Any = GridSearchCV(linear, grid).fit(x, y)
    return {"logistic": 100 * float(found.score(xt, yt))}, (x, y, xt, yt)


def made(name: str, seed: int) -> tuple[Any, ...]:
    """(x, y, test x, test y) of made-up label sets."""
    n, d, labels, each = MADE[name]
    x: Any
    y: Any
    x, y, *_ = datasets.make_multilabel_classification(
        n + 1000, d, n_classes=labels, n_labels=each, allow_unlabeled=False, random_state=seed
    )
    return x[:n].astype(np.float32), y[:n].astype(np.float32), x[n:].astype(np.float32), y[n:]


def linear_models(name: str, rows: tuple[Any, ...], seed: int) -> dict[str, float]:
    """F1 of both linear models on label sets, at a half and by expected F1."""
    x, y, xt, yt = rows
    inputs = Inputs.of(x)
    whole, test = sx.data.Split(compressed(inputs(x)), y), sx.data.Split(compressed(inputs(xt)), yt)
    part, valid = sx.data.split(len(y), 0.2, seed)
    inner = Inputs.of(x[part])
    given = protocol.Rows(
        whole,
        sx.data.Split(compressed(inner(x[part])), y[part]),
        sx.data.Split(compressed(inner(x[valid])), y[valid]),
        test,
        bool(np.any(y.sum(axis=1) == 0)),
    )
    large = name in ("bibtex", "delicious")
    strengths = FEW if large else baselines.STRENGTHS[::2]
    found: dict[str, float] = {}
    for title, short in (("logistic regressions", "logistic"), ("classifier chains", "chains")):
        measured = baselines.run(given, title, seed, strengths, number=1 if large else 3)
        found[short] = measured["test_f1_fixed"]
        found[f"{short}_expected"] = measured["test_f1_expected"]
    return found


def one(config: Config, name: str, seed: int) -> dict[str, float]:
    """All figures of a set and a seed."""
    found: dict[str, float] = {}
    if name in SMALL:
        found, rows = of_classes(name, seed)
    elif name in MADE:
        rows = made(name, seed)
    else:
        data = runs.load(name, config.data_dir, config.quick)
        rows = data.train.x, data.train.y, data.test.x, data.test.y
    # Of the sets with their own test rows the linear models differ by the rows that choose C alone: one seed does.
    if config.baselines and name not in SMALL and not (name in MULAN[2:] and seed):
        found = linear_models(name, rows, seed)
    x, y, xt, yt = rows
    if name not in SMALL:
        control = SPENClassifier(global_units=0, random_state=seed).fit(x, y)
        found["control"] = 100 * control.score(xt, yt)
    began = time.perf_counter()
    model = SPENClassifier(random_state=seed).fit(x, y)
    return found | {"seconds": time.perf_counter() - began, "spen": 100 * model.score(xt, yt)}


def main(config: Config) -> dict[str, Any]:
    """Run the experiment, write its folder and return the result."""
    began = time.perf_counter()
    shared.check_seeds(config.seeds)
    if unknown := [name for name in config.sets if name not in (*SMALL, *MADE, *MULAN)]:
        shared.fail(f"--sets knows {', '.join((*SMALL, *MADE, *MULAN))}, got {unknown[0]}")
    folder = shared.new_folder(config.out, "defaults")
    result: dict[str, Any] = {"environment": shared.environment(), "quick": config.quick}
    result |= {"seeds": config.seeds, "sets": {}}
    with warnings.catch_warnings(), shared.progress_bars() as progress:
        warnings.simplefilter("ignore", ConvergenceWarning)
        bar = progress.add_task("", total=len(config.sets) * len(config.seeds), note="")
        for name in config.sets:
            each = []
            for seed in config.seeds:
                progress.update(bar, description=f"{name}, seed {seed}")
                each.append(one(config, name, seed))
                progress.advance(bar)
            keys = each[0]
            result["sets"][name] = {k: [e[k] for e in each if k in e] for k in keys}
            result["seconds"] = time.perf_counter() - began
            shared.write_json(folder / "result.json", result)
    shared.say(table_of(result))
    shared.say(f"{result['seconds']:.0f} s in all; wrote {folder}")
    return result


def table_of(result: dict[str, Any]) -> Table:
    """Mean and spread of F1 by set and model."""
    columns = "set", "logistic", "chains", "logistic, expected F1", "chains, expected F1"
    mark = " (quick run: these figures mean nothing)" * result["quick"]
    table = Table(
        *columns, "no global term", "SPENClassifier()", "seconds", title=f"test F1, %{mark}"
    )
    for name, found in result["sets"].items():
        keys = "logistic", "chains", "logistic_expected", "chains_expected", "control", "spen"
        cells = [shared.mean_and_spread(found[key]) if key in found else "" for key in keys]
        table.add_row(name, *cells, f"{np.median(found['seconds']):.1f}")
    return table


if __name__ == "__main__":
    shared.run(main, Config, __doc__)

"""Tags suggested when some of a row's are given, by an energy and by networks that are told them.

The question: of a row of Delicious (983 tags) or BibTeX (159) none to five tags are given. How well are its other tags
ranked by its words and these, and does an energy use them better than a network that has them as inputs?

The models, all one hidden layer on the row's words:
- the feature network alone, which cannot use tags;
- a feed-forward network that is told tags as further inputs, "masked", of the same width, of twice the width, and with
  a matrix of pairs from told tags to logits;
- `SPENClassifier`, trained as usual, and with tags told in training (`known_share`): given tags are held fixed in
  inference, and the energy says what goes with them.
In training each row draws a share from [0, --share], and each of its tags is told with that probability; the loss
counts all other labels. Told are only tags that are on, as in the test.

Protocol: test rows of three tags or more, for k = 3, 4, 5 given tags of k + 1 or more. A seeded order of each row's
tags says which are given, the same for all models. Average precision of the labels not given, by row, then the mean
over rows. A fifth of the training rows, drawn by seed, chooses the epoch; settings were chosen on further rows held
out of the training rows, never on test rows.

Minutes: 11 of a shared core for a seed of Delicious, 4 for one of BibTeX.
"""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import matplotlib.pyplot as plt
import numpy as np
from rich.table import Table

import spen_jax as sx
from experiments import shared
from experiments.labels import figures, masked, runs
from spen_jax import metrics
from spen_jax.estimators import SPENClassifier
from spen_jax.training import Recipe

TITLES = {
    "network": "feature network",
    "masked": "masked network",
    "masked-wide": "masked network, twice as wide",
    "masked-pairs": "masked network with pairs",
    "spen": "SPEN, trained as usual",
    "spen-known": "SPEN, tags told in training",
}
SIZES = {"delicious": (300, 24), "bibtex": (1000, 36)}  # hidden units, epochs at most
RATES = {"bibtex": 1e-3}  # of the SPEN that is told tags; else its default


@dataclass(frozen=True)
class Config:
    """Average precision of a row's other tags when some are given."""

    dataset: Literal["delicious", "bibtex"] = "delicious"
    seeds: runs.Seeds = (0,)
    models: tuple[str, ...] = tuple(TITLES)
    share: float = 0.5  # of a row's tags that training tells at most
    width: int | None = None  # hidden units; 300, and for BibTeX 1,000
    epochs: int | None = None  # at most; 24, and for BibTeX 36
    most: int = 5  # tags given at most
    data_dir: runs.DataDir = None
    out: runs.Out = None
    quick: runs.Quick = False


class Asked(NamedTuple):
    """What is asked with so many tags given: test rows, and which of their tags are given."""

    x: Any
    y: np.ndarray
    given: np.ndarray


def asked_of(test: sx.data.Split, most: int, seed: int) -> dict[int, Asked]:
    """By number of given tags, as far as there are rows; what is given first stays given."""
    number = test.y.sum(axis=1)
    lots = np.where(test.y > 0, np.random.default_rng(seed).random(test.y.shape), 2)
    place = np.argsort(np.argsort(lots, axis=1), axis=1)
    asked = {}
    for k in range(most + 1):
        rows = np.flatnonzero(number >= max(3, k + 1))
        if len(rows):
            asked[k] = Asked(test.x[rows], test.y[rows], place[rows] < k)
    return asked


def average_precision(scores: np.ndarray, one: Asked) -> float:
    """Of the labels that are not given, in percent."""
    return 100 * metrics.average_precision(scores, one.y, ~one.given)


def size_of(config: Config) -> tuple[int, int]:
    """Hidden units, and epochs at most."""
    usual = (32, 2) if config.quick else SIZES[config.dataset]
    return config.width or usual[0], config.epochs or usual[1]


def of_estimator(name: str, config: Config, data: sx.data.Split, seed: int) -> dict[str, Any]:
    """Trains a `SPENClassifier`; how it scores, and what there is to say of it."""
    own: dict[str, Any] = {
        "network": {"global_units": 0, "steps": 0},
        "spen": {"global_units": 256, "pairs": True},  # as they are by default where tags are told
        "spen-known": {"known_share": config.share, "learning_rate": RATES.get(config.dataset)},
    }[name]
    width, epochs = size_of(config)
    model = SPENClassifier(
        decision=0.5,
        hidden_units=width,
        epochs=epochs,
        members=1,
        random_state=seed,
        **own,
    ).fit(data.x, data.y)

    def scores(one: Asked) -> np.ndarray:
        # What is given is on, and nothing is known of the others.
        known = np.where(one.given, one.y, np.nan) if one.given.any() else None
        return model.predict_proba(one.x, known=known)

    size = sum(a.size for a in model.flats_) - 2  # the two rates of dropout are not learned
    return {"scores": scores, "epoch": model.n_epochs_[0], "parameters": size}


def of_masked(
    name: str, config: Config, data: sx.data.Split, seed: int, progress: Any
) -> dict[str, Any]:
    """Trains a masked network as the estimator trains; the same as `of_estimator`."""
    wide = name == "masked-wide"
    n_labels, (width, count) = data.y.shape[1], size_of(config)
    dropout = 0.8 if n_labels < 500 else 0.5  # as the estimator chooses it
    module = masked.Masked(n_labels, width * (1 + wide), 0.3, dropout, name == "masked-pairs")
    rates = (("['T']", 10.0), ("['A']", 3.0))
    recipe = Recipe(count, 3e-3, 0.1, 256, patience=10, rates=rates)
    scaling, epochs = masked.training(module, data, recipe, config.share, seed)
    found = shared.followed(epochs, progress, f"seed {seed}: {TITLES[name]}", count)

    def scores(one: Asked) -> np.ndarray:
        return masked.logits(module, found.params, scaling(one.x), one.given.astype(np.float32))

    size = sum(a.size for a in jax.tree.leaves(found.params))
    return {"scores": scores, "epoch": found.epoch, "parameters": size}


def main(config: Config) -> dict[str, Any]:
    """Run the experiment, write its folder and return the result."""
    if unknown := [name for name in config.models if name not in TITLES]:
        shared.fail(f"--models knows {', '.join(TITLES)}, got {', '.join(unknown)}")
    if not 0 < config.share <= 1:
        shared.fail(f"--share must be above 0, at most 1, got {config.share}")
    shared.check_least(config, most=0)
    if min(size_of(config)) < 1:
        shared.fail("--width and --epochs must be at least 1")
    run = runs.begin(config, "suggest-{}")
    train, test = run.dataset.train, run.dataset.test
    each: dict[str, list[dict[str, Any]]] = {name: [] for name in config.models}
    result: dict[str, Any] = {}
    with shared.progress_bars() as progress:
        bar = progress.add_task("models", total=len(config.seeds) * len(each), note="")
        for seed in config.seeds:
            asked = asked_of(test, config.most, seed)
            for name, done in each.items():
                began = time.perf_counter()
                if name.startswith("masked"):
                    model = of_masked(name, config, train, seed, progress)
                else:
                    model = of_estimator(name, config, train, seed)
                seconds = time.perf_counter() - began
                scores = model.pop("scores")
                found = {str(k): average_precision(scores(one), one) for k, one in asked.items()}
                done.append({"average_precision": found, "seconds": seconds, **model})
                progress.update(bar, advance=1)
                texts = " ".join(f"{value:.1f}" for value in found.values())
                shared.say(f"seed {seed}, {TITLES[name]}: {texts}, {seconds:.0f} s")
            result = run.write(summary(each, {str(k): len(one.y) for k, one in asked.items()}))
    draw(result, run.folder / "suggest.png")
    return run.say(result, table_of(result))


def summary(each: dict[str, list[dict[str, Any]]], rows: dict[str, int]) -> dict[str, Any]:
    """Lists over seeds; and what the SPEN adds to each masked network, seed by seed."""
    models = {}
    for name, seeds in each.items():
        found = runs.by_seed([one["average_precision"] for one in seeds])
        models[name] = {**runs.by_seed(seeds), "average_precision": found}
    adds = {}
    if "spen-known" in models:
        own = models["spen-known"]["average_precision"]
        for name in (name for name in models if name.startswith("masked")):
            other = models[name]["average_precision"]
            adds[name] = {k: np.subtract(own[k], other[k]).tolist() for k in own}
    return {"rows": rows, "models": models, "adds": adds}


def draw(result: dict[str, Any], path: Path) -> None:
    """Average precision against the number of tags given, a line for each model."""
    figure, axis = plt.subplots(figsize=(8, 4.4))
    for name, model in result["models"].items():
        found = model["average_precision"]
        figures.plot_range(axis, [int(k) for k in found], list(found.values()), TITLES[name])
    axis.set_xticks([int(k) for k in result["rows"]])
    several = ", mean and range of seeds" * (len(result["seeds"]) > 1)
    figures.finish(
        axis,
        f"{runs.mark(result)}{result['data']['name']}: the other tags of a row{several}",
        "tags given",
        "average precision, %",
        legend="beside",
    )
    shared.save_figure(figure, path)


def table_of(result: dict[str, Any]) -> Table:
    """A row for each model, then one for what the SPEN adds to each masked network."""
    title = (
        f"{result['data']['name']}: average precision of the other tags, %, by how many are given"
    )
    title += " (quick run: these figures mean nothing)" * result["quick"]
    table = Table("model", *result["rows"], "seconds", title=title)
    for name, model in result["models"].items():
        found = [shared.mean_and_spread(v) for v in model["average_precision"].values()]
        table.add_row(TITLES[name], *found, f"{np.mean(model['seconds']):.0f}")
    for name, adds in result["adds"].items():
        gains = [shared.mean_and_spread(v) for v in adds.values()]
        table.add_row(f"SPEN over {TITLES[name]}", *gains, "", style="dim")
    table.add_row("rows", *(f"{n:,}" for n in result["rows"].values()), "", style="dim")
    return table


if __name__ == "__main__":
    shared.run(main, Config, __doc__)

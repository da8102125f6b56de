"""Which settings are best on validation rows, for a SPEN and, with as many trials, for its control.

The question: how much of what a SPEN reaches comes from its settings, and how much is left for its energy once
its control has been given the same search?

Protocol: the first trial is the defaults, the others are drawn at random from the grid below, the same list for the
SPEN and for its control; how many of them differ for the control, which has no global term, is reported. For each
seed a fifth of the training rows is held out; it chooses the epoch, and its F1 is the score: every decision rule is
tuned on one half of those rows and scored on the other, both ways, and the score of a trial is the mean over both
rules and all seeds. The test rows are thrown away as soon as they have been read. The best of several trials is the
better of lucky and good: of its score, expect less on other rows.

A method that starts from a trained network takes the same one in every trial; only its own settings are drawn.
Minutes: a trial of the default method takes about half a minute for each seed on two cores.
"""

import dataclasses
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import multilabel
import numpy as np
import recipes
import shared
import tyro
from multilabel import Decisions, Model, Rows
from rich.table import Table

import spen_jax as sx
from spen_jax import metrics

RULES = ("tuned", "expected")
NETWORK = {
    "input_dropout": (0.2, 0.3, 0.5),
    "dropout": (0.5, 0.65, 0.8),
    "learning_rate": (1e-3, 2e-3, 3e-3),
    "weight_decay": (0.03, 0.1, 0.3),
    "batch_size": (64, 128, 256),
    "average": (None, 0.99),
}
ENERGY = {
    "global_units": (16, 32, 64),
    "global_dropout": (0.0, 0.2),
    "sees_features": (False, True),
}
TASK_LOSS = {"soft_f1_weight": (10.0, 25.0, 50.0)}
COST = {"margin": (3.0, 6.0, 12.0)}
SAMPLES = {"samples": (5, 10, 20)}
WEIGHT = {"weight": (0.3, 1.0, 3.0)}
OWN: dict[str, dict[str, tuple[Any, ...]]] = {
    "max-margin": COST,
    "slack": COST,
    "perceptron": {},
    "contrastive": COST,
    "end-to-end": TASK_LOSS,
    "implicit": TASK_LOSS,
    "likelihood": {},
    "pseudo-likelihood": {},
    "contrastive-divergence": SAMPLES,
    "persistent": SAMPLES,
    "nce": SAMPLES,
    "ranking": SAMPLES,
    "deep-value": {},
    "inference-network": COST | WEIGHT,
    "seal-static": SAMPLES | WEIGHT,
    "seal-dynamic": SAMPLES | WEIGHT,
}


@dataclass(frozen=True)
class Config:
    """Random search over the settings of a SPEN and of its control, on validation rows."""

    dataset: str = "bibtex"
    """bibtex, delicious, scene or yeast."""

    method: str = "end-to-end"
    """How the energy is trained, one of recipes.METHODS."""

    trials: int = 20
    """Settings that are tried, the defaults among them."""

    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds of the held-out rows, the parameters and the batches; every trial runs with each."""

    data_dir: Path | None = None
    """Folder that holds the data set's folder; else SPEN_JAX_DATA, else the cache, else a download."""

    out: Path | None = None
    """Folder to write, new or empty; runs/tune-<date> by default."""

    quick: bool = False
    """A run of few rows and epochs, to see that everything works; its figures mean nothing."""


def grid_of(method: str) -> dict[str, tuple[Any, ...]]:
    """What is searched: for a method that starts from a trained network not that network's settings."""
    if recipes.METHODS[method].from_scratch:
        return NETWORK | ENERGY | OWN[method]
    joint = {"joint_rate": (1e-4, 3e-4, 1e-3), "joint_decay": (0.01, 0.1), "joint_epochs": (4, 8)}
    return ENERGY | joint | OWN[method]


def draw(
    grid: dict[str, tuple[Any, ...]], defaults: recipes.Settings, trials: int
) -> list[dict[str, Any]]:
    """The settings of each trial that differ from the defaults: first none, then others without repetition."""
    shape = tuple(len(values) for values in grid.values())
    size = math.prod(shape)
    flat = np.random.default_rng(0).permutation(size)[:trials]
    drawn: list[dict[str, Any]] = [{}]
    for places in zip(*np.unravel_index(flat, shape), strict=True):
        values = {name: grid[name][i] for name, i in zip(grid, places, strict=True)}
        changed = {k: v for k, v in values.items() if v != getattr(defaults, k)}
        if changed:
            drawn.append(changed)
    return drawn[:trials]


def without_test(dataset: sx.data.Dataset) -> sx.data.Dataset:
    """The data set with no test rows, so that nothing can be chosen on them."""
    test = dataset.test
    return dataset._replace(test=sx.data.Split(test.x[:0], test.y[:0]))


def held_out_f1(model: Model, params: Any, rows: Rows, seed: int) -> dict[str, float]:
    """F1 in percent by each rule, on halves of the validation rows, tuned on the other half."""
    y, z, _ = multilabel.predicted(model, params, rows.valid.x)
    truth = rows.valid.y
    order = np.random.default_rng(seed).permutation(len(truth))
    a, b = order[: len(truth) // 2], order[len(truth) // 2 :]
    f1: dict[str, list[float]] = {rule: [] for rule in RULES}
    for tuning, scoring in ((a, b), (b, a)):
        decisions = Decisions.tune(truth[tuning], y[tuning], z[tuning], rows.allow_empty)
        sets = decisions.sets(y[scoring], z[scoring])
        for rule in RULES:
            f1[rule].append(100 * metrics.example_f1(truth[scoring], sets[rule]))
    return {rule: float(np.mean(values)) for rule, values in f1.items()}


def run_trial(
    settings: recipes.Settings, config: Config, rows: Rows, seed: int, ready: Any, progress: Any
) -> dict[str, Any]:
    """SPEN and control with one setting and one seed: F1 by rule, their mean, and the epochs chosen.

    `ready` holds the networks that earlier trials of this seed trained, and is filled by the first.
    """
    models = recipes.build(settings, config.method, rows.data.y.shape[1])
    if recipes.METHODS[config.method].from_scratch:
        del models["network"]
    trained = multilabel.fit_models(
        models, rows.part, seed, progress, valid=rows.valid, ready=ready, patience=10
    )
    ready.update({key: value for key, value in trained.items() if key[0] == "network"})
    result = {}
    for name in ("spen", "control"):
        last = trained[name, models[name].phases[-1].name]
        f1 = held_out_f1(models[name], last.params, rows, seed)
        result[name] = {**f1, "score": float(np.mean(list(f1.values()))), "epoch": last.epoch}
    return result


def report(result: dict[str, Any]) -> None:
    """Print the trials, the best first, and what each search found."""
    title = (
        f"{result['dataset']}, {result['method']}: held-out F1, %, mean of {len(result['seeds'])} "
        "seed(s), by tuned threshold and expected F1"
    )
    title += " (quick run: these figures mean nothing)" * result["quick"]
    table = Table(
        "SPEN", "control", "score", "control's", "gain", title=title, title_justify="left"
    )
    table.add_column("changed", ratio=1)
    trials = sorted(result["trials"], key=lambda trial: -np.mean(trial["spen"]["score"]))
    for trial in trials:
        changed = ", ".join(f"{k} {v}" for k, v in trial["changed"].items())
        pairs = (
            " / ".join(f"{np.mean(trial[name][rule]):.1f}" for rule in RULES)
            for name in ("spen", "control")
        )
        scores = (f"{np.mean(trial[name]['score']):.2f}" for name in ("spen", "control"))
        gain = shared.mean_and_spread(trial["gain"])
        table.add_row(*pairs, *scores, gain, changed or "(defaults)")
    shared.say(table)
    for name, title in (("spen", "SPEN"), ("control", "control")):
        best = result["best"][name]
        shared.say(
            f"best of {best['distinct']} different settings for the {title}: {best['score']:.2f}, "
            f"{best['changed']}"
        )


def main(config: Config) -> dict[str, Any]:
    """Run all trials, write the folder, print the table and return the result."""
    began = time.perf_counter()
    shared.synthetic = False
    if config.dataset not in multilabel.DATASETS:
        shared.fail(
            f"--dataset needs one of {', '.join(multilabel.DATASETS)}, got {config.dataset}"
        )
    if config.method not in OWN:
        shared.fail(f"--method needs one of {', '.join(OWN)}, got {config.method}")
    if config.trials < 1:
        shared.fail(f"--trials needs 1 or more, got {config.trials}")
    if not config.seeds or len(set(config.seeds)) < len(config.seeds) or min(config.seeds) < 0:
        shared.fail(f"--seeds needs different numbers, 0 or more, got {list(config.seeds)}")
    dataset = multilabel.load(config.dataset, config.data_dir, quick=config.quick)
    dataset = without_test(dataset)
    folder = shared.new_folder(config.out, "tune")
    shared.write_json(folder / "config.json", vars(config))

    short = {"width": 32, "epochs": 2, "energy_epochs": 1, "joint_epochs": 1}
    defaults = recipes.settings_of(config.dataset, config.method, short if config.quick else None)
    trials: list[dict[str, Any]] = []
    rows = {seed: multilabel.rows_of(dataset, seed) for seed in config.seeds}
    ready: dict[int, dict] = {seed: {} for seed in config.seeds}
    with shared.progress_bars() as progress:
        for changed in draw(grid_of(config.method), defaults, config.trials):
            settings = dataclasses.replace(defaults, **changed)
            runs = [
                run_trial(settings, config, rows[seed], seed, ready[seed], progress)
                for seed in config.seeds
            ]
            trial: dict[str, Any] = {
                name: {key: [run[name][key] for run in runs] for key in runs[0][name]}
                for name in ("spen", "control")
            }
            trial["gain"] = [run["spen"]["score"] - run["control"]["score"] for run in runs]
            trials.append({"changed": changed, **trial})

    best = {}
    for name in ("spen", "control"):
        trial = max(trials, key=lambda t: np.mean(t[name]["score"]))
        # The control has no global term, so that the numbers of one make no difference to it.
        own = ENERGY if name == "control" else {}
        different = {
            tuple(sorted((k, v) for k, v in t["changed"].items() if k not in own)) for t in trials
        }
        best[name] = {
            "changed": trial["changed"],
            "score": float(np.mean(trial[name]["score"])),
            "distinct": len(different),
        }
    result: dict[str, Any] = {
        "dataset": dataset.name,
        "data": {"name": dataset.name, "checksums": dataset.checksums},
        "synthetic": dataset.synthetic,
        "quick": config.quick,
        "method": config.method,
        "seeds": config.seeds,
        "defaults": dataclasses.asdict(defaults),
        "grid": grid_of(config.method),
        "trials": trials,
        "best": best,
        "environment": shared.environment(),
        "seconds": time.perf_counter() - began,
    }
    shared.write_json(folder / "result.json", result)
    report(result)
    shared.say(f"{result['seconds']:.0f} s; wrote {folder}")
    return result


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))

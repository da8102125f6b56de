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
from dataclasses import dataclass
from typing import Any

import numpy as np
from rich.table import Table

from experiments import shared
from experiments.labels import protocol, runs
from experiments.labels.models import METHODS, build
from experiments.labels.protocol import Model, Rows, Rules
from experiments.labels.settings import Settings, settings_of

RULES = "tuned", "expected"
Grid = dict[str, tuple[Any, ...]]
NETWORK: Grid = {
    "input_dropout": (0.2, 0.3, 0.5),
    "dropout": (0.5, 0.65, 0.8),
    "learning_rate": (1e-3, 2e-3, 3e-3),
    "weight_decay": (0.03, 0.1, 0.3),
    "batch_size": (64, 128, 256),
    "average": (None, 0.99),
}
ENERGY: Grid = {
    "global_units": (16, 32, 64),
    "global_dropout": (0.0, 0.2),
    "sees_features": (False, True),
}
JOINT: Grid = {"joint_rate": (1e-4, 3e-4, 1e-3), "joint_decay": (0.01, 0.1), "joint_epochs": (4, 8)}
TASK_LOSS: Grid = {"soft_f1_weight": (10.0, 25.0, 50.0)}
COST: Grid = {"margin": (3.0, 6.0, 12.0)}
SAMPLES: Grid = {"samples": (5, 10, 20)}
WEIGHT: Grid = {"weight": (0.3, 1.0, 3.0)}
OWN: dict[str, Grid] = {
    **dict.fromkeys(("perceptron", "likelihood", "pseudo-likelihood", "deep-value"), {}),
    **dict.fromkeys(("max-margin", "slack", "contrastive"), COST),
    **dict.fromkeys(("end-to-end", "implicit"), TASK_LOSS),
    **dict.fromkeys(("contrastive-divergence", "persistent", "nce", "ranking"), SAMPLES),
    "inference-network": COST | WEIGHT,
    **dict.fromkeys(("seal-static", "seal-dynamic"), SAMPLES | WEIGHT),
}


@dataclass(frozen=True)
class Config:
    """Random search over the settings of a SPEN and of its control, on validation rows."""

    dataset: runs.Dataset = "bibtex"
    method: runs.Method = "end-to-end"
    trials: int = 20  # settings that are tried, the defaults among them, each with every seed
    seeds: runs.Seeds = (0, 1, 2)
    data_dir: runs.DataDir = None
    out: runs.Out = None
    quick: runs.Quick = False


def grid_of(method: str) -> Grid:
    """What is searched: for a method that starts from a trained network not that network's settings."""
    if METHODS[method].from_scratch:
        return NETWORK | ENERGY | OWN[method]
    return ENERGY | JOINT | OWN[method]


def draw(grid: Grid, defaults: Settings, trials: int) -> list[dict[str, Any]]:
    """The settings of each trial that differ from the defaults: first none, then others without repetition."""
    shape = tuple(len(values) for values in grid.values())
    flat = np.random.default_rng(0).permutation(math.prod(shape))[:trials]
    drawn: list[dict[str, Any]] = [{}]
    for places in zip(*np.unravel_index(flat, shape), strict=True):
        values = {name: grid[name][i] for name, i in zip(grid, places, strict=True)}
        if changed := {k: v for k, v in values.items() if v != getattr(defaults, k)}:
            drawn.append(changed)
    return drawn[:trials]


def held_out(model: Model, params: Any, rows: Rows, seed: int) -> dict[str, float]:
    """F1 in percent by each rule, on halves of the validation rows, tuned on the other half; the score is the mean."""
    y, truth = np.asarray(model.predictor(params, rows.valid.x).y), rows.valid.y
    order, half = np.random.default_rng(seed).permutation(len(truth)), len(truth) // 2
    a, b = order[:half], order[half:]
    scores = []
    for tuning, scoring in ((a, b), (b, a)):
        rules = Rules.tune(y[tuning], truth[tuning], rows.allow_empty)
        scores.append(rules.f1(y[scoring], truth[scoring], "held_out"))
    f1 = {rule: float(np.mean([s[f"held_out_f1_{rule}"] for s in scores])) for rule in RULES}
    return f1 | {"score": float(np.mean(list(f1.values())))}


def run_trial(
    settings: Settings, config: Config, rows: Rows, seed: int, ready: dict, progress: Any
) -> dict[str, Any]:
    """SPEN and control with one setting and one seed: F1 by rule, their mean, and the epochs chosen.

    `ready` holds the network that the first trial of this seed trained, where the method starts from one.
    """
    models = build(settings, config.method, rows.data.y.shape[1])
    if METHODS[config.method].from_scratch:
        del models["network"]
    trained = protocol.train(models, rows, seed, progress, refit=False, ready=ready)
    if "network" in models:
        ready["network"] = {"features": trained["network"].chosen[0]}
    last = {name: trained[name].chosen[-1] for name in ("spen", "control")}
    return {
        name: held_out(models[name], t.params, rows, seed) | {"epoch": t.epoch}
        for name, t in last.items()
    }


def best_of(trials: list[dict[str, Any]], name: str) -> dict[str, Any]:
    """The best trial of a model, and how many different settings it had."""
    best = max(trials, key=lambda t: np.mean(t[name]["score"]))
    # The control has no global term, so that the numbers of one make no difference to it.
    own = ENERGY if name == "control" else {}
    different = {
        tuple(sorted((k, v) for k, v in t["changed"].items() if k not in own)) for t in trials
    }
    score = float(np.mean(best[name]["score"]))
    return {"changed": best["changed"], "score": score, "distinct": len(different)}


def table_of(result: dict[str, Any]) -> Table:
    """The trials, the best first."""
    title = runs.title(result, f", {result['method']}, held-out rows in place of test rows")
    columns = "SPEN", "control", "score", "control's", "gain"
    table = Table(*columns, title=title, title_justify="left")
    table.add_column("changed", ratio=1)
    for trial in sorted(result["trials"], key=lambda trial: -np.mean(trial["spen"]["score"])):
        changed = ", ".join(f"{k} {v}" for k, v in trial["changed"].items())
        both = [trial[name] for name in ("spen", "control")]
        pairs = (" / ".join(f"{np.mean(t[rule]):.1f}" for rule in RULES) for t in both)
        scores = (f"{np.mean(t['score']):.2f}" for t in both)
        gain = shared.mean_and_spread(trial["gain"])
        table.add_row(*pairs, *scores, gain, changed or "(defaults)")
    return table


def main(config: Config) -> dict[str, Any]:
    """Run all trials, write the folder, print the table and return the result."""
    if config.method not in OWN:
        shared.fail(f"--method needs one of {', '.join(OWN)}, got {config.method}")
    shared.check_least(config, trials=1)
    run = runs.begin(config, "tune")
    # No test rows, so that nothing can be chosen on them.
    dataset = run.dataset._replace(test=protocol.taken(run.dataset.test, slice(0)))
    (defaults, _), grid = (
        settings_of(config.dataset, config.method, quick=config.quick),
        grid_of(config.method),
    )
    trials: list[dict[str, Any]] = []
    rows = {seed: protocol.rows_of(dataset, seed)[0] for seed in config.seeds}
    ready: dict[int, dict] = {seed: {} for seed in config.seeds}
    with shared.progress_bars() as progress:
        for changed in draw(grid, defaults, config.trials):
            settings = dataclasses.replace(defaults, **changed)
            each = [run_trial(settings, config, rows[s], s, ready[s], progress) for s in rows]
            trial = {n: runs.by_seed([one[n] for one in each]) for n in ("spen", "control")}
            gain = np.subtract(trial["spen"]["score"], trial["control"]["score"]).tolist()
            trials.append({"changed": changed, **trial, "gain": gain})
    result = run.write(
        {
            "method": config.method,
            "defaults": dataclasses.asdict(defaults),
            "grid": grid,
            "trials": trials,
            "best": {name: best_of(trials, name) for name in ("spen", "control")},
        }
    )
    found = (
        f"best of {best['distinct']} different settings for the {name}: {best['score']:.2f}, {best['changed']}"
        for name, best in result["best"].items()
    )
    return run.say(result, table_of(result), *found)


if __name__ == "__main__":
    shared.run(main, Config, __doc__)

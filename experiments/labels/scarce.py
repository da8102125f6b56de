"""Is an energy worth more where data are scarce? BibTeX and Delicious with 5, 10, 25 and 100 % of the training rows.

The question: the end-to-end SPEN against its control, the same network without a global term, as the training
rows grow fewer.

Expected: that the gain grows as rows grow fewer, since what the labels have to do with each other is shared by all
inputs. It does not, here or on exclusive blocks (exclusive.py): that too is learned from rows.

Protocol: that of bibtex.py, each seed with its own random rows. The settings are those chosen on all rows; fewer rows
get more epochs, so that the number of updates stays.
Minutes: about 8 for BibTeX and three seeds on two cores, 20 for Delicious.
"""

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from rich.table import Table

import spen_jax as sx
from experiments import shared
from experiments.labels import figures, protocol, runs
from experiments.labels.models import METHODS, build
from experiments.labels.settings import Settings, settings_of

RULES = {"tuned": "tuned threshold", "expected": "expected F1"}


@dataclass(frozen=True)
class Config:
    """A SPEN and its control on fewer and fewer rows."""

    dataset: runs.Dataset = "bibtex"
    method: runs.Method = "end-to-end"
    shares: tuple[float, ...] = (0.05, 0.1, 0.25, 1.0)  # of the training rows
    seeds: runs.Seeds = (0, 1, 2)
    data_dir: runs.DataDir = None
    out: runs.Out = None
    quick: runs.Quick = False


def part_of(dataset: sx.data.Dataset, share: float, seed: int) -> sx.data.Dataset:
    """`dataset` with a random share of its training rows."""
    n = len(dataset.train.x)
    chosen = np.sort(np.random.default_rng(seed).permutation(n)[: round(share * n)])
    return dataset._replace(train=protocol.taken(dataset.train, chosen))


def longer(settings: Settings, share: float) -> Settings:
    """As many updates on a share of the rows."""
    names = "epochs", "energy_epochs", "joint_epochs", "patience"
    return replace(settings, **{n: math.ceil(getattr(settings, n) / share) for n in names})


def main(config: Config) -> dict[str, Any]:
    """Run the experiment, write its folder and return the result."""
    if config.method not in METHODS:
        shared.fail(f"--method must be one of {', '.join(METHODS)}, got {config.method}")
    if not config.shares or not all(0 < s <= 1 for s in config.shares):
        shared.fail(f"--shares needs numbers above 0, at most 1, got {list(config.shares)}")
    run = runs.begin(config, "scarce-{}")
    both = settings_of(config.dataset, config.method, quick=config.quick)
    shares: dict[str, dict[str, Any]] = {}
    result: dict[str, Any] = {}
    with shared.progress_bars() as progress:
        for share in config.shares:
            of_spen, of_control = (longer(settings, share) for settings in both)
            models = build(of_spen, config.method, len(run.dataset.label_names), of_control)
            if METHODS[config.method].from_scratch:
                del models["network"]
            seeds = []
            for seed in config.seeds:
                part = part_of(run.dataset, share, seed)
                rows, _ = protocol.rows_of(part, seed, of_spen.others)
                seeds.append(protocol.run_seed(models, rows, seed, progress))
            row: dict[str, Any] = {
                name: runs.by_seed([outcomes[name].measures for outcomes in seeds])
                for name in models
            }
            row["gain"] = runs.gains(row["spen"], row["control"])
            shares[str(share)] = {"rows": round(share * len(run.dataset.train.x)), **row}
            result = run.write({"method": config.method, "shares": shares})
            shared.say(f"{100 * share:g} % of the rows done after {result['seconds']:.0f} s")
    draw(result, run.folder / "scarce.png")
    columns = [f"{rule}: {column}" for rule in RULES for column in ("control", "SPEN", "gain")]
    table = Table("rows", *columns, title=runs.title(result, f", {config.method}"))
    for row in shares.values():
        texts = []
        for rule in RULES:
            texts += [cell for n in ("control", "spen") for cell in runs.cells(row[n], [rule])]
            texts.append(shared.mean_and_spread(row["gain"][rule]))
        table.add_row(f"{row['rows']:,}", *texts)
    return run.say(result, table)


def draw(result: dict[str, Any], path: Path) -> None:
    """F1 of both against the number of rows, by rule."""
    shares = result["shares"].values()
    at = [row["rows"] for row in shares]
    figure, axes = plt.subplots(1, 2, figsize=(11, 4.2), sharey=True)
    for axis, (rule, title) in zip(axes, RULES.items(), strict=True):
        for name, label in (("control", "no global term"), ("spen", "SPEN")):
            figures.plot_range(axis, at, [row[name][f"test_f1_{rule}"] for row in shares], label)
        figures.finish(axis, f"{runs.mark(result)}{title}", "training rows", counts=at)
    axes[0].set_ylabel(f"{result['data']['name']}: test F1, %, mean and range of seeds")
    shared.save_figure(figure, path)


if __name__ == "__main__":
    shared.run(main, Config, __doc__)

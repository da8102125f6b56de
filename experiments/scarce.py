"""Is an energy worth more where data are scarce? BibTeX and Delicious with 5, 10, 25 and 100 % of the training rows.

The question: the end-to-end SPEN against its control, the same network without a global term, as the training
rows grow fewer.

Expected: that the gain grows as rows grow fewer, since what the labels have to do with each other is shared by all
inputs. On exclusive blocks it does (exclusive.py).

Protocol: that of bibtex.py, each seed with its own random rows. The settings are those chosen on all rows; fewer rows
get more epochs, so that the number of updates stays.
Minutes: about 8 for BibTeX and three seeds on two cores, 20 for Delicious.
"""

import dataclasses
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import matplotlib.pyplot as plt
import multilabel
import numpy as np
import recipes
import shared
import tyro
from multilabel import RULES
from rich.table import Table

import spen_jax as sx

EPOCHS = "epochs", "energy_epochs", "joint_epochs"


@dataclass(frozen=True)
class Config:
    """A SPEN and its control on fewer and fewer rows."""

    dataset: Literal["bibtex", "delicious", "scene", "yeast"] = "bibtex"
    """What they are trained on."""

    method: str = "end-to-end"
    """How the energy is trained, one of recipes.METHODS."""

    shares: tuple[float, ...] = (0.05, 0.1, 0.25, 1.0)
    """Shares of the training rows."""

    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds of the rows, the validation rows, the parameters and the batches."""

    data_dir: Path | None = None
    """Folder that holds the data set's; else SPEN_JAX_DATA, else the cache, else a download."""

    out: Path | None = None
    """Folder to write, new or empty; runs/scarce-<data set>-<date> by default."""

    quick: bool = False
    """A run on few rows, to see that everything works; its figures mean nothing."""


def part_of(dataset: sx.data.Dataset, share: float, seed: int) -> sx.data.Dataset:
    """`dataset` with a random share of its training rows."""
    n = len(dataset.train.x)
    chosen = np.sort(np.random.default_rng(seed).permutation(n)[: round(share * n)])
    return dataset._replace(train=sx.data.Split(dataset.train.x[chosen], dataset.train.y[chosen]))


def main(config: Config) -> dict[str, Any]:
    """Run the experiment, write its folder and return the result."""
    began = time.perf_counter()
    if config.method not in recipes.METHODS:
        shared.fail(f"--method must be one of {', '.join(recipes.METHODS)}, got {config.method}")
    if not config.seeds or not config.shares or not all(0 < s <= 1 for s in config.shares):
        shared.fail("--seeds and --shares need values, the shares above 0 and at most 1")
    shared.synthetic = False
    dataset = multilabel.load(config.dataset, config.data_dir, quick=config.quick)
    folder = shared.new_folder(config.out, f"scarce-{dataset.name}")
    shared.write_json(folder / "config.json", vars(config))
    quick = {"width": 32, "epochs": 2, "energy_epochs": 1, "joint_epochs": 1}
    settings, control = (
        recipes.settings_of(
            config.dataset, config.method, quick if config.quick else {}, of_control
        )
        for of_control in (False, True)
    )
    result: dict[str, Any] = {
        "data": {"name": dataset.name, "checksums": dataset.checksums},
        "synthetic": dataset.synthetic,
        "quick": config.quick,
        "method": config.method,
        "seeds": config.seeds,
        "environment": shared.environment(),
        "shares": {},
    }
    with shared.progress_bars() as progress:
        for share in config.shares:
            longer = [
                dataclasses.replace(
                    s,
                    **{n: math.ceil(getattr(s, n) / share) for n in EPOCHS},
                )
                for s in (settings, control)
            ]
            models = recipes.build(longer[0], config.method, len(dataset.label_names), longer[1])
            if recipes.METHODS[config.method].from_scratch:
                del models["network"]
            runs = []
            for seed in config.seeds:
                part = part_of(dataset, share, seed)
                rows = multilabel.rows_of(part, seed, others=settings.others)
                patience = math.ceil(10 / share)
                runs.append(multilabel.run_seed(models, rows, seed, progress, patience=patience))
            row: dict[str, Any] = {"rows": len(rows.data.x)}
            for name in models:
                each = [run.measures[name] for run in runs]
                row[name] = {key: [m[key] for m in each] for key in each[0]}
            row["gain"] = multilabel.gains(runs, "spen", "control")
            result["shares"][str(share)] = row
            result["seconds"] = time.perf_counter() - began
            shared.write_json(folder / "result.json", result)
            shared.say(f"{100 * share:g} % of the rows done after {result['seconds']:.0f} s")
    draw(result, folder / "scarce.png")
    report(result, folder)
    return result


def draw(result: dict[str, Any], path: Path) -> None:
    """F1 of both against the number of rows, by rule."""
    shares = result["shares"].values()
    at = [row["rows"] for row in shares]
    mark = "synthetic data: " if result["synthetic"] else ""
    figure, axes = plt.subplots(1, 2, figsize=(11, 4.2), sharey=True)
    for axis, rule in zip(axes, RULES[1:], strict=True):
        for name, label in (("control", "no global term"), ("spen", "SPEN")):
            f1 = [row[name][f"test_f1_{rule}"] for row in shares]
            (line,) = axis.plot(at, [np.mean(v) for v in f1], "o-", label=label)
            low, high = ([f(v) for v in f1] for f in (min, max))
            axis.fill_between(at, low, high, color=line.get_color(), alpha=0.2)
        title = {"tuned": "tuned threshold", "expected": "expected F1"}[rule]
        axis.set(xscale="log", xlabel="training rows", title=f"{mark}{title}")
        axis.set_xticks(at, [f"{n:,}" for n in at])
        axis.minorticks_off()
        axis.grid(alpha=0.3)
        axis.legend()
    axes[0].set_ylabel(f"{result['data']['name']}: test F1, %, mean and range of seeds")
    shared.save_figure(figure, path)


def report(result: dict[str, Any], folder: Path) -> None:
    """Print the table."""
    title = f"{result['data']['name']}, {result['method']}: test F1, %, mean ± spread over "
    title += f"{len(result['seeds'])} seeds"
    if result["quick"]:
        title += " (quick run: these figures mean nothing)"
    table = Table("rows", title=title)
    for rule in ("tuned", "expected"):
        for column in ("control", "SPEN", "gain"):
            table.add_column(f"{rule}: {column}")
    for row in result["shares"].values():
        cells = []
        for rule in RULES[1:]:
            cells += [row[name][f"test_f1_{rule}"] for name in ("control", "spen")]
            cells.append(row["gain"][rule])
        table.add_row(f"{row['rows']:,}", *map(shared.mean_and_spread, cells))
    shared.say(table)
    shared.say(f"{result['seconds']:.0f} s in all; wrote {folder}")


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))

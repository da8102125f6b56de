"""All ways to train one energy, side by side: one network, one inference, one protocol, one set of decision rules.

The question: which training suits a structured prediction energy network, and what does its energy add over the
same method without a global term?

Expected (example-averaged test F1 on BibTeX, percent): SPEN by max-margin 42.2 (Belanger & McCallum 2016), by deep
value network 44.7 (Gygli et al. 2017).

Protocol: that of bibtex.py. Every method starts from the network trained by cross-entropy, except the two that
train everything at once. Its control is the same method with an energy that has no global term.
Minutes: ten a seed for BibTeX on one core, one or two for Scene and Yeast. A run that was cut off: --report DIR.
"""

import dataclasses
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import baselines
import matplotlib.pyplot as plt
import multilabel
import numpy as np
import recipes
import shared
import tyro
from multilabel import RULES, Model, Outcome, Rows
from rich.table import Table

import spen_jax as sx
from spen_jax import metrics

STEPS = 20
QUICK = {"width": 32, "epochs": 2, "energy_epochs": 1, "joint_epochs": 1, "samples": 2}


@dataclass(frozen=True)
class Config:
    """Compare ways to train an energy."""

    dataset: Literal["bibtex", "delicious", "scene", "yeast"] = "bibtex"
    """What they are trained on."""

    methods: tuple[str, ...] = tuple(
        m for m in recipes.METHODS if m not in ("end-to-end-others", "likelihood")
    )
    """Which ones; all of them see the same inputs. `likelihood` is for ten labels at most."""

    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    """Seeds of the validation rows, the parameters and the batches."""

    data_dir: Path | None = None
    """Folder that holds the data set's; else SPEN_JAX_DATA, else the cache, else a download."""

    out: Path | None = None
    """Folder to write, new or empty; runs/methods-<data set>-<date> by default."""

    quick: bool = False
    """A run on few rows, to see that everything works; its figures mean nothing."""

    report: Path | None = None
    """Folder of a run, finished or cut off, whose table and figures are made again; nothing is trained."""

    baselines: bool = True
    """Whether to fit scikit-learn's one-versus-rest logistic regression and classifier chains too, up to 20 labels."""


def build(config: Config, n_labels: int) -> dict[str, Model]:
    """All models, the network first, each method after its control."""
    shared_settings = recipes.DEFAULTS[config.dataset]
    quick = QUICK if config.quick else {}
    shared_settings = dataclasses.replace(shared_settings, **quick)
    models = {"network": recipes.network_model(shared_settings, n_labels)}
    for name in config.methods:
        settings = recipes.settings_of(config.dataset, name, quick)
        of_control = recipes.settings_of(config.dataset, name, quick, control=True)
        three = recipes.build(settings, name, n_labels, of_control)
        models[f"{name}, control"] = three["control"]
        models[name] = three["spen"]._replace(control=f"{name}, control")
    return models


def followed(model: Model, params: Any, rows: Rows, threshold: float) -> dict[str, Any]:
    """F1 after 0, 1, ... steps at the tuned threshold, and quartiles of E(x, truth) - E(x, prediction), in nats."""
    y, _ = map(np.asarray, model.trace(params, rows.test.x, STEPS))
    f1 = [
        metrics.example_f1(rows.test.y, metrics.decide(y[:, t], threshold))
        for t in range(STEPS + 1)
    ]
    answers = multilabel.predicted(model, params, rows.test.x)[0]
    truth = np.asarray(model.energies(params, rows.test.x, rows.test.y))
    gap = truth - np.asarray(model.energies(params, rows.test.x, answers))
    return {
        "f1_by_step": [100 * v for v in f1],
        "energy_gap": np.quantile(gap, [0.25, 0.5, 0.75]).tolist(),
        "truth_is_lower": 100 * float(np.mean(gap < 0)),
    }


def main(config: Config) -> dict[str, Any]:
    """Run the comparison, write its folder and return the result."""
    began = time.perf_counter()
    check(config)
    shared.synthetic = False
    if config.report is not None:
        return again(config.report)
    dataset = multilabel.load(config.dataset, config.data_dir, quick=config.quick)
    folder = shared.new_folder(config.out, f"methods-{dataset.name}")
    shared.write_json(folder / "config.json", vars(config))
    models = build(config, len(dataset.label_names))
    with_baselines = config.baselines and len(dataset.label_names) <= 20
    if config.baselines and not with_baselines:
        shared.say("without scikit-learn's models, which take hours with more than 20 labels")
    runs: list[Outcome] = []
    more: list[dict[str, dict]] = []
    fitted: dict[str, list[dict]] = {}
    with shared.progress_bars() as progress:
        for seed in config.seeds:
            rows = multilabel.rows_of(dataset, seed)
            run = multilabel.run_seed(models, rows, seed, progress)
            runs.append(run)
            more.append(
                {
                    name: followed(m, run.params[name], rows, run.decisions[name].threshold)
                    for name, m in models.items()
                    if m.trace is not None
                }
            )
            for name in baselines.BASELINES if with_baselines else ():
                fitted.setdefault(name, []).append(baselines.run(rows, name, seed))
            shared.say(f"seed {seed} done after {time.perf_counter() - began:.0f} s")
            result = collect(config, dataset, models, runs, more, fitted)
            result["seconds"] = time.perf_counter() - began
            shared.write_json(folder / "result.json", result)
    draw(folder, result)
    report(result, folder)
    return result


def again(folder: Path) -> dict[str, Any]:
    """The table and the figures of a run's result.json, which has the seeds that were done."""
    try:
        result = json.loads((folder / "result.json").read_text())
    except (OSError, ValueError) as error:
        shared.fail(
            f"--report needs the folder of a run with a seed done, {folder} is none: {error}"
        )
    shared.synthetic = result["synthetic"]
    draw(folder, result)
    report(result, folder)
    return result


def collect(
    config: Config,
    dataset: sx.data.Dataset,
    models: dict[str, Model],
    runs: list[Outcome],
    more: list[dict[str, dict]],
    fitted: dict[str, list[dict]],
) -> dict[str, Any]:
    """What result.json holds of the seeds so far."""
    result: dict[str, Any] = {
        "data": {"name": dataset.name, "checksums": dataset.checksums},
        "synthetic": dataset.synthetic,
        "quick": config.quick,
        "seeds": config.seeds[: len(runs)],
        "environment": shared.environment(),
        "models": {},
        "baselines": {
            name: {key: [m[key] for m in each] for key in each[0]} for name, each in fitted.items()
        },
    }
    for name, model in models.items():
        each = [run.measures[name] for run in runs]
        row: dict[str, Any] = {key: [m[key] for m in each] for key in each[0]}
        row |= {"title": model.title, "control": model.control}
        row["training_seconds"] = [
            sum(s for (n, _), s in run.seconds.items() if n == name) for run in runs
        ]
        row["curve"] = [learning_curve(run, name, model) for run in runs]
        if model.control:
            row["gain"] = multilabel.gains(runs, name, model.control)
        for key in ("f1_by_step", "energy_gap", "truth_is_lower"):
            if model.trace is not None:
                row[key] = [m[name][key] for m in more]
        result["models"][name] = row
    return result


def learning_curve(run: Outcome, name: str, model: Model) -> list[tuple[float, float]]:
    """(seconds, validation F1) after each epoch, all phases, the network it starts from included."""
    points, spent = [], 0.0
    before = [("network", "features")] if model.network_from else []
    for key in (*before, *((name, phase.name) for phase in model.phases)):
        trained = run.chosen[key]
        points += [
            (spent + t, 100 * f1) for t, f1 in zip(trained.clock, trained.scores, strict=True)
        ]
        spent += trained.clock[-1] if trained.clock else 0.0
    return points


def draw(folder: Path, result: dict[str, Any]) -> None:
    """Write seconds.png, steps.png and gap.png."""
    models = {n: m for n, m in result["models"].items() if m["control"]}
    mark = "synthetic data: " if result["synthetic"] else ""
    colors = plt.get_cmap("tab20")(np.arange(len(models)) % 20)

    figure, (left, axis) = plt.subplots(1, 2, figsize=(14, 5))
    everything = {"network": result["models"]["network"], **models}
    for (name, m), color in zip(everything.items(), ["k", *colors], strict=True):
        seconds = np.mean(m["training_seconds"])
        if m["control"] and result["models"][m["control"]] and name not in AT_ONCE:
            seconds += np.mean(everything["network"]["training_seconds"])
        f1 = m["test_f1_tuned"]
        spread = np.std(f1, ddof=1) if len(f1) > 1 else 0
        left.plot(*np.transpose(m["curve"][0]), lw=1, color=color)
        axis.errorbar(
            seconds, np.mean(f1), spread, fmt="o", color=color, ms=5, lw=1, label=m["title"]
        )
    axis.set(
        xlabel="training seconds, the network it starts from included",
        ylabel="test F1 at the tuned threshold, %",
        title="both trainings, mean and spread of seeds",
    )
    left.set(
        xlabel="training seconds, the network it starts from included",
        ylabel="validation F1 at its best threshold, %",
        title=f"{mark}{result['data']['name']}: while epochs are chosen, first seed",
    )
    left.set_ylim(bottom=left.get_ylim()[1] - 12)
    left.grid(alpha=0.3)
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    shared.save_figure(figure, folder / "seconds.png")

    figure, axis = plt.subplots(figsize=(9, 5))
    for (_, m), color in zip(models.items(), colors, strict=True):
        axis.plot(np.mean(m["f1_by_step"], axis=0), ".-", ms=3, lw=1, color=color, label=m["title"])
    axis.set(
        xlabel="inference step",
        ylabel="test F1 at the tuned threshold, %",
        title=f"{mark}{result['data']['name']}: F1 against inference steps",
    )
    axis.set_xticks(range(0, STEPS + 1, 5))
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    shared.save_figure(figure, folder / "steps.png")

    figure, axis = plt.subplots(figsize=(9, 0.3 * len(models) + 1.2))
    for i, m in enumerate(models.values()):
        low, middle, high = np.mean(m["energy_gap"], axis=0)
        axis.plot([low, high], [i, i], color="C0", lw=3, alpha=0.5)
        axis.plot(middle, i, "o", color="C0", ms=4)
    axis.set_yticks(range(len(models)), [m["title"] for m in models.values()])
    axis.invert_yaxis()
    axis.axvline(0, color="k", lw=0.8)
    axis.set_xscale("symlog")
    axis.set(
        xlabel="E(x, truth) − E(x, prediction), nats: median and quartiles of the test rows",
        title=f"{mark}{result['data']['name']}: the energy of the truth above that of the prediction",
    )
    axis.grid(alpha=0.3)
    shared.save_figure(figure, folder / "gap.png")


AT_ONCE = {name for name, method in recipes.METHODS.items() if method.from_scratch}


def report(result: dict[str, Any], folder: Path) -> None:
    """Print the table."""
    title = f"{result['data']['name']}: test F1 averaged over examples, %, mean ± spread over "
    title += f"{len(result['seeds'])} seeds; in brackets what the global term adds"
    if result["quick"]:
        title += " (quick run: these figures mean nothing)"
    table = Table("", "tuned threshold", "", "expected F1", "", "seconds", title=title)
    for m in result["models"].values():
        if not m["control"] and m["title"] != result["models"]["network"]["title"]:
            continue
        cells = []
        for rule in RULES[1:]:
            cells.append(shared.mean_and_spread(m[f"test_f1_{rule}"]))
            cells.append(f"({shared.mean_and_spread(m['gain'][rule])})" if m["control"] else "")
        table.add_row(m["title"], *cells, f"{np.mean(m['training_seconds']):.0f}")
    for name, m in result["baselines"].items():
        tuned, expected = (shared.mean_and_spread(m[f"test_f1_{r}"]) for r in RULES[1:])
        table.add_row(name, tuned, "", expected, "", "")
    shared.say(table)
    shared.say(f"{result['seconds']:.0f} s in all; wrote {folder}")


def check(config: Config) -> None:
    """End with one clear line where the configuration cannot be run."""
    if "end-to-end-others" in config.methods:
        shared.fail("end-to-end-others sees other inputs: `bibtex.py --method end-to-end-others`")
    if unknown := [name for name in config.methods if name not in recipes.METHODS]:
        shared.fail(f"--methods knows {', '.join(recipes.METHODS)}, got {', '.join(unknown)}")
    if not config.seeds or len(set(config.seeds)) < len(config.seeds) or min(config.seeds) < 0:
        shared.fail(f"--seeds needs different numbers, 0 or more, got {list(config.seeds)}")


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))

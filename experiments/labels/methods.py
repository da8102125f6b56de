"""All ways to train one energy, side by side: one network, one inference, one protocol, one set of decision rules.

The question: which training suits a structured prediction energy network, and what does its energy add over the
same method without a global term?

Expected (example-averaged test F1 on BibTeX, percent): SPEN by max-margin 42.2 (Belanger & McCallum 2016), by deep
value network 44.7 (Gygli et al. 2017).

Protocol: that of bibtex.py. Every method starts from the network trained by cross-entropy, except the two that
train everything at once. Its control is the same method with an energy that has no global term.
Minutes: ten a seed for BibTeX on one core, one or two for Scene and Yeast. Each seed brings the table and
the figures up to date.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from rich.table import Table

from experiments import shared
from experiments.labels import baselines, figures, protocol, runs
from experiments.labels.models import METHODS, build, network_model
from experiments.labels.protocol import Model, Outcome, Rows
from experiments.labels.settings import DEFAULTS, QUICK, settings_of
from spen_jax import metrics

STEPS = 20
RULES = "tuned", "expected"
OTHERS = "end-to-end-others"
SECONDS = "training seconds, the network it starts from included"


@dataclass(frozen=True)
class Config:
    """Compare ways to train an energy."""

    dataset: runs.Dataset = "bibtex"
    # Which ones; all of them see the same inputs. `likelihood` is for ten labels at most.
    methods: tuple[str, ...] = tuple(m for m in METHODS if m not in (OTHERS, "likelihood"))
    seeds: runs.Seeds = (0, 1, 2, 3, 4)
    data_dir: runs.DataDir = None
    out: runs.Out = None
    quick: runs.Quick = False
    baselines: bool = True  # logistic regressions and classifier chains too, up to 20 labels


def models_of(config: Config, n_labels: int) -> dict[str, Model]:
    """All models, the network first, each method after its control."""
    defaults = replace(DEFAULTS[config.dataset], **(QUICK if config.quick else {}))
    models = {"network": network_model(defaults, n_labels)}
    for name in config.methods:
        of_spen, of_control = settings_of(config.dataset, name, quick=config.quick)
        three = build(of_spen, name, n_labels, of_control)
        models |= {f"{name}, control": three["control"], name: three["spen"]}
    return models


def measures_of(model: Model, of: dict[str, Outcome], name: str, rows: Rows) -> dict[str, Any]:
    """A model's measures with one seed, its curve of training, and of an energy what its inference does.

    The curve is (seconds, validation F1) after each epoch, the network it starts from included.
    """
    before = (of["network"],) if model.network_from else ()
    points, past = [], 0.0
    for trained in (t for outcome in (*before, of[name]) for t in outcome.chosen):
        pairs = zip(trained.clock, trained.scores, strict=True)
        points += [(past + clock, 100 * score) for clock, score in pairs]
        past += trained.seconds
    measures = {
        **of[name].measures,
        "training_seconds": of[name].seconds,
        "seconds_in_all": of[name].seconds + sum(outcome.seconds for outcome in before),
        "curve": points,
    }
    return measures if name == "network" else measures | inference_of(model, of[name], rows)


def inference_of(model: Model, outcome: Outcome, rows: Rows) -> dict[str, Any]:
    """F1 after 0, 1, ... steps at the tuned threshold, and quartiles of E(x, truth) - E(x, prediction), in nats."""
    predictor, params, (x, truth, _) = model.predictor, outcome.params, rows.test
    y = np.asarray(replace(predictor, steps=STEPS, trace="y")(params, x).trace["y"])
    each = (metrics.example_f1(outcome.rules.tuned(y[:, t]), truth) for t in range(STEPS + 1))
    correct, wrong = (predictor.energies(params, x, a) for a in (truth, predictor(params, x).y))
    gap = np.asarray(correct) - np.asarray(wrong)
    return {
        "f1_by_step": [100 * f1 for f1 in each],
        "energy_gap": np.quantile(gap, [0.25, 0.5, 0.75]).tolist(),
        "truth_is_lower": 100 * float(np.mean(gap < 0)),
    }


def main(config: Config) -> dict[str, Any]:
    """Run the comparison, write its folder and return the result."""
    if OTHERS in config.methods:
        shared.fail(f"{OTHERS} sees other inputs: `bibtex.py --method {OTHERS}`")
    if unknown := [name for name in config.methods if name not in METHODS]:
        shared.fail(f"--methods knows {', '.join(METHODS)}, got {', '.join(unknown)}")
    run = runs.begin(config, "methods-{}")
    models = models_of(config, len(run.dataset.label_names))
    peers = baselines.BASELINES if config.baselines and len(run.dataset.label_names) <= 20 else {}
    if config.baselines and not peers:
        shared.say("without scikit-learn's models, which take hours with more than 20 labels")
    seeds: list[dict[str, Any]] = []
    result: dict[str, Any] = {}
    with shared.progress_bars() as progress:
        for seed in config.seeds:
            rows, _ = protocol.rows_of(run.dataset, seed)
            of = protocol.run_seed(models, rows, seed, progress)
            seeds.append({name: measures_of(m, of, name, rows) for name, m in models.items()})
            seeds[-1] |= {name: baselines.run(rows, name, seed) for name in peers}
            result = run.write(collect(config, models, list(peers), seeds))
            draw(run.folder, result)
            run.say(result, table_of(result))
    return result


def collect(
    config: Config, models: dict[str, Model], peers: list[str], seeds: list[dict[str, Any]]
) -> dict[str, Any]:
    """What result.json holds of the seeds so far."""
    rows: dict[str, dict[str, Any]] = {
        name: runs.by_seed([seed[name] for seed in seeds]) for name in seeds[0]
    }
    for name, model in models.items():
        control = f"{name}, control"
        gain = {"gain": runs.gains(rows[name], rows[control])} if control in models else {}
        rows[name] |= {"title": model.title, "control": control if gain else None, **gain}
    return {
        "seeds": config.seeds[: len(seeds)],
        "models": {name: rows[name] for name in models},
        "baselines": {name: rows[name] for name in peers},
    }


def draw(folder: Path, result: dict[str, Any]) -> None:
    """Write seconds.png, steps.png and gap.png."""
    models = {n: m for n, m in result["models"].items() if m["control"]}
    colors = list(plt.get_cmap("tab20")(np.arange(len(models)) % 20))
    of = f"{runs.mark(result)}{result['data']['name']}"

    figure, (left, right) = plt.subplots(1, 2, figsize=(14, 5))
    for m, color in zip(
        [result["models"]["network"], *models.values()], ["k", *colors], strict=True
    ):
        f1 = m["test_f1_tuned"]
        spread = np.std(f1, ddof=1) if len(f1) > 1 else 0
        left.plot(*np.transpose(m["curve"][0]), lw=1, color=color)
        at = np.mean(m["seconds_in_all"]), np.mean(f1), spread
        right.errorbar(*at, fmt="o", color=color, ms=5, lw=1, label=m["title"])
    left.set_ylim(bottom=left.get_ylim()[1] - 12)
    title = f"{of}: while epochs are chosen, first seed"
    figures.finish(left, title, SECONDS, "validation F1 at its best threshold, %")
    title = "both trainings, mean and spread of seeds"
    figures.finish(right, title, SECONDS, "test F1 at the tuned threshold, %", legend="beside")
    shared.save_figure(figure, folder / "seconds.png")

    figure, axis = plt.subplots(figsize=(9, 5))
    for m, color in zip(models.values(), colors, strict=True):
        axis.plot(np.mean(m["f1_by_step"], axis=0), ".-", ms=3, lw=1, color=color, label=m["title"])
    axis.set_xticks(range(0, STEPS + 1, 5))
    title, what = f"{of}: F1 against inference steps", "test F1 at the tuned threshold, %"
    figures.finish(axis, title, "inference step", what, legend="beside")
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
    title = f"{of}: the energy of the truth above that of the prediction"
    what = "E(x, truth) − E(x, prediction), nats: median and quartiles of the test rows"
    figures.finish(axis, title, what)
    shared.save_figure(figure, folder / "gap.png")


def table_of(result: dict[str, Any]) -> Table:
    """By both rules: the test F1 and what the global term adds."""
    title = runs.title(result, "; in brackets what the global term adds")
    table = Table("", "tuned threshold", "", "expected F1", "", "seconds", title=title)
    shown = {n: m for n, m in result["models"].items() if n == "network" or m["control"]}
    for name, m in (shown | result["baselines"]).items():
        texts = []
        for rule, cell in zip(RULES, runs.cells(m, RULES), strict=True):
            gain = f"({shared.mean_and_spread(m['gain'][rule])})" if "gain" in m else ""
            texts += [cell, gain]
        seconds = f"{np.mean(m['training_seconds']):.0f}" if "training_seconds" in m else ""
        table.add_row(m.get("title", name), *texts, seconds)
    return table


if __name__ == "__main__":
    shared.run(main, Config, __doc__)

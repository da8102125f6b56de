"""Multi-label tagging of BibTeX entries with a structured prediction energy network, trained in any of many ways.

The question: how well does a SPEN tag real bibliography entries (1836 words, 159 tags), and what does its
energy add over its own feature network? `--method` says how the energy is trained, `--dataset` on what.

Expected (example-averaged test F1, percent): feed-forward network 38.9 and SPEN 42.2 (Belanger & McCallum
2016), deep value network 44.7 (Gygli et al. 2017); on Delicious network 37.8 and SPEN 37.5 (2016).

Protocol: a seeded fifth of the training rows chooses the epochs and tunes every decision rule; then, with
--refit, each model is trained again on all training rows for as many epochs. Nothing is chosen on the test
rows.
"""

import dataclasses
import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import jax
import numpy as np
import tyro
from rich.table import Table

import spen_jax as sx
from experiments import shared
from experiments.labels import figures, protocol, runs
from experiments.labels.inputs import Inputs
from experiments.labels.models import METHODS, build, model_of
from experiments.labels.protocol import Model, Outcome, Rows
from experiments.labels.runs import Run
from experiments.labels.settings import Settings, settings_of
from spen_jax.metrics import Expected
from spen_jax.training import Trained, checkpoints

PUBLISHED = {  # sources: the docstring
    "bibtex": (("MLP", "38.9"), ("SPEN", "42.2"), ("DVN", "44.7")),
    "delicious": (("MLP", "37.8"), ("SPEN", "37.5")),
}


@dataclass(frozen=True)
class Config:
    """Train a SPEN and compare it with its feature network; or, with --run, predict."""

    method: runs.Method = "end-to-end"
    dataset: runs.Dataset = "bibtex"
    seeds: runs.Seeds = (0,)
    data_dir: runs.DataDir = None
    out: runs.Out = None
    quick: runs.Quick = False
    features: Path | None = None  # start from this features-seed<N>.spen of a run of the same seed
    refit: bool = True  # train again on all training rows once epochs and decision rules are chosen
    run: Path | None = None  # folder of a finished run to predict with, instead of training
    # With --run: an ARFF file, or the words of one entry; prints the tags of each.
    predict: Annotated[tuple[str, ...], tyro.conf.arg(metavar="FILE.arff|WORDS")] = ()
    # Settings in place of the method's own: `--override width 500 epochs 20`; labels/settings.py lists them.
    override: dict[str, float] = field(default_factory=dict)


def load_features(config: Config, split: dict[str, Any], expected: Any) -> Trained:
    """The network in --features, which must not have seen this run's validation rows."""
    assert config.features is not None
    try:
        params, meta = checkpoints.load(config.features, like=expected)
    except (OSError, ValueError) as error:
        shared.fail(f"--features: {error}; give the features-seed<N>.spen of a finished run")
    if meta.get("split") != split:
        shared.fail(
            f"{config.features} may have seen this run's validation rows: give the features-seed<N>.spen "
            "of a run on the same data, with the same --seeds and --quick"
        )
    return Trained(params, meta["epoch"])


def run_seed(
    run: Run, settings: Settings, models: dict[str, Model], seed: int, progress: Any
) -> tuple[dict[str, Outcome], Rows]:
    """Train, tune and test all models with one seed, and save what they learned."""
    config, dataset = run.config, run.dataset
    rows, inputs = protocol.rows_of(dataset, seed, settings.others)
    split = {"seed": seed, "checksums": dataset.checksums, "rows": len(rows.data.y)}
    ready = {}
    if config.features is not None:
        network = models["network"].init(jax.random.key(seed), rows.data.x[:1], rows.data.y[:1])
        ready["network"] = {"features": load_features(config, split, network)}
        others = {n: m._replace(network_from="network") for n, m in models.items()}
        models = others | {"network": models["network"]}
    outcomes = protocol.run_seed(models, rows, seed, progress, refit=config.refit, ready=ready)
    meta = {"synthetic": dataset.synthetic, "method": config.method}
    for name, outcome in outcomes.items():
        tree: Any = outcome.params
        more: dict[str, Any] = {"model": name, "rules": outcome.rules.saved()}
        if name == "spen":
            more |= {"features": dataset.feature_names, "labels": dataset.label_names}
            more |= {"settings": dataclasses.asdict(settings), "seed": seed}
            kept = {k: v for k, v in inputs._asdict().items() if v is not None}
            tree = {"model": tree, "inputs": kept}
        checkpoints.save(run.folder / f"{name}-seed{seed}.spen", tree, meta | more)
    (selected,) = outcomes["network"].chosen
    # Only this network has not seen the validation rows, so only its file says what the split was.
    of_the_split = meta | {"split": split, "epoch": selected.epoch}
    checkpoints.save(run.folder / f"features-seed{seed}.spen", selected.params, of_the_split)
    return outcomes, rows


def train(config: Config) -> dict[str, Any]:
    """Run all seeds, write the folder, print the table, and return what result.json holds."""
    of_spen, of_control = settings_of(
        config.dataset, config.method, config.override, quick=config.quick
    )
    run = runs.begin(config, "{}")
    models = build(of_spen, config.method, len(run.dataset.label_names), of_control)
    with shared.progress_bars() as progress:
        seeds = [run_seed(run, of_spen, models, seed, progress) for seed in config.seeds]
    result: dict[str, Any] = {"method": config.method, "refit": config.refit}
    result |= {"settings": dataclasses.asdict(of_spen), "seconds_by_phase": {}}
    for name, model in models.items():
        each = [outcomes[name] for outcomes, _ in seeds]
        result[name] = runs.by_seed([one.measures for one in each]) | {"title": model.title}
        for phase, *seconds in zip(model.phases, *(o.seconds_by_phase for o in each), strict=True):
            result["seconds_by_phase"][f"{model.title}: {phase.name}"] = seconds
    result["gain_of_the_energy"] = runs.gains(result["spen"], result["control"])
    result = run.write(result)
    figures.draw(run, runs.mark(result), models, *seeds[0])
    phases = (f"{k} {sum(v):.0f}" for k, v in result["seconds_by_phase"].items())
    return run.say(result, table_of(config, result, list(models)), "seconds: " + "; ".join(phases))


def table_of(config: Config, result: dict[str, Any], names: list[str]) -> Table:
    """Test F1 by each rule."""
    title = runs.title(result, f", {config.method}")
    columns = "", "fixed 0.5", "tuned threshold", "expected F1"
    table = Table(*columns, title=title, title_justify="left")
    for name in names:
        table.add_row(result[name]["title"], *runs.cells(result[name]))
    gains = map(shared.mean_and_spread, result["gain_of_the_energy"].values())
    table.add_row("what the global term adds", *gains, end_section=True)
    if not result["synthetic"] and not result["quick"]:
        for name, f1 in PUBLISHED.get(config.dataset, ()):
            table.add_row(f"published {name}", "", f1, "", style="dim")
    return table


class Finished(NamedTuple):
    """The SPEN of a finished run."""

    predictor: sx.Predictor
    params: Any
    inputs: Inputs
    meta: dict[str, Any]  # the names of "features" and "labels", the "rules" and more


def finished(folder: Path) -> Finished:
    """That of a run's first seed."""
    try:
        seed = json.loads((folder / "result.json").read_text())["seeds"][0]
        tree, meta = checkpoints.load(folder / f"spen-seed{seed}.spen")
    except (OSError, ValueError, KeyError) as error:
        shared.fail(f"--run needs the folder of a finished run, {folder} is none: {error}")
    settings, n_labels = Settings(**meta["settings"]), len(meta["labels"])
    predictor = model_of(settings, meta["method"], n_labels).predictor
    return Finished(predictor, tree["model"], Inputs(**tree["inputs"]), meta)


def predict(config: Config) -> list[list[str]]:
    """Print the tags of each row of an ARFF file, or of one entry given by its words."""
    assert config.run is not None
    predictor, params, inputs, meta = finished(config.run)
    shared.synthetic = meta["synthetic"]
    known = {name: i for i, name in enumerate(meta["features"])}
    x = read_query(config.predict, known, set(meta["labels"]), bool(inputs.words))
    y = np.asarray(predictor(params, inputs(x)).y)
    sets = Expected(**meta["rules"]["expected"])(y)
    tags = [
        [meta["labels"][i] for i in np.argsort(-row) if on[i]]
        for row, on in zip(y, sets, strict=True)
    ]
    mark = "synthetic | " if shared.synthetic else ""
    model = f"{meta['method']} SPEN of seed {meta['seed']}"
    print(f"{mark}{model}, expected-F1 rule", file=sys.stderr)
    for i, row in enumerate(tags):
        print(f"{mark}{i}: {', '.join(tag.removeprefix('TAG_') for tag in row)}")
    return tags


def read_query(
    query: tuple[str, ...], known: dict[str, int], labels: set[str], words: bool = True
) -> np.ndarray:
    """X (N, D) in the order of the run's attributes; without `words` only an ARFF file can be read."""
    if len(query) == 1 and (query[0].lower().endswith(".arff") or Path(query[0]).is_file()):
        try:
            found = sx.data.read_arff(query[0], labels=())
        except (sx.data.DataError, OSError) as error:
            shared.fail(str(error))
        names = found.feature_names
        unknown = [n for n in names if n not in known and n not in labels]
        missing = [n for n in known if n not in names]
        if unknown or missing:
            shared.fail(
                f"{query[0]} must declare the attributes of the run's data, but has the unknown "
                f"{unknown[:3]} and lacks {missing[:3]} (first three of {len(unknown)} and {len(missing)})"
            )
        x = found.x if isinstance(found.x, np.ndarray) else found.x.toarray()
        return x[:, [names.index(name) for name in known]]
    if not words:
        shared.fail("--predict needs an .arff file: the inputs of this data set are not words")
    given = [word.strip(".,;:!?()\"'").lower() for text in query for word in text.split()]
    unknown = [word for word in given if word not in known]
    if len(unknown) == len(given):
        shared.fail(
            f"--predict needs an .arff file, or words of the run's data such as {list(known)[-3:]}; "
            f"of {given} it has none"
        )
    if unknown:
        left_out = f"not among the {len(known)} words of the data, left out: {', '.join(unknown)}"
        print(left_out, file=sys.stderr)
    return np.isin(list(known), given).astype(np.float32)[None]


def main(config: Config) -> Any:
    """Train, or predict with --run."""
    if config.method not in METHODS:
        shared.fail(f"--method must be one of {', '.join(METHODS)}, got {config.method}")
    if (config.run is None) != (not config.predict):
        shared.fail("--run DIR and --predict FILE.arff|WORDS go together")
    if config.features is not None and len(config.seeds) != 1:
        shared.fail("--features goes with one seed, that of the run which saved the file")
    if config.features is not None and not config.features.is_file():
        shared.fail(f"--features: there is no file {config.features}")
    return predict(config) if config.run else train(config)


if __name__ == "__main__":
    shared.run(main, Config, __doc__)

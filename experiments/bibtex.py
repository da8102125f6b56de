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
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import bibtex_figures as figures
import jax
import multilabel
import numpy as np
import recipes
import shared
import tyro
from multilabel import RULES, Decisions, Inputs, Model, Outcome
from rich.table import Table

import spen_jax as sx
from spen_jax import checkpoints

PUBLISHED = {  # sources: the docstring
    "bibtex": (("MLP", "38.9"), ("SPEN", "42.2"), ("DVN", "44.7")),
    "delicious": (("MLP", "37.8"), ("SPEN", "37.5")),
}
QUICK = {"width": 64, "epochs": 4, "energy_epochs": 2, "joint_epochs": 1}


@dataclass(frozen=True)
class Config:
    """Train a SPEN and compare it with its feature network; or, with --run, predict."""

    method: Annotated[str, tyro.conf.arg(metavar="|".join(recipes.METHODS))] = "end-to-end"
    """How the energy is trained."""

    dataset: Literal["bibtex", "delicious", "scene", "yeast"] = "bibtex"
    """What it is trained on."""

    seeds: tuple[int, ...] = (0,)
    """Seeds of the validation rows, the parameters and the batches; several give mean and spread."""

    data_dir: Path | None = None
    """Folder that holds bibtex/ (or another data set's); else SPEN_JAX_DATA, else the cache, else a download."""

    out: Path | None = None
    """Folder to write, new or empty; runs/bibtex-<date> by default."""

    features: Path | None = None
    """Start from the feature network in this features-seed<N>.npz of an earlier run of the same seed."""
    refit: bool = True
    """Train every model again on all training rows once its epochs and decision rules are chosen."""
    quick: bool = False
    """A run of seconds on few rows, to see that everything works; its figures mean nothing."""
    run: Path | None = None
    """Folder of a finished run to predict with, instead of training."""

    predict: Annotated[tuple[str, ...], tyro.conf.arg(metavar="FILE.arff|WORDS")] = ()
    """With --run: an ARFF file, or the words of one entry; prints the tags of each."""

    validation: float = 0.2
    """Share of the training rows that chooses epochs and decision rules."""

    share: float = 1.0
    """Share of the training rows that are used at all."""

    patience: int = 10
    """Stop a training when its validation F1 has not improved for this many epochs."""

    override: dict[str, float] = field(default_factory=dict)
    """Settings in place of the method's own: `--override width 500 epochs 20`; recipes.Settings lists them."""


def settings_of(config: Config, control: bool = False) -> recipes.Settings:
    """The settings on this data set of the method or its control, with what --quick and --override say."""
    known = {f.name: f.default for f in dataclasses.fields(recipes.Settings)}
    if unknown := [name for name in config.override if name not in known]:
        shared.fail(f"--override knows {', '.join(known)}, got {', '.join(unknown)}")
    override = {
        name: type(known[name])(value) if known[name] is not None else value
        for name, value in config.override.items()
    }
    settings = recipes.settings_of(config.dataset, config.method, override, control)
    if config.quick:
        few = {name: min(n, getattr(settings, name)) for name, n in QUICK.items()}
        settings = dataclasses.replace(settings, **few)
    for name in ("input_dropout", "dropout", "global_dropout"):
        if not 0 <= getattr(settings, name) < 1:
            shared.fail(f"{name} needs a share from 0 to below 1, got {getattr(settings, name)}")
    for name in ("width", "epochs", "energy_epochs", "joint_epochs", "batch_size", "samples"):
        if getattr(settings, name) < 1:
            shared.fail(f"{name} needs 1 or more, got {getattr(settings, name)}")
    return settings


def load_features(config: Config, split: dict[str, Any], expected: Any) -> shared.Trained:
    """The network in --features, which must not have seen this run's validation rows."""
    assert config.features is not None
    try:
        params, meta = checkpoints.load(config.features)
        checkpoints.check_like(params, expected, config.features)
    except (OSError, ValueError) as error:
        shared.fail(f"--features: {error}; give the features-seed<N>.npz of a finished run")
    if meta.get("split") != split:
        shared.fail(
            f"{config.features} may have seen this run's validation rows: give the features-seed<N>.npz "
            "of a run on the same data, with the same --seeds, --validation, --share and --quick"
        )
    return shared.Trained(params, meta["epoch"], [], 0.0)


def run_seed(
    config: Config,
    dataset: sx.data.Dataset,
    models: dict[str, Model],
    seed: int,
    progress: Any,
    folder: Path,
) -> tuple[Outcome, multilabel.Rows]:
    """Train, tune and test all models with one seed, and save what they learned."""
    rows = multilabel.rows_of(dataset, seed, config.validation, settings_of(config).others)
    split = {"seed": seed, "validation": config.validation, "checksums": dataset.checksums}
    split["rows"] = len(rows.data.x)
    ready = {}
    if config.features is not None:
        network = models["network"].init(jax.random.key(seed), rows.data.x[:1], rows.data.y[:1])
        ready["network", "features"] = load_features(config, split, network)
        models = {
            name: model._replace(network_from=None if name == "network" else "network")
            for name, model in models.items()
        }
    outcome = multilabel.run_seed(
        models, rows, seed, progress, patience=config.patience, refit=config.refit, ready=ready
    )
    meta = {"synthetic": dataset.synthetic, "config": jsonable(config)}
    for name in models:
        tree: Any = outcome.params[name]
        more: dict[str, Any] = {"model": name}
        more["decisions"] = outcome.decisions[name]._asdict()
        if name == "spen":
            more |= {"features": dataset.feature_names, "labels": dataset.label_names}
            more["settings"] = dataclasses.asdict(settings_of(config))
            inputs = {k: v for k, v in rows.inputs._asdict().items() if v is not None}
            tree = {"model": tree, "inputs": inputs}
        checkpoints.save(folder / f"{name}-seed{seed}.npz", tree, meta | more)
    selected = outcome.chosen["network", "features"]
    # Only this network has not seen the validation rows, so only its file says what the split was.
    of_the_split = meta | {"split": split, "epoch": selected.epoch}
    checkpoints.save(folder / f"features-seed{seed}.npz", selected.params, of_the_split)
    return outcome, rows


def jsonable(config: Config) -> dict[str, Any]:
    """The configuration with paths as text."""
    return {k: str(v) if isinstance(v, Path) else v for k, v in vars(config).items()}


def train(config: Config) -> dict[str, Any]:
    """Run all seeds, write the folder, print the table, and return what result.json holds."""
    began = time.perf_counter()
    settings = settings_of(config)
    dataset = multilabel.load(config.dataset, config.data_dir, config.share, config.quick)
    folder = shared.new_folder(config.out, dataset.name)
    saved = {"settings": dataclasses.asdict(settings), "synthetic": dataset.synthetic}
    shared.write_json(folder / "config.json", jsonable(config) | saved)
    of_control = settings_of(config, control=True)
    models = recipes.build(settings, config.method, len(dataset.label_names), of_control)
    with shared.progress_bars() as progress:
        seeds = [run_seed(config, dataset, models, s, progress, folder) for s in config.seeds]
    runs = [outcome for outcome, _ in seeds]
    result: dict[str, Any] = {
        "data": {"name": dataset.name, "checksums": dataset.checksums},
        "synthetic": dataset.synthetic,
        "quick": config.quick,
        "method": config.method,
        "seeds": config.seeds,
        "refit": config.refit,
    }
    for name, model in models.items():
        each = [run.measures[name] for run in runs]
        result[name] = {key: [m[key] for m in each] for key in each[0]} | {"title": model.title}
    result["gain_of_the_energy"] = multilabel.gains(runs, "spen", "control")
    result["seconds_by_phase"] = {
        f"{models[name].title}: {phase}": [run.seconds[name, phase] for run in runs]
        for name, phase in runs[0].seconds
    }
    result["environment"] = shared.environment()
    mark = "synthetic data: " if dataset.synthetic else "quick run: " if config.quick else ""
    figures.draw(folder, mark, dataset, models, *seeds[0], settings.steps)
    result["seconds"] = time.perf_counter() - began
    shared.write_json(folder / "result.json", result)
    report(config, result, list(models), folder)
    return result


def report(config: Config, result: dict[str, Any], names: list[str], folder: Path) -> None:
    """Print the table, on one screen."""
    seeds = len(result["seeds"])
    spread = f", mean ± spread over {seeds} seeds" if seeds > 1 else ""
    title = (
        f"{result['data']['name']}, {result['method']}: test F1 averaged over examples, %{spread}"
    )
    if result["quick"]:
        title += " (quick run: these figures mean nothing)"
    table = Table(
        "", "fixed 0.5", "tuned threshold", "expected F1", title=title, title_justify="left"
    )
    for name in names:
        cells = (shared.mean_and_spread(result[name][f"test_f1_{r}"]) for r in RULES)
        table.add_row(result[name]["title"], *cells)
    gains = (shared.mean_and_spread(result["gain_of_the_energy"][r]) for r in RULES)
    table.add_row("what the global term adds", *gains, end_section=True)
    if not result["synthetic"] and not result["quick"]:
        for name, f1 in PUBLISHED.get(config.dataset, ()):
            table.add_row(f"published {name}", "", f1, "", style="dim")
    shared.say(table)
    phases = result["seconds_by_phase"].items()
    shared.say("seconds: " + "; ".join(f"{k} {sum(v):.0f}" for k, v in phases))
    shared.say(f"{result['seconds']:.0f} s in all; wrote {folder}")


def predict(config: Config) -> list[list[str]]:
    """Print the tags of each row of an ARFF file, or of one entry given by its words."""
    assert config.run is not None
    try:
        seed = json.loads((config.run / "result.json").read_text())["seeds"][0]
        tree, meta = checkpoints.load(config.run / f"spen-seed{seed}.npz")
    except (OSError, ValueError, KeyError) as error:
        shared.fail(f"--run needs the folder of a finished run, {config.run} is none: {error}")
    shared.synthetic = meta["synthetic"]
    inputs = Inputs(**tree["inputs"])
    known = {name: i for i, name in enumerate(meta["features"])}
    x = read_query(config.predict, known, set(meta["labels"]), bool(inputs.words))
    method, settings = meta["config"]["method"], recipes.Settings(**meta["settings"])
    model = recipes.model(settings, method, len(meta["labels"]))
    y, z, _ = multilabel.predicted(model, tree["model"], inputs(x))
    sets = Decisions(**meta["decisions"]).sets(y, z)["expected"]
    tags = [
        [meta["labels"][i] for i in np.argsort(-row) if on[i]]
        for row, on in zip(y, sets, strict=True)
    ]
    mark = "synthetic | " if shared.synthetic else ""
    print(f"{mark}{method} SPEN of seed {seed}, expected-F1 rule", file=sys.stderr)
    for i, row in enumerate(tags):
        print(f"{mark}{i}: {', '.join(tag.removeprefix('TAG_') for tag in row)}")
    return tags


def read_query(
    query: tuple[str, ...], known: dict[str, int], labels: set[str], words: bool = True
) -> np.ndarray:
    """X (N, D) in the order of the run's attributes; without `words` only an ARFF file can be read."""
    x = np.zeros((1, len(known)), np.float32)
    if len(query) == 1 and (query[0].lower().endswith(".arff") or Path(query[0]).is_file()):
        try:
            split, names, _ = sx.data.read_arff(query[0])
        except (sx.data.DataError, OSError) as error:
            shared.fail(str(error))
        unknown = [n for n in names if n not in known and n not in labels]
        missing = [n for n in known if n not in names]
        if unknown or missing:
            shared.fail(
                f"{query[0]} must declare the attributes of the run's data, but has the unknown "
                f"{unknown[:3]} and lacks {missing[:3]} (first three of {len(unknown)} and {len(missing)})"
            )
        x = np.zeros((len(split.x), len(known)), np.float32)
        for column, name in enumerate(names):
            if name in known:
                x[:, known[name]] = split.x[:, column]
        return x
    if not words:
        shared.fail("--predict needs an .arff file: the inputs of this data set are not words")
    given = [word.strip(".,;:!?()\"'").lower() for text in query for word in text.split()]
    unknown = [word for word in given if word not in known]
    if not given or len(unknown) == len(given):
        shared.fail(
            f"--predict needs an .arff file, or words of the run's data such as {list(known)[-3:]}; "
            f"of {given} it has none"
        )
    if unknown:
        left_out = f"not among the {len(known)} words of the data, left out: {', '.join(unknown)}"
        print(left_out, file=sys.stderr)
    x[0, [known[word] for word in given if word in known]] = 1
    return x


def check(config: Config) -> None:
    """End with one clear line where the configuration cannot be run."""
    if config.method not in recipes.METHODS:
        shared.fail(f"--method must be one of {', '.join(recipes.METHODS)}, got {config.method}")
    if (config.run is None) != (not config.predict):
        shared.fail("--run DIR and --predict FILE.arff|WORDS go together")
    if not config.seeds or len(set(config.seeds)) < len(config.seeds) or min(config.seeds) < 0:
        shared.fail(f"--seeds needs different numbers, 0 or more, got {list(config.seeds)}")
    if config.features is not None and len(config.seeds) != 1:
        shared.fail("--features goes with one seed, that of the run which saved the file")
    if config.features is not None and not config.features.is_file():
        shared.fail(f"--features: there is no file {config.features}")
    if not 0 < config.validation < 1:
        shared.fail(f"--validation needs a share between 0 and 1, got {config.validation}")
    if not 0 < config.share <= 1:
        shared.fail(f"--share needs a share above 0, at most 1, got {config.share}")
    if config.patience < 1:
        shared.fail(f"--patience needs 1 or more, got {config.patience}")


def main(config: Config) -> Any:
    """Train, or predict with --run."""
    check(config)
    shared.synthetic = False
    return predict(config) if config.run else train(config)


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))

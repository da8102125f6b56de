"""Multi-label tagging of BibTeX entries with a structured prediction energy network.

The question: how well does a SPEN tag real bibliography entries (1836 words, 159 tags), and what does its
energy add over its own feature network?

Expected (example-averaged test F1, percent): feed-forward network 38.9 and SPEN 42.2 (Belanger & McCallum
2016), deep value network 44.7 (Gygli et al. 2017).

Protocol: a seeded fifth of the training rows chooses the epochs and tunes every decision rule; then, with
--refit, each model is trained again on all training rows for as many epochs. Nothing is chosen on the test
rows.
"""

import dataclasses
import json
import sys
import time
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import bibtex_figures as figures
import jax
import jax.numpy as jnp
import numpy as np
import shared
import tyro
from rich.table import Table

import spen_jax as sx
from spen_jax import checkpoints, losses, metrics

PUBLISHED = (("MLP", "38.9"), ("SPEN", "42.2"), ("DVN", "44.7"))  # sources: the docstring
RULES = ("fixed", "tuned", "expected")


@dataclass(frozen=True)
class Config:
    """Train a SPEN on BibTeX and compare it with its feature network; or, with --run, predict."""

    method: Literal["end-to-end", "max-margin"] = "end-to-end"
    """How the energy is trained: the task loss through unrolled inference, or the structured hinge."""

    seeds: tuple[int, ...] = (0,)
    """Seeds of the validation rows, the parameters and the batches; several give mean and spread."""

    data_dir: Path | None = None
    """Folder that holds bibtex/; else SPEN_JAX_DATA, else the cache, else a download."""

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

    patience: int = 10
    """Stop a training when its validation F1 has not improved for this many epochs."""

    width: int = 1000
    """Hidden units of the feature network."""

    input_dropout: float = 0.3
    """Share of words left out in a training step."""

    dropout: float = 0.8
    """Share of hidden units left out in a training step."""
    global_units: int = 16
    """Units of the energy's global term."""
    epochs: int = 30
    """Epochs of a network's or an end-to-end training."""

    energy_epochs: int = 5
    """Max-margin, second phase: epochs with the features frozen."""

    joint_epochs: int = 15
    """Max-margin, third phase: epochs with all parameters free."""
    margin: float = 6.0
    """Max-margin: the cost D is this x the squared error."""

    soft_f1_weight: float = 50.0
    """end-to-end: the loss is cross-entropy + this x (1 - soft F1)."""

    def of_the_models(self) -> "Config":
        """The settings that the models depend on, so that equal models are built, and compiled, once."""
        same = {"seeds": (0,), "data_dir": None, "out": None, "features": None, "run": None}
        return dataclasses.replace(self, **same, predict=(), refit=True, patience=1)


class Inputs(NamedTuple):
    """tf-idf: x idf / ||x idf|| x 8, with idf_j = log(N / (1 + number of training rows with word j))."""

    idf: np.ndarray

    @classmethod
    def of(cls, x: np.ndarray) -> "Inputs":
        """The inverse document frequencies of training rows x (N, D)."""
        return cls(np.log(len(x) / (1 + np.sum(x > 0, axis=0))).astype(np.float32))

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """(N, D) -> (N, D); a row without words stays 0."""
        weighted = x * self.idf
        return 8 * weighted / np.maximum(np.linalg.norm(weighted, axis=1, keepdims=True), 1e-6)


class Phase(NamedTuple):
    """One training: what it minimises, how, and the factor of each parameter's learning rate."""

    name: str
    objective: Any
    recipe: shared.Recipe
    rates: shared.Rates = ()


class Model(NamedTuple):
    """A row of the table. `predict(params, x)` gives relaxed labels, logits, residuals."""

    title: str
    module: Any
    phases: tuple[Phase, ...]
    predict: Any
    network_from: str | None = None
    """The model whose parameters this one's feature network starts from."""


class Decisions(NamedTuple):
    """The tuned decision rules: y >= threshold, and the set of best expected F1 under sigmoid(a z + b)."""

    threshold: float
    a: float
    b: float

    @classmethod
    def tune(cls, truth: np.ndarray, y: np.ndarray, z: np.ndarray) -> "Decisions":
        """On validation rows; every BibTeX entry has a tag, so the empty set is no answer."""
        a, b = metrics.tune_expected(truth, z, allow_empty=False)
        return cls(metrics.tune_threshold(truth, y), a, b)

    def sets(self, y: np.ndarray, z: np.ndarray) -> dict[str, np.ndarray]:
        """The label sets of each rule, bool (N, L)."""
        p = jax.nn.sigmoid(self.a * z + self.b)
        return {
            "fixed": metrics.decide(y, 0.5),
            "tuned": metrics.decide(y, self.threshold),
            "expected": metrics.expected_f1_sets(p, allow_empty=False),
        }


def spen_of(config: Config, n_labels: int) -> sx.SPEN:
    """The paper's energy, with entropy for an inference on logits."""
    return sx.SPEN(network_of(config, n_labels), config.global_units, entropy=1.0, global_scale=3.0)


def network_of(config: Config, n_labels: int) -> sx.FeatureNetwork:
    """The feature network: one hidden layer of rectified units."""
    return sx.FeatureNetwork(
        n_labels, (config.width,), input_dropout=config.input_dropout, dropout=config.dropout
    )


def steps_of(method: str) -> int:
    """Inference steps: few, since they start at the feature network's answer."""
    return 3 if method == "end-to-end" else 10


@lru_cache(maxsize=8)
def build(config: Config, n_labels: int) -> dict[str, Model]:
    """The models of the table, in the order in which they are trained.

    "feature_network" is the SPEN's control: the network alone, trained by the same objective for as long.
    The global term learns at a higher rate than the network: at the same one it hardly leaves its start.
    """
    network = network_of(config, n_labels)
    spen = spen_of(config, n_labels)
    logits = sx.logits_of(network)
    steps: Any = {"solver": sx.MirrorDescent(0.5), "steps": steps_of(config.method)}
    full = shared.Recipe(config.epochs, 3e-3, 0.1)

    @jax.jit
    def predict_network(params, x):
        z = logits(params, x)
        return jax.nn.sigmoid(z), z, jnp.zeros(len(z))

    def predict_with(module):
        features, energy = sx.functions_of(module)

        @jax.jit
        def predict(params, x):
            context = features(params, x)
            solution = sx.minimize(energy, params, context, shared.start(context), **steps)
            inside = jnp.clip(solution.y, 1e-7, 1 - 1e-7)
            return solution.y, jnp.log(inside) - jnp.log1p(-inside), solution.residual

        return predict

    def network_model(title, loss):
        phase = Phase("features", sx.feed_forward(logits, loss), full)
        return Model(title, network, (phase,), predict_network)

    def task_loss(y, truth):
        soft_f1 = losses.soft_f1_error(y, truth)
        return losses.cross_entropy(y, truth) + config.soft_f1_weight * soft_f1

    def end_to_end_model():
        features, energy = sx.functions_of(spen)
        weights = (0.1, *[0] * (steps["steps"] - 1), 1)
        objective = sx.end_to_end(
            energy, features, loss=task_loss, weights=weights, start=shared.start, **steps
        )
        phase = Phase("all together", objective, full, (("network", 1.0), ("", 10.0)))
        return Model("SPEN", spen, (phase,), predict_with(spen))

    def cost(y, truth):
        return config.margin * losses.squared_error(y, truth)

    def max_margin_model(title, module):
        features, energy = sx.functions_of(module)
        objective = sx.max_margin(energy, features, cost=cost, start=shared.start, **steps)
        phases = (
            Phase(
                "energy",
                objective,
                shared.Recipe(config.energy_epochs, 3e-3, 0.01),
                (("hidden", 0.0), ("network", 1.0), ("", 100.0)),
            ),
            Phase(
                "all together",
                objective,
                shared.Recipe(config.joint_epochs, 3e-4, 0.01),
                (("network", 1.0), ("", 100.0)),
            ),
        )
        return Model(title, module, phases, predict_with(module), "cross_entropy_network")

    if config.method == "end-to-end":
        control, model = network_model("network, the SPEN's loss", task_loss), end_to_end_model()
    else:
        local = spen.clone(n_global=0)  # its minimiser is sigmoid of the network's logits
        control = max_margin_model("network, the SPEN's loss", local)
        model = max_margin_model("SPEN", spen)
    return {
        "cross_entropy_network": network_model("network, cross-entropy", losses.cross_entropy),
        "feature_network": control,
        "spen": model,
    }


def fit_models(
    models: dict[str, Model],
    params: dict[str, Any],
    data: sx.data.Split,
    seed: int,
    progress: Any,
    *,
    valid: sx.data.Split | None = None,
    ready: dict[tuple[str, str], shared.Trained] | None = None,
    stops: dict[tuple[str, str], int] | None = None,
    patience: int = 1000,
) -> dict[tuple[str, str], shared.Trained]:
    """Train every phase of every model on `data`; (model, phase) -> parameters, epoch, scores, seconds.

    With `valid` each phase keeps its best epoch, and phases that are `ready` are taken as they are;
    with `stops` it ends after the epoch given there.
    """
    trained = dict(ready or {})
    done = {}
    for name, model in models.items():
        current = params[name]
        if model.network_from is not None:
            network = done[model.network_from]
            current = {**current, "network": network} if "network" in current else network
        score = None if valid is None else partial(shared.validation_f1, model.predict, valid)
        for index, phase in enumerate(model.phases):
            if (name, phase.name) not in trained:
                what = "choosing epochs" if valid else "on all rows"
                trained[name, phase.name] = shared.train(
                    phase.objective,
                    current,
                    data,
                    phase.recipe,
                    jax.random.fold_in(jax.random.key(seed), index + 1),
                    score=score,
                    patience=patience,
                    stop_after=stops[name, phase.name] if stops else None,
                    rates=phase.rates,
                    progress=progress,
                    name=f"seed {seed}: {model.title}, {phase.name}, {what}",
                )
            current = trained[name, phase.name].params
        done[name] = current
    return trained


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
            "of a run on the same data, with the same --seeds, --validation and --quick"
        )
    return shared.Trained(params, meta["epoch"], [], 0.0)


def measure(
    truth: np.ndarray, y: np.ndarray, z: np.ndarray, decisions: Decisions
) -> dict[str, float]:
    """All metrics of the answers y and logits z, in percent."""
    sets = decisions.sets(y, z)
    tuned = sets["tuned"]
    values = {
        **{f"test_f1_{rule}": metrics.example_f1(truth, sets[rule]) for rule in RULES},
        "micro_f1_tuned": metrics.micro_f1(truth, tuned),
        "macro_f1_tuned": metrics.macro_f1(truth, tuned),
        "hamming_error_tuned": metrics.hamming_error(truth, tuned),
        "without_tags_tuned": float(np.mean(~tuned.any(axis=1))),
        "precision_at_1": metrics.precision_at_k(truth, z, 1),
        "precision_at_3": metrics.precision_at_k(truth, z, 3),
        "average_precision": metrics.average_precision(truth, z),
    }
    return {name: 100 * value for name, value in values.items()}


def run_seed(
    config: Config,
    dataset: sx.data.Dataset,
    built: dict[str, Model],
    seed: int,
    progress: Any,
    folder: Path,
) -> dict[str, Any]:
    """Train, tune and test all models with one seed, and save what they learned."""
    models = dict(built)
    inputs = Inputs.of(dataset.train.x)
    data = sx.data.Split(inputs(dataset.train.x), dataset.train.y)
    test = sx.data.Split(inputs(dataset.test.x), dataset.test.y)
    rows, held_out = sx.data.split(len(data.x), config.validation, seed)
    part, valid = (jax.tree.map(lambda a, r=r: a[r], data) for r in (rows, held_out))

    split = {"seed": seed, "validation": config.validation, "checksums": dataset.checksums}
    split["rows"] = len(data.x)

    params = {
        name: shared.initial_params(model.module, data, jax.random.key(seed))
        for name, model in models.items()
    }
    first = next(iter(models))
    ready = {}
    if config.features is not None:
        ready[first, "features"] = load_features(config, split, params[first])
        models = {
            name: model._replace(network_from=None if name == first else first)
            for name, model in models.items()
        }

    train = partial(fit_models, models, params, seed=seed, progress=progress)
    chosen = train(part, valid=valid, ready=ready, patience=config.patience)
    stops = {key: result.epoch for key, result in chosen.items()}
    final = train(data, stops=stops) if config.refit else chosen

    meta = {"synthetic": dataset.synthetic, "config": jsonable(config)}
    result: dict[str, Any] = {"models": {}, "scores": {}, "seconds": {}}
    for name, model in models.items():
        last = (name, model.phases[-1].name)
        y, z, _ = map(np.asarray, model.predict(chosen[last].params, valid.x))
        decisions = Decisions.tune(valid.y, y, z)
        validation = decisions.sets(y, z)
        learned = final[last].params
        y, z, residual = map(np.asarray, model.predict(learned, test.x))
        result["models"][name] = {
            **measure(test.y, y, z, decisions),
            "residual": float(np.mean(residual)),
            **{
                f"validation_f1_{rule}": 100 * metrics.example_f1(valid.y, validation[rule])
                for rule in RULES
            },
            "epochs": {phase.name: stops[name, phase.name] for phase in model.phases},
            "decisions": decisions._asdict(),
        }
        more = {"model": name, "decisions": decisions._asdict()}
        if name == "spen":
            more |= {"features": dataset.feature_names, "labels": dataset.label_names}
            learned_and_inputs = {"model": learned, "inputs": {"idf": inputs.idf}}
            checkpoints.save(folder / f"spen-seed{seed}.npz", learned_and_inputs, meta | more)
            result["spen"] = (learned, decisions, test)
        else:
            checkpoints.save(folder / f"{name}-seed{seed}.npz", learned, meta | more)
    selected = chosen[first, "features"]
    # Only this network has not seen the validation rows, so only its file says what the split was.
    of_the_split = meta | {"split": split, "epoch": selected.epoch}
    checkpoints.save(folder / f"features-seed{seed}.npz", selected.params, of_the_split)
    for (name, phase), trained in chosen.items():
        label = f"{models[name].title}: {phase}"
        result["scores"][label] = trained.scores
        refit = final[name, phase].seconds if config.refit else 0.0
        result["seconds"][label] = trained.seconds + refit
    return result


def jsonable(config: Config) -> dict[str, Any]:
    """The configuration with paths as text."""
    return {k: str(v) if isinstance(v, Path) else v for k, v in vars(config).items()}


def load_data(config: Config) -> sx.data.Dataset:
    """BibTeX; or, where nothing was named and no download works, the synthetic stand-in, announced."""
    try:
        dataset = sx.data.load("bibtex", config.data_dir)
    except sx.data.DownloadError as error:
        shared.synthetic = True
        shared.say(
            "The BibTeX data could not be downloaded, so this run uses a made-up tagging corpus of the "
            "same shape; its figures say nothing about BibTeX."
        )
        shared.say(str(error))
        dataset = sx.synthetic.tagging_corpus()
    except (sx.data.DataError, FileNotFoundError) as error:
        shared.fail(str(error))
    if config.quick:
        few = (sx.data.Split(s.x[:600], s.y[:600]) for s in (dataset.train, dataset.test))
        train, test = few
        dataset = dataset._replace(train=train, test=test)
    return dataset


def train(config: Config) -> dict[str, Any]:
    """Run all seeds, write the folder, print the table, and return what result.json holds."""
    began = time.perf_counter()
    dataset = load_data(config)
    if config.quick:
        config = dataclasses.replace(
            config,
            width=min(config.width, 64),
            epochs=min(config.epochs, 4),
            energy_epochs=min(config.energy_epochs, 2),
            joint_epochs=min(config.joint_epochs, 1),
        )
    folder = shared.new_folder(config.out, dataset.name)
    shared.write_json(folder / "config.json", jsonable(config) | {"synthetic": dataset.synthetic})
    runs, models = [], build(config.of_the_models(), len(dataset.label_names))
    with shared.progress_bars() as progress:
        for seed in config.seeds:
            runs.append(run_seed(config, dataset, models, seed, progress, folder))
    names = list(runs[0]["models"])
    result: dict[str, Any] = {
        "data": {"name": dataset.name, "checksums": dataset.checksums},
        "synthetic": dataset.synthetic,
        "quick": config.quick,
        "method": config.method,
        "seeds": config.seeds,
        "refit": config.refit,
    }
    for name in names:
        each = [run["models"][name] for run in runs]
        result[name] = {key: [m[key] for m in each] for key in each[0]}
        result[name]["title"] = models[name].title
    result["gain_of_the_energy"] = {
        rule: [
            run["models"]["spen"][f"test_f1_{rule}"]
            - run["models"]["feature_network"][f"test_f1_{rule}"]
            for run in runs
        ]
        for rule in RULES
    }
    phases = runs[0]["seconds"]
    result["seconds_by_phase"] = {k: [run["seconds"][k] for run in runs] for k in phases}
    result["environment"] = shared.environment()
    path = inference_path(config, dataset, runs[0])
    result["seconds"] = time.perf_counter() - began
    shared.write_json(folder / "result.json", result)
    mark = "synthetic data: " if dataset.synthetic else "quick run: " if config.quick else ""
    figures.draw(folder, mark, dataset, runs[0], *path)
    report(result, names, folder)
    return result


def inference_path(config: Config, dataset: sx.data.Dataset, run: dict) -> tuple[Any, ...]:
    """Inference on the test rows for 20 steps: (mean energy, iterates (B, 21, L), interactions)."""
    params, _, test = run["spen"]
    features, energy = sx.functions_of(spen_of(config, len(dataset.label_names)))
    context = jax.jit(features)(params, test.x)
    solution = sx.minimize(
        energy,
        params,
        context,
        shared.start(context),
        solver=sx.MirrorDescent(0.5),
        steps=20,
        trace="y",
    )
    each = jax.jit(jax.vmap(jax.vmap(energy, (None, None, 0)), (None, 0, 0)))
    mean_energy = np.mean(each(params, context, solution.trace["y"]), axis=0)
    few = jax.tree.map(lambda a: a[:200], (context, solution.y))
    pairs = np.asarray(sx.interactions(energy, params, *few))
    return mean_energy, np.asarray(solution.trace["y"]), pairs, steps_of(config.method)


def report(result: dict[str, Any], names: list[str], folder: Path) -> None:
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
    table.add_row("what the energy adds", *gains, end_section=True)
    if not result["synthetic"] and not result["quick"]:
        for name, f1 in PUBLISHED:
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
    known = {name: i for i, name in enumerate(meta["features"])}
    x = read_query(config.predict, known, set(meta["labels"]))
    saved = Config(**meta["config"])
    model = build(saved.of_the_models(), len(meta["labels"]))["spen"]
    y, z, _ = map(np.asarray, model.predict(tree["model"], Inputs(tree["inputs"]["idf"])(x)))
    sets = Decisions(**meta["decisions"]).sets(y, z)["expected"]
    tags = [
        [meta["labels"][i] for i in np.argsort(-row) if on[i]]
        for row, on in zip(y, sets, strict=True)
    ]
    mark = "synthetic | " if shared.synthetic else ""
    print(f"{mark}{saved.method} SPEN of seed {seed}, expected-F1 rule", file=sys.stderr)
    for i, row in enumerate(tags):
        print(f"{mark}{i}: {', '.join(tag.removeprefix('TAG_') for tag in row)}")
    return tags


def read_query(query: tuple[str, ...], known: dict[str, int], labels: set[str]) -> np.ndarray:
    """X (N, D) in the order of the run's words."""
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
    words = [word.strip(".,;:!?()\"'").lower() for text in query for word in text.split()]
    unknown = [word for word in words if word not in known]
    if not words or len(unknown) == len(words):
        shared.fail(
            f"--predict needs an .arff file, or words of the run's data such as {list(known)[-3:]}; "
            f"of {words} it has none"
        )
    if unknown:
        left_out = f"not among the {len(known)} words of the data, left out: {', '.join(unknown)}"
        print(left_out, file=sys.stderr)
    x[0, [known[word] for word in words if word in known]] = 1
    return x


def check(config: Config) -> None:
    """End with one clear line where the settings cannot be run."""
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
    for name in ("input_dropout", "dropout"):
        if not 0 <= getattr(config, name) < 1:
            option = name.replace("_", "-")
            shared.fail(f"--{option} needs a share from 0 to below 1, got {getattr(config, name)}")
    for name in ("patience", "width", "epochs", "energy_epochs", "joint_epochs"):
        if getattr(config, name) < 1:
            option = name.replace("_", "-")
            shared.fail(f"--{option} needs 1 or more, got {getattr(config, name)}")


def main(config: Config) -> Any:
    """Train, or predict with --run."""
    check(config)
    shared.synthetic = False
    return predict(config) if config.run else train(config)


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))

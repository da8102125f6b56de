"""The one protocol of the multi-label experiments: data, models, decision rules, choosing and refitting, a run's folder.

A seeded share of the training rows, the validation rows, chooses epochs and tunes every decision rule; then each
model is trained again on all training rows for as many epochs. Nothing is chosen on the test rows.
"""

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

import spen_jax as sx
from experiments import shared
from experiments.labels.inputs import Inputs
from spen_jax import metrics
from spen_jax.training import Phase, Refitted, Trained, choose_then_refit, fit_phases

DATASETS = "bibtex", "delicious", "scene", "yeast"


class Rules(NamedTuple):
    """The three ways to make label sets of relaxed labels y (N, L)."""

    fixed: metrics.Fixed
    tuned: metrics.Tuned
    expected: metrics.Expected

    @classmethod
    def tune(cls, y: Any, truth: np.ndarray, allow_empty: bool) -> "Rules":
        """On validation rows; the last rule on the first thousand, more of which takes minutes with many labels.

        Where every training row has a label, so that not `allow_empty`, the empty set is no answer of that rule.
        """
        y = np.asarray(y)
        expected = metrics.Expected.tune(y[:1000], truth[:1000], allow_empty=allow_empty)
        return cls(metrics.Fixed(), metrics.Tuned.tune(y, truth), expected)

    def f1(self, y: Any, truth: np.ndarray, of: str) -> dict[str, float]:
        """Example F1 in percent by each rule, under the names `of`_f1_fixed, ..."""
        return {
            f"{of}_f1_{name}": 100 * metrics.example_f1(rule(y), truth)
            for name, rule in self._asdict().items()
        }

    def saved(self) -> dict[str, Any]:
        """By name and number, for JSON."""
        return {name: dataclasses.asdict(rule) for name, rule in self._asdict().items()}


RULES = Rules._fields


class Model(NamedTuple):
    """A row of the table."""

    title: str
    init: Callable[..., Any]
    """(key, x, y) -> parameters."""
    phases: tuple[Phase, ...]
    predictor: sx.Predictor
    network_from: str | None = None
    """The model whose parameters this one's feature networks, all those named "network", start from."""


class Rows(NamedTuple):
    """One seed's rows, as the networks see them."""

    data: sx.data.Split
    """All training rows."""
    part: sx.data.Split
    """Those that are trained on while epochs are chosen."""
    valid: sx.data.Split
    """Those that choose."""
    test: sx.data.Split
    inputs: Inputs
    allow_empty: bool
    """Whether some training row has no label."""


class Outcome(NamedTuple):
    """What one model gave with one seed."""

    chosen: tuple[Trained, ...]
    final: tuple[Trained, ...]
    rules: Rules
    measures: dict[str, Any]

    @property
    def params(self) -> Any:
        """Trained on all training rows, or without refit on those that do not choose."""
        return self.final[-1].params

    def seconds(self, phase: int) -> float:
        """Of a phase's trainings, both."""
        trainings = {id(t): t.seconds for t in (self.chosen[phase], self.final[phase])}
        return sum(trainings.values())


def load(
    name: str, data_dir: Path | None = None, share: float = 1.0, quick: bool = False
) -> sx.data.Dataset:
    """A Mulan data set, or where BibTeX cannot be downloaded the synthetic stand-in, announced.

    With `share` only so much of the training rows, the first ones; `quick` takes 600 rows of each part.
    """
    try:
        dataset = sx.data.load(name, data_dir)
    except sx.data.DownloadError as error:
        if name != "bibtex":
            shared.fail(str(error))
        shared.synthetic = True
        shared.say(
            "The BibTeX data could not be downloaded, so this run uses a made-up tagging corpus of the "
            "same shape; its figures say nothing about BibTeX."
        )
        shared.say(str(error))
        dataset = sx.data.tagging_corpus()
    except (sx.data.DataError, FileNotFoundError) as error:
        shared.fail(str(error))
    n = round(share * len(dataset.train.x))
    most = 600 if quick else None
    train = taken(taken(dataset.train, slice(n)), slice(most))
    return dataset._replace(train=train, test=taken(dataset.test, slice(most)))


def taken(split: sx.data.Split, rows: Any) -> sx.data.Split:
    """Some rows of a split, by numbers or a slice."""
    return jax.tree.map(lambda a: a[rows], split)


def rows_of(
    dataset: sx.data.Dataset, seed: int, validation: float = 0.2, others: bool = False
) -> Rows:
    """The rows of one seed, which draws the validation rows; with `others` they see the labels of other rows.

    Validation rows see labels of the rows that are trained on only, test rows those of all training rows.
    """
    train, test = dataset.train, dataset.test
    part, valid = (taken(train, r) for r in sx.data.split(len(train.x), validation, seed))
    inputs = Inputs.of(train.x, train.y if others else None)
    of_part = Inputs.of(part.x, part.y) if others else inputs
    return Rows(
        train._replace(x=inputs.of_training_rows() if others else inputs(train.x)),
        part._replace(x=of_part.of_training_rows() if others else inputs(part.x)),
        valid._replace(x=of_part(valid.x)),
        test._replace(x=inputs(test.x)),
        inputs,
        bool(np.any(train.y.sum(axis=1) == 0)),
    )


def validation_f1(predictor: sx.Predictor, valid: sx.data.Split, params: Any) -> float:
    """Example F1 at the threshold that is best on the same rows."""
    y = np.asarray(predictor(params, valid.x).y)
    return metrics.example_f1(metrics.Tuned.tune(y, valid.y)(y), valid.y)


def on_network(params: Any, network: Any) -> Any:
    """`params` with the parameters `network` wherever a feature network stands."""
    if not isinstance(params, dict):
        return params
    return {k: network if k == "network" else on_network(v, network) for k, v in params.items()}


def train(
    models: dict[str, Model],
    rows: Rows,
    seed: int,
    progress: Any,
    *,
    refit: bool = True,
    ready: Mapping[str, Mapping[str, Trained]] | None = None,
) -> dict[str, Refitted]:
    """Every model's phases: the epochs chosen on the validation rows, then, with `refit`, all rows for as many.

    `ready` has, by model and phase, what is chosen already.
    """
    key, done = jax.random.key(seed), {}
    few = taken(rows.valid, slice(1000))
    for name, model in models.items():
        start = again = model.init(key, rows.part.x[:1], rows.part.y[:1])
        if model.network_from is not None:
            network = done[model.network_from]
            start, again = (on_network(start, phases[-1].params) for phases in network)
        how: dict[str, Any] = {"score": partial(validation_f1, model.predictor, few)}
        how["ready"] = (ready or {}).get(name)
        epochs = sum(phase.recipe.epochs for phase in model.phases)
        phases, bar = model.phases, f"seed {seed}: {model.title}"
        if refit:
            both = choose_then_refit(phases, start, rows.part, rows.data, key, again=again, **how)
            done[name] = shared.followed(both, progress, bar, 2 * epochs)
        else:
            one = fit_phases(phases, start, rows.part, key, **how)
            chosen = shared.followed(one, progress, bar, epochs)
            done[name] = Refitted(chosen, chosen)
    return done


def tested(model: Model, trained: Refitted, rows: Rows) -> Outcome:
    """The decision rules of a trained model, tuned on the validation rows, and all its measures.

    Validation F1 is that of the rows that tuned the rules, and so too high.
    """
    chosen, final = trained
    y = model.predictor(chosen[-1].params, rows.valid.x).y
    rules = Rules.tune(y, rows.valid.y, rows.allow_empty)
    test = model.predictor(final[-1].params, rows.test.x)
    measures = {
        **rules.f1(y, rows.valid.y, "validation"),
        **measure(test.y, rows.test.y, rules),
        "residual": float(np.mean(test.residual)),
        "epochs": {p.name: t.epoch for p, t in zip(model.phases, chosen, strict=True)},
        "rules": rules.saved(),
    }
    return Outcome(chosen, final, rules, measures)


def run_seed(
    models: dict[str, Model], rows: Rows, seed: int, progress: Any, **how: Any
) -> dict[str, Outcome]:
    """Train, tune and test all models with one seed; `how` as for `train`."""
    trained = train(models, rows, seed, progress, **how)
    return {name: tested(model, trained[name], rows) for name, model in models.items()}


def measure(y: Any, truth: np.ndarray, rules: Rules) -> dict[str, float]:
    """All metrics of the answers y on test rows, in percent."""
    y = np.asarray(y)
    fixed, tuned = rules.fixed(y), rules.tuned(y)
    shares = {
        "micro_f1_tuned": metrics.micro_f1(tuned, truth),
        "macro_f1_tuned": metrics.macro_f1(tuned, truth),
        "hamming_error_tuned": metrics.hamming_error(tuned, truth),
        "hamming_error_fixed": metrics.hamming_error(fixed, truth),
        "without_tags_tuned": float(np.mean(~tuned.any(axis=1))),
        "precision_at_1": metrics.precision_at_k(y, truth, 1),
        "precision_at_3": metrics.precision_at_k(y, truth, 3),
        "average_precision": metrics.average_precision(y, truth),
    }
    return rules.f1(y, truth, "test") | {name: 100 * value for name, value in shares.items()}


def by_seed(each: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """One list for each name, with a value of each seed."""
    return {name: [one[name] for one in each] for name in each[0]}


def gains(of: Mapping[str, list], control: Mapping[str, list]) -> dict[str, list[float]]:
    """Test F1 of one model less that of another, seed by seed, by rule."""
    return {
        rule: np.subtract(of[f"test_f1_{rule}"], control[f"test_f1_{rule}"]).tolist()
        for rule in RULES
    }


class Run(NamedTuple):
    """A run in progress."""

    config: Any
    dataset: sx.data.Dataset
    folder: Path
    began: float

    def write(self, result: dict[str, Any]) -> dict[str, Any]:
        """Write result.json, with the data, the seeds, the versions and the seconds so far; and return that."""
        head = {
            "data": {"name": self.dataset.name, "checksums": self.dataset.checksums},
            "synthetic": self.dataset.synthetic,
            "quick": self.config.quick,
            "seeds": self.config.seeds,
            "environment": shared.environment(),
            "seconds": time.perf_counter() - self.began,
        }
        result = head | result
        shared.write_json(self.folder / "result.json", result)
        return result


def begin(config: Any, name: str, share: float = 1.0) -> Run:
    """Check the seeds, load the data, and make the folder with config.json; {} in its name is the data set's."""
    began = time.perf_counter()
    shared.check_seeds(config.seeds)
    shared.synthetic = False
    dataset = load(getattr(config, "dataset", "bibtex"), config.data_dir, share, config.quick)
    folder = shared.new_folder(config.out, name.format(dataset.name))
    shared.write_json(folder / "config.json", vars(config))
    return Run(config, dataset, folder, began)


def mark(result: Mapping[str, Any]) -> str:
    """What the title of every figure begins with."""
    return "synthetic data: " if result["synthetic"] else "quick run: " if result["quick"] else ""


def title(result: Mapping[str, Any], subject: str) -> str:
    """Of a table of test F1."""
    seeds = len(result["seeds"])
    spread = f", mean ± spread over {seeds} seeds" * (seeds > 1)
    text = f"{result['data']['name']}{subject}: test F1 averaged over examples, %{spread}"
    return text + " (quick run: these figures mean nothing)" * result["quick"]

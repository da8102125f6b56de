"""The one protocol of the multi-label experiments: rows, decision rules, choosing and refitting, measures.

A seeded share of the training rows, the validation rows, chooses epochs and tunes every decision rule; then each
model is trained again on all training rows for as many epochs. Nothing is chosen on the test rows.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np

import spen_jax as sx
from experiments import shared
from experiments.labels.inputs import Inputs, compressed
from spen_jax import metrics
from spen_jax.training import Phase, Refitted, Trained, choose_then_refit, fit_phases


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
    init: Callable[..., Any]  # (key, x, y) -> parameters
    phases: tuple[Phase, ...]
    predictor: sx.Predictor
    network_from: str | None = None
    """The model whose parameters this one's feature networks, all those named "network", start from."""


class Rows(NamedTuple):
    """One seed's rows, as the networks see them."""

    data: sx.data.Split  # all training rows
    part: sx.data.Split  # those that are trained on while epochs are chosen
    valid: sx.data.Split  # those that choose
    test: sx.data.Split
    allow_empty: bool  # whether some training row has no label


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

    @property
    def seconds_by_phase(self) -> tuple[float, ...]:
        """Of both trainings; without refit there is one."""
        if self.chosen is self.final:
            return tuple(t.seconds for t in self.chosen)
        return tuple(a.seconds + b.seconds for a, b in zip(self.chosen, self.final, strict=True))

    @property
    def seconds(self) -> float:
        """Of training, in all."""
        return sum(self.seconds_by_phase)


def taken(split: sx.data.Split, rows: Any) -> sx.data.Split:
    """Some rows of a split, by numbers or a slice."""
    return jax.tree.map(lambda a: a[rows], split)


def parted(train: sx.data.Split, test: sx.data.Split, seed: int) -> Rows:
    """Rows that the models see as they are; the seed draws a fifth of the training rows for validation."""
    part, valid = (taken(train, rows) for rows in sx.data.split(len(train.x), 0.2, seed))
    return Rows(train, part, valid, test, bool(np.any(train.y.sum(axis=1) == 0)))


def rows_of(
    dataset: sx.data.Dataset, seed: int, others: bool = False, *, dense: bool = False
) -> tuple[Rows, Inputs]:
    """The rows of one seed as the networks see them; with `others` they see the labels of other rows.

    Validation rows see labels of the rows that are trained on only, test rows those of all training rows.
    Unless they are to be `dense`, inputs of words are sparse matrices.
    """
    form = np.asarray if dense else compressed
    raw = parted(dataset.train, dataset.test, seed)
    if others:
        inputs, of_part = (Inputs.of(split.x, split.y) for split in (raw.data, raw.part))
        data, part = inputs.of_training_rows(), of_part.of_training_rows()
    else:
        inputs = of_part = Inputs.of(raw.data.x)
        data, part = inputs(raw.data.x), inputs(raw.part.x)
    rows = raw._replace(
        data=raw.data._replace(x=form(data)),
        part=raw.part._replace(x=form(part)),
        valid=raw.valid._replace(x=form(of_part(raw.valid.x))),
        test=raw.test._replace(x=form(inputs(raw.test.x))),
    )
    return rows, inputs


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
    scored: int = 1000,
) -> dict[str, Refitted]:
    """Every model's phases: the epochs chosen on the validation rows, then, with `refit`, all rows for as many.

    `ready` has, by model and phase, what is chosen already; at most so many rows are `scored` after each epoch.
    """
    key, done = jax.random.key(seed), {}
    few = taken(rows.valid, slice(scored))
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


def search(
    candidates: Sequence[Model], rows: Rows, seed: int, progress: Any, **how: Any
) -> tuple[int, list[float], Outcome]:
    """Which candidate has the best validation F1, at its threshold; that of each; the best refitted and tested."""
    chosen = []
    for model in candidates:
        (trained,) = train({"": model}, rows, seed, progress, refit=False, **how).values()
        chosen.append({p.name: t for p, t in zip(model.phases, trained.chosen, strict=True)})
    last = [list(phases.values())[-1].params for phases in chosen]
    pairs = zip(candidates, last, strict=True)
    scores = [validation_f1(model.predictor, rows.valid, params) for model, params in pairs]
    best = int(np.argmax(scores))
    one = {"": candidates[best]}
    (outcome,) = run_seed(one, rows, seed, progress, ready={"": chosen[best]}, **how).values()
    return best, scores, outcome


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

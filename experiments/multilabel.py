"""The one protocol of the multi-label experiments: data, inputs, decision rules, choosing and refitting.

A seeded share of the training rows, the validation rows, chooses epochs and tunes every decision rule; then each
model is trained again on all training rows for as many epochs. Nothing is chosen on the test rows.
"""

from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import shared

import spen_jax as sx
from spen_jax import metrics

DATASETS = "bibtex", "delicious", "scene", "yeast"
RULES = ("fixed", "tuned", "expected")


class Inputs(NamedTuple):
    """What the networks see of x (N, D): tf-idf for rows of words (0 or 1), standardised numbers else.

    (x - shift) scale, and for words brought to length 8; idf_j = log(N / (1 + number of training rows with word j)).
    With the labels of the training rows each row also sees, behind its own numbers, what OTHER training rows say of
    every label, (N, 2 L): the votes of its nearest rows, and ridge regression. Its own labels play no part, but for
    their share 1 / N in the mean that all labels are centred by.
    """

    shift: np.ndarray
    scale: np.ndarray
    words: np.ndarray
    x: np.ndarray | None = None
    """The training rows whose labels others see, (N, D)."""
    y: np.ndarray | None = None

    @classmethod
    def of(cls, x: np.ndarray, y: np.ndarray | None = None) -> "Inputs":
        """Fitted to training rows; with `y` their labels are seen by others."""
        words = bool(np.all((x == 0) | (x == 1)))
        if words:
            shift, scale = np.zeros(x.shape[1]), np.log(len(x) / (1 + np.sum(x > 0, axis=0)))
        else:
            shift, scale = np.mean(x, axis=0), 1 / np.maximum(np.std(x, axis=0), 1e-6)
        kept = None if y is None else x
        return cls(shift.astype(np.float32), scale.astype(np.float32), np.asarray(words), kept, y)

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Of rows that are not training rows, (N, D) -> (N, D) or (N, D + 2 L); a row without words stays 0."""
        own = self._own(x)
        if self.x is None:
            return own
        known, near = _unit(self._own(self.x)), _unit(own)
        seen = [own, self._votes(near @ known.T), 4 * near @ self._ridge(known)]
        return np.concatenate(seen, axis=1).astype(np.float32)

    def of_training_rows(self) -> np.ndarray:
        """Of the training rows themselves, each as if it were not one: (N, D + 2 L)."""
        assert self.x is not None and self.y is not None
        own = self._own(self.x)
        known, centred = _unit(own), self.y - self.y.mean(axis=0)
        cosine = known @ known.T
        # Leaving row i out changes its residual r_i to r_i / (1 - h_i), h the diagonal of the hat matrix.
        leverage = np.einsum("nd,dn->n", known, np.linalg.solve(_gram(known), known.T))
        residual = (centred - known @ self._ridge(known)) / (1 - leverage)[:, None]
        np.fill_diagonal(cosine, -1)
        seen = [own, self._votes(cosine), 4 * (centred - residual)]
        return np.concatenate(seen, axis=1).astype(np.float32)

    def _own(self, x):
        x = (x - self.shift) * self.scale
        return 8 * _unit(x) if self.words else x

    def _ridge(self, known):
        """Weights (D, L) of y less its mean, by ridge regression of strength 1 on rows of unit length."""
        assert self.y is not None
        return np.linalg.solve(_gram(known), known.T @ (self.y - self.y.mean(axis=0)))

    def _votes(self, cosine, nearest=30):
        """(log(v + 0.02) - log 0.02) / 2, v the labels' shares among the nearest rows, weighted by cosine cubed."""
        assert self.y is not None
        found = np.argpartition(-cosine, nearest, axis=1)[:, :nearest]
        weight = np.maximum(np.take_along_axis(cosine, found, axis=1), 0) ** 3
        votes = np.einsum("nk,nkl->nl", weight, self.y[found])
        votes /= np.maximum(weight.sum(axis=1, keepdims=True), 1e-6)
        return ((np.log(votes + 0.02) - np.log(0.02)) / 2).astype(np.float32)


def _unit(x):
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-6)


def _gram(x):
    return x.T @ x + np.eye(x.shape[1], dtype=x.dtype)


class Phase(NamedTuple):
    """One training: what it minimises, how, and the factor of each parameter's learning rate."""

    name: str
    objective: Any
    recipe: shared.Recipe
    rates: shared.Rates = ()
    prepare: Any = None
    """(data, key) -> the data with what the objective keeps of each row, such as Markov chains."""


class Model(NamedTuple):
    """A row of the table. `predict(params, x)` gives relaxed labels, logits, residuals, (B, L), (B, L), (B,)."""

    title: str
    init: Any
    """(key, x, y) -> parameters."""
    phases: tuple[Phase, ...]
    predict: Any
    network_from: str | None = None
    """The model whose parameters this one's feature networks, all those named "network", start from."""
    trace: Any = None
    """(params, x, steps) -> points (B, steps + 1, L) and energies of inference, (B, steps + 1)."""
    energies: Any = None
    """(params, x, y) -> E (B,)."""
    interactions: Any = None
    """(params, x, y) -> mean second derivatives of E at y, (L, L)."""
    control: str | None = None
    """The model beside which its gain is shown."""


class Decisions(NamedTuple):
    """The tuned decision rules: y >= threshold, and the set of best expected F1 under sigmoid(a z + b).

    Where every training row has a label the empty set is no answer of the second rule.
    """

    threshold: float
    a: float
    b: float
    allow_empty: bool

    @classmethod
    def tune(
        cls, truth: np.ndarray, y: np.ndarray, z: np.ndarray, allow_empty: bool = False
    ) -> "Decisions":
        """On validation rows; a and b on the first thousand, more of which takes minutes with many labels."""
        a, b = metrics.tune_expected(truth[:1000], z[:1000], allow_empty=allow_empty)
        return cls(metrics.tune_threshold(truth, y), a, b, allow_empty)

    def sets(self, y: np.ndarray, z: np.ndarray) -> dict[str, np.ndarray]:
        """The label sets of each rule, bool (N, L)."""
        p = jax.nn.sigmoid(self.a * z + self.b)
        return {
            "fixed": metrics.decide(y, 0.5),
            "tuned": metrics.decide(y, self.threshold),
            "expected": metrics.expected_f1_sets(p, allow_empty=self.allow_empty),
        }


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
    """What one seed gave, by model; `scores` and `clock` by (model, phase)."""

    measures: dict[str, dict[str, Any]]
    params: dict[str, Any]
    decisions: dict[str, Decisions]
    chosen: dict[tuple[str, str], shared.Trained]
    seconds: dict[tuple[str, str], float]


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
        dataset = sx.synthetic.tagging_corpus()
    except (sx.data.DataError, FileNotFoundError) as error:
        shared.fail(str(error))

    def first(split, n):
        return sx.data.Split(split.x[:n], split.y[:n])

    n = min(round(share * len(dataset.train.x)), 600 if quick else len(dataset.train.x))
    test = first(dataset.test, 600) if quick else dataset.test
    return dataset._replace(train=first(dataset.train, n), test=test)


def rows_of(
    dataset: sx.data.Dataset, seed: int, validation: float = 0.2, others: bool = False
) -> Rows:
    """The rows of one seed, which draws the validation rows; with `others` they see the labels of other rows.

    Validation rows see labels of the rows that are trained on only, test rows those of all training rows.
    """
    train, test = dataset.train, dataset.test
    chosen, held_out = sx.data.split(len(train.x), validation, seed)
    part, valid = (jax.tree.map(lambda a, r=r: a[r], train) for r in (chosen, held_out))
    inputs = Inputs.of(train.x, train.y if others else None)
    of_part = Inputs.of(part.x, part.y) if others else inputs
    seen = (
        (inputs.of_training_rows(), of_part.of_training_rows())
        if others
        else (inputs(train.x), inputs(part.x))
    )
    return Rows(
        sx.data.Split(seen[0], train.y),
        sx.data.Split(seen[1], part.y),
        sx.data.Split(of_part(valid.x), valid.y),
        sx.data.Split(inputs(test.x), test.y),
        inputs,
        bool(np.any(train.y.sum(axis=1) == 0)),
    )


def on_network(params: Any, network: Any) -> Any:
    """`params` with the parameters `network` wherever a feature network stands; itself one, `network`."""

    def replaced(tree):
        if not isinstance(tree, dict):
            return tree
        return {k: network if k == "network" else replaced(v) for k, v in tree.items()}

    return network if "output" in params else replaced(params)


def fit_models(
    models: dict[str, Model],
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
        current = model.init(jax.random.key(seed), data.x[:1], data.y[:1])
        if model.network_from is not None:
            current = on_network(current, done[model.network_from])
        few = None if valid is None else jax.tree.map(lambda a: a[:1000], valid)
        score = None if few is None else partial(shared.validation_f1, model.predict, few)
        for index, phase in enumerate(model.phases):
            key = jax.random.fold_in(jax.random.key(seed), index + 1)
            chains_key = jax.random.fold_in(key, 0)
            if (name, phase.name) not in trained:
                what = "choosing epochs" if valid else "on all rows"
                trained[name, phase.name] = shared.train(
                    phase.objective,
                    current,
                    phase.prepare(data, chains_key) if phase.prepare else data,
                    phase.recipe,
                    key,
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


def run_seed(
    models: dict[str, Model],
    rows: Rows,
    seed: int,
    progress: Any,
    *,
    patience: int = 10,
    refit: bool = True,
    ready: dict[tuple[str, str], shared.Trained] | None = None,
) -> Outcome:
    """Train, tune and test all models with one seed."""
    chosen = fit_models(
        models, rows.part, seed, progress, valid=rows.valid, ready=ready, patience=patience
    )
    stops = {key: result.epoch for key, result in chosen.items()}
    final = fit_models(models, rows.data, seed, progress, stops=stops) if refit else chosen
    outcome = Outcome({}, {}, {}, chosen, {})
    for name, model in models.items():
        last = name, model.phases[-1].name
        decisions = decide(model, chosen[last].params, rows)
        outcome.decisions[name] = decisions
        outcome.params[name] = final[last].params
        outcome.measures[name] = {
            **validated(model, chosen[last].params, rows.valid, decisions),
            **measured(model, final[last].params, rows.test, decisions),
            "epochs": {phase.name: stops[name, phase.name] for phase in model.phases},
            "decisions": decisions._asdict(),
        }
    for key, trained in chosen.items():
        outcome.seconds[key] = trained.seconds + (final[key].seconds if refit else 0.0)
    return outcome


def predicted(model: Model, params: Any, x: np.ndarray) -> tuple[np.ndarray, ...]:
    """`model.predict` on any number of rows, as NumPy arrays."""
    found = sx.training.in_batches(lambda rows: model.predict(params, rows), jnp.asarray(x), 1024)
    y, z, residual = map(np.asarray, found)
    return y, z, residual


def decide(model: Model, params: Any, rows: Rows) -> Decisions:
    """The decision rules, tuned on the validation rows."""
    y, z, _ = predicted(model, params, rows.valid.x)
    return Decisions.tune(rows.valid.y, y, z, rows.allow_empty)


def validated(
    model: Model, params: Any, valid: sx.data.Split, decisions: Decisions
) -> dict[str, float]:
    """Validation F1 by each rule, in percent; it is tuned on the same rows, and so too high."""
    y, z, _ = predicted(model, params, valid.x)
    sets = decisions.sets(y, z)
    return {
        f"validation_f1_{rule}": 100 * metrics.example_f1(valid.y, sets[rule]) for rule in RULES
    }


def measured(
    model: Model, params: Any, test: sx.data.Split, decisions: Decisions
) -> dict[str, float]:
    """All metrics on test rows, in percent, and the mean residual of inference."""
    y, z, residual = predicted(model, params, test.x)
    return {**measure(test.y, y, z, decisions), "residual": float(np.mean(residual))}


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
        "hamming_error_fixed": metrics.hamming_error(truth, sets["fixed"]),
        "without_tags_tuned": float(np.mean(~tuned.any(axis=1))),
        "precision_at_1": metrics.precision_at_k(truth, z, 1),
        "precision_at_3": metrics.precision_at_k(truth, z, 3),
        "average_precision": metrics.average_precision(truth, z),
    }
    return {name: 100 * value for name, value in values.items()}


def gains(runs: list[Outcome], name: str, control: str) -> dict[str, list[float]]:
    """Test F1 of one model less that of another, seed by seed, by rule."""
    return {
        rule: [
            run.measures[name][f"test_f1_{rule}"] - run.measures[control][f"test_f1_{rule}"]
            for run in runs
        ]
        for rule in RULES
    }

"""The estimator of sequences: a label for each place."""

from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils import check_random_state
from sklearn.utils.validation import _check_sample_weight, check_is_fitted

from spen_jax.bundles import write
from spen_jax.checks import check_whole
from spen_jax.estimators.programs import with_programs
from spen_jax.estimators.progress import reporting
from spen_jax.estimators.saving import contents_of
from spen_jax.estimators.tagger_inputs import Reader, least_of, reader_of, reads
from spen_jax.estimators.tagger_learning import (
    MANY,
    Corpus,
    Settings,
    answers,
    one_pass,
    state_of,
    train,
    widths_of,
)
from spen_jax.estimators.tagger_model import Shape, started, with_rates
from spen_jax.serving.sequences import MOST_WIDTH, places_of, sequences_of
from spen_jax.serving.tags import NOT_KNOWN, read_tags, tags_of

FEWEST = 20
"""Sequences below which none are held out."""
MOST_HELD_OUT = 1000


class _Usual(NamedTuple):
    hidden: int
    windows: int
    steps: int
    dropout: float
    rate: float


USUAL = {
    "vectors": _Usual(256, 256, 10, 0.5, 4e-3),
    "features": _Usual(256, 128, 10, 0.5, 4e-3),
    "words": _Usual(96, 64, 6, 0.4, 2e-3),
}
"""What settings that are None stand for, by the kind of X."""


class SPENSequenceTagger(BaseEstimator):
    """A label for each place of a sequence, by an energy over windows of labels on a network of the places.

    E(x, y) = -s(x).y + sum_t y_t'A y_(t+1) - sum_t v.g(W_2 * g(W_1 * y)), y (T, K) rows of simplices: `steps` steps of
    mirror descent from softmax(s) on find its answer, and it is trained through them. X is a list of sequences, each

    - an array (T, D), a vector at each place: s is a perceptron of the place;
    - a list of texts, the words of a sentence: s is two recurrent layers over words, their endings and characters;
    - a list of dicts, features as CRFsuite has them: {"word": "the"} is the feature "word=the", numbers and booleans
      are weights; or of lists of texts, names of features: s is a perceptron of their sum.

    y is a list of as many lists of labels, texts or whole numbers; None, or NaN, is a label that is not known: it does
    not count, and inference has to find it. Lists of lists go through `cross_val_score` and `GridSearchCV` as they are.

    Args:
      hidden_units: of the network, of words those of each direction; None for 256, of words 96.
      window_units: of both layers of the windows, 0 for a chain alone; None for 256 of vectors, 128 of features, 64 of
        words.
      steps: of inference; None for 10, of words 6.
      dropout: of the network's units, and of its inputs half as much; None for 0.5, of words 0.4.
      learning_rate: the highest; None for 0.004, of words 0.002.
      weight_decay: of AdamW; None for 0.0001.
      epochs: passes over the sequences, at most; None for 1060 / sqrt(N), from 5 to 100. N are the sequences here, of
        more than 256 places the pieces of so many that training makes of them.
      batch_size: sequences of a training step; None for 32, of fewer than 500 for 16, of fewer than 150 for 8.
      known_share: the largest share of labels that training tells inference, for `predict(X, known=...)`.
      early_stopping: whether a share of 20 sequences or more is held out, and the epoch kept that has most of its
        labels right; else the last is.
      validation_fraction: that share, of at most 1000 sequences.
      warm_start: whether `fit` goes on from what an earlier one found, where the labels and the kind of X are the same.
      random_state: decides the parameters, the order, dropout and what is held out.
      verbose: whether to show progress on stderr.

    ValueError, from `fit` on, for arguments that cannot be.

    Attributes:
      classes_: the labels (K,), in order.
      n_epochs_: the epoch that was kept.
      validation_errors_: the share of held-out labels that were wrong after each epoch.
    """

    def __init__(
        self,
        *,
        hidden_units: int | None = None,
        window_units: int | None = None,
        steps: int | None = None,
        dropout: float | None = None,
        learning_rate: float | None = None,
        weight_decay: float | None = None,
        epochs: int | None = None,
        batch_size: int | None = None,
        known_share: float = 0.0,
        early_stopping: bool = True,
        validation_fraction: float = 0.1,
        warm_start: bool = False,
        random_state: Any = None,
        verbose: bool = False,
    ):
        self.hidden_units = hidden_units
        self.window_units = window_units
        self.steps = steps
        self.dropout = dropout
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.epochs = epochs
        self.batch_size = batch_size
        self.known_share = known_share
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.warm_start = warm_start
        self.random_state = random_state
        self.verbose = verbose

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> "SPENSequenceTagger":
        """Trains on sequences X with labels y; `sample_weight` (N,) is how much each sequence counts.

        ValueError for what are no sequences of one kind, and for labels that are not as many as places.
        """
        self._check()
        X = sequences_of(X)
        lengths = _lengths(X)
        classes, labels = read_tags(y, lengths)
        reader = None
        if self.warm_start and hasattr(self, "flat_") and np.isin(classes, self.classes_).all():
            reader = self.reader_ if reads(self.reader_, X) else None
            classes, labels = read_tags(y, lengths, self.classes_ if reader else None)
        reader = reader or reader_of(X)
        shape, settings = self._planned(reader, len(classes), size := _size(lengths))
        rng = self._drawing()
        held = self._held_out(lengths, rng)
        flat = started(shape, int(rng.integers(2**31)))
        if reader is getattr(self, "reader_", None) and self.shape_.answering == shape.answering:
            flat = self.flat_
        flat = with_rates(shape, flat, settings.rates)
        corpus = Corpus(places_of(reader, X), labels, self._weights(sample_weight, X))
        with reporting(self, settings.epochs) as report:
            learned = train(shape, settings, corpus, flat, rng, held=held, report=report)
        self.classes_, self.reader_, self.shape_ = classes, reader, shape
        self.flat_, self.moments_ = learned.flat, learned.moments
        self.n_epochs_, self.validation_errors_ = learned.epoch, list(learned.errors)
        self.size_, self.rng_ = size, rng
        return self

    def partial_fit(
        self, X: Any, y: Any, classes: Any = None, sample_weight: Any = None
    ) -> "SPENSequenceTagger":
        """One pass over sequences X, at a rate that stays, from where training is; nothing is held out.

        The first call, without a `fit` before it, decides what words or features are known and what labels there are:
        `classes`, or those of its y. ValueError for other labels later on.
        """
        self._check()
        X = sequences_of(X)
        lengths = _lengths(X)
        if not hasattr(self, "flat_"):
            named = None if classes is None else np.unique(np.asarray(classes))
            found, reader = read_tags(y, lengths, named)[0], reader_of(X)
            self.classes_ = found
            self.rng_ = self._drawing()
            self.size_ = _size(lengths)
            shape, _ = self._planned(reader, len(self.classes_), self.size_)
            self.reader_, self.shape_, self.moments_ = reader, shape, None
            self.flat_ = started(shape, int(self.rng_.integers(2**31)))
        if self.rng_ is None:  # of a loaded file
            self.rng_ = self._drawing()
        _, labels = read_tags(y, lengths, self.classes_)
        shape, settings = self._planned(self.reader_, len(self.classes_), self.size_)
        if shape.answering != self.shape_.answering:
            raise ValueError(
                "partial_fit cannot go on with other units or steps than before: clone the estimator"
            )
        corpus = Corpus(places_of(self.reader_, X), labels, self._weights(sample_weight, X))
        flat, seed = with_rates(shape, self.flat_, settings.rates), int(self.rng_.integers(2**31))
        state = state_of(shape, settings, flat, 0, seed, self.moments_)
        rows = np.flatnonzero(lengths)
        if len(rows):
            widths = widths_of(lengths[rows])
            state = one_pass(
                shape, settings, state, corpus.pieces(rows, widths[-1]), widths, self.rng_
            )
        self.flat_ = np.asarray(state.params)
        self.moments_ = jax.tree.map(np.asarray, state.opt_state)
        return self

    def save(self, path: str | Path, programs: bool = False) -> None:
        """Writes the fitted estimator into one file, which `spen_jax.load(path)` reads; see `estimators.saving`.

        With `programs` it can be served without this library too, see `spen_jax.serving`. scikit-learn's NotFittedError
        before `fit`.
        """
        check_is_fitted(self)
        contents = contents_of(self)
        write(path, with_programs(self, contents) if programs else contents)

    def _check(self):
        for name in ("hidden_units", "window_units", "steps", "epochs", "batch_size"):
            if (value := getattr(self, name)) is not None:
                check_whole(name, value, 0 if name == "window_units" else 1)
        for name in ("learning_rate", "weight_decay"):
            value = getattr(self, name)
            if value is not None and not (value > 0 or value == 0 and name == "weight_decay"):
                raise ValueError(f"{name} must be above 0, or None, got {value!r}")
        for name in ("dropout", "known_share", "validation_fraction"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < 1:
                raise ValueError(f"{name} must be a share, from 0 to less than 1, got {value!r}")

    def _planned(self, reader: Reader, K: int, n: int) -> tuple[Shape, Settings]:
        """The shape and the settings: those given, the others from the kind of X and from n sequences."""
        usual, words = USUAL[reader.kind], reader.kind == "words"
        dropout = float(_or(self.dropout, usual.dropout))
        shape = Shape(
            reader.kind,
            reader.inputs,
            K,
            _or(self.hidden_units, usual.hidden),
            _or(self.window_units, usual.windows),
            _or(self.steps, usual.steps),
            known=float(self.known_share),
        )
        if words:
            shape = shape._replace(dropout=dropout, word_dropout=0.2 / least_of(n))
        settings = Settings(
            (dropout / 2, dropout),
            _or(self.learning_rate, usual.rate),
            _or(self.weight_decay, 1e-4),
            _or(self.epochs, int(np.clip(1060 / max(n, 1) ** 0.5, 5, 100))),
            _or(self.batch_size, 8 if n < 150 else 16 if n < MANY else 32),
        )
        return shape, settings

    def _held_out(self, lengths, rng):
        rows = np.flatnonzero(lengths)
        if not (self.early_stopping and self.validation_fraction) or len(rows) < FEWEST:
            return rows[:0]
        many = min(
            max(round(self.validation_fraction * len(rows)), 1), MOST_HELD_OUT, len(rows) - 1
        )
        return np.sort(rng.permutation(rows)[:many])

    def _drawing(self):
        return np.random.default_rng(check_random_state(self.random_state).randint(2**31))

    def _weights(self, sample_weight, X):
        if sample_weight is None:
            return np.ones(len(X), np.float32)
        weight = _check_sample_weight(
            sample_weight, np.zeros((len(X), 1)), ensure_non_negative=True, dtype=np.float64
        )
        if not weight.any():
            raise ValueError("sample_weight must not be 0 for every sequence")
        return (weight / weight[weight > 0].mean()).astype(np.float32)

    def predict_marginals(self, X: Any, known: Any = None) -> list[np.ndarray]:
        """The relaxed labels y (T, K) of each sequence, as inference leaves them; columns are those of `classes_`.

        `known` are lists of labels, None where one is not known: what is known stands still through inference, and
        tells the energy about the others. ValueError for sequences of another kind than those of fit, and for a label
        that fit did not see.
        """
        check_is_fitted(self)
        places = places_of(self.reader_, sequences_of(X))
        if known is not None:
            known = read_tags(known, places.lengths, self.classes_, "known")[1]
        return answers(self.shape_, self.flat_, places, known=known)

    def predict_proba(self, X: Any, known: Any = None) -> list[np.ndarray]:
        """`predict_marginals` by scikit-learn's name: (T, K) of each sequence, rows that sum to 1."""
        return self.predict_marginals(X, known)

    def predict(self, X: Any, known: Any = None) -> list[list[Any]]:
        """A list of T labels for each sequence, [] for an empty one; `known`, errors: see `predict_marginals`."""
        found = self.predict_marginals(X, known)
        return tags_of(self.classes_, found)

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """The share of places with the right label, of those whose label is known; `sample_weight` is of sequences."""
        check_is_fitted(self)
        X = sequences_of(X)
        lengths = _lengths(X)
        truth = read_tags(y, lengths, self.classes_, unseen=True)[1][:-1]
        found = [a.argmax(axis=1) for a in self.predict_marginals(X)]
        right = np.concatenate([np.zeros(0, int), *found]) == truth
        weight = np.repeat(self._weights(sample_weight, X), lengths) * (truth != NOT_KNOWN)
        return float(np.average(right, weights=weight))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        tags.input_tags.string = True
        tags.target_tags.required = True
        return tags


def _or(given, usual):
    return usual if given is None else given


def _size(lengths):
    """How many sequences or pieces of them training has."""
    return int(np.sum(-(-lengths // MOST_WIDTH)))


def _lengths(sequences):
    return np.array([len(s) for s in sequences], int)

"""The multi-label and multi-class estimator."""

from typing import Any

import numpy as np
from sklearn.base import ClassifierMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, column_or_1d

from spen_jax import metrics, sparse
from spen_jax.estimators.base import RowEstimator
from spen_jax.estimators.inputs import Scaling, checked_x
from spen_jax.estimators.learning import Data
from spen_jax.estimators.targets import Labels, is_sets, read_labels, sets_of
from spen_jax.metrics.decisions import fit_logistic

TUNED_ON = 1000
"""Held-out rows that a rule is tuned on, at most: with many labels more take minutes."""

MOST_PAIRED = 3000
"""Labels up to which pairs are taken by default: a matrix of so many squared learns and answers in reasonable time."""


class SPENClassifier(ClassifierMixin, RowEstimator):
    def __init__(
        self,
        *,
        decision: str | float | int = "expected_f1",
        hidden_units: int | None = None,
        global_units: int | None = None,
        pairs: bool | None = None,
        steps: int = 3,
        dropout: float | None = None,
        learning_rate: float | None = None,
        weight_decay: float | None = None,
        epochs: int | None = None,
        known_share: float = 0.0,
        members: int | None = None,
        early_stopping: bool = True,
        validation_fraction: float = 0.2,
        warm_start: bool = False,
        random_state: Any = None,
        verbose: bool = False,
    ):
        self.decision = decision
        self.hidden_units = hidden_units
        self.global_units = global_units
        self.pairs = pairs
        self.steps = steps
        self.dropout = dropout
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.epochs = epochs
        self.known_share = known_share
        self.members = members
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.warm_start = warm_start
        self.random_state = random_state
        self.verbose = verbose

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> "SPENClassifier":
        labels = self._read(y)
        x = checked_x(self, X, reset=True)
        if x.shape[0] != len(labels.y):
            raise ValueError(
                f"Found input variables with inconsistent numbers of samples: {[x.shape[0], len(labels.y)]}"
            )
        weight = self._weights(sample_weight, x)
        mask = labels.mask
        keep = np.ones(len(labels.y), bool) if weight is None else weight > 0
        if not keep.all():
            x, weight = x[keep], weight[keep]
            labels = labels._replace(y=labels.y[keep], mask=None if mask is None else mask[keep])
        self.classes_, self.form_ = labels.names, labels.form
        self.scaling_ = Scaling.of(x)
        x = self.scaling_(x)
        kind = "classes" if labels.form == "column" else "labels"
        n, L = labels.y.shape
        more = {}
        if kind == "labels":
            f1 = isinstance(self.decision, str)
            known = float(self.known_share)
            # Which labels go with those told is before all a matrix of pairs.
            pairs = 0 < known and L <= MOST_PAIRED if self.pairs is None else bool(self.pairs)
            more = {"f1_weight": float(min(50, 2 * L)) if f1 else 0.0, "known": known, "pairs": pairs}
        shape, settings = self._planned(kind, x, n, L, **more)
        data = Data(x, labels.y, labels.mask, weight)
        strata = labels.y.argmax(1) if kind == "classes" else None
        rows, y = self._learn(shape, settings, data, strata)
        if kind == "labels":
            self._tune(y, labels.y[rows], None if labels.mask is None else labels.mask[rows], labels)
        return self

    def _read(self, y):
        if is_sets(y) or sparse.is_scipy(y):
            return read_labels(y)
        if y is None:
            raise ValueError("requires y to be passed, but the target y is None")
        if np.ndim(y) == 2 and np.shape(y)[1] > 1:
            return read_labels(y)
        column = column_or_1d(y, warn=True)
        check_classification_targets(column)
        names, at = np.unique(column, return_inverse=True)
        return Labels(names, np.eye(len(names), dtype=np.float32)[at], None, "column")

    def _tune(self, y, truth, mask, labels):
        allow_empty = bool((labels.y.sum(axis=1) == 0).any())
        y, truth = y[:TUNED_ON], truth[:TUNED_ON]
        mask = None if mask is None else mask[:TUNED_ON]
        self.calibration_ = (1.0, 0.0)
        if len(y):
            counted = np.ones(y.shape, bool) if mask is None else mask
            if counted.any():
                self.calibration_ = fit_logistic(_logits(y)[counted], truth[counted])
        if self.decision == "expected_f1":
            self.rule_ = metrics.Expected(1.0, 0.0, allow_empty)
            if len(y):
                self.rule_ = metrics.Expected.tune(y, truth, mask, allow_empty=allow_empty)
        elif self.decision == "threshold":
            self.rule_ = metrics.Tuned.tune(y, truth, mask) if len(y) else metrics.Fixed()
        else:
            self.rule_ = metrics.Fixed(self.decision)

    def predict(self, X: Any, known: Any = None) -> Any:
        y, held = self._answered(X, known)
        if self.form_ == "column":
            return self.classes_[y.argmax(axis=1)]
        on = self.rule_(y)
        if held is not None:
            on = np.where(held.mask, held.y > 0, on)
        return sets_of(self.classes_, on) if self.form_ == "sets" else on.astype(int)

    def _answered(self, X, known):
        held = None
        if known is not None:
            held = read_labels(known, self.classes_, chosen=True)
        y = self._relaxed(X, None if held is None else (held.mask, held.y))
        return y, held

    def predict_proba(self, X: Any, known: Any = None) -> np.ndarray:
        y, held = self._answered(X, known)
        if self.form_ == "column":
            return y / y.sum(axis=1, keepdims=True)
        a, b = self.calibration_
        p = 1 / (1 + np.exp(-(a * _logits(y) + b)))
        return p if held is None else np.where(held.mask, held.y, p)

    def decision_function(self, X: Any) -> np.ndarray:
        y = self._relaxed(X)
        if self.form_ == "column":
            z = np.log(np.maximum(y.astype(np.float64), 1e-30))
            return z[:, 1] - z[:, 0] if z.shape[1] == 2 else z
        return _logits(y)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        tags.classifier_tags.multi_label = True
        tags.target_tags.multi_output = True
        return tags


def _logits(y):
    y = np.clip(y.astype(np.float64), 1e-7, 1 - 1e-7)
    return np.log(y) - np.log1p(-y)

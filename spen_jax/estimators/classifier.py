"""The estimator of label sets, and of one column of classes."""

from typing import Any, Self

import numpy as np
from sklearn.base import ClassifierMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_consistent_length, check_is_fitted, column_or_1d

from spen_jax import sparse
from spen_jax.estimators.base import RowEstimator
from spen_jax.estimators.deciding import Decision, check_decision, has_empty
from spen_jax.estimators.explaining import Explanation, explanation_of, known_of, row_of
from spen_jax.estimators.frames import framed
from spen_jax.estimators.inputs import Scaling, checked_x
from spen_jax.estimators.interactions import (
    Interactions,
    check_relates,
    interactions_of,
    means_of,
)
from spen_jax.estimators.learning import Data
from spen_jax.estimators.targets import Labels, is_sets, read_labels, sets_of, without_unseen

MOST_PAIRED = 3000
"""Labels up to which pairs are taken by default."""
MOST_F1 = 50.0
"""The largest weight of 1 - soft F1 beside the cross-entropy; 2 L with fewer labels."""


class SPENClassifier(ClassifierMixin, RowEstimator):
    """Label sets by a structured prediction energy network; classes where y is one column.

    E(x, y) = -s(x).y + k.softplus(C y + U h(x) + d) - H(y), y in [0, 1]^L, s and h a network with one hidden layer,
    trained through the steps of inference (Belanger, Yang & McCallum 2017). For one column of classes there is nothing
    to relate: the estimator is its network and a softmax. A few members answer by their mean; rows that were held out
    choose their epochs and tune the decision.

    X for `fit`: rows (N, D), an array, sparse, or a frame of numbers. y: numbers (N, L) of 0 and 1, as an array,
    sparse, or a frame whose columns are the labels' names; label sets, a list of names for each row; or one column of
    classes. A label that is not known is NaN; of a label set None says that whatever is not in the set is not known,
    and None in its place that nothing is.

    Args:
      decision: how labels are chosen from their probabilities: "expected_f1", the set of the best expected F1;
        "threshold", the one threshold of the best F1; a number below 1, that threshold; a whole number k, the k
        likeliest labels. The first two train for F1, the others for the likelihood. Classes are the likeliest.
      hidden_units, global_units, dropout, learning_rate, weight_decay, epochs: of the network, the global term and the
        training, None for what follows from the data; `settings_` and `shape_` say what was taken.
      members: so many, each with rows of its own held out; None for five of them up to 3,000 rows, one beyond 20,000,
        and two in between, which see all rows for as many epochs as a training before them found best.
      pairs: whether the energy also has a number for each pair of labels; None where `known_share` is not 0.
      steps: of inference.
      known_share: the largest share of a row's own labels that inference is told in training, for
        `predict(X, known=)`.
      early_stopping: whether rows are held out. Below 20 rows none are.
      validation_fraction: about the share of rows that a training holds out: one in round(1 / share), and one in as
        many as there are members where these are more; at most 10,000.
      warm_start: whether `fit` goes on from the parameters of the last one, where they have the same shape.
      random_state: decides starts, folds, order and dropout; the same number gives the same answers on one machine.
      verbose: whether to show a bar, on standard error.

    Attributes:
      classes_: the labels' names, or the classes.
      decision_: calibration and rule as tuned, of label sets.
      interactions_: which labels attract and repel each other, see `estimators.interactions`.
      shape_, settings_, n_epochs_, validation_losses_: what was trained, and how it went.

    ValueError, from `fit` on, for arguments that cannot be.
    """

    def __init__(
        self,
        *,
        decision: str | float = "expected_f1",
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

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Learns from rows X (N, D), dense, CSR or a frame, and their labels; see the class for y.

        `sample_weight` (N,), 0 or more, is how much each row counts. ValueError for rows or labels that cannot be read,
        and for settings that cannot be.
        """
        x, labels, weight = self._given(X, y, sample_weight, reset=True)
        warm = self.warm_start and self._has(labels)
        scaling = self.scaling_ if warm else Scaling.of(x)
        x = scaling(x)
        shape, settings = self._planned_for(x, labels)
        strata = labels.y.argmax(axis=1) if labels.form == "column" else None
        data = Data(x, labels.y, labels.mask, weight)
        before = self.flats_ if warm else None
        rows, answers = self._learn(shape, settings, data, strata, before)
        self.classes_, self.form_, self.scaling_ = labels.names, labels.form, scaling
        self._conclude(x, labels, answers, rows)
        return self

    def partial_fit(self, X: Any, y: Any, classes: Any = None, sample_weight: Any = None) -> Self:
        """One pass over these rows at a steady rate, from what was learned before; nothing is held out or tuned.

        What an earlier `fit` tuned stays. The first call needs all `classes`, or the names of all labels where y is
        label sets; it also sets the scale of X. ValueError for labels that it did not name.
        """
        first = not hasattr(self, "classes_")
        if not first and classes is not None and {*classes} != {*self.classes_.tolist()}:
            raise ValueError("classes must be those of the first call of partial_fit")
        if first and classes is None and (is_sets(y) or np.ndim(y) < 2):
            raise ValueError("classes must be passed on the first call to partial_fit")
        if first and classes is not None and len({*classes}) < len(classes):
            raise ValueError(f"classes must be different names, got {list(classes)}")
        names = classes if first else self.classes_
        x, labels, weight = self._given(X, y, sample_weight, reset=first, names=names)
        scaling = Scaling.of(x, constant=1.0) if first else self.scaling_
        x = scaling(x)
        self._go_on(*self._planned_for(x, labels), Data(x, labels.y, labels.mask, weight))
        if first:
            self.classes_, self.form_, self.scaling_ = labels.names, labels.form, scaling
            self._conclude(x, labels, np.zeros((0, len(labels.names))), np.arange(0))
        elif labels.form != "column" and has_empty(labels):
            self.decision_ = self.decision_.allowing_empty()
        return self

    def predict(self, X: Any, known: Any = None) -> Any:
        """The labels of each row, in the form that `fit` was given: 0 and 1 (N, L), label sets, or classes (N,).

        `known` holds labels fixed in inference: numbers (N, L) of 0, 1 and NaN, or for each row the labels that were
        chosen already; the decision is about the others. After `set_output` 0 and 1 come as a frame. NotFittedError
        before `fit`; ValueError for X (N, D) of other columns, and for names that are no labels.
        """
        if self._of_classes() and known is None:
            return self.classes_[self._relaxed(X).argmax(axis=1)]
        p, held = self._probable(X, known)
        on = self.decision_.sets(p, held)
        if self.form_ == "sets":
            return sets_of(self.classes_, on)
        return framed(self, on.astype(int), self.classes_, X)

    def predict_proba(self, X: Any, known: Any = None) -> Any:
        """The probability of each label or class, (N, L); of a known label 0 or 1. After `set_output` a frame.

        X (N, D) and `known`, and the errors, are those of `predict`; columns are those of `classes_`.
        """
        if self._of_classes() and known is None:
            y = self._relaxed(X).astype(np.float64)
            return framed(self, y / y.sum(axis=1, keepdims=True), self.classes_, X)
        return framed(self, self._probable(X, known)[0], self.classes_, X)

    def decision_function(self, X: Any) -> np.ndarray:
        """The logits of `predict_proba` of X (N, D), (N, L) in nats; of two classes log odds of the second, (N,)."""
        if self._of_classes():
            z = np.log(np.maximum(self._relaxed(X).astype(np.float64), 1e-30))
            return z[:, 1] - z[:, 0] if z.shape[1] == 2 else z
        return self.decision_.logits(self._relaxed(X))

    def rank(self, X: Any, known: Any = None, k: int | None = None) -> list[list[Any]]:
        """The k labels of each row that come next, likeliest first, of those that are not known; all without k.

        X (N, D) and `known` are those of `predict`. ValueError also after a fit to one column of classes.
        """
        p, held = self._probable(X, known)
        open_ = np.ones(p.shape, bool) if held is None or held.mask is None else ~held.mask
        order = np.argsort(np.where(open_, -p, np.inf), axis=1, kind="stable")
        counts = open_.sum(axis=1) if k is None else np.minimum(open_.sum(axis=1), k)
        names = self.classes_.tolist()
        return [[names[i] for i in row[:n]] for row, n in zip(order.tolist(), counts, strict=True)]

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """The mean F1 of the rows' label sets, over labels that are known; of classes the share of right rows.

        In [0, 1]. A label that `fit` did not see is one that is missed.
        """
        if self._of_classes():
            return super().score(X, y, sample_weight)
        y, unseen = without_unseen(y, self.classes_)
        labels = read_labels(y, self.classes_)
        on = self.decision_.sets(self._probable(X, None)[0])
        check_consistent_length(on, labels.y)
        counts = np.ones(on.shape, bool) if labels.mask is None else labels.mask
        on, truth = on & counts, (labels.y > 0) & counts
        both, either = (on & truth).sum(axis=1), on.sum(axis=1) + truth.sum(axis=1) + unseen
        each = np.where(either > 0, 2 * both / np.maximum(either, 1), 1.0)
        return float(np.average(each, weights=sample_weight))

    def set_output(self, *, transform: str | None = None) -> Self:
        """Answers as "pandas" or "polars" frames, with the labels' names as columns, or as arrays, "default".

        It is about `predict_proba` and label arrays of `predict`; this estimator transforms nothing.
        """
        if transform not in (None, "default", "pandas", "polars"):
            raise ValueError(
                f"transform must be 'default', 'pandas' or 'polars', got {transform!r}"
            )
        if transform is not None:
            self._sklearn_output_config = {"transform": transform}
        return self

    def explain(self, X: Any, known: Any = None, top: int | None = 20) -> Explanation:
        """What inference does to the labels of one row X, (D,) or (1, D), and which labels pull which.

        `known` are its labels that are known, a set of names or numbers with NaN where one is not, held fixed. `pulls`
        are among the `top` labels, or all with None. ValueError for several rows, and after a fit to one column of
        classes.
        """
        check_is_fitted(self)
        x = self.scaling_(checked_x(self, row_of(X), reset=False))
        known = known_of(known, self.classes_)
        return explanation_of(self.shape_, self.flats_, x, self.classes_, known=known, top=top)

    @property
    def interactions_(self) -> Interactions:
        """Which labels attract (negative) and repel (positive); ValueError after a fit to one column of classes."""
        check_is_fitted(self)
        check_relates(self.shape_)
        return interactions_of(
            self.shape_, self.flats_, self.mean_y_, self.mean_shift_, self.classes_
        )

    def _of_classes(self):
        """Whether y was one column of classes."""
        check_is_fitted(self)
        return self.form_ == "column"

    # What y is

    def _given(self, X, y, sample_weight, *, reset, names=None):
        """Checked rows, labels and weights, without the rows of weight 0."""
        if y is None:
            raise ValueError("requires y to be passed, but the target y is None")
        labels = self._read(y, names)
        x = checked_x(self, X, reset=reset)
        if x.shape[0] != len(labels.y):
            raise ValueError(
                f"X and y must have as many rows, got inconsistent numbers of samples: {x.shape[0]} and {len(labels.y)}"
            )
        weight = self._weights(sample_weight, x)
        if weight is not None and not weight.all():
            keep = weight > 0
            x, weight = x[keep], weight[keep]
            mask = None if labels.mask is None else labels.mask[keep]
            labels = labels._replace(y=labels.y[keep], mask=mask)
        if labels.mask is not None and not labels.mask.any():
            raise ValueError("no label is known: at least one row needs one")
        # Equal weights are none: rows are then drawn as they are without.
        return x, labels, None if weight is None or np.ptp(weight) == 0 else weight

    def _read(self, y, names):
        if hasattr(y, "columns") and y.shape[1] == 1:
            y = y[y.columns[0]]
        if is_sets(y) or sparse.is_scipy(y) or hasattr(y, "columns"):
            return read_labels(y, names)
        y = np.asarray(y)
        if y.ndim == 2 and y.shape[1] > 1:
            return read_labels(y, names)
        column = column_or_1d(y, warn=True)
        if column.dtype == object and len({type(value) for value in column.tolist()}) > 1:
            raise ValueError(
                "a column of classes must be all texts or all whole numbers, and none missing (None, NaN), got "
                f"{sorted({type(value).__name__ for value in column.tolist()})}"
            )
        check_classification_targets(column)
        found = np.unique(column)
        names = found if names is None else np.unique(names)
        if unknown := [name for name in found.tolist() if name not in names.tolist()]:
            raise ValueError(
                f"y holds {unknown[0]!r}, which is none of the classes {names.tolist()}"
            )
        at = np.searchsorted(names, column)
        return Labels(names, np.eye(len(names), dtype=np.float32)[at], None, "column")

    def _has(self, labels):
        """Whether the last fit was of these labels."""
        if not hasattr(self, "flats_") or self.form_ != labels.form:
            return False
        return np.array_equal(self.classes_, labels.names)

    def _planned_for(self, x, labels):
        if not isinstance(self.known_share, int | float) or not 0 <= self.known_share <= 1:
            raise ValueError(f"known_share must be a share from 0 to 1, got {self.known_share!r}")
        check_decision(self.decision)
        if labels.form == "column":
            return self._planned("classes", x, labels.y.shape[1])
        L, known = labels.y.shape[1], float(self.known_share)
        f1 = min(MOST_F1, 2.0 * L) if isinstance(self.decision, str) else 0.0
        # Which labels go with those told is before all a matter of pairs.
        pairs = 0 < known and L <= MOST_PAIRED if self.pairs is None else bool(self.pairs)
        return self._planned("labels", x, L, f1_weight=f1, known=known, pairs=pairs)

    def _conclude(self, x, labels, y, rows):
        """Sets the decision by answers (n, L) to these held-out rows, and what explanations stand on."""
        if labels.form == "column":
            return
        self.decision_ = Decision.tune(self.decision, y, labels, rows)
        self.mean_y_, self.mean_shift_ = means_of(
            self.shape_, self.flats_, x, labels.y, labels.mask
        )

    def _probable(self, X, known):
        """Probabilities (N, L), and what is known as `Labels` or None."""
        if self._of_classes():
            raise ValueError(
                "y was one column of classes, of which nothing is known or all: known= and rank are for labels"
            )
        if known is None:
            return self.decision_.probabilities(self._relaxed(X)), None
        held = read_labels(known, self.classes_, chosen=True)
        rows = X.shape[0] if hasattr(X, "shape") else len(X)
        if len(held.y) != rows:
            raise ValueError(f"known must have a row for each of X, got {len(held.y)} and {rows}")
        mask = np.ones(held.y.shape, bool) if held.mask is None else held.mask
        held = held._replace(mask=mask)
        return self.decision_.probabilities(self._relaxed(X, (mask, held.y)), held), held

    def __sklearn_tags__(self) -> Any:
        """What scikit-learn may expect."""
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags

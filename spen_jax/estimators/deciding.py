"""From relaxed labels y (N, L) to probabilities and label sets, tuned on held-out rows."""

from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from spen_jax import metrics
from spen_jax.estimators.targets import Labels
from spen_jax.metrics.decisions import fit_logistic

TUNED_ON = 1000
"""Held-out rows that a rule is tuned on, at most: with many labels more take minutes."""


def check_decision(decision: Any) -> None:
    """ValueError for what is no decision."""
    if decision in ("expected_f1", "threshold"):
        return
    whole = isinstance(decision, int | np.integer) and not isinstance(decision, bool)
    share = isinstance(decision, float | np.floating) and 0 < decision < 1
    if not (share or whole and decision >= 1):
        raise ValueError(
            "decision must be 'expected_f1', 'threshold', a threshold between 0 and 1, or a whole number of labels, "
            f"got {decision!r}"
        )


def has_empty(labels: Labels) -> bool:
    """Whether some row has no label; of a row of which not all is known nobody knows."""
    none = labels.y.sum(axis=1) == 0
    return bool(np.any(none if labels.mask is None else none & labels.mask.all(axis=1)))


class Decision(NamedTuple):
    """P(label) = sigmoid(a z + b), z the logits of y, and the rule that makes sets of them."""

    a: float
    b: float
    rule: metrics.Expected | metrics.Tuned | metrics.Fixed | None
    """None where the `count` likeliest labels are chosen."""
    count: int = 0

    @classmethod
    def tune(cls, decision: Any, y: np.ndarray, labels: Labels, rows: np.ndarray) -> "Decision":
        """By answers y (n, L) to these rows of `labels`, which were held out; without any a = 1, b = 0."""
        y, rows = y[:TUNED_ON], rows[:TUNED_ON]
        truth = labels.y[rows]
        mask = None if labels.mask is None else labels.mask[rows]
        counted = np.ones(y.shape, bool) if mask is None else mask
        a, b = fit_logistic(_logits(y)[counted], truth[counted]) if counted.any() else (1.0, 0.0)
        if not isinstance(decision, str):
            if decision >= 1:
                return cls(a, b, None, int(decision))
            return cls(a, b, metrics.Fixed(float(decision)))
        p = cls(a, b, None).probabilities(y)
        if decision == "threshold":
            rule = metrics.Tuned.tune(p, truth, mask) if counted.any() else metrics.Fixed()
            return cls(a, b, rule)
        empty = has_empty(labels)
        rule = metrics.Expected(1.0, 0.0, empty)
        if counted.any():
            rule = metrics.Expected.tune(p, truth, mask, allow_empty=empty)
        return cls(a, b, rule)

    def allowing_empty(self) -> "Decision":
        """The same, where rows without a label were seen."""
        if not isinstance(self.rule, metrics.Expected):
            return self
        return self._replace(rule=replace(self.rule, allow_empty=True))

    def logits(self, y: np.ndarray) -> np.ndarray:
        """a z + b, (N, L)."""
        return self.a * _logits(y) + self.b

    def probabilities(self, y: np.ndarray, held: Labels | None = None) -> np.ndarray:
        """(N, L); of labels that are held 0 or 1."""
        p = np.exp(-np.logaddexp(0, -self.logits(y)))
        return p if held is None or held.mask is None else np.where(held.mask, held.y, p)

    def sets(self, p: np.ndarray, held: Labels | None = None) -> np.ndarray:
        """Booleans (N, L): the rule's choice among the labels that are not held, beside those held on."""
        open_ = np.ones(p.shape, bool) if held is None or held.mask is None else ~held.mask
        if self.rule is None:
            order = np.argsort(np.where(open_, -p, np.inf), axis=1, kind="stable")
            on = np.zeros(p.shape, bool)
            np.put_along_axis(on, order[:, : self.count], True, axis=1)
            on &= open_
        else:
            on = self.rule(p, None if open_.all() else open_)
            if held is not None and isinstance(self.rule, metrics.Expected):
                # A row that has a label already may do without another one.
                has = (held.y > 0).any(axis=1, keepdims=True)
                on = np.where(has, replace(self.rule, allow_empty=True)(p, open_), on)
        return on if held is None else np.where(open_, on, held.y > 0)


def _logits(y):
    y = np.clip(y.astype(np.float64), 1e-7, 1 - 1e-7)
    return np.log(y) - np.log1p(-y)

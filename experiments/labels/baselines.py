"""What a user of scikit-learn would otherwise take: one logistic regression a label, or chains of them."""

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.multioutput import ClassifierChain, MultiOutputClassifier

from experiments.labels.protocol import Rows, Rules, measure
from spen_jax import metrics

STRENGTHS = 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0
"""Inverse strengths of regularisation C that validation chooses from."""
CHAINS = 10


def one_vs_rest(one: LogisticRegression, seed: int, number: int) -> list[Any]:
    """Binary relevance."""
    return [MultiOutputClassifier(one)]


def chains(one: LogisticRegression, seed: int, number: int) -> list[Any]:
    """Classifier chains in random orders, whose probabilities are averaged (Read et al. 2009)."""
    seeds = range(100 * seed, 100 * seed + number)
    return [ClassifierChain(one, order="random", random_state=s) for s in seeds]


BASELINES = {"logistic regressions": one_vs_rest, "classifier chains": chains}


def run(
    rows: Rows,
    name: str,
    seed: int,
    strengths: Sequence[float] = STRENGTHS,
    number: int = CHAINS,
) -> dict[str, Any]:
    """C by validation, fitted again on all training rows, tested with the same decision rules; so many chains."""

    def probabilities(strength, data, x):
        on = np.sum(data.y, axis=0)
        both = (0 < on) & (on < len(data.y))  # a label that is always off, or on, cannot be fitted
        p = np.tile((on + 0.5) / (len(data.y) + 1), (x.shape[0], 1))
        models = BASELINES[name](LogisticRegression(C=strength, max_iter=1000), seed, number)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            each = [m.fit(data.x, data.y[:, both]).predict_proba(x) for m in models]
        # One model a label gives both of its probabilities, a chain those of being on.
        each = [np.stack([q[:, 1] for q in e], 1) if isinstance(e, list) else e for e in each]
        p[:, both] = np.mean(each, axis=0)
        return np.clip(p, 1e-7, 1 - 1e-7)

    def score(p):
        return metrics.example_f1(metrics.Tuned.tune(p, rows.valid.y)(p), rows.valid.y)

    tried = {c: probabilities(c, rows.part, rows.valid.x) for c in strengths}
    best = max(tried, key=lambda c: score(tried[c]))
    rules = Rules.tune(tried[best], rows.valid.y, rows.allow_empty)
    p = probabilities(best, rows.data, rows.test.x)
    return measure(p, rows.test.y, rules) | {"C": best}

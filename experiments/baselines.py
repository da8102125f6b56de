"""What a user of scikit-learn would otherwise take: one logistic regression a label, or chains of them."""

import warnings
from typing import Any

import multilabel
import numpy as np
from multilabel import Decisions, Rows
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.multioutput import ClassifierChain, MultiOutputClassifier

from spen_jax import metrics

STRENGTHS = 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0
"""Inverse strengths of regularisation C that validation chooses from."""
CHAINS = 10


def one_vs_rest(strength: float, seed: int) -> Any:
    """Binary relevance."""
    return MultiOutputClassifier(_logistic(strength))


def chains(strength: float, seed: int) -> list[ClassifierChain]:
    """Classifier chains in random orders, whose probabilities are averaged (Read et al. 2009)."""
    return [
        ClassifierChain(_logistic(strength), order="random", random_state=100 * seed + i)
        for i in range(CHAINS)
    ]


BASELINES = {"logistic regressions": one_vs_rest, "classifier chains": chains}


def run(rows: Rows, name: str, seed: int) -> dict[str, Any]:
    """C by validation, fitted again on all training rows, tested with the same decision rules."""
    make = BASELINES[name]

    def probabilities(strength, data, x):
        models = make(strength, seed)
        models = models if isinstance(models, list) else [models]
        on = np.sum(data.y, axis=0)
        both = (0 < on) & (on < len(data.y))  # a label that is always off, or on, cannot be fitted
        p = np.tile((on + 0.5) / (len(data.y) + 1), (len(x), 1))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            each = [_probability(model.fit(data.x, data.y[:, both]), x) for model in models]
        p[:, both] = np.mean(each, axis=0)
        return np.clip(p, 1e-7, 1 - 1e-7)

    def score(p):
        return metrics.example_f1(
            rows.valid.y, metrics.decide(p, metrics.tune_threshold(rows.valid.y, p))
        )

    tried = {c: probabilities(c, rows.part, rows.valid.x) for c in STRENGTHS}
    best = max(tried, key=lambda c: score(tried[c]))
    decisions = Decisions.tune(rows.valid.y, tried[best], _logit(tried[best]), rows.allow_empty)
    p = probabilities(best, rows.data, rows.test.x)
    return {**multilabel.measure(rows.test.y, p, _logit(p), decisions), "C": best}


def _logistic(strength):
    return LogisticRegression(C=strength, max_iter=1000)


def _probability(model, x):
    """P (N, L) of either kind of model."""
    p = model.predict_proba(x)
    return np.stack([q[:, 1] for q in p], axis=1) if isinstance(p, list) else p


def _logit(p):
    return np.log(p) - np.log1p(-p)

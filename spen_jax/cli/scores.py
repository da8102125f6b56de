"""How good answers are, in the figures of each task."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from spen_jax import metrics

FIRST = {"labels": "f1", "classes": "accuracy", "numbers": "r2", "sequences": "labels_right"}
"""Of each task the figure that the estimator's `score` is."""
CALLED = {
    "f1": "F1, mean over rows",
    "micro_f1": "F1, all labels together",
    "macro_f1": "F1, mean over labels",
    "exact": "rows with all labels right",
    "accuracy": "right",
    "log_loss": "log loss, nats",
    "r2": "R2, mean over numbers",
    "rmse": "root mean square error",
    "mae": "mean absolute error",
    "labels_right": "labels right",
    "sequences_right": "sequences all right",
    "entity_f1": "F1 of entities",
}


def scores(task: str, model: Any, x: Any, y: Any) -> dict[str, float]:
    """The figures of a model's answers to x, whose truth is y."""
    return {
        "labels": _of_labels,
        "classes": _of_classes,
        "numbers": _of_numbers,
        "sequences": _of_sequences,
    }[task](model, x, y)


def _of_labels(model, x, y):
    truth = y.to_numpy()
    mask = ~np.isnan(truth)
    on, truth = np.asarray(model.predict(x)), np.nan_to_num(truth)
    some = mask.any(axis=1)
    return {
        "f1": metrics.example_f1(on, truth, mask),
        "micro_f1": metrics.micro_f1(on, truth, mask),
        "macro_f1": metrics.macro_f1(on, truth, mask),
        "exact": float(np.mean(((on == truth) | ~mask).all(axis=1)[some])),
    }


def _of_classes(model, x, y):
    p = np.asarray(model.predict_proba(x), np.float64)
    names = model.classes_.tolist()
    at = np.array([names.index(name) if name in names else -1 for name in y.tolist()])
    p_true = np.where(at < 0, 0, p[np.arange(len(at)), at])
    return {
        "accuracy": float(np.mean(p.argmax(axis=1) == at)),
        "log_loss": float(-np.mean(np.log(np.maximum(p_true, 1e-15)))),
    }


def _of_numbers(model, x, y):
    error = np.asarray(model.predict(x), np.float64) - y
    return {
        "r2": float(model.score(x, y)) if len(y) > 1 else float("nan"),
        "rmse": float(np.sqrt(np.mean(error**2))),
        "mae": float(np.mean(np.abs(error))),
    }


def _of_sequences(model, x, y):
    found = model.predict(x)
    right = [np.equal(a, b) for a, b in zip(found, y, strict=True)]
    figures = {
        "labels_right": float(np.concatenate(right).mean()),
        "sequences_right": float(np.mean([each.all() for each in right])),
    }
    kinds = {label for row in y for label in row}
    if all(label == "O" or label[:2] in ("B-", "I-", "E-", "S-") for label in kinds):
        figures["entity_f1"] = metrics.entity_f1(found, y)
    return figures


def rows_of(figures: Mapping[str, float]) -> list[tuple[str, float]]:
    """For a table: what each figure is called, and its value."""
    return [(CALLED[name], value) for name, value in figures.items()]

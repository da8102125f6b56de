"""What an estimator does to rows and to answers, as `spen_jax.estimators` does it: N rows, D inputs, L labels."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np


class Held(NamedTuple):
    """What is known of rows' labels: y (N, L) of 0 and 1, where mask (N, L) is true."""

    mask: np.ndarray
    y: np.ndarray


def is_scipy(x: Any) -> bool:
    """Whether x is one of SciPy's sparse matrices or arrays, which nobody need have imported."""
    return hasattr(type(x), "tocsr")


def dense(x: Any) -> Any:
    """x, as an array where it is one of SciPy's matrices."""
    return x.toarray() if is_scipy(x) else x


def csr_of(x: Any, D: int) -> Any:
    """A SciPy matrix (N, D) in CSR, each place stored once; ValueError for another shape, NaN and infinity."""
    if len(x.shape) != 2 or x.shape[1] != D or x.dtype.kind not in "biuf":
        raise ValueError(f"x must be numbers of shape (N, {D}), got {x.dtype} of shape {x.shape}")
    csr = x.tocsr()
    if not csr.has_canonical_format:
        csr = csr.copy()
        csr.sum_duplicates()
    if not np.isfinite(csr.data).all():
        at = int(np.argmin(np.isfinite(csr.data)))
        row = int(np.searchsorted(csr.indptr, at, side="right")) - 1
        raise ValueError(_not_finite(csr.data[at], row, csr.indices[at]))
    return csr


def scaled(kind: str, shift: Any, scale: Any, x: Any) -> np.ndarray:
    """Rows (N, D) as the estimator's network takes them, float32, dense ones of `csr_of` too; ValueError for NaN."""
    if not is_scipy(x) and not np.isfinite(x).all():
        row, column = np.argwhere(~np.isfinite(x))[0]
        raise ValueError(_not_finite(x[row, column], row, column))
    if kind == "dense":
        return np.clip((dense(x) - shift) * scale, -10, 10).astype(np.float32)
    rows, columns, data = _entries(x)
    data = (np.log1p(np.maximum(data, 0)) if kind == "words" else data) * scale[columns]
    if kind == "words":
        lengths = np.sqrt(np.bincount(rows, data**2, minlength=x.shape[0]))
        data *= (8.0 / np.maximum(lengths, 1e-6))[rows]
    found = np.zeros(x.shape, np.float32)
    found[rows, columns] = np.clip(data, -80, 80).astype(np.float32)
    return found


def _entries(x):
    """The rows, the columns and the numbers of what is not 0, or is stored."""
    if is_scipy(x):
        rows = np.repeat(np.arange(x.shape[0]), np.diff(x.indptr))
        return rows, x.indices, x.data.astype(np.float64)
    rows, columns = np.nonzero(x)
    return rows, columns, x[rows, columns]


def _not_finite(value, row, column):
    return f"x must be finite, got {value} in row {row}, column {column}"


def held_of(known: Any, names: list[Any]) -> Held:
    """What is known of labels: numbers (N, L) of 0, 1 and NaN, or for each row those chosen already, None for none.

    ValueError for other numbers, another number of labels, and for a name that is none of the labels'.
    """
    L = len(names)
    rows = known.tolist() if isinstance(known, np.ndarray) and known.ndim == 1 else known
    if isinstance(rows, list | tuple) and _holds_names(rows):
        return _of_names(rows, {str(name): i for i, name in enumerate(names)})
    try:
        y = np.asarray(dense(known), np.float64)
    except (TypeError, ValueError):
        y = np.zeros(0)
    if y.shape[1:] != (L,) or y.ndim != 2:
        raise ValueError(
            f"known must be numbers (N, {L}) of 0, 1 and NaN, or a list of labels for each row, got "
            f"{type(known).__name__} of shape {y.shape}"
        )
    mask = ~np.isnan(y)
    y = np.where(mask, y, 0)
    if (odd := y[(y != 0) & (y != 1)]).size:
        raise ValueError(f"known must be 0, 1 or NaN where a label is not known, got {odd[0]:g}")
    return Held(mask, y.astype(np.float32))


def _holds_names(rows):
    """Whether rows hold names rather than numbers."""

    def named(row):
        if isinstance(row, list | tuple | np.ndarray):
            return not len(row) or any(isinstance(name, str) for name in row)
        return row is None or isinstance(row, set | frozenset | str)

    return any(map(named, rows))


def _of_names(rows, at):
    y = np.zeros((len(rows), len(at)), np.float32)
    for i, row in enumerate(rows):
        if isinstance(row, str):
            raise ValueError(f"known must be a list of labels for each row, but row {i} is {row!r}")
        for name in row if isinstance(row, list | tuple | set | frozenset | np.ndarray) else ():
            if name is None or name != name:
                continue
            if str(name) not in at or not isinstance(name, str):
                raise ValueError(f"known has the label {name!r} in row {i}, which fit did not see")
            y[i, at[str(name)]] = 1
    return Held(y > 0, y)


def chosen(
    rule: dict[str, Any],
    y: np.ndarray,
    sizes: Callable[[np.ndarray, bool], np.ndarray],
    held: Held | None = None,
) -> np.ndarray:
    """The label sets, booleans (N, L), of relaxed labels y by a rule, beside what is held.

    `sizes` says how many labels the set of best expected F1 has, of probabilities (N, L) in falling order, and of
    whether it may be empty.
    """
    open_ = np.ones(y.shape, bool) if held is None else ~held.mask
    if "count" in rule:
        order = np.argsort(np.where(open_, -y, np.inf), axis=1, kind="stable")
        on = np.zeros(y.shape, bool)
        np.put_along_axis(on, order[:, : rule["count"]], True, axis=1)
    elif "threshold" in rule:
        on = y >= np.asarray(rule["threshold"]).astype(y.dtype)
    else:
        has = None if held is None else (held.y > 0).any(axis=1)
        on = _of_best_f1(rule, np.where(open_, y, 0.5), sizes, open_, has)
    on &= open_
    return on if held is None else np.where(open_, on, held.y > 0)


def _of_best_f1(rule, y, sizes, open_, has):
    if not ((y >= -1e-4) & (y <= 1 + 1e-4)).all():
        raise ValueError("the labels' answers are no numbers from 0 to 1: look at the rows of x")
    p = sigmoid(rule["a"] * logits(y) + rule["b"])
    order = np.argsort(-np.where(open_, p, -1.0), axis=1, kind="stable")
    ranked = np.take_along_axis(np.where(open_, p, 0.0), order, axis=1)
    counts = sizes(ranked, rule["allow_empty"])
    if has is not None and not rule["allow_empty"]:
        # A row that has a label already may do without another one.
        counts = np.where(has, sizes(ranked, True), counts)
    on = np.zeros(p.shape, bool)
    np.put_along_axis(on, order, np.arange(p.shape[1]) < counts[:, None], axis=1)
    return on


def sigmoid(z: np.ndarray) -> np.ndarray:
    """1 / (1 + exp(-z))."""
    return np.exp(-np.logaddexp(0, -z))


def logits(y: np.ndarray) -> np.ndarray:
    """log(y / (1 - y)), y cut to [1e-7, 1 - 1e-7]."""
    y = np.clip(y.astype(np.float64), 1e-7, 1 - 1e-7)
    return np.log(y) - np.log1p(-y)


def probabilities(calibration: list[float], y: np.ndarray, held: Held | None) -> np.ndarray:
    """sigmoid(a z + b), z the logits of y (N, L); of labels that are held 0 or 1."""
    a, b = calibration
    p = sigmoid(a * logits(y) + b)
    return p if held is None else np.where(held.mask, held.y, p)


def of_classes(y: np.ndarray, names: list[Any]) -> dict[str, Any]:
    """The probabilities "p" and "labels" of classes y (N, L)."""
    wide = y.astype(np.float64)
    labels = [names[i] for i in y.argmax(axis=1)]
    return {"y": y, "p": wide / wide.sum(axis=1, keepdims=True), "labels": labels}


def sets_of(names: list[Any], on: np.ndarray) -> list[list[Any]]:
    """The names that are on in each row of booleans (N, L)."""
    return [[names[i] for i in np.flatnonzero(row)] for row in on]

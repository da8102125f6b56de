"""What becomes of Y: label sets, indicators and frames as y (N, L), what of it is known, and back again."""

import warnings
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

from spen_jax import sparse


class Labels(NamedTuple):
    """Labels of N rows: names (L,), y (N, L) of 0 and 1, mask (N, L) of what is known or None for all."""

    names: np.ndarray
    y: np.ndarray
    mask: np.ndarray | None
    form: str
    """How they came: "sets", "indicator" or, of classes, "column"."""


def is_sets(Y: Any) -> bool:
    """Whether Y is a label set for each row: lists, tuples or sets of names, or None where nothing is known."""
    if hasattr(Y, "columns") or sparse.is_scipy(Y) or isinstance(Y, str):
        return False
    if getattr(Y, "ndim", 1) != 1 or not isinstance(Y, Iterable):
        return False
    rows = _listed(Y)
    if not all(_is_unknown(row) or _is_set(row) for row in rows):
        return False
    if not rows:
        return False
    if all(isinstance(row, float | np.floating) for row in rows):
        return False
    sets = [row for row in rows if _is_set(row)]
    names = [name for row in sets for name in row if name is not None]
    if not names or any(isinstance(row, set | frozenset) for row in sets):
        return True
    return len({*map(len, sets)}) > 1 or any(isinstance(name, str) for name in names)


def _listed(Y):
    """Rows as a list, also those of a series, polars' too."""
    return Y.to_list() if hasattr(Y, "to_list") else list(Y)


def _is_unknown(row):
    missing = row is None or type(row).__name__ == "NAType"
    return missing or isinstance(row, float | np.floating) and np.isnan(row)


def _is_set(row):
    return isinstance(row, list | tuple | set | frozenset) or (
        isinstance(row, np.ndarray) and row.ndim == 1
    )


def read_labels(Y: Any, names: Any = None, *, chosen: bool = False) -> Labels:
    """Y as label sets, or as numbers (N, L) of 0, 1 and NaN: an array, a frame whose columns are the names, or sparse.

    NaN, in a label set None, says that a label, or all that are not in the set, are not known; with `chosen` sets are
    labels that were chosen already, and nothing is known of the others. With `names` the labels have to be of these.
    ValueError for others.
    """
    if is_sets(Y):
        listed = _listed(Y)
        missing = sum(row is not None and not _is_set(row) for row in listed)
        if missing and not chosen:
            warnings.warn(
                f"{missing} of {len(listed)} label sets are missing (NaN): nothing is taken to be known of these rows. "
                "Where an empty cell means no label give [], as frame['tags'].str.get_dummies(';') does",
                UserWarning,
                stacklevel=4,
            )
        rows = [row if _is_set(row) else None for row in listed]
        return _of_sets([_told(row) for row in rows], names, chosen)
    names_alone = isinstance(Y, list | tuple) and Y and isinstance(Y[0], str)
    if names_alone or isinstance(Y, set | frozenset):
        raise ValueError(f"labels are given row by row, of one row as [{Y!r}], got {Y!r}")
    columns = getattr(Y, "columns", None)
    values = _numbers(Y)
    if values.ndim != 2:
        raise ValueError(f"labels must be numbers (N, L) or label sets, got shape {values.shape}")
    given = np.arange(values.shape[1]) if columns is None else np.array([str(c) for c in columns])
    if names is not None:
        if values.shape[1] != len(names):
            raise ValueError(
                f"labels must have the {len(names)} columns of fit, got {values.shape[1]}"
            )
        if columns is not None and list(given) != [str(name) for name in names]:
            raise ValueError("labels must have the columns of fit, in their order")
        given = names
    unknown = np.isnan(values)
    values = np.where(unknown, 0, values)
    odd = values[(values != 0) & (values != 1)]
    if odd.size:
        raise ValueError(
            f"labels must be 0, 1 or NaN where one is not known, got {odd[0]:g}: one column of classes is given as "
            "(N,), several columns of more than two classes each are not supported"
        )
    return Labels(
        np.asarray(given),
        values.astype(np.float32),
        ~unknown if unknown.any() else None,
        "indicator",
    )


def _numbers(Y):
    if sparse.is_scipy(Y):
        return Y.toarray().astype(np.float64)
    if hasattr(Y, "columns") and hasattr(Y, "to_numpy"):
        Y = Y.to_numpy()
    Y = np.asarray(Y)
    if Y.dtype == object:
        Y = np.array([[np.nan if _is_unknown(v) else v for v in row] for row in Y])
    try:
        return Y.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"labels must be 0, 1 or NaN, or label sets: {error}") from error


def _told(row):
    """A set with None where a name is missing in another way."""
    return None if row is None else [None if _is_unknown(name) else name for name in row]


def without_unseen(Y: Any, names: np.ndarray) -> tuple[Any, np.ndarray]:
    """Label sets without names that are not among `names`, and how many each row has lost; other Y as it is, and 0."""
    if not is_sets(Y):
        return Y, np.zeros(1)
    seen = {str(name) for name in names}
    rows = [row if _is_set(row) else None for row in _listed(Y)]
    unseen = [[n for n in row or () if isinstance(n, str) and n not in seen] for row in rows]
    kept = [
        None if row is None else [n for n in row if n not in lost]
        for row, lost in zip(rows, unseen, strict=True)
    ]
    return kept, np.array([len(lost) for lost in unseen])


def _of_sets(rows, names, chosen):
    for i, row in enumerate(rows):
        for name in () if row is None else row:
            if name is not None and not isinstance(name, str | np.str_):
                raise ValueError(f"label sets hold names, but row {i} holds {name!r}")
            if name == "":
                raise ValueError(
                    f"row {i} has a label without a name, '': a row without labels is [], an empty cell no name"
                )
    if names is None:
        names = sorted({str(n) for row in rows if row is not None for n in row if n is not None})
        if not names:
            raise ValueError("the label sets are all empty: there is nothing to learn")
    at = {str(name): i for i, name in enumerate(names)}
    y = np.zeros((len(rows), len(at)), np.float32)
    mask = np.full(y.shape, not chosen)
    for i, row in enumerate(rows):
        if row is None or any(name is None for name in row):
            mask[i] = False
        for name in (n for n in row or () if n is not None):
            if str(name) not in at:
                raise ValueError(f"row {i} has the label {str(name)!r}, which fit did not see")
            y[i, at[str(name)]] = mask[i, at[str(name)]] = True
    return Labels(np.array(names), y, None if mask.all() else mask, "sets")


def sets_of(names: np.ndarray, on: np.ndarray) -> list[list[str]]:
    """The names that are on in each row of booleans (N, L)."""
    return [[str(name) for name in names[row]] for row in on]

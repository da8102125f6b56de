"""What a user would want to be told of examples before training."""

import hashlib
import sys
from typing import Any, TextIO

import numpy as np

from spen_jax.data.examples import counted, several

_FEW = 10


def describe(data: Any, file: TextIO | None = None) -> dict[str, Any]:
    """Print rows, features, labels and what is odd about them; returns the figures.

    `data` has x (N, D) and y (N, L), arrays or SciPy matrices, such as `Examples` or a `Split`. Cardinality is the mean
    number of labels of a row, density that over L (Tsoumakas & Katakis 2007). Duplicates are rows whose x is that of
    an earlier one. Where y holds other numbers than 0 and 1 their range stands in place of these. `file` is where it is
    printed, standard output by default; the figures are a dict by name: "rows", "features", "labels", "cardinality".
    """
    x, y = data.x, data.y
    figures: dict[str, Any] = {"rows": x.shape[0], "features": x.shape[1], "labels": y.shape[1]}
    features, labels = (
        list_or_numbers(data, f"{w}_names", a.shape[1]) for w, a in (("feature", x), ("label", y))
    )
    figures |= _of_features(x) | (_of_labels(y) if y.shape[1] else {})
    figures |= _of_rows(x, y)
    sizes = (counted(figures[what], what[:-1]) for what in ("rows", "features", "labels"))
    said = [", ".join(sizes)]
    for key, names, what in (
        ("constant", features, "features that are the same in every row"),
        ("never", labels, "labels that are never on"),
        ("always", labels, "labels that are always on"),
        ("rare", labels, f"labels that are on in fewer than {_FEW} rows"),
    ):
        if len(places := figures.pop(f"{key}_places", ())):
            some = several([names[i] for i in places[:4]]) + " ..." * (len(places) > 4)
            said.append(f"{what}: {len(places):,} ({some})")
    said += [what.format(figures[key]) for key, what in _SAID.items() if figures.get(key)]
    print(*said, *getattr(data, "notes", ()), sep="\n", file=file or sys.stdout)
    return figures


_SAID = {
    "cardinality": "{:.3f} labels a row (cardinality)",
    "density": "{:.2%} of y is on (density)",
    "label_sets": "{:,} different sets of labels",
    "range": "y holds numbers from {0[0]:g} to {0[1]:g}: a regression",
    "without_labels": "without labels: {:,} of the rows",
    "without_features": "without features: {:,} of the rows",
    "duplicates": "the same x as an earlier row: {:,} of the rows",
    "contradictions": "the same x as an earlier row, but another y: {:,}",
    "missing_x": "missing in x: {:,} values, to be filled before training",
    "missing_y": "missing in y: {:,} labels; the mask says which",
    "scales": "features differ in their ranges by a factor of {:,.0f}: standardise them",
}


def list_or_numbers(data: Any, name: str, n: int) -> Any:
    """The names that data have, or numbers."""
    found = getattr(data, name, None)
    return found if found is not None and len(found) == n else [str(i) for i in range(n)]


def _of_features(x: Any) -> dict[str, Any]:
    """What is constant, missing, of very different scales."""
    n, values = x.shape[0], x if isinstance(x, np.ndarray) else x.data
    missing = int(np.isnan(values).sum())
    if isinstance(x, np.ndarray):
        with np.errstate(invalid="ignore"):
            least, most = (
                f(x, axis=0, initial=v, where=~np.isnan(x))
                for f, v in ((np.min, np.inf), (np.max, -np.inf))
            )
    else:
        least, most = (found.toarray().ravel() for found in (x.min(axis=0), x.max(axis=0)))
    spread = np.where(np.isfinite(most - least), most - least, 0)
    some = spread[spread > 0]
    scales = float(some.max() / some.min()) if len(some) else 1.0
    found = {"missing_x": missing, "constant_places": np.flatnonzero(spread == 0) if n > 1 else []}
    return found | {
        "constant": len(found["constant_places"]),
        "scales": scales if scales > 100 else None,
    }


def _of_labels(y: Any) -> dict[str, Any]:
    n, L = y.shape
    values = y if isinstance(y, np.ndarray) else y.data
    known = ~np.isnan(values)
    found: dict[str, Any] = {"missing_y": int((~known).sum())}
    if not np.isin(values[known], (0, 1)).all():
        return found | {"range": (float(values[known].min()), float(values[known].max()))}
    on = np.asarray(np.nansum(y, 0) if isinstance(y, np.ndarray) else y.sum(0)).ravel()
    a_row = np.asarray(np.nansum(y, 1) if isinstance(y, np.ndarray) else y.sum(1)).ravel()
    all_known = known.all(1) if isinstance(y, np.ndarray) else True
    cardinality = float(a_row.mean())
    found |= {
        "cardinality": cardinality,
        "density": cardinality / L,
        "without_labels": int(((a_row == 0) & all_known).sum()) if L > 1 else 0,
    }
    places = {
        "never": on == 0,
        "always": on == n,
        "rare": (on > 0) & (on < _FEW) & (n >= 10 * _FEW),
    }
    for name, which in places.items():
        found |= {name: int(which.sum()), f"{name}_places": np.flatnonzero(which)}
    return found


def _of_rows(x: Any, y: Any) -> dict[str, int]:
    rows = [(_bytes(x, i), _bytes(y, i)) for i in range(x.shape[0])]
    first: dict[bytes, bytes] = {}
    duplicates = contradictions = 0
    for of_x, of_y in rows:
        if of_x in first:
            duplicates, contradictions = duplicates + 1, contradictions + (first[of_x] != of_y)
        first.setdefault(of_x, of_y)
    counts = np.asarray((x != 0).sum(1)).ravel() if isinstance(x, np.ndarray) else np.diff(x.indptr)
    return {
        "duplicates": duplicates,
        "contradictions": contradictions,
        "without_features": int((counts == 0).sum()) if x.shape[1] else 0,
        "label_sets": len({of_y for _, of_y in rows}) if y.shape[1] else 0,
    }


def _bytes(a: Any, row: int) -> bytes:
    """A digest of a row."""
    if isinstance(a, np.ndarray):
        return hashlib.blake2b(a[row].tobytes(), digest_size=16).digest()
    part = slice(a.indptr[row], a.indptr[row + 1])
    return hashlib.blake2b(
        a.indices[part].tobytes() + a.data[part].tobytes(), digest_size=16
    ).digest()

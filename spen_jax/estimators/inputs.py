"""What becomes of X: checked, its columns named in errors, and brought to a scale that networks learn from."""

from typing import Any, NamedTuple

import numpy as np
from sklearn.utils.validation import validate_data

from spen_jax import sparse

LENGTH = 8.0
"""Of rows of words, and at most of others that are mostly 0."""
FAR = 10.0
"""Standard deviations from the mean beyond which a number counts as so far away."""
OFTEN = 0.3
"""The share of rows from which on a column of a sparse matrix is one of numbers."""
MOSTLY_ZERO = 0.15
"""Below this share of numbers that are not 0, products of sparse rows are faster, see `spen_jax.sparse`."""


class Scaling(NamedTuple):
    """(x - shift) scale, fitted to training rows; for words also brought to length 8.

    - "dense": less the mean, over the standard deviation, cut at 10; a constant column becomes 0.
    - "words", mostly 0 and counts: log(1 + count) idf, idf_j = log(N / (1 + rows with word j)), rows to length 8.
    - "lengths", mostly 0, not negative, rows of length 1 already (as TfidfVectorizer makes them): rows to length 8.
    - "sparse", mostly 0 and anything else: scale_j = 1 / sqrt(root mean square x largest) times what brings rows to
      length 8 in the mean (to sqrt(D), where there are few columns); of columns that are seldom 0, 1 / deviation.
    """

    kind: str
    shift: np.ndarray
    scale: np.ndarray

    @classmethod
    def of(cls, x: Any, constant: float = 0.0) -> "Scaling":
        """Fitted to x (N, D), dense or CSR; of a dense column that is `constant` the scale is that number."""
        n, D = x.shape
        none = np.zeros(D, np.float32)
        if not sparse.is_scipy(x):
            if np.count_nonzero(x) >= MOSTLY_ZERO * x.size or D < 64:
                return cls("dense", *standard(x, constant))
            x = _csr(x)
        if x.nnz and x.data.min() >= 0:
            if np.all(x.data == np.rint(x.data)):
                rows = np.bincount(x.indices[x.data > 0], minlength=D)
                idf = np.maximum(np.log(n / (1 + rows)), 0.01)
                return cls("words", none, np.where(rows > 0, idf, 0))
            if np.mean(np.abs(_lengths(x)[np.diff(x.indptr) > 0] - 1) < 1e-3) > 0.9:
                return cls(
                    "lengths", none, np.where(np.bincount(x.indices, minlength=D), LENGTH, 0)
                )
        largest = np.zeros(D)
        np.maximum.at(largest, x.indices, np.abs(x.data))
        unit = np.where(largest > 0, largest, 1)
        z = x.data / unit[x.indices]
        squares = np.bincount(x.indices, z**2, minlength=D) / n
        scale = np.where(largest > 0, np.maximum(squares, 1e-30) ** -0.25, 0)
        rare = np.bincount(x.indices, minlength=D) < OFTEN * n
        whole = np.sqrt(max(np.sum((squares * scale**2)[rare]), 1e-30))
        scale *= min(LENGTH, max(rare.sum(), 1) ** 0.5) / whole
        spread = np.sqrt(np.maximum(squares - (np.bincount(x.indices, z, minlength=D) / n) ** 2, 0))
        scale = np.where(rare, scale, 1 / np.maximum(spread, 1e-6))
        return cls("sparse", none, scale / unit)

    def __call__(self, x: Any) -> Any:
        """float32 (N, D): dense for "dense", else CSR."""
        if self.kind == "dense":
            x = x.toarray() if sparse.is_scipy(x) else np.asarray(x, np.float64)
            return np.clip((x - self.shift) * self.scale, -FAR, FAR).astype(np.float32)
        x = x.tocsr(copy=True) if sparse.is_scipy(x) else _csr(x)
        x.data = x.data.astype(np.float64)
        if self.kind == "words":
            x.data = np.log1p(np.maximum(x.data, 0))
        x.data *= self.scale[x.indices]
        if self.kind == "words":
            x.data *= LENGTH / np.repeat(np.maximum(_lengths(x), 1e-6), np.diff(x.indptr))
        x.data = np.clip(x.data, -LENGTH * FAR, LENGTH * FAR).astype(np.float32)
        return x


def standard(x: np.ndarray, constant: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """(shift, scale) that bring columns of x (N, D) to mean 0 and deviation 1; `constant` for one that is constant."""
    largest = np.abs(x).max(axis=0, initial=0).astype(np.float64)
    unit = np.where(
        largest > 0, largest, 1
    )  # of numbers whose squares overflow there is no deviation
    z = x / unit
    spread = np.std(z, axis=0)
    flat = spread <= 1e-13
    scale = np.where(flat, constant, 1 / (np.where(flat, 1, spread) * unit))
    return np.mean(z, axis=0) * unit, scale


def _csr(x):
    from scipy.sparse import csr_array

    return csr_array(x)


def _lengths(x):
    squares = np.bincount(
        np.repeat(np.arange(x.shape[0]), np.diff(x.indptr)), x.data**2, minlength=x.shape[0]
    )
    return np.sqrt(squares)


def checked_x(estimator: Any, X: Any, *, reset: bool) -> Any:
    """X (N, D) as floats, dense or CSR, checked by scikit-learn; errors name the column at fault.

    ValueError for words, missing and infinite values.
    """
    _check_columns(X)
    found: Any = validate_data(
        estimator,
        X,
        reset=reset,
        accept_sparse="csr",
        dtype=[np.float64, np.float32],
        ensure_all_finite=False,
    )
    if sparse.is_scipy(found) and not found.has_canonical_format:
        found = found.copy()
        found.sum_duplicates()
    values = found.data if sparse.is_scipy(found) else found
    wrong = ~np.isfinite(values)
    if wrong.any():
        at = int(np.argmax(wrong.ravel()))
        if sparse.is_scipy(found):
            row, column = np.searchsorted(found.indptr, at, side="right") - 1, found.indices[at]
        else:
            row, column = np.unravel_index(at, found.shape)
        missing = np.isnan(values.ravel()[at])
        raise ValueError(
            f"Input X contains {'NaN' if missing else 'infinity'}: column {_name(X, column)}, row {row}. "
            "Fill it before the estimator, as in make_pipeline(SimpleImputer(), "
            f"{type(estimator).__name__}())"
        )
    return found


def _name(X, column):
    names = getattr(X, "columns", None)
    return repr(str(names[column])) if names is not None else str(column)


def _check_columns(X):
    """ValueError, by name, for columns of a frame that hold no numbers."""
    names = getattr(X, "columns", None)
    if names is None or callable(names):
        return
    for i, name in enumerate(names):
        column = X[name]
        kind = str(getattr(column, "dtype", "")).lower()
        if "date" in kind or "duration" in kind:
            raise ValueError(
                f"column {str(name)!r} (number {i}) holds times: make numbers of them, such as days since a date"
            )
        if not any(word in kind for word in ("str", "object", "utf8", "categor", "enum")):
            continue
        first = next((v for v in column if v is not None and v == v), None)
        if isinstance(first, str):
            raise ValueError(
                f"column {str(name)!r} (number {i}) holds words, such as {first[:40]!r}: put a ColumnTransformer "
                "before the estimator, with OneHotEncoder for categories and TfidfVectorizer for text"
            )

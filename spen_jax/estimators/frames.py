"""Answers as frames of the library that a user asked for."""

from typing import Any

import numpy as np


def framed(estimator: Any, values: np.ndarray, names: np.ndarray, X: Any) -> Any:
    """values (N, L) as `estimator.set_output` says: an array, or a frame with columns `names` and the index of X."""
    wanted = getattr(estimator, "_sklearn_output_config", {}).get("transform", "default")
    columns = [str(name) for name in names]
    if wanted == "pandas":
        import pandas

        index = X.index if hasattr(X, "columns") and hasattr(X, "index") else None
        return pandas.DataFrame(values, columns=columns, index=index)
    if wanted == "polars":
        import polars

        return polars.DataFrame(values, schema=columns, orient="row")
    return values

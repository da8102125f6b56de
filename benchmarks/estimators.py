"""What a user of the estimators waits for: a first fit with all compilation in it, a search of nine fits, one row.

Each claim runs in a process of its own, on all processors; the peer, scikit-learn's `MLPClassifier` of as many hidden
units and its default 200 epochs, in the same process, turn by turn where there are turns.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

from benchmarks import harness


def rows(n: int, seed: int = 0) -> tuple[Any, Any]:
    """Rows of 20 numbers with 6 labels."""
    import numpy as np

    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 20))
    return x, (x[:, :6] + rng.normal(size=(n, 6)) > 0).astype(int)


def first_fit() -> dict[str, float]:
    """Seconds from a process that has imported everything to a fitted model of 200 rows, and to another one."""
    from spen_jax.estimators import SPENClassifier

    x, y = rows(200)
    began = time.perf_counter()
    SPENClassifier(random_state=0).fit(x, y)
    cold = time.perf_counter() - began
    began = time.perf_counter()
    SPENClassifier(random_state=1, dropout=0.4).fit(x[:190], y[:190])
    return {"first fit of 200 rows": cold, "the next, other settings": time.perf_counter() - began}


def search() -> dict[str, float]:
    """Seconds of nine fits: three weight decays, three folds, 600 rows; of ours and of the peer."""
    import warnings

    from sklearn.model_selection import GridSearchCV
    from sklearn.neural_network import MLPClassifier

    from spen_jax.estimators import SPENClassifier

    warnings.simplefilter("ignore")
    x, y = rows(600)
    grids = {
        "search, ours": (SPENClassifier(random_state=0), {"weight_decay": [0.03, 0.1, 0.3]}),
        "search, MLPClassifier": (
            MLPClassifier((128,), random_state=0),
            {"alpha": [1e-4, 1e-2, 1]},
        ),
    }
    found = {}
    for name, (model, grid) in grids.items():
        began = time.perf_counter()
        GridSearchCV(model, grid, cv=3, refit=False).fit(x, y)
        found[name] = time.perf_counter() - began
    return found


def one_row() -> dict[str, float]:
    """Milliseconds to predict one row of BibTeX's size (1,836 words, 159 labels), and other numbers of rows."""
    import jax
    import numpy as np

    from spen_jax.estimators import SPENClassifier

    rng = np.random.default_rng(0)
    x = (rng.random((400, 1836)) < 0.04).astype(np.float32)
    y = (rng.random((400, 159)) < 0.02).astype(int)
    y[:, 0] = 1
    model = SPENClassifier(members=2, epochs=1, random_state=0).fit(x, y)
    model.predict_proba(x[:1])
    compiled: list[str] = []

    def listen(event: str, duration_secs: float, **kwargs: str | int) -> None:
        if "compile" in event:
            compiled.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    found = {}
    for n in (1, 7, 64, 333):
        each = []
        for _ in range(20):
            began = time.perf_counter()
            model.predict_proba(x[:n])
            each.append(time.perf_counter() - began)
        found[f"{n} rows, ms"] = 1000 * float(np.median(each))
    return found | {"compilations after the first call": float(len(compiled))}


PARTS = {"first": first_fit, "search": search, "row": one_row}


def main() -> None:
    """All parts, each in a process of its own, or with --part one of them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--part", choices=PARTS)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    if given.part:
        import spen_jax.estimators  # noqa: F401  importing is no part of what is timed

        found = PARTS[given.part]()
        given.json.write_text(json.dumps(found))
        return
    every: dict[str, float] = {}
    threads = len(harness.available_cpus())
    for part in PARTS:
        every |= harness.fresh_process(__file__, ["--part", part], threads)
    for name, value in every.items():
        print(f"{name:40s} {value:8.2f}")
    if given.json:
        given.json.write_text(json.dumps(every))


if __name__ == "__main__":
    main()

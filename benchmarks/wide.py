"""A training step on wide sparse rows against the number of features, and on rows from a cold file.

A SPEN of 64 hidden units, 16 global units and 1,000 labels, five steps of inference, Adam, batch 256, 100 features on
in a row. Claim: with `training.touching` the time of a step is set by the features that are on in a batch: of 10^6
features, as popular as words are, at most 1.5 times that of 10^4; and of rows in a cold file under 5 % of it are
spent waiting. About 4 minutes; README.md prints the table of one run.
"""

import importlib
import os
import tempfile
import time
from concurrent.futures import Future
from pathlib import Path

from benchmarks import harness

ROWS, WIDTHS, ON, LABELS, HIDDEN, UNITS, STEPS, BATCH = 100_000, (10**4, 10**6), 100, 1000, 64, 16, 5, 256


def measure() -> list[dict]:
    """Milliseconds of a step; one row for each popularity, number of features, optimizer and place of the rows."""
    import spen_jax as sx
    from benchmarks import large

    sx.parallel.keep_memory()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for features in WIDTHS:
            words = large.write(Path(folder) / str(features), ROWS, features, ON, labels=LABELS)
            kinds = {"words": words.fields, "even": _even(features, words.fields["y"])}
            for kind, data in kinds.items():
                loaded = {name: a.copy() for name, a in data.items()}
                rows.append({"popularity": kind} | _timed(loaded, touch=True))
            if features == WIDTHS[0]:
                rows.append({"popularity": "words"} | _timed(kinds["words"], touch=False))
        cold = Path(folder) / str(WIDTHS[-1])
        rows.append({"popularity": "words"} | _timed(kinds["words"], touch=True, cold=cold))
    return rows


def _even(features, y):
    """Rows whose features are all equally frequent."""
    import numpy as np
    from scipy import sparse

    rng = np.random.default_rng(0)
    columns = rng.integers(0, features, (ROWS, ON), dtype=np.int32)
    starts = np.arange(0, ROWS * ON + 1, ON, dtype=np.int32)
    x = sparse.csr_array((np.ones(ROWS * ON, np.float32), columns.ravel(), starts), (ROWS, features))
    x.sum_duplicates()
    return {"x": x, "y": y}


def _timed(data, *, touch, cold=None):
    """The time of a step in the second epoch, its processor time, and what share of it the device waited for rows."""
    import jax
    import numpy as np
    import optax

    import spen_jax as sx

    spen = sx.SPEN(sx.FeatureNetwork(LABELS, (HIDDEN,)), n_global=UNITS, entropy=1.0)
    features, energy = sx.functions_of(spen)
    predictor = sx.Predictor(energy, features, start=sx.logits_of(spen), steps=STEPS)
    optimizer = optax.adam(1e-3)
    if touch:
        optimizer = sx.training.touching(optimizer, {"network/hidden_0/kernel": "x"})
    example = data["x"][:1], np.zeros((1, LABELS), np.float32)
    params = spen.init(jax.random.key(0), *example)["params"]
    state = sx.training.init(params, optimizer, jax.random.key(1))
    objective = sx.objectives.end_to_end(predictor)
    epochs = iter(sx.fit(objective, optimizer, state, data, epochs=2, batch_size=BATCH))
    state, _ = next(epochs)
    if cold is not None:
        _forgotten(cold)
    with _Watched() as watched:
        began, spent = time.perf_counter(), time.process_time()
        state, _ = next(epochs)
        jax.block_until_ready(state)
        seconds, spent = time.perf_counter() - began, time.process_time() - spent
    count = -(-len(data["y"].indptr) // BATCH)
    return {
        "features": data["x"].shape[1],
        "optimizer": "touched rows" if touch else "all rows",
        "rows": "memory" if cold is None else "cold file",
        "milliseconds": 1e3 * seconds / count,
        "processor milliseconds": 1e3 * spent / count,
        "waited": watched.idle / seconds,
    }


def _forgotten(folder):
    """The files' pages leave the system's memory."""
    for path in folder.iterdir():
        with open(path, "rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


class _Watched:
    """How long rows were waited for while the device had nothing to do, in `idle` seconds."""

    def __enter__(self):
        module = importlib.import_module("spen_jax.training.fit")
        self.idle, self.newest = 0.0, None
        self.module, self.step, self.result = module, module.step_on, Future.result

        def step(*args):
            found = self.step(*args)
            self.newest = found[1]["left_out"]
            return found

        def result(future, timeout=None):
            while not future.done():
                began = time.perf_counter()
                busy = self.newest is not None and not self.newest.is_ready()
                time.sleep(1e-4)
                self.idle += 0.0 if busy else time.perf_counter() - began
            return self.result(future, timeout)

        module.step_on, Future.result = step, result
        return self

    def __exit__(self, *_):
        self.module.step_on, Future.result = self.step, self.result


if __name__ == "__main__":
    found = harness.on_one_thread(__file__, __doc__, measure)
    headers = "popularity", "features", "optimizer", "rows", "ms", "processor ms", "waited, %"
    cells = [
        [
            r["popularity"],
            f"{r['features']:,}",
            r["optimizer"],
            r["rows"],
            f"{r['milliseconds']:.1f}",
            f"{r['processor milliseconds']:.1f}",
            f"{100 * r['waited']:.1f}",
        ]
        for r in found
    ]
    print(f"\nA training step on {BATCH} rows of {ON} features, 1 thread\n")
    print(harness.table(headers, cells))

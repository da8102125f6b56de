"""Reading sparse text: seconds and memory for a file of labels and `index:value` pairs, against scikit-learn.

Rows of three labels of 500 and 20 to 120 of 100,000 features, values of five decimals; --megabytes says how many.
Both are asked for the same: float32 values, several labels a row. Before it is timed each has given the same matrix.

Claim, one thread: 200 MB take no longer than with `sklearn.datasets.load_svmlight_file`, and no more memory than the
arrays and 64 MB. A minute or two, half of it for writing the file.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import harness

TURNS = 3


def write(path: Path, megabytes: float) -> None:
    """A file of about that size."""
    rng = np.random.default_rng(0)
    with open(path, "w") as file:
        while file.tell() < megabytes * 1e6:
            n = rng.integers(20, 120)
            indices = 1 + np.sort(rng.choice(100_000, n, replace=False))
            pairs = " ".join(f"{i}:{v:.5f}" for i, v in zip(indices, rng.random(n), strict=True))
            file.write(",".join(map(str, rng.choice(500, 3, replace=False))) + f" {pairs}\n")


def spen_jax(path: Path) -> Any:
    """x and its reader's arrays."""
    from spen_jax.data import read_svmlight

    return (found := read_svmlight(path)).x, found.y


def sklearn(path: Path) -> Any:
    """The same by scikit-learn; labels are tuples."""
    from sklearn.datasets import load_svmlight_file

    kind: Any = np.float32
    return load_svmlight_file(str(path), multilabel=True, dtype=kind)


def memory_of(name: str, path: Path) -> tuple[float, float]:
    """Megabytes that a fresh process takes for reading beyond its arrays, and of the arrays."""
    code = f"from benchmarks import reading; reading.tell({name!r}, {str(path)!r})"
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    beyond, arrays = map(float, found.stdout.split())
    return beyond, arrays


def tell(name: str, path: str) -> None:
    """Print what `memory_of` returns, in this process."""
    reader = {"spen_jax": spen_jax, "sklearn": sklearn}[name]
    small = Path(path).with_suffix(".small")
    reader(small)  # what is imported counts before
    before = _status("VmRSS")
    x, y = reader(Path(path))
    peak = _status("VmHWM")
    arrays = sum(a.nbytes for a in (x.data, x.indices, x.indptr)) + getattr(y, "nbytes", 0)
    print((peak - before) / 1024 - arrays / 2**20, arrays / 2**20)


def _status(what: str) -> float:
    """Kilobytes of this process, of Linux; a child's `getrusage` would begin with its parent's peak."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return float(next(line for line in lines if line.startswith(what)).split()[1])


def main() -> None:
    """Write the file, read it by turns, print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--megabytes", type=float, default=200)
    parser.add_argument("--json", help="file for the rows, a list of objects")
    options = parser.parse_args()
    harness.pin(1)
    readers = {"spen_jax": spen_jax, "sklearn": sklearn}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.svm"
        write(path, options.megabytes)
        write(path.with_suffix(".small"), 0.01)
        seconds: dict[str, list[float]] = {name: [] for name in readers}
        found = {}
        for _ in range(TURNS):
            for name, reader in readers.items():
                began = time.process_time()
                x, _ = reader(path)
                seconds[name].append(time.process_time() - began)
                found[name] = x
        ours, theirs = found["spen_jax"], found["sklearn"]
        if any(
            (getattr(ours, a) != getattr(theirs, a)).any() for a in ("data", "indices", "indptr")
        ):
            sys.exit("the readers give different matrices: nothing is claimed")
        rows = []
        for name, each in seconds.items():
            beyond, arrays = memory_of(name, path)
            rows.append(
                {
                    "name": name,
                    "seconds": float(np.median(each)),
                    "beyond": beyond,
                    "arrays": arrays,
                }
            )
    if options.json:
        harness.write_json(options.json, rows)
    print(harness.machine(["numpy", "scipy", "scikit-learn"]))
    heads = ["", "seconds", "of spen_jax", "arrays, MB", "beyond them, MB"]
    figures = ("seconds", "times", "arrays", "beyond")
    for row in rows:
        row["times"] = row["seconds"] / rows[0]["seconds"]
    print(harness.table(heads, [[r["name"], *(f"{r[f]:.2f}" for f in figures)] for r in rows]))


if __name__ == "__main__":
    main()

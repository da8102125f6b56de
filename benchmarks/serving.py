"""Bundles where nothing but jax, NumPy and flatbuffers is: whether their answers are those of the models, to the bit.

Claim: they are, of each kind of model, at 20 numbers of rows; and 16 threads that ask one bundle for half a minute get
no wrong answer and no more memory.

    python benchmarks/serving.py write /tmp/bundles
    python3 -m venv /tmp/onlyjax
    /tmp/onlyjax/bin/pip install jax==0.10.2 numpy flatbuffers     # the version of jax that wrote them
    /tmp/onlyjax/bin/python /tmp/bundles/serving.py check /tmp/bundles
    /tmp/onlyjax/bin/python /tmp/bundles/serving.py threads /tmp/bundles

The folder gets bundles, their inputs, SHA-256 of the models' answers, and copies of this script and of
`spen_jax/serving`; only `write` imports the library.
"""

import argparse
import hashlib
import json
import shutil
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

SIZES = 1, 2, 3, 5, 7, 8, 9, 15, 16, 17, 24, 25, 40, 63, 64, 65, 72, 100, 128, 300
"""Rows: below, at and above the sizes of batches, 1, 8 and 64, of taggers 32."""
WORDS = "the they run walk it rains 2024 Zürich-Oerlikon in June".split()


def digest(found: dict[str, Any]) -> str:
    """The SHA-256 of what a bundle answers, in its order of names."""
    whole = hashlib.sha256()
    for name in sorted(found):
        several = found[name] if isinstance(found[name], list) else [found[name]]
        for value in several:
            if hasattr(value, "dtype"):
                a = np.ascontiguousarray(value)
                whole.update(f"{name} {a.dtype} {a.shape}".encode() + a.tobytes())
            else:
                whole.update(f"{name} {json.dumps(value)}".encode())
    return whole.hexdigest()


# Where the library is


def write(folder: Path) -> None:
    """Trains models, writes their bundles, inputs and the digests of their answers."""
    import spen_jax

    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(__file__, folder / "serving.py")
    beside = Path(spen_jax.__file__).parent / "serving"
    compiled = shutil.ignore_patterns("__pycache__")
    shutil.copytree(beside, folder / "alone", ignore=compiled, dirs_exist_ok=True)
    rng = np.random.default_rng(0)
    cases = {**estimators(folder, rng), **taggers(folder, rng), **predictors(folder, rng)}
    wanted = {}
    for name, (given, answer) in cases.items():
        write_given(folder / name, given)
        wanted[name] = [digest(answer(first(given, n))) for n in SIZES]
        print(name, flush=True)
    (folder / "wanted.json").write_text(json.dumps(wanted))


def estimators(folder, rng):
    """Label sets, with and without known ones, classes and numbers: {name: (inputs, answer)}."""
    from spen_jax.estimators import SPENClassifier, SPENRegressor

    options: Any = {"hidden_units": 32, "epochs": 5, "members": 2, "random_state": 0}
    x = rng.normal(size=(max(SIZES), 8))
    on = np.hstack([x[:, :3] > 0, x[:, :3] < -0.5])
    known = np.where(rng.random(on.shape) < 0.3, on, np.nan)
    labels = SPENClassifier(**options, known_share=0.5).fit(x, on.astype(int))
    classes = SPENClassifier(**options).fit(x, np.array([*"abc"])[x[:, :3].argmax(1)])
    numbers = SPENRegressor(**options).fit(x, x[:, :2] @ rng.normal(size=(2, 2)))
    for name, model in ("labels", labels), ("known", labels), ("classes", classes):
        model.save(folder / f"{name}.spen", programs=True)
    numbers.save(folder / "numbers.spen", programs=True)

    def of_labels(given):
        known = given.get("known")
        on = labels.predict(given["x"], known)
        return {"p": labels.predict_proba(given["x"], known), "on": on.astype(bool)}

    def of_classes(given):
        found = classes.predict(given["x"]).tolist()
        return {"p": classes.predict_proba(given["x"]), "labels": found}

    return {
        "labels": ({"x": x}, of_labels),
        "known": ({"x": x, "known": known}, of_labels),
        "classes": ({"x": x}, of_classes),
        "numbers": ({"x": x}, lambda given: {"y": numbers.predict(given["x"])}),
    }


def taggers(folder, rng):
    """Of words and of vectors, with usual sizes of their networks."""
    from spen_jax.estimators import SPENSequenceTagger

    lengths = [int(n) for n in rng.integers(0, 30, max(SIZES))]
    words = [rng.choice(WORDS, n).tolist() for n in lengths]
    vectors = [rng.normal(size=(n, 3)).tolist() for n in lengths]
    tags = [[["x", "y", "z"][len(w) % 3] for w in s] for s in words]

    def case(name, X):
        tagger = SPENSequenceTagger(epochs=1, random_state=0).fit(X[:40], tags[:40])
        tagger.save(folder / f"{name}.spen", programs=True)

        def answer(given):
            return {"y": tagger.predict_marginals(given["x"]), "labels": tagger.predict(given["x"])}

        return {"x": X}, answer

    return {"words": case("words", words), "vectors": case("vectors", vectors)}


def predictors(folder, rng):
    """A predictor by gradients, and exact ones: a chain, a grid and a factor graph."""
    import jax

    import spen_jax as sx
    from spen_jax.exact import Chain, FactorGraph, Grid, Tables

    L = 6
    model = sx.SPEN(sx.FeatureNetwork(n_labels=L, widths=(16,)), n_global=4)
    features, energy = sx.functions_of(model)
    x = rng.normal(size=(max(SIZES), 8)).astype(np.float32)
    params = model.init(jax.random.key(0), x[:1], np.zeros((1, L), np.float32))["params"]
    A = rng.normal(size=(3, 3)).astype(np.float32)
    ring = np.array([[0, 1], [1, 2], [2, 3], [3, 0]])
    chain = rng.normal(size=(max(SIZES), 7, 3)).astype(np.float32)
    image = rng.normal(size=(max(SIZES), 5, 6, 3)).astype(np.float32)

    def chains(A, h):
        return Chain(h, A)

    def grids(A, h):
        return Grid(h, A, A)

    def graphs(A, h):
        return FactorGraph(h[:4], [Tables(ring, A[None])])

    of = sx.Predictor.of_structure
    by_gradient = sx.Predictor(energy, features, shape=(L,), steps=10, solver=sx.MirrorDescent())
    cases = {
        "gradient": (by_gradient, params, x),
        "chain": (of(chains), A, chain),
        "grid": (of(grids, beta=1.0), A, image),
        "graph": (of(graphs), A, chain),
    }

    def case(name, predictor, params, x):
        sx.export(predictor, params, folder / f"{name}.spen", x=x)

        def answer(given):
            found = predictor(params, given["x"])
            return {"y": np.asarray(found.y), "energy": np.asarray(found.energy)}

        return {"x": x}, answer

    return {name: case(name, *each) for name, each in cases.items()}


# Where it is not


def write_given(path, given):
    """Arrays as NumPy's files, sequences as JSON."""
    lists = {k: v for k, v in given.items() if isinstance(v, list)}
    np.savez(f"{path}.npz", **{k: v for k, v in given.items() if k not in lists})
    Path(f"{path}.json").write_text(json.dumps(lists))


def read_given(path):
    """What `write_given` wrote."""
    with np.load(f"{path}.npz") as arrays:
        return {**arrays, **json.loads(Path(f"{path}.json").read_text())}


def first(given, n):
    """The first n rows of all inputs."""
    return {name: value[:n] for name, value in given.items()}


def loaded(folder: Path, name: str) -> Any:
    """The bundle, by the copy of `spen_jax/serving` that stands in the folder."""
    sys.path.insert(0, str(folder))
    import alone  # pyright: ignore[reportMissingImports]

    return alone.load(folder / f"{name}.spen")


def check(folder: Path) -> int:
    """How many answers are not those of the models, which it prints."""
    wrong = 0
    for name, wanted in json.loads((folder / "wanted.json").read_text()).items():
        bundle, given, faults = loaded(folder, name), read_given(folder / name), []
        for n, want in zip(SIZES, wanted, strict=True):
            found = bundle(**first(given, n))
            keys = {"labels": "p on", "known": "p on", "classes": "p labels", "numbers": "y"}
            keys |= {"words": "y labels", "vectors": "y labels"}
            kept = {key: found[key] for key in keys.get(name, "y energy").split()}
            faults += [n] * (digest(kept) != want)
        print(
            f"{name:9} {len(SIZES) - len(faults)} of {len(SIZES)} sizes equal", *faults, flush=True
        )
        wrong += len(faults)
    assert "spen_jax" not in sys.modules and "flax" not in sys.modules
    return wrong


def resident() -> float:
    """MB that the process holds (Linux)."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 1e6


def threads(
    bundle: Any, x: Any, seconds: float, warm: float = 5.0, many: int = 16
) -> dict[str, float]:
    """Calls, wrong answers, and memory after the warm-up, of threads that ask one bundle at once.

    "MB" is the median of the first quarter of the time, "MB grown" what that of the last quarter has more.
    """
    sizes = (1, 5, 8, 30, 64, 70)
    want = {n: digest(bundle(x[:n])) for n in sizes}
    counts, wrong, stop = [0] * many, [0] * many, time.monotonic() + warm + seconds

    def ask(seed):
        rng = np.random.default_rng(seed)
        while time.monotonic() < stop:
            n = int(rng.choice(sizes))
            wrong[seed] += digest(bundle(x[:n])) != want[n]
            counts[seed] += 1

    asking = [threading.Thread(target=ask, args=(seed,)) for seed in range(many)]
    for thread in asking:
        thread.start()
    time.sleep(warm)
    held = [resident()]
    while time.monotonic() < stop:
        time.sleep(0.5)
        held.append(resident())
    for thread in asking:
        thread.join()
    quarter = len(held) // 4
    early, late = np.median(held[:quarter]), np.median(held[-quarter:])
    return {
        "calls": sum(counts),
        "least of a thread": min(counts),
        "wrong": sum(wrong),
        "MB": float(early),
        "MB grown": float(late - early),
    }


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("what", choices=["write", "check", "threads"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seconds", type=float, default=30)
    given = parser.parse_args()
    if given.what == "write":
        write(given.folder)
    elif given.what == "check":
        sys.exit(check(given.folder) > 0)
    else:
        for name in ("labels", "words"):
            x = read_given(given.folder / name)["x"]
            found = threads(loaded(given.folder, name), x, given.seconds)
            print(name, json.dumps({k: round(v, 1) for k, v in found.items()}), flush=True)


if __name__ == "__main__":
    main()

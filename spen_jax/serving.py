"""Answers from a bundle, with jax and NumPy alone: this file imports nothing else of spen_jax and may be copied.

    bundle = load("weather.spen")
    bundle(x)["y"]

A bundle is one safetensors file (8 bytes of length, a JSON header, arrays): the model's settings, its weights, and as
arrays of bytes the programs of `jax.export` that answer, which jax reads with the package flatbuffers. Nothing is
unpickled, but a program is code: load files of those you trust. N rows, D inputs, L outputs.
"""

import datetime
import hashlib
import importlib
import json
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

FORMAT, EARLIER = "spen_jax bundle", "spen_jax estimator"
VERSION = 1
DAYS = 183
"""For so long after an export JAX promises that later versions of it run the program."""
PROGRAMS = "programs/"
DTYPES: dict[str, np.dtype] = {
    name: np.dtype("?" if name == "BOOL" else f"<{name[0].lower()}{int(name[1:]) // 8}")
    for name in "BOOL U8 I8 U16 I16 F16 U32 I32 F32 U64 I64 F64".split()
} | {"BF16": np.dtype(jnp.bfloat16)}
"""The types that a file may hold, by safetensors' names."""


class BundleError(ValueError):
    """A file that is no bundle, is damaged, of a later version, without programs or with programs that expired."""


class Contents(NamedTuple):
    """What a file holds, its checksum in order: the state, arrays by name, programs by name."""

    state: Any
    arrays: dict[str, np.ndarray]
    programs: dict[str, bytes]


def read(path: str | Path) -> Contents:
    """What a bundle holds, all of it read once.

    OSError where there is no file; `BundleError` for a file of another kind, a damaged one, and one of a later version.
    """
    path = Path(path)
    content = bytearray(path.stat().st_size)
    with open(path, "rb") as file:
        del content[file.readinto(content) :]
    try:
        header, arrays = _parsed(content)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise BundleError(f"{path} is damaged, or no bundle of spen_jax: {error}") from None
    if header.get("format") not in (FORMAT, EARLIER):
        raise BundleError(
            f"{path} holds arrays, but no estimator or predictor of spen_jax: give the file that save or export wrote"
        )
    version = header.get("version", "")
    if version.isdecimal() and int(version) > VERSION:
        raise BundleError(
            f"{path} has version {version} of the format, written by spen_jax {header.get('library')}; this "
            f"one reads up to {VERSION}: install a later spen_jax"
        )
    text = header.get("state", "")
    if version != str(VERSION) or digest(text, arrays) != header.get("sha256"):
        raise BundleError(
            f"{path} is damaged: its checksum is not that of what it holds; get it again"
        )
    try:
        state = json.loads(text)
    except (ValueError, RecursionError):
        raise BundleError(
            f"{path} holds no estimator that can be made: its state is no JSON"
        ) from None
    names = [name for name in arrays if name.startswith(PROGRAMS)]
    programs = {name[len(PROGRAMS) :]: arrays.pop(name).tobytes() for name in names}
    return Contents(state, arrays, programs)


def digest(text: str, arrays: dict[str, np.ndarray]) -> str:
    """The SHA-256 of a state and of arrays, their names, types and shapes."""
    found = hashlib.sha256(text.encode())
    for name in sorted(arrays):
        a = arrays[name]
        found.update(f"{name} {a.dtype} {a.shape}".encode())
        found.update(np.ascontiguousarray(a).reshape(-1).view(np.uint8).data)
    return found.hexdigest()


def _parsed(content):
    """The texts and the arrays of a safetensors file; ValueError, and others of a wrong type, for no such file."""
    length = int.from_bytes(content[:8], "little")
    if len(content) < 8 or length > len(content) - 8:
        raise ValueError("it ends before its header does")
    entries = json.loads(bytes(content[8 : 8 + length]))
    texts = {name: str(text) for name, text in entries.pop("__metadata__", {}).items()}
    begin, held, arrays, ends = 8 + length, len(content) - 8 - length, {}, 0
    for name, entry in sorted(entries.items(), key=lambda item: item[1]["data_offsets"]):
        dtype, shape = np.dtype(DTYPES[entry["dtype"]]), tuple(entry["shape"])
        first, last = entry["data_offsets"]
        whole = all(type(n) is int and n >= 0 for n in (*shape, first, last))
        size = math.prod(shape) * dtype.itemsize if whole else -1
        if first != ends or last - first != size or last > held:
            raise ValueError(f"{name} claims bytes that are not its own")
        a = np.frombuffer(content, np.uint8, size, begin + first) if size else np.zeros(0, np.uint8)
        arrays[name], ends = a.view(dtype).reshape(shape), last
    if ends != held:
        raise ValueError("it holds bytes that belong to no array")
    return texts, arrays


def load(path: str | Path) -> "Bundle":
    """The bundle of a file, ready to answer.

    A program runs with the version of jax that it was exported with, and with later ones for half a year. One that
    expired, or none, is exported anew where spen_jax is installed and the file holds an estimator; elsewhere
    `BundleError` says what to do, as for files that `read` refuses. OSError where there is no file.
    """
    contents = read(path)
    try:
        why = _expired(contents.state["serving"])
        if why is None:
            return Bundle(contents)
    except ImportError:  # of a package that jax wants for it
        raise
    except Exception as error:  # programs of another jax make its reader raise anything
        why = f"it holds no programs that can be read ({error!r})"
    return Bundle(_exported_anew(path, why))


def _expired(serving: dict[str, Any]) -> str | None:
    """Why programs are not to be run here; None where they are."""
    made, by = datetime.date.fromisoformat(serving["made"]), serving["jax"]
    theirs, ours = (
        [int(n) for n in v.split(".")[:3] if n.isdecimal()] for v in (by, jax.__version__)
    )
    if theirs > ours:
        return f"its programs are of jax {by}, a later one"
    if by != jax.__version__ and (datetime.date.today() - made).days > DAYS:
        return f"its programs were exported on {made} by jax {by} and expired after {DAYS} days"
    return None


def _exported_anew(path, why) -> Contents:
    try:
        # By name: this file stands alone.
        return importlib.import_module("spen_jax.estimators.programs").exported_anew(path)
    except (ImportError, ValueError, TypeError):
        raise BundleError(
            f"{path}: {why}; here is jax {jax.__version__}. Export the model again with spen_jax: "
            "estimator.save(path, programs=True), or spen_jax.export(predictor, params, path, x=x)"
        ) from None


class Bundle:
    """A saved model that answers: `bundle(x)`, a dict of arrays with an entry for each row. Threads may share it.

    Attributes:
      names: the outputs' names, or None.
      inputs: what it wants, "x" and whatever else it was exported with: shapes of one row, and types.
      sizes: of the batches that rows run in; what does not fill one is filled up, and cut off again.
    """

    def __init__(self, contents: Contents):
        from jax import export  # here: it needs a package that jax itself does without

        serving = contents.state["serving"]
        self.names: list[Any] | None = serving["names"]
        self.inputs: dict[str, Any] = serving["inputs"]
        self.sizes: list[int] = serving["sizes"]
        self._serving, self._arrays = serving, contents.arrays
        with jax.enable_x64(serving["x64"]):
            self._weights = [jax.device_put(contents.arrays[name]) for name in serving["weights"]]
        self._programs = {
            name: jax.jit(export.deserialize(bytearray(program)).call)
            for name, program in contents.programs.items()
        }
        if serving["answer"] not in _CONCLUDE or not all(
            type(n) is int and n > 0 for n in self.sizes
        ):
            raise ValueError("its settings are none that this version knows")

    def __call__(self, x: Any, **others: Any) -> dict[str, Any]:
        """The answers to rows x, any number of them, and to whatever else it was exported with (`known`, `mask`).

        "y", "energy" and "residual" of a predictor, "steps" and "trace" where it has them; "on", booleans (N, L), where
        it has a decision. "y", "p", "on" and "labels" of a classifier; "y" of a regressor. ValueError for what does not
        fit.
        """
        given = {"x": x, **others}
        if {*given} != {*self.inputs}:
            raise ValueError(f"this bundle takes {', '.join(self.inputs)}, got {', '.join(given)}")
        given = {name: _fitted(self.inputs[name], value, name) for name, value in given.items()}
        sizes = {a.shape[0] for a in jax.tree.leaves(given)}
        if len(sizes) != 1:
            raise ValueError(f"all arrays need the same leading axis of rows, got {sorted(sizes)}")
        if (scaling := self._serving["scaling"]) is not None:
            shift, scale = map(self._arrays.get, scaling["arrays"])
            given["x"] = scaled(scaling["kind"], shift, scale, given["x"])
        with jax.enable_x64(self._serving["x64"]):  # as it was where it was exported
            return _CONCLUDE[self._serving["answer"]](self, self._in_batches(self._program, given))

    def _on(self, y):
        sizes = partial(self._in_batches, lambda _: self._programs["sets"])
        dtype = np.float64 if self._serving["x64"] else np.float32
        return chosen(self._serving["rule"], y, lambda p: sizes({"p": p.astype(dtype)}))

    def _program(self, size):
        # On a CPU that of this very size; "any" is laid out for other devices.
        own = str(size) in self._programs and jax.default_backend() == "cpu"
        name = "any" if "any" in self._programs and not own else str(size)
        if name not in self._programs:
            raise ValueError(f"there is no program for batches of {size} rows")
        return partial(self._programs[name], self._weights)

    def _in_batches(self, program, given):
        n = jax.tree.leaves(given)[0].shape[0]
        if not n:  # an answer of no rows has the shapes of others
            one = jax.tree.map(lambda a: np.zeros((1, *a.shape[1:]), a.dtype), given)
            return jax.tree.map(lambda a: a[:0], self._in_batches(program, one))
        found, first = [], 0
        for size in batches(n, self.sizes):
            rows = np.minimum(np.arange(first, first + size), n - 1)
            found.append(program(size)(jax.tree.map(lambda a, rows=rows: a[rows], given)))
            first += size
        return jax.tree.map(lambda *parts: np.concatenate(list(map(np.asarray, parts)))[:n], *found)


def batches(n: int, sizes: list[int]) -> list[int]:
    """The sizes, of those given in rising order, of the runs that n rows are made in; the last may not be full."""
    found = []
    while n > 0:
        at = next((i for i, size in enumerate(sizes) if size >= n), len(sizes) - 1)
        size, below = sizes[at], sizes[max(at - 1, 0)]
        found.append(below if size > n and n <= 3 * below else size)
        n -= found[-1]
    return found


def _fitted(wanted: Any, value: Any, path: str) -> Any:
    """A tree of NumPy arrays like the one that was exported; ValueError, by path, for another."""
    ((kind, inner),) = wanted.items()
    if kind == "dict":
        if not isinstance(value, dict) or {*value} != {*inner}:
            raise ValueError(f"{path} must be a dict of {', '.join(inner)}")
        return {key: _fitted(part, value[key], f"{path}[{key!r}]") for key, part in inner.items()}
    if kind != "array":
        if not isinstance(value, list | tuple) or len(value) != len(inner):
            raise ValueError(f"{path} must be a {kind} of {len(inner)}, got {type(value).__name__}")
        parts = [_fitted(part, value[i], f"{path}[{i}]") for i, part in enumerate(inner)]
        return tuple(parts) if kind == "tuple" else parts
    shape, dtype = tuple(inner["shape"]), np.dtype(inner["dtype"])
    try:
        array = np.asarray(value)
    except ValueError:  # rows of several lengths
        array = np.array("ragged")
    fits = array.dtype.kind in "biufV" and np.can_cast(array.dtype, dtype, "same_kind")
    if not fits or not array.ndim or array.shape[1:] != shape:
        want = ", ".join(map(str, ("N", *shape)))
        got = f"{array.dtype} of shape {array.shape}"
        raise ValueError(f"{path} must be {dtype} of shape ({want}), got {got}")
    return array.astype(dtype)


# What an estimator does to rows and answers, as spen_jax.estimators does it.


def scaled(kind: str, shift: Any, scale: Any, x: np.ndarray) -> np.ndarray:
    """Rows (N, D) of float64 as the estimator's network takes them, float32; ValueError for NaN and infinity."""
    if not np.isfinite(x).all():
        row, column = np.argwhere(~np.isfinite(x))[0]
        raise ValueError(f"x must be finite, got {x[row, column]} in row {row}, column {column}")
    if kind == "dense":
        return np.clip((x - shift) * scale, -10, 10).astype(np.float32)
    rows, columns = np.nonzero(x)
    data = x[rows, columns]
    data = (np.log1p(np.maximum(data, 0)) if kind == "words" else data) * scale[columns]
    if kind == "words":
        lengths = np.sqrt(np.bincount(rows, data**2, minlength=len(x)))
        data *= (8.0 / np.maximum(lengths, 1e-6))[rows]
    found = np.zeros(x.shape, np.float32)
    found[rows, columns] = np.clip(data, -80, 80).astype(np.float32)
    return found


def chosen(rule: dict[str, Any], y: np.ndarray, sizes: Callable[[Any], Any]) -> np.ndarray:
    """The label sets, booleans (N, L), of relaxed labels y by a rule.

    `sizes` says how many labels the set of best expected F1 has, of probabilities (N, L) in falling order.
    """
    if "count" in rule:
        order = np.argsort(-y, axis=1, kind="stable")
        on = np.zeros(y.shape, bool)
        np.put_along_axis(on, order[:, : rule["count"]], True, axis=1)
        return on
    if "threshold" in rule:
        return y >= np.asarray(rule["threshold"]).astype(y.dtype)
    if not ((y >= -1e-4) & (y <= 1 + 1e-4)).all():
        raise ValueError("the labels' answers are no numbers from 0 to 1: look at the rows of x")
    p = _sigmoid(rule["a"] * _logits(y) + rule["b"])
    order = np.argsort(-p, axis=1, kind="stable")
    counts = sizes(np.take_along_axis(p, order, axis=1))
    on = np.zeros(p.shape, bool)
    np.put_along_axis(on, order, np.arange(p.shape[1]) < counts[:, None], axis=1)
    return on


def _sigmoid(z):
    return np.exp(-np.logaddexp(0, -z))


def _logits(y):
    y = np.clip(y.astype(np.float64), 1e-7, 1 - 1e-7)
    return np.log(y) - np.log1p(-y)


def _solution(bundle, found):
    return found | ({"on": bundle._on(found["y"])} if bundle._serving["rule"] else {})


def _labels(bundle, found):
    a, b = bundle._serving["calibration"]
    found["p"] = _sigmoid(a * _logits(found["y"]) + b)
    on = found["on"] = bundle._on(found["p"])
    names = bundle.names
    return found | {"labels": [[names[i] for i in np.flatnonzero(row)] for row in on]}


def _classes(bundle, found):
    y = found["y"].astype(np.float64)
    labels = [bundle.names[i] for i in found["y"].argmax(axis=1)]
    return found | {"p": y / y.sum(axis=1, keepdims=True), "labels": labels}


def _numbers(bundle, found):
    shift, scale = map(bundle._arrays.get, bundle._serving["arrays"])
    y = found["y"] * scale + shift
    return found | {"y": y[:, 0] if bundle._serving["one"] else y}


_CONCLUDE = {"solution": _solution, "labels": _labels, "classes": _classes, "numbers": _numbers}
"""What becomes of the programs' answers, by the kind of estimator."""

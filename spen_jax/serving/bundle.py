"""A bundle's programs, and how they are run: rows in batches of few sizes, sequences in batches of few widths."""

import datetime
import importlib
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from . import rows, sequences, tags
from .files import BundleError, Contents, read

DAYS = 183
"""For so long after an export JAX promises that later versions of it run the program."""
ANSWERS = "solution", "labels", "classes", "numbers", "tags"
"""The kinds of models."""


def load(path: str | Path) -> "Bundle":
    """The bundle of a file, ready to answer.

    A program runs with the version of jax that it was exported with, and with later ones for half a year. One that
    expired, or none, is exported anew where spen_jax is installed and the file holds an estimator; elsewhere
    `BundleError` says what to do, as for files that `read` refuses. OSError where there is no file. `path` is what
    `export`, or an estimator's `save(path, programs=True)`, wrote; a program is code, so load those you trust.
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
      optional: what it may be told besides, such as "known".
      sizes: of the batches that rows run in; what does not fill one is filled up, and cut off again.

    `load` makes it, of `contents`, the `Contents` that `read` found; ValueError for settings that this version does not
    know.
    """

    def __init__(self, contents: Contents):
        from jax import export  # here: it needs a package that jax itself does without

        serving = contents.state["serving"]
        self.names: list[Any] | None = serving["names"]
        self.inputs: dict[str, Any] = serving["inputs"]
        self.optional: dict[str, Any] = serving.get("optional", {})
        self.sizes: list[int] = serving["sizes"]
        self._serving, self._arrays = serving, contents.arrays
        with jax.enable_x64(serving["x64"]):
            self._weights = [jax.device_put(contents.arrays[name]) for name in serving["weights"]]
        self._programs = {
            name: jax.jit(export.deserialize(bytearray(program)).call)
            for name, program in contents.programs.items()
        }
        if serving["answer"] not in ANSWERS or not all(
            type(n) is int and n > 0 for n in self.sizes
        ):
            raise ValueError("its settings are none that this version knows")
        if serving["answer"] == "tags":
            self._reader = sequences.reader_in(contents)

    def __call__(self, x: Any, **others: Any) -> dict[str, Any]:
        """The answers to rows x, any number of them, and to whatever else it was exported with (`known`, `mask`).

        "y", "energy" and "residual" of a predictor, "steps" and "trace" where it has them; "on", booleans (N, L), where
        it has a decision. "y", "p", "on" (N, L) and "labels" of a classifier; "y" of a regressor; x (N, D) of both may
        be one of SciPy's sparse matrices. "y", an array (T, K) of each sequence, and "labels", a list of each, of a
        tagger, for sequences as it was fitted to. What is `known` is given in the estimator's own forms. ValueError for
        what does not fit.
        """
        given = {"x": x, **others}
        given = {k: v for k, v in given.items() if not (v is None and k in self.optional)}
        if {*given} - {*self.optional} != {*self.inputs}:
            takes = ", ".join(self.inputs) + "".join(f", perhaps {name}" for name in self.optional)
            raise ValueError(f"this bundle takes {takes}, got {', '.join(given)}")
        with jax.enable_x64(self._serving["x64"]):  # as it was where it was exported
            if self._serving["answer"] == "tags":
                return self._of_sequences(**given)
            if self._serving["answer"] == "solution":
                return self._of_predictor(given)
            return self._of_rows(**given)

    def _of_predictor(self, given):
        given = {name: _fitted(self.inputs[name], value, name) for name, value in given.items()}
        found = self._in_batches(self._program, given)
        return found | ({"on": self._on(found["y"])} if self._serving["rule"] else {})

    def _of_rows(self, x, known=None):
        kind, names, arrays = self._serving["answer"], self.names or [], self._arrays
        given: dict[str, Any] = {"x": self._read_rows(x)}
        held = None if known is None else rows.held_of(known, names)
        if held is not None:
            given["known"] = tuple(held)
        y = self._in_batches(partial(self._program, known=held is not None), given)["y"]
        if kind == "numbers":
            shift, scale = map(arrays.get, self._serving["arrays"])
            y = y * scale + shift
            return {"y": y[:, 0] if self._serving["one"] else y}
        if kind == "classes":
            return rows.of_classes(y, names)
        p = rows.probabilities(self._serving["calibration"], y, held)
        on = self._on(p, held)
        return {"y": y, "p": p, "on": on, "labels": rows.sets_of(names, on)}

    def _read_rows(self, x):
        """Rows as the network takes them, or in CSR, of which `_in_batches` makes such."""
        wanted = self.inputs["x"]
        if rows.is_scipy(x):
            return rows.csr_of(x, wanted["array"]["shape"][0])
        return self._scaled(_fitted(wanted, x, "x"))

    def _scaled(self, x):
        scaling = self._serving["scaling"]
        shift, scale = map(self._arrays.get, scaling["arrays"])
        return rows.scaled(scaling["kind"], shift, scale, x)

    def _of_sequences(self, x, known=None):
        places = sequences.places_of(self._reader, sequences.sequences_of(x))
        names = np.array(self.names)
        if known is not None:
            known = tags.read_tags(known, places.lengths, names, "known")[1]

        def run(x, known):
            return self._programs["any"](self._weights, {"x": x, "known": known})["y"]

        y = sequences.answers(run, places, len(names), known=known, most=self.sizes[0])
        return {"y": y, "labels": tags.tags_of(names, y)}

    def _on(self, y, held=None):
        rule, dtype = self._serving["rule"], np.float64 if self._serving["x64"] else np.float32

        def sizes(p, allow_empty):
            name = "sets" if allow_empty == rule["allow_empty"] else "sets or none"
            return self._in_batches(lambda _: self._programs[name], {"p": p.astype(dtype)})

        return rows.chosen(rule, y, sizes, held)

    def _program(self, size, known=False):
        # On a CPU that of this very size; "any" is laid out for other devices.
        of, programs = " known" if known else "", self._programs
        own = f"{size}{of}" in programs and jax.default_backend() == "cpu"
        name = f"any{of}" if f"any{of}" in programs and not own else f"{size}{of}"
        if name not in programs:
            raise ValueError(f"there is no program for batches of {size} rows")
        return partial(programs[name], self._weights)

    def _in_batches(self, program, given):
        n = jax.tree.leaves(given)[0].shape[0]
        sizes = {a.shape[0] for a in jax.tree.leaves(given)}
        if len(sizes) != 1:
            raise ValueError(f"all arrays need the same leading axis of rows, got {sorted(sizes)}")
        if not n:  # an answer of no rows has the shapes of others
            one = jax.tree.map(lambda a: np.zeros((1, *a.shape[1:]), a.dtype), given)
            return jax.tree.map(lambda a: a[:0], self._in_batches(program, one))
        found, first, wide = [], 0, any(map(rows.is_scipy, jax.tree.leaves(given)))
        for size in batches(n, self.sizes):
            at = np.minimum(np.arange(first, first + size), n - 1)
            part = jax.tree.map(lambda a, at=at: self._dense(a[at]), given)
            found.append(program(size)(part))
            first += size
            if wide:  # JAX would hold 32 batches that wait
                jax.block_until_ready(found[-1])
        return jax.tree.map(lambda *parts: np.concatenate(list(map(np.asarray, parts)))[:n], *found)

    def _dense(self, a):
        return self._scaled(a) if rows.is_scipy(a) else a


def batches(n: int, sizes: list[int]) -> list[int]:
    """The sizes, of those given in rising order, of the runs that n rows are made in; the last may not be full.

    Their sum is n or more: `batches(70, [1, 8, 64])` is [64, 8].
    """
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

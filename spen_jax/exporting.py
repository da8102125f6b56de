"""Models that leave the house: a trained predictor as a bundle of programs, which `spen_jax.serving` runs alone."""

import dataclasses
import datetime
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from spen_jax import metrics
from spen_jax.bundles import Contents, write
from spen_jax.inference import Solution
from spen_jax.metrics.decisions import best_sizes
from spen_jax.numbers import is_plain
from spen_jax.predictor import Predictor

PLATFORMS = "cpu", "cuda"
ANY = "any"
"""The program whose batch is open."""


class Program(NamedTuple):
    """A function (weights, inputs) -> a tree of arrays, every array of inputs and results with rows first.

    Attributes:
      function: it sees weights as the list below.
      weights: arrays by name.
      inputs: an example of them, such as {"x": x}; how many rows it has plays no part.
      sizes: of the batches that it is compiled for, rising.
      known: an example of what calls may be told besides, the input "known"; None for nothing.
    """

    function: Callable[[list[Any], Any], Any]
    weights: dict[str, jax.Array]
    inputs: dict[str, Any]
    sizes: list[int]
    known: Any = None


def export(
    predictor: Predictor,
    params: Any,
    path: str | Path,
    *,
    x: Any,
    known: tuple[Any, Any] | None = None,
    mask: Any = None,
    decision: metrics.Expected | metrics.Tuned | metrics.Fixed | None = None,
    names: list[str] | None = None,
) -> None:
    """Writes a trained predictor as a bundle: `spen_jax.serving.load(path)(x)["y"]` is `predictor(params, x).y`.

    On a CPU to the bit, where it was exported on one by the same version of jax: rows run in batches of the sizes in
    which the predictor runs them (powers of 8 up to its `batch_size`), each with a program of its own. One more, whose
    batch is open, runs on GPUs and in sizes that a reader of the file likes; energies whose algorithm needs to know the
    number of rows do without it, and are exported in those sizes for GPUs too.

    Args:
      predictor: how answers are found; the file needs nothing of its code.
      params: its parameters.
      path: of the file, by custom `.spen`.
      x: an example of what it will see, of one row or more; arrays (N, ...) in dicts, lists and tuples.
      known: an example of it, (mask, y), where the calls of the bundle will have it too.
      mask: likewise.
      decision: a rule that makes label sets of y (N, L), for the bundle's "on".
      names: those of the L outputs, for the bundle's `names`.

    Raises:
      ValueError: for an example that does not fit, a start with a point for each row, a rule of another kind, and an
        algorithm that runs on the host, `MinCut` and `LinearProgramme`.
      TypeError: for parameters that no file can hold, such as random keys.
    """
    # A program that reports has no form to be kept in.
    function, shared = dataclasses.replace(predictor, progress=False).program(params)
    leaves, structure = jax.tree.flatten_with_path({"params": shared[0], "numbers": shared[1]})
    weights = {_named(path): _weight(path, leaf) for path, leaf in leaves}

    def run(weights, inputs):
        shared = structure.unflatten(weights)
        return _answer(function((shared["params"], shared["numbers"]), **inputs))

    given = {"x": x, "known": known, "mask": mask}
    inputs = {name: value for name, value in given.items() if value is not None}
    sizes = [8**k for k in range(10) if 8**k < predictor.batch_size] + [predictor.batch_size]
    program = Program(run, weights, inputs, sizes)
    rule = None if decision is None else rule_of(decision)
    serving = {"answer": "solution", "rule": rule, "scaling": None, "names": names}
    write(path, exported(Contents({"class": "Predictor"}, {}, {}), program, serving))


def exported(contents: Contents, program: Program, serving: dict[str, Any]) -> Contents:
    """Contents with programs added, their weights, and `serving`, what the bundle has to know beside."""
    like = {name: template(value, name) for name, value in program.inputs.items()}
    programs = _programs(program, like)
    told = {} if program.known is None else {"known": template(program.known, "known")}
    for name, one in _programs(program, like | told).items() if told else ():
        programs[f"{name} known"] = one
    rule = serving["rule"]
    if rule is not None and "a" in rule:
        y = jax.eval_shape(program.function, _shapes(program.weights), _rows_of(like, 1))["y"]
        if getattr(y, "ndim", 0) != 2:
            raise ValueError(f"a decision is about one array of labels y (N, L), got {y}")
        programs["sets"] = _sets_program(y.shape[1], rule["allow_empty"])
        if told and not rule["allow_empty"]:  # for rows that have a label already
            programs["sets or none"] = _sets_program(y.shape[1], True)
    found = {"inputs": like, "optional": told, "sizes": program.sizes}
    return described(contents, programs, program.weights, found | serving)


def described(
    contents: Contents,
    programs: dict[str, bytes],
    weights: dict[str, jax.Array],
    serving: dict[str, Any],
) -> Contents:
    """Contents with programs that were made here and now, their weights in order, and what the bundle has to know."""
    found = {
        "weights": list(weights),
        "jax": jax.__version__,
        "x64": jnp.result_type(float) == np.float64,
        "made": datetime.date.today().isoformat(),
    }
    arrays = {name: np.asarray(a) for name, a in weights.items()}
    state = contents.state | {"serving": found | serving}
    return Contents(state, contents.arrays | arrays, contents.programs | programs)


def rule_of(decision: Any) -> dict[str, Any]:
    """A rule of `metrics` as plain values; ValueError for another one."""
    if isinstance(decision, metrics.Fixed | metrics.Tuned | metrics.Expected):
        return dataclasses.asdict(decision)
    raise ValueError(
        f"decision must be a rule of spen_jax.metrics, such as Fixed(), got {decision!r}"
    )


def template(tree: Any, path: str) -> dict[str, Any]:
    """The shapes of one row and the types of a tree of arrays, as JSON; ValueError, by path, for another."""
    if isinstance(tree, dict) and all(isinstance(key, str) for key in tree):
        return {"dict": {key: template(a, f"{path}[{key!r}]") for key, a in tree.items()}}
    if type(tree) in (list, tuple):  # a NamedTuple is one to our code only
        parts = [template(a, f"{path}[{i}]") for i, a in enumerate(tree)]
        return {type(tree).__name__: parts}
    if not is_plain(tree) or not getattr(tree, "ndim", 0):
        raise ValueError(
            f"{path} must be an array with a leading axis of rows, or a dict, list or tuple of such, got "
            f"{type(tree).__name__}"
        )
    a: Any = tree
    return {"array": {"shape": [*a.shape[1:]], "dtype": str(jnp.result_type(a))}}


def _rows_of(like, size):
    """The shapes of so many rows."""
    return {name: _of_template(part, size) for name, part in like.items()}


def _of_template(wanted, size):
    ((kind, inner),) = wanted.items()
    if kind == "dict":
        return {key: _of_template(part, size) for key, part in inner.items()}
    if kind == "array":
        return jax.ShapeDtypeStruct((size, *inner["shape"]), np.dtype(inner["dtype"]))
    parts = [_of_template(part, size) for part in inner]
    return tuple(parts) if kind == "tuple" else parts


def _shapes(weights):
    return [jax.ShapeDtypeStruct(a.shape, a.dtype, weak_type=a.weak_type) for a in weights.values()]


def _programs(program, like):
    """Serialised programs by the number of their rows, in digits, and `ANY`."""
    found, platforms = {}, PLATFORMS[:1]
    weights = _shapes(program.weights)
    try:
        rows = _rows_of(like, _open())
        found[ANY] = serialised(program.function, PLATFORMS, weights, rows)
    except (
        Exception
    ):  # whatever comes of a number that nobody knows; what is wrong beside comes again
        platforms = PLATFORMS
    for size in program.sizes:
        rows = _rows_of(like, size)
        try:
            found[str(size)] = serialised(program.function, platforms, weights, rows)
        except NotImplementedError as error:
            raise ValueError(
                "no file can hold this program: what asks the host in between, such as MinCut and LinearProgramme, "
                f"cannot leave; choose another method ({error})"
            ) from None
    return found


def _sets_program(labels, allow_empty):
    p = {"p": jax.ShapeDtypeStruct((_open(), labels), jnp.result_type(float))}
    return serialised(lambda given: best_sizes(given["p"], allow_empty), PLATFORMS, p)


def _open():
    """A number of rows that is not known yet."""
    from jax import export  # here: it takes time, and needs a package of its own

    return export.symbolic_shape("b")[0]


def serialised(function: Callable[..., Any], platforms: tuple[str, ...], *args: Any) -> bytes:
    """The program of function(*args), by the arguments' shapes, some of which may be open.

    ImportError where jax lacks the package that it writes programs with.
    """
    from jax import export

    program = export.export(jax.jit(function), platforms=platforms)(*args)
    try:
        return bytes(program.serialize())
    except ImportError as error:
        raise ImportError(
            f"jax writes programs with flatbuffers: pip install 'spen_jax[serving]' ({error})"
        ) from None


def _named(path):
    return "weights/" + jax.tree_util.keystr(path, simple=True, separator="/")


def _weight(path, leaf):
    if not is_plain(leaf) and not isinstance(leaf, bool | int | float | np.generic):
        raise TypeError(f"{_named(path)} is a {type(leaf).__name__}, which a bundle cannot hold")
    if jnp.issubdtype(jnp.result_type(leaf), jax.dtypes.prng_key):
        raise TypeError(f"{_named(path)} is a random key, which a bundle cannot hold")
    return jnp.asarray(leaf)


def _answer(found: Solution):
    """What a solution holds, as a dict."""
    answer = {"y": found.y, "energy": found.energy, "residual": found.residual}
    if found.stopped_after is not None:
        answer["steps"] = found.stopped_after
    return answer | ({"trace": found.trace} if found.trace else {})

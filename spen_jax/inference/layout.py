"""How a function of one example runs over a block of them: with the examples along the last axis, or the first.

On a CPU it matters. With the examples last, a product with a matrix shared by all examples is one matrix product
whichever way it is written (`W @ y`, `y @ W`), and everything else works along contiguous examples, whatever
the length of y. `jax.vmap` over the last axis does not give that: it moves the batch to the front at each operation
with an array that has none, such as a bias. So the function is traced for one example, and its jaxpr (JAX's list of
primitive operations) evaluated once more with arrays that have one axis more: `_RULES` says how each primitive
runs then. A function with any other primitive runs with its examples first.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend import core

Function = Callable[[Any, Any], Any]
"""(shared, example) -> result, both pytrees; `shared` is the same for all examples."""

_CALLS = {"jit": "jaxpr", "pjit": "jaxpr", "custom_jvp_call": "call_jaxpr"}
"""Primitives that hold a jaxpr of their own, and under which name."""
_NOTHING = ("reshard",)
"""Primitives that change no value: on a mesh `jax.grad` begins with one."""
BY_VECTOR, BY_MATRIX = 5.0, 1.0
"""What each number costs of a product that each example brings both sides of, a matrix and a vector or two matrices."""
NARROW, WIDE, WIDTH = 1.0, 0.25, 16
"""What each number gains that any other operation makes, by whether its last axis is at most so wide; in that unit."""


class Input(NamedTuple):
    """A value in the evaluation, and whether it has the examples as its last axis."""

    value: Any
    batched: bool


def over_examples(function: Function, shared: Any, examples: Any, *, last: bool) -> Any:
    """function(shared, example) for all `examples` of a block; `shared` is the same for all, both pytrees of arrays.

    With `last` the examples stand along the last axis of every array, of `examples` and of the result, and the function
    is not to be differentiated: a derivative rule of its own (`jax.custom_jvp`) would be lost. Else they stand along
    the first, which is `jax.vmap`.
    """
    if not last:
        return jax.vmap(function, (None, 0))(shared, examples)
    one = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape[:-1], a.dtype), examples)
    closed, out = jax.make_jaxpr(function, return_shape=True)(shared, one)
    size = jax.tree.leaves(examples)[0].shape[-1]
    arguments = [Input(a, False) for a in jax.tree.leaves(shared)]
    arguments += [Input(a, True) for a in jax.tree.leaves(examples)]
    results = _evaluate(closed.jaxpr, closed.consts, arguments, size)
    results = [r.value if r.batched else _spread(r.value, size) for r in results]
    return jax.tree.unflatten(jax.tree.structure(out), results)


def suits_last(function: Function, shared: Any, example: Any) -> bool:
    """Whether the function has rules with the examples last for all that it does to an example, and is faster so.

    `function(shared, example)` is traced on one `example`, a pytree without the examples' axis; see `over_examples`.
    """
    return obstacle(function, shared, example) is None


def obstacle(function: Function, shared: Any, example: Any) -> str | None:
    """What keeps the examples from standing last, in words; None where they do."""
    closed = jax.make_jaxpr(function)(shared, example)
    batched = [False] * len(jax.tree.leaves(shared)) + [True] * len(jax.tree.leaves(example))
    tally = _tally(closed.jaxpr, batched)
    if isinstance(tally, str):
        return f"{tally} has no form with the examples last"
    if tally.cost > tally.gain:
        return f"products of what each example brings cost {tally.cost:,.0f}, all else gains {tally.gain:,.0f}"
    return None


class Tally(NamedTuple):
    """What it costs and gains to have the examples last, by the table above, and which results have them.

    A product of two arrays that each example brings runs with the examples first: its operands and its result are
    moved there and back. All else gains, the more the less there is along an example's own last axis.
    """

    cost: float
    gain: float
    batched: list[bool]


def _tally(jaxpr, batched):
    """That of a jaxpr, of which some inputs have the examples; or the name of an operation that has no rule."""
    known = dict(zip(jaxpr.invars, batched, strict=True))
    cost = gain = 0.0

    def has_examples(v):
        return not isinstance(v, core.Literal) and known.get(v, False)

    for eqn in jaxpr.eqns:
        inputs, name = list(map(has_examples, eqn.invars)), eqn.primitive.name
        outputs = [any(inputs)] * len(eqn.outvars)
        if name in _CALLS:
            inner = _tally(eqn.params[_CALLS[name]].jaxpr, inputs)
            if isinstance(inner, str):
                return inner
            cost, gain, outputs = cost + inner.cost, gain + inner.gain, inner.batched
        elif any(inputs) and name not in _NOTHING:
            if name not in _RULES or name in _LIMITS and not _LIMITS[name](eqn, inputs):
                return name
            if name == "dot_general" and all(inputs) and not _by_numbers(eqn):
                by = min(v.aval.ndim for v in eqn.invars)
                moved = sum(v.aval.size for v in (*eqn.invars, *eqn.outvars))
                cost += (BY_VECTOR if by == 1 else BY_MATRIX) * moved
            else:
                gain += sum(map(_gain, eqn.outvars))
        known |= zip(eqn.outvars, outputs, strict=True)
    return Tally(cost, gain, list(map(has_examples, jaxpr.outvars)))


def _gain(v):
    return v.aval.size * (NARROW if v.aval.ndim and v.aval.shape[-1] <= WIDTH else WIDE)


def _by_numbers(eqn):
    (over, _), _ = eqn.params["dimension_numbers"]
    return not over or all(v.aval.ndim == 1 for v in eqn.invars)


def _evaluate(jaxpr, consts, arguments, size):
    """The results of a jaxpr, an interpreter: each variable's value is kept under it, and each equation applied."""
    known = dict(zip(jaxpr.constvars, (Input(c, False) for c in consts), strict=True))
    known |= zip(jaxpr.invars, arguments, strict=True)

    def read(v):
        return Input(v.val, False) if isinstance(v, core.Literal) else known[v]

    for eqn in jaxpr.eqns:
        inputs, name = [read(v) for v in eqn.invars], eqn.primitive.name
        if name in _CALLS:
            inner = eqn.params[_CALLS[name]]
            results = _evaluate(inner.jaxpr, inner.consts, inputs, size)
        elif name in _NOTHING:
            results = inputs
        elif any(i.batched for i in inputs):
            values = _RULES[name](eqn, inputs, size)
            several = eqn.primitive.multiple_results
            results = [Input(v, True) for v in (values if several else [values])]
        else:
            # What no example has a part in is computed once for all, as it stands.
            params = eqn.primitive.get_bind_params(eqn.params)
            values = eqn.primitive.bind(*(i.value for i in inputs), **params)
            several = eqn.primitive.multiple_results
            results = [Input(v, False) for v in (values if several else [values])]
        known |= zip(eqn.outvars, results, strict=True)
    return [read(v) for v in jaxpr.outvars]


def _elementwise(eqn, inputs, size):
    shape = (*eqn.outvars[0].aval.shape, size)
    # Whether the operation takes a scalar beside arrays.
    scalars = eqn.primitive.name not in ("add_any", "clamp", "select_n")

    def fit(value, batched):
        rank = jnp.ndim(value)
        if rank == len(shape) or not (rank or batched) and scalars:
            return value
        at = (len(shape) - 1,) if batched else tuple(range(rank))
        return lax.broadcast_in_dim(value, shape, at)

    return eqn.primitive.bind(*(fit(*i) for i in inputs), **eqn.params)


def _reduction(eqn, inputs, size):
    # The axes count from the front, where nothing has changed.
    return eqn.primitive.bind(*(i.value for i in inputs), **eqn.params)


def _broadcast(eqn, inputs, size):
    shape, at = eqn.params["shape"], eqn.params["broadcast_dimensions"]
    return lax.broadcast_in_dim(inputs[0].value, (*shape, size), (*at, len(shape)))


def _reshape(eqn, inputs, size):
    return lax.reshape(inputs[0].value, (*eqn.params["new_sizes"], size))


def _squeeze(eqn, inputs, size):
    return lax.squeeze(inputs[0].value, eqn.params["dimensions"])


def _slice(eqn, inputs, size):
    value, strides = inputs[0].value, eqn.params["strides"]
    start, limit = (*eqn.params["start_indices"], 0), (*eqn.params["limit_indices"], size)
    return lax.slice(value, start, limit, strides and (*strides, 1))


def _pad(eqn, inputs, size):
    value, filling = (i.value for i in inputs)
    return lax.pad(value, filling, (*eqn.params["padding_config"], (0, 0, 0)))


def _concatenate(eqn, inputs, size):
    parts = [value if batched else _spread(value, size) for value, batched in inputs]
    return lax.concatenate(parts, eqn.params["dimension"])


def _tile(eqn, inputs, size):
    return eqn.primitive.bind(inputs[0].value, reps=(*eqn.params["reps"], 1))


def _stack(eqn, inputs, size):
    parts = [value if batched else _spread(value, size) for value, batched in inputs]
    return eqn.primitive.bind(*parts, **eqn.params)


def _gather(eqn, inputs, size):
    (operand, _), (indices, _) = inputs
    numbers, sizes = eqn.params["dimension_numbers"], eqn.params["slice_sizes"]
    offset = (*numbers.offset_dims, eqn.outvars[0].aval.ndim)
    changed = {"dimension_numbers": numbers._replace(offset_dims=offset)}
    changed |= {"slice_sizes": (*sizes, size)}
    return eqn.primitive.bind(operand, indices, **eqn.params | changed)


def _scatter_add(eqn, inputs, size):
    operand, indices, updates = inputs
    numbers = eqn.params["dimension_numbers"]
    window = (*numbers.update_window_dims, eqn.invars[2].aval.ndim)
    numbers = numbers._replace(update_window_dims=window)
    arrays = [i.value if i.batched else _spread(i.value, size) for i in (operand, updates)]
    return eqn.primitive.bind(
        arrays[0], indices.value, arrays[1], **eqn.params | {"dimension_numbers": numbers}
    )


def _transpose(eqn, inputs, size):
    order = eqn.params["permutation"]
    return lax.transpose(inputs[0].value, (*order, len(order)))


def _dot(eqn, inputs, size):
    """A product whose examples come out last, whichever of its two sides has them."""
    (x, x_batched), (y, y_batched) = inputs
    (over_x, over_y), _ = eqn.params["dimension_numbers"]
    precision, kind = eqn.params["precision"], eqn.params["preferred_element_type"]
    dot = partial(lax.dot_general, preferred_element_type=kind)
    if x_batched and y_batched:
        alike = x.dtype == y.dtype == (kind or x.dtype) and jnp.issubdtype(x.dtype, jnp.floating)
        if _by_numbers(eqn) and alike:  # a sum, or an outer product, of products of numbers
            if over_x:
                return jnp.sum(x * y, axis=0)
            outer = x.reshape(*x.shape[:-1], *[1] * (y.ndim - 1), x.shape[-1])
            return outer * y.reshape(*[1] * (x.ndim - 1), *y.shape)
        numbers = (over_x, over_y), ((x.ndim - 1,), (y.ndim - 1,))
        return jnp.moveaxis(dot(x, y, dimension_numbers=numbers, precision=precision), 0, -1)
    if not x_batched:
        x, over_x = _rows_first(x, over_x)
        # (free axes of x, free axes of y, examples): as wanted.
        return dot(x, y, dimension_numbers=((over_x, over_y), ((), ())), precision=precision)
    # The examples are an axis of x and would come out in the middle: the sides change places, then the axes.
    backwards = precision[::-1] if isinstance(precision, tuple) else precision
    y, over_y = _rows_first(y, over_y)
    swapped = dot(y, x, dimension_numbers=((over_y, over_x), ((), ())), precision=backwards)
    free_y = y.ndim - len(over_y)  # these stand before those of x, and the examples after both
    return jnp.moveaxis(swapped, range(free_y), range(-1 - free_y, -1))


def _rows_first(x, over):
    """A shared matrix with the axis that is summed over last: so the product is up to three times as fast.

    The barrier keeps the transpose out of the product, where the compiler would put it; it is made once for a loop.
    """
    if x.ndim != 2 or tuple(over) != (0,):
        return x, over
    return lax.optimization_barrier(x.T), (1,)


def _spread(value, size):
    value = jnp.asarray(value)
    return lax.broadcast_in_dim(value, (*value.shape, size), tuple(range(value.ndim)))


_ELEMENTWISE = (
    "abs acos acosh add add_any and asin asinh atan atan2 atanh cbrt ceil clamp convert_element_type copy cos "
    "cosh div eq erf erfc erf_inv exp exp2 expm1 floor ge gt integer_pow is_finite le lgamma log log1p log2 "
    "logistic lt max min mul ne neg nextafter not one_minus_square or pow reduce_precision rem round rsqrt "
    "select_n sign sin sinh sqrt square stop_gradient sub tan tanh xor"
).split()
_REDUCTIONS = "reduce_and reduce_max reduce_min reduce_or reduce_prod reduce_sum".split()
_ALONG_AN_AXIS = "argmax argmin rev".split()
_RULES: dict[str, Callable[..., Any]] = {
    **dict.fromkeys(_ELEMENTWISE, _elementwise),
    **dict.fromkeys(_REDUCTIONS, _reduction),
    **dict.fromkeys(_ALONG_AN_AXIS, _reduction),
    "broadcast_in_dim": _broadcast,
    "concatenate": _concatenate,
    "dot_general": _dot,
    "gather": _gather,
    "pad": _pad,
    "reshape": _reshape,
    "scatter-add": _scatter_add,
    "slice": _slice,
    "split": _reduction,
    "stack": _stack,
    "unstack": _reduction,
    "squeeze": _squeeze,
    "tile": _tile,
    "transpose": _transpose,
}
"""Primitive -> how it runs, (equation, inputs, number of examples) -> value, where an input has the examples last."""
_LIMITS: dict[str, Callable[[Any, list[bool]], bool]] = {
    # no batch axes of its own
    "dot_general": lambda eqn, _: not eqn.params["dimension_numbers"][1][0],
    # indices that all examples share
    "gather": lambda eqn, batched: not batched[1],
    "pad": lambda eqn, batched: not batched[1],
    # else in another order than the array's
    "reshape": lambda eqn, _: eqn.params["dimensions"] is None,
    "scatter-add": lambda eqn, batched: not batched[1],
}
"""Primitive -> of which equations, and inputs that have the examples, its rule holds, where not of all."""

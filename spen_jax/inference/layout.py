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


class Input(NamedTuple):
    """A value in the evaluation, and whether it has the examples as its last axis."""

    value: Any
    batched: bool


def over_examples(function: Function, shared: Any, examples: Any, *, last: bool) -> Any:
    """function(shared, example) for all examples of a block.

    With `last` the examples stand along the last axis of every array, of `examples` and of the result, and the
    function is not to be differentiated: a derivative rule of its own (`jax.custom_jvp`) would be
    lost. Else they stand along the first, which is `jax.vmap`.
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
    """Whether every operation of the function has a rule with the examples last, and one that is fast."""
    return _suits(jax.make_jaxpr(function)(shared, example).jaxpr)


def _suits(jaxpr) -> bool:
    def suits(eqn):
        name = eqn.primitive.name
        if name in _CALLS:
            return _suits(eqn.params[_CALLS[name]].jaxpr)
        if name in _NOTHING:
            return True
        return name in _RULES and (name not in _LIMITS or _LIMITS[name](eqn.params))

    return all(map(suits, jaxpr.eqns))


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
            results = [Input(_RULES[name](eqn, inputs, size), True)]
        else:
            # What no example has a part in is computed once for all, as it stands.
            values = eqn.primitive.bind(*(i.value for i in inputs), **eqn.params)
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
        if x.ndim == y.ndim == 2 and over_x and alike:  # two vectors for each example
            return jnp.sum(x * y, axis=0)
        numbers = (over_x, over_y), ((x.ndim - 1,), (y.ndim - 1,))
        return jnp.moveaxis(dot(x, y, dimension_numbers=numbers, precision=precision), 0, -1)
    if y_batched:
        # (free axes of x, free axes of y, examples): as wanted.
        return dot(x, y, dimension_numbers=((over_x, over_y), ((), ())), precision=precision)
    # The examples are an axis of x and would come out in the middle: the sides change places, then the axes.
    backwards = precision[::-1] if isinstance(precision, tuple) else precision
    swapped = dot(y, x, dimension_numbers=((over_y, over_x), ((), ())), precision=backwards)
    free_y = y.ndim - len(over_y)  # these stand before those of x, and the examples after both
    return jnp.moveaxis(swapped, range(free_y), range(-1 - free_y, -1))


def _spread(value, size):
    value = jnp.asarray(value)
    return lax.broadcast_in_dim(value, (*value.shape, size), tuple(range(value.ndim)))


_ELEMENTWISE = (
    "abs acos acosh add add_any and asin asinh atan atan2 atanh cbrt ceil clamp convert_element_type copy cos "
    "cosh div eq erf erfc erf_inv exp exp2 expm1 floor ge gt integer_pow is_finite le lgamma log log1p "
    "logistic lt max min mul ne neg nextafter not or pow rem round rsqrt select_n sign sin sinh sqrt square "
    "stop_gradient sub tan tanh xor"
).split()
_REDUCTIONS = "reduce_and reduce_max reduce_min reduce_or reduce_prod reduce_sum".split()
_RULES: dict[str, Callable[..., Any]] = {
    **dict.fromkeys(_ELEMENTWISE, _elementwise),
    **dict.fromkeys(_REDUCTIONS, _reduction),
    "broadcast_in_dim": _broadcast,
    "dot_general": _dot,
    "reshape": _reshape,
    "squeeze": _squeeze,
    "transpose": _transpose,
}
"""Primitive -> how it runs, (equation, inputs, number of examples) -> value, where an input has the examples last."""
_LIMITS: dict[str, Callable[[Any], bool]] = {
    "dot_general": lambda params: not params["dimension_numbers"][1][0],  # no batch axes of its own
    "reshape": lambda params: (
        params["dimensions"] is None
    ),  # else in another order than the array's
}
"""Primitive -> of which parameters its rule holds, where not of all."""

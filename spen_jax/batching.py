"""How a function of one example runs over a batch: in blocks, and with the examples along the last axis.

On a CPU both matter. A block's arrays stay in a core's cache. With the examples last, a product with a
matrix shared by all examples is one matrix product whichever way it is written (`W @ y`, `y @ W`),
and everything else works along contiguous examples, whatever the length of y. `jax.vmap` over the last
axis does not give that: it moves the batch to the front at each operation with an array that has none, such as a bias.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend import core

Function = Callable[[Any, Any], Any]
"""(shared, example) -> result, both pytrees; `shared` is the same for all examples."""

_ELEMENTWISE = frozenset(
    "abs acos acosh add add_any and asin asinh atan atan2 atanh cbrt ceil clamp convert_element_type copy cos "
    "cosh div eq erf erfc erf_inv exp exp2 expm1 floor ge gt integer_pow is_finite le lgamma log log1p "
    "logistic lt max min mul ne neg nextafter not or pow rem round rsqrt select_n sign sin sinh sqrt square "
    "stop_gradient sub tan tanh xor".split()
)
_REDUCTIONS = frozenset("reduce_and reduce_max reduce_min reduce_or reduce_prod reduce_sum".split())
_SHAPES = frozenset("broadcast_in_dim dot_general reshape squeeze transpose".split())
_CALLS = {"jit": "jaxpr", "pjit": "jaxpr", "custom_jvp_call": "call_jaxpr"}


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
    arguments = [(a, False) for a in jax.tree.leaves(shared)]
    arguments += [(a, True) for a in jax.tree.leaves(examples)]
    results = _evaluate(closed.jaxpr, closed.consts, arguments, size)
    results = [value if batched else _spread(value, size) for value, batched in results]
    return jax.tree.unflatten(jax.tree.structure(out), results)


def suits_last(function: Function, shared: Any, example: Any) -> bool:
    """Whether every operation of the function has a natural form with the examples last."""
    return _suits(jax.make_jaxpr(function)(shared, example).jaxpr)


def _suits(jaxpr) -> bool:
    def suits(eqn):
        name = eqn.primitive.name
        if name in _CALLS:
            inner = eqn.params[_CALLS[name]]
            return _suits(inner.jaxpr)
        if name == "dot_general":
            return not eqn.params["dimension_numbers"][1][0]
        if name == "reshape":
            return eqn.params["dimensions"] is None  # in another order than that of the array
        return name in _ELEMENTWISE or name in _REDUCTIONS or name in _SHAPES

    return all(map(suits, jaxpr.eqns))


def _evaluate(jaxpr, consts, arguments, size):
    """The results of a jaxpr as (value, whether it has the examples as its last axis)."""
    known = dict(zip(jaxpr.constvars, ((c, False) for c in consts), strict=True))
    known |= zip(jaxpr.invars, arguments, strict=True)

    def read(v):
        return (v.val, False) if isinstance(v, core.Literal) else known[v]

    for eqn in jaxpr.eqns:
        inputs, name = [read(v) for v in eqn.invars], eqn.primitive.name
        if name in _CALLS:
            inner = eqn.params[_CALLS[name]]
            results = _evaluate(inner.jaxpr, inner.consts, inputs, size)
        elif any(batched for _, batched in inputs):
            results = [(_apply(name, eqn, inputs, size), True)]
        else:
            results = eqn.primitive.bind(*(value for value, _ in inputs), **eqn.params)
            results = [
                (r, False) for r in (results if eqn.primitive.multiple_results else [results])
            ]
        known |= zip(eqn.outvars, results, strict=True)
    return [read(v) for v in jaxpr.outvars]


def _apply(name, eqn, inputs, size):
    values, params = [value for value, _ in inputs], eqn.params
    if name in _ELEMENTWISE:
        shape = (*eqn.outvars[0].aval.shape, size)
        scalars = name not in (
            "add_any",
            "clamp",
            "select_n",
        )  # whether the operation takes one beside arrays

        def fit(value, batched):
            rank = jnp.ndim(value)
            if rank == len(shape) or not (rank or batched) and scalars:
                return value
            at = (len(shape) - 1,) if batched else tuple(range(rank))
            return lax.broadcast_in_dim(value, shape, at)

        values = [fit(value, batched) for value, batched in inputs]
        return eqn.primitive.bind(*values, **params)
    if name in _REDUCTIONS:
        return eqn.primitive.bind(*values, **params)
    if name == "dot_general":
        return _dot(inputs[0], inputs[1], params)
    if name == "broadcast_in_dim":
        shape, at = params["shape"], params["broadcast_dimensions"]
        return lax.broadcast_in_dim(values[0], (*shape, size), (*at, len(shape)))
    if name == "reshape":
        return lax.reshape(values[0], (*params["new_sizes"], size))
    if name == "squeeze":
        return lax.squeeze(values[0], params["dimensions"])
    return lax.transpose(values[0], (*params["permutation"], len(params["permutation"])))


def _dot(left, right, params):
    (x, x_batched), (y, y_batched) = left, right
    (over_x, over_y), _ = params["dimension_numbers"]
    precision, kind = params["precision"], params["preferred_element_type"]
    dot = partial(lax.dot_general, preferred_element_type=kind)
    if x_batched and y_batched:
        alike = x.dtype == y.dtype == (kind or x.dtype) and jnp.issubdtype(x.dtype, jnp.floating)
        if x.ndim == y.ndim == 2 and over_x and alike:  # two vectors for each example
            return jnp.sum(x * y, axis=0)
        numbers = (over_x, over_y), ((x.ndim - 1,), (y.ndim - 1,))
        return jnp.moveaxis(dot(x, y, dimension_numbers=numbers, precision=precision), 0, -1)
    if y_batched:
        return dot(x, y, dimension_numbers=((over_x, over_y), ((), ())), precision=precision)
    backwards = precision[::-1] if isinstance(precision, tuple) else precision
    swapped = dot(y, x, dimension_numbers=((over_y, over_x), ((), ())), precision=backwards)
    free_y = y.ndim - len(over_y)  # these stand before those of x, and the examples after both
    return jnp.moveaxis(swapped, range(free_y), range(-1 - free_y, -1))


def _spread(value, size):
    value = jnp.asarray(value)
    return lax.broadcast_in_dim(value, (*value.shape, size), tuple(range(value.ndim)))


def in_blocks(solve: Callable[[Any], Any], batch: Any, numbers: int) -> Any:
    """solve(block) for consecutive blocks of examples, one after another, and the results joined.

    `batch` and the results are pytrees of arrays with the examples along the first axis; a step works on
    so many `numbers` an example. The last block is filled with copies of the last example, which are cut off again.
    """
    size = jax.tree.leaves(batch)[0].shape[0]
    blocks, block = block_sizes(size, numbers)
    if blocks == 1:
        return solve(batch)

    def split(a):
        a = jnp.pad(a, [(0, blocks * block - size)] + [(0, 0)] * (a.ndim - 1), mode="edge")
        return a.reshape(blocks, block, *a.shape[1:])

    def join(a):
        return a.reshape(blocks * block, *a.shape[2:])[:size]

    return jax.tree.map(join, lax.map(solve, jax.tree.map(split, batch)))


def block_sizes(batch: int, numbers: int) -> tuple[int, int]:
    """How many blocks of how many examples, for so many `numbers` an example.

    On a CPU one array of a block holds about 40,000 numbers (160 kB), so that the handful a step
    touches stays in a core's second-level cache; blocks of fewer than 32 examples would waste its
    vector units. Elsewhere one block.
    """
    if jax.default_backend() != "cpu":
        return 1, batch
    fits = 256
    while fits > 32 and fits * numbers > 40960:
        fits //= 2
    blocks = max(1, math.ceil(batch / fits))
    block = math.ceil(batch / blocks)
    return blocks, (block if blocks == 1 else math.ceil(block / 8) * 8)


def by_rows(function: Callable[..., Any], *arrays: jax.Array) -> Any:
    """function(*arrays) of arrays (..., K) and (...), first of all of them (..., K), reducing the last axis.

    A large first array is worked on in blocks of rows, so that what is computed from it stays in a core's
    cache and nothing of its size is made. Not to be differentiated.
    """
    *shape, width = arrays[0].shape
    rows = math.prod(shape)
    if rows * width < 2**18 or block_sizes(rows, width)[0] == 1:
        return function(*arrays)
    flat = [a.reshape(rows, *a.shape[len(shape) :]) for a in arrays]
    found = in_blocks(lambda block: function(*block), flat, width)
    return jax.tree.map(lambda a: a.reshape(*shape, *a.shape[1:]), found)

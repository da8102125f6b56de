"""A value with a derivative of its own, of any order, also inside loops: a primitive of JAX.

`jax.custom_jvp` does the same outside loops. Reverse mode through a `scan` or `map` however replaces a custom_jvp in
its body by what it computes, and a second derivative would then be that of a constant: 0, in silence.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

Rule = Callable[[list[Any], list[Any], list[Any]], list[Any]]
"""(arguments, value, tangents of the arguments, None where 0) -> tangents of the value; lists of arrays."""


def attached(rule: Callable[[Any, Any, list[Any]], Any], arguments: Any, value: Any) -> Any:
    """`value`, a pytree, whose derivative is `rule(arguments, value, tangents)`, a tree like it.

    `tangents` has one for each leaf of the arguments, None where that does not move. The rule is differentiated for the
    next order, and sees there how the value moves.
    """
    leaves, tree = jax.tree.flatten(arguments)
    values, like = jax.tree.flatten(value)

    def of_leaves(leaves, values, tangents):
        return jax.tree.leaves(rule(tree.unflatten(leaves), like.unflatten(values), tangents))

    return like.unflatten(_attached.bind(*leaves, *values, rule=of_leaves, size=len(values)))


def along(function: Callable[[Any], Any], arguments: Any, tangents: list[Any]) -> Any:
    """The derivative of function(arguments) along tangents as above."""
    leaves, tree = jax.tree.flatten(arguments)
    live = [i for i, tangent in enumerate(tangents) if tangent is not None]

    def of_live(*some):
        moved = dict(zip(live, some, strict=True))
        return function(tree.unflatten([moved.get(i, leaf) for i, leaf in enumerate(leaves)]))

    return jax.jvp(of_live, [leaves[i] for i in live], [tangents[i] for i in live])[1]


_attached = Primitive("attached")
_attached.multiple_results = True
_attached.def_impl(lambda *operands, rule, size: list(operands[-size:]))
_attached.def_abstract_eval(lambda *operands, rule, size: list(operands[-size:]))
mlir.register_lowering(_attached, lambda _, *operands, rule, size: list(operands[-size:]))


def _jvp(primals, tangents, *, rule, size):
    values = _attached.bind(*primals, rule=rule, size=size)
    moving = [None if type(t) is ad.Zero else t for t in tangents[:-size]]
    if all(t is None for t in moving):
        return values, list(map(ad.Zero.from_primal_value, values))  # pyright: ignore[reportAttributeAccessIssue]
    return values, rule(list(primals[:-size]), values, moving)


ad.primitive_jvps[_attached] = _jvp


def _batched(operands, dims, *, rule, size):
    count = next(a.shape[d] for a, d in zip(operands, dims, strict=True) if d is not None)

    def first(operand, dim):
        if dim is None:
            return jnp.broadcast_to(operand, (count, *jnp.shape(operand)))
        return jnp.moveaxis(operand, dim, 0)

    kept = list(dims[:-size])
    values = [first(a, d) for a, d in zip(operands[-size:], dims[-size:], strict=True)]

    def of_each(leaves, values, tangents):
        axes = [None if t is None else d for t, d in zip(tangents, kept, strict=True)]
        return jax.vmap(rule, (kept, 0, axes))(leaves, values, tangents)

    found = _attached.bind(*operands[:-size], *values, rule=of_each, size=size)
    return found, [0] * size


batching.primitive_batchers[_attached] = _batched

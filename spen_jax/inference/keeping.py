"""Whether a backward pass through the steps of a batch keeps what they made, or makes it again block by block."""

from functools import partial
from typing import Any

import jax
from jax.extend.core import jaxprs_in_params

from spen_jax import blocks, parallel
from spen_jax.inference.loop import cut_and_segment
from spen_jax.inference.plan import Plan, Values
from spen_jax.inference.steps import at_step, init, size_of, step

KEPT, MEMORY = 12 * 2**20, 2**30
"""Bytes kept from where on it pays to make them again, and from where on nothing is kept whatever it costs.

Beyond the first an allocator takes new memory from the system for every call.
"""
AGAIN, OPERATIONS, DEAR = 15, 8, 60
"""How many numbers may be made for each that is not kept: eight operations of products count as one, one number of a
sort, a running sum or a Fourier transform as 60. Measured on the energies of `benchmarks/energies.py`."""
DEAR_ONES = "cumlogsumexp cummax cummin cumprod cumsum fft sort".split()


def made_again(plan: Plan, values: Values, context: Any, y: Any) -> bool:
    """Whether the blocks of a batch are run again in the backward pass, so that one block's steps are kept at a time.

    To keep much takes longer than to make it again, unless that is dear.
    """
    size, numbers = size_of(y)
    if blocks.block_sizes(size, numbers)[0] == 1 or 4 * plan.steps * size * numbers < KEPT / 256:
        return False
    now = at_step(values, 0)
    kept = _kept(plan, now, context, y)
    cut, segment = cut_and_segment(plan)
    total = 4 * min(plan.steps - cut, segment) * size * kept
    if not KEPT < total <= MEMORY:
        return total > MEMORY
    one = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape[1:], a.dtype), (context, y))
    state = jax.eval_shape(partial(init, plan), now, one)
    jaxpr = jax.make_jaxpr(partial(step, plan))(now, (one[0], state)).jaxpr
    return _made(jaxpr) + parallel.operations(jaxpr) / OPERATIONS <= AGAIN * kept


def _kept(plan, values, context, y):
    """How many numbers of an example one step leaves for the backward pass, but for the context, kept once for all."""

    def sizes(batch):
        def first(a):
            return jax.ShapeDtypeStruct((batch, *a.shape[1:]), a.dtype)

        def back(values, context, y):
            state = jax.vmap(partial(init, plan), (None, 0))(values, (context, y))
            go = jax.vmap(partial(step, plan), (None, 0))
            return jax.vjp(lambda values, *example: go(values, example), values, context, state)[1]

        return [
            a.size
            for a in jax.tree.leaves(
                jax.eval_shape(back, values, *jax.tree.map(first, (context, y)))
            )
        ]

    own = [two - one for one, two in zip(sizes(1), sizes(2), strict=True)]
    for a in jax.tree.leaves(context):
        if (number := a.size // max(len(a), 1)) in own:
            own.remove(number)
    return sum(own)


def _made(jaxpr):
    """How many numbers the operations of a jaxpr make, those of a loop each time, but for the work in products."""
    total = 0
    for eqn in jaxpr.eqns:
        inner = [_made(j) for j in jaxprs_in_params(eqn.params)]
        if inner:
            total += max(inner) * eqn.params.get("length", 1)
        else:
            weight = DEAR if eqn.primitive.name in DEAR_ONES else 1
            total += weight * sum(v.aval.size for v in eqn.outvars)
    return total

"""Energies that know their structure: what can be answered exactly is an energy like any other."""

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

import jax
from jax.extend import core

from spen_jax.exact.structure import Structure
from spen_jax.trees import one_of
from spen_jax.types import Energy

Structured = Callable[[Any, Any], Structure]
"""(params, context) -> structure, of one example."""


@lru_cache(maxsize=256)
def structured(structure: Structured) -> Energy:
    """E(x, y) = structure(params, context).energy(y), an energy `(params, context, y) -> scalar` of one example.

    It knows its structure (its attribute `structure`), so that `inference.Exact` finds its minimum and
    `objectives.maximum_likelihood` its free energy; to every other solver and objective it is an energy. Equal
    arguments give the same function, so that nothing compiles twice.

    Args:
      structure: `(params, context) -> Structure` of one example, such as
        `lambda params, h: Chain(h, params["A"])`: a function with a name that stays, not a new lambda each time.
    """

    def energy(params, context, y):
        return structure(params, context).energy(y)

    energy.structure = structure  # pyright: ignore[reportFunctionMemberAccess]
    return energy


def structure_of(energy: Energy) -> Any:
    """The structure that an energy knows, a function (params, context) -> `Structure`; None where it knows none.

    Of an energy that `structured` made, or one made of such by `with_structure`.
    """
    return getattr(energy, "structure", None)


def with_structure(
    new: Energy, old: Energy, change: Callable[[Structured, Any, Any], Any]
) -> Energy:
    """`new`, an energy made of `old`; where that knows its structure, new has change(structure, params, context).

    `change` makes the new `Structure` of one example, of old's function (params, context) -> `Structure`. Both energies
    are `(params, context, y) -> scalar`. It is `new` itself that gets the attribute `structure` and is returned.
    """
    inside = structure_of(old)
    if inside is not None:
        new.structure = partial(change, inside)  # pyright: ignore[reportFunctionMemberAccess]
    return new


def structures(structure: Structured, params: Any, context: Any) -> Structure:
    """structure(params, context_i) of B examples as one `Structure`, with the batch's axis (B,).

    `context` has the leading axis B. Arrays that may be shared (transitions, rules) and do not depend on the context
    are so by all examples, without a copy.
    """
    one = one_of(context)
    arrays = jax.eval_shape(structure, params, one)
    paths, tree = jax.tree.flatten_with_path(arrays)
    axes = [
        0 if own or path[-1].name not in arrays.shared else None
        for (path, _), own in zip(paths, _depends(structure, params, one), strict=True)
    ]
    return jax.vmap(structure, (None, 0), jax.tree.unflatten(tree, axes))(params, context)


def _depends(structure, params, one):
    """Which arrays of a structure depend on the context."""
    traced = jax.make_jaxpr(structure)(params, one).jaxpr
    shared = len(jax.tree.leaves(params))
    return _marked(traced, [i >= shared for i in range(len(traced.invars))])


def _marked(jaxpr, marks):
    """Which results of a program depend on its marked arguments."""
    own = {v for v, mark in zip(jaxpr.invars, marks, strict=True) if mark}

    def marked(variables):
        return [isinstance(v, core.Var) and v in own for v in variables]

    for equation in jaxpr.eqns:
        given = marked(equation.invars)
        if equation.primitive.name in ("jit", "pjit"):
            found = _marked(equation.params["jaxpr"].jaxpr, given)
        else:
            found = [any(given)] * len(equation.outvars)
        own.update(v for v, mark in zip(equation.outvars, found, strict=True) if mark)
    return marked(jaxpr.outvars)

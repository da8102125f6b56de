"""Flax modules as pure functions.

A model is two pure functions: `features(params, x) -> context`, everything that does not depend on y, once per
batch, and `energy(params, context, y) -> scalar`, for one example. Nothing else in the library asks for Flax: a
plain function does as well. Equal modules give the same functions, so that nothing compiles twice; `params` is
`module.init(...)["params"]`.
"""

from collections.abc import Callable
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import jax
from flax import errors
from flax import linen as nn

from spen_jax.arguments import parameters_of
from spen_jax.domains import Domain

Params = Any
"""A pytree of arrays, such as `module.init(...)["params"]`; what an energy or a network is a function of."""


def functions_of(module: Any) -> tuple[Callable[..., Any], Callable[..., jax.Array]]:
    """The two pure functions of a Flax module with methods `features(x, train)` and `energy(context, y)`.

    Returns `features(params, x, key=None) -> context` of a batch, where a key switches dropout on, and
    `energy(params, context, y) -> scalar` of one example; `params` is `module.init(...)["params"]`. If the module's
    `features(x, train, mask)` has a parameter of that name, so has the function:
    `features(params, x, key=None, mask=None)`. Equal modules give the same functions, so that nothing compiles twice.

    ValueError for what is no such module, and for variables besides the parameters (`nn.BatchNorm`'s): a pure function
    of one's own has those in its params; see docs/do/flavours.md.
    """
    _check_module(module, "features", "energy")
    return _of_method(module, "features"), _energy_of(module)


def logits_of(network: Any) -> Callable[..., Any]:
    """`logits(params, x, key=None)` of a Flax module called as `network(x, train)`; see `functions_of`.

    Of a module with `features` and `energy`, such as a `SPEN`, it is a start for inference, what the feature network
    would answer by itself: `from_unary_logits`, a function `(context, domain) -> points`, the points whose logits are
    context["logits"]. That is one function for all such modules: no other one makes anything compile again. ValueError
    for what is no Flax Linen module, and for variables besides the parameters.
    """
    _check_module(network)
    if hasattr(network, "features") and hasattr(network, "energy"):
        return from_unary_logits
    return _of_method(network, "__call__")


def from_unary_logits(context: Any, domain: Domain) -> Any:
    """domain.from_logits(context["logits"]), (B, ...) -> (B, ...): a start, what the unary potentials alone ask for.

    The logits are scores, high where good, as the features of a `SPEN` give them. ValueError for a context without
    logits, and for a `domain` that has none.
    """
    if not isinstance(context, dict) or "logits" not in context:
        raise ValueError(
            'this start needs features that give a context with an entry "logits", as those of a SPEN do, got '
            f"{jax.tree.structure(context)}; give another start"
        )
    return domain.from_logits(context["logits"])


def from_structure(context: Any, domain: Domain) -> Any:
    """The mean answer of context["structure"] at beta = 1, its marginals: a start for a SPEN over chains or trees.

    (B, T, K) of a `ChainSPEN`, (B, n, n + 1) of a `TreeSPEN`, rows of distributions; the `domain` they are to live in
    plays no part. ValueError for a context without a structure.
    """
    if not isinstance(context, dict) or "structure" not in context:
        raise ValueError(
            'this start needs features that give a context with an entry "structure", as those of a ChainSPEN do, got '
            f"{jax.tree.structure(context)}; give another start"
        )
    return context["structure"].mean()[1]


def _check_module(module, *methods):
    if isinstance(module, type):
        raise ValueError(
            f"this needs a Flax module, got the class {module.__name__}: make one, {module.__name__}(...)"
        )
    if any(kind.__module__.startswith("flax.nnx") for kind in type(module).__mro__):
        raise ValueError(
            f"this needs a Flax Linen module, got the NNX module {type(module).__name__}, which holds its parameters: "
            "split it, graphdef, params, rest = nnx.split(module, nnx.Param, ...), and write the functions by "
            "nnx.merge(graphdef, params, rest, copy=True), "
            "as in docs/do/flavours.md"
        )
    if not isinstance(module, nn.Module):
        raise ValueError(
            f"this needs a Flax Linen module, got {module!r}; a plain function (params, x) is used as it is"
        )
    if lacking := [name for name in methods if not callable(getattr(module, name, None))]:
        raise ValueError(
            f"{type(module).__name__} needs the methods features(x, train) and energy(context, y), but lacks "
            f"{' and '.join(lacking)}"
        )


@contextmanager
def _parameters_only(module):
    """ValueError in place of Flax's errors for variables besides the parameters."""
    try:
        yield
    except (errors.ScopeCollectionNotFound, errors.ModifyScopeVariableError) as error:
        raise ValueError(
            f"{type(module).__name__} keeps variables besides its parameters, such as BatchNorm's batch_stats, which "
            "these functions of params do not have: write the function yourself, with all variables in params, as in "
            f"docs/do/flavours.md, or take nn.LayerNorm. Flax says: {error}"
        ) from error


@lru_cache(maxsize=64)
def _energy_of(module: Any) -> Callable[..., jax.Array]:
    def energy(params: Params, context: Any, y: jax.Array) -> Any:
        with _parameters_only(module):
            return module.apply({"params": params}, context, y, method="energy")

    return energy


@lru_cache(maxsize=64)
def _of_method(module: Any, method: str) -> Callable[..., Any]:
    def apply(params, x, key, **more):
        rngs = None if key is None else {"dropout": key}
        train = key is not None
        with _parameters_only(module):
            return module.apply({"params": params}, x, train, rngs=rngs, method=method, **more)

    # Whether a function takes a mask is read from its parameters, so it has one only where the module has.
    def plain(params: Params, x: Any, key: jax.Array | None = None) -> Any:
        return apply(params, x, key)

    def masked(params: Params, x: Any, key: jax.Array | None = None, mask: Any = None) -> Any:
        return apply(params, x, key, mask=mask)

    return masked if "mask" in parameters_of(getattr(type(module), method)) else plain

"""Flax modules as pure functions.

A model is two pure functions: `features(params, x) -> context`, everything that does not depend on y, once per
batch, and `energy(params, context, y) -> scalar`, for one example. Nothing else in the library asks for Flax: a
plain function does as well. Equal modules give the same functions, so that nothing compiles twice; `params` is
`module.init(...)["params"]`.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import jax

from spen_jax.arguments import parameters_of
from spen_jax.domains import Domain

Params = Any


def functions_of(module: Any) -> tuple[Callable[..., Any], Callable[..., jax.Array]]:
    """The two pure functions of a Flax module with methods `features(x, train)` and `energy(context, y)`.

    Returns `features(params, x, key=None) -> context`, where a key switches dropout on, and
    `energy(params, context, y) -> scalar`. If the module's `features(x, train, mask)` has a parameter of that name, so
    has the function: `features(params, x, key=None, mask=None)`.
    """
    return _of_method(module, "features"), _energy_of(module)


def logits_of(network: Any) -> Callable[..., Any]:
    """`logits(params, x, key=None)` of a Flax module called as `network(x, train)`; see `functions_of`.

    Of a module with `features` and `energy`, such as a `SPEN`, it is a start for inference, what the feature network
    would answer by itself: a function `(context, domain) -> points`, the points whose logits are context["logits"].
    That is one function for all such modules: no other one makes anything compile again.
    """
    if hasattr(network, "features") and hasattr(network, "energy"):
        return from_unary_logits
    return _of_method(network, "__call__")


def from_unary_logits(context: Any, domain: Domain) -> Any:
    """domain.from_logits(context["logits"]); ValueError for a context without logits."""
    if not isinstance(context, dict) or "logits" not in context:
        raise ValueError(
            'this start needs features that give a context with an entry "logits", as those of a SPEN do, got '
            f"{jax.tree.structure(context)}; give another start"
        )
    return domain.from_logits(context["logits"])


@lru_cache(maxsize=64)
def _energy_of(module: Any) -> Callable[..., jax.Array]:
    def energy(params: Params, context: Any, y: jax.Array) -> Any:
        return module.apply({"params": params}, context, y, method="energy")

    return energy


@lru_cache(maxsize=64)
def _of_method(module: Any, method: str) -> Callable[..., Any]:
    def apply(params, x, key, **more):
        rngs = None if key is None else {"dropout": key}
        train = key is not None
        return module.apply({"params": params}, x, train, rngs=rngs, method=method, **more)

    # Whether a function takes a mask is read from its parameters, so it has one only where the module has.
    def plain(params: Params, x: Any, key: jax.Array | None = None) -> Any:
        return apply(params, x, key)

    def masked(params: Params, x: Any, key: jax.Array | None = None, mask: Any = None) -> Any:
        return apply(params, x, key, mask=mask)

    return masked if "mask" in parameters_of(getattr(type(module), method)) else plain

"""Functions that a user gives are handed, by name, what they have parameters for."""

import inspect
from collections.abc import Callable
from functools import lru_cache
from typing import Any


@lru_cache(maxsize=1024)
def parameters_of(function: Callable[..., Any]) -> frozenset[str]:
    """The names that a function can be given arguments by; none where Python cannot tell."""
    try:
        return frozenset(inspect.signature(function).parameters)
    except (TypeError, ValueError):
        return frozenset()


def handing(function: Callable[..., Any], **available: Any) -> Callable[..., Any]:
    """`function` with those of the `available` arguments that it has a parameter for, by name.

    `handing(features, key=key, mask=mask)(params, x)` calls `features(params, x, key=key)` where features has no
    parameter `mask`.
    """
    wanted = {name: value for name, value in available.items() if name in parameters_of(function)}
    return lambda *args: function(*args, **wanted)

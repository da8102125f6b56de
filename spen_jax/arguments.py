"""Functions that a user gives are handed, by name, what they have parameters for."""

import inspect
from collections.abc import Callable
from functools import lru_cache
from typing import Any


@lru_cache(maxsize=1024)
def parameters_of(function: Callable[..., Any]) -> dict[str, bool]:
    """The names that a function takes arguments by, and whether they have defaults; none where Python cannot tell."""
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):
        return {}
    return {name: p.default is not inspect.Parameter.empty for name, p in parameters.items()}


def handing(function: Callable[..., Any], **available: Any) -> Callable[..., Any]:
    """`function` with those of the `available` arguments that it has a parameter for, by name.

    `handing(features, key=key, mask=mask)(params, x)` calls `features(params, x, key=key)` where features has no
    parameter `mask`. None is not handed over a default of the function's own.
    """
    known = parameters_of(function)
    wanted = {
        name: value
        for name, value in available.items()
        if name in known and not (value is None and known[name])
    }
    return lambda *args: function(*args, **wanted)

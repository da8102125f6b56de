"""Functions that a user gives are handed, by name, what they have parameters for; equal arguments make one function."""

import dataclasses
import inspect
from collections import OrderedDict
from collections.abc import Callable, Hashable
from functools import lru_cache, wraps
from typing import Any, ParamSpec, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

P = ParamSpec("P")
R = TypeVar("R")


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


def once(make: Callable[P, R]) -> Callable[P, R]:
    """`make`, which gives the same object for equal arguments: what it makes functions for is then compiled once.

    Dicts, lists, arrays and dataclasses of such are equal where what they hold is; functions where they are the same
    object. It remembers the last 256 of them.
    """
    made: OrderedDict[Hashable, R] = OrderedDict()
    signature = inspect.signature(make)

    @wraps(make)
    def given(*args: P.args, **kwargs: P.kwargs) -> R:
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        try:
            key = _hashable(bound.arguments)
            hash(key)
        except TypeError:  # of what cannot be compared each one is new
            return make(*args, **kwargs)
        if key not in made:
            made[key] = make(*args, **kwargs)
            if len(made) > 256:
                made.popitem(last=False)
        made.move_to_end(key)
        return made[key]

    return given


def _hashable(value: Any) -> Hashable:
    """Equal for equal values, which may hold dicts, lists and arrays; TypeError for what may change or is traced."""
    if isinstance(value, Tracer):
        raise TypeError("a value that is being traced equals no other")
    if isinstance(value, np.ndarray | jax.Array):
        kind = str(value.dtype)
        if jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
            value = jax.random.key_data(value)
        array = np.asarray(value)
        if array.dtype == object or isinstance(value, np.ma.MaskedArray):
            raise TypeError("an array of objects, or with a mask, is not compared")
        return "array", kind, array.shape, array.tobytes()
    if isinstance(value, dict):
        return type(value), tuple((name, _hashable(v)) for name, v in value.items())
    if isinstance(value, list | tuple):
        return type(value), tuple(map(_hashable, value))
    try:
        hash(value)
    except TypeError:
        settings: Any = getattr(type(value), "__dataclass_params__", None)
        if settings is None or not settings.frozen:
            raise
        # A frozen dataclass of such, as a Predictor that starts at an array.
        names = [f.name for f in dataclasses.fields(value)]
        return type(value), tuple(_hashable(getattr(value, name)) for name in names)
    # 1, 1.0 and True are equal, but are not the same setting.
    return type(value), value

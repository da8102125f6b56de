"""What is fixed when chains are compiled, the options that say so, and what is said of arguments that do not fit."""

from dataclasses import dataclass
from typing import Any, TypedDict

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from spen_jax.checks import as_points, check_context, check_energy, check_whole
from spen_jax.domains import Box, Domain
from spen_jax.numbers import real_array
from spen_jax.sampling.langevin import Langevin
from spen_jax.sampling.sampler import Sampler
from spen_jax.trees import one_of
from spen_jax.types import Energy

METHODS = "check", "draw", "init", "step", "read"
"""What a `Sampler` has."""


class Options(TypedDict, total=False):
    """How `sample` runs its chains, by keyword.

    - `domain`: where y lives; `Box()` by default.
    - `sampler`: the Markov chain; `Langevin()` by default.
    - `steps`: how many steps after the warm-up, a multiple of `thin`; 1000 by default.
    - `warm_up`: how many steps come before, of which nothing is kept; 0 by default.
    - `thin`: every how many steps a point is kept, S = steps / thin; 1 by default.
    - `beta`: the inverse temperature, > 0, 1 by default: a number, or one for each step, warm-up first,
      (warm_up + steps,), for annealing. Compiled once for all values.
    """

    domain: Domain
    sampler: Sampler
    steps: int
    warm_up: int
    thin: int
    beta: jax.Array | float


@dataclass(frozen=True)
class Plan:
    """What is fixed when chains are compiled; see `Options`."""

    energy: Energy
    domain: Domain = Box()
    sampler: Sampler = Langevin()
    steps: int = 1000
    warm_up: int = 0
    thin: int = 1

    def __post_init__(self):
        if not callable(self.energy):
            raise ValueError(
                f"energy must be a function (params, context, y) -> scalar, got {self.energy!r}"
            )
        if not isinstance(self.domain, Domain):
            raise ValueError(f"domain must be made with (), such as Box(), got {self.domain!r}")
        if isinstance(self.sampler, type) or not all(hasattr(self.sampler, m) for m in METHODS):
            raise ValueError(
                f"sampler must be made with (), such as Langevin(), got {self.sampler!r}"
            )
        for name in ("energy", "domain", "sampler"):
            try:
                hash(getattr(self, name))
            except TypeError:
                raise ValueError(
                    f"{name} must be hashable, as a frozen dataclass is, got {getattr(self, name)!r}; what is "
                    "compiled is found again by it"
                ) from None
        for name, least in (("steps", 1), ("warm_up", 0), ("thin", 1)):
            value = getattr(self, name)
            check_whole(name, value, least)
            object.__setattr__(self, name, int(value))
        if self.steps % self.thin:
            raise ValueError(
                f"steps must be a multiple of thin, got steps={self.steps} and thin={self.thin}; every "
                f"{self.thin}th point is kept"
            )


def one_for_each_step(beta: Any, plan: Plan) -> jax.Array:
    """beta, one number or one for each step, as (warm_up + steps,) floats; ValueError where it is no such thing."""
    total, dtype = plan.warm_up + plan.steps, jnp.result_type(float)
    if not isinstance(beta, Tracer):
        given, beta = beta, real_array("beta", beta)
        with np.errstate(over="ignore"):
            values = beta.astype(dtype)
        if beta.dtype == bool or not np.all((values > 0) & (values < np.inf)):
            raise ValueError(f"beta must be > 0 and finite, got {given}; 1 / beta is a temperature")
    if beta.shape not in ((), (total,)):
        raise ValueError(
            f"beta must be one number or {total} of them, one for each step (warm_up={plan.warm_up} and "
            f"steps={plan.steps}), got shape {beta.shape}"
        )
    return jnp.broadcast_to(jnp.asarray(beta, dtype), (total,))


def one_key(key: Any) -> jax.Array:
    """A key of `jax.random.key`, or of the old `jax.random.PRNGKey`, as the former; ValueError for anything else."""
    dtype: Any = getattr(key, "dtype", None)
    shape = getattr(key, "shape", None)
    if dtype == np.uint32 and shape == (2,):
        return jax.random.wrap_key_data(jnp.asarray(key))
    if shape != () or not jnp.issubdtype(dtype, jax.dtypes.prng_key):
        got = repr(key) if dtype is None else f"shape {shape} of {dtype}"
        raise ValueError(f"key must be one random key, got {got}; make one with jax.random.key(0)")
    return key


def points(start: Any) -> Any:
    """`start` as arrays; ValueError where it does not hold floats (B, C, ...)."""
    lead = None
    for path, leaf in jax.tree.leaves_with_path(start):
        name, dtype = f"start{jax.tree_util.keystr(path)}", getattr(leaf, "dtype", None)
        wrong = None
        if dtype is None:
            wrong = f"is a {type(leaf).__name__}; make it an array"
        elif str(dtype) not in ("float32", "float64"):
            wrong = f"is of {dtype}; give {name}.astype('float32')"
        elif leaf.ndim < 2:
            wrong = (
                f"has shape {leaf.shape}; for one chain of each example give {name}[:, None], for one chain of one "
                f"example {name}[None, None]"
            )
        elif leaf.shape[:2] != (lead := lead or leaf.shape[:2]):
            wrong = f"has shape {leaf.shape}, where another array has (B, C) = {lead}"
        if wrong:
            raise ValueError(
                "start must hold float32 or float64 arrays of shape (B, C, ...), C chains for each of B examples, "
                f"but {name} {wrong}"
            )
    if lead is None:
        raise ValueError(f"start must hold at least one array, got {start}")
    return as_points(start)


def check(plan: Plan, params: Any, context: Any, start: Any) -> None:
    """ValueError where the parts of a call do not fit each other; an energy's own errors get a note of the shapes."""
    check_context(context, jax.tree.leaves(start)[0].shape[0])
    context, chains = one_of(context), one_of(start)
    y = one_of(chains)
    if not sum(a.size for a in jax.tree.leaves(y)):
        raise ValueError(f"start must hold numbers, got arrays of shapes {_shapes(start)}")

    def check_one(y):
        plan.domain.check(y)
        check_energy(plan.energy, params, context, y)

    try:
        check_one(y)
    except Exception:
        if _passes(check_one, chains):
            raise ValueError(
                f"start has shape {_shapes(start)}, which is (B, C, ...): C chains of y of shape {_shapes(y)} for each "
                f"of B examples. There the energy fails, while it works for y of shape {_shapes(chains)}: for one "
                "chain of each example give start[:, None], here of shape "
                f"{jax.tree.map(lambda a: (a.shape[0], 1, *a.shape[1:]), start)}"
            ) from None
        raise
    plan.sampler.check(plan.domain)


def _passes(check_one, y):
    try:
        check_one(y)
    except Exception:
        return False
    return True


def _shapes(tree):
    return jax.tree.map(lambda a: a.shape, tree)

"""Sampling: points y with density proportional to exp(-beta E(x, y)) on a domain, by many chains for each example.

An energy is a function `(params, context, y) -> scalar` of ONE example. Shapes: B examples, C chains of each, S
points kept of each chain, y of shape (B, C, S, ...) or a pytree of such arrays, context with a leading axis B.

Samplers are frozen dataclasses written for one chain (see `Sampler`), run by one loop over all chains of all
examples in blocks that stay in a CPU's cache, with the chains along the last axis where the energy allows it.
Random numbers are drawn for a block at once, so that the same key, shapes and kind of device give the same points.
Samples are constants to `jax.grad`: for a gradient in the parameters evaluate the energy at them once more.
"""

import math
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, TypedDict, Unpack

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from spen_jax.blocks import in_blocks
from spen_jax.checks import as_points, check_context, check_energy, check_whole
from spen_jax.domains import Box, Domain
from spen_jax.inference import over_examples, suits_last
from spen_jax.sampling.langevin import Langevin
from spen_jax.sampling.sampler import Info, Sampler, Target
from spen_jax.trees import all_finite, one_of, select
from spen_jax.types import Energy


class Samples(NamedTuple):
    """What `sample` returns.

    Fields:
      y: the kept points, (B, C, S, ...).
      energy: E there, (B, C, S).
      info: an `Info`, (B, C) each.
      state: the last points, (B, C, ...): the `start` of a call that goes on, with another key.
    """

    y: Any
    energy: jax.Array
    info: Info
    state: Any


class Options(TypedDict, total=False):
    """How `sample` runs its chains, by keyword.

    domain: where y lives; `Box()` by default.
    sampler: the Markov chain; `Langevin()` by default.
    steps: how many steps after the warm-up, a multiple of `thin`; 1000 by default.
    warm_up: how many steps come before, of which nothing is kept; 0 by default.
    thin: every how many steps a point is kept, S = steps / thin; 1 by default.
    beta: the inverse temperature, > 0, 1 by default: a number, or one for each step, warm-up first,
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
        if isinstance(self.sampler, type) or isinstance(self.domain, type):
            raise ValueError(
                f"give a sampler and a domain made with (), got {self.sampler} and {self.domain}"
            )
        for name, least in (("steps", 1), ("warm_up", 0), ("thin", 1)):
            value = getattr(self, name)
            check_whole(name, value, least)
            object.__setattr__(self, name, int(value))
        if self.steps % self.thin:
            raise ValueError(
                f"steps must be a multiple of thin, got steps={self.steps} and thin={self.thin}; every "
                f"{self.thin}th point is kept"
            )


class Shared(NamedTuple):
    """What all chains of a block share in one step."""

    params: Any
    beta: jax.Array


class Moving(NamedTuple):
    """A chain on its way: its sampler's state, the sum of its acceptance probabilities, and whether it diverged."""

    state: Any
    acceptance: jax.Array
    divergent: jax.Array


class Looked(NamedTuple):
    """A chain where it was last looked at; one that diverged stays there."""

    state: Any
    divergent: jax.Array
    y: Any
    energy: jax.Array


def sample(
    energy: Energy,
    params: Any,
    context: Any,
    start: Any,
    key: jax.Array,
    **options: Unpack[Options],
) -> Samples:
    """Points with density proportional to exp(-beta E(x, y)) on `domain`, by chains of `steps` steps from `start`.

    Args:
      energy: `(params, context, y) -> scalar` for one example. Compiled once for each function: pass the same
        object again, not a new lambda.
      params: what the energy is a function of, the same for all examples.
      context: what the energy knows of x; every leaf has a leading axis of B examples.
      start: the first points, (B, C, ...), C chains for each example; projected onto the domain.
      key: of `jax.random.key`. Equal keys give equal samples.
      **options: `domain`, `sampler`, `steps`, `warm_up`, `thin`, `beta`, see `Options`.

    Raises:
      ValueError: for shapes that do not fit, an energy that does not return a scalar, a sampler that cannot sample
        from the domain, or settings out of range. TypeError: for an unknown option.
    """
    given: Any = dict(options)
    if unknown := [name for name in given if name not in Options.__annotations__]:
        known = ", ".join(Options.__annotations__)
        raise TypeError(f"sample has no option {', '.join(unknown)}; its options are {known}")
    beta = given.pop("beta", 1.0)
    plan = Plan(energy, **given)
    beta = _one_for_each_step(beta, plan)
    return _sample(plan, params, context, as_points(start), _one_key(key), beta)


def _one_for_each_step(beta, plan):
    if not isinstance(beta, jax.Array) and not np.all(np.asarray(beta) > 0):
        raise ValueError(f"beta must be > 0, got {beta}; 1 / beta is a temperature")
    beta, total = jnp.asarray(beta, float), plan.warm_up + plan.steps
    if beta.shape not in ((), (total,)):
        raise ValueError(
            f"beta must be one number or {total} of them, one for each step (warm_up={plan.warm_up} and "
            f"steps={plan.steps}), got shape {beta.shape}"
        )
    return jnp.broadcast_to(beta, (total,))


def _one_key(key):
    key = jnp.asarray(key)
    if key.dtype == jnp.uint32 and key.shape == (2,):
        key = jax.random.wrap_key_data(key)
    if not jnp.issubdtype(key.dtype, jax.dtypes.prng_key) or key.shape:
        raise ValueError(
            f"key must be one random key, got shape {key.shape} of {key.dtype}; make one with jax.random.key(0)"
        )
    return key


@partial(jax.jit, static_argnums=0)
def _sample(plan, params, context, start, key, beta):
    _check(plan, params, context, start)
    params, context, start, beta = lax.stop_gradient((params, context, start, beta))
    examples, chains = jax.tree.leaves(start)[0].shape[:2]
    together = jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:]), start)  # (B C, ...)

    def solve(part):
        numbers, y = part
        block_context = jax.tree.map(lambda a: jnp.asarray(a)[numbers // chains], context)
        block_key = jax.random.fold_in(key, jnp.sum(numbers[:1]))  # no two blocks begin alike
        return _sample_block(plan, Shared(params, beta), block_context, y, block_key)

    size = sum(math.prod(a.shape[1:]) for a in jax.tree.leaves(together))
    found = in_blocks(solve, (jnp.arange(examples * chains), together), max(size, 1))
    return jax.tree.map(lambda a: a.reshape(examples, chains, *a.shape[1:]), found)


def _sample_block(plan, shared, context, y, key):
    """The samples of n chains, with examples (n, ...) first; `shared` has the beta of every step."""
    size, one = jax.tree.leaves(y)[0].shape[0], one_of(y)
    first = Shared(shared.params, shared.beta[0])

    def draw(key):
        return plan.sampler.draw(key, one, size)

    random = one_of(jax.eval_shape(draw, key), axis=-1)
    last = jax.default_backend() == "cpu" and _suits_last(plan, first, one_of(context), one, random)
    axis, over = -1 if last else 0, partial(over_examples, last=last)
    begin, step, look = (partial(f, plan) for f in (_begin, _step, _look))

    def move(tree, source, destination):
        return jax.tree.map(lambda a: jnp.moveaxis(a, source, destination), tree)

    def body(i, moving):
        random = move(draw(jax.random.fold_in(key, i)), -1, axis)
        now = Shared(shared.params, shared.beta[i])
        state, info = over(step, now, (context, moving.state, random))
        return Moving(state, moving.acceptance + info.acceptance, moving.divergent | info.divergent)

    def segment(carry, bounds):
        """The steps up to the next point that is kept, and that point."""
        (before, divergent), (start, end) = carry, bounds
        moving = Moving(before, jnp.zeros(size), divergent)
        moving = lax.fori_loop(start, end, body, moving)
        seen = over(look, first, (context, moving.state, before, moving.divergent))
        kept = move(seen.y, axis, 0), seen.energy, moving.acceptance
        return (seen.state, seen.divergent), kept

    context, y = move((context, y), 0, axis)
    ends = jnp.arange(plan.warm_up, plan.warm_up + plan.steps + 1, plan.thin)
    begins = jnp.concatenate([jnp.zeros(1, ends.dtype), ends[:-1]])
    state = over(begin, first, (context, y))
    (_, divergent), path = lax.scan(segment, (state, jnp.zeros(size, bool)), (begins, ends))
    kept, energies, acceptance = jax.tree.map(lambda a: a[1:], path)  # without the warm-up
    kept = move(kept, 1, 0)  # (n, S, ...)
    info = Info(jnp.sum(acceptance, axis=0) / plan.steps, divergent)
    return Samples(kept, energies.T, info, jax.tree.map(lambda a: a[:, -1], kept))


# What is done to one chain; `shared` has the beta of one step.


def _target(plan, shared, context):
    return Target(partial(plan.energy, shared.params, context), plan.domain, shared.beta)


def _begin(plan, shared, example):
    """The sampler's state at the projected start."""
    context, y = example
    return plan.sampler.init(_target(plan, shared, context), plan.domain.project(y))


def _step(plan, shared, example):
    """(state, info) after one step."""
    context, state, random = example
    return plan.sampler.step(_target(plan, shared, context), state, random)


def _look(plan, shared, example):
    """What the chain has come to, or where that is wrong where it was `before`."""
    context, state, before, divergent = example
    target = _target(plan, shared, context)
    y, value = plan.sampler.read(target, state)
    divergent |= ~(jnp.isfinite(value) & all_finite(y))
    old = Looked(before, divergent, *plan.sampler.read(target, before))
    return select(divergent, old, Looked(state, divergent, y, value))


def _suits_last(plan, shared, context, y, random):
    """Whether one chain's operations all have a rule with the chains along the last axis."""
    state = jax.eval_shape(partial(_begin, plan), shared, (context, y))
    flag = jax.ShapeDtypeStruct((), bool)
    functions = (
        (_begin, (context, y)),
        (_step, (context, state, random)),
        (_look, (context, state, state, flag)),
    )
    return all(suits_last(partial(f, plan), shared, example) for f, example in functions)


def _check(plan, params, context, start):
    lead = None
    for path, leaf in jax.tree.leaves_with_path(start):
        lead = lead or leaf.shape[:2]
        if len(lead) < 2 or leaf.shape[:2] != lead or not jnp.issubdtype(leaf.dtype, jnp.floating):
            raise ValueError(
                "start must hold float arrays of shape (B, C, ...), C chains for each of B examples, but "
                f"start{jax.tree_util.keystr(path)} has shape {leaf.shape} of {leaf.dtype}; for one chain each "
                "give start[:, None]"
            )
    if lead is None:
        raise ValueError(f"start must hold at least one array, got {start}")
    check_context(context, lead[0])
    y = one_of(one_of(start))
    plan.domain.check(y)
    plan.sampler.check(plan.domain)
    check_energy(plan.energy, params, one_of(context), y)

"""Sampling: points y with density proportional to exp(-beta E(x, y)) on a domain, by many chains for each example.

An energy is a function `(params, context, y) -> scalar` of ONE example. Shapes: B examples, C chains of each, S
points kept of each chain, y of shape (B, C, S, ...) or a pytree of such arrays, context with a leading axis B.

Samplers are frozen dataclasses written for one chain (see `Sampler`), run by one loop over all chains of all
examples in blocks that stay in a CPU's cache, with the chains along the last axis where the energy allows it.
Random numbers are drawn for a block at once, so that the same key, shapes, kind and number of devices give the same
points.
Samples are constants to `jax.grad`: for a gradient in the parameters evaluate the energy at them once more.
"""

import math
from functools import partial
from typing import Any, NamedTuple, Unpack

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from spen_jax import parallel
from spen_jax.blocks import in_blocks
from spen_jax.checks import check_arrays
from spen_jax.convolutions import fast
from spen_jax.inference import over_examples, suits_last
from spen_jax.sampling.plan import Options, Plan, check, one_for_each_step, one_key, points
from spen_jax.sampling.sampler import Info, Target
from spen_jax.trees import all_finite, one_of, select
from spen_jax.types import Energy

WARM_UP_LOOKS = 10
"""At most how often chains are looked at in the warm-up: one that fails there loses a tenth of it, not all."""


class Samples(NamedTuple):
    """What `sample` returns, of B examples, C chains of each, and S = steps / thin points kept of each chain.

    Fields:
      y: the kept points, (B, C, S, ...), of the type of the start.
      energy: E there, (B, C, S), of the type that the energy returns.
      info: an `Info`, (B, C) each.
      state: the last points, (B, C, ...): the `start` of a call that goes on, with another key.
    """

    y: Any
    energy: jax.Array
    info: Info
    state: Any


class Shared(NamedTuple):
    """What all chains of a block share in one step."""

    params: Any
    beta: jax.Array


class Moving(NamedTuple):
    """A chain on its way: its sampler's state, and the sums of its acceptance probabilities and of its failures."""

    state: Any
    acceptance: jax.Array
    divergent: jax.Array


class Stand(NamedTuple):
    """Where a chain stands when it is looked at: its sampler's state, and the energy there."""

    state: Any
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
      energy: `(params, context, y) -> scalar` for one example, low where good. Compiled once for each function: pass
        the same object again, not a new lambda.
      params: what the energy is a function of, the same for all examples.
      context: what the energy knows of x; every leaf has a leading axis of B examples.
      start: the first points, (B, C, ...), C chains for each example; projected onto the domain.
      key: of `jax.random.key`. Equal keys give equal samples, of equal shapes, kind and number of devices.
      **options: `domain`, `sampler`, `steps`, `warm_up`, `thin`, `beta`, see `sampling.Options`.

    Returns `Samples`, which are constants to `jax.grad`: for a gradient in the parameters evaluate the energy at them
    once more. ValueError for shapes that do not fit, an energy that does not return a scalar, a sampler that cannot
    sample from the domain, or settings out of range; TypeError for an unknown option.
    """
    given: Any = dict(options)
    if unknown := [name for name in given if name not in Options.__annotations__]:
        known = ", ".join(Options.__annotations__)
        raise TypeError(f"sample has no option {', '.join(unknown)}; its options are {known}")
    beta = given.pop("beta", 1.0)
    plan = Plan(energy, **given)
    beta = one_for_each_step(beta, plan)
    check_arrays(params=params, context=context)
    shared, batch = (params, one_key(key), beta), (points(start), context)
    return parallel.call(partial(_sample, plan), shared, batch, plan.warm_up + plan.steps)


@partial(jax.jit, static_argnums=0)
def _sample(plan, shared, batch):
    return parallel.automatic(partial(_sample_all, plan), shared, batch, batched=True)


def _sample_all(plan, shared, batch):
    (params, key, beta), (start, context) = shared, batch
    check(plan, params, context, start)
    params, context, start, beta = lax.stop_gradient((params, context, start, beta))
    shape = jax.tree.leaves(start)[0].shape[:2]
    numbers = jnp.arange(math.prod(shape)).reshape(shape)
    of_part = partial(_sample_part, plan)
    return parallel.over_devices(of_part, (Shared(params, beta), key), (context, start, numbers))


def _sample_part(plan, shared, part):
    """The samples of a device's own examples."""
    context, *each = part
    examples, chains = each[-1].shape
    each = jax.tree.map(lambda a: a.reshape(examples * chains, *a.shape[2:]), each)
    example_of = jnp.arange(examples * chains) // chains

    def solve(given, block):
        ((shared, key), context), (example, y, numbers) = given, block
        block_context = jax.tree.map(lambda a: a[example], context)
        block_key = jax.random.fold_in(key, jnp.sum(numbers[:1]))  # no two blocks begin alike
        return _sample_block(plan, shared, block_context, y, block_key)

    size = sum(math.prod(a.shape[1:]) for a in jax.tree.leaves(each[0]))
    found = in_blocks(solve, (shared, context), (example_of, *each), max(size, 1))
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
        return Moving(state, moving.acceptance + info.acceptance, moving.divergent + info.divergent)

    def segment(before, bounds):
        """The steps up to the next look, and what is seen."""
        start, end = bounds
        moving = Moving(before.state, jnp.zeros(size), jnp.zeros(size))
        moving = lax.fori_loop(start, end, body, moving)
        stand, y, wrong = over(look, first, (context, moving.state, before))
        info = Info(moving.acceptance, jnp.where(wrong, plan.thin, moving.divergent))
        return stand, (move(y, axis, 0), stand.energy, info)

    context, y = move((context, y), 0, axis)
    looks, ends = _looks(plan)
    _, path = lax.scan(segment, over(begin, first, (context, y)), (ends[:-1], ends[1:]))
    kept, energies, info = jax.tree.map(lambda a: a[looks:], path)  # without the warm-up
    kept = move(kept, 1, 0)  # (n, S, ...)
    info = jax.tree.map(lambda a: jnp.sum(a, axis=0) / plan.steps, info)
    return Samples(kept, energies.T, info, jax.tree.map(lambda a: a[:, -1], kept))


def _looks(plan):
    """How many looks fall into the warm-up, and after how many steps each comes, beginning with 0."""
    looks = min(math.ceil(plan.warm_up / plan.thin), WARM_UP_LOOKS)  # no oftener than afterwards
    warm_up = np.linspace(0, plan.warm_up, looks + 1).astype(int)
    kept = np.arange(plan.warm_up, plan.warm_up + plan.steps + 1, plan.thin)
    return looks, jnp.asarray(np.concatenate([warm_up, kept[1:]]))


# What is done to one chain; `shared` has the beta of one step.


def _target(plan, shared, context):
    return Target(partial(fast(plan.energy), shared.params, context), plan.domain, shared.beta)


def _begin(plan, shared, example):
    """A `Stand` at the projected start."""
    context, y = example
    target = _target(plan, shared, context)
    state = plan.sampler.init(target, plan.domain.project(y))
    return Stand(state, plan.sampler.read(target, state)[1])


def _step(plan, shared, example):
    """(state, info) after one step."""
    context, state, random = example
    return plan.sampler.step(_target(plan, shared, context), state, random)


def _look(plan, shared, example):
    """Where the chain has come to, or where that is wrong where it was before; the point; whether it was wrong."""
    context, state, before = example
    target = _target(plan, shared, context)
    y, energy = plan.sampler.read(target, state)
    wrong = ~(jnp.isfinite(energy) & all_finite(y))
    stand = select(wrong, before, Stand(state, energy))
    return stand, plan.sampler.read(target, stand.state)[0], wrong


def _suits_last(plan, shared, context, y, random):
    """Whether one chain's operations all have a rule with the chains along the last axis."""
    stand = jax.eval_shape(partial(_begin, plan), shared, (context, y))
    functions = (
        (_begin, (context, y)),
        (_step, (context, stand.state, random)),
        (_look, (context, stand.state, stand)),
    )
    return all(suits_last(partial(f, plan), shared, example) for f, example in functions)

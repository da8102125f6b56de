"""Early stopping: each example runs until it has converged or failed, in full blocks of those that go on.

Pass one looks at the residual every LOOK steps and gathers the active examples every ROUND steps, so that the
time follows the steps that examples take. Pass two, rarely needed, repeats those that failed or ended above the
energy they began with, looks at every step, and keeps their best point.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from spen_jax import batching
from spen_jax.loop import (
    Found,
    Mapped,
    Plan,
    at_step,
    finite,
    init,
    mapped,
    read,
    report,
    step,
    write_progress,
)

LOOK, ROUND = 4, 8
"""A look costs about a step, gathering a block about half of one."""


def _choose(condition, yes, no):
    return jax.tree.map(partial(jnp.where, condition), yes, no)


class _Run(NamedTuple):
    """An example on its way; `best` is the (y, energy, residual) of lowest finite energy it met, or ()."""

    state: Any
    best: Any
    active: Any
    steps: Any


def _begin(plan, values, example):
    start, active = example
    return _Run(init(plan, values, start), (), active, jnp.zeros((), int))


def _look(plan, values, context, run):
    """((y, energy, residual) where the example stands, the best it has met)."""
    here = report(plan, values, (context, read(plan, values, run.state)))
    if not run.best:
        return here, ()
    return here, _choose(finite(*here[1:]) & (here[1] < run.best[1]), here, run.best)


def _judge(plan, values, example):
    """Whether the example goes on: it has neither converged nor failed."""
    context, run = example
    (_, value, residual), best = _look(plan, values, context, run)
    # Without a best to keep nothing asks for the energy, which is then not computed.
    ok = finite(value if run.best else 0.0, residual)
    return run._replace(best=best, active=run.active & ok & (residual > plan.tolerance))


def _advance(plan, values, example):
    """One step, where the example goes on."""
    context, run = example
    state = _choose(run.active, step(plan, values, (context, run.state)), run.state)
    return run._replace(state=state, steps=run.steps + run.active)


def _conclude(plan, values, example):
    """Where the example stands, or where it is to go back, the best point it met."""
    here, best, back, failed = example
    y, value, residual = _choose(back & jnp.isfinite(best[1]), best, here)
    return y, value, jnp.where(failed, jnp.nan, residual)


def until(plan: Plan, values: Any, context: Any, start: Any) -> Found:
    """Steps of each example until it has converged.

    Examples that failed, or stopped above the energy they began with, run once more and keep their best point.
    """
    size = len(jax.tree.leaves(start)[0])
    first, last = at_step(values, 0), at_step(values, plan.steps - 1)
    every = partial(_every, plan)
    run = every(_begin, first, (start, jnp.full(size, plan.steps > 0)))
    rows = Mapped(plan, False).record(first, context, run.state)
    rows = jax.tree.map(lambda a: jnp.zeros((plan.steps + 1, *a.shape), a.dtype).at[0].set(a), rows)

    (y, before, _), _ = every(_look_at, last, (context, run))
    done, rows = _rounds(plan, values, context, run, rows)
    here, _ = every(_look_at, last, (context, done))
    _, value, residual = here
    failed = ~finite(value, residual)
    back = failed | (residual > plan.tolerance) & (value > before)

    worst = jnp.full_like(before, jnp.inf)

    def replay():
        again = run._replace(best=(y, worst, worst), active=run.active & back)
        again, _ = _rounds(plan, values, context, again, {})
        return every(_look_at, last, (context, again))[1]

    best = lax.cond(jnp.any(back), replay, lambda: (y, worst, worst))
    y, value, residual = every(_conclude, last, (here, best, back, failed))
    stop = jnp.minimum(jnp.arange(plan.steps + 1)[:, None], done.steps[None])
    trace = jax.tree.map(lambda a: jnp.moveaxis(a[stop, jnp.arange(size)[None]], 0, 1), rows)
    return Found(y, value, residual, done.steps, trace)


def _look_at(plan, values, example):
    return _look(plan, values, *example)


def _every(plan, function, values, batch):
    """A function of one example over the whole batch, in blocks."""
    sizes = [a.size for a in jax.tree.leaves(batch)]
    numbers = max(sizes) // max(len(jax.tree.leaves(batch)[0]), 1)
    each = Mapped(plan, False)
    return batching.in_blocks(partial(each, function, values), batch, numbers)


def _rounds(plan, values, context, run, rows):
    """All active examples to their end: rounds of ROUND steps, each over as few full blocks as hold them."""
    leaves = jax.tree.leaves(run.state)
    size = len(leaves[0])
    y = jax.eval_shape(jax.vmap(partial(read, plan, None)), run.state)
    blocks, block = batching.block_sizes(
        size, sum(a.size for a in jax.tree.leaves(y)) // max(size, 1)
    )
    some = jax.tree.map(
        lambda a: jax.ShapeDtypeStruct((block, *a.shape[1:]), a.dtype), (context, y)
    )
    each = mapped(plan, values, *some)

    def on_block(t, ids, run, rows):
        part = jax.tree.map(lambda a: a.at[ids].get(mode="clip"), (context, run))
        part_context, part_run = each.inward(part)
        end = jnp.minimum(t + ROUND, plan.steps)

        def goes_on(carry):
            t, part_run, _ = carry
            return (t < end) & jnp.any(part_run.active)

        def body(carry):
            t, part_run, rows = carry
            now = at_step(values, t)
            look = t % (1 if part_run.best else LOOK) == 0
            judge = partial(each, _judge, now)
            part_run = lax.cond(look, lambda run: judge((part_context, run)), lambda r: r, part_run)
            part_run = lax.cond(
                jnp.any(part_run.active),
                lambda run: each(_advance, now, (part_context, run)),
                lambda run: run,
                part_run,
            )
            if rows:
                new = each.record(now, part_context, part_run.state)
                rows = jax.tree.map(lambda a, n: a.at[t + 1, ids].set(n, mode="drop"), rows, new)
            return t + 1, part_run, rows

        _, part_run, rows = lax.while_loop(goes_on, body, (t, part_run, rows))
        part_run = each.outward(part_run)
        return jax.tree.map(lambda a, p: a.at[ids].set(p, mode="drop"), run, part_run), rows

    def one_round(carry):
        t, run, rows = carry
        going = jnp.sum(run.active)
        # The numbers of those that go on come first; beyond the batch stands the number of nobody.
        order = jnp.argsort(~run.active, stable=True)
        order = jnp.pad(order, (0, blocks * block - size), constant_values=size)

        def next_block(i, carry):
            ids = lax.dynamic_slice(order, (i * block,), (block,))
            return on_block(t, ids, *carry)

        run, rows = lax.fori_loop(0, -(-going // block), next_block, (run, rows))
        t = jnp.minimum(t + ROUND, plan.steps)
        if plan.progress:
            done = (t == plan.steps) | ~jnp.any(run.active)
            jax.debug.callback(partial(write_progress, plan.steps), t, 1, size, done)
        return t, run, rows

    def unfinished(carry):
        t, run, _ = carry
        return (t < plan.steps) & jnp.any(run.active)

    _, run, rows = lax.while_loop(unfinished, one_round, (0, run, rows))
    return run, rows

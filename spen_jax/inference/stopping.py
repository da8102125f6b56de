"""Early stopping: each example runs until it has converged or failed, in full blocks of those that go on.

Pass one looks at the residual every LOOK steps and gathers the active examples every ROUND steps, so that the
time follows the steps that examples take. Pass two, rarely needed, repeats those that failed or ended above the
energy they began with, looks at every step, and keeps their best point: pass one need not carry one along.
"""

import math
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from spen_jax import blocks
from spen_jax.inference.loop import Found, write_progress
from spen_jax.inference.plan import Plan, Values
from spen_jax.inference.steps import (
    Mapped,
    Report,
    at_step,
    finite,
    init,
    read,
    report,
    step,
)
from spen_jax.trees import one_of, select

LOOK, ROUND = 4, 8
"""A look costs about a step, gathering a block about half of one."""


class Run(NamedTuple):
    """An example on its way; `best` is the `Report` of lowest finite energy it met, None where nobody asks."""

    state: Any
    best: Report | None
    active: Any
    steps: Any


class Look(NamedTuple):
    """Where an example stands, and the best it has met."""

    here: Report
    best: Report | None


class Round(NamedTuple):
    """How far a pass has come: the step, all examples, and the rows of the trace."""

    t: Any
    run: Run
    rows: dict[str, Any]


def _begin(plan, values, example):
    context, start, active = example
    return Run(init(plan, values, (context, start)), None, active, jnp.zeros((), int))


def _look(plan, values, example):
    context, run = example
    here = report(plan, values, (context, read(plan, values, (context, run.state))))
    if run.best is None:
        return Look(here, None)
    better = finite(here.energy, here.residual) & (here.energy < run.best.energy)
    return Look(here, select(better, here, run.best))


def _judge(plan, values, example):
    """Whether the example goes on: it has neither converged nor failed."""
    _, run = example
    here, best = _look(plan, values, example)
    # Without a best to keep nothing asks for the energy, which is then not computed.
    ok = finite(0.0 if run.best is None else here.energy, here.residual)
    return run._replace(best=best, active=run.active & ok & (here.residual > plan.tolerance))


def _advance(plan, values, example):
    """One step, where the example goes on."""
    context, run = example
    state = select(run.active, step(plan, values, (context, run.state)), run.state)
    return run._replace(state=state, steps=run.steps + run.active)


def _conclude(plan, values, example):
    """Where the example stands, or where it is to go back, the best point it met."""
    here, best, back, failed = example
    end = select(back & jnp.isfinite(best.energy), best, here)
    return end._replace(residual=jnp.where(failed, jnp.nan, end.residual))


def until(plan: Plan, values: Values, context: Any, start: Any, last: bool) -> Found:
    """Steps of each example until it has converged.

    Examples that failed, or stopped above the energy they began with, run once more and keep their best point.
    """
    size = jax.tree.leaves(start)[0].shape[0]
    first, end = at_step(values, 0), at_step(values, plan.steps - 1)
    over_all, each = partial(_over_all, plan), Mapped(plan, last)
    run = over_all(_begin, first, (context, start, jnp.full(size, plan.steps > 0)))
    rows = Mapped(plan, False).record(first, context, run.state)
    rows = jax.tree.map(lambda a: jnp.zeros((plan.steps + 1, *a.shape), a.dtype).at[0].set(a), rows)

    before = over_all(_look, end, (context, run)).here
    done, rows = _pass(each, values, context, run, rows)
    here = over_all(_look, end, (context, done)).here
    failed = ~finite(here.energy, here.residual)
    back = failed | (here.residual > plan.tolerance) & (here.energy > before.energy)

    worst = jnp.full_like(before.energy, jnp.inf)
    nothing = Report(before.y, worst, worst)

    def replay():
        again = run._replace(best=nothing, active=run.active & back)
        again, _ = _pass(each, values, context, again, {})
        return over_all(_look, end, (context, again)).best

    best = lax.cond(jnp.any(back), replay, lambda: nothing)
    found = over_all(_conclude, end, (here, best, back, failed))
    # What comes after an example has stopped repeats its last row.
    stop = jnp.minimum(jnp.arange(plan.steps + 1)[:, None], done.steps[None])
    trace = jax.tree.map(lambda a: jnp.moveaxis(a[stop, jnp.arange(size)[None]], 0, 1), rows)
    return Found(found.y, found.energy, found.residual, done.steps, trace)


def _over_all(plan, function, values, batch):
    """A function of one example over the whole batch, in blocks."""
    numbers = max(math.prod(a.shape[1:]) for a in jax.tree.leaves(batch))
    each = Mapped(plan, False)
    return blocks.in_blocks(partial(each, function), values, batch, numbers)


def _pass(each, values, context, run, rows):
    """All active examples to their end: rounds of ROUND steps, each over as few full blocks as hold them."""
    plan = each.plan
    size = jax.tree.leaves(run.state)[0].shape[0]
    y = jax.eval_shape(partial(read, plan, values), one_of((context, run.state)))
    numbers = sum(a.size for a in jax.tree.leaves(y))
    count, block = blocks.block_sizes(size, numbers)

    def one_round(now):
        going = jnp.sum(now.run.active)
        # The numbers of those that go on come first; beyond the batch stands the number of nobody.
        order = jnp.argsort(~now.run.active, stable=True)
        order = jnp.pad(order, (0, count * block - size), constant_values=size)

        def next_block(i, carry):
            ids = lax.dynamic_slice(order, (i * block,), (block,))
            return _round_of_block(each, values, context, ids, Round(now.t, *carry))

        run, rows = lax.fori_loop(0, -(-going // block), next_block, (now.run, now.rows))
        t = jnp.minimum(now.t + ROUND, plan.steps)
        if plan.progress:
            done = (t == plan.steps) | ~jnp.any(run.active)
            jax.debug.callback(partial(write_progress, plan.steps), t, 1, size, done)
        return Round(t, run, rows)

    def unfinished(now):
        return (now.t < plan.steps) & jnp.any(now.run.active)

    end = lax.while_loop(unfinished, one_round, Round(0, run, rows))
    return end.run, end.rows


def _round_of_block(each: Mapped, values, context, ids, now: Round):
    """One round of the examples `ids`: they are gathered, stepped, and put back where they stood."""
    plan = each.plan
    # Ids beyond the batch read the last example and write nowhere.
    gathered = jax.tree.map(lambda a: a.at[ids].get(mode="clip"), (context, now.run))
    part_context, part = each.inward(gathered)
    end = jnp.minimum(now.t + ROUND, plan.steps)

    def goes_on(now):
        return (now.t < end) & jnp.any(now.run.active)

    def body(now):
        t, run, rows = now
        values_now = at_step(values, t)

        def judge(run):
            return each(_judge, values_now, (part_context, run))

        def advance(run):
            return each(_advance, values_now, (part_context, run))

        look = t % (LOOK if run.best is None else 1) == 0
        run = lax.cond(look, judge, lambda run: run, run)
        run = lax.cond(jnp.any(run.active), advance, lambda run: run, run)
        if rows:
            new = each.record(values_now, part_context, run.state)
            rows = jax.tree.map(lambda a, n: a.at[t + 1, ids].set(n, mode="drop"), rows, new)
        return Round(t + 1, run, rows)

    _, part, rows = lax.while_loop(goes_on, body, Round(now.t, part, now.rows))
    part = each.outward(part)
    return jax.tree.map(lambda a, p: a.at[ids].set(p, mode="drop"), now.run, part), rows

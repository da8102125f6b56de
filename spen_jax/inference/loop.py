"""All steps of a block by scans: of the one loop that runs every solver the kind that takes a fixed number of steps."""

import math
import sys
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from spen_jax.inference.plan import Plan, Unrolled, Values
from spen_jax.inference.steps import Mapped, at_step, init, read, report, step


class Found(NamedTuple):
    """What a loop found, the examples first; all but an unrolled `y` are constants to derivatives."""

    y: Any
    energy: jax.Array
    residual: jax.Array
    steps: jax.Array | None
    trace: dict[str, Any]


def through(plan: Plan, values: Values, context: Any, y: Any, examples: Any, last: bool) -> Found:
    """All steps of one block; `examples` are their numbers where progress is reported, else None; `last`: `Mapped`."""
    each = Mapped(plan, last)
    first = at_step(values, 0)
    context, y = each.inward((context, y))
    state = each(init, first, (context, y))
    rows = [jax.tree.map(lambda a: a[None], each.record(first, context, state))]
    timed = plan.progress or any(map(jnp.ndim, jax.tree.leaves(values[1:])))
    times = jnp.arange(plan.steps) if timed else None
    walk = partial(_walk, each, examples)

    def part(begin, end):
        return None if times is None else times[begin:end]

    cut, segment = cut_and_segment(plan)
    if cut:
        state, some = walk(*lax.stop_gradient((values, context, state)), part(0, cut), cut)
        rows, state = lax.stop_gradient((rows, state))
        rows.append(some)
    segments, rest = divmod(plan.steps - cut, segment)
    if segments <= 1:
        segments, rest = 0, plan.steps - cut
    if rest:
        state, some = walk(values, context, state, part(cut, cut + rest), rest)
        rows.append(some)
    if segments:

        @partial(jax.checkpoint, prevent_cse=False)
        def one_segment(state, times):
            return walk(values, context, state, times, segment)

        times = None if times is None else times[cut + rest :].reshape(segments, segment)
        state, some = lax.scan(one_segment, state, times, length=segments)
        # (segments, segment, ...) -> (steps, ...)
        rows.append(jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:]), some))

    y = each(read, first, (context, state))
    end, one = lax.stop_gradient((at_step(values, plan.steps - 1), (context, y)))
    there = each(report, end, one)
    trace = jax.tree.map(lambda *a: jnp.moveaxis(jnp.concatenate(a), 0, 1), *rows)
    y, energy, residual = each.outward((y, there.energy, there.residual))
    return Found(y, energy, residual, None, trace)


def _walk(each: Mapped, examples, values, context, state, times, length):
    """So many steps, and what the trace keeps after each."""
    plan = each.plan

    def body(state, t):
        now = at_step(values, t)
        state = each(step, now, (context, state))
        if examples is not None:
            _show(plan.steps, t + 1, examples)
        return state, each.record(now, context, state)

    return lax.scan(body, state, times, length=length)


def cut_and_segment(plan: Plan) -> tuple[int, int]:
    """The steps that are not differentiated, and how many of the others make a segment."""
    if not isinstance(plan.mode, Unrolled):
        return 0, max(plan.steps, 1)
    cut = plan.steps - min(plan.mode.last or plan.steps, plan.steps)
    rest = max(plan.steps - cut, 1)
    return cut, plan.mode.segment or (rest if rest <= 32 else math.ceil(math.sqrt(rest)))


def _show(steps, t, examples):
    """A line on stderr, about 20 times for each block."""
    lax.cond(
        (t % max(1, steps // 20) == 0) | (t == steps),
        lambda: jax.debug.callback(
            partial(write_progress, steps), t, examples[0] + 1, examples[-1] + 1, t == steps
        ),
        lambda: None,
    )


def write_progress(steps: int, t: Any, first: Any, last: Any, done: Any) -> None:
    """One report, in place of the last one on its line."""
    bar = ("#" * (20 * int(t) // steps)).ljust(20, ".")
    line = f"minimize: examples {int(first)} to {int(last)} [{bar}] step {int(t)} of {steps}"
    sys.stderr.write(f"\r{line}" + "\n" * bool(done))
    sys.stderr.flush()

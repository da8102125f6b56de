"""How a call of `minimize` would run, in words."""

from typing import Any, Unpack

import jax
import jax.numpy as jnp
from jax.extend.core import jaxprs_in_params

from spen_jax import blocks, checks, convolutions
from spen_jax.inference import starts
from spen_jax.inference.keeping import made_again
from spen_jax.inference.plan import Options, Unrolled, Values, check_numbers, plan_of
from spen_jax.inference.steps import Mapped, at_step, hold, init, obstacle, size_of, step
from spen_jax.trees import one_of
from spen_jax.types import Energy


def how_it_runs(
    energy: Energy,
    params: Any,
    context: Any,
    start: Any = None,
    *,
    known: tuple[Any, Any] | None = None,
    **options: Unpack[Options],
) -> str:
    """How `minimize` runs with the same arguments on this machine's kind of device: what was decided, and why.

    Which axis the examples stand along and what else it could not be, the blocks of a batch, convolutions in the fast
    layout, and whether a derivative through the steps makes them again. Nothing is computed. `energy`, `params`,
    `context`, `start`, `known` and the options are those of `minimize`, but `Exact` has no steps to tell of
    (ValueError); ValueError and TypeError as there.
    """
    given: Any = dict(options)
    settings, temperature = given.pop("settings", None) or {}, given.pop("temperature", None)
    shape = given.pop("shape", None)
    plan = plan_of(energy, known is not None, given)
    y = starts.points(start, plan.domain, context, shape)
    check_numbers(plan.solver, settings, temperature)
    numbers_of = jax.tree.map(jnp.asarray, (settings, temperature))
    values = at_step(Values(params, *numbers_of), 0)
    checks.check_energy(energy, params, *one_of((context, y)))
    context = hold(plan, context, known, y)
    size, numbers = size_of(y)
    count, block = blocks.block_sizes(size, numbers)
    why = obstacle(plan, values, context, y, block)
    lines = ["examples last" if why is None else f"examples first: {why}"]
    if isinstance(plan.mode, Unrolled):
        again = made_again(plan, values, context, y)
        lines.append(
            "steps made again for a derivative" if again else "steps kept for a derivative"
        )
        count, block = (count, block) if again else (1, size)
    lines.append(f"{count} block{'s' * (count > 1)} of {block} examples")

    def one_step(values, context, y):
        each = Mapped(plan, False)
        return each(step, values, (context, each(init, values, (context, y))))

    found = _convolutions(jax.make_jaxpr(one_step)(values, context, y).jaxpr)
    if found:
        lines.append(f"{found} convolutions in a step, in the layout that is fast on this device")
    return "; ".join(lines)


def _convolutions(jaxpr):
    inner = sum(_convolutions(j) for eqn in jaxpr.eqns for j in jaxprs_in_params(eqn.params))
    return inner + sum(convolutions.result_and_kernel(eqn) is not None for eqn in jaxpr.eqns)

"""Inference: argmin over y of E(x, y), by a solver's steps in one compiled loop.

An energy is a function `(params, context, y) -> scalar` of ONE example; `minimize` batches it.
Shapes: B examples, y of shape (B, ...) or a pytree of such arrays, and every array of the context with
a leading axis B.

The choices hardly depend on each other: where y lives (`domains`), which algorithm moves it (`solvers`), when it stops
(`steps`, `stop_early`) and what a derivative of the answer means (`differentiate`). The loop maps the solver's
one-example step over the examples INSIDE one scan, in blocks that stay in a CPU's cache, and where
the step allows with the examples along the last axis (`layout`).
"""

from functools import partial
from typing import Any, Unpack

import jax
import jax.numpy as jnp
from jax import lax
from jax.core import Tracer

from spen_jax import blocks, checks, parallel
from spen_jax.inference import loop, starts, stopping
from spen_jax.inference.exactly import Exact, exactly
from spen_jax.inference.implicit import implicit, known_energy
from spen_jax.inference.keeping import made_again
from spen_jax.inference.plan import (
    Implicit,
    Options,
    Unrolled,
    Values,
    check_numbers,
    check_schedules,
    plan_of,
    with_range,
)
from spen_jax.inference.solution import Solution
from spen_jax.inference.steps import Mapped, at_step, hold, report, size_of, suits_last
from spen_jax.trees import inner, one_of
from spen_jax.types import Energy


def minimize(
    energy: Energy,
    params: Any,
    context: Any,
    start: Any = None,
    *,
    known: tuple[Any, Any] | None = None,
    **options: Unpack[Options],
) -> Solution:
    """argmin over y in the domain of E(x, y) for each example, by a solver's steps from `start`.

    Args:
      energy: `(params, context, y) -> scalar` for one example, low where good. Compiled once for each function: pass
        the same object again, not a new lambda.
      params: what the energy is a function of, the same for all examples.
      context: what the energy knows of x; every leaf has a leading axis of B examples.
      start: the first points, projected onto the domain: an array (B, ...), or (1, ...) for all alike; a number for all
        coordinates or None, the domain's middle, with `shape`; or a function of the context.
      known: (mask, y): what is known of the answer, (B, ...) each, stands still through inference, whatever the domain,
        solver or start. The mask has an entry for each part of y (`Domain.parts`): for rows of simplices (B, T, K) it
        is (B, T).
      **options: `domain`, `solver`, `steps`, `settings`, `temperature`, `differentiate`, `tolerance`, `stop_early`,
        `precision`, `trace`, `progress`, `shape`, see `inference.Options`.

    Returns a `Solution`, each example's own. ValueError for shapes that do not fit, an energy that does not return a
    scalar, settings out of range, or float64 points without JAX's 64-bit mode; TypeError for an unknown option.
    """
    given: Any = options
    if isinstance(given.get("solver"), Exact):
        return exactly(energy, params, context, known, given)
    settings, temperature = given.pop("settings", None), given.pop("temperature", None)
    shape = given.pop("shape", None)
    plan = plan_of(energy, known is not None, given)
    start = starts.points(start, plan.domain, context, shape)
    if settings or temperature is not None:
        check_numbers(plan.solver, settings or {}, temperature)
    shared, batch = (params, settings, temperature), (start, context, known)
    try:
        if not plan.stop_early and not plan.trace and _constant((shared, batch)):
            return _by_and_by(plan, shared, batch)
        found = parallel.call(partial(_solve, plan), shared, batch, plan.steps)
    except (TypeError, ValueError) as error:
        if "No constant handler" in str(error):
            error.add_note(
                "the energy closes over a value that is being differentiated: pass it through `params`"
            )
        checks.check_arrays(params=params, context=context, known=known)
        raise
    y, energies, residual, stopped_after, trace = found
    return Solution(y, energies, residual, stopped_after, trace, plan.steps, plan.tolerance)


def minimize_best(
    energy: Energy,
    params: Any,
    context: Any,
    starts: Any,
    *,
    known: tuple[Any, Any] | None = None,
    **options: Unpack[Options],
) -> Solution:
    """The `Solution` of lowest energy among S starts for each example; failed ones come last.

    `starts` is (B, S, ...), or a pytree of such arrays; energy, params and options are as in `minimize`, and `known`,
    `context` have one row for each of B examples. ValueError for starts without S, and as there.
    """
    found, energies = from_each_start(energy, params, context, starts, known=known, **options)
    batch, many = energies.shape
    best = jnp.arange(batch) * many + jnp.argmin(energies, axis=1)
    return jax.tree.map(lambda a: a[best], found)


def from_each_start(
    energy: Energy,
    params: Any,
    context: Any,
    starts: Any,
    *,
    known: tuple[Any, Any] | None = None,
    **options: Unpack[Options],
) -> tuple[Solution, jax.Array]:
    """The B S solutions from S starts for each example, and their energies (B, S), infinite where one failed."""
    shape = jax.tree.leaves(starts)[0].shape
    if len(shape) < 2 or not shape[1]:
        raise ValueError(
            f"starts needs shape (B, S, ...) with S starts for each example, got {shape}"
        )
    batch, many = shape[:2]
    checks.check_context(context, batch)
    flat = jax.tree.map(lambda a: a.reshape(batch * many, *a.shape[2:]), starts)
    context, known = jax.tree.map(lambda a: jnp.repeat(a, many, axis=0), (context, known))
    found = minimize(energy, params, context, flat, known=known, **options)
    return found, jnp.where(found.failed, jnp.inf, found.energy).reshape(batch, many)


_ARRAYS: set[type] = set()
"""Types of constant arrays that were met: to ask each array takes microseconds of a call."""


def _constant(tree):
    """Whether all are arrays that nobody can change and that nothing is differentiated by."""
    leaves = jax.tree_util.tree_leaves(tree)
    if {*map(type, leaves)} <= _ARRAYS:
        return True
    constant = all(isinstance(a, jax.Array) and not isinstance(a, Tracer) for a in leaves)
    if constant:
        _ARRAYS.update(map(type, leaves))
    return constant


def _by_and_by(plan, shared, batch):
    """A solution whose energy and residual, which take as long as three steps, are computed when asked for."""
    y = parallel.call(partial(_points, plan), shared, batch, plan.steps)

    def judge():
        return parallel.call(partial(_judged, plan), shared, (y, *batch[1:]), 1)

    return Solution.judged_later(y, judge, plan.steps, plan.tolerance)


@partial(jax.jit, static_argnums=0)
def _points(plan, shared, batch):
    """y alone: what else `_solve` computes is left out by the compiler."""
    return _solve(plan, shared, batch)[0]


@partial(jax.jit, static_argnums=0)
def _judged(plan, shared, batch):
    """The energies and residuals of points that were found."""

    def of_arrays(shared, batch):
        (params, settings, temperature), (y, context, known) = shared, batch
        values = _in_range(plan, Values(params, settings, temperature), jax.tree.leaves(y)[0].dtype)
        end, context = at_step(values, plan.steps - 1), hold(plan, context, known, y)
        size, numbers = size_of(y)
        each = Mapped(
            plan, suits_last(plan, values, context, y, blocks.block_sizes(size, numbers)[1])
        )

        def judge(end, block):
            there = each(report, end, each.inward(block))
            return each.outward((there.energy, there.residual))

        return blocks.in_blocks(judge, end, (context, y), numbers)

    return parallel.automatic(of_arrays, shared, batch, batched=True)


@partial(jax.jit, static_argnums=0)
def _solve(plan, shared, batch):
    return parallel.automatic(partial(_solve_all, plan), shared, batch, batched=True)


def _solve_all(plan, shared, batch):
    """The fields of the solution that are arrays."""
    (params, settings, temperature), (start, context, known) = shared, batch
    settings = {name: jnp.asarray(value) for name, value in (settings or {}).items()}
    temperature = None if temperature is None else jnp.asarray(temperature)
    values = Values(params, settings, temperature)
    _check(plan, values, context, start, known)
    values = _in_range(plan, values, jax.tree.leaves(start)[0].dtype)
    numbers = size_of(start)[1]
    context = hold(plan, context, known, start)
    end = at_step(values, plan.steps - 1)
    found = _find(plan, values, context, start, numbers)
    y = found.y
    if isinstance(plan.mode, Implicit):
        y = implicit(plan, plan.mode, numbers, end, context, y)
    energy = known_energy(plan, (end, context, y), found.energy)
    return y, energy, found.residual, found.steps, found.trace


def _in_range(plan, values, dtype):
    """The numbers of the steps in the points' type, not a number where they are out of range."""
    numbers = jax.tree.map(
        lambda a: jnp.asarray(a, dtype), (values.settings or {}, values.temperature)
    )
    return Values(values.params, *with_range(plan, *numbers))


def _find(plan, values, context, start, numbers):
    """The points that the steps lead to, as constants unless they are unrolled."""
    batch = jax.tree.leaves(start)[0].shape[0]
    fixed = lax.stop_gradient((values, context, start))
    last = suits_last(plan, *fixed, blocks.block_sizes(batch, numbers)[1])
    if plan.stop_early:

        def stopped(values, part):
            context, start = part
            return stopping.until(plan, values, context, start, last)

        return parallel.over_devices(stopped, fixed[0], fixed[1:])
    unrolled = isinstance(plan.mode, Unrolled)
    values, *batched = (values, context, start) if unrolled else fixed

    def solve(values, block):
        context, start, examples = block
        return loop.through(plan, values, context, start, examples, last)

    # A progress report tells by the examples' numbers which block is running.
    examples = jnp.arange(batch) if plan.progress and batch else None
    if unrolled and not made_again(plan, *fixed):
        return parallel.over_devices(solve, values, (*batched, examples))
    return blocks.in_blocks(solve, values, (*batched, examples), numbers, again=unrolled)


def _check(plan, values, context, start, known):
    """Errors, before anything is traced."""
    leaves = jax.tree.leaves(start)
    for leaf in leaves:
        if leaf.ndim < 1 or not jnp.issubdtype(leaf.dtype, jnp.floating):
            raise ValueError(
                "start must be a float array of shape (B, ...), one point for each example, got shape "
                f"{leaf.shape} of {leaf.dtype}; for a constant give a number, with shape=(L,)"
            )
        if leaf.dtype.itemsize < 4:
            raise ValueError(
                f"start must be float32 or float64, got {leaf.dtype}, in which small steps are lost: give "
                "start.astype('float32'); parameters and context may be of 16 bits"
            )
    if not leaves:
        raise ValueError(f"start must hold an array of shape (B, ...), got {start}")
    sizes = {leaf.shape[0] for leaf in leaves}
    if len(sizes) != 1:
        raise ValueError(f"all arrays of start need the same leading axis of examples, got {sizes}")
    (batch,) = sizes
    checks.check_context(context, batch)
    check_schedules(plan, values)
    one = one_of((context, start))
    plan.domain.check(one[1])
    if known is not None:
        _check_known(plan, known, start)
    checks.check_energy(plan.energy, values.params, *one)
    if isinstance(plan.mode, Unrolled):
        _check_unrolls(plan, *one)


def _check_unrolls(plan, context, y):
    def step(context, y):  # a domain may read arrays of the context
        def bowl(y):
            return inner(y, y)

        domain = plan.domain.within(context)
        return plan.solver.step(bowl, plan.solver.init(y, domain), domain)

    if checks.loops_without_end(step, context, y):
        raise ValueError(
            f"each step of this {type(plan.solver).__name__} searches in a loop of unknown length, which has no "
            "reverse mode: differentiate it as 'stopped' or 'implicit'"
        )


def _check_known(plan, known, start):
    if not isinstance(known, tuple) or len(known) != 2:
        raise ValueError(
            f"known must be a pair (mask, y) of what is known of the answers, got {known!r}"
        )
    mask, y = known
    batch = jax.tree.leaves(start)[0].shape[0]
    parts = jax.tree.leaves(
        plan.domain.parts(one_of(start)),
        is_leaf=lambda s: isinstance(s, tuple) and jax.tree_util.all_leaves(s),
    )
    want = [(batch, *part) for part in parts]
    got = [jnp.shape(m) for m in jax.tree.leaves(mask)]
    if not all(jnp.issubdtype(jnp.result_type(m), jnp.bool_) for m in jax.tree.leaves(mask)):
        raise ValueError(
            "the mask of known must be booleans, true where y is known; known is (mask, y), the mask first"
        )
    if got != want:
        raise ValueError(
            f"the mask of known needs an entry for each part of y, shape {', '.join(map(str, want))}, got "
            f"{', '.join(map(str, got))}"
        )
    if jax.tree.map(jnp.shape, y) != jax.tree.map(jnp.shape, start):
        raise ValueError(
            f"the y of known must have the shape of the start, {jax.tree.map(jnp.shape, start)}, got "
            f"{jax.tree.map(jnp.shape, y)}; where the mask is false its values do not matter"
        )

"""Inference: argmin over y of E(x, y), by a solver's steps in one compiled loop.

An energy is a function `(params, context, y) -> scalar` of ONE example; `minimize` batches it.
Shapes: B examples, y of shape (B, ...) or a pytree of such arrays, and every array of the context with
a leading axis B.

The choices are orthogonal: where y lives (`domains`), which algorithm moves it (`solvers`), when it stops
(`steps`, `stop_early`) and what a derivative of the answer means (`differentiate`). The loop maps the solver's
one-example step over the examples INSIDE one scan, in blocks that stay in a CPU's cache, and where
the step allows with the examples along the last axis (`batching`).
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from spen_jax import batching, loop, stopping
from spen_jax.domains import Box, Domain
from spen_jax.loop import Energy, Implicit, Plan, Unrolled
from spen_jax.solvers import GradientDescent, Solver, unrolls, with_settings

TRACES = "y", "energy", "residual"


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["y", "energy", "residual", "stopped_after", "trace"],
    meta_fields=["limit", "tolerance"],
)
@dataclass
class Solution:
    """What an inference found, for each of B examples.

    Attributes:
      y: the point, (B, ...): the last one; with `stop_early`, of an example that failed or ended above the
        energy it began with, the one of lowest energy.
      energy: the objective there, E(x, y) or with a temperature E(x, y) - temperature H(y), (B,).
      residual: max_i |y - project(y - grad)|_i, (B,): 0 exactly where y satisfies the first-order conditions
        of a minimum on the domain; not a number where the example failed.
      stopped_after: with `stop_early` the steps taken, (B,); else None, see `steps`.
      trace: what was asked for, name -> (B, steps + 1, ...): before the first step and after each.
      limit: the steps allowed.
      tolerance: the residual up to which an example counts as converged.
    """

    y: Any
    energy: jax.Array
    residual: jax.Array
    stopped_after: jax.Array | None
    trace: dict[str, Any]
    limit: int
    tolerance: float

    @property
    def steps(self) -> jax.Array:
        """Steps taken, (B,)."""
        if self.stopped_after is None:
            return jnp.full(self.residual.shape, self.limit)
        return self.stopped_after

    @property
    def failed(self) -> jax.Array:
        """Whether the energy or the gradient is not finite, (B,): where it ended, with `stop_early` anywhere."""
        return ~loop.finite(self.energy, self.residual)

    @property
    def converged(self) -> jax.Array:
        """residual <= tolerance and nothing failed, (B,)."""
        return (self.residual <= self.tolerance) & ~self.failed


Differentiate = Literal["stopped", "unrolled", "implicit"] | Unrolled | Implicit
_MODES = {"stopped": None, "unrolled": Unrolled(), "implicit": Implicit()}


@lru_cache(maxsize=256)
def loss_augmented(energy: Energy, cost: Callable[[jax.Array, jax.Array], jax.Array]) -> Energy:
    """E(x, y) - D(y, truth): what loss-augmented inference minimises, an energy whose context is (context, truth).

    Its minimiser is the most offending answer, low in energy and far from the truth. `cost(y, truth)` gives
    D for one example. Equal arguments give the same function, so that nothing compiles twice. Source:
    Tsochantaridis et al. (2004), margin rescaling; Belanger & McCallum (2016).
    """

    def augmented(params, context, y):
        inner, truth = context
        return energy(params, inner, y) - cost(y, truth)

    return augmented


@partial(jax.jit, static_argnames="energy")
def implied_logits(energy: Energy, params: Any, context: Any, y: jax.Array) -> jax.Array:
    """z = -dE(x, y)/dy for each example, (B, L) -> (B, L): how strongly the energy asks for each label at y.

    For an energy linear in y_i given the other labels, z_i = E(y_i = 0) - E(y_i = 1) exactly, the logit
    of that label under the Gibbs distribution. An energy with entropy of weight 1 has zero gradient at
    its minimiser, where the logit of y itself plays this part.
    """
    return -jax.vmap(jax.grad(energy, argnums=2), (None, 0, 0))(params, context, y)


@partial(jax.jit, static_argnames="energy")
def interactions(energy: Energy, params: Any, context: Any, y: jax.Array) -> jax.Array:
    """Mean over examples of d^2 E / dy_i dy_j at y, (B, L) -> (L, L): which labels attract and repel.

    Off the diagonal a negative number means that label i lowers the energy of label j. For an energy quadratic
    in y it is E(1, 1) - E(1, 0) - E(0, 1) + E(0, 0) in the two labels, whatever the others.
    """
    hessian = jax.hessian(energy, argnums=2)

    def add(total, example):
        return total + hessian(params, *example), None

    labels = y.shape[-1]
    total, _ = lax.scan(add, jnp.zeros((labels, labels)), (context, y))
    return total / len(y)


def minimize(
    energy: Energy,
    params: Any,
    context: Any,
    start: Any,
    *,
    domain: Domain = Box(),
    solver: Solver = GradientDescent(),
    steps: int = 30,
    settings: dict[str, Any] | None = None,
    temperature: Any = None,
    differentiate: Differentiate = "stopped",
    tolerance: float = 1e-3,
    stop_early: bool = False,
    trace: str | tuple[str, ...] | list[str] = (),
    progress: bool = False,
) -> Solution:
    """argmin over y in `domain` of E(x, y) for each example, by `steps` steps of `solver` from `start`.

    Args:
      energy: `(params, context, y) -> scalar` for one example. Compiled once for each function: pass the same
        object again, not a new lambda.
      params: what the energy is a function of, the same for all examples.
      context: what the energy knows of x; every leaf has a leading axis of B examples.
      start: the first points, (B, ...); projected onto the domain. A constant, a random point
        (`domain.random`), the answer of a feature network, or anything else.
      domain: where y lives.
      solver: the algorithm.
      steps: how many steps, at least 0; with `stop_early` at most.
      settings: numbers of the solver by name in place of its own, such as learned ones: scalars, or arrays of
        one number for each step. `{"step_size": schedule(jnp.arange(steps))}` takes any Optax schedule.
        Of learned ones, known only when the program runs, the range is not checked.
      temperature: of entropy smoothing, E(x, y) - temperature H(y), H the domain's entropy: a scalar, or
        one number for each step. `energy` and `residual` are then those of this objective at the end.
      differentiate: what `jax.grad` makes of the solution. "stopped": `y` is a constant and `energy` depends on
        the parameters at that fixed y, so that its gradient is that of min_y E at an interior or
        constrained optimum (the envelope theorem). "unrolled", or `Unrolled(last, segment)`: `y` and `energy` are
        differentiated through the steps. "implicit", or `Implicit(...)`: `y` as a minimiser; settings and start
        then have gradient 0. `residual` and `trace` (but for unrolled points) are constants.
      tolerance: the residual up to which an example counts as converged.
      stop_early: each example stops by itself once it has converged, or failed; examples are looked at every
        `stopping.LOOK` steps, and those that go on are gathered, so that the time follows the steps taken. Not to be
        unrolled: a while loop has no reverse mode.
      trace: which of "y", "energy", "residual" to keep for every step.
      progress: whether to report on stderr while the program runs.

    Returns:
      A `Solution`, each example's own.

    Raises:
      ValueError: for shapes that do not fit, an energy that does not return a scalar, unknown names, settings out of
        range, or float64 points without JAX's 64-bit mode.
    """
    start = loop.as_points(start)
    mode: Any = _mode(differentiate) if isinstance(differentiate, str) else differentiate
    trace = tuple(trace) if isinstance(trace, list | tuple) else (trace,)
    if settings is not None or temperature is not None:
        settings, temperature = _numbers(solver, settings or {}, temperature)
    plan = Plan(energy, domain, solver, steps, mode, tolerance, stop_early, trace, progress)
    try:
        solved = _solve(plan, params, context, start, settings, temperature)
    except (TypeError, ValueError) as error:
        _explain(error)
        raise
    y, energies, residual, stopped_after, rows = solved
    return Solution(y, energies, residual, stopped_after, rows, steps, tolerance)


def minimize_best(
    energy: Energy, params: Any, context: Any, starts: Any, **options: Any
) -> Solution:
    """The solution of lowest energy among S starts for each example; failed ones come last.

    `starts` is (B, S, ...), or a pytree of such arrays; everything else is as in `minimize`.
    """
    shape = jax.tree.leaves(starts)[0].shape
    if len(shape) < 2 or not shape[1]:
        raise ValueError(
            f"starts needs shape (B, S, ...) with S starts for each example, got {shape}"
        )
    batch, many = shape[:2]
    loop.check_context(context, batch)
    flat = jax.tree.map(lambda a: a.reshape(batch * many, *a.shape[2:]), starts)
    repeated = jax.tree.map(lambda a: jnp.repeat(jnp.asarray(a), many, axis=0), context)
    found = minimize(energy, params, repeated, flat, **options)
    energies = jnp.where(found.failed, jnp.inf, found.energy).reshape(batch, many)
    best = jnp.arange(batch) * many + jnp.argmin(energies, axis=1)
    return jax.tree.map(lambda a: a[best], found)


@partial(jax.jit, static_argnums=0)
def _solve(plan, params, context, start, settings, temperature):
    """The fields of the solution that are arrays."""
    _check(plan, (params, settings or {}, temperature), context, start)
    leaves = jax.tree.leaves(start)
    scheduled = jax.tree.map(
        lambda a: jnp.asarray(a, leaves[0].dtype), (settings or {}, temperature)
    )
    values = params, *scheduled
    batch = len(leaves[0])
    numbers = sum(a.size for a in leaves) // max(batch, 1)
    fixed = lax.stop_gradient((values, context, start))
    end = loop.at_step(values, plan.steps - 1)
    if plan.stop_early:
        found = stopping.until(plan, *fixed)
    else:
        unrolled = isinstance(plan.mode, Unrolled)
        loop_values, *batched = (values, context, start) if unrolled else fixed

        def solve(block):
            return loop.through(plan, loop_values, *block)

        if unrolled and batching.block_sizes(batch, numbers)[0] > 1:
            # The backward pass repeats a block's forward pass, so that only one block's steps are kept.
            solve = jax.checkpoint(solve, prevent_cse=False)
        # A progress report tells by the examples' numbers which block is running.
        examples = jnp.arange(batch) if plan.progress and batch else None
        found = batching.in_blocks(solve, (*batched, examples), numbers)
    y = found.y
    if isinstance(plan.mode, Implicit):
        attach = jax.vmap(partial(loop.implicit, plan, plan.mode, end))
        y = batching.in_blocks(lambda block: attach(*block), (context, y), numbers)
    energy = loop.known_energy(plan, (end, context, y), found.energy)
    return y, energy, found.residual, found.steps, found.trace


# Errors, before anything is traced.


def _mode(name):
    if name not in _MODES:
        raise ValueError(
            f"differentiate must be one of {', '.join(map(repr, _MODES))}, Unrolled(last=k) for the last k "
            f"steps only, or Implicit(...), got {name!r}"
        )
    return _MODES[name]


def _explain(error):
    """What JAX's error means here, added to it as a note."""
    if "Non-hashable static" in str(error):
        error.add_note(
            "energy, domain, solver, steps and tolerance must be fixed: arrays go to `settings`"
        )
    if "No constant handler" in str(error):
        error.add_note(
            "the energy closes over a value that is being differentiated: pass it through `params`"
        )


def _numbers(solver, settings, temperature):
    """Both as arrays; ValueError for unknown names and, of numbers known now, for those out of range."""
    if not isinstance(settings, dict):
        raise ValueError(f'settings must be a dict such as {{"step_size": 0.1}}, got {settings!r}')

    def known(a):
        try:
            return [float(v) for v in np.asarray(a).ravel()]
        except jax.errors.TracerArrayConversionError:
            return []

    settings = {name: jnp.asarray(value) for name, value in settings.items()}
    for name, value in settings.items():
        for number in known(value):
            with_settings(solver, {name: number})
    if temperature is not None:
        temperature = jnp.asarray(temperature)
        if any(not number >= 0 for number in known(temperature)):
            raise ValueError(f"temperature must be 0 or more, got {temperature}")
    return settings, temperature


def _check(plan, values, context, start):
    _check_plan(plan)
    leaves = jax.tree.leaves(start)
    for leaf in leaves:
        if leaf.ndim < 1 or not jnp.issubdtype(leaf.dtype, jnp.floating):
            raise ValueError(
                "start must be a float array of shape (B, ...), one point for each example, got shape "
                f"{leaf.shape} of {leaf.dtype}; give a constant as jnp.full((B, L), constant)"
            )
    if not leaves:
        raise ValueError(f"start must hold an array of shape (B, ...), got {start}")
    sizes = {leaf.shape[0] for leaf in leaves}
    if len(sizes) != 1:
        raise ValueError(f"all arrays of start need the same leading axis of examples, got {sizes}")
    (batch,) = sizes
    loop.check_context(context, batch)
    for name, value in {**values[1], "temperature": values[2]}.items():
        if value is not None and jnp.shape(value) not in ((), (max(plan.steps, 1),)):
            raise ValueError(
                f"{name} must be one number or one for each of {plan.steps} steps, got shape {jnp.shape(value)}"
            )
    if plan.stop_early and jnp.ndim(0 if values[2] is None else values[2]):
        raise ValueError(
            "a temperature for each step needs all steps: leave stop_early out, or give one temperature"
        )
    with_settings(plan.solver, values[1])
    one = jax.tree.map(
        lambda a: jax.ShapeDtypeStruct(jnp.shape(a)[1:], jnp.result_type(a)), (context, start)
    )
    plan.domain.check(one[1])
    loop.check_energy(plan.energy, values[0], *one)


def _check_plan(plan):
    if plan.mode is not None and not isinstance(plan.mode, Unrolled | Implicit):
        _mode(plan.mode)
    if plan.steps != int(plan.steps) or plan.steps < 0:
        raise ValueError(f"steps must be a whole number, 0 or more, got {plan.steps}")
    if not plan.tolerance >= 0:
        raise ValueError(f"tolerance must be 0 or more, got {plan.tolerance}")
    if not isinstance(plan.domain, Domain):
        raise ValueError(
            f"domain must be one of spen_jax.domains, such as Box(), Simplex() or Reals(), got {plan.domain!r}"
        )
    methods = [getattr(plan.solver, name, None) for name in ("init", "step", "y")]
    if isinstance(plan.solver, type) or not all(map(callable, methods)):
        raise ValueError(
            "solver must be one of spen_jax.solvers, such as GradientDescent(), MirrorDescent() or "
            f"Optax(optax.adam(0.1)), got {plan.solver!r}"
        )
    if unknown := [name for name in plan.trace if name not in TRACES]:
        raise ValueError(
            f"trace knows {', '.join(map(repr, TRACES))}, got {', '.join(map(repr, unknown))}"
        )
    if plan.stop_early and isinstance(plan.mode, Unrolled):
        raise ValueError(
            "stop_early runs in a while loop, which has no reverse mode: differentiate it as 'stopped' or "
            "'implicit', or unroll a fixed number of steps with stop_early=False"
        )

    if isinstance(plan.mode, Unrolled) and not unrolls(plan.solver):
        raise ValueError(
            f"{plan.solver} makes no steps that a derivative could follow: differentiate it as 'stopped' or "
            "'implicit'"
        )

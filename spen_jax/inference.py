"""Inference: argmin over y of E(x, y), by a solver's steps in one compiled loop.

An energy is a function `(params, context, y) -> scalar` of ONE example; `minimize` batches it.
Shapes: B examples, y of shape (B, ...) or a pytree of such arrays, and every array of the context with
a leading axis B.

The choices are orthogonal: where y lives (`domains`), which algorithm moves it (`solvers`), when it stops
(`steps`, `stop_early`) and what a derivative of the answer means (`differentiate`). The loop maps the solver's
one-example step over the examples INSIDE one scan, in blocks that stay in a CPU's cache, and where
the step allows with the examples along the last axis (`batching`).
"""

import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial, reduce
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.flatten_util import ravel_pytree
from jax.scipy.sparse.linalg import cg

from spen_jax import batching
from spen_jax.domains import Box, Domain
from spen_jax.solvers import FrankWolfe, GradientDescent, Solver, with_settings

Energy = Callable[[Any, Any, Any], jax.Array]
TRACES = "y", "energy", "residual"


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["y", "energy", "residual", "stopped_after", "trace"],
    meta_fields=["limit", "tolerance"],
)
@dataclass(frozen=True)
class Solution:
    """What an inference found, for each of B examples.

    Attributes:
      y: the point, (B, ...): the last one; of an example that `stop_early` did not see converge, the best.
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
        """Whether the example met an energy or a gradient that is not finite, (B,)."""
        return ~_finite(self.energy, self.residual)

    @property
    def converged(self) -> jax.Array:
        """residual <= tolerance and nothing failed, (B,)."""
        return (self.residual <= self.tolerance) & ~self.failed


@dataclass(frozen=True)
class Unrolled:
    """Differentiates the answer through the solver's steps, all or (truncated) the `last` ones.

    What lies before the last steps counts as a constant. The backward pass keeps one state for each segment of
    steps and repeats a segment when it comes to it, so that memory holds steps / segment states and what
    `segment` steps compute. None means all steps up to 32 in one segment, beyond that sqrt(steps).
    """

    last: int | None = None
    segment: int | None = None

    def __post_init__(self):
        for name in ("last", "segment"):
            value = getattr(self, name)
            if value is not None and (value != int(value) or value < 1):
                raise ValueError(f"Unrolled needs {name} >= 1 or None, got {value}")


@dataclass(frozen=True)
class Implicit:
    """Differentiates the answer as a minimiser, by the implicit function theorem, however it was found.

    At a minimum on the domain y = project(y - grad E(y)). With P the (symmetric) Jacobian of the projection
    there, which is 0 along active bounds, and H the Hessian of E, both only ever applied to vectors:
    dy = -P w, (P - P P + P H P + damping P) w = P d(grad E), solved by conjugate gradients.
    Where that does not reach 10 times `tolerance` (relative) in so many `steps`, as it must with a
    singular Hessian, the derivative of that example is NaN; a `damping` > 0 then gives that
    of the proximal step argmin E + damping / 2 ||. - y||^2 instead. Source: Krantz & Parks (2002); for fixed
    points of projections Blondel et al. (2022).
    """

    steps: int = 200
    tolerance: float = 1e-5
    damping: float = 0.0

    def __post_init__(self):
        if not (self.steps >= 1 and self.tolerance > 0 and self.damping >= 0):
            raise ValueError(
                f"Implicit needs steps >= 1, tolerance > 0 and damping >= 0, got {self}"
            )


Differentiate = Literal["stopped", "unrolled", "implicit"] | Unrolled | Implicit
_MODES = {"stopped": None, "unrolled": Unrolled(), "implicit": Implicit()}


class _Plan(NamedTuple):
    """What is fixed when a solve is compiled."""

    energy: Energy
    domain: Domain
    solver: Solver
    steps: int
    mode: Unrolled | Implicit | None
    tolerance: float
    stop_early: bool
    trace: tuple[str, ...]
    progress: bool


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
    trace: str | Sequence[str] = (),
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
      temperature: of entropy smoothing, E(x, y) - temperature H(y), H the domain's entropy: a scalar, or
        one number for each step. `energy` and `residual` are then those of this objective at the end.
      differentiate: what `jax.grad` makes of the solution. "stopped": `y` is a constant and `energy` depends on
        the parameters at that fixed y, so that its gradient is that of min_y E at an interior or
        constrained optimum (the envelope theorem). "unrolled", or `Unrolled(last, segment)`: `y` and `energy` are
        differentiated through the steps. "implicit", or `Implicit(...)`: `y` as a minimiser; settings and start
        then have gradient 0. `residual` and `trace` (but for unrolled points) are constants.
      tolerance: the residual up to which an example counts as converged.
      stop_early: each example stops by itself once it has converged, or failed; a block of examples takes as
        many steps as its slowest. Not to be unrolled: a while loop has no reverse mode.
      trace: which of "y", "energy", "residual" to keep for every step.
      progress: whether to report on stderr while the program runs.

    Returns:
      A `Solution`, each example's own.

    Raises:
      ValueError: for shapes that do not fit, an energy that does not return a scalar, unknown names, settings out of
        range, or float64 points without JAX's 64-bit mode.
    """
    if not isinstance(start, jax.Array):
        start = jax.tree.map(_as_array, start)
    if isinstance(differentiate, str):
        differentiate = _mode(differentiate)  # type: ignore[assignment]
    trace = (trace,) if isinstance(trace, str) else tuple(trace)
    plan = _Plan(
        energy, domain, solver, steps, differentiate, tolerance, stop_early, trace, progress
    )  # type: ignore[arg-type]
    return _solve(plan, params, context, start, settings, temperature)


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
    flat = jax.tree.map(lambda a: a.reshape(batch * many, *a.shape[2:]), starts)
    repeated = jax.tree.map(lambda a: jnp.repeat(jnp.asarray(a), many, axis=0), context)
    found = minimize(energy, params, repeated, flat, **options)
    energies = jnp.where(found.failed, jnp.inf, found.energy).reshape(batch, many)
    best = jnp.arange(batch) * many + jnp.argmin(energies, axis=1)
    return jax.tree.map(lambda a: a[best], found)


@partial(jax.jit, static_argnums=0)
def _solve(plan, params, context, start, settings, temperature):
    values = params, settings or {}, temperature
    _check(plan, values, context, start)
    leaves = jax.tree.leaves(start)
    batch = leaves[0].shape[0]
    numbers = sum(a.size for a in leaves) // max(batch, 1)
    # A progress report tells by the examples' numbers which block is running.
    examples = jnp.arange(batch) if plan.progress else None

    def solve(block):
        return _solve_block(plan, values, *block)

    if isinstance(plan.mode, Unrolled) and batching.block_sizes(batch, numbers)[0] > 1:
        # The backward pass repeats a block's forward pass, so that only one block's steps are kept.
        solve = jax.checkpoint(solve, prevent_cse=False)
    return batching.in_blocks(solve, (context, start, examples), numbers)


def _solve_block(plan, values, context, start, examples) -> Solution:
    fixed = lax.stop_gradient((values, context, start))
    unrolled = isinstance(plan.mode, Unrolled)
    last = not unrolled and _prefers_last(plan, *fixed)
    axis = -1 if last else 0
    loop_values, *inputs = (values, context, start) if unrolled else fixed
    loop_context, y = jax.tree.map(lambda a: jnp.moveaxis(a, 0, axis), inputs)
    each = partial(batching.over_examples, last=last)

    run = _until if plan.stop_early else _through
    found, rows = run(plan, each, loop_values, loop_context, y, examples)
    y, value, residual, steps = jax.tree.map(lambda a: jnp.moveaxis(a, axis, 0), found)
    trace = jax.tree.map(
        lambda a: jnp.moveaxis(jnp.moveaxis(a, 0, 1) if axis == 0 else a, axis, 0), rows
    )
    end = _at(values, plan.steps - 1)
    if isinstance(plan.mode, Implicit):
        y = jax.vmap(partial(_implicit, plan), (None, 0, 0))(end, context, y)
    energy = _known_energy(plan, (end, context, y), value)
    return Solution(y, energy, residual, steps, trace, plan.steps, plan.tolerance)


def _prefers_last(plan, values, context, start):
    """Whether the block runs with its examples along the last axis: on a CPU, in a batch, where all operations suit."""
    if jax.default_backend() != "cpu" or len(jax.tree.leaves(start)[0]) < 64:
        return False
    context, y = jax.tree.map(
        lambda a: jax.ShapeDtypeStruct(a.shape[1:], a.dtype), (context, start)
    )
    now = _at(values, 0)
    state = jax.eval_shape(partial(_init, plan), now, y)
    return all(
        batching.suits_last(partial(function, plan), now, example)
        for function, example in [(_init, y), (_step, (context, state)), (_report, (context, y))]
    )


# One example; `values` are the (params, settings, temperature) of one step.


def _objective(plan, values, context):
    params, _, temperature = values
    if temperature is None:
        return partial(plan.energy, params, context)
    return lambda y: plan.energy(params, context, y) - temperature * plan.domain.entropy(y)


def _init(plan, values, y):
    return with_settings(plan.solver, values[1]).init(plan.domain.project(y), plan.domain)


def _step(plan, values, example):
    context, state = example
    solver = with_settings(plan.solver, values[1])
    return solver.step(_objective(plan, values, context), state, plan.domain)


def _read(plan, _, state):
    return plan.solver.y(state, plan.domain)


def _report(plan, values, example):
    """(y, E, the largest |y - project(y - grad E)|)."""
    context, y = example
    value, gradient = jax.value_and_grad(_objective(plan, values, context))(y)
    moved = plan.domain.project(jax.tree.map(jnp.subtract, y, gradient))
    gaps = jax.tree.map(lambda a, b: jnp.max(jnp.abs(a - b), initial=0), y, moved)
    return y, value, reduce(jnp.maximum, jax.tree.leaves(gaps))


def _finite(value, residual):
    return jnp.isfinite(value) & jnp.isfinite(residual)


class _Run(NamedTuple):
    """An example on its way: `best` is (y, energy, residual) at the lowest finite energy met."""

    state: Any
    best: Any
    active: Any
    steps: Any


def _choose(condition, yes, no):
    return jax.tree.map(partial(jnp.where, condition), yes, no)


def _look(plan, values, context, run):
    """((y, energy, residual) where the example stands, the best it has met)."""
    here = _report(plan, values, (context, _read(plan, values, run.state)))
    better = _finite(*here[1:]) & (here[1] < run.best[1])
    return here, _choose(better, here, run.best)


def _begin(plan, values, y):
    state = _init(plan, values, y)
    y = _read(plan, values, state)
    worst = jnp.full((), jnp.inf, jnp.result_type(*jax.tree.leaves(y)))
    return _Run(state, (y, worst, worst), jnp.array(True), jnp.zeros((), int))


def _advance(plan, values, example):
    """One step, unless the example has converged or failed."""
    context, run = example
    (_, value, residual), best = _look(plan, values, context, run)
    go = run.active & _finite(value, residual) & (residual > plan.tolerance)
    state = _choose(go, _step(plan, values, (context, run.state)), run.state)
    return _Run(state, best, go, run.steps + go)


def _conclude(plan, values, example):
    """(y, energy, residual, steps): where it stands if that converged, else its best point."""
    context, run = example
    here, best = _look(plan, values, context, run)
    ok = _finite(*here[1:])
    back = ~(ok & (here[2] <= plan.tolerance)) & jnp.isfinite(best[1])
    y, value, residual = _choose(back, best, here)
    return y, value, jnp.where(ok, residual, jnp.nan), run.steps


def _implicit(plan, values, context, y):
    """y, with the derivative of a minimiser; see `Implicit`."""
    flat, unravel = ravel_pytree(lax.stop_gradient(y))

    def gradient(values, context, flat):
        return ravel_pytree(jax.grad(_objective(plan, values, context))(unravel(flat)))[0]

    fixed = partial(gradient, *lax.stop_gradient((values, context)))
    target = flat - fixed(flat)

    def onto(v):
        return jax.jvp(lambda z: ravel_pytree(plan.domain.project(unravel(z)))[0], (target,), (v,))[
            1
        ]

    def matrix(w):
        p = onto(w)
        return p - onto(p) + onto(jax.jvp(fixed, (flat,), (p,))[1]) + plan.mode.damping * p

    def solve(matrix, b):
        w, _ = cg(matrix, b, tol=plan.mode.tolerance, maxiter=plan.mode.steps)
        error = jnp.linalg.norm(matrix(w) - b)
        return jnp.where(error <= 10 * plan.mode.tolerance * jnp.linalg.norm(b), w, jnp.nan)

    live = gradient(values, context, flat)
    change = live - lax.stop_gradient(live)  # 0, with the derivative of the gradient
    w = lax.custom_linear_solve(matrix, onto(change), solve, symmetric=True)
    return unravel(flat - onto(w))


# One block of examples; `each` maps a function of one example over them.


def _at(values, t):
    """The values of step t; settings and temperature may have one number for each step."""
    params, *scheduled = values

    def pick(a):
        return a[jnp.clip(t, 0, len(a) - 1)] if jnp.ndim(a) else a

    return params, *jax.tree.map(pick, scheduled)


def _record(plan, each, values, context, state):
    """What the trace wants of the points where the examples stand."""
    if not plan.trace:
        return {}
    y = each(partial(_read, plan), values, state)
    rows = {"y": y}
    if {"energy", "residual"} & {*plan.trace}:
        fixed = lax.stop_gradient((values, (context, y)))
        _, rows["energy"], rows["residual"] = each(partial(_report, plan), *fixed)
    return {name: rows[name] for name in plan.trace}


def _through(plan, each, values, context, y, examples):
    """All steps, by scans: ((y, energy, residual, None), trace)."""
    first = _at(values, 0)
    state = each(partial(_init, plan), first, y)
    rows = [jax.tree.map(lambda a: a[None], _record(plan, each, first, context, state))]
    timed = plan.progress or any(map(jnp.ndim, jax.tree.leaves(values[1:])))
    times = jnp.arange(plan.steps) if timed else None

    def walk(values, context, state, times, length):
        def body(state, t):
            now = _at(values, t)
            state = each(partial(_step, plan), now, (context, state))
            _show(plan, examples, t)
            return state, _record(plan, each, now, context, state)

        return lax.scan(body, state, times, length=length)

    def part(begin, end):
        return None if times is None else times[begin:end]

    cut, segment = 0, plan.steps
    if isinstance(plan.mode, Unrolled):
        cut = plan.steps - min(plan.mode.last or plan.steps, plan.steps)
        rest = plan.steps - cut
        segment = plan.mode.segment or (rest if rest <= 32 else math.ceil(math.sqrt(rest)))
    if cut:
        fixed = lax.stop_gradient((values, context, state))
        state, some = walk(*fixed, part(0, cut), cut)
        state = lax.stop_gradient(state)
        rows.append(some)
    segments, rest = divmod(plan.steps - cut, max(segment, 1))
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
        rows.append(jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:]), some))

    y = each(partial(_read, plan), first, state)
    fixed = lax.stop_gradient((_at(values, plan.steps - 1), (context, y)))
    _, value, residual = each(partial(_report, plan), *fixed)
    return (y, value, residual, None), jax.tree.map(lambda *a: jnp.concatenate(a), *rows)


def _until(plan, each, values, context, y, examples):
    """Steps while an example is active, by a while loop: as `_through`."""
    run = each(partial(_begin, plan), _at(values, 0), y)
    first = _record(plan, each, _at(values, 0), context, run.state)
    rows = jax.tree.map(
        lambda a: jnp.zeros((plan.steps + 1, *a.shape), a.dtype).at[0].set(a), first
    )

    def goes_on(carry):
        t, run, _ = carry
        return (t < plan.steps) & jnp.any(run.active)

    def body(carry):
        t, run, rows = carry
        now = _at(values, t)
        run = each(partial(_advance, plan), now, (context, run))
        _show(plan, examples, t)
        new = _record(plan, each, now, context, run.state)
        return t + 1, run, jax.tree.map(lambda a, n: a.at[t + 1].set(n), rows, new)

    t, run, rows = lax.while_loop(goes_on, body, (0, run, rows))
    found = each(partial(_conclude, plan), _at(values, plan.steps - 1), (context, run))
    return found, jax.tree.map(lambda a: a[jnp.minimum(jnp.arange(plan.steps + 1), t)], rows)


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _known_energy(plan, arguments, value):
    """`value`, known to be the energies of `arguments`, with their derivative: nothing is computed twice."""
    return value


@_known_energy.defjvp
def _known_energy_jvp(plan, primals, tangents):
    def energies(values, context, y):
        each = jax.vmap(
            lambda values, context, y: _objective(plan, values, context)(y), (None, 0, 0)
        )
        return each(values, context, y)

    return primals[1], jax.jvp(energies, primals[0], tangents[0])[1]


def _show(plan, examples, t):
    """Where asked for, a line on stderr, about 20 times for each block."""
    if plan.progress:
        every = max(1, plan.steps // 20)
        lax.cond(
            ((t + 1) % every == 0) | (t + 1 == plan.steps),
            lambda: jax.debug.callback(
                partial(_write, plan.steps), t + 1, examples[0], examples[-1]
            ),
            lambda: None,
        )


def _write(steps, t, first, last):
    bar = ("#" * (20 * int(t) // steps)).ljust(20, ".")
    line = (
        f"minimize: examples {int(first) + 1} to {int(last) + 1} [{bar}] step {int(t)} of {steps}"
    )
    sys.stderr.write(f"\r{line}" + "\n" * (int(t) == steps))
    sys.stderr.flush()


# Errors, before anything is traced.


def _as_array(a):
    if isinstance(a, jax.Array):
        return a
    if getattr(a, "dtype", None) == np.float64 and not jax.config.jax_enable_x64:
        raise ValueError(
            "start is float64, but JAX's 64-bit mode is off and would round it to float32; give "
            "start.astype(np.float32), or switch the mode on with jax.config.update('jax_enable_x64', True)"
        )
    return jnp.asarray(a)


def _mode(name):
    if name not in _MODES:
        raise ValueError(
            f"differentiate must be one of {', '.join(map(repr, _MODES))}, Unrolled(last=k) for the last k "
            f"steps only, or Implicit(...), got {name!r}"
        )
    return _MODES[name]


def _check(plan, values, context, start):
    _check_plan(plan)
    leaves = jax.tree.leaves(start)
    for leaf in leaves:
        if leaf.ndim < 1 or not jnp.issubdtype(leaf.dtype, jnp.floating):
            raise ValueError(
                "start must be a float array of shape (B, ...), one point for each example, got shape "
                f"{leaf.shape} of {leaf.dtype}; give a constant as jnp.full((B, L), constant)"
            )
    sizes = {leaf.shape[0] for leaf in leaves}
    if len(sizes) != 1:
        raise ValueError(f"all arrays of start need the same leading axis of examples, got {sizes}")
    (batch,) = sizes
    for path, leaf in jax.tree.leaves_with_path(context):
        shape = jnp.shape(leaf)
        if not shape or shape[0] != batch:
            raise ValueError(
                f"each array of the context needs a leading axis of {batch} examples, as start has, but "
                f"context{jax.tree_util.keystr(path)} has shape {shape}; what all examples share "
                "belongs in params"
            )
    for name, value in {**values[1], "temperature": values[2]}.items():
        if value is not None and jnp.shape(value) not in ((), (plan.steps,)):
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
    _check_energy(plan, values[0], *one)


def _check_plan(plan):
    if plan.mode is not None and not isinstance(plan.mode, Unrolled | Implicit):
        _mode(plan.mode)
    if plan.steps != int(plan.steps) or plan.steps < 0:
        raise ValueError(f"steps must be a whole number, 0 or more, got {plan.steps}")
    if not isinstance(plan.domain, Domain):
        raise ValueError(
            f"domain must be one of spen_jax.domains, such as Box(), Simplex() or Reals(), got {plan.domain!r}"
        )
    if not all(callable(getattr(plan.solver, name, None)) for name in ("init", "step", "y")):
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

    if isinstance(plan.solver, FrankWolfe) and isinstance(plan.mode, Unrolled):
        raise ValueError(
            "FrankWolfe's corners do not move with the parameters, so that unrolled its gradient is 0: "
            "differentiate it as 'stopped' or 'implicit'"
        )


def _check_energy(plan, params, context, y):
    try:
        out = jax.eval_shape(plan.energy, params, context, y)
    except (TypeError, ValueError) as error:
        shapes = jax.tree.map(lambda a: a.shape, (context, y))
        error.add_note(f"in the energy of one example, with context and y of shapes {shapes}")
        raise
    if not hasattr(out, "shape") or out.shape != ():
        raise ValueError(
            f"the energy must return a scalar for one example, got {out}, with y of shape "
            f"{jax.tree.map(lambda a: a.shape, y)}; sum over the outputs, and leave the batch to minimize"
        )

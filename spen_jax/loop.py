"""The one loop that runs every solver, and what a derivative makes of it; `inference.minimize` is its face.

Functions of one example come first; `Mapped` runs them over a block of examples, whichever axis these stand
along. `values` are (params, settings, temperature), of all steps or of one.
"""

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial, reduce
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.flatten_util import ravel_pytree
from jax.scipy.sparse.linalg import cg

from spen_jax import batching
from spen_jax.domains import Domain
from spen_jax.solvers import Solver, with_settings

Energy = Callable[[Any, Any, Any], jax.Array]
PROBES = 4
"""Random vectors that estimate the diagonal of the implicit solve's matrix."""


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

    At a minimum on the domain y = project(y - s grad E(y)) for any s > 0. With P the (symmetric) Jacobian of the
    projection there, which takes out active bounds, and H the Hessian of E, both only ever applied to vectors:
    dy = -P w, ((P - P P) / s + P (H + damping) P) w = P d(grad E), by preconditioned conjugate gradients.
    Where that does not reach 10 times `tolerance` (relative) in so many `steps`, the derivative of that example
    is NaN. So it is where the Hessian is singular and the minimisers form a set, unless all of them share the
    derivative asked for; a `damping` > 0 then gives that of the proximal step
    argmin E + damping / 2 ||. - y||^2 instead. First derivatives only: a second one would take P and H as constants.
    A point on a bound where the gradient is 0 too counts as bound. Source: Krantz & Parks (2002); for fixed
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


class Plan(NamedTuple):
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


class Found(NamedTuple):
    """What a loop found, the examples first; all but an unrolled `y` are constants to derivatives."""

    y: Any
    energy: jax.Array
    residual: jax.Array
    steps: jax.Array | None
    trace: dict[str, Any]


# One example


def _objective(plan, values, context):
    params, _, temperature = values
    if temperature is None:
        return partial(plan.energy, params, context)
    return lambda y: plan.energy(params, context, y) - temperature * plan.domain.entropy(y)


def init(plan: Plan, values: Any, y: Any) -> Any:
    """The solver's state at the projected start."""
    return with_settings(plan.solver, values[1]).init(plan.domain.project(y), plan.domain)


def step(plan: Plan, values: Any, example: Any) -> Any:
    """The solver's next state, of (context, state)."""
    context, state = example
    solver = with_settings(plan.solver, values[1])
    return solver.step(_objective(plan, values, context), state, plan.domain)


def read(plan: Plan, _: Any, state: Any) -> Any:
    """The point where the solver stands."""
    return plan.solver.y(state, plan.domain)


def report(plan: Plan, values: Any, example: Any) -> tuple[Any, jax.Array, jax.Array]:
    """(y, E, the largest |y - project(y - grad E)|), of (context, y)."""
    context, y = example
    value, gradient = jax.value_and_grad(_objective(plan, values, context))(y)
    moved = plan.domain.project(jax.tree.map(jnp.subtract, y, gradient))
    gaps = jax.tree.map(lambda a, b: jnp.max(jnp.abs(a - b), initial=0), y, moved)
    return y, value, reduce(jnp.maximum, jax.tree.leaves(gaps))


def finite(value: Any, residual: Any) -> jax.Array:
    """Whether an energy and a residual are numbers; a y that is not finite has a residual that is none."""
    return jnp.isfinite(value) & jnp.isfinite(residual)


def implicit(plan: Plan, mode: Implicit, values: Any, context: Any, y: Any) -> Any:
    """y, with the derivative of a minimiser; see `Implicit`."""
    y = lax.stop_gradient(y)
    flat, unravel = ravel_pytree(y)

    def gradient(values, context, flat):
        return ravel_pytree(jax.grad(_objective(plan, values, context))(unravel(flat)))[0]

    fixed = partial(gradient, *lax.stop_gradient((values, context)))
    slope, hessian = jax.linearize(fixed, flat)
    # The Hessian's diagonal by random signs, exact where it is diagonal, as with entropy nearly so: there its entries
    # 1 / (y (1 - y)) span many powers of ten. They scale the step that tells the active bounds, lest the
    # gradient's rounding makes one, and precondition the conjugate gradients.
    signs = jax.random.rademacher(jax.random.key(0), (PROBES, flat.size), flat.dtype)
    diagonal = jnp.abs(jnp.mean(jax.vmap(lambda z: z * hessian(z))(signs), axis=0))
    diagonal = jnp.where(jnp.isfinite(diagonal), diagonal, 0) + mode.damping
    size = 1 / jnp.maximum(1, jnp.max(diagonal, initial=0))
    target, scaled = unravel(flat - size * slope), unravel(flat - slope / jnp.maximum(1, diagonal))
    scale = jnp.maximum(diagonal, 0.1 * jnp.median(diagonal))
    scale = jnp.where(scale > 0, scale, 1)

    def onto(v):
        return ravel_pytree(plan.domain.onto_face(y, target, scaled, unravel(v)))[0]

    def matrix(w):
        p = onto(w)
        return (p - onto(p)) / size + onto(hessian(p) + mode.damping * p)

    def solve(matrix, b):
        options = {"tol": mode.tolerance, "maxiter": mode.steps}
        w, _ = cg(matrix, b, M=lambda r: onto(onto(r) / scale), **options)
        error = jnp.linalg.norm(matrix(w) - b)
        return jnp.where(error <= 10 * mode.tolerance * jnp.linalg.norm(b), w, jnp.nan)

    live = gradient(values, context, flat)
    change = live - lax.stop_gradient(live)  # 0, with the derivative of the gradient
    w = lax.custom_linear_solve(matrix, onto(change), solve, symmetric=True)
    return unravel(_with_derivative(flat, -onto(w)))


@jax.custom_jvp
def _with_derivative(y, change):
    """y, with the derivative of `change`."""
    return y


@_with_derivative.defjvp
def _with_derivative_jvp(primals, tangents):
    return primals[0], tangents[1]


def at_step(values: Any, t: Any) -> Any:
    """The values of step t; settings and temperature may have one number for each step."""
    params, *scheduled = values

    def pick(a):
        return a[jnp.clip(t, 0, len(a) - 1)] if jnp.ndim(a) else a

    return params, *jax.tree.map(pick, scheduled)


class Mapped(NamedTuple):
    """A function of one example mapped over a block, whichever axis the examples stand along."""

    plan: Plan
    last: bool

    def __call__(self, function: Callable[..., Any], values: Any, examples: Any) -> Any:
        """function(plan, values, example) for all examples."""
        function = partial(function, self.plan)
        return batching.over_examples(function, values, examples, last=self.last)

    def inward(self, tree):
        """From examples first."""
        return jax.tree.map(lambda a: jnp.moveaxis(a, 0, -1), tree) if self.last else tree

    def outward(self, tree):
        """To examples first."""
        return jax.tree.map(lambda a: jnp.moveaxis(a, -1, 0), tree) if self.last else tree

    def record(self, values, context, state):
        """What the trace wants of the points where the examples stand."""
        trace = {*self.plan.trace}
        if not trace:
            return {}
        y = self(read, values, state)
        rows = {"y": y}
        if trace - {"y"}:
            fixed = lax.stop_gradient((values, (context, y)))
            _, rows["energy"], rows["residual"] = self(report, *fixed)
        return self.outward({name: rows[name] for name in trace})


def mapped(plan: Plan, values: Any, context: Any, y: Any) -> Mapped:
    """On a CPU a block of a good size runs with its examples last, where all operations suit."""
    unrolled = isinstance(plan.mode, Unrolled)
    if jax.default_backend() != "cpu" or unrolled or len(jax.tree.leaves(y)[0]) < 64:
        return Mapped(plan, False)
    context, y = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape[1:], a.dtype), (context, y))
    now = at_step(values, 0)
    state = jax.eval_shape(partial(init, plan), now, y)
    functions = (init, y), (step, (context, state)), (report, (context, y))
    return Mapped(
        plan, all(batching.suits_last(partial(f, plan), now, one) for f, one in functions)
    )


def through(plan: Plan, values: Any, context: Any, y: Any, examples: Any) -> Found:
    """All steps of one block, by scans."""
    each = mapped(plan, values, context, y)
    first = at_step(values, 0)
    context, y = each.inward((context, y))
    state = each(init, first, y)
    rows = [jax.tree.map(lambda a: a[None], each.record(first, context, state))]
    timed = plan.progress or any(map(jnp.ndim, jax.tree.leaves(values[1:])))
    times = jnp.arange(plan.steps) if timed else None

    def walk(values, context, state, times, length):
        def body(state, t):
            now = at_step(values, t)
            state = each(step, now, (context, state))
            if examples is not None:
                _show(plan.steps, t + 1, examples)
            return state, each.record(now, context, state)

        return lax.scan(body, state, times, length=length)

    def part(begin, end):
        return None if times is None else times[begin:end]

    cut, segment = _cut_and_segment(plan)
    if cut:
        fixed = lax.stop_gradient((values, context, state))
        state, some = walk(*fixed, part(0, cut), cut)
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
        rows.append(jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:]), some))

    y = each(read, first, state)
    end, one = lax.stop_gradient((at_step(values, plan.steps - 1), (context, y)))
    _, value, residual = each(report, end, one)
    trace = jax.tree.map(lambda *a: jnp.moveaxis(jnp.concatenate(a), 0, 1), *rows)
    y, value, residual = each.outward((y, value, residual))
    return Found(y, value, residual, None, trace)


def _cut_and_segment(plan):
    """The steps that are not differentiated, and how many of the others make a segment."""
    if not isinstance(plan.mode, Unrolled):
        return 0, max(plan.steps, 1)
    cut = plan.steps - min(plan.mode.last or plan.steps, plan.steps)
    rest = max(plan.steps - cut, 1)
    return cut, plan.mode.segment or (rest if rest <= 32 else math.ceil(math.sqrt(rest)))


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def known_energy(plan: Plan, arguments: Any, value: jax.Array) -> jax.Array:
    """`value`, known to be the energies of `arguments`, with their derivative: nothing is computed twice."""
    return value


@known_energy.defjvp
def _known_energy_jvp(plan, primals, tangents):
    def energies(values, context, y):
        each = jax.vmap(
            lambda values, context, y: _objective(plan, values, context)(y), (None, 0, 0)
        )
        return each(values, context, y)

    return primals[1], jax.jvp(energies, primals[0], tangents[0])[1]


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


def check_context(context: Any, batch: int) -> None:
    """ValueError where an array of the context has no leading axis of so many examples."""
    for path, leaf in jax.tree.leaves_with_path(context):
        shape = jnp.shape(leaf)
        if not shape or shape[0] != batch:
            raise ValueError(
                f"each array of the context needs a leading axis of {batch} examples, as start has, but "
                f"context{jax.tree_util.keystr(path)} has shape {shape}; what all examples share "
                "belongs in params"
            )


def check_energy(energy: Energy, params: Any, context: Any, y: Any) -> None:
    """ValueError where the energy of one example is no scalar; its own errors get a note of the shapes."""
    shapes = jax.tree.map(lambda a: a.shape, (context, y))
    try:
        out = jax.eval_shape(energy, params, context, y)
    except Exception as error:
        error.add_note(f"in the energy of one example, with context and y of shapes {shapes}")
        raise
    if not hasattr(out, "shape") or out.shape != () or not jnp.issubdtype(out.dtype, jnp.floating):
        raise ValueError(
            f"the energy must return a float scalar for one example, got {out}, with y of shape {shapes[1]}; sum over "
            "the outputs, the batch is not its concern"
        )


def as_points(start: Any) -> Any:
    """`start` as arrays; ValueError where NumPy's float64 would be rounded to float32 in silence."""

    def convert(a):
        if isinstance(a, jax.Array):
            return a
        if getattr(a, "dtype", None) == np.float64 != jnp.result_type(float):
            raise ValueError(
                "start is float64, but JAX's 64-bit mode is off and would round it to float32; give "
                "start.astype(np.float32), or switch the mode on with jax.config.update('jax_enable_x64', True)"
            )
        return jnp.asarray(a)

    return start if isinstance(start, jax.Array) else jax.tree.map(convert, start)

"""The one loop that runs every solver: a scan, or a while loop where examples stop by themselves.

`inference.minimize` is its face. A function of one example comes first and is mapped over a block's
examples by `batching.over_examples`; `values` are (params, settings, temperature), of all steps or of one.
"""

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial, reduce
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.flatten_util import ravel_pytree
from jax.scipy.sparse.linalg import cg

from spen_jax import batching
from spen_jax.domains import Domain
from spen_jax.solvers import Solver, with_settings

Energy = Callable[[Any, Any, Any], jax.Array]
PROBES = 4
"""Random vectors that estimate the diagonal of the implicit solve's matrix."""
LOOK, ROUND = 4, 8
"""With early stopping examples are looked at every LOOK steps, which costs about a step, and those that go on
are gathered into full blocks every ROUND steps."""


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
    Where that does not reach 10 times `tolerance` (relative) in so many `steps`, the derivative of that example
    is NaN. So it is where the Hessian is singular and the minimisers form a set, unless all of them share the
    derivative asked for; a `damping` > 0 then gives that of the proximal step
    argmin E + damping / 2 ||. - y||^2 instead. Source: Krantz & Parks (2002); for fixed points of projections
    Blondel et al. (2022).
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


def finite(value: Any, residual: Any) -> jax.Array:
    """Whether an energy and a residual are numbers; a y that is not finite has a residual that is none."""
    return jnp.isfinite(value) & jnp.isfinite(residual)


def implicit(plan, values, context, y):
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
        # The diagonal by random signs, exact where the matrix is diagonal, as with entropy nearly so: there its
        # entries 1 / (y (1 - y)) span many powers of ten, and conjugate gradients need them taken out.
        signs = jax.random.rademacher(jax.random.key(0), (PROBES, b.size), b.dtype)
        diagonal = jnp.abs(jnp.mean(jax.vmap(lambda z: z * matrix(z))(signs), axis=0))
        diagonal = jnp.maximum(diagonal, 0.1 * jnp.median(diagonal))
        diagonal = jnp.where(diagonal > 0, diagonal, 1)
        options = {"tol": plan.mode.tolerance, "maxiter": plan.mode.steps}
        w, _ = cg(matrix, b, M=lambda r: onto(onto(r) / diagonal), **options)
        error = jnp.linalg.norm(matrix(w) - b)
        return jnp.where(error <= 10 * plan.mode.tolerance * jnp.linalg.norm(b), w, jnp.nan)

    live = gradient(values, context, flat)
    change = live - lax.stop_gradient(live)  # 0, with the derivative of the gradient
    w = lax.custom_linear_solve(matrix, onto(change), solve, symmetric=True)
    return unravel(flat - onto(w))


def at_step(values, t):
    """The values of step t; settings and temperature may have one number for each step."""
    params, *scheduled = values

    def pick(a):
        return a[jnp.clip(t, 0, len(a) - 1)] if jnp.ndim(a) else a

    return params, *jax.tree.map(pick, scheduled)


class _Mapped(NamedTuple):
    """A function of one example mapped over a block, whichever axis the examples stand along."""

    plan: Plan
    last: bool

    def __call__(self, function, values, examples):
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
        y = self(_read, values, state)
        rows = {"y": y}
        if trace - {"y"}:
            fixed = lax.stop_gradient((values, (context, y)))
            _, rows["energy"], rows["residual"] = self(_report, *fixed)
        return self.outward({name: rows[name] for name in trace})


def _mapped(plan, values, context, y) -> _Mapped:
    """On a CPU a block of a good size runs with its examples last, where all operations suit."""
    unrolled = isinstance(plan.mode, Unrolled)
    if jax.default_backend() != "cpu" or unrolled or len(jax.tree.leaves(y)[0]) < 64:
        return _Mapped(plan, False)
    context, y = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape[1:], a.dtype), (context, y))
    now = at_step(values, 0)
    state = jax.eval_shape(partial(_init, plan), now, y)
    functions = (_init, y), (_step, (context, state)), (_report, (context, y))
    return _Mapped(
        plan, all(batching.suits_last(partial(f, plan), now, one) for f, one in functions)
    )


def through(plan: Plan, values: Any, context: Any, y: Any, examples: Any) -> Found:
    """All steps of one block, by scans."""
    each = _mapped(plan, values, context, y)
    first = at_step(values, 0)
    context, y = each.inward((context, y))
    state = each(_init, first, y)
    rows = [jax.tree.map(lambda a: a[None], each.record(first, context, state))]
    timed = plan.progress or any(map(jnp.ndim, jax.tree.leaves(values[1:])))
    times = jnp.arange(plan.steps) if timed else None

    def walk(values, context, state, times, length):
        def body(state, t):
            now = at_step(values, t)
            state = each(_step, now, (context, state))
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
        state = lax.stop_gradient(state)
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

    y = each(_read, first, state)
    end, one = lax.stop_gradient((at_step(values, plan.steps - 1), (context, y)))
    _, value, residual = each(_report, end, one)
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


class _Run(NamedTuple):
    """An example on its way; `best` is the (y, energy, residual) of lowest finite energy it met, or ()."""

    state: Any
    best: Any
    active: Any
    steps: Any


def _begin(plan, values, example):
    start, active = example
    return _Run(_init(plan, values, start), (), active, jnp.zeros((), int))


def _choose(condition, yes, no):
    return jax.tree.map(partial(jnp.where, condition), yes, no)


def _look(plan, values, context, run):
    """((y, energy, residual) where the example stands, the best it has met)."""
    here = _report(plan, values, (context, _read(plan, values, run.state)))
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
    state = _choose(run.active, _step(plan, values, (context, run.state)), run.state)
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
    rows = _Mapped(plan, False).record(first, context, run.state)
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
    each = _Mapped(plan, False)
    return batching.in_blocks(partial(each, function, values), batch, numbers)


def _rounds(plan, values, context, run, rows):
    """All active examples to their end: rounds of ROUND steps, each over as few full blocks as hold them."""
    leaves = jax.tree.leaves(run.state)
    size = len(leaves[0])
    y = jax.eval_shape(jax.vmap(partial(_read, plan, None)), run.state)
    blocks, block = batching.block_sizes(
        size, sum(a.size for a in jax.tree.leaves(y)) // max(size, 1)
    )
    some = jax.tree.map(
        lambda a: jax.ShapeDtypeStruct((block, *a.shape[1:]), a.dtype), (context, y)
    )
    each = _mapped(plan, values, *some)

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
            jax.debug.callback(partial(_write, plan.steps), t, 1, size, done)
        return t, run, rows

    def unfinished(carry):
        t, run, _ = carry
        return (t < plan.steps) & jnp.any(run.active)

    _, run, rows = lax.while_loop(unfinished, one_round, (0, run, rows))
    return run, rows


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def known_energy(plan, arguments, value):
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
            partial(_write, steps), t, examples[0] + 1, examples[-1] + 1, t == steps
        ),
        lambda: None,
    )


def _write(steps, t, first, last, done):
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
    except (TypeError, ValueError) as error:
        error.add_note(f"in the energy of one example, with context and y of shapes {shapes}")
        raise
    if not hasattr(out, "shape") or out.shape != ():
        raise ValueError(
            f"the energy must return a scalar for one example, got {out}, with y of shape {shapes[1]}; sum over "
            "the outputs, the batch is not its concern"
        )

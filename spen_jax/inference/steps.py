"""What a solve does to one example, and to a block of them, whichever axis these stand along.

Functions of one example take (plan, values, example), with the `Values` of one step and an example (context,
point or state).
"""

import math
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from spen_jax import blocks
from spen_jax.convolutions import fast
from spen_jax.domains import Domain
from spen_jax.inference import layout
from spen_jax.inference.plan import Plan, Unrolled, Values
from spen_jax.inference.solvers import with_settings
from spen_jax.trees import one_of

LEAST = 32
"""Examples of a block from where on they stand last: the loops along them need that many to fill vectors."""


class Held(NamedTuple):
    """A context with what is known of y: where `mask` is true (y's shape), y stands at `known`."""

    context: Any
    mask: Any
    known: Any


class Report(NamedTuple):
    """A point, its energy, and how far it is from a minimum, `Domain.gap`."""

    y: Any
    energy: Any
    residual: Any


def with_known(plan: Plan, context: Any, y: Any) -> tuple[Any, Any]:
    """The energy's own context, and y with what is known of it."""
    if not plan.held:
        return context, y
    return context.context, jax.tree.map(jnp.where, context.mask, context.known, y)


def objective(plan: Plan, values: Values, context: Any) -> Callable[[Any], jax.Array]:
    """E(x, y) - temperature H(y) as a function of y alone; in parts that are known it does not depend on y."""

    def of_y(y):
        inner, y = with_known(plan, context, y)
        with jax.default_matmul_precision(plan.precision) if plan.precision else nullcontext():
            energy = fast(plan.energy)(values.params, inner, y)
        if values.temperature is None:
            return energy
        return energy - values.temperature * domain_of(plan, context).entropy(y)

    return of_y


def domain_of(plan: Plan, context: Any) -> Domain:
    """The domain of one example."""
    return plan.domain.within(context.context if plan.held else context)


def init(plan: Plan, values: Values, example: Any) -> Any:
    """The solver's state at the projected start, of (context, y)."""
    context, y = example
    domain = domain_of(plan, context)
    return with_settings(plan.solver, values.settings).init(domain.enter(y), domain)


def step(plan: Plan, values: Values, example: Any) -> Any:
    """The solver's next state, of (context, state)."""
    context, state = example
    solver = with_settings(plan.solver, values.settings)
    return solver.step(objective(plan, values, context), state, domain_of(plan, context))


def read(plan: Plan, values: Values, example: Any) -> Any:
    """The point where the solver stands, of (context, state)."""
    context, state = example
    return with_known(plan, context, plan.solver.y(state, domain_of(plan, context)))[1]


def report(plan: Plan, values: Values, example: Any) -> Report:
    """What is said of a point, of (context, y)."""
    context, y = example
    value, gradient = jax.value_and_grad(objective(plan, values, context))(y)
    return Report(y, value, domain_of(plan, context).gap(y, gradient))


def finite(value: Any, residual: Any) -> jax.Array:
    """Whether an energy and a residual are numbers; a y that is not finite has a residual that is none."""
    return jnp.isfinite(value) & jnp.isfinite(residual)


def at_step(values: Values, t: Any) -> Values:
    """The values of step t."""

    def pick(a):
        return a[jnp.clip(t, 0, len(a) - 1)] if jnp.ndim(a) else a

    return Values(values.params, *jax.tree.map(pick, values[1:]))


def hold(plan: Plan, context: Any, known: Any, y: Any) -> Any:
    """The context of a batch with (mask, known y), brought to the shapes of y (B, ...) and onto the domain."""
    if not plan.held:
        return context
    mask, values = known

    def spread(m, a):  # (B, parts) -> (B, ...)
        m = jnp.asarray(m, bool)
        return jnp.broadcast_to(m.reshape(*m.shape, *[1] * (a.ndim - m.ndim)), a.shape)

    mask = jax.tree.map(spread, mask, y)
    values = jax.tree.map(lambda v, a: jnp.asarray(v, a.dtype), values, y)
    # What is not known may be anything there, such as NaN.
    values = jax.vmap(plan.domain.project)(select_known(mask, values))
    return Held(context, mask, values)


def size_of(y: Any) -> tuple[int, int]:
    """How many examples, and how many numbers each."""
    leaves = jax.tree.leaves(y)
    return leaves[0].shape[0], sum(math.prod(a.shape[1:]) for a in leaves)


def select_known(mask: Any, y: Any) -> Any:
    """y where it is known, else 0."""
    return jax.tree.map(lambda m, v: jnp.where(m, v, 0), mask, y)


class Mapped(NamedTuple):
    """A function of one example mapped over a block, whichever axis the examples stand along."""

    plan: Plan
    last: bool

    def __call__(self, function: Callable[..., Any], values: Values, examples: Any) -> Any:
        """function(plan, values, example) for all examples."""
        function = partial(function, self.plan)
        return layout.over_examples(function, values, examples, last=self.last)

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
        rows = {"y": self(read, values, (context, state))}
        if trace - {"y"}:
            fixed = lax.stop_gradient((values, (context, rows["y"])))
            rows |= self(report, *fixed)._asdict() | rows
        return self.outward({name: rows[name] for name in trace})


def suits_last(plan: Plan, values: Values, context: Any, y: Any, block: int) -> bool:
    """Whether a batch runs with its examples last: on a CPU, in blocks of a good size, where all operations suit.

    The whole batch decides, not a device's part of it, so that an answer is the same to the bit on any mesh.
    """
    return obstacle(plan, values, context, y, block) is None


def obstacle(plan: Plan, values: Values, context: Any, y: Any, block: int) -> str | None:
    """What keeps the examples from standing last, in words; None where they do."""
    if jax.default_backend() != "cpu":
        return f"so it is faster on a {jax.default_backend()}"
    if isinstance(plan.mode, Unrolled):
        return "a derivative follows the steps"
    if not blocks.is_number(block):
        return "their number is open, for an export"
    if block < LEAST:
        return f"blocks of {block} are too small, {LEAST} are enough"
    context, y = one_of((context, y))
    now = at_step(values, 0)
    state = jax.eval_shape(partial(init, plan), now, (context, y))
    functions = (init, (context, y)), (step, (context, state)), (report, (context, y))
    found = (layout.obstacle(partial(f, plan), now, one) for f, one in functions)
    return next((words for words in found if words), None)

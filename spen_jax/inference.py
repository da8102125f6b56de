"""Inference: argmin over y of E(x, y), by gradient steps in one compiled loop.

An energy is a function `(params, context, y) -> scalar` of ONE example; `minimize` batches it.
Shapes: B examples, y of shape (B, ...), and every array of the context with a leading axis B.

Solvers are frozen dataclasses written for one example: `init(y, domain)` makes a state,
`step(gradient, state, domain)` moves it and `y(state, domain)` reads the point. The loop maps the
gradient of the one-example energy over the examples INSIDE one scan, in blocks that stay in a CPU's
cache: the products with y of all examples are one matrix product whichever way the energy writes
them, and everything else fuses into one pass over y. (The batch stands first: mapping over the last
axis makes JAX transpose wherever the energy has a vector without a batch; see benchmarks/README.md.)
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, Literal, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jax import lax

from spen_jax.domains import Box

Energy = Callable[[Any, Any, jax.Array], jax.Array]
Gradient = Callable[[jax.Array], jax.Array]


class Solution(NamedTuple):
    """What an inference found, for each of B examples.

    Fields:
      y: the last point, (B, ...).
      energy: E(x, y) there, (B,).
      residual: max_i |y - project(y - grad E(y))|_i, (B,): 0 exactly where y satisfies the first-order
        conditions of a minimum on the domain.
      steps: steps taken, (B,).
      converged: residual <= tolerance, (B,); False where the residual is not a number.
      iterates: where asked for, the points before the first step and after each, (B, steps + 1, ...).
    """

    y: jax.Array
    energy: jax.Array
    residual: jax.Array
    steps: jax.Array
    converged: jax.Array
    iterates: jax.Array | None = None


class Solver(Protocol):
    """An algorithm that moves one y downhill."""

    def init(self, y: jax.Array, domain: Box) -> Any:
        """The state that stands at y."""
        ...

    def step(self, gradient: Gradient, state: Any, domain: Box) -> Any:
        """The next state; `gradient` is dE/dy as a function of y alone."""
        ...

    def y(self, state: Any, domain: Box) -> jax.Array:
        """The point at which the state stands."""
        ...


@dataclass(frozen=True)
class GradientDescent:
    """y <- project(y - step_size grad E(y) + momentum (y - y_before)), the projected heavy ball.

    The momentum is that of the projected points, so that nothing builds up against a bound. A momentum m
    damps oscillations by sqrt(m) a step: at 0.95 thirty steps leave about half. Where the answer matters to
    many digits take more steps or less momentum, and look at `residual`. Source:
    Polyak (1964); step 0.1 and momentum 0.95 are those of Belanger & McCallum (2016).
    """

    step_size: float = 0.1
    momentum: float = 0.95

    def __post_init__(self):
        if not (self.step_size > 0 and 0 <= self.momentum < 1):
            raise ValueError(
                "GradientDescent needs step_size > 0 and 0 <= momentum < 1, got "
                f"{self.step_size} and {self.momentum}"
            )

    def init(self, y, domain):
        """The state (y, y_before)."""
        y = domain.project(y)
        return y, y

    def step(self, gradient, state, domain):
        """One projected step."""
        y, before = state
        return domain.project(y + self.momentum * (y - before) - self.step_size * gradient(y)), y

    def y(self, state, domain):
        """The current point."""
        return state[0]


@dataclass(frozen=True)
class MirrorDescent:
    """l <- l - step_size grad E(y), y = lower + (upper - lower) sigmoid(l): entropic mirror descent.

    Its natural step: with an energy -s.y + g(y) - H(y), H the binary entropy, it reads
    l <- (1 - step_size) l + step_size (s - grad g(y)). A start on the bounds is moved inside by 1e-6 of
    the box's width, since it could never leave them. Source: Beck & Teboulle (2003), section 5.
    """

    step_size: float = 0.5

    def __post_init__(self):
        if not self.step_size > 0:
            raise ValueError(f"MirrorDescent needs step_size > 0, got {self.step_size}")

    def init(self, y, domain):
        """The logit l of y; ValueError for a box without finite bounds."""
        if not math.isfinite(domain.upper - domain.lower):
            raise ValueError(f"MirrorDescent needs a box with finite bounds, got {domain}")
        inside = (y - domain.lower) / (domain.upper - domain.lower)
        inside = jnp.clip(inside, 1e-6, 1 - 1e-6)
        return jnp.log(inside) - jnp.log1p(-inside)

    def step(self, gradient, state, domain):
        """One step on the logits, along the gradient in y."""
        return state - self.step_size * gradient(self.y(state, domain))

    def y(self, state, domain):
        """The point whose logit the state is."""
        return domain.lower + (domain.upper - domain.lower) * jax.nn.sigmoid(state)


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


@partial(
    jax.jit,
    static_argnames=(
        "energy",
        "domain",
        "solver",
        "steps",
        "differentiate",
        "tolerance",
        "iterates",
    ),
)
def minimize(
    energy: Energy,
    params: Any,
    context: Any,
    start: jax.Array,
    *,
    domain: Box = Box(),
    solver: Solver = GradientDescent(),
    steps: int = 30,
    differentiate: Literal["stopped", "unrolled"] = "stopped",
    tolerance: float = 1e-3,
    iterates: bool = False,
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
      steps: how many steps, at least 0.
      differentiate: "stopped": `y` and `residual` are constants to `jax.grad`, and `energy` depends on
        the parameters at that fixed y, so that its gradient is that of min_y E at an interior or
        constrained optimum (the envelope theorem). "unrolled": `y` and `energy` are differentiated
        through all steps; `residual` never is.
      tolerance: the residual up to which an example counts as converged.
      iterates: whether to keep all points.

    Returns:
      A `Solution`, each example's own.

    Raises:
      ValueError: for shapes that do not fit, an energy that does not return a scalar, or settings out of range.
    """
    start = jnp.asarray(start)
    _check(energy, params, context, start, steps, differentiate)
    batch = start.shape[0]
    blocks, block = _blocks(batch, start.size // max(batch, 1))

    def solve(part: tuple[Any, jax.Array]) -> Solution:
        return _solve_block(
            energy, params, *part, domain, solver, steps, differentiate, tolerance, iterates
        )

    if blocks == 1:
        return solve((context, start))

    def split(a):
        a = jnp.pad(a, [(0, blocks * block - batch)] + [(0, 0)] * (a.ndim - 1), mode="edge")
        return a.reshape(blocks, block, *a.shape[1:])

    def join(a):
        return a.reshape(blocks * block, *a.shape[2:])[:batch]

    # The backward pass repeats a block's forward pass, so that only one block's steps are kept.
    run = jax.checkpoint(solve, prevent_cse=False) if differentiate == "unrolled" else solve
    return jax.tree.map(join, lax.map(run, jax.tree.map(split, (context, start))))


def _solve_block(
    energy, params, context, start, domain, solver, steps, differentiate, tolerance, iterates
):
    fixed = lax.stop_gradient((params, context))
    loop_params, loop_context = fixed if differentiate == "stopped" else (params, context)
    gradient = jax.grad(energy, argnums=2)

    @jax.vmap
    def step(context, state):
        return solver.step(partial(gradient, loop_params, context), state, domain)

    read = jax.vmap(lambda state: solver.y(state, domain))

    def body(state, _):
        state = step(loop_context, state)
        return state, (read(state) if iterates else None)

    state = jax.vmap(lambda y: solver.init(y, domain))(start)
    first = read(state)
    state, path = lax.scan(body, state, length=steps)
    y = read(state)
    path = None if path is None else jnp.moveaxis(jnp.concatenate([first[None], path]), 0, 1)
    if differentiate == "stopped":
        y, path = lax.stop_gradient((y, path))

    @jax.vmap
    def residual(context, y):
        moved = domain.project(y - gradient(fixed[0], context, y))
        return jnp.max(jnp.abs(y - moved), initial=0)

    residuals = residual(fixed[1], lax.stop_gradient(y))
    return Solution(
        y=y,
        energy=jax.vmap(partial(energy, params))(context, y),
        residual=residuals,
        steps=jnp.full(residuals.shape, steps),
        converged=residuals <= tolerance,
        iterates=path,
    )


def _blocks(batch: int, size: int) -> tuple[int, int]:
    """How many blocks of how many examples, for `size` numbers an example.

    On a CPU one array of a block holds about 20,000 numbers (80 kB), so that the handful a step
    touches stays in a core's second-level cache; blocks of fewer than 32 examples would waste its
    vector units. Elsewhere one block.
    """
    if jax.default_backend() != "cpu":
        return 1, batch
    fits = 128
    while fits > 32 and fits * size > 20480:
        fits //= 2
    blocks = max(1, -(-batch // fits))
    block = -(-batch // blocks)
    return blocks, (block if blocks == 1 else -(-block // 8) * 8)


def _check(energy, params, context, start, steps, differentiate):
    if differentiate not in ("stopped", "unrolled"):
        raise ValueError(
            f"differentiate must be 'stopped' or 'unrolled', got {differentiate!r}; 'stopped' is the default"
        )
    if steps != int(steps) or steps < 0:
        raise ValueError(f"steps must be a whole number, 0 or more, got {steps}")
    if start.ndim < 1 or not jnp.issubdtype(start.dtype, jnp.floating):
        raise ValueError(
            "start must be a float array of shape (B, ...), one point for each example, got shape "
            f"{start.shape} of {start.dtype}; give a constant as jnp.full((B, L), constant)"
        )
    for path, leaf in jax.tree.leaves_with_path(context):
        shape = jnp.shape(leaf)
        if not shape or shape[0] != start.shape[0]:
            raise ValueError(
                f"each array of the context needs a leading axis of {start.shape[0]} examples, as start "
                f"{start.shape} has, but context{jax.tree_util.keystr(path)} has shape {shape}; what all "
                "examples share belongs in params"
            )
    if not start.shape[0]:
        return
    example = jax.tree.map(lambda a: a[0], (context, start))
    out = jax.eval_shape(energy, params, *example)
    if not hasattr(out, "shape") or out.shape != ():
        raise ValueError(
            f"the energy must return a scalar for one example, got {out}, with y of shape "
            f"{start.shape[1:]}; sum over the outputs, and leave the batch to minimize"
        )

"""Solvers: algorithms that move one y downhill, each a frozen dataclass; `minimize` runs them all."""

import math
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass, replace
from numbers import Real
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from spen_jax.domains import Domain, Reals


class Solver(Protocol):
    """An algorithm that moves one y, an array or a pytree, downhill; `minimize` runs it over a batch.

    One's own is a frozen dataclass with these three methods, of ONE example; it differentiates `energy`, a function of
    y alone, as it needs. Its numbers are static; learned ones, or one for each step, go to `minimize` as `settings`.
    """

    def init(self, y: Any, domain: Domain) -> Any:
        """The state that stands at y, a point of the domain; its leaves are arrays."""
        ...

    def step(self, energy: Callable[[Any], jax.Array], state: Any, domain: Domain) -> Any:
        """The next state, a tree like the last; `energy(y)` is that of this example."""
        ...

    def y(self, state: Any, domain: Domain) -> Any:
        """The point at which the state stands."""
        ...


def with_settings(solver: Any, settings: dict[str, Any]) -> Any:
    """The solver with these of its numbers replaced, also those of a solver inside it.

    ValueError for a name that it does not have.
    """
    if not settings:
        return solver
    values = (
        {f.name: getattr(solver, f.name) for f in fields(solver)} if is_dataclass(solver) else {}
    )
    numbers = {n for n, v in values.items() if isinstance(v, Real) and not isinstance(v, bool)}
    here = {name: value for name, value in settings.items() if name in numbers}
    rest = {name: value for name, value in settings.items() if name not in numbers}
    if rest and "solver" not in values:
        raise ValueError(f"{solver} has no settings {sorted(rest)}; it has {sorted(numbers)}")
    if rest:
        here["solver"] = with_settings(values["solver"], rest)
    changed: Any = solver
    return replace(changed, **here)


def unrolls(solver: Any) -> bool:
    """Whether a derivative through the solver's steps means something."""
    if isinstance(solver, FrankWolfe | LineSearch):
        return False
    return unrolls(solver.solver) if isinstance(solver, OnLogits) else True


def in_range(solver: Any) -> Any:
    """Whether the solver's numbers are in range; of numbers that are only known when the program runs an array."""
    return solver.in_range() if hasattr(solver, "in_range") else True


def require(holds: Any, message: str) -> None:
    """ValueError unless it holds; a number that is only known when the program runs is not checked."""
    if isinstance(holds, bool | np.bool_) and not holds:
        raise ValueError(message)


class Moving(NamedTuple):
    """A point and the last move, y - y_before."""

    y: Any
    moved: Any


@dataclass(frozen=True)
class GradientDescent:
    """y <- project(y - step_size grad E(y) + momentum (y - y_before)), the projected heavy ball.

    y an array or a tree on any domain. With `nesterov` the gradient is that at y + momentum (y - y_before). The
    momentum is that of the projected points, so that nothing builds up against a bound. A momentum m damps oscillations
    by sqrt(m) a step: at 0.95 thirty steps leave about half. Where the answer matters to many digits take more steps or
    less momentum, and look at `residual`. ValueError unless step_size > 0 and 0 <= momentum < 1. Sources: Polyak
    (1964); Nesterov (1983); step 0.1 and momentum 0.95 are those of Belanger & McCallum (2016).
    """

    step_size: float = 0.1
    momentum: float = 0.95
    nesterov: bool = False

    def __post_init__(self):
        given = f"got {self.step_size} and {self.momentum}"
        message = f"GradientDescent needs step_size > 0 and 0 <= momentum < 1, {given}"
        require(self.in_range(), message)

    def in_range(self):
        """step_size > 0 and 0 <= momentum < 1."""
        length = (self.step_size > 0) & (self.step_size < math.inf)
        return length & (self.momentum >= 0) & (self.momentum < 1)

    def init(self, y, domain):
        """The point, not moved yet."""
        return Moving(y, jax.tree.map(jnp.zeros_like, y))

    def step(self, energy, state, domain):
        """One projected step."""
        # The move is kept, not the last point: the loop then updates both arrays where they stand.
        y, moved = state
        carried = jax.tree.map(lambda m: self.momentum * m, moved)
        ahead = jax.tree.map(jnp.add, y, carried)
        gradient = jax.grad(energy)(ahead if self.nesterov else y)
        aim = domain.project(jax.tree.map(lambda a, g: a - self.step_size * g, ahead, gradient))
        moved = jax.tree.map(jnp.subtract, aim, y)
        return Moving(domain.project(jax.tree.map(jnp.add, y, moved)), moved)

    def y(self, state, domain):
        """The current point."""
        return state.y


@dataclass(frozen=True)
class MirrorDescent:
    """l <- l - step_size grad E(y), y = from_logits(l): entropic mirror descent, on a box or on simplices.

    On a simplex it is exponentiated gradient, y <- y exp(-step_size grad E(y)) / sum. Its natural step: with an energy
    -s.y + g(y) - H(y), H the domain's entropy, it reads l <- (1 - step_size) l + step_size (s - grad g(y)). A start on
    the boundary is moved inside by 1e-6 of the domain's width, since it could never leave it. With `entropy` w > 0 it
    goes down E - w H, l <- (1 - step_size w) l - step_size grad E(y): the steps of a temperature w, also where H has no
    formula in y, as on `exact.Polytope`; energy and residual are those of E. ValueError for a domain without logits,
    and unless step_size > 0, entropy >= 0, their product below 2. Sources: Beck & Teboulle (2003); Kivinen & Warmuth
    (1997).
    """

    step_size: float = 0.5
    entropy: float = 0.0

    def __post_init__(self):
        given = f"got {self.step_size} and {self.entropy}"
        require(
            self.in_range(),
            f"MirrorDescent needs step_size > 0, entropy >= 0, their product below 2, {given}",
        )

    def in_range(self):
        """step_size > 0, entropy >= 0, and logits that do not swing further each step."""
        length = (self.step_size > 0) & (self.step_size < math.inf)
        return length & (self.entropy >= 0) & (self.step_size * self.entropy < 2)

    def init(self, y, domain):
        """The logits l of y; ValueError for a domain that has none."""
        return domain.to_logits(y)

    def step(self, energy, state, domain):
        """One step on the logits, along the gradient in y."""
        gradient = jax.grad(energy)(self.y(state, domain))
        kept = 1 - self.step_size * self.entropy
        return jax.tree.map(lambda a, g: kept * a - self.step_size * g, state, gradient)

    def y(self, state, domain):
        """The point whose logits the state is."""
        return domain.from_logits(state)


@dataclass(frozen=True)
class OnLogits:
    """Another solver, run without bounds on the logits l of y = from_logits(l).

    `OnLogits(GradientDescent(0.1))` is gradient descent on logits, l <- l - step_size dE/dl, whose gradient vanishes at
    the boundary, where that of `MirrorDescent` does not. ValueError for what is no solver, and for a domain without
    logits.
    """

    solver: Solver = GradientDescent()

    def __post_init__(self):
        made = hasattr(self.solver, "step") and not isinstance(self.solver, type)
        require(made, f"OnLogits needs a solver such as GradientDescent(), got {self.solver!r}")

    def in_range(self):
        """Whether the other solver's numbers are."""
        return in_range(self.solver)

    def init(self, y, domain):
        """The solver's state at the logits of y; ValueError for a domain that has none."""
        return self.solver.init(domain.to_logits(y), Reals())

    def step(self, energy, state, domain):
        """One step of the solver on the logits."""
        return self.solver.step(lambda logits: energy(domain.from_logits(logits)), state, Reals())

    def y(self, state, domain):
        """The point whose logits the solver has reached."""
        return domain.from_logits(self.solver.y(state, Reals()))


class Searching(NamedTuple):
    """A point and the size of the last step."""

    y: Any
    size: jax.Array


@dataclass(frozen=True)
class LineSearch:
    """y <- project(y - a grad E(y)), a the first of 2 a_before, a_before, a_before / 2, ... that descends enough.

    With d = new - y enough is E(new) <= E(y) + decrease grad E(y).d, Armijo's rule along the projection arc, up to the
    rounding of E(y), and grad E(new).d <= (2 decrease - 1) grad E(y).d, which says the same of a quadratic and is still
    exact where the energies differ by rounding only. No step size to choose, and but for rounding the energy never
    grows. Where 30 halvings find no descent, y stands still. In a batch each step takes as many trials as its slowest
    example. The sizes hang on the values in jumps: differentiate it as stopped or implicit. `step_size` is the first
    trial's. ValueError unless it is above 0 and 0 < decrease < 1/2. Sources: Bertsekas (1976); Hager & Zhang (2005).
    """

    step_size: float = 1.0
    decrease: float = 0.25

    def __post_init__(self):
        given = f"got {self.step_size} and {self.decrease}"
        message = f"LineSearch needs step_size > 0 and 0 < decrease < 1/2, {given}"
        require(self.in_range(), message)

    def in_range(self):
        """step_size > 0 and 0 < decrease < 1/2."""
        length = (self.step_size > 0) & (self.step_size < math.inf)
        return length & (self.decrease > 0) & (self.decrease < 0.5)

    def init(self, y, domain):
        """The point, and a size such that the first trial is `step_size`."""
        return Searching(y, jnp.asarray(self.step_size / 2, jax.tree.leaves(y)[0].dtype))

    def step(self, energy, state, domain):
        """One step as long as the energy allows."""
        y, last = state
        value, gradient = jax.value_and_grad(energy)(y)
        rounding = 10 * jnp.finfo(value.dtype).eps * jnp.abs(value)

        def move(size):
            return domain.project(jax.tree.map(lambda a, g: a - size * g, y, gradient))

        def trial(size):
            """(whether it descends enough, whether it moves)."""
            new = move(size)
            there, gradient_there = jax.value_and_grad(energy)(new)
            moved = jax.tree.map(jnp.subtract, new, y)
            slope: Any = optax.tree.vdot(gradient, moved)
            slope_there: Any = optax.tree.vdot(gradient_there, moved)
            enough = there <= value + self.decrease * slope + rounding
            enough &= slope_there <= (2 * self.decrease - 1) * slope
            return enough & (slope < 0), slope < 0

        def shrink(carry):
            size, trials, _ = carry
            return size / 2, trials + 1, trial(size / 2)

        def goes_on(carry):
            _, trials, (enough, moves) = carry
            return ~enough & moves & (trials < 30)

        size, _, (enough, _) = lax.while_loop(goes_on, shrink, (2 * last, 0, trial(2 * last)))
        new = jax.tree.map(lambda n, a: jnp.where(enough, n, a), move(size), y)
        return Searching(new, jnp.where(enough, size, last))

    def y(self, state, domain):
        """The current point."""
        return state.y


class Counting(NamedTuple):
    """A point and the number of steps taken."""

    y: Any
    t: jax.Array


@dataclass(frozen=True)
class FrankWolfe:
    """y <- y + 2 / (t + 2) (s - y), s = argmin over the domain of <grad E(y), s>: no projection, no step size.

    Each y is a mixture of corners. For a convex energy E(y_t) - min E <= 2 C / (t + 2), C its curvature. The corners do
    not move with the parameters: differentiate it as stopped or implicit. ValueError for a domain without corners, such
    as `Reals`. Sources: Frank & Wolfe (1956); Jaggi (2013), theorem 1.
    """

    def init(self, y, domain):
        """The point, before the first step."""
        return Counting(y, jnp.zeros((), jax.tree.leaves(y)[0].dtype))

    def step(self, energy, state, domain):
        """One step towards the corner that the gradient asks for; ValueError for a domain without corners."""
        y, t = state
        corner = domain.corner(jax.grad(energy)(y))
        weight = 2 / (t + 2)
        return Counting(jax.tree.map(lambda a, s: a + weight * (s - a), y, corner), t + 1)

    def y(self, state, domain):
        """The current point."""
        return state.y


class Updating(NamedTuple):
    """A point and the state of the transformation that updates it."""

    y: Any
    inner: Any


@dataclass(frozen=True)
class Optax:
    """Any Optax transformation, then the projection: `Optax(optax.adam(0.1))`, `Optax(optax.lbfgs())`.

    Transformations are equal only if they are the same object: make one and pass it again, or everything compiles
    again. Those with a line search (L-BFGS) have a while loop inside, so that they cannot be unrolled; Adam can be with
    `eps_root > 0`, without which its root has no derivative where a gradient is 0. A momentum does not know of the
    projection and builds up against a bound; `OnLogits(Optax(...))` has none. ValueError for what is no transformation.
    """

    transformation: Any

    def __post_init__(self):
        made = hasattr(self.transformation, "update") and not isinstance(self.transformation, type)
        require(
            made,
            f"Optax needs a transformation such as optax.adam(0.1), got {self.transformation!r}",
        )

    def init(self, y, domain):
        """The point, and the transformation's own state."""
        return Updating(y, self.transformation.init(y))

    def step(self, energy, state, domain):
        """One update, projected."""
        y, inner = state
        value, gradient = jax.value_and_grad(energy)(y)
        update = optax.with_extra_args_support(self.transformation).update
        updates, inner = update(gradient, inner, y, value=value, grad=gradient, value_fn=energy)
        return Updating(domain.project(optax.apply_updates(y, updates)), inner)

    def y(self, state, domain):
        """The current point."""
        return state.y

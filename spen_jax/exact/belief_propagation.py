"""Messages between variables and factors: exact on trees, on loopy graphs approximate, or a bound."""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
from jax import lax

from spen_jax.exact.field_methods import APPROXIMATE, BOUND, EXACT, Promises
from spen_jax.exact.iterations import check_steps, repeated
from spen_jax.exact.sweeps import polished


class _Messages:
    """What sum-product and min-sum messages have in common, weighted or not."""

    steps: int
    damping: float
    tolerance: float

    def weights(self, field: Any) -> Any:
        """Of factors."""
        return None

    def plan(self, field: Any) -> tuple[int, float]:
        """Steps and damping."""
        return self.steps, self.damping

    def messages(self, field: Any, tables: Any, cold: bool) -> tuple[Any, Any, jax.Array]:
        """What was prepared, the messages after the last step, and how far they still move, (B,)."""
        ready = field.prepared(tables, self.weights(field), cold)
        steps, damping = self.plan(field)

        def step(messages):
            new = self.passed(field, ready, messages)
            return jax.tree.map(lambda a, b: damping * a + (1 - damping) * b, messages, new)

        silent = field.silent(ready)
        if not jax.tree.leaves(silent):
            return ready, silent, jnp.zeros(tables.nodes.shape[0], tables.nodes.dtype)
        return ready, *repeated(step, silent, steps, self.tolerance)

    def passed(self, field, ready, messages):
        """All at once."""
        return field.passed(ready, messages)

    def expectations(self, field, tables):
        """The Bethe free energy and the beliefs."""
        ready, messages, residual = self.messages(field, tables, False)
        return field.bethe(ready, messages), field.beliefs(ready, messages), residual


@dataclass(frozen=True)
class BeliefPropagation(_Messages):
    """Sum-product messages for marginals and F, min-sum for the best answer (Kschischang, Frey & Loeliger 2001).

    On a graph without cycles exact, after as many steps as it is deep, which are then what it takes. Else the marginals
    are those of the Bethe approximation (Yedidia, Freeman & Weiss 2005), and what messages still move is the result's
    `residual`: where the flooding schedule cycles for ever, damping or the schedule by colours settles. The best answer
    takes each variable's best value, and then changes single variables as long as that helps.

    It promises all but samples: without cycles exact marginals and F and a best answer with its bound, else approximate
    ones. ValueError for steps that are no whole number from 1 on, damping out of range, and another schedule.

    Attributes:
      steps: at most so many, rounded up to a product of two nearly equal numbers; fewer once nothing moves.
      damping: the share of old messages in new ones, 0 to below 1.
      tolerance: a change of all messages, in nats, below which no more steps are taken.
      schedule: "flooding", all messages at once, or "colours": those to one colour's variables after the other's, which
        costs a step for each colour.
    """

    steps: int = 200
    damping: float = 0.5
    tolerance: float = 1e-6
    schedule: Literal["flooding", "colours"] = "flooding"

    def __post_init__(self):
        if self.schedule not in ("flooding", "colours"):
            raise ValueError(f"schedule must be 'flooding' or 'colours', got {self.schedule!r}")
        check_steps(self.steps, self.damping)

    def promises(self, field):
        """Exact without cycles."""
        if field.depth() is not None:
            return Promises(BOUND, EXACT, EXACT)
        return Promises(APPROXIMATE, APPROXIMATE, APPROXIMATE)

    def check(self, field):
        """Any field will do."""

    def plan(self, field):
        """Without cycles the depth, undamped, and one more, which moves nothing."""
        depth = field.depth()
        return (self.steps, self.damping) if depth is None else (depth + 1, 0.0)

    def passed(self, field, ready, messages):
        """By the schedule."""
        if self.schedule == "flooding" or field.depth() is not None:
            return field.passed(ready, messages)

        def one(messages, colour):
            return field.towards(colour, field.passed(ready, messages), messages), None

        return lax.scan(one, messages, jnp.arange(field.colours().max() + 1))[0]

    def best(self, field, tables):
        """Of min-sum messages; their energy, which is the least without cycles."""
        ready, messages, _ = self.messages(field, lax.stop_gradient(tables), True)
        y = polished(field, tables, jnp.argmin(field.gathered(ready, messages), -1))
        if field.depth() is None:
            return y, jnp.full(y.shape[0], -jnp.inf, tables.nodes.dtype)
        return y, field.bethe(field.prepared(tables, None, True), messages)


@dataclass(frozen=True)
class TreeReweighted(_Messages):
    """Messages weighted by how often forests that cover the graph hold a factor, which give bounds.

    F >= sum_t 1/T F_t over forests t with energies that sum to the graph's: so `free_energy` is a lower bound, whatever
    the messages, and at infinity `best` has a lower bound of the least energy. The marginals are those of a convex free
    energy, less sure of themselves than belief propagation's. Source: Wainwright, Jaakkola & Willsky (2005).

    It has no samples. ValueError for steps that are no whole number from 1 on, damping out of range, and, where it is
    asked, scopes that are traced or each example's own.

    Attributes:
      steps: at most so many; fewer once nothing moves.
      damping: the share of old messages in new ones, 0 to below 1.
      tolerance: a change of all messages, in nats, below which no more steps are taken.
    """

    steps: int = 200
    damping: float = 0.5
    tolerance: float = 1e-6
    answers: ClassVar[Promises] = Promises(BOUND, APPROXIMATE, "lower bound")

    def __post_init__(self):
        check_steps(self.steps, self.damping)

    def promises(self, field):
        """Bounds."""
        return self.answers

    def check(self, field):
        """ValueError for scopes that are not known."""
        field.cover()

    def weights(self, field):
        """The share of forests that hold each factor."""
        return field.cover()

    def expectations(self, field, tables):
        """The bound, and the beliefs."""
        ready, messages, residual = self.messages(field, tables, False)
        bound = field.cover_bound(tables, messages, False)
        return bound, field.beliefs(ready, messages), residual

    def best(self, field, tables):
        """Of min-sum messages."""
        ready, messages, _ = self.messages(field, lax.stop_gradient(tables), True)
        y = polished(field, tables, jnp.argmin(field.gathered(ready, messages), -1))
        return y, field.cover_bound(tables, messages, True)

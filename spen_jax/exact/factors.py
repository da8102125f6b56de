"""Factors: energies of small sets of discrete variables, many of one shape at once, and what they say to each other.

A factor sees r variables, its scope, and has an energy for each joint value. Arrays of m factors are (B, m, ...)
below, B or m 1 where all share them; a message of a factor to the j-th variable of its scope is (B, m, r, K), energies
with minimum 0. Forbidden values count `BARRED` here, so that nothing is subtracted from infinity.
"""

import math
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from spen_jax.exact.algebras import Algebra
from spen_jax.exact.answers import finite
from spen_jax.exact.arrays import Arrays, made_of
from spen_jax.numbers import floats, known, real, wide

HUGE = 1e15
"""Finite energies are at most that large: `BARRED` stands for infinity."""


def check_energies(name: str, values: Any) -> None:
    """ValueError, by name, for energies known to be NaN, -infinity or so large that they would count as infinite."""
    numbers = known(values)
    if numbers is None:
        return
    bad = ~(numbers >= -HUGE) | ((numbers > HUGE) & (numbers < np.inf))
    if bad.any():
        raise ValueError(
            f"{name} must be numbers of size up to {HUGE:.0e}, or +infinity, which forbids, got {numbers[bad][0]} at "
            f"{tuple(map(int, np.argwhere(bad)[0]))}"
        )


class Scopes:
    """Which variables each factor sees, (m, r), -1 for none, known as the program is made."""

    def __init__(self, array: Any):
        self.array = np.array(array, np.int32)
        self.array.flags.writeable = False
        self._hash = hash((self.array.shape, self.array.tobytes()))

    def __hash__(self):
        return self._hash

    def __reduce__(self):
        return Scopes, (self.array,)

    def __eq__(self, other):
        return isinstance(other, Scopes) and np.array_equal(self.array, other.array)


class Factors(Arrays):
    """m factors of one kind: `known` scopes (m, r), or `scopes` that are traced or each example's own (..., m, r)."""

    arrays: ClassVar[tuple[str, ...]] = ("energies", "scopes")
    settings: ClassVar[tuple[str, ...]] = ("known",)
    energies: jax.Array
    scopes: jax.Array | None
    known: Scopes | None

    def _read_scopes(self, scopes):
        name = f"scopes of {type(self).__name__}"
        scopes = real(name, scopes)
        if not jnp.issubdtype(scopes.dtype, jnp.integer) or scopes.ndim < 2:
            raise ValueError(
                f"{name} must be whole numbers, one row of variables for each factor (m, r), got {scopes.dtype} of "
                f"shape {scopes.shape}"
            )
        if not np.prod(scopes.shape[-2:]):
            raise ValueError(
                f"{name} must hold a factor of one variable or more, got {scopes.shape}"
            )
        own = isinstance(scopes, Tracer) or scopes.ndim > 2
        self.scopes = jnp.asarray(scopes, jnp.int32) if own else None
        self.known = None if own else Scopes(scopes)

    def _read_energies(self, energies, rank):
        """With an axis of factors also where all share one: what comes before it is the batch."""
        energies = wide(floats(f"energies of {type(self).__name__}", energies))
        self.energies = energies[None] if energies.ndim == rank else energies

    @property
    def where(self) -> Any:
        """The scopes, (..., m, r)."""
        return self.known.array if self.known is not None else self.scopes

    @property
    def shape(self) -> tuple[int, int]:
        """m, r."""
        return self.where.shape[-2:]

    def check(self, variables: int, labels: int, batch: tuple[int, ...], lowest: int = 0) -> None:
        """ValueError where scopes or energies do not fit so many variables and labels."""
        name = type(self).__name__
        rank = len(self.own_shape(labels))
        axes = self.energies.shape
        want = (*batch, self.shape[0], *self.own_shape(labels))
        fits = [want[-rank - 1 :], (1, *want[-rank:]), want, (*batch, 1, *want[-rank:])]
        if axes not in fits:
            raise ValueError(
                f"energies of {name} must be of shape {want[-rank:]}, shared by all its factors, {want[-rank - 1 :]} "
                f"or {want}, got {axes[1:] if axes[:1] == (1,) else axes}"
            )
        check_energies(f"energies of {name}", self.energies)
        if self.known is None and self.where.shape[:-2] not in ((), batch):
            raise ValueError(
                f"scopes of {name} must be (m, r), or of each example {(*batch, 'm', 'r')}, got {self.where.shape}"
            )
        if isinstance(self.where, Tracer):
            return
        scopes = np.asarray(self.where)
        if scopes.min() < lowest or scopes.max() >= variables:
            raise ValueError(
                f"scopes of {name} must name variables 0 to {variables - 1}, got {scopes.min()} to {scopes.max()}"
            )
        ordered = np.sort(scopes, -1)
        twice = (ordered[..., 1:] == ordered[..., :-1]) & (ordered[..., 1:] >= 0)
        if twice.any() and self.known is not None:
            row = tuple(map(int, np.argwhere(twice)[0]))[:-1]
            raise ValueError(f"a factor of {name} names a variable twice: {scopes[row]}")

    def own_shape(self, labels: int) -> tuple[int, ...]:
        """The shape of one factor's energies."""
        raise NotImplementedError

    def table(self, batch: tuple[int, ...], labels: int) -> jax.Array:
        """The energies, (B or 1, m or 1, ...)."""
        own = self.own_shape(labels)
        factors = self.energies.shape[-len(own) - 1]
        size = math.prod(batch) if self.energies.ndim > len(own) + 1 else 1
        return self.energies.reshape(size, factors, *own)

    def there(self) -> jax.Array:
        """Which places of scopes have a variable, (1 or B, m, r)."""
        return jnp.asarray(self.where >= 0).reshape(-1, *self.shape)

    # Of tables as `table` has them, finite; q are energies of single values, (B, m, r, K)

    def sent(self, table: jax.Array, q: jax.Array, algebra: Algebra) -> jax.Array:
        """Messages: for each value of a variable what the algebra makes of the others', (B, m, r, K)."""
        raise NotImplementedError

    def free(self, table: jax.Array, q: jax.Array, algebra: Algebra) -> jax.Array:
        """What the algebra makes of all joint values, (B, m)."""
        raise NotImplementedError

    def beliefs(self, table: jax.Array, q: jax.Array) -> jax.Array:
        """P of each entry of the table under exp(-(table + q)), (B, m, ...)."""
        raise NotImplementedError

    def relaxed(self, table: jax.Array, p: jax.Array) -> jax.Array:
        """The mean energy of independent variables with distributions p (B, m, r, K), multilinear: (B, m)."""
        raise NotImplementedError

    def index(self, y: np.ndarray) -> np.ndarray:
        """Where in one factor's energies, flattened, answers (N, n) stand, (N, m)."""
        raise NotImplementedError

    def small(
        self, table: jax.Array, labels: int, name: str
    ) -> list[tuple[list[tuple[Any, ...]], jax.Array]]:
        """As tables over their variables and perhaps auxiliary ones: lists of scopes, one for each factor, and tables.

        A variable is its number; an auxiliary one a pair of a name, which begins with `name`, and how many states it
        has.
        """
        raise NotImplementedError


def blank(cls: Any, settings: Any) -> Any:
    """Factors without energies, of a class and its settings."""
    return made_of(cls, settings, (None, None))


class Tables(Factors):
    """E_f(y) = energies[y_i, y_j, ...] for each scope (i, j, ...): factors of a `FactorGraph` by their tables.

    Args:
      scopes: whole numbers (m, r), the variables of each of m factors; of each example's own (..., m, r), which
        algorithms that plan ahead refuse.
      energies: (m, K, ..., K), K as often as r says, one axis a variable; (K, ..., K) shared by all factors; (..., m,
        K, ..., K) for each example's own; K labels, low is good, infinity forbids.

    Raises:
      ValueError: for scopes that are no whole numbers, or hold no factor; what does not fit its labels and variables,
        repeated ones, and energies that are not numbers, the `FactorGraph` refuses.
    """

    def __init__(self, scopes: Any, energies: Any):
        self._read_scopes(scopes)
        self._read_energies(energies, self.shape[1])

    def own_shape(self, labels):
        """(K, ..., K)."""
        return (labels,) * self.shape[1]

    def _with(self, table, q, but=None):
        r = q.shape[2]
        for j in range(r):
            if j != but:
                axes = [1] * r
                axes[j] = q.shape[-1]
                table = table + q[:, :, j].reshape(*q.shape[:2], *axes)
        return table

    def sent(self, table, q, algebra):
        """either over the others of (table + their q)."""
        batch, m, r, labels = q.shape
        sent = []
        for j in range(r):
            joint = jnp.moveaxis(self._with(table, q, but=j), 2 + j, -1)
            joint = jnp.broadcast_to(joint, (batch, m, *joint.shape[2:]))
            sent.append(algebra.either(joint.reshape(batch, m, -1, labels), 2))
        return jnp.stack(sent, 2)

    def free(self, table, q, algebra):
        """either over all of (table + q)."""
        joint = self._with(table, q)
        return algebra.either(joint.reshape(*q.shape[:2], -1), 2)

    def beliefs(self, table, q):
        """softmin of (table + q)."""
        joint = self._with(table, q)
        flat = jax.nn.softmax(-joint.reshape(*q.shape[:2], -1), -1)
        return flat.reshape(joint.shape)

    def relaxed(self, table, p):
        """table . p_1 . p_2 ..., from the last axis on."""
        table = finite(table)
        for j in reversed(range(p.shape[2])):
            own = p[:, :, j].reshape(*p.shape[:2], *[1] * j, p.shape[-1])
            table = jnp.sum(table * own, -1)
        return table

    def index(self, y):
        """The joint value, the last variable fastest."""
        values, labels = y[:, self.where], self.energies.shape[-1]
        return sum(values[..., j] * labels ** (self.shape[1] - 1 - j) for j in range(self.shape[1]))

    def small(self, table, labels, name):
        """As they are."""
        return [([tuple(map(int, row)) for row in self.where], table)]

"""Factors that count: cardinalities, at most one, parities, in time and memory r S in place of 2^r.

Arrays are as in `factors`; a count goes through the variables of a scope one after the other.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from spen_jax.exact.algebras import Sum
from spen_jax.exact.answers import BARRED, finite
from spen_jax.exact.factors import Factors


class Counts(Factors):
    """E_f(y) = energies[c], c how many variables of a scope have the value `value`: no table of 2^r entries.

    With fewer energies than r + 1 the last one is for that many and more; with `modulo`, c is taken modulo their
    number. `at_most_one` and `parity` are the common cases.

    Args:
      scopes: whole numbers (m, r), -1 for none where scopes have different lengths; or (..., m, r), see `Tables`.
      energies: (S,), S from 2 to r + 1, of 0, 1, ... counted, or (m, S), or (..., m, S); infinity forbids.
      value: the value that is counted.
      modulo: whether counts are taken modulo S.

    Raises:
      ValueError: for scopes that are no whole numbers (m, r), or hold no factor; what does not fit the `FactorGraph`,
        and other numbers of energies, that graph refuses.
    """

    settings = ("known", "value", "modulo")

    def __init__(self, scopes: Any, energies: Any, *, value: int = 1, modulo: bool = False):
        self._read_scopes(scopes)
        self._read_energies(energies, 1)
        self.value, self.modulo = int(value), bool(modulo)

    def check(self, variables, labels, batch, lowest=-1):
        """ValueError also for a value that there is none of, and too many energies."""
        states = self.energies.shape[-1] if self.energies.ndim else 0
        if not 2 <= states <= self.shape[1] + 1:
            raise ValueError(
                f"Counts of {self.shape[1]} variables take 2 to {self.shape[1] + 1} energies, one for each count, got "
                f"{states}"
            )
        if not 0 <= self.value < labels:
            raise ValueError(f"Counts count a value from 0 to {labels - 1}, got {self.value}")
        super().check(variables, labels, batch, lowest)
        if self.known is not None and (self.known.array < 0).all(1).any():
            raise ValueError("a factor of Counts names no variable: its scope is all -1")

    def own_shape(self, labels):
        """(S,)."""
        return self.energies.shape[-1:]

    def _in_out(self, q, algebra):
        """Energies of counting and of not, (r, B, m, 1) each; of a place without variable 0 and `BARRED`."""
        counting = q[..., self.value]
        others = [k for k in range(q.shape[-1]) if k != self.value]
        if others:
            rest = algebra.either(q[..., np.array(others)], 3)
        else:
            rest = jnp.full_like(counting, BARRED)
        there = self.there()
        counting, rest = jnp.where(there, counting, BARRED), jnp.where(there, rest, 0)
        return tuple(jnp.moveaxis(a, 2, 0)[..., None] for a in (counting, rest))

    def _counted(self, a, algebra):
        """What comes to each count from those before, (..., S)."""
        if self.modulo:
            return jnp.roll(a, 1, -1)
        first = jnp.full_like(a[..., :1], BARRED)
        last = algebra.either(a[..., -2:], a.ndim - 1)[..., None]
        return jnp.concatenate([first, a[..., :-2], last], -1)

    def _ahead(self, a):
        """a at the count after one more, (..., S)."""
        if self.modulo:
            return jnp.roll(a, -1, -1)
        return jnp.concatenate([a[..., 1:], a[..., -1:]], -1)

    def _forward(self, table, q, algebra):
        """Energies of the counts before each place, (r, B, m, S), and after the last, (B, m, S)."""

        def step(a, given):
            counting, rest = given
            both = jnp.stack([a + rest, self._counted(a, algebra) + counting])
            return algebra.either(both, 0), a

        start = jnp.where(np.arange(table.shape[-1]) == 0, 0, BARRED).astype(q.dtype)
        start = jnp.broadcast_to(start, (*q.shape[:2], len(start)))
        last, before = lax.scan(step, start, self._in_out(q, algebra))
        return before, last

    def sent(self, table, q, algebra):
        """Forward and backward over the places, (B, m, r, K)."""
        before, _ = self._forward(table, q, algebra)

        def step(rest_of, given):
            counting, rest = given
            both = jnp.stack([rest_of + rest, self._ahead(rest_of) + counting])
            return algebra.either(both, 0), rest_of

        end = jnp.broadcast_to(table, (*q.shape[:2], table.shape[-1]))
        _, after = lax.scan(step, end, self._in_out(q, algebra), reverse=True)
        stay, one = (algebra.either(before + a, 3)[..., None] for a in (after, self._ahead(after)))
        sent = jnp.moveaxis(jnp.where(self._counts(q), one, stay), 0, 2)
        return jnp.where(self.there()[..., None], sent, 0)

    def _counts(self, q):
        """Where values are those that count, (1, 1, 1, K)."""
        return jnp.asarray(np.arange(q.shape[-1]) == self.value).reshape(1, 1, 1, -1)

    def free(self, table, q, algebra):
        """either over the counts."""
        _, last = self._forward(table, q, algebra)
        return algebra.either(last + table, 2)

    def beliefs(self, table, q):
        """P of each count."""
        _, last = self._forward(table, q, Sum())
        return jax.nn.softmax(-(last + table), -1)

    def relaxed(self, table, p):
        """sum over counts of P(count) energy, P of independent variables."""
        counting = p[..., self.value]
        rest, there = jnp.sum(jnp.where(self._counts(p), 0, p), -1), self.there()
        counting, rest = jnp.where(there, counting, 0), jnp.where(there, rest, 1)

        def step(a, given):
            counting, rest = given
            moved = jnp.roll(a, 1, -1)
            if not self.modulo:
                moved = moved.at[..., -1].add(a[..., -1]).at[..., 0].set(0)
            return a * rest + moved * counting, None

        start = (np.arange(table.shape[-1]) == 0).astype(p.dtype)
        start = jnp.broadcast_to(start, (*p.shape[:2], len(start)))
        given = tuple(jnp.moveaxis(a, 2, 0)[..., None] for a in (counting, rest))
        last, _ = lax.scan(step, start, given)
        return jnp.sum(last * finite(table), -1)

    def index(self, y):
        """How many."""
        count = ((y[:, self.where] == self.value) & (self.where >= 0)).sum(-1)
        states = self.energies.shape[-1]
        return count % states if self.modulo else np.minimum(count, states - 1)

    def small(self, table, labels, name):
        """A chain of auxiliary counts: after each place how many there have been."""
        states = table.shape[-1]
        counts = np.arange(states)
        after = (counts + 1) % states if self.modulo else np.minimum(counts + 1, states - 1)
        there = np.arange(labels) == self.value
        goes = np.where(there, after[:, None], counts[:, None])  # (S, K)
        step = np.where(goes[..., None] == counts, 0, np.inf).astype(table.dtype)
        names = [[v for v in map(int, row) if v >= 0] for row in self.where]
        count = [
            [(f"{name} {f} {j}", states) for j in range(len(row))] for f, row in enumerate(names)
        ]
        firsts = [(row[0], at[0]) for row, at in zip(names, count, strict=True)]
        steps = [
            (at[j - 1], row[j], at[j])
            for row, at in zip(names, count, strict=True)
            for j in range(1, len(row))
        ]
        found: list[tuple[list[tuple[Any, ...]], jax.Array]] = [
            (firsts, step[0][None, None]),
            ([(at[-1],) for at in count], table),
        ]
        return [*found, (steps, step[None, None])] if steps else found


def at_most_one(scopes: Any, *, value: int = 1) -> Counts:
    """E_f(y) = 0 where at most one variable of a scope has the value, infinite elsewhere.

    Factors as `Counts`, for a `FactorGraph`. `scopes` are whole numbers (m, r), -1 for none; `value` is a label.
    ValueError for other scopes.
    """
    width = (np.shape(scopes) or (2,))[-1]
    energies = [0.0, 0.0, np.inf][: width + 1]
    return Counts(scopes, energies, value=value)


def parity(scopes: Any, *, odd: bool = False, value: int = 1) -> Counts:
    """E_f(y) = 0 where an even, or odd, number of variables of a scope has the value, infinite elsewhere: XOR.

    Factors as `Counts`, for a `FactorGraph`. `scopes` are whole numbers (m, r), -1 for none; `value` is a label.
    ValueError for other scopes.
    """
    energies = [np.inf, 0.0] if odd else [0.0, np.inf]
    return Counts(scopes, energies, value=value, modulo=True)

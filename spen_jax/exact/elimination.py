"""Exact answers for graphs of small tree width: variables are eliminated one after the other, or all answers listed."""

import itertools
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from spen_jax.exact.algebras import Algebra, Sum
from spen_jax.exact.answers import with_parts
from spen_jax.exact.field_methods import EXACT, Promises
from spen_jax.exact.graph_plans import Order, elimination_order
from spen_jax.exact.structure import Structure

EVERY = Promises(EXACT, EXACT, EXACT, EXACT)


class _Listing:
    """What follows from a recursion over all answers."""

    def promises(self, field: Any) -> Promises:
        """All exact."""
        return EVERY

    def best(self, field, tables):
        """The parts of the least energy."""
        y, least = Structure.found_best(field, tables)
        return jnp.maximum(y, 0), least

    def expectations(self, field, tables):
        """The derivative of F."""
        free, found = with_parts(lambda t: self.recursion(field, t, Sum()), field.spread(tables))
        return free, found, jnp.zeros_like(free)

    def drawn(self, field, tables, key, n):
        """Alternatives drawn on the way back."""
        return Structure.found_samples(field, tables, key, n)

    def recursion(self, field: Any, tables: Any, algebra: Algebra) -> jax.Array:
        """What the algebra makes of all answers, (B,)."""
        raise NotImplementedError


@dataclass(frozen=True)
class Elimination(_Listing):
    """Variable elimination (Dechter 1999), in an order of small tree width that is looked for first.

    Time and memory grow with K^(width + 1), the largest table made: `Elimination().order(field)` says the order, the
    width and the size before anything starts. A program has a step for each variable: for hundreds of variables without
    cycles `BeliefPropagation` is as exact and compiles in a tenth of the time.

    It answers every question, exactly; where it is asked, ValueError for scopes that are traced or each example's own.

    Attributes:
      limit: of entries of the largest table for one example; ValueError before the start for a graph that needs more.
    """

    limit: int = 2**24

    def order(self, field: Any) -> Order:
        """The order in which variables are eliminated, auxiliary ones included, its `width`, `cost` and `total`.

        `cost` is log2 of the entries of the largest table for one example, `total` the number of those of all.
        ValueError for scopes that are traced or each example's own.
        """
        layout = field.layout()
        return _ordered(layout.sizes, layout.scopes)

    def check(self, field):
        """ValueError where a table would be too large."""
        order = self.order(field)
        if order.cost > np.log2(self.limit):
            raise ValueError(
                f"the graph's tree width is {order.width} in the best order found, and its largest table would have "
                f"2^{order.cost:.0f} entries for each example, more than the limit of {self.limit}: ask a method with "
                "a bound (MinCut, TreeReweighted, DualDecomposition) or an approximate one (BeliefPropagation, "
                "MeanField, Gibbs), or raise Elimination(limit=...)"
            )

    def recursion(self, field, tables, algebra):
        """either over each variable in turn of all that sees it."""
        names, sizes, scopes, _ = field.layout()
        order = _ordered(sizes, scopes)
        place = {name: i for i, name in enumerate(names)}
        terms = []
        for scope, table in field.listed(tables):
            axes = [place[v] for v in scope]
            rank = sorted(range(len(axes)), key=axes.__getitem__)
            table = algebra.table(jnp.transpose(table, (0, *(1 + i for i in rank))))
            terms.append((tuple(sorted(axes)), table))
        for v in order.order:
            seen = [t for t in terms if v in t[0]]
            terms = [t for t in terms if v not in t[0]]
            scope, table = _joined(seen, sizes, algebra)
            table = algebra.either(table, 1 + scope.index(v))
            terms.append((tuple(u for u in scope if u != v), table))
        return _joined(terms, sizes, algebra)[1]


def _joined(terms, sizes, algebra):
    """All terms together: their variables in order, and the table over these."""
    scope = tuple(sorted({v for t in terms for v in t[0]}))
    total: Any = None
    for own, table in sorted(terms, key=lambda t: len(t[0])):
        shape = [sizes[v] if v in own else 1 for v in scope]
        table = table.reshape(table.shape[0], *shape, *table.shape[1 + len(own) :])
        total = table if total is None else algebra.both(total, table)
    full = (total.shape[0], *(sizes[v] for v in scope))
    return scope, jnp.broadcast_to(total, (*full, *total.shape[len(full) :]))


@lru_cache(maxsize=256)
def _ordered(sizes, scopes):
    return elimination_order(sizes, scopes)


@dataclass(frozen=True)
class Enumeration(_Listing):
    """All answers one after the other, of a graph with few: exact, and written without anything clever.

    It answers every question; where it is asked, ValueError for scopes that are traced or each example's own.

    Attributes:
      limit: of answers; ValueError before the start for a graph that has more.
    """

    limit: int = 2**20

    def check(self, field):
        """ValueError where there are too many answers."""
        shape = field.y_shape()
        digits = np.prod(shape[:-1]) * np.log10(shape[-1])
        if digits > np.log10(self.limit):
            raise ValueError(
                f"there are 10^{digits:.1f} answers, more than the limit of {self.limit}: ask Elimination(), or raise "
                "Enumeration(limit=...)"
            )

    def recursion(self, field, tables, algebra):
        """either over the energies of all answers."""
        *nodes, labels = field.y_shape()
        every = itertools.product(range(labels), repeat=int(np.prod(nodes)))
        every = np.array(list(every), np.int32).reshape(-1, *nodes)
        energies = field.energies_at(tables, every)
        return algebra.either(algebra.table(energies), 1)

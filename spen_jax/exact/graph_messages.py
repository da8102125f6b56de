"""What methods need of a factor graph: its multilinear energy, messages, bounds by forests and by multipliers.

Messages are arrays for each kind of factors, those to its variables, (B, m, r, K), energies with minimum 0.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from spen_jax.exact.algebras import Least, Sum
from spen_jax.exact.answers import BARRED, finite
from spen_jax.exact.cover import cover_bound
from spen_jax.exact.factors import Factors
from spen_jax.exact.field import Field
from spen_jax.exact.field_methods import Tables
from spen_jax.exact.graph_layout import Kinds, at, forests, summed_at


class Ready(NamedTuple):
    """What messages need: energies, finite ones, those of factors over their weights, and the weights (m,) each."""

    nodes: jax.Array
    links: tuple[jax.Array, ...]
    weights: tuple[jax.Array, ...] | None


def within(total: jax.Array) -> jax.Array:
    """A sum of finite energies as what it stands for, infinite beyond all that energies can be."""
    return jnp.where(total > 1e20, jnp.inf, jnp.where(total < -1e20, -jnp.inf, total))


class GraphMessages(Field):
    """The part of a `FactorGraph` that methods use."""

    unary: jax.Array
    factors: tuple[Factors, ...]

    @property
    def size(self) -> tuple[int, int, int]:
        """B, n, K."""
        raise NotImplementedError

    def kinds(self) -> Kinds:
        """What plans depend on."""
        raise NotImplementedError

    def multilinear(self, tables, y):
        """sum_i unary . y_i + sum over factors of their mean energies."""
        total = jnp.sum(y * finite(tables.nodes), (1, 2))
        for f, table in zip(self.factors, tables.links, strict=True):
            total = total + jnp.sum(f.relaxed(table, at(y, f)), 1)
        return total

    # Messages: for each kind of factors those to its variables, (B, m, r, K), energies with minimum 0

    def prepared(self, tables, weights, cold):
        """Finite energies, those of factors over their weights."""
        if weights is not None:
            weights = tuple(jnp.asarray(w, tables.nodes.dtype).reshape(1, -1) for w in weights)
        links = []
        for i, table in enumerate(map(finite, tables.links)):
            if weights is not None:
                table = table / weights[i].reshape(1, -1, *[1] * (table.ndim - 2))
            links.append(jnp.minimum(table, BARRED))
        return Ready(finite(tables.nodes), tuple(links), weights), (Least() if cold else Sum())

    def silent(self, ready):
        """Zeros."""
        nodes = ready[0].nodes
        return tuple(
            jnp.zeros((nodes.shape[0], *f.shape, nodes.shape[-1]), nodes.dtype)
            for f in self.factors
        )

    def _asked(self, gathered, messages, f):
        """q, what variables say to factors: all that they hear but from these."""
        return at(gathered, f) - messages

    def passed(self, ready, messages):
        """m(y_j) = either over the others of (E_f + their q), the flooding schedule."""
        tables, algebra = ready
        gathered, new = self.gathered(ready, messages), []
        for f, table, own in zip(self.factors, tables.links, messages, strict=True):
            sent = f.sent(table, self._asked(gathered, own, f), algebra)
            new.append(jnp.minimum(sent - jnp.min(sent, -1, keepdims=True), BARRED))
        return tuple(new)

    def gathered(self, ready, messages):
        """nodes + sum over factors of their messages, times their weights."""
        tables, _ = ready
        total = tables.nodes
        for i, (f, own) in enumerate(zip(self.factors, messages, strict=True)):
            if tables.weights is not None:
                own = own * tables.weights[i][..., None, None]
            total = summed_at(total, own, f)
        return total

    def beliefs(self, ready, messages):
        """softmin of what is gathered, and of E_f + q."""
        tables, _ = ready
        gathered = self.gathered(ready, messages)
        links = (
            f.beliefs(table, self._asked(gathered, own, f))
            for f, table, own in zip(self.factors, tables.links, messages, strict=True)
        )
        return Tables(jax.nn.softmax(-gathered, -1), tuple(links))

    def bethe(self, ready, messages):
        """sum_i F_i + sum_f w_f (F_f - sum over its variables of F_if) (Yedidia, Freeman & Weiss 2005)."""
        tables, algebra = ready
        gathered = self.gathered(ready, messages)
        total = jnp.sum(algebra.either(gathered, 2), 1)
        for i, (f, table, own) in enumerate(zip(self.factors, tables.links, messages, strict=True)):
            q = self._asked(gathered, own, f)
            each = f.free(table, q, algebra) - jnp.sum(
                jnp.where(f.there(), algebra.either(q + own, 3), 0), 2
            )
            weight = 1 if tables.weights is None else tables.weights[i]
            total = total + jnp.sum(weight * each, 1)
        return within(total)

    def independent(self, tables, y):
        """Products of distributions, and of counts what they make."""
        q = jnp.where(y > 0, -jnp.log(jnp.where(y > 0, y, 1)), BARRED)
        links = (
            f.beliefs(jnp.zeros((1, 1, *table.shape[2:]), y.dtype), at(q, f))
            for f, table in zip(self.factors, tables.links, strict=True)
        )
        return Tables(y, tuple(links))

    def towards(self, colour, new, old):
        """By the colours of their variables."""
        colours = jnp.asarray(self.colours())
        return tuple(
            jnp.where((colours[f.where] == colour).reshape(-1, *f.shape, 1), a, b)
            for f, a, b in zip(self.factors, new, old, strict=True)
        )

    def cover(self):
        """Of each kind of factors, (m,)."""
        shares = forests(self.size[1], self.kinds())[0].mean(0)
        ends = np.cumsum([f.shape[0] for f in self.factors])
        return tuple(
            shares[end - f.shape[0] : end] for f, end in zip(self.factors, ends, strict=True)
        )

    def cover_bound(self, tables, messages, cold):
        """Each forest by messages, as many steps as it is deep."""
        return cover_bound(self, tables, messages, cold)

    # Multipliers: for each kind of factors energies that variables lend them, (B, m, r, K)

    def multipliers(self, tables):
        """Zeros."""
        return self.silent(self.prepared(tables, None, True))

    def rates(self):
        """2 / (r + the most factors of a variable of it), (1, m, r, 1): one over what bounds the curvature."""
        size, variables, _ = self.size
        dtype = self.unary.dtype
        ones = tuple(jnp.ones((size, *f.shape, 1), dtype) for f in self.factors)
        degree = jnp.zeros((size, variables, 1), dtype)
        for f, one in zip(self.factors, ones, strict=True):
            degree = summed_at(degree, one, f)
        return tuple(2 / (f.shape[1] + jnp.maximum(at(degree, f), 1)) for f in self.factors)

    def reparametrised(self, tables, multipliers):
        """nodes + what they lent, (B, n, K)."""
        return self.gathered(self.prepared(tables, None, True), multipliers)

    def dual(self, tables, multipliers, cold):
        """sum_i min (nodes + lent) + sum_f min (E_f - lent), (B,)."""
        ready, algebra = self.prepared(tables, None, cold)
        total = jnp.sum(algebra.either(self.reparametrised(tables, multipliers), 2), 1)
        for f, table, own in zip(self.factors, ready.links, multipliers, strict=True):
            total = total + jnp.sum(f.free(table, -own, algebra), 1)
        return within(total)

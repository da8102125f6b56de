"""Factor graphs of discrete variables: any energy that is a sum over small sets of them."""

import math
from collections.abc import Sequence
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np

from spen_jax.domains import Simplex
from spen_jax.exact.arguments import read_energies, read_mask
from spen_jax.exact.elimination import Elimination
from spen_jax.exact.factors import Factors, Tables, check_energies
from spen_jax.exact.field_methods import Method, read_method
from spen_jax.exact.field_methods import Tables as Energies
from spen_jax.exact.graph_layout import (
    Kinds,
    Layout,
    at,
    colours,
    depth,
    kinds,
    layout,
)
from spen_jax.exact.graph_messages import GraphMessages
from spen_jax.exact.network import Network
from spen_jax.numbers import known, real


class FactorGraph(GraphMessages):
    """E(y) = sum_i unary[i, y_i] + sum over factors of E_f(y of its scope), y_i of K labels.

    An answer in whole numbers is (..., n); relaxed it is (..., n, K), a distribution for each variable, in which the
    energy is multilinear. Loopy graphs (Kschischang, Frey & Loeliger 2001) have no cheap exact answer: `method` says
    how questions are answered, and `by` changes it; results say what they promise (`Answer`, `Marginals`).

    Args:
      unary: (..., n, K); infinite for labels that a variable does not have.
      factors: `Tables` and `Counts`, of any numbers of variables.
      mask: booleans (..., n), which variables count: one that does not has no label, and no factor that sees it
        counts.
      method: how questions are answered, `Elimination()` unless said.

    Raises:
      ValueError: for an empty graph, scopes of unknown variables, shapes that do not fit, energies that are
        not numbers.
    """

    arrays = ("unary", "factors", "mask")
    settings = ("method",)
    shared = ("energies", "scopes")
    rank, y_rank, whole_rank = 2, 2, 1
    domain = Simplex()

    def __init__(
        self,
        unary: Any,
        factors: Sequence[Factors] = (),
        *,
        mask: Any = None,
        method: Method | None = None,
    ):
        self.unary = read_energies("unary", unary, (None, None))
        *batch, variables, labels = self.unary.shape
        if not variables * labels:
            raise ValueError(
                f"a graph needs a variable and a label, got unary of shape {self.unary.shape}"
            )
        check_energies("unary", self.unary)
        if isinstance(factors, Factors):
            raise ValueError("factors must be a list of Tables and Counts, got one by itself")
        self.factors = tuple(factors)
        for each in self.factors:
            if not isinstance(each, Factors):
                raise ValueError(
                    f"factors must be Tables(scopes, energies) or Counts, got {type(each).__name__}"
                )
            each.check(variables, labels, tuple(batch))
        self.mask = read_mask(mask, None, (*batch, variables))
        self.method = read_method(method, Elimination())

    @property
    def size(self) -> tuple[int, int, int]:
        """B, n, K."""
        return math.prod(self.batch_shape), self.unary.shape[-2], self.unary.shape[-1]

    @classmethod
    def of_network(cls, network: Network, method: Method | None = None) -> Self:
        """The graph of a file, `read_uai(path)`: variables of fewer states than others have the rest forbidden.

        Answers are whole numbers (n,); factors of no variables are added to the energies of variable 0. ValueError as
        for other graphs.
        """
        labels = max(network.sizes, default=0)
        unary = np.where(np.arange(labels) < np.reshape(network.sizes, (-1, 1)), 0, np.inf)
        kinds: dict[int, tuple[list[Any], list[Any]]] = {}
        for scope, table in zip(network.scopes, network.tables, strict=True):
            if not scope:
                unary[0] += table
                continue
            scopes, tables = kinds.setdefault(len(scope), ([], []))
            scopes.append(scope)
            tables.append(np.pad(table, [(0, labels - n) for n in table.shape]))
        factors = [Tables(scopes, np.stack(tables)) for scopes, tables in kinds.values()]
        return cls(unary, factors, method=method)

    def network(self) -> Network:
        """One graph as sizes, scopes and tables, for `write_uai`; factors that count with auxiliary variables.

        ValueError for a batch, and scopes that are traced.
        """
        if self.batch_shape:
            raise ValueError(f"a network is of one graph, got a batch of {self.batch_shape}")
        layout = self.layout()
        tables = [np.asarray(table, float)[0] for _, table in self.listed(self.tables())]
        return Network(layout.sizes, list(layout.scopes), tables)

    def given(self, y: Any) -> Self:
        """With evidence: y (..., n), or (n,) for all alike, says what variables are, -1 where that is not known.

        Or a dict {variable: value} for all alike, as `read_evidence(path)` makes it.

        The free energy is then that of the answers that agree: with the visible variables given, that of the latent
        ones, F(y) = -1/beta log sum_z exp(-beta E(y, z)).

        ValueError for what are no whole numbers of these shapes, variables that there are not, and values known to be
        no labels.
        """
        _, variables, labels = self.size
        if isinstance(y, dict):
            said, y = y, np.full(variables, -1)
            if not all(v in range(variables) for v in said):
                raise ValueError(
                    f"evidence must name variables 0 to {variables - 1}, got {sorted(said)}"
                )
            y[list(said)] = list(said.values())
        y = real("y", y)
        batch = self.batch_shape
        if not jnp.issubdtype(y.dtype, jnp.integer) or y.shape not in (
            (variables,),
            (*batch, variables),
        ):
            raise ValueError(
                f"evidence must be whole numbers of shape {(variables,)} or {(*batch, variables)}, got {y.dtype} "
                f"of shape {y.shape}"
            )
        numbers = known(y)
        if (
            numbers is not None
            and numbers.size
            and not -1 <= numbers.min() <= numbers.max() < labels
        ):
            raise ValueError(
                f"evidence must be labels from 0 to {labels - 1}, or -1 where it is not known, got {numbers.min()} to "
                f"{numbers.max()}"
            )
        y = jnp.broadcast_to(y, (*batch, variables))[..., None]
        other = (y >= 0) & (jnp.arange(labels).reshape(*[1] * len(batch), 1, -1) != y)
        return self.replaced(unary=jnp.where(other, jnp.inf, self.unary))

    def known_scopes(self) -> tuple[np.ndarray, ...]:
        """The scopes of each kind of factors; ValueError where they are traced, or each example's own."""
        found = [each.known for each in self.factors]
        if None in found:
            raise ValueError(
                f"{type(self.method).__name__} plans ahead: it needs scopes that all examples share and that are known "
                "as the program is made (NumPy arrays, not traced); BeliefPropagation, MeanField and Gibbs do without"
            )
        return tuple(scopes.array for scopes in found if scopes is not None)

    def kinds(self) -> Kinds:
        """What plans depend on; ValueError where scopes are traced, or each example's own."""
        self.known_scopes()
        return kinds(self.factors, self.unary.shape[-1])

    def layout(self) -> Layout:
        """Its variables, those that counts need, and the scopes of tables; ValueError as `known_scopes` raises."""
        return layout(*self.unary.shape[-2:], self.kinds())

    def smalls(self, tables):
        """First those of single variables, then each kind of factors' own; ValueError as `known_scopes` raises."""
        self.known_scopes()
        found = [([(i,) for i in range(tables.nodes.shape[1])], tables.nodes)]
        for number, (f, table) in enumerate(zip(self.factors, tables.links, strict=True)):
            found += f.small(table, self.unary.shape[-1], str(number))
        return found

    def energies_at(self, tables: Energies, y: np.ndarray) -> jax.Array:
        """E of answers in whole numbers (N, n), (B, N)."""
        self.known_scopes()
        total = jnp.sum(tables.nodes[:, np.arange(y.shape[1]), y], 2)
        for f, table in zip(self.factors, tables.links, strict=True):
            flat = table.reshape(*table.shape[:2], -1)
            which = np.arange(f.shape[0]) if table.shape[1] > 1 else 0
            total = total + jnp.sum(flat[:, which, f.index(y)], 2)
        return total

    def kl(self, other, beta=1.0):
        """KL(P || Q) as in `Structure`, as good as the method's marginals and free energies; factors must be equal."""
        if jax.tree.structure(self.factors) != jax.tree.structure(other.factors):
            raise ValueError(
                "kl needs two graphs of equal factors and scopes: one that does not have a factor can have it with "
                "energies of 0"
            )
        return super().kl(other, beta)

    # Tables

    def counts(self) -> jax.Array:
        """Which variables count, (B, n)."""
        size, variables, _ = self.size
        if self.mask is None:
            return jnp.ones((size, variables), bool)
        return self.mask.reshape(size, variables)

    def _linked(self, each):
        """Which factors count, (B, m)."""
        there = at(self.counts()[..., None], each)[..., 0]
        return jnp.all(there | (jnp.asarray(each.where) < 0).reshape(-1, *each.shape), -1)

    def tables(self):
        """A variable that does not count has label 0, without energy."""
        size, variables, labels = self.size
        nodes = self.unary.reshape(size, variables, labels)
        links = tuple(f.table(self.batch_shape, labels).astype(nodes.dtype) for f in self.factors)
        if self.mask is not None:
            absent = jnp.where(jnp.arange(labels) == 0, 0, jnp.inf).astype(nodes.dtype)
            nodes = jnp.where(self.counts()[..., None], nodes, absent[None, None])
            links = tuple(
                jnp.where(self._linked(f).reshape(size, -1, *[1] * (a.ndim - 2)), a, 0)
                for f, a in zip(self.factors, links, strict=True)
            )
        return Energies(nodes, links)

    def spread(self, tables):
        """Entries of their own for each example and factor."""
        size = self.size[0]
        links = (
            jnp.broadcast_to(a, (size, f.shape[0], *a.shape[2:]))
            for f, a in zip(self.factors, tables.links, strict=True)
        )
        return Energies(tables.nodes, tuple(links))

    def support(self):
        """Which variables count, (B, n)."""
        return (self.counts(),)

    def masked(self, mask):
        """With a mask (..., n), booleans, of variables that count beside its own; ValueError for other shapes."""
        also: Any = read_mask(mask, None, self.unary.shape[:-1])
        return self.replaced(mask=also if self.mask is None else self.mask & also)

    def parts(self, of_tables):
        """Those of what counts."""
        nodes, links = of_tables
        nodes = jnp.where(self.counts()[..., None], nodes, 0)
        if self.mask is not None:
            links = tuple(
                jnp.where(self._linked(f).reshape(*a.shape[:2], *[1] * (a.ndim - 2)), a, 0)
                for f, a in zip(self.factors, links, strict=True)
            )
        return Energies(nodes, links)

    # Answers

    def written(self, of_tables):
        """Labels (B, n)."""
        return self.said_whole(jnp.argmax(of_tables.nodes, -1))

    def said_whole(self, y):
        """-1 for what does not count."""
        return jnp.where(self.counts(), y, -1)

    def y_shape(self):
        """(n, K)."""
        return self.unary.shape[-2:]

    def one_hot(self, y):
        """(..., n) to (..., n, K), 0 for -1."""
        return jax.nn.one_hot(y, self.unary.shape[-1], dtype=self.unary.dtype)

    def counting(self, y):
        """A variable that does not count has label 0."""
        first = jax.nn.one_hot(0, y.shape[-1], dtype=y.dtype)
        return jnp.where(self.counts()[..., None], y, first[None, None])

    def plus(self, energies):
        """With energies (..., n, K) added to the unary ones."""
        return self.replaced(unary=self.unary + energies)

    # Plans

    def colours(self):
        """(n,); without known scopes a colour for each variable."""
        if any(f.known is None for f in self.factors):
            return np.arange(self.size[1])
        return colours(self.size[1], self.kinds())

    def depth(self):
        """Of a graph without cycles how many factors lie between two variables at most."""
        if any(f.known is None for f in self.factors):
            return None
        return depth(self.size[1], self.kinds())

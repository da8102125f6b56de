"""Random fields: structures whose graph may have cycles, and the methods that answer for them.

A `Field` has the questions of every `Structure`; its `method` (a frozen dataclass, `Elimination`, `BeliefPropagation`,
`MinCut` ...) says how they are answered, and each result what it promises: "exact"; a "bound" on the side that is
said, so that the answer's distance from the optimum is known; or "approximate". Methods work on what `tables` gives,
times beta, through the few functions that a field has to say: messages, and the multilinear energy.
"""

from dataclasses import dataclass, field
from functools import partial
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from spen_jax.checks import check_whole
from spen_jax.exact import answers
from spen_jax.exact.algebras import Sum
from spen_jax.exact.answers import or_infinite
from spen_jax.exact.field_methods import EXACT, Method, Tables, read_method
from spen_jax.exact.graph_layout import Layout
from spen_jax.exact.structure import Beta, Structure, read_beta


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Answer:
    """Answers of a `Field`, their energies, and how far they can be from the best.

    Attributes:
      y: whole numbers, -1 where nothing is allowed; (..., *shape), of several (..., n, *shape).
      energy: E(y), (...) or (..., n); infinite where nothing is allowed.
      bound: no answer's energy is below it, (...); -infinity where none is known, as of samples.
      promise: "exact"; "bound": `gap` says how far it can be from the best; "approximate".
    """

    y: jax.Array
    energy: jax.Array
    bound: jax.Array
    promise: str = field(metadata={"static": True})

    @property
    def gap(self) -> jax.Array:
        """energy - bound >= 0 up to rounding, (...) or (..., n): at 0 an answer is the best; infinite without bound."""
        bound = self.bound
        bound = bound.reshape(*bound.shape, *[1] * (self.energy.ndim - bound.ndim))
        return jnp.where(self.energy == bound, 0, self.energy - bound)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Marginals:
    """Marginals of a `Field`, and how they were found.

    Attributes:
      nodes: P(y_i = k) in [0, 1], (..., *nodes, K): (..., n, K) of a graph, (..., H, W, K) of a grid.
      links: P of the joint values of each factor, arranged as its energies: a tuple of (..., m, K, ..., K), of `Counts`
        (..., m, S); of a grid by direction, (..., H', W', K, K), None for one without links.
      free_energy: F, (...); not a number where the method has none (`Gibbs`).
      residual: the largest change of a message or marginal in the last step, (...), of `Gibbs` between halves of the
        chains; 0 for what takes no steps.
      promise: of the marginals, "exact" or "approximate"; at infinity that of `best`, which may be "bound".
      promise_of_free_energy: "exact", "lower bound", "upper bound" or "approximate"; None where there is none.
    """

    nodes: jax.Array
    links: Any
    free_energy: jax.Array
    residual: jax.Array
    promise: str = field(metadata={"static": True})
    promise_of_free_energy: str | None = field(metadata={"static": True})


class Field(Structure):
    """What a `FactorGraph` and a `Grid` share: K labels for each variable, and a method that answers the questions.

    `method` is a frozen dataclass such as `Elimination` or `BeliefPropagation`; `method.promises(field)` says how good
    its answers are. `best` and `sample` give an `Answer`, `marginals` gives `Marginals`, which say so too.
    `free_energy` and `entropy`, `kl` and `log_probability` with it, are as good as the method's F; at infinity
    `free_energy` is the energy of its best answer. `k_best` needs `Elimination` or `Enumeration`.

    ValueError, which names another method, for a question that the method has no answer to. What a kind of field has to
    say raises NotImplementedError here.
    """

    method: Method

    def by(self, method: Method) -> Self:
        """The same, its questions answered by another method, None for its own; ValueError for what is no method."""
        return self.replaced(method=read_method(method, self.method))

    # What a field has to say beside a structure's own; tables as `Tables`, messages any tree of arrays

    def multilinear(self, tables: Tables, y: jax.Array) -> jax.Array:
        """The mean energy of independent variables with distributions y (B, *nodes, K), (B,); large for infinite."""
        raise NotImplementedError

    def prepared(self, tables: Tables, weights: Any, cold: bool) -> Any:
        """What messages need of the tables, once for all steps; weights are `cover`'s, None for all 1."""
        raise NotImplementedError

    def silent(self, ready: Any) -> Any:
        """Messages before any are passed."""
        raise NotImplementedError

    def passed(self, ready: Any, messages: Any) -> Any:
        """All messages once, each of those before."""
        raise NotImplementedError

    def gathered(self, ready: Any, messages: Any) -> jax.Array:
        """Energies of single values with their messages, whose softmin are the marginals, (B, *nodes, K)."""
        raise NotImplementedError

    def beliefs(self, ready: Any, messages: Any) -> Tables:
        """Marginals by messages, arranged as `spread` has the tables."""
        raise NotImplementedError

    def bethe(self, ready: Any, messages: Any) -> jax.Array:
        """The Bethe free energy of messages, (B,), with weights the reweighted one; of cold ones their energy."""
        raise NotImplementedError

    def independent(self, tables: Tables, y: jax.Array) -> Tables:
        """P of single and joint values where variables are independent with distributions y (B, *nodes, K)."""
        raise NotImplementedError

    def towards(self, colour: jax.Array, new: Any, old: Any) -> Any:
        """New messages to variables of a colour, old ones to others."""
        raise NotImplementedError

    def cover(self) -> Any:
        """Weights of factors: the shares of forests that hold them, of forests that cover the graph."""
        raise NotImplementedError

    def cover_bound(self, tables: Tables, messages: Any, cold: bool) -> jax.Array:
        """The mean of the forests' F, or least energies, with energies that messages share out among them, (B,)."""
        raise NotImplementedError

    def colours(self) -> np.ndarray:
        """A whole number for each variable, unlike that of those that share a factor with it, (*nodes)."""
        raise NotImplementedError

    def smalls(self, tables: Tables) -> list[tuple[list[tuple[Any, ...]], Any]]:
        """Small tables, of single variables first: names of the variables of each, (B or 1, m or 1, states ...)."""
        raise NotImplementedError

    def layout(self) -> Layout:
        """Names and sizes of the variables of `smalls`; ValueError where they are not known."""
        raise NotImplementedError

    def energies_at(self, tables: Tables, y: np.ndarray) -> jax.Array:
        """E of answers in whole numbers (N, *nodes), (B, N)."""
        raise NotImplementedError

    def listed(self, tables: Tables) -> list[tuple[tuple[Any, ...], Any]]:
        """Each small table by itself, (B or 1, states ...), with the names of its variables."""
        return [
            (scope, table[:, i if table.shape[1] > 1 else 0])
            for scopes, table in self.smalls(tables)
            for i, scope in enumerate(scopes)
        ]

    def depth(self) -> int | None:
        """Where the graph has no cycle, in how many steps messages get everywhere; else None."""
        raise NotImplementedError

    # What a structure has to say

    def energy_of(self, y):
        """The multilinear energy."""
        return or_infinite(self.multilinear(self.tables(), self.counting(y)))

    def counting(self, y: jax.Array) -> jax.Array:
        """Relaxed answers with what does not count in its place."""
        return y

    def said_whole(self, y: jax.Array) -> jax.Array:
        """Answers in whole numbers with -1 where nothing counts."""
        return y

    def free(self, tables):
        """F at beta = 1 by the method, whose derivative is its marginals."""
        method = self.asked("free_energy")
        if hasattr(method, "recursion"):
            return self.recursion(tables, Sum())
        return _free(self, tables)

    def least(self, tables):
        """The energy of the best answer that the method finds."""
        y, _ = lax.stop_gradient(self.asked("best").best(self, tables))
        return or_infinite(self.multilinear(tables, self.one_hot(y)))

    def found_samples(self, tables, key, n):
        """By the method; the second result is infinite where nothing is allowed."""
        y, free = self.asked("samples").drawn(self, tables, key, n)
        return jnp.moveaxis(jax.vmap(self.said_whole, 1)(y), 0, 1), free

    @property
    def is_exact(self):
        """Whether the method's free energy is."""
        return self.method.promises(self).free_energy == EXACT

    def asked(self, question: str) -> Any:
        """The method; ValueError where it has no answer to the question, or none for such a field."""
        if getattr(self.method.promises(self), question) is None:
            raise ValueError(
                f"{type(self.method).__name__} has no {question.replace('_', ' ')}: ask another method, "
                f"{type(self).__name__.lower()}.by(...), such as {self._others(question)}"
            )
        self.method.check(self)
        return self.method

    def _others(self, question):
        others = "TreeReweighted()" if question != "samples" else "Gibbs()"
        return f"Elimination() or {others}"

    def recursion(self, tables, algebra):
        """By the method, where it is one of those that go through all answers."""
        run = getattr(self.method, "recursion", None)
        if run is None:
            raise ValueError(
                f"the k best are answered by going through all answers, which {type(self.method).__name__} does not: "
                "ask Elimination() or Enumeration()"
            )
        self.method.check(self)
        return run(self, tables, algebra)

    # Questions whose results say what they promise

    def best(self) -> Answer:  # pyright: ignore
        """The answer of lowest energy that the method finds, and a bound of the lowest there is: an `Answer`.

        ValueError where the method has none, or cannot answer for such a field.
        """
        self.asked("best")
        return _best(self)

    def marginals(self, beta: Beta = 1.0) -> Marginals:
        """P of single and joint values under P(y) = exp(-beta (E(y) - F)), by the method; at infinity of `best`.

        `Marginals`. ValueError where the method has none, and for a beta that is no scalar or known to be below 0.
        """
        beta, cold = read_beta(beta)
        self.asked("best" if cold else "marginals")
        return _marginals(self, beta, cold)

    def sample(self, key: jax.Array, n: int = 1, beta: Beta = 1.0) -> Answer:  # pyright: ignore
        """n answers for each example, drawn from P(y) = exp(-beta (E(y) - F)) or near it, by the method.

        An `Answer`, its y (..., n, *nodes), its energy (..., n); at infinity n times the best. Equal keys of
        `jax.random.key` draw equal ones. ValueError where the method has none, for an n that is no whole number from 1
        on, and a beta that is no scalar or known to be below 0.
        """
        check_whole("n", n, 1)
        beta, cold = read_beta(beta)
        if cold:
            return jax.tree.map(partial(self._repeated, n), self.best())
        self.asked("samples")
        found = answers.sample(self, key, int(n), beta)
        none = jnp.full(self.batch_shape, -jnp.inf, found.energy.dtype)
        return Answer(found.y, found.energy, none, str(self.method.promises(self).samples))


@jax.custom_jvp
def _free(field, tables):
    return field.method.expectations(field, tables)[0]


@_free.defjvp
def _free_jvp(primals, tangents):
    (field, tables), (_, change) = primals, tangents
    value, beliefs, _ = field.method.expectations(field, tables)
    beliefs = field.parts(beliefs)
    each = [
        jnp.sum((p * jnp.broadcast_to(d, p.shape)).reshape(p.shape[0], -1), 1)
        for p, d in zip(jax.tree.leaves(beliefs), jax.tree.leaves(change), strict=True)
    ]
    return value, jnp.where(jnp.isfinite(value), sum(each), 0)


@answers.also_of_none
@jax.jit
def _best(field):
    tables, promise = field.tables(), field.method.promises(field).best
    y, bound = field.method.best(field, tables)
    y = lax.stop_gradient(y)
    energy = or_infinite(field.multilinear(tables, field.one_hot(y)))
    bound = energy if promise == EXACT else jnp.where(bound < energy, bound, energy)
    y = jnp.where(energy.reshape(-1, *[1] * (y.ndim - 1)) < jnp.inf, y, -1)
    y, energy, bound = answers.in_batch(field, (field.said_whole(y), energy, bound))
    return Answer(y, energy, bound, promise)


@answers.also_of_none
@partial(jax.jit, static_argnums=2)
def _marginals(field, beta, cold):
    tables, promises = field.tables(), field.method.promises(field)
    if cold:
        value, found = answers.with_parts(field.least, field.spread(tables))
        of_value = EXACT if promises.best == EXACT else "upper bound"
        residual, promise = jnp.zeros_like(value), (promises.best, of_value)
    else:
        tables = answers.scaled(tables, beta)
        value, found, residual = field.method.expectations(field, tables)
        value = answers.times_beta(value, 1 / jnp.asarray(beta, value.dtype))
        promise = promises.marginals, promises.free_energy
    if promises.free_energy != "upper bound":  # where that is infinite there may be answers
        found = jax.tree.map(
            lambda a: jnp.where(value.reshape(-1, *[1] * (a.ndim - 1)) == jnp.inf, 0, a), found
        )
    nodes, links, value, residual = answers.in_batch(field, (*field.parts(found), value, residual))
    return Marginals(nodes, links, value, residual, *promise)

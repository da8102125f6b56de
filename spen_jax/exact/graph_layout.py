"""How a factor graph is laid out: values of variables gathered at factors, and plans, made once for each graph."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from spen_jax.exact import graph_plans
from spen_jax.exact.factors import Factors, blank


def at(values: jax.Array, factors: Factors) -> jax.Array:
    """Values (B, n, K) of the variables of factors, (B, m, r, K)."""
    where = factors.where
    if factors.known is not None:
        return values.at[:, np.maximum(where, 0)].get(mode="promise_in_bounds")
    return jax.vmap(lambda v, w: v.at[w].get(mode="clip"))(values, _own(values, factors))


def summed_at(total: jax.Array, values: jax.Array, factors: Factors) -> jax.Array:
    """total (B, n, K) with values (B, m, r, K) added at the variables of factors; places without one add nothing."""
    where = factors.where
    if factors.known is None or (where < 0).any():
        values = jnp.where(factors.there()[..., None], values, 0)
    if factors.known is not None:
        return total.at[:, np.maximum(where, 0)].add(values, mode="promise_in_bounds")
    return jax.vmap(lambda t, v, w: t.at[w].add(v))(total, values, _own(total, factors))


def _own(values, factors):
    """Scopes (B, m, r), 0 for none."""
    where = factors.where.reshape(-1, *factors.shape)
    return jnp.broadcast_to(jnp.maximum(where, 0), (len(values), *factors.shape))


class Layout(NamedTuple):
    """Names of variables, auxiliary ones after the graph's own, their numbers of states, small scopes by place.

    `counts` says how many small tables come in one array, as `smalls` has them.
    """

    names: tuple[Any, ...]
    sizes: tuple[int, ...]
    scopes: tuple[tuple[int, ...], ...]
    counts: tuple[int, ...]


Kinds = tuple[tuple[Any, ...], ...]
"""Of each kind of factors its class, settings, and the shape of one's energies."""


def kinds(factors: Sequence[Factors], labels: int) -> Kinds:
    """What the plans of a graph depend on."""
    return tuple((type(f), f.said(), f.own_shape(labels)) for f in factors)


@lru_cache(maxsize=256)
def layout(variables: int, labels: int, kinds: Kinds) -> Layout:
    """The variables of small tables, and which of them each sees."""
    place: dict[Any, int] = {i: i for i in range(variables)}
    sizes = [labels] * variables
    scopes: list[tuple[int, ...]] = [(i,) for i in range(variables)]
    counts = [variables]
    for number, (cls, said, shape) in enumerate(kinds):
        empty = np.zeros((1, 1, *shape), np.float32)
        for found, _ in blank(cls, said).small(empty, labels, str(number)):
            counts.append(len(found))
            for scope in found:
                for v in scope:
                    if v not in place:
                        place[v] = len(sizes)
                        sizes.append(v[1])
                scopes.append(tuple(place[v] for v in scope))
    return Layout(tuple(place), tuple(sizes), tuple(scopes), tuple(counts))


def rows(kinds: Kinds) -> list[tuple[int, ...]]:
    """The variables of each factor, of all kinds one after the other."""
    return [tuple(int(v) for v in row if v >= 0) for _, said, _ in kinds for row in said[0].array]


@lru_cache(maxsize=256)
def colours(variables: int, kinds: Kinds) -> np.ndarray:
    """Of each variable, (n,)."""
    return graph_plans.colours(variables, rows(kinds))


@lru_cache(maxsize=256)
def depth(variables: int, kinds: Kinds) -> int | None:
    """How many factors lie between two variables at most; None for a graph with a cycle."""
    scopes = rows(kinds)
    return (
        graph_plans.depth(variables, scopes) if graph_plans.is_forest(variables, scopes) else None
    )


@lru_cache(maxsize=256)
def forests(variables: int, kinds: Kinds) -> tuple[np.ndarray, int]:
    """Forests that cover all factors, (T, m), and the depth of the deepest."""
    scopes = rows(kinds)
    found = graph_plans.forests(variables, scopes)
    inside = ([scopes[f] for f in np.flatnonzero(forest)] for forest in found)
    return found, max((graph_plans.depth(variables, each) for each in inside), default=0)

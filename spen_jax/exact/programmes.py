"""Methods that run on the host, for each example by itself: minimum cuts, linear and integer programmes."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer

from spen_jax.exact.field_methods import BOUND, EXACT, Promises
from spen_jax.exact.linear_programme import integer_programme, linear_programme
from spen_jax.exact.min_cut import min_cut, switched
from spen_jax.exact.network import Network
from spen_jax.exact.sweeps import polished

Scopes = list[tuple[Any, ...]]


@dataclass(frozen=True)
class MinCut:
    """The least energy of binary variables in submodular pairs, exactly, by a minimum cut (Kolmogorov & Zabih 2004).

    Each pair must have E(0, 0) + E(1, 1) <= E(0, 1) + E(1, 0), perhaps after the labels of some variables are swapped.
    It runs on the host, by SciPy, in double precision, and stands in compiled programs as a call.

    It answers `best` and nothing else. ValueError, where it is asked, for other labels than two, factors of more
    variables or that count, scopes that are traced or each example's own (`padded`), and pairs that no swap makes
    submodular: of traced energies these fail as the program runs, with JAX's error.
    """

    def promises(self, field):
        """The best answer, exactly."""
        return Promises(best=EXACT)

    def check(self, field):
        """ValueError for other labels than two, larger factors, and pairs that are known not to be submodular."""
        labels = field.y_shape()[-1]
        if labels != 2:
            raise ValueError(
                f"MinCut needs variables of two labels, got {labels}: ask TreeReweighted(), DualDecomposition() or "
                "LinearProgramme()"
            )
        smalls = field.smalls(field.tables())
        largest = max((len(s) for scopes, _ in smalls for s in scopes), default=0)
        if largest > 2 or any(
            isinstance(v, tuple) for scopes, _ in smalls for s in scopes for v in s
        ):
            raise ValueError(
                "MinCut needs factors of single variables and of pairs, and none that count: ask TreeReweighted(), "
                "DualDecomposition() or IntegerProgramme()"
            )
        tables = [table for _, table in smalls]
        if any(isinstance(a, Tracer) for a in tables):
            return
        scopes = [scopes for scopes, _ in smalls]
        for example in _examples([np.asarray(a) for a in tables]):
            unary, pairs, energies = _pairwise(scopes, example)
            if switched(len(unary), pairs, energies) is None:
                min_cut(unary, pairs, energies)

    def best(self, field, tables):
        """By the cut."""

        def solve(scopes, example):
            return min_cut(*_pairwise(scopes, example))

        y, bound = on_host(field, tables, solve)
        return jnp.maximum(y, 0), bound


class _Programme:
    """What the linear and the integer programme share."""

    def promises(self, field: Any) -> Promises:
        """The best answer, with a bound."""
        return Promises(best=BOUND)

    def check(self, field: Any) -> None:
        """ValueError for scopes that are not known."""
        field.layout()

    def best(self, field, tables):
        """As found, single variables changed as long as that helps."""
        layout = field.layout()
        y, bound = on_host(field, tables, lambda _, example: self.solved(_network(layout, example)))
        return polished(field, tables, jnp.maximum(y, 0)), bound

    def solved(self, network: Network) -> tuple[Any, Any, float]:
        """An answer (n,), its energy or None, and a bound."""
        raise NotImplementedError


@dataclass(frozen=True)
class LinearProgramme(_Programme):
    """The linear programme over the local polytope, min sum_f E_f . mu_f: a lower bound, on the host by SciPy's HiGHS.

    The answer has each variable's value of the largest mu, and then single variables changed as long as that helps. For
    small graphs; the bound is the best that `DualDecomposition` and `TreeReweighted` can reach on a graph of pairs, and
    a constant to differentiation. It answers `best` and nothing else; ValueError, where it is asked, for scopes that
    are traced or each example's own. Source: Wainwright & Jordan (2008), chapter 8.
    """

    def solved(self, network):
        """Rounded."""
        found = linear_programme(*network)
        return [np.argmax(mu) for mu in found.marginals], None, found.bound


@dataclass(frozen=True)
class IntegerProgramme(_Programme):
    """min_y E(y), the linear programme over whole marginals by branch and bound: exact, unless the time is up.

    On the host by SciPy's HiGHS, for small graphs. Its answer is as good as its bound says: they differ by less than
    1e-6 of the largest spread of a table unless the time is up. It answers `best` and nothing else. ValueError for a
    time that is not above 0, and, where it is asked, for scopes that are traced or each example's own.

    Attributes:
      seconds: for each example; None for as long as it takes.
    """

    seconds: float | None = None

    def __post_init__(self):
        if self.seconds is not None and not self.seconds > 0:
            raise ValueError(f"seconds must be above 0, or None for no end, got {self.seconds}")

    def solved(self, network):
        """Up to HiGHS's tolerance."""
        return integer_programme(*network, seconds=self.seconds)


def on_host(
    field: Any, tables: Any, solve: Callable[[list[Scopes], list[np.ndarray]], Any]
) -> tuple[jax.Array, jax.Array]:
    """y (B, *nodes) and bound (B,) of solve(scopes, tables of one example) -> (y, energy, bound), on the host."""
    nodes = tables.nodes
    size, shape = len(nodes), nodes.shape[1:-1]
    smalls = field.smalls(lax.stop_gradient(tables))
    scopes, arrays = [s for s, _ in smalls], [a for _, a in smalls]
    count = int(np.prod(shape))

    def run(*arrays):
        y = np.full((size, *shape), -1, np.int32)
        bounds = np.full(size, np.inf, nodes.dtype)
        for i, example in enumerate(_examples([np.asarray(a) for a in arrays], size)):
            found, _, bounds[i] = solve(scopes, example)
            y[i] = np.asarray(found[:count], np.int32).reshape(shape)
        return y, bounds

    numbers = jax.ShapeDtypeStruct((size,), nodes.dtype)
    shapes = jax.ShapeDtypeStruct((size, *shape), jnp.int32), numbers
    return jax.pure_callback(run, shapes, *arrays, vmap_method="sequential")


def _examples(arrays, size=None):
    """The tables of each example, (m or 1, ...) each."""
    size = max(map(len, arrays)) if size is None else size
    for i in range(size):
        yield [a[i if len(a) > 1 else 0] for a in arrays]


def _network(layout, example):
    """As sizes, scopes and tables."""
    tables, place = [], iter(layout.counts)
    for table, count in zip(example, place, strict=True):
        tables += list(np.broadcast_to(table, (count, *table.shape[1:])))
    return Network(layout.sizes, list(layout.scopes), tables)


def _pairwise(scopes, example):
    """Unary energies (n, 2), pairs (m, 2) and their tables (m, 2, 2), of the type that says how they are rounded."""
    dtype = example[0].dtype
    unary = np.zeros((1 + max(v for each in scopes for s in each for v in s), 2), dtype)
    pairs, energies = [np.zeros((0, 2), int)], [np.zeros((0, 2, 2), dtype)]
    for each, table in zip(scopes, example, strict=True):
        where = np.array(each, int)
        table = np.broadcast_to(table, (len(where), *table.shape[1:]))
        if where.shape[1] == 1:
            np.add.at(unary, where[:, 0], table)
        else:
            pairs.append(where)
            energies.append(table)
    return unary, np.concatenate(pairs), np.concatenate(energies)

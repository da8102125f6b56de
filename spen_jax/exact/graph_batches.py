"""Factor graphs of different shapes as one batch."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from spen_jax.exact.counts import Counts
from spen_jax.exact.factor_graph import FactorGraph
from spen_jax.exact.factors import Factors, Tables
from spen_jax.numbers import known


def padded(graphs: Sequence[FactorGraph]) -> FactorGraph:
    """One batch (B,) of graphs without batch axes, filled up to equal numbers of variables, labels and factors.

    A mask says which variables count; what fills labels up is forbidden, and factors that fill up have no energy.
    Factors are in kinds: `Tables` by how many variables they see, then `Counts`. Scopes are each example's own:
    methods that pass messages or go over variables take them (`BeliefPropagation`, `MeanField`, `Gibbs`, `Annealing`,
    `DualDecomposition`), without a plan. The method is the first one's.

    Raises:
      ValueError: for no graphs, and for ones that are batches, or have scopes that are not known.
    """
    if not graphs:
        raise ValueError("padded needs a factor graph or more, got none")
    for graph in graphs:
        if graph.batch_shape:
            raise ValueError(
                f"padded takes graphs without axes of a batch, got one of {graph.batch_shape}"
            )
        graph.known_scopes()
        if any(known(a) is None for a in jax.tree.leaves(graph)):
            raise ValueError("padded takes graphs of known energies, outside jit, vmap and grad")
    variables, labels = (max(g.unary.shape[axis] for g in graphs) for axis in (0, 1))
    unary = np.full((len(graphs), variables, labels), np.inf, graphs[0].unary.dtype)
    mask = np.zeros((len(graphs), variables), bool)
    for i, graph in enumerate(graphs):
        n, k = graph.unary.shape
        unary[i, n:, 0] = 0
        unary[i, :n, :k] = graph.unary
        mask[i, :n] = True if graph.mask is None else graph.mask
    kinds = sorted({_kind(f) for g in graphs for f in g.factors})
    factors = [_joined(kind, graphs, labels) for kind in kinds]
    return FactorGraph(unary, factors, mask=mask, method=graphs[0].method)


def _kind(factors: Factors):
    """What factors of one array have in common."""
    if isinstance(factors, Counts):
        return 1, factors.energies.shape[-1], factors.value, factors.modulo
    return 0, factors.shape[1], 0, False


def _joined(kind, graphs, labels):
    """The factors of a kind of all graphs."""
    counts, size, value, modulo = kind
    each = [[f for f in g.factors if _kind(f) == kind] for g in graphs]
    most = max(sum(f.shape[0] for f in fs) for fs in each)
    width = max(f.shape[1] for fs in each for f in fs)
    scopes = np.full((len(graphs), most, width), -1 if counts else 0)
    energies = np.zeros((len(graphs), most, *((size,) if counts else (labels,) * size)))
    for i, (graph, fs) in enumerate(zip(graphs, each, strict=True)):
        at = 0
        for f in fs:
            m, r = f.shape
            table = np.asarray(f.table((), graph.unary.shape[1]))[0]
            inside = (i, slice(at, at + m), *(slice(n) for n in table.shape[1:]))
            energies[inside] = table
            scopes[i, at : at + m, :r] = f.where
            at += m
    energies = energies.astype(graphs[0].unary.dtype)
    if counts:
        return Counts(scopes, energies, value=value, modulo=modulo)
    return Tables(jnp.asarray(scopes), energies)

"""Random factor graphs, and all their answers in plain NumPy."""

import itertools

import numpy as np
from structures import Answers

from spen_jax.exact import Counts, FactorGraph, Tables


def energy_of(graph, y):
    """E of one answer of a graph without axes of a batch, factor by factor."""
    total = sum(float(graph.unary[i, k]) for i, k in enumerate(y))
    for factors in graph.factors:
        energies = np.asarray(factors.energies, float)
        for f, scope in enumerate(factors.where):
            table = energies[f if len(energies) > 1 else 0]
            if isinstance(factors, Counts):
                count = sum(y[v] == factors.value for v in scope if v >= 0)
                states = table.shape[-1]
                total += table[count % states if factors.modulo else min(count, states - 1)]
            else:
                total += table[tuple(y[v] for v in scope)]
    return total


def every(graph):
    """All answers of a graph without axes of a batch."""
    n, labels = graph.unary.shape
    y = np.array(list(itertools.product(range(labels), repeat=n)))
    return Answers(y, np.array([energy_of(graph, each) for each in y]))


def exactly(graph, beta=1.0):
    """F, marginals (n, K) and the least energy, by `every`."""
    y, energies = every(graph)
    low = energies.min()
    weights = np.exp(-beta * (energies - low))
    free = low - np.log(weights.sum()) / beta
    one_hot = np.eye(graph.unary.shape[1])[y]
    return free, np.tensordot(weights / weights.sum(), one_hot, 1), low


def tree(rng, n=None, labels=None, scale=1.0):
    """Random pairwise energies on a random tree."""
    n, labels = n or rng.integers(2, 9), labels or rng.integers(2, 4)
    edges = [[rng.integers(i), i] for i in range(1, n)]
    energies = scale * rng.normal(size=(n - 1, labels, labels))
    return FactorGraph(rng.normal(size=(n, labels)), [Tables(edges, energies)])


def loopy(rng, n=12, labels=2, degree=3.0, scale=1.0):
    """Random pairwise energies on a random graph of so many neighbours on average."""
    pairs = list(itertools.combinations(range(n), 2))
    chosen = rng.choice(len(pairs), int(n * degree / 2), replace=False)
    edges = [pairs[i] for i in sorted(chosen)]
    energies = scale * rng.normal(size=(len(edges), labels, labels))
    return FactorGraph(rng.normal(size=(n, labels)), [Tables(edges, energies)])

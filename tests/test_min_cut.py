import itertools
import time

import networkx as nx
import numpy as np
import pytest

from spen_jax.exact.linear_programme import linear_programme
from spen_jax.exact.min_cut import min_cut, switched


def energies(unary, pairs, tables):
    """All answers (2^n, n) and their energies."""
    n = len(unary)
    answers = np.array(list(itertools.product((0, 1), repeat=n))).reshape(-1, n)
    total = unary[np.arange(n)[None], answers].sum(1)
    for (i, j), table in zip(pairs, tables, strict=True):
        total = total + table[answers[:, i], answers[:, j]]
    return answers, total


def random_pairs(rng, n, m):
    """Pairs in either direction, some more than once."""
    return np.array([rng.choice(n, 2, replace=False) for _ in range(m)]).reshape(-1, 2)


def submodular(rng, m):
    tables = rng.normal(size=(m, 2, 2))
    excess = tables[:, 0, 1] + tables[:, 1, 0] - tables[:, 0, 0] - tables[:, 1, 1]
    tables[:, 0, 1] += np.maximum(-excess, 0)
    return tables


def forbid(rng, unary, tables):
    """Some answers less, so that tables stay submodular."""
    unary[rng.random(unary.shape) < 0.1] = np.inf
    for table in tables:
        kind = rng.integers(12)
        if kind < 2:
            table[kind, 1 - kind] = np.inf
        elif kind == 2:
            table[[0, 1], [1, 0]] = np.inf
        elif kind == 3:
            table[rng.integers(2)] = np.inf
        elif kind == 4:
            table[:, rng.integers(2)] = np.inf
        elif kind == 5:
            table[...] = np.where([[False, True], [True, True]], np.inf, table)


def swap(unary, pairs, tables, which):
    unary = np.where(which[:, None], unary[:, ::-1], unary)
    tables = np.where(which[pairs[:, 0]][:, None, None], tables[:, ::-1], tables)
    return unary, np.where(which[pairs[:, 1]][:, None, None], tables[:, :, ::-1], tables)


def check(unary, pairs, tables):
    _, all_energies = energies(unary, pairs, tables)
    y, energy, bound = min_cut(unary, pairs, tables)
    least = all_energies.min()
    if np.isinf(least):
        assert (energy, bound) == (np.inf, np.inf) and np.all(y == -1)
        return False
    at = int("".join(map(str, y)), 2)
    np.testing.assert_allclose([energy, bound, all_energies[at]], least, rtol=1e-12, atol=1e-12)
    assert bound <= energy and y.shape == (len(unary),)
    return True


def test_the_cut_is_the_least_of_all_answers():
    rng = np.random.default_rng(0)
    for _ in range(200):
        unary, pairs = rng.normal(size=(10, 2)), random_pairs(rng, 10, rng.integers(0, 30))
        assert check(unary, pairs, submodular(rng, len(pairs)))


def test_forbidden_labels_and_pairs_are_never_taken():
    rng = np.random.default_rng(1)
    possible = 0
    for _ in range(200):
        unary, pairs = rng.normal(size=(8, 2)), random_pairs(rng, 8, rng.integers(1, 12))
        tables = submodular(rng, len(pairs))
        forbid(rng, unary, tables)
        possible += check(unary, pairs, tables)
    assert 40 < possible < 180


def test_swapped_labels_are_found_and_swapped_back():
    rng = np.random.default_rng(2)
    for _ in range(100):
        unary, pairs = rng.normal(size=(8, 2)), random_pairs(rng, 8, rng.integers(1, 14))
        tables = submodular(rng, len(pairs))
        if rng.random() < 0.5:
            forbid(rng, unary, tables)
        which = rng.random(8) < 0.5
        unary, tables = swap(unary, pairs, tables, which)
        check(unary, pairs, tables)
        found = switched(8, pairs, tables)
        _, tables = swap(unary, pairs, tables, found)
        assert not switched(8, pairs, tables).any()


def test_a_frustrated_circle_has_no_swap_and_is_refused_by_name():
    pairs = np.array([(0, 1), (1, 2), (2, 0)])
    repel = np.broadcast_to(np.eye(2), (3, 2, 2))
    assert switched(3, pairs, repel) is None
    with pytest.raises(ValueError, match=r"table of \(0, 1\) is \[\[1.0, 0.0\], \[0.0, 1.0\]\]"):
        min_cut(np.zeros((3, 2)), pairs, repel)
    assert switched(3, pairs[:2], repel[:2]).tolist() == [False, True, False]
    # Two pairs of the same variables count together.
    assert switched(2, [(0, 1), (1, 0)], [np.eye(2), -2 * np.eye(2)]).tolist() == [False, False]


def test_numbers_of_very_different_sizes_keep_their_digits():
    rng = np.random.default_rng(3)
    for _ in range(40):
        unary, pairs = rng.normal(size=(9, 2)), random_pairs(rng, 9, 16)
        unary *= 10.0 ** rng.integers(-9, 9, (9, 1))
        tables = submodular(rng, 16) * 10.0 ** rng.integers(-9, 9, (16, 1, 1))
        _, all_energies = energies(unary, pairs, tables)
        _, energy, bound = min_cut(unary, pairs, tables)
        size = np.abs(tables).sum() + np.abs(unary).sum()
        np.testing.assert_allclose([energy, bound], all_energies.min(), rtol=0, atol=1e-15 * size)
    for scale in (1e-300, 1e-30, 1e30, 1e300):
        unary, pairs = scale * rng.normal(size=(9, 2)), random_pairs(rng, 9, 16)
        tables = scale * submodular(rng, 16)
        _, all_energies = energies(unary, pairs, tables)
        np.testing.assert_allclose(min_cut(unary, pairs, tables)[1:], all_energies.min(), 1e-12)


def test_tables_that_are_sums_of_two_may_be_rounded():
    rng = np.random.default_rng(4)
    for dtype in (np.float32, np.float64):
        pairs = random_pairs(rng, 8, 20)
        tables = rng.normal(size=(20, 2, 1)).astype(dtype) + rng.normal(size=(20, 1, 2)).astype(
            dtype
        )
        unary = rng.normal(size=(8, 2))
        _, all_energies = energies(unary, pairs, tables)
        _, energy, bound = min_cut(unary, pairs, tables)
        tolerance = 100 * np.finfo(dtype).eps
        np.testing.assert_allclose([energy, bound], all_energies.min(), rtol=0, atol=tolerance)
        assert bound <= energy
    # What is left of numbers that cancel is rounding.
    large = np.array([[0.1, 0.2], [0.3, 0.4]]) * 1e6
    tables = np.stack([large, 0.1 * np.ones((2, 2)) / 3, -large, large * 3, -3 * large])
    assert switched(2, [(0, 1)] * 5, tables).tolist() == [False, False]


def test_networkx_finds_a_cut_of_the_same_value():
    rng = np.random.default_rng(5)
    for _ in range(20):
        n = 30
        pairs = random_pairs(rng, n, 80)
        weight, slope = rng.integers(0, 9, 80), rng.integers(-9, 10, n)
        graph = nx.DiGraph()
        graph.add_nodes_from(["s", "t"])
        for i in range(n):
            if slope[i]:
                graph.add_edge(*(("s", i) if slope[i] > 0 else (i, "t")), capacity=abs(slope[i]))
        for (i, j), w in zip(pairs.tolist(), weight, strict=True):
            before = graph.get_edge_data(i, j, {"capacity": 0})["capacity"]
            graph.add_edge(i, j, capacity=before + w)
        value, _ = nx.minimum_cut(graph, "s", "t")
        unary = np.stack([np.maximum(-slope, 0), np.maximum(slope, 0)], 1)
        tables = np.zeros((80, 2, 2))
        tables[:, 0, 1] = weight
        assert min_cut(unary, pairs, tables)[1:] == (value, value)


def test_the_linear_programme_is_as_low():
    rng = np.random.default_rng(6)
    for _ in range(5):
        unary, pairs = rng.normal(size=(20, 2)), random_pairs(rng, 20, 50)
        tables = submodular(rng, 50)
        scopes = [(i,) for i in range(20)] + list(map(tuple, pairs))
        found = linear_programme((2,) * 20, scopes, [*unary, *tables])
        _, energy, bound = min_cut(unary, pairs, tables)
        np.testing.assert_allclose([energy, bound], found.bound, atol=1e-6)


def test_a_large_grid_takes_less_than_a_second():
    rng = np.random.default_rng(7)
    place = np.arange(64 * 64).reshape(64, 64)
    across = np.stack([place[:, :-1].ravel(), place[:, 1:].ravel()], 1)
    down = np.stack([place[:-1].ravel(), place[1:].ravel()], 1)
    pairs = np.concatenate([across, down])
    tables = rng.random((len(pairs), 1, 1)) * (1 - np.eye(2)[None])
    unary = rng.normal(size=(64 * 64, 2))
    began = time.perf_counter()
    _, energy, bound = min_cut(unary, pairs, tables)
    assert time.perf_counter() - began < 1
    assert bound <= energy <= bound + 1e-11


def test_variables_that_nothing_ties_take_their_lower_label_and_zero_in_ties():
    found = min_cut([[0.0, 1.0], [2.0, 1.0], [1.0, 1.0]], np.zeros((0, 2)), np.zeros((0, 2, 2)))
    assert found.y.tolist() == [0, 1, 0] and found[1:] == (2.0, 2.0)
    assert min_cut([[-3.0, -4.0]], [], []).energy == -4
    assert min_cut(np.zeros((0, 2)), [], [])[1:] == (0, 0)


def test_what_is_no_energy_is_refused_by_name():
    good = np.zeros((2, 2)), [(0, 1)], np.zeros((1, 2, 2))
    wrong = {
        "unary must be of shape": (np.zeros((2, 3)), *good[1:]),
        "pairs must be whole numbers from 0 to 1": (good[0], [(0, 2)], good[2]),
        "pair 0 must be of two variables": (good[0], [(1, 1)], good[2]),
        r"tables must be of shape \(1, 2, 2\)": (*good[:2], np.zeros((2, 2, 2))),
        "unary must hold energies": (np.full((2, 2), np.nan), *good[1:]),
        "tables must hold energies": (*good[:2], np.full((1, 2, 2), -np.inf)),
    }
    for message, arguments in wrong.items():
        with pytest.raises(ValueError, match=message):
            min_cut(*arguments)

import itertools
import time

import networkx as nx
import numpy as np
import pytest

from spen_jax.exact.graph_plans import (
    colours,
    depth,
    elimination_order,
    forests,
    is_forest,
)


def grid(rows, columns):
    def at(i, j):
        return i * columns + j

    down = [(at(i, j), at(i + 1, j)) for i in range(rows - 1) for j in range(columns)]
    return [(at(i, j), at(i, j + 1)) for i in range(rows) for j in range(columns - 1)] + down


def k_tree(rng, n, k):
    """Each variable after the first k + 1 joins k of an earlier clique; numbers are shuffled."""
    cliques, scopes = [tuple(range(k + 1))], [tuple(range(k + 1))]
    for i in range(k + 1, n):
        clique = tuple(rng.permutation(cliques[rng.integers(len(cliques))])[:k].tolist())
        scopes += [(j, i) for j in clique]
        cliques.append((*clique, i))
    name = rng.permutation(n).tolist()
    return [tuple(name[i] for i in scope) for scope in scopes]


def random_scopes(rng, n, m, most=3):
    return [
        tuple(rng.choice(n, rng.integers(1, min(most, n) + 1), replace=False).tolist())
        for _ in range(m)
    ]


def eliminated(sizes, scopes, order):
    """The scopes of the tables that an order makes, by merging scopes."""
    left, made = [set(scope) for scope in scopes], []
    for i in order:
        table = {i}.union(*(scope for scope in left if i in scope))
        left = [scope for scope in left if i not in scope] + [table - {i}]
        made.append(table)
    return made


def bipartite(n, scopes):
    graph = nx.Graph()
    graph.add_nodes_from(range(n))
    graph.add_edges_from((i, ("f", f)) for f, scope in enumerate(scopes) for i in scope)
    return graph


def test_what_an_order_costs_is_what_its_tables_hold():
    rng = np.random.default_rng(0)
    for _ in range(60):
        n = int(rng.integers(1, 12))
        sizes, scopes = rng.integers(1, 5, n).tolist(), random_scopes(rng, n, rng.integers(0, 16))
        found = elimination_order(sizes, scopes)
        assert sorted(found.order) == list(range(n))
        tables = eliminated(sizes, scopes, found.order)
        entries = [np.prod([sizes[i] for i in table]) for table in tables]
        assert found.width == max(map(len, tables)) - 1
        np.testing.assert_allclose([2**found.cost, found.total], [max(entries), sum(entries)])


def test_the_width_of_small_graphs_is_within_one_of_the_least():
    rng, over = np.random.default_rng(1), []
    for _ in range(25):
        n = 7
        scopes = random_scopes(rng, n, 11, 2)
        least = min(
            max(map(len, eliminated([2] * n, scopes, order)))
            for order in itertools.islice(itertools.permutations(range(n)), 0, None, 3)
        )
        over.append(elimination_order([2] * n, scopes).width - least + 1)
    assert max(over) <= 1 and np.mean(over) <= 0.1


def test_trees_chains_and_chordal_graphs_have_their_width():
    rng = np.random.default_rng(2)
    tree = [(int(rng.integers(i)), i) for i in range(1, 300)]
    assert elimination_order([3] * 300, tree).width == 1
    chain = elimination_order([3] * 300, [(i, i + 1) for i in range(299)])
    assert chain.width == 1 and chain.total == 299 * 9 + 3
    for k in (2, 5):
        assert elimination_order([2] * 200, k_tree(rng, 200, k)).width == k


def test_grids_and_circles_have_a_width_near_theirs():
    assert 20 <= elimination_order([2] * 400, grid(20, 20)).width <= 21
    assert elimination_order([2] * 90, grid(30, 3)).width == 3
    circle = [(i, (i + 1) % 50) for i in range(50)]
    assert elimination_order([2] * 50, circle).width == 2


def test_large_states_are_kept_out_of_large_tables():
    star = [(0, i) for i in range(1, 6)]
    sizes = [1000, 2, 2, 2, 2, 2]
    assert elimination_order(sizes, star).cost == pytest.approx(np.log2(2000))


def test_graphs_without_factors_have_orders():
    assert elimination_order([], []) == ((), 0, 0.0, 0.0)
    assert elimination_order([3, 1], [(), (0,)])[1:] == (0, pytest.approx(np.log2(3)), 4.0)


def test_ten_thousand_variables_take_seconds():
    rng = np.random.default_rng(3)
    # A tree with a few pairs more, as sparse graphs are.
    scopes = [(int(rng.integers(max(0, i - 50), i)), i) for i in range(1, 10_000)]
    scopes += [(i, i + 30) for i in range(0, 9_900, 25)]
    began = time.perf_counter()
    found = elimination_order([2] * 10_000, scopes)
    assert time.perf_counter() - began < 10 and found.width < 60


def test_variables_of_a_factor_have_different_colours_and_few_are_used():
    rng = np.random.default_rng(4)
    for _ in range(50):
        n = int(rng.integers(1, 15))
        scopes = random_scopes(rng, n, rng.integers(0, 20))
        found = colours(n, scopes)
        assert found.shape == (n,) and found.min() >= 0
        assert all(len({found[i] for i in scope}) == len(scope) for scope in scopes)
        degrees = [len({*itertools.chain(*(s for s in scopes if i in s))} - {i}) for i in range(n)]
        assert found.max() <= max(degrees)


def test_bipartite_graphs_have_two_colours():
    rng = np.random.default_rng(5)
    assert colours(400, grid(20, 20)).max() == 1
    side = rng.permutation(np.arange(60) % 2)
    pairs = [(i, j) for i, j in itertools.combinations(range(60), 2) if side[i] != side[j]]
    some = [pairs[k] for k in rng.choice(len(pairs), 150, replace=False)]
    assert colours(60, some).max() == 1


def test_forests_hold_all_factors_have_no_cycle_and_are_as_large_as_can_be():
    rng = np.random.default_rng(6)
    for _ in range(60):
        n = int(rng.integers(1, 10))
        scopes = random_scopes(rng, n, rng.integers(0, 14))
        found = forests(n, scopes)
        assert found.shape[1:] == (len(scopes),) and found.dtype == bool and len(found) >= 1
        assert found.any(0).all()
        for chosen in found:
            kept = [scopes[f] for f in np.flatnonzero(chosen)]
            assert nx.number_of_edges(bipartite(n, kept)) == 0 or nx.is_forest(bipartite(n, kept))
            for f in np.flatnonzero(~chosen):
                assert len(scopes[f]) > 1
                assert not nx.is_forest(bipartite(n, [*kept, scopes[f]]))


def test_a_grid_is_two_forests_of_short_paths_and_a_tree_is_one():
    scopes = grid(20, 20)
    found = forests(400, scopes)
    assert len(found) == 2
    assert all(depth(400, [scopes[f] for f in np.flatnonzero(chosen)]) <= 40 for chosen in found)
    tree = [(i // 2, i) for i in range(1, 50)]
    assert forests(50, tree).tolist() == [[True] * 49]
    assert forests(2, [(0, 1), (1, 0), (0,)]).sum() == 4


def test_depth_counts_the_factors_of_the_longest_path():
    rng = np.random.default_rng(7)
    for _ in range(40):
        n = int(rng.integers(1, 12))
        scopes = random_scopes(rng, n, 12)
        scopes = [scopes[f] for f in np.flatnonzero(forests(n, scopes)[0])]
        away = dict(nx.all_pairs_shortest_path_length(bipartite(n, scopes)))
        longest = max(d for i in range(n) for j, d in away[i].items() if isinstance(j, int))
        assert depth(n, scopes) == longest // 2
    assert depth(5, [(0, 1), (1, 2, 3)]) == 2


def test_cycles_are_known_and_have_no_depth():
    assert is_forest(4, [(0, 1, 2), (2, 3), (3,), ()])
    assert not is_forest(3, [(0, 1, 2), (1, 2)])
    assert not is_forest(2, [(0, 1), (0, 1)])
    with pytest.raises(ValueError, match="without cycles"):
        depth(2, [(0, 1), (0, 1)])


def test_wrong_scopes_are_named():
    with pytest.raises(ValueError, match="factor 1 .* from 0 to 1, got"):
        elimination_order([2, 2], [(0,), (0, 2)])
    with pytest.raises(ValueError, match="factor 0 must hold each variable once"):
        colours(2, [(1, 1)])
    with pytest.raises(ValueError, match="variable 1 must have 1 state"):
        elimination_order([2, 0], [])

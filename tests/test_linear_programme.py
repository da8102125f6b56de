import itertools
import time

import numpy as np
import pytest

from spen_jax.exact.linear_programme import integer_programme, linear_programme


def least(sizes, scopes, tables):
    """The least energy, of all answers."""
    total = np.zeros(sizes)
    for scope, table in zip(scopes, tables, strict=True):
        order = np.argsort(scope).astype(int)
        shape = [sizes[i] if i in scope else 1 for i in range(len(sizes))]
        total = total + np.transpose(table, order).reshape(shape)
    return total.min()


def random_network(rng, n=5, forbidden=0.0):
    sizes = tuple(rng.integers(1, 4, n).tolist())
    scopes = [
        tuple(rng.choice(n, rng.integers(0, 4), replace=False).tolist())
        for _ in range(rng.integers(0, 10))
    ]
    tables = [rng.normal(size=[sizes[i] for i in scope]) for scope in scopes]
    for f, table in enumerate(tables):
        tables[f] = np.where(rng.random(table.shape) < forbidden, np.inf, table)
    return sizes, scopes, tables


def potts(rng, rows, columns, states, strength):
    place = np.arange(rows * columns).reshape(rows, columns)
    pairs = [*zip(place[:, :-1].ravel(), place[:, 1:].ravel(), strict=True)]
    pairs += [*zip(place[:-1].ravel(), place[1:].ravel(), strict=True)]
    scopes = [(i,) for i in range(place.size)] + pairs
    tables = [*rng.normal(size=(place.size, states))]
    tables += [strength * (1 - np.eye(states))] * len(pairs)
    return (states,) * place.size, scopes, tables


def is_answer(sizes, scopes, tables, y, energy):
    parts = [table[tuple(y[list(scope)])] for scope, table in zip(scopes, tables, strict=True)]
    assert np.all((0 <= y) & (y < sizes))
    np.testing.assert_allclose(energy, np.sum(parts) if parts else 0, atol=1e-12)


@pytest.mark.parametrize("forbidden", [0, 0.3])
def test_the_integer_programme_is_the_least_energy_and_the_linear_one_lies_below(forbidden):
    rng = np.random.default_rng(0)
    for _ in range(40):
        network = random_network(rng, forbidden=forbidden)
        truth = least(*network)
        y, energy, bound = integer_programme(*network)
        relaxed = linear_programme(*network)
        np.testing.assert_allclose([energy, bound], truth, atol=2e-5)
        assert bound <= energy and relaxed.bound <= truth + 1e-12
        if np.isinf(truth):
            assert np.all(y == -1) and not (relaxed.tight and np.isfinite(relaxed.bound))
            continue
        is_answer(*network, y, energy)
        for marginal, size in zip(relaxed.marginals, network[0], strict=True):
            assert marginal.shape == (size,)
            np.testing.assert_allclose(marginal.sum(), 1, atol=1e-6)
        if relaxed.tight:
            np.testing.assert_allclose(relaxed.bound, truth, atol=1e-5)
            whole = np.array([int(np.argmax(marginal)) for marginal in relaxed.marginals])
            is_answer(*network, whole, truth)


def test_graphs_without_cycles_are_tight():
    rng = np.random.default_rng(1)
    for _ in range(10):
        sizes = tuple(rng.integers(2, 4, 7).tolist())
        scopes = [(0, 1), (1, 2, 3), (4, 3), (5, 6), (2,)]
        tables = [rng.normal(size=[sizes[i] for i in scope]) for scope in scopes]
        found = linear_programme(sizes, scopes, tables)
        assert found.tight
        np.testing.assert_allclose(found.bound, least(sizes, scopes, tables), atol=1e-12)


def test_a_frustrated_triangle_is_loose_and_half():
    scopes, tables = [(0, 1), (1, 2), (2, 0)], [np.eye(2)] * 3
    found = linear_programme((2, 2, 2), scopes, tables)
    assert not found.tight
    np.testing.assert_allclose(found.bound, 0, atol=1e-12)
    np.testing.assert_allclose(found.marginals, np.full((3, 2), 0.5), atol=1e-9)
    assert integer_programme((2, 2, 2), scopes, tables).energy == 1


def test_the_bound_is_right_to_rounding_at_any_size_of_the_energies():
    rng = np.random.default_rng(2)
    for scale in (1e-9, 1e9):
        sizes, scopes, tables = random_network(rng, 6)
        tables = [scale * (table + 3) for table in tables]
        truth, found = least(sizes, scopes, tables), linear_programme(sizes, scopes, tables)
        assert found.tight and found.bound <= truth * (1 + 1e-15)
        np.testing.assert_allclose(found.bound, truth, rtol=1e-12)


def test_without_an_allowed_answer_energies_and_bounds_are_infinite():
    no = np.full((2, 2), np.inf)
    apart, same = np.where(np.eye(2) > 0, np.inf, 0), np.where(np.eye(2) > 0, 0, np.inf)
    for scopes, tables in (
        ([(0, 1)], [no]),
        ([(0, 1), (0, 1)], [apart, same]),
        ([()], [np.array(np.inf)]),
        ([(0,), (0,)], [np.array([0, np.inf]), np.array([np.inf, 0])]),
    ):
        found = linear_programme((2, 2), scopes, tables)
        assert found.bound == np.inf and not found.tight and np.isnan(found.marginals).all()
        y, energy, bound = integer_programme((2, 2), scopes, tables)
        assert (energy, bound) == (np.inf, np.inf) and np.all(y == -1)


def test_a_circle_that_none_can_colour_has_half_marginals_but_no_answer():
    apart = np.where(np.eye(2) > 0, np.inf, 0)
    network = (2, 2, 2), [(0, 1), (1, 2), (2, 0)], [apart] * 3
    found = linear_programme(*network)
    assert found.bound == 0 and not found.tight
    assert integer_programme(*network)[1:] == (np.inf, np.inf)


def test_networks_of_nothing_have_their_constant():
    assert linear_programme((), [()], [np.array(2.0)]) == (2.0, [], True)
    assert integer_programme((), [()], [np.array(2.0)])[1:] == (2.0, 2.0)
    found = linear_programme((3, 2), [()], [np.array(-1.0)])
    assert found.bound == -1 and [len(m) for m in found.marginals] == [3, 2]


def test_a_grid_of_five_labels_takes_seconds():
    network = potts(np.random.default_rng(3), 20, 20, 5, 0.5)
    began = time.perf_counter()
    found = linear_programme(*network)
    y, energy, bound = integer_programme(*network)
    assert time.perf_counter() - began < 10
    is_answer(*network, y, energy)
    assert found.bound <= energy + 1e-9 and abs(energy - bound) < 1e-5


@pytest.mark.slow
def test_a_time_limit_leaves_an_honest_gap():
    rng = np.random.default_rng(4)
    sizes, scopes, tables = potts(rng, 20, 20, 5, 0.5)
    tables = [rng.normal(size=table.shape) for table in tables]
    y, energy, bound = integer_programme(sizes, scopes, tables, 2)
    assert bound < energy
    if np.isfinite(energy):
        is_answer(sizes, scopes, tables, y, energy)
    # By then there may be no more than a bound without any constraint.
    alone = sum(np.min(table) for table in tables)
    assert bound >= alone - 1 or bound == -np.inf


def test_what_is_no_network_is_refused_by_name():
    wrong = {
        r"factor 0 on variables \(0, 1\) must be of shape \(2, 3\), got \(3, 2\)": (
            (2, 3),
            [(0, 1)],
            [np.zeros((3, 2))],
        ),
        "the scope of factor 0 must hold variables from 0 to 0": ((2,), [(1,)], [np.zeros(2)]),
        "the table of factor 0 must hold energies": ((2,), [(0,)], [np.array([np.nan, 0])]),
        "each of 1 scopes needs one table, got 0": ((2,), [(0,)], []),
    }
    for message, arguments in wrong.items():
        for programme in (linear_programme, integer_programme):
            with pytest.raises(ValueError, match=message):
                programme(*arguments)
    with pytest.raises(ValueError, match="seconds must be above 0"):
        integer_programme((2,), [(0,)], [np.zeros(2)], 0)


def test_all_tables_of_small_integers_are_solved():
    for values in itertools.product((0.0, 1.0), repeat=6):
        tables = [np.reshape(values[:4], (2, 2)), np.array(values[4:])]
        network = (2, 2), [(0, 1), (1,)], tables
        found = linear_programme(*network)
        np.testing.assert_allclose(found.bound, least(*network), atol=1e-12)

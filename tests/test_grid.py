import itertools
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from structures import random_energies

from spen_jax.exact import Chain
from spen_jax.exact.grid import Grid, potts
from spen_jax.exact.grid_chains import dual as dual_of
from spen_jax.exact.grid_messages import shares as shares_of

OFFSETS = {"down": (1, 0), "right": (0, 1), "down_right": (1, 1), "down_left": (1, -1)}
FOUR, EIGHT = ("down", "right"), tuple(OFFSETS)
MASK = np.array([[1, 1, 0], [1, 1, 1], [1, 0, 1]], bool)


def links_of(height, width, names):
    """(name, index of its table, first pixel, second pixel) of all pairs of neighbours, as the docstring has them."""
    for name, i, j in itertools.product(names, range(height), range(width)):
        di, dj = OFFSETS[name]
        first, second = (i, j + (dj < 0)), (i + di, j + max(dj, 0))
        if all(p[0] < height and p[1] < width for p in (first, second)):
            yield name, (i, j), first, second


def problem(labels, names, kind="own", *, shape=(3, 3), scale=1.0, barred=0.0, mask=None, batch=2):
    """A grid of random energies, and its tables, all of them written out."""
    rng = np.random.default_rng(0)
    height, width = shape
    unary = random_energies(rng, (batch, height, width, labels), barred) * scale
    given, full = {}, {}
    for name in names:
        size = height - OFFSETS[name][0], width - abs(OFFSETS[name][1])
        lead = {"shared": (), "same": size, "own": (batch, *size), "each": (batch, 1, 1)}[kind]
        table = random_energies(rng, (*lead, labels, labels), barred) * scale
        given[name] = table
        full[name] = np.broadcast_to(table, (batch, *size, labels, labels))
    if mask is not None:
        mask = np.broadcast_to(mask, (batch, *shape))
    return Grid(unary, **given, mask=mask), (unary, full, mask)


def all_answers(shape, labels):
    return (
        np.indices((labels,) * (shape[0] * shape[1]))
        .reshape(-1, labels ** (shape[0] * shape[1]))
        .T.reshape(-1, *shape)
    )


def energies_of(written, example, y):
    """E of answers (n, H, W) of one example, by the sums."""
    unary, full, mask = written
    height, width = y.shape[1:]
    counts = np.ones((height, width), bool) if mask is None else mask[example]
    total = np.zeros(len(y))
    for i, j in np.argwhere(counts):
        total += unary[example, i, j][y[:, i, j]]
    for name, at, first, second in links_of(height, width, full):
        if counts[first] and counts[second]:
            total += full[name][example][at][y[:, *first], y[:, *second]]
    return total


def listed(written, shape, labels):
    """All answers, those that differ in what does not count once, and the energies of each example."""
    y = all_answers(shape, labels)
    for e in range(len(written[0])):
        some = y if written[2] is None else y[(y[:, ~written[2][e]] == 0).all(1)]
        yield some, energies_of(written, e, some)


def free_energies(written, shape, labels):
    return [
        np.min(e) - np.log(np.sum(np.exp(np.min(e) - e))) for _, e in listed(written, shape, labels)
    ]


def spoken(grid, passes, rho=None, cold=False):
    """Messages after so many passes, half of each of them new."""
    tables = grid.tables()

    def step(_, messages):
        new = grid.passed(grid.prepared(tables, rho, cold), messages)
        return jax.tree.map(lambda a, b: (a + b) / 2, messages, new)

    return jax.lax.fori_loop(0, passes, step, grid.silent(grid.prepared(tables, None, False)))


class Asked(NamedTuple):
    messages: Any
    gathered: jax.Array
    beliefs: Any
    bethe: jax.Array
    shares: jax.Array
    dual: jax.Array


@partial(jax.jit, static_argnums=(1, 2, 3))
def asked(grid, passes, rho=None, cold=False):
    """All that follows from messages after so many passes."""
    tables, messages = grid.tables(), spoken(grid, passes, rho, cold)
    shares = shares_of(grid.prepared(tables, rho, cold)[0].nodes, messages, rho)
    return Asked(
        messages,
        grid.gathered(grid.prepared(tables, rho, cold), messages),
        grid.beliefs(grid.prepared(tables, rho, cold), messages),
        grid.bethe(grid.prepared(tables, rho, False), messages),
        shares,
        dual_of(tables, grid.counting_pixels(), shares, cold),
    )


@partial(jax.jit, static_argnums=2)
def dual(grid, shares, cold=False):
    return dual_of(grid.tables(), grid.counting_pixels(), shares, cold)


@pytest.mark.slow
@pytest.mark.parametrize("labels", [2, 3])
@pytest.mark.parametrize("kind", ["shared", "own", "each"])
def test_energies_are_the_sums_over_pixels_and_neighbours(labels, kind):
    for names, mask in ((FOUR, None), (EIGHT, MASK)):
        grid, written = problem(labels, names, kind, barred=0.05, mask=mask)
        y = all_answers((3, 3), labels)[:: labels**3]
        want = np.stack([energies_of(written, e, y) for e in range(2)])
        both = np.stack([y, y])
        np.testing.assert_allclose(grid.energy(both), want, rtol=1e-5, atol=1e-5)
        relaxed = grid.one_hot(both)
        np.testing.assert_allclose(grid.energy(relaxed), want, rtol=1e-5, atol=1e-5)
        if mask is not None:
            left_out = np.where(mask[None, None], both, -1)
            np.testing.assert_allclose(grid.energy(left_out), want, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_relaxed_energies_are_means_of_independent_labels():
    grid, written = problem(2, EIGHT)
    y = np.random.default_rng(1).dirichlet(np.ones(2), (2, 3, 3))
    for e, (answers, energies) in enumerate(listed(written, (3, 3), 2)):
        p = np.prod(np.take_along_axis(y[e][None], answers[..., None], -1), (1, 2, 3))
        np.testing.assert_allclose(grid.energy(y)[e], np.sum(p * energies), rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(("labels", "kind"), [(2, "own"), (3, "shared"), (3, "each")])
def test_slopes_of_the_energy_are_energies_of_single_changes(labels, kind, x64):
    grid, written = problem(labels, EIGHT, kind, mask=MASK)
    rng = np.random.default_rng(9)
    y = rng.integers(0, labels, (2, 3, 3))

    def energy(grid, relaxed):
        return jnp.sum(grid.energy_of(relaxed))

    of_grid, slope = jax.jit(jax.grad(energy, (0, 1), allow_int=True))(grid, grid.one_hot(y))
    for e in range(2):
        now = energies_of(written, e, y[e : e + 1])
        for (i, j), k in itertools.product(np.argwhere(MASK), range(labels)):
            other = y[e : e + 1].copy()
            other[0, i, j] = k
            change = energies_of(written, e, other) - now
            got = slope[e, i, j, k] - slope[e, i, j, y[e, i, j]]
            np.testing.assert_allclose(got, change[0], atol=1e-9)
    # That in the tables counts pairs.
    met = sum(MASK[a] and MASK[b] for _, _, a, b in links_of(3, 3, ["down_left"]))
    np.testing.assert_allclose(of_grid.down_left.sum(), 2 * met)
    along = jnp.asarray(rng.normal(size=slope.shape))
    slopes = jax.jit(jax.grad(partial(energy, grid)))
    curved = jax.jvp(slopes, (grid.one_hot(y),), (along,))[1]
    np.testing.assert_allclose(
        curved, slopes(grid.one_hot(y) + along) - slopes(grid.one_hot(y)), atol=1e-9
    )


def passed_plainly(written, example, messages, rho, cold):
    """All messages {(name, index, whether to the second pixel): (K,)} from those before, by the equation."""
    unary, full, mask = written
    height, width, labels = unary.shape[1:]
    counts = np.ones((height, width), bool) if mask is None else mask[example]
    links = [(k, (a, b)) for *k, a, b in links_of(height, width, full) if counts[a] and counts[b]]
    new = {}
    for (name, at), ends in links:
        table = full[name][example][at] / rho
        for ahead in (True, False):
            source = ends[0] if ahead else ends[1]
            q = unary[example][source].copy()
            for (other, place), (a, b) in links:
                for into_second, target in ((True, b), (False, a)):
                    if target == source:
                        q += rho * messages.get((other, place, into_second), np.zeros(labels))
            q -= messages.get((name, at, not ahead), np.zeros(labels))
            joined = (table if ahead else table.T) + q[:, None]
            m = joined.min(0)
            if not cold:
                m = m - np.log(np.sum(np.exp(m - joined), 0))
            new[name, at, ahead] = m - m.min()
    return new


def in_words(messages, example, labels):
    """The messages of a grid as (K,) with minimum 0, by direction, table and end."""
    found = {}
    shape = next(p for p in messages if p is not None).ahead.shape[-2:]
    for name, at, first, second in links_of(*shape, [n for n in OFFSETS if getattr(messages, n)]):
        pair = getattr(messages, name)
        for ahead, a, target in ((True, pair.ahead, second), (False, pair.back, first)):
            m = np.asarray(a[example][..., *target])
            m = np.array([0, m]) if labels == 2 else m
            found[name, at, ahead] = m - m.min()
    return found


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.parametrize(
    ("labels", "names", "kind", "scale"),
    [
        (2, FOUR, "own", 1),
        (2, EIGHT, "shared", 5),
        (3, FOUR, "each", 1),
        pytest.param(3, EIGHT, "own", 1, marks=pytest.mark.slow),
        pytest.param(4, EIGHT, "shared", 40, marks=pytest.mark.slow),
    ],
)
def test_messages_are_as_the_equation_has_them(labels, names, kind, scale, x64):
    for mask, rho, cold in ((None, None, False), (MASK, 0.5, False), (MASK, None, True)):
        grid, written = problem(labels, names, kind, scale=scale, mask=mask, shape=(3, 3))
        tables = grid.tables()
        found = grid.silent(grid.prepared(tables, None, False))
        want = [{}, {}]
        for _ in range(3):
            found = jax.jit(lambda t, m: grid.passed(grid.prepared(t, rho, cold), m))(tables, found)  # noqa: B023
            want = [passed_plainly(written, e, want[e], rho or 1, cold) for e in range(2)]
        for e in range(2):
            got = in_words(found, e, labels)
            for key, m in want[e].items():
                np.testing.assert_allclose(got[key], m, rtol=1e-9, atol=1e-9)
            for key in set(got) - set(want[e]):
                assert not got[key].any()


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "labels"),
    [
        ("right", 2),
        pytest.param("down", 2, marks=pytest.mark.slow),
        pytest.param("down", 3, marks=pytest.mark.long),
    ],
)
def test_on_a_line_all_is_that_of_the_chain(labels, name, x64):
    shape = (1, 6) if name == "right" else (6, 1)
    mask = np.array([1, 1, 0, 1, 1, 1], bool)
    for counts in (None, mask):
        grid, (unary, full, _) = problem(
            labels,
            FOUR,
            shape=shape,
            barred=0.1,
            mask=None if counts is None else counts.reshape(shape),
        )
        # The other direction has no link here.
        assert len(grid.directions()) == 2
        chain = Chain(
            unary.reshape(2, 6, labels),
            full[name].reshape(2, 5, labels, labels),
            mask=None if counts is None else np.stack([counts, counts]),
        )
        warm, want = asked(grid, 60), chain.marginals()
        free = np.asarray(chain.free_energy())
        possible = np.isfinite(free)
        assert possible.any()
        np.testing.assert_allclose(warm.bethe[possible], free[possible], atol=1e-8)
        found = jax.jit(grid.parts)(warm.beliefs)
        nodes = found.nodes.reshape(2, 6, labels)
        np.testing.assert_allclose(nodes[possible], want.nodes[possible], atol=1e-8)
        pairs = getattr(found.links, name).reshape(2, 5, labels, labels)
        np.testing.assert_allclose(pairs[possible], want.edges[possible], atol=1e-8)
        best = chain.best()
        y = np.argmin(asked(grid, 60, None, True).gathered, -1)
        y = np.where(grid.counts(), y, -1)
        np.testing.assert_array_equal(y.reshape(2, 6)[possible], best.y[possible])
        np.testing.assert_allclose(grid.energy(y), best.energy, atol=1e-8)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["down_right", "down_left"])
def test_diagonals_alone_are_trees(name, x64):
    grid, written = problem(2, (name,), shape=(3, 4), mask=np.arange(12).reshape(3, 4) != 5)
    want = free_energies(written, (3, 4), 2)
    found = asked(grid, 40)
    np.testing.assert_allclose(found.bethe, want, atol=1e-8)
    np.testing.assert_allclose(found.dual, want, atol=1e-8)
    least = [e.min() for _, e in listed(written, (3, 4), 2)]
    np.testing.assert_allclose(dual(grid, found.shares, True), least, atol=1e-8)


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.parametrize(
    ("labels", "names", "kind", "mask"),
    [
        (2, FOUR, "own", None),
        (3, FOUR, "each", None),
        pytest.param(2, EIGHT, "shared", MASK, marks=pytest.mark.slow),
        pytest.param(3, EIGHT, "own", MASK, marks=pytest.mark.slow),
    ],
)
def test_the_dual_lies_below_and_messages_make_it_good(labels, names, kind, mask, x64):
    grid, written = problem(labels, names, kind, mask=mask)
    free = np.array(free_energies(written, (3, 3), labels))
    least = np.array([e.min() for _, e in listed(written, (3, 3), labels)])
    tables, families = grid.tables(), len(grid.directions())
    assert families == len(names)
    noise = jnp.asarray(np.random.default_rng(2).normal(size=(families, 2, 3, 3, labels)))
    wild = (
        jnp.where(tables.nodes[None] < 1e30, tables.nodes[None] / families, 0)
        + noise
        - jnp.mean(noise, 0, keepdims=True)
    )
    if mask is not None:
        wild = jnp.where(grid.counts()[None, ..., None], wild, tables.nodes[None])
    found = asked(grid, 5000, 1 / families)
    counts = np.asarray(grid.counts())
    np.testing.assert_allclose(
        np.sum(found.shares, 0)[counts], np.asarray(tables.nodes)[counts], atol=1e-9
    )
    plain = shares_of(
        grid.prepared(tables, None, False)[0].nodes,
        grid.silent(grid.prepared(tables, None, False)),
        1 / families,
    )
    bounds = [dual(grid, s) for s in (wild, plain, found.shares)]
    np.testing.assert_allclose(bounds[2], found.dual)
    for bound, s in zip(bounds, (wild, plain, found.shares), strict=True):
        assert (bound <= free + 1e-9).all() and (bound <= bounds[2] + 1e-9).all()
        assert (dual(grid, s, True) <= least + 1e-9).all()
    # Where messages no longer change both are the same tree-reweighted free energy.
    np.testing.assert_allclose(found.bethe, bounds[2], atol=1e-7)
    for one in jax.grad(lambda s: jnp.sum(dual(grid, s)))(found.shares):
        np.testing.assert_allclose(one, found.beliefs.nodes, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(("labels", "kind", "rho"), [(2, "own", None), (3, "shared", 0.25)])
def test_beliefs_are_distributions_and_pairs_fit_them(labels, kind, rho, x64):
    grid, _ = problem(labels, EIGHT, kind, mask=MASK, scale=0.5)
    found = asked(grid, 1000, rho).beliefs
    nodes = np.asarray(found.nodes)
    np.testing.assert_allclose(nodes.sum(-1), 1)
    for name in EIGHT:
        pairs = np.asarray(getattr(found.links, name))
        for _, (i, j), first, second in links_of(3, 3, [name]):
            np.testing.assert_allclose(pairs[:, i, j].sum(-1), nodes[:, *first], atol=1e-7)
            np.testing.assert_allclose(pairs[:, i, j].sum(-2), nodes[:, *second], atol=1e-7)
    assert jax.tree.map(jnp.shape, found) == jax.tree.map(jnp.shape, grid.spread(grid.tables()))


@pytest.mark.slow
@pytest.mark.parametrize("labels", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_single_precision_keeps_marginals_at_strong_couplings(labels, x64):
    rng = np.random.default_rng(3)
    unary = rng.normal(size=(4, 5, labels)).astype(np.float32)
    tables = [(5 * rng.normal(size=(labels, labels))).astype(np.float32) for _ in range(2)]

    def marginals(dtype):
        grid = Grid(unary.astype(dtype), *(t.astype(dtype) for t in tables))
        return asked(grid, 10).beliefs.nodes

    single = marginals(np.float32)
    assert single.dtype == jnp.float32
    np.testing.assert_allclose(single, marginals(np.float64), atol=1e-5)


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.parametrize("labels", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_forbidden_pairs_and_impossible_images_are_numbers(labels):
    rng = np.random.default_rng(4)
    unary = rng.normal(size=(3, 1, 8, labels))
    hard = np.where(np.eye(labels) > 0, 0, np.inf)
    unary[0, 0, 3, 1:] = np.inf
    unary[1, 0, 3, 0] = np.inf
    unary[1, 0, 5, 1:] = np.inf
    right = np.stack([hard, hard, rng.normal(size=(labels, labels)) * 100])[:, None, None]
    grid = Grid(unary, right=right)
    for cold in (False, True):
        slope = jax.grad(lambda u, cold=cold: total_of(grid.replaced(unary=u), cold))(grid.unary)
        found = asked(grid, 50, None, cold)
        for a in jax.tree.leaves([found._replace(bethe=None), slope]):
            assert jnp.isfinite(a).all()
        # The second image has no answer, which does not harm the others.
        np.testing.assert_array_equal(jnp.isfinite(found.bethe), [True, False, True])
    found, want = asked(grid, 50), Chain(unary[:, 0], right[:, 0])
    possible = np.array([0, 2])
    free = want.free_energy()[possible]
    np.testing.assert_allclose(found.bethe[possible], free, rtol=1e-5)
    np.testing.assert_allclose(found.dual[possible], free, rtol=1e-5)
    nodes = want.marginals().nodes[possible]
    np.testing.assert_allclose(found.beliefs.nodes[possible, 0], nodes, atol=1e-5)


@partial(jax.jit, static_argnums=1)
def total_of(grid, cold):
    tables = grid.tables()
    messages = grid.silent(grid.prepared(tables, None, False))
    for _ in range(2):
        messages = grid.passed(grid.prepared(tables, None, cold), messages)
    bethe = grid.bethe(grid.prepared(tables, None, False), messages)
    return jnp.sum(bethe) + jnp.sum(
        dual_of(tables, grid.counting_pixels(), shares_of(tables.nodes, messages, None), cold)
    )


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.parametrize(
    ("labels", "kind"), [(2, "own"), pytest.param(3, "shared", marks=pytest.mark.long)]
)
def test_derivatives_go_through_messages(labels, kind, x64):
    grid, _ = problem(labels, FOUR, kind, mask=MASK)
    rng = np.random.default_rng(5)
    along = {n: jnp.asarray(rng.normal(size=np.shape(getattr(grid, n)))) for n in ("unary", "down")}

    def value(step):
        return total_of(
            grid.replaced(**{n: getattr(grid, n) + step * a for n, a in along.items()}), False
        )

    numeric = (value(1e-5) - value(-1e-5)) / 2e-5
    np.testing.assert_allclose(jax.grad(value)(0.0), numeric, rtol=1e-6)
    np.testing.assert_allclose(jax.jvp(value, (0.0,), (1.0,))[1], numeric, rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("labels", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_a_batch_of_maps_is_a_batch(labels):
    grid, (unary, full, _) = problem(labels, EIGHT, "same")
    tables = {n: jnp.asarray(t[0], jnp.float32) for n, t in full.items()}

    def all_of(u):
        one = Grid(u, **tables)
        given = one.prepared(one.tables(), None, False)
        messages = one.passed(given, one.passed(given, one.silent(given)))
        return one.bethe(given, messages), one.cover_bound(given[0], messages, False), messages

    unary = jnp.asarray(unary, jnp.float32)
    *together, messages = jax.jit(all_of)(unary)
    *each, mapped = jax.jit(jax.vmap(all_of))(unary)
    for a, b in zip(together, each, strict=True):
        np.testing.assert_allclose(a, b.reshape(-1), rtol=1e-5)
    for a, b in zip(jax.tree.leaves(messages), jax.tree.leaves(mapped), strict=True):
        np.testing.assert_allclose(a, b.reshape(a.shape), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_batches_have_any_axes():
    grid, (unary, full, _) = problem(2, FOUR, batch=6)
    many = Grid(
        unary.reshape(2, 3, 3, 3, 2),
        full["down"].reshape(2, 3, 2, 3, 2, 2),
        full["right"].reshape(2, 3, 3, 2, 2, 2),
        mask=np.ones((2, 3, 3, 3), bool),
    )
    y = np.random.default_rng(6).integers(0, 2, (6, 3, 3))
    assert many.batch_shape == (2, 3)
    np.testing.assert_allclose(
        many.energy(y.reshape(2, 3, 3, 3)).reshape(-1), grid.energy(y), rtol=1e-6
    )
    few = Grid(unary.reshape(2, 3, 3, 3, 2), full["down"][:1].reshape(1, 1, 2, 3, 2, 2))
    assert few.tables().links.down.shape == (6, 2, 3, 2, 2) and few.tables().links.right is None
    columns = Grid(unary, down=full["down"][0, :1])
    np.testing.assert_array_equal(columns.tables().links.down[0, 1], columns.down[0])
    assert Grid(unary[:0], np.zeros((2, 2))).energy(y[:0]).shape == (0,)


def test_neighbours_have_two_colours():
    unary = np.zeros((4, 5, 2))
    for names in itertools.chain.from_iterable(itertools.combinations(EIGHT, n) for n in range(5)):
        grid = Grid(unary, **dict.fromkeys(names, np.zeros((2, 2))))
        colours = grid.colours()
        assert colours.shape == (4, 5)
        for _, _, first, second in links_of(4, 5, names):
            assert colours[first] != colours[second]
        if names == FOUR:
            assert colours.max() == 1
        assert colours.max() == 3 if len(names) == 4 else colours.max() <= 2


def test_factors_give_the_same_energy():
    grid, written = problem(3, EIGHT, "shared", mask=MASK)
    y = np.random.default_rng(7).integers(0, 3, (2, 9))
    tables = grid.tables()
    counts = np.asarray(grid.counts()).reshape(2, 9)
    for e in range(2):
        kept = np.where(counts[e], y[e], 0)
        total = np.take_along_axis(
            np.asarray(tables.nodes[e]).reshape(9, 3), kept[:, None], 1
        ).sum()
        for scopes, energies in grid.smalls(grid.tables())[1:]:
            m, scopes = np.arange(len(scopes)), np.array(scopes)
            total += np.asarray(energies[e])[m, kept[scopes[:, 0]], kept[scopes[:, 1]]].sum()
        np.testing.assert_allclose(
            total, energies_of(written, e, y[e].reshape(1, 3, 3))[0], rtol=1e-5
        )


def test_potts_counts_pairs_that_differ():
    np.testing.assert_array_equal(potts(2, 2), [[0, 2], [2, 0]])
    coupling = np.arange(6.0).reshape(2, 3)
    found = potts(coupling, 3)
    assert found.shape == (2, 3, 3, 3)
    np.testing.assert_array_equal(found[1, 2], 5 * (1 - np.eye(3)))
    assert jnp.isfinite(jnp.diagonal(potts(np.inf, 3))).all()


@pytest.mark.slow
def test_what_does_not_count_is_said_so():
    grid, _ = problem(3, FOUR, "shared")
    some = grid.masked(np.stack([MASK, MASK]))
    whole = some.written(asked(some, 5).beliefs)
    assert (np.asarray(whole == -1) == ~MASK[None]).all()
    parts = some.parts(some.spread(some.tables()))
    assert not parts.nodes[:, 0, 2].any() and not parts.links.right[:, 0, 1].any()
    again = some.masked(np.ones((2, 3, 3), bool))
    np.testing.assert_array_equal(again.mask, some.mask)
    shut = grid.unary.at[:, 0, 2].set(jnp.nan)
    left = Grid(shut, grid.down, grid.right, mask=some.mask)
    assert jnp.isfinite(left.energy(np.zeros((2, 3, 3), int))).all()
    plus = grid.plus(jnp.ones((2, 3, 3, 3))).energy(np.zeros((2, 3, 3), int))
    np.testing.assert_allclose(plus, grid.energy(np.zeros((2, 3, 3), int)) + 9, rtol=1e-5)


def test_without_links_pixels_are_independent():
    unary = jnp.float32(np.random.default_rng(8).normal(size=(2, 3, 3)))
    grid = Grid(unary)
    want, found = -jax.nn.logsumexp(-unary, -1).sum(), asked(grid, 2)
    np.testing.assert_allclose(found.bethe[0], want, rtol=1e-5)
    np.testing.assert_allclose(found.dual[0], want, rtol=1e-5)
    linked = grid.comparable(Grid(unary, np.zeros((3, 3))))
    assert linked.down.shape == (1, 1, 3, 3) and linked.right is None


@pytest.mark.parametrize("labels", [2, 3])
def test_memory_grows_with_links_and_not_with_passes(labels):
    def temporary(size):
        shapes = (
            (size, size, labels),
            (size - 1, size, labels, labels),
            (size, size - 1, labels, labels),
        )
        given = [jax.ShapeDtypeStruct(s, jnp.float32) for s in shapes]
        compiled = jax.jit(lambda *arrays: spoken(Grid(*arrays), 200)).lower(*given).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    small, large = temporary(16), temporary(64)
    # Sixteen times the pixels; a pixel has 8 labels^2 bytes of tables, and 200 passes kept would be far beyond this.
    assert large < 40 * small
    assert large < 64 * 64 * 4 * (20 * labels**2)


def test_what_does_not_fit_is_refused():
    unary = np.zeros((2, 3, 4, 2))
    for make, message in (
        (lambda: Grid(np.zeros((3, 2))), "unary must have the last axes"),
        (lambda: Grid(np.zeros((0, 3, 2))), "a pixel and a label"),
        (lambda: Grid(unary, np.zeros((3, 3))), r"down must have the last axes \(2, 2\)"),
        (lambda: Grid(unary, np.zeros((3, 4, 2, 2))), r"down must be \(K, K\), \(2, 4, K, K\)"),
        (lambda: Grid(unary, right=np.zeros((3, 4, 2, 2))), r"right must be .*\(3, 3, K, K\)"),
        (lambda: Grid(unary, down_left=np.zeros((4, 2, 3, 2, 2))), r"down_left must be"),
        (lambda: Grid(unary, down_right=np.zeros((3, 2, 2))), r"down_right must be"),
        (lambda: Grid(unary, mask=np.ones((3, 4), bool)), "mask must be booleans"),
        (lambda: Grid(unary + np.nan), "unary must be numbers.* got nan"),
        (lambda: Grid(unary, np.full((2, 2), -np.inf)), "down must be numbers.* got -inf"),
        (lambda: Grid(unary + 1j), "unary"),
        (lambda: Grid(unary).energy(np.zeros((2, 3, 3), int)), "y must be answers"),
        (lambda: potts(1j, 2), "coupling"),
    ):
        with pytest.raises(ValueError, match=message):
            make()

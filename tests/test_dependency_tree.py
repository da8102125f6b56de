import itertools
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spen_jax.exact import DependencyTree

KINDS = [(False, True), (True, False), (False, False), (True, True)]
kinds = pytest.mark.parametrize("projective,one_root", KINDS)
slow = pytest.mark.slow
# Each is compiled for itself: two that differ in both stand for four where all four are tried elsewhere.
some = pytest.mark.parametrize(
    "projective,one_root", [KINDS[0], pytest.param(*KINDS[1], marks=slow)]
)
BETAS = np.array([0.1, 1.0, 10.0])
N, BATCH = 4, (3, 4)


def reverse_twice(f):
    return jax.jacrev(jax.jacrev(f))


def forward_twice(f):
    return jax.jacfwd(jax.jacfwd(f))


@cache
def trees(n, projective, one_root):
    """Heads of all trees, (number, n), by going through all heads."""
    found = []
    for heads in itertools.product(range(n + 1), repeat=n):
        place = np.arange(n + 1)
        for _ in range(n):
            place = np.array([0, *heads])[place]
        spans = [sorted((d + 1, h)) for d, h in enumerate(heads)]
        crossing = any(a < c < b < d for (a, b), (c, d) in itertools.product(spans, spans))
        if np.any(place) or one_root and heads.count(0) != 1 and n or projective and crossing:
            continue
        found.append(heads)
    return np.array(found, int).reshape(len(found), n)


def answers_of(mask, projective, one_root):
    """Heads of all trees of the words that count, (number, N)."""
    words = np.flatnonzero(mask)
    small = trees(len(words), projective, one_root)
    found = np.full((len(small), len(mask)), -1)
    found[:, words] = np.array([0, *(words + 1)])[small]
    return found


def energies_of(arcs, heads):
    words = np.arange(arcs.shape[0])
    return np.where(heads < 0, 0, arcs[words, heads]).sum(-1)


def cases(seed=0):
    """Arcs and masks: all words; then forbidden arcs; then absent words as well."""
    rng = np.random.default_rng(seed)
    arcs = rng.normal(size=(*BATCH, N, N + 1))
    mask = np.ones((*BATCH, N), bool)
    arcs[1:] = np.where(rng.random(arcs[1:].shape) < 0.3, np.inf, arcs[1:])
    mask[2] = [[1, 1, 1, 0], [0, 1, 0, 1], [1, 0, 1, 1], [0, 0, 0, 0]]
    return arcs, mask


def over_trees(arcs, mask, projective, one_root):
    """(heads, energies) of all trees of each example."""
    for index in np.ndindex(BATCH):
        heads = answers_of(mask[index], projective, one_root)
        yield index, heads, energies_of(arcs[index], heads)


def gibbs(energies, beta):
    least = energies.min(initial=np.inf)
    if np.isinf(least):
        return np.inf, np.zeros_like(energies)
    weights = np.exp(-beta * (energies - least))
    return least - np.log(weights.sum()) / beta, weights / weights.sum()


@jax.jit
def asked(tree, other, betas):
    def at(beta):
        kl, entropy = tree.kl(other, beta), tree.entropy(beta)
        return tree.free_energy(beta), tree.marginals(beta), entropy, kl

    cold = tree.free_energy(np.inf), tree.marginals(np.inf)
    return jax.vmap(at)(betas), cold, tree.best(), tree.k_best(7)


def check_enumeration(projective, one_root, dtype, atol):
    make = partial(DependencyTree, projective=projective, one_root=one_root)
    (arcs, mask), other = cases(), cases(1)[0]
    other = np.where(np.isinf(other) | np.isinf(arcs), arcs, other)
    other[1, 0] = np.inf
    tree = make(arcs.astype(dtype), mask=mask)
    (free, marginals, entropy, kl), cold, best, several = jax.tree.map(
        np.asarray, asked(tree, make(other.astype(dtype), mask=mask), BETAS.astype(dtype))
    )
    close = partial(np.testing.assert_allclose, rtol=atol, atol=atol)
    assert free.dtype == marginals.dtype == best.energy.dtype == dtype
    for index, heads, energies in over_trees(arcs, mask, projective, one_root):
        shown = heads[..., None] == np.arange(N + 1)
        for i, beta in enumerate(BETAS):
            f, p = gibbs(energies, beta)
            close(free[i][index], f)
            close(marginals[i][index], np.einsum("t,tdh->dh", p, shown))
            if np.isinf(f):
                assert np.isnan(entropy[i][index])
                continue
            close(entropy[i][index], -np.sum(p[p > 0] * np.log(p[p > 0])), atol=20 * atol)
            q = gibbs(energies_of(other[index], heads), beta)[1]
            with np.errstate(divide="ignore"):
                want = np.sum(p[p > 0] * np.log(p[p > 0] / q[p > 0]))
            close(kl[i][index], want, atol=20 * atol)
        ordered = np.sort(np.append(energies, np.full(7, np.inf)))[:7]
        close(several.energy[index], ordered)
        close([best.energy[index], cold[0][index]], ordered[0])
        written = [tuple(y) for y, e in zip(several.y[index], ordered, strict=True) if e < np.inf]
        assert len({*written}) == len(written) and {*written} <= {*map(tuple, heads)}
        close(energies_of(arcs[index], several.y[index][: len(written)]), ordered[: len(written)])
        assert np.all(several.y[index][len(written) :] == -1)
        np.testing.assert_array_equal(best.y[index], several.y[index][0])
        chosen = best.y[index][:, None] == np.arange(N + 1)
        np.testing.assert_array_equal(cold[1][index], chosen)


@pytest.mark.slow
@some
def test_all_answers_agree_with_enumeration(projective, one_root):
    check_enumeration(projective, one_root, np.float32, 1e-5)


@pytest.mark.long
@slow
@kinds
def test_all_answers_agree_with_enumeration_in_float64(projective, one_root, x64):
    check_enumeration(projective, one_root, np.float64, 1e-10)


@pytest.mark.slow
@some
def test_samples_come_as_often_as_they_are_probable(projective, one_root):
    arcs, mask = cases(2)
    tree = DependencyTree(arcs, projective=projective, one_root=one_root, mask=mask)
    n, beta = 3000, 1.5
    found = jax.jit(lambda tree: tree.sample(jax.random.key(0), n, beta))(tree)
    assert found.y.shape == (*BATCH, n, N) and found.energy.shape == (*BATCH, n)
    codes = (N + 2) ** np.arange(N)
    for index, heads, energies in over_trees(arcs, mask, projective, one_root):
        f, p = gibbs(energies, beta)
        y = np.asarray(found.y[index])
        if np.isinf(f):
            assert np.all(y == -1) and np.all(np.isinf(found.energy[index]))
            continue
        counts = (y @ codes == (heads @ codes)[:, None]).sum(1)
        assert counts.sum() == n and np.all(counts[p == 0] == 0)
        p, counts = p[p > 0], counts[p > 0]
        # Of a chi-square of so many degrees of freedom, five deviations.
        chi = np.sum((counts - n * p) ** 2 / (n * p))
        assert chi < len(p) - 1 + 5 * np.sqrt(2 * len(p)) + np.sum(1 / (n * p)) ** 0.5
        np.testing.assert_allclose(found.energy[index], energies_of(arcs[index], y), atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    "twice,projective,one_root",
    [
        *((jax.hessian, *kind) for kind in KINDS),
        (reverse_twice, *KINDS[0]),
        (forward_twice, *KINDS[1]),
    ],
)
def test_second_derivatives_are_covariances_in_both_modes(projective, one_root, twice, x64):
    arcs = np.random.default_rng(3).normal(size=(3, 4))
    heads = trees(3, projective, one_root)
    shown = (heads[..., None] == np.arange(4)).reshape(len(heads), -1).astype(float)
    p = gibbs(energies_of(arcs, heads), 1.0)[1]
    want = np.outer(p @ shown, p @ shown) - shown.T @ (p[:, None] * shown)

    def free(arcs):
        return DependencyTree(arcs, projective=projective, one_root=one_root).free_energy()

    got = jax.jit(twice(free))(jnp.asarray(arcs))
    np.testing.assert_allclose(np.reshape(got, want.shape), want, atol=1e-10)


@pytest.mark.slow
@pytest.mark.parametrize("n", [5, pytest.param(1, marks=slow)])
@kinds
def test_counts_of_trees(projective, one_root, n):
    tree = DependencyTree(np.zeros((n, n + 1)), projective=projective, one_root=one_root)
    want = n ** (n - 1) if one_root else (n + 1) ** (n - 1)
    want = len(trees(n, True, one_root)) if projective else want
    np.testing.assert_allclose(np.exp(-tree.free_energy()), want, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("one_root", [True, pytest.param(False, marks=slow)])
def test_large_energies_are_as_exact_as_their_rounding(one_root):
    @jax.jit
    def asked(arcs):
        free, back = jax.vjp(lambda a: DependencyTree(a, one_root=one_root).free_energy(), arcs)
        return free, back(jnp.ones_like(free))[0]

    scale = np.repeat([1, 1, 20, 5000], 5)[:, None, None]
    arcs = np.random.default_rng(4).normal(size=(20, 10, 11)) * scale
    arcs = arcs.astype(np.float32)
    with jax.enable_x64(True):
        free, marginals = jax.tree.map(np.asarray, asked(arcs.astype(np.float64)))
    # Alone, energies that are near each other are summed another way.
    for part in (slice(10), slice(10, 20)):
        f, m = asked(arcs[part])
        np.testing.assert_allclose(f, free[part], rtol=3e-7)
        np.testing.assert_allclose(m, marginals[part], atol=4e-6)


@pytest.mark.slow
def test_words_that_prefer_each_other_to_the_root():
    # Their weights are exp(-5000), and that of a cycle is 1.
    arcs = np.array([[5000, 0, 0.0], [5001, 0, 0]], np.float32)
    tree = DependencyTree(np.stack([arcs] * 2), one_root=False)
    np.testing.assert_allclose(tree.free_energy(), 5000 - np.log(1 + np.exp(-1.0)), rtol=1e-7)
    np.testing.assert_allclose(tree.marginals()[:, 0, 0], 1 / (1 + np.exp(-1)), rtol=1e-5)


def test_lengths_are_masks_of_the_first_words():
    arcs, _ = cases()
    lengths = np.array([[4, 3, 2, 1]] * 2 + [[0, 1, 2, 3]])
    one = DependencyTree(arcs, lengths=lengths)
    np.testing.assert_array_equal(one.mask, np.arange(N) < lengths[..., None])
    found = one.best()
    assert found.energy[2, 0] == 0 and np.all(found.y[2, 0] == -1)


@pytest.mark.slow
def test_relaxed_answers_have_linear_energies_and_energies_are_added_to_them():
    rng = np.random.default_rng(5)
    arcs, mask = cases()
    tree, more = DependencyTree(arcs, mask=mask), rng.normal(size=arcs.shape)
    y = rng.dirichlet(np.ones(N + 1), size=(*BATCH, N)) * np.isfinite(arcs)
    loops = np.eye(N, N + 1, 1, dtype=bool)
    counted = np.where(mask[..., None] & ~loops, y, 0)
    # Heads that do not count are forbidden.
    counted = np.where(
        np.pad(mask, [(0, 0)] * 2 + [(1, 0)], constant_values=True)[..., None, :], counted, 0
    )
    want = np.sum(counted * np.where(np.isinf(arcs), 0, arcs), (-2, -1))
    np.testing.assert_allclose(tree.energy(counted), want, atol=1e-5)
    np.testing.assert_allclose(
        tree.plus(more).energy(counted), want + np.sum(counted * more, (-2, -1)), atol=1e-5
    )
    heads = np.where(mask, tree.best().y, -1)
    np.testing.assert_allclose(tree.energy(heads), tree.energy(tree.one_hot(heads)), atol=1e-6)
    slope = jax.grad(lambda y: tree.energy(y)[0].sum())(jnp.asarray(y))[0]
    np.testing.assert_allclose(slope, np.where(loops, 0, arcs[0]), atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("projective", [False, pytest.param(True, marks=slow)])
def test_unknown_energies_give_no_answer_and_disturb_no_other(projective):
    arcs = cases()[0]
    arcs[0, 0, 1, 0] = np.nan
    found = DependencyTree(arcs, projective=projective).best()
    assert np.isnan(found.energy[0, 0]) and np.all(found.y[0, 0] == -1)
    assert np.all(np.isfinite(found.energy[0, 1:])) and np.all(found.y[0, 1:] >= 0)


@pytest.mark.slow
@pytest.mark.parametrize("one_root", [False, True])
def test_best_trees_are_those_of_networkx(one_root):
    networkx = pytest.importorskip("networkx")
    arcs = np.random.default_rng(6).normal(size=(20, 12, 13)).astype(np.float32)
    arcs[:, :, 0] -= 0.5
    found = DependencyTree(arcs, one_root=one_root).best()
    for energies, heads, energy in zip(arcs, *found, strict=True):
        least = np.inf
        for root in range(12) if one_root else [None]:
            graph = networkx.DiGraph()
            for d, h in np.ndindex(12, 13):
                if h != d + 1 and (h > 0 or root in (d, None)):
                    graph.add_edge(h, d + 1, weight=float(energies[d, h]))
            best = networkx.minimum_spanning_arborescence(graph)
            least = min(least, sum(data["weight"] for *_, data in best.edges(data=True)))
        np.testing.assert_allclose(energy, least, rtol=1e-5)
        np.testing.assert_allclose(energies_of(energies, np.asarray(heads)), least, rtol=1e-5)


@pytest.mark.slow
def test_best_trees_of_few_arcs():
    rng = np.random.default_rng(7)
    arcs = rng.integers(0, 4, (64, 5, 6)).astype(float)
    arcs = np.where(rng.random(arcs.shape) < 0.5, np.inf, arcs)
    for one_root in (False, True):
        heads = trees(5, False, one_root)
        want = np.array([energies_of(a, heads).min() for a in arcs])
        found = DependencyTree(arcs, one_root=one_root).best()
        np.testing.assert_array_equal(found.energy, want)
        for y, a, e in zip(np.asarray(found.y), arcs, want, strict=True):
            assert energies_of(a, y) == e if e < np.inf else np.all(y == -1)


@pytest.mark.long
@pytest.mark.parametrize("projective,one_root", KINDS[:2])
def test_many_examples_are_solved_in_blocks_and_under_vmap_as_each_alone(projective, one_root):
    rng = np.random.default_rng(8)
    arcs = rng.normal(size=(70, 7, 8)) * np.where(rng.random(70) < 0.2, 50, 1)[:, None, None]
    arcs[30:] = np.where(rng.random(arcs[30:].shape) < 0.2, np.inf, arcs[30:])
    lengths = rng.integers(0, 8, 70)
    lengths[0] = 7
    tree = DependencyTree(arcs, projective=projective, one_root=one_root, lengths=lengths)

    def asked(tree):
        other = tree.k_best(3), tree.sample(jax.random.key(0), 2)
        return (tree.free_energy(), tree.marginals(), tree.best(), other[0]), other[1]

    want, drawn = jax.jit(asked)(tree)
    got, _ = jax.jit(jax.vmap(asked))(tree)
    one, _ = jax.jit(asked)(jax.tree.map(lambda a: a[:1], tree))
    for a, b, c in zip(*map(jax.tree.leaves, (want, got, one)), strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(c, a[:1], rtol=1e-5, atol=1e-5)
    some = np.isfinite(want[0]) & (lengths > 0)
    rows = np.where(np.arange(7) < lengths[:, None], 1, 0)[some]
    np.testing.assert_allclose(np.sum(want[1], -1)[some], rows, atol=1e-5)
    np.testing.assert_array_equal(drawn.energy[:, 1] < np.inf, np.isfinite(want[0]))
    # No two blocks draw alike.
    same = DependencyTree(np.zeros((70, 7, 8)), projective=projective, one_root=one_root)
    y = np.asarray(same.sample(jax.random.key(1)).y)
    assert len(np.unique(y, axis=0)) > 60


def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match="words and heads"):
        DependencyTree(np.zeros((3, 3)))
    with pytest.raises(ValueError, match="not both"):
        DependencyTree(np.zeros((3, 4)), mask=np.ones(3, bool), lengths=3)
    with pytest.raises(ValueError, match="from 0 to 3"):
        DependencyTree(np.zeros((3, 4)), lengths=4)

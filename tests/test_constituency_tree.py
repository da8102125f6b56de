import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from structures import check_every_answer, check_samples, listed, random_energies

from spen_jax.exact import ConstituencyTree

LENGTHS = np.array([4, 0, 1, 3, 2, 3])
BETAS = 0.1, 1.0, 10.0, np.inf


def trees(i, j):
    """All binary trees over words i..j, as lists of (first, split, last), split None of single words."""
    if i == j:
        return [[(i, None, i)]]
    return [
        [(i, m, j), *left, *right]
        for m in range(i, j)
        for left in trees(i, m)
        for right in trees(m + 1, j)
    ]


def all_answers(spans, rules, length):
    found = []
    for tree in trees(0, length - 1) if length else [[]]:
        for labels in itertools.product(range(spans.shape[-1]), repeat=len(tree)):
            y = np.full(spans.shape[:2], -1)
            for (i, _, j), k in zip(tree, labels, strict=True):
                y[i, j] = k
            energy = sum(spans[i, j, y[i, j]] for i, _, j in tree)
            if rules is not None:
                energy += sum(
                    rules[y[i, j], y[i, m], y[m + 1, j]] for i, m, j in tree if m is not None
                )
            found.append((y, energy))
    return listed(found, spans.shape[:2])


def problem(dtype, with_rules=True):
    """Six sentences of up to 4 words, 2 labels; the last one allows nothing."""
    rng = np.random.default_rng(0)
    spans, rules = (
        random_energies(rng, (6, 4, 4, 2), 0.05),
        random_energies(rng, (6, 2, 2, 2), 0.05),
    )
    spans[5, 0, 2] = np.inf
    if not with_rules:
        rules = [None] * 6
    answers = [all_answers(*a) for a in zip(spans, rules, LENGTHS, strict=True)]
    rules = jnp.asarray(rules, dtype) if with_rules else None
    return ConstituencyTree(jnp.asarray(spans, dtype), rules, lengths=LENGTHS), answers


@pytest.mark.slow
def test_every_answer_is_that_of_the_list_of_all(x64):
    structure, answers = problem(jnp.float64)
    for beta in BETAS:
        check_every_answer(structure, answers, beta, 1e-10)


@pytest.mark.slow
def test_samples_are_drawn_as_often_as_they_should():
    check_samples(*problem(jnp.float32), 0.7)


@pytest.mark.long
@pytest.mark.slow
def test_without_rules(x64):
    structure, answers = problem(jnp.float64, with_rules=False)
    for beta in BETAS:
        check_every_answer(structure, answers, beta, 1e-10)


@pytest.mark.long
@pytest.mark.slow
def test_in_single_precision():
    structure, answers = problem(jnp.float32)
    check_every_answer(structure, answers, 1.0, 1e-5)


@pytest.mark.slow
def test_there_are_as_many_trees_as_catalan_counted():
    n, labels = np.array([1, 2, 5, 8]), 3
    catalan = [math.comb(2 * k, k) / (k + 1) for k in n - 1]
    spans = jnp.zeros((4, 8, 8, labels))
    free = jax.jit(lambda s, r, n: ConstituencyTree(s, r, lengths=n).free_energy())
    for rules in (None, jnp.zeros((labels, labels, labels))):
        want = -np.log(catalan) - (2 * n - 1) * np.log(labels)
        np.testing.assert_allclose(free(spans, rules, n), want, rtol=1e-6)
        one = jax.vmap(free, (0, None, 0))(spans, rules, jnp.array(n))
        np.testing.assert_allclose(one, want, rtol=1e-6)


@pytest.mark.slow
def test_a_grammar_gives_the_probability_of_words_and_the_counts_of_its_rules():
    rng = np.random.default_rng(1)
    labels, symbols, x = 3, 4, np.array([0, 2, 1, 1])
    p = rng.dirichlet(np.ones(labels**2 + symbols), labels)
    p_rules, p_words = p[:, : labels**2].reshape([labels] * 3), p[:, labels**2 :]
    root = rng.dirichlet(np.ones(labels))
    inside = {(i, i): p_words[:, a] for i, a in enumerate(x)}
    for width in range(1, 4):
        for i in range(4 - width):
            j = i + width
            inside[i, j] = sum(
                np.einsum("plr,l,r->p", p_rules, inside[i, m], inside[m + 1, j])
                for m in range(i, j)
            )
    spans = np.zeros((4, 4, labels))
    spans[range(4), range(4)] = -np.log(p_words[:, x].T)
    spans[0, 3] -= np.log(root)
    rules = jnp.float32(-np.log(p_rules))
    tree = ConstituencyTree(jnp.float32(spans), rules)
    np.testing.assert_allclose(tree.free_energy(), -np.log(root @ inside[0, 3]), rtol=1e-5)
    counts = tree.marginals().rules
    np.testing.assert_allclose(jnp.sum(counts), 3, rtol=1e-5)
    slope = jax.grad(lambda r: tree.replaced(rules=r).free_energy())(rules)
    np.testing.assert_allclose(counts, slope, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_a_large_batch_in_blocks_gives_the_same():
    rng = np.random.default_rng(2)
    spans = jnp.float32(rng.normal(size=(300, 3, 3, 2)))
    rules = jnp.float32(rng.normal(size=(300, 2, 2, 2)))
    lengths = jnp.array(rng.integers(0, 4, 300))

    @jax.jit
    def asked(spans, rules, lengths):
        def total(spans, rules):
            free = ConstituencyTree(spans, rules, lengths=lengths).free_energy(0.5)
            return jnp.sum(free), free

        return jax.grad(total, (0, 1), has_aux=True)(spans, rules)

    (of_spans, of_rules), free = asked(spans, rules, lengths)
    want = asked(spans[:200], rules[:200], lengths[:200])
    rest = asked(spans[100:], rules[100:], lengths[100:])
    np.testing.assert_allclose(free, jnp.concatenate([want[1], rest[1][100:]]), rtol=1e-5)
    both = jnp.concatenate([want[0][0], rest[0][0][100:]])
    np.testing.assert_allclose(of_spans, both, rtol=1e-5, atol=1e-6)
    both = jnp.concatenate([want[0][1], rest[0][1][100:]])
    np.testing.assert_allclose(of_rules, both, rtol=1e-5, atol=1e-6)


def test_shapes_that_do_not_fit_are_refused():
    spans = np.zeros((2, 4, 4, 3))
    for make, message in (
        (lambda: ConstituencyTree(np.zeros((4, 4))), "last axes"),
        (lambda: ConstituencyTree(np.zeros((4, 3, 2))), "spans must be of shape"),
        (lambda: ConstituencyTree(spans, np.zeros((3, 3))), "rules must be of shape"),
        (lambda: ConstituencyTree(spans, lengths=[1, 5]), "from 0 to 4"),
        (lambda: ConstituencyTree(spans, lengths=3), "lengths must be whole numbers"),
    ):
        with pytest.raises(ValueError, match=message):
            make()

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
    spans, rules = random_energies(rng, (6, 4, 4, 2), 0.05), random_energies(rng, (6, 2, 2, 2), 0.05)
    spans[5, 0, 2] = np.inf
    if not with_rules:
        rules = [None] * 6
    answers = [all_answers(*a) for a in zip(spans, rules, LENGTHS, strict=True)]
    rules = jnp.asarray(rules, dtype) if with_rules else None
    return ConstituencyTree(jnp.asarray(spans, dtype), rules, lengths=LENGTHS), answers


def test_every_answer_is_that_of_the_list_of_all(x64):
    for with_rules in (True, False):
        structure, answers = problem(jnp.float64, with_rules)
        for beta in BETAS:
            check_every_answer(structure, answers, beta, 1e-10)


def test_in_single_precision():
    structure, answers = problem(jnp.float32)
    for beta in BETAS:
        check_every_answer(structure, answers, beta, 1e-5)
    check_samples(structure, answers, 0.7)

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from structures import check_every_answer, check_samples, listed, random_energies

from spen_jax.exact import Chain, Segments

LENGTHS = np.array([4, 0, 1, 3, 4, 3])
BETAS = 0.1, 1.0, 10.0, np.inf


def segmentations(length, longest):
    """All lists of the lengths of segments."""
    if not length:
        return [()]
    return [
        (n, *rest)
        for n in range(1, min(longest, length) + 1)
        for rest in segmentations(length - n, longest)
    ]


def energy(arrays, e, lengths, labels):
    energies, transitions, start, end = (a[e] for a in arrays)
    begins = np.cumsum((0, *lengths))
    total = sum(energies[t, n - 1, k] for t, n, k in zip(begins, lengths, labels, strict=False))
    total += sum(transitions[j, k] for j, k in itertools.pairwise(labels))
    return total + start[labels[0]] + end[labels[-1]] if labels else total


def problem(dtype, barred=0.15):
    """Six examples of up to 4 places, segments of up to 3, 2 labels; the last one allows nothing."""
    rng = np.random.default_rng(0)
    shapes = (6, 4, 3, 2), (6, 2, 2), (6, 2), (6, 2)
    arrays = [random_energies(rng, s, b) for s, b in zip(shapes, (barred, 0.1, 0, 0), strict=True)]
    arrays[0][5] = np.inf
    answers = []
    for e, length in enumerate(LENGTHS):
        found = []
        for lengths in segmentations(length, 3):
            for labels in itertools.product(range(2), repeat=len(lengths)):
                y = np.full(4, -1)
                y[list(np.cumsum((0, *lengths))[:-1])] = labels
                found.append((y, energy(arrays, e, lengths, labels)))
        answers.append(listed(found, (4,)))
    energies, transitions, start, end = (jnp.asarray(a, dtype) for a in arrays)
    return Segments(energies, transitions, start=start, end=end, lengths=LENGTHS), answers


def test_every_answer_is_that_of_the_list_of_all(x64):
    structure, answers = problem(jnp.float64)
    for beta in BETAS:
        check_every_answer(structure, answers, beta, 1e-10)


def test_in_single_precision():
    structure, answers = problem(jnp.float32)
    for beta in BETAS:
        check_every_answer(structure, answers, beta, 1e-5)
    check_samples(structure, answers, 0.7)

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
def test_in_single_precision():
    structure, answers = problem(jnp.float32)
    for beta in BETAS:
        check_every_answer(structure, answers, beta, 1e-5)


@pytest.mark.slow
def test_segments_of_one_place_make_a_chain():
    rng = np.random.default_rng(1)
    unary, transitions, start, end = (
        jnp.float32(rng.normal(size=s)) for s in ((2, 3, 5, 4), (4, 4), (4,), (4,))
    )
    lengths = jnp.array([[5, 3, 0], [1, 2, 5]])
    rest = {"start": start, "end": end, "lengths": lengths}
    chain = Chain(unary, transitions, **rest)
    segments = Segments(unary[..., None, :], transitions, **rest)

    y = [[[0, 1, 2, 3, 1], [3, 0, 1, -1, -1], [-1] * 5]]
    y = np.array([*y, [[0, -1, -1, -1, -1], [1, 2, -1, -1, -1], [3, 0, 0, 1, 2]]])

    @jax.jit
    def asked(structure):
        return structure.free_energy(0.7), structure.marginals(0.7), structure.energy(y)

    for got, want in zip(*map(jax.tree.leaves, (asked(segments), asked(chain))), strict=True):
        np.testing.assert_allclose(got.reshape(want.shape), want, rtol=1e-5, atol=1e-6)


def test_of_one_label_there_are_as_many_as_places_to_cut():
    free = jax.jit(jax.vmap(lambda e: Segments(e).free_energy(2.0)))
    np.testing.assert_allclose(free(jnp.zeros((2, 9, 9, 1))), -8 * np.log(2) / 2, rtol=1e-6)
    np.testing.assert_allclose(free(jnp.zeros((1, 9, 2, 1))), -np.log(55) / 2, rtol=1e-6)


@pytest.mark.long
def test_without_transitions_every_answer_is_that_of_transitions_of_0():
    rng = np.random.default_rng(3)
    energies, others = (jnp.float32(rng.normal(size=(2, 6, 3, 4))) for _ in range(2))
    lengths = jnp.array([6, 4])

    @jax.jit
    def asked(transitions):
        structure = Segments(energies, transitions, lengths=lengths)
        best, several = structure.best(), structure.k_best(7)
        drawn = structure.sample(jax.random.key(0), 3)
        answers = structure.free_energy(0.7), structure.marginals(0.7), structure.mean(2.0)
        other = Segments(others, lengths=lengths)
        alike = structure.entropy(), structure.kl(other), other.kl(structure)
        told = structure.energy(several.y), structure.energy(structure.mean()[1])
        return answers, alike, best, several, told, drawn.energy - structure.energy(drawn.y)

    for got, want in zip(
        *map(jax.tree.leaves, (asked(None), asked(jnp.zeros((4, 4))))), strict=True
    ):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_transitions_that_all_cuts_share_have_the_sum_of_their_marginals_as_slope():
    rng = np.random.default_rng(2)
    energies, transitions = (jnp.float32(rng.normal(size=s)) for s in ((2, 6, 3, 2), (2, 2)))
    lengths = jnp.array([6, 4])
    cuts = Segments(energies, transitions, lengths=lengths).marginals().transitions
    assert cuts.shape == (2, 5, 2, 2) and not cuts[1, 3:].any()
    slope = jax.grad(lambda t: jnp.sum(Segments(energies, t, lengths=lengths).free_energy()))
    np.testing.assert_allclose(slope(transitions), jnp.sum(cuts, (0, 1)), rtol=1e-5)


def test_shapes_that_do_not_fit_are_refused():
    energies = np.zeros((2, 4, 3, 2))
    for make, message in (
        (lambda: Segments(np.zeros((3, 2))), "last axes"),
        (lambda: Segments(np.zeros((2, 0, 3, 2))), "a place, a length and a label"),
        (lambda: Segments(energies, np.zeros((3, 3))), "transitions must be of shape"),
        (lambda: Segments(energies, start=np.zeros(3)), "start must be of shape"),
        (lambda: Segments(energies, end=np.zeros((3, 2))), "end must be of shape"),
        (lambda: Segments(energies, lengths=[5, 1]), "from 0 to 4"),
        (lambda: Segments(energies, lengths=[1]), "lengths must be whole numbers"),
        (lambda: Segments(energies).energy(np.zeros((3, 4), int)), "y must be answers"),
    ):
        with pytest.raises(ValueError, match=message):
            make()

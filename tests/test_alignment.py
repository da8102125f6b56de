import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from structures import check_every_answer, check_samples, listed, random_energies

from spen_jax.exact import Alignment, distances

ROWS, COLUMNS = np.array([3, 3, 1, 0, 0, 2, 3]), np.array([4, 2, 3, 0, 2, 1, 4])
BETAS = 0.1, 1.0, 10.0, np.inf
MOVES = (1, 0), (0, 1), (1, 1)


def paths(n, m):
    """All paths through n rows and m columns, as lists of (cell, move to it)."""
    if n == m == 0:
        return [[]]

    def from_start(i, j):
        if (i, j) == (0, 0):
            return [[((0, 0), None)]]
        return [
            [*path, ((i, j), k)]
            for k, (di, dj) in enumerate(MOVES)
            if i >= di and j >= dj
            for path in from_start(i - di, j - dj)
        ]

    return from_start(n - 1, m - 1) if n and m else []


def all_answers(cells, moves, n, m):
    found = []
    for path in paths(n, m):
        y = np.zeros(cells.shape, int)
        energy = 0.0
        for cell, move in path:
            y[cell] = 1
            energy += cells[cell] + (0 if move is None else moves[(*cell, move)])
        found.append((y, energy))
    return listed(found, cells.shape)


def problem(dtype):
    """Seven examples of up to 3 rows and 4 columns; two of them allow nothing."""
    rng = np.random.default_rng(0)
    cells, moves = random_energies(rng, (7, 3, 4), 0.08), random_energies(rng, (7, 3, 4, 3), 0.08)
    cells[6, 0, 0] = np.inf
    answers = [all_answers(*a) for a in zip(cells, moves, ROWS, COLUMNS, strict=True)]
    cells, moves = jnp.asarray(cells, dtype), jnp.asarray(moves, dtype)
    return Alignment(cells, moves, lengths=(ROWS, COLUMNS)), answers


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


def warping(cells, join):
    """The recursion of dynamic time warping."""
    table = np.full(np.add(cells.shape, 1), np.inf)
    table[0, 0] = 0
    for i, j in np.ndindex(cells.shape):
        before = table[i, j + 1], table[i + 1, j], table[i, j]
        table[i + 1, j + 1] = cells[i, j] + join(np.array(before))
    return table[-1, -1]


def soft(before):
    return -np.log(np.sum(np.exp(-before)))


@pytest.mark.slow
def test_distances_of_sequences_are_warped_as_the_plain_recursion_does():
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=(3, 9, 2)), rng.normal(size=(3, 7, 2))
    cells = distances(jnp.float32(a), jnp.float32(b))
    plain = np.sum((a[:, :, None] - b[:, None]) ** 2, -1)
    np.testing.assert_allclose(cells, plain, rtol=1e-5)
    alignment = Alignment(cells)
    np.testing.assert_allclose(
        alignment.best().energy, [warping(c, np.min) for c in plain], rtol=1e-5
    )
    want = [warping(c, soft) for c in plain]
    np.testing.assert_allclose(alignment.free_energy(), want, rtol=1e-5)

    def free(a, b):
        return Alignment(distances(a, b)).free_energy()

    value, slope = jax.jit(jax.vmap(jax.value_and_grad(free), (0, 0)))(
        jnp.float32(a), jnp.float32(b)
    )
    np.testing.assert_allclose(value, want, rtol=1e-5)
    marginals = np.asarray(alignment.marginals().cells)
    by_hand = 2 * np.einsum("bij,bijd->bid", marginals, a[:, :, None] - b[:, None])
    np.testing.assert_allclose(slope, by_hand, rtol=1e-3, atol=1e-4)


def test_there_are_as_many_paths_as_delannoy_counted():
    lengths = np.array([[1, 5], [5, 5], [6, 4], [2, 6]])
    n, m = lengths.T
    free = Alignment(jnp.zeros((4, 6, 6)), lengths=(n, m)).free_energy()
    count = [
        sum(math.comb(i, k) * math.comb(j, k) * 2**k for k in range(min(i, j) + 1))
        for i, j in lengths - 1
    ]
    np.testing.assert_allclose(free, -np.log(count), rtol=1e-6, atol=1e-6)


@pytest.mark.slow
def test_energies_of_moves_may_be_shared():
    rng = np.random.default_rng(2)
    cells, moves = (jnp.float32(rng.normal(size=s)) for s in ((2, 5, 3), (2, 3)))
    free = jax.jit(lambda cells, moves: Alignment(cells, moves).free_energy())
    each = free(cells, jnp.broadcast_to(moves[:, None, None], (2, 5, 3, 3)))
    np.testing.assert_allclose(free(cells, moves), each, rtol=1e-6)
    np.testing.assert_allclose(free(cells, moves[0])[0], each[0], rtol=1e-6)
    marginals = Alignment(cells, moves).marginals()
    arrived = jnp.sum(marginals.moves, -1) + jnp.zeros((5, 3)).at[0, 0].set(1)[None]
    np.testing.assert_allclose(arrived, marginals.cells, rtol=1e-5, atol=1e-6)


def test_shapes_that_do_not_fit_are_refused():
    cells = np.zeros((2, 4, 3))
    for make, message in (
        (lambda: Alignment(np.zeros(3)), "last axes"),
        (lambda: Alignment(np.zeros((2, 0, 3))), "a row and a column"),
        (lambda: Alignment(cells, np.zeros(2)), "moves must be of shape"),
        (lambda: Alignment(cells, np.zeros((3, 3, 3))), "moves must be of shape"),
        (lambda: Alignment(cells, lengths=[1, 2, 3]), "a pair of arrays"),
        (lambda: Alignment(cells, lengths=([1, 2], [3, 4])), "from 0 to 3"),
        (lambda: distances(np.zeros((4, 2)), np.zeros((3, 1))), "a and b must be"),
    ):
        with pytest.raises(ValueError, match=message):
            make()

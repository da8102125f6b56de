import itertools
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


def test_every_answer_is_that_of_the_list_of_all(x64):
    structure, answers = problem(jnp.float64)
    for beta in BETAS:
        check_every_answer(structure, answers, beta, 1e-10)


def test_in_single_precision():
    structure, answers = problem(jnp.float32)
    for beta in BETAS:
        check_every_answer(structure, answers, beta, 1e-5)
    check_samples(structure, answers, 0.7)

"""Alignments: monotone paths through the pairs of two sequences, as in dynamic time warping."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from spen_jax.domains import Box
from spen_jax.exact.algebras import Algebra
from spen_jax.exact.arguments import read_energies, read_mask
from spen_jax.exact.structure import Structure
from spen_jax.exact.tables import skewed, weighted
from spen_jax.numbers import floats, wide


class AlignmentParts(NamedTuple):
    """Marginals of an `Alignment`, probabilities in [0, 1]: of its pairs, and of its moves to them.

    `cells` (..., N, M); `moves` (..., N, M, 3), of arriving at a pair by a move down, right and both.
    """

    cells: jax.Array
    moves: jax.Array


class Tables(NamedTuple):
    """Energies of pairs, (B, N, M), and of moves to them, (B or 1, N or 1, M or 1, 3)."""

    cells: jax.Array
    moves: jax.Array


class Alignment(Structure):
    """E = sum of cells[i, j] over the pairs of a path + sum of moves[i, j] over its moves, from (0, 0) to (n-1, m-1).

    A path moves down by (1, 0), right by (0, 1), or both by (1, 1): it aligns row i of one sequence to column j of
    another, in order, without leaving one out. At infinite beta this is dynamic time warping, at finite beta its soft
    minimum. An answer is (..., N, M), in whole numbers 1 for the pairs of the path and 0 elsewhere; relaxed it is a
    number for each pair, from which the moves follow: down is y[i, j] y[i-1, j], right y[i, j] y[i, j-1], and both
    y[i, j] y[i-1, j-1] (1 - y[i-1, j]) (1 - y[i, j-1]). Of two empty sequences the empty path is the one alignment;
    one empty sequence has none. Sources: Sakoe & Chiba (1978); soft, Cuturi & Blondel (2017). Cost: N (N + M).

    Args:
      cells: (..., N, M), as `distances` makes them of two sequences.
      moves: energies of moves down, right and both, (3,), or (..., 3), or of arriving at a pair by a move
        (..., N, M, 3); None for none.
      lengths: two arrays of whole numbers (...), how many rows and how many columns count; None for all.

    Raises:
      ValueError: for shapes that do not fit, and lengths known to be out of range.
    """

    arrays = ("cells", "moves", "rows", "columns")
    rank, y_rank, whole_rank = 2, 2, 2
    shared = ("moves",)
    domain = Box()

    def __init__(self, cells: Any, moves: Any = None, *, lengths: tuple[Any, Any] | None = None):
        self.cells = read_energies("cells", cells, (None, None))
        *batch, rows, columns = self.cells.shape
        if not rows * columns:
            raise ValueError(f"cells must have a row and a column, got shape {self.cells.shape}")
        self.moves = self.rows = self.columns = None
        if moves is not None:
            moves = wide(floats("moves", moves))
            each = rows, columns, 3
            if moves.shape not in ((3,), (*batch, 3), each, (*batch, *each)):
                raise ValueError(
                    f"moves must be of shape {(3,)} or {each}, or of one of these for each example, after {(*batch,)}, "
                    f"got {moves.shape}"
                )
            # With axes of rows and columns also where all pairs share them: what comes before is the batch.
            self.moves = moves[..., None, None, :] if moves.shape in ((3,), (*batch, 3)) else moves
        if lengths is not None:
            if not isinstance(lengths, tuple | list) or len(lengths) != 2:
                raise ValueError("lengths must be a pair of arrays, of rows and of columns")
            for count, most in zip(lengths, (rows, columns), strict=True):
                read_mask(None, count, (*batch, most))
            self.rows, self.columns = map(jnp.asarray, lengths)

    @property
    def _size(self):
        batch = self.batch_shape
        return math.prod(batch), *self.cells.shape[len(batch) :]

    def _lengths(self):
        """Rows and columns that count, (B,) each."""
        size, *most = self._size
        return [
            jnp.full(size, n) if count is None else count.reshape(size)
            for count, n in zip((self.rows, self.columns), most, strict=True)
        ]

    def _inside(self):
        """Pairs that count, (B, N, M)."""
        _, rows, columns = self._size
        n, m = (count[:, None, None] for count in self._lengths())
        row, column = jnp.arange(rows).reshape(1, -1, 1), jnp.arange(columns).reshape(1, 1, -1)
        return (row < n) & (column < m)

    def tables(self):
        """`cells` (B, N, M), infinite outside, and `moves` (B or 1, N or 1, M or 1, 3)."""
        cells = self.cells.reshape(self._size)
        if self.rows is not None:
            cells = jnp.where(self._inside(), cells, jnp.inf)
        if self.moves is None:
            return Tables(cells, jnp.zeros((1, 1, 1, 3), cells.dtype))
        moves = self.moves.astype(cells.dtype)
        return Tables(cells, moves.reshape(-1, *moves.shape[-3:]))

    def recursion(self, tables: Tables, algebra: Algebra) -> jax.Array:
        """D(i, j) = cell(i, j) + either of D(i-1, j) + down, D(i, j-1) + right, D(i-1, j-1) + both; i + j in turn."""
        size, rows, columns = tables.cells.shape
        diagonals = rows + columns - 1
        cells = skewed(jnp.moveaxis(tables.cells, 0, 2), diagonals, jnp.inf)
        cells = algebra.table(jnp.moveaxis(cells, 1, 0))
        moves = jnp.transpose(tables.moves, (1, 2, 3, 0))
        if moves.shape[:2] == (rows, columns):
            moves = jnp.moveaxis(skewed(moves, diagonals, 0), (1, 2), (0, 1))
        else:
            moves = jnp.moveaxis(moves, 2, 1)
            moves = jnp.broadcast_to(moves, (diagonals, *moves.shape[1:3], moves.shape[3]))
        first = algebra.either(cells[0][None], 0)
        none = algebra.none((rows, size), first.dtype)

        def below(a):
            return jnp.concatenate([none[:1], a[:-1]])

        def step(last, given):
            d, cell, move = given
            one, two = last
            before = jnp.stack([below(one), one, below(two)])
            new = algebra.at(d).either(algebra.both(before, algebra.table(move)), 0)
            new = algebra.both(new, cell)
            return (new, one), None if self.rows is None else new

        given = jnp.arange(1, diagonals), cells[1:], moves[1:]
        (last, _), found = lax.scan(step, (first, none), given)
        end = last[-1]
        if found is not None:
            end = self._at_ends(jnp.concatenate([first[None], found]), none[0])
        return algebra.at(0).either(end[None], 0)  # without a derivative where it is infinite

    def _at_ends(self, found, none):
        """D(n - 1, m - 1) of all diagonals (N + M - 1, N, B); that of empty sequences."""
        n, m = self._lengths()
        ends = found[jnp.maximum(n + m - 2, 0), jnp.maximum(n - 1, 0), jnp.arange(len(n))]
        shape = (-1, *[1] * (ends.ndim - 1))
        first = jnp.arange(ends[0].size).reshape(1, *ends.shape[1:]) == 0
        empty = jnp.where(first, 0, none)
        ends = jnp.where(((n > 0) & (m > 0)).reshape(shape), ends, none)
        return jnp.where((n + m == 0).reshape(shape), empty, ends)

    def support(self):
        """How many rows and columns count, (B,) each."""
        return tuple(self._lengths())

    def spread(self, tables):
        """Moves of its own for each pair of each example, (B, N, M, 3)."""
        return tables._replace(moves=jnp.broadcast_to(tables.moves, (*tables.cells.shape, 3)))

    def parts(self, of_tables):
        """`AlignmentParts` of marginals arranged as `spread` has the tables."""
        return AlignmentParts(*of_tables)

    def written(self, of_tables):
        """(B, N, M), 1 for the pairs of the path."""
        return (of_tables.cells > 0.5).astype(int)

    def y_shape(self):
        """(N, M)."""
        return self.cells.shape[-2:]

    def one_hot(self, y):
        """(..., N, M) in floats, 0 for -1."""
        return (y > 0).astype(self.cells.dtype)

    def energy_of(self, y):
        """The multilinear extension, (B, N, M) -> (B,)."""
        tables, inside = self.tables(), self._inside()
        y = jnp.where(inside, y, 0)
        padded = jnp.pad(y, ((0, 0), (1, 0), (1, 0)))
        above, left, both = padded[:, :-1, 1:], padded[:, 1:, :-1], padded[:, :-1, :-1]
        moves = y[..., None] * jnp.stack([above, left, both * (1 - above) * (1 - left)], -1)
        energy = jnp.sum(weighted(y, jnp.where(inside, tables.cells, 0)), (1, 2))
        return energy + jnp.sum(weighted(moves, tables.moves), (1, 2, 3))

    def plus(self, energies):
        """With energies (..., N, M) added to those of pairs."""
        return self.replaced(cells=self.cells + energies)


def distances(a: Any, b: Any) -> jax.Array:
    """||a_i - b_j||^2 of the places of two sequences, `a` (..., N, D) and `b` (..., M, D) -> (..., N, M).

    The `cells` of an `Alignment`. ValueError for sequences that differ in more than their length, or hold no real
    numbers.
    """
    a, b = floats("a", a), floats("b", b)
    if min(a.ndim, b.ndim) < 2 or a.shape[:-2] != b.shape[:-2] or a.shape[-1] != b.shape[-1]:
        raise ValueError(
            f"a and b must be of shapes (..., N, D) and (..., M, D), got {a.shape} and {b.shape}"
        )
    return jnp.sum((a[..., :, None, :] - b[..., None, :, :]) ** 2, -1)

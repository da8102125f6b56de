"""Rows most of whose numbers are 0, such as words: SciPy's CSR on the host, batches of its rows on the device.

A batch of B rows of D numbers is `Rows`. It multiplies a matrix, `rows @ W` for W (D, H), and both this product and its
derivative in W are products by a CSR matrix: that of the rows, and its transpose, which the host makes with the batch.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import ShapedArray
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from spen_jax.numbers import check_real_type

Array = jax.Array | np.ndarray
LEAST = 4096
"""Room that every batch has: the entries of small ones cost next to nothing, other sizes a program each."""


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["values", "indices", "indptr", "order", "indices_t", "indptr_t"],
    meta_fields=[],
)
@dataclass(frozen=True, eq=False)
class Rows:
    """B rows of D numbers in compressed form (CSR), and their transpose; `rows(matrix)` makes them.

    Row i holds values[k] in column indices[k] for k from indptr[i] up to indptr[i + 1]; column j of it holds
    values[order[k]] in row indices_t[k] for k from indptr_t[j] up to indptr_t[j + 1]. What lies behind the last entry
    fills up, so that batches of different content have the same sizes, and plays no part.

    It does what a layer needs: `rows @ W` for W (D, H), `len`, `shape`, `ndim`, `dtype`; `on_values` changes the
    values. `values`, `indices` and `order`, `indices_t` are (E,), E entries or more; `indptr` (B + 1,), `indptr_t`
    (D + 1,). To be made an array unasked, as `jnp.asarray(rows)` wants, is a TypeError: `rows.todense()`.
    """

    values: Array
    indices: Array
    indptr: Array
    order: Array
    indices_t: Array
    indptr_t: Array

    ndim = 2

    @property
    def shape(self) -> tuple[int, int]:
        """(B, D)."""
        return self.indptr.shape[-1] - 1, self.indptr_t.shape[-1] - 1

    @property
    def dtype(self) -> Any:
        """Of the values."""
        return self.values.dtype

    def __len__(self) -> int:
        return self.shape[0]

    def __matmul__(self, w: Any) -> jax.Array:
        """The product with W (D, H) -> (B, H), or with w (D,) -> (B,); ValueError for another shape."""
        w = jnp.asarray(w)
        if w.ndim not in (1, 2) or w.shape[0] != self.shape[1]:
            raise ValueError(
                f"rows of {self.shape[1]} numbers multiply a matrix ({self.shape[1]}, H), or a vector, got {w.shape}"
            )
        dtype = jnp.result_type(self.values, w)
        wide = jnp.promote_types(dtype, jnp.float32)
        matrix = (w if w.ndim == 2 else w[:, None]).astype(wide)
        x = jax.tree.leaves(on_values(lambda values: values.astype(wide), self))
        out = _product_p.bind(*x, matrix, transposed=False)
        return (out if w.ndim == 2 else out[:, 0]).astype(dtype)

    def todense(self) -> jax.Array:
        """The array (B, D)."""
        at = _rows_of(self.indptr, self.values.size), self.indices
        return jnp.zeros(self.shape, self.dtype).at[at].add(self.values, mode="drop")

    def __array__(self, *_: Any, **__: Any) -> np.ndarray:
        raise TypeError(
            "sparse rows are no array, and are not made one in silence: multiply them, rows @ W, change their values "
            "by sparse.on_values, or ask for rows.todense()"
        )


def on_values(function: Callable[[Any], Any], x: Any) -> Any:
    """The `Rows` (B, D) with function(values) in place of their values, zeros staying; of an array function(x)."""
    return replace(x, values=function(x.values)) if is_rows(x) else function(x)


def is_rows(x: Any) -> bool:
    """Whether x is `Rows`."""
    return isinstance(x, Rows)


# The product: linear in W and in the values, with the two CSR matrices as each other's transpose.


def _rows_of(indptr, entries):
    """The row of each entry, B for what fills up."""
    return jnp.searchsorted(indptr, jnp.arange(entries), side="right") - 1


def _multiply(values, indices, indptr, order, indices_t, indptr_t, w, *, transposed):
    from jax.experimental import sparse  # which imports SciPy

    rows, columns = indptr.shape[0] - 1, indptr_t.shape[0] - 1
    parts, shape = (values, indices, indptr), (rows, columns)
    if transposed:
        parts, shape = (values[order], indices_t, indptr_t), (columns, rows)
    return sparse.BCSR(parts, shape=shape) @ w


def _shape(values, indices, indptr, order, indices_t, indptr_t, w, *, transposed):
    rows = (indptr_t if transposed else indptr).shape[0] - 1
    return ShapedArray((rows, w.shape[1]), w.dtype)


def _by_values(values_dot, *others, transposed):
    return _product_p.bind(values_dot, *others[1:], transposed=transposed)


def _by_w(w_dot, *all_of, transposed):
    return _product_p.bind(*all_of[:-1], w_dot, transposed=transposed)


def _transpose(slope, values, indices, indptr, order, indices_t, indptr_t, w, *, transposed):
    nothing = (None,) * 5
    if ad.is_undefined_primal(w):
        back = _product_p.bind(
            values, indices, indptr, order, indices_t, indptr_t, slope, transposed=not transposed
        )
        return None, *nothing, back
    left, right = (w, slope) if transposed else (slope, w)
    if not (len(left) and len(right)):
        return jnp.zeros_like(indices, slope.dtype), *nothing, None
    at = _rows_of(indptr, indices.shape[0])
    left = left.at[at].get(mode="fill", fill_value=0)
    return jnp.sum(left * right[indices], axis=1), *nothing, None


def _batched(args, axes, *, transposed):
    *x, w = args
    if all(axis is None for axis in axes[:-1]):  # one product, the matrices side by side
        w = jnp.moveaxis(w, axes[-1], 1)
        out = _product_p.bind(*x, w.reshape(len(w), w.shape[1] * w.shape[2]), transposed=transposed)
        return out.reshape(len(out), *w.shape[1:]), 1
    moved = [jnp.moveaxis(a, i, 0) for a, i in zip(args, axes, strict=True) if i is not None]

    def one(part):
        given = iter(part)
        each = [a if i is None else next(given) for a, i in zip(args, axes, strict=True)]
        return _product_p.bind(*each, transposed=transposed)

    return jax.lax.map(one, moved), 0


_product_p = Primitive("sparse_rows_product")
_product_p.def_impl(partial(jax.jit, static_argnames="transposed")(_multiply))
_product_p.def_abstract_eval(_shape)
ad.defjvp(_product_p, _by_values, None, None, None, None, None, _by_w)
ad.primitive_transposes[_product_p] = _transpose
batching.primitive_batchers[_product_p] = _batched
mlir.register_lowering(_product_p, mlir.lower_fun(_multiply, multiple_results=False))


# On the host


class Matrix:
    """A SciPy matrix (N, D) on the host, checked; `matrix[which]` are `Rows`, few sizes for any rows of it."""

    ndim = 2

    def __init__(self, name: str, given: Any):
        """Of `given`, SciPy's; ValueError, which says `name`, for what is no matrix of real numbers."""
        if not is_scipy(given):
            raise ValueError(f"{name} must be one of SciPy's sparse matrices, got {type(given)}")
        if len(given.shape) != 2:
            raise ValueError(f"{name} must be a sparse matrix of two axes, got {given.shape}")
        check_real_type(name, given.dtype)
        csr = given.tocsr()
        if not csr.has_canonical_format:
            csr = csr.copy()
            csr.sum_duplicates()
        # As jnp.asarray would make them, and what is no float as a first layer would.
        dtype = jnp.promote_types(jax.dtypes.canonicalize_dtype(csr.dtype), jnp.float32)
        self._csr = csr.astype(dtype, copy=False)
        self._counts = np.diff(csr.indptr)
        moments = (
            (self._counts.mean(), self._counts.std(), self._counts.max())
            if len(self._counts)
            else (0, 0, 0)
        )
        self._mean, self._spread, self._most = moments
        self._shares: Any = None
        self._usual: dict[int, float] = {}
        self.shape, self.dtype = csr.shape, dtype

    @property
    def values(self) -> np.ndarray:
        """The stored numbers."""
        return self._csr.data

    @property
    def parts(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The stored numbers, their columns, and where each row begins among them."""
        return self._csr.data, self._csr.indices, self._csr.indptr

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, which: Any) -> Rows:
        """The rows `which`, (B,), or B of them for each of S steps, (S, B), whose arrays have a leading axis S.

        `which` are numbers, a slice or a mask, as NumPy has it; IndexError for others, ValueError for S = 0.
        """
        which = which if isinstance(which, slice) else np.asarray(which)
        if not isinstance(which, slice) and not which.size:
            which = which.astype(int)
        which = np.arange(len(self))[which]
        if which.ndim == 2 and not len(which):
            raise ValueError(f"rows of each step need a step, got which of shape {which.shape}")
        if which.ndim == 2:
            size = max(map(self._size, which))
            return jax.tree.map(lambda *a: np.stack(a), *(self._cut(one, size) for one in which))
        return self._cut(which, max(self._size(which), LEAST))

    def some(self, which: np.ndarray) -> "Matrix":
        """The rows `which` (B,) as a matrix of their own."""
        return Matrix("rows", self._csr[which])

    def touched(self, which: Any, least: int = 0) -> tuple[Rows, np.ndarray]:
        """The rows `which` (B,) over the columns alone in which one of them holds a number, and these columns (U,).

        U is the same for nearly all draws of so many rows. What is left of it is filled up with columns that hold
        nothing: with D, which is none, or where there are to be at least so many with others, drawn by the rows.
        """
        part = self._csr[which]
        found, local = np.unique(part.indices, return_inverse=True)
        size = self.room(len(which), least, len(found))
        ids = np.full(size, self.shape[1])
        ids[: len(found)] = found
        if least:
            draw = np.random.default_rng(np.asarray(which) % len(self))
            ids = _with_others(draw, found, size, self.shape[1])
            local = np.searchsorted(ids, part.indices)
        part = type(part)((part.data, local, part.indptr), shape=(len(which), size))
        return self._compressed(part, max(self._size(which), LEAST)), ids.astype(np.int32)

    def room(self, rows: int, least: int = 0, found: int = 0) -> int:
        """For how many columns `touched` has room: what nearly all draws of so many rows touch, and at most all."""
        if self._shares is None:  # of rows in which each column that occurs is on
            counts = np.bincount(self._csr.indices, minlength=self.shape[1])
            self._shares = counts[counts > 0] / max(len(self), 1)
        if rows not in self._usual:  # once, for it takes time of all columns
            hit = 1 - (1 - self._shares) ** rows
            self._usual[rows] = hit.sum() + 4 * (hit * (1 - hit)).sum() ** 0.5
        return min(max(_rounded_up(max(self._usual[rows], found, 1)), least), self.shape[1])

    def _size(self, which):
        """For how many entries there is to be room: what nearly all draws of so many rows need, rounded up."""
        n = len(which)
        usual = min(n * self._mean + 4 * n**0.5 * self._spread, n * self._most)
        return _rounded_up(max(usual, self._counts[which].sum(), 1))

    def _cut(self, which, size):
        return self._compressed(self._csr[which], size)

    def _compressed(self, part, size):
        numbers = np.arange(part.nnz, dtype=np.int32)
        turned = type(part)((numbers, part.indices, part.indptr), shape=part.shape).tocsc()

        def filled(a, dtype, fill=0):
            out = np.full(size, fill, dtype)
            out[: len(a)] = a
            return out

        return Rows(
            filled(part.data, self.dtype),
            filled(part.indices, np.int32),
            part.indptr.astype(np.int32, copy=False),
            filled(turned.data, np.int32, max(size - 1, 0)),
            filled(turned.indices, np.int32),
            turned.indptr.astype(np.int32, copy=False),
        )


def _with_others(draw, found, size, columns):
    """So many columns, ascending: those found, and others drawn evenly."""
    if 2 * size > columns:  # most of what is drawn would be there already
        others = np.setdiff1d(np.arange(columns), found, assume_unique=True)
        return np.union1d(found, draw.choice(others, size - len(found), replace=False))
    while len(found) < size:
        found = np.union1d(found, draw.integers(columns, size=size - len(found)))
    return found


def _rounded_up(need):
    """The least of few sizes that a need fits in."""
    return next(m for k in range(40) for j in range(4, 8) if (m := j * 2**k // 4) >= need)


def rows(x: Any, which: Any = None) -> Any:
    """Rows of a SciPy matrix as `Rows`: all of them, some (B,), or for each of S steps some (S, B).

    For a loop over S batches, as `training.scan` takes them, all arrays then have a leading axis S.
    `x` (N, D) is in any sparse format; `which`, whole numbers, a slice or a mask. ValueError for what is no matrix of
    real numbers, IndexError for rows that it has not.
    """
    matrix = x if isinstance(x, Matrix) else Matrix("x", x)
    return matrix[np.arange(len(matrix)) if which is None else which]


def is_scipy(x: Any) -> bool:
    """Whether x is one of SciPy's sparse matrices or arrays, which nobody need have imported."""
    return hasattr(type(x), "tocsr")


def matrices(**trees: Any) -> Any:
    """`trees`, one alone, `matrices(data=tree)`, with `Matrix` for each SciPy matrix; ValueError, by path, as there."""
    ((name, tree),) = trees.items()

    def read(path, leaf):
        return Matrix(name + jax.tree_util.keystr(path), leaf) if is_scipy(leaf) else leaf

    return jax.tree.map_with_path(read, tree)


def whole(x: Any) -> Any:
    """The tree `x` with all rows of each SciPy matrix or `Matrix` as `Rows`; ValueError, by path, as `matrices`."""
    return jax.tree.map(lambda a: rows(a) if isinstance(a, Matrix) else a, matrices(x=x))


def cut(tree: Any, which: Any) -> Any:
    """The tree with the rows `which` (B,) of each `Matrix` as `Rows` (B, D); other leaves as they are."""
    return jax.tree.map(lambda a: a[which] if isinstance(a, Matrix) else a, tree)


def has_rows(tree: Any) -> bool:
    """Whether a tree holds sparse rows (B, D) in any form: `Rows`, `Matrix`, SciPy's."""
    leaves = jax.tree.leaves(tree, is_leaf=is_rows)
    return any(is_rows(a) or isinstance(a, Matrix) or is_scipy(a) for a in leaves)

"""Tables of energies: laid out along the ends or the widths of spans, and summed where answers have parts."""

import jax
import jax.numpy as jnp


def weighted(y: jax.Array, energies: jax.Array) -> jax.Array:
    """y * energies, of the same rank: an infinite energy counts, as it is, where y is not 0, and nowhere else."""
    barred = jnp.isinf(energies)
    finite = y * jnp.where(barred, 0, energies)
    return jnp.where(barred & (y != 0), energies, finite)


def skewed(table: jax.Array, columns: int, fill: float) -> jax.Array:
    """out[i, j] = table[i, j - i], (n, m, ...) -> (n, columns, ...), at most n + m - 1; `fill` where there is none.

    Without a gather, whose transpose would scatter: rows that are one longer than they are read.
    """
    rows, width, *rest = table.shape
    wall = jnp.full((rows, rows, *rest), fill, table.dtype)
    flat = jnp.concatenate([table, wall], 1).reshape(rows * (width + rows), *rest)
    return flat[: rows * (width + rows - 1)].reshape(rows, width + rows - 1, *rest)[:, :columns]


def by_width(table: jax.Array, fill: float) -> jax.Array:
    """out[i, w] = table[i, i + w], (n, n, ...) -> (n, n, ...); `fill` where i + w is beyond."""
    n, _, *rest = table.shape
    wall = jnp.full((n, *rest), fill, table.dtype)
    flat = jnp.concatenate([table.reshape(n * n, *rest), wall])
    inside = jnp.arange(n)[:, None] + jnp.arange(n)[None] < n
    found = flat.reshape(n, n + 1, *rest)[:, :n]
    return jnp.where(inside.reshape(n, n, *[1] * len(rest)), found, fill)

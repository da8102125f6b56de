"""Networks of factors on the host: sizes of variables, scopes of factors and their tables of energies, in NumPy."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from spen_jax.numbers import real_array


class Network(NamedTuple):
    """E(y) = sum over factors f of tables[f][y[scopes[f]]], for y of n whole numbers, y[i] below sizes[i].

    `sizes` are the numbers of states of the variables, a scope is the variables of a factor, each once, and a table is
    its energies, float64, one axis of the variable's size for each variable of the scope; infinity forbids. A factor of
    no variables is a constant.

    What `read_uai` gives, `FactorGraph.of_network` takes and `write_uai` writes: NumPy arrays, on the host.
    """

    sizes: tuple[int, ...]
    scopes: list[tuple[int, ...]]
    tables: list[np.ndarray]


class Certified(NamedTuple):
    """An answer y, (n,) whole numbers, its energy, and a lower bound of every answer's: energy = bound at the optimum.

    Where no answer is allowed, y is -1 and the energy infinite.
    """

    y: np.ndarray
    energy: float
    bound: float


def read_scopes(
    sizes: Sequence[int], scopes: Sequence[Sequence[int]]
) -> tuple[tuple[int, ...], list[tuple[int, ...]]]:
    """Sizes and scopes as plain whole numbers.

    ValueError for a size below 1, and for a scope that repeats a variable or names one that there is not.
    """
    sizes = tuple(map(int, sizes))
    if any(size < 1 for size in sizes):
        i = next(i for i, size in enumerate(sizes) if size < 1)
        raise ValueError(f"variable {i} must have 1 state or more, got {sizes[i]}")
    scopes = [tuple(map(int, scope)) for scope in scopes]
    for f, scope in enumerate(scopes):
        if len(set(scope)) < len(scope):
            raise ValueError(
                f"the scope of factor {f} must hold each variable once, got {scope}; "
                "take the diagonal of its table"
            )
        if scope and not 0 <= min(scope) <= max(scope) < len(sizes):
            raise ValueError(
                f"the scope of factor {f} must hold variables from 0 to {len(sizes) - 1}, got {scope}"
            )
    return sizes, scopes


def read_network(
    sizes: Sequence[int], scopes: Sequence[Sequence[int]], tables: Sequence[np.ndarray]
) -> Network:
    """A `Network` of float64 tables whose shapes are known to fit.

    ValueError for what `read_scopes` refuses, and for a table of another shape or with NaN or minus infinity.
    """
    sizes, scopes = read_scopes(sizes, scopes)
    if len(tables) != len(scopes):
        raise ValueError(f"each of {len(scopes)} scopes needs one table, got {len(tables)}")
    read = []
    for f, (scope, table) in enumerate(zip(scopes, tables, strict=True)):
        table = real_array(f"the table of factor {f}", table).astype(np.float64)
        shape = tuple(sizes[i] for i in scope)
        if table.shape != shape:
            raise ValueError(
                f"the table of factor {f} on variables {scope} must be of shape {shape}, got {table.shape}"
            )
        check_energies(f"the table of factor {f}", table)
        read.append(table)
    return Network(sizes, scopes, read)


def check_energies(name: str, table: np.ndarray) -> None:
    """ValueError, by name, for NaN and minus infinity."""
    wrong = np.isnan(table) | (table == -np.inf)
    if np.any(wrong):
        raise ValueError(
            f"{name} must hold energies, finite or infinite where forbidden, got {table[wrong][0]}"
        )


def energy_at(network: Network, y: np.ndarray) -> float:
    """E(y) = sum over factors f of tables[f][y[scopes[f]]], for one answer y (n,) of whole numbers."""
    values = [int(v) for v in y]
    parts = [
        table[tuple(values[i] for i in scope)]
        for scope, table in zip(network.scopes, network.tables, strict=True)
    ]
    return float(np.sum(parts)) if parts else 0.0

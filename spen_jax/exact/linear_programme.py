"""The local polytope's linear programme, and the integer programme, of a network of factors; by SciPy's HiGHS."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from spen_jax.exact.network import Certified, Network, energy_at, read_network

WHOLE = 1e-6  # Numbers as near as that to 0 and 1 are taken for them.


class Programme(NamedTuple):
    """A lower bound of all energies; marginals of each variable, (size,); whether all are 0 or 1, then an optimum.

    Where even the relaxed constraints cannot be kept, the bound is infinite and the marginals are NaN.
    """

    bound: float
    marginals: list[np.ndarray]
    tight: bool


class _Assembled(NamedTuple):
    """min costs . x with matrix x = right, 0 <= x <= most; the energy is constant + scale (costs . x).

    The x are marginals of the n variables, then of factors of two variables or more; `starts` are the places of the
    first of each. The first n rows are the sums of variables, the others say that marginals agree.
    """

    costs: np.ndarray
    most: np.ndarray
    matrix: Any
    right: np.ndarray
    starts: np.ndarray
    constant: float
    scale: float


def linear_programme(
    sizes: Sequence[int], scopes: Sequence[Sequence[int]], tables: Sequence[np.ndarray]
) -> Programme:
    """min over mu of sum of tables[f] . mu_f, over marginals of variables and factors that agree: a lower bound.

    The marginals are numbers from 0 to 1 that sum to 1 for each variable, and those of a factor sum to those of each of
    its variables: the local polytope. Factors of the same variables count as one. On factor graphs without cycles, and
    for submodular pairs of binary variables, the bound is the least energy. It is recomputed from the dual solution,
    so that it holds to rounding even where HiGHS stops at its tolerance, 1e-7 of the largest spread of a table.
    Source: Wainwright & Jordan (2008), chapter 8.

    Args:
      sizes: how many states each of n variables has.
      scopes: variables of each factor; none for a constant.
      tables: energies of each factor, one axis for each variable; infinite where forbidden.

    Raises:
      ValueError: for what is no network: sizes below 1, scopes and shapes that do not fit, NaN, minus infinity.
      RuntimeError: where HiGHS fails.
    """
    from scipy.optimize import linprog

    network = read_network(sizes, scopes, tables)
    n = len(network.sizes)
    none = [np.full(size, np.nan) for size in network.sizes]
    whole = _assembled(network)
    if whole is None:
        return Programme(np.inf, none, False)
    if not n:
        return Programme(whole.constant, none, True)
    found = linprog(
        whole.costs,
        A_eq=whole.matrix,
        b_eq=whole.right,
        bounds=np.stack([np.zeros_like(whole.most), whole.most], 1),
        method="highs",
    )
    if found.status == 2:
        return Programme(np.inf, none, False)
    if found.status:
        raise RuntimeError(f"HiGHS found no solution of the linear programme: {found.message}")
    marginals = np.split(np.clip(found.x, 0, 1), whole.starts[1:])[:n]
    far = [np.minimum(marginal, 1 - marginal) for marginal in marginals]
    tight = bool(np.all(np.concatenate(far) <= WHOLE))
    return Programme(_dual_bound(whole, n, found.eqlin.marginals), marginals, tight)


def integer_programme(
    sizes: Sequence[int],
    scopes: Sequence[Sequence[int]],
    tables: Sequence[np.ndarray],
    seconds: float | None = None,
) -> Certified:
    """min over y of sum of tables[f][y[scope f]], exact: the linear programme with whole marginals, branch and bound.

    HiGHS stops where energy and bound differ by less than 1e-6 of the largest spread of a table, or after `seconds`:
    then the energy is that of the best answer it has, and the bound may lie below. Without an answer by then, y is -1
    and the energy infinite, as where all answers are forbidden, where the bound is infinite too.

    Args:
      sizes: how many states each of n variables has.
      scopes: variables of each factor; none for a constant.
      tables: energies of each factor, one axis for each variable; infinite where forbidden.
      seconds: when to stop; None for never.

    Raises:
      ValueError: as `linear_programme` raises, and for a time that is not above 0.
      RuntimeError: where HiGHS fails.
    """
    if seconds is not None and not seconds > 0:
        raise ValueError(f"seconds must be above 0, or None for no end, got {seconds}")
    from scipy.optimize import Bounds, milp

    network = read_network(sizes, scopes, tables)
    n = len(network.sizes)
    none = np.full(n, -1)
    whole = _assembled(network)
    if whole is None:
        return Certified(none, np.inf, np.inf)
    if not n:
        return Certified(none, whole.constant, whole.constant)
    variables = np.arange(len(whole.costs)) < whole.starts[:n][-1] + network.sizes[-1]
    found = milp(
        whole.costs,
        integrality=variables.astype(int),
        bounds=Bounds(0, whole.most),  # pyright: ignore[reportArgumentType] - SciPy takes arrays
        constraints=(whole.matrix, whole.right, whole.right),
        options={"mip_rel_gap": 0} | ({} if seconds is None else {"time_limit": seconds}),
    )
    if found.status == 2:
        return Certified(none, np.inf, np.inf)
    if found.status not in (0, 1):
        raise RuntimeError(f"HiGHS found no solution of the integer programme: {found.message}")
    below = -np.inf if found.mip_dual_bound is None else float(found.mip_dual_bound)
    bound = whole.constant + whole.scale * (below - WHOLE)
    if found.x is None:
        return Certified(none, np.inf, bound)
    parts = np.split(found.x, whole.starts[1:])[:n]
    y = np.array([int(np.argmax(part)) for part in parts])
    energy = energy_at(network, y)
    return Certified(y, energy, min(bound, energy))


def _dual_bound(whole: _Assembled, n: int, duals: np.ndarray) -> float:
    """Sum of the least entries of all tables, once the duals have moved energies between factors and variables."""
    moved = whole.costs - whole.matrix[n:].T @ duals[n:]
    moved = np.where(whole.most > 0, moved, np.inf)
    return whole.constant + whole.scale * float(np.sum(np.minimum.reduceat(moved, whole.starts)))


def _assembled(network: Network) -> _Assembled | None:
    """The programme of a network; None where a table, or the unary ones of a variable, forbid all."""
    from scipy import sparse

    offsets = np.concatenate([[0], np.cumsum(network.sizes)]).astype(int)
    unary, constant = np.zeros(offsets[-1]), 0.0
    groups: dict[tuple[int, ...], list[tuple[tuple[int, ...], np.ndarray]]] = {}
    for scope, table in _together(network).items():
        if len(scope) == 1:
            unary[offsets[scope[0]] : offsets[scope[0] + 1]] += table
        elif not scope:
            constant += float(table)
        else:
            groups.setdefault(table.shape, []).append((scope, table))
    costs, starts, blocks = [unary], [offsets[:-1]], [_sums(offsets)]
    column, row = offsets[-1], len(network.sizes)
    for shape, members in groups.items():
        tables = np.stack([table for _, table in members]).reshape(len(members), -1)
        scopes = np.array([scope for scope, _ in members])
        first = column + np.arange(len(members)) * tables.shape[1]
        blocks.append(_ties(offsets[scopes], first, shape, row))
        costs.append(tables.reshape(-1))
        starts.append(first)
        column, row = column + tables.size, row + len(members) * sum(shape)
    energies, begins = np.concatenate(costs), np.concatenate(starts)
    least = np.minimum.reduceat(energies, begins) if len(begins) else np.zeros(0)
    constant += float(np.sum(least))
    if np.isinf(constant):
        return None
    energies = energies - np.repeat(least, np.diff([*begins, len(energies)]))
    most = np.where(np.isinf(energies), 0.0, 1.0)
    energies = np.where(most > 0, energies, 0)
    scale = float(np.max(energies, initial=0)) or 1.0
    rows, columns, values = (np.concatenate(part) for part in zip(*blocks, strict=True))
    matrix = sparse.csr_array((values, (rows, columns)), shape=(row, len(energies)))
    right = (np.arange(row) < len(network.sizes)).astype(float)
    return _Assembled(energies / scale, most, matrix, right, begins, constant, scale)


def _together(network: Network) -> dict[tuple[int, ...], np.ndarray]:
    """The sum of the tables of each set of variables, in their order: one table bounds more than several."""
    sums: dict[tuple[int, ...], np.ndarray] = {}
    for scope, table in zip(network.scopes, network.tables, strict=True):
        order = sorted(range(len(scope)), key=scope.__getitem__)
        key, table = tuple(scope[k] for k in order), np.transpose(table, order)
        sums[key] = sums[key] + table if key in sums else table
    return sums


def _sums(offsets: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows, columns and values of the sums of variables."""
    rows = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    return rows, np.arange(offsets[-1]), np.ones(offsets[-1])


def _ties(
    variables: np.ndarray, first: np.ndarray, shape: tuple[int, ...], row: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows, columns and values that say that factors of one shape agree with their variables.

    `variables` (factors, axes) are the places of the first marginal of each variable, `first` (factors,) of the factor.
    """
    count, states = len(first), np.indices(shape).reshape(len(shape), -1)
    entries = np.arange(states.shape[1])
    rows, columns, values = [], [], []
    for axis, size in enumerate(shape):
        begin = row + np.arange(count)[:, None] * size
        row += count * size
        rows += [(begin + states[axis]).ravel(), (begin + np.arange(size)).ravel()]
        columns += [(first[:, None] + entries).ravel()]
        columns += [(variables[:, axis, None] + np.arange(size)).ravel()]
        values += [np.ones(count * len(entries)), -np.ones(count * size)]
    return np.concatenate(rows), np.concatenate(columns), np.concatenate(values)

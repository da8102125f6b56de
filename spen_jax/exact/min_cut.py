"""Exact minima of binary pairwise energies that are submodular: minimum cuts, in NumPy and SciPy."""

from typing import Any, NamedTuple

import numpy as np

from spen_jax.exact.max_flow import Capacities, maximum_flow, reaching
from spen_jax.exact.network import Certified, check_energies
from spen_jax.numbers import real_array, rounding


class _Energy(NamedTuple):
    """E(y) = constant + slope . y + sum over pairs (i, j) of ahead (1 - y_i) y_j + back y_i (1 - y_j), y of 0 and 1."""

    constant: float
    slope: np.ndarray
    pairs: np.ndarray
    ahead: np.ndarray
    back: np.ndarray


def min_cut(unary: Any, pairs: Any, tables: Any) -> Certified:
    """min over y of sum of unary[i, y_i] + sum of tables[p, y_i, y_j], the pairs p = (i, j): exact, by a minimum cut.

    Each pair must be submodular, table[0, 0] + table[1, 1] <= table[0, 1] + table[1, 0], or become so once the two
    labels of some variables are swapped, as `switched` finds. Pairs of the same variables count together. The bound is
    that of a feasible flow; energy and bound differ by rounding. Of several minima the one of the most zeros (as
    swapped). Source: Kolmogorov & Zabih (2004).

    Args:
      unary: energies of the labels, (n, 2); infinite where forbidden.
      pairs: two variables each, (m, 2).
      tables: energies of pairs, (m, 2, 2); infinite where forbidden.

    Returns:
      `Certified`: y -1 and the energy and bound infinite where every answer is forbidden.

    Raises:
      ValueError: for shapes that do not fit, NaN, minus infinity, a pair of a variable with itself, and pairs that no
        swapping of labels makes submodular.
    """
    unary, pairs, tables, slack = _read(unary, pairs, tables)
    n = len(unary)
    joint, sums, slack = _together(n, pairs, tables, slack)
    swap = np.zeros(n, bool)
    if not np.all(_submodular(sums, slack)):
        found = _switched(n, joint, sums, slack)
        if found is None:
            raise ValueError(_refusal(joint, sums, slack))
        swap = found
    y, bound = _minimum(_swap_unary(unary, swap), joint, _swap_tables(sums, joint, swap))
    if y is None:
        return Certified(np.full(n, -1), np.inf, np.inf)
    y = np.where(swap, 1 - y, y)
    places = np.arange(n), np.arange(len(pairs))
    parts = unary[places[0], y], tables[places[1], y[pairs[:, 0]], y[pairs[:, 1]]]
    energy = float(np.sum(np.concatenate(parts)))
    return Certified(y, energy, min(bound, energy))


def switched(n: int, pairs: Any, tables: Any) -> np.ndarray | None:
    """Whether to swap the labels of each of n variables, (n,), so that all pairs are submodular; None if no way does.

    A pair is to be swapped at one of its two variables or not: like colours along the pairs, which agree or do not. The
    first variable of each part of the graph stays as it is. ValueError as `min_cut` raises for what is no energy.
    """
    _, pairs, tables, slack = _read(np.zeros((n, 2)), pairs, tables)
    return _switched(n, *_together(n, pairs, tables, slack))


def _read(unary: Any, pairs: Any, tables: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """The arguments as arrays that fit, and the rounding of the tables relative to their size."""
    unary, tables = real_array("unary", unary), real_array("tables", tables)
    pairs = real_array("pairs", pairs)
    slack = 8 * max(rounding(tables), float(np.finfo(float).eps))
    pairs = pairs.reshape(-1, 2) if pairs.size == 0 else pairs
    tables = tables.reshape(-1, 2, 2) if tables.size == 0 else tables
    if unary.ndim != 2 or unary.shape[1] != 2:
        raise ValueError(f"unary must be of shape (variables, 2), got {unary.shape}")
    if pairs.ndim != 2 or pairs.shape[1] != 2:
        raise ValueError(f"pairs must be of shape (pairs, 2), got {pairs.shape}")
    if tables.shape != (len(pairs), 2, 2):
        raise ValueError(f"tables must be of shape {(len(pairs), 2, 2)}, got {tables.shape}")
    if pairs.size:
        if pairs.dtype.kind not in "iu" or not 0 <= pairs.min() <= pairs.max() < len(unary):
            raise ValueError(
                f"pairs must be whole numbers from 0 to {len(unary) - 1}, "
                f"got {pairs.dtype} from {pairs.min()} to {pairs.max()}"
            )
        same = np.flatnonzero(pairs[:, 0] == pairs[:, 1])
        if len(same):
            raise ValueError(
                f"pair {same[0]} must be of two variables, got {tuple(pairs[same[0]].tolist())}; "
                "add its diagonal to unary"
            )
    unary, tables = unary.astype(float), tables.astype(float)
    check_energies("unary", unary)
    check_energies("tables", tables)
    return unary, pairs.astype(np.int64), tables, slack


def _together(
    n: int, pairs: np.ndarray, tables: np.ndarray, slack: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Each pair once, its smaller variable first, its tables summed, and how far rounding may move such a sum."""
    turned = pairs[:, 0] > pairs[:, 1]
    tables = np.where(turned[:, None, None], tables.swapaxes(1, 2), tables)
    keys, where = np.unique(pairs.min(1) * n + pairs.max(1), return_inverse=True)
    sums, sizes = np.zeros((len(keys), 2, 2)), np.zeros(len(keys))
    np.add.at(sums, where.reshape(-1), tables)
    largest = np.max(np.where(np.isinf(tables), 0, np.abs(tables)), axis=(1, 2), initial=0)
    np.add.at(sizes, where.reshape(-1), largest)
    return np.stack([keys // max(n, 1), keys % max(n, 1)], 1), sums, slack * sizes


def _plain(tables: np.ndarray) -> np.ndarray:
    """Tables in which a label that the other variable's labels all forbid takes the energies of its fellow.

    Forbidden labels are no matter of the pair, but of the variable: `_forbidden` says which.
    """
    tables = tables.copy()
    for axis in (1, 2, 1):
        lost = np.all(np.isinf(tables), axis=3 - axis, keepdims=True)
        tables = np.where(lost, np.flip(tables, axis), tables)
    return np.where(np.all(np.isinf(tables), axis=(1, 2), keepdims=True), 0, tables)


def _submodular(tables: np.ndarray, slack: np.ndarray) -> np.ndarray:
    """Which tables are submodular, to rounding."""
    tables = _plain(tables)
    finite = np.where(np.isinf(tables), 0, tables)
    excess = finite[:, 0, 1] + finite[:, 1, 0] - finite[:, 0, 0] - finite[:, 1, 1]
    across = np.isinf(tables[:, 0, 1]) | np.isinf(tables[:, 1, 0])
    along = np.isinf(tables[:, 0, 0]) | np.isinf(tables[:, 1, 1])
    return across | ~along & (excess >= -slack)


def _switched(
    n: int, pairs: np.ndarray, tables: np.ndarray, slack: np.ndarray
) -> np.ndarray | None:
    """Parts of the graph of variables as they are, i, and swapped, n + i."""
    from scipy import sparse
    from scipy.sparse import csgraph

    as_are = _submodular(tables, slack)
    if_swapped = _submodular(tables[:, ::-1], slack)
    if not np.all(as_are | if_swapped):
        return None
    pairs, apart = pairs[as_are != if_swapped], if_swapped[as_are != if_swapped]
    first, second = pairs[:, 0], pairs[:, 1] + n * apart
    tail = np.concatenate([first, first + n])
    head = np.concatenate([second, (second + n) % (2 * n) if n else second])
    graph = sparse.coo_array((np.ones(len(tail)), (tail, head)), shape=(2 * n, 2 * n)).tocsr()
    part = csgraph.connected_components(graph, directed=False)[1] if n else np.zeros(0)
    plain, swapped = part[:n], part[n:]
    return None if np.any(plain == swapped) else plain > swapped


def _refusal(pairs: np.ndarray, tables: np.ndarray, slack: np.ndarray) -> str:
    """What to say of the first pair that is not submodular."""
    p = int(np.flatnonzero(~_submodular(tables, slack))[0])
    i, j = pairs[p].tolist()
    return (
        f"a minimum cut needs table[0, 0] + table[1, 1] <= table[0, 1] + table[1, 0] of every pair of variables, "
        f"but the table of ({i}, {j}) is {tables[p].tolist()}, and swapping the two labels of some variables does not "
        "make all pairs so; ask LinearProgramme(), TreeReweighted() or DualDecomposition() for a bound, or "
        "IntegerProgramme()"
    )


def _swap_unary(unary: np.ndarray, swap: np.ndarray) -> np.ndarray:
    return np.where(swap[:, None], unary[:, ::-1], unary)


def _swap_tables(tables: np.ndarray, pairs: np.ndarray, swap: np.ndarray) -> np.ndarray:
    first, second = (swap[pairs[:, k]][:, None, None] for k in (0, 1))
    tables = np.where(first, tables[:, ::-1], tables)
    return np.where(second, tables[:, :, ::-1], tables)


def _minimum(
    unary: np.ndarray, pairs: np.ndarray, tables: np.ndarray
) -> tuple[np.ndarray | None, float]:
    """The minimum and its bound, of submodular tables, each pair once; None and infinity where there is none."""
    forbidden = np.isinf(unary)
    for k in (0, 1):
        lost = np.all(np.isinf(tables), axis=2 - k)
        np.logical_or.at(forbidden, pairs[:, k], lost)
    energy, lost = _energy(np.where(forbidden, 0, unary), pairs, _plain(tables))
    fixed = _implied(forbidden, energy)
    if fixed is None:
        return None, np.inf
    energy = _with_fixed(energy, fixed)
    sink = np.maximum(-energy.slope, 0)
    one, flow = maximum_flow(
        Capacities(np.maximum(energy.slope, 0), sink, pairs, energy.ahead, energy.back)
    )
    bound = energy.constant - float(np.sum(sink)) + flow - lost
    return np.where(fixed >= 0, fixed, one), bound


def _energy(unary: np.ndarray, pairs: np.ndarray, tables: np.ndarray) -> tuple[_Energy, float]:
    """As a constant, slopes and arcs; and how much, at most, it lies above the energy where that is not submodular."""
    a, b, c, d = tables.reshape(-1, 4).T
    ahead, back = np.isinf(b), np.isinf(c)
    # Beside what is forbidden, numbers that leave nothing else of the pair.
    c = np.where(back, np.where(ahead, a, a + d - np.where(ahead, 0, b)), c)
    excess = np.where(ahead | back, 0, np.where(ahead, 0, b) + c - a - d)
    slope = unary[:, 1] - unary[:, 0]
    np.add.at(slope, pairs[:, 0], c - a)
    np.add.at(slope, pairs[:, 1], d - c)
    energy = _Energy(
        float(np.sum(unary[:, 0]) + np.sum(a)),
        slope,
        pairs,
        np.where(ahead, np.inf, np.maximum(excess, 0)),
        np.where(back, np.inf, 0),
    )
    return energy, float(np.sum(np.maximum(-excess, 0)))


def _implied(forbidden: np.ndarray, energy: _Energy) -> np.ndarray | None:
    """Labels (n,) that forbidden ones and infinite arcs leave, -1 where both; None where somewhere none is left."""
    ahead, back = np.isinf(energy.ahead), np.isinf(energy.back)
    # An infinite arc forbids 0 at its tail with 1 at its head.
    one = reaching(forbidden[:, 0], energy.pairs, ahead, back)
    zero = reaching(forbidden[:, 1], energy.pairs[:, ::-1], ahead, back)
    return None if np.any(one & zero) else np.where(one, 1, np.where(zero, 0, -1))


def _with_fixed(energy: _Energy, fixed: np.ndarray) -> _Energy:
    """The energy of the variables that are not fixed: no slope nor arc of another one is left."""
    slope, constant = energy.slope.copy(), energy.constant
    tail, head = fixed[energy.pairs[:, 0]], fixed[energy.pairs[:, 1]]
    weight = np.where(np.isinf(energy.ahead), 0, energy.ahead)
    np.add.at(slope, energy.pairs[:, 1], np.where(tail == 0, weight, 0))
    last = np.where((tail < 0) & (head == 1), weight, 0)
    np.add.at(slope, energy.pairs[:, 0], -last)
    constant += float(np.sum(last) + np.sum(slope[fixed == 1]))
    gone = (tail >= 0) | (head >= 0)
    return _Energy(
        constant,
        np.where(fixed >= 0, 0, slope),
        energy.pairs,
        np.where(gone, 0, energy.ahead),
        np.where(gone, 0, energy.back),
    )

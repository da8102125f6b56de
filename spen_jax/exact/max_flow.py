"""Maximum flows of capacities in float64, by SciPy's of whole numbers of 32 bits."""

from typing import NamedTuple

import numpy as np

WIDEST = 2**29  # The most flow, in units: two capacities and a flow added still fit into 32 bits.
ROUNDS = 6  # Each leaves some 1e-7 of what the one before left.


class Capacities(NamedTuple):
    """Of arcs from the source to n nodes, from them to the sink, and both ways along m edges between nodes.

    `edges` (m, 2) holds each pair of nodes once; `ahead` is from the first to the second, `back` the other way. Those
    two may be infinite.
    """

    source: np.ndarray
    sink: np.ndarray
    edges: np.ndarray
    ahead: np.ndarray
    back: np.ndarray


def maximum_flow(capacities: Capacities) -> tuple[np.ndarray, float]:
    """The nodes on the sink's side of a minimum cut, (n,) booleans, and the value of a feasible flow, to rounding.

    Capacities are rounded down to whole units, of which the flow is found; what is left of them is rounded again, to a
    unit as fine as the cut that was found lets it be, until that cut has no capacity left. A unit is a power of 2, so
    that no flow is rounded. Of several cuts it is the one nearest to the sink.
    """
    left = capacities
    begin = most = float(min(np.sum(left.source), np.sum(left.sink)))
    side, total = reaching(left.sink > 0, left.edges, left.ahead > 0, left.back > 0), 0.0
    for _ in range(ROUNDS):
        if most <= np.finfo(float).eps * begin:
            break
        unit = max(2.0 ** np.ceil(np.log2(most / WIDEST)), 2.0**-1074)
        whole = Capacities(*(_whole(c, unit) if c.ndim == 1 else c for c in left))
        value, rest = _flow(whole)
        used = [(a.astype(float) - b) * unit for a, b in zip(whole, rest, strict=True)]
        left = left._replace(
            source=left.source - used[0],
            sink=left.sink - used[1],
            ahead=left.ahead - used[3],
            back=left.back - used[4],
        )
        total += value * unit
        side = reaching(rest.sink > 0, rest.edges, rest.ahead > 0, rest.back > 0)
        most = _across(left, side)
    return side, total


def _whole(capacity: np.ndarray, unit: float) -> np.ndarray:
    return np.floor(np.minimum(capacity, (2 * WIDEST - 1) * unit) / unit).astype(np.int64)


def _flow(whole: Capacities) -> tuple[int, Capacities]:
    """The value of a maximum flow in whole numbers, and what it leaves of the capacities."""
    from scipy import sparse
    from scipy.sparse import csgraph

    n = len(whole.source)
    nodes, first, second = np.arange(n), whole.edges[:, 0], whole.edges[:, 1]
    source, sink = np.full(n, n), np.full(n, n + 1)
    tail = np.concatenate([source, nodes, first, second])
    head = np.concatenate([nodes, sink, second, first])
    data = np.concatenate([whole.source, whole.sink, whole.ahead, whole.back]).astype(np.int32)
    kept = data > 0
    graph = sparse.csr_array((data[kept], (tail[kept], head[kept])), shape=(n + 2, n + 2))
    found = csgraph.maximum_flow(graph, n, n + 1)
    ends = np.concatenate([source, nodes, first]), np.concatenate([nodes, sink, second])
    flow = np.asarray(sparse.csr_matrix(found.flow)[ends]).reshape(-1).astype(np.int64)
    along = flow[2 * n :]
    rest = Capacities(
        whole.source - flow[:n],
        whole.sink - flow[n : 2 * n],
        whole.edges,
        whole.ahead - along,
        whole.back + along,
    )
    return int(found.flow_value), rest


def reaching(
    goals: np.ndarray, edges: np.ndarray, ahead: np.ndarray, back: np.ndarray
) -> np.ndarray:
    """Which of n nodes, (n,), lead to a goal along edges (m, 2) that are open `ahead` or `back`, (m,) booleans."""
    from scipy import sparse
    from scipy.sparse import csgraph

    n = len(goals)
    # Against the direction, from one node more that leads to the goals.
    tail = np.concatenate([np.full(np.sum(goals), n), edges[ahead, 1], edges[back, 0]])
    head = np.concatenate([np.flatnonzero(goals), edges[ahead, 0], edges[back, 1]])
    graph = sparse.csr_array((np.ones(len(tail)), (tail, head)), shape=(n + 1, n + 1))
    found = csgraph.breadth_first_order(graph, n, return_predecessors=False)
    reached = np.zeros(n + 1, bool)
    reached[found] = True
    return reached[:n]


def _across(left: Capacities, side: np.ndarray) -> float:
    """The capacity of the arcs that lead to the sink's side: as much as can still flow, or more."""
    first, second = side[left.edges[:, 0]], side[left.edges[:, 1]]
    parts = (
        left.source[side],
        left.sink[~side],
        left.ahead[~first & second],
        left.back[first & ~second],
    )
    return float(sum(np.sum(np.maximum(part, 0)) for part in parts))

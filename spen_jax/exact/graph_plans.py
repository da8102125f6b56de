"""Plans for inference in factor graphs: orders of elimination, colours of variables, covers by forests."""

import heapq
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from spen_jax.exact.network import read_scopes

HOPELESS = 64  # log2 of the entries of a table
Scopes = Sequence[Sequence[int]]


class Order(NamedTuple):
    """An order in which to eliminate variables, and what that costs.

    `width` is the induced width: the variables of the largest table made, less 1. `cost` is log2 of the entries of that
    table, and `total` is the number of entries of all tables made, infinite beyond floats.
    """

    order: tuple[int, ...]
    width: int
    cost: float
    total: float


def elimination_order(sizes: Sequence[int], scopes: Scopes) -> Order:
    """An order of small tables: the best found by (cost, total).

    Eliminating a variable joins all its neighbours, those that share a factor with it, in one table. Tried are minimum
    fill, the variable next that adds the fewest pairs of neighbours, ties by weight, then by place or by chance
    (seeded); minimum weight, the one of the smallest table; the order given; and that of reverse Cuthill-McKee. Of
    trees and chordal graphs minimum fill adds no pairs, and the width is the least. Source: Koller & Friedman (2009),
    section 9.4.

    Args:
      sizes: how many states each of n variables has.
      scopes: variables of each factor.

    Raises:
      ValueError: for a size below 1, and a scope that repeats a variable or names one that there is not.
    """
    sizes, scopes = read_scopes(sizes, scopes)
    near = _neighbours(len(sizes), scopes)
    n = len(near)
    graph = _Elimination(near, sizes, range(n))
    best = _eliminated(graph, math.inf)
    assert best is not None
    if not graph.filled or best.cost > 4 * HOPELESS:
        return best
    rng = np.random.default_rng(0)
    chances = 8 if n <= 500 and best.cost <= HOPELESS else 0
    tries = [(range(n), False, False), (range(n), False, True), (_banded(near), False, True)]
    tries += [(rng.permutation(n).tolist(), True, False) for _ in range(chances)]
    for ties, by_fill, fixed in tries:
        # It stops at the first table larger than the largest of the best before.
        order = _eliminated(_Elimination(near, sizes, ties, by_fill, fixed), best.cost)
        if order and (order.cost, order.total) < (best.cost, best.total):
            best = order
    return best


def _neighbours(n: int, scopes: Scopes) -> list[set[int]]:
    """The variables that share a factor with each."""
    near: list[set[int]] = [set() for _ in range(n)]
    for scope in scopes:
        for i in scope:
            near[i].update(scope)
    for i, others in enumerate(near):
        others.discard(i)
    return near


def _banded(near: list[set[int]]) -> list[int]:
    """Places of the variables in an order that keeps neighbours near."""
    from scipy import sparse
    from scipy.sparse import csgraph

    rows = np.repeat(np.arange(len(near)), [len(others) for others in near])
    columns = np.fromiter((j for others in near for j in others), int, len(rows))
    graph = sparse.csr_array((np.ones(len(rows)), (rows, columns)), shape=(len(near),) * 2)
    return np.argsort(csgraph.reverse_cuthill_mckee(graph, symmetric_mode=True)).tolist()


class _Elimination:
    """A graph from which variables go: missing pairs among each one's neighbours, and log2 of its table's entries."""

    def __init__(
        self,
        near: list[set[int]],
        sizes: Sequence[int],
        ties: Sequence[int],
        by_fill: bool = True,
        fixed: bool = False,
    ):
        self.near, self.ties = [set(others) for others in near], ties
        self.sizes = [float(size) for size in sizes]
        self.bits = bits = [math.log2(size) for size in sizes]
        self.by_fill, self.fixed, self.filled = by_fill, fixed, False
        self.weight = [bits[i] + sum(bits[j] for j in others) for i, others in enumerate(near)]
        self.fill = [0] * len(near)
        if by_fill:
            for i, others in enumerate(near):
                joined = sum(len(near[j] & others) for j in others)
                self.fill[i] = (len(others) * (len(others) - 1) - joined) // 2

    def key(self, i: int) -> tuple[int, float, int, int]:
        """What the next variable has least of."""
        if self.fixed:
            return 0, 0.0, self.ties[i], i
        return self.fill[i] if self.by_fill else 0, self.weight[i], self.ties[i], i

    def join(self, a: int, b: int) -> set[int]:
        """Make two variables neighbours; those whose fill changes, besides them."""
        near = self.near
        common = near[a] & near[b]
        for i in common:
            self.fill[i] -= 1
        self.fill[a] += len(near[a]) - len(common)
        self.fill[b] += len(near[b]) - len(common)
        near[a].add(b)
        near[b].add(a)
        self.weight[a] += self.bits[b]
        self.weight[b] += self.bits[a]
        return common

    def take(self, i: int) -> set[int]:
        """Join the neighbours of a variable and take it out; the variables whose key changes."""
        near, others = self.near, self.near[i]
        changed = set(others)
        for a in list(others):
            new = others - near[a]
            new.discard(a)
            self.filled |= bool(new)
            if self.by_fill:
                for b in new:
                    changed |= self.join(a, b)
            else:
                near[a] |= new
                self.weight[a] += sum(self.bits[b] for b in new)
        for a in others:
            # Of a's neighbours, these were none of i's, and pairs of them and i are no longer missing.
            self.fill[a] -= len(near[a]) - len(others) if self.by_fill else 0
            near[a].discard(i)
            self.weight[a] -= self.bits[i]
        changed.discard(i)
        return changed


def _eliminated(graph: _Elimination, limit: float) -> Order | None:
    """The greedy order: a heap of keys, of which those that have changed since are skipped; None beyond the limit."""
    bits, left = graph.bits, math.fsum(graph.bits)
    heap = [graph.key(i) for i in range(len(bits))]
    heapq.heapify(heap)
    latest = {key[-1]: key for key in heap}
    order, width, largest, total = [], 0, 0.0, 0.0
    while heap:
        key = heapq.heappop(heap)
        i = key[-1]
        if latest.get(i) != key:
            continue
        del latest[i]
        order.append(i)
        width = max(width, len(graph.near[i]))
        table = [i, *graph.near[i]]
        largest = max(largest, math.fsum(bits[j] for j in table))
        total += math.prod(graph.sizes[j] for j in table)
        if largest > limit:
            return None
        left -= bits[i]
        changed = graph.take(i)
        if graph.by_fill and (left <= largest or largest > HOPELESS):
            # No table to come can be larger, or none so large can be made: weights do, at less cost.
            graph.by_fill = False
            latest = {j: graph.key(j) for j in latest}
            heap = sorted(latest.values())
            continue
        for j in changed:
            new = graph.key(j)
            if new != latest[j]:
                latest[j] = new
                heapq.heappush(heap, new)
    return Order(tuple(order), width, largest, total)


def colours(n: int, scopes: Scopes) -> np.ndarray:
    """Colours (n,), from 0, of n variables: two that share a factor differ. Two colours where two suffice.

    The next variable coloured is the one that sees the most colours, then the one of the most neighbours, and it takes
    the least colour that it does not see. Source: Brelaz (1979). ValueError as `elimination_order` raises.
    """
    _, scopes = read_scopes([1] * n, scopes)
    near = _neighbours(n, scopes)
    seen: list[set[int]] = [set() for _ in range(n)]
    colour = np.full(n, -1)
    heap = [(0, -len(near[i]), i) for i in range(n)]
    heapq.heapify(heap)
    while heap:
        count, degree, i = heapq.heappop(heap)
        if colour[i] >= 0 or -count != len(seen[i]):
            continue
        colour[i] = next(c for c in range(n) if c not in seen[i])
        for j in near[i]:
            if colour[j] < 0 and colour[i] not in seen[j]:
                seen[j].add(int(colour[i]))
                heapq.heappush(heap, (-len(seen[j]), -len(near[j]), j))
    return colour


class _Components:
    """Variables in sets that grow together: union-find."""

    def __init__(self, n: int):
        self.parent = list(range(n))

        self.left = n  # how many sets

    def root(self, i: int) -> int:
        """The name of the set of a variable."""
        parent = self.parent
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    def join(self, scope: Iterable[int]) -> bool:
        """Whether a factor's variables were all in different sets, which are then one; else nothing changes."""
        roots = [self.root(i) for i in scope]
        if len(set(roots)) < len(roots):
            return False
        for root in roots:
            self.parent[root] = roots[0]
        self.left -= max(len(roots) - 1, 0)
        return True


def is_forest(n: int, scopes: Scopes) -> bool:
    """Whether the graph of n variables and the factors on them has no cycle; two factors on one pair are one."""
    _, scopes = read_scopes([1] * n, scopes)
    components = _Components(n)
    return all(components.join(scope) for scope in scopes)


def forests(n: int, scopes: Scopes) -> np.ndarray:
    """Sets (T, m) of factors without cycles, as booleans, that together hold all m factors.

    Each is as large as can be: any factor more would close a cycle. Factors of one variable or none are in all. Those
    in the fewest sets so far come first, then those near the centres of what they connect, so that paths stay short.
    T is small, not always least; at least 1. ValueError as `elimination_order` raises.
    """
    _, scopes = read_scopes([1] * n, scopes)
    joins = np.array([len(scope) > 1 for scope in scopes], bool)
    counts = np.where(joins, 0, 1)
    apart = sum(1 for _ in _parts(n, scopes, _touching(n, scopes)))
    found, level = [], np.array(_levels(n, scopes), int)
    while not found or not np.all(counts):
        left = [f for f in range(len(scopes)) if not counts[f]]
        level[left] = _levels(n, [scopes[f] for f in left])
        components = _Components(n)
        chosen = ~joins
        for f in np.lexsort((level, counts)):
            if components.left == apart:
                break
            chosen[f] = components.join(scopes[f])
        counts += chosen
        found.append(chosen)
    return np.stack(found)


def depth(n: int, scopes: Scopes) -> int:
    """The most factors on a path between two variables of a factor graph without cycles; 0 where no two are joined.

    ValueError for a graph with a cycle, and as `elimination_order` raises.
    """
    if not is_forest(n, scopes):
        raise ValueError(
            "the depth is of a factor graph without cycles, got one with a cycle; "
            "take one of its `forests`"
        )
    touching = _touching(n, scopes)
    ends = (_distances(part[-1], scopes, touching) for part in _parts(n, scopes, touching))
    return max((max(distances.values()) for distances in ends), default=0)


def _touching(n: int, scopes: Scopes) -> list[list[int]]:
    """The factors of each variable."""
    touching: list[list[int]] = [[] for _ in range(n)]
    for f, scope in enumerate(scopes):
        for i in scope:
            touching[i].append(f)
    return touching


def _distances(start: int, scopes: Scopes, touching: list[list[int]]) -> dict[int, int]:
    """How many factors away each variable is that can be reached, the nearest first."""
    away, used, reached = {start: 0}, set(), [start]
    for i in reached:
        for f in touching[i]:
            if f not in used:
                used.add(f)
                new = [j for j in scopes[f] if j not in away]
                away.update(dict.fromkeys(new, away[i] + 1))
                reached += new
    return away


def _parts(n: int, scopes: Scopes, touching: list[list[int]]) -> Iterator[list[int]]:
    """The variables of each connected part, the nearest to its first one first."""
    done: set[int] = set()
    for i in range(n):
        if i not in done:
            part = list(_distances(i, scopes, touching))
            done.update(part)
            yield part


def _levels(n: int, scopes: Scopes) -> list[int]:
    """How many factors lie between each factor and the centre of its part of the graph."""
    touching = _touching(n, scopes)
    away: dict[int, int] = {}
    for part in _parts(n, scopes, touching):
        centre, furthest = part[0], dict.fromkeys(part, 0)
        if len(part) > 2:
            # The variable nearest to far ones; a far one of it is one more: a few find the middle.
            for _ in range(6):
                *_, (mark, far) = _distances(centre, scopes, touching).items()
                away_from_mark = _distances(mark, scopes, touching)
                for i, d in away_from_mark.items():
                    furthest[i] = max(furthest[i], d)
                if 2 * far <= max(away_from_mark.values()) + 1:
                    break
                centre = min(part, key=lambda i: furthest[i])
        away.update(_distances(centre, scopes, touching))
    return [min((away[i] for i in scope), default=0) for scope in scopes]

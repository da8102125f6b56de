"""Tasks of `benchmarks/structure.py` on minimum cuts of binary grids.

*cut* are grids of 64 x 64 binary pixels with normal unary energies and attractive couplings, the sizes of normal ones.
scipy is `scipy.sparse.csgraph.maximum_flow` as one writes it, capacities rounded to thousandths, and with
scipy_hundredths to hundredths; maxflow is PyMaxflow, networkx `minimum_cut`. *cut, energy* is the energy of the answer,
in float64.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from benchmarks import harness

SIDE = 64

Task = Callable[[], Any]


def energies() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Unary energies (H, W, 2) and couplings of unlike neighbours (H - 1, W), (H, W - 1), none negative."""
    rng = np.random.default_rng(0)
    shapes = (SIDE, SIDE, 2), (SIDE - 1, SIDE), (SIDE, SIDE - 1)
    unary, down, right = (rng.standard_normal(shape).astype(np.float32) for shape in shapes)
    return unary, abs(down), abs(right)


def energy_of(y: np.ndarray, unary: np.ndarray, down: np.ndarray, right: np.ndarray) -> float:
    """E of whole labels (H, W), in float64."""
    nodes = np.take_along_axis(unary.astype(float), y[..., None], -1)
    total = np.sum(nodes) + np.sum(down.astype(float) * (y[1:] != y[:-1]))
    return float(total + np.sum(right.astype(float) * (y[:, 1:] != y[:, :-1])))


def ours(unary: Any, down: Any, right: Any) -> Any:
    """(H, W)."""
    from spen_jax.exact import Grid, MinCut, potts

    return Grid(unary, potts(down, 2), potts(right, 2), method=MinCut()).best().y


def of_scipy(unary: np.ndarray, down: np.ndarray, right: np.ndarray, scale: int) -> np.ndarray:
    """Label 0 is the side of the source, which is what the residual capacities lead to."""
    from scipy import sparse
    from scipy.sparse import csgraph

    n = SIDE * SIDE
    pixels, slope = np.arange(n).reshape(SIDE, SIDE), unary[..., 1] - unary[..., 0]
    above, below, left, right_ = pixels[:-1], pixels[1:], pixels[:, :-1], pixels[:, 1:]
    arcs = [
        (np.full(n, n), pixels, np.maximum(slope, 0)),
        (pixels, np.full(n, n + 1), np.maximum(-slope, 0)),
        (above, below, down),
        (below, above, down),
        (left, right_, right),
        (right_, left, right),
    ]
    tail, head, capacity = (np.concatenate([a[k].ravel() for a in arcs]) for k in range(3))
    whole = np.round(scale * capacity).astype(np.int32)
    graph = sparse.csr_matrix((whole, (tail, head)), shape=(n + 2, n + 2))
    left_over = graph - csgraph.maximum_flow(graph, n, n + 1).flow
    left_over.eliminate_zeros()
    reached = csgraph.breadth_first_order(left_over, n, return_predecessors=False)
    y = np.ones(n + 2, int)
    y[reached] = 0
    return y[:n].reshape(SIDE, SIDE)


def of_maxflow(unary: np.ndarray, down: np.ndarray, right: np.ndarray) -> np.ndarray:
    """By its grids."""
    import maxflow  # pyright: ignore[reportMissingImports]

    graph = maxflow.Graph[float](SIDE * SIDE, 4 * SIDE * SIDE)
    nodes = graph.add_grid_nodes((SIDE, SIDE))
    below, beside = np.zeros((3, 3)), np.zeros((3, 3))
    below[2, 1] = beside[1, 2] = 1
    for weights, to in (
        (np.pad(down, ((0, 1), (0, 0))), below),
        (np.pad(right, ((0, 0), (0, 1))), beside),
    ):
        graph.add_grid_edges(nodes, weights=weights, structure=to, symmetric=True)
    slope = unary[..., 1] - unary[..., 0]
    graph.add_grid_tedges(nodes, np.maximum(slope, 0), np.maximum(-slope, 0))
    graph.maxflow()
    return graph.get_grid_segments(nodes).astype(int)


def of_networkx(unary: np.ndarray, down: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Edge by edge."""
    import networkx as nx

    graph = nx.DiGraph()
    slope = unary[..., 1].astype(float) - unary[..., 0]
    for (i, j), s in np.ndenumerate(slope):
        graph.add_edge("source", (i, j), capacity=max(s, 0.0))
        graph.add_edge((i, j), "sink", capacity=max(-s, 0.0))
    for weights, (a, b) in ((down, (1, 0)), (right, (0, 1))):
        for (i, j), weight in np.ndenumerate(weights):
            graph.add_edge((i, j), (i + a, j + b), capacity=float(weight))
            graph.add_edge((i + a, j + b), (i, j), capacity=float(weight))
    flow = nx.algorithms.flow.boykov_kolmogorov
    _, (zeros, _) = nx.minimum_cut(graph, "source", "sink", flow_func=flow)
    y = np.ones((SIDE, SIDE), int)
    for node in zeros - {"source"}:
        y[node] = 0
    return y


def tasks() -> dict[str, Task]:
    """Best answers (H, W)."""
    import jax

    given = energies()
    found: dict[str, Task] = {
        "spen_jax": partial(jax.jit(ours), *jax.device_put(given)),
        "scipy": partial(of_scipy, *given, 1000),
        "scipy_hundredths": partial(of_scipy, *given, 100),
    }
    peers = {"maxflow": of_maxflow, "networkx": of_networkx}
    return found | {n: partial(f, *given) for n, f in peers.items() if harness.installed(n)}


def check(contestants: dict[str, Task]) -> list[dict]:
    """Rows of the energies; SystemExit where one is lower than ours, or an exact one higher."""
    given = energies()
    found = {n: energy_of(np.asarray(task()), *given) for n, task in contestants.items()}
    slack = 1e-6 * abs(found["spen_jax"])
    for name, energy in found.items():
        # A rounded capacity is off by half a unit.
        units = 0 if not name.startswith("scipy") else 0.01 if "_" in name else 0.001
        arcs = 3 * SIDE * SIDE
        if not -slack <= energy - found["spen_jax"] <= slack + units * arcs:
            raise SystemExit(f"{name} does not reach the energy of spen_jax's cut")
    return [{"structure": "cut, energy", "name": n, "value": e} for n, e in found.items()]

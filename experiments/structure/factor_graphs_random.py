"""Random loopy graphs of binary variables: every method against all answers, one by one.

Energies of single values are N(0, 1), those of pairs N(0, scale^2); a few graphs of edges, each with many draws.
"""

import itertools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import spen_jax as sx
from experiments.structure.factor_graphs_tables import Rows, markdown, several
from spen_jax.exact import (
    BeliefPropagation,
    DualDecomposition,
    FactorGraph,
    Gibbs,
    LinearProgramme,
    MeanField,
    Tables,
    TreeReweighted,
)
from spen_jax.inference.minimize import from_each_start

SCALES, DEGREES = (0.5, 1.0, 2.0), (3, 8)
ROUNDING = 1e-4
"""Energies as far apart are alike: float32 has seven digits, and the energies are about -10 to -100."""
SETTLED = 1e-3
STEPS, STEP_SIZE = 200, 0.2

BEST: dict[str, tuple[Any, bool]] = {
    "linear programme": (LinearProgramme(), True),
    "dual decomposition": (DualDecomposition(), False),
    "tree-reweighted": (TreeReweighted(), True),
    "belief propagation": (BeliefPropagation(), False),
    "mean field": (MeanField(), False),
}
"""Method, and whether it has to know the edges as it is compiled."""

MARGINALS: dict[str, tuple[Any, bool]] = {
    "belief propagation, undamped": (BeliefPropagation(damping=0.0), False),
    "belief propagation, damping 0.5": (BeliefPropagation(), False),
    "belief propagation, colours": (BeliefPropagation(damping=0.0, schedule="colours"), True),
    "tree-reweighted": (TreeReweighted(), True),
    "mean field": (MeanField(), False),
    "Gibbs sampling": (Gibbs(), True),
}
SIGNS = {"tree-reweighted": -1, "mean field": 1}
"""On which side of F a method's value lies."""


class Sizes(NamedTuple):
    """How many graphs of edges, draws of each and scale, variables, and starts of gradient inference."""

    edges: int = 10
    draws: int = 20
    variables: int = 12
    starts: int = 20


class Graphs(NamedTuple):
    """Energies of all draws: unary (N, n, 2), pairs (N, m, 2, 2), edges (N, m, 2), (T, S, D) with T S D = N."""

    unary: np.ndarray
    pairs: np.ndarray
    edges: np.ndarray
    shape: tuple[int, int, int]

    def by_scale(self, values: Any) -> np.ndarray:
        """(N, ...) as (S, T D, ...)."""
        values = np.asarray(values)
        rest = values.shape[1:]
        values = np.moveaxis(values.reshape(*self.shape, *rest), 1, 0)
        return values.reshape(self.shape[1], -1, *rest)

    def field(self, rows: slice | None = None) -> FactorGraph:
        """All of them, each with edges of its own, or some that have the same edges."""
        if rows is None:
            return FactorGraph(self.unary, [Tables(jnp.asarray(self.edges), self.pairs)])
        return FactorGraph(self.unary[rows], [Tables(self.edges[rows][0], self.pairs[rows])])

    def alike(self) -> list[slice]:
        """The rows of each graph of edges."""
        size = self.shape[1] * self.shape[2]
        return [slice(i * size, (i + 1) * size) for i in range(self.shape[0])]


class Truth(NamedTuple):
    """Of each graph: all energies (N, 2^n), the least (N,), F (N,), and P(y_i = 1) (N, n)."""

    energies: np.ndarray
    least: np.ndarray
    free: np.ndarray
    nodes: np.ndarray

    def energy(self, y: Any) -> np.ndarray:
        """E of an answer (N, n) of each."""
        return np.take_along_axis(self.energies, places(y)[:, None], 1)[:, 0]

    def changed(self, y: np.ndarray) -> np.ndarray:
        """E (N, S) of answers (N, S, n) once no change of a single variable lowers it."""
        index, flips = places(y), 1 << np.arange(y.shape[-1])
        rows = np.arange(len(y))[:, None]
        while True:
            others = index[..., None] ^ flips
            energies = self.energies[rows[..., None], others]
            best = np.take_along_axis(others, energies.argmin(-1)[..., None], -1)[..., 0]
            lower = energies.min(-1) < self.energies[rows, index]
            if not lower.any():
                return self.energies[rows, index]
            index = np.where(lower, best, index)


def places(y: Any) -> np.ndarray:
    """Where answers (..., n) of binary variables stand in the list of all."""
    y = np.asarray(y)
    return y @ (1 << np.arange(y.shape[-1])[::-1])


def drawn(seed: int, degree: int, sizes: Sizes) -> Graphs:
    """Edges chosen among all pairs, so many neighbours on average."""
    rng = np.random.default_rng((seed, degree))
    each, n = len(SCALES) * sizes.draws, sizes.variables
    pairs = np.array(list(itertools.combinations(range(n), 2)))
    count = min(n * degree // 2, len(pairs))
    edges = [np.sort(rng.choice(len(pairs), count, replace=False)) for _ in range(sizes.edges)]
    edges = np.repeat(pairs[np.stack(edges)], each, 0)
    scale = np.tile(np.repeat(SCALES, sizes.draws), sizes.edges)
    unary = rng.normal(size=(len(edges), n, 2)).astype(np.float32)
    energies = scale[:, None, None, None] * rng.normal(size=(*edges.shape[:2], 2, 2))
    shape = sizes.edges, len(SCALES), sizes.draws
    return Graphs(unary, energies.astype(np.float32), edges, shape)


def enumerated(graphs: Graphs) -> Truth:
    """All answers, in double precision and without the library."""
    n = graphs.unary.shape[1]
    y = np.array(list(itertools.product(range(2), repeat=n)))
    unary, pairs = graphs.unary.astype(float), graphs.pairs.astype(float)
    energies = np.sum([unary[:, i][:, y[:, i]] for i in range(n)], 0)
    for rows in graphs.alike():
        for k, (i, j) in enumerate(graphs.edges[rows][0]):
            energies[rows] += pairs[rows, k][:, y[:, i], y[:, j]]
    least = energies.min(1)
    weights = np.exp(least[:, None] - energies)
    total = weights.sum(1)
    return Truth(energies, least, least - np.log(total), weights @ y / total[:, None])


def asked(graphs: Graphs, question: str, method: Any, apart: bool) -> Any:
    """A question to all graphs, edges apart where the method has to know them."""
    fields = [graphs.field(rows) for rows in graphs.alike()] if apart else [graphs.field()]
    found = [getattr(field.by(method), question)() for field in fields]
    return jax.tree.map(lambda *a: np.concatenate(a), *found)


def relaxed(params: Any, context: Any) -> FactorGraph:
    """The structure that gradient inference goes down, of one graph."""
    return FactorGraph(context["unary"], [Tables(context["edges"], context["pairs"])])


def descended(graphs: Graphs, truth: Truth, starts: int, seed: int) -> dict[str, np.ndarray]:
    """Energies (N,) of one start and of the best of all: of mirror descent on the multilinear energy, rounded, and of
    changes of single variables, each time that which lowers the energy most, from the same starts, rounded.
    """
    context = {"unary": graphs.unary, "pairs": graphs.pairs, "edges": graphs.edges}
    context = jax.tree.map(jnp.asarray, context)
    many, *shape = graphs.unary.shape
    logits = np.random.default_rng(seed).normal(size=(many, starts, *shape))
    starting = jax.nn.softmax(jnp.asarray(logits, jnp.float32), -1)
    found, _ = from_each_start(
        sx.exact.structured(relaxed),
        None,
        context,
        starting,
        domain=sx.Simplex(),
        solver=sx.MirrorDescent(STEP_SIZE),
        steps=STEPS,
    )
    y = np.argmax(found.y, -1).reshape(logits.shape[:-1])
    each = {
        "mirror descent": np.stack([truth.energy(y[:, s]) for s in range(starts)], 1),
        "single changes": truth.changed(np.argmax(logits, -1)),
    }
    one = {f"{name}, 1 start": energy[:, 0] for name, energy in each.items()}
    return one | {f"{name}, best of {starts}": energy.min(1) for name, energy in each.items()}


def of_best(
    graphs: Graphs, truth: Truth, energy: np.ndarray, bound: np.ndarray | None
) -> dict[str, Any]:
    """Shares and means of each scale, by energies and bounds of all graphs (N,)."""
    above = graphs.by_scale(energy - truth.least)
    found = {"optimal": 100 * np.mean(above < ROUNDING, 1), "above": above.mean(1)}
    if bound is not None:
        certified = graphs.by_scale(energy - bound < ROUNDING)
        found |= {
            "certified": 100 * certified.mean(1),
            "below": graphs.by_scale(truth.least - bound).mean(1),
            "violated": np.sum(graphs.by_scale(bound > truth.least + ROUNDING), 1),
            "certified_wrongly": np.sum(certified & (above > 2 * ROUNDING), 1),
        }
    return found


def of_marginals(graphs: Graphs, truth: Truth, found: Any, sign: int | None) -> dict[str, Any]:
    """Errors of each scale; the sign is the side of F that is promised."""
    error = graphs.by_scale(np.abs(np.asarray(found.nodes)[..., 1] - truth.nodes))
    free = graphs.by_scale(np.asarray(found.free_energy) - truth.free)
    residual = graphs.by_scale(found.residual)
    result = {"mean": error.mean((1, 2)), "max": error.max((1, 2))}
    if not np.isnan(free).all():
        result |= {"free": free.mean(1), "settled": 100 * np.mean(residual < SETTLED, 1)}
    if sign is not None:
        result["wrong_side"] = np.sum(sign * free < -ROUNDING, 1)
    return result


def measure(seed: int, sizes: Sizes) -> tuple[dict[str, Any], dict[int, dict[str, Any]]]:
    """Results by number of neighbours, and for the figures the bounds and energies less the optimum, (S, T D)."""
    result, drawings = {}, {}
    for degree in DEGREES:
        graphs = drawn(seed, degree, sizes)
        truth = enumerated(graphs)
        best, shown = {}, {}
        for name, (method, apart) in BEST.items():
            found = asked(graphs, "best", method, apart)
            energy, bound = truth.energy(found.y), np.asarray(found.bound)
            known = np.isfinite(bound).all()
            best[name] = of_best(graphs, truth, energy, bound if known else None)
            shown[name] = graphs.by_scale(energy - truth.least)
            if known:
                shown[f"{name}: bound"] = graphs.by_scale(bound - truth.least)
        for name, energy in descended(graphs, truth, sizes.starts, seed).items():
            best[name] = of_best(graphs, truth, energy, None)
        marginals = {
            name: of_marginals(
                graphs, truth, asked(graphs, "marginals", method, apart), SIGNS.get(name)
            )
            for name, (method, apart) in MARGINALS.items()
        }
        result[str(degree)] = {"best": best, "marginals": marginals}
        drawings[degree] = shown
    return result, drawings


BEST_COLUMNS = {
    "certified": ("certified, %", ".0f"),
    "optimal": ("optimal, %", ".0f"),
    "above": ("energy above the optimum", ".2f"),
    "below": ("bound below the optimum", ".2f"),
    "violated": ("bounds violated", "d"),
}
MARGINAL_COLUMNS = {
    "mean": ("mean error", ".3f"),
    "max": ("largest error", ".2f"),
    "free": ("error of F", "+.2f"),
    "wrong_side": ("F on the wrong side", "d"),
    "settled": ("settled, %", ".0f"),
}


def tables(result: dict[str, Any]) -> list[str]:
    """Two for each number of neighbours; each cell says of each scale."""
    found = []
    for degree, of in result.items():
        for what, columns in (("best", BEST_COLUMNS), ("marginals", MARGINAL_COLUMNS)):
            rows: Rows = {
                name: {
                    title: several(values[key], digits)
                    for key, (title, digits) in columns.items()
                    if key in values
                }
                for name, values in of[what].items()
            }
            found.append(markdown(rows, f"{degree} neighbours, {what}"))
    return found

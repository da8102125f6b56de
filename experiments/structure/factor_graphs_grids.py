"""Grids: bounds of Potts models beside the linear programme's, and where messages of spin glasses settle."""

from typing import Any

import jax
import numpy as np

from experiments.structure.factor_graphs_tables import Rows, markdown, several, spread
from spen_jax.exact import (
    BeliefPropagation,
    DualDecomposition,
    Elimination,
    Grid,
    IntegerProgramme,
    LinearProgramme,
    MeanField,
    TreeReweighted,
    potts,
)

SECONDS = 20.0
"""For an integer programme."""
LABELS = 5
KINDS = {"attractive, 0.5": 0.5, "attractive, 1": 1.0, "mixed": None}
METHODS = {
    "linear programme": LinearProgramme(),
    "dual decomposition": DualDecomposition(),
    "tree-reweighted": TreeReweighted(),
    "belief propagation": BeliefPropagation(),
    "mean field": MeanField(),
}

COUPLINGS = (0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0)
FIELD, SETTLED = 0.25, 1e-3
SCHEDULES = {
    "flooding, undamped": BeliefPropagation(damping=0.0),
    "flooding, damping 0.5": BeliefPropagation(),
    "flooding, damping 0.9": BeliefPropagation(damping=0.9),
    "flooding, damping 0.9, 2000 steps": BeliefPropagation(damping=0.9, steps=2000),
    "colours, undamped": BeliefPropagation(damping=0.0, schedule="colours"),
    "colours, damping 0.5": BeliefPropagation(schedule="colours"),
    "tree-reweighted, damping 0.5": TreeReweighted(),
}


def drawn_potts(kind: float | None, seeds: tuple[int, ...], size: int) -> Grid:
    """One grid a seed: energies of labels are N(0, 1), of unlike neighbours the coupling, N(0, 1) where mixed."""
    rngs = [np.random.default_rng((seed, 3)) for seed in seeds]
    unary = np.stack([rng.normal(size=(size, size, LABELS)) for rng in rngs]).astype(np.float32)
    if kind is not None:
        return Grid(unary, potts(kind, LABELS), potts(kind, LABELS))
    unlike = (1 - np.eye(LABELS)).astype(np.float32)
    down, right = (
        np.stack([rng.normal(size=(*shape, 1, 1)) for rng in rngs]).astype(np.float32) * unlike
        for shape in ((size - 1, size), (size, size - 1))
    )
    return Grid(unary, down, right)


def measure_potts(seeds: tuple[int, ...], size: int) -> dict[str, Any]:
    """By kind, of each seed: the programmes' values, which optima are certain, and each method's gaps in percent."""
    result = {}
    for kind, coupling in KINDS.items():
        field = drawn_potts(coupling, seeds, size)
        whole = field.by(IntegerProgramme(SECONDS)).best()
        answers = {name: field.by(method).best() for name, method in METHODS.items()}
        linear, least = np.asarray(answers["linear programme"].bound), np.asarray(whole.energy)
        low = np.abs(least)
        gaps = {
            name: {
                "bound": 100 * (linear - np.asarray(found.bound)) / low,
                "energy": 100 * (np.asarray(found.energy) - least) / low,
            }
            for name, found in answers.items()
        }
        result[kind] = {
            "certain": np.asarray(whole.gap) < 1e-4 * low,
            "least": least,
            "linear": 100 * (least - linear) / low,
            "methods": gaps,
        }
    return result


def potts_tables(result: dict[str, Any]) -> list[str]:
    """The linear programme beside the optimum, then each method's bounds and energies."""
    first: Rows = {
        kind: {
            "integer optimum certain": f"{np.sum(of['certain'])} of {len(of['certain'])}",
            "its energy": spread(of["least"], ".1f"),
            "linear programme's bound below it, %": spread(of["linear"], ".3f"),
        }
        for kind, of in result.items()
    }

    def gaps(name, what):
        return {
            kind: spread(of["methods"][name][what], ".3f")
            for kind, of in result.items()
            if np.isfinite(of["methods"][name][what]).all()
        }

    bounds = {name: gaps(name, "bound") for name in list(METHODS)[1:3]}
    energies = {name: gaps(name, "energy") for name in METHODS}
    return [
        markdown(first, "coupling"),
        markdown(bounds, "bound below the linear programme's, %"),
        markdown(energies, "energy above the integer programme's, %"),
    ]


def spin_glasses(seed: int, grids: int, size: int) -> Grid:
    """E(s) = -sum J s_i s_j - sum h s_i of spins -1 and 1, J ~ N(0, coupling^2), h ~ N(0, FIELD^2); (S D,) grids."""
    rng = np.random.default_rng((seed, 4))
    scale = np.repeat(COUPLINGS, grids)[:, None, None, None, None]
    alike = np.array([[-1.0, 1.0], [1.0, -1.0]])
    down, right = (
        (scale * rng.normal(size=(len(scale), *shape, 1, 1)) * alike).astype(np.float32)
        for shape in ((size - 1, size), (size, size - 1))
    )
    unary = FIELD * rng.normal(size=(len(scale), size, size, 1)) * np.array([1.0, -1.0])
    return Grid(unary.astype(np.float32), down, right)


def measure_schedules(seed: int, grids: int, size: int) -> dict[str, Any]:
    """By schedule, of each coupling and grid: how far messages would move undamped, and the mean error of marginals."""
    field = spin_glasses(seed, grids, size)
    exact = np.asarray(field.by(Elimination()).marginals().nodes)
    result = {}
    for name, method in SCHEDULES.items():
        found = jax.tree.map(np.asarray, field.by(method).marginals())
        shape = len(COUPLINGS), grids
        error = np.abs(found.nodes - exact)[..., 0].mean((1, 2))
        result[name] = {
            "residual": (found.residual / (1 - method.damping)).reshape(shape),
            "error": error.reshape(shape),
        }
    return result


def schedules_tables(result: dict[str, Any]) -> list[str]:
    """Shares settled, and errors."""
    columns = [f"{coupling:g}" for coupling in COUPLINGS]

    def row(values, digits):
        return {c: several([v], digits) for c, v in zip(columns, values, strict=True)}

    settled: Rows = {
        name: row(100 * np.mean(np.asarray(of["residual"]) < SETTLED, 1), ".0f")
        for name, of in result.items()
    }
    error: Rows = {name: row(np.asarray(of["error"]).mean(1), ".3f") for name, of in result.items()}
    return [
        markdown(settled, "grids settled, %, at coupling"),
        markdown(error, "mean error of marginals, at coupling"),
    ]

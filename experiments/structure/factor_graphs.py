"""Loopy graphs: what each method finds, and what its bounds say, where the truth is known.

The question: exact answers cost the exponent of a graph's width. What do messages, forests, programmes, cuts, mean
fields, sampling and gradient inference find instead? Four parts: "random", graphs of 12
binary variables against all their answers; "image", a noisy picture whose best labels a minimum cut finds, with an
energy learnt on other pictures; "potts", grids of five labels beside linear and integer programmes; "schedules", spin
glasses: where messages cycle, and what makes them settle.

Expected: no bound on the wrong side, anywhere, or the script fails: mean field's F above, the reweighted one's below,
dual bounds at most the optimum. Belief propagation has the best marginals while couplings are weak and graphs sparse,
and does not settle on strong frustrated ones (Murphy, Weiss & Jordan 1999; Wainwright & Jordan 2008). The rest:
docs/theory/factor_graphs.md.

Protocol: 10 graphs of edges with 20 draws for each of three scales; five noises of one picture; five seeds of Potts
grids of 20 x 20; 20 spin glasses of 10 x 10 for each coupling. float32, methods at their defaults unless a name says
otherwise. Nothing is chosen by a figure that is reported.
Minutes of one core: random 4, image 2, potts 1, schedules 1.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from experiments import shared
from experiments.lecture import runs
from experiments.structure import (
    factor_graphs_figures,
    factor_graphs_grids,
    factor_graphs_image,
    factor_graphs_learning,
    factor_graphs_random,
    factor_graphs_tables,
)

Part = Literal["random", "image", "potts", "schedules"]


@dataclass(frozen=True)
class Config:
    """Methods for loopy graphs where the truth is known."""

    parts: tuple[Part, ...] = ("random", "image", "potts", "schedules")
    """What is measured."""

    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    """Of the picture's noise and of the Potts grids; the first one also of graphs, training pictures and glasses."""

    quick: bool = False
    """A shorter run on small graphs, to see that everything works; its figures mean nothing."""

    out: Path | None = None
    """Folder to write, new or empty; runs/factor-graphs-<date> by default."""


def random_graphs(config: Config, folder: Path) -> tuple[dict[str, Any], list[str]]:
    """Against enumeration."""
    sizes = factor_graphs_random.Sizes(*(2, 2, 5, 3) if config.quick else ())
    result, drawings = factor_graphs_random.measure(config.seeds[0], sizes)
    factor_graphs_figures.draw_errors(result, folder / "graphs-marginals.png")
    factor_graphs_figures.draw_bounds(drawings, folder / "graphs-bounds.png")
    return result, factor_graphs_random.tables(result)


def image(config: Config, folder: Path) -> tuple[dict[str, Any], list[str]]:
    """One energy, learnt; every method."""
    size, count, steps = (16, 2, 2) if config.quick else (64, 8, 150)
    of_image, learning = factor_graphs_image, factor_graphs_learning
    seed, truth = config.seeds[0], factor_graphs_image.picture(size)
    truths = of_image.shapes(seed, count, size)
    params = learning.learn(truths, of_image.seen(truths, seed + 1000), steps)
    xs = [of_image.seen(truth, seed) for seed in config.seeds]
    right = {name: learning.judged(of, truth, xs) for name, of in params.items()}
    found = of_image.compare(params["Bethe likelihood"], truth, xs)
    factor_graphs_figures.draw_pictures(truth, xs[0], found, folder / "graphs-picture.png")
    kept = {name: {k: v for k, v in of._asdict().items() if k != "y"} for name, of in found.items()}
    tables = [learning.table(params, right), of_image.table(kept)]
    return {"learnt": params, "right": right, "methods": kept}, tables


def potts(config: Config, folder: Path) -> tuple[dict[str, Any], list[str]]:
    """Beside programmes."""
    result = factor_graphs_grids.measure_potts(config.seeds, 4 if config.quick else 20)
    return result, factor_graphs_grids.potts_tables(result)


def schedules(config: Config, folder: Path) -> tuple[dict[str, Any], list[str]]:
    """Spin glasses."""
    grids, size = (2, 3) if config.quick else (20, 10)
    result = factor_graphs_grids.measure_schedules(config.seeds[0], grids, size)
    factor_graphs_figures.draw_schedules(result, folder / "graphs-schedules.png")
    return result, factor_graphs_grids.schedules_tables(result)


PARTS = {"random": random_graphs, "image": image, "potts": potts, "schedules": schedules}


def beyond(result: dict[str, Any]) -> int:
    """How many bounds of random graphs lie on the wrong side, or certify what is not the best."""
    counts = 0
    for of in result.get("random", {}).values():
        for values in (*of["best"].values(), *of["marginals"].values()):
            for name in ("violated", "certified_wrongly", "wrong_side"):
                counts += int(np.sum(values.get(name, 0)))
    return counts


def main(config: Config) -> dict[str, Any]:
    """Run the parts, write the folder and return the result."""
    run, result = runs.begin(config, "factor-graphs"), {}
    written = []
    for part in config.parts:
        result[part], tables = PARTS[part](config, run.folder)
        written += tables
        for table in tables:
            factor_graphs_tables.show(table)
        (run.folder / "tables.md").write_text("\n".join(written))
    result = run.finish(result)
    if wrong := beyond(result):
        shared.fail(f"{wrong} bounds of random graphs are on the wrong side")
    return result


if __name__ == "__main__":
    shared.run(main, Config, __doc__)

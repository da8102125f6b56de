"""Handwritten words: what does an energy over windows of letters add to networks of letters.

The question: y (T, 26) are the letters of a word, x their images. The SPEN's energy has letters, a chain, and two
convolutions over windows of y; inference takes ten steps of mirror descent from what the network says of each letter,
and training goes through them. What do the same layers reach without an energy: applied once; iterated as often
with tied weights; iterated with two further layers, so that they have the reach of the energy's gradient?
And what of words that were never seen?

Expected: published, one fold to learn from and nine to test, letters right: linear machine 71.4, chain CRF 78.8.
Measured: docs/results/words.md.

Protocol: the data's folds. "fold1": 704 words to learn from, 6,173 to test, of the same 55 words; "folds": the same
with each fold in turn, one seed each; "nine": nine folds to learn from, fold 0 to test; "unseen": words_unseen.py.
Epochs are fixed; of RATES each model takes the one that read most words of a fifth of fold 1, "tune", which is where
`rate` in words_models.py comes from: three trials each. Nothing is chosen on what is tested.
Minutes of one core: by default, a seed of fold1, about 10; folds 17 a model, nine 4 a model, unseen 15 a split.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from rich.table import Table

import spen_jax as sx
from experiments import shared
from experiments.lecture import runs
from experiments.structure import words_figures, words_unseen
from experiments.structure.words_models import CONTESTANTS
from experiments.structure.words_protocol import grouped, judged, trained
from spen_jax.training import checkpoints

RATES = (0.001, 0.002, 0.004)  # of networks; of linear models five times these
LINEAR = ("linear", "linear-crf", "m3n")
MODELS = tuple(CONTESTANTS)
Protocol = Literal["fold1", "folds", "nine", "unseen", "tune"]


@dataclass(frozen=True)
class Config:
    """Letters of words, by networks, chains and an energy over windows."""

    protocols: tuple[Protocol, ...] = ("fold1",)
    """What is measured."""

    seeds: tuple[int, ...] = (0,)
    """Of parameters, batches, dropout; of unseen, which words are held out."""

    models: tuple[str, ...] = MODELS
    """Which, by their names in words_models.CONTESTANTS; of folds: spen and reach among them."""

    epochs: int = 40
    """Passes over fold 1; over nine folds a fifth of them."""

    quick: bool = False
    """A run of seconds on few words, to see that everything works; its figures mean nothing."""

    data_dir: Path | None = None
    """Folder that holds ocr/; else SPEN_JAX_DATA, else the cache."""

    out: Path | None = None
    """Folder to write, new or empty; runs/words-<date> by default."""


def splits(protocol: str, folds: np.ndarray, seeds: tuple[int, ...]) -> Iterator[tuple[int, Any]]:
    """(seed, whether each word is learnt from)."""
    if protocol == "folds":
        yield from ((fold, folds == fold) for fold in range(10))
    else:
        yield from ((seed, folds == 1 if protocol == "fold1" else folds != 0) for seed in seeds)


def measure(
    config: Config, protocol: str, letters: sx.data.Letters, save: Any
) -> dict[str, dict[str, list[float]]]:
    """{model: {"letters": per cent of each seed or fold, "words": ...}}; `save` is called after each."""
    chosen = [m for m in config.models if protocol != "folds" or m in ("spen", "reach")]
    epochs = max(1, config.epochs // 5) if protocol == "nine" else config.epochs
    found: dict[str, dict[str, list[float]]] = {m: {"letters": [], "words": []} for m in chosen}
    with shared.progress_bars() as progress:
        for seed, learnt in splits(protocol, letters.folds, config.seeds):
            train_groups, test_groups = grouped(letters, learnt), grouped(letters, ~learnt)
            for name in chosen:
                one = CONTESTANTS[name]
                params = trained(one, train_groups, epochs, seed, progress)
                right = judged(one, params, test_groups)
                for what, value in right._asdict().items():
                    found[name][what].append(value)
                save(found, name, seed, params, test_groups)
    return found


def tuned(config: Config, letters: sx.data.Letters) -> dict[str, dict[str, float]]:
    """Of each model and rate the words read right of a fifth of fold 1, after training on the rest."""
    rows = np.flatnonzero(letters.folds == 1)
    learnt, held = (rows[part] for part in sx.data.split(len(rows), 0.2, seed=0))
    groups = grouped(letters, learnt), grouped(letters, held)
    found = {}
    with shared.progress_bars() as progress:
        for name in config.models:
            one = CONTESTANTS[name]
            each = [one._replace(rate=(5 if name in LINEAR else 1) * rate) for rate in RATES]
            kept = [(o, trained(o, groups[0], config.epochs, 100, progress)) for o in each]
            found[name] = {f"{o.rate:g}": judged(o, params, groups[1]).words for o, params in kept}
            shared.say(f"{name}: {found[name]}")
    return found


def few(letters: sx.data.Letters) -> sx.data.Letters:
    """Some words of every fold."""
    rows = np.concatenate([np.flatnonzero(letters.folds == fold)[:24] for fold in range(10)])
    cut = {k: getattr(letters, k)[rows] for k in ("x", "y", "mask", "folds")}
    return letters._replace(**cut)


def main(config: Config) -> dict[str, Any]:
    """Run the experiment, write its folder and return the result."""
    if unknown := [m for m in config.models if m not in CONTESTANTS]:
        shared.fail(f"--models knows {', '.join(CONTESTANTS)}, got {', '.join(unknown)}")
    if config.quick:
        config = replace(config, epochs=1)
    run = runs.begin(config, "words", epochs=1)
    try:
        letters = sx.data.load_letters(config.data_dir)
    except (FileNotFoundError, sx.data.DataError) as error:
        shared.fail(str(error))
    letters = few(letters) if config.quick else letters
    result: dict[str, Any] = {"data": {"name": "ocr", "checksums": letters.checksums}}
    tables = []
    for protocol in config.protocols:

        def save(found, name, seed, params, groups, protocol=protocol):
            result[protocol] = found
            meta = {"model": name, "protocol": protocol, "seed": seed}
            checkpoints.save(run.folder / f"{name}-{protocol}-{seed}.spen", params, meta)
            shared.write_json(run.folder / "result.json", result)
            if protocol == "fold1" and name == "spen" and seed == config.seeds[0]:
                words_figures.draw_steps(params, groups, run.folder / "steps.png")

        if protocol == "tune":
            result["tune"] = tuned(config, letters)
        elif protocol == "unseen":
            result["unseen"] = words_unseen.measure(config, letters, run.folder)
            tables += words_unseen.tables(result["unseen"])
        else:
            result[protocol] = measure(config, protocol, letters, save)
            tables.append(table(protocol, result[protocol]))
    return run.finish(result, *tables)


def table(protocol: str, found: dict[str, dict[str, list[float]]]) -> Table:
    """Means and spreads, in per cent."""
    title = f"{protocol}: letters and words read right, %"
    rows = Table("", "letters", "words", title=title)
    for name, right in found.items():
        each = (shared.mean_and_spread(right[what]) for what in ("letters", "words"))
        rows.add_row(CONTESTANTS[name].title, *each)
    return rows


if __name__ == "__main__":
    shared.run(main, Config, __doc__)

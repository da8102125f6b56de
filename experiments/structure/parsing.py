"""Dependency parsing of English web text, and what tree likelihoods, margins and a second-order energy add to it.

Data: the Universal Dependencies English Web Treebank, words alone: no tags are given, multiword tokens and empty nodes
are skipped, and punctuation counts. A word is known by its embedding, suffixes and characters, all learned here.

All parsers of a seed share a first training: three layers of GRUs, biaffine scores of arcs (Dozat & Manning 2017), the
head of each word by a softmax, relations of true arcs by another. Then each objective goes on from there, the head
softmax itself among them, with the same vectors of the encoder, which is held fixed: the training sentences seen with
as many draws of its dropout, so that it errs as on new ones. Relations stay those of the first training. Trees are
decoded exactly, by maximum spanning trees or among those whose arcs do not cross.

    head softmax: each word's head by itself
    tree likelihood: -log P(tree), over all trees with one root (Koo et al. 2007) or those without crossing arcs,
        to which the sentences with such arcs are left out
    max-margin: the true tree must beat every other by its cost (Taskar et al. 2003; McDonald et al. 2005)
    second order: energies of siblings and of grandparents, of low rank; from the marginals of the arcs three steps of
        mirror descent whose mirror map is the exact marginals, unrolled; the cross-entropy of the last marginals
    the same with one step: the control, the same layers applied once without iteration

Minutes of one core: all sentences with the default's epochs 20, of which 14 grow with their number, so that the default
should take 13; all with 12 and 2 epochs, as in docs/results/parsing.md, 35 a seed.
"""

import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich.table import Table

from experiments import shared
from experiments.lecture import runs
from experiments.structure import parsing_data, parsing_figures
from experiments.structure.parsing_data import Numbers
from experiments.structure.parsing_model import (
    METHODS,
    Method,
    Parser,
    answers,
    first_objective,
    objective_of,
    spen_of,
    vectors,
)
from spen_jax import training
from spen_jax.data import Groups, load_treebank

WIDTHS = 14, 26, 40, 60
FIRST = "first training"
LONGEST, LONGEST_AGAIN = 60, 40
"""Longer training sentences are left out, of the first training and of the others."""


@dataclass(frozen=True)
class Config:
    """Train parsers of English web text and compare what their objectives and energies add."""

    seeds: tuple[int, ...] = (0,)
    """Initial weights, order of the sentences, dropout."""

    epochs: int = 4
    """Of the first training, which all parsers of a seed share."""

    more_epochs: int = 1
    """With each objective, from there: one pass over as many draws of the encoder's dropout; 0 for none."""

    methods: tuple[str, ...] = tuple(METHODS)
    """Which objectives."""

    sentences: int = 6000
    """How many sentences to train on, the first ones; the treebank has 12,544."""

    first: Path | None = None
    """Folder of an earlier run whose first trainings are taken, of the seeds that it has."""

    data_dir: Path | None = None
    """Folder that holds ud_english_ewt; downloaded by default."""

    out: Path | None = None
    """Folder to write, new or empty; runs/parsing-<date> by default."""


@dataclass(frozen=True)
class Data:
    """Groups of sentences; x are numbers of words for the first training, vectors after it."""

    train: Groups
    valid: Groups
    test: Groups


def read(config: Config) -> tuple[Any, Numbers, Data]:
    """The treebank, its numbers, and its splits as arrays."""
    bank = load_treebank(data_dir=config.data_dir)
    chosen = bank.train[: config.sentences]
    numbers = Numbers.of(chosen)
    train = parsing_data.short(chosen, LONGEST)
    longest = max(len(s.words) for s in (*bank.valid, *bank.test))
    judged_by = (numbers.groups(s, WIDTHS, longest) for s in (bank.valid, bank.test))
    return bank, numbers, Data(numbers.groups(train, WIDTHS, LONGEST), *judged_by)


def first_training(
    config: Config, seed: int, parser: Parser, groups: Groups, progress: Any
) -> tuple[Any, float]:
    """Head softmax from scratch, all layers: parameters, and the seconds that it took."""
    first, key = jax.random.split(jax.random.key(seed))
    few = jax.tree.map(lambda a: jnp.asarray(a[:2]), groups[0])
    params = jax.jit(parser.init)(first, few["x"], few["heads"], mask=few["mask"])["params"]
    recipe = training.Recipe(config.epochs, 2.5e-3, 1e-2, batch_size=32)
    objective = first_objective(parser)  # pyright: ignore[reportArgumentType]
    steps = training.train(objective, params, groups, recipe, key)
    found = shared.followed(steps, progress, f"seed {seed}, {FIRST}", config.epochs)
    return found.params, found.seconds


def vectors_of(parser: Parser, params: Any, groups: Groups, keys: Any = None) -> Groups:
    """The groups with what the encoder makes of their words as x, and one-hot heads as y.

    With keys each sentence is there once for each, seen with that key's dropout.
    """
    made_by: Any = partial(vectors, parser)

    def all_of(number, group):
        own = [None] if keys is None else [jax.random.fold_in(key, number) for key in keys]
        made = [
            parsing_data.in_chunks(partial(made_by, params), group["x"], group["mask"], key=key)
            for key in own
        ]
        width = group["heads"].shape[1]
        y = np.eye(width + 1, dtype=np.float32)[np.maximum(group["heads"], 0)]
        often = group | {"y": y}
        often = {name: np.concatenate([a] * len(own)) for name, a in often.items() if name != "x"}
        return often | {"x": np.concatenate(made)}

    made = [all_of(number, group) for number, group in enumerate(groups)]
    return Groups(made, groups.rows if keys is None else [np.arange(len(g["x"])) for g in made])


def tuned(method: Method, start: Any, groups: Groups, key: jax.Array) -> Any:
    """The training of one method from the first one's scores of arcs: a generator of its one epoch."""
    spen = spen_of(method)
    few = jax.tree.map(lambda a: jnp.asarray(a[:2]), groups[0])
    new = jax.jit(spen.init)(key, few["x"], few["y"], few["mask"])["params"]
    if method.loss == "projective":  # no likelihood over trees has those that it leaves out
        groups = parsing_data.projective(groups)
    data = Groups([{name: g[name] for name in ("x", "y", "mask")} for g in groups], groups.rows)
    recipe = training.Recipe(1, 1e-3, 1e-2, batch_size=32)
    return training.train(objective_of(method), new | start, data, recipe, key)


def judged(parser: Parser, method: Method, params: Any, groups: Groups) -> tuple[Any, list[Any]]:
    """The scores of a parser's answers, and the answers of each group."""
    how = Method(
        "", method.steps, method.terms
    )  # one program for all that differ in training alone
    run = partial(answers, parser, how, params)
    found = [parsing_data.in_chunks(run, g["x"], g["mask"]) for g in groups]
    return parsing_data.scored(groups, found), found


def row_of(
    parser: Parser, method: Method, params: Any, data: Data, seconds: float
) -> tuple[dict[str, Any], Any]:
    """Scores on development and test sentences, and the answers to the latter."""
    began = time.perf_counter()
    valid, _ = judged(parser, method, params, data.valid)
    test, found = judged(parser, method, params, data.test)
    row: dict[str, Any] = {"valid": valid, "test": test, "seconds": seconds}
    row["seconds_of_parsing"] = time.perf_counter() - began
    if method.steps:
        row["changes"] = parsing_data.changes(data.test, found)
    return row, found


def of_seed(
    config: Config, seed: int, run: Any, numbers: Numbers, data: Data, progress: Any
) -> Any:
    """(name, row, answers) of each training of a seed, one after another; writes their parameters to the folder."""
    parser = Parser(numbers.lexicon.sizes, len(numbers.relations))
    folder, words = run.folder, numbers.checksum()
    name = f"first-seed{seed}.spen"
    if config.first and (config.first / name).exists():
        params, about = training.load(config.first / name)
        if about.get("words") != words:
            shared.fail(
                f"{config.first / name} knows other words or relations than these sentences"
            )
        seconds = about["seconds"]
    else:
        params, seconds = first_training(config, seed, parser, data.train, progress)
    training.save(folder / name, params, {"seconds": seconds, "words": words})
    keys = jax.random.split(jax.random.fold_in(jax.random.key(seed), 1), max(config.more_epochs, 1))
    near = parsing_data.up_to(data.train, LONGEST_AGAIN)
    of_arcs, began = params["spen"], time.perf_counter()
    valid, test = (vectors_of(parser, params, groups) for groups in (data.valid, data.test))
    again = vectors_of(parser, params, near, keys) if config.more_epochs else near
    data = Data(again, valid, test)
    shared.say(f"seed {seed}, vectors ({time.perf_counter() - began:.0f} s)")
    yield FIRST, *row_of(parser, METHODS["head softmax"], (params, of_arcs), data, seconds)
    for chosen in config.methods if config.more_epochs else ():
        method, key = METHODS[chosen], jax.random.fold_in(jax.random.key(seed), 2)
        steps = tuned(method, of_arcs, data.train, key)
        trained = shared.followed(steps, progress, f"seed {seed}, {chosen}", 1)
        file = "".join(c if c.isalnum() else "-" for c in chosen)
        training.save(folder / f"{file}-seed{seed}.spen", trained.params)
        yield chosen, *row_of(parser, method, (params, trained.params), data, trained.seconds)


def main(config: Config) -> dict[str, Any]:
    """Train, compare, write."""
    unknown = {*config.methods} - {*METHODS}
    if unknown:
        shared.fail(f"--methods takes {', '.join(map(repr, METHODS))}, got {', '.join(unknown)}")
    run = runs.begin(config, "parsing", more_epochs=0)
    bank, numbers, data = read(config)
    rows: dict[str, list[Any]] = {}
    last: dict[str, Any] = {}
    with shared.progress_bars() as progress:
        for seed in config.seeds:
            for name, row, found in of_seed(config, seed, run, numbers, data, progress):
                rows.setdefault(name, []).append({"seed": seed} | row)
                last[name] = found
                shared.say(f"seed {seed}, {name}: {line(row)}")
                shared.write_json(run.folder / "result.json", {"rows": rows})  # so far
    draw(rows, last, bank.test, numbers, data.test, run.folder)
    return run.finish({"rows": rows, "figures": summary_of(rows)}, table(rows))


def draw(
    rows: Any, last: Any, sentences: Any, numbers: Numbers, groups: Groups, folder: Path
) -> None:
    """The figures, where an energy was trained; the sentence is one of the last seed's."""
    steps = {name: METHODS[name].steps for name in rows if name != FIRST and METHODS[name].steps}
    if not steps:
        return
    levels = {name: name for name in (FIRST, "head softmax", "tree likelihood") if name in rows}
    parsing_figures.draw_steps(rows, steps, levels, folder / "parsing-steps.png")
    name = max(steps, key=lambda name: steps[name])
    example = parsing_data.example_of(groups, last[name])
    if example is None:
        return
    row, before, after = example
    sentence = sentences[row]
    trees = {
        title: (heads, [numbers.relations.items[r] for r in relations])
        for title, (heads, relations) in {
            "the arcs' marginals": before,
            f"after {steps[name]} steps of inference": after,
        }.items()
    }
    truth = sentence.heads, sentence.relations
    parsing_figures.draw_arcs(sentence.words, trees, truth, folder / "parsing-arcs.png")


def line(row: dict[str, Any]) -> str:
    """A row's scores, in words."""
    of = row["test"]["any"]
    return (
        f"{of['unlabelled']:.2f} unlabelled, {of['labelled']:.2f} labelled, {of['whole']:.1f} whole trees "
        f"({row['seconds']:.0f} s)"
    )


def summary_of(rows):
    """{row: {score: one number a seed}} on test."""
    return {
        name: {
            f"{answer}, {score}": [each["test"][answer][score] for each in of_seeds]
            for answer, scores in of_seeds[0]["test"].items()
            for score in scores
        }
        for name, of_seeds in rows.items()
    }


def table(rows: dict[str, list[Any]]) -> Table:
    """Test scores, mean and spread over the seeds."""
    made = Table(title="test, per cent")
    for column in (
        "",
        "unlabelled",
        "labelled",
        "whole trees",
        "projective: unlabelled",
        "labelled",
        "seconds",
    ):
        made.add_column(column)
    for name, of_seeds in rows.items():
        cells = [
            shared.mean_and_spread([row["test"][answer][score] for row in of_seeds])
            for answer, score in (
                ("any", "unlabelled"),
                ("any", "labelled"),
                ("any", "whole"),
                ("projective", "unlabelled"),
                ("projective", "labelled"),
            )
        ]
        made.add_row(name, *cells, f"{np.mean([row['seconds'] for row in of_seeds]):.0f}")
    return made


if __name__ == "__main__":
    shared.run(main, Config, __doc__)

"""Dependency parsing of English web text: what do tree likelihoods, margins and a second-order energy add?

Data: the Universal Dependencies English Web Treebank, words alone: no tags are given, multiword tokens and empty nodes
are skipped, and punctuation counts. A word is known by its embedding, suffixes and characters, all learned here.

All parsers of a seed share a first training: three layers of GRUs, biaffine scores of arcs (Dozat & Manning 2017), the
head of each word by a softmax, relations of true arcs by another. Then each objective goes on from there for the same
epochs at the same rates, the head softmax itself among them, with the two lower layers held fixed. Trees are decoded
exactly, by maximum spanning trees or among those whose arcs do not cross.

    head softmax: each word's head by itself
    tree likelihood: -log P(tree), over all trees with one root (Koo et al. 2007) or those without crossing arcs
    max-margin: the best tree by score and cost must not beat the true one (Taskar et al. 2004; McDonald et al. 2005)
    second order: energies of siblings and of grandparents, of low rank; from the marginals of the arcs three steps of
        mirror descent whose mirror map is the exact marginals, unrolled; the cross-entropy of the last marginals
    the same with one step: the control, the same layers applied once without iteration

Minutes: see docs/parsing.md.
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

import spen_jax as sx
from experiments import shared
from experiments.lecture import runs
from experiments.structure import parsing_data
from experiments.structure.encoder import WordEncoder
from experiments.structure.parsing_data import Numbers
from experiments.structure.parsing_model import METHODS, Method, Parser, Whole, answers, objective_of
from spen_jax import training
from spen_jax.data import Groups, load_treebank

WIDTHS = 12, 24, 40, 60
FIRST, LONGEST = "first training", 60  # longer training sentences are left out


@dataclass(frozen=True)
class Config:
    """Train parsers of English web text and compare what their objectives and energies add."""

    seeds: tuple[int, ...] = (0,)
    """Initial weights, order of the sentences, dropout."""

    epochs: int = 8
    """Of the first training, which all parsers of a seed share."""

    more_epochs: int = 2
    """With each objective, from there; 0 for the first training alone."""

    methods: tuple[str, ...] = tuple(METHODS)
    """Which objectives."""

    sentences: int | None = None
    """How many sentences to train on, the first ones; all by default."""

    first: Path | None = None
    """Folder of an earlier run whose first trainings are taken, those of its seeds."""

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
    return bank, numbers, Data(*(numbers.groups(s, WIDTHS) for s in (train, bank.valid, bank.test)))


def initial(module: Any, group: Any, key: jax.Array) -> Any:
    """Parameters of a parser that sees such a group."""
    x, heads, mask = jax.tree.map(lambda a: jnp.asarray(a[:2]), (group["x"], group["heads"], group["mask"]))
    y = jax.nn.one_hot(heads, heads.shape[1] + 1)
    return jax.jit(module.init)(key, x, y, heads, mask)["params"]


def first_training(config: Config, seed: int, whole: Whole, data: Data, progress: Any) -> training.Trained:
    """Head softmax from scratch, all layers."""
    keys = jax.random.split(jax.random.key(seed))
    recipe = training.Recipe(config.epochs, 2.5e-3, 1e-2, batch_size=32)
    params = initial(whole, data.train[0], keys[0])
    objective = objective_of(whole, METHODS["head softmax"])
    steps = training.train(objective, params, data.train, recipe, keys[1])
    return shared.followed(steps, progress, f"seed {seed}, {FIRST}", config.epochs)


def vectors_of(whole: Whole, params: Any, groups: Groups) -> Groups:
    """The groups with what the lower layers make of their words as x, without dropout."""

    @jax.jit
    def vectors(params, x, mask):
        return whole.apply({"params": params}, x, False, mask, method="vectors")

    made = [
        g | {"x": parsing_data.in_chunks(partial(vectors, params), g["x"], g["mask"])} for g in groups
    ]
    return Groups(made, groups.rows)


def tuned(method: Method, parser: Parser, params: Any, data: Data, config: Config, key: jax.Array) -> Any:
    """The training of one method from the first one's parameters: a generator of epochs."""
    start = initial(parser, data.train[0], key) | params
    start["spen"] = initial(parser, data.train[0], key)["spen"] | params["spen"]
    recipe = training.Recipe(config.more_epochs, 1e-3, 1e-2, batch_size=32)
    return training.train(objective_of(parser, method), start, data.train, recipe, key)


def judged(parser: Parser, steps: int, params: Any, groups: Groups) -> dict[str, dict[str, float]]:
    """The scores of a parser's answers."""
    run = partial(answers, parser, steps, params)
    found = [parsing_data.in_chunks(run, g["x"], g["mask"]) for g in groups]
    return parsing_data.scored(groups, found)


def main(config: Config) -> dict[str, Any]:
    """Train, compare, write."""
    run = runs.begin(config, "parsing", epochs=1, more_epochs=0)
    _, numbers, data = read(config)
    parser = Parser(len(numbers.relations))
    whole = Whole(WordEncoder.sizes_of(numbers.lexicon), parser)
    rows: dict[str, list[Any]] = {}
    with shared.progress_bars() as progress:
        for seed in config.seeds:
            for name, row in of_seed(config, seed, run.folder, whole, data, progress):
                rows.setdefault(name, []).append({"seed": seed} | row)
                shared.say(f"seed {seed}, {name}: {line(row)}")
    result = {"rows": rows, "figures": summary_of(rows)}
    return run.finish(result, table(rows))


def line(row: dict[str, Any]) -> str:
    """A row's scores, in words."""
    of = row["test"]["any"]
    return (
        f"{of['unlabelled']:.2f} unlabelled, {of['labelled']:.2f} labelled, {of['whole']:.1f} whole trees "
        f"({row['seconds']:.0f} s)"
    )


def of_seed(config, seed, folder, whole, data, progress):
    """(name, row) of each training of a seed; parameters are written to the folder."""
    name = f"first-seed{seed}.npz"
    if config.first is None:
        found = first_training(config, seed, whole, data, progress)
        params, seconds = found.params, found.seconds
    else:
        (params, _), seconds = training.load(config.first / name), 0.0
    training.save(folder / name, params)
    near = Data(
        Groups([g for g in data.train if g["mask"].shape[1] <= 40], [r for g, r in zip(data.train, data.train.rows, strict=True) if g["mask"].shape[1] <= 40]),
        data.valid,
        data.test,
    )
    vectors = Data(*(vectors_of(whole, params, g) for g in (near.train, near.valid, near.test)))
    yield FIRST, row_of(whole.parser, 0, params["parser"], vectors, seconds)
    for number, chosen in enumerate(config.methods if config.more_epochs else ()):
        method = METHODS[chosen]
        parser = whole.parser.clone(terms=method.terms)
        key = jax.random.fold_in(jax.random.key(seed), 1 + number)
        steps = tuned(method, parser, params["parser"], vectors, config, key)
        found = shared.followed(steps, progress, f"seed {seed}, {chosen}", config.more_epochs)
        training.save(folder / f"{chosen.replace(' ', '-').replace(',', '')}-seed{seed}.npz", found.params)
        yield chosen, row_of(parser, method.steps, found.params, vectors, found.seconds)


def row_of(parser, steps, params, data, seconds):
    """Scores on development and test sentences."""
    began = time.perf_counter()
    row: dict[str, Any] = {"valid": judged(parser, steps, params, data.valid)}
    row |= {"test": judged(parser, steps, params, data.test), "seconds": seconds}
    return row | {"seconds_of_parsing": time.perf_counter() - began}


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
    for column in ("", "unlabelled", "labelled", "whole trees", "projective: unlabelled", "labelled", "seconds"):
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

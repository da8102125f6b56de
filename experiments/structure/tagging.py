"""Parts of speech of English web text: what an energy over the tags of a sentence adds to a recurrent network.

The question: 17 universal tags of UD English EWT, words, suffixes and characters embedded from scratch, read by two
bidirectional GRUs. On top each tag alone; a chain (CRF); an energy of transitions and windows of 7 tags (SPEN), whose
answer mirror descent finds from the network's own; and the same layers iterated without an energy.

Expected: that the energy adds nothing. Each state of the network has read the whole sentence, and what tags may stand
beside each other is learned from 8,000 words already.

Protocol: a network is trained by cross-entropy; each model starts from it and trains on, all parameters together, for
as many epochs at the same rate, the network alone too. So all models of a seed differ by what was added only. The rate
was looked at on the development set, with the network alone; each model had that one trial (`--rates` makes more, on
the development set). Nothing is chosen on the test set. A seed draws the sentences, the parameters and the order.
Minutes: about 9 of one core for the default; 12,544 sentences, a seed, 10.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import jax
import numpy as np
from tyro.conf import arg

from experiments import shared
from experiments.lecture import runs
from experiments.structure import tagging_analysis as analysis
from experiments.structure import tagging_figures as figures
from experiments.structure.tagging_data import Task, Tested, task, tested
from experiments.structure.tagging_files import DataDir, save, tag_file, treebank_of
from experiments.structure.tagging_models import Model, crf_of, models, predictor_of
from spen_jax.data import Treebank
from spen_jax.networks import WordEncoder
from spen_jax.training import Recipe, train

NAMES = "softmax", "crf", "spen", "tied"
RATE, DECAY, BATCH = 2e-3, 1e-4, 32
FASTER = (("pairs", 5.0),)
"""Energies of transitions start at 0 and have nats to go, in so few steps."""
TRIAL_SEED = 100


@dataclass(frozen=True)
class Config:
    """Train taggers on samples of a treebank; or, with --run, tag a file."""

    sentences: tuple[int, ...] = (500,)
    """How many training sentences; the treebank has 12,544, for which a seed takes longer."""

    seeds: tuple[int, ...] = (0, 1, 2)
    """Of the sentences drawn, the parameters, the order and dropout."""

    units: int = 96
    """Of each direction of both recurrent layers."""

    rates: tuple[float, ...] = ()
    """Only try these learning rates with each model, and show what they give on the development set."""

    treebank: Annotated[tuple[Path, ...], arg(metavar="TRAIN DEV TEST")] = ()
    """Three CoNLL-U files of your own in place of English EWT."""

    data_dir: DataDir = None
    out: Path | None = None
    """Folder to write, new or empty; runs/tagging-<date> by default."""

    quick: bool = False
    """A run of a minute on few sentences, to see that everything works; its figures mean nothing."""

    run: Path | None = None
    """Folder of a finished run whose tagger is to tag a file."""

    tag: Path | None = None
    """With --run: a CoNLL-U file, or one of a word a line; written to --out, a file, with the tags."""

    model: str = "softmax"
    """With --run: which of its models."""


class Trial(NamedTuple):
    """One sample of sentences with one seed: what was drawn, and what was trained."""

    task: Task
    models: dict[str, Model]
    params: dict[str, Any]
    base: Any  # the network before it was trained on

    @property
    def network(self) -> Any:
        """The Flax module that all models have."""
        return self.models["softmax"].network


def least_of(n: int) -> int:
    """How often a word must stand in n sentences to have a vector: in few, one look is much."""
    return 1 if n <= 4000 else 2


def epochs_of(n: int) -> tuple[int, int]:
    """Of the network, and of each model from there, for n sentences."""
    return (50, 8) if n <= 1000 else (20, 4) if n <= 4000 else (8, 2)


def trained(config: Config, drawn: Task, seed: int, rate: float, progress: Any) -> Trial:
    """The network, and from there each model at this rate."""
    n = len(drawn.sentences)
    encoder = WordEncoder(drawn.lexicon.sizes, config.units, word_dropout=0.2 / least_of(n))
    built = models(encoder, len(drawn.tags))
    first, further = (1, 1) if config.quick else epochs_of(n)
    init_key, base_key, model_key = jax.random.split(jax.random.key(seed), 3)
    alone, batch = built["softmax"], drawn.train[0]

    def on(what, start, epochs, rate, key, objective):
        recipe = Recipe(epochs, rate, DECAY, BATCH, rates=FASTER)
        training = train(objective, start, drawn.train, recipe, key)
        title = f"{n} sentences, seed {seed}: {what}"
        return shared.followed(training, progress, title, epochs).params

    start = alone.init(init_key, batch)
    base = on("the network", start, first, RATE, base_key, alone.objective)
    params = {}
    for name in NAMES:
        model = built[name]
        start = model.on(base, init_key, batch)
        params[name] = on(model.title, start, further, rate, model_key, model.objective)
    return Trial(drawn, built, params, base)


def measured(trial: Trial, on: Tested) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The measures of each model and of the network before, and the tags of each model."""
    alone = trial.models["softmax"].answer
    answers = {name: (trial.models[name].answer, params) for name, params in trial.params.items()}
    tags = {name: on.tags(*of) for name, of in {"before": (alone, trial.base), **answers}.items()}
    return {name: on.measures(of) for name, of in tags.items()}, tags


def looked_into(trial: Trial, test: Tested, tags: dict[str, Any], bank: Treebank) -> dict[str, Any]:
    """What inference changes step by step, which errors are left, and what the energy knows."""
    names, network = trial.task.tags.items, trial.network
    told = {
        name: analysis.told(predictor, trial.params[name], test)
        for name, predictor in {"crf": crf_of(network), "spen": predictor_of(network)}.items()
    }
    steps = analysis.steps_of(predictor_of(network, ("y",)), trial.params["spen"], test)
    seen = {
        t for s in trial.task.sentences for t in analysis.in_threes(trial.task.tags.ids(s.tags))
    }
    answers = {**tags, "truth": test.truth}
    words = [s.words for s in bank.test]
    return {
        "steps": analysis.changes(steps, test),
        "examples": analysis.examples(steps, test, words, names, 12),
        "confusions": analysis.confusions(tags["softmax"], test, names),
        "threes_not_seen": {n: analysis.strange(a, test.mask, seen) for n, a in answers.items()},
        "neighbours_told": {n: analysis.at_asked(a, test) for n, a in told.items()},
        "neighbours_found": {n: analysis.at_asked(a, test) for n, a in tags.items()},
        "transitions": np.asarray(trial.params["crf"]["pairs"]["A"]),
    }


def tune(config: Config, bank: Treebank) -> dict[str, Any]:
    """Each model from one network at each rate: tokens right on the development set, in per cent."""
    run = runs.begin(config, "tagging-rates", units=1)
    found: dict[str, dict[str, float]] = {}
    with shared.progress_bars() as progress:
        for n in config.sentences:
            drawn = task(bank, n, TRIAL_SEED, least_of(n))
            for rate in config.rates:
                trial = trained(config, drawn, TRIAL_SEED, rate, progress)
                for name, of in measured(trial, drawn.valid)[0].items():
                    found.setdefault(f"{n}: {name}", {})[f"{rate:g}"] = of["tokens"]
    table = runs.summary("Tokens right on the development set, %, by learning rate", found)
    return run.finish({"rates": found, "seed": TRIAL_SEED}, table)


def main(config: Config) -> dict[str, Any] | None:
    """Run the experiment, write its folder and return the result; or tag a file."""
    if config.run or config.tag:
        return tag_file(config.run, config.model, config.tag, config.out)
    bank = treebank_of(config.treebank, config.data_dir, config.quick)
    if config.rates:
        return tune(config, bank)
    run = runs.begin(config, "tagging", units=1)
    found, insides = {}, {}
    with shared.progress_bars() as progress:
        for n in (100,) if config.quick else config.sentences:
            each = []
            for seed in config.seeds:
                drawn = task(bank, n, seed, least_of(n))
                trial = trained(config, drawn, seed, RATE, progress)
                test = tested(bank.test, drawn.sentences, drawn.lexicon, drawn.tags)
                measures, tags = measured(trial, test)
                each.append(measures)
                if seed == config.seeds[0]:
                    insides[str(n)] = looked_into(trial, test, tags, bank)
                    save(run.folder, trial, n, config.units)
            found[str(n)] = by_model(each)
            shared.console.print(figures.table(n, found[str(n)]))
    result = {
        "percent": found,
        "insides": insides,
        "tags": drawn.tags.items,
        "seeds": config.seeds,
        "quick": config.quick,
        "data": {"name": bank.name, "checksums": bank.checksums},
    }
    figures.draw(result, [drawn.tags.ids(s.tags) for s in drawn.sentences], run.folder)
    return run.finish(result, *figures.report(result))


def by_model(each: list[dict[str, dict[str, float]]]) -> dict[str, dict[str, list[float]]]:
    """{model: {measure: a value of each seed}}."""
    return {
        name: {m: [one[name][m] for one in each] for m in measures}
        for name, measures in each[0].items()
    }


if __name__ == "__main__":
    shared.run(main, Config, __doc__)

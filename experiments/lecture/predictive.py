"""What comes next? Contrastive predictive coding of handwritten words, letter image by letter image.

The question: a context of letter images 1 to t; which of 1,000 letter images is the next one? An encoder, a one-way
recurrent network and W_k learn it without any label, from the other letters of a batch as negatives
(`energies.PredictiveCoding`). How much is the context, how much the last letter alone, how much the training words?

Expected: van den Oord, Li & Vinyals (2018) have no figures for such data. Chance, canonical correlation of consecutive
images (CCA), and pairs of letters counted with their labels are the yardsticks.

Protocol: 6,877 words, 55 different ones, all of them in each of ten folds: held-out folds are no new words. So three
seeds, each with other words: 32 to learn from (folds 1 to 9), 8 others to choose by, and 15 never seen for the test;
beside it "known", fold 0 of the words learnt from. With "English" 8,192 strings are learnt from, too: English words
(of the treebank EWT) without the data's 55, each letter an image of it, drawn at random, of the words to learn from. A
query is a place of a word with one more letter (for "two ahead" two); the gallery are the images there of 1,000
queries, drawn by seed. Right at k: the true image, of this very writer and word, is among the k of lowest energy;
*letter*: the image of lowest energy shows the right letter. The number of steps, and CCA's numbers of components and
singular vectors, are those of the highest right at 5 on the words to choose by; the rate was narrowed down on those of
seed 0. All methods are judged alike. "last letter only" is the same module, whose contexts begin anew at every letter;
"energy loss" has no negatives; "counted" answers with the letter that followed the last one most often in what is
learnt from, the true letters given. *Spread* is that of the codes of unit length, over what it was before training.
*Probe*: a logistic regression of the letter from the code, learnt from 3,000 letters of the words to learn from and
tested on 3,000 of the words never seen.
Minutes: 3 of one core.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import sklearn

import spen_jax as sx
from experiments import shared
from experiments.lecture import predictive_figures, runs
from experiments.lecture import predictive_models as models
from experiments.lecture.predictive_models import METHODS, Queries, Trial, Words
from experiments.lecture.views import right_at, together
from experiments.structure import words_unseen

QUERIES, STRINGS = 1000, 8192
TESTS = "known", "unseen"
SHOWN = "words and English"
PROBED = "words", SHOWN, "words, energy loss"


@dataclass(frozen=True)
class Config:
    """Contrastive predictive coding of handwritten words."""

    seeds: tuple[int, ...] = (0, 1, 2)  # Words, initial weights, batches and queries.
    steps: int = 1200  # Training steps at most.
    data_dir: Path | None = None  # Folder of the data sets.
    out: Path | None = None  # Folder to write, new or empty; runs/predictive-<date> by default.


def parts(letters: sx.data.Letters, seed: int) -> dict[str, Words]:
    """Words to learn from, to choose by, "known" and "unseen" ones for the test."""
    words, texts = words_unseen.drawn(letters.words, seed), np.array(letters.words)
    first = letters.folds == 0
    rows = {
        "train": np.isin(texts, words.learnt) & ~first,
        "valid": np.isin(texts, words.held),
        "known": np.isin(texts, words.learnt) & first,
        "unseen": np.isin(texts, words.unseen),
    }
    return {name: Words(*(a[r] for a in letters[:3])) for name, r in rows.items()}


def spelled(letters: sx.data.Letters, other: list[str], seed: int) -> Words:
    """English words, none of them the data's, in images of the letters to learn from."""
    words, rng = words_unseen.drawn(letters.words, seed), np.random.default_rng(seed)
    rows = np.isin(letters.words, words.learnt) & (letters.folds > 0)
    images = words_unseen.only(letters, np.flatnonzero(rows))
    y = words_unseen.strings("english", STRINGS, images, other, rng)
    return Words(*words_unseen.written(y, images, rng)[:3])


def queries(words: Words, seed: int, ahead: int = 1) -> Queries:
    """Places with so many letters after them, at random."""
    row, column = np.nonzero(words.mask[:, ahead:])
    some = np.random.default_rng(seed).permutation(len(row))[:QUERIES]
    return Queries(words, row[some], column[some], ahead)


def best(trials: Iterator[Trial], held: Queries) -> Trial:
    """The one that finds most of the words to choose by."""
    own, most = np.eye(len(held.row), dtype=bool), None
    for trial in trials:
        found = right_at(trial.energies(held), own, 5)
        if most is None or found > most.tried["validation"]:
            most = trial._replace(tried=trial.tried | {"validation": found})
    assert most is not None
    return most


def hits(E: np.ndarray, of: Queries) -> np.ndarray:
    """Whether the image of lowest energy shows the right letter, (Q,)."""
    return of.letters[np.argmin(E, axis=1)] == of.letters


def measured(E: np.ndarray, of: Queries) -> dict[str, float]:
    """Per cent right at 1 and at 5, and of letters."""
    own = np.eye(len(E), dtype=bool)
    right = 100 * float(np.mean(hits(E, of)))
    return {"at 1": right_at(E, own, 1), "at 5": right_at(E, own, 5), "letter": right}


def chance(of: Queries) -> dict[str, float]:
    """Of an image drawn from the gallery."""
    share = np.bincount(of.letters) / len(of.letters)
    at = {f"at {k}": 100 * k / len(of.letters) for k in (1, 5)}
    return at | {"letter": 100 * float(np.sum(share**2))}


def counted(words: Words, of: Queries) -> dict[str, float]:
    """The letter that followed the last one most often, by labels."""
    both, counts = words.mask[:, 1:], np.zeros((26, 26))
    np.add.at(counts, (words.y[:, :-1][both], words.y[:, 1:][both]), 1)
    answer = np.argmax(counts + 1e-6 * counts.sum(0)[None], axis=1)
    return {"letter": 100 * float(np.mean(answer[of.words.y[of.row, of.column]] == of.letters))}


class Outcome(NamedTuple):
    """Of a seed: {row: figures}, {row: letters right, (Q,)} by part, and energies of unseen words for the picture."""

    figures: dict[str, dict[str, Any]]
    hits: dict[str, dict[str, np.ndarray]]
    queries: dict[str, Queries]
    energies: np.ndarray


def named(part: str, figures: dict[str, float]) -> dict[str, float]:
    """With the part before each name."""
    return {f"{part}: {name}": value for name, value in figures.items()}


def run_seed(letters: sx.data.Letters, other: list[str], seed: int, steps: int) -> Outcome:
    """All methods with the words of a seed, and other English ones."""
    of = parts(letters, seed)
    first = of["train"]
    english = spelled(letters, other, seed)
    every = Words(*(np.concatenate(p) for p in zip(first, english, strict=True)))
    asked = {part: queries(of[part], seed) for part in ("valid", *TESTS)}
    later = {part: queries(of[part], seed, 2) for part in TESTS}
    figures: dict[str, dict[str, Any]] = {name: {} for name in ("chance", "counted")}
    figures["counted, with English"], trained = {}, {}
    for part in TESTS:
        figures["chance"] |= named(part, chance(asked[part]))
        figures["counted"] |= named(part, counted(first, asked[part]))
        figures["counted, with English"] |= named(part, counted(every, asked[part]))
    trials = {"CCA": models.correlations(first)}
    trials["untrained"] = iter(
        [Trial({}, partial(models.matrix, models.parameters(seed), recurrent=True))]
    )
    for name, method in METHODS.items():
        trials[name] = models.codings(method, every if method.english else first, seed, steps)
    right: dict[str, dict[str, np.ndarray]] = {part: {} for part in TESTS}
    kept = np.zeros(())
    for name, each in trials.items():
        chosen, figures[name] = best(each, asked["valid"]), {}
        for part in TESTS:
            E = chosen.energies(asked[part])
            figures[name] |= named(part, measured(E, asked[part]))
            right[part][name] = hits(E, asked[part])
            kept = E if (name, part) == (SHOWN, "unseen") else kept
            if name in ("words", SHOWN):
                two = f"{name}, two ahead"
                figures.setdefault(two, {})
                figures[two] |= named(part, measured(chosen.energies(later[part]), later[part]))
        figures[name]["chosen"] = chosen.tried
        trained |= {name: chosen.params} if chosen.params is not None else {}
    add_codes(figures, trained, of, seed)
    return Outcome(figures, right, asked, kept)


def add_codes(figures: dict, trained: dict[str, Any], of: dict[str, Words], seed: int) -> None:
    """Spread of codes and what a probe reads from them."""
    before, test = models.parameters(seed), of["unseen"]
    some = np.arange(int(test.mask.sum()))[: models.LETTERS]
    start = models.unit_codes(before, test, some).std(0).mean()
    for name, params in trained.items():
        spread = float(models.unit_codes(params, test, some).std(0).mean() / start)
        figures[name]["spread"] = spread
    chosen = {"untrained": before} | {name: trained[name] for name in PROBED}
    for name, right in models.probes(chosen, of["train"], test, seed).items():
        figures.setdefault(name, {})["probe"] = right


def main(config: Config) -> dict:
    """Run the experiment, write its folder and return the result."""
    run = runs.begin(config, "predictive", steps=1)
    try:
        letters = sx.data.load_letters(config.data_dir)
        other = words_unseen.english(letters, config.data_dir)
    except (OSError, sx.data.DataError, sx.data.DownloadError) as error:
        shared.fail(str(error))
    seeds = runs.tracked([(f"seed {seed}",) for seed in config.seeds])
    each = [
        run_seed(letters, other, seed, config.steps)
        for _, seed in zip(seeds, config.seeds, strict=True)
    ]
    result = together([of.figures for of in each])
    predictive_figures.draw(each, run.folder / "predictive.png")
    columns = [f"{part}: {name}" for part in TESTS for name in ("at 1", "at 5", "letter")]
    title = "right in per cent, mean ± spread over seeds"
    table = runs.summary(title, result, [*columns, "spread", "probe"])
    return run.finish({"methods": result}, table, **{"scikit-learn": sklearn.__version__})


if __name__ == "__main__":
    shared.run(main, Config, __doc__, all_cores=False)

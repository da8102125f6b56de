"""The lecture's latent segmentation: words are learned from strips of letters whose borders nobody tells.

The question: E(word, x) is the least over all cuts of a strip x into segments, or the free energy, of the sum of the
energies of "columns a to b are letter k". Trained from words alone, by which losses does it learn to read, with and
without a lexicon, and does it find the borders? How far is it from being told them?

Expected: no figures are published. Measured, letters wrong without a lexicon (edit distance over true letters), and
words right with one, %: likelihood 26.8, 95.3; perceptron and MCE from random weights collapse; after half of the steps
by likelihood (34.7) the perceptron has 35.2, 93.0 and MCE 33.8, 91.8; told the true cuts 18.8, 97.9; equal parts 40.0,
92.5.

Protocol: the OCR letters, words of 3 to 6 letters (2,619). Each letter is cut to the columns of its ink, and w columns
become round(u w), u even in 0.6 to 1, by averages; it stands -1, 0 or 1 columns after the one before it, an overlap
being the darker of the two; segments have 1 to 9 columns. Fold 8 tests, fold 9 validates, the
others train, each word drawn four times. The best wrong answer of MCE is exactly that of all other
strings of letters, with any cuts: the k best answers mostly spell one word by other cuts, and wrong words of a lexicon
alone would teach nothing about reading without one. Steps of 16 strips by Adam, a falling cosine; each method tries two
rates, and the first seed's validation strips choose by letters wrong; MCE's inverse temperature, 1, was not tuned.
Likelihood and letters take the higher rate of two, what follows it the lower. The network and the drawings were settled
after looks at 200 strips of fold 9, by likelihood and true cuts. All folds have all 55 words.
A cut is right within a pixel of a true border, where letters overlap or leave a gap of either side of it; F1 of cuts
found and true. The spread of energies is their standard deviation over what it was where the loss began.
Minutes: 8 on one core, of which one is compilation.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import shared
from experiments.lecture import handwriting_figures as figures
from experiments.lecture import runs
from experiments.lecture.handwriting_energies import (
    between,
    every,
    first_params,
    of_lexicon,
    of_others,
    of_word,
    table,
)
from experiments.lecture.handwriting_strips import (
    LONGEST,
    Strips,
    equal_cuts,
    error_rate,
    lexicon,
    near,
    read,
    reading,
    spelled,
    strips,
)
from spen_jax import data, exact, losses, training

BATCH, DRAWINGS, EARLY = 16, 4, 20
"""Strips a step, drawings of each training word, steps of the early picture."""
READ = "letters_wrong", "words_right", "lexicon", "lexicon_free"
CUT = "cuts", "cuts_of_the_word", "spread"
VALID, TEST = 9, 8
"""The folds that validate and test; the eight others train."""
RATES, AFTER, FIRST = (0.003, 0.01), (0.001, 0.003), 0.01
"""Tried from random weights, and after that of likelihood."""


@dataclass(frozen=True)
class Config:
    """Read strips of letters that are not segmented."""

    seeds: tuple[int, ...] = (0, 1, 2)
    """Fold that validates, drawings of strips, first weights, batches; the first one chooses the trial."""

    steps: int = 800
    """Training steps."""

    longest: int = 6
    """Letters of the longest word of a strip; the lexicon has all words."""

    out: Path | None = None
    """Folder to write, new or empty; runs/handwriting-<date> by default."""


class Batch(NamedTuple):
    """Strips (B, 16, T), their columns (B,), words (B, n), and cuts (B, n + 1): true ones, or equal parts."""

    image: jax.Array
    width: jax.Array
    word: jax.Array
    cuts: jax.Array


def likelihood(params: Any, seen: Batch) -> jax.Array:
    """-log P(word): its free energy, over its cuts, less that of all cuts and letters."""
    energies = table(params, seen.image)
    free = of_word(energies, seen.width, seen.word).free_energy()
    return free - every(energies, seen.width).free_energy()


def perceptron(params: Any, seen: Batch) -> jax.Array:
    """The least energy of the word's cuts less that of all cuts and letters."""
    energies = table(params, seen.image)
    least = of_word(energies, seen.width, seen.word).free_energy(jnp.inf)
    return least - every(energies, seen.width).free_energy(jnp.inf)


def mce(params: Any, seen: Batch) -> jax.Array:
    """The sigmoid of the word's least energy less that of all other strings of letters."""
    energies = table(params, seen.image)
    least = of_word(energies, seen.width, seen.word).free_energy(jnp.inf)
    wrong = of_others(energies, seen.width, seen.word).free_energy(jnp.inf)
    return losses.mce(least, wrong)


def letters(params: Any, seen: Batch) -> jax.Array:
    """-log P of the letters, each given its segment."""
    counts = seen.word >= 0
    each = surprise(params, seen.image, seen.cuts)
    own = jnp.take_along_axis(each, jnp.maximum(seen.word, 0)[..., None], -1)[..., 0]
    return jnp.sum(jnp.where(counts, own, 0), -1)


def surprise(params: Any, image: Any, cuts: Any) -> jax.Array:
    """-log P(letter | segment) of given segments, (B, n, 26)."""
    return -exact.log_probabilities(between(params, image, cuts))


class Method(NamedTuple):
    """A loss of each strip, whether half of the steps before are the likelihood's, and which cuts it is given."""

    loss: Callable[[Any, Batch], jax.Array]
    after: bool = False
    cuts: str = "latent"


METHODS = {
    "likelihood": Method(likelihood),
    "perceptron": Method(perceptron),
    "MCE": Method(mce),
    "likelihood, then perceptron": Method(perceptron, after=True),
    "likelihood, then MCE": Method(mce, after=True),
    "true cuts": Method(letters, cuts="true"),
    "equal parts": Method(letters, cuts="equal"),
}

MORE = {
    "likelihood, half of the steps": ("likelihood, then MCE", 0, False),
    "true cuts, none at test": ("true cuts", -1, True),
}
"""Rows of the parameters of others: whose, when, and whether their energies are -log P(letter | segment)."""


@partial(jax.jit, static_argnames=("loss", "steps"))
def train(loss: Any, rate: Any, first: Any, given: Batch, key: Any, steps: int) -> Any:
    """Parameters after no step, after a few and after all, (3, ...), from `first`; and the loss of each step."""

    def objective(params, t, _):
        rows = jax.random.randint(jax.random.fold_in(key, t), (BATCH,), 0, len(given.width))
        value = jnp.mean(loss(params, Batch(*(a[rows] for a in given))))
        return value, {"loss": value}

    optimizer = optax.adam(optax.cosine_decay_schedule(rate, steps))
    state = training.init(first, optimizer, key)
    at = 0, min(EARLY, steps), steps
    _, metrics, params = training.scan(objective, optimizer, state, jnp.arange(steps), at=at)
    return params, metrics["loss"]


@partial(jax.jit, static_argnames="normalised")
def free_answers(params: Any, image: Any, width: Any, normalised: bool = False) -> jax.Array:
    """The letter where each segment of the best answer begins, -1 elsewhere, (N, T).

    Normalised: of the energies -log P(letter | segment).
    """

    def one(given):
        energies = table(params, given[0][None])[0]
        energies = -exact.log_probabilities(energies) if normalised else energies
        return every(energies, given[1]).best().y

    return jax.lax.map(one, (image, width), batch_size=16)


@jax.jit
def cuts_of_words(params: Any, image: Any, width: Any, word: Any) -> jax.Array:
    """Where the letters of the right word begin in its best cuts: their places, -1 elsewhere, (N, T)."""

    def one(given):
        return of_word(table(params, given[0][None])[0], *given[1:]).best().y

    return jax.lax.map(one, (image, width, word), batch_size=16)


@partial(jax.jit, static_argnames="beta")
def lexicon_energies(params: Any, image: Any, width: Any, words: Any, beta: float) -> jax.Array:
    """The free energy of each word, at infinity the least energy, (N, V)."""

    def some(given):
        return of_lexicon(table(params, given[0][None]), given[1][None], words, beta)[0]

    return jax.lax.map(some, (image, width), batch_size=8)


def answers(name: str, params: Any, seen: Strips, wide: float) -> tuple[Any, Any]:
    """Letters and cuts found without a lexicon; `wide` is the mean width of a letter, for equal parts."""
    kind = METHODS[name].cuts
    if kind == "latent":
        return read(free_answers(params, seen.image, seen.width))
    most, count, cuts = seen.word.shape[1], seen.letters, seen.cuts
    if kind == "equal":
        count = np.clip(np.rint(seen.width / wide), 1, most).astype(int)
        cuts = equal_cuts(seen.width, count, most)
    found = np.argmin(surprise(params, seen.image, cuts), -1)
    pairs = list(zip(found, cuts, count, strict=True))
    return [[*map(int, w[:n])] for w, _, n in pairs], [c[1:n] for _, c, n in pairs]


def by_lexicon(name: str, params: Any, seen: Strips, words: np.ndarray, beta: float) -> np.ndarray:
    """The index of the word of the least free energy, (N,); of given cuts among words of as many letters."""
    kind, size = METHODS[name].cuts, np.sum(words >= 0, axis=1)
    if kind == "latent":
        return np.argmin(lexicon_energies(params, seen.image, seen.width, words, beta), axis=1)
    energy = np.full((len(seen.width), len(words)), np.inf)
    for n in np.unique(size):
        parts = np.full(len(seen.width), n)
        cuts = seen.cuts if kind == "true" else equal_cuts(seen.width, parts, n)
        fits = seen.letters == n if kind == "true" else seen.width <= n * LONGEST
        each = np.asarray(surprise(params, seen.image, cuts))[:, :n]
        if each.shape[1] == n:
            own = each[:, np.arange(n), words[size == n][:, :n]]
            energy[:, size == n] = np.where(fits[:, None], own.sum(-1), np.inf)
    return np.argmin(energy, axis=1)


def at(params: Any, i: int) -> Any:
    """The parameters at one of the three times that `train` keeps."""
    return jax.tree.map(lambda p: p[i], params)


def measure(name: str, params: Any, seen: Strips, words: np.ndarray, wide: float) -> dict:
    """What one seed's training found on test strips, as shares; `params` before, early and after."""
    before, after = at(params, 0), at(params, -1)
    known = {tuple(w): i for i, w in enumerate(spelled(words))}
    right = np.array([known[tuple(w)] for w in seen.words])
    result = reading(*answers(name, after, seen, wide), seen)
    result["lexicon"] = np.mean(by_lexicon(name, after, seen, words, np.inf) == right)
    if METHODS[name].cuts == "latent":
        given = read(cuts_of_words(after, seen.image, seen.width, seen.word))[1]
        ends, begins = (np.std(table(p, seen.image[:50])) for p in (after, before))
        result |= {
            "lexicon_free": np.mean(by_lexicon(name, after, seen, words, 1.0) == right),
            "cuts_of_the_word": near(given, seen),
            "spread": ends / begins,
        }
    return result


def run_seed(seed: int, letters_of: data.Letters, config: Config, chosen: dict) -> tuple:
    """Train all methods, by the `chosen` trials, which are found by validation strips where there are none yet."""
    drawn = [strips(letters_of, config.longest, (seed, i)) for i in range(DRAWINGS)]
    steps = max(int(np.max(d.width)) for d in drawn)
    drawn = [d._replace(image=d.image[:, :, :steps]) for d in drawn]
    valid, test = (drawn[0].of(drawn[0].fold == fold) for fold in (VALID, TEST))
    learned = [d.of(~np.isin(d.fold, (VALID, TEST))) for d in drawn]
    learned = Strips(*(np.concatenate(parts) for parts in zip(*learned, strict=True)))
    wide = np.sum(learned.width) / np.sum(learned.letters)
    cuts = {"true": learned.cuts}
    cuts["equal"] = equal_cuts(learned.width, learned.letters, config.longest)
    key, words = jax.random.key(seed), lexicon(letters_of)
    found, losses_of, halfway = {}, {}, None
    for (name,) in runs.tracked([(name,) for name in METHODS]):
        method = METHODS[name]
        own = learned.image, learned.width, learned.word, cuts.get(method.cuts, learned.cuts)
        given, first, steps, tried = (
            Batch(*map(jnp.asarray, own)),
            first_params(key),
            config.steps,
            [],
        )
        if method.after:
            steps -= config.steps // 2
            halfway = halfway or train(likelihood, FIRST, first, given, key, config.steps // 2)
            first = at(halfway[0], -1)
        for rate in [chosen[name]] if name in chosen else AFTER if method.after else RATES:
            params, loss = train(method.loss, rate, first, given, key, steps)
            wrong = error_rate(answers(name, at(params, -1), valid, wide)[0], valid.words)
            tried.append((wrong, rate, params, loss))
        _, chosen[name], found[name], losses_of[name] = min(tried, key=lambda each: each[0])
    measured = {n: measure(n, params, test, words, wide) for n, params in found.items()}
    for row, (name, when, normalised) in MORE.items():
        if name in found:
            y = free_answers(at(found[name], when), test.image, test.width, normalised)
            measured[row] = reading(*read(y), test)
    measured = {
        name: {what: 100 * float(value) for what, value in of.items()}
        for name, of in measured.items()
    }
    return measured, found, losses_of, test


def main(config: Config) -> dict:
    """Run the experiment, write its folder and return the result."""
    run = runs.begin(config, "handwriting", steps=2, longest=3)
    letters_of, chosen = data.load_letters(), {}
    of_seeds = [run_seed(seed, letters_of, config, chosen) for seed in config.seeds]
    measured = [of[0] for of in of_seeds]
    rows = {
        name: {what: [m[name][what] for m in measured] for what in of}
        for name, of in measured[0].items()
    }
    _, found, losses_of, test = of_seeds[0]
    result = {
        "test": rows,
        "rates": chosen,
        "last_losses": {name: np.mean(loss[-50:]) for name, loss in losses_of.items()},
        "test_strips": len(test.width),
        "data": letters_of.checksums,
    }
    figures.draw_graph(found["likelihood"], test, letters_of.alphabet, run.folder / "graph.png")
    figures.draw_cuts(found["likelihood"], test, letters_of.alphabet, run.folder / "cuts.png")
    read_well = runs.summary("Read, % of test strips", rows, READ)
    return run.finish(result, read_well, runs.summary("Cuts and spread of energies, %", rows, CUT))


if __name__ == "__main__":
    shared.run(main, Config, __doc__, all_cores=False)

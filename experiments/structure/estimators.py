"""The tagger by its default settings: handwritten words from plain pixels, parts of speech from plain words.

The question: does `SPENSequenceTagger`, with nothing tuned, read better than what one would take instead? Words: the
128 pixels of each letter, one fold to learn from and nine to test, beside the same perceptron of a letter alone and a
chain CRF of it, which have its dropout, rate, epochs and batches, and train on the words that it holds out as well.
Tags: the words of UD English EWT, beside sklearn-crfsuite with the features of its tutorial and 0.1 for both of its
penalties, and beside the tagger on those same features.

Expected: of words that it wins by far, since windows of letters know the 55 words of the data
(docs/results/words.md); of tags that two recurrent layers win over hand-made features, not the energy
(docs/results/tagging.md).

Protocol: nothing is chosen on what is tested; each model has one trial a seed. A seed draws the sentences, the
parameters, the order and what is held out. Minutes of one core: a seed of words 3, of 2,000 sentences 5.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
from flax import linen as nn

import spen_jax as sx
from experiments import shared
from experiments.lecture import runs
from experiments.structure import words_models, words_protocol
from spen_jax.data import Letters, Sentence, Treebank
from spen_jax.estimators import SPENSequenceTagger

UNITS, DROPOUT, RATE, EPOCHS = 256, 0.5, 0.004, 40
"""The tagger's defaults for vectors, which the models beside it are given."""
Found = dict[str, dict[str, list[float]]]


@dataclass(frozen=True)
class Config:
    """Fit the tagger and what one would take instead."""

    what: tuple[Literal["words", "tags"], ...] = ("words", "tags")
    """Which data."""

    seeds: tuple[int, ...] = (0, 1, 2)
    """Of the sentences drawn, the parameters, the order and dropout."""

    sentences: int = 2000
    """How many training sentences; the treebank has 12,544."""

    features: bool = False
    """Whether the tagger is also fitted to the CRF's features."""

    data_dir: Path | None = None
    """Folder that holds the data sets; else SPEN_JAX_DATA, else the cache."""

    out: Path | None = None
    """Folder to write, new or empty; runs/estimators-<date> by default."""

    quick: bool = False
    """One pass over few examples, to see that everything works; its figures mean nothing."""


class Pixels(nn.Module):
    """s_t = V relu(W x_t + b) + c, the tagger's own network of a vector."""

    def setup(self):
        """Its layers."""
        self.first = nn.Dense(UNITS)
        self.output = nn.Dense(words_models.LETTERS)
        self.drop_pixels, self.drop = nn.Dropout(DROPOUT / 2), nn.Dropout(DROPOUT)

    def hidden(self, x: Any, train: bool = False, mask: Any = None) -> jax.Array:
        """(B, T, 128) -> (B, T, 256)."""
        h = nn.relu(self.first(self.drop_pixels(x, deterministic=not train)))
        return self.drop(h, deterministic=not train)

    def __call__(self, x: Any, train: bool = False, mask: Any = None) -> jax.Array:
        """The logits, (B, T, K)."""
        return self.output(self.hidden(x, train))


def fitted(model: Any, train: tuple[Any, Any], test: tuple[Any, Any]) -> dict[str, float]:
    """Places and whole sequences right, in per cent, and the seconds of `fit`."""
    began = time.perf_counter()
    model.fit(*train)
    seconds = time.perf_counter() - began
    answers = [list(labels) for labels in model.predict(test[0])]
    right = [
        a == b
        for one, truth in zip(answers, test[1], strict=True)
        for a, b in zip(one, truth, strict=True)
    ]
    whole = [one == truth for one, truth in zip(answers, test[1], strict=True)]
    return {
        "places": 100 * float(np.mean(right)),
        "whole": 100 * float(np.mean(whole)),
        "seconds": seconds,
    }


def noted(found: Found, name: str, measures: dict[str, float]) -> None:
    """Adds the measures of a seed."""
    for what, value in measures.items():
        found.setdefault(name, {}).setdefault(what, []).append(value)
    shared.say(f"{name}: " + ", ".join(f"{value:.1f} {what}" for what, value in measures.items()))


def sequences(letters: Letters, rows: np.ndarray) -> tuple[list[Any], list[Any]]:
    """X and y of those words, as an estimator takes them."""
    alphabet = np.array(letters.alphabet)
    given = [(letters.x[i][letters.mask[i]], letters.y[i][letters.mask[i]]) for i in rows]
    return [x for x, _ in given], [alphabet[y].tolist() for _, y in given]


def words(config: Config, letters: Letters) -> Found:
    """Words of nine folds, after training on fold 1."""
    few = slice(40) if config.quick else slice(None)
    learnt, tested = (
        np.flatnonzero(rows)[few] for rows in (letters.folds == 1, letters.folds != 1)
    )
    epochs = 1 if config.quick else EPOCHS
    x = letters.x[learnt][letters.mask[learnt]]
    spread = np.where(x.std(axis=0) > 0, x.std(axis=0), 1)
    scaled = letters._replace(x=(letters.x - x.mean(axis=0)) / spread * letters.mask[..., None])
    groups = [words_protocol.grouped(scaled, rows) for rows in (learnt, tested)]
    beside = (
        words_models.feed_forward("perceptron, each letter alone", Pixels(), RATE),
        words_models.chain("chain CRF of the perceptron", Pixels(), RATE),
    )
    found: Found = {}
    for seed in config.seeds:
        for one in beside:
            began = time.perf_counter()
            params = words_protocol.trained(one, groups[0], epochs, seed, None)
            seconds = time.perf_counter() - began
            right = words_protocol.judged(one, params, groups[1])
            noted(
                found,
                one.title,
                {"places": right.letters, "whole": right.words, "seconds": seconds},
            )
        tagger = SPENSequenceTagger(random_state=seed, epochs=1 if config.quick else None)
        measures = fitted(tagger, sequences(letters, learnt), sequences(letters, tested))
        noted(found, "SPENSequenceTagger", measures)
    return found


def features_of(sentence: Sequence[str]) -> list[dict[str, Any]]:
    """Those of sklearn-crfsuite's tutorial, without parts of speech, which are what is asked for."""
    features = []
    for i, word in enumerate(sentence):
        of: dict[str, Any] = {"bias": 1.0, "word[-3:]": word[-3:], "word[-2:]": word[-2:]}
        of |= {"word.isdigit()": word.isdigit(), "BOS": i == 0, "EOS": i == len(sentence) - 1}
        for name, at in (("", i), ("-1:", i - 1), ("+1:", i + 1)):
            if 0 <= at < len(sentence):
                other = sentence[at]
                of[f"{name}word.lower()"] = other.lower()
                of |= {
                    f"{name}word.istitle()": other.istitle(),
                    f"{name}word.isupper()": other.isupper(),
                }
        features.append(of)
    return features


def crf() -> Any:
    """The CRF by its tutorial's settings."""
    try:
        import sklearn_crfsuite
    except ImportError:
        shared.fail("the tags need sklearn-crfsuite beside them: pip install sklearn-crfsuite")
    return sklearn_crfsuite.CRF(
        "lbfgs", c1=0.1, c2=0.1, max_iterations=100, all_possible_transitions=True
    )


def tags(config: Config, bank: Treebank) -> Found:
    """Tags of the test sentences, after training on a sample of the others."""
    n = 30 if config.quick else config.sentences
    test = bank.test[:30] if config.quick else bank.test

    def given(sentences: Sequence[Sentence], of: Callable[..., Any]) -> tuple[list[Any], list[Any]]:
        return [of(s.words) for s in sentences], [list(s.tags) for s in sentences]

    found: Found = {}
    for seed in config.seeds:
        order = np.random.default_rng(seed).permutation(len(bank.train))[:n]
        train = [bank.train[i] for i in order]
        tagger = SPENSequenceTagger(random_state=seed, epochs=1 if config.quick else None)
        chosen = [
            ("sklearn-crfsuite", crf(), features_of),
            ("SPENSequenceTagger, words", tagger, list),
        ]
        if config.features:
            chosen.append(("SPENSequenceTagger, features", tagger, features_of))
        for name, model, of in chosen:
            noted(found, name, fitted(model, given(train, of), given(test, of)))
    return found


def main(config: Config) -> dict[str, Any]:
    """Run the experiment, write its folder and return the result."""
    if config.quick:
        config = replace(config, seeds=config.seeds[:1])
    run = runs.begin(config, "estimators", sentences=1)
    result: dict[str, Any] = {}
    tables = []
    try:
        for what in config.what:
            if what == "words":
                found = words(config, sx.data.load_letters(config.data_dir))
            else:
                found = tags(config, sx.data.load_treebank(data_dir=config.data_dir))
            result[what] = found
            shared.write_json(run.folder / "result.json", result)
            tables.append(
                runs.summary(
                    f"{what}, test: places and whole sequences right, %; seconds of fit",
                    rounded(found),
                )
            )
    except (FileNotFoundError, sx.data.DataError) as error:
        shared.fail(str(error))
    return run.finish(result, *tables)


def rounded(found: Found) -> dict[str, dict[str, str]]:
    """As mean and spread."""
    return {
        name: {what: shared.mean_and_spread(values) for what, values in measures.items()}
        for name, measures in found.items()
    }


if __name__ == "__main__":
    shared.run(main, Config, __doc__)

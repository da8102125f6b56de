"""How the tagger trains and answers: batches of few widths, always filled up, so that few programs serve all data.

N sequences, S places of all together, T places of a batch's width, B sequences of a batch, K labels, P parameters.
"""

from collections.abc import Iterator
from functools import partial
from threading import Thread
from typing import Any, NamedTuple

import jax
import numpy as np

from spen_jax.estimators.keeping import SoFar, kept
from spen_jax.estimators.learning import OPTIMIZER, Moments, Numbers
from spen_jax.estimators.progress import Report
from spen_jax.estimators.tagger_inputs import Places, power_of_2
from spen_jax.estimators.tagger_model import Shape, factors, model_of
from spen_jax.training import State, init, step

CHUNK = 32
"""Sequences that are answered at once, fewer of the widest: another number of them is no other program."""
LEAST_WIDTH, MOST_WIDTH = 8, 256
"""Of training; what is longer is learned from in pieces, and answered whole."""
MANY = 500
"""Sequences from which on several widths are worth their compilation."""
FEW = 0.1
"""The share of training sequences for which a narrower program is worth its compilation."""
CUT = 0.01
"""The share of training sequences that may be longer than the greatest width, and are learned from in pieces."""


class Settings(NamedTuple):
    """The numbers of a training, none of which decides a program but `batch_size`."""

    rates: tuple[float, float]
    """The shares of inputs and of hidden units that training drops; words have theirs in the shape."""
    learning_rate: float
    weight_decay: float
    epochs: int
    batch_size: int
    pairs_rate: float = 5.0
    """Factor of the transitions' learning rate: they start at 0 and have nats to go."""


class Corpus(NamedTuple):
    """Sequences to learn from: their places, numbers of labels (S + 1,), -1 where not known, weights (N,)."""

    places: Places
    labels: np.ndarray
    weight: np.ndarray

    def pieces(self, rows: np.ndarray, width: int) -> "Corpus":
        """Those sequences, the longer ones in equal pieces of at most `width` places; empty ones are left out."""
        begins, lengths, weights = [], [], []
        for begin, length, weight in zip(
            self.places.begins[rows], self.places.lengths[rows], self.weight[rows], strict=True
        ):
            ends = np.linspace(0, length, -(-length // width) + 1).round().astype(int)
            begins.extend(begin + ends[:-1])
            lengths.extend(np.diff(ends))
            weights.extend([weight] * (len(ends) - 1))
        places = self.places._replace(begins=np.array(begins, int), lengths=np.array(lengths, int))
        return self._replace(places=places, weight=np.array(weights, np.float32))

    def batch(self, rows: np.ndarray, width: int, K: int) -> dict[str, Any]:
        """Fields x, y (B, T, K), mask (B, T) of what is known, and weight (B,)."""
        at = self.places.at(rows, width)
        labels = self.labels[at]
        return {
            "x": inputs_at(self.places, at),
            "y": (labels[..., None] == np.arange(K)).astype(np.float32),
            "mask": labels >= 0,
            "weight": self.weight[rows],
        }


def inputs_at(places: Places, at: np.ndarray) -> dict[str, Any]:
    """x of a model, of the places at (B, T)."""
    return {"fields": {name: a[at] for name, a in places.fields.items()}, "mask": at >= 0}


def widths_of(lengths: np.ndarray) -> list[int]:
    """Widths for training: a power of 2 that holds nearly all sequences, and the two before where many are so short."""
    nearly_all = int(np.quantile(lengths, 1 - CUT, method="higher"))
    longest = min(power_of_2(nearly_all, LEAST_WIDTH), MOST_WIDTH)
    widths, below = [], 0
    for width in (longest // 4, longest // 2) if len(lengths) >= MANY else ():
        if width >= LEAST_WIDTH and np.mean((lengths > below) & (lengths <= width)) >= FEW:
            widths.append(width)
            below = width
    return [*widths, longest]


def passes(
    lengths: np.ndarray, widths: list[int], size: int, rng: np.random.Generator
) -> Iterator[tuple[int, np.ndarray]]:
    """(width, rows (size,)) of one pass in a drawn order; the last of each width is filled up with its first ones."""
    place = np.searchsorted(widths, lengths)
    batches = []
    for i, width in enumerate(widths):
        order = rng.permutation(np.flatnonzero(place == i))
        if len(order):
            order = np.resize(order, -(-len(order) // size) * size)
            batches += [(width, rows) for rows in order.reshape(-1, size)]
    return iter([batches[i] for i in rng.permutation(len(batches))])


def steps_of(lengths: np.ndarray, widths: list[int], size: int) -> int:
    """How many batches a pass has."""
    counts = np.bincount(np.searchsorted(widths, lengths), minlength=len(widths))
    return int(np.sum(-(-counts // size)))


def state_of(
    shape: Shape,
    settings: Settings,
    flat: np.ndarray,
    steps: int,
    seed: int,
    moments: Moments | None = None,
) -> State:
    """The state before the first of so many steps, 0 for a rate that stays; with `moments` going on from those."""
    state = init(flat, OPTIMIZER, jax.random.key(seed, impl="unsafe_rbg"))
    rates = factors(shape, settings.pairs_rate)
    numbers = Numbers(
        np.float32(settings.learning_rate),
        np.float32(settings.weight_decay) * (rates > 0),
        np.int32(steps),
        rates,
    )
    before = state.opt_state if moments is None else moments
    return jax.device_put(state._replace(opt_state=before._replace(numbers=numbers)))


def one_pass(
    shape: Shape,
    settings: Settings,
    state: State,
    corpus: Corpus,
    widths: list[int],
    rng: np.random.Generator,
) -> State:
    """The state after one pass over a corpus of pieces; FloatingPointError where no batch gave a finite step."""
    objective, left_out = model_of(shape).objective, []
    B = settings.batch_size
    for width, rows in passes(corpus.places.lengths, widths, B, rng):
        batch = corpus.batch(rows, width, shape.labels)
        state, metrics = step(objective, OPTIMIZER, state, batch, np.arange(B))
        left_out.append(metrics["left_out"])
    if left_out and all(np.asarray(jax.device_get(left_out)) > 0):
        raise FloatingPointError(
            "no batch of a pass had a finite loss and gradient: scale the inputs, or lower learning_rate"
        )
    return state


class Learned(NamedTuple):
    """One training: parameters (P,), the epoch that they are of, the held-out errors after each, the last moments."""

    flat: np.ndarray
    epoch: int
    errors: tuple[float, ...]
    moments: Moments


def train(
    shape: Shape,
    settings: Settings,
    corpus: Corpus,
    flat: np.ndarray,
    rng: np.random.Generator,
    *,
    held: np.ndarray,
    report: Report,
) -> Learned:
    """Trains on all sequences but those `held` out; keeps the epoch whose share of wrong held-out labels is least.

    One epoch's is noisy: it counts in the mean with those of the two epochs before, of equal ones the later is kept.
    """
    rows = np.setdiff1d(np.flatnonzero(corpus.places.lengths), held)
    widths = widths_of(corpus.places.lengths[rows])
    in_pieces = corpus.pieces(rows, widths[-1])
    steps = settings.epochs * steps_of(in_pieces.places.lengths, widths, settings.batch_size)
    state = state_of(shape, settings, flat, steps, int(rng.integers(2**31)))
    beside = Thread(target=answers, args=(shape, flat, corpus.places, held), daemon=True)
    beside.start()  # compiles answers while training is compiled
    try:
        with kept(SoFar(state, state.params), rng, in_pieces, shape, settings) as (now, keep):
            for _, wrong in now.figures:
                _tell(report, wrong)
            while now.epochs < settings.epochs:
                state = one_pass(shape, settings, now.state, in_pieces, widths, rng)
                wrong, smooth = np.nan, np.inf
                if len(held):
                    beside.join()
                    wrong = error(shape, state.params, corpus, held)
                    smooth = float(np.mean([*now.losses, wrong][-3:]))
                now = now._replace(state=state, figures=(*now.figures, (np.nan, wrong)))
                if smooth <= now.loss:
                    now = now._replace(flat=state.params, loss=smooth, epoch=now.epochs)
                _tell(report, wrong)
                keep(now, now.epochs == settings.epochs)
    finally:
        beside.join()
    moments = jax.tree.map(np.asarray, now.state.opt_state)
    return Learned(np.asarray(now.flat), now.epoch, now.losses, moments)


def _tell(report, wrong):
    if wrong == wrong:
        report(f"{100 * wrong:.2f} % of held-out labels wrong", wrong=wrong)
    else:
        report("")


def error(shape: Shape, flat: Any, corpus: Corpus, rows: np.ndarray) -> float:
    """The share of the known labels of those sequences that the answer has wrong; 0 where none is known."""
    wrong = known = 0.0
    for row, y in zip(rows, answers(shape, flat, corpus.places, rows), strict=True):
        begin, weight = corpus.places.begins[row], corpus.weight[row]
        truth = corpus.labels[begin : begin + len(y)]
        known += weight * np.sum(truth >= 0)
        wrong += weight * np.sum((truth >= 0) & (y.argmax(axis=1) != truth))
    return float(wrong / known) if known else 0.0


# Answers


@partial(jax.jit, static_argnums=0)
def _answers(shape, flat, x, known):
    model = model_of(shape)
    return model.predictor(model.unravel(flat), x, known=known).y


def answers(
    shape: Shape,
    flat: Any,
    places: Places,
    rows: np.ndarray | None = None,
    known: np.ndarray | None = None,
) -> list[np.ndarray]:
    """y (T, K) of each sequence, or of those `rows`; `known` are labels (S + 1,) held fixed, -1 elsewhere."""
    rows = np.arange(len(places.lengths)) if rows is None else rows
    lengths, K, found = places.lengths[rows], shape.labels, []
    labels = np.full(len(next(iter(places.fields.values()))), -1) if known is None else known
    width = np.array([power_of_2(n, LEAST_WIDTH) for n in lengths], int)
    for w in np.unique(width[lengths > 0]):
        of_width = np.flatnonzero((width == w) & (lengths > 0))
        many = max(CHUNK * MOST_WIDTH // max(int(w), MOST_WIDTH), 1)
        for first in range(0, len(of_width), many):
            chunk = of_width[first : first + many]
            at = places.at(rows[np.resize(chunk, many)], int(w))
            told = labels[at]
            hold = told >= 0, (told[..., None] == np.arange(K)).astype(np.float32)
            found.append((chunk, _answers(shape.answering, flat, inputs_at(places, at), hold)))
    result = [np.zeros((0, K), np.float32)] * len(rows)
    for chunk, y in found:
        for i, one in zip(chunk, np.asarray(y), strict=False):
            result[i] = one[: lengths[i]]
    return result

"""How the estimators train: members on folds, each stopped early by its own held-out rows; chunks of one size predict.

N rows, D inputs, L outputs, P parameters, K members. Programs depend on a `Shape` and on N to within a power of 2, and
on no rate, share, decay or number of epochs, so that a search over those, or over folds, compiles once.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from threading import Thread
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from spen_jax import metrics, sparse
from spen_jax.estimators.keeping import SoFar, kept, over_processes, whole
from spen_jax.estimators.model import Shape, decays, factors, model_of
from spen_jax.estimators.progress import Report
from spen_jax.training import State, init, step

CHUNK = 64
"""Rows that are predicted at once, always: another number of rows is no other program."""
LEAST_ROWS = 256
"""Room for rows to learn from; beyond it powers of 2, so that folds and other data sets share programs."""
CLIP = 5.0


@dataclass(frozen=True)
class Settings:
    """The numbers of a training, none of which decides a program but `batch_size`."""

    input_dropout: float
    dropout: float
    learning_rate: float
    weight_decay: float
    epochs: int
    batch_size: int
    global_rate: float = 10.0
    """Factor of the global term's learning rate."""
    patience: int = 10


class Data(NamedTuple):
    """Rows to learn from: x (N, D) scaled, dense or CSR; y (N, L); mask (N, L) or None; weight (N,) or None."""

    x: Any
    y: np.ndarray
    mask: np.ndarray | None = None
    weight: np.ndarray | None = None


class Member(NamedTuple):
    """One training: its parameters (P,), the epoch that they are of, and the held-out loss after each epoch."""

    flat: np.ndarray
    epoch: int
    losses: tuple[float, ...]
    state: State
    loss: float = np.inf
    """That of the epoch, in the mean with those of the two before."""


# Optimizer


class Numbers(NamedTuple):
    """What an optimizer is told, as arrays."""

    rate: Any
    decay: Any
    """Of each parameter."""
    steps: Any
    """Of the whole schedule; 0 for a rate that stays."""
    factors: Any


class Moments(NamedTuple):
    """AdamW's state."""

    count: Any
    first: Any
    second: Any
    numbers: Numbers


def _no_moments(params: Any) -> Moments:
    nothing = np.zeros_like(params)
    return Moments(
        np.int32(0), nothing, nothing, Numbers(np.float32(0), nothing, np.int32(0), nothing)
    )


def _adamw(updates: Any, state: Any, params: Any = None) -> tuple[Any, Moments]:
    """AdamW with a clipped gradient; the rate warms up for a tenth of the steps and falls as a cosine."""
    gradient, flat = updates, params
    count, numbers = state.count + 1, state.numbers
    gradient *= jnp.minimum(1, CLIP / jnp.maximum(jnp.linalg.norm(gradient), 1e-12))
    first = 0.9 * state.first + 0.1 * gradient
    second = 0.999 * state.second + 0.001 * gradient**2
    unbiased = first / (1 - 0.9**count), second / (1 - 0.999**count)
    up = numbers.steps // 10 + 1
    down = jnp.clip((count - up) / jnp.maximum(numbers.steps + 1 - up, 1), 0, 1)
    falling = jnp.where(count < up, count / up, (1 + jnp.cos(jnp.pi * down)) / 2)
    rate = numbers.rate * jnp.where(numbers.steps > 0, falling, 1)
    descent = numbers.factors * unbiased[0] / (jnp.sqrt(unbiased[1]) + 1e-8)
    return -rate * (descent + numbers.decay * flat), Moments(count, first, second, numbers)


OPTIMIZER = optax.GradientTransformation(_no_moments, _adamw)


def state_of(shape: Shape, settings: Settings, flat: np.ndarray, steps: int, seed: int) -> State:
    """The state before the first of so many steps."""
    state = init(flat, OPTIMIZER, jax.random.key(seed))
    numbers = Numbers(
        np.float32(settings.learning_rate),
        np.float32(settings.weight_decay) * decays(shape),
        np.int32(steps),
        factors(shape, settings.global_rate),
    )
    return jax.device_put(state._replace(opt_state=state.opt_state._replace(numbers=numbers)))


# Training


def on_device(data: Data) -> dict[str, Any]:
    """The fields that there are, filled up with rows that are never drawn to one of few sizes."""
    given = {name: a for name, a in data._asdict().items() if a is not None}
    if sparse.is_scipy(data.x):
        return sparse.matrices(data=given)
    n = len(data.y)
    size = max(LEAST_ROWS, 1 << (n - 1).bit_length())
    return {
        name: over_processes(jnp.asarray(np.pad(a, [(0, size - n)] + [(0, 0)] * (a.ndim - 1))))
        for name, a in given.items()
    }


def passes(rows: np.ndarray, size: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """The batches of one pass in a drawn order, the last filled up with the first."""
    order = rng.permutation(rows)
    size = min(size, len(rows))
    filled = np.concatenate([order, order[: -len(rows) % size]])
    return iter(filled.reshape(-1, size))


class Training(NamedTuple):
    """What the trainings of one fit share."""

    shape: Shape
    settings: Settings
    data: Any
    """That of `on_device`."""
    rng: np.random.Generator
    report: Report = lambda note, **figures: None
    """Called after each epoch."""


def train_member(
    training: Training,
    rows: np.ndarray,
    start: State | np.ndarray,
    *,
    loss: Callable[[np.ndarray], float] | None = None,
    stop_after: int | None = None,
) -> Member:
    """Trains on `rows` of the data, from parameters (P,) or a state; keeps the epoch whose `loss` is least.

    One epoch's loss is noisy: it counts in the mean with those of the two epochs before. Without a loss the last epoch
    is kept, or that which it is to `stop_after`, of a schedule that spans all of them.
    FloatingPointError where no batch of an epoch gave a finite step.
    """
    shape, settings, _, rng, report = training
    objective = model_of(shape).objective
    each = -(-len(rows) // min(settings.batch_size, len(rows)))
    if isinstance(start, State):
        state = start
    else:
        state = state_of(shape, settings, start, settings.epochs * each, int(rng.integers(2**31)))
    if not sparse.has_rows(training.data):
        state = over_processes(state)
    most = stop_after or settings.epochs

    def over(now: SoFar) -> bool:
        return now.epochs >= most or now.epochs - now.epoch >= settings.patience

    given = training.data, rows
    with kept(SoFar(state, state.params), rng, given, shape, settings, most) as (now, keep):
        for training_loss, held in now.figures:
            _tell(report, training_loss, held)
        while not over(now):
            state, training_loss = _one_pass(training, objective, now.state, rows, now.epochs + 1)
            held = np.nan if loss is None else loss(whole(state.params))
            found = (*now.figures, (training_loss, held))
            smooth = np.inf if loss is None else float(np.mean([h for _, h in found[-3:]]))
            now = now._replace(state=state, figures=found)
            if loss is None or smooth < now.loss:
                now = now._replace(flat=state.params, loss=smooth, epoch=len(found))
            _tell(report, training_loss, held)
            keep(now, over(now))
    return Member(np.asarray(now.flat), now.epoch, now.losses, now.state, now.loss)


def _one_pass(training, objective, state, rows, epoch):
    """The state after one pass over the rows, and the mean loss of its steps."""
    taken = []
    for batch in passes(rows, training.settings.batch_size, training.rng):
        state, metrics = step(objective, OPTIMIZER, state, training.data, batch)
        taken.append((metrics["left_out"], metrics["loss"]))
    left_out, losses = np.asarray(jax.device_get(taken)).T
    if all(left_out > 0):
        raise FloatingPointError(
            f"no batch of epoch {epoch} had a finite loss and gradient: scale the inputs, or lower learning_rate"
        )
    return state, float(np.mean(losses[left_out == 0]))


def _tell(report, training_loss, held):
    figures = {"loss": held} if held == held else {}
    report(f"loss {held:.4g}" if figures else "", training_loss=training_loss, **figures)


# Prediction


@partial(jax.jit, static_argnums=0)
def mean_of_members(shape: Shape, flats: Any, x: Any, known: Any) -> jax.Array:
    """The mean of the members' answers (B, L) to scaled rows x (B, D); `known` is (mask, y) or None."""
    predictor, unravel = model_of(shape).predictor, model_of(shape).unravel

    def of_member(flat):
        return predictor(unravel(flat), x, known=known).y

    return jnp.mean(jax.lax.map(of_member, flats), axis=0)


def answers(shape: Shape, flats: Any, x: Any, known: Any = None) -> np.ndarray:
    """y (N, L) of rows x (N, D), the mean over members (K, P); `known` is (mask, y) of both (N, L).

    Chunks of one size, however many rows: of sparse ones as many as the room for their numbers takes.
    """
    shape = shape.answering
    found = [(n, mean_of_members(shape, flats, *chunk)) for n, chunk in _chunks(x, known)]
    parts = [np.asarray(y)[:n] for n, y in found]
    return np.concatenate(parts) if parts else np.zeros((0, shape.outputs), np.float32)


def _chunks(x, known):
    """(rows that count, (x, known) of CHUNK rows)."""
    n = x.shape[0]
    for begin in range(0, n, CHUNK):
        rows = np.arange(begin, min(begin + CHUNK, n))
        filled = np.concatenate([rows, np.full(CHUNK - len(rows), rows[0])])
        cut = x[filled].toarray() if sparse.is_scipy(x) else x[filled]
        yield len(rows), (cut, None if known is None else tuple(a[filled] for a in known))


def told(shape: Shape, data: Data, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """(mask, y) of what those rows are told, as training draws it, always the same; None where nothing is told."""
    if not shape.known:
        return None
    rng, y = np.random.default_rng(0), data.y[rows]
    drawn = rng.random(y.shape) < shape.known * rng.random((len(y), 1))
    on = y > 0 if data.mask is None else (y > 0) & data.mask[rows]
    return drawn & on, y


def cost(shape: Shape, y: np.ndarray, data: Data, rows: np.ndarray, known: Any = None) -> float:
    """How wrong answers y are to those rows: squared error or cross-entropy; where F1 is trained for, 1 - F1.

    Rows count alike: they were drawn by their weights. It is about what is not `known`, (mask, y). F1 is that at the
    threshold which is best on the same rows: a free choice of one number in all answers.
    """
    truth = data.y[rows]
    mask = None if data.mask is None else data.mask[rows]
    if known is not None:
        mask = ~known[0] if mask is None else mask & ~known[0]
    if shape.f1_weight:
        return 1 - metrics.example_f1(metrics.Tuned.tune(y, truth, mask)(y), truth, mask)
    counts = np.ones(truth.shape, bool) if mask is None else mask
    if shape.kind == "numbers":
        each = np.sum(np.where(counts, (y - truth) ** 2, 0), axis=1)
    else:
        each = _cross_entropy(shape.kind, y, truth, counts)
    return float(np.mean(each))


def _cross_entropy(kind, y, truth, counts):
    y = np.clip(y.astype(np.float64), 1e-7, 1 - 1e-7)
    each = truth * np.log(y) + (0 if kind == "classes" else (1 - truth) * np.log1p(-y))
    return -np.sum(np.where(counts, each, 0), axis=1)


def compile_beside(shape: Shape, flats: Any, data: Data) -> Thread:
    """Compiles prediction while the caller compiles training; join it before the first prediction."""
    known = told(shape, data, np.arange(1))
    thread = Thread(target=answers, args=(shape, flats, data.x[:1], known), daemon=True)
    thread.start()
    return thread

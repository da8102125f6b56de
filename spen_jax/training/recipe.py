"""A whole training by a recipe: the optimizer, the epochs, and the best of them by a validation score."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from spen_jax.checks import check_positive, check_whole
from spen_jax.data import Groups
from spen_jax.objectives import alternating
from spen_jax.training.epochs import epochs
from spen_jax.training.fit import fit, sizes_of, steps_per_epoch
from spen_jax.training.optimizers import average_of, stable
from spen_jax.training.resuming import Checkpoints, checkpoints_of
from spen_jax.training.steps import State, init
from spen_jax.types import Objective


class Best(NamedTuple):
    """The best parameters so far, for early stopping: `best = best.update(params, score)`.

    `params` and `score` are those of the best epoch, None and -inf before the first update.
    """

    params: Any = None
    score: float = float("-inf")
    epoch: int = 0
    """The epoch of the best score, counted from 1; 0 before the first update."""

    stale: int = 0
    """Epochs since."""

    def update(self, params: Any, score: float) -> "Best":
        """Takes the parameters of the next epoch if their score (higher is better) is strictly the best."""
        epoch = self.epoch + self.stale + 1
        if score > self.score:
            return Best(params, score, epoch, 0)
        return self._replace(stale=self.stale + 1)


@dataclass(frozen=True)
class Recipe:
    """How to train: AdamW, clipped gradients, a rate that warms up for a tenth and falls as a cosine.

    `train(objective, params, data, Recipe(20, 1e-3, 1e-4), key)` follows it. Raises ValueError, by name, for epochs, a
    batch size or a patience that are no whole numbers from 1 on, a clip that is not positive and finite, and another
    `keep`. Sources: Loshchilov & Hutter (2019), AdamW; (2017), the cosine.
    """

    epochs: int
    """The schedule spans all of them, also where a training stops earlier."""
    learning_rate: float
    """The highest."""
    weight_decay: float
    """Times the learning rate, the share of itself by which each parameter shrinks in a step; 0 for none."""
    batch_size: int = 128
    """Examples of a step, as for `fit`."""
    clip: float = 5.0
    """The largest norm of all gradients together."""
    average: float | None = None
    """Decay of the moving average of the parameters that is evaluated and kept, or None."""
    alternate: bool = False
    """Whether the parameters of two players take turns, see `objectives.alternating`."""
    keep: Literal["best", "last"] = "best"
    """The epoch that is kept, where there is a score: the best or the last."""
    patience: int | None = None
    """Stop when this many epochs brought nothing better; None for never."""
    rates: tuple[tuple[str, float], ...] = ()
    """Pairs of a text and a factor: the first pair whose text is in a parameter's path sets the factor of
    its learning rate (not of its decay), 0 freezes it; where none is, the factor is 1."""

    def __post_init__(self):
        check_whole("epochs", self.epochs, 1)
        check_whole("batch_size", self.batch_size, 1)
        check_positive("clip", self.clip)
        if self.keep not in ("best", "last"):
            raise ValueError(f"keep must be 'best' or 'last', got {self.keep!r}")
        if self.patience is not None:
            check_whole("patience", self.patience, 1)

    def optimizer(self, n_examples: int | Sequence[int]) -> optax.GradientTransformation:
        """Optax's, for a training on so many examples, or groups of so many: one object for equal settings."""
        return _of_steps(self._of_any(), self._steps(n_examples))

    def start(
        self, params: Any, n_examples: int | Sequence[int], key: jax.Array
    ) -> tuple[Any, State]:
        """An optimizer, one object for any number of steps, which its state knows, and the state before the first."""
        optimizer = self._of_any()
        state = init(params, optimizer, key)
        return optimizer, state._replace(opt_state=_told(state.opt_state, self._steps(n_examples)))

    def _steps(self, n_examples):
        each = steps_per_epoch(n_examples, self.batch_size)
        # Of two players each takes every other step.
        return -(-self.epochs * each // 2) if self.alternate else self.epochs * each

    def _of_any(self):
        # What plays no part in a step makes no difference to it.
        return _optimizer(replace(self, epochs=1, batch_size=1, keep="best", patience=None))


class _Schedule(NamedTuple):
    """Steps taken, and how many there are in all."""

    count: jax.Array
    steps: jax.Array


def _told(opt_state, steps):
    """An optimizer's state whose schedules know the number of steps."""

    def tell(part):
        return part._replace(steps=jnp.int32(steps)) if isinstance(part, _Schedule) else part

    return jax.tree.map(tell, opt_state, is_leaf=lambda part: isinstance(part, _Schedule))


@lru_cache(maxsize=64)
def _of_steps(optimizer, steps):
    return optimizer._replace(init=lambda params: _told(optimizer.init(params), steps))


def _scheduled(peak: float) -> optax.GradientTransformation:
    """Times -rate: from 0 to `peak` in a tenth of the steps and one, then down to 0 as a cosine."""

    def start(params):
        return _Schedule(jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32))

    def update(updates, state, params=None):
        count, up = state.count, state.steps // 10 + 1
        down = jnp.clip((count - up) / (state.steps + 1 - up), 0, 1)
        rate = peak * jnp.where(count < up, count / up, (1 + jnp.cos(jnp.pi * down)) / 2)
        updates = jax.tree.map(lambda u: -rate.astype(u.dtype) * u, updates)
        return updates, state._replace(count=count + 1)

    return optax.GradientTransformation(start, update)


@lru_cache(maxsize=64)
def _optimizer(recipe: Recipe) -> optax.GradientTransformation:
    def factors(params):
        def factor(path, _):
            name = jax.tree_util.keystr(path)
            return next((f for text, f in recipe.rates if text in name), 1.0)

        return jax.tree.map_with_path(factor, params)

    def adamw(factor):
        peak, decay = factor * recipe.learning_rate, recipe.weight_decay / max(factor, 1e-9)
        decayed = optax.add_decayed_weights(decay)
        return optax.chain(optax.scale_by_adam(), decayed, _scheduled(peak))

    optimizer = optax.chain(
        optax.masked(optax.set_to_zero(), lambda p: jax.tree.map(lambda f: f == 0, factors(p))),
        optax.clip_by_global_norm(recipe.clip),
        optax.partition({f: adamw(f) for f in {1.0, *(f for _, f in recipe.rates)}}, factors),
    )
    if recipe.alternate:
        optimizer = alternating(optimizer, optimizer)
    return stable(optimizer, clip=None, average=recipe.average)


class Trained(NamedTuple):
    """What a training has come to after an epoch: what `train` yields."""

    params: Any
    """Those of `epoch`, the best or the last so far."""
    epoch: int
    """Counted from 1; 0 for the parameters that training began with."""
    scores: tuple[float, ...] = ()
    """The validation score of every epoch; none without `score`."""
    clock: tuple[float, ...] = ()
    """Seconds of training, without validation and what the caller did meanwhile, after each epoch."""
    metrics: Mapping[str, float] = {}
    """The mean metrics of the newest epoch."""

    @property
    def seconds(self) -> float:
        """Of training, in all."""
        return self.clock[-1] if self.clock else 0.0


@epochs
def train(
    objective: Objective,
    params: Any,
    data: Any,
    recipe: Recipe,
    key: jax.Array,
    *,
    score: Callable[[Any], float] | None = None,
    stop_after: int | None = None,
    checkpoints: Checkpoints | str | Path | None = None,
) -> Iterator[Trained]:
    """After each epoch what `recipe` has made of `params`; `train(...).last()` is the result.

    With a score the epoch is kept whose score is best, in the mean with those of the two epochs before it: a single
    one is noisy.

    Args:
      objective: what to minimise, `(params, batch, key) -> (scalar, metrics)`.
      params: where to start.
      data: the training examples, as for `fit`.
      recipe: the optimizer, its rates, the epochs and the batch size, a `Recipe`.
      key: decides the order of the examples and all that is random.
      score: validation score of parameters, `(params) -> float`, higher is better; without it the last epoch is kept.
      stop_after: stop after this epoch, 0 or more, the one that an earlier training found best.
      checkpoints: as for `fit`; the best parameters, scores and seconds are kept as its `extra`. One that is over gives
        its result again.

    Raises what `fit` does, and ValueError for a negative `stop_after`, once it is looped over.
    """
    began = time.perf_counter()
    count = recipe.epochs if stop_after is None else stop_after
    check_whole("stop_after", count, 0)
    if not count:
        yield Trained(params, 0)
        return
    kept = checkpoints_of(checkpoints)
    sizes = sizes_of(data if isinstance(data, Groups) else (data,))
    optimizer, first = recipe.start(params, sizes, key)
    at = _Progress(Best(params), np.zeros(0), np.zeros(0))
    if kept is not None:
        kept.extra, kept.over = at, partial(_is_over, recipe)
    for state, metrics in fit(
        objective,
        optimizer,
        first,
        data,
        epochs=count,
        batch_size=recipe.batch_size,
        checkpoints=kept,
    ):
        at = at if kept is None else kept.extra
        if kept is None or len(at.clock) < kept.epochs:  # else it went on from its end
            spent = time.perf_counter() - began + (at.clock[-1] if len(at.clock) else 0.0)
            current = state.params if recipe.average is None else average_of(state)
            at = at.after(recipe, current, spent, score)
        if kept is not None:
            kept.extra = at
        scores, clock = tuple(at.scores.tolist()), tuple(at.clock.tolist())
        yield Trained(at.best.params, at.best.epoch, scores, clock, metrics)
        if _is_over(recipe, at):
            return
        began = time.perf_counter()


class _Progress(NamedTuple):
    """What a training has come to, as its checkpoints keep it."""

    best: Best
    scores: np.ndarray
    clock: np.ndarray

    def after(self, recipe, params, seconds, score):
        """The same after one more epoch."""
        clock = np.append(self.clock, seconds)
        scores = self.scores if score is None else np.append(self.scores, float(score(params)))
        if score is None or recipe.keep == "last":
            best = self.best._replace(params=params, epoch=len(clock))
        else:
            best = self.best.update(params, float(np.mean(scores[-3:])))
        return _Progress(best, scores, clock)


def _is_over(recipe, at):
    return recipe.patience is not None and at.best.stale >= recipe.patience

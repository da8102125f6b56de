"""What the estimators of rows share: settings that follow from the data, members, and how rows are predicted."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils import check_random_state
from sklearn.utils.validation import _check_sample_weight, check_is_fitted

from spen_jax import sparse
from spen_jax.bundles import write
from spen_jax.estimators.inputs import Scaling, checked_x
from spen_jax.estimators.learning import (
    Data,
    Moments,
    Settings,
    Training,
    answers,
    compile_beside,
    cost,
    on_device,
    state_of,
    told,
    train_member,
)
from spen_jax.estimators.model import Kind, Shape, started, with_rates
from spen_jax.estimators.programs import with_programs
from spen_jax.estimators.progress import reporting
from spen_jax.estimators.saving import contents_of

FEWEST = 20
"""Rows below which none are held out."""
MOST_HELD_OUT = 10_000
SEVERAL = 3000, 20_000
"""Up to so many rows there are five members, each with rows of its own held out; up to so many two, and then one."""
DECAYS = 0.1, 3.0
"""Of the weights; held-out rows choose one for classes and numbers where there are five members."""
SCORED = 2000
"""At most so many held-out rows are looked at after each epoch."""


class RowEstimator(BaseEstimator):
    """Shared by `SPENClassifier` and `SPENRegressor`, which add what y is and how it is decided."""

    hidden_units: int | None
    global_units: int | None
    steps: int
    dropout: float | None
    learning_rate: float | None
    weight_decay: float | None
    epochs: int | None
    members: int | None
    early_stopping: bool
    validation_fraction: float
    warm_start: bool
    random_state: Any
    verbose: bool
    scaling_: Scaling

    def save(self, path: str | Path, programs: bool = False) -> None:
        """Writes the fitted estimator into one file, which `spen_jax.load(path)` reads; see `estimators.saving`.

        With `programs` it can be served without this library too, see `spen_jax.serving`. scikit-learn's NotFittedError
        before `fit`.
        """
        check_is_fitted(self)
        contents = contents_of(self)
        write(path, with_programs(self, contents) if programs else contents)

    def _planned(self, kind: Kind, x: Any, L: int, **of_shape: Any) -> tuple[Shape, Settings]:
        """The shape and the settings: those given, the others from the data."""
        (n, D), wide = x.shape, sparse.is_scipy(x)
        told_some = of_shape.get("known", 0) > 0
        self._check_settings()
        hidden = self.hidden_units or (1000 if wide else 512)
        units = self.global_units
        if kind == "classes" or units is None:
            units = 0 if kind == "classes" or L < 2 else 256 if told_some else 16
        dropout = self.dropout
        if dropout is None:
            shares = _dropout(kind, wide, D, L)
        else:
            shares = (dropout / 2, dropout)
        sizes = ((32, 1000), (64, 3000), (128, 8000), (256, np.inf))
        batch = next(size for size, most in sizes if n < most)
        batch = max(batch, 256) if wide and n >= 1000 else batch
        # So many passes, but enough steps where there are few rows.
        epochs = max(60 * (1500 / n) ** 0.5, 700 * batch / n)
        epochs = self.epochs or int(np.clip(epochs, 10, 300))
        rate = self.learning_rate or (2e-3 if told_some else 3e-3)
        settings = Settings(
            *shares,
            learning_rate=rate,
            # Where labels are told the global term has much to learn, however slowly the network does.
            global_rate=0.03 / rate if told_some else 10.0,
            weight_decay=0.1 if self.weight_decay is None else self.weight_decay,
            epochs=epochs,
            batch_size=batch,
            patience=max(10, epochs // 5),
        )
        return Shape(kind, D, hidden, L, units, steps=self.steps, **of_shape), settings

    def _check_settings(self) -> None:
        """ValueError, by name, for settings that cannot be."""
        for name in ("hidden_units", "epochs", "members"):
            value = getattr(self, name)
            if value is not None and not (isinstance(value, int | np.integer) and value >= 1):
                raise ValueError(
                    f"{name} must be a whole number of 1 or more, or None, got {value!r}"
                )
        for name in ("steps", "global_units"):
            value = getattr(self, name)
            free = value is None and name == "global_units"
            if not (free or isinstance(value, int | np.integer) and value >= 0):
                raise ValueError(f"{name} must be a whole number of 0 or more, got {value!r}")
        for name, most in (("dropout", 1), ("learning_rate", np.inf), ("weight_decay", np.inf)):
            value, least = getattr(self, name), "above 0" if name == "learning_rate" else "from 0"
            if value is None:
                continue
            number = isinstance(value, int | float | np.number)
            if not number or not 0 <= value < most or value == 0 and least == "above 0":
                raise ValueError(f"{name} must be {least}, below {most}, or None, got {value!r}")
        if not 0 < self.validation_fraction <= 0.5:
            raise ValueError(
                f"validation_fraction must be a share above 0, at most 0.5, got {self.validation_fraction!r}"
            )

    def _members(self, n: int) -> int:
        if not self.early_stopping or n < FEWEST:
            return self.members or 1
        return min(self.members or (5 if n <= SEVERAL[0] else 2 if n <= SEVERAL[1] else 1), n)

    def _folds(self, n: int, strata: np.ndarray | None, rng: np.random.Generator) -> np.ndarray:
        """The fold of each row, with every stratum in proportion in each."""
        folds = max(round(1 / self.validation_fraction), -(-n // MOST_HELD_OUT), self._members(n))
        order = rng.permutation(n)
        if strata is not None:
            order = order[np.argsort(strata[order], kind="stable")]
        fold = np.empty(n, int)
        fold[order] = np.arange(n) % folds
        return fold

    def _rng(self) -> np.random.Generator:
        return np.random.default_rng(check_random_state(self.random_state).randint(2**31))

    def _learn(
        self,
        shape: Shape,
        settings: Settings,
        data: Data,
        strata: np.ndarray | None = None,
        before: np.ndarray | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Trains the members, from parameters `before` on; returns rows that were held out and the answers to them.

        These are in a drawn order; where rows have weights they were drawn by them.

        Of a middling number of rows one training holds some out to find its best epoch, and the members see all rows
        for as long; else each member holds out a part of its own.
        """
        n, rng = len(data.y), self._rng()
        holds = self.early_stopping and n >= FEWEST
        again = holds and self.members is None and SEVERAL[0] < n <= SEVERAL[1]
        K = self._members(n)
        fold = self._folds(n, strata, rng)
        starts = self._starts(shape, settings, K, rng, before)
        beside = compile_beside(shape, starts[:1], data)
        on, everything = on_device(data), np.arange(n)
        held = [np.flatnonzero(fold == k) if holds else everything[:0] for k in range(K)]
        held = held[: 1 if again else K]
        several = holds and n <= SEVERAL[0] and shape.kind != "labels"
        decays = DECAYS if several and self.weight_decay is None else (settings.weight_decay,)

        def cross_fitted(settings):
            training = Training(shape, settings, on, rng, report)
            found = []
            for rows, start in zip(held, starts, strict=False):
                few = _drawn(rows, data.weight, rng)[:SCORED]
                known = told(shape, data, few)

                def loss(flat, few=few, known=known):
                    beside.join()
                    y = answers(shape, flat[None], data.x[few], known)
                    return cost(shape, y, data, few, known)

                counted = data.mask is None or data.mask[few].any()
                score = loss if len(few) and counted else None
                others = np.setdiff1d(everything, rows)
                found.append(train_member(training, others, start, loss=score))
            return found

        with reporting(self, (K * len(decays) + again) * settings.epochs) as report:
            tried = [replace(settings, weight_decay=decay) for decay in decays]
            each = [cross_fitted(one) for one in tried]
            best = int(np.argmin([np.mean([m.loss for m in members]) for members in each]))
            settings, chosen = tried[best], each[best]
            members = chosen
            if again:
                training = Training(shape, settings, on, rng, report)
                until = chosen[0].epoch
                members = [train_member(training, everything, s, stop_after=until) for s in starts]
        beside.join()
        answered = [
            answers(shape, member.flat[None], data.x[rows])
            for member, rows in zip(chosen, held, strict=True)
        ]
        self.shape_, self.settings_, self.moments_ = shape, settings, None
        self.flats_ = np.stack([member.flat for member in members])
        self.n_epochs_ = [member.epoch for member in members]
        self.validation_losses_ = [list(member.losses) for member in chosen]
        rows, y = np.concatenate(held), np.concatenate(answered)
        places = np.arange(len(rows))
        order = _drawn(places, None if data.weight is None else data.weight[rows], rng)
        return rows[order], y[order]

    def _starts(self, shape, settings, K, rng, before=None):
        """Parameters (K, P) to begin with: those `before`, where they have this shape, or new ones."""
        rates = settings.input_dropout, settings.dropout
        if before is not None and self.shape_.answering == shape.answering and len(before) == K:
            return np.stack([with_rates(shape, flat, rates) for flat in before])
        return np.stack([started(shape, rng, rates) for _ in range(K)])

    def _go_on(self, shape: Shape, settings: Settings, data: Data) -> None:
        """One pass over the rows at a steady rate, from what was learned before."""
        rng = self._rng()
        if not hasattr(self, "flats_"):
            self.flats_ = self._starts(shape, settings, self.members or 1, rng)
            self.moments_ = None
        elif self.shape_.answering != shape.answering:
            raise ValueError(
                "partial_fit cannot go on with other units, pairs or steps than before: clone the estimator"
            )
        settings = replace(settings, epochs=1)
        rates = settings.input_dropout, settings.dropout
        self.shape_, self.settings_ = shape, settings
        on, flats, moments = on_device(data), [], []
        for k, flat in enumerate(self.flats_):
            flat = with_rates(shape, flat, rates)
            state = state_of(shape, settings, flat, 0, int(rng.integers(2**31)))
            if before := getattr(self, "moments_", None):
                count, first, second = before[k]
                kept = Moments(count, first, second, state.opt_state.numbers)
                state = state._replace(opt_state=jax.device_put(kept))
            training = Training(shape, settings, on, rng)
            member = train_member(training, np.arange(len(data.y)), state)
            flats.append(member.flat)
            moments.append(tuple(np.asarray(a) for a in member.state.opt_state[:3]))
        self.flats_, self.moments_ = np.stack(flats), moments
        self.n_epochs_ = [1 + n for n in getattr(self, "n_epochs_", [0] * len(flats))]

    def _weights(self, sample_weight: Any, X: Any) -> np.ndarray | None:
        """float32 (N,) of mean 1 over the rows that count; ValueError for what is no weight."""
        if sample_weight is None:
            return None
        weight = _check_sample_weight(sample_weight, X, ensure_non_negative=True, dtype=np.float64)
        if not weight.any():
            raise ValueError("sample_weight must not be 0 for every row")
        weight = weight / weight.max()  # so that their sum is a number
        return (weight / weight[weight > 0].mean()).astype(np.float32)

    def _relaxed(self, X: Any, known: Any = None) -> np.ndarray:
        """y (N, L) as inference leaves it, the mean over members."""
        check_is_fitted(self)
        x = self.scaling_(checked_x(self, X, reset=False))
        return answers(self.shape_, self.flats_, x, known)

    def __sklearn_tags__(self) -> Any:
        """What scikit-learn may expect."""
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        tags.target_tags.multi_output = True
        return tags


def _drawn(rows: np.ndarray, weight: np.ndarray | None, rng: np.random.Generator) -> np.ndarray:
    """Rows in a drawn order; where all rows have weights, as many drawn by these."""
    if weight is None or not len(rows):
        return rng.permutation(rows)
    p = weight[rows].astype(np.float64)
    return rng.choice(rows, len(rows), p=p / p.sum())


def _dropout(kind: Kind, wide: bool, D: int, L: int) -> tuple[float, float]:
    """The shares of inputs and hidden units left out in training that held-out rows liked best."""
    if wide:
        return (0.3, 0.8) if L < 500 else (0.3, 0.5)
    if kind == "labels":
        return 0.35, 0.7
    return (0.1, 0.5) if D >= 32 else (0.0, 0.3)

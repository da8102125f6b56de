"""What the estimators of rows share: settings that follow from the data, members, and how rows are predicted."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils import check_random_state
from sklearn.utils.validation import _check_sample_weight, check_is_fitted

from spen_jax import sparse
from spen_jax.estimators.inputs import Scaling, checked_x
from spen_jax.estimators.learning import (
    Data,
    Settings,
    answers,
    compile_beside,
    cost,
    on_device,
    state_of,
    told,
    train_member,
)
from spen_jax.estimators.model import Shape, started
from spen_jax.estimators.progress import reporting

FEWEST = 20
"""Rows below which none are held out."""
MOST_HELD_OUT = 10_000


class RowEstimator(BaseEstimator):
    """Shared by `SPENClassifier` and `SPENRegressor`, which add what y is and how it is decided."""

    def _planned(self, kind: Any, x: Any, n: int, L: int, **of_shape: Any) -> tuple[Shape, Settings]:
        """The shape and the settings: those given, the others from the data."""
        D = x.shape[1]
        wide = sparse.is_scipy(x)
        told = of_shape.get("known", 0) > 0
        hidden = self.hidden_units or (1000 if wide else int(np.clip(n // 8, 64, 512)))
        units = self.global_units
        if units is None:
            units = 0 if kind == "classes" or L < 2 else 256 if told else 16
        shape = Shape(kind, D, hidden, L, units, steps=self.steps, **of_shape)
        dropout = self.dropout
        if dropout is None:
            dropout = (0.3, 0.8) if wide and L < 500 else (0.3, 0.5) if wide else (0.1, 0.5)
        elif np.isscalar(dropout):
            dropout = (dropout / 2, dropout)
        batch = next(b for b, most in ((32, 1000), (64, 3000), (128, 8000), (256, np.inf)) if n < most)
        if wide:
            batch = max(batch, 32 if n < 1000 else 256)
        epochs = int(np.clip(60 * (1500 / max(n, 1)) ** 0.5, 10, 80))
        rate = self.learning_rate or (2e-3 if told else 3e-3)
        settings = Settings(
            *dropout,
            learning_rate=rate,
            # Where labels are told the global term has much to learn, however slowly the network does.
            global_rate=0.03 / rate if told else 10.0,
            weight_decay=0.1 if self.weight_decay is None else self.weight_decay,
            epochs=self.epochs or epochs,
            batch_size=batch,
        )
        return shape, settings

    def _members(self, n: int) -> int:
        if not self.early_stopping or n < FEWEST:
            return 1
        return self.members or (5 if n <= 3000 else 2 if n <= 20_000 else 1)

    def _folds(self, n: int, strata: np.ndarray | None, rng: np.random.Generator) -> np.ndarray:
        """The fold of each row, with every stratum in proportion in each."""
        share = max(1 / self.validation_fraction, n / MOST_HELD_OUT, 2)
        order = rng.permutation(n)
        if strata is not None:
            order = order[np.argsort(strata[order], kind="stable")]
        fold = np.empty(n, int)
        fold[order] = np.arange(n) % max(round(share), self._members(n))
        return fold

    def _learn(
        self, shape: Shape, settings: Settings, data: Data, strata: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Trains the members; returns which rows some member held out, and its answers to them."""
        n = len(data.y)
        rng = np.random.default_rng(check_random_state(self.random_state).randint(2**31))
        K, fold = self._members(n), self._folds(n, strata, rng)
        before = getattr(self, "flats_", None)
        if not (self.warm_start and before is not None and self.shape_ == shape and len(before) == K):
            rates = settings.input_dropout, settings.dropout
            before = np.stack([started(shape, rng, rates) for _ in range(K)])
        beside = compile_beside(shape, before[:1], data)
        on = on_device(data)
        members, held_rows, held_y = [], [], []
        with reporting(self, K * settings.epochs) as report:
            for k in range(K):
                holds = self.early_stopping and n >= FEWEST
                held = np.flatnonzero(fold == k) if holds else np.arange(0)
                rows = np.setdiff1d(np.arange(n), held)
                few = rng.permutation(held)[:2000]
                known = told(shape, data, few)

                def loss(flat, few=few, known=known):
                    y = answers(shape, flat[None], data.x[few], known)
                    return cost(shape, y, data, few, known)

                beside.join()
                member = train_member(
                    shape, settings, on, rows, before[k], rng, loss=loss if holds else None, report=report
                )
                members.append(member)
                held_rows.append(held)
                held_y.append(answers(shape, member.flat[None], data.x[held]))
        self.shape_, self.settings_ = shape, settings
        self.flats_ = np.stack([member.flat for member in members])
        self.n_epochs_ = [member.epoch for member in members]
        self.validation_losses_ = [list(member.losses) for member in members]
        return np.concatenate(held_rows), np.concatenate(held_y)

    def _weights(self, sample_weight: Any, X: Any) -> np.ndarray | None:
        if sample_weight is None:
            return None
        weight = _check_sample_weight(sample_weight, X, ensure_non_negative=True, dtype=np.float64)
        if not weight.any():
            raise ValueError("sample_weight must not be 0 for every row")
        return (weight / weight[weight > 0].mean()).astype(np.float32)

    def _relaxed(self, X: Any, known: Any = None) -> np.ndarray:
        """y (N, L) as inference leaves it."""
        check_is_fitted(self)
        x = self.scaling_(checked_x(self, X, reset=False))
        return answers(self.shape_, self.flats_, x, known)

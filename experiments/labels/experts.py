"""Experts on the tags of an entry, cross-fitted, so that none has seen the row that it judges in training.

An expert is (x (N, D), y (N, L), seed) -> a function of x (M, D) that gives logits (M, L). Rows of x have length 8.
"""

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

import jax
import numpy as np
from scipy.sparse import csr_matrix
from sklearn.linear_model import LogisticRegression

import spen_jax as sx
from spen_jax.training import Recipe

FOLDS = 5
Expert = Callable[[np.ndarray, np.ndarray, int], Callable[[np.ndarray], Any]]


def logistic_regression(x: np.ndarray, y: np.ndarray, seed: int) -> Callable[[np.ndarray], Any]:
    """scikit-learn's, one for each label, C = 10; where a label is always or never on, its log odds."""

    def sparse(x):
        return csr_matrix(x / 8, dtype=np.float64)  # rows of length 1

    rows, n_on = sparse(x), y.sum(axis=0)
    weights = np.zeros((x.shape[1], y.shape[1]))
    bias = np.log((n_on + 0.5) / (len(y) - n_on + 0.5))
    for label in np.flatnonzero((n_on > 0) & (n_on < len(y))):
        fitted = LogisticRegression(solver="liblinear", C=10).fit(rows, y[:, label])
        weights[:, label], bias[label] = fitted.coef_[0], fitted.intercept_[0]
    return lambda x: sparse(x) @ weights + bias


def perceptron(x: np.ndarray, y: np.ndarray, seed: int) -> Callable[[np.ndarray], Any]:
    """The library's feature network, D-300-L, trained by cross-entropy for 12 epochs."""
    network: Any = sx.FeatureNetwork(y.shape[1], (300,), input_dropout=0.3, dropout=0.5)
    params, key = network.init(jax.random.key(seed), x[:1])["params"], jax.random.key(seed)
    training = sx.training.train(
        _feed_forward(network),
        params,
        sx.data.Split(x, y),
        Recipe(12, 3e-3, 0.1),
        jax.random.fold_in(key, 1),
    )
    *_, trained = training
    return partial(sx.logits_of(network), trained.params)


@lru_cache(maxsize=4)
def _feed_forward(network: Any) -> Any:
    return sx.objectives.feed_forward(sx.logits_of(network))  # one object: folds compile once


def neighbours(
    x: np.ndarray, y: np.ndarray, seed: int, *, k: int, power: int
) -> Callable[[np.ndarray], Any]:
    """The share of the k nearest rows that have the label, weighted by a power of the cosine, as log odds."""
    prior = np.clip(np.mean(y, axis=0, dtype=float), 1e-3, 1 - 1e-3)

    def logits(z):
        cosine = np.maximum(z @ x.T / 64, 0)
        nearest = np.argsort(-cosine, axis=1)[:, :k]
        weights = np.take_along_axis(cosine, nearest, axis=1).astype(float) ** power
        on = np.einsum("mk,mkl->ml", weights, y[nearest])
        # The prior counts as a row at a cosine of about one half, so that no share is 0 or 1.
        share = (on + 0.5**power * prior) / (weights.sum(axis=1, keepdims=True) + 0.5**power)
        return np.log(share) - np.log1p(-share)

    return logits


def ridge(x: np.ndarray, y: np.ndarray, seed: int) -> Callable[[np.ndarray], Any]:
    """Least squares with a penalty of 1, on rows of length 1; its answers 0 and 1 count as logits of -3 and 3."""
    x, mean = x / 8, np.mean(y, axis=0)
    weights = np.linalg.solve(x.T @ x + np.eye(x.shape[1], dtype=x.dtype), x.T @ (y - mean))
    return lambda z: 6 * (z / 8 @ weights + mean) - 3


EXPERTS: tuple[Expert, ...] = (
    logistic_regression,
    perceptron,
    ridge,
    partial(neighbours, k=10, power=3),
    partial(neighbours, k=30, power=3),
    partial(neighbours, k=100, power=5),
)


def cross_fit(
    data: sx.data.Split, test: np.ndarray, seed: int, experts: tuple[Expert, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """S of the training rows, each by experts that saw no row of its fold, and of test rows by experts that saw all.

    Both float32, (N, K, L) and (M, K, L), for K experts. `seed` deals the rows out to the folds, of equal sizes but for
    one row, and seeds the experts.
    """
    n, n_labels = data.y.shape
    fold = np.random.default_rng(seed).permutation(n) % FOLDS
    s = np.zeros((n, len(experts), n_labels), np.float32)
    s_test = np.zeros((len(test), len(experts), n_labels), np.float32)
    for k, expert in enumerate(experts):
        for i in range(FOLDS):
            inside = fold == i
            s[inside, k] = expert(data.x[~inside], data.y[~inside], seed * 10 + i)(data.x[inside])
        s_test[:, k] = expert(data.x, data.y, seed * 10 + FOLDS)(test)
    return s, s_test

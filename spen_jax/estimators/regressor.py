"""The estimator of one number or several."""

from typing import Any, Self

import numpy as np
from sklearn.base import RegressorMixin
from sklearn.utils.validation import check_array, check_consistent_length

from spen_jax.estimators.base import RowEstimator
from spen_jax.estimators.inputs import Scaling, checked_x
from spen_jax.estimators.learning import Data


class SPENRegressor(RegressorMixin, RowEstimator):
    """Numbers y by a structured prediction energy network.

    E(x, y) = |y - s(x)|^2 / 2 + k.softplus(C y + U h(x) + d), y in R^L standardised, s and h a network with one hidden
    layer, trained by the squared error through the steps of inference from s. One number has nothing to relate: there
    the estimator is its network. `score` is R^2, scikit-learn's.

    Its arguments are those of `SPENClassifier`: `hidden_units`, `global_units`, `dropout`, `learning_rate`,
    `weight_decay` and `epochs` of the network and the training, None for what follows from the data; `steps` of
    inference; `members`, `early_stopping`, `validation_fraction` and `warm_start`; `random_state`; `verbose`.

    X for `fit`: rows (N, D), an array, sparse, or a frame of numbers; y: numbers (N,) or (N, L), none missing.
    ValueError, from `fit` on, for arguments that cannot be. Source: Belanger, Yang & McCallum (2017).
    """

    def __init__(
        self,
        *,
        hidden_units: int | None = None,
        global_units: int | None = None,
        steps: int = 3,
        dropout: float | None = None,
        learning_rate: float | None = None,
        weight_decay: float | None = None,
        epochs: int | None = None,
        members: int | None = None,
        early_stopping: bool = True,
        validation_fraction: float = 0.2,
        warm_start: bool = False,
        random_state: Any = None,
        verbose: bool = False,
    ):
        self.hidden_units = hidden_units
        self.global_units = global_units
        self.steps = steps
        self.dropout = dropout
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.epochs = epochs
        self.members = members
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.warm_start = warm_start
        self.random_state = random_state
        self.verbose = verbose

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Learns from rows X (N, D), dense, CSR or a frame, and y (N,) or (N, L); ValueError for what cannot be read.

        `sample_weight` (N,), 0 or more, is how much each row counts.
        """
        x, y, weight = self._given(X, y, sample_weight, reset=True)
        warm = self.warm_start and hasattr(self, "flats_") and len(self.y_shift_) == y.shape[1]
        scaling = self.scaling_ if warm else Scaling.of(x)
        shift, scale = (self.y_shift_, self.y_scale_) if warm else standard_of(y)
        x, before = scaling(x), self.flats_ if warm else None
        data = Data(x, ((y - shift) / scale).astype(np.float32), None, weight)
        self._learn(*self._planned("numbers", x, y.shape[1]), data, None, before)
        self.scaling_, self.y_shift_, self.y_scale_ = scaling, shift, scale
        return self

    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """One pass over these rows at a steady rate; the first call sets the scales of X and y.

        X, y and `sample_weight` are those of `fit`. ValueError for y of other columns than before.
        """
        first = not hasattr(self, "y_shift_")
        x, y, weight = self._given(X, y, sample_weight, reset=first)
        scaling = Scaling.of(x, constant=1.0) if first else self.scaling_
        shift, scale = standard_of(y) if first else (self.y_shift_, self.y_scale_)
        x = scaling(x)
        data = Data(x, ((y - shift) / scale).astype(np.float32), None, weight)
        self._go_on(*self._planned("numbers", x, y.shape[1]), data)
        self.scaling_, self.y_shift_, self.y_scale_ = scaling, shift, scale
        return self

    def predict(self, X: Any) -> np.ndarray:
        """The numbers of each row, (N,) or (N, L) as `fit` was given them, in its units; X is (N, D).

        NotFittedError before `fit`, ValueError for other columns than those of `fit`.
        """
        y = self._relaxed(X) * self.y_scale_ + self.y_shift_
        return y[:, 0] if self.one_number_ else y

    def _given(self, X, y, sample_weight, *, reset):
        if y is None:
            raise ValueError("requires y to be passed, but the target y is None")
        x = checked_x(self, X, reset=reset)
        numbers: Any = np.float64  # scikit-learn's stubs know names of types alone
        y = check_array(y, dtype=numbers, ensure_2d=False, input_name="y", estimator=self)
        check_consistent_length(x, y)
        one = y.ndim == 1
        y = y[:, None] if one else y
        if reset:
            self.one_number_ = one
        elif y.shape[1] != len(self.y_shift_):
            raise ValueError(
                f"y must have the {len(self.y_shift_)} columns of the first call, got {y.shape[1]}"
            )
        weight = self._weights(sample_weight, x)
        if weight is not None and not weight.all():
            x, y, weight = x[weight > 0], y[weight > 0], weight[weight > 0]
        return x, y, weight


def standard_of(y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation of each column of y (N, L), 1 for one that is constant; ValueError beyond the numbers."""
    with np.errstate(over="ignore"):
        shift, spread = y.mean(axis=0), y.std(axis=0)
    if not np.isfinite(spread).all():
        raise ValueError("y is too large for its deviation to be a number: give it in another unit")
    return shift, np.where(spread > 0, spread, 1.0)

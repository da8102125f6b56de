"""scikit-learn estimators: `SPENClassifier`, `SPENRegressor` (`pip install 'spen_jax[estimators]'`)."""

from spen_jax.estimators.classifier import SPENClassifier
from spen_jax.estimators.regressor import SPENRegressor
from spen_jax.estimators.saving import load

__all__ = ["SPENClassifier", "SPENRegressor", "load"]

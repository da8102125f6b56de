"""scikit-learn estimators of label sets, numbers and sequences; `pip install 'spen_jax[estimators]'`."""

try:
    import sklearn as sklearn
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "the estimators need scikit-learn: pip install 'spen_jax[estimators]'", name=error.name
    ) from error

# isort: split
from spen_jax.estimators.classifier import SPENClassifier
from spen_jax.estimators.interactions import Interactions
from spen_jax.estimators.plots import plot_inference, plot_interactions
from spen_jax.estimators.regressor import SPENRegressor
from spen_jax.estimators.saving import load
from spen_jax.estimators.tagger import SPENSequenceTagger

__all__ = [
    "Interactions",
    "SPENClassifier",
    "SPENRegressor",
    "SPENSequenceTagger",
    "load",
    "plot_inference",
    "plot_interactions",
]

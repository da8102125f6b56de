"""scikit-learn estimators."""

from spen_jax.estimators.classifier import SPENClassifier
from spen_jax.estimators.tagger import SPENSequenceTagger

__all__ = ["SPENClassifier", "SPENSequenceTagger"]

"""scikit-learn estimators."""

from spen_jax.estimators.classifier import SPENClassifier

__all__ = ["SPENClassifier"]

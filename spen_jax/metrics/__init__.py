"""How good predicted label sets and rankings are, and how to turn scores into label sets."""

from spen_jax.metrics.decisions import (
    Expected,
    Fixed,
    Rule,
    Tuned,
    decide,
    expected_f1_sets,
    tune_expected,
    tune_threshold,
)
from spen_jax.metrics.labels import (
    average_precision,
    example_f1,
    hamming_error,
    macro_f1,
    micro_f1,
    precision_at_k,
)

__all__ = [
    "Expected",
    "Fixed",
    "Rule",
    "Tuned",
    "average_precision",
    "decide",
    "example_f1",
    "expected_f1_sets",
    "hamming_error",
    "macro_f1",
    "micro_f1",
    "precision_at_k",
    "tune_expected",
    "tune_threshold",
]

"""How good predicted label sets, rankings, sequences and images are, and how to turn scores into label sets."""

from spen_jax.metrics.compressed import label_sets, ranked
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
from spen_jax.metrics.images import mean_iou, pixel_accuracy, psnr
from spen_jax.metrics.labels import (
    average_precision,
    example_f1,
    hamming_error,
    macro_f1,
    micro_f1,
    precision_at_k,
    propensities,
    propensity_scored_precision_at_k,
)
from spen_jax.metrics.sequences import (
    Attachment,
    attachment,
    entities,
    entity_f1,
    token_accuracy,
    whole_accuracy,
)

__all__ = [
    "Attachment",
    "Expected",
    "Fixed",
    "Rule",
    "Tuned",
    "attachment",
    "average_precision",
    "decide",
    "entities",
    "entity_f1",
    "example_f1",
    "expected_f1_sets",
    "hamming_error",
    "label_sets",
    "macro_f1",
    "mean_iou",
    "micro_f1",
    "pixel_accuracy",
    "precision_at_k",
    "propensities",
    "propensity_scored_precision_at_k",
    "psnr",
    "ranked",
    "token_accuracy",
    "tune_expected",
    "tune_threshold",
    "whole_accuracy",
]

"""What training minimises: objectives `(params, batch, key) -> (scalar, metrics)`, the mean over a batch.

All but `feed_forward` take a `Predictor` first, which says how answers are found. Its `features` are handed `key`, for
dropout, and `mask`, which parts of y count, where they have parameters of those names. A batch is a pair
(x, y), or has fields x and y, and optionally `mask` or `length`: see `read`. Costs and losses see parts that do not
count as 0 in y and truth, so do energies wherever the truth is compared with other answers.
"""

from spen_jax.objectives.batch import Batch, Given, given, read
from spen_jax.objectives.divergence import Replay, contrastive_divergence, replay
from spen_jax.objectives.end_to_end import end_to_end, feed_forward, increasing
from spen_jax.objectives.likelihood import maximum_likelihood, pseudo_likelihood
from spen_jax.objectives.margin import (
    Variant,
    loss_augmented,
    margin_loss,
    max_margin,
    offending,
)
from spen_jax.objectives.networks import (
    PLAYERS,
    alternating,
    energy_as_loss,
    inference_network,
)
from spen_jax.objectives.noise import (
    IndependentBernoulli,
    IndependentCategorical,
    Noise,
    levels,
    nce,
    ranking_nce,
    unary_logits,
)
from spen_jax.objectives.score import denoising_score_matching, sliced_score_matching
from spen_jax.objectives.value import Source, adversarial, deep_value, value_loss

__all__ = [
    "PLAYERS",
    "Batch",
    "Given",
    "IndependentBernoulli",
    "IndependentCategorical",
    "Noise",
    "Replay",
    "Source",
    "Variant",
    "adversarial",
    "alternating",
    "contrastive_divergence",
    "deep_value",
    "denoising_score_matching",
    "end_to_end",
    "energy_as_loss",
    "feed_forward",
    "given",
    "increasing",
    "inference_network",
    "levels",
    "loss_augmented",
    "margin_loss",
    "max_margin",
    "maximum_likelihood",
    "nce",
    "offending",
    "pseudo_likelihood",
    "ranking_nce",
    "read",
    "replay",
    "sliced_score_matching",
    "unary_logits",
    "value_loss",
]

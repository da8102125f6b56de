"""Ready-made networks (Flax), and modules as pure functions."""

from spen_jax.networks.biaffine import Biaffine, BiaffineLabels, with_root
from spen_jax.networks.denoisers import NoiseNetwork
from spen_jax.networks.feature_network import Dense, FeatureNetwork
from spen_jax.networks.functions import (
    Params,
    from_structure,
    from_unary_logits,
    functions_of,
    logits_of,
)
from spen_jax.networks.images import UNet, mean_pool
from spen_jax.networks.recurrent import GRU, CausalGRU
from spen_jax.networks.words import Tagger, WordEncoder

__all__ = [
    "Biaffine",
    "BiaffineLabels",
    "CausalGRU",
    "Dense",
    "FeatureNetwork",
    "GRU",
    "NoiseNetwork",
    "Params",
    "Tagger",
    "UNet",
    "WordEncoder",
    "from_structure",
    "from_unary_logits",
    "functions_of",
    "logits_of",
    "mean_pool",
    "with_root",
]

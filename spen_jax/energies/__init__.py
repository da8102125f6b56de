"""Energies to take as they are."""

from spen_jax.energies.classic import (
    Binary,
    Distance,
    Huber,
    ImplicitRegressor,
    JointEmbedding,
    LinearMachine,
    Matcher,
    Multiclass,
    RadialBasis,
    Regressor,
    Saturated,
    absolute,
    cosine,
    euclidean,
    gaussian_bumps,
    linear,
    minus_product,
    squared,
)
from spen_jax.energies.decoders import (
    Decoder,
    Penalised,
    mixture,
    reconstruction,
    scaled_circle,
)
from spen_jax.energies.explain import (
    implied_logits,
    interactions,
)
from spen_jax.energies.graphs import GraphSPEN, Messages
from spen_jax.energies.images import ImageSPEN, Neighbours, Patches
from spen_jax.energies.labels import LabelSPEN
from spen_jax.energies.measurements import Blurred, Incomplete, Measurement, Noisy
from spen_jax.energies.posed import Posed, moved
from spen_jax.energies.predictive import PredictiveCoding
from spen_jax.energies.priors import DeepVariation, Denoising, FieldOfExperts, TotalVariation
from spen_jax.energies.restoration import Measured, Restoration, from_measurement
from spen_jax.energies.sequences import LanguageModel, Windows
from spen_jax.energies.spen import (
    SPEN,
    softplus,
)
from spen_jax.energies.structured import ChainSPEN, TreeSPEN
from spen_jax.energies.terms import (
    Cardinality,
    Convex,
    Deep,
    Pairwise,
)
from spen_jax.energies.trees import (
    Grandparents,
    Siblings,
    Valency,
)

__all__ = [
    "Binary",
    "Blurred",
    "Cardinality",
    "ChainSPEN",
    "Convex",
    "Decoder",
    "Deep",
    "DeepVariation",
    "Denoising",
    "Distance",
    "FieldOfExperts",
    "Grandparents",
    "GraphSPEN",
    "Huber",
    "ImageSPEN",
    "ImplicitRegressor",
    "Incomplete",
    "JointEmbedding",
    "LabelSPEN",
    "LanguageModel",
    "LinearMachine",
    "Matcher",
    "Measured",
    "Measurement",
    "Messages",
    "Multiclass",
    "Neighbours",
    "Noisy",
    "Pairwise",
    "Patches",
    "Penalised",
    "Posed",
    "PredictiveCoding",
    "RadialBasis",
    "Regressor",
    "Restoration",
    "SPEN",
    "Saturated",
    "Siblings",
    "TotalVariation",
    "TreeSPEN",
    "Valency",
    "Windows",
    "absolute",
    "cosine",
    "euclidean",
    "from_measurement",
    "gaussian_bumps",
    "implied_logits",
    "interactions",
    "linear",
    "minus_product",
    "mixture",
    "moved",
    "reconstruction",
    "scaled_circle",
    "softplus",
    "squared",
]

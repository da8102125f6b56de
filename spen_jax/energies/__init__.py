"""Energies to take as they are."""

from spen_jax.energies.classic import (
    Binary,
    Distance,
    ImplicitRegressor,
    LinearMachine,
    Matcher,
    Multiclass,
    RadialBasis,
    Regressor,
    Saturated,
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
from spen_jax.energies.images import ImageSPEN, Patches
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
    "Cardinality",
    "ChainSPEN",
    "Convex",
    "Decoder",
    "Deep",
    "Distance",
    "GraphSPEN",
    "Grandparents",
    "ImageSPEN",
    "ImplicitRegressor",
    "LanguageModel",
    "LinearMachine",
    "Matcher",
    "Messages",
    "Multiclass",
    "Pairwise",
    "Patches",
    "Penalised",
    "RadialBasis",
    "Regressor",
    "SPEN",
    "Saturated",
    "Siblings",
    "TreeSPEN",
    "Valency",
    "Windows",
    "cosine",
    "euclidean",
    "gaussian_bumps",
    "implied_logits",
    "interactions",
    "linear",
    "minus_product",
    "mixture",
    "reconstruction",
    "scaled_circle",
    "softplus",
    "squared",
]

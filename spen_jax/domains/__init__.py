"""Where y lives, and what is natural there: links, losses, entropies."""

from spen_jax.domains.base import NEAR, Domain, check_inside, counting
from spen_jax.domains.entropies import (
    LOGIT_FLOOR,
    PROBABILITY_FLOOR,
    binary_cross_entropy,
    binary_entropy,
    categorical_cross_entropy,
    entropy,
    total,
)
from spen_jax.domains.product import Product
from spen_jax.domains.sets import Box, L2Ball, Reals
from spen_jax.domains.simplex import Simplex

__all__ = [
    "LOGIT_FLOOR",
    "NEAR",
    "PROBABILITY_FLOOR",
    "Box",
    "Domain",
    "L2Ball",
    "Product",
    "Reals",
    "Simplex",
    "binary_cross_entropy",
    "binary_entropy",
    "categorical_cross_entropy",
    "check_inside",
    "counting",
    "entropy",
    "total",
]

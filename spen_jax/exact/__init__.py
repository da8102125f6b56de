"""All answers at once: Gibbs distributions and free energies of sets, grids and nodes."""

from spen_jax.exact.alignment import Alignment, AlignmentParts, distances
from spen_jax.exact.arguments import check_beta
from spen_jax.exact.chain import Chain, ChainParts
from spen_jax.exact.constituency_tree import ConstituencyParts, ConstituencyTree
from spen_jax.exact.dependency_tree import DependencyTree
from spen_jax.exact.estimates import Estimate, monte_carlo, variational
from spen_jax.exact.free_energy import (
    energies_at,
    energy_of_z,
    free_energy,
    free_energy_of,
    posterior,
)
from spen_jax.exact.gibbs import (
    Weights,
    energy_of,
    local_minima,
    log_probabilities,
    order,
    pairwise,
    rank,
    softargmax,
    softargmin,
    softmax,
    softmin,
)
from spen_jax.exact.hidden_markov import HiddenMarkov, expectation_maximisation
from spen_jax.exact.nodes import Nodes, gauss_hermite, gauss_legendre, periodic, tensor_rule
from spen_jax.exact.polytope import Polytope
from spen_jax.exact.segments import SegmentParts, Segments
from spen_jax.exact.structure import Found, Structure
from spen_jax.exact.structured import (
    Structured,
    structure_of,
    structured,
    structures,
    with_structure,
)

__all__ = [
    "Alignment",
    "AlignmentParts",
    "Chain",
    "ChainParts",
    "ConstituencyParts",
    "ConstituencyTree",
    "DependencyTree",
    "Estimate",
    "Found",
    "HiddenMarkov",
    "Nodes",
    "Polytope",
    "SegmentParts",
    "Segments",
    "Structure",
    "Structured",
    "Weights",
    "check_beta",
    "distances",
    "energies_at",
    "energy_of",
    "energy_of_z",
    "expectation_maximisation",
    "free_energy",
    "free_energy_of",
    "gauss_hermite",
    "gauss_legendre",
    "local_minima",
    "log_probabilities",
    "monte_carlo",
    "order",
    "pairwise",
    "periodic",
    "posterior",
    "rank",
    "softargmax",
    "softargmin",
    "softmax",
    "softmin",
    "structure_of",
    "structured",
    "structures",
    "tensor_rule",
    "variational",
    "with_structure",
]

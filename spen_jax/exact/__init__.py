"""All answers at once: Gibbs distributions and free energies of sets, structures, factor graphs and nodes."""

from spen_jax.exact.alignment import Alignment, AlignmentParts, distances
from spen_jax.exact.arguments import check_beta
from spen_jax.exact.belief_propagation import BeliefPropagation, TreeReweighted
from spen_jax.exact.candidates import Largest, largest, largest_products
from spen_jax.exact.chain import Chain, ChainParts
from spen_jax.exact.constituency_tree import ConstituencyParts, ConstituencyTree
from spen_jax.exact.counts import Counts, at_most_one, parity
from spen_jax.exact.dependency_tree import DependencyTree
from spen_jax.exact.dual_decomposition import DualDecomposition
from spen_jax.exact.elimination import Elimination, Enumeration
from spen_jax.exact.estimates import Estimate, monte_carlo, variational
from spen_jax.exact.expectations import expected
from spen_jax.exact.factor_graph import FactorGraph
from spen_jax.exact.factors import Tables
from spen_jax.exact.field import Answer, Field, Marginals
from spen_jax.exact.field_methods import Promises
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
from spen_jax.exact.graph_batches import padded
from spen_jax.exact.grid import Grid, potts
from spen_jax.exact.hidden_markov import HiddenMarkov, expectation_maximisation
from spen_jax.exact.network import Network
from spen_jax.exact.nodes import Nodes, gauss_hermite, gauss_legendre, periodic, tensor_rule
from spen_jax.exact.polytope import Polytope
from spen_jax.exact.programmes import IntegerProgramme, LinearProgramme, MinCut
from spen_jax.exact.segments import SegmentParts, Segments
from spen_jax.exact.structure import Found, Structure
from spen_jax.exact.structured import (
    Structured,
    structure_of,
    structured,
    structures,
    with_structure,
)
from spen_jax.exact.sweeps import Annealing, Gibbs, MeanField
from spen_jax.exact.uai import (
    read_evidence,
    read_solution,
    read_uai,
    write_evidence,
    write_solution,
    write_uai,
)

__all__ = [
    "Alignment",
    "AlignmentParts",
    "Annealing",
    "Answer",
    "BeliefPropagation",
    "Chain",
    "ChainParts",
    "ConstituencyParts",
    "ConstituencyTree",
    "Counts",
    "DependencyTree",
    "DualDecomposition",
    "Elimination",
    "Enumeration",
    "Estimate",
    "FactorGraph",
    "Field",
    "Found",
    "Gibbs",
    "Grid",
    "HiddenMarkov",
    "IntegerProgramme",
    "Largest",
    "LinearProgramme",
    "Marginals",
    "MeanField",
    "MinCut",
    "Network",
    "Nodes",
    "Polytope",
    "Promises",
    "SegmentParts",
    "Segments",
    "Structure",
    "Structured",
    "Tables",
    "TreeReweighted",
    "Weights",
    "at_most_one",
    "check_beta",
    "distances",
    "energies_at",
    "energy_of",
    "energy_of_z",
    "expectation_maximisation",
    "expected",
    "free_energy",
    "free_energy_of",
    "gauss_hermite",
    "gauss_legendre",
    "largest",
    "largest_products",
    "local_minima",
    "log_probabilities",
    "monte_carlo",
    "order",
    "padded",
    "pairwise",
    "parity",
    "periodic",
    "posterior",
    "potts",
    "rank",
    "read_evidence",
    "read_solution",
    "read_uai",
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
    "write_evidence",
    "write_solution",
    "write_uai",
]

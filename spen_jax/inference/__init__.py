"""argmin over y of E(x, y): solvers, the loop that runs them, and what a derivative makes of the answer."""

from spen_jax.inference.exactly import Exact
from spen_jax.inference.explain import how_it_runs
from spen_jax.inference.latent import Minima, Sparse, fista, infer, ista, minima
from spen_jax.inference.layout import over_examples, suits_last
from spen_jax.inference.minimize import Solution, minimize, minimize_best
from spen_jax.inference.plan import Differentiate, Implicit, Options, Unrolled, check_numbers
from spen_jax.inference.proximal import ProximalGradient
from spen_jax.inference.solvers import (
    FrankWolfe,
    GradientDescent,
    LineSearch,
    MirrorDescent,
    OnLogits,
    Optax,
    Solver,
)
from spen_jax.inference.starts import points

__all__ = [
    "Differentiate",
    "Exact",
    "FrankWolfe",
    "GradientDescent",
    "Implicit",
    "LineSearch",
    "Minima",
    "MirrorDescent",
    "OnLogits",
    "Optax",
    "Options",
    "ProximalGradient",
    "Solution",
    "Solver",
    "Sparse",
    "Unrolled",
    "check_numbers",
    "fista",
    "how_it_runs",
    "infer",
    "ista",
    "minima",
    "minimize",
    "minimize_best",
    "over_examples",
    "points",
    "suits_last",
]

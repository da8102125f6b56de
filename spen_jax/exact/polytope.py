"""The polytope of all mean answers of a structure, as a domain: its exact answers serve gradient inference over it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from spen_jax.domains import Domain, Simplex
from spen_jax.exact.answers import with_parts
from spen_jax.exact.chain import Chain, ChainParts
from spen_jax.exact.dependency_tree import DependencyTree
from spen_jax.exact.structure import Structure


@dataclass(frozen=True)
class Polytope(Domain):
    """The marginal polytope of the structure in context["structure"], that of a chain or a dependency tree.

    Points are marginals of parts, as `Structure.marginals` has them: `ChainParts(nodes, edges)` of a chain, arcs
    (n, n + 1) of a tree. In mirror descent logits are negative energies of the parts and the mirror map is the exact
    marginals: l <- l - step_size grad E(y), y = marginals(l). It starts at the structure's own energies, so that with
    `MirrorDescent(entropy=1)` an energy that is the structure's and no more is answered from the first point on. (The
    entropy, that of P(y), has no formula in y for all structures: a temperature is refused.) In `FrankWolfe` the oracle
    is the exact best structure. `residual` is the Frank-Wolfe gap max_s <grad E(y), y - s>, for which a convex
    energy has E(y) - min E <= gap.

    Inference starts at the structure's own marginals at beta = 1. Truth and masks are those of the structure's relaxed
    answers, (T, K) or (n, n + 1), and the loss is their cross-entropy. Only `objectives.end_to_end` trains here; what
    is known, implicit derivatives and sampling have no place: ValueError, as for a context without a `Chain` or
    `DependencyTree`. Sources: Graber & Schwing (2019); Wainwright & Jordan (2008).
    """

    @property
    def needs_context(self):
        """True: the structure stands there."""
        return True

    @property
    def has_logits(self):
        """True: negative energies of the parts."""
        return True

    def shown(self, y):
        """Of a point, or of a structure's relaxed answer, the rows of simplices."""
        return y.nodes if isinstance(y, ChainParts) else y

    def round(self, y):
        """1 at the largest entry of each row, 0 elsewhere: no structure yet, which `Structure.nearest` gives."""
        return Simplex().round(self.shown(y))

    def start(self, context: Any) -> Any:
        """The structure's own marginals at beta = 1, of a batch; ValueError for a context that has no structure."""
        return _structure_of(context).marginals()

    def within(self, context: Any) -> "Domain":
        """The polytope of one example's structure; ValueError for a context that has none."""
        return _Within(_structure_of(context))

    def check(self, y):
        """Anything goes: points come from the structure."""

    def parts(self, y):
        """Those of the structure's relaxed answers."""
        return Simplex().parts(self.shown(y))

    def pieces(self, y, mask=None):
        """Those of the structure's relaxed answers."""
        return Simplex().pieces(self.shown(y), mask)

    def loss(self, y, truth, mask=None):
        """The cross-entropy of what y shows with the truth, a relaxed answer of the structure, in nats: a scalar."""
        return Simplex().loss(self.shown(y), truth, mask)

    def project(self, y):
        """ValueError: nothing is projected onto it."""
        return _refuse()


class _Within(Domain):
    """The polytope of one example."""

    def __init__(self, structure: Structure):
        if isinstance(structure, Chain) and structure.transitions is None:
            labels = structure.y_shape()[-1]
            none = jnp.zeros((1, labels, labels), structure.unary.dtype)
            structure = structure.replaced(transitions=none)
        self.structure = structure
        self.tables = structure.spread(structure.tables())

    def _parts(self, find: Callable[[Any], Any], energies: Any) -> Any:
        """find(tables) -> indicators or marginals of one example, where its parts have these energies."""
        leaves, tree = jax.tree.flatten(self.tables)
        given = [
            jnp.where(jnp.isinf(own), own, new[None])
            for own, new in zip(leaves, jax.tree.leaves(energies), strict=True)
        ]
        found = self.structure.parts(find(tree.unflatten(given)))
        return jax.tree.map(lambda a: a[0], found)

    def project(self, y):
        """ValueError."""
        return _refuse()

    def enter(self, y):
        """y itself, the structure's own marginals."""
        return y

    def to_logits(self, y):
        """The structure's own, wherever y lies: there inference starts."""
        shape = jax.tree.structure(y)
        own = [jnp.where(jnp.isinf(a), 0, -a)[0] for a in jax.tree.leaves(self.tables)]
        return shape.unflatten(own)

    def from_logits(self, logits):
        """The exact marginals where parts have the energies -logits."""
        return self._parts(self.structure.found_marginals, jax.tree.map(jnp.negative, logits))

    def corner(self, gradient):
        """The best structure where parts have these energies."""
        return self._parts(lambda tables: with_parts(self.structure.least, tables)[1], gradient)

    def gap(self, y, gradient):
        """<gradient, y - s>, s the corner; not a number where no structure is allowed."""
        away = jax.tree.map(jnp.subtract, y, self.corner(gradient))
        gap = sum(map(jnp.vdot, jax.tree.leaves(gradient), jax.tree.leaves(away)))
        allowed = jnp.isfinite(self.structure.least(self.tables)[0])
        return jnp.where(allowed, gap, jnp.nan)


def _refuse():
    raise ValueError(
        "nothing is projected onto a Polytope: what is known of an answer, implicit derivatives, samplers and "
        "projected gradients have no place there; take MirrorDescent or FrankWolfe, unrolled or stopped"
    )


def _structure_of(context):
    found = context.get("structure") if isinstance(context, dict) else None
    if not isinstance(found, Chain | DependencyTree):
        raise ValueError(
            'a Polytope needs features that give a context with an entry "structure", a Chain or DependencyTree, as '
            f"those of a ChainSPEN or TreeSPEN do, got {jax.tree.structure(context)}"
        )
    return found

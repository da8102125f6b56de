"""Where a tree of arrays lives: each leaf in a domain of its own."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from spen_jax.domains.base import Domain


@dataclass(frozen=True, init=False)
class Product(Domain):
    """A tree of domains for a tree y: `Product({"tags": Box(), "class": Simplex()})`.

    Each leaf of y, an array, lives in the domain at its place; methods give a tree of what the leaves' own give,
    entropies and losses their sum. A mask is a tree of masks, the shapes for `initial` and `random` a tree of tuples.
    It has logits where all leaves have. ValueError for a leaf that is no domain, or is one of all of y
    (`exact.Polytope`), and for a y that is another tree.

    - `domains`: given as a tree; kept as its leaves.
    - `structure`: of that tree.
    """

    domains: tuple[Domain, ...]
    structure: Any

    def __init__(self, domains: Any):
        leaves, structure = jax.tree.flatten(domains)
        for leaf in leaves:
            if not isinstance(leaf, Domain):
                raise ValueError(f"Product needs a tree of domains, got the leaf {leaf!r}")
            if leaf.needs_context:
                raise ValueError(f"{leaf} is the domain of all of y, and no part of a Product")
        object.__setattr__(self, "domains", tuple(leaves))
        object.__setattr__(self, "structure", structure)

    def __repr__(self):
        return f"Product({self.structure.unflatten(self.domains)})"

    def _each(self, method: str, *trees: Any) -> list[Any]:
        columns = [
            [None] * len(self.domains) if tree is None else self.structure.flatten_up_to(tree)
            for tree in trees
        ]
        return [
            getattr(each, method)(*args) for each, *args in zip(self.domains, *columns, strict=True)
        ]

    def _tree(self, method: str, *trees: Any) -> Any:
        return self.structure.unflatten(self._each(method, *trees))

    def _summed(self, method: str, *trees: Any) -> jax.Array:
        return sum(self._each(method, *trees), jnp.zeros(()))

    def check(self, y):
        """ValueError where y is another tree, or a leaf does not fit its domain."""
        self._leaves(y)
        self._each("check", y)

    def _leaves(self, y):
        try:
            return self.structure.flatten_up_to(y)
        except ValueError as error:
            raise ValueError(
                f"the domain needs y to be the tree {self.structure}, got {jax.tree.structure(y)}; make one like the "
                "other, of the same NamedTuples, dicts and names"
            ) from error

    def pieces(self, y, mask=None):
        """Those of each leaf; one mask stands for all leaves."""
        if mask is None or hasattr(mask, "shape"):
            masks = [mask] * len(self.domains)
        else:
            masks = self._leaves(mask)
        paths = [
            path for path, _ in jax.tree.leaves_with_path(self.structure.unflatten(self.domains))
        ]
        return [
            (jax.tree_util.keystr(path) + below, *piece)
            for path, domain, leaf, m in zip(
                paths, self.domains, self._leaves(y), masks, strict=True
            )
            for below, *piece in domain.pieces(leaf, m)
        ]

    def outside(self, y):
        """A tree of each leaf's own."""
        return self._tree("outside", y)

    @property
    def has_logits(self):
        """Whether each leaf's domain has."""
        return all(each.has_logits for each in self.domains)

    @property
    def flat(self):
        """Whether each leaf's domain is."""
        return all(each.flat for each in self.domains)

    def parts(self, y):
        """A tree of each leaf's own."""
        return self._tree("parts", y)

    def project(self, y):
        """Each leaf projected."""
        return self._tree("project", y)

    def initial(self, shape):
        """The middle of each leaf."""
        return self._tree("initial", shape)

    def random(self, key, shape):
        """A random point of each leaf."""
        keys = self.structure.unflatten(
            list(jax.random.split(key, max(1, len(self.domains))))[: len(self.domains)]
        )
        return self._tree("random", keys, shape)

    def onto_face(self, y, target, scaled, v):
        """Each leaf's own."""
        return self._tree("onto_face", y, target, scaled, v)

    def round(self, y):
        """Each leaf rounded."""
        return self._tree("round", y)

    def to_logits(self, y):
        """The logits of each leaf."""
        return self._tree("to_logits", y)

    def from_logits(self, logits):
        """The point of each leaf's logits."""
        return self._tree("from_logits", logits)

    def entropy(self, y):
        """The sum of the leaves' entropies."""
        return self._summed("entropy", y)

    def link(self, scores):
        """The point of each leaf's scores."""
        return self._tree("link", scores)

    def loss(self, y, truth, mask=None):
        """The sum of the leaves' losses, each its domain's own."""
        return self._summed("loss", y, truth, mask)

    def loss_of_scores(self, scores, truth, mask=None):
        """The sum of the leaves' losses, each its domain's own."""
        return self._summed("loss_of_scores", scores, truth, mask)

    def corner(self, gradient):
        """The corner of each leaf."""
        return self._tree("corner", gradient)

    def reflect(self, y):
        """Each leaf reflected."""
        return self._tree("reflect", y)

"""SPENs over structured y (Flax Linen): unary potentials of any network, the structure underneath, further terms.

E(x, y) = -s(x).y + links + terms - entropy H(y), y relaxed as the structure has it: rows of simplices, over the labels
of T places (`ChainSPEN`) or over the heads of n words (`TreeSPEN`). The context holds the structure underneath, E
without terms and entropy: its exact answer is a place to start (`networks.from_structure`), its polytope one to stay
in (`exact.Polytope`).

A network is a Flax module with `hidden(x, train, mask) -> h` and `output(h) -> s`, of a batch. A term is one with
`features(h, train, mask) -> context`, of a batch, and `energy(context, y) -> scalar`, of one example, whose rows y
are 0 where they do not count. B examples, T places, n words, K labels, H hidden units.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from spen_jax.arguments import handing
from spen_jax.domains import Domain, Simplex, counting
from spen_jax.exact import Chain, ChainParts, DependencyTree, Structure

BARRED = -1e3
"""The logit of an arc that cannot be: large against any other, and small enough that a step along it stays finite."""


class ChainSPEN(nn.Module):
    """E = -sum_t s_t.y_t + sum_t y_t'A y_(t+1) + terms - entropy H(y), y (T, K) rows of simplices.

    A (K, K), the energies of transitions from row to column, starts at 0. s (T, K) are scores, high where good, E is
    low there, H in nats. A mask (B, T) says which places count. Without terms it is a conditional random field of a
    linear chain (Lafferty, McCallum & Pereira 2001), relaxed. On `exact.Polytope` y is `ChainParts`, and the second sum
    that of A times the pairs' marginals.

    Attributes:
      network: of a batch: `hidden(x, train, mask) -> (B, T, H)`, `output(h) -> s (B, T, K)`.
      terms: such as `Windows()`, modules with `features(h, train, mask) -> context` of a batch and
        `energy(context, y) -> scalar` of one example, whose rows y are 0 where they do not count; their parameters
        stand under "terms_0", "terms_1", ...
      transitions: whether there is an A.
      entropy: weight of the entropy of the rows. With weight 1 and unaries alone the minimiser is softmax(s).
    """

    network: Any
    terms: tuple[Any, ...] = ()
    transitions: bool = True
    entropy: float = 0.0

    def setup(self):
        """Names A's module "pairs"."""
        self.pairs = _Transitions() if self.transitions else None

    def features(self, x: Any, train: bool = False, mask: Any = None) -> dict[str, Any]:
        """The context: "logits" (B, T, K), "mask" (B, T), "structure", a `Chain`, and what the terms keep."""
        return context_of(self, x, train, mask)

    def structure(self, logits: jax.Array, mask: jax.Array) -> Structure:
        """The chain of -s and A, of a batch: logits s (B, T, K), mask (B, T)."""
        batch, _, labels = logits.shape
        if not self.pairs:
            return Chain(-logits, mask=mask)
        each = jnp.broadcast_to(self.pairs(labels)[None, None], (batch, 1, labels, labels))
        return Chain(-logits, each, mask=mask)

    def energy(self, context: dict[str, Any], y: Any) -> jax.Array:
        """E(x, y) of one example, y (T, K) or `ChainParts`."""
        on_polytope = isinstance(y, ChainParts)
        nodes = counting(context["mask"], y.nodes if on_polytope else y)
        energy = energy_over(self, context, nodes, Simplex())
        if self.pairs:
            A = self.pairs(nodes.shape[-1])
            pairs = y.edges if on_polytope else None
            energy += jnp.sum((nodes[:-1] @ A) * nodes[1:] if pairs is None else pairs * A[None])
        return energy

    def __call__(self, x: Any, y: jax.Array, mask: Any = None) -> jax.Array:
        """The energies of a batch, (B,); makes `init` see all parameters."""
        return energies_of(self, self.features(x, mask=mask), y)


class TreeSPEN(nn.Module):
    """E = -sum_dh s_dh y_dh + terms - entropy H(y), y (n, n + 1): row d a distribution over the heads of word d.

    s (n, n + 1) are scores of arcs, high where good, E is low there, H in nats; a mask (B, n) says which words count.
    Heads are numbered as in `exact.DependencyTree`: 0 is the root, h + 1 word h. Without terms it is the arc-factored
    model of McDonald et al. (2005), relaxed.

    Attributes:
      network: of a batch: `hidden(x, train, mask) -> (B, n, H)`, `output(h) -> s (B, n, n + 1)`.
      terms: such as `Siblings()`, with the methods that `ChainSPEN` asks of its terms; their parameters stand under
        "terms_0", "terms_1", ...
      projective: whether arcs may not cross, in the structure underneath.
      one_root: whether one word alone hangs from the root there.
      entropy: weight of the entropy of the rows.
    """

    network: Any
    terms: tuple[Any, ...] = ()
    projective: bool = False
    one_root: bool = True
    entropy: float = 0.0

    def features(self, x: Any, train: bool = False, mask: Any = None) -> dict[str, Any]:
        """The context: "logits" (B, n, n + 1), "mask" (B, n), "structure", and what the terms keep.

        The logits of a word as its own head, and of heads that do not count, are `BARRED`.
        """
        context = context_of(self, x, train, mask)
        n = context["logits"].shape[1]
        loops = jnp.eye(n, n + 1, 1, dtype=bool)[None]
        barred = loops | jnp.pad(~context["mask"], [(0, 0), (1, 0)])[:, None]
        context["logits"] = jnp.where(barred, BARRED, context["logits"])
        return context

    def structure(self, logits: jax.Array, mask: jax.Array) -> Structure:
        """The trees of arcs -s, of a batch: logits s (B, n, n + 1), mask (B, n)."""
        return DependencyTree(
            -logits, projective=self.projective, one_root=self.one_root, mask=mask
        )

    def energy(self, context: dict[str, Any], y: jax.Array) -> jax.Array:
        """E(x, y) of one example, y (n, n + 1)."""
        return energy_over(self, context, counting(context["mask"], y), Simplex())

    def __call__(self, x: Any, y: jax.Array, mask: Any = None) -> jax.Array:
        """The energies of a batch, (B,); makes `init` see all parameters."""
        return energies_of(self, self.features(x, mask=mask), y)


class _Transitions(nn.Module):
    """A (K, K), declared where K is first known."""

    @nn.compact
    def __call__(self, labels):
        return self.param("A", nn.initializers.zeros, (labels, labels))


def context_of(spen: Any, x: Any, train: bool, mask: Any) -> dict[str, Any]:
    """What a SPEN over structured y says of a batch x: "logits", "mask", its structure, what its terms keep."""
    h = handing(spen.network.hidden, train=train, mask=mask)(x)
    logits = spen.network.output(h)
    mask = jnp.ones(logits.shape[:2], bool) if mask is None else jnp.asarray(mask, bool)
    context = {"logits": logits, "mask": mask}
    if hasattr(spen, "structure"):
        context["structure"] = spen.structure(logits, mask)
    if spen.terms:
        context["terms"] = [term.features(h, train, mask) for term in spen.terms]
    return context


def energy_over(spen: Any, context: dict[str, Any], y: jax.Array, domain: Domain) -> jax.Array:
    """-s.y + terms - entropy H(y) of one example, H that of the domain."""
    energy = -jnp.sum(context["logits"] * y)
    for term, known in zip(spen.terms, context.get("terms", ()), strict=True):
        energy += term.energy(known, y)
    return energy - spen.entropy * domain.entropy(y) if spen.entropy else energy


def energies_of(spen: Any, context: Any, y: jax.Array) -> jax.Array:
    """The energies of a batch, (B,), of its context; makes `init` see all parameters."""
    # Flax's own vmap: a term may declare its parameters when it first sees y.
    of_one = type(spen).energy
    energies = nn.vmap(of_one, variable_axes={"params": None}, split_rngs={"params": False})
    return energies(spen, context, y)

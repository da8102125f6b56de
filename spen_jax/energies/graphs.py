"""Energies over the nodes of given graphs (Flax Linen): pairs along edges, and messages.

x is a dict with "edges" (B, m, 2), whole numbers of nodes that an edge joins, -1 in rows that are none, beside what
the network sees. Edges have no direction, and one of a node with itself is none. Sums over neighbours are products with
the adjacency matrix, n^2 numbers of each graph: for graphs of up to some hundred nodes. B graphs, n nodes, m edges, K
labels, H hidden units.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from spen_jax.domains import Simplex, counting
from spen_jax.energies.spen import softplus
from spen_jax.energies.structured import context_of, energies_of, energy_over
from spen_jax.networks import Dense

_normal = nn.initializers.normal


class GraphSPEN(nn.Module):
    """E = -sum_i s_i.y_i + sum_(edges i, j) y_i'A y_j + terms - entropy H(y), y (n, K) rows of simplices.

    x is a dict with "edges" (B, m, 2), whole numbers of nodes that an edge joins, -1 in rows that are none, beside what
    the network sees. Edges have no direction, and one of a node with itself is none. Time and memory grow as n^2: for
    graphs of up to some hundred nodes. A, of all edges, is symmetric and starts at 0: without terms it is a pairwise
    Markov random field with shared tables.

    Attributes:
      network: of a batch: `hidden(x, train, mask) -> (B, n, H)`, `output(h) -> s (B, n, K)`.
      terms: such as `Messages()`, whose context is given the graph's "adjacency"; with the methods that `ChainSPEN`
        asks of its terms.
      pairs: whether there is an A.
      entropy: weight of the entropy of the rows.
    """

    network: Any
    terms: tuple[Any, ...] = ()
    pairs: bool = True
    entropy: float = 0.0

    def features(self, x: Any, train: bool = False, mask: Any = None) -> dict[str, Any]:
        """The context: "logits" (B, n, K), "mask" (B, n), "adjacency" (B, n, n), and what the terms keep."""
        context = context_of(self, x, train, mask)
        counts = context["mask"]
        context["adjacency"] = adjacency = adjacencies(x["edges"], counts)
        for known in context.get("terms", ()):
            known["adjacency"] = adjacency
        return context

    @nn.compact
    def energy(self, context: dict[str, Any], y: jax.Array) -> jax.Array:
        """E(x, y) of one example, y (n, K); declares R (K, K), of which A = (R + R') / 2."""
        y = counting(context["mask"], y)
        energy = energy_over(self, context, y, Simplex())
        if self.pairs:
            R = self.param("R", nn.initializers.zeros, (y.shape[-1],) * 2)
            energy += jnp.sum((context["adjacency"] @ y) * (y @ (R + R.T))) / 4
        return energy

    def __call__(self, x: Any, y: jax.Array, mask: Any = None) -> jax.Array:
        """The energies of a batch, (B,); makes `init` see all parameters."""
        return energies_of(self, self.features(x, mask=mask), y)


class Messages(nn.Module):
    """-sum_i v.u_i, u_i <- g(U u_i + V sum_(j next to i) u_j + b_1) in rounds, from u_i = g(W y_i + b_0 [+ Cx h_i]).

    A term of `GraphSPEN`, y (n, K) and h (n, H) of one graph. Smooth; each round lets a node hear of nodes one edge
    further away. Weights are those of all nodes and rounds, so that graphs of any size and shape do. Source: Gilmer et
    al. (2017), with y among what is passed on. ValueError for no rounds.

    Attributes:
      width: units of a node.
      rounds: of messages.
      sees_features: whether there is Cx h_i.
    """

    width: int = 64
    rounds: int = 2
    sees_features: bool = False

    def setup(self):
        """Declares Cx (H, width) where the term sees the features; ValueError for no rounds."""
        if self.rounds < 1:
            raise ValueError(f"Messages needs rounds of 1 or more, got {self.rounds}")
        self.Cx = Dense(self.width, use_bias=False) if self.sees_features else None

    def features(self, h: jax.Array, train: bool, mask: jax.Array) -> dict[str, Any]:
        """The context: "mask" (B, n), and "shift" (B, n, width) where the term sees the features."""
        return {"mask": mask} | ({"shift": self.Cx(h)} if self.Cx else {})

    @nn.compact
    def energy(self, context: dict[str, Any], y: jax.Array) -> jax.Array:
        """The term of one example, y (n, K)."""
        counts, width = context["mask"][:, None], self.width
        biases = [self.param(f"b_{i}", nn.initializers.zeros, (width,)) for i in range(2)]
        W = self.param("W", _normal(1.0), (y.shape[-1], width))
        U, V = (self.param(name, _normal((2 * width) ** -0.5), (width, width)) for name in "UV")
        units = softplus(y @ W + biases[0][None] + context.get("shift", 0)) * counts
        for _ in range(self.rounds):
            heard = context["adjacency"] @ units
            units = softplus(units @ U + heard @ V + biases[1][None]) * counts
        return -jnp.sum(units @ self.param("v", _normal(0.1 / width**0.5), (width,)))


def adjacencies(edges: jax.Array, mask: jax.Array) -> jax.Array:
    """1 where an edge (B, m, 2) joins two nodes that count by the mask (B, n), else 0: symmetric, (B, n, n).

    Nodes are numbered from 0; a row with a number below 0, or of n and more, is no edge.
    """
    n = mask.shape[1]
    # Of a row that is no edge both ends lie beyond the nodes, and are dropped.
    ends = jnp.where(jnp.any(edges < 0, -1, keepdims=True), n, edges)

    def of_one(ends, mask):
        found = jnp.zeros((n, n)).at[ends[:, 0], ends[:, 1]].set(1, mode="drop")
        return jnp.maximum(found, found.T) * mask[:, None] * mask[None] * (1 - jnp.eye(n))

    return jax.vmap(of_one)(ends, mask)

"""The energy of Belanger & McCallum (2016) as a Flax module.

B examples, D inputs, L labels, H hidden units, M global units.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from spen_jax.domains import binary_entropy
from spen_jax.networks import Dense, FeatureNetwork


@jax.custom_jvp
def softplus(x: jax.Array) -> jax.Array:
    """log(1 + exp(x)), (...) -> (...), with sigmoid(x) as its derivative.

    Inference, which needs only that, skips the logarithm.
    """
    return jnp.logaddexp(x, 0.0)


@softplus.defjvp
def _softplus_jvp(primals, tangents):
    return softplus(primals[0]), jax.nn.sigmoid(primals[0]) * tangents[0]


class SPEN(nn.Module):
    """E(x, y) = -s(x).y + c2.g(C1 y + b [+ Cx F(x)]) [- entropy H(y)] [+ further terms].

    The energy of Belanger & McCallum (2016), section 3, for x (B, D) and L labels: y (L,) on Box(0, 1), the corners
    being the label sets; low where good, H in nats. ValueError for a y of another shape. F is the last hidden layer of
    the feature network, s its logits, so that the unary potentials are -s and start where pre-training left them (last
    layer and bias included); the global term measures how well the labels go together. With `n_global = 0` the
    minimiser is the feature network's own answer, which `logits_of(spen)` starts inference from.

    Attributes:
      network: the feature network; its parameters stand under "network", the global term's under C1, b, c2, Cx.
      n_global: M, the units of the global term.
      activation: g, smooth; softplus in the paper.
      sees_features: whether the global term has Cx F(x).
      entropy: weight of the binary entropy. With weight 1 and no global term the minimiser is sigmoid(s).
      global_scale: standard deviation at which C1 and c2 start, each over the root of its fan-in.
      global_dropout: the share of global units left out in a training step, the same units for all y of an example.
      terms: such as `Deep()`, modules with `features(h, train) -> context`, of the last hidden layer (B, H) of a batch,
        and `energy(context, y) -> scalar` of one example; their parameters stand under "terms_0", "terms_1", ...
    """

    network: FeatureNetwork
    n_global: int = 16
    activation: Callable[[jax.Array], jax.Array] = softplus
    sees_features: bool = False
    entropy: float = 0.0
    global_scale: float = 1.0
    global_dropout: float = 0.0
    terms: tuple[nn.Module, ...] = ()

    def setup(self):
        """Declares C1 (M, L), b (M,) and c2 (M,), and Cx (H, M) where the global term sees the features."""
        labels, units = self.network.n_labels, self.n_global
        normal = nn.initializers.normal
        self.C1 = self.param("C1", normal(self.global_scale / labels**0.5), (units, labels))
        self.b = self.param("b", nn.initializers.zeros, (units,))
        self.c2 = self.param("c2", normal(self.global_scale / max(units, 1) ** 0.5), (units,))
        if self.sees_features and units:
            self.Cx = Dense(units, use_bias=False)
        self.drop = nn.Dropout(self.global_dropout)

    def features(self, x: jax.Array, train: bool = False) -> dict[str, Any]:
        """The context, (B, D) -> "logits" (B, L) and, where they play a part, "shift" and "keep" (B, M) and "terms"."""
        h = self.network.hidden(x, train)
        context: dict[str, Any] = {"logits": self.network.output(h)}
        if self.sees_features and self.n_global:
            context["shift"] = self.Cx(h)
        if train and self.global_dropout:
            context["keep"] = self.drop(jnp.ones((len(x), self.n_global)), deterministic=False)
        if self.terms:
            context["terms"] = [term.features(h, train) for term in self.terms]
        return context

    def energy(self, context: dict[str, Any], y: jax.Array) -> jax.Array:
        """E(x, y) of one example, y of shape (L,); ValueError for another shape."""
        if jnp.shape(y) != (self.network.n_labels,):
            raise ValueError(
                f"this SPEN's network has n_labels={self.network.n_labels}, and y must have shape "
                f"({self.network.n_labels},) for each example, got {jnp.shape(y)}"
            )
        units = self.activation(self.C1 @ y + (self.b + context.get("shift", 0)))
        energy = self.c2 @ (units * context.get("keep", 1)) - context["logits"] @ y
        for term, known in zip(self.terms, context.get("terms", ()), strict=True):
            energy += term.energy(known, y)
        return energy - self.entropy * binary_entropy(y) if self.entropy else energy

    def __call__(self, x: jax.Array, y: jax.Array) -> jax.Array:
        """The energies of a batch, (B, D) and (B, L) -> (B,); makes `init` see all parameters."""
        # Flax's own vmap: a term may declare its parameters when it first sees y.
        energies = nn.vmap(
            SPEN.energy, variable_axes={"params": None}, split_rngs={"params": False}, in_axes=0
        )
        return energies(self, self.features(x), y)

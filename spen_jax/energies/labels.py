"""The SPEN of very many labels: its parameters lie by label, and its energy takes any of them.

B examples, D inputs, L labels, H hidden units, M global units, k labels of a shortlist.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from spen_jax import exact
from spen_jax.domains import binary_entropy
from spen_jax.energies.spen import softplus
from spen_jax.networks import FeatureNetwork


class LabelSPEN(nn.Module):
    """E(x, y) = -s(x).y + c2.softplus(y C + b) - entropy H(y), s = W F(x) + bias, F(x) the last hidden layer.

    Of a batch x (B, D), y (L,) in [0, 1] of one example, M global units, H(y) in nats. `SPEN`'s energy (Belanger &
    McCallum 2016), with C1 turned and the network's last layer beside it: each label is a row of W (L, H), bias (L,)
    and C (L, M). Once they are made, rows may be any: a shortlist's, those that a batch touches, a device's. Time and
    memory grow with the rows, and do not depend on how many others there are. ValueError for a network without a hidden
    layer.

    Attributes:
      network: its hidden layers are the features, at least one; its n_labels is how many rows `init` makes, and its own
        last layer is not used.
      n_global: M, the units of the global term.
      entropy: weight of the binary entropy; with weight 1 and no global term the minimiser is sigmoid(s).
      global_scale: standard deviation at which C and c2 start, each over the root of its fan-in.
    """

    network: FeatureNetwork
    n_global: int = 16
    entropy: float = 0.0
    global_scale: float = 1.0

    def setup(self):
        """Declares W (L, H), bias (L,), C (L, M), b (M,) and c2 (M,); ValueError for a network of no hidden layer."""
        if not self.network.widths:
            raise ValueError(
                "a LabelSPEN needs a hidden layer, whose units its labels weigh: give widths=(150,)"
            )
        labels, hidden, units = self.network.n_labels, self.network.widths[-1], self.n_global
        normal, zeros = nn.initializers.normal, nn.initializers.zeros
        # As the network's own last layer starts, of which W is the transpose.
        of_layer = nn.initializers.lecun_normal(in_axis=-1, out_axis=-2)
        self.W = self._rows("W", of_layer, (labels, hidden))
        self.bias = self._rows("bias", zeros, (labels,))
        self.C = self._rows("C", normal(self.global_scale / labels**0.5), (labels, units))
        self.b = self.param("b", zeros, (units,))
        self.c2 = self.param("c2", normal(self.global_scale / max(units, 1) ** 0.5), (units,))

    def _rows(self, name, start, shape):
        """A parameter of any number of rows once it is made, which `param` would hold to its shape."""
        if self.is_initializing():
            return self.param(name, start, shape)
        return self.get_variable("params", name)

    def features(self, x: Any, train: bool = False) -> dict[str, jax.Array]:
        """The context of all rows, (B, D) -> "logits" (B, L)."""
        return {"logits": self.network.hidden(x, train) @ self.W.T + self.bias[None]}

    def shortlist(self, x: Any, k: int) -> dict[str, jax.Array]:
        """The context of the k largest s of each example: "labels" (B, k), ascending, "logits" (B, k), "C" (B, k, M).

        ValueError for a k outside 1..L.
        """
        found = exact.largest_products(self.network.hidden(x), self.W, k, self.bias)
        order = jnp.argsort(found.labels, axis=1)
        labels, logits = (jnp.take_along_axis(a, order, axis=1) for a in found[::-1])
        return {"labels": labels, "logits": logits, "C": self.C[labels]}

    def energy(self, context: dict[str, jax.Array], y: jax.Array) -> jax.Array:
        """E(x, y) of one example, y (L,), or (k,) of the labels in its context, whose others stand at 0.

        ValueError for another shape.
        """
        scores, C = context["logits"], context.get("C", self.C)
        if jnp.shape(y) != scores.shape:
            raise ValueError(
                f"y must have a number for each of the context's {len(scores)} labels, got shape {jnp.shape(y)}"
            )
        energy = self.c2 @ softplus(y @ C + self.b) - scores @ y
        return energy - self.entropy * binary_entropy(y) if self.entropy else energy

    def __call__(self, x: Any, y: jax.Array) -> jax.Array:
        """The energies of a batch, (B, D) and (B, L) -> (B,); makes `init` see all parameters."""
        return jax.vmap(self.energy)(self.features(x), y)

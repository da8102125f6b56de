"""Feature networks (Flax Linen): what x alone says of each label. D inputs, L labels, H hidden units."""

from collections.abc import Callable

import jax
from flax import linen as nn


class FeatureNetwork(nn.Module):
    """logits(x): a multi-layer perceptron with one output per label, the SPEN's feature network and its control.

    `hidden` gives the last hidden layer F(x), (..., H); the call gives W F(x) + b, (..., L).
    Dropout is active where `train` is true, and then needs an rng named "dropout". With `normalise` each
    layer's sums pass a LayerNorm, over the units of one example, before the activation.
    """

    n_labels: int
    widths: tuple[int, ...] = (150,)
    activation: Callable[[jax.Array], jax.Array] = nn.relu
    input_dropout: float = 0.0
    dropout: float = 0.0
    normalise: bool = False

    def setup(self):
        """Names the layers hidden_0, hidden_1 and so on (their norms norm_0, norm_1, ...), and output."""
        depth = range(len(self.widths))
        self.hidden_layers = [nn.Dense(self.widths[i], name=f"hidden_{i}") for i in depth]
        self.norms = [nn.LayerNorm(name=f"norm_{i}") if self.normalise else None for i in depth]
        self.output = nn.Dense(self.n_labels)
        self.drop_input = nn.Dropout(self.input_dropout)
        self.drop = nn.Dropout(self.dropout)

    def hidden(self, x: jax.Array, train: bool = False) -> jax.Array:
        """F(x), (..., D) -> (..., H)."""
        h = self.drop_input(x, deterministic=not train)
        for layer, norm in zip(self.hidden_layers, self.norms, strict=True):
            sums = norm(layer(h)) if norm else layer(h)
            h = self.drop(self.activation(sums), deterministic=not train)
        return h

    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """The logits, (..., D) -> (..., L)."""
        return self.output(self.hidden(x, train))

"""Feature networks (Flax Linen): what x alone says of each label. D inputs, L labels, H hidden units."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
from flax import linen as nn

from spen_jax import sparse


class Dense(nn.Dense):
    """x W + b, (..., D) -> (..., features): Flax's layer, which also takes sparse `Rows`; parameters are the same.

    They are "kernel" (D, features) and "bias" (features,). Its fields are those of `flax.linen.Dense`, of which `dtype`
    and `precision` play no part for sparse rows (B, D).
    """

    @nn.compact
    def __call__(self, inputs: Any) -> jax.Array:
        """The layer's sums, (..., D) -> (..., features)."""
        if not sparse.is_rows(inputs):
            return super().__call__(inputs)
        shape = inputs.shape[-1], self.features
        sums = inputs @ self.param("kernel", self.kernel_init, shape, self.param_dtype)
        if not self.use_bias:
            return sums
        return sums + self.param("bias", self.bias_init, (self.features,), self.param_dtype)[None]


class FeatureNetwork(nn.Module):
    """logits(x): a multi-layer perceptron with one output per label, the SPEN's feature network and its control.

    `hidden` gives the last hidden layer F(x), (..., H); the call gives W F(x) + b, (..., L). Dropout is active where
    `train` is true, and then needs an rng named "dropout". x (..., D) may be sparse, a SciPy matrix (B, D) or
    `sparse.Rows`; its zeros stay zeros under dropout.

    - `n_labels`: L.
    - `widths`: the units of each hidden layer, H the last; () for none, a linear model.
    - `activation`: of the hidden layers.
    - `input_dropout`: the share of the inputs left out in a training step.
    - `dropout`: the share of the units of each hidden layer left out.
    - `normalise`: whether each layer's sums pass a LayerNorm, over the units of one example, before the activation.
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
        self.hidden_layers = [Dense(self.widths[i], name=f"hidden_{i}") for i in depth]
        self.norms = [nn.LayerNorm(name=f"norm_{i}") if self.normalise else None for i in depth]
        self.output = Dense(self.n_labels)
        self.drop_input = nn.Dropout(self.input_dropout)
        self.drop = nn.Dropout(self.dropout)

    def hidden(self, x: Any, train: bool = False) -> Any:
        """F(x), (..., D) -> (..., H); without hidden layers x itself, sparse where it is."""
        h = sparse.on_values(partial(self.drop_input, deterministic=not train), sparse.whole(x))
        for layer, norm in zip(self.hidden_layers, self.norms, strict=True):
            sums = norm(layer(h)) if norm else layer(h)
            h = self.drop(self.activation(sums), deterministic=not train)
        return h

    def __call__(self, x: Any, train: bool = False) -> jax.Array:
        """The logits, (..., D) -> (..., L)."""
        return self.output(self.hidden(x, train))

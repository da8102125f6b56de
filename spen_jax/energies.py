"""Ready-made networks (Flax Linen).

The rest of the library needs none of them. A model is two pure functions: `features(params, x) ->
context`, everything that does not depend on y, once per batch, and `energy(params, context, y) ->
scalar`, for one example. `functions_of` makes them from a Flax module with methods of those names.
B examples, D inputs, L labels, H hidden units, M global units.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from spen_jax.domains import binary_entropy

Params = Any


@jax.custom_jvp
def softplus(x: jax.Array) -> jax.Array:
    """log(1 + exp(x)), with sigmoid(x) as its derivative: inference, which needs only that, skips the logarithm."""
    return jnp.logaddexp(x, 0.0)


@softplus.defjvp
def _softplus_jvp(primals, tangents):
    return softplus(primals[0]), jax.nn.sigmoid(primals[0]) * tangents[0]


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


class SPEN(nn.Module):
    """E(x, y) = -s(x).y + c2.g(C1 y + b [+ Cx F(x)]) [- entropy H(y)] [+ further terms].

    The energy of Belanger & McCallum (2016), section 3: F is the last hidden layer of the feature network, s its
    logits, so that the unary potentials are -s and start where pre-training left them (last layer and
    bias included); the global term measures how well the labels go together. With `n_global = 0` the
    minimiser is the feature network's own answer.

    Attributes:
      network: the feature network; its parameters stand under "network", the global term's under C1, b, c2, Cx.
      n_global: M, the units of the global term.
      activation: g, smooth; softplus in the paper.
      sees_features: whether the global term has Cx F(x).
      entropy: weight of the binary entropy. With weight 1 and no global term the minimiser is sigmoid(s).
      global_scale: standard deviation at which C1 and c2 start, each over the root of its fan-in.
      global_dropout: the share of global units left out in a training step, the same units for all y of an example.
      terms: further terms, modules as in `spen_jax.terms`; their parameters stand under "terms_0", "terms_1", ...
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
            self.Cx = nn.Dense(units, use_bias=False)
        self.drop = nn.Dropout(self.global_dropout)

    def features(self, x: jax.Array, train: bool = False) -> dict[str, Any]:
        """The context, (B, D) -> "logits" (B, L) and, where they play a part, "shift" and "keep" (B, M) and "terms"."""
        h = self.network.hidden(x, train)
        context = {"logits": self.network.output(h)}
        if self.sees_features and self.n_global:
            context["shift"] = self.Cx(h)
        if train and self.global_dropout:
            context["keep"] = self.drop(jnp.ones((len(x), self.n_global)), deterministic=False)
        if self.terms:
            context["terms"] = [term.features(h, train) for term in self.terms]
        return context

    def energy(self, context: dict[str, Any], y: jax.Array) -> jax.Array:
        """E(x, y) of one example, y of shape (L,)."""
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


def functions_of(module: Any) -> tuple[Callable[..., Any], Callable[..., jax.Array]]:
    """The two pure functions of a Flax module with methods `features(x, train)` and `energy(context, y)`.

    Returns `features(params, x, key=None) -> context`, where a key switches dropout on, and
    `energy(params, context, y) -> scalar`. `params` is `module.init(...)["params"]`. Equal modules
    give the same functions, so that nothing compiles twice.
    """
    return _with_dropout(module, "features"), _energy_of(module)


def logits_of(network: Any) -> Callable[..., jax.Array]:
    """`logits(params, x, key=None)` of a Flax module called as `network(x, train)`; see `functions_of`."""
    return _with_dropout(network, "__call__")


@lru_cache(maxsize=64)
def _energy_of(module: Any) -> Callable[..., jax.Array]:
    def energy(params: Params, context: Any, y: jax.Array) -> Any:
        return module.apply({"params": params}, context, y, method="energy")

    return energy


@lru_cache(maxsize=64)
def _with_dropout(module: Any, method: str) -> Callable[..., Any]:
    def function(params: Params, x: Any, key: jax.Array | None = None) -> Any:
        rngs = None if key is None else {"dropout": key}
        return module.apply({"params": params}, x, key is not None, rngs=rngs, method=method)

    return function

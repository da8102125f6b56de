"""The functions that the library takes and gives, by their types."""

from collections.abc import Callable
from typing import Any

import jax

Energy = Callable[[Any, Any, Any], jax.Array]
"""(params, context, y) -> scalar, for one example; lower is better."""

LatentEnergy = Callable[[Any, Any, Any, Any], jax.Array]
"""(params, x, y, z) -> scalar, for one example, z latent."""

Network = Callable[[Any, Any], jax.Array]
"""(params, x) -> G(x), for one example."""

Features = Callable[..., Any]
"""(params, x) -> context, for a batch; handed `key` (dropout, in training) and `mask` where it has such parameters."""

Cost = Callable[..., jax.Array]
"""(y, truth) -> scalar, for one example; handed `mask` where it has such a parameter."""

Objective = Callable[[Any, Any, jax.Array], tuple[jax.Array, dict[str, jax.Array]]]
"""(params, batch, key) -> (scalar, metrics): what training minimises."""

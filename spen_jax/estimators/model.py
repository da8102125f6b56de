"""The energies behind the estimators: pure functions of a dict of arrays, made without Flax so that they start soon.

B rows, D inputs, H hidden units, L outputs, M global units. All kinds share one network, h = g(W x + b), s = V h + c
[+ S x for classes and numbers, so that what is linear is learned soon]:

- "labels", y in [0, 1]^L:  E = -s.y + k.softplus(C y + U h + d) - H(y) [- y'A y / 2]
- "classes", y on a simplex: E = -s.y - H(y), whose minimiser is softmax(s): one column has nothing to relate
- "numbers", y in R^L:       E = |y - s|^2 / 2 + k.softplus(C y + U h + d)

and inference starts at the network's own answer.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from spen_jax import losses, objectives, sparse
from spen_jax.domains import Box, Reals, Simplex, binary_entropy
from spen_jax.energies import softplus
from spen_jax.inference import GradientDescent, MirrorDescent
from spen_jax.networks.functions import from_unary_logits
from spen_jax.predictor import Predictor
from spen_jax.types import Objective

Kind = Literal["labels", "classes", "numbers"]


class Shape(NamedTuple):
    """What decides a program: whatever differs in one of these compiles anew, and nothing else does."""

    kind: Kind
    inputs: int
    hidden: int
    outputs: int
    units: int
    """Of the global term; 0 for none."""
    pairs: bool = False
    """Whether there is a matrix A of pairs."""
    steps: int = 3
    known: float = 0.0
    """The largest share of the truth that training tells inference."""
    f1_weight: float = 0.0
    """The weight of 1 - soft F1 beside the cross-entropy."""

    @property
    def answering(self) -> "Shape":
        """Without what plays a part in training only."""
        return self._replace(known=0.0, f1_weight=0.0)


class Model(NamedTuple):
    """How a shape predicts and what trains it; parameters are one flat array, which compiles soonest."""

    predictor: Predictor
    objective: Objective
    unravel: Callable[[Any], dict[str, Any]]


def sizes(shape: Shape) -> dict[str, tuple[int, ...]]:
    """The parameters by name. `rates`, the shares of inputs and hidden units dropped in training, are not learned."""
    _, D, H, L, M = shape[:5]
    named: dict[str, tuple[int, ...]] = {
        "W": (D, H),
        "b": (H,),
        "V": (H, L),
        "c": (L,),
        "rates": (2,),
    }
    if shape.kind != "labels":
        named |= {"S": (D, L)}
    if M:
        named |= {"U": (H, M), "C": (M, L), "d": (M,), "k": (M,)}
    if shape.pairs:
        named |= {"A": (L, L)}
    return named


def started(shape: Shape, rng: np.random.Generator, rates: tuple[float, float]) -> np.ndarray:
    """Flat parameters (P,) to start from."""
    spreads = {"W": shape.inputs**-0.5, "V": shape.hidden**-0.5, "U": shape.hidden**-0.5}
    # Large enough to matter from the start: at a smaller scale the global term hardly leaves 0.
    spreads |= {"C": 3 * shape.outputs**-0.5, "k": 3 * max(shape.units, 1) ** -0.5}
    if shape.kind == "numbers":
        spreads |= {"C": shape.outputs**-0.5, "k": 0.1 * max(shape.units, 1) ** -0.5}
    parts = [
        np.asarray(rates) if name == "rates" else spreads.get(name, 0) * rng.standard_normal(size)
        for name, size in sizes(shape).items()
    ]
    return np.concatenate([np.ravel(part) for part in parts]).astype(np.float32)


def with_rates(shape: Shape, flat: np.ndarray, rates: tuple[float, float]) -> np.ndarray:
    """Flat parameters (P,) with other shares that are dropped in training."""
    ends = np.cumsum([np.prod(size, dtype=int) for size in sizes(shape).values()])
    at = int(ends[list(sizes(shape)).index("rates")])
    flat = flat.copy()
    flat[at - 2 : at] = rates
    return flat


def factors(shape: Shape, of_global: float) -> np.ndarray:
    """How fast each of the flat parameters learns, beside the network's: 1; what relates labels; 0 for the rates."""
    return _by_name(shape, {"rates": 0.0} | dict.fromkeys("CdkA", of_global))


def decays(shape: Shape) -> np.ndarray:
    """How much each of the flat parameters decays, beside the network's: 1; pairs, so many that they overfit: 100."""
    return _by_name(shape, {"rates": 0.0, "A": 100.0})


def _by_name(shape, known):
    parts = [np.full(size, known.get(name, 1.0)) for name, size in sizes(shape).items()]
    return np.concatenate([part.ravel() for part in parts]).astype(np.float32)


def unravel_of(shape: Shape) -> Callable[[Any], dict[str, Any]]:
    """(P,) -> the parameters by name."""
    named = sizes(shape)
    ends = np.cumsum([np.prod(size, dtype=int) for size in named.values()])

    def unravel(flat):
        split = np.split if isinstance(flat, np.ndarray) else jnp.split
        parts = split(flat, ends[:-1].tolist())
        return {
            name: part.reshape(size)
            for (name, size), part in zip(named.items(), parts, strict=True)
        }

    return unravel


def features(params: Any, x: Any, key: jax.Array | None = None) -> dict[str, jax.Array]:
    """The context, (B, D) -> "logits" s (B, L) and, with a global term, "shift" U h (B, M)."""
    # Rates are parameters, so that other ones are no other program; they have no gradient.
    rates = jax.lax.stop_gradient(params["rates"])
    keys = (None, None) if key is None else jax.random.split(key)
    x = sparse.on_values(lambda values: _dropped(keys[0], rates[0], values), sparse.whole(x))
    h = _dropped(keys[1], rates[1], jax.nn.relu(x @ params["W"] + params["b"][None]))
    logits = h @ params["V"] + params["c"][None]
    context = {"logits": logits + x @ params["S"] if "S" in params else logits}
    if "U" in params:
        context["shift"] = h @ params["U"]
    return context


def _dropped(key, rate, values):
    if key is None:
        return values
    kept = jax.random.uniform(key, values.shape) >= rate
    return jnp.where(kept, values / (1 - rate), 0)


def _together(params, context, y):
    """The terms of an energy that relate outputs to each other."""
    energy = 0.0
    if "U" in params:
        units = params["C"] @ y + (params["d"] + context["shift"])
        energy += params["k"] @ softplus(units)
    if "A" in params:
        A = params["A"]
        energy -= (y @ (A @ y) - jnp.diagonal(A) @ y**2) / 2
    return energy


def of_labels(params: Any, context: Any, y: jax.Array) -> jax.Array:
    """-s.y - H(y) and what relates labels, y (L,)."""
    return _together(params, context, y) - context["logits"] @ y - binary_entropy(y)


def of_classes(params: Any, context: Any, y: jax.Array) -> jax.Array:
    """-s.y - H(y), y (L,) on the simplex."""
    return -context["logits"] @ y - Simplex().entropy(y)


def of_numbers(params: Any, context: Any, y: jax.Array) -> jax.Array:
    """|y - s|^2 / 2 and what relates outputs, y (L,)."""
    return _together(params, context, y) + jnp.sum((y - context["logits"]) ** 2) / 2


def _logits(context, domain):
    return context["logits"]


@lru_cache(maxsize=64)
def model_of(shape: Shape) -> Model:
    """One object for each shape, so that equal ones share what is compiled."""
    if shape.kind == "classes":
        predictor = Predictor(
            of_classes, features, domain=Simplex(), steps=0, start=from_unary_logits
        )
        objective = objectives.feed_forward(scores, domain=Simplex())
    else:
        predictor = _relating(shape)
        weights = (0.1, *[0.0] * (shape.steps - 1), 1.0) if shape.steps else None
        loss = _task_loss(shape.f1_weight) if shape.kind == "labels" else losses.squared_error
        # A caller tells labels that were chosen; of the others it knows nothing, and so it is in training.
        objective = objectives.end_to_end(
            predictor, loss=loss, weights=weights, known=shape.known, known_on=True
        )
    unravel = unravel_of(shape)

    def of_flat(flat, batch, key):
        return objective(unravel(flat), batch, key)

    return Model(predictor, of_flat, unravel)


def _relating(shape):
    if shape.kind == "numbers":
        solver, domain, start = GradientDescent(0.5, 0.0), Reals(), _logits
        energy = of_numbers
    else:
        solver, domain, start = MirrorDescent(), Box(), from_unary_logits
        energy = of_labels
    return Predictor(
        energy,
        features,
        domain=domain,
        solver=solver,
        steps=shape.steps,
        start=start,
        differentiate="unrolled",
    )


def scores(params: Any, x: Any, key: jax.Array | None = None) -> jax.Array:
    """s alone, (B, D) -> (B, L)."""
    return features(params, x, key)["logits"]


@lru_cache(maxsize=64)
def _task_loss(weight: float) -> Callable[..., jax.Array]:
    """cross-entropy + weight x (1 - soft F1) of one row."""
    if not weight:
        return losses.cross_entropy

    def loss(y, truth):
        return losses.cross_entropy(y, truth) + weight * losses.soft_f1_error(y, truth)

    return loss

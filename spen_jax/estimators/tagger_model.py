"""The energies behind the tagger: a chain and windows of labels on a network of places or of words.

E(x, y) = -s(x).y + sum_t y_t'A y_(t+1) - sum_t v.g(W_2 * g(W_1 * y)), y (T, K) rows of simplices, from which entropic
mirror descent finds the answer, from y = softmax(s) on. B sequences, T places, K labels, H hidden units.
"""

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from spen_jax import objectives
from spen_jax.domains import Simplex
from spen_jax.energies import ChainSPEN, Windows
from spen_jax.inference import MirrorDescent
from spen_jax.networks import Dense, Tagger, WordEncoder, functions_of
from spen_jax.networks.functions import from_unary_logits
from spen_jax.predictor import Predictor
from spen_jax.types import Objective


class Shape(NamedTuple):
    """What decides a program: whatever differs in one of these compiles anew, and nothing else does."""

    kind: str
    inputs: tuple[int, ...]
    """(D,) of vectors, how many features, or a lexicon's three sizes."""
    labels: int
    hidden: int
    windows: int
    """Units of each layer of the windows; 0 for none."""
    steps: int
    known: float = 0.0
    """The largest share of the truth that training tells inference."""
    dropout: float = 0.0
    """Of words; other networks have it among their parameters."""
    word_dropout: float = 0.0

    @property
    def answering(self) -> "Shape":
        """Without what plays a part in training only."""
        return self._replace(known=0.0, dropout=0.0, word_dropout=0.0)


class Model(NamedTuple):
    """How a shape predicts and what trains it; parameters are one flat array, which compiles soonest."""

    predictor: Predictor
    objective: Objective
    unravel: Callable[[Any], Any]


class Perceptron(nn.Module):
    """s_t = V relu(W x_t + b) + c, each place by itself; x "values" (B, T, D), or "ids" and "weights" (B, T, F).

    Its parameter `rates`, the shares of inputs and hidden units dropped in training, is not learned: other rates are no
    other program.
    """

    inputs: int
    units: int
    labels: int

    def setup(self):
        """Declares rates, W and b, and names the last layer "output"."""
        self.rates = self.param("rates", nn.initializers.zeros, (2,))
        self.W = self.param("W", nn.initializers.lecun_normal(), (self.inputs, self.units))
        self.b = self.param("b", nn.initializers.zeros, (self.units,))
        self.output = Dense(self.labels)

    def hidden(self, x: dict[str, Any], train: bool = False, mask: Any = None) -> jax.Array:
        """h (B, T, H)."""
        rates = jax.lax.stop_gradient(self.rates)
        if "values" in x:
            h = self._dropped(rates[0], x["values"], train) @ self.W
        else:
            weights = self._dropped(rates[0], x["weights"], train)
            h = jnp.einsum("btf,btfh->bth", weights, self.W[x["ids"]])
        return self._dropped(rates[1], nn.relu(h + self.b[None, None]), train)

    def _dropped(self, rate, values, train):
        if not train:
            return values
        kept = jax.random.uniform(self.make_rng("dropout"), values.shape) >= rate
        return jnp.where(kept, values / (1 - rate), 0)

    def __call__(self, x: dict[str, Any], train: bool = False, mask: Any = None) -> jax.Array:
        """The logits, (B, T, K)."""
        return self.output(self.hidden(x, train, mask))


def spen_of(shape: Shape) -> ChainSPEN:
    """The Flax module."""
    if shape.kind == "words":
        sizes: Any = shape.inputs
        encoder = WordEncoder(
            sizes, shape.hidden, dropout=shape.dropout, word_dropout=shape.word_dropout
        )
        network = Tagger(encoder, shape.labels)
    else:
        network = Perceptron(shape.inputs[0], shape.hidden, shape.labels)
    terms = (Windows((shape.windows,) * 2),) if shape.windows else ()
    return ChainSPEN(network, terms=terms)


def fields_like(shape: Shape, *leading: int) -> dict[str, np.ndarray]:
    """Fields of zeros with those leading axes."""
    if shape.kind == "vectors":
        return {"values": np.zeros((*leading, *shape.inputs), np.float32)}
    if shape.kind == "features":
        ids = np.zeros((*leading, 4), np.int32)
        return {"ids": ids, "weights": ids.astype(np.float32)}
    sizes = {"words": (), "suffixes": (2,), "characters": (14,)}
    return {name: np.zeros((*leading, *size), np.int32) for name, size in sizes.items()}


@lru_cache(maxsize=64)
def _tree(shape):
    """The parameters' shapes with their paths, and the structure."""
    leaves, structure = jax.tree.flatten_with_path(
        jax.eval_shape(partial(_init, shape), jax.random.key(0))
    )
    return [(jax.tree_util.keystr(path), leaf.shape) for path, leaf in leaves], structure


def _init(shape, key):
    y = jnp.full((1, 1, shape.labels), 1 / shape.labels)
    return spen_of(shape).init(key, fields_like(shape, 1, 1), y)["params"]


def started(shape: Shape, seed: int) -> np.ndarray:
    """Flat parameters (P,) to start from: those of the module's own `init`, drawn without a program to compile."""
    rng = np.random.default_rng(seed)
    parts = [_drawn(path, size, rng) for path, size in _tree(shape.answering)[0]]
    return np.concatenate([np.ravel(part) for part in parts]).astype(np.float32)


def _drawn(path, size, rng):
    if "V_" in path:  # a recurrent layer's: an orthogonal block for each gate
        blocks = rng.standard_normal((3, size[0], size[0]))
        return np.concatenate([np.linalg.qr(block)[0] for block in blocks], axis=1)
    window = "terms_0" in path
    if len(size) == 1:
        spread = 0.1 * size[0] ** -0.5 if window and "'v'" in path else 0.0
    elif "pairs" in path or path.endswith("['c']"):
        spread = 0.0
    elif "embedding" in path:
        spread = size[-1] ** -0.5
    elif window:
        spread = (size[0] if "W_1" in path else size[0] * size[1]) ** -0.5
    else:
        spread = size[0] ** -0.5
    return spread * rng.standard_normal(size) if spread else np.zeros(size)


def with_rates(shape: Shape, flat: np.ndarray, rates: tuple[float, float]) -> np.ndarray:
    """The parameters with the shares of inputs and of hidden units that training drops; words have none there."""
    flat = flat.copy()
    if shape.kind != "words":
        flat[_of(shape, "rates")] = rates
    return flat


def factors(shape: Shape, of_pairs: float) -> np.ndarray:
    """How fast each of the flat parameters learns: transitions, the others 1, and 0 for the rates."""
    factor = np.ones(_ends(shape)[-1], np.float32)
    factor[_of(shape, "rates")], factor[_of(shape, "'pairs'")] = 0, of_pairs
    return factor


def _ends(shape):
    return np.cumsum([int(np.prod(size)) for _, size in _tree(shape.answering)[0]])


def _of(shape, text):
    """Which of the flat parameters have a text in their path, (P,)."""
    named = _tree(shape.answering)[0]
    return np.concatenate([np.full(int(np.prod(size)), text in path) for path, size in named])


def unravel_of(shape: Shape) -> Callable[[Any], Any]:
    """(P,) -> the parameters as a tree."""
    named, structure = _tree(shape.answering)
    ends = _ends(shape)[:-1].tolist()

    def unravel(flat):
        parts = jnp.split(flat, ends)
        return structure.unflatten(
            [a.reshape(size) for a, (_, size) in zip(parts, named, strict=True)]
        )

    return unravel


@lru_cache(maxsize=64)
def model_of(shape: Shape) -> Model:
    """One object for each shape, so that equal ones share what is compiled.

    x is {"fields": ..., "mask": (B, T)}, which places there are; a batch's own mask says which labels are known.
    """
    module = spen_of(shape)

    def features(params, x, key=None):
        rngs = None if key is None else {"dropout": key}
        given = x["fields"], key is not None, x["mask"]
        return module.apply({"params": params}, *given, rngs=rngs, method="features")

    predictor = Predictor(
        functions_of(module)[1],
        features,
        domain=Simplex(),
        solver=MirrorDescent(0.5),
        temperature=1.0,
        steps=shape.steps,
        start=from_unary_logits,
        differentiate="unrolled",
    )
    objective = objectives.end_to_end(predictor, weights=weights_of(shape), known=shape.known)
    unravel = unravel_of(shape)

    def of_flat(flat, batch, key):
        return objective(unravel(flat), batch, key)

    return Model(predictor, of_flat, unravel)


def weights_of(shape: Shape) -> tuple[float, ...]:
    """How much each point of inference counts in training: those of the last half alike."""
    last = max(shape.steps // 2, 1)
    return (0.0,) * (shape.steps + 1 - last) + (1 / last,) * last

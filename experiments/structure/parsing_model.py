"""A parser of arcs and relations, the ways to train it, and its answers.

Words pass the encoder's lower layers and one more GRU; biaffine scores of arcs, with or without terms of second order,
make a `TreeSPEN`, and relations are scored for heads that are given. B sentences, n words, R relations.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

import spen_jax as sx
from experiments.structure.encoder import WordEncoder
from spen_jax import exact, networks
from spen_jax.energies import Grandparents, Siblings, TreeSPEN

UNITS = 256


class Arcs(nn.Module):
    """The network of the `TreeSPEN`: biaffine scores of vectors that stand in their sentence already."""

    units: int

    def setup(self):
        """Declares the scores' parameters."""
        self.scores = networks.Biaffine(self.units)

    def hidden(self, x: jax.Array, train: bool = False, mask: Any = None) -> jax.Array:
        """x."""
        return x

    def output(self, h: jax.Array) -> jax.Array:
        """(B, n, H) -> (B, n, n + 1)."""
        return self.scores(h)


class Parser(nn.Module):
    """The upper part: a GRU over the lower layers' vectors, a `TreeSPEN` of arcs, and relations.

    Its functions (`functions_of`) are those of the SPEN; the context has also "relations", what
    `BiaffineLabels.of_heads` wants to know.
    """

    n_relations: int
    terms: tuple[Any, ...] = ()
    units: int = UNITS
    of_arcs: int = 320
    of_relations: int = 64
    dropout: float = 0.33

    def setup(self):
        """Declares the parts."""
        self.top = networks.GRU(self.units)
        self.drop = nn.Dropout(self.dropout, broadcast_dims=(1,))
        self.spen = TreeSPEN(Arcs(self.of_arcs), terms=self.terms)
        self.relations = networks.BiaffineLabels(self.n_relations, self.of_relations)

    def features(self, x: jax.Array, train: bool = False, mask: Any = None) -> dict[str, Any]:
        """The context, of vectors (B, n, H)."""
        h = self.top(self.drop(x, deterministic=not train), mask)
        h = self.drop(h, deterministic=not train)
        return self.spen.features(h, train, mask) | {"relations": self.relations.parts(h)}

    def energy(self, context: dict[str, Any], y: jax.Array) -> jax.Array:
        """E of one sentence."""
        return self.spen.energy(context, y)

    def scores(self, parts: Any, heads: jax.Array) -> jax.Array:
        """Of the relations of words with these heads, (B, n, R)."""
        return self.relations.of_heads(parts, heads)

    def __call__(self, x: jax.Array, y: jax.Array, heads: jax.Array, mask: Any) -> Any:
        """Makes `init` see all parameters."""
        context = self.features(x, mask=mask)
        return self.spen(x, y, mask), self.scores(context["relations"], heads)


class Whole(nn.Module):
    """Encoder and parser, for the first training."""

    sizes: tuple[int, int, int]
    parser: Parser

    def setup(self):
        """Declares the lower layers, all GRUs but the last."""
        drop = self.parser.dropout
        self.lower = WordEncoder(self.sizes, UNITS, 2, dropout=drop, word_dropout=0.15)

    def vectors(self, x: Any, train: bool = False, mask: Any = None) -> jax.Array:
        """What the parser sees, (B, n, 2 UNITS)."""
        return self.lower(x, train, mask)

    def features(self, x: Any, train: bool = False, mask: Any = None) -> dict[str, Any]:
        """The context."""
        return self.parser.features(self.lower(x, train, mask), train, mask)

    def energy(self, context: dict[str, Any], y: jax.Array) -> jax.Array:
        """E of one sentence."""
        return self.parser.energy(context, y)

    def scores(self, parts: Any, heads: jax.Array) -> jax.Array:
        """Of the relations of words with these heads, (B, n, R)."""
        return self.parser.scores(parts, heads)

    def __call__(self, x: Any, y: jax.Array, heads: jax.Array, mask: Any) -> Any:
        """Makes `init` see all parameters."""
        return self.parser(self.lower(x, mask=mask), y, heads, mask)


@dataclass(frozen=True)
class Method:
    """How arcs are trained and found."""

    loss: str
    """"heads", "trees", "projective", "margin" or "unrolled"."""
    steps: int = 0
    """Of mirror descent from the marginals, where there are terms."""
    terms: tuple[Any, ...] = ()


SECOND_ORDER = Siblings(64, dropout=0.2), Grandparents(64, dropout=0.2)
METHODS = {
    "head softmax": Method("heads"),
    "tree likelihood": Method("trees"),
    "projective likelihood": Method("projective"),
    "max-margin": Method("margin"),
    "second order, 3 steps": Method("unrolled", 3, SECOND_ORDER),
    "second order, 1 step": Method("unrolled", 1, SECOND_ORDER),
}


def head_scores(params: Any, context: dict[str, Any]) -> jax.Array:
    """Scores of heads, with the least number for those that a word cannot have, (B, n, n + 1)."""
    scores, mask = context["logits"], context["mask"]
    barred = jnp.pad(~mask, [(0, 0), (1, 0)])[:, None] | jnp.eye(*scores.shape[1:], 1, dtype=bool)[None]
    return jnp.where(barred, -1e9, scores)


def trees_of(projective: bool, params: Any, context: dict[str, Any]) -> Any:
    """The trees of one sentence's arcs."""
    return exact.DependencyTree(-context["logits"], projective=projective, mask=context["mask"])


ANY_TREES, PROJECTIVE_TREES = partial(trees_of, False), partial(trees_of, True)


@lru_cache(maxsize=32)
def predictor_of(module: Any, steps: int) -> sx.Predictor:
    """Marginals, then so many steps of mirror descent among the trees' marginals, for a context that is there."""
    return sx.Predictor(
        sx.functions_of(module)[1],
        start=networks.from_structure,
        domain=exact.Polytope(),
        solver=sx.MirrorDescent(1.0),
        temperature=1.0,
        steps=steps,
    )


def arc_objective(module: Any, method: Method) -> Any:
    """The objective of the arcs alone, of batches whose x is a context."""
    if method.loss == "heads":
        return sx.objectives.feed_forward(head_scores, domain=sx.Simplex())
    if method.loss == "unrolled":
        return sx.objectives.end_to_end(predictor_of(module, method.steps))
    trees = PROJECTIVE_TREES if method.loss == "projective" else ANY_TREES
    exactly = sx.Predictor.of_structure(trees)
    if method.loss == "margin":
        return sx.objectives.max_margin(exactly, cost=sx.losses.hamming)
    return sx.objectives.maximum_likelihood(exactly)


@lru_cache(maxsize=32)
def objective_of(module: Any, method: Method) -> Callable[..., Any]:
    """The loss of the arcs and the cross-entropy of the relations of true arcs, both a word."""
    features, arcs = sx.functions_of(module)[0], arc_objective(module, method)

    def objective(params, batch, key):
        own_key, arc_key = jax.random.split(key)
        mask, heads = batch["mask"], batch["heads"]
        words = jnp.sum(mask)
        context = dict(features(params, batch["x"], own_key, mask))
        scores = module.apply({"params": params}, context.pop("relations"), heads, method="scores")
        each = optax.softmax_cross_entropy_with_integer_labels(scores, batch["relations"])
        of_relations = jnp.sum(jnp.where(mask, each, 0)) / words
        y = jax.nn.one_hot(heads, heads.shape[1] + 1)
        of_arcs = arcs(params, {"x": context, "y": y, "mask": mask}, arc_key)[0] * len(mask) / words
        return of_arcs + of_relations, {
            "loss": of_arcs + of_relations,
            "of_arcs": of_arcs,
            "of_relations": of_relations,
        }

    return objective


def paths_of(module: Any, steps: int, params: Any, context: Any) -> jax.Array:
    """y from the marginals to the last step, (B, steps + 1, n, n + 1)."""
    predictor = predictor_of(module, steps)
    found = sx.minimize(
        predictor.energy,
        params,
        context,
        predictor.points(context),
        **predictor.options(params, trace="y"),
    )
    return found.trace["y"]


@partial(jax.jit, static_argnums=(0, 1))
def answers(module: Any, steps: int, params: Any, x: Any, mask: jax.Array) -> dict[str, Any]:
    """Heads (B, n) and relations of trees: "any", "projective", and after each step; "greedy" heads are no tree.

    Without terms trees are those of the best scores; with terms those with the fewest wrong heads expected under the
    marginals that inference has found.
    """
    features, _ = sx.functions_of(module)
    context = dict(features(params, x, mask=mask))
    parts = context.pop("relations")

    def labelled(heads):
        scores = module.apply({"params": params}, parts, heads, method="scores")
        return heads, jnp.argmax(scores, -1)

    def tree(arcs, projective=False):
        return exact.DependencyTree(-arcs, projective=projective, mask=mask).best().y

    scores = context["logits"]
    found = {"greedy": (jnp.argmax(head_scores(params, context), -1),)}
    if steps:
        path = paths_of(module, steps, params, context)
        scores = path[:, -1]
        for t in range(steps):
            found[f"step {t}"] = labelled(tree(path[:, t]))
    return found | {"any": labelled(tree(scores)), "projective": labelled(tree(scores, True))}

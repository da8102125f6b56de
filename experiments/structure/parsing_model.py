"""A parser of arcs and relations, the ways to train its arcs, and its answers.

Words pass an encoder; biaffine scores of arcs, with or without terms of second order, make a `TreeSPEN`, and relations
are scored for heads that are given. B sentences, n words, H hidden units, R relations.
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
from spen_jax import exact, networks
from spen_jax.energies import Grandparents, Siblings, TreeSPEN

UNITS, OF_ARCS, OF_RELATIONS = 256, 320, 64


class Arcs(nn.Module):
    """The network of the `TreeSPEN`: biaffine scores of vectors that stand in their sentence already."""

    def setup(self):
        """Declares the scores' parameters."""
        self.scores = networks.Biaffine(OF_ARCS)

    def hidden(self, x: jax.Array) -> jax.Array:
        """x."""
        return x

    def output(self, h: jax.Array) -> jax.Array:
        """(B, n, H) -> (B, n, n + 1)."""
        return self.scores(h)


class Parser(nn.Module):
    """The encoder, a `TreeSPEN` of arcs alone, and relations, for the first training."""

    sizes: tuple[int, int, int]
    n_relations: int
    dropout: float = 0.25

    def setup(self):
        """Declares the parts."""
        self.encoder = networks.WordEncoder(
            self.sizes, UNITS, 3, dropout=self.dropout, word_dropout=0.15
        )
        self.spen = TreeSPEN(Arcs())
        self.relations = networks.BiaffineLabels(self.n_relations, OF_RELATIONS)

    def vectors(self, x: Any, train: bool = False, mask: Any = None) -> jax.Array:
        """Words in their sentence, (B, n, H)."""
        return self.encoder(x, train, mask)

    def of_relations(self, h: jax.Array, heads: jax.Array) -> jax.Array:
        """Scores of the relations of words with these heads, (B, n, R)."""
        return self.relations(h, heads)

    def __call__(self, x: Any, heads: jax.Array, train: bool = False, mask: Any = None) -> Any:
        """The context of the SPEN, and the scores of relations."""
        h = self.encoder(x, train, mask)
        return self.spen.features(h, train, mask), self.relations(h, heads)


@lru_cache(maxsize=8)
def first_objective(parser: Parser) -> Callable[..., Any]:
    """Cross-entropy of heads by a softmax, and of the relations of true arcs, both a word."""

    def objective(params, batch, key):
        mask, heads = batch["mask"], batch["heads"]
        rngs = {"dropout": key}
        found: Any = parser.apply({"params": params}, batch["x"], heads, True, mask, rngs=rngs)
        context, scores = found
        each = optax.softmax_cross_entropy_with_integer_labels
        of_arcs, of_relations = (
            jnp.sum(jnp.where(mask, each(scores, truth), 0)) / jnp.sum(mask)
            for scores, truth in (
                (context["logits"], jnp.maximum(heads, 0)),
                (scores, jnp.maximum(batch["relations"], 0)),
            )
        )
        loss = of_arcs + of_relations
        return loss, {"loss": loss, "of_arcs": of_arcs, "of_relations": of_relations}

    return objective


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
    "second order, 3 steps": Method("unrolled", 3, SECOND_ORDER),
    "second order, 1 step": Method("unrolled", 1, SECOND_ORDER),
    "tree likelihood": Method("trees"),
    "max-margin": Method("margin"),
    "projective likelihood": Method("projective"),
}


def spen_of(method: Method) -> TreeSPEN:
    """The energy over trees, of vectors that the encoder has made."""
    return TreeSPEN(Arcs(), terms=method.terms)


def trees_of(projective: bool, params: Any, context: dict[str, Any]) -> Any:
    """The trees of one sentence's arcs."""
    return exact.DependencyTree(-context["logits"], projective=projective, mask=context["mask"])


ANY_TREES, PROJECTIVE_TREES = partial(trees_of, False), partial(trees_of, True)


@lru_cache(maxsize=32)
def predictor_of(method: Method) -> sx.Predictor:
    """Mirror descent among the marginals of trees, from those of the arcs alone.

    The mirror map is the exact marginals, y = mean of trees with arcs -l. With the entropy H of the trees a step of
    length 1 on E(y) - H(y) reads l <- -dE/dy = s - d terms / dy.
    """
    features, energy = sx.functions_of(spen_of(method))
    return sx.Predictor(
        energy,
        features,
        domain=exact.Polytope(),
        solver=sx.MirrorDescent(1.0, entropy=1.0),
        steps=method.steps,
    )


@lru_cache(maxsize=32)
def objective_of(method: Method) -> Callable[..., Any]:
    """The objective of the arcs, of batches whose x are vectors."""
    features = sx.functions_of(spen_of(method))[0]
    if method.loss == "heads":
        return sx.objectives.feed_forward(_head_scores(features), domain=sx.Simplex())
    if method.loss == "unrolled":
        return sx.objectives.end_to_end(predictor_of(method))
    trees = PROJECTIVE_TREES if method.loss == "projective" else ANY_TREES
    exactly = sx.Predictor.of_structure(trees, features)
    if method.loss == "margin":
        return sx.objectives.max_margin(exactly, cost=sx.losses.hamming)
    return sx.objectives.maximum_likelihood(exactly)


def _head_scores(features):
    def scores(params, x, key=None, mask=None):
        return features(params, x, key, mask=mask)["logits"]

    return scores


@partial(jax.jit, static_argnums=0)
def vectors(parser: Parser, params: Any, key: Any, x: Any, mask: jax.Array) -> jax.Array:
    """What the encoder makes of words, (B, n, H); with a key under dropout."""
    rngs, train = (None, False) if key is None else ({"dropout": key}, True)
    found: Any = parser.apply({"params": params}, x, train, mask, rngs=rngs, method="vectors")
    return found


@partial(jax.jit, static_argnums=(0, 1))
def answers(parser: Parser, method: Method, params: Any, key: None, h: Any, mask: Any) -> Any:
    """Heads (B, n) and relations of trees: "any", "projective", and after each step; "greedy" heads are no tree.

    params: those of the parser, and of the arcs. Trees are those with the fewest wrong heads expected under the
    marginals, with terms those that inference has found; without terms there are those of the best scores too,
    "best" and "best projective".
    """
    of_parser, of_arcs = params
    context = sx.functions_of(spen_of(method))[0](of_arcs, h, mask=mask)

    def labelled(heads):
        scores: Any = parser.apply({"params": of_parser}, h, heads, method="of_relations")
        return heads, jnp.argmax(scores, -1)

    def trees(arcs, projective=False):
        return exact.DependencyTree(-arcs, projective=projective, mask=mask)

    def tree(arcs, projective=False):
        return labelled(trees(arcs, projective).best().y)

    scores, path, found = context["logits"], [], {}
    if method.steps:
        predictor = predictor_of(method)
        options = predictor.options(of_arcs, trace="y")
        start = predictor.points(context)
        path = sx.minimize(predictor.energy, of_arcs, context, start, **options).trace["y"]
        path = jnp.moveaxis(path, 1, 0)
        any_marginals = projective_marginals = path[-1]
    else:
        any_marginals, projective_marginals = (trees(scores, p).mean()[1] for p in (False, True))
        found = {"best": tree(scores), "best projective": tree(scores, True)}
    return {
        "any": tree(any_marginals),
        "projective": tree(projective_marginals, True),
        "greedy": (jnp.argmax(scores, -1),),
        **found,
        **{f"step {t}": tree(path[t]) for t in range(method.steps)},
    }

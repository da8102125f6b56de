"""Every way to train one energy: what the multi-label experiments compare.

All methods train the energy of Belanger & McCallum (2016) with entropy, predict by the same inference on logits
from the network's own answer, and stand beside a control: the same method, energy and settings without the
global term. Its minimiser is the feature network's answer, so that the difference is what the global term adds.
"""

import itertools
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import spen_jax as sx
from experiments import shared
from experiments.labels.inputs import NetworkWithOthers
from experiments.labels.protocol import Model
from experiments.labels.settings import Settings
from spen_jax import losses, objectives
from spen_jax.domains import binary_entropy
from spen_jax.training import Phase, Recipe


class Parts(NamedTuple):
    """What a method trains with."""

    settings: Settings
    n_labels: int
    predictor: sx.Predictor
    answer: Any  # (phi, x, key) -> logits of the second network, of methods that have one

    def cost(self, y: jax.Array, truth: jax.Array) -> jax.Array:
        """D(y, truth) = margin x squared error."""
        return self.settings.margin * losses.squared_error(y, truth)

    @property
    def noise(self) -> dict[str, Any]:
        """What noise-contrastive objectives compare the truth with: draws of the network's own answer."""
        return {"noise": objectives.IndependentBernoulli(), "samples": self.settings.samples}

    def margin(self, variant: objectives.Variant) -> tuple[Phase, ...]:
        """By a structured hinge loss."""
        objective = objectives.max_margin(self.predictor, cost=self.cost, variant=variant)
        return self.phases(objective)

    def first(self, *frozen: str) -> Recipe:
        """How a method that starts from a trained network is trained, these parameters frozen."""
        s = self.settings
        recipe = from_scratch(s, *frozen)
        return replace(recipe, epochs=s.energy_epochs, weight_decay=s.joint_decay, keep="best")

    def second(self, *frozen: str) -> Recipe:
        """And after that."""
        s = self.settings
        return replace(self.first(*frozen), epochs=s.joint_epochs, learning_rate=s.joint_rate)

    def phases(self, objective: Any, prepare: Any = None) -> tuple[Phase, ...]:
        """From a trained network: first with its hidden layer frozen, then all parameters."""
        return (
            Phase("energy", objective, self.first("hidden"), prepare),
            Phase("all together", objective, self.second(), prepare),
        )


def from_scratch(s: Settings, *frozen: str) -> Recipe:
    """How networks, and energies from random parameters, are trained."""
    return Recipe(
        s.epochs,
        s.learning_rate,
        s.weight_decay,
        s.batch_size,
        average=s.average,
        keep="last" if s.to_the_end else "best",
        patience=s.patience,
        rates=(
            *((name, 0.0) for name in frozen),
            ("others", 10.0),
            ("network", 1.0),
            ("", s.global_rate),
        ),
    )


def task_loss(soft_f1_weight: float) -> Callable[..., jax.Array]:
    """cross-entropy + weight x (1 - soft F1)."""

    def loss(y, truth):
        return losses.cross_entropy(y, truth) + soft_f1_weight * losses.soft_f1_error(y, truth)

    return loss


def end_to_end(p: Parts, differentiate: Any = None) -> tuple[Phase, ...]:
    """Through unrolled steps, with a tenth of a say for the network's own answer; or at the minimiser."""
    weights = None if differentiate else (0.1, *[0] * (p.settings.steps - 1), 1)
    predictor = replace(p.predictor, differentiate=differentiate)
    loss = task_loss(p.settings.soft_f1_weight)
    objective = objectives.end_to_end(predictor, loss=loss, weights=weights)
    return (Phase("all together", objective, from_scratch(p.settings)),)


def enumerated(p: Parts) -> tuple[Phase, ...]:
    """Maximum likelihood through all label sets."""
    if p.n_labels > 10:
        shared.fail(
            f"likelihood goes through all label sets, of 10 labels at most, here {p.n_labels}: take ranking"
        )
    answers = np.array(list(itertools.product((0.0, 1.0), repeat=p.n_labels)), np.float32)
    return p.phases(objectives.maximum_likelihood(p.predictor, answers=answers))


def divergence(p: Parts, persistent: bool) -> tuple[Phase, ...]:
    """Contrastive divergence by flips of single labels."""

    def at_truth(data, key):
        # From random corners, half of all labels on, ten flips an epoch never arrive.
        return objectives.Replay(data.x, data.y, data.y[:, None])

    objective = objectives.contrastive_divergence(
        p.predictor,
        sampler=sx.sampling.GibbsWithGradients(),
        steps=p.settings.samples,
        persistent=persistent,
    )
    return p.phases(objective, at_truth if persistent else None)


def _log_partition(params, context):
    """Of the energy without its global term, so that noise-contrastive estimation starts normalised."""
    return jnp.sum(jax.nn.softplus(context["logits"]), axis=-1)


def inference_network(p: Parts) -> tuple[Phase, ...]:
    """Against each other; then the inference network alone, without the cost, for prediction."""

    def objective(variant):
        return objectives.inference_network(
            p.predictor,
            answer=p.answer,
            cost=p.cost,
            variant=variant,
            cross_entropy=p.settings.weight,
        )

    return (
        Phase("the two players", objective("margin"), replace(p.second(), alternate=True)),
        Phase("for prediction", objective("perceptron"), p.first("energy")),
    )


def energy_as_loss(p: Parts, learn: Any) -> tuple[Phase, ...]:
    """A learning energy beside its task network, or first the energy and then the network."""
    s = p.settings
    objective = objectives.energy_as_loss(
        p.predictor, answer=p.answer, weight=s.weight, learn=learn, samples=s.samples
    )
    if learn:
        return (Phase("both", objective, replace(p.second(), alternate=True)),)
    ranking = objectives.ranking_nce(p.predictor, **p.noise)

    def alone(params, batch, key):
        return ranking(params["energy"], batch, key)

    return (
        Phase("energy", alone, p.first("answer", "hidden")),
        Phase("task network", objective, p.second("energy")),
    )


class Method(NamedTuple):
    """A way to train."""

    title: str
    phases: Callable[[Parts], tuple[Phase, ...]]
    from_scratch: bool = False
    """Whether it starts from random parameters and not from the network trained by cross-entropy."""
    two_players: bool = False
    """Whether a second network answers: parameters are {"energy": ..., "answer": {"network": ...}}."""


IMPLICIT = sx.Implicit(steps=100, tolerance=1e-2)
METHODS = {
    "max-margin": Method("max-margin", lambda p: p.margin("margin")),
    "slack": Method("slack rescaling", lambda p: p.margin("slack")),
    "perceptron": Method("perceptron", lambda p: p.margin("perceptron")),
    "contrastive": Method("contrastive hinge", lambda p: p.margin("contrastive")),
    "end-to-end": Method("end to end", end_to_end, True),
    "end-to-end-others": Method("end to end, sees other rows' labels", end_to_end, True),
    "implicit": Method("implicit", partial(end_to_end, differentiate=IMPLICIT), True),
    "likelihood": Method("likelihood by enumeration", enumerated),
    "pseudo-likelihood": Method(
        "pseudo-likelihood", lambda p: p.phases(objectives.pseudo_likelihood(p.predictor))
    ),
    "contrastive-divergence": Method(
        "contrastive divergence", partial(divergence, persistent=False)
    ),
    "persistent": Method("persistent CD", partial(divergence, persistent=True)),
    "nce": Method(
        "noise-contrastive",
        lambda p: p.phases(objectives.nce(p.predictor, log_partition=_log_partition, **p.noise)),
    ),
    "ranking": Method(
        "ranking NCE", lambda p: p.phases(objectives.ranking_nce(p.predictor, **p.noise))
    ),
    "deep-value": Method("deep value", lambda p: p.phases(objectives.deep_value(p.predictor))),
    "inference-network": Method("inference network", inference_network, two_players=True),
    "seal-static": Method(
        "energy as loss, static", partial(energy_as_loss, learn=None), two_players=True
    ),
    "seal-dynamic": Method(
        "energy as loss, dynamic", partial(energy_as_loss, learn="ranking_nce"), two_players=True
    ),
}


def spen_of(settings: Settings, n_labels: int) -> sx.SPEN:
    """The paper's energy on a network of one hidden layer, with entropy for an inference on logits."""
    s = settings
    dropout: dict[str, Any] = {"input_dropout": s.input_dropout, "dropout": s.dropout}
    network: Any = sx.FeatureNetwork(n_labels, (s.width,), **dropout)
    if s.others:
        network = NetworkWithOthers(n_labels, s.width, **dropout)
    return sx.SPEN(
        network,
        s.global_units,
        sees_features=s.sees_features,
        global_dropout=s.global_dropout,
        entropy=1.0,
        global_scale=3.0,
    )


def predictor_of(module: Any, steps: int) -> sx.Predictor:
    """Inference on logits, from the network's own answer, of a module with features and an energy."""
    features, energy = sx.functions_of(module)
    return sx.Predictor(energy, features, start=sx.logits_of(module), steps=steps)


def init_of(module: Any) -> Callable[..., Any]:
    """(key, x, y) -> parameters, of a network or of a module with an energy."""

    def init(key, x, y):
        return module.init(key, *((x, y) if hasattr(module, "energy") else (x,)))["params"]

    return init


@lru_cache(maxsize=64)
def alone(network: Any) -> sx.Predictor:
    """A network's own answer, the minimiser of -s.y - H(y), at once."""
    logits = sx.logits_of(network)
    return sx.Predictor(
        lambda params, s, y: -s @ y - binary_entropy(y), logits, start=jax.nn.sigmoid, steps=0
    )


def of_two_players(predictor: sx.Predictor, answer: Any) -> sx.Predictor:
    """From the second network's answer down the energy."""

    def features(params, x):
        context = predictor.context(params["energy"], x)
        return {"energy": context, "logits": answer(params["answer"], x)}

    def energy(params, context, y):
        return predictor.energy(params["energy"], context["energy"], y)

    return replace(predictor, energy=energy, features=features)


@lru_cache(maxsize=64)
def network_model(settings: Settings, n_labels: int) -> Model:
    """The feature network alone, trained by cross-entropy: where most methods start."""
    network: Any = spen_of(settings, n_labels).network
    objective = objectives.feed_forward(sx.logits_of(network))
    phase = Phase("features", objective, replace(from_scratch(settings), rates=()))
    return Model("network, cross-entropy", init_of(network), (phase,), alone(network))


@lru_cache(maxsize=64)
def model_of(settings: Settings, name: str, n_labels: int, local: bool = False) -> Model:
    """One method's model; with `local` its control, the energy without a global term."""
    method, spen = METHODS[name], spen_of(settings, n_labels)
    if local:
        spen = spen.clone(n_global=0)
    logits, predictor = sx.logits_of(spen.network), predictor_of(spen, settings.steps)

    def answer(phi, x, key=None):
        return logits(phi["network"], x, key)

    def init_both(key, x, y):
        phi = init_of(spen.network)(jax.random.fold_in(key, 1), x, y)
        return {"energy": init_of(spen)(key, x, y), "answer": {"network": phi}}

    two = method.two_players
    return Model(
        method.title + (", no global term" if local else ""),
        init_both if two else init_of(spen),
        method.phases(Parts(settings, n_labels, predictor, answer)),
        of_two_players(predictor, answer) if two else predictor,
        network_from=None if method.from_scratch else "network",
    )


def build(
    settings: Settings, name: str, n_labels: int, of_control: Settings | None = None
) -> dict[str, Model]:
    """A method beside its controls, in the order in which they are trained: "network", "control", "spen"."""
    return {
        "network": network_model(settings, n_labels),
        "control": model_of(of_control or settings, name, n_labels, local=True),
        "spen": model_of(settings, name, n_labels),
    }

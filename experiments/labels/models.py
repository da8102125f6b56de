"""Every way to train one energy: what the multi-label experiments compare.

All methods train the energy of Belanger & McCallum (2016) with entropy, predict by the same inference on logits
from the network's own answer, and stand beside a control: the same method, energy and settings without the
global term. Its minimiser is the feature network's answer, so that the difference is what the global term adds.
"""

import itertools
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
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
    answer: Any
    """(phi, x, key) -> logits of the second network, of methods that have one."""

    def recipe(self, *rates: tuple[str, float]) -> Recipe:
        """How networks, and energies from scratch, are trained."""
        s = self.settings
        return Recipe(
            s.epochs,
            s.learning_rate,
            s.weight_decay,
            s.batch_size,
            average=s.average,
            keep="last" if s.to_the_end else "best",
            patience=s.patience,
            rates=rates,
        )

    def first(self, *rates: tuple[str, float]) -> Recipe:
        """How a method that starts from a trained network is trained first."""
        s = self.settings
        recipe = self.recipe(*rates)
        return replace(recipe, epochs=s.energy_epochs, weight_decay=s.joint_decay, keep="best")

    def second(self, *rates: tuple[str, float]) -> Recipe:
        """And then."""
        s = self.settings
        return replace(self.first(*rates), epochs=s.joint_epochs, learning_rate=s.joint_rate)

    @property
    def free(self) -> tuple[tuple[str, float], ...]:
        """The rates where all parameters learn."""
        return ("network", 1.0), ("", self.settings.global_rate)

    def cost(self, y: jax.Array, truth: jax.Array) -> jax.Array:
        """D(y, truth) = margin x squared error."""
        return self.settings.margin * losses.squared_error(y, truth)

    def noise(self) -> dict[str, Any]:
        """What noise-contrastive objectives compare the truth with: draws of the network's own answer."""
        return {"noise": objectives.IndependentBernoulli(), "samples": self.settings.samples}


def task_loss(soft_f1_weight: float) -> Callable[..., jax.Array]:
    """cross-entropy + weight x (1 - soft F1)."""

    def loss(y, truth):
        return losses.cross_entropy(y, truth) + soft_f1_weight * losses.soft_f1_error(y, truth)

    return loss


# Phases of a method, by what they start from


def at_once(parts: Parts, objective: Any) -> tuple[Phase, ...]:
    """All parameters from random ones."""
    return (Phase("all together", objective, parts.recipe(("others", 10.0), *parts.free)),)


def on_features(parts: Parts, objective: Any, prepare: Any = None) -> tuple[Phase, ...]:
    """From a trained network: first with its hidden layer frozen, then all parameters."""
    frozen = ("hidden", 0.0), *parts.free
    return (
        Phase("energy", objective, parts.first(*frozen), prepare),
        Phase("all together", objective, parts.second(*parts.free), prepare),
    )


# Methods: Parts -> phases


def margin(variant: objectives.Variant) -> Callable[[Parts], tuple[Phase, ...]]:
    """The structured hinge losses."""
    return lambda p: on_features(
        p, objectives.max_margin(p.predictor, cost=p.cost, variant=variant)
    )


def end_to_end(p: Parts) -> tuple[Phase, ...]:
    """Through unrolled steps; the network's own answer has a tenth of a say."""
    weights = 0.1, *[0] * (p.settings.steps - 1), 1
    loss = task_loss(p.settings.soft_f1_weight)
    return at_once(p, objectives.end_to_end(p.predictor, loss=loss, weights=weights))


def implicit(p: Parts) -> tuple[Phase, ...]:
    """At the minimiser."""
    predictor = replace(p.predictor, differentiate=sx.Implicit(steps=100, tolerance=1e-2))
    return at_once(p, objectives.end_to_end(predictor, loss=task_loss(p.settings.soft_f1_weight)))


def enumerated(p: Parts) -> tuple[Phase, ...]:
    """Maximum likelihood through all label sets."""
    if p.n_labels > 10:
        shared.fail(
            f"likelihood goes through all label sets, of 10 labels at most, here {p.n_labels}: take ranking"
        )
    answers = np.array(list(itertools.product((0.0, 1.0), repeat=p.n_labels)), np.float32)
    return on_features(p, objectives.maximum_likelihood(p.predictor, answers=answers))


def divergence(persistent: bool) -> Callable[[Parts], tuple[Phase, ...]]:
    """Contrastive divergence by flips of single labels."""

    def at_truth(data, key):
        # From random corners, half of all labels on, ten flips an epoch never arrive.
        return objectives.Replay(data.x, data.y, data.y[:, None])

    def phases(p):
        objective = objectives.contrastive_divergence(
            p.predictor,
            sampler=sx.sampling.GibbsWithGradients(),
            steps=p.settings.samples,
            persistent=persistent,
        )
        return on_features(p, objective, at_truth if persistent else None)

    return phases


def nce(p: Parts) -> tuple[Phase, ...]:
    """Noise-contrastive estimation that starts normalised: c is that of the energy without its global term."""

    def log_partition(params, context):
        return jnp.sum(jax.nn.softplus(context["logits"]), axis=-1)

    return on_features(p, objectives.nce(p.predictor, log_partition=log_partition, **p.noise()))


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

    together = replace(p.second(*p.free), alternate=True)
    return (
        Phase("the two players", objective("margin"), together),
        Phase("for prediction", objective("perceptron"), p.first(("energy", 0.0))),
    )


def energy_as_loss(learn: Any) -> Callable[[Parts], tuple[Phase, ...]]:
    """A learning energy beside its task network, or first the energy and then the network."""

    def phases(p):
        objective = objectives.energy_as_loss(
            p.predictor,
            answer=p.answer,
            weight=p.settings.weight,
            learn=learn,
            samples=p.settings.samples,
        )
        if learn:
            return (Phase("both", objective, replace(p.second(*p.free), alternate=True)),)
        ranking = objectives.ranking_nce(p.predictor, **p.noise())

        def alone(params, batch, key):
            return ranking(params["energy"], batch, key)

        frozen = ("answer", 0.0), ("hidden", 0.0), *p.free
        return (
            Phase("energy", alone, p.first(*frozen)),
            Phase("task network", objective, p.second(("energy", 0.0))),
        )

    return phases


class Method(NamedTuple):
    """A way to train."""

    title: str
    phases: Callable[[Parts], tuple[Phase, ...]]
    from_scratch: bool = False
    """Whether it starts from random parameters and not from the network trained by cross-entropy."""
    two_players: bool = False
    """Whether a second network answers: parameters are {"energy": ..., "answer": {"network": ...}}."""


METHODS = {
    "max-margin": Method("max-margin", margin("margin")),
    "slack": Method("slack rescaling", margin("slack")),
    "perceptron": Method("perceptron", margin("perceptron")),
    "contrastive": Method("contrastive hinge", margin("contrastive")),
    "end-to-end": Method("end to end", end_to_end, from_scratch=True),
    "end-to-end-others": Method(
        "end to end, sees other rows' labels", end_to_end, from_scratch=True
    ),
    "implicit": Method("implicit", implicit, from_scratch=True),
    "likelihood": Method("likelihood by enumeration", enumerated),
    "pseudo-likelihood": Method(
        "pseudo-likelihood", lambda p: on_features(p, objectives.pseudo_likelihood(p.predictor))
    ),
    "contrastive-divergence": Method("contrastive divergence", divergence(False)),
    "persistent": Method("persistent CD", divergence(True)),
    "nce": Method("noise-contrastive", nce),
    "ranking": Method(
        "ranking NCE", lambda p: on_features(p, objectives.ranking_nce(p.predictor, **p.noise()))
    ),
    "deep-value": Method(
        "deep value", lambda p: on_features(p, objectives.deep_value(p.predictor))
    ),
    "inference-network": Method("inference network", inference_network, two_players=True),
    "seal-static": Method("energy as loss, static", energy_as_loss(None), two_players=True),
    "seal-dynamic": Method(
        "energy as loss, dynamic", energy_as_loss("ranking_nce"), two_players=True
    ),
}


# Models


def network_of(settings: Settings, n_labels: int) -> Any:
    """The feature network: one hidden layer of rectified units."""
    dropout: dict[str, Any] = {
        "input_dropout": settings.input_dropout,
        "dropout": settings.dropout,
    }
    if settings.others:
        return NetworkWithOthers(n_labels, settings.width, **dropout)
    return sx.FeatureNetwork(n_labels, (settings.width,), **dropout)


def spen_of(settings: Settings, n_labels: int) -> sx.SPEN:
    """The paper's energy, with entropy for an inference on logits."""
    return sx.SPEN(
        network_of(settings, n_labels),
        settings.global_units,
        sees_features=settings.sees_features,
        global_dropout=settings.global_dropout,
        entropy=1.0,
        global_scale=3.0,
    )


def predictor_of(module: Any, steps: int) -> sx.Predictor:
    """Inference on logits, from the network's own answer, of a module with features and an energy."""
    features, energy = sx.functions_of(module)
    return sx.Predictor(energy, features, start=sx.logits_of(module), steps=steps)


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
    network = network_of(settings, n_labels)
    objective, predictor = objectives.feed_forward(sx.logits_of(network)), alone(network)
    recipe = Parts(settings, n_labels, predictor, None).recipe()
    return Model(
        "network, cross-entropy",
        lambda key, x, y: network.init(key, x)["params"],
        (Phase("features", objective, recipe),),
        predictor,
    )


@lru_cache(maxsize=64)
def model(settings: Settings, name: str, n_labels: int, local: bool = False) -> Model:
    """One method's model; with `local` its control, the energy without a global term."""
    method, spen = METHODS[name], spen_of(settings, n_labels)
    if local:
        spen = spen.clone(n_global=0)
    logits, predictor = sx.logits_of(spen.network), predictor_of(spen, settings.steps)

    def answer(phi, x, key=None):
        return logits(phi["network"], x, key)

    def init(key, x, y):
        theta = spen.init(key, x, y)["params"]
        if not method.two_players:
            return theta
        phi = spen.network.init(jax.random.fold_in(key, 1), x)["params"]
        return {"energy": theta, "answer": {"network": phi}}

    return Model(
        method.title + (", no global term" if local else ""),
        init,
        method.phases(Parts(settings, n_labels, predictor, answer)),
        of_two_players(predictor, answer) if method.two_players else predictor,
        network_from=None if method.from_scratch else "network",
        control=None if local else "control",
    )


def build(
    settings: Settings, name: str, n_labels: int, of_control: Settings | None = None
) -> dict[str, Model]:
    """A method beside its controls, in the order in which they are trained: "network", "control", "spen"."""
    return {
        "network": network_model(settings, n_labels),
        "control": model(of_control or settings, name, n_labels, local=True),
        "spen": model(settings, name, n_labels),
    }

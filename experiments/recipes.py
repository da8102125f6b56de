"""Every way to train one energy: what the multi-label experiments compare, and with which settings.

All methods train the energy of Belanger & McCallum (2016) with entropy, predict by the same inference on logits
from the network's own answer, and stand beside a control: the same method, energy and settings without the
global term. Its minimiser is the feature network's answer, so that the difference is what the global term adds.
"""

import dataclasses
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import shared
from flax import linen as nn
from multilabel import Model, Phase

import spen_jax as sx
from spen_jax import inference_networks, likelihood, losses, value_networks
from spen_jax.sampling import GibbsWithGradients


@dataclass(frozen=True)
class Settings:
    """The numbers of a method on a data set."""

    width: int = 1000
    """Hidden units of the feature network."""
    input_dropout: float = 0.3
    dropout: float = 0.8
    global_units: int = 16
    global_dropout: float = 0.0
    sees_features: bool = False
    """Whether the global term sees the hidden units."""

    epochs: int = 30
    """Of a network's or an end-to-end training."""
    energy_epochs: int = 3
    """First phase of a method that starts from a trained network: its hidden layer is frozen."""
    joint_epochs: int = 8
    """Second phase: all parameters are free."""
    learning_rate: float = 3e-3
    """Of networks and end-to-end trainings, and of the first phase."""
    joint_rate: float = 3e-4
    """Of the second phase."""
    global_rate: float = 100.0
    """Factor of the global term's learning rate: at the network's own it hardly leaves its start."""
    weight_decay: float = 0.1
    joint_decay: float = 0.01
    batch_size: int = 128
    to_the_end: bool = False
    """Whether an end-to-end training keeps its last epoch, and not the best on validation rows."""
    others: bool = False
    """Whether each row also sees what other training rows' labels say of it, see multilabel.Inputs."""
    average: float | None = None
    """Decay of the moving average of the parameters that is evaluated, or None."""

    steps: int = 10
    """Of inference."""
    soft_f1_weight: float = 50.0
    """The task loss is cross-entropy + this x (1 - soft F1)."""
    margin: float = 6.0
    """The cost D is this x the squared error."""
    samples: int = 10
    """Noise samples or chain steps."""
    flipped_labels: int | None = None
    """So many random labels in a step of pseudo-likelihood; None is all."""
    weight: float = 1.0
    """Of the energy in a task network's loss, or of cross-entropy in an inference network's."""


DEFAULTS = {
    "bibtex": Settings(),
    "synthetic": Settings(),
    "delicious": Settings(dropout=0.5, epochs=12, batch_size=256),
    "scene": Settings(width=200, dropout=0.5, input_dropout=0.2, epochs=60),
    "yeast": Settings(width=200, dropout=0.5, input_dropout=0.2, epochs=60),
}
TUNED: dict[tuple[str, str], dict[str, Any]] = {
    ("bibtex", "end-to-end"): {"batch_size": 256},
    **{
        (name, "end-to-end"): {
            "input_dropout": 0.3,
            "dropout": 0.65,
            "weight_decay": 0.3,
            "batch_size": 64,
            "global_units": 32,
            "global_dropout": 0.2,
            "sees_features": True,
            "soft_f1_weight": 10.0,
        }
        for name in ("scene", "yeast")
    },
}
"""By data set and method, what was better on validation rows than the defaults; Yeast and Scene by tune.py."""
OF_CONTROL: dict[tuple[str, str], dict[str, Any]] = {
    ("scene", "end-to-end"): {
        "weight_decay": 0.3,
        "batch_size": 64,
        "average": 0.99,
        "soft_f1_weight": 10.0,
    },
    ("yeast", "end-to-end"): {
        "input_dropout": 0.3,
        "dropout": 0.65,
        "batch_size": 64,
        "average": 0.99,
        "soft_f1_weight": 25.0,
    },
}
"""The same for the control, where it wants other settings."""


class NetworkWithOthers(nn.Module):
    """A feature network for inputs (B, D + 2 L): words, then two numbers for each label from other rows' labels.

    Words alone are dropped out. All inputs enter the hidden layer, and s = W h + b + a_1 F_1 + a_2 F_2, with learned
    scalars a: the two score the labels already.
    """

    n_labels: int
    width: int
    input_dropout: float = 0.0
    dropout: float = 0.0

    def setup(self):
        """Names the layers as FeatureNetwork does, and the scalars "others"."""
        self.layer = nn.Dense(self.width, name="hidden_0")
        self.last = nn.Dense(self.n_labels, name="output")
        self.others = self.param("others", nn.initializers.constant(0.5), (2,))
        self.drop_input, self.drop = nn.Dropout(self.input_dropout), nn.Dropout(self.dropout)

    def hidden(self, x: jax.Array, train: bool = False) -> jax.Array:
        """The hidden layer, and behind it F_1 and F_2: (B, D + 2 L) -> (B, H + 2 L)."""
        words, others = jnp.split(x, [x.shape[-1] - 2 * self.n_labels], axis=-1)
        words = self.drop_input(words, deterministic=not train)
        h = nn.relu(self.layer(jnp.concatenate([words, others], axis=-1)))
        return jnp.concatenate([self.drop(h, deterministic=not train), others], axis=-1)

    def output(self, h: jax.Array) -> jax.Array:
        """The logits s, (B, H + 2 L) -> (B, L)."""
        h, others = jnp.split(h, [self.width], axis=-1)
        both = others.reshape(*others.shape[:-1], 2, self.n_labels)
        return self.last(h) + jnp.tensordot(both, self.others, [[-2], [0]])

    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """The logits, (B, D + 2 L) -> (B, L)."""
        return self.output(self.hidden(x, train))


class Parts(NamedTuple):
    """What a method trains with."""

    settings: Settings
    n_labels: int
    features: Any
    energy: Any
    inference: dict[str, Any]
    """Solver and steps of `sx.minimize`."""
    predict: Any
    """(phi, x, key) -> logits of the second network, of methods that have one."""


class Method(NamedTuple):
    """A way to train."""

    title: str
    phases: Callable[[Parts], tuple[Phase, ...]]
    own: dict[str, Any] = {}
    """Settings in place of the defaults, on every data set."""
    from_scratch: bool = False
    """Whether it starts from random parameters and not from the network trained by cross-entropy."""
    predictor: bool = False
    """Whether a second network answers: parameters are {"energy": ..., "predictor": {"network": ...}}."""


def cost(settings: Settings) -> Callable[..., jax.Array]:
    """D(y, truth) = margin x squared error."""
    return lambda y, truth: settings.margin * losses.squared_error(y, truth)


def task_loss(settings: Settings) -> Callable[..., jax.Array]:
    """cross-entropy + weight x (1 - soft F1)."""

    def loss(y, truth):
        soft_f1 = losses.soft_f1_error(y, truth)
        return losses.cross_entropy(y, truth) + settings.soft_f1_weight * soft_f1

    return loss


def at_once(parts: Parts, objective: Any) -> tuple[Phase, ...]:
    """All parameters from random ones."""
    rates = ("others", 10.0), ("network", 1.0), ("", parts.settings.global_rate)
    return (Phase("all together", objective, recipe_of(parts.settings), rates),)


def on_features(parts: Parts, objective: Any, prepare: Any = None) -> tuple[Phase, ...]:
    """From a trained network: first with its hidden layer frozen, then all parameters."""
    free = ("network", 1.0), ("", parts.settings.global_rate)
    first, second = two_recipes(parts.settings)
    return (
        Phase("energy", objective, first, (("hidden", 0.0), *free), prepare),
        Phase("all together", objective, second, free, prepare),
    )


def _margin(variant):
    def phases(parts):
        objective = sx.max_margin(
            parts.energy,
            parts.features,
            cost=cost(parts.settings),
            variant=variant,
            start=shared.start,
            **parts.inference,
        )
        return on_features(parts, objective)

    return phases


def _end_to_end(parts, **more):
    more = more or {"weights": (0.1, *[0] * (parts.settings.steps - 1), 1)}
    objective = sx.end_to_end(
        parts.energy,
        parts.features,
        loss=task_loss(parts.settings),
        start=shared.start,
        **more,
        **parts.inference,
    )
    return at_once(parts, objective)


def _implicit(parts):
    return _end_to_end(parts, differentiate=sx.Implicit(steps=100, tolerance=1e-2))


def _enumerated(parts):
    if parts.n_labels > 10:
        shared.fail(
            f"likelihood goes through all label sets, of 10 labels at most, here {parts.n_labels}: take ranking"
        )
    answers = np.array(list(itertools.product((0.0, 1.0), repeat=parts.n_labels)), np.float32)
    objective = likelihood.maximum_likelihood(parts.energy, parts.features, answers=answers)
    return on_features(parts, objective)


def _pseudo_likelihood(parts):
    # Every label of a small set, else a random subset: each costs one more energy.
    n_labels = parts.settings.flipped_labels
    return on_features(
        parts, likelihood.pseudo_likelihood(parts.energy, parts.features, labels=n_labels)
    )


def _divergence(persistent):
    def phases(parts):
        objective = likelihood.contrastive_divergence(
            parts.energy,
            parts.features,
            sampler=GibbsWithGradients(),
            steps=parts.settings.samples,
            persistent=persistent,
        )
        return on_features(parts, objective, _at_truth if persistent else None)

    return phases


def _at_truth(data, key):
    """Chains that stand at the truth: from random corners, half of all labels on, ten flips an epoch never arrive."""
    return likelihood.Replay(data.x, data.y, data.y[:, None])


def _log_partition(params, context):
    """Of the energy without its global term, which is the noise's: so that NCE starts normalised."""
    return jnp.sum(jax.nn.softplus(context["logits"]), axis=-1)


def _noise(factory, **more):
    def phases(parts):
        objective = factory(
            parts.energy,
            parts.features,
            noise=likelihood.IndependentBernoulli(),
            samples=parts.settings.samples,
            **more,
        )
        return on_features(parts, objective)

    return phases


def _deep_value(parts):
    objective = value_networks.deep_value(
        parts.energy, parts.features, start=shared.start, **parts.inference
    )
    return on_features(parts, objective)


def _inference_network(parts):
    """Against each other; then the inference network alone, without the cost, for prediction."""

    def objective(variant):
        return inference_networks.inference_network(
            parts.energy,
            parts.features,
            predict=parts.predict,
            cost=cost(parts.settings),
            variant=variant,
            cross_entropy=parts.settings.weight,
        )

    first, second = two_recipes(parts.settings)
    rates = ("network", 1.0), ("", parts.settings.global_rate)
    return (
        Phase("the two players", objective("margin"), second._replace(alternate=True), rates),
        Phase("for prediction", objective("perceptron"), first, (("energy", 0.0),)),
    )


def _energy_as_loss(learn):
    def phases(parts):
        objective = inference_networks.energy_as_loss(
            parts.energy,
            parts.features,
            predict=parts.predict,
            weight=parts.settings.weight,
            learn=learn,
            samples=parts.settings.samples,
        )
        first, second = two_recipes(parts.settings)
        free = ("network", 1.0), ("", parts.settings.global_rate)
        if learn:
            return (Phase("both", objective, second._replace(alternate=True), free),)
        energy_alone = likelihood.ranking(
            parts.energy,
            parts.features,
            noise=likelihood.IndependentBernoulli(),
            samples=parts.settings.samples,
        )

        def ranking(params, batch, key):
            return energy_alone(params["energy"], batch, key)

        return (
            Phase("energy", ranking, first, (("predictor", 0.0), ("hidden", 0.0), *free)),
            Phase("task network", objective, second, (("energy", 0.0),)),
        )

    return phases


METHODS = {
    "max-margin": Method("max-margin", _margin("margin")),
    "slack": Method("slack rescaling", _margin("slack"), {"margin": 1.0}),
    "perceptron": Method("perceptron", _margin("perceptron")),
    "contrastive": Method("contrastive hinge", _margin("contrastive")),
    "end-to-end": Method(
        "end to end", _end_to_end, {"steps": 3, "global_rate": 10.0}, from_scratch=True
    ),
    "end-to-end-others": Method(
        "end to end, sees other rows' labels",
        _end_to_end,
        {
            "steps": 3,
            "global_rate": 10.0,
            "others": True,
            "batch_size": 256,
            "epochs": 14,
            "to_the_end": True,
        },
        from_scratch=True,
    ),
    "implicit": Method(
        "implicit", _implicit, {"steps": 30, "global_rate": 10.0}, from_scratch=True
    ),
    "likelihood": Method("likelihood by enumeration", _enumerated),
    "pseudo-likelihood": Method("pseudo-likelihood", _pseudo_likelihood),
    "contrastive-divergence": Method("contrastive divergence", _divergence(False)),
    "persistent": Method("persistent CD", _divergence(True)),
    "nce": Method(
        "noise-contrastive", _noise(likelihood.noise_contrastive, log_partition=_log_partition)
    ),
    "ranking": Method("ranking NCE", _noise(likelihood.ranking)),
    "deep-value": Method("deep value", _deep_value, {"joint_rate": 3e-5, "global_rate": 30.0}),
    "inference-network": Method(
        "inference network",
        _inference_network,
        {"steps": 0, "global_rate": 10.0},
        predictor=True,
    ),
    "seal-static": Method(
        "energy as loss, static", _energy_as_loss(None), {"steps": 0}, predictor=True
    ),
    "seal-dynamic": Method(
        "energy as loss, dynamic", _energy_as_loss("ranking"), {"steps": 0}, predictor=True
    ),
}


def settings_of(
    dataset: str, method: str, override: dict[str, Any] | None = None, control: bool = False
) -> Settings:
    """The defaults of the data set and the method, then what was tuned, then what the caller asks for."""
    key = dataset, method
    tuned = OF_CONTROL.get(key, TUNED.get(key, {})) if control else TUNED.get(key, {})
    own = METHODS[method].own | tuned | (override or {})
    return dataclasses.replace(DEFAULTS[dataset], **own)


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


def recipe_of(settings: Settings) -> shared.Recipe:
    """How networks, and energies from scratch, are trained."""
    return shared.Recipe(
        settings.epochs,
        settings.learning_rate,
        settings.weight_decay,
        settings.batch_size,
        average=settings.average,
        to_the_end=settings.to_the_end,
    )


@lru_cache(maxsize=64)
def network_model(
    settings: Settings, n_labels: int, title: str = "network, cross-entropy"
) -> Model:
    """The feature network alone, trained by cross-entropy: where most methods start."""
    network = network_of(settings, n_labels)
    logits = sx.logits_of(network)

    @jax.jit
    def predict(params, x):
        z = logits(params, x)
        return jax.nn.sigmoid(z), z, jnp.zeros(len(z))

    phase = Phase("features", sx.feed_forward(logits), recipe_of(settings))
    return Model(title, lambda key, x, y: network.init(key, x)["params"], (phase,), predict)


def two_recipes(settings: Settings) -> tuple[shared.Recipe, shared.Recipe]:
    """How a method that starts from a trained network is trained, in two phases."""
    first = shared.Recipe(
        settings.energy_epochs,
        settings.learning_rate,
        settings.joint_decay,
        settings.batch_size,
        average=settings.average,
    )
    return first, first._replace(epochs=settings.joint_epochs, learning_rate=settings.joint_rate)


@lru_cache(maxsize=64)
def model(settings: Settings, name: str, n_labels: int, local: bool = False) -> Model:
    """One method's model; with `local` its control, the energy without a global term."""
    method, spen = METHODS[name], spen_of(settings, n_labels)
    if local:
        spen = spen.clone(n_global=0)
    features, energy = sx.functions_of(spen)
    logits = sx.logits_of(network_of(settings, n_labels))
    inference: dict[str, Any] = {"solver": sx.MirrorDescent(0.5), "steps": settings.steps}

    def answer(phi, x, key=None):
        return logits(phi["network"], x, key)

    def init(key, x, y):
        theta = spen.init(key, x, y)["params"]
        if not method.predictor:
            return theta
        phi = spen.network.init(jax.random.fold_in(key, 1), x)["params"]
        return {"energy": theta, "predictor": {"network": phi}}

    def of_energy(params):
        return params["energy"] if method.predictor else params

    def solve(params, x, steps, trace=()):
        context = features(of_energy(params), x)
        start = (
            jax.nn.sigmoid(answer(params["predictor"], x))
            if method.predictor
            else shared.start(context)
        )
        options: dict[str, Any] = inference | {"steps": steps, "trace": trace}
        return sx.minimize(energy, of_energy(params), context, start, **options)

    @jax.jit
    def predict(params, x):
        solution = solve(params, x, settings.steps)
        inside = jnp.clip(solution.y, 1e-7, 1 - 1e-7)
        return solution.y, jnp.log(inside) - jnp.log1p(-inside), solution.residual

    @partial(jax.jit, static_argnums=2)
    def trace(params, x, steps):
        found = solve(params, x, steps, ("y", "energy")).trace
        return found["y"], found["energy"]

    @jax.jit
    def energies(params, x, y):
        theta = of_energy(params)
        return jax.vmap(energy, (None, 0, 0))(theta, features(theta, x), y)

    def interactions(params, x, y):
        theta = of_energy(params)
        return sx.interactions(energy, theta, features(theta, x), y)

    return Model(
        method.title + (", no global term" if local else ""),
        init,
        method.phases(Parts(settings, n_labels, features, energy, inference, answer)),
        predict,
        None if method.from_scratch else "network",
        trace,
        energies,
        interactions,
    )


def build(
    settings: Settings, name: str, n_labels: int, of_control: Settings | None = None
) -> dict[str, Model]:
    """A method beside its controls, in the order in which they are trained: "network", "control", "spen"."""
    return {
        "network": network_model(settings, n_labels),
        "control": model(of_control or settings, name, n_labels, local=True),
        "spen": model(settings, name, n_labels)._replace(control="control"),
    }

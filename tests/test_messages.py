"""Mistakes that people make, and the one error that says what was expected, what came and what to do."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from flax import nnx

from spen_jax import (
    SPEN,
    Box,
    FeatureNetwork,
    GradientDescent,
    Predictor,
    Product,
    fit,
    functions_of,
    logits_of,
    minimize,
    objectives,
    sample,
    training,
)

X = np.random.default_rng(0).normal(size=(10, 3)).astype(np.float32)
Y = (X > 0).astype(np.float32)
MODULE = SPEN(FeatureNetwork(n_labels=3, widths=(4,)))
FEATURES, ENERGY = functions_of(MODULE)
PARAMS = MODULE.init(jax.random.key(0), X[:1], Y[:1])["params"]
SPEN_OF_THREE = Predictor(ENERGY, FEATURES, start=logits_of(MODULE), steps=2)
ADAM = optax.adam(0.01)
STATE = training.init(PARAMS, ADAM, jax.random.key(0))


class Pair(NamedTuple):
    a: Any
    b: Any


class Split(nnx.Module):
    def __init__(self, rngs):
        self.layer = nnx.Linear(3, 2, rngs=rngs)

    def __call__(self, x):
        return self.layer(x)


class Normalised(nn.Module):
    @nn.compact
    def __call__(self, x, train=False):
        return nn.Dense(2)(nn.BatchNorm(use_running_average=not train)(x))


class Lacking(nn.Module):
    def features(self, x, train):
        return x


PAIRS = Product(Pair(Box(), Box()))
NORMALISED = Normalised()
NORMALISED_PARAMS = NORMALISED.init(jax.random.key(0), X)["params"]


def of_pair(params, x, y):
    return jnp.sum(y.a**2) + jnp.sum(y.b**2)


def plain(params, x, y):
    return jnp.sum(y**2)


def train(objective=None, data=None, state=STATE, optimizer=ADAM, **options):
    objective = objectives.end_to_end(SPEN_OF_THREE) if objective is None else objective
    data = {"x": X, "y": Y} if data is None else data
    return fit(objective, optimizer, state, data, epochs=1, **options).last()


def masks_of_a_byte(domain):
    predictor = Predictor(plain, domain=domain, steps=2)
    state = training.init({"w": 0.0}, ADAM, jax.random.key(0))
    return train(objectives.max_margin(predictor), {"x": X, "y": 255 * (X > 0)}, state)


def find(**options):
    return minimize(plain, None, X, np.zeros((10, 3), np.float32), **options)


def predict(**options):
    return Predictor(plain, **{"shape": (3,)} | options)(None, X)


MISTAKES = {
    "y one label short in training": (
        lambda: train(data={"x": X, "y": Y[:, :2]}),
        r"n_labels=3, and y must have shape \(3,\).*got \(2,\)",
    ),
    "y one label short in max-margin training": (
        lambda: train(objectives.max_margin(SPEN_OF_THREE), {"x": X, "y": Y[:, :2]}),
        r"n_labels=3.*got \(2,\)",
    ),
    "y one label short in energies": (
        lambda: SPEN_OF_THREE.energies(PARAMS, X, Y[:, :2]),
        r"n_labels=3.*got \(2,\)",
    ),
    "an energy of one's own and y of another shape": (
        lambda: Predictor(lambda p, x, y: x @ y).energies(None, X, Y[:, :2]),
        r"context of shape \(3,\) and y of shape \(2,\).*mend the shapes",
    ),
    "labels of -1 and 1": (
        lambda: train(data={"x": X, "y": np.sign(X)}),
        r"data.y does not lie in Box.* such as -1.*\(y \+ 1\) / 2",
    ),
    "masks of 0 and 255": (
        lambda: masks_of_a_byte(Box()),
        "data.y does not lie in Box.*255.*y / 255",
    ),
    "known labels of 255": (
        lambda: SPEN_OF_THREE(PARAMS, X, known=(Y > 0, 255 * Y)),
        "the y of known does not lie in Box.*y / 255",
    ),
    "a mask of numbers": (
        lambda: SPEN_OF_THREE(PARAMS, X, known=(Y, Y)),
        "mask of known must be booleans",
    ),
    "relaxed labels where corners are gone through": (
        lambda: train(objectives.pseudo_likelihood(SPEN_OF_THREE), {"x": X, "y": Y / 2 + 0.2}),
        "data.y must stand at the corners of Box.*such as 0.*round them",
    ),
    "labels of -1 and 1 against noise": (
        lambda: train(
            objectives.nce(SPEN_OF_THREE, noise=objectives.IndependentBernoulli()),
            {"x": X, "y": np.sign(X)},
        ),
        "data.y does not lie in Box",
    ),
    "a y that is none of the answers": (
        lambda: train(objectives.maximum_likelihood(SPEN_OF_THREE, answers=np.eye(3))),
        r"data.y\[\d\] is none of the 3 answers",
    ),
    "an NNX module for a Linen one": (
        lambda: functions_of(Split(nnx.Rngs(0))),
        r"the NNX module Split.*nnx.split\(module, nnx.Param, ...\).*flavours.md",
    ),
    "an NNX module for logits": (
        lambda: logits_of(Split(nnx.Rngs(0))),
        r"the NNX module Split.*nnx.merge",
    ),
    "an NNX module for an energy": (
        lambda: Predictor(Split(nnx.Rngs(0))),
        r"energy must be a function \(params, context, y\).*got the Flax module Split",
    ),
    "a module for features": (
        lambda: Predictor(ENERGY, MODULE),
        r"features must be a function \(params, x\).*the Flax module SPEN: functions_of",
    ),
    "a class for a module": (lambda: functions_of(Normalised), r"the class Normalised: make one"),
    "a text for a module": (lambda: functions_of("x"), "Flax Linen module, got 'x'"),
    "a module without energy": (lambda: functions_of(Lacking()), "Lacking needs .*lacks energy"),
    "BatchNorm": (
        lambda: logits_of(NORMALISED)(NORMALISED_PARAMS, X),
        "Normalised keeps variables besides its parameters.*batch_stats.*LayerNorm",
    ),
    "BatchNorm in training": (
        lambda: train(
            objectives.feed_forward(logits_of(NORMALISED)),
            {"x": X, "y": Y[:, :2]},
            training.init(NORMALISED_PARAMS, ADAM, jax.random.key(0)),
        ),
        "Normalised keeps variables besides its parameters",
    ),
    "a dict for a NamedTuple": (
        lambda: minimize(of_pair, None, X, {"a": X, "b": X}, domain=PAIRS),
        r"the tree .*Pair.* got .*'a'.*make one like the other",
    ),
    "a dict for a NamedTuple in training": (
        lambda: train(
            objectives.max_margin(Predictor(of_pair, domain=PAIRS, steps=2)),
            {"x": X, "y": {"a": Y, "b": Y}},
        ),
        r"data.y.*the tree .*Pair.* got .*'a'",
    ),
    "texts for x": (
        lambda: SPEN_OF_THREE(PARAMS, np.array(["a"] * 10)),
        "x must be an array of num",
    ),
    "a masked array for x": (
        lambda: SPEN_OF_THREE(PARAMS, np.ma.array(X, mask=X > 0)),
        r"x is a masked array.*filled",
    ),
    "texts in the data": (
        lambda: train(data={"x": np.array(["a"] * 10), "y": Y}),
        r"data\['x'\] must be an array of numbers",
    ),
    "texts in the context": (
        lambda: minimize(plain, None, np.array(["a"] * 10), np.zeros((10, 3), np.float32)),
        "context must be an array of numbers",
    ),
    "texts in the parameters": (
        lambda: minimize(plain, {"a": "b"}, X, np.zeros((10, 3), np.float32)),
        r"params\['a'\] must be an array of numbers",
    ),
    "texts in the parameters of chains": (
        lambda: sample(plain, {"a": "b"}, X, X[:, None], jax.random.key(0), steps=1),
        r"params\['a'\] must be an array of numbers",
    ),
    "texts for the start": (
        lambda: minimize(plain, None, X, np.array(["a"] * 10)),
        "start must be an array of numbers",
    ),
    "a complex start": (
        lambda: minimize(plain, None, X, np.zeros((10, 3), complex)),
        r"start must be a float array.*complex",
    ),
    "parameters for a state": (
        lambda: train(state=PARAMS),
        r"the state of training.init\(params, optimizer, key\), got a dict",
    ),
    "a predictor for an objective": (
        lambda: train(SPEN_OF_THREE),
        r"objectives.end_to_end\(predictor\), got a Predictor",
    ),
    "an optimizer not made yet": (
        lambda: train(optimizer=optax.adam),
        r"such as optax.adam\(1e-3\), got <function adam",
    ),
    "a seed for a key": (
        lambda: training.init(PARAMS, ADAM, 0),
        r"key must be a random key, jax.random.key\(0\), got 0",
    ),
    "the generators of an NNX module for parameters": (
        lambda: training.init(
            nnx.split(nnx.Dropout(0.1, rngs=nnx.Rngs(0)))[1], ADAM, jax.random.key(0)
        ),
        r"params must be floats.*\['count'\].* uint32.*nnx.split\(module, nnx.Param, ...\)",
    ),
    "whole numbers for parameters": (
        lambda: training.init({"w": X[0], "n": np.arange(3)}, ADAM, jax.random.key(0)),
        r"params must be floats, which have a gradient, got \['n'\] int",
    ),
    "a step size below 0": (
        lambda: predict(settings={"step_size": -0.5}),
        "needs step_size > 0.*got -0.5",
    ),
    "a learned step size below 0": (
        lambda: Predictor(plain, shape=(3,), settings=lambda p: p)({"step_size": -0.5}, X),
        "needs step_size > 0.*got -0.5",
    ),
    "a setting of another name": (
        lambda: predict(settings={"step": 0.5}),
        r"no settings \['step'\]; it has \['entropy', 'step_size'\]",
    ),
    "settings in a list": (lambda: predict(settings=[0.5]), "settings must be a dict such as"),
    "a temperature below 0": (
        lambda: find(temperature=-1.0),
        "temperature must be 0 or more, got -1",
    ),
    "a temperature in words": (lambda: find(temperature="hot"), "temperature must be .*numbers"),
    "steps below 0": (lambda: find(steps=-1), "steps must be a whole number, 0 or more, got -1"),
    "steps in words": (lambda: predict(steps="3"), "steps must be a whole number.*got '3'"),
    "a tolerance in words": (lambda: find(tolerance="a"), "tolerance must be a number.*'a'"),
    "a solver not made yet": (
        lambda: predict(solver=GradientDescent),
        r"solver must be one of .* such as GradientDescent\(\)",
    ),
    "a domain in words": (lambda: find(domain="box"), r"domain must be one of .*got 'box'"),
    "a shape that is a number": (lambda: predict(shape=3), r"shape must be a tuple.*shape=\(3,\)"),
    "a batch size in words": (lambda: predict(batch_size="a"), "batch_size must be a whole number"),
    "a derivative of another name": (
        lambda: find(differentiate="exact"),
        "differentiate must be one of 'stopped', 'unrolled', 'implicit'",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_gets_an_error_that_says_what_to_do(mistake):
    make, message = MISTAKES[mistake]
    with pytest.raises(ValueError, match=message):
        make()


def test_an_option_of_another_name_is_named_with_those_there_are():
    with pytest.raises(TypeError, match="no option solvr; its options are domain, solver"):
        find(solvr=1)


def test_masks_of_a_byte_are_fine_on_a_box_of_that_width():
    assert np.isfinite(masks_of_a_byte(Box(0, 255))[1]["loss"])

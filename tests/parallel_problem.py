"""What the scripts of several devices train: labels by words, and what a compiled program says between devices."""

import re
import sys

import jax
import numpy as np
import optax

import spen_jax as sx
from spen_jax.training.steps import compiled_step

DATA = sx.data.exclusive_blocks(seed=0, n_train=640, n_test=200)
MODEL = sx.SPEN(sx.FeatureNetwork(16, (32,)), 16)
FEATURES, ENERGY = sx.functions_of(MODEL)
PARAMS = MODEL.init(jax.random.key(0), DATA.train.x[:1], DATA.train.y[:1])["params"]
OPTIMIZER = optax.adam(3e-3)
COLLECTIVES = "all-reduce all-gather collective-permute all-to-all reduce-scatter".split()


def predictor(**options):
    return sx.Predictor(ENERGY, FEATURES, **({"steps": 5, "shape": (16,)} | options))


def state():
    return sx.training.init(PARAMS, OPTIMIZER, jax.random.key(1))


def fit(objective, state=None, *, epochs=10, batch_size=64):
    """The losses of the epochs (ten steps each) and the last state."""
    state = globals()["state"]() if state is None else state
    losses = []
    options = {"epochs": epochs, "batch_size": batch_size}

    for end, metrics in sx.fit(objective, OPTIMIZER, state, DATA.train, **options):  # noqa: B007
        losses.append(metrics["loss"])
    return losses, end


def collectives(compiled):
    text = compiled.as_text()
    counts = {name: len(re.findall(rf"\b{name}(?:-start)?\(", text)) for name in COLLECTIVES}
    return {name: count for name, count in counts.items() if count}


def step_of(objective, state, data, rows):
    """A training step, compiled."""
    places, rows = sx.parallel.places(state), sx.parallel.beside(state, rows)
    return compiled_step.lower(objective, OPTIMIZER, places, state, data, rows).compile()


def f1(state, **options):
    solution = predictor(**options)(state.params, DATA.test.x)
    return float(sx.metrics.example_f1(np.asarray(solution.y) > 0.5, DATA.test.y))


def say(result):
    import json

    json.dump(result, sys.stdout)
    print()

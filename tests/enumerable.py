"""A small energy of four labels, whose 16 answers can all be gone through, with its slopes by hand in NumPy.

E(x, y) = c.softplus(C y) - (W x + b).y; a structured prediction energy network, written out.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from problems import random_batch

from spen_jax import Predictor

KEY = jax.random.key(0)
CORNERS = np.array(list(itertools.product([0.0, 1.0], repeat=4)))


def features_of(params, x):
    return {"logits": x @ params["W"] + params["b"][None]}


def coupled_labels(params, context, y):
    return params["c"] @ jax.nn.softplus(params["C"] @ y) - context["logits"] @ y


PREDICTOR = Predictor(coupled_labels, features_of)


def problem(n=2):
    """(params, batch) of n examples, in float64."""
    rng = np.random.default_rng(0)
    shapes = {"W": (3, 4), "b": (4,), "C": (3, 4), "c": (3,)}
    return {name: rng.normal(size=shape) for name, shape in shapes.items()}, random_batch(n)


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def logits(params, x):
    return x @ params["W"] + params["b"]


def energies(params, x, y):
    """E of points y (B, n, 4), (B, n)."""
    hidden = np.logaddexp(0, y @ params["C"].T)
    return hidden @ params["c"] - np.einsum("bl,bnl->bn", logits(params, x), y)


def slopes(params, x, y):
    """dE/d params of points y (B, n, 4), flat as `flat` has them, (B, n, P)."""
    units = y @ params["C"].T
    of_c = params["c"] * sigmoid(units)
    parts = {
        "C": of_c[..., :, None] * y[..., None, :],
        "W": -x[:, None, :, None] * y[..., None, :],
        "b": -y,
        "c": np.logaddexp(0, units),
    }
    return np.concatenate([parts[k].reshape(*y.shape[:2], -1) for k in sorted(parts)], -1)


def slopes_in_y(params, x, y):
    """dE/dy of one point for each example, (B, 4) -> (B, 4)."""
    return (params["c"] * sigmoid(y @ params["C"].T)) @ params["C"] - logits(params, x)


def corners_of(batch):
    """All answers to each example, (B, 16, 4)."""
    return np.broadcast_to(CORNERS, (len(batch.y), *CORNERS.shape))


def flat(tree):
    return np.asarray(ravel_pytree(tree)[0])


def gradient_of(objective, params, batch, key=KEY):
    """(gradient, metrics)"""
    return jax.jit(jax.grad(objective, has_aux=True))(params, batch, key)


def total_gradient(function, params, step=1e-6):
    """The gradient by central differences, in NumPy."""

    def slope(name, at):
        def moved(by):
            values = params[name].copy()
            values[at] += by
            return function(params | {name: values})

        return (moved(step) - moved(-step)) / (2 * step)

    return {
        k: np.array([slope(k, at) for at in np.ndindex(v.shape)]).reshape(v.shape)
        for k, v in params.items()
    }


def misfits(objective, params, batch, keys):
    """How many standard errors the mean gradient over examples and keys is from 0, for each parameter."""

    @jax.jit
    def gradients(batch, keys):
        def one(example, key):
            example = jax.tree.map(lambda a: a[None], example)
            return ravel_pytree(jax.grad(objective, has_aux=True)(params, example, key)[0])[0]

        return jax.vmap(one)(batch, keys)

    each = np.asarray(gradients(jax.tree.map(jnp.asarray, batch), jax.random.split(KEY, keys)))
    return each.mean(0) / (each.std(0) / np.sqrt(len(each)))

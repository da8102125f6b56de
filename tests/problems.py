"""Problems with known answers, and the tools that several test files share."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from spen_jax import SPEN, FeatureNetwork, functions_of
from spen_jax.energies import binary_entropy


class Batch(NamedTuple):
    x: jax.Array
    y: jax.Array


def parabola(params, context, y):
    """1/2 sum_i a_i y_i^2 - b.y, with a in params and b the context: on a box, b / a clipped."""
    return jnp.sum(params["a"] * y**2) / 2 - context @ y


def coupled(params, context, y):
    """1/2 y.A y - b.y, A positive definite in params and b the context."""
    return y @ params["A"] @ y / 2 - context @ y


def entropic(params, scores, y):
    """-s.y - H(y): its minimiser is sigmoid(s), its minimum -sum_i softplus(s_i). No params."""
    return -scores @ y - binary_entropy(y)


def positive_definite(size, seed=0):
    a = np.random.default_rng(seed).normal(size=(size, size))
    return a @ a.T / size + 0.5 * np.eye(size)


def numpy_descent(gradient, start, steps, step_size, momentum):
    """The iterates (T + 1, ...) of the projected heavy ball on [0, 1], by its formula."""
    path = [start, start]
    for _ in range(steps):
        y, before = path[-1], path[-2]
        path.append(np.clip(y - step_size * gradient(y) + momentum * (y - before), 0, 1))
    return np.stack(path[1:])


def numpy_mirror(gradient, start, steps, step_size):
    """The iterates (T + 1, ...) of mirror descent on (0, 1), by its formula."""
    path = [start]
    logit = np.log(start / (1 - start))
    for _ in range(steps):
        logit = logit - step_size * gradient(path[-1])
        path.append(1 / (1 + np.exp(-logit)))
    return np.stack(path)


def counting(function):
    """`function`, and a list that grows by one entry whenever JAX traces it."""
    traces = []

    def counted(*args):
        traces.append(args)
        return function(*args)

    return counted, traces


def random_like(params, seed=0, scale=1.0):
    """Normal float64 values in the shapes of `params`, so that no bias is zero."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda a: scale * rng.normal(size=a.shape), params)


def small_spen(seed=0, scale=1.0, n_inputs=3, n_labels=4, width=5, **settings):
    """(features, energy, params) of a SPEN with random float64 parameters."""
    module = SPEN(FeatureNetwork(n_labels, (width,)), **({"n_global": 3} | settings))
    shapes = jax.eval_shape(
        module.init, jax.random.key(0), jnp.zeros((1, n_inputs)), jnp.zeros((1, n_labels))
    )
    return *functions_of(module), random_like(shapes["params"], seed, scale)


def random_batch(n, n_inputs=3, n_labels=4, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, n_inputs))
    return Batch(x, (rng.random((n, n_labels)) < 0.5).astype(x.dtype))


def central_differences(function, params, step=1e-5):
    """The gradient of `function` by central differences in every coordinate (in float64)."""
    flat, unravel = ravel_pytree(params)
    moves = step * jnp.eye(flat.size)
    values = jax.jit(jax.vmap(lambda move: function(unravel(flat + move))))(
        jnp.concatenate([moves, -moves])
    )
    up, down = jnp.split(values, 2)
    return unravel((up - down) / (2 * step))


def assert_trees_close(got, want, **tolerances):
    assert jax.tree.structure(got) == jax.tree.structure(want)
    for (path, g), w in zip(jax.tree.leaves_with_path(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(g, w, err_msg=jax.tree_util.keystr(path), **tolerances)


def largest_difference(a, b):
    return max(jax.tree.leaves(jax.tree.map(lambda u, v: float(np.max(np.abs(u - v))), a, b)))

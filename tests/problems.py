"""Problems with known answers, and the tools that several test files share."""

import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from scipy.optimize import brentq

from spen_jax import SPEN, FeatureNetwork, functions_of
from spen_jax.domains import binary_entropy


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


def quadratic(params, context, y):
    """1/2 v.A v - b.v, v all numbers of y (an array of any shape, or a tree): see `best_on_faces`."""
    v = ravel_pytree(y)[0]
    return v @ params["A"] @ v / 2 - context @ v


def best_on_faces(a, b, lower, upper, sums=()):
    """argmin 1/2 y.A y - b.y with lower <= y <= upper, and for each row r of `sums` r.y = 1.

    By enumeration: on each face of the polytope the minimum ignoring the other bounds is that of
    a linear system; of those that keep the bounds the lowest is the answer.
    """
    a, n = (a + a.T) / 2, len(b)
    sums = np.reshape(sums, (-1, n))
    best, lowest = None, np.inf
    for face in itertools.product([None, *(v for v in (lower, upper) if np.isfinite(v))], repeat=n):
        free = np.array([v is None for v in face])
        y = np.array([0.0 if v is None else v for v in face])
        rows = sums[:, free]
        if np.any(~rows.any(1)):  # a sum without a free member cannot be met by moving
            if np.any(np.abs(sums[~rows.any(1)] @ y - 1) > 1e-12):
                continue
            rows = rows[rows.any(1)]
        right = np.concatenate([(b - a @ y)[free], 1 - (sums @ y)[sums[:, free].any(1)]])
        zero = np.zeros((len(rows), len(rows)))
        y[free] = np.linalg.solve(np.block([[a[np.ix_(free, free)], rows.T], [rows, zero]]), right)[
            : free.sum()
        ]
        value = y @ a @ y / 2 - b @ y
        if np.all((lower - 1e-12 <= y) & (y <= upper + 1e-12)) and value < lowest:
            best, lowest = y, value
    return best


def best_in_ball(a, b, radius):
    """argmin 1/2 y.A y - b.y with ||y|| <= radius, by the secular equation ||(A + m)^-1 b|| = radius."""
    a = (a + a.T) / 2

    def at(m):
        return np.linalg.solve(a + m * np.eye(len(b)), b)

    if np.linalg.norm(at(0)) <= radius:
        return at(0)
    return at(brentq(lambda m: np.linalg.norm(at(m)) - radius, 0, 1e3, xtol=1e-14, rtol=1e-14))


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


def spen_energies(params, x, y, sees_features=False, entropy=0.0):
    """The energies of a `small_spen` without terms, by loops over examples, labels and global units."""
    features, logits = spen_features(params, x)
    result = np.zeros(len(x))
    for n in range(len(x)):
        for i in range(y.shape[1]):
            h = -y[n, i] * np.log(y[n, i]) - (1 - y[n, i]) * np.log(1 - y[n, i])
            result[n] -= logits[n, i] * y[n, i] + entropy * h
        for m in range(len(params["c2"])):
            u = params["C1"][m] @ y[n] + params["b"][m]
            if sees_features:
                u += features[n] @ params["Cx"]["kernel"][:, m]
            result[n] += params["c2"][m] * np.log(1 + np.exp(u))
    return result


def spen_features(params, x):
    """F(x) = relu(W_0 x + b_0) and the logits W F(x) + b of a `small_spen`, in NumPy."""
    hidden, output = params["network"]["hidden_0"], params["network"]["output"]
    h = np.maximum(x @ hidden["kernel"] + hidden["bias"], 0)
    return h, h @ output["kernel"] + output["bias"]


def quick_key(seed):
    """A key of a generator that compiles in a fraction of the time of the usual one."""
    return jax.random.key(seed, impl="unsafe_rbg")


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

"""Score matching: the score -dE/dy of a continuous y, which knows no Z, is fitted to that of the data.

y lives on `Reals`, in any shape. Parts that do not count have no part in the loss.
"""

import jax
import jax.numpy as jnp

from spen_jax.arguments import once
from spen_jax.checks import check_positive, check_whole
from spen_jax.domains import counting
from spen_jax.objectives.batch import check_predictor, given, of_each
from spen_jax.predictor import Predictor
from spen_jax.types import Objective


@once
def denoising_score_matching(predictor: Predictor, *, sigma: float) -> Objective:
    """1/2 ||sigma dE/dy(x, y + sigma e) - e||^2, e standard normal: the score at a noisy y points back to the truth.

    The score -dE/dy is fitted to -e / sigma, in the scale of sigma^2. At its best exp(-E) is the density of the data
    blurred by noise of standard deviation `sigma` in each coordinate: smaller is closer to the data, and of higher
    variance. Costs a gradient of a gradient.

    Args:
      predictor: its energy and features.
      sigma: > 0, in the units of y.

    A batch has x and y (B, ...), one array on `Reals`, see `read`; what does not count has no part in the loss.
    Metrics: loss; explained, 1 - loss / (1/2 ||e||^2): 0 for a score of 0 everywhere, 1 at
    most, and only where y is a function of x.

    Raises ValueError for a sigma that is not positive and finite. Source: Vincent (2011).
    """
    check_predictor(predictor)
    check_positive("sigma", sigma)

    def objective(params, batch, key):
        feature_key, noise_key = jax.random.split(key)
        seen = given(predictor, params, batch, feature_key)
        truth = seen.truth
        noise = jax.random.normal(noise_key, truth.shape, truth.dtype)
        if seen.mask is not None:
            noise = counting(seen.mask, noise)
        slope_of = jax.grad(seen.energy, argnums=2)
        slopes = of_each(slope_of, params, seen.inputs, truth + sigma * noise)
        value = jnp.sum((sigma * slopes - noise) ** 2) / (2 * len(truth))
        nothing = jnp.sum(noise**2) / (2 * len(truth))
        return value, {"loss": value, "explained": 1 - value / nothing}

    return objective


@once
def sliced_score_matching(predictor: Predictor, *, projections: int = 1) -> Objective:
    """1/2 ||dE/dy||^2 - mean of v' (d^2 E / dy dy) v over random directions v, v_i = -1 or +1, at the truth.

    On average over v it is 1/2 ||s||^2 + the divergence of s, s = -dE/dy the score: up to a constant half the mean
    squared distance to the data's own score (Hyvarinen 2005), for a smooth density, without noise. Costs a Hessian
    times a vector for each of the `projections`.

    Args:
      predictor: its energy and features.
      projections: how many v for each example.

    A batch has x and y (B, ...), one array on `Reals`, see `read`; what does not count has no part in the loss.
    Metrics: loss; slope, the mean of ||dE/dy||^2; trace, the mean of v' (d^2 E / dy dy) v. At the best energy of a
    family that can be scaled, the two are equal.

    Raises ValueError for fewer than 1 projection. Source: Song, Garg, Shi & Ermon (2019), with reduced variance.
    """
    check_predictor(predictor)
    check_whole("projections", projections, 1)

    def objective(params, batch, key):
        feature_key, direction_key = jax.random.split(key)
        seen = given(predictor, params, batch, feature_key)
        truth = seen.truth
        shape = (len(truth), projections, *truth.shape[1:])
        directions = jax.random.rademacher(direction_key, shape, truth.dtype)

        def one(inputs, y, directions):
            def slope_of(y):
                return jax.grad(seen.energy, argnums=2)(params, inputs, y)

            slope, push = jax.linearize(slope_of, y)
            curvature = jnp.mean(jax.vmap(lambda v: jnp.sum(v * push(v)))(directions))
            return jnp.sum(slope**2), curvature

        slope, trace = jax.tree.map(jnp.mean, jax.vmap(one)(seen.inputs, truth, directions))
        value = slope / 2 - trace
        return value, {"loss": value, "slope": slope, "trace": trace}

    return objective

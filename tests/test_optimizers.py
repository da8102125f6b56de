import re
from pathlib import Path

import jax
import numpy as np
import optax
import pytest
from problems import assert_trees_close

from spen_jax.training import average_of, averaged, spectral, stable

ADAM = optax.adamw(0.1, weight_decay=0.2)
PARAMS = {"w": np.float32([0.1, -0.2, 0.3]), "b": np.float32(0.5)}


def test_gradients_are_clipped_to_a_norm_of_all_together():
    gradient = {"a": np.float32([3, 0]), "b": np.float32(4)}
    for clip, factors in [(2.0, (1, 0.3, 100)), (None, (1, 100))]:
        optimizer = stable(optax.sgd(1.0), clip=clip)
        state, update = optimizer.init(gradient), jax.jit(optimizer.update)
        for factor in factors:
            given = jax.tree.map(lambda g, factor=factor: g * np.float32(factor), gradient)
            scale = min(1, (clip or np.inf) / (5 * factor))
            want = jax.tree.map(lambda g, scale=scale: -scale * g, given)
            assert_trees_close(update(given, state, gradient)[0], want, rtol=1e-6)


@pytest.mark.parametrize("decay", [0.5, 0.9999])
def test_the_average_is_that_of_the_parameters_after_each_step(decay, x64):
    optimizer = averaged(optax.sgd(0.3), decay)
    params = {"w": np.array([1.0, -2.0])}
    state, update = optimizer.init(params), jax.jit(optimizer.update)
    np.testing.assert_array_equal(average_of(state)["w"], params["w"])
    path = []
    for t in range(1, 6):
        updates, state = update({"w": np.array([t, 1.0])}, state, params)
        np.testing.assert_allclose(updates["w"], [-0.3 * t, -0.3])
        params = {"w": params["w"] + np.asarray(updates["w"])}
        path.append(params["w"])
        weights = decay ** np.arange(t)[::-1]
        want = weights @ np.array(path) / weights.sum()
        np.testing.assert_allclose(average_of(state)["w"], want, rtol=1e-9)


def test_an_average_is_kept_in_single_precision_too():
    optimizer = averaged(optax.sgd(1.0), 0.9999)
    params = {"w": np.float32(1)}
    _, state = jax.jit(optimizer.update)({"w": np.float32(-1)}, optimizer.init(params), params)
    assert average_of(state)["w"] == pytest.approx(2, rel=1e-6)


def test_average_of_wants_one_average():
    for optimizer in (ADAM, optax.chain(averaged(ADAM), averaged(ADAM))):
        with pytest.raises(ValueError, match="one averaged.*found"):
            average_of(optimizer.init(PARAMS))


MATRICES = {
    "tall": (7, 3),
    "wide": (3, 7),
    "kernel": (2, 4, 3),
    "row": (1, 5),
    "bias": (5,),
    "none": (0, 4),
}


def test_spectral_norms_keep_their_limit_and_smaller_matrices_are_untouched():
    rng = np.random.default_rng(0)
    params = {k: np.float32(rng.normal(size=s) / 3) for k, s in MATRICES.items()}
    params["zero"] = np.zeros((3, 3), np.float32)
    bound = optax.chain(optax.sgd(1.0), spectral(1.2))
    state, update = bound.init(params), jax.jit(bound.update)
    inside = outside = 0
    for _ in range(4):
        gradient = jax.tree.map(lambda a: np.float32(rng.normal(size=a.shape) / 3), params)
        gradient["zero"][:] = 0
        updates, state = jax.device_get(update(gradient, state, params))
        for name, w in params.items():
            unbound, new = w - gradient[name], w + updates[name]
            norm = (
                np.linalg.norm(unbound.reshape(-1, w.shape[-1]), 2) if w.ndim > 1 and w.size else 0
            )
            if norm > 1.2:
                outside += 1
                np.testing.assert_allclose(new, unbound * (1.2 / norm), atol=2e-6)
                limited = np.linalg.norm(new.reshape(-1, w.shape[-1]), 2)
                assert limited == pytest.approx(1.2, rel=1e-5)
            else:
                inside += 1
                np.testing.assert_array_equal(updates[name], -gradient[name])
            params[name] = new
    assert inside > 12 and outside > 3  # bias, none and zero are always inside


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: stable(ADAM, clip=0), "clip.*got 0"),
        (lambda: stable(ADAM, clip=float("inf")), "clip.*None"),
        (lambda: averaged(ADAM, 1.0), "decay.*got 1.0"),
        (lambda: spectral(0.0), "limit.*got 0"),
        (lambda: averaged(ADAM).update(PARAMS, averaged(ADAM).init(PARAMS)), "needs the param"),
        (lambda: spectral(1.0).update(PARAMS, ()), "needs the param"),
    ],
)
def test_settings_that_cannot_be_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.slow
def test_the_page_on_stability_runs_as_printed():
    page = Path(__file__).parents[1] / "docs/theory/objectives/stability.md"
    names = {}
    exec("\n".join(re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)), names)
    assert names

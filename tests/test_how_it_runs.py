"""What inference says of how it runs is how it runs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from test_convolutions import primitives

from spen_jax import MirrorDescent, Reals, Unrolled, minimize
from spen_jax.inference import how_it_runs, keeping

W = np.ones((4, 6), "float32")


def smooth(params, x, y):
    return jnp.sum(jnp.tanh(params @ y)) - x @ y


def with_sort(params, x, y):
    return smooth(params, x, jnp.sort(y))


def own_matrix(params, x, y):
    return y @ jnp.outer(x, x) @ y


def of_pictures(params, x, y):
    image = lax.conv(y.reshape(1, 1, 2, 3), jnp.ones((1, 1, 2, 2)), (1, 1), "SAME")
    return jnp.sum(jnp.sin(image)) - x @ y


@pytest.mark.parametrize(
    "energy, rows, says",
    [
        (smooth, 64, "examples last; 1 block of 64 examples"),
        (smooth, 600, "examples last; 3 blocks of 200 examples"),
        (smooth, 31, "examples first: blocks of 31 are too small, 32 are enough; 1 block of 31"),
        (with_sort, 64, "examples first: sort has no form with the examples last; 1 block of 64"),
        (own_matrix, 64, "examples first: products of what each example brings cost "),
        (of_pictures, 64, "2 convolutions in a step, in the layout that is fast on this device"),
    ],
)
def test_it_says_which_way_and_why(energy, rows, says):
    x = np.ones((rows, 6), "float32")
    words = how_it_runs(energy, W, x, shape=(6,), steps=3)
    assert says in words
    # With the examples last the loop has arrays (..., examples), and no arrays (examples, ...).
    text = str(jax.make_jaxpr(lambda x: minimize(energy, W, x, shape=(6,), steps=3).y)(x))
    assert ("[6,64]" in text or "[6,200]" in text) == words.startswith("examples last")


@pytest.mark.slow
def test_steps_are_kept_for_a_derivative_unless_they_are_many_and_cheap(monkeypatch):
    x = np.ones((600, 6), "float32")
    options = {"shape": (6,), "solver": MirrorDescent(), "differentiate": "unrolled"}

    def runs(function=smooth):
        def energy(params, x, y):  # a new one each time: the same is compiled once
            return function(params, x, y)

        def loss(W):
            return minimize(energy, W, x, steps=20, **options).y.sum()

        made = bool({"remat2", "checkpoint"} & primitives(jax.grad(loss), W))
        return how_it_runs(energy, W, x, steps=20, **options), made

    first = "examples first: a derivative follows the steps; "
    kept = first + "steps kept for a derivative; 1 block of 600 examples"
    again = first + "steps made again for a derivative; 3 blocks of 200 examples"
    assert runs() == (kept, False)
    monkeypatch.setattr(keeping, "KEPT", 100)
    assert runs() == (again, True)
    assert runs(with_sort)[1] is False
    monkeypatch.setattr(keeping, "KEPT", 2**17)
    assert runs() == (again, True)
    options["differentiate"] = Unrolled(last=1)
    assert runs() == (kept, False)
    options["differentiate"] = "unrolled"
    monkeypatch.setattr(keeping, "MEMORY", 200)
    assert runs(with_sort)[1] is True
    x = x[:64]  # one block has no other to make room for
    assert runs() == (first + "steps kept for a derivative; 1 block of 64 examples", False)


@pytest.mark.long
@pytest.mark.slow
def test_kept_and_made_again_have_the_same_gradient(monkeypatch):
    x = np.random.default_rng(0).normal(size=(600, 6)).astype("float32")
    options = {"shape": (6,), "differentiate": "unrolled"}

    def slope(energy):
        def loss(W):
            return jnp.sum(jnp.cos(minimize(energy, W, x, steps=9, domain=Reals(), **options).y))

        return jax.grad(loss)(W) / len(x)

    kept = slope(smooth)
    monkeypatch.setattr(keeping, "KEPT", 100)
    again = slope(lambda params, x, y: smooth(params, x, y))
    np.testing.assert_allclose(kept, again, rtol=1e-5, atol=1e-6)


def test_it_takes_what_minimize_takes():
    x = np.ones((40, 6), "float32")
    options = {"shape": (6,), "steps": 5, "temperature": np.ones(5, "float32")}
    known = np.ones((40, 6), bool), x
    words = how_it_runs(
        smooth, W, x, known=known, settings={"step_size": np.full(5, 0.1)}, **options
    )
    assert words == "examples last; 1 block of 40 examples"
    with pytest.raises(ValueError, match="temperature must be an array of numbers, got list"):
        how_it_runs(smooth, W, x, **options | {"temperature": [0.1] * 5})
    with pytest.raises(ValueError, match="must return a float scalar"):
        how_it_runs(lambda params, x, y: y, W, x, shape=(6,))
    with pytest.raises(ValueError, match="settings knows no|has no setting|step_sizes"):
        how_it_runs(smooth, W, x, settings={"step_sizes": 0.1}, **options)

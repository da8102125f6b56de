"""Networks and energies over images: by explicit sums, differences, and on images of other sizes."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

import spen_jax as sx
from spen_jax.energies import ImageSPEN, Patches
from spen_jax.networks import UNet, mean_pool

H, W = 5, 6
X = jax.random.normal(jax.random.key(0), (2, H, W, 3))
MASKS = jax.random.uniform(jax.random.key(1), (2, H, W))
ROWS = jax.nn.softmax(jax.random.normal(jax.random.key(1), (2, H, W, 3)))


class Pixels(nn.Module):
    """A network of each pixel alone."""

    outputs: int | None = None

    def setup(self):
        self.layer, self.last = nn.Dense(4), nn.Dense(self.outputs or 1)

    def hidden(self, x, train=False):
        return jnp.tanh(self.layer(x))

    def output(self, h):
        s = self.last(h)
        return s if self.outputs else s[..., 0]


def made(spen, y):
    params = jax.jit(spen.init)(jax.random.key(2), X, y)["params"]
    return params, *sx.functions_of(spen)


@pytest.mark.parametrize(("size", "want"), [(2, (3, 3)), (3, (2, 2)), (1, (5, 6))])
def test_a_mean_pool_is_the_mean_of_what_each_block_has(size, want):
    images = np.asarray(X)
    pooled = mean_pool(X, size)
    assert pooled.shape == (2, *want, 3)
    for i, j in itertools.product(*map(range, want)):
        block = images[:, size * i : size * (i + 1), size * j : size * (j + 1)]
        np.testing.assert_allclose(pooled[:, i, j], block.mean((1, 2)), rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("outputs", [None, 3])
def test_a_u_net_has_logits_of_every_pixel_of_images_of_any_size(outputs):
    network = UNet((4, 8, 6), outputs)
    params = jax.jit(network.init)(jax.random.key(2), X)["params"]
    assert sorted(params) == ["down_0", "down_1", "down_2", "output", "up_0", "up_1"]
    shape = (2, H, W) if outputs is None else (2, H, W, 3)
    logits = jax.jit(lambda p, x: network.apply({"params": p}, x))
    assert logits(params, X).shape == shape
    # An image says the same beside others.
    np.testing.assert_allclose(logits(params, X)[:1], logits(params, X[:1]), atol=1e-5)
    wide = jnp.pad(X, [(0, 0), (0, 3), (0, 0), (0, 0)])
    assert logits(params, wide).shape[1:3] == (H + 3, W)


def patches_by_hand(params, y, shift):
    """-4 v . u by loops over places: 3 x 3 at full size, then 3 x 3 over means of 2 x 2."""
    units = np.asarray(y).reshape(H, W, -1)
    for i in (1, 2):
        kernel, b = np.asarray(params[f"W_{i}"]), np.asarray(params[f"b_{i}"])
        if i == 2:
            units = np.asarray(mean_pool(jnp.asarray(units), 2))
        sums = np.tile(b, (*units.shape[:2], 1)) + (shift if i == 1 else 0)
        for r, c, p, q in itertools.product(*map(range, (*units.shape[:2], 3, 3))):
            if 0 <= r + p - 1 < units.shape[0] and 0 <= c + q - 1 < units.shape[1]:
                sums[r, c] += units[r + p - 1, c + q - 1] @ kernel[p, q]
        units = np.logaddexp(sums, 0)
    return -4 * np.sum(units @ np.asarray(params["v"]))


@pytest.mark.parametrize(("y", "outputs"), [(MASKS, None), (ROWS, 3)])
@pytest.mark.parametrize("sees", [False, True])
def test_the_energy_is_the_sum_that_its_docstring_says(y, outputs, sees):
    term = Patches((4, 5), (3, 3), (1, 2), sees_features=sees)
    spen = ImageSPEN(Pixels(outputs), (term,), 0.5)
    params, features, energy = made(spen, y)
    context = features(params, X)
    h = np.tanh(np.asarray(X) @ params["network"]["layer"]["kernel"])
    shift = h @ params["terms_0"]["Cx"]["kernel"] if sees else np.zeros((2, 1, 1, 1))
    for i in range(2):
        p = np.asarray(y[i])
        entropy = -np.sum(p * np.log(p) + (0 if outputs else (1 - p) * np.log(1 - p)))
        want = -np.sum(np.asarray(context["logits"][i]) * p) - 0.5 * entropy
        want += patches_by_hand(params["terms_0"], p, np.asarray(shift[i]))
        got = energy(params, jax.tree.map(lambda a, i=i: a[i], context), y[i])
        np.testing.assert_allclose(got, want, rtol=1e-4)


@pytest.mark.slow
def test_its_slopes_are_differences_of_energies(x64):
    y = jnp.asarray(MASKS, float)
    spen = ImageSPEN(Pixels(), (Patches((4, 5, 3), (3, 5, 3), (1, 2, 4)),), 1.0)
    params, features, energy = made(spen, y)
    context = jax.tree.map(lambda a: a[0], features(params, X))
    slope = jax.jit(jax.grad(energy, 2))(params, context, y[0])
    of = jax.jit(energy)
    for i, j in [(0, 0), (2, 3), (4, 5)]:
        step = jnp.zeros((H, W)).at[i, j].set(1e-5)
        difference = of(params, context, y[0] + step) - of(params, context, y[0] - step)
        np.testing.assert_allclose(slope[i, j], difference / 2e-5, rtol=1e-5)


def started(term, y):
    init = jax.jit(lambda key, y: term.init(key, {}, y, method="energy"))
    return init(jax.random.key(4), y)["params"]


def slope_of(term, params):
    return jax.jit(jax.grad(lambda y: term.apply({"params": params}, {}, y, method="energy")))


@pytest.mark.parametrize("layers", [((16, 32, 32), (5, 5, 3), (1, 2, 2)), ((32,), (3,), (1,))])
def test_at_the_start_slopes_are_neither_lost_nor_above_those_of_the_unaries(layers):
    term, y = Patches(*layers), jax.random.uniform(jax.random.key(3), (24, 24))
    params = started(term, y)
    slope = slope_of(term, params)(y)
    assert 0.03 < jnp.sqrt(jnp.mean(slope**2)) < 0.3


def test_far_from_the_edges_a_larger_image_has_the_same_slopes():
    term = Patches((4, 5), (3, 3), (1, 2))
    y = jax.random.uniform(jax.random.key(3), (24, 24))
    params = started(term, y)
    slope = slope_of(term, params)
    wide = jax.random.uniform(jax.random.key(5), (40, 36)).at[8:32, 6:30].set(y)
    np.testing.assert_allclose(slope(wide)[16:24, 14:22], slope(y)[8:16, 8:16], atol=1e-6)


def test_without_terms_the_answer_is_that_of_the_network():
    spen = ImageSPEN(Pixels(3), entropy=1.0)
    params, features, energy = made(spen, ROWS)
    predictor = sx.Predictor(
        energy, features, domain=sx.Simplex(), start=sx.logits_of(spen), steps=3
    )
    want = jax.nn.softmax(features(params, X)["logits"])
    np.testing.assert_allclose(predictor(params, X).y, want, atol=1e-5)


@pytest.mark.parametrize(
    ("made", "says"),
    [
        (lambda: Patches((4,), (4,), (1,)), "odd sizes"),
        (lambda: Patches((4,), (3, 3), (1,)), "a size and a scale for each width"),
        (lambda: Patches((4, 4), (3, 3), (2, 3)), "multiple of the one before"),
    ],
)
def test_layers_that_cannot_be_are_named(made, says):
    with pytest.raises(ValueError, match=says):
        made().init(jax.random.key(0), {}, MASKS[0], method="energy")


def test_other_shapes_are_named():
    params, features, energy = made(ImageSPEN(Pixels()), MASKS)
    context = jax.tree.map(lambda a: a[0], features(params, X))
    with pytest.raises(ValueError, match="y must have that shape"):
        energy(params, context, ROWS[0])
    with pytest.raises(ValueError, match="needs images"):
        UNet((4,)).init(jax.random.key(0), X[0])
    with pytest.raises(ValueError, match="a width for each scale"):
        UNet(()).init(jax.random.key(0), X)


@pytest.mark.slow
@pytest.mark.parametrize("diagonal", [False, True])
def test_neighbours_are_the_links_of_a_grid_and_take_two_labels_as_a_share(diagonal):
    rng = np.random.default_rng(0)
    term = sx.energies.Neighbours(diagonal)
    labels = rng.integers(0, 3, (4, 5))
    y = jax.nn.one_hot(labels, 3)
    params = term.init(jax.random.key(0), {}, y, method="energy")["params"]
    assert term.apply({"params": params}, {}, y, method="energy") == 0
    params = {name: rng.normal(size=(3, 3)).astype(np.float32) for name in params}

    total = 0.0
    steps = {"down": (1, 0), "right": (0, 1), "down_right": (1, 1), "down_left": (1, -1)}
    for name, A in params.items():
        down, right = steps[name]
        for i in range(4 - down):
            for j in range(max(0, -right), 5 - max(0, right)):
                total += A[labels[i, j], labels[i + down, j + right]]
    got = term.apply({"params": params}, {}, y, method="energy")
    assert float(got) == pytest.approx(float(total), rel=1e-4)
    two = {name: A[:2, :2] for name, A in params.items()}
    share = rng.random((4, 5)).astype(np.float32)
    both = np.stack([1 - share, share], -1)
    of = [term.apply({"params": two}, {}, a, method="energy") for a in (share, both)]
    assert float(of[0]) == pytest.approx(float(of[1]), rel=1e-5)

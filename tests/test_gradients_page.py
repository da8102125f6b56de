import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

pytestmark = pytest.mark.slow

PAGE = Path(__file__).parents[1] / "docs/theory/gradients.md"


@pytest.fixture(scope="module")
def page():
    """What the page defines, its blocks run in order; their own checks raise."""
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    names = {}
    exec("\n".join(blocks), names)
    return names


def random(seed, *shapes):
    rng = np.random.default_rng(seed)
    return tuple(jnp.asarray(rng.normal(size=shape)) for shape in shapes)


def hold(*cases):
    """bprop(*inputs, d_out) is what reverse mode finds for fprop, in each array of the same shape.

    A case is (bprop, fprop, inputs, d_out); all are compiled together.
    """

    @jax.jit
    def both(given):
        return [
            (bprop(*inputs, d_out), jax.vjp(fprop, *inputs)[1](d_out))
            for (bprop, fprop, *_), (inputs, d_out) in zip(cases, given, strict=True)
        ]

    for got, want in both([case[2:] for case in cases]):
        assert jax.tree.structure(got) == jax.tree.structure(want)
        for by_hand, derived in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
            assert by_hand.dtype == jnp.float64 and by_hand.shape == derived.shape
            np.testing.assert_allclose(by_hand, derived, rtol=1e-9, atol=1e-12)


ONE = np.ones(())
SIZES = [(1, 1), (1, 4), (3, 1), (4, 4), (7, 2)]  # (outputs, inputs)
CASCADES = [(3,), (5, 4), (1, 6, 1), (4, 3, 5, 2, 4)]


def weights_of(seed, outs, ins):
    return random(seed, (outs, ins), (outs,))


def cascade(page, sizes):
    """The modules and parameters of layers of these sizes, with a linear module at the end."""
    pairs = list(zip(sizes[1:], sizes[:-1], strict=True))
    layer, linear = ((page[f"{n}_fprop"], page[f"{n}_bprop"]) for n in ("layer", "linear"))
    params = [weights_of(i, *pair) for i, pair in enumerate(pairs)]
    last = random(len(pairs), (2, sizes[-1]))[0]
    return [layer] * len(pairs) + [linear], [*params, last]


def test_the_page_runs_as_printed(page):
    assert {"backward", "loop_bprop", "training_step", "energy_bprop"} <= page.keys()


def test_the_modules_and_the_layer_have_the_gradients_of_reverse_mode(page, x64):
    cases = []
    for outs, ins in SIZES:
        shapes = (outs, ins), (outs,), (ins,), (outs,), (outs,), (outs,)
        w, b, x, sums, y, d_out = random(0, *shapes)
        given = {
            "linear": ((w, x), d_out),
            "tanh": ((b, sums), d_out),
            "euclidean": ((sums, y), -1.7 * ONE),
            "layer": (((w, b), x), d_out),
        }
        cases += [(page[f"{n}_bprop"], page[f"{n}_fprop"], *g) for n, g in given.items()]
    hold(*cases)


def test_the_gradient_of_the_weights_is_jacobian_transposed_times_that_of_the_output(page, x64):
    w, x, d_out = random(1, (3, 5), (5,), (3,))
    by_weights, by_input = jax.jit(jax.jacobian(page["linear_fprop"], (0, 1)))(w, x)
    np.testing.assert_array_equal(by_input, w)
    by_hand = page["linear_bprop"](w, x, d_out)[0]
    np.testing.assert_allclose(by_hand, jnp.tensordot(d_out, by_weights, 1), rtol=1e-12)


def test_the_backward_sweep_is_reverse_mode_for_cascades_of_any_length(page, x64):
    cases = []
    for sizes in CASCADES:
        modules, params = cascade(page, sizes)

        def fprop(params, x, modules=modules):
            return page["forward"](modules, params, x)[-1]

        def bprop(params, x, d_out, modules=modules):
            return page["backward"](modules, params, page["forward"](modules, params, x), d_out)

        x, d_out = random(9, (sizes[0],), (2,))
        cases.append((bprop, fprop, (params, x), d_out))
    hold(*cases)


def test_the_energy_of_two_layers_has_the_gradient_of_finite_differences(page, x64):
    params = [weights_of(0, 3, 4), weights_of(1, 2, 3)]
    x, y = random(2, (4,), (2,))
    energy, gradient = jax.jit(page["two_layers"])(params, x, y)
    flat, restored = ravel_pytree(params)
    value = jax.jit(jax.vmap(lambda v: page["two_layers"](restored(v), x, y)[0]))
    steps = 1e-5 * np.eye(len(flat))
    slopes = (value(flat[None] + steps) - value(flat[None] - steps)) / 2e-5
    np.testing.assert_allclose(ravel_pytree(gradient)[0], slopes, atol=1e-8)

    (w1, b1), (w2, b2) = params
    answer = np.tanh(w2 @ np.tanh(w1 @ x + b1) + b2)
    np.testing.assert_allclose(energy, np.sum((y - answer) ** 2) / 2)


def test_a_training_step_goes_against_the_gradient_by_the_rate(page, x64):
    params = [weights_of(0, 3, 4), weights_of(1, 2, 3)]
    x, y = random(2, (4,), (2,))
    before, trained = page["training_step"](params, x, y, rate=1e-6)
    gradient = jax.jit(jax.grad(lambda p: page["two_layers"](p, x, y)[0]))(params)
    moved = jax.tree.map(lambda new, old: (old - new) / 1e-6, trained, params)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-9), moved, gradient
    )
    assert page["training_step"](trained, x, y)[0] < before


@pytest.mark.parametrize("steps", [1, 5])
def test_the_unfolded_loop_adds_the_gradients_of_its_steps(page, x64, steps):
    w, b, s, inputs, targets = random(steps, (3, 3), (3,), (3,), (steps, 3), (steps, 3))
    loop = (w, b), s, inputs

    def bprop(params, s, inputs, _):
        return page["loop_bprop"](params, s, inputs, targets)

    hold((bprop, lambda *a: page["loop_energy"](*a, targets), loop, ONE))

    def with_weights_of_each_step(ws):
        energy, state = 0, s
        for w_t, u, y in zip(ws, inputs, targets, strict=True):
            state = jnp.tanh(w_t @ state + u + b)
            energy = energy + jnp.sum((state - y) ** 2) / 2
        return energy

    of_each = jax.jit(jax.grad(with_weights_of_each_step))(jnp.stack([w] * steps))
    by_hand = jax.jit(page["loop_bprop"])(*loop, targets)
    np.testing.assert_allclose(by_hand[0][0], of_each.sum(0), rtol=1e-9)


def test_the_gradient_of_a_loss_of_energies_is_a_weighted_sum_of_sweeps(page, x64):
    modules, params = cascade(page, (4, 3))
    x, codes = random(9, (4,), (6, 2))
    distance = jax.vmap(lambda u, x_n: jnp.sum((x_n - u) ** 2) / 2, (0, None))
    cases = []
    for beta, truth in [(0.5, 0), (2.0, 5)]:

        def nll(params, beta=beta, truth=truth):
            energies = distance(codes, page["forward"](modules, params, x)[-1])
            return energies[truth] + jax.nn.logsumexp(-beta * energies) / beta

        def bprop(params, _, beta=beta, truth=truth):
            states = page["forward"](modules, params, x)
            by_energy = jnp.eye(6)[truth] - jax.nn.softmax(-beta * distance(codes, states[-1]))
            by_output = jax.vmap(lambda u: page["euclidean_bprop"](states[-1], u)[0])(codes)
            return page["backward"](modules, params, states, by_energy @ by_output)[:1]

        cases.append((bprop, nll, (params,), ONE))
    hold(*cases)


def test_the_sweep_down_to_the_answer_is_the_gradient_of_inference(page, x64):
    shapes = [(6, 5), (6,), (4, 6), (4,), (3, 4), (3,), (5,)]
    w1, b1, w2, b2, w3, g1, y = random(3, *shapes)
    params = [(w1, b1), (w2, b2), w3]
    hold(
        (
            lambda p, y, _: page["energy_bprop"](p, g1, y),
            lambda p, y: page["energy"](p, g1, y),
            (params, y),
            ONE,
        )
    )


def test_the_batched_bprop_is_that_of_each_example(page, x64):
    w, b, xs, d_outs = random(4, (3, 5), (3,), (8, 5), (8, 3))
    batched = jax.jit(jax.vmap(page["layer_bprop"], (None, 0, 0)))((w, b), xs, d_outs)
    one_by_one = jax.jit(page["layer_bprop"])
    for i, (x, d_out) in enumerate(zip(xs, d_outs, strict=True)):
        one = one_by_one((w, b), x, d_out)
        for got, want in zip(jax.tree.leaves(batched), jax.tree.leaves(one), strict=True):
            np.testing.assert_allclose(got[i], want, rtol=1e-9)


def test_what_the_slides_print_for_tanh_is_that_of_half_the_argument():
    x = np.linspace(-4, 4, 9)
    printed = 2 / (1 + np.exp(-x)) - 1
    np.testing.assert_allclose(printed, (1 - np.exp(-x)) / (1 + np.exp(-x)), atol=1e-15)
    np.testing.assert_allclose(printed, np.tanh(x / 2), atol=1e-15)
    np.testing.assert_allclose(2 / (1 + np.exp(-2 * x)) - 1, np.tanh(x), atol=1e-15)
    slopes = np.tanh((x + 1e-6) / 2) - np.tanh((x - 1e-6) / 2)
    np.testing.assert_allclose(slopes / 2e-6, (1 - printed**2) / 2, atol=1e-8)

import itertools
import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import erf, logsumexp
from scipy.special import softmax as scipy_softmax
from scipy.stats import multivariate_normal

import spen_jax as sx
from spen_jax import gibbs, latent
from spen_jax.latent import (
    Decoder,
    Nodes,
    Penalised,
    fista,
    gauss_hermite,
    gauss_legendre,
    infer,
    minima,
    mixture,
    monte_carlo,
    periodic,
    posterior,
    product,
    reconstruction,
    scaled_circle,
    variational,
)

INF, NAN = np.inf, np.nan
RNG = np.random.default_rng(0)
free_energy = jax.jit(latent.free_energy, static_argnames=("energy", "average", "block"))
tuned = settings(deadline=None, max_examples=50, derandomize=True)


def waves(params, x, y, z, xp=jnp):
    """Scalars x, y and z, several minima in z."""
    return params["a"] * (y - xp.sin(params["b"] * z + x)) ** 2 + xp.cos(z) * y


WAVES = {"a": 1.7, "b": 2.3}
X, Y = RNG.normal(0, 1, (2, 300))
Z, SHARES = RNG.uniform(-3, 3, 100), RNG.uniform(0.1, 2, 100)
WEIGHTS = {
    "none": None,
    "a mask": (RNG.random(100) < 0.6).astype(float),
    "a mask of one block": (np.arange(100) >= 64).astype(float),
    "shares": SHARES,
}


def table(x=X, y=Y, z=Z):
    """The energies of all examples and nodes in float64, from inputs as float32 has them."""
    params, x, y, z = jax.tree.map(lambda a: np.float64(np.float32(a)), (WAVES, x, y, z))
    return waves(params, x[:, None], y[:, None], z, np)


def free(energies, beta, weights=None, average=True):
    """-1/beta log sum w exp(-beta E) in float64."""
    weights = np.broadcast_to(1.0 if weights is None else weights, energies.shape[-1:])
    energies, weights = energies[..., weights > 0], weights[weights > 0]
    if beta == 0:
        return energies @ weights / weights.sum()
    if beta == INF:
        return energies.min(-1)
    value = -logsumexp(-beta * energies, b=weights, axis=-1) / beta
    return value + (np.log(weights.sum()) / beta if average else 0)


# Integrals


def spring(a, x, y, z):
    return a * (y - z) ** 2 / 2


def spring_exact(y, beta, a=1.0):
    return np.log1p(beta * a) / (2 * beta) + a * y**2 / (2 * (1 + beta * a))


def mean_sinh(y, beta):
    return -np.log(np.sinh(beta * y) / (beta * y)) / beta


def bessel(y, beta):
    return -np.log(np.i0(beta * y)) / beta


SLOPE = np.float32([0.8, -1.1])
CLOSED_FORMS = {
    "a normal prior": (spring, gauss_hermite(60), spring_exact),
    "the circle": (lambda p, x, y, z: -y * jnp.cos(z), periodic(64), bessel),
    "a circle of period 1": (
        lambda p, x, y, z: -y * jnp.cos(2 * jnp.pi * z),
        periodic(64, 1.0, -0.3),
        bessel,
    ),
    "an interval": (lambda p, x, y, z: y * z, gauss_legendre(30, -1, 1), mean_sinh),
    "two spins": (
        lambda p, x, y, z: -y * z,
        Nodes(jnp.float32([-1, 1])),
        lambda y, beta: -np.log(np.cosh(beta * y)) / beta,
    ),
    "a product": (
        lambda p, x, y, z: y * (z[1] - jnp.cos(z[0])),
        product(periodic(32), gauss_legendre(20, -1, 1)),
        lambda y, beta: bessel(y, beta) + mean_sinh(y, beta),
    ),
    "a product that does not factor": (
        lambda p, x, y, z: (y - z @ SLOPE) ** 2 / 2,
        product(gauss_hermite(40), gauss_hermite(40)),
        lambda y, beta: spring_exact(y / np.sqrt(s := SLOPE @ SLOPE), beta, s),
    ),
}


@pytest.mark.parametrize("energy, nodes, exact", CLOSED_FORMS.values(), ids=CLOSED_FORMS)
def test_free_energies_are_the_closed_forms_of_their_integrals(energy, nodes, exact):
    y = np.float32([0.3, 1.0, 2.5])
    for beta in (0.03, 0.5, 1.0, 3.0):
        got = free_energy(energy, 1.0, None, y, nodes, beta)
        np.testing.assert_allclose(got, exact(y.astype(float), beta), rtol=1e-5, atol=1e-6)


def test_without_the_average_it_is_the_integral_itself():
    y = np.linspace(-1.5, 2.5, 5, dtype=np.float32)
    for beta in (0.1, 1.0, 8.0):
        reach = [erf(np.sqrt(beta) * (edge - y)) for edge in (-1, 2)]
        want = -np.log(np.sqrt(np.pi / beta) / 2 * (reach[1] - reach[0])) / beta
        got = free_energy(spring, 2.0, None, y, gauss_legendre(48, -1, 2), beta, average=False)
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


def test_rules_are_exact_for_the_functions_they_are_made_for(x64):
    for count in (1, 2, 5, 20):
        z, w = map(np.asarray, gauss_legendre(count, -0.5, 2.0))
        for power in range(2 * count):
            want = (2.0 ** (power + 1) - (-0.5) ** (power + 1)) / (power + 1)
            np.testing.assert_allclose(w @ z**power, want, rtol=1e-12)
        z, w = map(np.asarray, gauss_hermite(count))
        for power in range(0, min(2 * count, 16), 2):
            want = math.prod(range(power - 1, 0, -2))
            np.testing.assert_allclose(w @ z**power, want, rtol=1e-10)
            np.testing.assert_allclose(w @ z ** (power + 1), 0, atol=1e-10 * want)
        z, w = map(np.asarray, periodic(count, 3.0, 0.4))
        np.testing.assert_allclose(w.sum(), 3)
        for wave in range(1, count):
            np.testing.assert_allclose(w @ np.exp(2j * np.pi * wave * z / 3), 0, atol=1e-12)
    z, w = map(np.asarray, gauss_legendre(3, -1, 1))
    assert abs(w @ z**6 - 2 / 7) > 0.01


def test_a_product_of_rules_has_every_pair_of_nodes_and_the_product_of_their_weights():
    z, w = product(Nodes(jnp.float32([1, 2, 3])), Nodes(jnp.float32([4, 5]), jnp.float32([0.5, 2])))
    np.testing.assert_array_equal(z, list(itertools.product([1, 2, 3], [4, 5])))
    np.testing.assert_array_equal(w, [0.5, 2] * 3)


def test_the_free_energy_at_beta_0_of_a_polynomial_is_its_mean():
    y = np.float32([-1, 0.5, 2])
    got = free_energy(
        lambda p, x, y, z: y * z**5 + z**4 - y, None, None, y, gauss_legendre(3, 0, 2), 0.0
    )
    np.testing.assert_allclose(got, y * 64 / 12 + 32 / 10 - y, rtol=1e-5)


# Any beta, any block


@pytest.mark.parametrize("block", [7, 64, 1000])
@pytest.mark.parametrize("weights", WEIGHTS)
def test_from_hot_to_cold_it_is_the_log_sum_of_exponentials_whatever_the_blocks(weights, block):
    w = WEIGHTS[weights]
    inputs = jax.tree.map(np.float32, (WAVES, X, Y, Nodes(Z, w)))
    for beta in (0.0, 1e-6, 1e-3, 1.0, 1e3, 1e6, INF):
        want = free(table(), beta, w)
        got = free_energy(waves, *inputs, beta, block=block)
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=2e-6)


def test_the_average_is_above_the_integral_by_the_logarithm_of_the_volume_over_beta(x64):
    for beta in (1e-2, 1.0, 50.0):
        inputs = waves, WAVES, X, Y, Nodes(Z, SHARES), beta
        gap = free_energy(*inputs) - free_energy(*inputs, average=False)
        np.testing.assert_allclose(gap, np.log(SHARES.sum()) / beta)
    inputs = waves, WAVES, X, Y, Nodes(Z, SHARES)
    minimum = waves(WAVES, X[:, None], Y[:, None], Z, np).min(1)
    np.testing.assert_allclose(free_energy(*inputs, INF, average=False), minimum, rtol=1e-12)
    np.testing.assert_array_equal(free_energy(*inputs, 0.0, average=False), np.full(300, -INF))


def test_every_example_is_its_own_however_many_there_are():
    params, x, y, nodes = jax.tree.map(np.float32, (WAVES, X, Y, Nodes(Z)))
    many = free_energy(waves, params, x, y, nodes)
    few = [free_energy(waves, params, x[i : i + 9], y[i : i + 9], nodes) for i in (0, 152, 291)]
    parts = [many[i : i + 9] for i in (0, 152, 291)]
    np.testing.assert_allclose(parts, few, rtol=1e-5, atol=1e-6)
    none = jax.eval_shape(partial(free_energy, waves), params, x[:0], y[:0], nodes)
    assert none.shape == (0,)


def nested(params, x, y, z):
    return jnp.sum((y["a"] - params @ z["shift"]) ** 2) * (1 + z["kind"]) + y["b"] * z["kind"]


def test_z_and_y_may_be_trees_and_x_may_be_none():
    params, y = RNG.normal(0, 1, (2, 3)), {"a": RNG.normal(0, 1, (4, 2)), "b": RNG.normal(0, 1, 4)}
    z = {"shift": RNG.normal(0, 1, (9, 3)), "kind": RNG.integers(0, 3, 9)}
    gap = ((y["a"][:, None] - z["shift"] @ params.T) ** 2).sum(-1)
    want = free(gap * (1 + z["kind"]) + y["b"][:, None] * z["kind"], 0.7, SHARES[:9])
    for block in (2, 9):
        got = free_energy(nested, params, None, y, Nodes(z, SHARES[:9]), 0.7, block=block)
        np.testing.assert_allclose(got, want, rtol=1e-5)


def lookup(params, x, y, k):
    """The example is its own table of energies."""
    return y[k]


def of_table(energies, beta, weights=None, block=3):
    nodes = Nodes(np.arange(energies.shape[-1]), weights)
    return np.asarray(free_energy(lookup, None, None, energies, nodes, beta, block=block))


def test_infinite_and_undefined_energies_neither_spread_nor_hide():
    rows = np.array(
        [
            [0, INF, 1, 2, INF, 3, 1],
            [INF] * 7,
            [0, 1, -INF, 2, 1, 1, 1],
            [1, 2, NAN, 0, 1, 1, 1],
            [1e30, 2e30, 1e30, 1e30, 3e30, 1e30, 1e30],
            [3.0] * 7,
        ],
        np.float32,
    )
    finite = np.array([np.log(7 / (1 + 2 * np.exp(-1) + np.exp(-2) + np.exp(-3)))])
    want = {
        0.0: [INF, INF, -INF, NAN, 10 / 7 * 1e30, 3],
        1.0: [*finite, INF, -INF, NAN, 1e30, 3],
        INF: [0, INF, -INF, NAN, 1e30, 3],
    }
    for beta, values in want.items():
        np.testing.assert_allclose(of_table(rows, beta), values, rtol=1e-5)
    without = np.array([1, 1, 0, 1, 1, 1, 1.0])
    np.testing.assert_allclose(of_table(rows[3:4], 1.0, without), free(rows[3:4], 1.0, without))


# Derivatives


def explicit(beta, weights):
    """The posterior's average of the energies' gradients, by a sum over all nodes."""
    if beta in (0, INF):
        least = table() == np.where(weights > 0, table(), INF).min(1, keepdims=True)
        p = (least if beta else np.ones_like(table())) * weights
        p /= p.sum(1, keepdims=True)
    else:
        p = scipy_softmax(np.where(weights > 0, np.log(weights + 1e-300), -INF) - beta * table(), 1)
    params, x, y, z = jax.tree.map(lambda a: np.float64(np.float32(a)), (WAVES, X, Y, Z))
    angle = params["b"] * z + x[:, None]
    gap = y[:, None] - np.sin(angle)
    of_angle = -2 * params["a"] * gap * np.cos(angle)
    return {
        "a": (p * gap**2).sum(),
        "b": (p * of_angle * z).sum(),
        "x": (p * of_angle).sum(1),
        "y": (p * (2 * params["a"] * gap + np.cos(z))).sum(1),
    }


@jax.jit
@partial(jax.grad, argnums=(0, 1, 2))
def slopes(params, x, y, nodes, beta):
    return latent.free_energy(waves, params, x, y, nodes, beta, block=7).sum()


@pytest.mark.parametrize("weights", ["a mask", "shares"])
@pytest.mark.parametrize("beta", [0.0, 1e-4, 1.0, 30.0, INF])
def test_the_gradient_is_the_posteriors_average_of_the_energys_gradients(weights, beta, x64):
    inputs = jax.tree.map(lambda a: np.float64(np.float32(a)), (WAVES, X, Y, Z))
    of_params, of_x, of_y = slopes(*inputs[:3], Nodes(inputs[3], WEIGHTS[weights]), beta)
    want = explicit(beta, WEIGHTS[weights])
    for name, got in {**of_params, "x": of_x, "y": of_y}.items():
        np.testing.assert_allclose(got, want[name], rtol=1e-8, atol=1e-10)


@jax.jit
def total(vector, beta):
    params, x, y = {"a": vector[0], "b": vector[1]}, vector[2:22], vector[22:]
    nodes = Nodes(jnp.asarray(Z), jnp.asarray(SHARES))
    return latent.free_energy(waves, params, x, y, nodes, beta, block=7).sum()


VECTOR = np.concatenate([[1.7, 2.3], X[:20], Y[:20]])


ALONG = RNG.normal(0, 1, VECTOR.shape)


@jax.jit
def second(vector, beta):
    return jax.jvp(jax.grad(total, (0, 1)), (vector, beta), (ALONG, 0.3))


@pytest.mark.parametrize("beta", [1e-3, 0.7, 5.0])
def test_first_and_second_derivatives_are_those_of_finite_differences(beta, x64):
    step = 1e-5
    (of_vector, of_beta), bends = second(VECTOR, beta)
    ends = [(VECTOR + s * ALONG, beta + 0.3 * s) for s in (step, -step)]
    difference = (float(total(*ends[0])) - float(total(*ends[1]))) / (2 * step)
    np.testing.assert_allclose(of_vector @ ALONG + 0.3 * of_beta, difference, rtol=1e-7)
    above, below = (jax.tree.map(np.asarray, second(*end)[0]) for end in ends)
    for got, a, b in zip(bends, above, below, strict=True):
        np.testing.assert_allclose(got, (a - b) / (2 * step), rtol=1e-4, atol=1e-5)


def test_several_parameters_and_temperatures_are_mapped_as_one(x64):
    nodes, a = Nodes(Z, SHARES), np.array([0.5, 1.0, 2.0])
    betas = np.array([0.0, 1.0, INF])

    @jax.jit
    @partial(jax.vmap, in_axes=({"a": 0, "b": None}, 0))
    def mapped(params, beta):
        def value(params):
            return latent.free_energy(waves, params, X[:9], Y[:9], nodes, beta, block=30).sum()

        return jax.value_and_grad(value)(params)

    values, slopes_of = mapped({"a": a, "b": 2.3}, betas)
    for i, beta in enumerate(betas):
        one = waves({"a": a[i], "b": 2.3}, X[:9, None], Y[:9, None], Z, np)
        np.testing.assert_allclose(values[i], free(one, beta, SHARES).sum())
        ends = [
            free(
                waves({"a": a[i] + d, "b": 2.3 + e}, X[:9, None], Y[:9, None], Z, np), beta, SHARES
            ).sum()
            for d, e in 1e-6 * np.array([[1, 0], [-1, 0], [0, 1], [0, -1]])
        ]
        differences = np.array([ends[0] - ends[1], ends[2] - ends[3]]) / 2e-6
        np.testing.assert_allclose([slopes_of[k][i] for k in "ab"], differences, rtol=1e-6)


@pytest.mark.parametrize("block", [2, 64])
def test_tied_minima_share_the_cold_gradient_as_the_posterior_does(block):
    energies, weights = np.float32([[0, 0, 0, 1, 1]]), np.float32([1, 5, 1, 1, 1])
    nodes = Nodes(jnp.arange(5), weights)
    slope = jax.grad(lambda y: free_energy(lookup, None, None, y, nodes, INF, block=block).sum())(
        energies
    )
    p = posterior(lookup, None, None, energies, nodes, INF)
    np.testing.assert_allclose(p, [[1 / 7, 5 / 7, 1 / 7, 0, 0]], rtol=1e-6)
    np.testing.assert_allclose(slope, p, rtol=1e-6)


def test_a_second_call_of_an_energy_traces_nothing_again():
    traces = []

    def counted(params, x, y, z):
        traces.append(1)
        return waves(params, x, y, z)

    x, y, z = np.float32(X[:3]), np.float32(Y[:3]), np.float32(Z)
    latent.free_energy(counted, WAVES, x, y, Nodes(z))
    first = len(traces)
    latent.free_energy(counted, WAVES, x, y, Nodes(z))
    assert len(traces) == first


# Properties

numbers = st.floats(-20, 20, width=32)
sevens = st.lists(numbers, min_size=7, max_size=7).map(np.array)
shares = st.lists(st.floats(0.1, 5), min_size=7, max_size=7).map(np.array)
betas = st.sampled_from([0.0, 1e-6, 1e-2, 0.3, 1.0, 7.0, 1e3, INF])


@jax.jit
def of_nodes(e, beta, w):
    nodes = Nodes(jnp.arange(e.size), w)
    return latent.free_energy(lookup, None, None, e[None], nodes, beta, block=3)[0]


def precisely(function, *args, **kwargs):
    """In float64, as NumPy's."""
    with jax.enable_x64(True):
        return np.asarray(function(*args, **kwargs))


F = partial(precisely, of_nodes)


@tuned
@given(sevens, shares, betas, betas)
def test_it_falls_from_the_mean_to_the_minimum_as_beta_grows(e, w, one, other):
    hot, cold = F(e, min(one, other), w), F(e, max(one, other), w)
    mean = e @ w / w.sum()
    assert e.min() - 1e-12 <= cold <= hot + 1e-12 <= mean + 1e-9


@tuned
@given(sevens, shares, betas, numbers)
def test_a_constant_in_the_energy_is_one_in_the_free_energy(e, w, beta, constant):
    got = F(e + constant, beta, w) - F(e, beta, w)
    np.testing.assert_allclose(got, constant, atol=1e-9)


@tuned
@given(sevens, shares, betas, st.permutations(range(7)))
def test_the_order_of_the_nodes_does_not_matter(e, w, beta, order):
    same = F(e[order], beta, w[order])
    np.testing.assert_allclose(same, F(e, beta, w), rtol=1e-9, atol=1e-9)


@tuned
@given(sevens, shares, betas, st.floats(0.01, 0.99))
def test_a_node_may_be_split_into_two_that_share_its_weight(e, w, beta, share):
    split_e = np.append(e, e[-1])
    split_w = np.concatenate([w[:-1], w[-1] * np.array([share, 1 - share])])
    same = F(split_e, beta, split_w)
    np.testing.assert_allclose(same, F(e, beta, w), rtol=1e-9, atol=1e-9)


softs = {f: partial(precisely, jax.jit(getattr(gibbs, f))) for f in dir(gibbs) if "soft" in f}


@tuned
@given(sevens, shares, betas)
def test_softmax_is_minus_softmin_of_minus_and_softargmax_its_distribution(v, w, beta):
    high, low = (softs[f](s, beta, weights=w) for f, s in [("softmax", v), ("softmin", -v)])
    p = softs["softargmax"](v, beta, weights=w)
    want = (
        (v == v.max()) * w / ((v == v.max()) @ w)
        if beta == INF
        else scipy_softmax(beta * v + np.log(w))
    )
    np.testing.assert_allclose(p, want, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(p.sum(), 1)
    if 0 < beta < INF:
        np.testing.assert_allclose(high, logsumexp(beta * v, b=w) / beta, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("dtype", [np.int32, np.uint8])
def test_softmax_of_integers_is_that_of_the_same_floats(dtype):
    values = np.array([0, 1, 2], dtype)
    want = logsumexp([0, 1, 2])
    np.testing.assert_allclose(gibbs.softmax(values), want, rtol=1e-6)
    np.testing.assert_allclose(gibbs.softargmax(values), np.exp([0, 1, 2] - want), rtol=1e-6)


def test_no_array_of_examples_nodes_and_hidden_units_is_made():
    """Compiled, the gradient needs below 3 % of the memory of the hidden units of all pairs."""

    def decode(params, h, z):
        return jnp.tanh(h @ params["x"] + z @ params["z"]) @ params["out"]

    energy = Decoder(decode, lambda params, x: x)

    def value(params, x, y, z):
        return latent.free_energy(energy, params, x, y, Nodes(z)).sum()

    def of(*shape):
        return jax.ShapeDtypeStruct(shape, jnp.float32)

    params = {"g": {"x": of(8, 256), "z": of(4, 256), "out": of(256, 2)}, "f": of()}
    inputs = params, of(4096, 8), of(4096, 2), of(1024, 4)
    compiled = jax.jit(jax.value_and_grad(value, (0, 1, 2))).lower(*inputs).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 0.03 * 4096 * 1024 * 256 * 4


# As an energy of y


def offset(params, x, y, z):
    """z moves the answer away from x, and the answer would like to be 1."""
    return jnp.sum((y - x - z) ** 2 + (y - 1) ** 2) / 2


def test_the_marginal_answer_is_found_by_minimising_the_free_energy():
    x = np.linspace(-2, 2, 70, dtype=np.float32)[:, None]
    for beta in (0.5, 4.0):
        energy = latent.free_energy_of(offset, gauss_hermite(50), beta)
        solver = sx.GradientDescent(0.3, 0.3)
        start = jnp.zeros((70, 1))
        found = sx.minimize(energy, None, x, start, domain=sx.Reals(), solver=solver, steps=60)
        pull = 1 / (1 + beta)
        np.testing.assert_allclose(found.y, (pull * x + 1) / (pull + 1), atol=1e-4)
        y = np.float64(found.y)
        want = spring_exact(y - x, beta) + (y - 1) ** 2 / 2
        np.testing.assert_allclose(found.energy, want[:, 0], rtol=1e-5)
        assert np.all(found.converged)


@pytest.mark.parametrize("average", [False, True])
def test_marginal_probabilities_of_answers_are_the_joint_ones_summed_over_z(average, x64):
    x, y, beta = X[:4], np.linspace(-1, 1, 5), 1.3
    energy = latent.free_energy_of(waves, Nodes(Z, SHARES), beta, average=average)
    energies = jax.jit(partial(gibbs.pairwise, energy))(WAVES, x, y)
    marginal = scipy_softmax(-beta * energies, axis=1)
    np.testing.assert_allclose(marginal.sum(1), 1)
    joint = SHARES * np.exp(-beta * waves(WAVES, x[:, None, None], y[:, None], Z, np))
    np.testing.assert_allclose(marginal, joint.sum(2) / joint.sum((1, 2))[:, None])


def test_as_an_energy_of_one_example_it_is_that_of_the_batch(x64):
    for beta, average in [(0.0, True), (1.0, False), (2.0, True), (INF, True)]:
        energy = latent.free_energy_of(waves, Nodes(Z, SHARES), beta, average=average)
        got = jax.jit(jax.vmap(energy, (None, 0, 0)))(WAVES, X, Y)
        batch = free_energy(waves, WAVES, X, Y, Nodes(Z, SHARES), beta, average=average)
        np.testing.assert_allclose(got, batch, rtol=1e-12)


def test_the_posterior_goes_from_the_prior_to_the_minimum():
    inputs = jax.tree.map(np.float32, (WAVES, X[:5], Y[:5], Nodes(Z, SHARES)))
    of = jax.jit(partial(posterior, waves))
    energies = table(X[:5], Y[:5])
    np.testing.assert_allclose(of(*inputs, 0.0), [SHARES / SHARES.sum()] * 5, rtol=1e-5)
    best = np.eye(100)[energies.argmin(1)]
    np.testing.assert_allclose(of(*inputs, INF), best, rtol=1e-6)
    for beta in (0.3, 20.0):
        want = scipy_softmax(-beta * energies + np.log(SHARES), axis=1)
        np.testing.assert_allclose(of(*inputs, beta), want, rtol=1e-4, atol=1e-9)


# Samples


def samples_of(seeds, n):
    return np.random.default_rng(seeds).normal(0, 1, (seeds, n))


sampled = partial(monte_carlo, spring, 1.0, None)
sample_once = jax.jit(sampled)
sample_often = jax.jit(jax.vmap(sampled, (None, 0, None)))


def estimates(y, samples, beta):
    return jax.tree.map(np.asarray, sample_often(y, samples, beta))


def test_samples_of_the_prior_estimate_the_free_energy_and_their_error(x64):
    y, beta = np.array([0.0, 1.5]), 1.2
    value, error = estimates(y, samples_of(800, 400), beta)
    deviation = np.abs(value - spring_exact(y, beta)) / error
    np.testing.assert_allclose(value.std(0), error.mean(0), rtol=0.08)
    for reach, want in [(1, 0.683), (2, 0.954), (3, 0.9973)]:
        np.testing.assert_allclose(
            (deviation < reach).mean(0), want, atol=0.05 if reach < 3 else 0.01
        )


def test_the_estimate_is_biased_upwards_by_half_of_beta_times_the_squared_error(x64):
    y, beta = np.array([1.0]), 2.0
    value, error = estimates(y, samples_of(20_000, 100), beta)
    bias = value.mean() - spring_exact(1.0, beta)
    np.testing.assert_allclose(bias, beta * np.var(value) / 2, rtol=0.1)
    np.testing.assert_allclose(bias, beta * np.mean(error**2) / 2, rtol=0.15)


def test_the_error_is_that_of_a_mean_at_beta_0_and_unknown_at_infinity(x64):
    y, z = Y[:4], np.random.default_rng(3).normal(0, 1, 50)
    energies = (y[:, None] - z) ** 2 / 2
    hot, warm, cold = (sample_once(y, z, beta) for beta in (0.0, 1e-6, INF))
    np.testing.assert_allclose(hot.value, energies.mean(1))
    np.testing.assert_allclose(hot.error, energies.std(1) / np.sqrt(50))
    np.testing.assert_allclose(warm.error, hot.error, rtol=1e-4)
    np.testing.assert_allclose(cold.value, energies.min(1))
    np.testing.assert_array_equal(cold.error, np.full(4, INF))


# The best z


def ellipse(params, h, z):
    return scaled_circle(params, z[0])


CALM = dict(domain=sx.Reals(), solver=sx.GradientDescent(0.1, 0.5), steps=300)
ANGLES = np.linspace(-np.pi, np.pi, 8, endpoint=False, dtype=np.float32)
RADII = np.float32([1.5, 0.7])


def starts_for(batch):
    return jnp.broadcast_to(ANGLES[None, :, None], (batch, 8, 1))


def cold_on_grid(radii, y, count=20_001):
    z = np.linspace(-np.pi, np.pi, count)
    points = radii * np.stack([np.cos(z), np.sin(z)], 1)
    distance = ((y[:, None] - points) ** 2).sum(-1)
    return distance.min(1), points[distance.argmin(1)]


def test_the_inferred_z_is_the_best_of_a_fine_grid_and_its_gradient_the_envelopes():
    energy, y = Decoder(ellipse), np.float32(RNG.normal(0, 1.2, (40, 2)))

    @jax.jit
    @partial(jax.value_and_grad, has_aux=True)
    def cold(radii):
        found = infer(energy, {"g": radii}, None, y, starts_for(40), **CALM)
        return found.energy.sum(), found

    (_, found), slope = cold(RADII)
    want, points = cold_on_grid(RADII.astype(float), y.astype(float))
    np.testing.assert_allclose(found.energy, want, atol=1e-5)
    np.testing.assert_allclose(
        jax.vmap(lambda z: ellipse(RADII, None, z))(found.y), points, atol=2e-3
    )
    differences = [
        (cold_on_grid(RADII + d, y)[0] - cold_on_grid(RADII - d, y)[0]).sum() / 2e-3
        for d in 1e-3 * np.eye(2)
    ]
    np.testing.assert_allclose(slope, differences, rtol=1e-3)


def test_unless_told_otherwise_z_is_any_real_number():
    y = jnp.full((2, 1), 3.0)
    found = infer(
        lambda p, x, y, z: jnp.sum((y - z) ** 2), None, None, y, jnp.zeros((2, 1, 1)), steps=300
    )
    np.testing.assert_allclose(found.y, y, atol=1e-2)


def test_a_ball_limits_what_z_says():
    y = np.float32([[3, 4], [0.3, 0.1]])
    energy = Decoder(lambda params, h, z: h + z, lambda shift, x: shift * x)
    x = np.float32([[1, 0], [0.1, 0]])
    found = infer(energy, {"f": 2.0}, x, y, jnp.zeros((2, 1, 2)), domain=sx.L2Ball(0.5), steps=200)
    left = y - 2 * x
    size = np.linalg.norm(left, axis=1)
    np.testing.assert_allclose(found.energy, np.maximum(size - 0.5, 0) ** 2, atol=1e-5)
    want = left * np.minimum(1, 0.5 / size)[:, None]
    np.testing.assert_allclose(found.y, want, atol=1e-3)


def test_y_and_z_are_minimised_together_or_one_inside_the_other():
    def energy(params, x, y, z):
        return jnp.sum((y - x * z) ** 2) + (z - 1) ** 2 + params * jnp.sum((y - 0.2) ** 2)

    def joint(params, x, both):
        return energy(params, x, both["y"], both["z"])

    x = np.float32([[1, 0.5], [-1, 2], [0.3, 0.1]])
    found = sx.minimize(
        joint,
        0.5,
        x,
        {"y": jnp.full((3, 2), 0.5), "z": jnp.zeros(3)},
        domain=sx.Product({"y": sx.Box(), "z": sx.Reals()}),
        solver=sx.GradientDescent(0.05, 0.8),
        steps=400,
    )
    grid = np.linspace(0, 1, 101)
    y = np.stack(np.meshgrid(grid, grid, indexing="ij"), -1).reshape(-1, 2)
    best_z = (1 + y @ x.T) / (1 + (x**2).sum(1))  # (points, examples)
    gap = ((y[:, None] - x * best_z[..., None]) ** 2).sum(-1)
    values = gap + (best_z - 1) ** 2 + 0.5 * ((y - 0.2) ** 2).sum(1)[:, None]
    np.testing.assert_allclose(found.energy, values.min(0), atol=1e-3)
    np.testing.assert_allclose(found.y["y"], y[values.argmin(0)], atol=0.011)
    nodes = Nodes(jnp.linspace(-1, 2, 3001))
    inner = latent.free_energy_of(energy, nodes, INF)
    outer = sx.minimize(
        inner, 0.5, x, jnp.full((3, 2), 0.5), solver=sx.GradientDescent(0.05, 0.8), steps=200
    )
    np.testing.assert_allclose(outer.energy, found.energy, atol=1e-4)
    np.testing.assert_allclose(outer.y, found.y["y"], atol=2e-3)


def tilted(params, x, z):
    """Wells near -1 and 1, that on the side against x the lower; none at all beyond |z| = 5."""
    return jnp.where(jnp.abs(z[0]) > 5, jnp.nan, (z[0] ** 2 - 1) ** 2 + params * x * z[0])


def test_several_minima_are_kept_sorted_each_once_and_failed_ones_last():
    starts = jnp.broadcast_to(jnp.float32([9, 1.4, -0.6, 0.8, -1.5])[None, :, None], (2, 5, 1))
    x = np.float32([1, -1])
    options = dict(domain=sx.Reals(), solver=sx.GradientDescent(0.05, 0.5), steps=200)
    few = jax.jit(partial(minima, tilted, 0.2, **options), static_argnames="apart")
    found = few(x, starts)
    wells = sorted(np.roots([4, 0, -4, 0.2]).real, key=lambda z: (z**2 - 1) ** 2 + 0.2 * z)[:2]
    wells = np.array(wells)
    want = (wells**2 - 1) ** 2 + 0.2 * wells
    for row, sign in enumerate(x):
        np.testing.assert_allclose(found.y[row, :4, 0], sign * np.repeat(wells, 2), atol=1e-3)
        np.testing.assert_allclose(found.energy[row, :4], np.repeat(want, 2), atol=1e-5)
    np.testing.assert_array_equal(found.distinct, [[1, 0, 1, 0, 0]] * 2)
    np.testing.assert_array_equal(found.energy[:, 4], [INF, INF])
    far = few(x, starts[:, 1:], apart=5.0)
    np.testing.assert_array_equal(far.distinct, [[1, 0, 0, 0]] * 2)


# Sparse codes


def lasso(atoms, y, l1, sweeps=3000):
    """Coordinate descent on 1/2 ||y - z'A||^2 + l1 |z|_1 in float64."""
    z, scale = np.zeros(len(atoms)), (atoms**2).sum(1)
    for _ in range(sweeps):
        for k in range(len(z)):
            pull = atoms[k] @ (y - z @ atoms) + scale[k] * z[k]
            z[k] = np.sign(pull) * max(abs(pull) - l1, 0) / scale[k]
    return z


def cost(atoms, y, z, l1):
    return ((y - z @ atoms) ** 2).sum(-1) / 2 + l1 * np.abs(z).sum(-1)


ATOMS = RNG.normal(0, 1, (8, 5))
SIGNALS = RNG.normal(0, 2, (3, 5))
STEP = 1 / np.linalg.norm(ATOMS, 2) ** 2


def test_with_orthonormal_atoms_sparse_codes_are_soft_thresholds(x64):
    atoms = np.linalg.qr(RNG.normal(0, 1, (6, 6)))[0]
    y = RNG.normal(0, 1, (4, 6))
    pulls = y @ atoms.T
    want = np.sign(pulls) * np.maximum(np.abs(pulls) - 0.4, 0)
    for accelerated in (False, True):
        found = fista(
            reconstruction,
            atoms,
            None,
            y,
            np.zeros((4, 6)),
            l1=0.4,
            step_size=1.0,
            steps=300,
            accelerated=accelerated,
        )
        np.testing.assert_allclose(found.z, want, atol=1e-9)
        np.testing.assert_allclose(found.energy, cost(atoms, y, want, 0.4))
        np.testing.assert_allclose(found.residual, 0, atol=1e-9)


def codes(steps, accelerated=True, signals=SIGNALS):
    start = np.zeros((len(signals), 8))
    options = dict(l1=0.3, step_size=STEP, steps=steps, accelerated=accelerated)
    return fista(reconstruction, ATOMS, None, signals, start, **options)


def test_sparse_codes_of_any_atoms_are_those_of_coordinate_descent_and_sooner_with_momentum(x64):
    want = np.stack([lasso(ATOMS, y, 0.3) for y in SIGNALS])
    lowest = cost(ATOMS, SIGNALS, want, 0.3)
    found = codes(3000)
    np.testing.assert_allclose(found.z, want, atol=1e-6)
    np.testing.assert_allclose(found.energy, lowest)
    np.testing.assert_allclose(found.residual, 0, atol=1e-7)
    for steps in (20, 60):
        fast, slow = codes(steps).energy - lowest, codes(steps, False).energy - lowest
        assert fast.sum() < 0.7 * slow.sum()
        for gap, bound in [
            (fast, 2 * (want**2).sum(1) / (STEP * (steps + 1) ** 2)),
            (slow, (want**2).sum(1) / (2 * STEP * steps)),
        ]:
            assert np.all(gap <= bound)
    early = codes(1)
    step = early.z - (early.z @ ATOMS - SIGNALS) @ ATOMS.T
    want = early.z - np.sign(step) * np.maximum(np.abs(step) - 0.3, 0)
    np.testing.assert_allclose(early.residual, np.abs(want).max(1))


def test_the_accelerated_steps_are_those_of_beck_and_teboulle(x64):
    z = ahead = np.zeros((3, 8))
    t = 1.0
    for steps in (1, 2, 3, 4):
        step = ahead - STEP * (ahead @ ATOMS - SIGNALS) @ ATOMS.T
        new = np.sign(step) * np.maximum(np.abs(step) - STEP * 0.3, 0)
        after = (1 + np.sqrt(1 + 4 * t**2)) / 2
        ahead = new + (t - 1) / after * (new - z)
        z, t = new, after
        np.testing.assert_allclose(codes(steps).z, z, atol=1e-12)


# Distributions of z


def linear(params, x, y, z):
    """-log N(y; W z + x, s^2 I) up to a constant."""
    w, scale = params
    return jnp.sum((y - x - w @ z) ** 2) / (2 * scale**2)


W = np.linalg.qr(RNG.normal(0, 1, (3, 2)))[0] * np.array([1.5, 0.6])
"""W'W is diagonal, so that the posterior has independent coordinates."""
CROSS = np.sqrt(2) * np.concatenate([np.eye(2), -np.eye(2)])
"""Four points of mean 0 and covariance I: averages of a quadratic over them are exact."""


def linear_exact(x, y, beta, scale=0.8):
    """F_beta of the averaged normal prior, and the mean and covariance of the posterior."""
    precision = np.eye(2) + beta * W.T @ W / scale**2
    covariance = np.linalg.inv(precision)
    mean = beta * (y - x) @ W @ covariance / scale**2
    total = np.eye(3) * scale**2 / beta + W @ W.T
    value = -multivariate_normal(np.zeros(3), total).logpdf(y - x)
    value -= 3 / 2 * np.log(2 * np.pi * scale**2 / beta)
    return value / beta, mean, covariance


def test_the_variational_bound_is_the_free_energy_at_the_posterior_and_above_it_elsewhere(x64):
    x, y = RNG.normal(0, 1, (2, 4, 3))
    bound = jax.jit(partial(variational, linear, (W, 0.8)))
    slope = jax.jit(jax.grad(lambda m, s, b: bound(x, y, m, s, CROSS, b).sum(), (0, 1)))
    for beta in (0.3, 1.0, 4.0):
        value, mean, covariance = linear_exact(x, y, beta)
        log_std = np.broadcast_to(np.log(np.diag(covariance)) / 2, mean.shape)
        tight = bound(x, y, mean, log_std, CROSS, beta)
        np.testing.assert_allclose(tight, value, rtol=1e-9)
        for _ in range(10):
            q = mean + RNG.normal(0, 0.5, (4, 2)), log_std + RNG.normal(0, 0.5, (4, 2))
            assert np.all(np.asarray(bound(x, y, *q, CROSS, beta)) > value)
        for of in slope(mean, log_std, beta):
            np.testing.assert_allclose(of, 0, atol=1e-9)
    value, *_ = linear_exact(x, y, 0.3)
    nodes = product(gauss_hermite(60), gauss_hermite(60))
    quadrature = free_energy(linear, (W, 0.8), x, y, nodes, 0.3)
    np.testing.assert_allclose(quadrature, value, rtol=1e-6)


def test_the_variational_gradient_is_finite_wherever_the_code_is_narrow_or_wide():
    mean, log_std = jnp.float32([[0, 3], [1, -2]]), jnp.float32([[-9, 3], [0, 1]])
    noise = jax.random.normal(jax.random.key(0), (16, 2))
    x, y = np.float32(RNG.normal(0, 1, (2, 2, 3)))

    @jax.jit
    @partial(jax.grad, argnums=(0, 1, 2))
    def slope_of(params, mean, log_std):
        return variational(linear, params, x, y, mean, log_std, noise, 2.0).sum()

    slope = slope_of((np.float32(W), 0.8), mean, log_std)
    assert all(np.isfinite(a).all() for a in jax.tree.leaves(slope))
    np.testing.assert_array_less(0.1, np.abs(slope[2][0, 1]))


# Energies


def test_a_decoder_is_the_squared_distance_to_what_it_decodes():
    energy = Decoder(
        lambda g, h, z: g * z + h if h is not None else g * z, lambda f, x: jnp.tanh(f @ x)
    )
    f, x, y, z = RNG.normal(0, 1, (2, 3)), RNG.normal(0, 1, 3), *RNG.normal(0, 1, (2, 2))
    decoded = 1.5 * z + np.tanh(f @ x)
    np.testing.assert_allclose(
        energy({"f": f, "g": 1.5}, x, y, z), ((y - decoded) ** 2).sum(), 1e-5
    )
    np.testing.assert_allclose(energy.decode({"f": f, "g": 1.5}, x, z), decoded, 1e-5)
    alone = Decoder(energy.g)
    np.testing.assert_allclose(alone({"g": 1.5}, None, y, z), ((y - 1.5 * z) ** 2).sum(), 1e-5)
    assert hash(Decoder(energy.g)) == hash(alone) and Decoder(energy.g) == alone


def test_the_lectures_decoder_is_an_ellipse():
    z = np.linspace(0, 6, 7, dtype=np.float32)
    points = np.asarray(jax.vmap(scaled_circle, (None, 0))(RADII, z))
    np.testing.assert_allclose(((points / RADII) ** 2).sum(1), 1, rtol=1e-5)
    np.testing.assert_allclose(points, RADII * np.stack([np.cos(z), np.sin(z)], 1), atol=1e-6)


def test_a_penalty_is_added_and_makes_z_say_less():
    energy = Penalised(lambda p, x, y, z: jnp.sum((y - z) ** 2), lambda z: 3 * jnp.sum(z**2))
    y = np.float32([[1.0, -2.0], [0.4, 0]])
    found = infer(energy, None, None, y, jnp.zeros((2, 1, 2)), **CALM)
    np.testing.assert_allclose(found.y, y / 4, atol=1e-3)
    np.testing.assert_allclose(found.energy, 0.75 * (y**2).sum(1), rtol=1e-4)


MIXTURE = {
    "means": RNG.normal(0, 2, (4, 3)),
    "log_scales": RNG.normal(0, 0.4, 4),
    "logits": RNG.normal(0, 1, 4),
}


def test_summed_over_components_a_mixtures_free_energy_is_minus_its_log_density(x64):
    y, nodes = RNG.normal(0, 2, (6, 3)), Nodes(jnp.arange(4))
    scales, pi = np.exp(MIXTURE["log_scales"]), scipy_softmax(MIXTURE["logits"])
    parts = [
        share * multivariate_normal(mean, scale**2 * np.eye(3)).pdf(y)
        for mean, scale, share in zip(MIXTURE["means"], scales, pi, strict=True)
    ]
    got = free_energy(mixture, MIXTURE, None, y, nodes, average=False)
    np.testing.assert_allclose(got, -np.log(np.sum(parts, 0)))
    responsible = jax.jit(partial(posterior, mixture))(MIXTURE, None, y, nodes)
    np.testing.assert_allclose(responsible, (parts / np.sum(parts, 0)).T)


def test_parameters_may_be_numpys_uncompiled_too():
    params, y, nodes = jax.tree.map(np.float32, MIXTURE), np.ones((2, 3)), Nodes(jnp.arange(4))
    found = posterior(mixture, params, None, y, nodes)
    np.testing.assert_allclose(found.sum(1), 1, rtol=1e-5)


def test_a_cold_mixture_of_equals_is_the_distance_to_the_nearest_mean(x64):
    params = {**MIXTURE, "log_scales": np.full(4, 0.3), "logits": np.full(4, 2.0)}
    y = RNG.normal(0, 2, (6, 3))
    squares = ((y[:, None] - params["means"]) ** 2).sum(-1)
    got = free_energy(mixture, params, None, y, Nodes(jnp.arange(4)), INF)
    constant = 3 * 0.3 + 1.5 * np.log(2 * np.pi) + np.log(4)
    np.testing.assert_allclose(got, squares.min(1) / (2 * np.exp(0.6)) + constant)


# Mistakes


def per_label(params, x, y, z):
    return (y - z) ** 2


NOT_SCALAR = {
    "free_energy": lambda y, nodes: latent.free_energy(per_label, None, None, y, nodes),
    "free_energy_of": lambda y, nodes: latent.free_energy_of(per_label, nodes)(None, None, y[0]),
    "posterior": lambda y, nodes: posterior(per_label, None, None, y, nodes),
    "monte_carlo": lambda y, nodes: monte_carlo(per_label, None, None, y, nodes.z),
}


@pytest.mark.parametrize("function", NOT_SCALAR.values(), ids=NOT_SCALAR)
def test_an_energy_that_is_no_scalar_is_refused(function):
    for labels in (1, 2):
        with pytest.raises(ValueError, match="scalar"):
            function(jnp.ones((3, labels)), Nodes(jnp.arange(2.0)))


def test_beta_is_one_number_of_at_least_0_and_x_has_an_example_for_each_y():
    y, nodes = jnp.ones(3), Nodes(jnp.arange(4.0))
    with pytest.raises(ValueError, match="at least 0"):
        latent.free_energy(spring, 1.0, None, y, nodes, -1.0)
    with pytest.raises(ValueError, match="one number"):
        posterior(spring, 1.0, None, y, nodes, jnp.ones(3))
    for function in (latent.free_energy, posterior):
        with pytest.raises(ValueError, match="size"):
            function(waves, WAVES, jnp.ones(4), y, nodes)
    with pytest.raises(ValueError, match="leading axis"):
        infer(spring, 1.0, None, y, jnp.zeros((4, 2)))
    with pytest.raises(ValueError, match="hashable"):
        fista(Unhashable(), None, None, y, jnp.zeros((3, 2)), l1=0.1, step_size=0.1)


class Unhashable:
    __hash__ = None

    def __call__(self, params, x, y, z):
        return jnp.sum((y - z) ** 2)


def test_a_point_of_another_shape_than_the_decoder_makes_is_refused():
    decoder = latent.Decoder(lambda radii, h, z: latent.scaled_circle(radii, z))
    with pytest.raises(AssertionError, match="shape"):
        latent.free_energy(decoder, {"g": jnp.ones(2)}, None, jnp.ones(2), latent.periodic(8))
    with pytest.raises(ValueError, match="nodes must be Nodes"):
        latent.free_energy(decoder, {"g": jnp.ones(2)}, None, jnp.ones((1, 2)), jnp.arange(8.0))

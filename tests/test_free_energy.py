from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import counting
from scipy.special import erf, logsumexp
from scipy.special import softmax as scipy_softmax

import spen_jax as sx
from spen_jax import exact
from spen_jax.energies import Decoder
from spen_jax.exact import (
    Nodes,
    free_energy_of,
    gauss_hermite,
    gauss_legendre,
    periodic,
    posterior,
    tensor_rule,
)

INF, NAN = np.inf, np.nan
RNG = np.random.default_rng(0)
free_energy = jax.jit(exact.free_energy, static_argnames=("energy", "average", "block"))


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


def truncated(y, beta):
    """Of (y - z)^2 / 2 for z from -1 to 2, all alike."""
    reach = [erf(np.sqrt(beta / 2) * (edge - y)) for edge in (-1, 2)]
    return -np.log(np.sqrt(np.pi / (2 * beta)) * (reach[1] - reach[0]) / 3) / beta


SLOPE = np.array([0.8, -1.1])
# For each the nodes, E(y, z) = y f(z) or (y - g(z))^2 / 2 as f and g, and F.
CLOSED_FORMS = {
    "a normal prior": (gauss_hermite(60), None, lambda z: z, spring_exact),
    "the circle": (periodic(64), lambda z: -np.cos(z), None, bessel),
    "a circle of period 1": (
        periodic(64, 1.0, -0.3),
        lambda z: -np.cos(2 * np.pi * z),
        None,
        bessel,
    ),
    "a spring between walls": (gauss_legendre(48, -1, 2), None, lambda z: z, truncated),
    "an interval": (gauss_legendre(30, -1, 1), lambda z: z, None, mean_sinh),
    "two spins": (
        Nodes(np.array([-1.0, 1])),
        lambda z: -z,
        None,
        lambda y, beta: -np.log(np.cosh(beta * y)) / beta,
    ),
    "a product": (
        tensor_rule(periodic(32), gauss_legendre(20, -1, 1)),
        lambda z: z[:, 1] - np.cos(z[:, 0]),
        None,
        lambda y, beta: bessel(y, beta) + mean_sinh(y, beta),
    ),
    "a product that does not factor": (
        tensor_rule(gauss_hermite(40), gauss_hermite(40)),
        None,
        lambda z: z @ SLOPE,
        lambda y, beta: spring_exact(y / np.sqrt(s := SLOPE @ SLOPE), beta, s),
    ),
}


def either(springs, x, y, z):
    return springs * (y - z["g"]) ** 2 / 2 + y * z["f"]


def integral(y, nodes, f, g, beta):
    """The free energy by any rule, filled up with nodes of no weight so that all compile once."""
    z = np.asarray(nodes.z, np.float64)
    values = {
        name: np.zeros(len(z)) if of is None else of(z) for name, of in dict(f=f, g=g).items()
    }
    weights = np.ones(len(z)) if nodes.weights is None else nodes.weights
    fill = (0, 1600 - len(z))
    padded = jax.tree.map(lambda a: np.pad(np.float32(a), fill), Nodes(values, weights))
    return free_energy(either, float(g is not None), None, y, padded, beta)


@pytest.mark.parametrize("form", CLOSED_FORMS)
def test_free_energies_are_the_closed_forms_of_their_integrals(form):
    y = np.float32([0.3, 1.0, 2.5])
    *rule, exactly = CLOSED_FORMS[form]
    for beta in (0.03, 0.5, 1.0, 3.0):
        want = exactly(y.astype(float), beta)
        np.testing.assert_allclose(integral(y, *rule, beta), want, rtol=1e-5, atol=1e-6)


def test_the_free_energy_at_beta_0_of_a_polynomial_is_its_mean():
    y = np.float32([-1, 0.5, 2])
    got = integral(y, gauss_legendre(3, 0, 2), lambda z: z**5, lambda z: z**2, 0.0)
    # The mean over [0, 2] of y z^5 + (y - z^2)^2 / 2.
    want = y * 64 / 12 + (y**2 - 2 * y * 8 / 6 + 32 / 10) / 2
    np.testing.assert_allclose(got, want, rtol=1e-5)


# Any beta, any block


@pytest.mark.parametrize("weights", WEIGHTS)
def test_from_hot_to_cold_it_is_the_log_sum_of_exponentials_by_blocks_in_float32(weights):
    w = WEIGHTS[weights]
    inputs = jax.tree.map(np.float32, (WAVES, X, Y, Nodes(Z, w)))
    for beta in (0.0, 1e-6, 1e-3, 1.0, 1e3, 1e6, INF):
        got = free_energy(waves, *inputs, beta, block=7)
        np.testing.assert_allclose(got, free(table(), beta, w), rtol=1e-5, atol=2e-6)


def in_float64(beta, weights=SHARES, average=True):
    """In one block of all nodes."""
    nodes = Nodes(Z, weights)
    return np.asarray(free_energy(waves, WAVES, X, Y, nodes, beta, average=average, block=1000))


@pytest.mark.parametrize("weights", ["a mask", "shares"])
def test_from_hot_to_cold_it_is_the_log_sum_of_exponentials_in_one_block_too(weights, x64):
    w = WEIGHTS[weights]
    energies = waves(WAVES, X[:, None], Y[:, None], Z, np)
    for beta in (0.0, 1e-6, 1e-3, 1.0, 1e3, 1e6, INF):
        want = free(energies, beta, w)
        atol = 1e-15 / max(beta, 1e-6)  # the reference's own rounding of a logarithm near 0
        np.testing.assert_allclose(in_float64(beta, w), want, rtol=1e-9, atol=10 * atol)


def test_the_average_is_above_the_integral_by_the_logarithm_of_the_volume_over_beta(x64):
    for beta in (1e-2, 1.0, 50.0):
        gap = in_float64(beta) - in_float64(beta, average=False)
        np.testing.assert_allclose(gap, np.log(SHARES.sum()) / beta)
    minimum = waves(WAVES, X[:, None], Y[:, None], Z, np).min(1)
    np.testing.assert_allclose(in_float64(INF, average=False), minimum, rtol=1e-12)
    np.testing.assert_array_equal(in_float64(0.0, average=False), np.full(300, -INF))


def test_every_example_is_its_own_however_many_there_are():
    params, x, y, nodes = jax.tree.map(np.float32, (WAVES, X, Y, Nodes(Z)))
    of = partial(free_energy, waves, block=7)
    many = np.asarray(of(params, x, y, nodes, 1.0))
    few = [of(params, x[i : i + 9], y[i : i + 9], nodes, 1.0) for i in (0, 152, 291)]
    parts = [many[i : i + 9] for i in (0, 152, 291)]
    np.testing.assert_allclose(parts, few, rtol=1e-5, atol=1e-6)
    none = jax.eval_shape(of, params, x[:0], y[:0], nodes)
    assert none.shape == (0,)


def nested(params, x, y, z):
    return jnp.sum((y["a"] - params @ z["shift"]) ** 2) * (1 + z["kind"]) + y["b"] * z["kind"]


def test_z_and_y_may_be_trees_x_may_be_none_and_a_second_call_traces_nothing_again():
    params, y = RNG.normal(0, 1, (2, 3)), {"a": RNG.normal(0, 1, (4, 2)), "b": RNG.normal(0, 1, 4)}
    z = {"shift": RNG.normal(0, 1, (9, 3)), "kind": RNG.integers(0, 3, 9)}
    gap = ((y["a"][:, None] - z["shift"] @ params.T) ** 2).sum(-1)
    want = free(gap * (1 + z["kind"]) + y["b"][:, None] * z["kind"], 0.7, SHARES[:9])
    energy, traces = counting(nested)
    for _ in range(2):
        got = exact.free_energy(energy, params, None, y, Nodes(z, SHARES[:9]), 0.7, block=2)
        count = len(traces)
        np.testing.assert_allclose(got, want, rtol=1e-5)
    exact.free_energy(energy, params, None, y, Nodes(z, SHARES[:9]), 0.3, block=2)
    assert len(traces) == count > 0
    assert exact.energy_of_z(energy) is exact.energy_of_z(energy)


def lookup(params, x, y, k):
    """The example is its own table of energies."""
    return y[k]


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

    def of_table(beta, weights):
        nodes = Nodes(np.arange(7), np.float32(weights))
        return np.asarray(free_energy(lookup, None, None, rows, nodes, beta, block=3))

    finite = np.log(7 / (1 + 2 * np.exp(-1) + np.exp(-2) + np.exp(-3)))
    want = {
        0.0: [INF, INF, -INF, NAN, 10 / 7 * 1e30, 3],
        1.0: [finite, INF, -INF, NAN, 1e30, 3],
        INF: [0, INF, -INF, NAN, 1e30, 3],
    }
    for beta, values in want.items():
        np.testing.assert_allclose(of_table(beta, np.ones(7)), values, rtol=1e-5)
    without = np.array([1, 1, 0, 1, 1, 1, 1.0])
    np.testing.assert_allclose(of_table(1.0, without)[3], free(rows[3], 1.0, without), rtol=1e-5)


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
    return exact.free_energy(waves, params, x, y, nodes, beta, block=7).sum()


@pytest.mark.parametrize("weights", ["a mask", "shares"])
@pytest.mark.parametrize("beta", [0.0, 1e-4, 1.0, 30.0, INF])
def test_the_gradient_is_the_posteriors_average_of_the_energys_gradients(weights, beta, x64):
    inputs = jax.tree.map(lambda a: np.float64(np.float32(a)), (WAVES, X, Y, Z))
    of_params, of_x, of_y = slopes(*inputs[:3], Nodes(inputs[3], WEIGHTS[weights]), beta)
    want = explicit(beta, WEIGHTS[weights])
    for name, got in {**of_params, "x": of_x, "y": of_y}.items():
        np.testing.assert_allclose(got, want[name], rtol=1e-8, atol=1e-10)


VECTOR = np.concatenate([[1.7, 2.3], X[:20], Y[:20]])
ALONG = RNG.normal(0, 1, VECTOR.shape)


@jax.jit
def second(vector, beta):
    """The gradient in parameters, x, y and beta, and its derivative along one direction."""

    def total(vector, beta):
        params, x, y = {"a": vector[0], "b": vector[1]}, vector[2:22], vector[22:]
        nodes = Nodes(jnp.asarray(Z), jnp.asarray(SHARES))
        return exact.free_energy(waves, params, x, y, nodes, beta, block=7).sum()

    return jax.jvp(jax.grad(total, (0, 1)), (vector, beta), (ALONG, 0.3))


@pytest.mark.parametrize("beta", [1e-3, 0.7, 5.0])
def test_first_and_second_derivatives_are_those_of_finite_differences(beta, x64):
    def total(vector, beta):
        params, x, y = {"a": vector[0], "b": vector[1]}, vector[2:22, None], vector[22:, None]
        return free(waves(params, x, y, Z, np), beta, SHARES).sum()

    step = 1e-5
    (of_vector, of_beta), bends = second(VECTOR, beta)
    ends = [(VECTOR + s * ALONG, beta + 0.3 * s) for s in (step, -step)]
    difference = (total(*ends[0]) - total(*ends[1])) / (2 * step)
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
            return exact.free_energy(waves, params, X[:9], Y[:9], nodes, beta, block=30).sum()

        return jax.value_and_grad(value)(params)

    def total(a, b, beta):
        return free(waves({"a": a, "b": b}, X[:9, None], Y[:9, None], Z, np), beta, SHARES).sum()

    values, slopes_of = mapped({"a": a, "b": 2.3}, betas)
    for i, beta in enumerate(betas):
        np.testing.assert_allclose(values[i], total(a[i], 2.3, beta))
        differences = [
            (total(a[i] + d, 2.3 + e, beta) - total(a[i] - d, 2.3 - e, beta)) / 2e-6
            for d, e in 1e-6 * np.eye(2)
        ]
        np.testing.assert_allclose([slopes_of[k][i] for k in "ab"], differences, rtol=1e-6)


def test_tied_minima_share_the_cold_gradient_as_the_posterior_does():
    energies, weights = np.float32([[0, 0, 0, 1, 1]]), np.float32([1, 5, 1, 1, 1])
    nodes = Nodes(jnp.arange(5), weights)

    @jax.jit
    def of(y):
        def cold(y, block):
            return exact.free_energy(lookup, None, None, y, nodes, INF, block=block).sum()

        shares = posterior(lookup, None, None, y, nodes, INF)
        return shares, [jax.grad(cold)(y, block) for block in (2, 64)]

    p, slopes = of(energies)
    np.testing.assert_allclose(p, [[1 / 7, 5 / 7, 1 / 7, 0, 0]], rtol=1e-6)
    for slope in slopes:
        np.testing.assert_allclose(slope, p, rtol=1e-6)


# Properties

numbers = st.floats(-20, 20, width=32)
sevens = st.lists(numbers, min_size=7, max_size=7).map(np.array)
shares = st.lists(st.floats(0.1, 5), min_size=7, max_size=7).map(np.array)
betas = st.sampled_from([0.0, 1e-6, 1e-2, 0.3, 1.0, 7.0, 1e3, INF])
tuned = settings(deadline=None, max_examples=50, derandomize=True)


@jax.jit
def of_eight(e, beta, w):
    nodes = Nodes(jnp.arange(8), w)
    return exact.free_energy(lookup, None, None, e[None], nodes, beta, block=3)[0]


def F(e, beta, w):
    """In float64; an eighth node without weight fills up seven."""
    fill = 8 - len(e)
    with jax.enable_x64(True):
        return float(of_eight(np.append(e, [0.0] * fill), beta, np.append(w, [0.0] * fill)))


@pytest.mark.slow
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


@pytest.mark.slow
def test_no_array_of_examples_nodes_and_hidden_units_is_made():
    """Compiled, the gradient needs below 3 % of the memory of the hidden units of all pairs."""

    def decode(params, h, z):
        return jnp.tanh(h @ params["x"] + z @ params["z"]) @ params["out"]

    energy = Decoder(decode, lambda params, x: x)

    def value(params, x, y, z):
        return exact.free_energy(energy, params, x, y, Nodes(z)).sum()

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
    options = dict(domain=sx.Reals(), solver=sx.GradientDescent(0.3, 0.3), steps=60)

    def marginal(beta, x, y):
        return free_energy_of(offset, gauss_hermite(50), beta)(None, x, y)

    for beta in (0.5, 4.0):
        found = sx.minimize(marginal, np.float32(beta), x, np.zeros_like(x), **options)
        pull = 1 / (1 + beta)
        np.testing.assert_allclose(found.y, (pull * x + 1) / (pull + 1), atol=1e-4)
        y = np.float64(found.y)
        want = spring_exact(y - x, beta) + (y - 1) ** 2 / 2
        np.testing.assert_allclose(found.energy, want[:, 0], rtol=1e-5)
        assert np.all(found.converged)


def test_marginal_probabilities_of_answers_are_the_joint_ones_summed_over_z(x64):
    x, y, beta = X[:4], np.linspace(-1, 1, 5), 1.3
    joint = SHARES * np.exp(-beta * waves(WAVES, x[:, None, None], y[:, None], Z, np))

    @jax.jit
    def both(params, x, y):
        nodes = Nodes(Z, SHARES)
        free = [free_energy_of(waves, nodes, beta, average=average) for average in (False, True)]
        return [exact.pairwise(energy, params, x, y) for energy in free]

    for energies in both(WAVES, x, y):
        marginal = scipy_softmax(-beta * np.asarray(energies), axis=1)
        np.testing.assert_allclose(marginal, joint.sum(2) / joint.sum((1, 2))[:, None])


def test_as_an_energy_of_one_example_it_is_that_of_the_batch(x64):
    cases = [(1.0, False), (2.0, True), (INF, True)]
    functions = [
        free_energy_of(waves, Nodes(Z, SHARES), beta, average=average) for beta, average in cases
    ]
    got = jax.jit(lambda *inputs: [jax.vmap(f, (None, 0, 0))(*inputs) for f in functions])
    for value, case in zip(got(WAVES, X, Y), cases, strict=True):
        np.testing.assert_allclose(value, in_float64(case[0], average=case[1]), rtol=1e-12)


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


# Mistakes


def per_label(params, x, y, z):
    return (y - z) ** 2


NOT_SCALAR = {
    "free_energy": lambda y, nodes: exact.free_energy(per_label, None, None, y, nodes),
    "free_energy_of": lambda y, nodes: free_energy_of(per_label, nodes)(None, None, y[0]),
    "posterior": lambda y, nodes: posterior(per_label, None, None, y, nodes),
    "monte_carlo": lambda y, nodes: exact.monte_carlo(per_label, None, None, y, nodes.z),
}


@pytest.mark.parametrize("function", NOT_SCALAR.values(), ids=NOT_SCALAR)
def test_an_energy_that_is_no_scalar_is_refused(function):
    for labels in (1, 2):
        with pytest.raises(ValueError, match="scalar"):
            function(np.ones((3, labels), np.float32), Nodes(np.arange(2.0)))


def test_beta_is_one_number_of_at_least_0_and_x_has_an_example_for_each_y():
    y, nodes = np.ones(3, np.float32), Nodes(np.arange(4.0))
    with pytest.raises(ValueError, match="at least 0"):
        exact.free_energy(spring, 1.0, None, y, nodes, -1.0)
    with pytest.raises(ValueError, match="one number"):
        posterior(spring, 1.0, None, y, nodes, jnp.ones(3))
    for function in (exact.free_energy, posterior):
        with pytest.raises(ValueError, match="x and y must share their leading axis"):
            function(waves, WAVES, np.ones(4), y, nodes)
    with pytest.raises(ValueError, match="nodes must be Nodes"):
        exact.free_energy(spring, 1.0, None, y, np.arange(8.0))
    with pytest.raises(ValueError, match="at least one node"):
        exact.free_energy(spring, 1.0, None, y, nodes, block=0)

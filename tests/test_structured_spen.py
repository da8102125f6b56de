"""SPENs over sequences, trees and graphs against explicit sums, and what masks leave out."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

import spen_jax as sx
from spen_jax.energies import ChainSPEN, GraphSPEN, LanguageModel, Messages, TreeSPEN, Windows
from spen_jax.exact import Chain, ChainParts

B, T, K, D = 2, 4, 3, 5
MASK = np.array([[1, 1, 1, 1], [1, 1, 0, 0]], bool)
X = jax.random.normal(jax.random.key(0), (B, T, D))
Y = jax.nn.softmax(jax.random.normal(jax.random.key(1), (B, T, K)))


class Network(nn.Module):
    outputs: int = K

    def setup(self):
        self.layer, self.last = nn.Dense(6), nn.Dense(self.outputs)

    def hidden(self, x, train=False, mask=None):
        return jnp.tanh(self.layer(x["nodes"] if isinstance(x, dict) else x))

    def output(self, h):
        return self.last(h)

    def __call__(self, x, train=False, mask=None):
        return self.output(self.hidden(x))


def made(spen, x=X, y=Y, mask=MASK):
    """Parameters away from their start, where transitions are 0, and the two functions."""
    params = jax.jit(spen.init)(jax.random.key(2), x, y, mask)["params"]
    keys = iter(jax.random.split(jax.random.key(3), 99))
    params = jax.tree.map(lambda p: p + 0.3 * jax.random.normal(next(keys), p.shape), params)
    return params, *sx.functions_of(spen)


def hidden(params):
    layer = jax.tree.map(np.asarray, params["network"]["layer"])
    return np.tanh(np.asarray(X) @ layer["kernel"] + layer["bias"])


def energies(spen, params, x, y, mask):
    features, energy = sx.functions_of(spen)
    return jax.vmap(energy, (None, 0, 0))(params, features(params, x, mask=mask), y)


@pytest.mark.slow
def test_without_terms_it_is_a_chain_and_its_start_that_chains_marginals():
    spen = ChainSPEN(Network())
    params, features, energy = made(spen)
    context = features(params, X, mask=MASK)
    chain = Chain(-context["logits"], params["pairs"]["A"], mask=MASK)
    found = jax.vmap(energy, (None, 0, 0))(params, context, Y)
    np.testing.assert_allclose(found, chain.energy(Y), rtol=1e-5)
    start = sx.networks.from_structure(context, sx.Simplex())
    np.testing.assert_allclose(start, chain.mean()[1], atol=1e-6)
    labels = jnp.array([[0, 2, 1, 1], [2, 0, -1, -1]])
    rows = jax.nn.one_hot(labels, K)
    point = ChainParts(rows, rows[:, :-1, :, None] * rows[:, 1:, None])
    on_polytope = jax.vmap(energy, (None, 0, 0))(params, context, point)
    np.testing.assert_allclose(on_polytope, chain.energy(labels), rtol=1e-5)


def windows_by_hand(params, y, n, shift):
    """-v.u summed over the first n places, by loops."""
    units = np.asarray(y[:n])
    for i in (1, 2):
        W, b = np.asarray(params[f"W_{i}"]), np.asarray(params[f"b_{i}"])
        edge = len(W) // 2
        sums = np.tile(b, (n, 1)) + (shift[:n] if i == 1 else 0)
        for t, o in itertools.product(range(n), range(len(W))):
            if 0 <= t + o - edge < n:
                sums[t] += units[t + o - edge] @ W[o]
        units = np.logaddexp(sums, 0)
    return -np.sum(units @ np.asarray(params["v"]))


@pytest.mark.slow
def test_windows_are_sums_over_neighbours_within_each_sequence():
    spen = ChainSPEN(Network(), (Windows((4, 5), (3, 5), sees_features=True),), transitions=False)
    params, features, energy = made(spen)
    context = features(params, X, mask=MASK)
    found = jax.vmap(energy, (None, 0, 0))(params, context, Y)
    h = hidden(params)
    for i, n in enumerate(MASK.sum(1)):
        term = params["terms_0"]
        shift = h[i] @ np.asarray(term["Cx"]["kernel"])
        unary = np.sum(np.asarray(context["logits"][i] * Y[i])[:n])
        want = windows_by_hand(term, Y[i], n, shift) - unary
        np.testing.assert_allclose(found[i], want, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["chain", "graph"])
def test_what_stands_beyond_the_end_changes_nothing(kind):
    if kind == "chain":
        spen, wide = ChainSPEN(Network(), (Windows((4, 4), (3, 3)),), entropy=0.5), X
        x, short = X.at[1, 2:].set(9.0), X[1:, :2]
    else:
        spen = GraphSPEN(Network(), (Messages(4),))
        edges = jnp.array([[[0, 1], [1, 2], [2, 3]], [[0, 1], [1, 2], [-1, -1]]])
        wide = {"nodes": X, "edges": edges}
        x = {"nodes": X.at[1, 2:].set(9.0), "edges": edges}
        short = {"nodes": X[1:, :2], "edges": edges[1:, :1]}
    params, *_ = made(spen, wide)
    found = energies(spen, params, wide, Y, MASK)
    np.testing.assert_allclose(energies(spen, params, x, Y.at[1, 2:].set(0.5), MASK), found)
    alone = energies(spen, params, short, Y[1:, :2], MASK[1:, :2])
    np.testing.assert_allclose(alone[0], found[1], rtol=1e-5)


@pytest.mark.slow
def test_a_window_does_not_see_what_is_corrupted_nor_units_that_are_dropped():
    spen = ChainSPEN(Network(), (Windows((8,), (3,), dropout=0.5, corruption=0.5),))
    params, features, energy = made(spen)
    context = features(params, X, jax.random.key(0), mask=MASK)
    seen = np.asarray(context["terms"][0]["seen"])
    assert 0 < seen.mean() < 1
    alone = {**context, "logits": jnp.zeros_like(context["logits"])}
    no_pairs = {**params, "pairs": {"A": jnp.zeros((K, K))}}
    slope = jax.vmap(jax.grad(energy, 2), (None, 0, 0))(no_pairs, alone, Y)
    assert not np.any(np.asarray(slope)[~(seen & MASK)])
    assert "seen" not in features(params, X, mask=MASK)["terms"][0]
    assert {*np.unique(context["terms"][0]["keep"])} <= {0, 2}


@pytest.mark.slow
def test_a_language_model_is_a_distribution_over_all_sequences_and_looks_back_only():
    model = LanguageModel(order=2, width=4)
    params = model.init(jax.random.key(0), {}, Y[0], method="energy")["params"]
    every = jax.nn.one_hot(jnp.array([*itertools.product(range(K), repeat=3)]), K)

    def energy(y):
        return model.apply({"params": params}, {}, y, method="energy")

    assert abs(jnp.sum(jnp.exp(-jax.vmap(energy)(every))) - 1) < 1e-5
    shorter = energy(every[5].at[2].set(0)) - energy(every[5][:2])
    assert abs(shorter) < 1e-6
    assert abs(energy(every[5].astype(int)) - energy(every[5])) < 1e-6


@pytest.mark.slow
def test_a_tree_without_terms_is_arc_factored():
    n = 3
    spen = TreeSPEN(Network(n + 1))
    y = jax.nn.softmax(jax.random.normal(jax.random.key(4), (B, n, n + 1)))
    mask = np.array([[1, 1, 1], [1, 1, 0]], bool)
    params, features, energy = made(spen, X[:, :n], y, mask)
    context = features(params, X[:, :n], mask=mask)
    heads = jnp.array([[0, 1, 2], [2, 0, -1]])
    found = jax.vmap(energy, (None, 0, 0))(params, context, jax.nn.one_hot(heads, n + 1))
    np.testing.assert_allclose(found, context["structure"].energy(heads), rtol=1e-5)
    low = {**context, "logits": jnp.minimum(context["logits"], -3.0)}  # every arc costs something
    start = sx.Simplex().from_logits(low["logits"])
    solution = sx.minimize(
        energy, params, low, start, domain=sx.Simplex(), solver=sx.MirrorDescent(), steps=20
    )
    loops = np.eye(n, n + 1, 1, dtype=bool)[None] | np.pad(~mask, [(0, 0), (1, 0)])[:, None]
    assert np.max(np.where(loops & mask[..., None], solution.y, 0)) < 1e-5


@pytest.mark.slow
def test_a_graphs_energy_is_a_sum_over_edges_whatever_the_order_of_nodes():
    spen = GraphSPEN(Network(), (Messages(4, rounds=1, sees_features=True),))
    edges = jnp.array([[[0, 1], [1, 2], [3, 0]], [[2, 0], [-1, -1], [-1, 3]]])
    x = {"nodes": X, "edges": edges}
    params, features, energy = made(spen, x, mask=None)
    context = features(params, x)
    found = jax.vmap(energy, (None, 0, 0))(params, context, Y)
    term, R = jax.tree.map(np.asarray, (params["terms_0"], params["R"]))
    h = hidden(params)
    for i in range(B):
        joined = [tuple(map(int, e)) for e in edges[i] if min(e) >= 0]
        y = np.asarray(Y[i])
        want = -np.sum(np.asarray(context["logits"][i]) * y)
        want += sum(y[a] @ (R + R.T) / 2 @ y[b] for a, b in joined)
        first = np.logaddexp(y @ term["W"] + term["b_0"][None] + h[i] @ term["Cx"]["kernel"], 0)
        heard = np.zeros_like(first)
        for a, b in joined:
            heard[a] += first[b]
            heard[b] += first[a]
        units = np.logaddexp(first @ term["U"] + heard @ term["V"] + term["b_1"][None], 0)
        np.testing.assert_allclose(found[i], want - np.sum(units @ term["v"]), rtol=1e-5)
    order = jnp.array([2, 0, 3, 1])
    place = jnp.argsort(order)
    moved = {"nodes": X[:, order], "edges": jnp.where(edges < 0, -1, place[edges])}
    np.testing.assert_allclose(energies(spen, params, moved, Y[:, order], None), found, rtol=1e-5)


def test_settings_that_cannot_be_are_refused_by_name():
    for windows, message in [
        (Windows((4,), (2,)), "odd sizes"),
        (Windows((4,), (3, 3)), "a size for each"),
    ]:
        with pytest.raises(ValueError, match=message):
            ChainSPEN(Network(), (windows,)).init(jax.random.key(0), X, Y, MASK)
    with pytest.raises(ValueError, match="rounds of 1 or more"):
        x = {"nodes": X, "edges": jnp.zeros((B, 1, 2), int)}
        GraphSPEN(Network(), (Messages(rounds=0),)).init(jax.random.key(0), x, Y, MASK)
    with pytest.raises(ValueError, match='an entry "structure"'):
        sx.networks.from_structure({"logits": X}, sx.Simplex())

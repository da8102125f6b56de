"""Recurrent networks against Flax's cells, and their masks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from spen_jax.networks import GRU

B, T, D, H = 3, 5, 4, 6
X = jax.random.normal(jax.random.key(0), (B, T, D))
MASK = np.arange(T) < np.array([5, 2, 1])[:, None]


def made():
    network = GRU(H)
    params = network.init(jax.random.key(1), X)["params"]
    return network, jax.tree.map(lambda p: p + 0.1, params)


def flax_cell(params, side):
    """The parameters of one direction as those of a GRUCell."""
    start, name = (0, "left") if side == 0 else (3 * H, "right")
    W, b = params["W"][:, start : start + 3 * H], params["b"][start : start + 3 * H]
    cell = {}
    for i, gate in enumerate("rzn"):
        block = slice(i * H, (i + 1) * H)
        cell[f"i{gate}"] = {"kernel": W[:, block], "bias": b[block]}
        cell[f"h{gate}"] = {"kernel": params[f"V_{name}"][:, block]}
    cell["hn"]["bias"] = params["c"][side]
    return {"cell": cell}


@pytest.mark.slow
def test_states_are_those_of_flax_cells_in_both_directions():
    network, params = made()
    found = network.apply({"params": params}, X, MASK)
    lengths = jnp.asarray(MASK.sum(1))
    for side, out in enumerate(jnp.split(found, 2, axis=-1)):
        rnn = nn.RNN(nn.GRUCell(H), reverse=side == 1, keep_order=True)
        want = rnn.apply({"params": flax_cell(params, side)}, X, seq_lengths=lengths)
        np.testing.assert_allclose(out, jnp.where(MASK[..., None], want, 0), atol=1e-5)


@pytest.mark.slow
def test_what_stands_beyond_the_end_changes_nothing_and_is_zero():
    network, params = made()
    found = network.apply({"params": params}, X, MASK)
    other = network.apply({"params": params}, jnp.where(MASK[..., None], X, 1e3), MASK)
    np.testing.assert_array_equal(found, other)
    assert not np.any(found[~MASK])
    short = network.apply({"params": params}, X[1:2, :2])
    np.testing.assert_allclose(found[1, :2], short[0], atol=1e-6)

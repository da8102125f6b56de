from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import softmax
from scipy.stats import multivariate_normal

from spen_jax.energies import Decoder, Penalised, mixture, reconstruction, scaled_circle
from spen_jax.exact import Nodes, free_energy, periodic, posterior

RNG = np.random.default_rng(0)


def test_a_decoder_is_the_squared_distance_to_what_it_decodes(x64):
    energy = Decoder(
        lambda g, h, z: g * z + h if h is not None else g * z, lambda f, x: jnp.tanh(f @ x)
    )
    alone = Decoder(energy.g)
    f, x, y, z = RNG.normal(0, 1, (2, 3)), RNG.normal(0, 1, 3), *RNG.normal(0, 1, (2, 2))

    @jax.jit
    def of(params):
        return energy(params, x, y, z), energy.decode(params, x, z), alone(params, None, y, z)

    value, point, unconditional = of({"f": f, "g": 1.5})
    decoded = 1.5 * z + np.tanh(f @ x)
    np.testing.assert_allclose(value, ((y - decoded) ** 2).sum())
    np.testing.assert_allclose(point, decoded)
    np.testing.assert_allclose(unconditional, ((y - 1.5 * z) ** 2).sum())
    assert hash(Decoder(energy.g)) == hash(alone) and Decoder(energy.g) == alone


def test_the_lectures_decoder_is_an_ellipse():
    z, radii = np.linspace(0, 6, 7, dtype=np.float32), np.float32([1.5, 0.7])
    points = np.asarray(jax.jit(jax.vmap(scaled_circle, (None, 0)))(radii, z))
    np.testing.assert_allclose(((points / radii) ** 2).sum(1), 1, rtol=1e-5)
    np.testing.assert_allclose(points, radii * np.stack([np.cos(z), np.sin(z)], 1), atol=1e-6)


def test_a_point_of_another_shape_than_the_decoder_makes_is_refused():
    decoder = Decoder(lambda radii, h, z: scaled_circle(radii, z))
    with pytest.raises(AssertionError, match="shape"):
        free_energy(decoder, {"g": jnp.ones(2)}, None, jnp.ones(2), periodic(8))


def test_a_penalty_is_added_and_sparse_coding_is_half_the_squared_distance():
    atoms, y, z = RNG.normal(0, 1, (4, 3)), RNG.normal(0, 1, 3), RNG.normal(0, 1, 4)
    gap = ((y - z @ atoms) ** 2).sum() / 2
    energy = Penalised(reconstruction, lambda z: 3 * jnp.sum(z**2))
    plain, penalised = jax.jit(
        lambda z: (reconstruction(atoms, None, y, z), energy(atoms, None, y, z))
    )(z)
    np.testing.assert_allclose([plain, penalised], [gap, gap + 3 * (z**2).sum()], rtol=1e-5)


MIXTURE = {
    "means": RNG.normal(0, 2, (4, 3)),
    "log_scales": RNG.normal(0, 0.4, 4),
    "logits": RNG.normal(0, 1, 4),
}
NODES = Nodes(np.arange(4))


def test_summed_over_components_a_mixtures_free_energy_is_minus_its_log_density(x64):
    y = RNG.normal(0, 2, (6, 3))
    scales, pi = np.exp(MIXTURE["log_scales"]), softmax(MIXTURE["logits"])
    parts = [
        share * multivariate_normal(mean, scale**2 * np.eye(3)).pdf(y)
        for mean, scale, share in zip(MIXTURE["means"], scales, pi, strict=True)
    ]
    got = free_energy(mixture, MIXTURE, None, y, NODES, average=False)
    np.testing.assert_allclose(got, -np.log(np.sum(parts, 0)))
    responsible = jax.jit(partial(posterior, mixture))(MIXTURE, None, y, NODES)
    np.testing.assert_allclose(responsible, (parts / np.sum(parts, 0)).T)


def test_a_cold_mixture_of_equals_is_the_distance_to_the_nearest_mean(x64):
    params = {**MIXTURE, "log_scales": np.full(4, 0.3), "logits": np.full(4, 2.0)}
    y = RNG.normal(0, 2, (6, 3))
    squares = ((y[:, None] - params["means"]) ** 2).sum(-1)
    got = free_energy(mixture, params, None, y, NODES, np.inf)
    constant = 3 * 0.3 + 1.5 * np.log(2 * np.pi) + np.log(4)
    np.testing.assert_allclose(got, squares.min(1) / (2 * np.exp(0.6)) + constant)

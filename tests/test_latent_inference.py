from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import spen_jax as sx
from spen_jax.energies import Decoder, Penalised, reconstruction, scaled_circle
from spen_jax.exact import Nodes, free_energy_of
from spen_jax.inference.latent import fista, infer, ista, minima

INF = np.inf
RNG = np.random.default_rng(0)


# The best z


def ellipse(params, h, z):
    return scaled_circle(params, z[0])


compiled = jax.jit(infer, static_argnames=("energy", "domain", "solver", "steps"))
CALM = dict(domain=sx.Reals(), solver=sx.GradientDescent(0.1, 0.5), steps=300)
ANGLES = np.linspace(-np.pi, np.pi, 8, endpoint=False, dtype=np.float32)
RADII = np.float32([1.5, 0.7])


def cold_on_grid(radii, y, count=20_001):
    z = np.linspace(-np.pi, np.pi, count)
    points = radii * np.stack([np.cos(z), np.sin(z)], 1)
    distance = ((y[:, None] - points) ** 2).sum(-1)
    return distance.min(1), points[distance.argmin(1)]


@pytest.mark.slow
def test_the_inferred_z_is_the_best_of_a_fine_grid_and_its_gradient_the_envelopes():
    energy, y = Decoder(ellipse), np.float32(RNG.normal(0, 1.2, (20, 2)))
    starts = np.tile(ANGLES[None, :, None], (20, 1, 1))

    @jax.jit
    @partial(jax.value_and_grad, has_aux=True)
    def cold(radii):
        found = infer(energy, {"g": radii}, None, y, starts, **CALM)
        return found.energy.sum(), (found.energy, found.y)

    (_, (energies, angles)), slope = cold(RADII)
    want, points = cold_on_grid(RADII.astype(float), y.astype(float))
    np.testing.assert_allclose(energies, want, atol=1e-5)
    angles = np.asarray(angles)
    decoded = RADII * np.concatenate([np.cos(angles), np.sin(angles)], axis=1)
    np.testing.assert_allclose(decoded, points, atol=2e-3)
    differences = [
        (cold_on_grid(RADII + d, y)[0] - cold_on_grid(RADII - d, y)[0]).sum() / 2e-3
        for d in 1e-3 * np.eye(2)
    ]
    np.testing.assert_allclose(slope, differences, rtol=1e-3)


def test_unless_told_otherwise_z_is_any_real_number():
    y = np.full((2, 1), 3.0, np.float32)
    start = np.zeros((2, 1, 1), np.float32)
    found = compiled(lambda p, x, y, z: jnp.sum((y - z) ** 2), None, None, y, start, steps=300)
    np.testing.assert_allclose(found.y, y, atol=1e-2)


def test_a_ball_limits_what_z_says():
    y, x = np.float32([[3, 4], [0.3, 0.1]]), np.float32([[1, 0], [0.1, 0]])
    energy = Decoder(lambda params, h, z: h + z, lambda shift, x: shift * x)
    start = np.zeros((2, 1, 2), np.float32)
    found = compiled(energy, {"f": 2.0}, x, y, start, domain=sx.L2Ball(0.5), steps=200)
    left = y - 2 * x
    size = np.linalg.norm(left, axis=1)
    np.testing.assert_allclose(found.energy, np.maximum(size - 0.5, 0) ** 2, atol=1e-5)
    want = left * np.minimum(1, 0.5 / size)[:, None]
    np.testing.assert_allclose(found.y, want, atol=1e-3)


def test_a_penalty_makes_z_say_less():
    energy = Penalised(lambda p, x, y, z: jnp.sum((y - z) ** 2), lambda z: 3 * jnp.sum(z**2))
    y = np.float32([[1.0, -2.0], [0.4, 0]])
    found = compiled(energy, None, None, y, np.zeros((2, 1, 2), np.float32), **CALM)
    np.testing.assert_allclose(found.y, y / 4, atol=1e-3)
    np.testing.assert_allclose(found.energy, 0.75 * (y**2).sum(1), rtol=1e-4)


@pytest.mark.slow
def test_y_and_z_are_minimised_together_or_one_inside_the_other():
    def energy(params, x, y, z):
        return jnp.sum((y - x * z) ** 2) + (z - 1) ** 2 + params * jnp.sum((y - 0.2) ** 2)

    def joint(params, x, both):
        return energy(params, x, both["y"], both["z"])

    x, half = np.float32([[1, 0.5], [-1, 2], [0.3, 0.1]]), np.full((3, 2), 0.5, np.float32)
    descent = dict(solver=sx.GradientDescent(0.05, 0.8))
    domain = sx.Product({"y": sx.Box(), "z": sx.Reals()})
    start = {"y": half, "z": np.zeros(3, np.float32)}
    found = sx.minimize(joint, 0.5, x, start, domain=domain, steps=400, **descent)
    grid = np.linspace(0, 1, 101)
    y = np.stack(np.meshgrid(grid, grid, indexing="ij"), -1).reshape(-1, 2)
    best_z = (1 + y @ x.T) / (1 + (x**2).sum(1))  # (points, examples)
    gap = ((y[:, None] - x * best_z[..., None]) ** 2).sum(-1)
    values = gap + (best_z - 1) ** 2 + 0.5 * ((y - 0.2) ** 2).sum(1)[:, None]
    np.testing.assert_allclose(found.energy, values.min(0), atol=1e-3)
    np.testing.assert_allclose(found.y["y"], y[values.argmin(0)], atol=0.011)
    inner = free_energy_of(energy, Nodes(np.linspace(-1, 2, 3001, dtype=np.float32)), INF)
    outer = sx.minimize(inner, 0.5, x, half, steps=200, **descent)
    np.testing.assert_allclose(outer.energy, found.energy, atol=1e-4)
    np.testing.assert_allclose(outer.y, found.y["y"], atol=2e-3)


def tilted(params, x, z):
    """Wells near -1 and 1, that on the side against x the lower; none at all beyond |z| = 5."""
    return jnp.where(jnp.abs(z[0]) > 5, jnp.nan, (z[0] ** 2 - 1) ** 2 + params * x * z[0])


def test_several_minima_are_kept_sorted_each_once_and_failed_ones_last():
    starts = np.tile(np.float32([9, 1.4, -0.6, 0.8, -1.5])[None, :, None], (2, 1, 1))
    x = np.float32([1, -1])
    options = dict(domain=sx.Reals(), solver=sx.GradientDescent(0.05, 0.5), steps=200)
    few = jax.jit(partial(minima, tilted, 0.2, **options))
    found = few(x, starts, apart=0.1)
    wells = sorted(np.roots([4, 0, -4, 0.2]).real, key=lambda z: (z**2 - 1) ** 2 + 0.2 * z)[:2]
    wells = np.array(wells)
    want = (wells**2 - 1) ** 2 + 0.2 * wells
    for row, sign in enumerate(x):
        np.testing.assert_allclose(found.y[row, :4, 0], sign * np.repeat(wells, 2), atol=1e-3)
        np.testing.assert_allclose(found.energy[row, :4], np.repeat(want, 2), atol=1e-5)
    np.testing.assert_array_equal(found.distinct, [[1, 0, 1, 0, 0]] * 2)
    np.testing.assert_array_equal(found.energy[:, 4], [INF, INF])
    far = few(x, starts, apart=5.0)
    np.testing.assert_array_equal(far.distinct, [[1, 0, 0, 0, 0]] * 2)


# Sparse codes


def soft(a, threshold):
    return np.sign(a) * np.maximum(np.abs(a) - threshold, 0)


def lasso(atoms, y, l1, sweeps=3000):
    """Coordinate descent on 1/2 ||y - z'A||^2 + l1 |z|_1 in float64."""
    z, scale = np.zeros(len(atoms)), (atoms**2).sum(1)
    for _ in range(sweeps):
        for k in range(len(z)):
            pull = atoms[k] @ (y - z @ atoms) + scale[k] * z[k]
            z[k] = soft(pull, l1) / scale[k]
    return z


def cost(atoms, y, z, l1):
    return ((y - z @ atoms) ** 2).sum(-1) / 2 + l1 * np.abs(z).sum(-1)


ATOMS = RNG.normal(0, 1, (8, 5))
SIGNALS = RNG.normal(0, 2, (3, 5))
STEP = 1 / np.linalg.norm(ATOMS, 2) ** 2


@pytest.mark.parametrize("method", [fista, ista])
def test_with_orthonormal_atoms_sparse_codes_are_soft_thresholds(method, x64):
    atoms = np.linalg.qr(RNG.normal(0, 1, (6, 6)))[0]
    y = RNG.normal(0, 1, (4, 6))
    want = soft(y @ atoms.T, 0.4)
    start = np.zeros((4, 6))
    found = method(reconstruction, atoms, None, y, start, l1=0.4, step_size=1.0, steps=300)
    np.testing.assert_allclose(found.z, want, atol=1e-9)
    np.testing.assert_allclose(found.energy, cost(atoms, y, want, 0.4))
    np.testing.assert_allclose(found.residual, 0, atol=1e-9)


def codes(steps, method=fista):
    options = dict(l1=0.3, step_size=STEP, steps=steps)
    return method(reconstruction, ATOMS, None, SIGNALS, np.zeros((3, 8)), **options)


def test_sparse_codes_of_any_atoms_are_those_of_coordinate_descent_and_sooner_with_momentum(x64):
    want = np.stack([lasso(ATOMS, y, 0.3) for y in SIGNALS])
    lowest = cost(ATOMS, SIGNALS, want, 0.3)
    found = codes(3000)
    np.testing.assert_allclose(found.z, want, atol=1e-6)
    np.testing.assert_allclose(found.energy, lowest)
    np.testing.assert_allclose(found.residual, 0, atol=1e-7)
    fast, slow = (np.asarray(codes(20, m).energy) - lowest for m in (fista, ista))
    assert fast.sum() < 0.7 * slow.sum()
    # Beck and Teboulle's bounds, their theorems 4.4 and 3.1.
    assert np.all(fast <= 2 * (want**2).sum(1) / (STEP * 21**2))
    assert np.all(slow <= (want**2).sum(1) / (2 * STEP * 20))


def test_the_steps_are_those_of_beck_and_teboulle_and_the_residual_that_of_a_step(x64):
    def proximal(z, step):
        return soft(z - step * (z @ ATOMS - SIGNALS) @ ATOMS.T, step * 0.3)

    slow = z = ahead = np.zeros((3, 8))
    t = 1.0
    for _ in range(4):
        new, after = proximal(ahead, STEP), (1 + np.sqrt(1 + 4 * t**2)) / 2
        ahead = new + (t - 1) / after * (new - z)
        z, t, slow = new, after, proximal(slow, STEP)
    got = codes(4)
    np.testing.assert_allclose(got.z, z, atol=1e-12)
    np.testing.assert_allclose(got.residual, np.abs(z - proximal(z, 1.0)).max(1))
    np.testing.assert_allclose(codes(4, ista).z, slow, atol=1e-12)


# Mistakes


class Unhashable:
    __hash__ = None

    def __call__(self, params, x, y, z):
        return jnp.sum((y - z) ** 2)


def test_starts_have_an_example_for_each_y_and_energies_are_hashable():
    y = np.ones(3, np.float32)
    with pytest.raises(ValueError, match="leading axis"):
        infer(lambda p, x, y, z: jnp.sum((y - z) ** 2), 1.0, None, y, np.zeros((4, 2), np.float32))
    with pytest.raises(ValueError, match=r"shape \(B, S, D\)"):
        minima(tilted, 0.2, y, np.zeros((3, 2), np.float32))
    with pytest.raises(ValueError, match="hashable"):
        fista(Unhashable(), None, None, y, np.zeros((3, 2)), l1=0.1, step_size=0.1)

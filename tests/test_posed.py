import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spen_jax import exact
from spen_jax.energies import Posed, absolute, moved

RNG = np.random.default_rng(0)
move = jax.jit(moved, static_argnames="shape")


def test_a_map_is_shifted_turned_and_scaled_about_its_middle(x64):
    u = RNG.normal(size=(6, 6, 2))
    shifted = np.asarray(move(u, jnp.array([1.0, -2.0, 0.0, 0.0])))
    np.testing.assert_allclose(shifted[1:, :-2], u[:-1, 2:])
    np.testing.assert_allclose(shifted[0], 0)
    turned = move(u, jnp.array([0.0, 0.0, np.pi / 2, 0.0]))
    np.testing.assert_allclose(turned, np.rot90(u), atol=1e-12)
    ramp = np.arange(9.0)[:, None] - 4 + np.zeros((9, 5))
    larger = move(ramp, jnp.array([0.0, 0.0, 0.0, np.log(2)]))
    np.testing.assert_allclose(larger, ramp / 2, atol=1e-12)
    halfway = move(ramp, jnp.array([0.25, 0.0, 0.0, 0.0]))
    np.testing.assert_allclose(halfway[1:], ramp[1:] - 0.25, atol=1e-12)


def test_a_larger_result_has_its_middle_where_the_map_has_its_own(x64):
    u = RNG.normal(size=(4, 3))
    larger = np.asarray(move(u, jnp.zeros(4), shape=(8, 5)))
    np.testing.assert_allclose(larger[2:6, 1:4], u)
    assert larger.sum() == pytest.approx(u.sum())


def test_the_energy_is_half_the_squared_distance_of_features_and_the_moved_reference(x64):
    def g(w, x):
        return jnp.tanh(w * x)

    energy, references = Posed(g), RNG.normal(size=(3, 5, 5))
    params, x = {"g": 1.5, "references": references}, RNG.normal(size=(2, 5, 5))
    z = jnp.array([[0.0, 0, 0, 0], [0, 0, np.pi, 0], [2, 0, 0, 0]])
    found = exact.energies_at(energy, params, x, jnp.array([2, 0]), z)
    for i, y in enumerate((2, 0)):
        u = references[y]
        down = np.concatenate([np.zeros((2, 5)), u[:-2]])
        for k, there in enumerate((u, u[::-1, ::-1], down)):
            expected = ((np.tanh(1.5 * x[i]) - there) ** 2).sum() / 2
            np.testing.assert_allclose(found[i, k], expected)
    far = Posed(g, distance=absolute)
    value = jax.jit(far)(params, x[0], 1, z[0])
    np.testing.assert_allclose(value, np.abs(np.tanh(1.5 * x[0]) - references[1]).sum())
    assert Posed(g) == energy and hash(Posed(g)) == hash(energy)


def test_the_least_energy_over_poses_is_zero_at_a_planted_one(x64):
    references = RNG.normal(size=(2, 6, 6))
    z = exact.tensor_rule(
        exact.Nodes(jnp.array([-1.0, 0, 1])),
        exact.Nodes(jnp.array([0.0, 1])),
        exact.Nodes(jnp.array([0.0, 0.5])),
        exact.Nodes(jnp.array([0.0, 0.2])),
    )
    x = move(references[1], z.z[13])[None]
    energy, params = Posed(lambda params, x: x), {"g": None, "references": references}
    each = exact.energies_at(energy, params, x, jnp.array([1]), z.z)
    assert int(np.argmin(each)) == 13 and float(np.min(each)) < 1e-20


@pytest.mark.parametrize(("u", "z"), [((6,), (4,)), ((6, 6), (3,)), ((6, 6), ())])
def test_what_is_no_map_or_no_pose_is_refused(u, z):
    with pytest.raises(ValueError, match="moved needs maps"):
        moved(jnp.zeros(u), jnp.zeros(z))


def test_features_of_another_shape_than_the_reference_are_refused():
    energy, params = Posed(lambda params, x: x), {"g": None, "references": jnp.zeros((2, 5, 5))}
    with pytest.raises(AssertionError, match="shape"):
        energy(params, jnp.zeros((5, 4)), 0, jnp.zeros(4))

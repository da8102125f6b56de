import jax
import numpy as np

from spen_jax.sampling import Info, Point, accept, acceptance

INF, NAN = np.inf, np.nan


def test_the_acceptance_probability_is_that_of_metropolis_and_what_is_wrong_is_flagged():
    cases = [  # log ratio, energy of the proposal, probability, whether it is wrong
        (-0.7, 3.0, np.exp(-0.7), False),
        (0.0, 3.0, 1.0, False),
        (800.0, -3.0, 1.0, False),
        (-INF, 3.0, 0.0, False),
        (-INF, INF, 0.0, False),
        (NAN, INF, 0.0, False),
        (NAN, NAN, 0.0, True),
        (INF, -INF, 0.0, True),
        (INF, 3.0, 1.0, False),
    ]
    ratios, energies, probabilities, wrong = map(np.array, zip(*cases, strict=True))
    got = jax.jit(acceptance)(ratios, energies)
    np.testing.assert_allclose(got.acceptance, probabilities, rtol=1e-6)
    np.testing.assert_array_equal(got.divergent, wrong)


def test_a_proposal_is_taken_where_the_uniform_number_is_below_its_probability():
    point, proposal = Point({"a": 0.0}, 7.0, {"a": 0.0}), Point({"a": 1.0}, 1.0, {"a": 2.0})

    def run(uniform):
        return accept(uniform, np.log(0.25), proposal, point)

    taken, info = jax.jit(jax.vmap(run))(np.array([0.24, 0.26, 0.0]))
    np.testing.assert_array_equal(taken.y["a"], [1, 0, 1])
    np.testing.assert_array_equal(taken.energy, [1, 7, 1])
    assert isinstance(info, Info)
    np.testing.assert_allclose(info.acceptance, 0.25, rtol=1e-6)

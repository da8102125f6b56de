import itertools
import math

import numpy as np
import pytest

from spen_jax.exact import Nodes, gauss_hermite, gauss_legendre, periodic, tensor_rule


def test_rules_are_exact_for_the_functions_they_are_made_for(x64):
    for count in (1, 4, 20):
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
    z, w = tensor_rule(
        Nodes(np.float32([1, 2, 3])), Nodes(np.float32([4, 5]), np.float32([0.5, 2]))
    )
    np.testing.assert_array_equal(z, list(itertools.product([1, 2, 3], [4, 5])))
    np.testing.assert_array_equal(w, [0.5, 2] * 3)


@pytest.mark.parametrize(
    "rule, message",
    [
        (lambda: gauss_legendre(3, 1.0, 1.0), "finite lower < upper"),
        (lambda: gauss_legendre(3, 0.0, np.inf), "finite lower < upper"),
        (lambda: gauss_hermite(0), "1 to 250 nodes"),
        (lambda: gauss_hermite(251), "1 to 250 nodes"),
    ],
)
def test_rules_that_do_not_exist_are_refused(rule, message):
    with pytest.raises(ValueError, match=message):
        rule()

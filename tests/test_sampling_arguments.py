"""What `sample` and the diagnostics say of arguments that do not fit, and what odd numbers do to them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from normal_chains import A, B
from problems import parabola

from spen_jax.domains import Box, L2Ball, Product, Reals, Simplex
from spen_jax.sampling import (
    GibbsWithGradients,
    HamiltonianMonteCarlo,
    Langevin,
    effective_sample_size,
    sample,
    split_r_hat,
)

KEY = jax.random.key(0)
START = np.zeros((2, 3, 2), np.float32)
READ_AS_SCALARS = (
    r"start has shape \(2, 2\), which is \(B, C, ...\): C chains of y of shape \(\) for each of B examples. There the "
    r"energy fails, while it works for y of shape \(2,\): .* start\[:, None\], here of shape \(2, 1, 2\)"
)
DEFAULTS = {"energy": parabola, "params": A, "context": B, "start": START, "key": KEY, "steps": 4}


class Melting(Langevin):
    __hash__ = None  # pyright: ignore


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"steps": 0}, "steps must be a whole number, 1 or more, got 0"),
        ({"steps": 4.5}, "steps must be a whole number, 1 or more, got 4.5"),
        ({"steps": "4"}, "steps must be a whole number, 1 or more, got '?4"),
        ({"thin": 0}, "thin must be a whole number, 1 or more"),
        ({"warm_up": -1}, "warm_up must be a whole number, 0 or more"),
        ({"steps": 5, "thin": 2}, "multiple of thin, got steps=5 and thin=2"),
        ({"beta": np.ones(3)}, r"one number or 4 of them.*got shape \(3,\)"),
        ({"beta": np.ones((4, 1))}, r"one number or 4 of them.*got shape \(4, 1\)"),
        ({"beta": 0.0}, "beta must be > 0 and finite, got 0.0"),
        ({"beta": jnp.array(-1.0)}, "beta must be > 0 and finite, got -1.0"),
        ({"beta": [1, 2, np.nan, 3]}, r"beta must be > 0 and finite, got \[1, 2, nan, 3\]"),
        ({"beta": np.inf}, "beta must be > 0 and finite, got inf"),
        ({"beta": 1e-60}, "beta must be > 0 and finite, got 1e-60"),  # 0 in float32
        ({"beta": True}, "beta must be > 0 and finite, got True"),
        ({"beta": "1"}, "beta must hold .* real numbers, got the type <U1"),
        ({"beta": None}, "beta must hold .* real numbers, got the type object"),
        ({"beta": [1, [2, 3]]}, "beta must be one array of real numbers"),
        ({"key": jnp.zeros(3)}, r"one random key, got shape \(3,\) .*make one with jax.random.key"),
        ({"key": jax.random.split(KEY)}, r"one random key, got shape \(2,\) of key"),
        ({"key": 0}, r"one random key, got 0; make one with jax.random.key\(0\)"),
        ({"key": None}, "one random key, got None"),
        ({"start": jnp.zeros(2)}, r"has shape \(2,\); for one chain of each .* start\[:, None\]"),
        ({"start": START[0]}, "needs a leading axis of 3 examples, as start has"),
        ({"start": START[:, 0]}, READ_AS_SCALARS),
        ({"start": START.astype(int)}, r"start is of int64; give start.astype\('float32'\)"),
        ({"start": START.astype(jnp.bfloat16)}, "float32 or float64 .* start is of bfloat16"),
        ({"start": START.astype(np.float16)}, "float32 or float64 .* start is of float16"),
        ({"start": START > 0}, "start is of bool; give"),
        ({"start": START + 1j}, "start is of complex64; give"),
        ({"start": START.astype(object)}, "start is of object; give"),
        ({"start": START.astype(float)}, "start is float64, but JAX's 64-bit mode is off"),
        ({"start": START.tolist()}, r"start\[0\]\[0\]\[0\] is a float; make it an array"),
        ({"start": "zeros"}, "start is a str; make it an array"),
        ({"start": ()}, "at least one array"),
        ({"start": None}, "at least one array, got None"),
        ({"start": START[..., :0]}, r"start must hold numbers, got .* \(2, 3, 0\)"),
        ({"start": {"a": START, "b": START[:, :2]}}, r"start\['b'\] has shape \(2, 2, 2\), where"),
        ({"context": np.zeros((3, 2))}, r"axis of 2 examples.*context has shape \(3, 2\)"),
        ({"context": {"b": B[:1]}}, r"axis of 2 examples.*context\['b'\] has shape \(1, 2\)"),
        ({"energy": lambda p, c, y: y}, r"a float scalar for one example, got .*shape=\(2,\)"),
        ({"energy": lambda p, c, y: y[:1]}, r"a float scalar for one example, got .*shape=\(1,\)"),
        ({"energy": lambda p, c, y: y.sum().astype(int)}, "a float scalar .*int32"),
        ({"energy": lambda p, c, y: None}, "a float scalar for one example, got None"),
        (
            {"energy": "parabola"},
            r"energy must be a function \(params, context, y\).*got 'parabola'",
        ),
        ({"domain": Simplex()}, r"boundary='reflect' samples from Reals and Box, got Simplex"),
        ({"domain": L2Ball(), "sampler": Langevin(adjusted=True)}, "adjusted=True samples from"),
        ({"domain": Product({"a": Box()})}, "needs y to be the tree"),
        ({"domain": Box}, r"domain must be made with \(\), such as Box\(\), got <class"),
        ({"domain": "box"}, r"domain must be made with \(\), .* got 'box'"),
        (
            {"sampler": Langevin},
            r"sampler must be made with \(\), such as Langevin\(\), got <class",
        ),
        ({"sampler": "langevin"}, r"sampler must be made with \(\), .* got 'langevin'"),
        (
            {"sampler": Melting()},
            r"sampler must be hashable, as a frozen dataclass is, got Melting",
        ),
        ({"sampler": HamiltonianMonteCarlo(0.1)}, "samples from Reals, got Box"),
        (
            {"domain": Reals(), "sampler": GibbsWithGradients()},
            r"corners of Box\(0, 1\), got Reals",
        ),
    ],
)
def test_what_does_not_fit_is_refused_in_a_sentence(changes, message):
    with pytest.raises(ValueError, match=message):
        sample(**(DEFAULTS | changes))


def test_an_energys_own_error_comes_with_the_shapes_of_one_example():
    for changes in ({"start": np.zeros((2, 3, 5), np.float32)}, {"context": None}):
        with pytest.raises(ValueError, match="fails on one example, with a context of shape"):
            sample(**(DEFAULTS | changes))


def test_a_matrix_without_an_axis_of_chains_is_told_so():
    def energy(params, context, y):
        return jnp.sum(y[:, 0])

    with pytest.raises(ValueError, match=r"works for y of shape \(5, 2\).*\(2, 1, 5, 2\)"):
        sample(energy, None, None, np.zeros((2, 5, 2), np.float32), KEY)


def test_what_is_forgotten_or_unknown_is_named():
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'key'"):
        sample(parabola, A, B, START)  # pyright: ignore
    with pytest.raises(TypeError, match="sample has no option burn_in; .* steps, warm_up, thin"):
        sample(parabola, A, B, START, KEY, burn_in=3)


def test_settings_may_be_numbers_of_other_types():
    want = sample(parabola, A, B, START, KEY, steps=10, beta=2.0)
    for steps, beta in ((10.0, 2), (np.int64(10), [2] * 10), (10, jnp.full(10, 2, jnp.bfloat16))):
        got = sample(parabola, A, B, START, KEY, steps=steps, beta=beta)  # pyright: ignore
        np.testing.assert_array_equal(got.y, want.y)


def frozen(a):
    a.setflags(write=False)
    return a


@pytest.mark.slow
def test_odd_numbers_in_a_start_are_flagged_or_sampled_from():
    pytest.importorskip("blackjax")

    def run(start, sampler):
        domain = Box() if sampler == GibbsWithGradients() else Reals()
        got = sample(parabola, A, B, start, KEY, sampler=sampler, steps=4, domain=domain)
        finite = np.isfinite(got.y).all((2, 3)) & np.isfinite(got.energy).all(2)
        assert np.all(finite | (got.info.divergent == 1))
        return np.asarray(got.info.divergent)

    kinds = Langevin(), Langevin(noise="two-point"), Langevin(adjusted=True)
    for sampler in (*kinds, HamiltonianMonteCarlo(0.1, 2), GibbsWithGradients()):
        want = np.zeros((2, 3))
        for value in (np.nan, np.inf, -np.inf, 1e30):
            start = START.copy()
            start[0, 1, 0] = value
            # A number of any size has a nearest corner.
            want[0, 1] = np.isnan(value) or sampler != GibbsWithGradients()
            np.testing.assert_array_equal(run(start, sampler), want)
        for start in (frozen(START.copy()), np.asfortranarray(START), START[:, ::-1, ::-1]):
            np.testing.assert_array_equal(run(start, sampler), 0)


DIAGNOSTICS = effective_sample_size, split_r_hat


@pytest.mark.parametrize("diagnostic", DIAGNOSTICS, ids=lambda d: d.__name__)
def test_diagnostics_take_numbers_of_any_type(diagnostic):
    y = np.random.default_rng(0).random((2, 3, 40)) < 0.5
    want = diagnostic(y.astype(np.float32))
    assert np.isfinite(want).all()
    for dtype in (bool, int, np.int8, np.uint8, np.float16, jnp.bfloat16, float):
        got = diagnostic(y.astype(dtype))
        assert got.dtype == np.float32
        np.testing.assert_allclose(got, want, rtol=1e-5)
    np.testing.assert_allclose(diagnostic(y.tolist()), want, rtol=1e-5)
    odd = y.astype(np.float32)
    odd[0, 0, :3] = np.nan, np.inf, 1e30
    np.testing.assert_array_equal(np.isnan(diagnostic(odd)), [True, False])
    large = 1e4 * y.astype(np.float16)  # whose squares are no halves
    np.testing.assert_allclose(diagnostic(large), want, rtol=1e-3)


@pytest.mark.parametrize("diagnostic", DIAGNOSTICS, ids=lambda d: d.__name__)
@pytest.mark.parametrize(
    "y, message",
    [
        (np.zeros(40), r"y must have shape \(..., C, S\) .*got \(40,\)"),
        (np.float32(3), r"y must have shape .*got \(\)"),
        (np.zeros((2, 3)), r"S = 4 draws, got \(2, 3\)"),
        (np.zeros((0, 40)), r"at least C = 1 chain .* got \(0, 40\)"),
        (np.zeros((2, 40), complex), "y must hold booleans or real numbers, got the type complex"),
        (np.zeros((2, 40)).astype(str), "y must hold booleans or real numbers, got the type <U"),
        (None, "y must hold booleans or real numbers, got the type object"),
        ({"y": np.zeros((2, 40))}, "y must hold booleans or real numbers, got the type object"),
        ([[1, 2], [3]], "y must be one array of real numbers"),
    ],
)
def test_diagnostics_refuse_what_is_not_draws_by_name(diagnostic, y, message):
    with pytest.raises(ValueError, match=message):
        diagnostic(y)

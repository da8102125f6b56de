"""Arrays of any kind into inference, training and sampling: an error that names the argument, or a sound result.

`SPEN_JAX_FUZZ=20` in the environment tries 20 times as many examples.
"""

import os

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from spen_jax import Langevin, Predictor, Reals, fit, minimize, objectives, sample, training

pytestmark = pytest.mark.long

TIMES = float(os.environ.get("SPEN_JAX_FUZZ", "1"))
QUIET = pytest.mark.filterwarnings("ignore:overflow encountered", "ignore:invalid value")
PARAMS = {"W": np.float32([[1, -1, 0.5], [0.3, 0.2, -1]])}
SGD = optax.sgd(0.1)
NUMBERS = [0.0, 1.0, -1.0, 0.5, 255.0, 1e-40, 1e30, -1e30, np.nan, np.inf, -np.inf]
TYPES = ["f4", "f8", "f2", "bfloat16", "i8", "u1", "?", "c8", "U1", "O", "M8[s]"]
SHAPES = [(2, 3), (2, 2), (2,), (0, 3), (), (2, 3, 1)]


def often(examples):
    return settings(
        max_examples=max(1, int(examples * TIMES)),
        deadline=None,
        derandomize=TIMES == 1,
        suppress_health_check=list(HealthCheck),
    )


@st.composite
def arrays(draw, *likely):
    """An array, more often of a likely shape and type than not."""
    shape = draw(st.sampled_from([*likely * 3, *SHAPES]))
    kind = draw(st.sampled_from(["f4"] * 8 + TYPES))
    values = draw(st.lists(st.sampled_from(NUMBERS), min_size=6, max_size=6))
    calm = draw(st.booleans())
    values = np.resize(np.where(calm, np.array([0, 1, 0, 1, 1, 0.0]), values), shape)
    with np.errstate(all="ignore"):
        finite = np.nan_to_num(values, posinf=9, neginf=-9).clip(-9, 9)
        if kind in ("U1", "O", "M8[s]", "i8", "u1"):
            array = np.asarray(finite.astype("i8").astype(kind))
        else:
            array = np.asarray(values.astype(jnp.dtype(kind)))
    look = draw(st.sampled_from(["plain", "frozen", "fortran", "masked", "list", "device"]))
    if look == "frozen":
        array.flags.writeable = False
    if look == "fortran":
        array = np.asfortranarray(array)
    if look == "masked":
        array = np.ma.array(array, mask=np.zeros(array.shape, bool))
    if look == "device" and kind not in ("U1", "O", "M8[s]"):
        array = jnp.asarray(array)
    return array.tolist() if look == "list" and array.ndim == 0 else array


def energy(params, x, y):
    return -(params["W"] @ x) @ y + y @ y / 2


def named(error, *names):
    """Whether a documented error names one of the arguments."""
    return any(name in str(error) for name in names)


PREDICTOR = Predictor(energy, shape=(2,), steps=2)
OBJECTIVE = objectives.max_margin(PREDICTOR)
STATE = training.init(PARAMS, SGD, jax.random.key(0))


@QUIET
@often(150)
@given(arrays((2, 3)))
def test_a_predictor_takes_any_x_or_names_it(x):
    before = np.array(x, copy=True)
    try:
        found = PREDICTOR(PARAMS, x)
    except ValueError as error:
        assert named(error, "x must", "x is", "x of", "energy"), error
    else:
        y = np.asarray(found.y)
        assert y.shape == (len(x), 2)
        sound = ~np.asarray(found.failed)
        assert np.isfinite(y[sound]).all() and (y[sound] >= 0).all() and (y[sound] <= 1).all()
        wild = ~np.isfinite(np.asarray(x, np.float64)).all(axis=1)
        assert not (sound & wild & np.isnan(np.asarray(x, np.float64)).any(axis=1)).any()
    assert np.array_equal(np.array(x), before) or np.array(x).dtype.kind in "fcOV"


@QUIET
@often(150)
@given(arrays((2, 3)), arrays((2, 2)))
def test_fit_takes_any_data_or_names_them(x, y):
    try:
        state, metrics = fit(OBJECTIVE, SGD, STATE, {"x": x, "y": y}, epochs=1).last()
    except ValueError as error:
        names = "data", "examples", "energy", "y and its truth", "a batch", "y must", "start"
        assert named(error, *names), error
    except FloatingPointError as error:
        assert "no example of this epoch" in str(error)
    else:
        assert np.isfinite(np.asarray(state.params["W"])).all()
        assert metrics["left_out"] < 2


@QUIET
@often(100)
@given(arrays((2, 2)))
def test_minimize_takes_any_start_or_names_it(start):
    x = np.ones((2, 3), np.float32)
    try:
        found = minimize(energy, PARAMS, x, start, steps=2)
    except ValueError as error:
        assert named(error, "start", "context", "energy", "Box"), error
    else:
        inside = (found.y >= 0) & (found.y <= 1)
        assert np.all(np.asarray(inside).all(axis=1) | np.asarray(found.failed))


@QUIET
@often(100)
@given(arrays((2, 2)), arrays((2, 2)))
def test_what_is_known_is_held_or_named(mask, y):
    x = np.ones((2, 3), np.float32)
    try:
        found = PREDICTOR(PARAMS, x, known=(mask, y))
    except ValueError as error:
        assert named(error, "known"), error
    else:
        held = np.asarray(mask, bool)
        want = np.clip(np.asarray(y, np.float64), 0, 1)[held]
        np.testing.assert_allclose(np.asarray(found.y, np.float64)[held], want, atol=1e-3)


@QUIET
@often(60)
@given(arrays((2, 1, 2)))
def test_sampling_takes_any_start_or_names_it(start):
    def run(start):
        x = np.ones((2, 3), np.float32)
        sampler = Langevin(0.1, adjusted=True)
        options = {"domain": Reals(), "sampler": sampler, "steps": 2}
        return sample(energy, PARAMS, x, start, jax.random.key(0), **options)

    try:
        samples = run(start)
    except ValueError as error:
        assert named(error, "start", "context", "energy"), error
    else:
        bad = ~np.isfinite(np.asarray(samples.energy)).all(axis=(1, 2))
        assert (np.asarray(samples.info.divergent)[bad] > 0).all()

"""Arrays of any shape, type, value and layout: each public function gives the right answer or names what it refuses.

About 1,000 examples, the same ones each time. SPEN_JAX_FUZZ=20 tries forty times as many, others each time.
"""

import itertools
import math
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from spen_jax import data, exact, losses, metrics
from spen_jax.domains import Box, L2Ball, Product, Reals, Simplex, check_inside
from spen_jax.losses import OutsideBall

pytestmark = pytest.mark.long

TIMES = float(os.environ.get("SPEN_JAX_FUZZ", "0.5"))
REFUSED = object()


def fuzz(examples):
    return settings(
        max_examples=max(1, int(TIMES * examples)),
        derandomize=TIMES == 0.5,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


# Arrays.

POOLS = {
    "binary": [0, 1],
    "inside": [0, 0.25, 0.5, 1, 1e-30, 1 - 1e-7],
    "finite": [0, 1, -1, 0.5, 2, 2, -3.5, 1e-3],
    "wild": [0, 1, 0.5, -1, 255, 1e30, -1e30, 3e38, 1e-40, math.nan, math.inf, -math.inf],
}
REAL = [bool, np.int8, np.uint8, np.int64, np.float16, jnp.bfloat16, np.float32, np.float64]
UNREAL = [complex, str, bytes, object, "M8[s]"]
LAYOUTS = ["C", "F", "strided", "read-only", "list", "JAX", "masked"]


@st.composite
def arrays(
    draw, shapes, pools=tuple(POOLS), dtypes=tuple(REAL * 3 + UNREAL), layouts=tuple(LAYOUTS)
):
    shape, pool = draw(st.sampled_from(shapes)), POOLS[draw(st.sampled_from(pools))]
    dtype, layout = draw(st.sampled_from(dtypes)), draw(st.sampled_from(layouts))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    return laid_out(typed(rng.choice(np.array(pool, float), shape), dtype), layout)


def typed(values, dtype):
    if dtype in (np.int8, np.uint8, np.int64, "M8[s]"):
        low = 0 if dtype == np.uint8 else -100
        values = np.clip(np.nan_to_num(values), low, 100).astype(np.int64)
    with np.errstate(all="ignore"):
        return np.asarray(values).astype(dtype)


def laid_out(array, layout):
    if layout == "list":
        return array.tolist()
    if layout == "masked":
        return np.ma.array(array, mask=np.zeros(array.shape, bool))
    if layout == "JAX":
        return jnp.asarray(array) if array.dtype.kind in "biufV" else array
    if layout == "F":
        return np.asfortranarray(array)
    if layout == "strided" and array.ndim:
        return np.repeat(array, 2, axis=-1)[..., ::2]
    array.setflags(write=layout != "read-only")
    return array


def exactly(a):
    """The numbers in float64, or None for what is no array of real numbers."""
    if isinstance(a, np.ma.MaskedArray):
        return None
    array = np.asarray(a)
    real = array.dtype.kind in "biuf" or array.dtype == jnp.bfloat16
    return array.astype(float) if real else None


def outcome(call, *given, names):
    """What a call gives, REFUSED where it says whose fault it was; its arguments are left as they were."""
    before = [np.asarray(a).tobytes() for a in given]
    try:
        found = call(*given)
    except ValueError as error:
        assert any(name in str(error) for name in names), f"{error!r} names none of {names}"
        found = REFUSED
    assert [np.asarray(a).tobytes() for a in given] == before
    return found


def readable(values, *others):
    return all(a is not None for a in (values, *others))


# Metrics.

ROWS = [(2, 3)] * 12 + [(1, 1), (3, 2), (0, 3), (2, 0), (3,), (), (1, 2, 3)]
SCORED = [(2, 3)] * 12 + [(3, 2), (0, 3), (3,), ()]
MASKS = st.none() | arrays(ROWS, ["binary"])


def cells(values, truth, mask):
    """Values, truth and what counts in float64 and booleans, or None where they are no cells."""
    values, truth = exactly(values), exactly(truth)
    counted = np.ones(np.shape(truth)) if mask is None else exactly(mask)
    if not readable(values, truth, counted) or truth.ndim != 2 or not truth.size:
        return None
    if not values.shape == truth.shape == counted.shape or not np.isin(counted, (0, 1)).all():
        return None
    counted = counted == 1
    good = np.isin(truth[counted], (0, 1)).all() and np.isfinite(values[counted]).all()
    return (values, truth == 1, counted) if counted.any() and good else None


def f1(a, b):
    return 2 * np.sum(a & b) / (np.sum(a) + np.sum(b)) if np.any(a | b) else None


def slow_metrics(predicted, truth, counted):
    rows = [(p[c], t[c]) for p, t, c in zip(predicted, truth, counted, strict=True) if c.any()]
    columns = [
        (p[c], t[c]) for p, t, c in zip(predicted.T, truth.T, counted.T, strict=True) if c.any()
    ]
    of_rows = [f1(*row) for row in rows]
    return [
        np.mean([1.0 if v is None else v for v in of_rows]),
        f1(predicted[counted], truth[counted]) or 0.0,
        np.mean([f1(*column) or 0.0 for column in columns]),
        np.mean(predicted[counted] != truth[counted]),
    ]


DECISIONS = [metrics.example_f1, metrics.micro_f1, metrics.macro_f1, metrics.hamming_error]


@fuzz(400)
@given(arrays(ROWS, ["binary"] * 8 + ["wild"]), arrays(ROWS, ["binary"] * 8 + ["wild"]), MASKS)
def test_metrics_of_decisions_are_counted_slowly_or_refused(predicted, truth, mask):
    given_ = [predicted, truth] + ([] if mask is None else [mask])
    found = [outcome(f, *given_, names=["predicted", "truth", "mask"]) for f in DECISIONS]
    read = cells(predicted, truth, mask)
    if read is None or not np.isin(read[0][read[2]], (0, 1)).all():
        assert found == [REFUSED] * 4
    else:
        np.testing.assert_allclose(found, slow_metrics(read[0] == 1, *read[1:]))


def slow_precision_at_2(scores, truth, counted):
    each = []
    for s, t, c in zip(scores, truth, counted, strict=True):
        best = sorted(np.flatnonzero(c), key=lambda i, s=s: (-s[i], i))[:2]
        each += [np.mean(t[best])] if best else []
    return np.mean(each)


def slow_average_precision(scores, truth, counted):
    each = []
    for s, t, c in zip(scores, truth, counted, strict=True):
        s, t = s[c], t[c]
        levels = [s >= v for v in s[t]]
        each += [np.mean([np.mean(t[level]) for level in levels])] if levels else []
    return np.mean(each) if each else None


@fuzz(250)
@given(arrays(SCORED), arrays(SCORED, ["binary"] * 8 + ["wild"]), MASKS)
def test_metrics_of_scores_are_counted_slowly_or_refused(scores, truth, mask):
    given_, names = [scores, truth] + ([] if mask is None else [mask]), ["scores", "truth", "mask"]
    at_2 = outcome(lambda s, t, *m: metrics.precision_at_k(s, t, 2, *m), *given_, names=names)
    average = outcome(metrics.average_precision, *given_, names=names)
    threshold = outcome(metrics.tune_threshold, *given_, names=names)
    read = cells(scores, truth, mask)
    if read is None:
        assert at_2 is average is threshold is REFUSED
        return
    want = slow_average_precision(*read)
    assert average is REFUSED if want is None else average == pytest.approx(want)
    assert at_2 == pytest.approx(slow_precision_at_2(*read))
    tuned = metrics.example_f1(metrics.decide(scores, threshold, mask), truth, mask)
    tried = [np.inf, *read[0][read[2]]]
    best = max(slow_metrics((read[0] >= t) & read[2], *read[1:])[0] for t in tried)
    assert tuned == pytest.approx(best)


def slow_expected_f1(p, chosen):
    total = 0.0
    for truth in itertools.product([False, True], repeat=len(p)):
        chance = np.prod(np.where(truth, p, 1 - p))
        value = f1(np.array(truth, bool), chosen)
        total += chance * (1.0 if value is None else value)
    return total


@fuzz(200)
@given(arrays(SCORED, ["inside"] * 5 + ["wild"]), MASKS)
def test_sets_of_best_expected_f1_are_the_best_by_enumeration_or_refused(p, mask):
    given_ = [p] + ([] if mask is None else [mask])
    sets = outcome(metrics.expected_f1_sets, *given_, names=["p ", "mask"])
    values, counted = exactly(p), np.ones(np.shape(p)) if mask is None else exactly(mask)
    good = readable(values, counted) and values.ndim == 2 and values.size > 0
    good = good and counted.shape == values.shape and np.isin(counted, (0, 1)).all()
    if not good or not ((values >= 0) & (values <= 1) | (counted == 0)).all():
        assert sets is REFUSED
        return
    assert sets.dtype == bool and not sets[counted == 0].any()
    for row, chosen, c in zip(values, sets, counted == 1, strict=True):
        every = itertools.product([False, True], repeat=int(c.sum()))
        best = max(slow_expected_f1(row[c], np.array(s, bool)) for s in every)
        assert slow_expected_f1(row[c], chosen[c]) >= best - 1e-5


@fuzz(150)
@given(arrays(SCORED, ["inside", "wild"]), arrays(SCORED, ["binary"]), MASKS)
def test_rules_decide_in_the_type_of_y_or_refuse_it(y, truth, mask):
    rest = [] if mask is None else [mask]
    fixed = outcome(metrics.Fixed(0.25), y, *rest, names=["scores", "mask"])
    values, counted = exactly(y), np.ones(np.shape(y)) if mask is None else exactly(mask)
    if readable(values, counted) and counted.shape == values.shape:
        np.testing.assert_array_equal(fixed, (values >= 0.25) & (counted == 1))
    else:
        assert fixed is REFUSED
    expected = outcome(metrics.Expected(2.0, -1.0, False), y, *rest, names=["y ", "p ", "mask"])
    assert expected is REFUSED or expected.shape == values.shape and expected.dtype == bool
    for rule in metrics.Tuned, metrics.Expected:
        tuned = outcome(rule.tune, y, truth, *rest, names=["scores", "y ", "z ", "truth", "mask"])
        assert tuned is REFUSED or outcome(tuned, y, *rest, names=["mask"]).shape == values.shape


@fuzz(100)
@given(arrays(SCORED), arrays(SCORED, ["binary"]))
def test_logistic_fits_of_scores_of_any_size_are_finite_and_rising(z, truth):
    found = outcome(metrics.tune_expected, z, truth, names=["z ", "truth"])
    if cells(z, truth, None) is None:
        assert found is REFUSED
    else:
        assert 0 < found[0] < math.inf and math.isfinite(found[1])


# Domains.

WIDE, BALL, OUTSIDE = Box(-1.0, 3.0), L2Ball(0.7), OutsideBall(0.7)
DOMAINS = [Reals(), Box(), WIDE, Box(0, math.inf), Simplex(), BALL, OUTSIDE]
ANSWERS = [(2, 3)] * 8 + [(2,), (0, 3), (2, 0), (1, 2, 3), ()]


def how_far(domain, y):
    """By how much each part of y is outside, infinite where it is not finite."""
    with np.errstate(all="ignore"):
        if isinstance(domain, Box):
            far = np.maximum(domain.lower - y, y - domain.upper) / (4 if domain == WIDE else 1)
        elif isinstance(domain, Simplex):
            far = np.maximum(np.abs(y.sum(-1) - 1), np.max(-y, axis=-1, initial=-1))
        elif domain == Reals():
            far = np.zeros(y.shape)
        else:
            length = np.linalg.norm(y, axis=-1) / 0.7
            far = length - 1 if domain == BALL else 1 - length
    finite = np.isfinite(y) if far.ndim == y.ndim else np.isfinite(y).all(-1)
    return np.where(finite, far, math.inf)


@fuzz(400)
@given(st.sampled_from(DOMAINS), arrays(ANSWERS))
def test_what_lies_outside_a_domain_is_found_and_told(domain, y):
    outside = outcome(domain.outside, y, names=["y "])
    values = exactly(y)
    vectors = not isinstance(domain, Box | Reals)
    if values is None or vectors and not values.ndim:
        assert outside is REFUSED
        assert outcome(lambda y: check_inside(domain, y, "data.y"), y, names=["data.y"]) is REFUSED
        return
    if outside is REFUSED:
        assert domain == Simplex() and not values.shape[-1]
        return
    near = 4 * float(jnp.finfo(np.asarray(y).dtype).eps) if np.asarray(y).dtype.kind in "fV" else 0
    far = how_far(domain, values)
    assert outside.shape == far.shape and outside[far > 3e-4 + 2 * near].all()
    assert not outside[far < 0.5e-4].any()
    whole = values.ndim > (1 if vectors else 0) and 0 not in values.shape[1:]
    told = outcome(lambda y: check_inside(domain, y, "data.y"), y, names=["data.y"])
    assert (told is REFUSED) == bool(outside.any() or not whole and told is REFUSED)
    tree = Product({"a": domain})
    told = outcome(lambda y: check_inside(tree, {"a": y}, "data.y"), y, names=["data.y['a']"])
    assert (told is REFUSED) == bool(outside.any() or not whole and told is REFUSED)


TYPES = [np.float16, jnp.bfloat16, np.float32, np.float64, bool, np.int8]
PLAIN = ["C", "F", "strided", "read-only", "JAX"]
projections = jax.jit(lambda y: [domain.project(y) for domain in DOMAINS])


@fuzz(150)
@given(arrays([(2, 3)], dtypes=TYPES, layouts=PLAIN))
def test_projections_are_inside_of_the_type_of_y_and_the_nearest(y):
    values = exactly(y)
    projected = outcome(projections, y, names=[])
    with np.errstate(all="ignore"):
        values = np.float64(np.float32(values))
    for domain, found in zip(DOMAINS, projected, strict=True):
        assert found.dtype == jnp.result_type(y, 0.0 if domain != Reals() else y)
        finite = np.isfinite(values).all(axis=-1)
        found = exactly(found)
        assert not np.any(domain.outside(np.asarray(projected[DOMAINS.index(domain)]))[finite])
        inside = ~(how_far(domain, values) > 0).reshape(2, -1).any(-1) & finite
        near = 8 * float(jnp.finfo(jnp.result_type(y, 0.0)).eps)
        np.testing.assert_allclose(found[inside], values[inside], rtol=near, atol=near)
        if domain == BALL:
            far = finite & ~inside
            length = np.linalg.norm(values[far], axis=-1, keepdims=True)
            np.testing.assert_allclose(found[far], 0.7 * values[far] / length, rtol=near, atol=near)


@fuzz(60)
@given(st.sampled_from(DOMAINS), arrays(ANSWERS, dtypes=UNREAL))
def test_methods_of_domains_refuse_what_is_no_real_number(domain, y):
    if exactly(y) is None:
        for name in "project", "link", "outside":
            names = ["y ", "scores "]
            assert outcome(getattr(domain, name), y, names=names) is REFUSED


# Costs, losses, energies: what compiles does so for few shapes and types, others are refused before or only traced.

COSTS = [
    losses.squared_error,
    losses.hamming,
    losses.soft_f1_error,
    losses.soft_iou_error,
    losses.cross_entropy,
    losses.categorical_cross_entropy,
]
costs = jax.jit(lambda y, truth: [cost(y, truth) for cost in COSTS])


def slow_costs(y, t):
    both, union = np.sum(y * t), np.sum(np.maximum(y, t))
    low = np.maximum(np.stack([y, 1 - y]), 1e-7)
    return [
        np.sum((y - t) ** 2),
        np.sum(np.abs(y - t)) if np.isin(t, (0, 1)).all() else np.sum(y + t - 2 * y * t),
        1 - 2 * both / np.sum(y + t) if np.sum(y + t) > 0 else 0,
        1 - np.sum(np.minimum(y, t)) / union if union > 0 else 0,
        -np.sum(t * np.log(low[0]) + (1 - t) * np.log(low[1])),
        -np.sum(t * np.log(low[0])),
    ]


ONE = [(3,)] * 6 + [(2,), (), (0,)]


@fuzz(120)
@given(
    arrays(ONE, ["inside"], [np.float32, np.float32, np.float64, *UNREAL]),
    arrays(ONE, ["binary", "inside"], [np.float32, np.float32, bool, np.uint8, *UNREAL]),
)
def test_costs_are_those_of_numpy_or_refused(y, truth):
    shapes = np.shape(y), np.shape(truth)
    if not readable(exactly(y), exactly(truth)) or shapes[0] != shapes[1]:
        for cost in COSTS:
            assert outcome(cost, y, truth, names=["y ", "truth "]) is REFUSED
    elif shapes[0] == (3,):
        found = outcome(costs, np.asarray(y), np.asarray(truth), names=[])
        want = slow_costs(*(np.float64(np.float32(exactly(a))) for a in (y, truth)))
        np.testing.assert_allclose(found, want, rtol=1e-5, atol=1e-5)
    else:
        assert {a.shape for a in jax.eval_shape(costs, np.asarray(y), np.asarray(truth))} == {()}


PAIRS = [losses.hinge, losses.log_loss, losses.mce, losses.square_square, losses.simple_pair]
SETS = [losses.perceptron, losses.nll, losses.info_nce, losses.nll_by_samples]
of_pairs = jax.jit(lambda c, w: [f(c, w) for f in PAIRS])
of_sets = jax.jit(lambda c, e: [f(c, e) for f in SETS])


def slow_pairs(c, w):
    gap = c - w
    return [
        np.maximum(0, 1 + gap),
        np.logaddexp(0, gap),
        scipy.special.expit(gap),
        np.maximum(0, c) ** 2 + np.maximum(0, 1 - w) ** 2,
        np.maximum(0, c) + np.maximum(0, 1 - w),
    ]


def slow_sets(c, e):
    everything = np.concatenate([c[:, None], e], axis=1)
    return [
        c - e.min(-1),
        c + scipy.special.logsumexp(-e, axis=-1),
        c + scipy.special.logsumexp(-everything, axis=-1),
        c - e.mean(-1),
    ]


ENERGIES = [np.float32, np.float32, np.float64, np.int8, np.uint8, *UNREAL]


EVERY = {f: (of_pairs, slow_pairs, (4,)) for f in PAIRS} | {
    f: (of_sets, slow_sets, (4, 3)) for f in SETS
}
NAMES = ["correct ", "wrong ", "everything ", "energies ", "sampled "]


@fuzz(250)
@given(
    st.sampled_from(list(EVERY)),
    arrays([(4,)] * 6 + [(4, 1), (3,), ()], ["finite"], ENERGIES),
    arrays([(4,)] * 4 + [(4, 3)] * 4 + [(3,), (), (0,)], ["finite"], ENERGIES),
)
def test_losses_of_energies_are_those_of_numpy_or_refused(loss, correct, wrong):
    c, w = exactly(correct), exactly(wrong)
    if not readable(c, w):
        assert outcome(loss, correct, wrong, names=NAMES) is REFUSED
        return
    compiled, slow, shape = EVERY[loss]
    if c.shape == (4,) and w.shape == shape:
        found = outcome(compiled, np.float32(c), np.float32(w), names=[])
        for got, want in zip(found, slow(np.float32(c), w), strict=True):
            np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)
    traced = outcome(
        lambda c, w: jax.eval_shape(loss, c, w), np.asarray(correct), np.asarray(wrong), names=NAMES
    )
    rows = w.shape if loss in PAIRS else w.shape[:-1]
    if c.ndim and rows and c.ndim != len(rows):
        assert traced is REFUSED
    elif traced is not REFUSED:
        assert traced.shape == np.broadcast_shapes(c.shape, rows) and traced.dtype == np.float32


def slow_local_minima(row):
    found = np.zeros(len(row), bool)
    for k in range(len(row)):
        end = k
        while end + 1 < len(row) and row[end + 1] == row[k]:
            end += 1
        left = k == 0 and row[k] < math.inf or k > 0 and row[k] < row[k - 1]
        right = (
            (end + 1 == len(row) and row[k] == row[k])
            or end + 1 < len(row)
            and row[end + 1] > row[k]
        )
        found[k] = left and right
    return found


@jax.jit
def of_energies(e, truth):
    values = exact.softmin(e), exact.softmin(e, average=True), exact.softargmin(e)
    return values, exact.order(e), exact.rank(e, truth), exact.local_minima(e)


ROWS_OF_ENERGIES = [(4, 3)] * 9 + [(3,), (), (0, 3), (4, 0)]


@fuzz(150)
@given(
    arrays(ROWS_OF_ENERGIES, ["finite", "wild"], [np.float32] * 3 + [np.float64, np.int8, *UNREAL]),
    arrays(
        [(4,)] * 9 + [(3,), ()],
        ["binary"] * 6 + ["finite"],
        [np.int64] * 6 + [np.float32, bool, *UNREAL],
    ),
)
def test_free_energies_orders_ranks_and_minima_are_those_of_numpy_or_refused(energies, truth):
    e, t = exactly(energies), exactly(truth)
    for f in (
        exact.softmin,
        exact.softargmin,
        exact.order,
        exact.local_minima,
        exact.log_probabilities,
    ):
        if e is None or not e.ndim:
            assert outcome(f, energies, names=["energies "]) is REFUSED
        else:
            shape = jax.eval_shape(f, np.asarray(energies)).shape
            assert shape == (e.shape[:-1] if f is exact.softmin else e.shape)
    whole = t is not None and np.asarray(truth).dtype.kind in "iu"
    if not (
        readable(e, t)
        and e.shape[:-1] == t.shape
        and e.ndim
        and whole
        and ((t >= 0) & (t < e.shape[-1])).all()
    ):
        assert outcome(exact.rank, energies, truth, names=["energies ", "truth "]) is REFUSED
        return
    if e.shape != (4, 3):
        return
    with np.errstate(all="ignore"):
        e = np.float64(np.float32(e))
        e[np.abs(e) < np.finfo(np.float32).tiny] = 0  # as XLA does with subnormal numbers
        (free, average, p), order, rank, minima = of_energies(np.float32(e), np.int32(t))
    np.testing.assert_array_equal(order, np.argsort(e, axis=-1, kind="stable"))
    correct = np.take_along_axis(e, t.astype(int)[:, None], axis=-1)
    np.testing.assert_array_equal(rank, np.sum(~(e > correct), axis=-1))
    np.testing.assert_array_equal(minima, [slow_local_minima(row) for row in e])
    plain = np.isfinite(e).all(-1)
    want = -scipy.special.logsumexp(-e[plain], axis=-1)
    np.testing.assert_allclose(free[plain], want, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(average[plain], want + np.log(3), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(p[plain], scipy.special.softmax(-e[plain], axis=-1), atol=1e-5)


# Data.

NUMBERS = st.sampled_from([0, 1, 3, -1, 0.25, 0.5, math.nan, "1", None, 1j, np.int8(2), [1], True])


@fuzz(150)
@given(NUMBERS, NUMBERS, NUMBERS, NUMBERS)
def test_made_up_data_have_the_sizes_asked_for_or_say_which_cannot_be(seed, n_train, n_test, noise):
    whole = [isinstance(n, int | np.integer) and n >= 0 for n in (seed, n_train, n_test)]
    names = ["seed", "n_train", "n_test", "noise"]
    found = outcome(lambda: data.exclusive_blocks(seed, n_train, n_test, noise), names=names)
    if all(whole) and not isinstance(noise, str | complex | list | None) and 0 <= noise < 0.5:
        assert found.train.x.shape == (n_train, 64) and found.test.y.shape == (n_test, 16)
    else:
        assert found is REFUSED
    parts = outcome(lambda: data.split(n_train, noise, seed), names=["n", "fraction", "seed"])
    assert parts is REFUSED or sorted([*parts[0], *parts[1]]) == list(range(n_train))

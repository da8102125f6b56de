import dataclasses
from collections import namedtuple
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from enumerable import CORNERS, KEY, coupled_labels, features_of, problem
from problems import Batch, counting

from spen_jax import Box, GradientDescent, Predictor, Product, Reals, Simplex, losses, objectives
from spen_jax.data import Split
from spen_jax.objectives import given, read
from spen_jax.objectives.batch import Given, hint
from spen_jax.sampling import GibbsWithGradients

# Reading


@dataclasses.dataclass
class Sentences:
    x: Any
    y: Any
    length: Any


def test_a_batch_is_a_pair_or_has_the_fields_by_name():
    x, y, mask = (
        np.ones((2, 3)),
        np.array([[1, 0], [1, 1]]),
        np.array([[True, False], [True, True]]),
    )
    masked = namedtuple("Masked", "x y mask")(x, y, mask)
    for batch in ((x, y), Batch(x, y), {"x": x, "y": y}, Split(x, y)):
        got = read(batch)
        assert got.x is x and got.mask is None and got.y.dtype == jnp.float32
        np.testing.assert_array_equal(got.y, y)
    lengths = Sentences(x, y, np.array([1, 2]))
    for batch in (masked, masked._asdict(), Split(x, y, mask), lengths):
        got = read(batch)
        np.testing.assert_array_equal(got.mask, mask)
        np.testing.assert_array_equal(got.y, [[1, 0], [1, 1]])


def test_what_does_not_count_may_be_anything_and_is_read_as_0():
    y = np.arange(1.0, 13.0, dtype=np.float32).reshape(2, 3, 2)
    y[0, 2] = np.nan
    got = read({"x": None, "y": y, "length": np.array([2, 3])})
    np.testing.assert_array_equal(got.y, np.nan_to_num(y))
    truth = {"rows": y, "flag": np.ones(2, bool)}
    mask = {"rows": np.array([[True, True, False]] * 2), "flag": np.array([True, False])}
    got = read({"x": None, "y": truth, "mask": mask}).y
    np.testing.assert_array_equal(got["rows"], np.nan_to_num(y) * mask["rows"][..., None])
    np.testing.assert_array_equal(got["flag"], [1, 0])
    # One mask for all leaves.
    got = read({"x": None, "y": truth, "mask": np.array([False, True])}).y
    np.testing.assert_array_equal(got["rows"], np.nan_to_num(y) * np.array([0, 1])[:, None, None])


@pytest.mark.parametrize(
    "batch, message",
    [
        (np.ones((2, 2)), "fields x and y.*a ndarray"),
        ({"x": 1}, "fields x and y"),
        ({"y": np.ones((2, 3)), "mask": np.ones((2, 3))}, "booleans.*float"),
        ({"y": np.ones((2, 3)), "mask": np.ones((3,), bool)}, r"leading axes.*\(2, 3\).*\(3,\)"),
        ({"y": np.ones((2, 3)), "length": np.ones((2, 1), int)}, "one number for each example"),
        ({"y": np.ones(2), "length": np.ones(2, int)}, "an axis after"),
        ({"y": np.ones((2, 3)), "length": [1, 2], "mask": np.ones(2, bool)}, "not both"),
    ],
)
def test_what_cannot_be_read_is_refused_in_a_sentence(batch, message):
    with pytest.raises(ValueError, match=message):
        read(batch)


# What is told to inference


def a_batch(truth, mask=None):
    return Given(coupled_labels, None, None, truth, mask)


def test_a_share_of_the_parts_is_told_and_the_others_are_judged():
    truth = jnp.ones((4000, 5, 3))
    told, judged = jax.jit(lambda y: hint(Simplex(), a_batch(y), 0.6, KEY))(truth)
    np.testing.assert_array_equal(told[1], truth)
    told, judged = np.asarray(told[0]), np.asarray(judged)
    assert told.shape == (4000, 5)  # rows are told as one
    np.testing.assert_array_equal(judged, ~told)
    shares = told.mean(1)
    # Shares uniform in [0, 0.6]: the mean number of 5 has variance 5 E[p (1 - p)] + 25 Var[p].
    spread = np.sqrt((5 * (0.3 - 0.12) + 25 * 0.03) / 25 / 4000)
    assert abs(shares.mean() - 0.3) < 4.5 * spread
    none = np.mean(~told.any(1))  # E (1 - p)^5
    want = (1 - 0.4**6) / 6 / 0.6
    assert abs(none - want) < 4.5 * np.sqrt(want * (1 - want) / 4000)
    assert hint(Simplex(), a_batch(truth), 0.0, KEY) == (None, None)


def test_what_does_not_count_is_not_told_nor_judged():
    truth = {"rows": jnp.ones((200, 4, 3)), "numbers": jnp.ones((200, 2))}
    mask = {"rows": np.arange(4)[None] < np.arange(200)[:, None] % 5}
    mask["numbers"] = np.arange(200) % 2 == 0  # for both at once
    domain = Product({"rows": Simplex(), "numbers": Box()})
    told, judged = jax.jit(lambda *a: hint(domain, a_batch(*a), 1.0, KEY))(truth, mask)
    told, judged = jax.tree.map(np.asarray, (told[0], judged))
    assert told["numbers"].shape == (200, 2)
    for name, counts in mask.items():
        counts = counts if name == "rows" else np.repeat(counts[:, None], 2, axis=1)
        assert 0 < told[name].sum() < counts.sum()
        np.testing.assert_array_equal(told[name] | judged[name], counts)
        assert not np.any(told[name] & judged[name])


# All objectives

SOME = {"solver": GradientDescent(0.1), "steps": 2}


def answer(phi, x, key=None):
    return x @ phi


NOISE = {"noise": objectives.IndependentBernoulli(), "samples": 3}
PLAY = {"answer": answer}
OBJECTIVES = {
    "max_margin": lambda p: objectives.max_margin(p, known=0.5),
    "slack": lambda p: objectives.max_margin(p, variant="slack", cost=losses.hamming),
    "end_to_end": lambda p: objectives.end_to_end(p, known=0.5),
    "maximum_likelihood": lambda p: objectives.maximum_likelihood(p, answers=CORNERS.tolist()),
    "pseudo_likelihood": lambda p: objectives.pseudo_likelihood(p, labels=2),
    "contrastive_divergence": lambda p: objectives.contrastive_divergence(
        p, sampler=GibbsWithGradients(), steps=2
    ),
    "nce": lambda p: objectives.nce(p, **NOISE),
    "ranking_nce": lambda p: objectives.ranking_nce(p, **NOISE),
    "denoising_score_matching": lambda p: objectives.denoising_score_matching(p, sigma=0.5),
    "sliced_score_matching": lambda p: objectives.sliced_score_matching(p),
    "deep_value": lambda p: objectives.deep_value(p),
    "inference_network": lambda p: objectives.inference_network(p, **PLAY),
    "energy_as_loss": lambda p: objectives.energy_as_loss(p, learn="margin", **PLAY),
    "energy_as_loss, ranking": lambda p: objectives.energy_as_loss(p, learn="ranking_nce", **PLAY),
}
NAMES = list(OBJECTIVES)
TWO_PLAYERS = "inference_network", "energy_as_loss", "energy_as_loss, ranking"


def params_of(name, theta):
    return {"energy": theta, "answer": np.ones((3, 4))} if name in TWO_PLAYERS else theta


@pytest.mark.parametrize("name", NAMES)
def test_whole_numbers_are_read_and_all_metrics_are_numbers(name):
    theta, batch = problem(4)
    theta, x = jax.tree.map(np.float32, (theta, batch.x))
    energy, traces = counting(coupled_labels)
    objective = OBJECTIVES[name](Predictor(energy, features_of, **SOME))
    value, metrics = jax.eval_shape(
        objective, params_of(name, theta), Batch(x, batch.y.astype(int)), KEY
    )
    assert traces and "loss" in metrics
    for number in (value, *metrics.values()):
        assert number.shape == () and number.dtype == jnp.float32


class Seen(Exception):
    """What features or a start were given; nothing after them has to run."""


@pytest.mark.parametrize("name", NAMES)
def test_features_get_a_key_of_their_own_and_the_mask(name, x64):
    theta, batch = problem()

    def features(params, x, key=None, mask=None):
        raise Seen(key, mask)

    objective = OBJECTIVES[name](Predictor(coupled_labels, features, **SOME))
    mask = np.ones((2, 4), bool)
    with pytest.raises(Seen) as seen:
        objective(params_of(name, theta), {"x": batch.x, "y": batch.y, "mask": mask}, KEY)
    key, got = seen.value.args
    np.testing.assert_array_equal(got, mask)
    if name != "maximum_likelihood":  # which draws nothing else
        assert jax.random.key_data(key).tolist() != jax.random.key_data(KEY).tolist()


@pytest.mark.parametrize("name", ["max_margin", "slack", "end_to_end", "deep_value"])
def test_starts_get_the_context_and_a_key_other_than_that_of_the_features(name, x64):
    theta, batch = problem()
    keys = []

    def features(params, x, key):
        keys.append(key)
        return features_of(params, x)

    def start(context, key):
        raise Seen(context, key)

    predictor = Predictor(coupled_labels, features, start=start, **SOME)
    with pytest.raises(Seen) as seen:
        OBJECTIVES[name](predictor)(theta, batch, KEY)
    context, key = seen.value.args
    np.testing.assert_allclose(context["logits"], features_of(theta, batch.x)["logits"])
    data = [jax.random.key_data(k).tolist() for k in (KEY, key, *keys)]
    assert len(keys) == 1 and len({*map(tuple, data)}) == 3


@pytest.mark.parametrize("name", TWO_PLAYERS)
def test_the_answering_network_gets_a_key_of_its_own_and_the_mask(name, x64):
    theta, batch = problem()
    keys = []

    def features(params, x, key):
        keys.append(key)
        return features_of(params, x)

    def network(phi, x, key, mask):
        raise Seen(key, mask)

    predictor = Predictor(coupled_labels, features, **SOME)
    make = getattr(objectives, name.split(",")[0])
    mask = np.ones((2, 4), bool)
    with pytest.raises(Seen) as seen:
        make(predictor, answer=network)(
            params_of(name, theta), {"x": batch.x, "y": batch.y, "mask": mask}, KEY
        )
    key, got = seen.value.args
    np.testing.assert_array_equal(got, mask)
    assert jax.random.key_data(key).tolist() != jax.random.key_data(keys[0]).tolist()


@pytest.mark.parametrize("name", NAMES)
def test_what_is_no_predictor_is_refused(name):
    with pytest.raises(ValueError, match=r"a predictor first.*sx.Predictor\(energy, features\)"):
        OBJECTIVES[name](coupled_labels)


def test_equal_predictors_and_a_mask_compile_one_inference(x64):
    """The energies that objectives make of a predictor's are the same functions again."""
    theta, batch = problem()
    energy, traces = counting(coupled_labels)
    data = {"x": batch.x, "y": batch.y, "mask": np.ones((2, 4), bool)}
    counts = []
    for _ in range(2):
        predictor = Predictor(energy, features_of, **SOME)
        for objective in (
            objectives.max_margin(predictor),
            objectives.deep_value(predictor, sources=["adversarial"]),
        ):
            jax.eval_shape(objective, theta, data, KEY)
        counts.append(len(traces))
    # What is left are energies of given points, one trace each.
    assert counts[1] - counts[0] <= 4 < counts[0]


class Loop(NamedTuple):
    x: Any
    y: Any
    mask: Any


def test_one_example_is_seen_by_the_energy_of_what_counts():
    """`Given` evaluates one point each, several, or the same for all."""
    params, batch = problem(3)
    params, batch = jax.tree.map(np.float32, (params, batch))
    mask = np.array([[True, True, False, True]] * 3)
    predictor = Predictor(coupled_labels, features_of, domain=Reals())
    seen = given(predictor, params, Loop(batch.x, batch.y, mask), KEY)
    points = CORNERS.astype(np.float32)
    of_all = np.asarray(seen.of_all(points))
    assert of_all.shape == (3, 16)
    several = seen.several(np.broadcast_to(points, (3, 16, 4)))
    np.testing.assert_allclose(several, of_all, rtol=1e-6)
    each = seen.each(np.broadcast_to(points[5], (3, 4)))
    np.testing.assert_allclose(each, of_all[:, 5], rtol=1e-6)
    same = (points[:, [0, 1, 3]][:, None] == points[:, [0, 1, 3]][None]).all(-1)
    np.testing.assert_array_equal(np.isclose(of_all[0][:, None], of_all[0][None]), same)

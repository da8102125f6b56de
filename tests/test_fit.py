import dataclasses
import gc
from dataclasses import replace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from problems import Batch, assert_trees_close, counting

import spen_jax as sx
from spen_jax import GibbsWithGradients, Predictor, fit, objectives, training
from spen_jax.training import average_of, stable
from spen_jax.training.fields import fields_of, written_back

RNG = np.random.default_rng(0)
DATA = Batch(np.float32(RNG.normal(size=(10, 3))), np.float32(RNG.normal(size=(10,))))
PARAMS = {"w": np.float32([0.1, -0.2, 0.3]), "b": np.float32(0.5)}
ADAM = optax.adamw(0.1, weight_decay=0.2)
SGD = optax.sgd(0.1)
POINT = {"w": np.float32(0)}


def regression(params, batch, key):
    """A mean squared error, with noise that the key draws on the target."""
    noise = 0.1 * jax.random.normal(key)
    error = batch.x @ params["w"] + params["b"] - batch.y - noise
    value = jnp.mean(error**2)
    return value, {"loss": value, "noise": noise}


REGRESSION, TRACES = counting(regression)


def start(seed=0):
    return training.init(PARAMS, ADAM, jax.random.key(seed))


def run(seed=0, epochs=2):
    return list(fit(REGRESSION, ADAM, start(seed), DATA, epochs=epochs, batch_size=4))


def run_on(data, objective, epochs=1, batch_size=4):
    state = training.init(POINT, SGD, jax.random.key(0))
    return [m for _, m in fit(objective, SGD, state, data, epochs=epochs, batch_size=batch_size)]


def assert_same(a, b):
    for u, v in zip(*map(jax.tree.leaves, (a, b)), strict=True):
        np.testing.assert_array_equal(u, v)


# One step


def numpy_adamw(p, gradient, moments, t):
    """AdamW's (p, moments) after step t = 1, 2, ..., by its formula."""
    m, v = 0.9 * moments[0] + 0.1 * gradient, 0.999 * moments[1] + 0.001 * gradient**2
    move = m / (1 - 0.9**t) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
    return p - 0.1 * (move + 0.2 * p), (m, v)


def test_a_step_is_the_optax_step_on_the_chosen_rows():
    state, rows = start(), np.array([7, 1, 1, 4])
    x, y = DATA.x[rows], DATA.y[rows]
    params, moments = PARAMS, {name: (0.0, 0.0) for name in PARAMS}
    for t in (1, 2):
        key, step_key = jax.random.split(state.key)
        error = x @ params["w"] + params["b"] - y - 0.1 * float(jax.random.normal(step_key))
        gradient = {"w": 2 * x.T @ error / 4, "b": 2 * error.mean()}
        new = {k: numpy_adamw(params[k], gradient[k], moments[k], t) for k in params}
        params, moments = ({k: pair[i] for k, pair in new.items()} for i in (0, 1))

        state, metrics = training.step(REGRESSION, ADAM, state, DATA, rows)
        np.testing.assert_allclose(metrics["loss"], np.mean(error**2), rtol=1e-5)
        assert state.key == key
        assert_trees_close(state.params, params, rtol=1e-4, atol=1e-5)
        adam = state.opt_state[0]
        for k, (m, v) in moments.items():
            np.testing.assert_allclose(adam.mu[k], m, rtol=1e-4)
            np.testing.assert_allclose(adam.nu[k], v, rtol=1e-4)


# A compiled loop


@pytest.mark.slow
def test_a_scan_is_a_loop_of_steps_for_several_seeds_at_once():
    rows = np.random.default_rng(1).integers(0, 10, (2, 6, 4))  # (seeds, steps, batch)
    at = (0, 1, 1, 4, 6)

    def on_rows(params, rows, key):
        return regression(params, jax.tree.map(lambda a: jnp.asarray(a)[rows], DATA), key)

    @jax.jit
    @jax.vmap
    def trained(seed, rows):
        return training.scan(on_rows, ADAM, start(seed), rows, at=at)

    states, metrics, snapshots = trained(np.arange(2), rows)
    assert jax.tree.map(jnp.shape, snapshots) == {"w": (2, 5, 3), "b": (2, 5)}
    for seed in range(2):
        state, path, history = start(seed), [PARAMS], []
        for some in rows[seed]:
            state, step_metrics = training.step(REGRESSION, ADAM, state, DATA, some)
            path.append(state.params)
            history.append(step_metrics)
        got = jax.tree.map(lambda a, seed=seed: a[seed], (states, metrics, snapshots))
        assert got[0].key == state.key
        want = jax.tree.map(lambda *a: np.stack(a), *history)
        want["skipped"] = want.pop("left_out")
        assert_trees_close(got[1], want, rtol=1e-5)
        assert_trees_close(got[0].opt_state, state.opt_state, rtol=1e-5)
        want = jax.tree.map(lambda *a: np.stack(a), *(path[t] for t in at))
        assert_trees_close(got[2], want, rtol=1e-5)


def test_a_scan_hands_what_it_writes_from_step_to_step():
    """Each step halves the way of the codes it is given to 1, and moves w by the codes' sum."""

    def objective(params, given, key):
        (row, times), buffers = given
        codes = buffers["codes"].at[row].add(times * (1 - buffers["codes"][row]) / 2)
        return -jnp.sum(codes) * params["w"], {"seen": jnp.sum(codes), "codes": codes}

    state = training.init(POINT, SGD, jax.random.key(0))
    batches = np.array([0, 2, 0]), np.float32([1, 1, 2])
    buffers = {"codes": np.zeros(3, np.float32)}
    state, metrics = jax.jit(
        lambda state: training.scan(objective, SGD, state, batches, buffers=buffers)
    )(state)
    np.testing.assert_allclose(metrics["codes"], [1, 0, 0.5])
    np.testing.assert_allclose(metrics["seen"], [0.5, 1.0, 1.5])
    np.testing.assert_allclose(state.params["w"], 0.1 * 3.0, rtol=1e-6)

    with pytest.raises(ValueError, match="buffers.*codes are not among loss"):
        forgets = lambda params, given, key: (params["w"], {"loss": params["w"]})  # noqa: E731
        training.scan(forgets, SGD, state, batches, buffers=buffers)


@pytest.mark.parametrize(
    "batches, at, message",
    [
        ((np.zeros(3), np.zeros(2)), None, "leading axis of steps.*2 and 3 steps"),
        (np.zeros(0), None, "leading axis of steps.*0 steps"),
        (0.0, None, "leading axis of steps.*no steps"),
        (np.zeros(3), (1, 0), r"ascending.*0 to 3, got \(1, 0\)"),
        (np.zeros(3), (0, 4), "from 0 to 3"),
        (np.zeros(3), (-1,), "from 0 to 3"),
        (np.zeros(3), (0.5,), "whole numbers"),
    ],
)
def test_a_scan_refuses_batches_and_snapshots_that_cannot_be(batches, at, message):
    with pytest.raises(ValueError, match=message):
        training.scan(regression, ADAM, start(), batches, at=at)


# Epochs


def test_the_same_key_gives_bit_identical_numbers_and_another_key_others():
    (one, one_metrics), (same, same_metrics), (other, _) = run()[-1], run()[-1], run(seed=1)[-1]
    assert_same(one.params, same.params)
    assert one_metrics == same_metrics
    for a, b in zip(*map(jax.tree.leaves, (one.params, other.params)), strict=True):
        assert np.any(a != b)


def test_a_fit_that_goes_on_from_a_state_equals_one_that_never_stopped():
    (half, _), (whole, metrics) = run()
    [(resumed, again)] = fit(REGRESSION, ADAM, half, DATA, epochs=1, batch_size=4)
    assert metrics == again
    assert_same(whole.params, resumed.params)


def test_fit_traces_its_objective_once():
    run()
    before = len(TRACES)
    run(epochs=3)
    run(seed=5)
    assert len(TRACES) == before


@pytest.mark.parametrize("n, batch_size, steps", [(10, 4, 3), (10, 5, 2), (3, 128, 1)])
def test_an_epoch_sees_each_example_once_but_for_the_filling_of_its_last_batch(
    n, batch_size, steps
):
    def seen(params, batch, key):
        assert len(batch) == min(batch_size, n)
        return params["w"], {"seen": jnp.sum(batch), "one": jnp.ones(())}

    history = run_on(np.float32(4) ** np.arange(n), seen, epochs=3, batch_size=batch_size)
    assert training.steps_per_epoch(n, batch_size) == steps
    # How often each was seen: the digits, in base 4, of the sum over the steps.
    sums = [round(steps * metrics["seen"]) for metrics in history]
    counts = np.array([[s // 4**i % 4 for i in range(n)] for s in sums])
    filling = steps * min(batch_size, n) - n
    assert np.all((counts == 1) | (counts == 2)) and np.all((counts == 2).sum(1) == filling)
    if filling:  # each epoch has an order of its own
        assert len(np.unique(counts, axis=0)) > 1
    for metrics in history:
        assert metrics["one"] == 1 and all(type(v) is float for v in metrics.values())


def nothing(params, batch, key):
    return params["w"], {}


@pytest.mark.parametrize(
    "data, batch_size, message",
    [
        ({"x": np.zeros(5), "y": np.zeros(3)}, 2, "of 3 and 5 examples"),
        ({"x": np.zeros(5), "y": 0.0}, 2, "of no and 5 examples"),
        ({}, 2, "no examples"),
        (np.zeros(0), 2, "0 examples"),
        (np.zeros(5), 0, "batch_size.*0"),
        (np.zeros(5), -2, "batch_size.*-2"),
    ],
)
def test_fit_refuses_data_and_batches_that_cannot_be(data, batch_size, message):
    with pytest.raises(ValueError, match=message):
        run_on(data, nothing, batch_size=batch_size)


UNKNOWN = np.float32([[1, np.nan], [np.inf, 0]])


def test_fit_refuses_numbers_that_are_not_finite_but_where_the_mask_says_they_do_not_count():
    x, ones = np.zeros((2, 2), np.float32), np.ones((2, 2), bool)
    for data, message in [
        ({"x": x, "y": UNKNOWN}, r"data\['y'\] must be finite, but 2"),
        ({"x": x, "y": UNKNOWN, "mask": ones}, r"data\['y'\].* 2 of"),
        ({"x": UNKNOWN, "y": x, "mask": ~ones}, r"data\['x'\].* 2 of"),
        ({"x": x, "y": UNKNOWN, "mask": ones ^ [[False, True]]}, r"data\['y'\].* 1 of"),
        ((x, UNKNOWN), r"data\[1\].* 2 of"),
    ]:
        with pytest.raises(ValueError, match=message):
            run_on(data, nothing)
    known = np.array([[True, False], [False, True]])
    data = {"x": x, "y": UNKNOWN, "mask": known}
    assert run_on(data, nothing) == [{"left_out": 0}]
    rows = {"x": x, "y": np.stack([UNKNOWN, UNKNOWN]), "mask": known}  # (B, T, K), (B, T)
    with pytest.raises(ValueError, match="but 2 of"):
        run_on(rows, nothing)


# Fields of the data that training writes


class Chains(NamedTuple):
    x: jax.Array
    visits: jax.Array
    chains: dict[str, jax.Array]


ChainsClass = dataclasses.make_dataclass("ChainsClass", Chains._fields)


def chains_of(n, module=np):
    x = module.arange(1, n + 1, dtype=np.float32)
    zeros = module.zeros((n, 2, 3), dtype=np.float32)
    return Chains(x, module.zeros(n, dtype=np.int32), {"a": zeros, "b": zeros[:, 0]})


def visited(batch):
    """Each visit adds x to all numbers of an example's chains."""
    x = batch.x[:, None]
    moved = {"a": batch.chains["a"] + x[..., None], "b": batch.chains["b"] + x}
    wrong = jnp.abs(batch.chains["a"] - (batch.visits * batch.x)[:, None, None]).max()
    wrong += jnp.abs(batch.chains["b"] - (batch.visits * batch.x)[:, None]).max()
    metrics = {"wrong": wrong, "visits": batch.visits + 1, "seen": jnp.mean(batch.visits)}
    return metrics | {"chains": moved}


VISITING, VISITS = counting(lambda params, batch, key: (params["w"], visited(batch)))


@pytest.mark.parametrize("module", [np, jnp])
def test_a_metric_named_as_a_field_is_written_into_the_rows_of_its_batch(module):
    data = chains_of(12, module)
    history = run_on(data, VISITING, epochs=3)
    assert history == [{"wrong": 0, "seen": epoch, "left_out": 0} for epoch in range(3)]
    assert len(VISITS) == 1
    for a in jax.tree.leaves((data.visits, data.chains)):  # what the caller passed
        assert not np.asarray(a).any()


def test_the_examples_that_fill_the_last_batch_go_on_from_what_was_written_before():
    def visiting(params, batch, key):
        return params["w"], visited(Chains(**batch))

    first, second = run_on(chains_of(10)._asdict(), visiting, epochs=2)
    assert first == {"wrong": 0, "seen": pytest.approx(2 / 12), "left_out": 0}
    # All ten, of 12 visits, and the two that fill, of 2 or 3 each.
    assert second["wrong"] == 0 and 15.9 < 12 * second["seen"] < 18.1


ROWS = np.array([3, 0])


def metrics_of(**new):
    chains = {"a": jnp.ones((2, 2, 3)), "b": jnp.array([[1.0, jnp.nan, 1.0], [2.0, 2.0, 2.0]])}
    return {"loss": jnp.ones(()), "chains": chains} | new


@pytest.mark.parametrize(
    "of",
    [lambda c: c, lambda c: c._asdict(), lambda c: ChainsClass(*c)],
    ids=["tuple", "dict", "dc"],
)
def test_fields_of_any_kind_of_data_are_written_but_for_rows_that_are_not_finite(of):
    given, owned = of(chains_of(5, jnp)), set()
    data, metrics = written_back(given, ROWS, metrics_of(), owned)
    assert metrics == {"loss": 1} and owned == {"chains"} and type(data) is type(given)
    chains = fields_of(data)["chains"]
    want = np.zeros((5, 3))
    want[0] = 2  # of row 3 one number was not finite
    np.testing.assert_array_equal(chains["b"], want)
    np.testing.assert_array_equal(chains["a"][:, 0, 0], [1, 0, 0, 1, 0])


@pytest.mark.parametrize(
    "new, message",
    [
        (jnp.zeros((2, 3), jnp.int32), r"'visits'.*\(2,\) int32.*\(2, 3\) int32"),
        (jnp.zeros(2), r"'visits'.*\(2,\) int32.*\(2,\) float32"),
        (jnp.zeros((), jnp.int32), r"'visits'.*another name"),
        ({"a": jnp.zeros(2, jnp.int32)}, "'visits'"),
    ],
)
def test_a_metric_that_does_not_fit_the_field_of_its_name_is_refused(new, message):
    with pytest.raises(ValueError, match=message):
        written_back(chains_of(5), ROWS, {"visits": new}, set())


def test_a_metric_that_is_neither_a_field_nor_a_scalar_is_refused():
    with pytest.raises(ValueError, match="metrics each must be scalars.*Chains"):
        written_back(chains_of(5), ROWS, {"each": jnp.zeros(2)}, set())


# Examples that are not finite


class Marked(NamedTuple):
    x: jax.Array
    bad: jax.Array


def marked(params, batch, key):
    """mean (w - x)^2 / 2, of a bad row not a number."""
    each = (params["w"] - batch.x) ** 2 / 2 * jnp.where(batch.bad, jnp.nan, 1)
    return jnp.mean(each), {"loss": jnp.mean(each)}


AVERAGING = stable(optax.sgd(0.1, momentum=0.5), average=0.8)


def marked_data(bad, x=1.0):
    return Marked(np.broadcast_to(np.float32(x), len(bad)), np.array(bad))


def fit_marked(bad, epochs=1, batch_size=1, x=1.0, optimizer=AVERAGING):
    state = training.init(POINT, optimizer, jax.random.key(0))
    return fit(marked, optimizer, state, marked_data(bad, x), epochs=epochs, batch_size=batch_size)


def momentum_path(steps):
    """(params, losses) of heavy-ball steps of 0.1, momentum 0.5, on (w - 1)^2 / 2 from 0."""
    w, velocity, path, losses = 0.0, 0.0, [], []
    for _ in range(steps):
        losses.append((w - 1) ** 2 / 2)
        velocity = 0.5 * velocity + (w - 1)
        w -= 0.1 * velocity
        path.append(w)
    return path, losses


def test_an_example_that_is_not_finite_is_left_out_alone_and_counted():
    state, metrics = fit_marked([False, True, False, False]).last()
    path, losses = momentum_path(3)
    assert metrics == {"loss": pytest.approx(np.mean(losses)), "left_out": 1}
    np.testing.assert_allclose(state.params["w"], path[-1], rtol=1e-6)
    weights = 0.8 ** np.arange(3)[::-1]  # a step not taken has no share
    want = weights @ path / weights.sum()
    np.testing.assert_allclose(average_of(state)["w"], want, rtol=1e-6)
    _, metrics = fit_marked([False] * 4).last()
    assert metrics == {"loss": pytest.approx(np.mean(momentum_path(4)[1])), "left_out": 0}


def test_the_others_of_its_batch_make_the_step_of_their_mean():
    x = np.float32([1, 2, 3, 100])
    plain = optax.sgd(0.5)
    state, metrics = fit_marked([False, False, False, True], 1, 4, x, plain).last()
    np.testing.assert_allclose(state.params["w"], 0.5 * 2, rtol=1e-6)  # the mean of 1, 2, 3
    assert metrics == {"loss": pytest.approx(np.mean(x[:3] ** 2) / 2), "left_out": 1}


def by_objective(name):
    """Each objective of the library on four examples, of which the energy of the first is not a number."""
    made = {
        "end_to_end": lambda p: objectives.end_to_end(p),
        "implicit": lambda p: objectives.end_to_end(replace(p, differentiate="implicit")),
        "max_margin": lambda p: objectives.max_margin(p),
        "maximum_likelihood": lambda p: objectives.maximum_likelihood(p, answers=np.eye(2)),
        "pseudo_likelihood": lambda p: objectives.pseudo_likelihood(p),
        "nce": lambda p: objectives.nce(p, noise=NOISE, samples=2),
        "ranking_nce": lambda p: objectives.ranking_nce(p, noise=NOISE, samples=2),
        "contrastive_divergence": lambda p: objectives.contrastive_divergence(
            p, sampler=GibbsWithGradients(), steps=2
        ),
        "deep_value": lambda p: objectives.deep_value(p),
        "denoising": lambda p: objectives.denoising_score_matching(p, sigma=0.1),
        "sliced": lambda p: objectives.sliced_score_matching(p),
    }
    return made[name](Predictor(rooted, steps=2))


NOISE = objectives.IndependentBernoulli(lambda context: jnp.zeros((len(context), 2)))


def rooted(params, x, y):
    return jnp.sqrt(x[0]) * (params["w"] @ y) + params["w"] @ params["w"] * (y @ y) / 2 + y[0] ** 2


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    "end_to_end implicit max_margin maximum_likelihood pseudo_likelihood nce ranking_nce contrastive_divergence "
    "deep_value denoising sliced".split(),
)
def test_by_one_rule_for_all_objectives(name):
    x = np.ones((4, 1), np.float32)
    x[0] = -1  # its root is not a number
    data = {"x": x, "y": np.eye(2, dtype=np.float32)[[0, 1, 0, 1]]}
    optimizer, objective = optax.sgd(0.1), by_objective(name)
    state = training.init({"w": jnp.float32([0.5, -0.3])}, optimizer, jax.random.key(0))
    after, metrics = fit(objective, optimizer, state, data, epochs=1).last()
    assert metrics["left_out"] == 1 and np.isfinite(list(metrics.values())).all()
    assert np.isfinite(after.params["w"]).all()
    assert np.any(after.params["w"] != state.params["w"])


def test_a_step_that_is_not_finite_leaves_parameters_and_state_as_they_were():
    data = marked_data([False, True, False, False])
    state = training.init(POINT, AVERAGING, jax.random.key(0))
    state, _ = training.step(marked, AVERAGING, state, data, np.array([0]))
    after, metrics = training.step(marked, AVERAGING, state, data, np.array([1]))
    assert np.isnan(metrics["loss"]) and metrics["left_out"] == 1
    kept, still = ((s.params, s.opt_state) for s in (state, after))
    assert_same(kept, still)


def test_a_step_that_overflows_is_not_taken_either():
    with pytest.raises(FloatingPointError, match="no example of this epoch has a loss"):
        fit_marked([False] * 4, x=1e20, optimizer=optax.sgd(1e30)).last()


def test_an_epoch_without_a_finite_example_is_an_error():
    with pytest.raises(FloatingPointError, match="no example of this epoch .* sound: go on"):
        fit_marked([True] * 4, epochs=9, batch_size=2).last()


def test_what_fills_up_the_last_batch_is_not_counted_twice():
    _, metrics = fit_marked([True] + [False] * 4, batch_size=3).last()
    assert metrics["left_out"] == 1


def test_a_gradient_that_an_optimizer_squares_to_infinity_is_left_out_too():
    def steep(params, batch, key):
        value = jnp.mean(batch.x * params["w"])
        return value, {"loss": value}

    adam, x = optax.adam(0.1), np.float32([1, 1, 1e25, 1])  # finite, but its square is not
    state = training.init(POINT, adam, jax.random.key(0))
    data = Marked(x, np.zeros(4, bool))
    state, metrics = fit(steep, adam, state, data, epochs=3, batch_size=2).last()
    assert metrics["left_out"] == 1
    assert state.params["w"] < -0.3  # three steps of two batches, each of about 0.1
    assert all(np.isfinite(a).all() for a in jax.tree.leaves(state.opt_state))


def test_what_fails_by_chance_is_tried_again():
    def unlucky(params, batch, key):
        chance = jax.random.uniform(key) < 0.5
        value = jnp.mean((params["w"] - batch.x) ** 2) * jnp.where(chance, jnp.nan, 1)
        return value, {"loss": value}

    plain = optax.sgd(0.1)
    state = training.init(POINT, plain, jax.random.key(1))
    data = Marked(np.ones(40, np.float32), np.zeros(40, bool))
    _, metrics = fit(unlucky, plain, state, data, epochs=1, batch_size=4).last()
    assert metrics["left_out"] < 20  # without, half of the ten batches


def test_a_step_that_is_not_taken_writes_nothing_into_the_data():
    class Counted(NamedTuple):
        x: jax.Array
        bad: jax.Array
        visits: jax.Array

    def objective(params, batch, key):
        value, metrics = marked(params, batch, key)
        return value, metrics | {"visits": batch.visits + 1, "seen": jnp.mean(batch.visits)}

    data = Counted(np.ones(4, np.float32), np.array([True, False, False, False]), np.zeros(4))
    state = training.init(POINT, AVERAGING, jax.random.key(0))
    *_, (_, metrics) = fit(objective, AVERAGING, state, data, epochs=3, batch_size=4)
    assert metrics["seen"] == 2 and metrics["left_out"] == 1


def test_an_objective_that_wants_its_own_batch_size_leaves_all_of_a_batch_out():
    def picky(params, batch, key):
        assert len(batch.x) == 2, "two at a time"
        return marked(params, batch, key)

    state = training.init(POINT, AVERAGING, jax.random.key(0))
    data = marked_data([True, False, False, False])
    state, metrics = fit(picky, AVERAGING, state, data, epochs=1, batch_size=2).last()
    assert metrics["left_out"] == 2 and state.params["w"] > 0


def test_a_scan_does_not_take_a_step_that_is_not_finite_and_says_which():
    state = training.init(POINT, AVERAGING, jax.random.key(0))
    batches = Marked(np.ones((4, 1), np.float32), np.array([[False], [True], [False], [False]]))
    state, metrics = jax.jit(lambda s: training.scan(marked, AVERAGING, s, batches))(state)
    np.testing.assert_array_equal(metrics["skipped"], [0, 1, 0, 0])
    np.testing.assert_allclose(state.params["w"], momentum_path(3)[0][-1], rtol=1e-6)


# Epochs


def test_epochs_run_to_the_last_by_a_loop_or_by_last():
    *_, by_loop = fit_marked([False] * 4, epochs=3)
    by_last = fit_marked([False] * 4, epochs=3).last()
    assert_same(by_loop[0].params, by_last[0].params)
    with pytest.raises(ValueError, match="fit has no last epoch"):
        fit_marked([False] * 4, epochs=0).last()


@pytest.mark.slow
def test_a_training_that_was_never_looped_over_says_so():
    with pytest.warns(RuntimeWarning, match="fit was never looped over.*last"):
        fit_marked([False] * 4)
        gc.collect()


@pytest.mark.parametrize("epochs", [-1, 1.5, "3"])
def test_a_number_of_epochs_that_cannot_be_is_refused_at_once(epochs):
    with pytest.raises((ValueError, TypeError), match="epochs must be a whole number, 0 or more"):
        fit_marked([False], epochs=epochs)


# Evaluation


@pytest.mark.slow
def test_groups_of_several_lengths_are_trained_on_in_batches_of_one_length():
    """Each step sees one group, an epoch sees every row, and a mean over places is that of the padded data."""
    rng = np.random.default_rng(0)
    lengths = np.array([2, 5, 3, 2, 5, 1, 2])
    mask = np.arange(5) < lengths[:, None]
    data = {"x": np.where(mask, rng.normal(size=(7, 5)), 0).astype(np.float32), "mask": mask}
    groups = sx.data.by_length(data, mask, (2, 3, 5))
    widths = []

    def objective(params, batch, key):
        widths.append(batch["x"].shape)
        value = jnp.sum((params - batch["x"]) ** 2 * batch["mask"])
        return value, {"loss": value, "places": jnp.sum(batch["mask"]) * 1.0}

    optimizer = optax.sgd(0.0)
    state = training.init(jnp.zeros(()), optimizer, jax.random.key(0))
    _, metrics = sx.fit(objective, optimizer, state, groups, epochs=2, batch_size=2).last()
    assert {*widths} == {(2, 2), (1, 3), (2, 5)}
    assert metrics["places"] * training.steps_per_epoch([4, 1, 2], 2) == lengths.sum()
    again, _ = sx.fit(objective, optimizer, state, groups, epochs=1, batch_size=2).last()
    assert again.params == 0
    recipe = training.Recipe(epochs=1, learning_rate=0.1, weight_decay=0.0, batch_size=2)
    trained = training.train(objective, jnp.zeros(()), groups, recipe, jax.random.key(1)).last()
    assert np.isfinite(trained.params) and trained.params != 0


def test_no_group_at_all_is_refused():
    optimizer = optax.sgd(0.1)
    state = training.init(jnp.zeros(()), optimizer, jax.random.key(0))
    with pytest.raises(ValueError, match="at least one group"):
        sx.fit(lambda p, b, k: (p, {}), optimizer, state, sx.data.Groups((), ()), epochs=1)

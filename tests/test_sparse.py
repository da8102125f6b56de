"""Rows that are mostly zeros: as dense ones, in products, derivatives, networks, training and prediction."""

from contextlib import contextmanager
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.sparse
from test_compilations import BUILT, builds, listen

from spen_jax import (
    SPEN,
    FeatureNetwork,
    Predictor,
    Simplex,
    fit,
    functions_of,
    logits_of,
    sampling,
    sparse,
    training,
)
from spen_jax import objectives as of
from spen_jax.data import Split
from spen_jax.sparse import Rows, on_values, rows
from spen_jax.training.steps import compiled_step

RNG = np.random.default_rng(0)
X = (RNG.normal(size=(90, 30)) * (RNG.random((90, 30)) < 0.1)).astype(np.float32)
X[7] = 0
Y = (RNG.random((90, 4)) < 0.4).astype(np.float32)
CSR = scipy.sparse.csr_array(X)
W = RNG.normal(size=(30, 5)).astype(np.float32)
SOME = RNG.permutation(90)[:16]
PART, DENSE = rows(CSR, SOME), jnp.asarray(X[SOME])
ADAM = optax.adam(0.01)
close = partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5)


@pytest.fixture(autouse=True, scope="module")
def listener():
    jax.monitoring.register_event_duration_secs_listener(listen)
    yield
    jax.monitoring.unregister_event_duration_listener(listen)


def curved(x, w):
    return jnp.sum(jnp.tanh(x @ w) ** 2)


def with_values(values):
    return on_values(lambda _: values, PART)


def dense_of(values):
    return with_values(values).todense()


@pytest.mark.slow
def test_rows_are_those_of_the_matrix():
    assert isinstance(PART, Rows)
    assert (PART.shape, PART.ndim, PART.dtype, len(PART)) == ((16, 30), 2, jnp.float32, 16)
    np.testing.assert_array_equal(PART.todense(), DENSE)
    np.testing.assert_array_equal(rows(CSR).todense(), X)
    np.testing.assert_array_equal(rows(CSR, []).todense(), np.zeros((0, 30)))
    twice = scipy.sparse.coo_array((np.ones(3), ([0, 0, 1], [2, 2, 0])), shape=(2, 3)).tocsr()
    np.testing.assert_array_equal(rows(twice).todense(), [[0, 0, 2], [1, 0, 0]])


@pytest.mark.parametrize("form", ["csr_matrix", "csc_array", "coo_array", "lil_matrix"])
@pytest.mark.parametrize("dtype", [bool, np.int64, np.float64])
def test_other_formats_and_types_are_converted_as_arrays_are(form, dtype):
    got = rows(getattr(scipy.sparse, form)(X.astype(dtype)), SOME)
    assert got.dtype == jnp.float32
    np.testing.assert_array_equal(got.todense(), X.astype(dtype)[SOME].astype(np.float32))


@pytest.mark.slow
def test_what_fills_up_plays_no_part():
    full = len(CSR[SOME].data)
    assert full < len(PART.values)
    values = jnp.asarray(PART.values).at[full:].set(jnp.nan)
    close(with_values(values) @ W, DENSE @ W)
    close(jax.grad(curved, 1)(with_values(values), W), jax.grad(curved, 1)(DENSE, W))
    slopes = jax.grad(lambda v: curved(with_values(v), W))(PART.values)
    assert not np.any(slopes[full:])


@pytest.mark.parametrize("w", [W, W[:, 0], W[:, :0]], ids=["matrix", "vector", "empty"])
def test_products_are_those_of_arrays(w):
    close(PART @ w, DENSE @ w)
    close(jax.jit(lambda x, w: x @ w)(PART, w), DENSE @ w)


@pytest.mark.slow
def test_products_promote_as_arrays_do(x64):
    double = rows(CSR.astype(np.float64), SOME)
    assert double.dtype == jnp.float64
    np.testing.assert_allclose(double @ W.astype(np.float64), X[SOME].astype(float) @ W)
    halves = on_values(lambda v: jnp.asarray(v, jnp.bfloat16), PART)
    for x, w in [(double, W), (PART, W.astype(np.float64)), (halves, jnp.asarray(W, jnp.bfloat16))]:
        dense = x.todense() @ w
        assert (x @ w).dtype == dense.dtype
        np.testing.assert_allclose((x @ w).astype(float), dense.astype(float), rtol=0.02, atol=0.05)


DERIVATIVES = {
    "reverse": lambda f: jax.grad(f),
    "forward": lambda f: jax.jacfwd(f),
    "forward over reverse": lambda f: jax.hessian(f),
    "reverse over reverse": lambda f: jax.jacrev(jax.grad(f)),
    "reverse over forward": lambda f: jax.jacrev(jax.jacfwd(f)),
    "of each": lambda f: lambda w: jax.vmap(jax.grad(f))(jnp.stack([w, 2 * w, -w])),
    "in a loop": lambda f: lambda w: jax.lax.scan(lambda c, _: (c - 0.1 * jax.grad(f)(c), f(c)), w, None, 3),
}  # fmt: skip


QUICK = "reverse", "forward over reverse", "of each"
NAMES = [pytest.param(n, marks=() if n in QUICK else pytest.mark.slow) for n in DERIVATIVES]


@pytest.mark.parametrize("name", NAMES)
def test_derivatives_in_the_matrix_are_those_of_arrays(name):
    got, want = (jax.jit(DERIVATIVES[name](partial(curved, x)))(W) for x in (PART, DENSE))
    jax.tree.map(close, got, want)


@pytest.mark.slow
@pytest.mark.parametrize("name", DERIVATIVES)
def test_derivatives_in_the_values_are_those_of_arrays(name):
    assert CSR[SOME].nnz <= 64
    small = jax.tree.map(lambda a: a[:64] if a.shape == PART.values.shape else a, PART)
    values = jnp.asarray(small.values)

    def sparse_of(v):
        return curved(on_values(lambda _: v, small), W)

    def dense(v):
        return curved(on_values(lambda _: v, small).todense(), W)

    got, want = (jax.jit(DERIVATIVES[name](f))(values) for f in (sparse_of, dense))
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-4), got, want)


@pytest.mark.slow
def test_derivatives_in_matrix_and_values_together_are_those_of_arrays():
    several = jnp.stack([PART.values, 2 * PART.values])

    def mixed(of_values, w):
        def total(values, w):
            return jnp.sum(jax.vmap(lambda v: curved(of_values(v), w))(values))

        return jnp.sum(jax.grad(total)(several, w) ** 2)

    got, want = (jax.jit(jax.grad(partial(mixed, f)))(W) for f in (with_values, dense_of))
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-3)


def test_on_a_cpu_both_products_are_the_csr_kernel():
    if jax.default_backend() != "cpu":
        pytest.skip("of CPUs")
    text = jax.jit(jax.value_and_grad(curved, 1)).lower(PART, W).compile().as_text()
    assert text.count('custom_call_target="cpu_csr_sparse_dense_ffi"') == 2


@pytest.mark.slow
def test_loops_take_a_batch_of_rows_for_each_step():
    order = RNG.permutation(90)[:60].reshape(3, 20)

    ends = [
        training.scan(objective, ADAM, start(), {"x": x, "y": Y[order]})[0]
        for x in (rows(CSR, order), X[order])
    ]
    close(*(end.params["W"] for end in ends))


# Networks


def spen(**options):
    return SPEN(FeatureNetwork(4, (8,), **options), 3, sees_features=True, entropy=1.0)


def predictor_of(module, **options):
    features, energy = functions_of(module)
    return Predictor(energy, features, start=logits_of(module), steps=2, **options)


MODEL = spen()
PARAMS = MODEL.init(jax.random.key(0), X[:1], Y[:1])["params"]
PREDICTOR = predictor_of(MODEL)


@pytest.mark.slow
def test_parameters_are_those_of_dense_inputs():
    same = partial(jax.tree.map, np.testing.assert_array_equal)
    same(PARAMS, MODEL.init(jax.random.key(0), CSR[:1], Y[:1])["params"])
    linear = FeatureNetwork(4, ())
    one, other = (linear.init(jax.random.key(0), x[:1]) for x in (X, CSR))
    same(one, other)
    close(linear.apply(one, X), linear.apply(one, CSR))


@pytest.mark.slow
@pytest.mark.parametrize("normalise", [False, True])
def test_networks_are_those_of_dense_inputs(normalise):
    network = FeatureNetwork(4, (8, 3), normalise=normalise)
    params = network.init(jax.random.key(0), X[:1])
    close(network.apply(params, X), network.apply(params, rows(CSR)))


def test_input_dropout_drops_stored_values_as_it_drops_dense_ones():
    network = FeatureNetwork(30, (), input_dropout=0.3)
    params = {"params": {"output": {"kernel": jnp.eye(30), "bias": jnp.zeros(30)}}}
    wide = np.tile(X, (20, 1))
    draw = jax.jit(lambda x, key: network.apply(params, x, True, rngs={"dropout": key}))
    got = np.asarray(draw(rows(scipy.sparse.csr_array(wide)), jax.random.key(1)))
    on, kept = wide != 0, got != 0
    assert not np.any(kept & ~on)
    np.testing.assert_allclose(got[kept], wide[kept] / 0.7, rtol=1e-5)
    share, n = kept[on].mean(), on.sum()
    assert abs(share - 0.7) < 4 * np.sqrt(0.3 * 0.7 / n)
    assert np.abs(np.corrcoef(kept[on][:-1], kept[on][1:])[0, 1]) < 4 / np.sqrt(n)


@pytest.mark.slow
def test_dropped_values_are_dropped_from_the_gradient_too():
    keep = jax.random.bernoulli(jax.random.key(0), 0.5, PART.values.shape)
    dropped = on_values(lambda v: v * keep, PART)
    close(jax.grad(curved, 1)(dropped, W), jax.grad(curved, 1)(dropped.todense(), W))


# Training and prediction


def objective(params, batch, key):
    loss = jnp.mean((batch["x"] @ params["W"] - batch["y"]) ** 2)
    return loss, {"loss": loss}


@contextmanager
def steps_compiled(number):
    before = compiled_step._cache_size()
    yield
    assert compiled_step._cache_size() - before == number


def start():
    return training.init({"W": jnp.asarray(W[:, :4])}, ADAM, jax.random.key(1))


@pytest.mark.slow
def test_a_training_on_sparse_rows_is_that_on_dense_ones_and_compiles_one_step():
    def end(x):
        return fit(objective, ADAM, start(), {"x": x, "y": Y}, epochs=3, batch_size=32).last()

    state, metrics = end(X)
    with builds(2, least=1):  # a step, and the rows of y
        got, measured = end(CSR)
    with steps_compiled(0):
        fewer = {"x": CSR[:70], "y": Y[:70]}
        fit(objective, ADAM, start(), fewer, epochs=1, batch_size=32).last()
    with builds(0):
        end(CSR.tocoo())
        sparse_step, _ = training.step(objective, ADAM, start(), {"x": CSR, "y": Y}, np.arange(32))
    close(got.params["W"], state.params["W"])
    assert measured == pytest.approx(metrics, rel=1e-4)
    dense_step, _ = training.step(objective, ADAM, start(), {"x": X, "y": Y}, np.arange(32))
    close(sparse_step.params["W"], dense_step.params["W"])


@pytest.mark.slow
def test_a_spen_trained_on_sparse_rows_is_that_of_dense_ones():
    ends = [
        fit(
            of.end_to_end(PREDICTOR),
            ADAM,
            training.init(PARAMS, ADAM, jax.random.key(1)),
            {"x": x, "y": Y},
            epochs=3,
            batch_size=32,
        ).last()[0]
        for x in (X, CSR)
    ]
    jax.tree.map(close, *(end.params for end in ends))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["end to end", "feed forward", "max margin", "persistent"])
def test_a_training_on_a_sparse_y_is_that_on_an_array(kind):
    def end(y):
        data, objective = {"x": X, "y": y}, of.end_to_end(PREDICTOR)
        if kind == "feed forward":
            objective = of.feed_forward(lambda params, x: x @ params["W"])
        if kind == "max margin":
            objective = of.max_margin(PREDICTOR)
        if kind == "persistent":
            sampler = sampling.GibbsWithGradients()
            objective = of.contrastive_divergence(PREDICTOR, sampler=sampler, persistent=True)
            data = of.replay(Split(X, y), jax.random.key(3))
        params = start().params if kind == "feed forward" else PARAMS
        state = training.init(params, ADAM, jax.random.key(1))
        return fit(objective, ADAM, state, data, epochs=2, batch_size=32).last()

    (got, measured), (want, as_array) = end(scipy.sparse.csr_array(Y)), end(Y)
    jax.tree.map(close, got.params, want.params)
    assert measured == pytest.approx(as_array, rel=1e-4)


def test_a_sparse_y_is_checked_by_its_numbers():
    def said(y, objective):
        with pytest.raises(ValueError) as error:
            objective.check_data({"x": X, "y": scipy.sparse.csr_array(y)})
        return str(error.value)

    end_to_end, flips = of.end_to_end(PREDICTOR), of.pseudo_likelihood(PREDICTOR)
    end_to_end.check_data({"x": X, "y": scipy.sparse.csr_array(Y / 2)})
    assert "data.y does not lie in Box" in said(3 * Y, end_to_end)
    assert "at the corners" in said(Y / 2, flips)
    simplex = of.end_to_end(Predictor(lambda p, x, y: y @ y, shape=(4,), domain=Simplex()))
    assert "label sets in a Box" in said(Y, simplex)
    answers = of.maximum_likelihood(PREDICTOR, answers=np.eye(4))
    assert "none of the 4 answers" in said(Y, answers)


@pytest.mark.slow
def test_broken_rows_are_left_out_and_fields_written_back_as_of_dense_data():
    broken = np.zeros(90, np.float32)
    broken[[3, 50]] = 1

    def watched(params, batch, key):
        loss, _ = objective(params, batch, key)
        loss = jnp.where(jnp.sum(batch["broken"]) > 0, jnp.nan, loss)
        # Of rows that were seen before the loss is another one.
        loss = loss * (1 + jnp.mean(batch["seen"]))
        return loss, {"loss": loss, "seen": batch["seen"] + 1}

    ends = []
    for x in (X, CSR):
        data = {"x": x, "y": Y, "broken": broken, "seen": np.zeros(90, np.float32)}
        state, metrics = fit(watched, ADAM, start(), data, epochs=2, batch_size=32).last()
        assert metrics["left_out"] == 2
        ends.append((state.params["W"], metrics["loss"]))
    close(*(params for params, _ in ends))
    assert ends[0][1] == pytest.approx(ends[1][1], rel=1e-5)


@pytest.mark.slow
def test_a_recipe_takes_sparse_rows():
    recipe = training.Recipe(epochs=2, learning_rate=0.01, weight_decay=0.1, batch_size=32)
    loss = of.feed_forward(logits_of(MODEL.network))

    def end(x, n=90):
        data, key = {"x": x[:n], "y": Y[:n]}, jax.random.key(0)
        return training.train(loss, PARAMS["network"], data, recipe, key).last()

    jax.tree.map(close, *(end(x).params for x in (X, CSR)))
    with steps_compiled(0):  # nor for a schedule of other steps
        end(CSR, 64)


@pytest.mark.slow
def test_predictions_are_those_of_dense_rows_in_few_programs():
    want = PREDICTOR(PARAMS, X)
    few = predictor_of(MODEL, batch_size=32)
    got = few(PARAMS, CSR)
    close(got.y, want.y)
    close(got.energy, want.energy)
    close(few.energies(PARAMS, CSR, Y), PREDICTOR.energies(PARAMS, X, Y))
    before = len(BUILT)
    for n in range(1, 91):
        few(PARAMS, CSR[:n])
    assert len(BUILT) - before <= 3  # of 1 and 8 rows; those of 32 are compiled already
    assert few(PARAMS, CSR[:0]).y.shape == (0, 4)


@pytest.mark.slow
def test_predictions_within_a_program_are_those_outside():
    def total(params, x):
        return jnp.sum(PREDICTOR.energies(params, x, Y))

    got = jax.jit(jax.grad(total), static_argnums=())(PARAMS, rows(CSR))
    want = jax.grad(total)(PARAMS, X)
    jax.tree.map(close, got, want)
    close(jax.jit(lambda p: total(p, CSR))(PARAMS), total(PARAMS, X))
    close(PREDICTOR(PARAMS, rows(CSR)).y, PREDICTOR(PARAMS, X).y)


# What is refused


def refused(data, match):
    with pytest.raises(ValueError, match=match):
        fit(objective, ADAM, start(), data, epochs=1)


def test_bad_rows_are_refused_by_name():
    wrong = CSR.copy()
    wrong.data[3] = np.nan
    refused({"x": wrong, "y": Y}, r"data\['x'\] must be finite, but 1 of its values are not")
    refused({"x": CSR.astype(complex), "y": Y}, r"data\['x'\] must hold booleans or real numbers")
    refused(
        {"x": CSR, "y": Y, "mask": scipy.sparse.csr_array(Y)}, "x and y may be sparse: give mask"
    )
    refused({"x": CSR, "y": Y[:5]}, "share a leading axis")
    refused({"x": scipy.sparse.coo_array(np.ones(90)), "y": Y}, "of two axes")
    with pytest.raises(
        ValueError, match=r"multiply a matrix \(30, H\), or a vector, got \(29, 5\)"
    ):
        PART @ W[1:]
    with pytest.raises(ValueError, match="x must hold booleans or real numbers"):
        PREDICTOR(PARAMS, CSR.astype(complex))
    with pytest.raises(ValueError, match="x must be one of SciPy's sparse matrices"):
        rows(X)


@pytest.mark.slow
def test_a_sparse_truth_is_the_same_training():
    truth = scipy.sparse.csr_array(Y)
    judged = of.feed_forward(lambda params, x: x @ params["W"])

    def last(**data):
        return fit(judged, ADAM, start(), {"x": CSR, **data}, epochs=1).last()

    (got, metrics), (want, others) = last(y=truth), last(y=Y)
    assert metrics == others
    jax.tree.map(np.testing.assert_array_equal, got.params, want.params)
    with pytest.raises(ValueError, match=r"data.y does not lie in Box"):
        last(y=2 * truth)
    with pytest.raises(ValueError, match="a sparse y holds label sets in a Box that count in full"):
        last(y=truth, mask=Y > 0)


def test_nothing_is_made_dense_in_silence():
    for use in (np.asarray, jnp.asarray, jnp.sum):
        with pytest.raises(TypeError):
            use(PART)
    for features in (None, lambda params, x: x):
        predictor = Predictor(lambda params, x, y: y @ y, features, shape=(4,))
        with pytest.raises(ValueError, match="give the Predictor features"):
            predictor(PARAMS, CSR)
    own = Predictor(lambda params, s, y: -s @ y, lambda params, x: x @ params, shape=(5,))
    close(own(W, CSR).energy, own(W, X).energy)


def test_a_field_that_is_sparse_is_not_written_into():
    def writing(params, batch, key):
        return objective(params, batch, key)[0], {"x": jnp.zeros((32, 30))}

    with pytest.raises(ValueError, match="may not be sparse"):
        fit(writing, ADAM, start(), {"x": CSR, "y": Y}, epochs=1, batch_size=32).last()


def test_a_tree_is_asked_for_sparse_rows_in_any_form():
    assert all(map(sparse.has_rows, (CSR, {"x": PART}, [sparse.Matrix("x", CSR)])))
    assert not sparse.has_rows({"x": X})


def test_rows_are_chosen_as_numpy_chooses_them():
    dense = np.arange(6.0, dtype=np.float32).reshape(3, 2)
    x = scipy.sparse.csr_array(dense)
    for which in ([False, False, True], slice(1, None), [-1, 0], []):
        numbers = (
            which
            if isinstance(which, slice)
            else np.array(which, bool if which[:1] == [False] else int)
        )
        np.testing.assert_array_equal(sparse.rows(x, which).todense(), dense[numbers])
    for wrong in ([0.7, 1.2], [3]):
        with pytest.raises(IndexError):
            sparse.rows(x, wrong)
    with pytest.raises(ValueError, match="rows of each step need a step"):
        sparse.rows(x, np.zeros((0, 2), int))


@pytest.mark.slow
def test_no_rows_have_derivatives_too():
    x = sparse.rows(scipy.sparse.csr_array((0, 3), dtype=np.float32))
    W = jnp.ones((3, 2))
    assert not np.any(jax.hessian(lambda W: jnp.sum(jnp.sin(x @ W)))(W))
    halved = jax.grad(lambda s: jnp.sum(sparse.on_values(lambda v: s * v, x) @ W))(1.0)
    assert halved == 0

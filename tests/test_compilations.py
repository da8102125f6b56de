"""What compiles, counted: every program that XLA builds, the small ones of single operations too."""

from contextlib import contextmanager
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from spen_jax import (
    Box,
    FrankWolfe,
    GibbsWithGradients,
    GradientDescent,
    LineSearch,
    MirrorDescent,
    OnLogits,
    Optax,
    Predictor,
    Reals,
    exact,
    fit,
    losses,
    objectives,
    training,
)

ADAM = optax.adam(0.01)
X = np.random.default_rng(0).normal(size=(300, 3)).astype(np.float32)
PARAMS = {"W": np.random.default_rng(1).normal(size=(4, 3)).astype(np.float32)}
DATA = {"x": X, "y": (X @ PARAMS["W"].T > 0).astype(np.float32)}
BUILT = []


def listen(name, seconds, **_):
    if name == "/jax/core/compile/backend_compile_duration":
        BUILT.append(seconds)


@pytest.fixture(autouse=True, scope="module")
def listener():
    jax.monitoring.register_event_duration_secs_listener(listen)
    yield
    jax.monitoring.unregister_event_duration_listener(listen)


@contextmanager
def builds(most, least=0):
    before = len(BUILT)
    yield
    assert least <= len(BUILT) - before <= most


def energy(params, x, y):
    return -(params["W"] @ x) @ y + y @ y


def rows(predictor, n, **options):
    return np.asarray(predictor(PARAMS, X[:n], **options).y)


def test_any_number_of_rows_compiles_four_programs():
    predictor = Predictor(energy, shape=(4,), steps=3)
    with builds(4, least=4):
        each = {n: rows(predictor, n) for n in range(1, 301)}
    for n in (1, 7, 8, 9, 64, 65, 200, 300):
        np.testing.assert_allclose(each[n], each[300][:n], atol=1e-6)
    with builds(4, least=4):
        found = predictor(PARAMS, X)
        for n in range(1, 301):
            predictor.energies(PARAMS, X[:n], np.asarray(found.y)[:n])


@pytest.mark.parametrize(
    "make",
    [
        lambda: {"start": np.full((1, 4), 0.3, np.float32)},
        lambda: {"settings": {"step_size": 0.2}, "shape": (4,)},
        lambda: {"temperature": 0.1, "shape": (4,)},
    ],
    ids=["start", "settings", "temperature"],
)
def test_equal_predictors_compile_once_whatever_they_hold(make):
    with builds(1):
        rows(Predictor(energy, steps=2, **make()), 50)
    with builds(0):
        rows(Predictor(energy, steps=2, **make()), 60)


def test_masks_known_parts_and_keys_of_any_number_of_rows_compile_no_more():
    predictor = Predictor(energy, shape=(4,), steps=3)
    mask = np.tile([True, False, False, True], (300, 1))
    known = {"known": (mask, DATA["y"])}

    def some(n):
        rows(predictor, n, known=jax.tree.map(lambda a: a[:n], known["known"]), mask=mask[:n])

    with builds(1):
        some(30)
    with builds(0):
        some(31)
        some(60)
    key = jax.random.key(0)
    with builds(1):
        rows(predictor, 30, key=key)
    with builds(0):
        rows(predictor, 61, key=key)


SOLVERS = {
    "descent": lambda: GradientDescent(0.1, momentum=0.5),
    "mirror": lambda: MirrorDescent(0.2),
    "logits": lambda: OnLogits(GradientDescent(0.2)),
    "line search": lambda: LineSearch(),
    "frank-wolfe": lambda: FrankWolfe(),
    "optax": lambda: Optax(ADAM),
}


@pytest.mark.parametrize("name", SOLVERS)
def test_equal_solvers_compile_once(name):
    with builds(1, least=1):
        rows(Predictor(energy, shape=(4,), steps=2, solver=SOLVERS[name]()), 40)
    with builds(0):
        rows(Predictor(energy, shape=(4,), steps=2, solver=SOLVERS[name]()), 50)


def of(predictor):
    return {
        "end_to_end": partial(objectives.end_to_end, predictor, weights=[0.0, 0.5, 0.5]),
        "max_margin": partial(objectives.max_margin, predictor),
        "maximum_likelihood": partial(
            objectives.maximum_likelihood,
            predictor,
            answers=np.array(np.meshgrid(*[[0, 1]] * 4)).reshape(4, -1).T,
        ),
        "pseudo_likelihood": partial(objectives.pseudo_likelihood, predictor),
        "nce": partial(
            objectives.nce, predictor, noise=objectives.IndependentBernoulli(zeros), samples=2
        ),
        "ranking_nce": partial(
            objectives.ranking_nce, predictor, noise=objectives.IndependentBernoulli(zeros)
        ),
        "contrastive_divergence": partial(
            objectives.contrastive_divergence, predictor, sampler=GibbsWithGradients(), steps=2
        ),
        "deep_value": partial(objectives.deep_value, predictor),
        "denoising": partial(objectives.denoising_score_matching, predictor, sigma=0.1),
        "sliced": partial(objectives.sliced_score_matching, predictor),
    }


def zeros(context):
    return jnp.zeros((len(context), 4))


QUICK = "end_to_end", "max_margin", "nce"
NAMES = [pytest.param(n, marks=() if n in QUICK else pytest.mark.slow) for n in of(None)]


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_equal_objectives_are_one_and_compile_once(name):
    def make():
        return of(Predictor(energy, shape=(4,), steps=2, settings={"step_size": 0.3}))[name]()

    assert make() is make()
    state = training.init(PARAMS, ADAM, jax.random.key(0))
    first = fit(make(), ADAM, state, DATA, epochs=1, batch_size=100).last()
    with builds(0):
        second = fit(make(), ADAM, state, DATA, epochs=1, batch_size=100).last()
    np.testing.assert_array_equal(first[0].params["W"], second[0].params["W"])


def test_other_settings_make_other_objectives():
    a = Predictor(energy, shape=(4,), steps=2)
    made = [
        objectives.end_to_end(a),
        objectives.end_to_end(a, convergence=1.0),
        objectives.end_to_end(Predictor(energy, shape=(4,), steps=3)),
        objectives.end_to_end(Predictor(energy, shape=(4,), steps=2, domain=Reals())),
        objectives.end_to_end(Predictor(energy, shape=(4,), steps=2, domain=Box(0, 2))),
        objectives.end_to_end(a, loss=lambda y, t: jnp.sum(y - t)),
        objectives.end_to_end(a, loss=lambda y, t: jnp.sum(y - t)),
    ]
    assert len({id(objective) for objective in made}) == len(made)


def test_thirty_epochs_compile_in_the_first():
    objective = objectives.max_margin(Predictor(energy, shape=(4,), steps=2))
    state = training.init(PARAMS, ADAM, jax.random.key(0))
    epochs = fit(objective, ADAM, state, DATA, epochs=30, batch_size=64)
    next(epochs)
    with builds(0):
        epochs.last()


def test_weakly_typed_parameters_compile_a_step_once():
    objective = objectives.end_to_end(Predictor(energy, shape=(4,), steps=2))
    params = PARAMS | {"log_weight": jnp.full(4, -3.0), "one": 1.0}
    state = training.init(params, ADAM, jax.random.key(0))
    leaves = jax.tree.leaves((state.params, state.opt_state))
    assert not any(getattr(a, "weak_type", False) for a in leaves)
    with builds(1):
        for _ in range(3):
            state, _ = training.step(objective, ADAM, state, DATA, np.arange(100))


def test_reductions_of_large_matrices_compile_once():
    energies, truth = jnp.ones((4096, 128)), np.zeros(4096, int)
    for reduce in (
        lambda: exact.softmin(energies, 2.0),
        lambda: exact.rank(energies, truth),
        lambda: losses.most_offending(energies, truth),
    ):
        reduce()
        with builds(0):
            reduce()

"""Losses and exact quantities of energies of every type and shape: right and of that type, or refused by name."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spen_jax import exact, losses

pytestmark = pytest.mark.long

ENERGIES = np.array([[1.0, 2.0, 0.5], [3.0, -1.0, 2.0]])
WEIGHTS, WRONG = np.array([1.0, 0.0, 2.0]), np.array([[True, False, True], [False, True, True]])
TRUTH = np.array([1, 0])
PAIRS = [
    losses.hinge,
    losses.log_loss,
    losses.mce,
    losses.square_square,
    losses.square_exponential,
    losses.simple_pair,
    losses.violation,
]
SETS = [
    losses.perceptron,
    losses.nll,
    losses.minimum_empirical_error,
    losses.nll_by_samples,
    losses.info_nce,
    losses.additive_margin,
]
# name -> (function of energies (2, 3), what the docstring calls them)
FLOATS = {
    "softmin": (lambda e: exact.softmin(e, 2.0), "energies"),
    "softmin, weights": (lambda e: exact.softmin(e, weights=WEIGHTS, average=True), "energies"),
    "softmin, cold": (lambda e: exact.softmin(e, np.inf), "energies"),
    "softmin, hot": (lambda e: exact.softmin(e, 0.0, average=True, axis=0), "energies"),
    "softargmin": (exact.softargmin, "energies"),
    "softmax": (exact.softmax, "values"),
    "softargmax": (exact.softargmax, "values"),
    "log probabilities": (exact.log_probabilities, "energies"),
    "energy of": (lambda e: exact.energy_of(e, 2.0, 1.0), "log_probability"),
    "energy loss": (losses.energy_loss, "correct"),
    "contrastive": (lambda e: losses.contrastive(jnp.asarray(e)[:, :2], e), "wrong"),
    "log-summed": (losses.log_summed, "values"),
    "summed": (losses.summed, "values"),
    "vicreg": (lambda e: losses.vicreg(e, jnp.asarray(e)[::-1]), "a"),
    "offender": (lambda e: losses.most_offending(e, TRUTH).energy, "energies"),
    "hardest": (lambda e: losses.hardest(e, WRONG).energy, "energies"),
    "semi-hard": (lambda e: losses.semi_hard(e, np.float16([1, 2]), WRONG).energy, "energies"),
    "at random": (lambda e: losses.random(KEY, e, WRONG).index, "energies"),
}
CHOICES = {
    "order": (exact.order, "energies"),
    "rank": (lambda e: exact.rank(e, TRUTH), "energies"),
    "local minima": (exact.local_minima, "energies"),
    "different": (lambda e: losses.different(jnp.asarray(e)[:, 0]), "labels"),
    "outside a ball": (lambda e: losses.outside_ball(e, jnp.asarray(e)[0], 1.5), "candidates"),
}
KEY = jax.random.key(0)


@jax.jit
def answers(e):
    found = {f.__name__: f(e[:, 0], e[:, 1]) for f in PAIRS} | {
        f.__name__: f(e[:, 0], e) for f in SETS
    }
    return found | {k: f(e) for k, (f, _) in FLOATS.items()}, {
        k: f(e) for k, (f, _) in CHOICES.items()
    }


TYPES = [
    (np.float64, False),
    (np.float32, True),
    (np.float16, False),
    (jnp.bfloat16, False),
    (int, False),
]


@pytest.mark.parametrize("dtype, x64", TYPES)
def test_energies_of_every_type_give_what_float64_gives_in_that_type(dtype, x64):
    energies = ENERGIES.astype(dtype)
    with jax.enable_x64(True):
        want, chosen = answers(np.float64(energies))
    with jax.enable_x64(x64):
        got, choices = answers(energies)
        result = jnp.result_type(energies, 0.0)
    eps = float(jnp.finfo(result).eps)
    jax.tree.map(np.testing.assert_array_equal, choices, chosen)
    for name, found in got.items():
        assert found.dtype == (np.int32 if name == "at random" else result), name
        if name != "at random":
            near = {"rtol": 8 * eps, "atol": 8 * eps, "err_msg": name}
            np.testing.assert_allclose(np.float64(found), want[name], **near)


def test_large_sets_of_halves_are_summed_in_float32():
    for dtype in np.float16, jnp.bfloat16:
        many = jnp.zeros(100_000, dtype)
        np.testing.assert_allclose(float(exact.softmin(many)), -np.log(1e5), rtol=8e-3)
        np.testing.assert_allclose(float(losses.nll(0.0, many)), np.log(1e5), rtol=8e-3)


def test_whole_numbers_do_not_wrap_around_and_numbers_do_not_widen_halves():
    for dtype in np.uint8, np.int8, bool:
        low, high = np.array([0, 1]).astype(dtype)
        assert losses.violation(low, high, 0) == -1 and losses.hinge(high, low, np.int8(1)) == 2
        assert losses.different(np.array([low, high])).tolist() == [[False, True], [True, False]]
    half = jnp.ones(2, jnp.bfloat16)
    for loss in PAIRS:
        options = {"margin": np.float64(0.5)} if loss in PAIRS[:1] else {}
        assert jax.eval_shape(lambda e, f=loss, o=options: f(e, e, **o), half).dtype == half.dtype


def test_sets_of_no_answers_have_no_free_energy_and_batches_of_nothing_stay_empty():
    none = np.zeros((2, 0))
    assert (
        exact.softmin(none).tolist() == exact.softmin(none, average=True).tolist() == [np.inf] * 2
    )
    for f in exact.softargmin, exact.order, exact.local_minima, exact.log_probabilities:
        assert jax.eval_shape(f, none).shape == (2, 0)
    empty = np.zeros((0, 3))
    for f in exact.softmin, exact.local_minima:
        assert jax.eval_shape(f, empty).shape[0] == 0
    for f in PAIRS + SETS:
        wrong = empty[:, 0] if f in PAIRS else empty
        assert jax.eval_shape(f, empty[:, 0], wrong).shape == (0,)
    assert losses.log_summed(np.zeros((2, 3, 0))).tolist() == [0, 0]
    assert losses.contrastive(np.zeros((2, 1)), none).tolist() == [0, 0]
    with pytest.raises(ValueError, match=r"energies must be \(..., K\), of a candidate at least"):
        losses.hardest(none, none > 0)


UNREAL = [
    ENERGIES.astype(str),
    ENERGIES + 0j,
    ENERGIES.astype(object),
    ENERGIES.astype("M8[s]"),
    np.ma.array(ENERGIES, mask=ENERGIES > 2),
]


@pytest.mark.parametrize("name", [*FLOATS, *CHOICES])
def test_what_is_no_real_number_is_refused_by_the_name_of_the_argument(name):
    f, argument = (FLOATS | CHOICES)[name]
    if name in ("different",):
        f = losses.different
    for array in UNREAL:
        if name in ("contrastive", "vicreg"):
            f = {
                "contrastive": lambda a: losses.contrastive(ENERGIES, a),
                "vicreg": lambda a: losses.vicreg(a, ENERGIES),
            }[name]
        if name == "outside a ball":
            f = lambda a: losses.outside_ball(a, ENERGIES[0], 1.5)  # noqa: E731
        with pytest.raises(ValueError, match=f"^{argument} must "):
            f(array)


@pytest.mark.parametrize("loss", [*PAIRS, *SETS], ids=lambda f: f.__name__)
def test_losses_refuse_what_is_no_real_number_and_shapes_that_would_make_a_matrix(loss):
    one, many = ENERGIES[:, 0], ENERGIES[:, 1] if loss in PAIRS else ENERGIES
    second = {"nll_by_samples": "sampled", "info_nce": "wrong", "additive_margin": "wrong"}.get(
        loss.__name__, "wrong" if loss in PAIRS else "everything|energies"
    )
    for array in UNREAL:
        with pytest.raises(ValueError, match="^correct must "):
            loss(array[:, 0], many)
        with pytest.raises(ValueError, match=f"^({second}) must "):
            loss(one, array)
    with pytest.raises(ValueError, match="must have the (axes|same leading axes)"):
        loss(one[:, None], many)
    assert loss(one[:, None], np.repeat(many[:, None], 2, 1)).shape == (2, 2)


def latent(params, x, y, z):
    return x * y * z


XS, NODES = np.ones(2), exact.Nodes(np.ones(3))
ERRORS = [
    (lambda: exact.free_energy(latent, None, XS, ["a"], NODES), r"y\[0\] must hold .* <U1"),
    (lambda: exact.free_energy(latent, None, XS, XS[:1], NODES), "x and y must share .* lengths"),
    (lambda: exact.free_energy(latent, None, XS, 1.0, NODES), "y must have a leading axis"),
    (lambda: exact.posterior(latent, None, XS, XS, exact.Nodes("a")), "z must hold"),
    (lambda: exact.pairwise(latent, None, np.ma.ones(2), XS), "x must be an array of numbers"),
    (lambda: exact.tensor_rule(), "rules must be of one coordinate each"),
    (lambda: exact.tensor_rule(exact.Nodes(ENERGIES)), "rules must be of one coordinate each"),
    (lambda: exact.periodic(0), "count must be a whole number, 1 or more"),
    (lambda: exact.gauss_legendre(2.5, 0, 1), "count must be a whole number, 1 or more"),
    (lambda: exact.softmin(ENERGIES, "1"), "beta must hold"),
    (lambda: exact.softmin(ENERGIES, np.float32(-1)), "beta, .* at least 0"),
    (lambda: exact.softmin(ENERGIES, jnp.asarray(-1.0)), "beta, .* at least 0"),
    (lambda: exact.softmin(ENERGIES, 1j), "beta must hold"),
    (lambda: exact.softmin(ENERGIES, weights=-WEIGHTS), "weights must be at least 0, got -1"),
    (lambda: exact.softmin(ENERGIES, weights=WEIGHTS[:2]), r"weights must be of shape \(3,\)"),
    (lambda: exact.softmin(ENERGIES, weights=["a"]), "weights must hold"),
    (lambda: exact.softmin(1.0), "energies must have an axis of answers"),
    (lambda: exact.order(ENERGIES, 2), "energies must have an axis of answers, axis=2"),
    (lambda: exact.rank(ENERGIES, [0, 3]), "truth must be indices from 0 to 2, got 0 to 3"),
    (lambda: exact.rank(ENERGIES, [0, -1]), "truth must be indices from 0 to 2, got -1 to 0"),
    (lambda: exact.rank(ENERGIES, [0.0, 1.0]), "truth must be indices, whole numbers"),
    (lambda: exact.rank(ENERGIES, [0]), r"truth must be an index for each row"),
    (lambda: losses.most_offending(ENERGIES, np.array([0, 7])), "truth must be indices from 0"),
    (lambda: losses.all_but(3, 3), "truth must be indices from 0 to 2, got 3 to 3"),
    (lambda: losses.all_but([True], 3), "truth must be indices, whole numbers"),
    (lambda: losses.hardest(ENERGIES, TRUTH), "allowed must be booleans"),
    (lambda: losses.hardest(ENERGIES, WRONG[:, :2]), "allowed must be booleans"),
    (lambda: losses.semi_hard(ENERGIES, 1.0, WRONG), r"correct must have shape \(2,\)"),
    (lambda: losses.different(ENERGIES), "labels and others must be one label"),
    (lambda: losses.outside_ball(ENERGIES[0], ENERGIES[0], 1), "candidates and truth must have"),
    (lambda: losses.hinge(1.0, 2.0, "3"), "margin must hold"),
    (lambda: losses.log_loss(1.0, 2.0, beta=1j), "beta must hold"),
    (lambda: losses.hinge(TRUTH, TRUTH, np.ones(3)), "margin must have the axes"),
    (lambda: losses.info_nce(TRUTH, ENERGIES, where=np.ones(2)), "where must broadcast"),
    (lambda: losses.info_nce(TRUTH, ENERGIES, where="a"), "where must hold"),
    (lambda: losses.vicreg(ENERGIES, TRUTH), r"a and b must have one shape \(B, D\)"),
    (lambda: losses.log_summed(TRUTH), "values must have 2 axes or more"),
]  # fmt: skip


@pytest.mark.parametrize("call, message", ERRORS)
def test_what_does_not_fit_is_told_by_name(call, message):
    with pytest.raises(ValueError, match=message):
        call()

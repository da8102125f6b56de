import jax
import numpy as np
import pytest
from problems import assert_trees_close

from spen_jax.domains import Box, L2Ball, Product, Reals, Simplex

BOX, SIMPLEX, BALL = Box(-1, 3), Simplex(), L2Ball(0.7)
PAIR = Product({"a": BOX, "b": (SIMPLEX, BALL)})
SMOOTH = Product((BOX, SIMPLEX))
SHAPES = {"a": (2,), "b": ((2, 3), (4,))}


def tree(a, b, c):
    return {"a": a, "b": (b, c)}


def test_a_product_asks_the_domain_of_each_leaf(x64):
    y = tree(*(np.random.default_rng(0).normal(size=s) for s in ((2,), (2, 3), (4,))))
    PAIR.check(y)
    methods = {"project": y, "round": y, "corner": y, "link": y, "initial": SHAPES}

    @jax.jit
    def both(y):
        got, want = {}, {}
        for method, given in methods.items():
            a, (b, c) = (given["a"], given["b"]) if method == "initial" else (y["a"], y["b"])
            got[method] = getattr(PAIR, method)(tree(a, b, c))
            want[method] = tree(
                *(getattr(d, method)(v) for d, v in ((BOX, a), (SIMPLEX, b), (BALL, c)))
            )
        return got, want

    assert_trees_close(*both(y), atol=1e-12)
    assert PAIR.parts(y) == tree((2,), (2,), ())
    folded = Product([Box(), Reals()]).reflect([np.array([1.25]), np.array([7.0])])
    assert_trees_close(folded, [np.array([0.75]), np.array([7.0])])


def test_its_random_points_are_inside_and_differ_between_leaves():
    product = Product({"a": Box(), "b": (Box(), Reals())})
    drawn = jax.jit(lambda key: product.random(key, tree((50,), (50,), (50,))))(jax.random.key(0))
    a, b, c = jax.tree.map(np.asarray, jax.tree.leaves(drawn))
    assert 0 <= a.min() < a.max() <= 1 and 0 <= b.min() < b.max() <= 1 < np.abs(c).max()
    assert np.abs(a - b).min() > 0


def test_its_entropy_and_losses_are_sums_over_the_leaves_and_its_logits_a_tree(x64):
    rng = np.random.default_rng(1)
    scores = rng.normal(size=2), rng.normal(size=(2, 3))
    truth = np.array([-1.0, 3]), np.eye(3)[[2, 0]]
    masks = np.array([True, False]), np.array([False, True])

    @jax.jit
    def both(scores):
        y = SMOOTH.from_logits(scores)
        leaves = list(zip((BOX, SIMPLEX), y, truth, scores, masks, strict=True))
        got = {
            "entropy": SMOOTH.entropy(y),
            "loss": SMOOTH.loss(y, truth),
            "masked": SMOOTH.loss(y, truth, masks),
            "of scores": SMOOTH.loss_of_scores(scores, truth),
            "of scores, masked": SMOOTH.loss_of_scores(scores, truth, masks),
            "back": SMOOTH.from_logits(SMOOTH.to_logits(y)),
        }
        want = {
            "entropy": sum(d.entropy(y) for d, y, *_ in leaves),
            "loss": sum(d.loss(y, t) for d, y, t, *_ in leaves),
            "masked": sum(d.loss(y, t, m) for d, y, t, _, m in leaves),
            "of scores": sum(d.loss_of_scores(s, t) for d, _, t, s, _ in leaves),
            "of scores, masked": sum(d.loss_of_scores(s, t, m) for d, _, t, s, m in leaves),
            "back": y,
        }
        return got, want

    got, want = both(scores)
    assert_trees_close(got, want, atol=1e-12)
    np.testing.assert_allclose(got["of scores"], got["loss"])
    assert 0.1 < got["masked"] < got["loss"] - 0.1


def test_a_product_has_logits_where_all_its_leaves_have():
    assert SMOOTH.has_logits and Product({"a": SMOOTH}).has_logits
    assert not PAIR.has_logits and not Product([BOX, Box(0, np.inf)]).has_logits


def test_equal_products_are_equal_settings_and_may_be_nested():
    again = Product({"a": Box(-1, 3), "b": (Simplex(), L2Ball(0.7))})
    assert again == PAIR and hash(again) == hash(PAIR)
    assert "Simplex()" in repr(PAIR)
    nested = Product({"a": Product({"b": Box()})})
    nested.check({"a": {"b": np.ones(2)}})
    assert nested.parts({"a": {"b": np.ones(2)}}) == {"a": {"b": (2,)}}


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: PAIR.check({"a": np.ones(2)}), "needs y to be the tree"),
        (lambda: PAIR.check(tree(np.ones(2), np.ones(()), np.ones(2))), "got a scalar"),
        (lambda: Product({"a": Box}), "tree of domains, got the leaf <class"),
        (lambda: PAIR.to_logits(tree(np.ones(2), np.ones(2), np.ones(2))), "has no logits"),
    ],
)
def test_what_a_product_cannot_do_it_says(call, message):
    with pytest.raises(ValueError, match=message):
        call()

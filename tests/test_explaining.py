import itertools
import re
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
import pytest
from scipy.sparse import csr_array
from sklearn.exceptions import NotFittedError

import spen_jax as sx
from spen_jax.estimators import SPENClassifier, plots
from spen_jax.estimators.explaining import explanation_of, known_of, row_of
from spen_jax.estimators.interactions import Interactions, interactions_of, means_of
from spen_jax.estimators.learning import answers
from spen_jax.estimators.model import Shape, features, of_labels, sizes, unravel_of

matplotlib.use("Agg")
NAMES = np.array(["java", "jax", "numpy", "python"])
SHAPE = Shape("labels", 5, 6, 4, 3, pairs=True)
RNG = np.random.default_rng(0)
X = RNG.standard_normal((7, 5)).astype(np.float32)


def flats_of(shape, members=2, seed=1):
    rng = np.random.default_rng(seed)
    parts = [
        [np.zeros(2) if name == "rates" else rng.standard_normal(np.prod(size))]
        for _ in range(members)
        for name, size in sizes(shape).items()
    ]
    return np.concatenate([p[0] for p in parts]).reshape(members, -1).astype(np.float32)


FLATS = flats_of(SHAPE)


def energy_of(flat, x, y):
    """E of the row x (1, D) without the entropy."""
    params = unravel_of(SHAPE)(jnp.asarray(flat))
    context = jax.tree.map(lambda a: a[0], features(params, jnp.asarray(x)))
    y = jnp.asarray(y, jnp.float32)
    return of_labels(params, context, y) + sx.domains.binary_entropy(y)


def explained(x=X[:1], flats=FLATS, shape=SHAPE, **more):
    return explanation_of(shape, flats, x, NAMES, **more)


def test_inference_in_numpy_is_the_classifiers():
    known = np.array([True, False, False, False]), np.array([1.0, 0, 0, 0])
    for x in (X[2:3], 40 * X[2:3]):  # the second saturates
        got, held = explained(x), explained(x, known=known)
        np.testing.assert_allclose(got.after, answers(SHAPE, FLATS, x)[0], atol=2e-6)
        both = tuple(a[None] for a in known)
        np.testing.assert_allclose(held.after, answers(SHAPE, FLATS, x, both)[0], atol=2e-6)
        for e in (got, held):
            assert e.path.shape == (4, 4) and np.array_equal(e.path[-1], e.after)
            alone = answers(SHAPE._replace(steps=0), FLATS, x)[0]
            np.testing.assert_allclose(e.before, alone, atol=2e-6)
        assert np.all(held.path[:, 0] == 1) and held.known.tolist() == [True, False, False, False]


def test_a_row_of_csr_is_as_a_dense_one():
    for a, b in zip(explained()[1:], explained(csr_array(X[:1]))[1:], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5)


def test_pulls_are_derivatives_of_the_energy_with_and_without_a_label():
    e = explained(flats=FLATS[:1], top=None)
    gradient = jax.jit(jax.grad(lambda y: -energy_of(FLATS[0], X[:1], y)))
    y = jnp.asarray(e.after)
    back = np.argsort(e.of)
    for j in range(4):
        want = np.array(gradient(y) - gradient(y.at[j].set(0)))
        want[j] = 0
        np.testing.assert_allclose(e.pulls[np.ix_(back, back)][:, j], want, atol=1e-4)
    s = features(unravel_of(SHAPE)(FLATS[0]), X[:1])["logits"][0]
    np.testing.assert_allclose(e.offset, gradient(jnp.full(4, 1e-6)) - s, atol=1e-4)


def test_of_pairs_alone_a_pull_is_a_difference_of_energies_of_whole_labels():
    """Without global units E is quadratic: E(1, 1) - E(1, 0) - E(0, 1) + E(0, 0) = -A_ij."""
    flat = FLATS[0].copy()
    params = unravel_of(SHAPE)(flat)
    params["k"][:] = 0  # views of flat
    corners = list(itertools.product((0, 1), repeat=4))
    found = jax.jit(jax.vmap(lambda y: energy_of(flat, X[:1], y)))(np.float32(corners))
    energies = dict(zip(corners, np.asarray(found, float), strict=True))
    ones = np.ones(4)
    got = explained(flats=flat[None], known=(ones > 0, ones), top=None)
    values = interactions_of(SHAPE, flat[None], ones / 2, np.zeros((1, 3)), NAMES).values
    for i, j in itertools.permutations(range(4), 2):
        for rest in itertools.product((0, 1), repeat=2):

            def at(a, b, i=i, j=j, rest=rest):
                y = np.zeros(4, int)
                y[[i, j]] = a, b
                y[np.setdiff1d(range(4), [i, j])] = rest
                return energies[tuple(y.tolist())]

            both = at(1, 1) - at(1, 0) - at(0, 1) + at(0, 0)
            np.testing.assert_allclose(values[i, j], both, atol=1e-5)
            place = [int(np.flatnonzero(got.of == n)[0]) for n in (i, j)]
            np.testing.assert_allclose(got.pulls[*place], -both, atol=1e-5)


def test_interactions_are_second_derivatives_at_the_means():
    y = RNG.random((7, 4)).astype(np.float32).round()
    mean_y, mean_shift = means_of(SHAPE, FLATS, X, y)
    np.testing.assert_allclose(mean_y, y.mean(axis=0))
    got = interactions_of(SHAPE, FLATS, mean_y, mean_shift, NAMES)
    want = []
    for flat in FLATS:
        params = unravel_of(SHAPE)(flat)
        context = features(params, X)
        context = jax.tree.map(lambda a: a.mean(axis=0, keepdims=True), context)
        want.append(
            sx.interactions(of_labels, params, context, jnp.asarray(mean_y[None], jnp.float32))
        )
    want = np.mean(want, axis=0)
    np.fill_diagonal(want, 0)
    np.testing.assert_allclose(got.values, want, atol=1e-5)
    np.testing.assert_allclose(np.asarray(got), np.asarray(got).T)
    each = [got.members[k] for k in (0, 1)]
    pairs = np.triu_indices(4, 1)
    alone = [Interactions(NAMES, [member]).values[pairs] for member in each]
    np.testing.assert_allclose(got.agreement, np.corrcoef(*alone)[0, 1])
    assert np.isnan(Interactions(NAMES, each[:1]).agreement)


def test_means_are_of_what_is_known_and_of_rows_spread_over_all():
    x = np.repeat(X, 300, axis=0)
    y = np.tile(np.float32([[0, 1, 1, 0], [1, 1, 0, 0]]), (1050, 1))
    mask = np.ones(y.shape, bool)
    mask[::2, 0] = mask[:, 3] = False
    mean_y, few = means_of(SHAPE, FLATS, x, y, mask)
    np.testing.assert_allclose(mean_y, [1, 1, 0.5, 0])
    np.testing.assert_allclose(few, means_of(SHAPE, FLATS, X, y[:7])[1], rtol=0.02, atol=0.02)
    no_units = Shape("labels", 5, 6, 4, 0)
    found = means_of(no_units, flats_of(no_units), X, y[:7])
    assert found[1].shape == (2, 0)
    assert not interactions_of(no_units, flats_of(no_units), *found, NAMES).values.any()


def interactions():
    return interactions_of(SHAPE, FLATS, np.full(4, 0.5), np.zeros((2, 3)), NAMES)


def test_interactions_name_the_strongest_pairs_and_become_a_frame():
    got = interactions()
    both, apart = got.strongest(3, "attract"), got.strongest(9, "repel")
    assert all(value < 0 for *_, value in both) and all(value > 0 for *_, value in apart)
    a, b, value = got.strongest(1)[0]
    assert abs(value) == np.abs(got.values).max() and got.to_frame().loc[a, b] == value
    assert f"{a} and {b} ({value:+.2g})" in str(got)
    assert repr(got) == "Interactions of 4 labels"
    with pytest.raises(ValueError, match="attract"):
        got.strongest(1, "love")


def test_the_text_says_who_pulls_whom():
    e = explained()._replace(
        before=np.array([0.001, 0.31, 0.9, 1.0]),
        after=np.array([0.002, 0.78, 1.0, 1.0]),
        of=np.array([3, 2, 1, 0]),
        pulls=np.array([[0, 0.02, 0, 0], [0, 0, -0.04, 0], [1.2, 0.8, 0, -0.34], [0, 0, 0, 0]]),
        known=np.array([False, False, True, False]),
    )
    assert str(e).splitlines() == [
        "python: 1.00 alone, 1.00 after",
        "numpy: .90 alone, known to be on",
        "jax: .31 alone, .78 after; in by python (+1.2), by numpy (+.8); out by java (-.3)",
    ]


def test_top_labels_alone_are_looked_at():
    e, whole = explained(top=2), explained(top=None)
    assert e.of.tolist() == whole.of[:2].tolist()
    np.testing.assert_allclose(e.pulls, whole.pulls[:2, :2])
    with pytest.raises(ValueError, match="at least 1"):
        explained(top=0)


def test_what_is_known_of_one_row():
    for known in (["jax"], {"jax"}, [["jax"]], [np.nan, 1, np.nan, np.nan]):
        mask, y = known_of(known, NAMES)
        assert mask.tolist() == [False, True, False, False] and y[1] == 1
    assert known_of([0, 1, 0, 0], NAMES)[0].all() and known_of(None, NAMES) is None
    with pytest.raises(ValueError, match="one row"):
        known_of([["jax"], []], NAMES)
    with pytest.raises(ValueError, match="pascal"):
        known_of(["pascal"], NAMES)


def test_one_row_comes_in_many_ways():
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame(X[:2])
    for x in (
        X[0],
        X[:1],
        X[0].tolist(),
        csr_array(X[:1]),
        csr_array(X)[0],
        frame.iloc[0],
        frame[:1],
    ):
        assert row_of(x).shape == (1, 5)
    with pytest.raises(ValueError, match="one row is explained at a time, got 2"):
        row_of(X[:2])


@pytest.fixture(scope="module")
def model():
    """Labels of which exactly one of a and b is on, and c is chance."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((60, 3))
    y = [["a" if row[0] > 0 else "b", *(["c"] if row[1] > 0 else [])] for row in x]
    return SPENClassifier(hidden_units=8, epochs=2, members=2, random_state=0).fit(x, y)


@pytest.mark.slow
def test_the_classifier_explains(model):
    x = np.array([0.5, -1, 0])
    e = model.explain(x)
    assert e.labels.tolist() == ["a", "b", "c"] and e.pulls.shape == (3, 3)
    np.testing.assert_allclose(e.after, model._relaxed(x[None])[0], atol=2e-6)
    held = model.explain(x, known=["b"], top=1)
    assert held.after[1] == 1 and held.pulls.shape == (1, 1)
    assert np.asarray(model.interactions_).shape == (3, 3)
    for wrong, message in ((np.zeros((2, 3)), "one row"), (np.zeros(4), "features")):
        with pytest.raises(ValueError, match=message):
            model.explain(wrong)


def test_classes_and_what_is_not_fitted_say_so():
    with pytest.raises(NotFittedError):
        SPENClassifier().explain(X[0])
    assert not hasattr(SPENClassifier(), "interactions_")
    y = np.arange(30) % 3
    classes = SPENClassifier(hidden_units=4, epochs=1, members=1).fit(np.eye(3)[y], y)
    assert not hasattr(classes, "interactions_")  # a notebook asks for all attributes
    for ask in (lambda: classes.explain(np.zeros(3)), lambda: classes.interactions_):
        with pytest.raises(ValueError, match="one column of classes has nothing to relate"):
            ask()


# Pictures


def test_interactions_are_drawn_where_they_are_told_to():
    import matplotlib.pyplot as plt

    ax = plots.plot_interactions(interactions(), ["python", "jax"])
    assert [t.get_text() for t in ax.get_xticklabels()] == ["python", "jax"]
    image = ax.images[0]
    low, high = image.get_clim()
    assert low == -high and image.get_array().mask.trace() == 2
    assert "attract" in ax.figure.axes[1].get_ylabel()
    _, own = plt.subplots()
    assert plots.plot_interactions(interactions(), top=3, ax=own) is own
    assert len(own.get_xticklabels()) == 3
    for labels, message in ((["pascal", "jax"], "no label"), (["jax"], "two")):
        with pytest.raises(ValueError, match=message):
            plots.plot_interactions(interactions(), labels)
    plt.close("all")


@pytest.mark.slow
def test_an_estimator_is_drawn(model):
    import matplotlib.pyplot as plt

    assert len(plots.plot_interactions(model).get_yticklabels()) == 3
    plt.close("all")


def test_the_names_of_a_picture_of_inference_do_not_overlap():
    import matplotlib.pyplot as plt

    none = np.full(12, 0.01)
    many = explained()._replace(
        labels=np.array([f"label {i}" for i in range(12)]),
        before=none,
        after=none,
        path=np.tile(none, (4, 1)),
        known=np.arange(12) == 3,
    )
    ax = plots.plot_inference(many, top=12, truth=["label 2"])
    ax.figure.canvas.draw()
    boxes = sorted((t.get_window_extent() for t in ax.texts), key=lambda box: box.y0)
    assert len(boxes) == 12
    # Of boxes with room above and below their letters.
    assert all(b.y0 - a.y0 > 0.85 * a.height for a, b in itertools.pairwise(boxes))
    texts = {t.get_text(): t.get_weight() for t in ax.texts}
    assert texts["label 2 0.01 ✓"] == "bold" and texts["label 3 0.01 (known)"] == "normal"
    ticks = [t.get_text() for t in ax.get_xticklabels()]
    assert ticks == ["network\nalone", "known\nheld", "step 1", "step 2", "step 3"]
    ticks = plots.plot_inference(explained(), truth=[0, 1, 0, 0]).get_xticklabels()
    assert [t.get_text() for t in ticks] == ["network\nalone", "step 1", "step 2", "step 3"]
    plt.close("all")


def test_without_matplotlib_pictures_say_what_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    with pytest.raises(ImportError, match="pip install matplotlib"):
        plots.plot_inference(explained())


@pytest.mark.long
@pytest.mark.slow
def test_the_page_on_explaining_prints_what_it_says(capsys):
    page = (Path(__file__).parents[1] / "docs/do/explaining.md").read_text()
    exec("\n".join(re.findall(r"```python\n(.*?)```", page, re.DOTALL)), {})
    said = re.search(r"```\n(?:[^`]*?)\n((?:    .*\n)+)", page.split("```python")[1])[1]
    found = capsys.readouterr().out.splitlines()

    def signs(lines):
        """Which pairs attract and which repel, whatever their order."""
        return [set(re.findall(r"(\w+) and (\w+) ", line)) for line in lines[1:3]]

    assert signs(found) == signs([line.strip() for line in said.splitlines()])
    assert float(found[0].split()[-1]) > 0.6
    assert len(found) == len(said.splitlines())

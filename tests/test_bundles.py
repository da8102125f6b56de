"""Bundles: what leaves the house answers as it did there, or says why not."""

import datetime
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import jax
import numpy as np
import pytest

import spen_jax as sx
from spen_jax import bundles, serving
from spen_jax.estimators import SPENClassifier, SPENRegressor
from spen_jax.exact import (
    BeliefPropagation,
    Chain,
    DualDecomposition,
    Elimination,
    Enumeration,
    FactorGraph,
    Grid,
    MeanField,
    MinCut,
    Tables,
    TreeReweighted,
    at_most_one,
)

pytest.importorskip("flatbuffers", reason="jax needs it to write and to read programs")

RNG = np.random.default_rng(0)
L = 6
X = RNG.normal(size=(300, 4)).astype(np.float32)
SPEN = sx.SPEN(sx.FeatureNetwork(n_labels=L, widths=(5,)), n_global=3)
FEATURES, ENERGY = sx.functions_of(SPEN)
PARAMS = SPEN.init(jax.random.key(0), X[:1], np.zeros((1, L), np.float32))["params"]
SIZES = 1, 2, 3, 5, 7, 8, 9, 15, 16, 17, 24, 25, 40, 63, 64, 65, 72, 100, 128, 300
"""Rows: below, at and above the sizes of batches, 1, 8 and 64."""
RULE = sx.metrics.Expected(1.1, -0.2, allow_empty=False)
WARM = X[:, :2] > 0
NAMES = np.array(["cold", "dry", "hot", "wet"])
ON = np.concatenate([~WARM, WARM], axis=1)


def predictor_of(**options):
    return sx.Predictor(ENERGY, FEATURES, **{"steps": 3, "batch_size": 64} | options)


PREDICTORS = {
    "mirror descent": predictor_of(solver=sx.MirrorDescent(), start=sx.logits_of(SPEN)),
    "numbers and a trace": predictor_of(
        solver=sx.GradientDescent(0.1, 0.5),
        start=0.4,
        shape=(L,),
        settings={"step_size": 0.2},
        temperature=0.5,
        trace="energy",
    ),
    "stopping": predictor_of(
        solver=sx.MirrorDescent(), shape=(L,), steps=30, tolerance=0.05, stop_early=True
    ),
}


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """(predictor, path) of the first one."""
    path = tmp_path_factory.mktemp("bundles") / "spen.bundle"
    predictor = PREDICTORS["mirror descent"]
    sx.export(predictor, PARAMS, path, x=X[:1], decision=RULE, names=[*"abcdef"])
    return predictor, path


@pytest.fixture(scope="module")
def weather(tmp_path_factory):
    """(classifier, path), with programs."""
    path = tmp_path_factory.mktemp("bundles") / "weather.spen"
    model = SPENClassifier(hidden_units=8, global_units=2, epochs=2, members=2, random_state=0)
    model.fit(X, [NAMES[row].tolist() for row in ON]).save(path, programs=True)
    return model, path


def same(got, want):
    return jax.tree.all(jax.tree.map(lambda a, b: np.array_equal(a, b, equal_nan=True), got, want))


def rewritten(path, to, **changed):
    """The same bundle with other entries of `serving`, its checksum right."""
    contents = bundles.read(path)
    state = contents.state | {"serving": contents.state["serving"] | changed}
    bundles.write(to, contents._replace(state=state))
    return to


@pytest.mark.parametrize(
    "name", [*PREDICTORS][:1] + [pytest.param(n, marks=pytest.mark.slow) for n in [*PREDICTORS][1:]]
)
def test_a_bundle_answers_as_its_predictor_to_the_bit(name, tmp_path):
    predictor = PREDICTORS[name]
    sx.export(predictor, PARAMS, tmp_path / "a", x=X[:1])
    bundle = serving.load(tmp_path / "a")
    for n in SIZES:
        found, want = bundle(X[:n]), predictor(PARAMS, X[:n])
        assert {*found} >= {"y", "energy", "residual"}
        for part, array in found.items():
            assert same(array, getattr(want, part)), (n, part)


def test_exact_answers_of_known_parts_leave_too(tmp_path):
    def chain(params, context):
        return Chain(context, params["A"])

    A, x = {"A": RNG.normal(size=(3, 3)).astype(np.float32)}, RNG.normal(size=(20, 4, 3))
    x, mask = x.astype(np.float32), RNG.random((20, 4)) < 0.3
    known = mask, np.eye(3, dtype=np.float32)[RNG.integers(3, size=(20, 4))]
    predictor = sx.Predictor.of_structure(chain, batch_size=8)
    sx.export(predictor, A, tmp_path / "a", x=x[:1], known=tuple(a[:1] for a in known))
    bundle = serving.load(tmp_path / "a")
    for n in (1, 5, 8, 20):
        part = tuple(a[:n] for a in known)
        found, want = bundle(x[:n], known=part), predictor(A, x[:n], known=part)
        assert same(found["y"], want.y) and same(found["energy"], want.energy)
    with pytest.raises(ValueError, match="takes known, x, got x"):
        bundle(x)


RING = np.array([[0, 1], [1, 2], [2, 3], [3, 0]])
DEARER = [
    (Enumeration(), np.inf),
    (MeanField(), 1.0),
    (TreeReweighted(steps=20), 1.0),
    (DualDecomposition(), np.inf),
]
CHEAPER = (Elimination(), 1.0), (BeliefPropagation(steps=20), np.inf)
METHODS = [pytest.param(*each, marks=pytest.mark.slow) for each in CHEAPER]
METHODS += [pytest.param(*each, marks=pytest.mark.long) for each in DEARER]


@pytest.mark.parametrize(("method", "beta"), METHODS)
@pytest.mark.parametrize("kind", ["graph", "grid"])
def test_grids_and_factor_graphs_leave_with_an_open_batch(kind, method, beta, tmp_path):
    x, A = RNG.normal(size=(20, 2, 3, 3)).astype(np.float32), RNG.normal(size=(3, 3))

    def structure(A, h):
        if kind == "grid":
            return Grid(h, A, -A, method=method)
        own = A[None] + h[0, :1, :1, None]  # energies of each example's own
        return FactorGraph(
            h.reshape(6, 3), [Tables(RING, own), at_most_one([[3, 4, 5]])], method=method
        )

    predictor, A = sx.Predictor.of_structure(structure, beta=beta, batch_size=8), A.astype("f4")
    sx.export(predictor, A, tmp_path / "a", x=x[:1])
    assert sorted(bundles.read(tmp_path / "a").programs) == ["1", "8", "any"]
    bundle, want = serving.load(tmp_path / "a"), predictor(A, x)
    found = bundle(x)
    assert same(found["y"], want.y) and same(found["energy"], want.energy)
    bundle.sizes = [5]
    np.testing.assert_allclose(bundle(x)["y"], want.y, atol=1e-5)
    np.testing.assert_allclose(bundle(x)["energy"], want.energy, rtol=1e-4, atol=1e-5)


def test_what_asks_the_host_cannot_leave(tmp_path):
    def structure(A, h):
        return Grid(h, A, A, method=MinCut())

    predictor = sx.Predictor.of_structure(structure, batch_size=1)
    A = np.array([[0, 1], [1, 0]], np.float32)
    with pytest.raises(ValueError, match="MinCut and LinearProgramme, cannot leave"):
        sx.export(predictor, A, tmp_path / "a", x=np.zeros((1, 2, 2, 2), np.float32))


def test_one_program_runs_any_number_of_rows(exported):
    predictor, path = exported
    bundle = serving.load(path)
    bundle.sizes = [100]  # for which there is none of its own
    found, want = bundle(X[:100]), predictor(PARAMS, X[:100])
    np.testing.assert_allclose(found["y"], want.y, atol=1e-6)
    np.testing.assert_allclose(found["energy"], want.energy, rtol=1e-5)


def test_a_decision_and_names_go_along(exported):
    predictor, path = exported
    bundle = serving.load(path)
    assert bundle.names == [*"abcdef"] and bundle.sizes == [1, 8, 64]
    for n in (1, 7, 65):
        assert same(bundle(X[:n])["on"], RULE(predictor(PARAMS, X[:n]).y))


@pytest.mark.slow
def test_trees_of_arrays_and_doubles_leave_too(tmp_path, x64):
    from spen_jax.domains import Product

    def energy(params, context, y):
        far = jax.numpy.sum((y["a"] - context["u"]) ** 2) + (y["b"][0] - context["v"][0]) ** 2
        return params["scale"] * far

    start = {"a": np.zeros((1, 2)), "b": np.zeros((1, 1))}
    domain = Product({"a": sx.Box(), "b": sx.Reals()})
    solver = sx.GradientDescent(0.1)
    predictor = sx.Predictor(energy, start=start, domain=domain, solver=solver, batch_size=8)
    x = {"u": RNG.normal(size=(20, 2)), "v": RNG.normal(size=(20, 1))}
    params = {"scale": 0.7}
    sx.export(predictor, params, tmp_path / "a", x=x)
    bundle = serving.load(tmp_path / "a")
    with jax.enable_x64(False):  # a bundle knows what it was exported with
        found = bundle(x)
    assert found["y"]["a"].dtype == np.float64 and same(found["y"], predictor(params, x).y)
    with pytest.raises(ValueError, match="same leading axis"):
        bundle({"u": x["u"], "v": x["v"][:3]})
    with pytest.raises(ValueError, match="x must be a dict of u, v"):
        bundle(x["u"])


def test_a_model_that_asks_for_the_number_of_rows_leaves_in_fixed_sizes(tmp_path):
    def features(params, x):
        return x @ params["W"] + np.zeros((len(x), 1), np.float32)

    def energy(params, scores, y):
        return -scores @ y + y @ y / 2

    predictor = sx.Predictor(energy, features, shape=(3,), steps=3, batch_size=8, progress=True)
    params = {"W": RNG.normal(size=(4, 3)).astype(np.float32)}
    sx.export(predictor, params, tmp_path / "a", x=X[:1])
    assert sorted(bundles.read(tmp_path / "a").programs) == ["1", "8"]
    bundle = serving.load(tmp_path / "a")
    assert same(bundle(X[:20])["y"], predictor(params, X[:20]).y)
    bundle.sizes = [5]
    with pytest.raises(ValueError, match="no program for batches of 5 rows"):
        bundle(X)


@pytest.mark.parametrize("rule", [sx.metrics.Tuned(0.37), sx.metrics.Fixed()])
@pytest.mark.slow
def test_thresholds_go_along(rule, tmp_path):
    predictor = PREDICTORS["mirror descent"]
    sx.export(predictor, PARAMS, tmp_path / "a", x=X[:1], decision=rule)
    assert same(serving.load(tmp_path / "a")(X)["on"], rule(predictor(PARAMS, X).y))


@pytest.mark.slow
def test_a_classifier_is_served_as_it_predicts(weather):
    model, path = weather
    bundle = serving.load(path)
    assert bundle.names == NAMES.tolist()
    for n in (1, 7, 64, 65, 200):
        found = bundle(X[:n])
        assert same(found["p"], model.predict_proba(X[:n]))
        assert found["labels"] == model.predict(X[:n])
    assert bundle(X[:0])["y"].shape == (0, 4) and bundle(X[:0])["labels"] == []
    assert sx.load(path).predict(X) == model.predict(X)


@pytest.mark.slow
@pytest.mark.parametrize("decision", ["threshold", 0.4, 2])
def test_other_decisions_are_served(decision, tmp_path):
    model = SPENClassifier(decision=decision, hidden_units=8, epochs=2, members=1, random_state=0)
    model.fit(X, ON.astype(int)).save(tmp_path / "a", programs=True)
    found = serving.load(tmp_path / "a")(X)
    assert same(found["on"], model.predict(X).astype(bool))
    assert same(found["p"], model.predict_proba(X))


@pytest.mark.slow
def test_classes_numbers_and_sparse_rows_are_served(tmp_path):
    from scipy.sparse import csr_array

    options = {"hidden_units": 8, "epochs": 2, "members": 1, "random_state": 0}
    model = SPENClassifier(**options).fit(X, NAMES[ON.argmax(axis=1)])
    model.save(tmp_path / "a", programs=True)
    found = serving.load(tmp_path / "a")(X)
    assert found["labels"] == model.predict(X).tolist() and same(found["p"], model.predict_proba(X))
    for y in (X[:, 0], X[:, :3]):
        regressor = SPENRegressor(**options).fit(X, y)
        regressor.save(tmp_path / "a", programs=True)
        assert same(serving.load(tmp_path / "a")(X)["y"], regressor.predict(X))
    counts = RNG.poisson(0.1, size=(300, 80)).astype(float)
    for x in (counts, counts * RNG.normal(size=counts.shape)):
        model = SPENClassifier(**options).fit(csr_array(x), ON.astype(int))
        model.save(tmp_path / "a", programs=True)
        assert same(serving.load(tmp_path / "a")(x)["p"], model.predict_proba(csr_array(x)))


ALONE = """
import sys
import numpy as np

class Refusing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("spen_jax", "flax", "optax", "chex", "safetensors", "sklearn", "orbax"):
            raise ImportError(name)

sys.meta_path.insert(0, Refusing())
sys.path.insert(0, sys.argv[1])
import copied as serving
given = np.load(sys.argv[2])
for path, name in zip(sys.argv[3:], ("y", "p")):
    bundle = serving.load(path)
    for n in (1, 5, 65):
        assert np.array_equal(bundle(given["x"][:n])[name], given[f"{name}{n}"]), (path, n)
try:
    serving.load(sys.argv[3] + ".expired")
except serving.BundleError as error:
    print(error)
"""


@pytest.mark.slow
def test_bundles_are_read_without_the_library(exported, weather, tmp_path):
    predictor, path = exported
    want = {"x": X}
    for n in (1, 5, 65):
        want[f"y{n}"], want[f"p{n}"] = (
            predictor(PARAMS, X[:n]).y,
            weather[0].predict_proba(X[:n]),
        )
    np.savez(tmp_path / "want.npz", **want)
    rewritten(weather[1], f"{path}.expired", jax="0.0.1", made="2020-02-02")
    shutil.copytree(Path(serving.__file__).parent, tmp_path / "folder" / "copied")
    paths = tmp_path / "folder", tmp_path / "want.npz", path, weather[1]
    # The bits are those of the same compiler settings.
    env = os.environ | {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1", "JAX_PLATFORMS": "cpu"}
    run = subprocess.run(
        [sys.executable, "-c", ALONE, *map(str, paths)],
        capture_output=True,
        text=True,
        timeout=300,
        env=env,
    )
    assert run.returncode == 0, run.stderr
    assert "expired after 183 days" in run.stdout and "save(path, programs=True)" in run.stdout


@pytest.mark.slow
def test_programs_that_expired_are_exported_anew_where_the_model_can_be_made(weather, tmp_path):
    model, path = weather
    before = str(datetime.date.today() - datetime.timedelta(days=200))
    later, plain = tmp_path / "later", tmp_path / "plain"
    model.save(plain)
    old = rewritten(path, tmp_path / "old", jax="0.0.1", made=before)
    for file in (old, rewritten(path, later, jax="99.0.0"), plain):
        assert same(serving.load(file)(X[:9])["p"], model.predict_proba(X[:9]))


def test_programs_of_predictors_that_expired_are_refused_with_advice(exported, tmp_path):
    path, today = exported[1], str(datetime.date.today())
    for changed in ({"jax": "0.0.1", "made": "2020-02-02"}, {"jax": "99.0.0"}):
        rewritten(path, tmp_path / "old", **changed)
        with pytest.raises(serving.BundleError, match="Export the model again"):
            serving.load(tmp_path / "old")
    rewritten(path, tmp_path / "old", jax="0.0.1", made=today)  # within JAX's promise
    assert serving.load(tmp_path / "old").names == [*"abcdef"]


def test_a_program_is_not_read_where_its_bytes_are_none(exported, weather, tmp_path):
    for path, anew in ((weather[1], True), (exported[1], False)):
        contents = bundles.read(path)
        programs = dict.fromkeys(contents.programs, b"none")
        bundles.write(tmp_path / "a", contents._replace(programs=programs))
        if anew:
            assert same(serving.load(tmp_path / "a")(X)["p"], weather[0].predict_proba(X))
        else:
            with pytest.raises(serving.BundleError, match="no programs that can be read"):
                serving.load(tmp_path / "a")


def test_a_bundle_is_a_safetensors_file_and_reads_as_it_was_written(tmp_path):
    import ml_dtypes
    from safetensors import safe_open

    arrays = {
        "half": np.arange(3, dtype=np.float16),
        "brain": np.arange(3).astype(ml_dtypes.bfloat16),
        "none": np.zeros((0, 3)),
        "one": np.array(2.5),
        "flags": np.array([[True], [False]]),
        "columns": np.arange(6, dtype=np.int32).reshape(2, 3).T,
    }
    contents = bundles.Contents({"a": [1, None, "é"]}, arrays, {"8": b"\x00\xff"})
    bundles.write(tmp_path / "a", contents)
    state, found, programs = bundles.read(tmp_path / "a")
    assert state == contents.state and programs == contents.programs and {*found} == {*arrays}
    for name, a in arrays.items():
        assert found[name].dtype == a.dtype and found[name].shape == a.shape
        assert found[name].tobytes() == np.ascontiguousarray(a).tobytes()
    with safe_open(tmp_path / "a", "numpy") as file:
        assert file.metadata()["format"] == "spen_jax bundle"
        np.testing.assert_array_equal(file.get_tensor("columns"), arrays["columns"])
    assert list(tmp_path.iterdir()) == [tmp_path / "a"]
    with pytest.raises(TypeError, match="complex128"):
        bundles.write(tmp_path / "b", contents._replace(arrays={"a": np.zeros(2, complex)}))
    assert list(tmp_path.iterdir()) == [tmp_path / "a"]


def test_files_of_earlier_and_later_versions(weather, tmp_path):
    from safetensors.numpy import save

    model, path = weather[0], tmp_path / "a"
    model.save(path)
    state, arrays, _ = bundles.read(path)
    text = json.dumps(state, sort_keys=True)
    header = {"format": "spen_jax estimator", "version": "1", "state": text}
    path.write_bytes(save(arrays, header | {"sha256": serving.digest(text, arrays)}))
    assert sx.load(path).predict(X) == model.predict(X)
    path.write_bytes(weather[1].read_bytes().replace(b'"version":"1"', b'"version":"2"'))
    with pytest.raises(serving.BundleError, match="later spen_jax"):
        bundles.read(path)
    with pytest.raises(FileNotFoundError):
        serving.load(tmp_path / "nothing")
    with pytest.raises(IsADirectoryError):
        serving.load(tmp_path)


def mutated(whole, rng):
    """A copy with one thing wrong, most often in its header."""
    length = 8 + int.from_bytes(whole[:8], "little")
    at = int(rng.integers(length if rng.random() < 0.7 else len(whole)))
    kind = rng.integers(5)
    if kind == 0:
        return whole[:at]
    if kind == 1:
        return whole[:at] + whole[at + int(rng.integers(1, 9)) :]
    if kind == 2:
        return whole[:at] + rng.bytes(int(rng.integers(1, 9))) + whole[at:]
    if kind == 3:
        other = int(rng.integers(len(whole)))
        return whole[:at] + whole[other : other + 8] + whole[at + 8 :]
    changed = bytearray(whole)
    changed[at] ^= 1 << int(rng.integers(8))
    return bytes(changed)


@pytest.mark.parametrize("many", [200, pytest.param(2000, marks=pytest.mark.long)])
def test_a_damaged_file_is_an_error_or_right(many, exported, weather, tmp_path):
    rng = np.random.default_rng(many)
    for path in (exported[1], weather[1]):
        whole, want = path.read_bytes(), bundles.read(path)
        refused = 0
        for _ in range(many // 2):
            (tmp_path / "a").write_bytes(mutated(whole, rng))
            try:
                found = bundles.read(tmp_path / "a")
            except serving.BundleError:
                refused += 1
            else:
                assert found.state == want.state and found.programs == want.programs
                assert {*found.arrays} == {*want.arrays} and same(found.arrays, want.arrays)
        assert refused > 0.9 * many / 2


def test_what_has_a_right_checksum_and_no_sense_is_one_error(exported, tmp_path):
    contents = bundles.read(exported[1])
    serving_of = contents.state["serving"]
    wrong = [{**serving_of, "sizes": [0]}, {**serving_of, "answer": "?"}, {}, [], None, 3]
    wrong += [{k: v for k, v in serving_of.items() if k != key} for key in ("made", "weights")]
    for state in [{"class": "Predictor", "serving": s} for s in wrong] + [[], 3, None]:
        bundles.write(tmp_path / "a", contents._replace(state=state))
        with pytest.raises(serving.BundleError):
            serving.load(tmp_path / "a")
        with pytest.raises(serving.BundleError, match="no estimator"):
            sx.load(tmp_path / "a")


@pytest.mark.slow
def test_threads_share_a_bundle(exported):
    predictor, path = exported
    bundle, stop = serving.load(path), time.monotonic() + 2
    want = {n: np.asarray(predictor(PARAMS, X[:n]).y) for n in (1, 5, 8, 30, 64, 70)}
    wrong, counts = [], []

    def ask(seed):
        rng, count = np.random.default_rng(seed), 0
        while time.monotonic() < stop:
            n = int(rng.choice([*want]))
            if not same(bundle(X[:n])["y"], want[n]):
                wrong.append(n)
            count += 1
        counts.append(count)

    threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == [] and len(counts) == 16 and min(counts) > 0


@pytest.mark.long
def test_sixteen_threads_are_answered_rightly_in_memory_that_stays_level(weather):
    from benchmarks.serving import threads

    found = threads(serving.load(weather[1]), X, 30.0)
    assert found["wrong"] == 0 and found["least of a thread"] > 0
    assert found["MB grown"] < 5


def test_what_does_not_fit_is_said(exported, weather):
    bundle = serving.load(exported[1])
    for x, message in (
        (X[:, :3], r"x must be float32 of shape \(N, 4\), got float32 of shape \(300, 3\)"),
        (X[0], "got float32 of shape"),
        ([[1, 2], [3]], "x must be float32"),
        (X.astype(complex), "got complex128"),
        ([["a"] * 4], "got <U1"),
    ):
        with pytest.raises(ValueError, match=message):
            bundle(x)
    with pytest.raises(ValueError, match="takes x, got x, mask"):
        bundle(X, mask=X)
    assert same(bundle(X[:2].tolist())["y"], bundle(X[:2].astype(np.float64))["y"])
    far = X.copy()
    far[1, 2] = np.nan
    with pytest.raises(ValueError, match="nan in row 1, column 2"):
        serving.load(weather[1])(far)


def test_what_cannot_leave_is_said(tmp_path):
    def export(predictor=PREDICTORS["mirror descent"], params=PARAMS, x=X[:1], **options):
        sx.export(predictor, params, tmp_path / "a", x=x, **options)

    with pytest.raises(ValueError, match="one point for all"):
        export(predictor_of(start=np.full((3, L), 0.5, np.float32)))
    with pytest.raises(ValueError, match="x must be an array with a leading axis"):
        export(x=3.0)
    with pytest.raises(ValueError, match="rule of spen_jax.metrics"):
        export(decision=0.5)
    with pytest.raises(TypeError, match="random key"):
        export(params=PARAMS | {"key": jax.random.key(0)})
    assert not [*tmp_path.iterdir()]


def test_the_header_says_what_wrote_it(exported):
    whole = exported[1].read_bytes()
    header = json.loads(whole[8 : 8 + int.from_bytes(whole[:8], "little")])
    state = json.loads(header["__metadata__"]["state"])
    assert state["serving"]["jax"] == jax.__version__
    assert state["serving"]["inputs"] == {"x": {"array": {"shape": [4], "dtype": "float32"}}}
    assert {"programs/any", "programs/1", "programs/8", "programs/64"} <= {*header}

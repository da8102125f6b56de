"""scikit-learn's own checks of estimators, and its tools around them."""

import io

import joblib
import numpy as np
import pandas as pd
import pytest
import sklearn
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import make_column_transformer
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder
from sklearn.utils.estimator_checks import check_classifier_multioutput, check_estimator

from spen_jax.estimators import SPENClassifier, SPENRegressor, SPENSequenceTagger

DRAWN = "batches, folds and dropout are drawn: weights equal repeated rows in the mean only"
WEIGHTS = {
    "check_sample_weight_equivalence_on_dense_data": DRAWN,
    "check_sample_weight_equivalence_on_sparse_data": DRAWN,
}
SETS = {
    "check_classifier_multioutput": "the set of the best expected F1 is not that of labels above a half"
}


@pytest.mark.slow  # a minute of compilation: the checks have data of many shapes
@pytest.mark.parametrize(
    ("estimator", "expected"),
    [
        pytest.param(SPENClassifier(), WEIGHTS | SETS, marks=pytest.mark.long),
        pytest.param(SPENRegressor(), WEIGHTS, marks=pytest.mark.long),
        (SPENSequenceTagger(), {}),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_all_checks_pass_but_those_with_a_reason(estimator, expected):
    found = check_estimator(estimator, expected_failed_checks=expected, on_fail=None, on_skip=None)
    by_status = {
        status: {r["check_name"] for r in found if r["status"] == status}
        for status in ("failed", "xfail")
    }
    assert by_status == {"failed": set(), "xfail": {*expected}}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_above_a_half_sets_are_probabilities_rounded():
    check_classifier_multioutput("SPENClassifier", SPENClassifier(decision=0.5, random_state=0))


def quick(**more):
    return SPENClassifier(
        hidden_units=16, epochs=60, learning_rate=0.02, members=1, random_state=0, **more
    )


@pytest.fixture(scope="module")
def tickets():
    rng = np.random.default_rng(0)
    kinds = rng.integers(0, 3, 90)
    words = np.array(["password login", "invoice money", "crash error"])[kinds]
    frame = pd.DataFrame(
        {"text": words, "site": np.array(["a", "b"])[kinds % 2], "hours": rng.random(90)}
    )
    return frame, [["login"], ["billing"], ["bug", "urgent"]], kinds


@pytest.mark.slow
def test_text_categories_and_numbers_go_through_a_pipeline(tickets):
    frame, names, kinds = tickets
    columns = make_column_transformer(
        (TfidfVectorizer(), "text"), (OneHotEncoder(), ["site"]), ("passthrough", ["hours"])
    )
    sets = [names[k] for k in kinds]
    model = make_pipeline(columns, quick()).fit(frame, sets)
    assert model.predict(frame) == sets
    stream = io.BytesIO()
    joblib.dump(model, stream)
    stream.seek(0)
    assert joblib.load(stream).predict(frame) == sets


@pytest.mark.slow
def test_calibration_and_validation_of_classes(tickets):
    _, _, kinds = tickets
    x = np.eye(3)[kinds] + np.random.default_rng(1).normal(scale=0.2, size=(90, 3))
    assert cross_val_score(quick(), x, kinds, cv=3).mean() > 0.9
    calibrated = CalibratedClassifierCV(quick(), cv=2, ensemble=False).fit(x, kinds)
    assert calibrated.score(x, kinds) > 0.9


@pytest.mark.slow
def test_known_labels_and_weights_are_routed(tickets):
    frame, names, kinds = tickets
    x = np.eye(3)[kinds]
    with sklearn.config_context(enable_metadata_routing=True):
        model = quick(known_share=0.5, global_units=8)
        model = model.set_fit_request(sample_weight=True).set_predict_request(known=True)
        pipe = make_pipeline("passthrough", model)
        pipe.fit(x, [names[k] for k in kinds], sample_weight=np.ones(90))
        found = pipe.predict(np.zeros((1, 3)), known=[["urgent"]])
    assert "urgent" in found[0]

"""Estimators within a `resumable` block: broken off and gone on with, they are those of one run."""

import numpy as np
import pytest

from spen_jax import training
from spen_jax.estimators import SPENClassifier, SPENRegressor, SPENSequenceTagger
from spen_jax.estimators.progress import listening


class Broken(Exception):
    pass


def interrupted_and_again(make, data, stop, folder):
    """Figures told before a break at the `stop`th epoch and of the run that went on, and its estimator."""
    told = []

    def listen(done, total, figures):
        told.append((done, total, figures))
        if len(told) == stop:
            raise Broken

    with pytest.raises(Broken), training.resumable(folder, every_steps=1), listening(listen):
        make().fit(*data)
    before, told[:], stop = told[:], [], None
    with training.resumable(folder), listening(listen):
        return before, told, make().fit(*data)


def rows():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 4))
    return x, (x @ rng.normal(size=(4, 3)) > 0).astype(int)


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.parametrize("stop", [2, 5, 7])
def test_members_go_on_to_the_same_parameters(tmp_path, stop):
    def make():
        return SPENClassifier(epochs=4, members=2, hidden_units=8, random_state=0)

    plain = make().fit(*rows())
    before, told, again = interrupted_and_again(make, rows(), stop, tmp_path)
    assert before == told[:stop] and [done for done, _, _ in told] == [*range(1, 9)]
    assert np.array_equal(plain.flats_, again.flats_)
    assert plain.validation_losses_ == again.validation_losses_
    assert plain.predict_proba(rows()[0]).tolist() == again.predict_proba(rows()[0]).tolist()


@pytest.mark.slow
def test_without_held_out_rows_it_goes_on_too(tmp_path):
    x, y = rows()

    def make():
        return SPENRegressor(epochs=5, hidden_units=8, early_stopping=False, random_state=1)

    plain = make().fit(x, x[:, 0])
    before, told, again = interrupted_and_again(make, (x, x[:, 0]), 3, tmp_path)
    assert before == told[:3] and all(f.keys() == {"training_loss"} for _, _, f in told)
    assert np.array_equal(plain.flats_, again.flats_)


@pytest.mark.long
@pytest.mark.slow
def test_a_tagger_goes_on_to_the_same_parameters(tmp_path):
    data = [["a", "b"], ["c"], ["b", "c", "a"]] * 10, [["A", "B"], ["C"], ["B", "C", "A"]] * 10

    def make():
        return SPENSequenceTagger(epochs=3, hidden_units=8, window_units=4, steps=2, random_state=0)

    plain = make().fit(*data)
    before, told, again = interrupted_and_again(make, data, 2, tmp_path)
    assert before == told[:2] and len(told) == 3
    assert np.array_equal(plain.flat_, again.flat_)
    assert plain.validation_errors_ == again.validation_errors_


@pytest.mark.slow
def test_a_training_of_other_rows_is_refused(tmp_path):
    x, y = rows()
    with training.resumable(tmp_path, every_steps=1):
        SPENClassifier(epochs=2, members=1, hidden_units=8, random_state=0).fit(x, y)
    with pytest.raises(training.CheckpointError), training.resumable(tmp_path):
        SPENClassifier(epochs=2, members=1, hidden_units=8, random_state=0).fit(x[:40], y[:40])

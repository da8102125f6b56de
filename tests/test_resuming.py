"""A training that is broken off goes on to the numbers of one that was not."""

import dataclasses
import os
import shutil
import signal
import subprocess
import sys
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.sparse

from spen_jax import training
from spen_jax.training import CheckpointError, Checkpoints


class Data(NamedTuple):
    x: jax.Array
    y: jax.Array
    chains: jax.Array


X = jax.random.normal(jax.random.key(5), (30, 4))
DATA = Data(X, X @ jnp.arange(4.0), jnp.zeros((30, 2)))
ADAM = optax.adam(0.1)
STEPS = 4  # of an epoch


def objective(params, batch, key):
    """With chance, chains that are written back, and one row that is never finite."""
    noise = jax.random.normal(key, batch.y.shape) / 10
    error = batch.x @ params["w"] + noise - batch.y + batch.chains.sum(1)
    error = jnp.where(batch.x[:, 0] == X[3, 0], jnp.nan, error)
    return jnp.mean(error**2), {
        "loss": jnp.mean(error**2),
        "chains": batch.chains + error[:, None] / 9,
    }


def first(seed=0):
    return training.init({"w": jnp.zeros(4)}, ADAM, jax.random.key(seed))


def fit(checkpoints=None, epochs=3, state=None):
    return training.fit(
        objective,
        ADAM,
        first() if state is None else state,
        DATA,
        epochs=epochs,
        batch_size=8,
        checkpoints=checkpoints,
    )


def same(one, other):
    def plain(a):
        key = isinstance(a, jax.Array) and jax.dtypes.issubdtype(a.dtype, jax.dtypes.prng_key)
        return jax.random.key_data(a) if key else a

    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_array_equal(plain(a), plain(b))


class Broken(Exception):
    pass


def broken_after(monkeypatch, calls):
    """Checkpoints whose `after_step` raises once so many positions have been passed."""
    whole, count = Checkpoints.after_step, iter(range(calls))

    def after_step(self, *now):
        whole(self, *now)
        if next(count, None) is None:
            self._settle()
            raise Broken

    monkeypatch.setattr(Checkpoints, "after_step", after_step)


@pytest.fixture(scope="module")
def straight():
    return list(fit())


SLOW = pytest.mark.slow


@pytest.mark.parametrize("calls", [0, 3, 7, *(pytest.param(n, marks=SLOW) for n in (2, 4, 13))])
def test_a_broken_training_goes_on_to_the_bit(tmp_path, monkeypatch, straight, calls):
    with monkeypatch.context() as patch:
        broken_after(patch, calls)
        with pytest.raises(Broken):
            for _ in fit(Checkpoints(tmp_path, every_steps=1)):
                pass
    left = list(fit(tmp_path))
    assert len(left) == 3 - (calls + 1) // (STEPS + 1)
    same(left[-1][0], straight[-1][0])
    for (state, means), (right, right_means) in zip(left, straight[-len(left) :], strict=True):
        same(state, right)
        assert means == right_means


def test_what_is_over_says_its_end_again_and_may_be_made_longer(tmp_path, straight):
    assert len(list(fit(tmp_path, epochs=2))) == 2
    ((state, means),) = fit(tmp_path, epochs=2)
    same(state, straight[1][0])
    assert means == straight[1][1]
    state, means = fit(tmp_path).last()
    same(state, straight[-1][0])


def test_the_newest_few_stay_and_nothing_else(tmp_path):
    kept = Checkpoints(tmp_path, every_steps=1, every_minutes=None, keep=3)
    fit(kept).last()
    assert sorted(p.name for p in tmp_path.iterdir()) == [".lock", "13", "14", "15"]


def test_the_extra_of_the_caller_comes_back(tmp_path, monkeypatch):
    def run(kept):
        kept.extra = training.Best({"w": jnp.zeros(4)})._asdict() | {"scores": np.zeros(0)}
        for state, metrics in fit(kept):
            scores = np.append(kept.extra["scores"], metrics["loss"])
            kept.extra = kept.extra | {
                "scores": scores,
                "epoch": kept.epochs,
                "params": state.params,
            }
        return kept.extra

    right = run(Checkpoints(tmp_path / "straight"))
    with monkeypatch.context() as patch:
        broken_after(patch, 8)
        with pytest.raises(Broken):
            run(Checkpoints(tmp_path / "broken", every_steps=1))
    found = run(Checkpoints(tmp_path / "broken"))
    same(found, right)
    assert found["epoch"] == 3 and type(found["score"]) is float


@pytest.mark.slow
def test_a_damaged_checkpoint_is_named_and_gives_way_when_asked(tmp_path, straight, caplog):
    fit(Checkpoints(tmp_path, every_steps=1, keep=3)).last()
    largest = max(
        (tmp_path / "15").rglob("*"), key=lambda p: p.stat().st_size if p.is_file() else 0
    )
    largest.write_bytes(largest.read_bytes()[:-20])
    with pytest.raises(CheckpointError, match=r"/15 is damaged.*skip_damaged=True"):
        fit(tmp_path).last()
    state, _ = fit(Checkpoints(tmp_path, skip_damaged=True)).last()
    same(state, straight[-1][0])
    assert "/15 is damaged" in caplog.text


def test_another_training_is_refused(tmp_path):
    fit(tmp_path).last()
    with pytest.raises(CheckpointError, match="another key, other data"):
        fit(tmp_path, state=first(1)).last()


@pytest.mark.slow
def test_a_folder_in_use_is_refused_to_another_process(tmp_path):
    begun = iter(fit(tmp_path))
    next(begun)
    code = (
        "import sys\nfrom spen_jax.training.positions import Position\n"
        "from spen_jax.training.resuming import Checkpoints\n"
        "with Checkpoints(sys.argv[1]).training(Position({}, {}, [], {}, {}), ''): pass"
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True)
    assert f"CheckpointError: another process trains in {tmp_path}" in done.stderr.replace(
        "spen_jax.training.positions.", ""
    )
    del begun


def test_sigterm_between_epochs_waits_for_the_next_step(tmp_path, straight, caplog):
    before = signal.getsignal(signal.SIGTERM)
    begun = iter(fit(tmp_path))
    next(begun)
    os.kill(os.getpid(), signal.SIGTERM)
    with pytest.raises(training.Stopped) as stopped:
        next(begun)
    assert stopped.value.code == 143 and signal.getsignal(signal.SIGTERM) is before
    assert f"is written to {tmp_path}" in caplog.text
    same(fit(tmp_path).last()[0], straight[-1][0])


def test_ctrl_c_lets_the_step_end_and_between_epochs_is_what_it_was(
    tmp_path, straight, monkeypatch
):
    whole, calls = Checkpoints.after_step, iter(range(100))

    def after_step(self, *now):
        if next(calls) == 6:  # while the training works
            os.kill(os.getpid(), signal.SIGINT)
        whole(self, *now)

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "after_step", after_step)
        with pytest.raises(training.Stopped) as stopped:
            fit(Checkpoints(tmp_path, every_minutes=9)).last()
    assert stopped.value.code == 130
    begun = iter(fit(tmp_path))
    same(next(begun)[0], straight[1][0])
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)
    del begun


def test_no_signal_is_swallowed(tmp_path):
    heard = []
    before = signal.signal(signal.SIGTERM, lambda number, _: heard.append(number))
    try:
        for _ in fit(tmp_path / "left"):
            os.kill(os.getpid(), signal.SIGTERM)
            break
        assert heard == [signal.SIGTERM]
        one, two = iter(fit(tmp_path / "one")), iter(fit(tmp_path / "two"))
        next(one), next(two)
        os.kill(os.getpid(), signal.SIGTERM)
        for each in (one, two):
            with pytest.raises(training.Stopped):
                next(each)
        os.kill(os.getpid(), signal.SIGTERM)
        assert heard == [signal.SIGTERM] * 2
    finally:
        signal.signal(signal.SIGTERM, before)


def test_what_would_lose_the_callers_extra_is_refused(tmp_path):
    for at_first, later in ((None, {"a": 1}), ({"a": []}, {"a": [1.0]}), ({"a": 0}, {"a": "text"})):
        kept = Checkpoints(tmp_path / str(at_first is None), every_steps=1, extra=at_first)
        with pytest.raises(CheckpointError, match="keep its structure|numbers and arrays only"):
            for _ in fit(kept):
                kept.extra = later
        shutil.rmtree(kept.folder)
    kept = Checkpoints(tmp_path / "numbers", extra={"best": 0, "found": False})
    for _ in fit(kept):
        kept.extra = {"best": 0.92, "found": 3.5}
    again = Checkpoints(tmp_path / "numbers", extra={"best": 0, "found": False})
    fit(again).last()
    assert again.extra == {"best": 0.92, "found": 3.5}
    with pytest.raises(CheckpointError, match=r"\['new'\] is in one of them only"):
        fit(Checkpoints(tmp_path / "numbers", extra={"new": 0})).last()


def test_a_training_that_began_otherwise_is_not_taken_for_this_one(tmp_path):
    fit(tmp_path).last()
    others = {
        "data": (objective, ADAM, DATA._replace(y=-DATA.y), 3),
        "objective": (plain, ADAM, DATA, 3),
        "optimizer": (objective, optax.adam(0.05), DATA, 3),
    }
    for of, adam, data, epochs in others.values():
        with pytest.raises(CheckpointError, match="began otherwise"):
            training.fit(
                of, adam, first(), data, epochs=epochs, batch_size=8, checkpoints=tmp_path
            ).last()
    with pytest.raises(
        CheckpointError, match="has 3 epochs of this training, and 2 were asked for"
    ):
        fit(tmp_path, epochs=2).last()
    assert list(fit(tmp_path, epochs=0)) == []


def test_sparse_rows_are_told_apart_by_their_numbers(tmp_path):
    def of_rows(params, batch, key):
        error = batch["x"] @ params["w"] - batch["y"]
        return jnp.mean(error**2), {"loss": jnp.mean(error**2)}

    def run(x):
        data = {"x": x, "y": DATA.y}
        return training.fit(
            of_rows, ADAM, first(), data, epochs=1, batch_size=8, checkpoints=tmp_path
        ).last()

    x = scipy.sparse.csr_array(np.asarray(X) * (np.asarray(X) > 0))
    end = run(x)
    same(run(x.copy()), end)
    with pytest.raises(CheckpointError, match="began otherwise"):
        run(2 * x)


def test_a_training_within_another_ones_epoch_keeps_none(tmp_path):
    with training.resumable(tmp_path):
        for _ in fit(epochs=2):
            fit(epochs=1).last()
    assert [p.name for p in tmp_path.iterdir()] == ["1"]


def test_a_folder_that_was_emptied_is_written_to_again(tmp_path):
    kept = Checkpoints(tmp_path)
    for _ in range(2):
        fit(kept).last()
        assert "15" in {p.name for p in tmp_path.iterdir()}
        shutil.rmtree(tmp_path)


RECIPE = training.Recipe(epochs=6, learning_rate=0.1, weight_decay=0.0, batch_size=8, average=0.9)


def plain(params, batch, key):
    """A loss that validation is against from the third epoch on."""
    error = batch.x @ params["w"] - batch.y + jax.random.normal(key, batch.y.shape) / 10
    return jnp.mean(error**2), {"loss": jnp.mean(error**2)}


def phases(patience=2):
    recipe = dataclasses.replace(RECIPE, patience=patience)
    return [training.Phase("one", plain, recipe), training.Phase("two", plain, RECIPE)]


def whole_protocol():
    def score(params):
        return -abs(float(params["w"][3]) - 1)

    data = Data(DATA.x, DATA.y, DATA.chains)
    part = jax.tree.map(lambda a: a[:20], data)
    steps = training.choose_then_refit(
        phases(), {"w": jnp.zeros(4)}, part, data, jax.random.key(1), score=score
    )
    return steps.last()


@pytest.mark.slow
@pytest.mark.parametrize("calls", [17, *(pytest.param(n, marks=SLOW) for n in (3, 40))])
def test_a_program_of_trainings_goes_on_where_it_was_broken_off(tmp_path, monkeypatch, calls):
    def without_clock(refitted):
        return jax.tree.map(
            lambda t: t._replace(clock=()),
            refitted,
            is_leaf=lambda t: isinstance(t, training.Trained),
        )

    right = without_clock(whole_protocol())
    with monkeypatch.context() as patch:
        broken_after(patch, calls)
        with pytest.raises(Broken), training.resumable(tmp_path, every_steps=1):
            whole_protocol()
    began = len(list(tmp_path.iterdir()))
    with training.resumable(tmp_path):
        again = whole_protocol()
    same(without_clock(again), right)
    with training.resumable(tmp_path):
        same(whole_protocol(), again)
    assert 1 <= began <= 4 == len(list(tmp_path.iterdir()))


@pytest.mark.filterwarnings("ignore")  # Orbax leaves tasks of a failed read behind
@pytest.mark.parametrize(
    "count",
    [pytest.param(40, marks=pytest.mark.slow), pytest.param(2000, marks=pytest.mark.long)],
)
def test_mutated_checkpoints_go_on_to_the_same_end_or_are_refused(tmp_path, straight, count):
    rng = np.random.default_rng(0)
    fit(Checkpoints(tmp_path / "whole", keep=1)).last()
    refused = 0
    for _ in range(count):
        shutil.copytree(tmp_path / "whole", tmp_path / "mutated")
        files = [p for p in sorted((tmp_path / "mutated").rglob("*")) if p.is_file()]
        path = files[rng.integers(len(files))]
        changed = bytearray(path.read_bytes())
        kind = rng.choice(["flip", "cut", "grow", "delete"])
        if kind == "flip" and changed:
            for place in rng.integers(0, len(changed), rng.integers(1, 5)):
                changed[place] = rng.integers(0, 256)
        changed = changed[: rng.integers(len(changed) + 1)] if kind == "cut" else changed
        path.write_bytes(changed + rng.bytes(20) * (kind == "grow"))
        if kind == "delete":
            path.unlink()
        try:
            same(fit(tmp_path / "mutated").last()[0], straight[-1][0])
        except CheckpointError:
            refused += 1
        shutil.rmtree(tmp_path / "mutated")
    assert 0 < refused < count  # names of files differ from run to run, and with them what is hit

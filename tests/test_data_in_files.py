"""Trainings on data that stay in files, against those on the same data in memory."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from test_touching import OBJECTIVE, PARAMS, TABLE, N, X, Y, same, trained

import spen_jax as sx
from spen_jax import training
from spen_jax.training import fit, init, touching


def mapped(path, array):
    np.save(path, array)
    return np.load(path, mmap_mode="r")


@pytest.mark.slow
def test_memory_mapped_data_are_the_same_training_to_the_bit(tmp_path):
    x = mapped(tmp_path / "x.npy", X.toarray())
    got = trained(optax.adam(0.1), {"x": x, "y": mapped(tmp_path / "y.npy", Y)})
    want = trained(optax.adam(0.1), {"x": X.toarray(), "y": Y})
    assert [m for _, m in got] == [m for _, m in want]
    same(got[-1][0].params, want[-1][0].params)
    half = trained(optax.adam(0.1), {"x": x, "y": Y})
    same(half[-1][0].params, want[-1][0].params)


def test_sparse_rows_of_a_stored_folder_are_the_same_training_to_the_bit(tmp_path):
    with sx.data.storing(tmp_path / "rows") as writer:
        for first in range(0, N, 16):
            writer.append(x=X[first : first + 16], y=Y[first : first + 16])
    data = sx.data.stored(tmp_path / "rows").fields
    optimizer = touching(optax.adam(0.1), TABLE)
    same(trained(optimizer, data)[-1][0].params, trained(optimizer)[-1][0].params)


@pytest.mark.slow
def test_a_bad_row_of_a_file_is_left_out_of_its_step(tmp_path):
    x = X.toarray()
    x[5] = np.nan
    y = mapped(tmp_path / "y.npy", Y)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("spen_jax.training.fields.SHOWN", 2)  # of large data few rows are looked at
        (_, metrics), *_ = trained(optax.sgd(0.5), {"x": mapped(tmp_path / "x.npy", x), "y": y}, 1)
    assert metrics["left_out"] == 1
    with pytest.raises(ValueError, match=r"data\['x'\] must be finite"):
        trained(optax.sgd(0.5), {"x": mapped(tmp_path / "x.npy", x), "y": y})


@pytest.mark.slow
def test_what_training_writes_into_a_field_of_a_file_is_its_own_and_goes_on(tmp_path):
    def chains(params, batch, key):
        loss, metrics = OBJECTIVE(params, batch, key)
        return loss + 1e-3 * jnp.sum(batch["c"]), metrics | {"c": batch["c"] + 1}

    c = mapped(tmp_path / "c.npy", np.zeros((N, 3), np.float32))
    data = {"x": mapped(tmp_path / "x.npy", X.toarray()), "y": Y, "c": c}
    optimizer = optax.sgd(0.5)
    state = init(jax.tree.map(jnp.asarray, PARAMS), optimizer, jax.random.key(1))
    whole, after = None, training.Checkpoints.after_step
    for folder, last in (("a", None), ("b", 7), ("b", None)):
        kept = training.Checkpoints(tmp_path / folder, every_steps=1, every_minutes=None)

        def after_step(self, steps, *rest, last=last):
            after(self, steps, *rest)
            if steps == last:
                raise KeyboardInterrupt

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(training.Checkpoints, "after_step", after_step)
            epochs = fit(chains, optimizer, state, data, epochs=2, batch_size=16, checkpoints=kept)
            if last:
                with pytest.raises(KeyboardInterrupt):
                    epochs.last()
                continue
            end, metrics = epochs.last()
        whole = whole or (end, metrics)
    assert metrics == whole[1]
    same(end.params, whole[0].params)
    assert not c.any()


MESH = """
import sys
import jax, jax.numpy as jnp, numpy as np, optax
from test_touching import N, OBJECTIVE, PARAMS, X, Y, near
from spen_jax import parallel
from spen_jax.training import fit, init

mesh = parallel.all_cores(4)
parallel.use(None)
np.save(sys.argv[1], X.toarray())
x = np.load(sys.argv[1], mmap_mode="r")


def fussy(params, batch, key):
    loss, metrics = OBJECTIVE(params, batch, key)
    return loss + jnp.where(jnp.any(batch["bad"]), jnp.nan, 0), metrics


def end(x, placed):
    optimizer = optax.sgd(0.5)
    state = placed(init(jax.tree.map(jnp.asarray, PARAMS), optimizer, jax.random.key(1)))
    data = {"x": x, "y": Y, "bad": np.arange(N) == 3}
    return fit(fussy, optimizer, state, data, epochs=1, batch_size=16).last()


(one, metrics), (got, others) = end(X.toarray(), lambda s: s), end(x, lambda s: parallel.everywhere(s, mesh))
near(one.params, got.params)
print(metrics["left_out"], others["left_out"], len(got.params["in"]["W"].sharding.device_set))
"""


@pytest.mark.slow
def test_rows_of_files_and_of_memory_go_to_devices_together_and_a_bad_one_is_left_out(tmp_path):
    path = os.pathsep.join(map(str, (Path(__file__).parent, Path(__file__).parents[1])))
    done = subprocess.run(
        [sys.executable, "-c", MESH, str(tmp_path / "x.npy")],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert done.stdout.split() == ["1.0", "1.0", "4"], done.stderr

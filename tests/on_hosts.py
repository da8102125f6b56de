"""One of several processes of a device each that train into a folder: `on_hosts.py PORT COUNT NUMBER FOLDER KIND`.

With a COUNT of 1 it is a process as any other. KIND: `whole` for a state that each process has, `cut` for one cut over
them, `mapped` for data that lie in a file. It prints the losses of the epochs that were left, and says each step.
"""

import json
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

import spen_jax as sx

PORT, COUNT, NUMBER, FOLDER, KIND, *REST = sys.argv[1:]
if COUNT != "1":
    address, count = f"localhost:{PORT}", int(COUNT)
    jax.distributed.initialize(address, count, int(NUMBER), heartbeat_timeout_seconds=10)
    sx.parallel.all_devices()

N, D, LABELS, BATCH, EPOCHS = 96, 16, 8, 8, 4
PAUSE = float(REST[0]) if REST else 0.0
FIRST = np.random.default_rng(0).standard_normal((N, D)).astype(np.float32)[5, 0]
OPTIMIZER = optax.adam(0.02)


class Counted(np.memmap):
    """Rows in a file, and how many of them were asked for in parts of a batch."""

    asked = 0

    def __getitem__(self, which):
        if isinstance(which, np.ndarray) and len(which) <= BATCH:
            Counted.asked += len(which)
        return super().__getitem__(which)


def objective(params, batch, key):
    """With chance, chains that are written back, and one row that is never finite."""
    noise = jax.random.normal(key, batch["y"].shape) / 10
    error = batch["x"] @ params["w"] + params["b"] + noise - batch["y"]
    error = jnp.where(batch["x"][:, :1] == FIRST, jnp.nan, error)
    metrics = {"loss": jnp.mean(error**2)}
    if "chains" in batch:
        metrics["chains"] = batch["chains"] * 0.9 + 0.1 * error
        error += 0.1 * batch["chains"]
    return jnp.mean(error**2), metrics


def given():
    """The data, made up alike in all processes."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((N, D)).astype(np.float32)
    y = (x @ rng.standard_normal((D, LABELS))).astype(np.float32)
    if KIND != "mapped":
        return {"x": x, "y": y, "chains": np.zeros_like(y)}
    path = Path(f"{FOLDER}.{COUNT}.{NUMBER}.rows")
    x.tofile(path)
    return {"x": Counted(path, np.float32, "r", shape=x.shape), "y": y}


def main():
    """Trains, and prints what came."""
    params = {"w": jnp.zeros((D, LABELS)), "b": jnp.zeros(LABELS)}
    state = sx.training.init(params, OPTIMIZER, jax.random.key(0))
    if COUNT != "1":
        state = (sx.parallel.sharded if KIND == "cut" else sx.parallel.everywhere)(state)
    kept = sx.training.Checkpoints(FOLDER, every_steps=1, every_minutes=None)
    whole = sx.training.Checkpoints.after_step

    def after_step(self, steps, *rest):
        print(json.dumps({"step": steps}), flush=True)
        time.sleep(PAUSE)
        whole(self, steps, *rest)

    sx.training.Checkpoints.after_step = after_step
    losses, options = {}, {"epochs": EPOCHS, "batch_size": BATCH, "checkpoints": kept}
    for end, metrics in sx.fit(objective, OPTIMIZER, state, given(), **options):  # noqa: B007
        losses[kept.epochs] = metrics["loss"]
    found = {"losses": losses, "rows": Counted.asked, "lie": str(end.params["w"].sharding)}
    found["sum"] = float(np.abs(sx.parallel.fetched(end.params["w"])).sum())
    print(json.dumps(found))


if __name__ == "__main__":
    main()

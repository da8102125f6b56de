"""What docs/do/scale.md needs and no other benchmark times: an epoch's order, steps, rows cut, checkpoints."""

import itertools
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

MILLION, WEIGHTS = 10**6, 16 * 10**6
_Rows = Iterator[tuple[str, float, str]]


def measured() -> list[dict[str, Any]]:
    """A row for each constant, seconds of the processor on one thread but for those of disks."""
    import spen_jax as sx

    sx.parallel.keep_memory()
    # The metrics first: what others free would take them up.
    found = [*_history(), *_order(), *_weights(), *_cuts(), *_checkpoint()]
    return [{"constant": name, "value": value, "unit": unit} for name, value, unit in found]


def _best(function: Callable[[], Any], calls: int = 3) -> float:
    """The least seconds of some calls."""
    seconds = []
    for _ in range(calls):
        began = time.process_time()
        function()
        seconds.append(time.process_time() - began)
    return min(seconds)


def _order() -> _Rows:
    import jax
    import numpy as np

    for millions in (1, 8):
        n = millions * MILLION
        order = lambda n=n: np.asarray(jax.random.permutation(jax.random.key(0), n))  # noqa: E731
        order()
        yield f"order of {millions} million rows", 1e9 * _best(order) / n, "ns a row"


def _weights() -> _Rows:
    """A step whose objective is nothing: what each weight costs by Adam, its checks and its copies."""
    import jax
    import jax.numpy as jnp
    import numpy as np
    import optax

    import spen_jax as sx

    def objective(params, batch, key):
        return jnp.sum(params * batch[0, 0]), {}

    n, optimizer = WEIGHTS, optax.adam(1e-3)
    state = sx.training.init(jnp.ones(n), optimizer, jax.random.key(0))
    rows, data = np.arange(1), jnp.ones((1, 1))

    def step():
        nonlocal state
        state, _ = sx.training.step(objective, optimizer, state, data, rows)
        jax.block_until_ready(state)

    step()
    yield "step of Adam, each weight", 1e9 * _best(step, 5) / n, "ns a weight"


def _cuts() -> _Rows:
    """Rows of 100 of a million features on the host, with their transpose and the touched columns."""
    import numpy as np
    import optax
    from scipy import sparse

    import spen_jax as sx
    from spen_jax.training import feeding

    rng, n, on = np.random.default_rng(0), 50_000, 100
    starts = np.arange(0, n * on + 1, on, dtype=np.int32)
    columns = rng.integers(0, MILLION, (n, on), dtype=np.int32).ravel()
    x = sparse.csr_array((np.ones(n * on, np.float32), columns, starts), (n, MILLION))
    data = sx.sparse.matrices(data={"x": x})
    optimizer = sx.training.touching(optax.adam(1e-3), {"W": "x"})
    began = time.process_time()
    feeding.cut(optimizer, data, np.arange(256))
    first = time.process_time() - began
    yield "how popular columns are, before the first step", 1e9 * first / (n * on), "ns an entry"
    draws = itertools.cycle(rng.integers(0, n, (20, 256)))
    seconds = _best(lambda: feeding.cut(optimizer, data, next(draws)), 10)
    yield "rows cut for touching, of 100 entries", 1e6 * seconds / 256, "us a row"


def _history() -> _Rows:
    """What `fit` keeps of the metrics of each step until its epoch ends."""
    import jax
    import jax.numpy as jnp

    step = jax.jit(lambda i: {"loss": i + 1.0, "last": i + 2.0, "left_out": jnp.where(i > 0, 0, 1)})
    jax.block_until_ready(step(0.0))
    before, kept = _resident(), [step(0.0) for _ in range(20_000)]
    jax.block_until_ready(kept)
    yield "metrics of a step until its epoch ends", (_resident() - before) / len(kept), "bytes"


def _resident():
    """Bytes that this process has in memory."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def _checkpoint() -> _Rows:
    import jax
    import jax.numpy as jnp
    import optax

    import spen_jax as sx
    from spen_jax.training.positions import Position

    state = sx.training.init(jnp.ones(WEIGHTS), optax.adam(1e-3), jax.random.key(0))
    size = sum(a.nbytes for a in jax.tree.leaves((state.params, state.opt_state)))
    position = Position(state, {}, [], state.key, {})
    held = spent = seconds = again = 0.0
    for _ in range(2):  # the first imports Orbax
        with tempfile.TemporaryDirectory() as folder:
            checkpoints = sx.training.Checkpoints(folder, every_steps=1)
            began, spent = time.perf_counter(), time.process_time()
            with checkpoints.training(position, "constants"):
                checkpoints.after_step(1, lambda: position._replace(steps=1), ended=True)
                held = time.perf_counter() - began
            seconds, spent = time.perf_counter() - began, time.process_time() - spent
            began = time.perf_counter()
            checkpoints.read(1)
            again = time.perf_counter() - began
    yield "checkpoint, until the step goes on", 1e9 * held / size, "s a GB"
    yield "checkpoint, until it is whole", 1e9 * seconds / size, "s a GB"
    yield "checkpoint, processor", 1e9 * spent / size, "s a GB"
    yield "checkpoint, read and checked", 1e9 * again / size, "s a GB"

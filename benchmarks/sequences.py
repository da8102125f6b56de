"""Training an energy over sequences: the seconds of a step through unrolled inference, against eager PyTorch.

32 words of 14 letters, 26 values each, features of 192 numbers a letter; E = -s.y + sum y_t'A y_(t+1), and in two of
three rows less two convolutions over windows of 5 and 3 letters, of 32 or of 256 units with softplus; ten steps of
mirror descent on the logits, z <- z / 2 - grad E / 2 from z = s, cross-entropy of the last point, SGD with momentum.
What a user writes: `sx.training.step` with a `ChainSPEN` here, autograd with `create_graph=True` there; jax_plain is
`jit(value_and_grad)` of the same written out as a scan over `jax.grad`.

Claim, one thread: a step of the chain and of windows of 32 units takes at most 0.6 of eager PyTorch's time, of 256
units, where products of matrices take nearly all of it, no more than PyTorch's. Before anything is timed all have
computed the same loss and slopes. About a minute.
"""

import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks import harness

BATCH, PLACES, LABELS, FEATURES = 32, 14, 26, 192
UNITS = (0, 32, 256)  # of the windows; none in a chain alone
SLOW = 100  # units from which on a step of jax_plain takes seconds: it is left out
STEPS, RATE, MOMENTUM, SECONDS, TOLERANCE = 10, 1e-3, 0.9, 5.0, 2e-4

Step = Callable[[], Any]


def random_problem(units: int) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Weights, and features x (B, T, 192) with one-hot letters y, both float32."""
    rng = np.random.default_rng(0)
    shapes = {"W": (FEATURES, LABELS), "A": (LABELS, LABELS)}
    if units:
        shapes |= {"W1": (5, LABELS, units), "W2": (3, units, units), "v": (units,)}
    weights = {
        n: (rng.normal(size=s) / np.prod(s[:-1]) ** 0.5).astype("f") for n, s in shapes.items()
    }
    letters = rng.integers(0, LABELS, (BATCH, PLACES))
    x = rng.normal(size=(BATCH, PLACES, FEATURES)).astype("f")
    return weights, {"x": x, "y": np.eye(LABELS, dtype="f")[letters]}


def spen_jax(units: int) -> tuple[Step, Callable[[], Any]]:
    """`training.step`, and (loss, slopes by name)."""
    import jax
    import optax
    from flax import linen as nn

    import spen_jax as sx

    class Letters(nn.Module):
        def setup(self):
            self.output = nn.Dense(LABELS, use_bias=False)

        def hidden(self, x, train=False, mask=None):
            return x

    windows = (sx.energies.Windows((units, units), (5, 3)),) if units else ()
    spen = sx.energies.ChainSPEN(Letters(), windows)
    features, energy = sx.functions_of(spen)
    predictor = sx.Predictor(
        energy,
        features,
        domain=sx.Simplex(),
        solver=sx.MirrorDescent(0.5, entropy=1.0),
        steps=STEPS,
        start=sx.logits_of(spen),
    )
    objective = sx.objectives.end_to_end(predictor)
    weights, data = random_problem(units)
    params: dict[str, Any] = {"network": {"output": {"kernel": weights["W"]}}}
    params["pairs"] = {"A": weights["A"]}
    if units:
        term = {"W_1": weights["W1"], "W_2": weights["W2"], "v": weights["v"]}
        params["terms_0"] = term | {f"b_{i}": np.zeros(units, "f") for i in (1, 2)}
    optimizer = optax.sgd(RATE, MOMENTUM)
    params, data = jax.device_put((params, data))
    state, rows = sx.training.init(params, optimizer, jax.random.key(0)), np.arange(BATCH)

    def step():
        nonlocal state
        state, metrics = sx.training.step(objective, optimizer, state, data, rows)
        return metrics["loss"].block_until_ready()

    def slopes():
        both = jax.jit(jax.value_and_grad(objective, has_aux=True))
        (loss, _), found = both(params, data, jax.random.key(0))
        return loss, {"W": found["network"]["output"]["kernel"], "A": found["pairs"]["A"]}

    return step, slopes


def jax_plain(units: int) -> tuple[Step, Callable[[], Any]]:
    """The same written out: `jit` of a scan over the energy's gradient."""
    import jax
    import jax.numpy as jnp
    import optax

    def windows(h, W):
        return jax.lax.conv_general_dilated(
            h, W, (1,), "SAME", dimension_numbers=("NWC", "WIO", "NWC")
        )

    def energy(params, s, y):
        total = jnp.sum((y[:, :-1] @ params["A"]) * y[:, 1:]) - jnp.sum(s * y)
        if not units:
            return total
        h = jax.nn.softplus(windows(y, params["W1"]))
        return total - jnp.sum(jax.nn.softplus(windows(h, params["W2"])) @ params["v"])

    def loss(params, data):
        s = data["x"] @ params["W"]

        def move(z, _):
            return z / 2 - jax.grad(energy, 2)(params, s, jax.nn.softmax(z)) / 2, None

        z, _ = jax.lax.scan(move, s, None, STEPS)
        return optax.softmax_cross_entropy(z, data["y"]).sum(1).mean()

    params, data = jax.device_put(random_problem(units))
    optimizer = optax.sgd(RATE, MOMENTUM)
    slope = jax.jit(jax.value_and_grad(loss))

    @jax.jit
    def update(params, state, data):
        value, slopes = jax.value_and_grad(loss)(params, data)
        updates, state = optimizer.update(slopes, state, params)
        return optax.apply_updates(params, updates), state, value

    now, state = params, optimizer.init(params)

    def step():
        nonlocal now, state
        now, state, value = update(now, state, data)
        return value.block_until_ready()

    return step, lambda: slope(params, data)


def torch_eager(units: int) -> tuple[Step, Callable[[], Any]]:
    """The same in PyTorch, operation by operation."""
    import torch
    from torch.nn import functional as F

    weights, data = random_problem(units)
    params = {n: torch.tensor(w, requires_grad=True) for n, w in weights.items()}
    x, y = (torch.from_numpy(data[n]) for n in "xy")
    optimizer = torch.optim.SGD([*params.values()], lr=RATE, momentum=MOMENTUM)

    def windows(h, W):  # channels second, (out, in, size)
        return F.conv1d(h, W.permute(2, 1, 0), padding=len(W) // 2)

    def energy(s, y):
        total = ((y[:, :-1] @ params["A"]) * y[:, 1:]).sum() - (s * y).sum()
        if not units:
            return total
        h = F.softplus(windows(y.transpose(1, 2), params["W1"]))
        h = F.softplus(windows(h, params["W2"]))
        return total - (h * params["v"][None, :, None]).sum()

    def loss():
        s = x @ params["W"]
        z = s
        for _ in range(STEPS):
            at = torch.softmax(z, -1)
            z = z / 2 - torch.autograd.grad(energy(s, at), at, create_graph=True)[0] / 2
        return -(y * torch.log_softmax(z, -1)).sum((1, 2)).mean()

    def step():
        optimizer.zero_grad()
        value = loss()
        value.backward()
        optimizer.step()
        return value.item()

    def slopes():
        optimizer.zero_grad()
        value = loss()
        value.backward()
        return value.item(), {n: p.grad.numpy().copy() for n, p in params.items()}

    return step, slopes


def measure() -> list[dict]:
    """A row for each size and contestant."""
    peers = [torch_eager] * harness.installed("torch_eager")
    rows = []
    for units in UNITS:
        makers = [spen_jax, *[jax_plain] * (units < SLOW), *peers]
        made = {make.__name__: make(units) for make in makers}
        check({name: slopes() for name, (_, slopes) in made.items()})
        steps = {name: step for name, (step, _) in made.items()}
        for step in steps.values():
            harness.first_call(step)
        for name, seconds in harness.interleaved(steps, SECONDS).items():
            rows.append({"units": units, "name": name, "seconds": seconds})
    return rows


def check(found: dict[str, Any]) -> None:
    """SystemExit unless all have the same loss and slopes."""
    loss, slopes = found["spen_jax"]
    for name, (its_loss, its) in found.items():
        pairs = [(loss, its_loss)] + [(slopes[n], its[n]) for n in ("W", "A")]
        for ours, theirs in pairs:
            if np.max(np.abs(ours - theirs)) > TOLERANCE * np.max(np.abs(ours)):
                sys.exit(f"{name} computes another loss or gradient than spen_jax: not timed")


def report(rows: list[dict]) -> str:
    """The table of milliseconds a step, and how many times those of spen_jax."""
    ours = {r["units"]: r["seconds"] for r in rows if r["name"] == "spen_jax"}

    def cells(r):
        energy = f"windows of {r['units']} units" if r["units"] else "chain"
        times = f"{r['seconds'] / ours[r['units']]:.2f}"
        return [energy, r["name"], f"{1e3 * r['seconds']:.2f}", times]

    return harness.table(["", "", "ms a step", "of spen_jax"], map(cells, rows))


if __name__ == "__main__":
    print("\n" + report(harness.on_one_thread(__file__, __doc__, measure)))

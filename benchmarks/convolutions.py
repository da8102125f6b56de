"""Convolutions in loops: inference and training with an energy over images, against plain JAX and eager PyTorch.

E(x, y) = |y - x|^2 / 2 + sum over all places of c.h, where h is four convolutions of y, 7x7 to 32 features, 3x3 to
E(x, y) = |y - x|^2 / 2 + sum over all places of c.h, where h is four convolutions of y, 7x7 to 32 features, 3x3 to 32,
to 48 and to 48, each followed by a softplus, with 2 x 2 means in the middle: 8 images of 40 x 40, 10 steps of gradient

- infer: `minimize`, y alone; training: the gradient of the mean squared error of the last y in all weights, through all
  steps (`objectives.end_to_end`, in PyTorch `create_graph=True`).
- jax_plain is `lax.scan` over `vmap(grad)`; jax_steps the same with its steps written out in Python, where XLA finds
  the fast layout by itself; torch_eager what one writes in PyTorch.
- network: ten SGD steps of a CNN of two `nn.Conv` (16 and 32 channels, batches of 256 images of 16 x 8) by
  `training.scan`, against a Python loop over one jitted plain step (jax_steps) and a plain `lax.scan` (jax_plain).

Claims: inference and training at least ten times as fast as plain JAX and at most 1.3 times the steps written out;
inference at least 1.3 times as fast as eager PyTorch and training level with it; the scanned network at least as fast
as the Python loop. Before anything is timed all have computed equal answers and gradients. About 3 minutes.
"""

import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from benchmarks import harness

IMAGES, SIDE, STEPS, STEP = 8, 40, 10, 0.1
KERNELS = ((7, 1, 32), (3, 32, 32), (3, 32, 48), (3, 48, 48))
"""(size, features in, features out) of each."""
ROWS, NETWORK_STEPS, RATE = 256, 10, 0.01
SECONDS, TOLERANCE = 10.0, 1e-4


def weights() -> dict[str, np.ndarray]:
    """Kernels (height, width, in, out) of variance 1 / fan-in, and the last layer's weights c."""
    rng = np.random.default_rng(0)
    made = {
        f"conv{i}": rng.standard_normal((size, size, n, m)) / (size * n**0.5)
        for i, (size, n, m) in enumerate(KERNELS)
    } | {"c": rng.standard_normal(KERNELS[-1][2]) / KERNELS[-1][2]}
    return {name: w.astype(np.float32) for name, w in made.items()}


def images() -> tuple[np.ndarray, np.ndarray]:
    """(x, truth), noise and less of it, (IMAGES, SIDE, SIDE) each."""
    x = np.random.default_rng(1).standard_normal((IMAGES, SIDE, SIDE)).astype(np.float32)
    return x, x / 2


def energy(params: Any, x: Any, y: Any) -> Any:
    """E of one image, as one writes it with `lax.conv`."""
    import jax.numpy as jnp
    from jax import lax

    from spen_jax.energies import softplus

    h = y[None, :, :, None]
    for i in range(len(KERNELS)):
        if i == 2:
            h = lax.reduce_window(h, 0.0, lax.add, (1, 2, 2, 1), (1, 2, 2, 1), "VALID") / 4
        kernel = params[f"conv{i}"]
        numbers = ("NHWC", "HWIO", "NHWC")
        h = softplus(lax.conv_general_dilated(h, kernel, (1, 1), "SAME", dimension_numbers=numbers))
    return jnp.sum((y - x) ** 2) / 2 + jnp.sum(h @ params["c"])


Task = Callable[[], Any]


def of_spen_jax() -> dict[str, Task]:
    """Ours, as one uses it."""
    import jax
    import jax.numpy as jnp

    import spen_jax as sx
    from spen_jax import objectives

    params, (x, truth) = jax.device_put((weights(), images()))
    options: Any = {"domain": sx.Reals(), "solver": sx.GradientDescent(STEP, momentum=0.0)}

    def infer():
        return sx.minimize(energy, params, x, x, steps=STEPS, **options).y

    def mean_squared(y, truth):
        return jnp.mean((y - truth) ** 2)

    predictor = sx.Predictor(energy, start=lambda context: context, steps=STEPS, **options)
    objective = objectives.end_to_end(predictor, loss=mean_squared)
    slope = jax.jit(jax.grad(lambda *a: objective(*a)[0]))
    batch, key = {"x": x, "y": truth}, jax.random.key(0)
    return {"infer": infer, "train": lambda: slope(params, batch, key)}


def of_jax(in_loop: bool) -> dict[str, Task]:
    """Plain JAX: one scan, or its steps written out."""
    import jax
    import jax.numpy as jnp
    from jax import lax

    params, (x, truth) = jax.device_put((weights(), images()))
    slopes = jax.vmap(jax.grad(energy, 2), (None, 0, 0))

    def find(params, x):
        def step(y, _):
            return y - STEP * slopes(params, x, y), None

        if in_loop:
            return lax.scan(step, x, None, length=STEPS)[0]
        y = x
        for _ in range(STEPS):
            y, _ = step(y, None)
        return y

    infer = jax.jit(find)
    train = jax.jit(jax.grad(lambda p, x: jnp.mean((find(p, x) - truth) ** 2)))
    return {"infer": lambda: infer(params, x), "train": lambda: train(params, x)}


def of_torch() -> dict[str, Task]:
    """The same in PyTorch, operation by operation, its images with channels first."""
    import torch
    from torch.nn import functional as F

    params = {
        name: torch.tensor(
            np.ascontiguousarray(w.transpose(3, 2, 0, 1)) if w.ndim > 1 else w, requires_grad=True
        )
        for name, w in weights().items()
    }
    x, truth = map(torch.from_numpy, images())

    def total(params, y):
        h = y[:, None]
        for i, (size, *_) in enumerate(KERNELS):
            if i == 2:
                h = F.avg_pool2d(h, 2)
            h = F.softplus(F.conv2d(h, params[f"conv{i}"], padding=size // 2))
        return ((y - x) ** 2).sum() / 2 + torch.einsum("ncij,c->", h, params["c"])

    def infer():
        fixed = {name: p.detach() for name, p in params.items()}
        y = x
        for _ in range(STEPS):
            y = y.detach().requires_grad_()
            (slope,) = torch.autograd.grad(total(fixed, y), y)
            y = y - STEP * slope
        return y.detach()

    def train():
        y = x.clone().requires_grad_()
        for _ in range(STEPS):
            (slope,) = torch.autograd.grad(total(params, y), y, create_graph=True)
            y = y - STEP * slope
        loss = ((y - truth) ** 2).mean()
        slopes = torch.autograd.grad(loss, list(params.values()))
        return dict(zip(params, slopes, strict=True))

    return {"infer": infer, "train": train}


def network(name: str) -> Task:
    """Ten steps of a small CNN on as many batches; gives the parameters."""
    import jax
    import jax.numpy as jnp
    import optax
    from flax import linen as nn
    from jax import lax

    from spen_jax import training

    class Network(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.relu(nn.Conv(16, (3, 3))(x))
            x = nn.relu(nn.Conv(32, (3, 3))(x))
            return nn.Dense(10)(jnp.mean(x, (1, 2)))

    module, key = Network(), jax.random.key(0)
    shape = NETWORK_STEPS, ROWS, 16, 8, 1
    batches = jax.random.normal(key, shape), jax.random.randint(key, shape[:2], 0, 10)
    params: Any = jax.jit(module.init)(key, batches[0][0])
    optimizer = optax.sgd(RATE)

    def loss(params, batch, key=None):
        x, y = batch
        scores: Any = module.apply(params, x)
        return optax.softmax_cross_entropy_with_integer_labels(scores, y).mean(), {}

    if name == "spen_jax":
        state = training.init(params, optimizer, key)
        scanned = jax.jit(partial(training.scan, loss, optimizer))
        return lambda: scanned(state, batches)[0].params

    def step(params, batch):
        slope = jax.grad(loss, has_aux=True)(params, batch)[0]
        return jax.tree.map(lambda p, g: p - RATE * g, params, slope), None

    if name == "jax_plain":
        scan = jax.jit(lambda params, batches: lax.scan(step, params, batches)[0])
        return lambda: scan(params, batches)
    one = jax.jit(step)
    each = [jax.tree.map(lambda a, i=i: a[i], batches) for i in range(NETWORK_STEPS)]

    def loop():
        now = params
        for batch in each:
            now, _ = one(now, batch)
        return now

    return loop


def check_equal(task: str, results: dict[str, Any]) -> None:
    """SystemExit where a contestant's numbers differ from plain JAX's."""
    import jax

    wanted = jax.tree.map(np.asarray, results["jax_plain"])
    for name, found in results.items():
        for want, got in zip(jax.tree.leaves(wanted), arrays(found), strict=True):
            error = np.max(np.abs(got - want)) / np.max(np.abs(want))
            if not error < TOLERANCE:
                raise SystemExit(f"{task}: {name} is off by {error:.1e} of the largest number")


def arrays(result: Any) -> list[np.ndarray]:
    """The arrays of a result, in the order and layout of JAX's."""
    import jax

    leaves = jax.tree.leaves(result)
    if isinstance(result, dict) and not isinstance(leaves[0], jax.Array):
        return [
            np.asarray(a).transpose(2, 3, 1, 0) if a.ndim > 1 else np.asarray(a) for a in leaves
        ]
    return [np.asarray(a) for a in leaves]


def measure() -> list[dict[str, Any]]:
    """Rows of --json: task, name, seconds."""
    makers = {
        "spen_jax": of_spen_jax,
        "jax_plain": partial(of_jax, True),
        "jax_steps": partial(of_jax, False),
    }
    if harness.installed("torch_eager"):
        import torch

        torch.set_num_threads(1)
        makers["torch_eager"] = of_torch
    tasks = {name: make() for name, make in makers.items()}
    contestants = {
        task: {name: t[task] for name, t in tasks.items()} for task in ("infer", "train")
    }
    contestants["network"] = {n: network(n) for n in ("spen_jax", "jax_plain", "jax_steps")}
    rows = []
    for task, functions in contestants.items():
        print(f"{task} ...", file=sys.stderr)
        check_equal(task, {name: function() for name, function in functions.items()})
        seconds = harness.interleaved(functions, SECONDS, least=3)
        rows += [{"task": task, "name": name, "seconds": s} for name, s in seconds.items()]
    return rows


def report(rows: list[dict[str, Any]]) -> None:
    """Prints milliseconds of each task, and ours as a ratio to each."""
    names = list(dict.fromkeys(row["name"] for row in rows))
    lines = []
    for task in dict.fromkeys(row["task"] for row in rows):
        of = {row["name"]: row["seconds"] for row in rows if row["task"] == task}
        lines.append([task, *(f"{1e3 * of[n]:,.0f}" if n in of else "" for n in names)])
        ratios = [f"{of[n] / of['spen_jax']:.2f}" if n in of else "" for n in names]
        lines.append(["... of spen_jax", *ratios])
    print("\nMilliseconds, 1 thread, and as a multiple of spen_jax\n")
    print(harness.table(["", *names], lines))


if __name__ == "__main__":
    report(harness.on_one_thread(__file__, __doc__, measure))

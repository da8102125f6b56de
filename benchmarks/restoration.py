"""Denoising by an energy at the size of photographs: inference and training against plain JAX and eager PyTorch.

E(x, y) = |y - x|^2 / 2 + s^2 sum(sqrt(1 + R((y - 1/2) / s)^2) - 1), `Restoration(Denoising(NoiseNetwork(), 1.0))`, R a
network of 115,268 weights with layers at 1/2 and 1/4 of the resolution.

- infer: one image of 256 x 256, 10 steps of gradient descent, in PyTorch by `autograd.grad` of the same function.
- train: the gradient of the mean squared error in all weights, 8 patches of 48 x 48, through one step; what
  `experiments/structure/denoise.py` trains.
- jax_plain is `lax.scan` over `vmap(grad)` of the same energy; torch_eager what one writes in PyTorch.

Claims: inference no slower than eager PyTorch, and at least five times as fast as plain JAX. Before anything is timed
all have computed equal images and gradients. About 2 minutes.
"""

import sys
from typing import Any

import numpy as np

from benchmarks import harness
from benchmarks.convolutions import Task, report

SIDE, STEPS, STEP, LEVEL = 256, 10, 0.3, 25 / 255
PATCHES, PATCH = 8, 48
WIDTHS = 32, 64
SECONDS, TOLERANCE = 10.0, 1e-3


def images(count: int, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Noisy images (count, side, side) and the smooth ones beneath."""
    rng = np.random.default_rng(0)
    waves = np.cumsum(np.cumsum(rng.standard_normal((count, side, side)), 1), 2)
    truth = (waves - waves.min()) / (waves.max() - waves.min())
    return (truth + LEVEL * rng.standard_normal(truth.shape)).astype(np.float32), truth.astype("f")


def problem() -> tuple[Any, Any, Any]:
    """(parameters, features, energy)."""
    import jax

    import spen_jax as sx
    from spen_jax.energies import Denoising, Noisy, Restoration

    module = Restoration(Denoising(sx.networks.NoiseNetwork(WIDTHS), 1.0))
    x = Noisy(np.zeros((1, 8, 8), np.float32), LEVEL)
    params = jax.jit(module.init)(jax.random.key(0), x, x.image)["params"]
    return params, *sx.functions_of(module)


def of_spen_jax() -> dict[str, Task]:
    """Ours, as one uses it."""
    import jax
    import jax.numpy as jnp

    import spen_jax as sx
    from spen_jax.energies import Noisy, from_measurement

    params, features, energy = problem()

    def predictor(steps, size):
        solver = sx.GradientDescent(size, momentum=0.0)
        options: Any = {"domain": sx.Reals(), "solver": solver, "steps": steps}
        return sx.Predictor(energy, features, start=from_measurement, **options)

    restore = predictor(STEPS, STEP)
    x = Noisy(images(1, SIDE)[0], LEVEL)
    seen, truth = images(PATCHES, PATCH)
    batch, key = {"x": Noisy(seen, LEVEL), "y": jnp.asarray(truth)}, jax.random.key(0)
    squared = sx.objectives.end_to_end(predictor(1, 1.0), loss=lambda y, t: jnp.mean((y - t) ** 2))
    slope = jax.jit(jax.grad(lambda *a: squared(*a)[0]))
    return {"infer": lambda: restore(params, x).y, "train": lambda: slope(params, batch, key)}


def of_jax() -> dict[str, Task]:
    """Plain JAX: one scan."""
    import jax
    import jax.numpy as jnp
    from jax import lax

    from spen_jax.energies import Noisy

    params, features, energy = problem()
    slopes = jax.vmap(jax.grad(energy, 2), (None, 0, 0))

    def find(params, seen, steps, size):
        context = features(params, Noisy(seen, LEVEL))

        def step(y, _):
            return y - size * slopes(params, context, y), None

        return lax.scan(step, seen, None, length=steps)[0]

    image = jnp.asarray(images(1, SIDE)[0])
    seen, truth = map(jnp.asarray, images(PATCHES, PATCH))
    infer = jax.jit(lambda p, x: find(p, x, STEPS, STEP))
    train = jax.jit(jax.grad(lambda p, x: jnp.mean((find(p, x, 1, 1.0) - truth) ** 2)))
    return {"infer": lambda: infer(params, image), "train": lambda: train(params, seen)}


def of_torch() -> dict[str, Task]:
    """The same in PyTorch, operation by operation, its images with channels first."""
    import torch
    from torch.nn import functional as F

    network = problem()[0]["prior"]["network"]
    weights = {
        layer: [
            torch.tensor(np.ascontiguousarray(np.asarray(w[name]).transpose(*order)))
            for name, order in (("kernel", (3, 2, 0, 1)), ("bias", (0,)))
        ]
        for layer, w in network.items()
    }
    flat = [a.requires_grad_() for pair in weights.values() for a in pair]

    def conv(h, layer, fixed):
        kernel, bias = (a.detach() if fixed else a for a in weights[layer])
        if layer == "Contrast_0":
            kernel = kernel - kernel.mean((1, 2, 3), keepdim=True)
            return F.conv2d(F.pad(h, (1, 1, 1, 1), mode="replicate"), kernel, bias)
        return F.conv2d(h, kernel, bias, padding=kernel.shape[-1] // 2)

    def gathered(
        h,
    ):  # PyTorch's pixel_unshuffle has the features of one channel; of one it is the same
        return F.pixel_unshuffle(h, 2)

    def total(x, y, fixed):
        u = gathered((y - 0.5)[:, None] / LEVEL)
        fine = F.softplus(conv(F.softplus(conv(u, "Contrast_0", fixed)), "Conv_0", fixed))
        h = F.avg_pool2d(fine, 2)
        for layer in ("Conv_1", "Conv_2", "Conv_3"):
            h = F.softplus(conv(h, layer, fixed))
        h = fine + F.interpolate(conv(h, "Conv_4", fixed), scale_factor=2, mode="nearest")
        found = F.pixel_shuffle(conv(F.softplus(conv(h, "Conv_6", fixed)), "Conv_5", fixed), 2)
        return ((y - x) ** 2).sum() / 2 + LEVEL**2 * ((1 + found**2).sqrt() - 1).sum()

    image = torch.from_numpy(images(1, SIDE)[0])
    seen, truth = map(torch.from_numpy, images(PATCHES, PATCH))

    def infer():
        y = image
        for _ in range(STEPS):
            y = y.detach().requires_grad_()
            (slope,) = torch.autograd.grad(total(image, y, True), y)
            y = y - STEP * slope
        return y.detach()

    def train():
        y = seen.clone().requires_grad_()
        (slope,) = torch.autograd.grad(total(seen, y, False), y, create_graph=True)
        slopes = torch.autograd.grad(((y - slope - truth) ** 2).mean(), flat)
        return [
            np.asarray(a).transpose(2, 3, 1, 0) if a.ndim > 1 else np.asarray(a) for a in slopes
        ]

    return {"infer": infer, "train": train}


def check_equal(task: str, results: dict[str, Any]) -> None:
    """SystemExit where a contestant's numbers differ from ours."""
    import jax

    def arrays(name):
        if task == "train" and name != "torch_eager":
            layers = results[name]["prior"]["network"]
            return [np.asarray(layers[la][w]) for la in layers for w in ("kernel", "bias")]
        return [np.asarray(a) for a in jax.tree.leaves(results[name])]

    wanted = arrays("spen_jax")
    largest = max(np.max(np.abs(a)) for a in wanted)
    for name in results:
        for want, got in zip(wanted, arrays(name), strict=True):
            error = np.max(np.abs(got - want)) / largest
            if not error < TOLERANCE:
                raise SystemExit(f"{task}: {name} is off by {error:.1e} of the largest number")


def measure() -> list[dict[str, Any]]:
    """Rows of --json: task, name, seconds."""
    makers = {"spen_jax": of_spen_jax, "jax_plain": of_jax}
    if harness.installed("torch_eager"):
        import torch

        torch.set_num_threads(1)
        makers["torch_eager"] = of_torch
    tasks = {name: make() for name, make in makers.items()}
    rows = []
    for task in ("infer", "train"):
        print(f"{task} ...", file=sys.stderr)
        functions = {name: of[task] for name, of in tasks.items()}
        check_equal(task, {name: function() for name, function in functions.items()})
        seconds = harness.interleaved(functions, SECONDS, least=3)
        rows += [{"task": task, "name": name, "seconds": s} for name, s in seconds.items()]
    return rows


if __name__ == "__main__":
    report(harness.on_one_thread(__file__, __doc__, measure))

"""How each library's users minimise the energy of problem.py.

A contestant takes a problem and a number of steps, does what need not be repeated, and returns a
function of no arguments: one inference, which gives the points it reached, (B, LABELS). What it
compiles takes the problem's arrays as arguments, so that problems of one size share it.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np

from benchmarks.problem import (
    GLOBAL,
    HIDDEN,
    LABELS,
    MOMENTUM,
    STEP,
    Problem,
    jax_arrays,
    plain_energy,
    random_problem,
)

Run = Callable[[], Any]
Contestant = Callable[[Problem, int], Run]


def _spread(params: Any, *batch: Any) -> tuple[Any, ...]:
    """Where several devices are in use, the parameters on all of them, and a large batch that they divide cut in parts.

    Before the clock starts; other batches are left for `minimize` to spread, or not.
    """
    import jax

    from spen_jax.parallel import everywhere, split

    rows = len(batch[-1])
    if rows < 256:
        return params, *batch
    return everywhere(params), *(batch if rows % jax.device_count() else split(batch))


def spen_jax(problem: Problem, steps: int) -> Run:
    """The public interface, with the energy as a plain function."""
    from spen_jax import minimize

    energy, (params, logits, start) = plain_energy(), _spread(*jax_arrays(problem))
    return lambda: minimize(energy, params, logits, start, steps=steps).y


@lru_cache
def _compiled(steps: int, batch: int):
    import jax

    from spen_jax import minimize

    loop = jax.jit(lambda *arrays: minimize(plain_energy(), *arrays, steps=steps))
    return loop.lower(*_spread(*jax_arrays(random_problem(batch)))).compile()


def spen_jax_compiled(problem: Problem, steps: int) -> Run:
    """The same, compiled ahead of time: what is left out is the overhead of calling `minimize`."""
    arrays = _spread(*jax_arrays(problem))
    loop = _compiled(steps, len(problem.start))
    return lambda: loop(*arrays).y


@lru_cache
def _dense_energy():
    import flax.linen as nn

    from spen_jax.energies import softplus

    class Energy(nn.Module):
        @nn.compact
        def __call__(self, logits, y):
            units = softplus(nn.Dense(GLOBAL, name="C1")(y))
            return nn.Dense(1, use_bias=False, name="c2")(units)[0] - logits @ y

    def energy(params, logits, y) -> Any:
        return Energy().apply({"params": params}, logits, y)

    return energy


def spen_jax_dense(problem: Problem, steps: int) -> Run:
    """The energy of `flax.linen.Dense` layers, which multiply from the right, `y @ W`."""
    import jax

    from spen_jax import minimize

    _, logits, start = jax_arrays(problem)
    weights = {"C1": {"kernel": problem.C1.T.copy(), "bias": problem.b}}
    params = jax.device_put(weights | {"c2": {"kernel": problem.c2[:, None]}})
    params, logits, start = _spread(params, logits, start)
    return lambda: minimize(_dense_energy(), params, logits, start, steps=steps).y


def spen_jax_flax(problem: Problem, steps: int) -> Run:
    """The ready-made network; its features are computed beforehand, as users do once per batch."""
    import jax

    from spen_jax import SPEN, FeatureNetwork, functions_of, minimize

    model: Any = SPEN(FeatureNetwork(LABELS, (HIDDEN,)), GLOBAL)
    features, energy = functions_of(model)
    params, _, start = jax_arrays(problem)
    # The hidden layer is the identity, since h is the features already and relu leaves them alone.
    identity = {"kernel": np.eye(HIDDEN, dtype=np.float32), "bias": np.zeros(HIDDEN, np.float32)}
    network = {"hidden_0": identity, "output": {"kernel": problem.W.T, "bias": problem.d}}
    params = jax.device_put(params | {"network": network})
    params, context, start = _spread(params, jax.jit(features)(params, problem.h), start)
    return lambda: minimize(energy, params, context, start, steps=steps).y


@lru_cache
def _jax_solver(steps: int):
    import jax
    import jax.numpy as jnp

    def energy(y, params, logits):
        return params["c2"] @ jax.nn.softplus(params["C1"] @ y + params["b"]) - logits @ y

    def solve(start, params, logits):
        def step(carry, _):
            y, velocity = carry
            velocity = MOMENTUM * velocity + jax.grad(energy)(y, params, logits)
            return (jnp.clip(y - STEP * velocity, 0, 1), velocity), None

        return jax.lax.scan(step, (start, jnp.zeros_like(start)), length=steps)[0][0]

    return jax.jit(jax.vmap(solve, (0, None, 0)))


def jax_plain(problem: Problem, steps: int) -> Run:
    """`jit(vmap(scan(grad)))` with `jax.nn.softplus`, as one writes it without a library."""
    solve, (params, logits, start) = _jax_solver(steps), jax_arrays(problem)
    return lambda: solve(start, params, logits)


@lru_cache
def _optax_step():
    import jax
    import jax.numpy as jnp
    import optax

    gradient = jax.vmap(jax.grad(plain_energy(), argnums=2), (None, 0, 0))
    optimizer = optax.sgd(STEP, momentum=MOMENTUM)

    @jax.jit
    def step(y, state, params, logits):
        updates, state = optimizer.update(gradient(params, logits, y), state)
        return jax.tree.map(lambda a: jnp.clip(a, 0, 1), optax.apply_updates(y, updates)), state

    return jax.jit(optimizer.init), step


def optax_loop(problem: Problem, steps: int) -> Run:
    """A Python loop over a jit-compiled step of Optax's SGD with momentum, then a clip."""
    init, step = _optax_step()
    params, logits, start = jax_arrays(problem)

    def run():
        y, state = start, init(start)
        for _ in range(steps):
            y, state = step(y, state, params, logits)
        return y

    return run


@lru_cache
def _jaxopt_solver(steps: int):
    import jax
    from jaxopt import ProjectedGradient
    from jaxopt.projection import projection_box

    energy = plain_energy()

    def total(y, params, logits):
        return jax.vmap(energy, (None, 0, 0))(params, logits, y).sum()

    solver = ProjectedGradient(
        total,
        projection_box,
        stepsize=STEP,
        maxiter=steps,
        tol=0.0,
        acceleration=False,
        implicit_diff=False,
    )
    return jax.jit(lambda start, *rest: solver.run(start, (0.0, 1.0), *rest).params)


def jaxopt(problem: Problem, steps: int) -> Run:
    """`ProjectedGradient` on the sum of the energies, jit-compiled, without its line search.

    A step is one value and gradient, one projection and the norm of the change. It has no momentum:
    a little less work, and another answer after as many steps.
    """
    solve, (params, logits, start) = _jaxopt_solver(steps), jax_arrays(problem)
    return lambda: solve(start, params, logits)


def tensor(array: np.ndarray) -> Any:
    """A tensor on PyTorch's default device."""
    import torch

    return torch.from_numpy(array).to(torch.get_default_device())


def torch_eager(problem: Problem, steps: int, hoisted: bool = False) -> Run:
    """An `nn.Module` with its local term inside the step, autograd, `torch.optim.SGD`, `clamp_`.

    The weights ask for no gradient, so that `backward` computes only that of y. With `hoisted` the
    potentials W h + d are computed beforehand.
    """
    import torch
    from torch import nn

    class Energy(nn.Module):
        def __init__(self):
            super().__init__()
            units, labels = problem.C1.shape
            self.local = nn.Linear(HIDDEN, labels)
            self.C1 = nn.Linear(labels, units)
            self.c2 = nn.Linear(units, 1, bias=False)

        def forward(self, h, y):
            return self.given(self.local(h), y)

        def given(self, logits, y):
            units = nn.functional.softplus(self.C1(y))
            return self.c2(units).squeeze(-1) - (y * logits).sum(-1)

    module = Energy().requires_grad_(False)
    weights = {"local.weight": problem.W, "local.bias": problem.d, "c2.weight": problem.c2[None]}
    weights |= {"C1.weight": problem.C1, "C1.bias": problem.b}
    module.load_state_dict({name: tensor(w) for name, w in weights.items()})
    h, start = tensor(problem.h), tensor(problem.start)
    logits = module.local(h)

    def run():
        y = start.clone().requires_grad_()
        optimizer = torch.optim.SGD([y], lr=STEP, momentum=MOMENTUM)
        for _ in range(steps):
            optimizer.zero_grad()
            energy = module.given(logits, y) if hoisted else module(h, y)
            energy.sum().backward()
            optimizer.step()
            with torch.no_grad():
                y.clamp_(0, 1)
        return y.detach()

    return run


def torch_eager_hoisted(problem: Problem, steps: int) -> Run:
    """`torch_eager` with the potentials computed beforehand."""
    return torch_eager(problem, steps, hoisted=True)


@lru_cache
def _torch_loop():
    import torch
    from torch.nn import functional as F

    def loop(y, logits, C1, b, c2, steps: int):
        def total(y):
            return (F.softplus(F.linear(y, C1, b)) @ c2).sum() - (y * logits).sum()

        gradient, velocity = torch.func.grad(total), torch.zeros_like(y)
        for _ in range(steps):
            velocity = MOMENTUM * velocity + gradient(y)
            y = (y - STEP * velocity).clamp(0, 1)
        return y

    return torch.compile(loop, dynamic=False, fullgraph=True)


def torch_compile(problem: Problem, steps: int) -> Run:
    """All steps as one graph of `torch.compile`, the potentials computed beforehand."""
    import torch

    loop, p = _torch_loop(), problem
    y, logits, C1, b, c2 = map(tensor, (p.start, p.logits, p.C1, p.b, p.c2))

    def run():
        with torch.no_grad():
            return loop(y, logits, C1, b, c2, steps)

    return run


CONTESTANTS: dict[str, Contestant] = {
    "spen_jax": spen_jax,
    "spen_jax_compiled": spen_jax_compiled,
    "spen_jax_dense": spen_jax_dense,
    "spen_jax_flax": spen_jax_flax,
    "jax_plain": jax_plain,
    "optax_loop": optax_loop,
    "jaxopt": jaxopt,
    "torch_eager": torch_eager,
    "torch_eager_hoisted": torch_eager_hoisted,
    "torch_compile": torch_compile,
}
"""The library first, then its peers."""

OWN_ITERATION = {name: "moved" for name in CONTESTANTS if name.startswith("spen_jax")}
OWN_ITERATION["jaxopt"] = "no momentum"
"""Whose iteration is not that of SGD with momentum followed by a clip.

The velocity of SGD keeps growing against a bound; the momentum of `spen_jax.GradientDescent` is
that of the points themselves. Where no bound is reached the two are the same. jaxopt's has no
momentum.
"""

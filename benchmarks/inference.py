"""How many example-steps per second does inference reach, and how many do its peers?

An example-step is one step of the minimisation of one example's energy over its labels; a run of `steps` steps on
a batch makes batch x steps of them. The energy is the SPEN of Belanger & McCallum (2016) at the size of the BibTeX
data set, E(h, y) = -(W h + d).y + c2.softplus(C1 y + b), with 150 hidden units h, 159 labels y in [0, 1]
and 16 global units; 30 steps of size 0.1 with momentum 0.95. Claim: on one thread, at batches of 512 and 2,515,
`spen_jax.minimize` makes at least 5 times the steps of PyTorch's autograd and no fewer than `torch.compile`.

Takes about 3 minutes with the default options. benchmarks/README.md says how to read the tables.
"""

import argparse
import sys
import time
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import harness
import numpy as np

LABELS, HIDDEN, GLOBAL = 159, 150, 16
STEP, MOMENTUM = 0.1, 0.95
OPTIONAL = "torch", "jaxopt"
PACKAGES = "jax", "jaxlib", "flax", "optax", "torch", "jaxopt", "numpy"


class Problem(NamedTuple):
    """One energy and one batch of B examples, as float32 NumPy arrays."""

    W: np.ndarray
    """(LABELS, HIDDEN)."""
    d: np.ndarray
    """(LABELS,)."""
    C1: np.ndarray
    """(GLOBAL, LABELS)."""
    b: np.ndarray
    """(GLOBAL,)."""
    c2: np.ndarray
    """(GLOBAL,)."""
    h: np.ndarray
    """The features, (B, HIDDEN)."""
    start: np.ndarray
    """The first points, (B, LABELS), all 1/2."""

    @property
    def logits(self) -> np.ndarray:
        """W h + d of each example, (B, LABELS)."""
        return self.h @ self.W.T + self.d


Run = Callable[[], Any]
"""One inference; returns the points it reached, (B, LABELS), as an array of its library."""


def random_problem(batch: int, seed: int = 0) -> Problem:
    """A problem with normally distributed weights of the size that training starts from, and features max(0, normal)."""
    rng = np.random.default_rng(seed)

    def normal(*shape: int, scale: float = 1.0) -> np.ndarray:
        return (scale * rng.standard_normal(shape)).astype(np.float32)

    return Problem(
        W=normal(LABELS, HIDDEN, scale=HIDDEN**-0.5),
        d=normal(LABELS),
        C1=normal(GLOBAL, LABELS, scale=LABELS**-0.5),
        b=normal(GLOBAL),
        c2=normal(GLOBAL),
        h=np.maximum(normal(batch, HIDDEN), 0),
        start=np.full((batch, LABELS), 0.5, np.float32),
    )


def interior(problem: Problem, steps: int) -> Problem:
    """The problem with its energy scaled down so far that no point comes nearer than 0.05 to a bound.

    No |dE/dy_i| exceeds G = max|logits| + max_i sum_j |c2_j C1_ji|. The t-th step with momentum m is then no longer
    than STEP G (1 + m + ... + m^(t-1)); their sum is made 0.45.
    """
    slope = np.abs(problem.logits).max() + (np.abs(problem.c2) @ np.abs(problem.C1)).max()
    path = STEP * sum((1 - MOMENTUM**t) / (1 - MOMENTUM) for t in range(1, steps + 1))
    scale = np.float32(0.45 / (path * slope))
    return problem._replace(W=scale * problem.W, d=scale * problem.d, c2=scale * problem.c2)


def energies(problem: Problem, y: np.ndarray) -> np.ndarray:
    """E(h, y) in float64, (B, LABELS) -> (B,): the judge of all contestants."""
    y = y.astype(np.float64)
    units = np.logaddexp(y @ problem.C1.T + problem.b, 0)
    return units @ problem.c2 - np.sum(y * problem.logits, -1)


# Each contestant takes a problem and a number of steps and returns a Run. What is compiled takes the problem's arrays as
# arguments, so that two problems of one size share it.


@lru_cache
def _plain_energy():
    from spen_jax.energies import softplus

    def energy(params, logits, y):
        return params["c2"] @ softplus(params["C1"] @ y + params["b"]) - logits @ y

    return energy


def _jax_arrays(problem: Problem):
    import jax

    params = {name: getattr(problem, name) for name in ("C1", "b", "c2")}
    return jax.device_put((params, problem.logits, problem.start))


def spen_jax(problem: Problem, steps: int) -> Run:
    """The public interface, with the energy as a plain function."""
    from spen_jax import minimize

    energy, (params, logits, start) = _plain_energy(), _jax_arrays(problem)
    return lambda: minimize(energy, params, logits, start, steps=steps).y


def spen_jax_flax(problem: Problem, steps: int) -> Run:
    """The ready-made network; its features are computed before the clock starts, as once per batch."""
    import jax

    from spen_jax import SPEN, FeatureNetwork, functions_of, minimize

    model = SPEN(FeatureNetwork(LABELS, (HIDDEN,)), GLOBAL)
    features, energy = functions_of(model)
    params, _, start = _jax_arrays(problem)
    # An identity as the hidden layer: the problem's features are not negative, and relu leaves them as they are.
    identity = {"kernel": np.eye(HIDDEN, dtype=np.float32), "bias": np.zeros(HIDDEN, np.float32)}
    network = {"hidden_0": identity, "output": {"kernel": problem.W.T, "bias": problem.d}}
    params = jax.device_put(params | {"network": network})
    context = jax.jit(features)(params, problem.h)
    return lambda: minimize(energy, params, context, start, steps=steps).y


def torch_eager(problem: Problem, steps: int, hoisted: bool = False) -> Run:
    """An `nn.Module`, its local term inside the step, autograd, `torch.optim.SGD` and `clamp_`.

    The weights ask for no gradient, so that `backward` computes only that of y. `hoisted`: the local
    term's potentials are computed once, before the clock starts.
    """
    import torch
    from torch import nn

    class Energy(nn.Module):
        def __init__(self):
            super().__init__()
            self.local = nn.Linear(HIDDEN, LABELS)
            self.C1 = nn.Linear(LABELS, GLOBAL)
            self.c2 = nn.Linear(GLOBAL, 1, bias=False)

        def forward(self, h, y):
            return self.given(self.local(h), y)

        def given(self, logits, y):
            units = nn.functional.softplus(self.C1(y))
            return self.c2(units).squeeze(-1) - (y * logits).sum(-1)

    module = Energy().requires_grad_(False)
    weights = {"local.weight": problem.W, "local.bias": problem.d, "c2.weight": problem.c2[None]}
    weights |= {"C1.weight": problem.C1, "C1.bias": problem.b}
    module.load_state_dict({name: torch.from_numpy(w) for name, w in weights.items()})
    h, start = torch.from_numpy(problem.h), torch.from_numpy(problem.start)
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
    """`torch_eager` with the local term's potentials computed before the clock starts."""
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
    """The loop over all steps as one graph of `torch.compile`, the gradient by `torch.func.grad`, potentials hoisted."""
    import torch

    torch._dynamo.config.recompile_limit = 64
    loop, p = _torch_loop(), problem
    arrays = [torch.from_numpy(a) for a in (p.start, p.logits, p.C1, p.b, p.c2)]

    @torch.no_grad()
    def run():
        return loop(*arrays, steps)

    return run


@lru_cache
def _jaxopt_solver(steps: int):
    import jax
    from jaxopt import ProjectedGradient
    from jaxopt.projection import projection_box

    energy = _plain_energy()

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
    return jax.jit(
        lambda start, params, logits: solver.run(start, (0.0, 1.0), params, logits).params
    )


def jaxopt(problem: Problem, steps: int) -> Run:
    """`ProjectedGradient` on the sum of the energies, jit-compiled: one value and gradient and one error norm a step.

    It has no momentum, so that its steps are a little cheaper and its answer is another.
    """
    solve, (params, logits, start) = _jaxopt_solver(steps), _jax_arrays(problem)
    return lambda: solve(start, params, logits)


@lru_cache
def _optax_step():
    import jax
    import jax.numpy as jnp
    import optax

    gradient = jax.vmap(jax.grad(_plain_energy(), argnums=2), (None, 0, 0))
    optimizer = optax.sgd(STEP, momentum=MOMENTUM)

    @jax.jit
    def step(y, state, params, logits):
        updates, state = optimizer.update(gradient(params, logits, y), state)
        return jnp.clip(optax.apply_updates(y, updates), 0, 1), state

    return jax.jit(optimizer.init), step


def optax_loop(problem: Problem, steps: int) -> Run:
    """A Python loop over a jit-compiled step of Optax's SGD with momentum, then a clip."""
    init, step = _optax_step()
    params, logits, start = _jax_arrays(problem)

    def run():
        y, state = start, init(start)
        for _ in range(steps):
            y, state = step(y, state, params, logits)
        return y

    return run


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
    solve, (params, logits, start) = _jax_solver(steps), _jax_arrays(problem)
    return lambda: solve(start, params, logits)


CONTESTANTS: dict[str, Callable[[Problem, int], Run]] = {
    f.__name__: f
    for f in (
        spen_jax,
        spen_jax_flax,
        jax_plain,
        optax_loop,
        jaxopt,
        torch_eager,
        torch_eager_hoisted,
        torch_compile,
    )
}
# The velocity of SGD keeps growing against a bound, where that of `GradientDescent` is what the points really moved:
# where no bound is reached the two are one iteration, elsewhere two. jaxopt's has no momentum.
ITERATION = dict.fromkeys(CONTESTANTS, "velocity")
ITERATION |= {"spen_jax": "moved", "spen_jax_flax": "moved", "jaxopt": "plain"}


def check(
    problem: Problem, names: list[str], steps: int, tolerance: float = 1e-3
) -> dict[str, float]:
    """The seconds of each contestant's first call, after seeing that they all solve the same problem.

    Where no bound is reached, all points agree with a loop in NumPy. On the problem itself, contestants with the same
    iteration agree on every point, and those with momentum reach the same mean energy within 2 %.

    Raises:
      RuntimeError: where two of them disagree.
    """
    seconds, inside = {}, interior(problem, steps)
    found, families, reached = {}, {}, {}
    for name in names:
        y, seconds[name] = harness.first_call(CONTESTANTS[name](inside, steps))
        momentum = 0.0 if ITERATION[name] == "plain" else MOMENTUM
        _same(name, y, "NumPy, inside the bounds,", _numpy_loop(inside, steps, momentum), tolerance)
        found[name] = np.asarray(CONTESTANTS[name](problem, steps)())
        other = families.setdefault(ITERATION[name], name)
        _same(name, found[name], other, found[other], tolerance)
        reached[name] = float(energies(problem, found[name]).mean())
    best = min(reached.values())
    for name, value in reached.items():
        if ITERATION[name] != "plain" and value - best > 0.02 * abs(best):
            raise RuntimeError(
                f"{name} reached a mean energy of {value:.4f}, the best is {best:.4f}"
            )
    return seconds


def _numpy_loop(problem: Problem, steps: int, momentum: float) -> np.ndarray:
    """The iteration without bounds, in float64."""
    y, velocity, logits = problem.start.astype(np.float64), 0.0, problem.logits
    for _ in range(steps):
        units = 1 / (1 + np.exp(-(y @ problem.C1.T + problem.b)))
        velocity = momentum * velocity + (units * problem.c2) @ problem.C1 - logits
        y = y - STEP * velocity
    return y


def _same(name, y, other, expected, tolerance):
    gap = float(np.abs(np.asarray(y) - np.asarray(expected)).max())
    if not gap <= tolerance:
        raise RuntimeError(f"{name} and {other} differ by {gap:.2g} after the same steps")


def operations() -> int:
    """Floating-point operations of one example-step: two products with C1, 8 for each label, 6 for each unit.

    A label: y - y_before, times momentum, plus y, local and global gradient added, times the step, subtracted, two
    comparisons (the last two fused with others' cost counted once). A unit: bias, sigmoid as 4, times c2.
    """
    return 4 * LABELS * GLOBAL + 8 * LABELS + 6 * GLOBAL


def matrix_rate(seconds: float, clock: Callable[[], float]) -> float:
    """Floating-point operations per second of JAX's matrix product, the better of two sizes that stay in caches."""
    import jax
    import jax.numpy as jnp

    product = jax.jit(jnp.matmul)
    squares = {n: jnp.ones((n, n), jnp.float32) for n in (256, 512)}
    runs = {str(n): lambda a=a: product(a, a) for n, a in squares.items()}
    medians = harness.interleaved(runs, seconds, clock)
    return max(2 * n**3 / medians[str(n)] for n in squares)


def measure(threads: int, options: argparse.Namespace) -> dict[str, Any]:
    """All rows of one number of threads, and what could not be measured."""
    harness.pin(threads)
    names, missing = [], []
    for name in options.names:
        try:
            CONTESTANTS[name](random_problem(1), 1)
            names.append(name)
        except ModuleNotFoundError as error:
            if error.name not in OPTIONAL:
                raise
            missing.append(f"{name} is left out: {error.name} is not installed")
    if any("torch" in name for name in names):
        import torch

        torch.set_num_threads(threads)
    rows = []
    clock = time.process_time if threads == 1 else time.perf_counter
    rate = matrix_rate(min(1.0, options.seconds), clock)
    for batch in options.batches:
        running = [n for n in names if n != "torch_compile" or batch in options.compile_batches]
        problem = random_problem(batch)
        print(f"threads {threads}, batch {batch}: compiling and comparing", file=sys.stderr)
        first = check(problem, running, options.steps)
        runs = {name: CONTESTANTS[name](problem, options.steps) for name in running}
        for name, median in harness.interleaved(runs, options.seconds, clock).items():
            speed = batch * options.steps / median
            rows.append(
                {
                    "name": name,
                    "batch": batch,
                    "threads": threads,
                    "steps": options.steps,
                    "example_steps_per_second": speed,
                    "median_seconds": median,
                    "compile_seconds": max(0.0, first[name] - median),
                    "roofline": speed * operations() / rate,
                }
            )
    return {"rows": rows, "missing": missing, "matrix_rate": rate}


def report(rows: list[dict[str, Any]], threads: int, rate: float) -> None:
    """Prints the tables of one number of threads."""
    rows = [row for row in rows if row["threads"] == threads]
    names = list(dict.fromkeys(row["name"] for row in rows))
    batches = list(dict.fromkeys(row["batch"] for row in rows))
    cells = {(row["name"], row["batch"]): row for row in rows}
    own = names[0]

    def show(title, names, cell):
        print(f"\n{title}, {threads} thread{'s' * (threads > 1)}\n")
        lines = [
            [name, *(cell(cells[name, b]) if (name, b) in cells else "-" for b in batches)]
            for name in names
        ]
        print(harness.table(["", *(f"batch {b}" for b in batches)], lines))

    def ratio(row):
        speed = cells[own, row["batch"]]["example_steps_per_second"]
        return f"{speed / row['example_steps_per_second']:.2f}"

    show("Million example-steps per second", names, lambda r: _speed(r))
    show(f"{own} / peer", names[1:], ratio)
    show("Seconds to compile", names, lambda r: f"{r['compile_seconds']:.1f}")
    print(
        f"\n{operations():,} floating-point operations an example-step; a JAX matrix product runs at {rate / 1e9:.0f} "
        f"GFLOP/s, which makes {rate / operations() / 1e6:.1f} million example-steps per second the roofline."
    )
    for batch in batches:
        print(f"{own}, batch {batch}: {100 * cells[own, batch]['roofline']:.1f} % of the roofline")


def _speed(row):
    return f"{row['example_steps_per_second'] / 1e6:.3g}"


def main(arguments: list[str] | None = None) -> None:
    """Parses the options, measures each number of threads in its own process and reports."""
    arguments = sys.argv[1:] if arguments is None else arguments
    options = parse(arguments)
    if options.worker:
        return harness.write_json(options.json, measure(options.worker, options))
    print(harness.machine(PACKAGES))
    rows = []
    for threads in options.threads:
        answer = harness.fresh_process(__file__, [*arguments, "--worker", str(threads)], threads)
        for line in answer["missing"]:
            print(line)
        report(answer["rows"], threads, answer["matrix_rate"])
        rows += answer["rows"]
        if options.json:
            harness.write_json(options.json, rows)


def parse(arguments: list[str]) -> argparse.Namespace:
    """The options; `names` are the contestants that run, spen_jax first."""
    cpus = len(harness.available_cpus())

    def numbers(text: str) -> list[int]:
        values = list(dict.fromkeys(cpus if v == "all" else int(v) for v in text.split(",")))
        if min(values) < 1:
            raise argparse.ArgumentTypeError(f"expected numbers of 1 or more, got {text}")
        return values

    def peers(text: str) -> list[str]:
        names = [name for name in text.split(",") if name]
        if unknown := set(names) - set(CONTESTANTS) | set(names) & {"spen_jax"}:
            raise argparse.ArgumentTypeError(f"no such peer: {', '.join(sorted(unknown))}")
        return names

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    add = parser.add_argument
    add("--batches", type=numbers, default=[1, 64, 512, 2515], help="batch sizes, by commas")
    add("--threads", type=numbers, default="1,all", help="numbers of threads, by commas; 'all'")
    add("--steps", type=int, default=30, help="steps of one inference")
    add("--seconds", type=float, default=5.0, help="seconds of timing per batch and threads")
    add("--without", type=peers, default=[], help=f"leave out, of {', '.join([*CONTESTANTS][1:])}")
    add(
        "--compile-batches",
        type=numbers,
        default=[512, 2515],
        help="batch sizes at which torch_compile runs, 10 to 25 s of compilation each",
    )
    add("--json", help="file for the rows, a list of objects")
    add("--worker", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    options.names = [name for name in CONTESTANTS if name not in options.without]
    return options


if __name__ == "__main__":
    main()

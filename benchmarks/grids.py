"""Tasks of `benchmarks/structure.py` on grids and small graphs: messages, bounds, variable elimination.

Grids of binary pixels have unary energies of a normal distribution and .4 times a normal for each link's own coupling.
*grid* are marginals by 200 damped flooding steps, jax_logsumexp the same messages as one writes them, four images
padded and summed by `logsumexp`; *grid, gradient* the derivatives of a loss of the marginals in unary energies and
couplings, *grid, MiB* what XLA says these take beside arguments and results, *grid, best* min-sum messages. No step is
left out where nothing moves; of the 200 asked for spen_jax takes 210, 14 blocks of 15. *potts* are bounds of grids of
several values, *potts, gap* how far, in percent, they lie below the linear programme's, the worst of several grids.
*graph* are marginals of 5 x 5 variables of 3 values by elimination.
"""

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from benchmarks import cuts, harness

SIDES = 64, 128, 256
STEPS = 200
POTTS_SIDE, VALUES, SEEDS = 20, 5, 5
GRAPH_SIDE, STATES = 5, 3
SECONDS = 2.0

Task = Callable[[], Any]


def grid_energies(side: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Unary energies (side, side, 2) and couplings (side - 1, side), (side, side - 1)."""
    rng = np.random.default_rng(0)
    shapes = (side, side, 2), (side - 1, side), (side, side - 1)
    unary, down, right = (rng.standard_normal(shape).astype(np.float32) for shape in shapes)
    return unary, np.float32(0.4) * down, np.float32(0.4) * right


def our_grid(unary: Any, down: Any, right: Any) -> Any:
    """Ours; below a tolerance of -1 no change is, so that all steps are taken."""
    from spen_jax.exact import BeliefPropagation, Grid, potts

    method = BeliefPropagation(STEPS, damping=0.5, tolerance=-1.0)
    return Grid(unary, potts(down, 2), potts(right, 2), method=method)


def our_marginals(*energies: Any) -> Any:
    """(H, W, 2)."""
    return our_grid(*energies).marginals().nodes


def plain_beliefs(unary: Any, down: Any, right: Any, cold: bool) -> Any:
    """Logarithms of marginals by messages as one writes them, max-marginals where cold, (H, W, 2)."""
    import jax
    import jax.numpy as jnp

    total = jnp.max if cold else jax.nn.logsumexp
    unlike = 1 - jnp.eye(2)[None, None]
    down, right = (coupling[..., None, None] * unlike for coupling in (down, right))
    borders = ((1, 0), (0, 0)), ((0, 1), (0, 0)), ((0, 0), (1, 0)), ((0, 0), (0, 1))

    def step(messages, _):
        # From above, below, left and right; what leaves a pixel is all but what came from there.
        above, below, left, right_ = (jnp.sum(messages, 0) - unary)[None] - messages
        sent = (
            total(below[:-1, :, :, None] - down, axis=2),
            total(above[1:, :, None, :] - down, axis=3),
            total(right_[:, :-1, :, None] - right, axis=2),
            total(left[:, 1:, None, :] - right, axis=3),
        )
        new = jnp.stack([jnp.pad(m, (*b, (0, 0))) for m, b in zip(sent, borders, strict=True)])
        new = new - total(new, axis=-1, keepdims=True)
        return 0.5 * messages + 0.5 * new, None

    messages, _ = jax.lax.scan(step, jnp.zeros((4, *unary.shape)), length=STEPS)
    return jnp.sum(messages, 0) - unary


def plain_marginals(*energies: Any) -> Any:
    """(H, W, 2)."""
    import jax

    return jax.nn.softmax(plain_beliefs(*energies, cold=False), -1)


def compiled_gradient(marginals: Callable[..., Any], energies: Any) -> Any:
    """The derivatives of a loss of the marginals in all energies, compiled."""
    import jax
    import jax.numpy as jnp

    def loss(*energies):
        return jnp.sum(marginals(*energies)[..., 0] ** 2)

    return jax.jit(jax.grad(loss, (0, 1, 2))).lower(*energies).compile()


MARGINALS = {"spen_jax": our_marginals, "jax_logsumexp": plain_marginals}


def grid_tasks() -> tuple[dict[str, dict[str, Task]], list[dict]]:
    """For each question the contestants on the largest grid; and rows of the memory of gradients on each."""
    import jax
    import jax.numpy as jnp

    gradients, rows = {}, []
    given = ()
    for side in SIDES:
        given = jax.device_put(grid_energies(side))
        for name, marginals in MARGINALS.items():
            compiled = compiled_gradient(marginals, given)
            gradients[name] = partial(compiled, *given)
            size = compiled.memory_analysis().temp_size_in_bytes / 2**20
            rows.append({"structure": f"grid, MiB, {side}", "name": name, "value": size})
    best = jax.jit(lambda *energies: our_grid(*energies).best().y)
    plain = jax.jit(lambda *energies: jnp.argmax(plain_beliefs(*energies, cold=True), -1))
    tasks: dict[str, dict[str, Task]] = {
        "grid": {name: partial(jax.jit(f), *given) for name, f in MARGINALS.items()},
        "grid, gradient": gradients,
        "grid, best": {"spen_jax": partial(best, *given), "jax_logsumexp": partial(plain, *given)},
    }
    return tasks, rows


def check_grids(tasks: dict[str, dict[str, Task]]) -> list[dict]:
    """SystemExit where contestants do not agree; rows of the energies of best answers."""
    ours, plain = (tasks["grid"][name]() for name in MARGINALS)
    same = np.allclose(ours, plain, atol=1e-5)
    slopes = [tasks["grid, gradient"][name]() for name in MARGINALS]
    same &= all(np.allclose(a, b, atol=1e-5) for a, b in zip(*slopes, strict=True))
    best = {name: np.asarray(tasks["grid, best"][name]()) for name in MARGINALS}
    energies = {name: cuts.energy_of(y, *grid_energies(SIDES[-1])) for name, y in best.items()}
    # Some pixels' min-sum messages go on changing; spen_jax changes single ones at the end.
    same &= (best["spen_jax"] == best["jax_logsumexp"]).mean() > 0.99
    same &= np.isclose(energies["spen_jax"], energies["jax_logsumexp"], rtol=1e-2)
    if not same:
        raise SystemExit("the contestants do not compute equal answers on grids")
    return [{"structure": "grid, energy", "name": n, "value": e} for n, e in energies.items()]


def potts_energies(seed: int, attractive: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Unary energies and couplings, standard normal; attractive ones are their sizes."""
    rng, side = np.random.default_rng(seed), POTTS_SIDE
    shapes = (side, side, VALUES), (side - 1, side), (side, side - 1)
    unary, down, right = (rng.standard_normal(shape).astype(np.float32) for shape in shapes)
    return (unary, abs(down), abs(right)) if attractive else (unary, down, right)


def potts_methods() -> dict[str, Callable[..., Any]]:
    """Each method's best answer, compiled."""
    import jax

    from spen_jax.exact import DualDecomposition, Grid, LinearProgramme, TreeReweighted, potts

    def best(method, unary, down, right):
        return Grid(unary, potts(down, VALUES), potts(right, VALUES), method=method).best()

    methods = {
        "DualDecomposition": DualDecomposition(),
        "TreeReweighted": TreeReweighted(),
        "LinearProgramme": LinearProgramme(),
    }
    return {name: jax.jit(partial(best, method)) for name, method in methods.items()}


def measure_potts() -> list[dict]:
    """The bounds' gaps over all grids, and the times of the first; SystemExit where one lies above the programme's."""
    rows, methods = [], potts_methods()
    for kind in ("normal", "attractive"):
        gaps = {name: [] for name in methods if name != "LinearProgramme"}
        for seed in range(SEEDS):
            given = potts_energies(seed, kind == "attractive")
            bounds = {name: float(f(*given).bound) for name, f in methods.items()}
            highest = bounds.pop("LinearProgramme")
            for name, bound in bounds.items():
                gaps[name].append(100 * (highest - bound) / abs(highest))
        if min(map(min, gaps.values())) < -1e-4:
            raise SystemExit("a bound of a grid lies above that of the linear programme")
        question = f"potts, gap, {kind}"
        rows += [{"structure": question, "name": n, "value": max(g)} for n, g in gaps.items()]
        given = potts_energies(0, kind == "attractive")
        tasks = {name: partial(f, *given) for name, f in methods.items()}
        rows += timed(f"potts, {kind}", tasks)
    return rows


def graph_energies() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Unary energies (n, K), the pairs of a square's neighbours (m, 2), and their tables (m, K, K)."""
    rng, places = np.random.default_rng(0), np.arange(GRAPH_SIDE**2).reshape(GRAPH_SIDE, -1)
    pairs = np.concatenate(
        [
            np.stack([places[:-1].ravel(), places[1:].ravel()], 1),
            np.stack([places[:, :-1].ravel(), places[:, 1:].ravel()], 1),
        ]
    )
    tables = rng.standard_normal((len(pairs), STATES, STATES))
    return rng.standard_normal((places.size, STATES)), pairs, tables


def graph_tasks() -> dict[str, Task]:
    """Marginals of all variables, (n, K)."""
    import jax

    from spen_jax.exact import Elimination, FactorGraph, Tables

    unary, pairs, tables = graph_energies()

    def ours(unary, tables):
        return FactorGraph(unary, [Tables(pairs, tables)], method=Elimination()).marginals().nodes

    given = jax.device_put((unary.astype(np.float32), tables.astype(np.float32)))
    tasks: dict[str, Task] = {"spen_jax": partial(jax.jit(ours), *given)}
    if harness.installed("pgmpy"):
        tasks["pgmpy"] = of_pgmpy(unary, pairs, tables)
    return tasks


def of_pgmpy(unary: np.ndarray, pairs: np.ndarray, tables: np.ndarray) -> Task:
    """Variable elimination, a query for each variable; its model is made before the clock starts."""
    from pgmpy.factors.discrete import DiscreteFactor  # pyright: ignore[reportMissingImports]
    from pgmpy.inference import VariableElimination  # pyright: ignore[reportMissingImports]
    from pgmpy.models import DiscreteMarkovNetwork  # pyright: ignore[reportMissingImports]

    names = [f"v{i}" for i in range(len(unary))]
    model = DiscreteMarkovNetwork([(names[a], names[b]) for a, b in pairs])
    model.add_factors(
        *(
            DiscreteFactor([name], [STATES], np.exp(-e))
            for name, e in zip(names, unary, strict=True)
        ),
        *(
            DiscreteFactor([names[a], names[b]], [STATES, STATES], np.exp(-e))
            for (a, b), e in zip(pairs, tables, strict=True)
        ),
    )

    def marginals():
        asked: Any = VariableElimination(model)
        found = [asked.query([name], show_progress=False).values for name in names]
        return np.array([weights / weights.sum() for weights in found])

    return marginals


def check_graphs(tasks: dict[str, Task]) -> None:
    """SystemExit where contestants do not agree."""
    found = {name: np.asarray(task()) for name, task in tasks.items()}
    if not all(np.allclose(a, found["spen_jax"], atol=1e-6) for a in found.values()):
        raise SystemExit("the contestants do not compute equal marginals of a graph")


def timed(question: str, contestants: dict[str, Task]) -> list[dict]:
    """A row for each contestant, in seconds of processor time; all of them have been called before."""
    found = harness.interleaved(contestants, SECONDS, clock=time.process_time, least=3)
    return [{"structure": question, "name": n, "batch": 1, "seconds": s} for n, s in found.items()]


def measure() -> list[dict]:
    """A row for each question and contestant."""
    tasks, figures = grid_tasks()
    figures += check_grids(tasks)
    rows = []
    for question, contestants in tasks.items():
        rows += timed(question, contestants)
    contestants = cuts.tasks()
    figures += cuts.check(contestants)
    rows += timed("cut", contestants)
    rows += measure_potts()
    contestants = graph_tasks()
    check_graphs(contestants)
    return rows + timed("graph", contestants) + figures

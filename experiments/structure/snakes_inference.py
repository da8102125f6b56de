"""One pairwise energy, several inferences: what each answers, at what energy, and what a bound certifies."""

from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.structure import snakes_pairwise as pairwise
from experiments.structure.snakes_data import LABELS, Snakes, judged
from spen_jax.exact import BeliefPropagation, MeanField, TreeReweighted
from spen_jax.exact.iterations import repeated
from spen_jax.exact.linear_programme import integer_programme

PROGRAMMED = 10
"""So many grids are answered by the integer programme."""

SURE = 0.01
"""An energy this near to its bound is certified, in nats; energies are some hundred."""


@dataclass(frozen=True)
class FromMeanField(BeliefPropagation):
    """Messages that begin as those of independent pixels with mean field's distributions."""

    def messages(self, field, tables, cold):
        """As `BeliefPropagation`, from another start."""
        ready = field.prepared(tables, None, cold)
        found = MeanField().expectations(field, tables)[1].nodes
        told = tables._replace(nodes=-jnp.log(jnp.maximum(found, 1e-6)))
        first = field.passed(alike := field.prepared(told, None, cold), field.silent(alike))

        def step(messages):
            new = field.passed(ready, messages)
            return jax.tree.map(lambda a, b: (a + b) / 2, messages, new)

        return ready, *repeated(step, first, self.steps, self.tolerance)


ANSWERS = {
    "mean field, 20 steps": pairwise.by_gradient(20),
    "mean field, 200 steps": pairwise.by_gradient(200),
    "belief propagation, 20 steps": pairwise.by_method(BeliefPropagation(steps=20), 1.0),
    "belief propagation, 200 steps": pairwise.by_method(BeliefPropagation(), 1.0),
    "the same from mean field": pairwise.by_method(FromMeanField(), 1.0),
    "min-sum, best answer": pairwise.by_method(BeliefPropagation()),
}


@lru_cache
def bounding(method: Any) -> Any:
    """(params, x) -> the method's best answers and bounds."""
    grid = pairwise.grid_by(method)

    def best(params, x):
        return jax.vmap(partial(grid, params))(pairwise.features(params, x)).best()

    return jax.jit(best)


def compare(params: Any, data: Snakes) -> dict[str, dict[str, float]]:
    """{inference: {"pixels", "snake", "grids", "above", "missed", "certified"}}.

    What is right; the mean energy above the lowest known; % where the truth's is lower than the answer's; % where a
    bound is tight.
    """
    found = {name: np.argmax(p(params, data.x).y, -1) for name, p in ANSWERS.items()}
    bounded = bounding(TreeReweighted())(params, data.x)
    found["tree-reweighted, best answer"] = np.asarray(bounded.y)
    each = {name: energies(params, data.x, y) for name, y in found.items()}
    truth = energies(params, data.x, data.labels)
    lowest = np.min([*each.values(), truth], 0)
    result: dict[str, dict[str, float]] = {
        name: {
            **judged(y, data)._asdict(),
            "above": float(np.mean(each[name] - lowest)),
            "missed": 100 * float(np.mean(truth < each[name] - SURE)),
        }
        for name, y in found.items()
    }
    certified = np.asarray(bounded.gap) < SURE
    result["tree-reweighted, best answer"]["certified"] = 100 * float(np.mean(certified))
    return result


def energies(params: Any, x: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Of whole answers (N, H, W), (N,)."""
    y = np.eye(LABELS, dtype=np.float32)[labels]
    return np.asarray(pairwise.by_gradient(1).energies(params, x, y))


def programmed(params: Any, data: Snakes, seconds: float = 20.0) -> dict[str, float]:
    """Of the first PROGRAMMED grids: % proved to be the best answers, % right, and of the reweighted bound % tight."""
    few = Snakes(*(a[:PROGRAMMED] for a in data))
    bound = np.asarray(bounding(TreeReweighted())(params, data.x).bound)
    best = [programme(params, x, seconds) for x in few.x]
    y = np.stack([np.reshape(one.y, few.x.shape[1:3]) for one in best])
    proved = [one.energy - one.bound < SURE for one in best]
    tight = [one.energy - b < SURE for one, b in zip(best, bound, strict=False)]
    shares = {"proved": 100 * float(np.mean(proved)), "tight": 100 * float(np.mean(tight))}
    return shares | judged(y, few)._asdict()


def programme(params: Any, x: np.ndarray, seconds: float) -> Any:
    """The integer programme of one grid, called as it is: from within a compiled function it needs a second thread."""
    context = jax.tree.map(lambda a: a[0], pairwise.features(params, x[None]))
    grid: Any = pairwise.grid_by(BeliefPropagation())(params, context)
    layout = grid.layout()
    tables = [np.asarray(table[0], float) for _, table in grid.listed(grid.tables())]
    return integer_programme(layout.sizes, layout.scopes, tables, seconds)

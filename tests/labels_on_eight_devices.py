"""Labels spread over eight devices of a CPU against one: answers, and what is said between them, as JSON."""

import re

import jax
import jax.numpy as jnp
import numpy as np

import spen_jax as sx

jax.config.update("jax_num_cpu_devices", 8)

from parallel_problem import collectives, say  # noqa: E402

LABELS, UNITS, BATCH = 512, 16, 8
NETWORK = sx.FeatureNetwork(LABELS, (32,))
SPEN = sx.energies.LabelSPEN(NETWORK, UNITS, entropy=1.0, global_scale=10.0)
FEATURES, ENERGY = sx.functions_of(SPEN)
X = np.random.default_rng(0).normal(size=(BATCH, 20)).astype(np.float32)
PARAMS = SPEN.init(jax.random.key(0), X, jnp.zeros((BATCH, LABELS)))["params"]


def predictor(steps=6):
    return sx.Predictor(ENERGY, FEATURES, start=sx.logits_of(SPEN), steps=steps)


def solve(params, x):
    """The answers alone; energy and residual are sums over labels of their own."""
    return predictor()(params, x).y


def of_loops(compiled):
    """The collectives within loops, each the body of one, and the shapes of what they sum."""
    text = compiled.as_text()
    bodies = re.findall(r"\bbody=%?([\w.\-]+)", text)
    found = []
    for body in bodies:
        start = re.search(rf"^%?{re.escape(body)} .*\{{$", text, re.M)
        inside = text[start.end() : text.index("\n}", start.end())]
        found += re.findall(r"= (\S+?)(?:\{\S*)? all-reduce(?:-start)?\(", inside)
    return found


def on(mesh):
    given = sx.parallel.by_label(PARAMS, LABELS, mesh), sx.parallel.split(X, mesh)
    compiled = jax.jit(solve).lower(*given).compile()
    want, found = predictor()(PARAMS, X), predictor()(*given)
    return {
        "collectives": collectives(compiled),
        "in loops": of_loops(compiled),
        "gap": float(np.max(np.abs(np.asarray(found.y) - np.asarray(want.y)))),
        "energy": float(np.max(np.abs(np.asarray(found.energy) / np.asarray(want.energy) - 1))),
        "rows of W": [shard.data.shape[0] for shard in given[0]["W"].addressable_shards],
        "y lies": str(compiled.output_shardings.spec),
    }


def slope(params, x, y):
    """The gradient of a training step's loss."""
    objective = sx.objectives.end_to_end(predictor(3))
    return jax.grad(lambda p: objective(p, {"x": x, "y": y}, jax.random.key(0))[0])(params)


def of_training(mesh):
    """The largest relative difference of gradients, and whether those of labels lie as these do."""
    y = (np.random.default_rng(1).random((BATCH, LABELS)) < 0.05).astype(np.float32)
    given = sx.parallel.by_label(PARAMS, LABELS, mesh), sx.parallel.split(X, mesh), y
    want, found = jax.jit(slope)(PARAMS, X, y), jax.jit(slope)(*given)
    gaps = jax.tree.map(lambda a, b: np.max(np.abs(a - b)) / np.max(np.abs(a)), want, found)
    return {"gap": float(max(jax.tree.leaves(gaps))), "C lies": str(found["C"].sharding.spec)}


ALONG, BOTH = sx.parallel.label_mesh(), sx.parallel.label_mesh(2)
say({"1 x 8": on(ALONG), "2 x 4": on(BOTH), "training": of_training(ALONG)})

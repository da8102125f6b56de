"""Do weights from PyTorch answer here as they do there? The classes of SPEN notes, trained on BibTeX and moved.

The question: notes print a SPEN as PyTorch classes (`notes_pytorch.py`). Do its weights, written there to a file and
read here, give the same energies, answers and training steps? And what does the notes' example of a training step do?

Expected: the same, to rounding. The notes print no figures.

Protocol: a feature network trained by cross-entropy, then the energy by max-margin, both in PyTorch, on BibTeX's
training rows, one seed; a `.safetensors` written there. Of the 2,515 test rows all 159 labels are decided at 0.5 after
30 inference steps, in both. Then two passes of max-margin more from the same weights on the same batches, in both. The
notes' example (steps 2 to 6) runs on made-up weights of 5 labels, 40 training steps, with the gradients cleared as
printed and as meant. Nothing is chosen, so that no rows validate.
Minutes: about 1 on two cores. Needs PyTorch: `pip install -e '.[experiments,torch]'`.
"""

import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

import spen_jax as sx
from experiments import shared
from experiments.labels.runs import DataDir, Quick, load
from experiments.lecture import runs
from spen_jax import interop

STEP, MOMENTUM, STEPS, RATE, BATCH, GLOBAL, HIDDEN = 0.1, 0.95, 30, 1e-3, 64, 16, 150
SGD = optax.sgd(STEP, momentum=MOMENTUM)  # one object: equal transformations are the same one
ENDS = "printed", "step", "loss"
WORDS = {
    "printed": "nothing cleared, as printed",
    "step": "cleared before a training step",
    "loss": "cleared before the loss: what is meant",
}


@dataclass(frozen=True)
class Config:
    """Weights of PyTorch classes, moved here."""

    epochs: int = 5  # Passes over the training rows, of the feature network and of the energy.
    data_dir: DataDir = None
    out: Path | None = None  # Folder to write, new or empty; runs/from-pytorch-<date> by default.
    quick: Quick = False


class Here(NamedTuple):
    """Our side of the notes' classes."""

    spen: sx.SPEN
    predictor: sx.Predictor
    objective: Any
    optimizer: optax.GradientTransformation


def mean_squared_error(y: jax.Array, truth: jax.Array) -> jax.Array:
    """The mean over the labels of one example, in place of the sum."""
    return jnp.mean((y - truth) ** 2)


def here(labels: int, hidden: int = HIDDEN, units: int = GLOBAL, rate: float = RATE) -> Here:
    """The notes' model, inference, loss and optimizer, with their settings in place of our defaults."""
    spen = sx.SPEN(sx.FeatureNetwork(labels, (hidden, hidden)), n_global=units)
    features, energy = sx.functions_of(spen)
    predictor = sx.Predictor(
        energy, features, start=0.5, shape=(labels,), solver=sx.Optax(SGD), steps=STEPS
    )
    objective = sx.objectives.max_margin(predictor, cost=mean_squared_error, augmented=False)
    return Here(spen, predictor, objective, moving(optax.adam(rate)))


def moving(optimizer: optax.GradientTransformation) -> optax.GradientTransformation:
    """The optimizer on what moves there, B, C1 and c2: features stand still, and what they lack stays 0."""

    def parts(params):
        still = jax.tree.map(lambda _: "stands", params)
        output = still["network"]["output"] | {"kernel": "moves"}
        return still | {
            "network": still["network"] | {"output": output},
            "C1": "moves",
            "c2": "moves",
        }

    return optax.partition({"moves": optimizer, "stands": optax.set_to_zero()}, parts)


def shapes(spen: sx.SPEN, inputs: int) -> Any:
    """The parameters' shapes for rows of so many inputs."""
    x, y = jnp.zeros((1, inputs)), jnp.zeros((1, spen.network.n_labels))
    return jax.eval_shape(spen.init, jax.random.key(0), x, y)["params"]


def example(
    model: Here, params: Any, x: jax.Array, truth: jax.Array, starts: jax.Array, cleared: str
) -> list[float]:
    """The losses of the notes' example, once from each start (N, L), the weights' gradients cleared as `cleared` says.

    What the notes' inference adds to them is the gradient of the sum of the energies of its points; never cleared they
    add up from step to step, as a momentum of 1 does.
    """
    features, energy = sx.functions_of(model.spen)
    options: Any = {"domain": sx.Reals(), "solver": sx.GradientDescent(0.1, 0.0), "steps": 10}
    sgd = optax.sgd(0.01, momentum=1.0 if cleared == "printed" else 0.0)
    optimizer = moving(sgd)

    @jax.jit
    def step(params, opt_state, start):
        def of(params):
            context = features(params, x[None])
            found = sx.minimize(energy, params, context, start[None], trace="y", **options)
            of_one = partial(jax.tree.map, lambda a: a[0])
            energies = jax.vmap(partial(energy, params, of_one(context)))
            correct, wrong = energies(jnp.stack([truth, found.y[0]]))
            loss = sx.losses.hinge(correct, wrong, mean_squared_error(found.y[0], truth))
            met = jnp.sum(energies(found.trace["y"][0, :-1]))
            return loss + (0.0 if cleared == "loss" else met), loss

        slope, loss = jax.grad(of, has_aux=True)(params)
        updates, opt_state = optimizer.update(slope, opt_state, params)
        return optax.apply_updates(params, updates), opt_state, loss

    opt_state, losses = optimizer.init(params), []
    for start in starts:
        params, opt_state, loss = step(params, opt_state, start)
        losses.append(float(loss))
    return losses


def train_there(x: Any, y: Any, epochs: int) -> Any:
    """The notes' trainer after its training on all rows, and its batches' rows (steps, BATCH) for two passes more."""
    import torch

    from experiments.lecture import notes_pytorch as notes

    torch.manual_seed(0)
    mlp = notes.FeatureMLP(x.shape[1], y.shape[1], HIDDEN)
    optimizer = torch.optim.Adam(mlp.parameters(), lr=RATE)
    for rows in batches(len(x), epochs, seed=0):
        optimizer.zero_grad()
        loss = torch.nn.functional.binary_cross_entropy_with_logits(mlp(x[rows]), y[rows])
        loss.backward()
        optimizer.step()
    trainer = notes.SPENClassification(mlp, GLOBAL, learning_rate=RATE)
    for rows in batches(len(x), epochs, seed=1):
        trainer.train_step(x[rows], y[rows])
    trainer.optimizer = torch.optim.Adam(trainer.model.parameters(), lr=RATE)
    return trainer


def batches(n: int, epochs: int, seed: int) -> np.ndarray:
    """Rows of each step, (steps, BATCH)."""
    rng, steps = np.random.default_rng(seed), n // BATCH
    order = [rng.permutation(n)[: steps * BATCH].reshape(steps, BATCH) for _ in range(epochs)]
    return np.concatenate(order)


def timed(call: Any, times: int = 3) -> float:
    """The least seconds of a call, after a first one."""
    call()
    seconds = []
    for _ in range(times):
        began = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - began)
    return min(seconds)


def on_bibtex(config: Config, folder: Path) -> dict[str, Any]:
    """Train there, write, read, and compare answers, losses and times."""
    import torch

    dataset = load("bibtex", config.data_dir, config.quick)
    train, test = (
        {k: np.asarray(getattr(part, k), np.float32) for k in ("x", "y")}
        for part in (dataset.train, dataset.test)
    )
    there = {k: torch.from_numpy(v) for k, v in train.items()}
    trainer = train_there(there["x"], there["y"], 1 if config.quick else config.epochs)
    path = folder / "weights.safetensors"
    interop.write(path, trainer.state_dict())

    labels = train["y"].shape[1]
    ours, names = here(labels), interop.energy_network()
    params = interop.to_params(path, names, shapes(ours.spen, train["x"].shape[1]))
    rows = torch.from_numpy(test["x"])

    def answers_there():
        with torch.no_grad():
            f_x = trainer.feature_extractor.features(rows)
        return trainer.inference(f_x).numpy()

    y_there, y_here = answers_there(), np.asarray(ours.predictor(params, test["x"]).y)
    decided = (y_there > 0.5) == (y_here > 0.5)
    seconds = {
        "there": timed(answers_there),
        "here": timed(lambda: jax.block_until_ready(ours.predictor(params, test["x"]).y)),
    }
    found = {
        "rows": len(test["x"]),
        "decisions": int(decided.size),
        "decisions_that_differ": int((~decided).sum()),
        "rows_that_differ": int((~decided.all(1)).sum()),
        "largest_difference": float(np.abs(y_there - y_here).max()),
        "f1": float(100 * sx.metrics.example_f1(y_here > 0.5, test["y"])),
        "seconds": seconds,
        "synthetic": dataset.synthetic,
    }
    order = batches(len(train["x"]), 2, seed=2)
    began = time.perf_counter()
    found["losses_there"] = [trainer.train_step(there["x"][r], there["y"][r]) for r in order]
    seconds["steps there"] = time.perf_counter() - began
    state = sx.training.init(params, ours.optimizer, jax.random.key(0))
    data, losses = jax.device_put(sx.data.Split(train["x"], train["y"])), []
    sx.training.step(ours.objective, ours.optimizer, state, data, order[0])  # compiles
    began = time.perf_counter()
    for r in order:
        state, metrics = sx.training.step(ours.objective, ours.optimizer, state, data, r)
        losses.append(float(metrics["loss"]))
    seconds["steps here"] = time.perf_counter() - began
    found["losses_here"] = losses
    back = interop.to_arrays(state.params, names, trainer.state_dict())
    now = trainer.state_dict()
    found["weights_differ_by"] = max(float(np.abs(back[n] - now[n].numpy()).max()) for n in now)
    return found


def of_the_example() -> dict[str, dict[str, list[float]]]:
    """The curves of the notes' example, there and here."""
    from experiments.lecture import notes_pytorch as notes

    known = notes.reference()
    ours = here(5, hidden=8, units=4)
    arrays = {n.removeprefix("before."): a for n, a in known.items() if n.startswith("before.")}
    params = interop.to_params(arrays, interop.energy_network(), shapes(ours.spen, 12))
    x, truth, starts = (jnp.asarray(known[name]) for name in ("x", "targets", "starts"))
    return {
        cleared: {
            "there": known[f"curve.{cleared}"].tolist(),
            "here": example(ours, params, x[0], truth[0], starts, cleared),
        }
        for cleared in ENDS
    }


def draw(curves: dict, found: dict, path: Path) -> None:
    """Left the notes' example, right max-margin on BibTeX; dots there, lines here."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
    for color, cleared in zip(("tab:red", "tab:orange", "tab:blue"), ENDS, strict=True):
        there, ours = (np.array(curves[cleared][side]) for side in ("there", "here"))
        left.plot(ours, color=color, label=WORDS[cleared])
        left.plot(there, ".", color=color)
    left.set(title="The notes' example", xlabel="training step", ylabel="loss", yscale="symlog")
    left.set_ylim(0, 1e3)
    right.plot(found["losses_here"], color="tab:blue", lw=1, label="here")
    right.plot(found["losses_there"], ".", ms=3, color="black", label="in PyTorch")
    right.set(
        title="Max-margin on BibTeX, from the same weights", xlabel="training step", ylabel="loss"
    )
    for axis in (left, right):
        axis.legend()
    shared.save_figure(figure, path)


def main(config: Config) -> dict:
    """Run the experiment, write its folder and return the result."""
    try:
        import torch  # noqa: F401
    except ImportError:
        shared.fail("this experiment needs PyTorch: pip install -e '.[experiments,torch]'")
    run = runs.begin(config, "from-pytorch", epochs=1)
    curves, found = of_the_example(), on_bibtex(config, run.folder)
    draw(curves, found, run.folder / "curves.png")
    gaps = np.abs(np.subtract(found["losses_here"], found["losses_there"]))
    seconds = found["seconds"]
    rows = {
        "0/1 decisions that differ": {
            "": f"{found['decisions_that_differ']} of {found['decisions']:,}"
        },
        "largest difference of y": {"": f"{found['largest_difference']:.1g}"},
        "test F1 at 0.5, %": {"": found["f1"]},
        "largest difference of losses, 16 steps more": {"": f"{gaps[:16].max():.1g}"},
        "largest difference of losses, two passes more": {"": f"{gaps.max():.1g}"},
        "largest difference of weights after them": {"": f"{found['weights_differ_by']:.1g}"},
        "prediction, s there / here": {"": f"{seconds['there']:.2f} / {seconds['here']:.2f}"},
        f"{len(gaps)} training steps, s there / here": {
            "": f"{seconds['steps there']:.2f} / {seconds['steps here']:.2f}"
        },
    }
    title = "BibTeX" if not found["synthetic"] else "synthetic corpus"
    table = runs.summary(f"{title}: PyTorch's weights, there and here", rows)
    return run.finish({"example": curves, "bibtex": found}, table, torch=torch.__version__)


if __name__ == "__main__":
    shared.run(main, Config, __doc__, all_cores=False)

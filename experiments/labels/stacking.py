"""An energy on cross-fitted unary potentials: the figures that a SPEN reaches on BibTeX by stacking.

The question: logistic regression, a perceptron, nearest neighbours and ridge regression each say how likely every tag
is. What does it add to let the tags see each other, through a feed-forward network, through an energy, or both?

Expected (example-averaged test F1, percent, one threshold): SPEN 42.2 (Belanger & McCallum 2016), deep value
network 44.7 (Gygli et al. 2017).

The models: S (K, L) are the K experts' logits of an entry's L tags, p = sigmoid(S), and
    E(S, y) = -s.y - H(y) [+ c.softplus(W y + C p + b) + pairs of tags + number of tags],
    s = sum_k a_k S_k + b [+ V relu(U p + d)],
the first bracket in "energy", the second in "control", both in "SPEN" and none in "unaries". All are trained end to
end by one objective through 3 unrolled steps on the logits, with a learned step size, from l = s;
without the first bracket the steps stand still. In each setting the control's hidden layer is as wide as
gives it the SPEN's number of parameters; which setting a model takes, and so its size, validation decides.

Protocol: S of a training row comes from experts fitted on the other four of five seeded folds, S of a test row
from experts fitted on all training rows. (The mean of the five folds' logits did worse for the perceptron and the
neighbours alone, as well for logistic regression, on rows held out of the training rows.) A seeded fifth of the
training rows then chooses, for the SPEN and for its control, one of --trials settings, the same list for both,
by F1 at a tuned threshold, and tunes the decision rules of every model, which is then trained again on all training
rows. The experts behind the S of a validation row have seen neither the row nor its fold; those behind the S of the
other rows have seen some validation rows. Nothing is chosen on test rows.

Minutes: five a seed where the machine was busy with much else.
"""

import time
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from flax import linen as nn
from rich.table import Table

import spen_jax as sx
from experiments import shared
from experiments.labels import figures, protocol, runs
from experiments.labels.experts import EXPERTS, cross_fit
from experiments.labels.models import init_of, predictor_of, task_loss
from experiments.labels.protocol import Model
from experiments.labels.runs import Run
from spen_jax.domains import binary_entropy
from spen_jax.energies import Cardinality, Deep, Pairwise
from spen_jax.training import Phase, Recipe, checkpoints

STEPS = 3
DROPOUT = 0.2
PUBLISHED = (("SPEN", 42.2), ("DVN", 44.7))  # sources: the docstring
RULES = {"tuned": "tuned threshold", "expected": "expected F1"}
TITLES = {
    "unaries": "unaries, recalibrated",
    "control": "+ feed-forward (control)",
    "energy": "+ energy",
    "spen": "+ feed-forward + energy (SPEN)",
}
SEARCHED = "control", "spen"


@dataclass(frozen=True)
class Config:
    """A SPEN on cross-fitted unary potentials, beside its controls."""

    seeds: runs.Seeds = (0,)
    trials: int = 3  # settings that SPEN and control each try; the first are the defaults
    data_dir: runs.DataDir = None
    out: runs.Out = None
    quick: runs.Quick = False


class Stack(nn.Module):
    """E(S, y) = -s.y - H(y) + terms(p, y), s = sum_k a_k S_k + b [+ V relu(U p + d)], p = sigmoid(S).

    Attributes:
      n_labels: L.
      hidden: units of the feed-forward part, a share DROPOUT of which is left out in a training step; 0 leaves it out.
      terms: further terms, modules as in `spen_jax.energies.terms`, which see p.
    """

    n_labels: int
    hidden: int = 0
    terms: tuple[nn.Module, ...] = ()

    @nn.compact
    def features(self, x: jax.Array, train: bool = False) -> dict[str, Any]:
        """The context, S (B, K, L) -> "logits" s (B, L), and "terms"."""
        p = jax.nn.sigmoid(x).reshape(len(x), -1)  # (B, K L)
        a = self.param("a", nn.initializers.constant(1 / x.shape[1]), (x.shape[1],))
        b = self.param("b", nn.initializers.zeros, (1, self.n_labels))
        s = jnp.einsum("bkl,k->bl", x, a) + b
        if self.hidden:
            h = nn.relu(nn.Dense(self.hidden, name="U")(p))
            h = nn.Dropout(DROPOUT, deterministic=not train)(h)
            s += nn.Dense(self.n_labels, kernel_init=nn.initializers.zeros, name="V")(h)
        # The learned step of inference, which no energy sees; `step_size` reads it.
        self.param("log_step", nn.initializers.constant(np.log(0.5)), ())
        return {"logits": s, "terms": [term.features(p, train) for term in self.terms]}

    def energy(self, context: dict[str, Any], y: jax.Array) -> jax.Array:
        """E(S, y) of one example, y of shape (L,)."""
        energy = -context["logits"] @ y - binary_entropy(y)
        for term, own in zip(self.terms, context["terms"], strict=True):
            energy += term.energy(own, y)
        return energy

    def __call__(self, x: jax.Array, y: jax.Array) -> jax.Array:
        """The energies of a batch, (B, K, L) and (B, L) -> (B,); makes `init` see all parameters."""
        return jax.vmap(self.energy)(self.features(x), y)


def step_size(params: Any) -> dict[str, jax.Array]:
    """The learned setting of inference."""
    return {"step_size": jnp.exp(params["log_step"])}


class Settings(NamedTuple):
    """What a trial tries."""

    learning_rate: float = 4e-3
    soft_f1_weight: float = 25.0
    """The loss is cross-entropy + this x (1 - soft F1)."""
    hidden: int = 160  # Units of the SPEN's feed-forward part; the control has more, in proportion


def draw_settings(trials: int) -> list[Settings]:
    """The defaults, then others drawn from a grid without repetition: the same list for SPEN, control and all seeds."""
    grid = [Settings(r, w, h) for r in (4e-3, 8e-3) for w in (25.0, 50.0) for h in (160, 320)]
    grid.remove(Settings())
    order = np.random.default_rng(0).permutation(len(grid))
    return [Settings(), *(grid[i] for i in order)][:trials]


def modules(settings: Settings, n_experts: int, n_labels: int) -> dict[str, Stack]:
    """The four models."""
    energy = Deep((64,), sees_features=True, dropout=DROPOUT), Pairwise(), Cardinality()
    spen = Stack(n_labels, settings.hidden, energy)
    extra = size(spen, n_experts) - size(Stack(n_labels), n_experts)
    # A hidden unit has n_experts L + 1 weights before it and L behind it; V has a bias of L besides.
    hidden = round((extra - n_labels) / ((n_experts + 1) * n_labels + 1))
    return {
        "unaries": Stack(n_labels),
        "control": Stack(n_labels, hidden),
        "energy": Stack(n_labels, 0, energy),
        "spen": spen,
    }


def size(module: Stack, n_experts: int) -> int:
    """The number of parameters."""
    s, labels = jnp.zeros((1, n_experts, module.n_labels)), jnp.zeros((1, module.n_labels))
    params = jax.eval_shape(module.init, jax.random.key(0), s, labels)
    return sum(a.size for a in jax.tree.leaves(params))


@lru_cache(maxsize=256)
def build(name: str, settings: Settings, n_experts: int, n_labels: int, quick: bool) -> Model:
    """A model and its training; the same object for the same settings, so that nothing compiles twice."""
    module = modules(settings, n_experts, n_labels)[name]
    predictor = replace(predictor_of(module, STEPS), settings=step_size)
    loss, weights = task_loss(settings.soft_f1_weight), [t / STEPS for t in range(STEPS + 1)]
    objective = sx.objectives.end_to_end(predictor, loss=loss, weights=weights)
    rate, epochs = settings.learning_rate, 2 if quick else 20
    recipe = Recipe(epochs, rate, 0.1, batch_size=256, average=0.99, keep="last")
    return Model(TITLES[name], init_of(module), (Phase("stack", objective, recipe),), predictor)


def run_seed(run: Run, seed: int, progress: Any) -> dict[str, dict[str, Any]]:
    """Cross-fit, then choose, train again and test each model with one seed; model -> its measures."""
    began = time.perf_counter()
    words, _ = protocol.rows_of(run.dataset, seed, dense=True)
    unaries = cross_fit(words.data, words.test.x, seed, EXPERTS)
    splits = zip((words.data, words.test), unaries, strict=True)
    data, test = (split._replace(x=s) for split, s in splits)
    rows = protocol.parted(data, test, seed)
    result: dict[str, Any] = {"experts": {"seconds": time.perf_counter() - began}}
    for name in TITLES:
        began = time.perf_counter()
        trials = draw_settings(run.config.trials if name in SEARCHED else 1)
        shape = rows.data.x.shape[1:]
        models = [build(name, tried, shape[0], shape[1], run.config.quick) for tried in trials]
        best, scores, outcome = protocol.search(models, rows, seed, progress)
        result[name] = {
            **outcome.measures,
            "validation_f1": [100 * score for score in scores],
            "settings": trials[best]._asdict(),
            "parameters": sum(a.size for a in jax.tree.leaves(outcome.params)),
            "step_size": float(step_size(outcome.params)["step_size"]),
            "seconds": time.perf_counter() - began,
        }
        meta = {"model": name, "seed": seed, "synthetic": run.dataset.synthetic}
        checkpoints.save(run.folder / f"{name}-seed{seed}.spen", outcome.params, meta)
    return result


def draw_figure(result: dict[str, Any], path: Path) -> None:
    """Test F1 of each model, a line for each seed, by both rules."""
    figure, axes = plt.subplots(1, 2, figsize=(11, 4.2), sharey=True)
    ticks = [title.replace("+ ", "+").replace(" ", "\n") for title in TITLES.values()]
    for axis, (rule, title) in zip(axes, RULES.items(), strict=True):
        f1 = np.array([result["models"][name][f"test_f1_{rule}"] for name in TITLES])
        axis.plot(f1, "o-", color="C0", alpha=0.35)
        axis.plot(np.mean(f1, axis=1), "_", color="C1", ms=30, mew=3)
        axis.margins(x=0.12)
        axis.set_xticks(range(len(TITLES)), ticks)
        axis.tick_params(axis="x", labelsize=8)
        ylabel = "" if axis is axes[1] else "test F1, %; a line is a seed, a bar the mean"
        figures.finish(axis, f"{runs.mark(result)}{title}", ylabel=ylabel)
    shared.save_figure(figure, path)


def table_of(result: dict[str, Any]) -> Table:
    """Test F1 by both rules."""
    title = runs.title(result, ", stacking")
    table = Table("", "parameters", *RULES.values(), title=title, title_justify="left")
    for name, text in TITLES.items():
        own = result["models"][name]
        sizes = sorted({f"{size:,}" for size in own["parameters"]}, key=len)
        table.add_row(text, " or ".join(sizes), *runs.cells(own, list(RULES)))
    gains = (shared.mean_and_spread(result["gain_over_control"][rule]) for rule in RULES)
    table.add_row("SPEN less control", "", *gains, end_section=True)
    if not result["synthetic"] and not result["quick"]:
        for name, f1 in PUBLISHED:
            table.add_row(f"published {name}", "", str(f1), "", style="dim")
    return table


def main(config: Config) -> dict[str, Any]:
    """Run all seeds, write the folder, print the table and return the result."""
    shared.check_least(config, trials=1)
    run = runs.begin(config, "stacking")
    with shared.progress_bars() as progress:
        seeds = [run_seed(run, seed, progress) for seed in config.seeds]
    models = {name: runs.by_seed([seed[name] for seed in seeds]) for name in TITLES}
    result = run.write(
        {
            "models": models,
            "gain_over_control": runs.gains(models["spen"], models["control"]),
            "trials": [tried._asdict() for tried in draw_settings(config.trials)],
            "expert_seconds": [seed["experts"]["seconds"] for seed in seeds],
        }
    )
    draw_figure(result, run.folder / "stacking.png")
    return run.say(result, table_of(result))


if __name__ == "__main__":
    shared.run(main, Config, __doc__)

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
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import multilabel
import numpy as np
import shared
import tyro
from flax import linen as nn
from multilabel import Model, Phase, Rows
from rich.table import Table
from scipy.sparse import csr_matrix
from sklearn.linear_model import LogisticRegression

import spen_jax as sx
from spen_jax import checkpoints, losses, terms
from spen_jax.domains import binary_entropy

FOLDS = 5
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

    seeds: tuple[int, ...] = (0,)
    """Seeds of the folds, the validation rows, the parameters and the batches."""

    trials: int = 3
    """Settings that SPEN and control each try on the validation rows; the first are the defaults."""

    data_dir: Path | None = None
    """Folder that holds bibtex/; else SPEN_JAX_DATA, else the cache, else a download."""

    out: Path | None = None
    """Folder to write, new or empty; runs/stacking-<date> by default."""

    quick: bool = False
    """A short run on few rows, to see that everything works; its figures mean nothing."""


# The experts: (x (N, D), y (N, L), seed) -> a function of x (M, D) that gives logits (M, L). Rows of x have length 8.

Expert = Callable[[np.ndarray, np.ndarray, int], Callable[[np.ndarray], Any]]


def logistic_regression(x: np.ndarray, y: np.ndarray, seed: int) -> Callable[[np.ndarray], Any]:
    """scikit-learn's, one for each label, C = 10; where a label is always or never on, its log odds."""

    def sparse(x):
        return csr_matrix(x / 8, dtype=np.float64)  # rows of length 1

    rows, n_on = sparse(x), y.sum(axis=0)
    weights = np.zeros((x.shape[1], y.shape[1]))
    bias = np.log((n_on + 0.5) / (len(y) - n_on + 0.5))
    for label in np.flatnonzero((n_on > 0) & (n_on < len(y))):
        fitted = LogisticRegression(solver="liblinear", C=10).fit(rows, y[:, label])
        weights[:, label], bias[label] = fitted.coef_[0], fitted.intercept_[0]
    return lambda x: sparse(x) @ weights + bias


def perceptron(x: np.ndarray, y: np.ndarray, seed: int) -> Callable[[np.ndarray], Any]:
    """The library's feature network, D-300-L, trained by cross-entropy for 12 epochs."""
    network: Any = sx.FeatureNetwork(y.shape[1], (300,), input_dropout=0.3, dropout=0.5)
    logits, data, key = sx.logits_of(network), sx.data.Split(x, y), jax.random.key(seed)
    trained = shared.train(
        _feed_forward(network),
        shared.initial_params(network, data, key),
        data,
        shared.Recipe(12, 3e-3, 0.1),
        jax.random.fold_in(key, 1),
    )
    return partial(logits, trained.params)


@lru_cache(maxsize=4)
def _feed_forward(network: Any) -> sx.objectives.Objective:
    return sx.feed_forward(sx.logits_of(network))  # the same object, so that folds compile once


def neighbours(
    x: np.ndarray, y: np.ndarray, seed: int, *, k: int, power: int
) -> Callable[[np.ndarray], Any]:
    """The share of the k nearest rows that have the label, weighted by a power of the cosine, as log odds."""
    prior = np.clip(np.mean(y, axis=0, dtype=float), 1e-3, 1 - 1e-3)

    def logits(z):
        cosine = np.maximum(z @ x.T / 64, 0)
        nearest = np.argsort(-cosine, axis=1)[:, :k]
        weights = np.take_along_axis(cosine, nearest, axis=1).astype(float) ** power
        on = np.einsum("mk,mkl->ml", weights, y[nearest])
        # The prior counts as a row at a cosine of about one half, so that no share is 0 or 1.
        share = (on + 0.5**power * prior) / (weights.sum(axis=1, keepdims=True) + 0.5**power)
        return np.log(share) - np.log1p(-share)

    return logits


def ridge(x: np.ndarray, y: np.ndarray, seed: int) -> Callable[[np.ndarray], Any]:
    """Least squares with a penalty of 1, on rows of length 1; its answers 0 and 1 count as logits of -3 and 3."""
    x, mean = x / 8, np.mean(y, axis=0)
    weights = np.linalg.solve(x.T @ x + np.eye(x.shape[1], dtype=x.dtype), x.T @ (y - mean))
    return lambda z: 6 * (z / 8 @ weights + mean) - 3


EXPERTS: tuple[Expert, ...] = (
    logistic_regression,
    perceptron,
    ridge,
    partial(neighbours, k=10, power=3),
    partial(neighbours, k=30, power=3),
    partial(neighbours, k=100, power=5),
)


def cross_fit(
    data: sx.data.Split, test: np.ndarray, seed: int, experts: tuple[Expert, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """S of the training rows, each by experts that saw no row of its fold, and of test rows by experts that saw all.

    Both float32, (N, K, L) and (M, K, L), for K experts. `seed` deals the rows out to the folds, of equal sizes but for
    one row, and seeds the experts.
    """
    n, n_labels = data.y.shape
    fold = np.random.default_rng(seed).permutation(n) % FOLDS
    s = np.zeros((n, len(experts), n_labels), np.float32)
    s_test = np.zeros((len(test), len(experts), n_labels), np.float32)
    for k, expert in enumerate(experts):
        for i in range(FOLDS):
            inside = fold == i
            s[inside, k] = expert(data.x[~inside], data.y[~inside], seed * 10 + i)(data.x[inside])
        s_test[:, k] = expert(data.x, data.y, seed * 10 + FOLDS)(test)
    return s, s_test


class Stack(nn.Module):
    """E(S, y) = -s.y - H(y) + terms(p, y), s = sum_k a_k S_k + b [+ V relu(U p + d)], p = sigmoid(S).

    Attributes:
      n_labels: L.
      hidden: units of the feed-forward part; 0 leaves it out.
      terms: further terms, modules as in `spen_jax.terms`, which see p.
      dropout: share of those units left out in a training step.
    """

    n_labels: int
    hidden: int = 0
    terms: tuple[nn.Module, ...] = ()
    dropout: float = 0.0

    @nn.compact
    def features(self, x: jax.Array, train: bool = False) -> dict[str, Any]:
        """The context, S (B, K, L) -> "logits" s (B, L), and "terms"."""
        p = jax.nn.sigmoid(x).reshape(len(x), -1)  # (B, K L)
        a = self.param("a", nn.initializers.constant(1 / x.shape[1]), (x.shape[1],))
        b = self.param("b", nn.initializers.zeros, (1, self.n_labels))
        s = jnp.einsum("bkl,k->bl", x, a) + b
        if self.hidden:
            h = nn.relu(nn.Dense(self.hidden, name="U")(p))
            h = nn.Dropout(self.dropout, deterministic=not train)(h)
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
    hidden: int = 160
    """Units of the SPEN's feed-forward part; the control has more, in proportion."""


def draw_settings(trials: int) -> list[Settings]:
    """The defaults, then others drawn from a grid without repetition: the same list for SPEN, control and all seeds."""
    grid = [
        Settings(rate, weight, hidden)
        for rate in (4e-3, 8e-3)
        for weight in (25.0, 50.0)
        for hidden in (160, 320)
        if (rate, weight, hidden) != Settings()
    ]
    order = np.random.default_rng(0).permutation(len(grid))
    return [Settings(), *(grid[i] for i in order)][:trials]


def modules(settings: Settings, n_experts: int, n_labels: int) -> dict[str, Stack]:
    """The four models."""
    energy = (
        terms.Deep((64,), sees_features=True, dropout=DROPOUT),
        terms.Pairwise(),
        terms.Cardinality(),
    )
    stack = partial(Stack, n_labels, dropout=DROPOUT)
    spen = stack(settings.hidden, energy)
    extra = size(spen, n_experts) - size(stack(), n_experts)
    # A hidden unit has n_experts L + 1 weights before it and L behind it; V has a bias of L besides.
    hidden = round((extra - n_labels) / ((n_experts + 1) * n_labels + 1))
    return {"unaries": stack(), "control": stack(hidden), "energy": stack(0, energy), "spen": spen}


def size(module: Stack, n_experts: int) -> int:
    """The number of parameters."""
    labels = jnp.zeros((1, module.n_labels))
    s = jnp.zeros((1, n_experts, module.n_labels))
    return sum(
        a.size for a in jax.tree.leaves(jax.eval_shape(module.init, jax.random.key(0), s, labels))
    )


@lru_cache(maxsize=256)
def build(name: str, settings: Settings, n_experts: int, n_labels: int, quick: bool) -> Model:
    """A model and its training; the same object for the same settings, so that nothing compiles twice."""
    module = modules(settings, n_experts, n_labels)[name]
    features, energy = sx.functions_of(module)
    solver = sx.MirrorDescent()

    def loss(y, truth):
        soft_f1 = losses.soft_f1_error(y, truth)
        return losses.cross_entropy(y, truth) + settings.soft_f1_weight * soft_f1

    objective = sx.end_to_end(
        energy,
        features,
        loss=loss,
        weights=[t / STEPS for t in range(STEPS + 1)],
        start=shared.start,
        solver=solver,
        steps=STEPS,
        settings=step_size,
    )

    @jax.jit
    def predict(params, x):
        context = features(params, x)
        found = sx.minimize(
            energy,
            params,
            context,
            shared.start(context),
            solver=solver,
            steps=STEPS,
            settings=step_size(params),
        )
        inside = jnp.clip(found.y, 1e-7, 1 - 1e-7)
        return found.y, jnp.log(inside) - jnp.log1p(-inside), found.residual

    def init(key, x, y):
        return module.init(key, x, y)["params"]

    epochs = 2 if quick else 20
    recipe = shared.Recipe(epochs, settings.learning_rate, 0.1, batch_size=256, average=0.99)
    return Model(TITLES[name], init, (Phase("stack", objective, recipe),), predict)


def fit(model: Model, data: sx.data.Split, seed: int, progress: Any, what: str) -> Any:
    """The averaged parameters after the last epoch."""
    (phase,), key = model.phases, jax.random.key(seed)
    trained = shared.train(
        phase.objective,
        model.init(key, data.x[:1], data.y[:1]),
        data,
        phase.recipe,
        jax.random.fold_in(key, 1),
        progress=progress,
        name=f"seed {seed}: {model.title}, {what}",
    )
    return trained.params


def run_seed(
    config: Config, dataset: sx.data.Dataset, seed: int, progress: Any, folder: Path
) -> dict[str, dict[str, Any]]:
    """Cross-fit, then choose, train again and test each model with one seed; model -> its measures."""
    began = time.perf_counter()
    words = multilabel.rows_of(dataset, seed)
    s, s_test = cross_fit(words.data, words.test.x, seed, EXPERTS)
    data, test = sx.data.Split(s, words.data.y), sx.data.Split(s_test, words.test.y)
    chosen, held_out = sx.data.split(len(s), 0.2, seed)
    part, valid = (jax.tree.map(lambda a, r=r: a[r], data) for r in (chosen, held_out))
    rows = Rows(data, part, valid, test, words.inputs, words.allow_empty)
    result: dict[str, Any] = {"experts": {"seconds": time.perf_counter() - began}}

    for name in TITLES:
        began = time.perf_counter()
        trials = draw_settings(config.trials if name in SEARCHED else 1)
        models = [build(name, tried, *s.shape[1:], config.quick) for tried in trials]
        fits = [fit(model, part, seed, progress, "choosing") for model in models]
        scores = [
            shared.validation_f1(m.predict, valid, p) for m, p in zip(models, fits, strict=True)
        ]
        best = int(np.argmax(scores))
        decisions = multilabel.decide(models[best], fits[best], rows)
        params = fit(models[best], data, seed, progress, "on all rows")
        result[name] = {
            **multilabel.measured(models[best], params, test, decisions),
            "validation_f1": [100 * score for score in scores],
            "settings": trials[best]._asdict(),
            "decisions": decisions._asdict(),
            "parameters": sum(a.size for a in jax.tree.leaves(params)),
            "step_size": float(step_size(params)["step_size"]),
            "seconds": time.perf_counter() - began,
        }
        meta = {"model": name, "seed": seed, "synthetic": dataset.synthetic}
        checkpoints.save(folder / f"{name}-seed{seed}.npz", params, meta)
    return result


def draw_figure(result: dict[str, Any], mark: str, path: Path) -> None:
    """Test F1 of each model, a line for each seed, by both rules."""
    figure, axes = plt.subplots(1, 2, figsize=(11, 4.2), sharey=True)
    ticks = [title.replace("+ ", "+") for title in TITLES.values()]
    for axis, (rule, title) in zip(axes, RULES.items(), strict=True):
        f1 = np.array([result["models"][name][f"test_f1_{rule}"] for name in TITLES])
        axis.plot(f1, "o-", color="C0", alpha=0.35)
        axis.plot(np.mean(f1, axis=1), "_", color="C1", ms=30, mew=3)
        axis.margins(x=0.12)
        axis.set_xticks(range(len(TITLES)), [t.replace(" ", "\n") for t in ticks])
        axis.tick_params(axis="x", labelsize=8)
        axis.set_title(f"{mark}{title}")
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("test F1, %; a line is a seed, a bar the mean")
    shared.save_figure(figure, path)


def report(result: dict[str, Any], folder: Path) -> None:
    """Print the table."""
    seeds = len(result["seeds"])
    title = "test F1 averaged over examples, %" + (
        f", mean ± spread over {seeds} seeds" * (seeds > 1)
    )
    title += " (quick run: these figures mean nothing)" * result["quick"]
    table = Table("", "parameters", *RULES.values(), title=title, title_justify="left")
    for name, text in TITLES.items():
        own = result["models"][name]
        cells = (shared.mean_and_spread(own[f"test_f1_{rule}"]) for rule in RULES)
        sizes = sorted({f"{size:,}" for size in own["parameters"]}, key=len)
        table.add_row(text, " or ".join(sizes), *cells)
    gains = (shared.mean_and_spread(result["gain_over_control"][rule]) for rule in RULES)
    table.add_row("SPEN less control", "", *gains, end_section=True)
    if not result["synthetic"] and not result["quick"]:
        for name, f1 in PUBLISHED:
            table.add_row(f"published {name}", "", str(f1), "", style="dim")
    shared.say(table)
    shared.say(f"{result['seconds']:.0f} s; wrote {folder}")


def main(config: Config) -> dict[str, Any]:
    """Run all seeds, write the folder, print the table and return the result."""
    began = time.perf_counter()
    shared.synthetic = False
    if not config.seeds or len(set(config.seeds)) < len(config.seeds) or min(config.seeds) < 0:
        shared.fail(f"--seeds needs different numbers, 0 or more, got {list(config.seeds)}")
    if config.trials < 1:
        shared.fail(f"--trials needs 1 or more, got {config.trials}")
    dataset = multilabel.load("bibtex", config.data_dir, quick=config.quick)
    folder = shared.new_folder(config.out, "stacking")
    shared.write_json(folder / "config.json", vars(config))
    with shared.progress_bars() as progress:
        runs = [run_seed(config, dataset, seed, progress, folder) for seed in config.seeds]
    of_models = {
        name: {key: [run[name][key] for run in runs] for key in runs[0][name]} for name in TITLES
    }
    result: dict[str, Any] = {
        "models": of_models,
        "gain_over_control": {
            rule: [
                run["spen"][f"test_f1_{rule}"] - run["control"][f"test_f1_{rule}"] for run in runs
            ]
            for rule in RULES
        },
        "trials": [tried._asdict() for tried in draw_settings(config.trials)],
        "seeds": config.seeds,
        "quick": config.quick,
        "synthetic": dataset.synthetic,
        "data": {"name": dataset.name, "checksums": dataset.checksums},
        "expert_seconds": [run["experts"]["seconds"] for run in runs],
        "environment": shared.environment(),
        "seconds": time.perf_counter() - began,
    }
    shared.write_json(folder / "result.json", result)
    mark = "synthetic data: " if dataset.synthetic else "quick run: " if config.quick else ""
    draw_figure(result, mark, folder / "stacking.png")
    report(result, folder)
    return result


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))

"""What must be pushed up? One matcher of digit images, trained by seven losses, against raw pixels.

The question: E(x, y) = D(G(x), G(y)) is to be low for two images of one digit. Which losses teach it to find the images
of the same digit, which collapse, and does what they teach carry over to digits never seen in training?

Expected (LeCun's lectures): the energy loss alone collapses; negatives (InfoNCE, triplets), or VICReg's variance and
covariance in their place, prevent it. No figures are published; raw pixels and PCA are the yardstick.

Protocol: scikit-learn's 1,797 images of 8 x 8 pixels; five seeds, each with a stratified split of 60 % training, 20 %
validation and 20 % test images. A query, a test image, ranks the training images (the gallery) by energy. Case
"seen": all ten digits train and are queried. Case "unseen": 0 to 6 train; 7, 8 and 9 are queried, in a gallery of 7, 8
and 9. Each method tries its three settings at three RATES, and each seed takes the trial of the highest mean average
precision of its validation images: in the case "unseen" after training on 0 to 3, judged on 4 to 6, so that 7 to 9 play
no part. The energy loss, which would choose to learn least, has one rate. Width and dimension were not tuned; steps and
the values to try were narrowed down before on the validation images of splits 100 to 102 (of the same 1,797 images).
*Spread* is the mean over coordinates of the standard deviation of the queries' embeddings (of unit length for the
cosine) over what it was before training; where it is below 0.1 the embedding has *collapsed*.
Minutes: about 2 on two cores.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
import sklearn
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA

import spen_jax as sx
from experiments import shared
from experiments.lecture import runs
from spen_jax import energies, exact, losses, metrics, training
from spen_jax.energies import Matcher
from spen_jax.losses import negatives

PAIRS, DIMENSION, COLLAPSED = 8, 32, 0.1
RATES = (1e-3, 3e-3, 1e-2)
SHOWN = "raw pixels", "untrained network", "energy loss", "InfoNCE", "triplet, hardest", "VICReg"
MEASURES: dict[str, Callable[..., float]] = {
    "accuracy_at_1": partial(metrics.precision_at_k, k=1),
    "precision_at_10": partial(metrics.precision_at_k, k=10),
    "map": metrics.average_precision,
}
NETWORK = sx.FeatureNetwork(DIMENSION, widths=(128,))
EMBED = sx.logits_of(NETWORK)
PAIRWISE = jax.jit(exact.pairwise, static_argnums=0)
COSINE, EUCLIDEAN = Matcher(EMBED, energies.cosine), Matcher(EMBED, energies.euclidean)


@dataclass(frozen=True)
class Config:
    """Contrastive and non-contrastive losses of a matcher of digits."""

    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)  # Splits, initial weights and batches.
    steps: int = 400  # Training steps.
    out: Path | None = None  # Folder to write, new or empty; runs/contrastive-<date> by default.


class Case(NamedTuple):
    """Which digits train and are queried, and which do so while settings are chosen."""

    train: tuple[int, ...]
    test: tuple[int, ...]
    choose_train: tuple[int, ...]
    choose_valid: tuple[int, ...]


ALL = tuple(range(10))
CASES = {"seen": Case(ALL, ALL, ALL, ALL), "unseen": Case(ALL[:7], ALL[7:], ALL[:4], ALL[4:7])}


class Seen(NamedTuple):
    """What a loss may see of B pairs: embeddings (B, D), energies (B, B), the correct ones (B,), which are not."""

    a: jax.Array
    b: jax.Array
    energies: jax.Array
    correct: jax.Array
    wrong: jax.Array
    key: jax.Array


class Method(NamedTuple):
    """An energy, its loss of what is seen and of a setting, and what it tries."""

    matcher: Matcher
    loss: Callable[[Seen, Any], jax.Array]
    settings: tuple[float, ...] = (0.1, 0.3, 1.0)  # margins
    rates: tuple[float, ...] = RATES


def triplet(mine: Callable[[Seen], Any]) -> Method:
    """The hinge loss of one negative for each pair; the setting is the margin."""
    return Method(EUCLIDEAN, lambda e, margin: losses.hinge(e.correct, mine(e).energy, margin))


METHODS = {
    "InfoNCE": Method(
        COSINE,
        lambda e, t: losses.info_nce(e.correct, e.energies, 1 / t, where=e.wrong),
        settings=(0.03, 0.1, 0.3),
    ),
    "triplet, random": triplet(lambda e: negatives.random(e.key, e.energies, e.wrong)),
    "triplet, hardest": triplet(lambda e: negatives.hardest(e.energies, e.wrong)),
    "triplet, semi-hard": triplet(lambda e: negatives.semi_hard(e.energies, e.correct, e.wrong)),
    "triplet, all": Method(
        EUCLIDEAN,
        lambda e, margin: (
            losses.additive_margin(e.correct, e.energies, margin, where=e.wrong)
            / jnp.sum(e.wrong, axis=-1)
        ),
    ),
    "VICReg": Method(EUCLIDEAN, lambda e, c: losses.vicreg(e.a, e.b, covariance=c), (1, 5, 25)),
    "energy loss": Method(EUCLIDEAN, lambda e, _: losses.energy_loss(e.correct), (0,), RATES[1:2]),
}


class Images(NamedTuple):
    """Pixels in [0, 1], (N, 64), digits, (N,), and the rows of each part, (S, M) for S seeds."""

    x: jax.Array
    label: np.ndarray
    train: np.ndarray
    valid: np.ndarray
    test: np.ndarray

    def rows(self, part: str, digits: tuple[int, ...]) -> np.ndarray:
        """Those of a part that show some digits, (S, M)."""
        return np.stack([r[np.isin(self.label[r], digits)] for r in getattr(self, part)])


def load(seeds: tuple[int, ...]) -> tuple[Images, dict[str, Any]]:
    """scikit-learn's digits, split by each seed, and what the data are."""
    x, label = (np.asarray(a) for a in load_digits(return_X_y=True))
    parts = [np.stack(part) for part in zip(*(split(label, s) for s in seeds), strict=True)]
    digest = hashlib.sha256(x.tobytes() + label.tobytes()).hexdigest()
    data = {"name": "sklearn.datasets.load_digits", "images": len(x), "checksum": digest}
    return Images(jnp.asarray(x / 16, jnp.float32), label.astype(np.int32), *parts), data


def split(label: np.ndarray, seed: int) -> list[np.ndarray]:
    """Rows for training, validation and test: 60, 20 and 20 % of each class, in random order."""
    rng, classes = np.random.default_rng(seed), []
    for digit in np.unique(label):
        rows = rng.permutation(np.flatnonzero(label == digit))
        classes.append(np.split(rows, [round(0.6 * len(rows)), round(0.8 * len(rows))]))
    return [rng.permutation(np.concatenate(part)) for part in zip(*classes, strict=True)]


def draw_pairs(seed: int, rows: np.ndarray, label: np.ndarray, steps: int) -> np.ndarray:
    """Rows of the batches, (steps, classes * PAIRS, 2): disjoint pairs of each class."""
    rng, classes = np.random.default_rng(seed), []
    for digit in np.unique(label[rows]):
        shuffled = rng.permuted(np.tile(rows[label[rows] == digit], (steps, 1)), axis=1)
        classes.append(shuffled[:, : 2 * PAIRS].reshape(steps, -1, 2))
    return np.concatenate(classes, axis=1)


def at(tree: Any, i: Any) -> Any:
    """Entry i, or several, along the first axis."""
    return jax.tree.map(lambda a: a[i], tree)


def untrained(seeds: Any) -> Any:
    """The parameters of each seed before training, (S, ...)."""
    keys = jax.vmap(jax.random.key)(jnp.asarray(seeds))
    return jax.vmap(NETWORK.init, (0, None))(keys, jnp.zeros((1, 64)))["params"]


@partial(jax.jit, static_argnames=("method",))
def train(method: Method, data: tuple, batches: jax.Array, seeds: jax.Array, trials: dict) -> Any:
    """The parameters of each trial, (T, ...), after the batches of its seed, (S, steps, B, 2)."""

    def one(start, trial):
        def objective(params, rows, key):
            x, label = (a[rows] for a in data)
            a, b = EMBED(params, x[:, 0]), EMBED(params, x[:, 1])
            matrix = exact.pairwise(method.matcher, params, x[:, 0], x[:, 1])
            wrong = negatives.different(label[:, 0])
            seen = Seen(a, b, matrix, jnp.diagonal(matrix), wrong, key)
            return jnp.mean(method.loss(seen, trial["setting"])), {}

        optimizer = optax.adamw(optax.cosine_decay_schedule(trial["rate"], batches.shape[1]))
        key = jax.random.fold_in(jax.random.key(seeds[trial["place"]]), 1)
        state = training.init(start, optimizer, key)
        return training.scan(objective, optimizer, state, batches[trial["place"]])[0].params

    return jax.vmap(one)(at(untrained(seeds), trials["place"]), trials)


def evaluate(model: tuple, images: Images, queries: Any, galleries: Any, measures: Any) -> dict:
    """What ranking by energy finds: measure -> percent, a list over parameters (T, ...), rows (T, Q) and (T, K)."""
    matcher, params = model
    found: dict[str, list[float]] = {measure: [] for measure in measures}
    for i, (query, gallery) in enumerate(zip(queries, galleries, strict=True)):
        scores = -PAIRWISE(matcher, at(params, i), images.x[query], images.x[gallery])
        relevant = images.label[query][:, None] == images.label[gallery][None]
        for measure, values in found.items():
            values.append(100 * MEASURES[measure](scores, relevant))
    return found


def fit(method: Method, case: Case, images: Images, config: Config) -> tuple[Any, dict]:
    """Choose each seed's trial on its validation images, then train on the digits of the case: (params, trials)."""
    seeds, places = config.seeds, np.arange(len(config.seeds))

    def trained(digits, trials):
        of_seeds = zip(seeds, images.rows("train", digits), strict=True)
        batches = [draw_pairs(s, rows, images.label, config.steps) for s, rows in of_seeds]
        return train(method, images[:2], np.stack(batches), np.array(seeds), trials)

    grid = np.meshgrid(places, method.settings, method.rates, indexing="ij")
    trials = {n: g.ravel() for n, g in zip(("place", "setting", "rate"), grid, strict=True)}
    params = trained(case.choose_train, trials)
    query, gallery = (
        images.rows(p, case.choose_valid)[trials["place"]] for p in ("valid", "train")
    )
    found = evaluate((method.matcher, params), images, query, gallery, ["map"])
    scores = np.reshape(found["map"], (len(seeds), -1))
    best = np.argmax(scores, axis=1) + places * scores.shape[1]
    if case.train == case.choose_train:
        return at(params, best), at(trials, best)
    return trained(case.train, at(trials, best)), at(trials, best)


def yardsticks(case: Case, images: Images, seeds: tuple[int, ...]) -> dict[str, tuple]:
    """What is not trained on pairs: energies and their parameters, (S, ...)."""
    nothing, x = np.zeros((len(seeds), DIMENSION)), np.asarray(images.x)
    pca: Any = (PCA(DIMENSION, random_state=0).fit(x[r]) for r in images.rows("train", case.train))
    # Of a difference of two embeddings the mean has no part.
    axes = {"w": np.stack([p.components_.T for p in pca]), "b": nothing}
    return {
        "raw pixels": (Matcher(lambda _, x: x), nothing),
        "raw pixels, cosine": (Matcher(lambda _, x: x, energies.cosine), nothing),
        "PCA": (Matcher(energies.linear), axes),
        "untrained network": (EUCLIDEAN, untrained(seeds)),
    }


def embedded(matcher: Matcher, params: Any, x: jax.Array) -> np.ndarray:
    """G(x), of unit length where the energy is the cosine."""
    z = np.asarray(matcher.g(params, x))
    cosine = matcher.distance is energies.cosine
    return z / np.linalg.norm(z, axis=1, keepdims=True) if cosine else z


def run_case(case: str, images: Images, config: Config) -> tuple[dict[str, tuple], dict[str, dict]]:
    """Name -> energy and its parameters; name -> figures, each a list over seeds."""
    digits = CASES[case]
    rows = images.rows("test", digits.test), images.rows("train", digits.test)
    models = yardsticks(digits, images, config.seeds)
    figures = {name: evaluate(model, images, *rows, MEASURES) for name, model in models.items()}
    for _, name in runs.tracked([(case, name) for name in METHODS]):
        (matcher, *_), before = METHODS[name], models["untrained network"][1]
        params, trials = fit(METHODS[name], digits, images, config)
        models[name] = matcher, params
        scatters = [
            [embedded(matcher, at(p, i), images.x[r]).std(0).mean() for p in (params, before)]
            for i, r in enumerate(rows[0])
        ]
        spread = np.divide(*np.transpose(scatters))
        figures[name] = evaluate(models[name], images, *rows, MEASURES)
        figures[name] |= {"spread": spread, "collapsed": spread < COLLAPSED, **trials}
    return models, figures


def draw_embedding(models: dict[str, tuple], figures: dict, images: Images, path: Path) -> None:
    """The first two principal components of the test images' embeddings, of the first seed."""
    figure, axes = plt.subplots(2, 3, figsize=(11, 7), layout="constrained")
    rows = images.test[0]
    for axis, name in zip(axes.flat, SHOWN, strict=True):
        matcher, params = models[name]
        z = PCA(2).fit_transform(embedded(matcher, at(params, 0), images.x[rows]))
        points = axis.scatter(*z.T, s=9, c=images.label[rows], cmap="tab10")
        axis.set(title=f"{name}, mAP {figures[name]['map'][0]:.0f} %", xticks=[], yticks=[])
    before, collapsed = axes[0, 1:]
    collapsed.set(xlim=before.get_xlim(), ylim=before.get_ylim())
    collapsed.text(0, before.get_ylim()[0], "same scale as the untrained network\n", ha="center")
    look = {"ncols": 10, "handletextpad": 0, "columnspacing": 1.5, "title": "digit"}
    figure.legend(*points.legend_elements(), loc="outside lower center", **look)
    shared.save_figure(figure, path)


def main(config: Config) -> dict:
    """Run the experiment, write its folder and return the result."""
    run, (images, data) = runs.begin(config, "contrastive"), load(config.seeds)
    tried = {name: {"setting": m.settings, "rate": m.rates} for name, m in METHODS.items()}
    result: dict[str, Any] = {"tried": tried, "data": data}
    tables = []
    for case in CASES:
        models, result[case] = run_case(case, images, config)
        if case == "seen":
            draw_embedding(models, result[case], images, run.folder / "embedding.png")
        title, shown = (
            f"{case} digits: mean ± spread over seeds",
            [*MEASURES, "spread", "collapsed"],
        )
        tables.append(runs.summary(title, result[case], shown))
    return run.finish(result, *tables, **{"scikit-learn": sklearn.__version__})


if __name__ == "__main__":
    shared.run(main, Config, __doc__, all_cores=False)

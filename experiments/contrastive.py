"""What must be pushed up? One matcher of digit images, trained by seven losses, against raw pixels.

The question: E(x, y) = D(G(x), G(y)) is to be low for two images of one digit. Which losses teach it to find the images
of the same digit, which collapse, and does what they teach carry over to digits never seen in training?

Expected (LeCun's lectures): the energy loss alone collapses; negatives (InfoNCE, triplets), or VICReg's variance and
covariance in their place, prevent it. No figures are published; raw pixels and PCA are the yardstick. Measured: on
digits seen in training the six other losses gain about 30 points of mean average precision over raw pixels, at equal
accuracy at 1; on unseen digits all seven are below raw pixels.

Protocol: scikit-learn's 1,797 images of 8 x 8 pixels; five seeds, each with a stratified split of 60 % training, 20 %
validation and 20 % test images. A query, a test image, ranks the training images (the gallery) by energy. Case
"seen": all ten digits train and are queried. Case "unseen": 0 to 6 train; 7, 8 and 9 are queried, in a gallery of 7, 8
and 9. Each method tries its three SETTINGS at three RATES, and each seed takes the trial of the highest mean average
precision of its validation images: in the case "unseen" after training on 0 to 3, judged on 4 to 6, so that 7 to 9 play
no part. The energy loss, which would choose to learn least, has one rate. Width and dimension were not tuned; steps and
the values to try were narrowed down before on the validation images of splits 100 to 102 (of the same 1,797 images).
*Spread* is the mean over coordinates of the standard deviation of the queries' embeddings (of unit length for the
cosine) over what it was before training; where it is below 0.1 the embedding has *collapsed*.
Minutes: about 2 on two cores.
"""

import hashlib
import time
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
import shared
import sklearn
import tyro
from rich.table import Table
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA

import spen_jax as sx
from spen_jax import architectures, gibbs, losses, negatives, training
from spen_jax.architectures import Matcher

METRICS = {"accuracy_at_1": "accuracy at 1", "precision_at_10": "precision at 10", "map": "mAP"}
SETTINGS = {"temperature": (0.03, 0.1, 0.3), "margin": (0.1, 0.3, 1.0), "covariance": (1, 5, 25)}
RATES = (1e-3, 3e-3, 1e-2)
COLLAPSED = 0.1
NEAREST = 7
SHOWN = ("raw pixels", "InfoNCE")
TRIPLET = "triplet, hardest"
Objective = Callable[..., tuple[jax.Array, dict[str, jax.Array]]]


@dataclass(frozen=True)
class Config:
    """Contrastive and non-contrastive losses of a matcher of digits."""

    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    """Splits, initial weights and batches."""

    steps: int = 400
    """Training steps."""

    pairs: int = 8
    """Pairs of each class in a batch."""

    width: int = 128
    """Units of the hidden layer."""

    dimension: int = 32
    """Of the embedding, and of PCA."""

    out: Path | None = None
    """Folder to write, new or empty; runs/contrastive-<date> by default."""


class Case(NamedTuple):
    """Which digits train and are queried, and which do so while settings are chosen."""

    title: str
    train: tuple[int, ...]
    test: tuple[int, ...]
    choose_train: tuple[int, ...]
    choose_valid: tuple[int, ...]


ALL = tuple(range(10))
CASES = {
    "seen": Case("Trained and tested on all digits", ALL, ALL, ALL, ALL),
    "unseen": Case("Trained on 0 to 6, tested on 7 to 9", ALL[:7], ALL[7:], ALL[:4], ALL[4:7]),
}


class Images(NamedTuple):
    """Pixels in [0, 1], (N, 64), and digits, (N,)."""

    x: jax.Array
    label: jax.Array


class Split(NamedTuple):
    """Rows of the images, (S, N) for S seeds."""

    train: np.ndarray
    valid: np.ndarray
    test: np.ndarray


class Method(NamedTuple):
    """An energy and how it is trained: objective(setting, params, batch, key), with the values it tries."""

    matcher: Matcher
    objective: Objective
    settings: tuple[float, ...]
    rates: tuple[float, ...] = RATES


class Trials(NamedTuple):
    """What differs from trial to trial, (T,) each; `place` is the seed's among all seeds."""

    seed: Any
    place: Any
    setting: Any
    rate: Any


def at(params: Any, i: Any) -> Any:
    """The parameters of seed i, or of several."""
    return jax.tree.map(lambda a: a[i], params)


def network_of(config: Config) -> sx.FeatureNetwork:
    """G: one hidden layer, relu."""
    return sx.FeatureNetwork(config.dimension, widths=(config.width,))


def only(rows: np.ndarray, digits: tuple[int, ...], label: np.ndarray) -> np.ndarray:
    """Of each seed's rows, (S, N), those of some digits, (S, M)."""
    return np.stack([of_seed[np.isin(label[of_seed], digits)] for of_seed in rows])


def split(label: np.ndarray, seed: int) -> tuple[np.ndarray, ...]:
    """Rows for training, validation and test: 60, 20 and 20 % of each class, in random order."""
    rng = np.random.default_rng(seed)
    parts = ([], [], [])
    for digit in np.unique(label):
        rows = rng.permutation(np.flatnonzero(label == digit))
        ends = round(0.6 * len(rows)), round(0.8 * len(rows))
        for part, of_digit in zip(parts, np.split(rows, ends), strict=True):
            part.append(of_digit)
    return tuple(rng.permutation(np.concatenate(part)) for part in parts)


def draw_pairs(seed: int, rows: np.ndarray, label: np.ndarray, steps: int, count: int):
    """Rows of the batches, (steps, classes * count, 2): `count` disjoint pairs of each class."""
    rng = np.random.default_rng(seed)
    classes = []
    for digit in np.unique(label[rows]):
        shuffled = rng.permuted(np.tile(rows[label[rows] == digit], (steps, 1)), axis=1)
        classes.append(shuffled[:, : 2 * count].reshape(steps, -1, 2))
    return np.concatenate(classes, axis=1)


def by_energies(matcher: Matcher, loss: Callable[..., jax.Array]) -> Objective:
    """The mean of loss(correct (B,), energies (B, B), wrong (B, B), key, setting) over a batch of pairs."""

    def objective(setting, params, batch, key):
        energies = gibbs.pairwise(matcher, params, batch.x[:, 0], batch.x[:, 1])
        wrong = negatives.different(batch.label[:, 0])
        value = jnp.mean(loss(jnp.diagonal(energies), energies, wrong, key, setting))
        return value, {"loss": value}

    return objective


def methods(network: sx.FeatureNetwork) -> dict[str, Method]:
    """All seven."""
    embed = sx.logits_of(network)
    cosine = Matcher(embed, architectures.cosine)
    euclidean = Matcher(embed, architectures.euclidean)

    def info_nce(correct, energies, wrong, key, temperature):
        return losses.info_nce(correct, energies, temperature, where=wrong)

    def triplet(mine):
        def loss(correct, energies, wrong, key, margin):
            return losses.hinge(correct, mine(correct, energies, wrong, key).energy, margin)

        return Method(euclidean, by_energies(euclidean, loss), SETTINGS["margin"])

    def all_negatives(correct, energies, wrong, key, margin):
        total = losses.additive_margin(correct, energies, margin, where=wrong)
        return total / jnp.sum(wrong, axis=-1)

    def vicreg(covariance, params, batch, key):
        a, b = embed(params, batch.x[:, 0]), embed(params, batch.x[:, 1])
        value = losses.vicreg(a, b, covariance=covariance)
        return value, {"loss": value}

    def energy(correct, *_):
        return losses.energy_loss(correct)

    return {
        "InfoNCE": Method(cosine, by_energies(cosine, info_nce), SETTINGS["temperature"]),
        "triplet, random": triplet(lambda c, e, wrong, key: negatives.random(key, e, wrong)),
        "triplet, hardest": triplet(lambda c, e, wrong, key: negatives.hardest(e, wrong)),
        "triplet, semi-hard": triplet(lambda c, e, wrong, key: negatives.semi_hard(e, c, wrong)),
        "triplet, all": Method(
            euclidean, by_energies(euclidean, all_negatives), SETTINGS["margin"]
        ),
        "VICReg": Method(euclidean, vicreg, SETTINGS["covariance"]),
        "energy loss": Method(euclidean, by_energies(euclidean, energy), (0.0,), RATES[1:2]),
    }


@partial(jax.jit, static_argnames=("objective",))
def train(objective: Objective, params: Any, images: Images, trials: Trials, rows: jax.Array):
    """The parameters of each trial, (T, ...), from `params`, after the batches `rows` of its seed, (S, steps, B, 2)."""

    def one(params, trial):
        optimizer = optax.adamw(optax.cosine_decay_schedule(trial.rate, rows.shape[1]))
        key = jax.random.fold_in(jax.random.key(trial.seed), 1)
        state = training.init(params, optimizer, key)
        of_setting = partial(objective, trial.setting)

        def step(state, batch):
            return training.step(of_setting, optimizer, state, images, batch)

        return jax.lax.scan(step, state, rows[trial.place])[0].params

    return jax.vmap(one)(params, trials)


def retrieval(energies: jax.Array, relevant: jax.Array) -> dict[str, jax.Array]:
    """Means over queries of what ranking by energy finds, energies and relevance (Q, K).

    Average precision is the mean over the relevant answers of the precision down to them.
    """
    hits = jnp.take_along_axis(relevant, gibbs.ranking(energies), axis=-1).astype(float)
    precision = jnp.cumsum(hits, axis=-1) / jnp.arange(1, hits.shape[-1] + 1)[None]
    average = jnp.sum(precision * hits, axis=-1) / jnp.sum(hits, axis=-1)
    return {
        "accuracy_at_1": jnp.mean(hits[:, 0]),
        "precision_at_10": jnp.mean(hits[:, :10]),
        "map": jnp.mean(average),
    }


retrievals = jax.jit(partial(jax.lax.map, lambda both: retrieval(*both)))  # compiled apart, once


@partial(jax.jit, static_argnames=("matcher",))
def energies_of(matcher: Matcher, params: Any, images: Images, query: Any, gallery: Any):
    """The energies of each of T parameters, rows (T, Q) and (T, K): (T, Q, K), and which answers are relevant."""

    def one(values):
        params, query, gallery = values
        energies = gibbs.pairwise(matcher, params, images.x[query], images.x[gallery])
        return energies, ~negatives.different(images.label[query], images.label[gallery])

    return jax.lax.map(one, (params, query, gallery))


def evaluate(*arguments: Any) -> dict[str, np.ndarray]:
    """Retrieval by `energies_of` these arguments: metrics in percent, (T,)."""
    found = jax.device_get(retrievals(energies_of(*arguments)))
    return {metric: 100 * value for metric, value in found.items()}


def untrained(config: Config) -> Any:
    """The parameters of each seed before training, (S, ...)."""

    def one(seed):
        return network_of(config).init(jax.random.key(seed), jnp.zeros((1, 64)))["params"]

    return jax.vmap(one)(np.array(config.seeds))


def fit(method: Method, case: Case, rows: Split, images: Images, config: Config) -> tuple:
    """Choose each seed's trial on its validation images, then train on the digits of the case: (params, trials)."""
    label = np.asarray(images.label)
    places = np.arange(len(config.seeds))

    def trained(digits, trials):
        of_seeds = zip(config.seeds, only(rows.train, digits, label), strict=True)
        batches = [draw_pairs(s, r, label, config.steps, config.pairs) for s, r in of_seeds]
        start = at(untrained(config), trials.place)
        return train(method.objective, start, images, trials, np.stack(batches))

    grid = np.meshgrid(places, method.settings, method.rates, indexing="ij")
    place = grid[0].ravel()
    trials = Trials(np.array(config.seeds)[place], *(g.ravel() for g in grid))
    params = trained(case.choose_train, trials)
    queries, gallery = (only(r, case.choose_valid, label) for r in (rows.valid, rows.train))
    found = evaluate(method.matcher, params, images, queries[place], gallery[place])
    scores = found["map"].reshape(len(places), -1)
    best = np.argmax(scores, axis=1) + places * scores.shape[1]
    if case.train == case.choose_train:
        return at(params, best), at(trials, best)
    return trained(case.train, at(trials, best)), at(trials, best)


def yardsticks(case: Case, rows: Split, images: Images, config: Config) -> dict[str, tuple]:
    """What is not trained on pairs: energies and their parameters, (S, ...)."""
    linear = []
    for train_rows in only(rows.train, case.train, np.asarray(images.label)):
        pca = PCA(config.dimension, random_state=0).fit(np.asarray(images.x)[train_rows])
        axes = np.asarray(pca.components_).T
        linear.append({"w": axes, "b": -pca.mean_ @ axes})
    nothing = np.zeros(len(config.seeds))

    def pixels(_, x):
        return x

    return {
        "raw pixels": (Matcher(pixels), nothing),
        "raw pixels, cosine": (Matcher(pixels, architectures.cosine), nothing),
        "PCA": (Matcher(architectures.linear), jax.tree.map(lambda *a: np.stack(a), *linear)),
        "untrained network": (Matcher(sx.logits_of(network_of(config))), untrained(config)),
    }


def embedding(matcher: Matcher, params: Any, x: jax.Array) -> np.ndarray:
    """G(x), of unit length where the energy is the cosine."""
    z = np.asarray(matcher.g(params, x))
    cosine = matcher.distance is architectures.cosine
    return z / np.linalg.norm(z, axis=1, keepdims=True) if cosine else z


def shape_of(z: np.ndarray, before: np.ndarray) -> dict[str, Any]:
    """The spread of embeddings, (N, D); their effective rank, exp of the spectrum's entropy; whether they collapsed."""
    share = np.linalg.svd(z - z.mean(0)[None], compute_uv=False).astype(float) ** 2
    share = share[share > 0] / share.sum()
    spread = float(z.std(0).mean() / before.std(0).mean())
    return {
        "spread": spread,
        "effective_rank": float(np.exp(-np.sum(share * np.log(share)))),
        "collapsed": spread < COLLAPSED,
    }


def run_case(case: Case, rows: Split, images: Images, config: Config, tick: Callable) -> tuple:
    """All methods: name -> figures, each a list over seeds; name -> energy and its parameters."""
    label = np.asarray(images.label)
    queries, gallery = (only(r, case.test, label) for r in (rows.test, rows.train))
    fitted, figures = yardsticks(case, rows, images, config), {}
    before = fitted["untrained network"][1]
    for name, (matcher, params) in fitted.items():
        figures[name] = evaluate(matcher, params, images, queries, gallery)
    for name, method in methods(network_of(config)).items():
        tick(name)
        params, trials = fit(method, case, rows, images, config)
        shapes = [
            shape_of(*(embedding(method.matcher, at(p, i), images.x[q]) for p in (params, before)))
            for i, q in enumerate(queries)
        ]
        figures[name] = evaluate(method.matcher, params, images, queries, gallery)
        figures[name] |= {key: [shape[key] for shape in shapes] for key in shapes[0]}
        figures[name] |= {"setting": trials.setting, "rate": trials.rate}
        fitted[name] = method.matcher, params
    return figures, fitted


def nearest(ranker: tuple, queries: np.ndarray, gallery: np.ndarray, images: Images) -> np.ndarray:
    """The rows of the gallery of lowest energy for each query, by the first seed's parameters."""
    matcher, params = ranker
    energies = gibbs.pairwise(matcher, at(params, 0), images.x[queries], images.x[gallery])
    return gallery[np.asarray(gibbs.ranking(energies))[:, :NEAREST]]


def draw_retrieval(fitted: dict, rows: Split, images: Images, path: Path) -> None:
    """Three queries of each case with their nearest images, wrong ones in red."""
    x, label = np.asarray(images.x).reshape(-1, 8, 8), np.asarray(images.label)
    lines = []
    for name, case in CASES.items():
        queries, gallery = (only(r[:1], case.test, label)[0] for r in (rows.test, rows.train))
        found = [nearest(fitted[name][shown], queries, gallery, images) for shown in SHOWN]
        errors = [np.sum(label[f] != label[queries][:, None], axis=1) for f in found]
        chosen = {"drawn at random": 0}
        chosen |= {f"worst for {s}": np.argmax(e) for s, e in zip(SHOWN, errors, strict=True)}
        for why, i in chosen.items():
            lines.append((f"{name} digit,\n{why}", queries[i], [f[i] for f in found]))

    figure, axes = plt.subplots(len(lines), 3 + 2 * NEAREST, figsize=(12, 0.8 * len(lines)))
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
    columns = (2, 3 + NEAREST)
    for line, (why, query, found) in zip(axes, lines, strict=True):
        line[0].imshow(x[query], cmap="gray_r")
        line[0].set_ylabel(why, rotation=0, ha="right", va="center")
        for first, rows_found in zip(columns, found, strict=True):
            for axis, row in zip(line[first:], rows_found, strict=False):
                axis.imshow(x[row], cmap="gray_r")
                if label[row] != label[query]:
                    axis.spines[:].set(visible=True, color="tab:red", linewidth=2.5)
    axes[0, 0].set_title("query")
    for first, name in zip(columns, SHOWN, strict=True):
        axes[0, first + NEAREST // 2].set_title(f"nearest under {name}")
    shared.save_figure(figure, path, colours=128)


def draw_embedding(fitted: dict, figures: dict, rows: np.ndarray, images: Images, path: Path):
    """The first two principal components of the test images' embeddings."""
    names = ("raw pixels", "untrained network", "energy loss", "InfoNCE", TRIPLET, "VICReg")
    figure, axes = plt.subplots(2, 3, figsize=(11, 7), layout="constrained")
    label = np.asarray(images.label)[rows]
    for axis, name in zip(axes.flat, names, strict=True):
        matcher, params = fitted[name]
        z = PCA(2).fit_transform(embedding(matcher, at(params, 0), images.x[rows]))
        for digit in ALL:
            axis.scatter(*z[label == digit].T, s=9, color=f"C{digit}", label=str(digit))
        axis.set(title=f"{name}, mAP {figures[name]['map'][0]:.0f} %", xticks=[], yticks=[])
    axes[0, 2].set(xlim=axes[0, 1].get_xlim(), ylim=axes[0, 1].get_ylim())
    axes[0, 2].text(
        0, axes[0, 2].get_ylim()[0], "same scale as the untrained network\n", ha="center"
    )
    handles = axes[0, 0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncols=10, markerscale=2)
    shared.save_figure(figure, path, colours=128)


def draw_energies(fitted: dict, rows: np.ndarray, images: Images, path: Path) -> None:
    """Energies of test images, six of each digit, before and after training by InfoNCE."""
    label = np.asarray(images.label)
    rows = np.concatenate([rows[label[rows] == digit][:6] for digit in ALL])
    matcher, after = fitted["InfoNCE"]
    before = fitted["untrained network"][1]
    figure, axes = plt.subplots(1, 2, figsize=(11, 5), layout="constrained")
    for axis, params, title in zip(axes, (before, after), ("before", "after"), strict=True):
        energies = gibbs.pairwise(matcher, at(params, 0), images.x[rows], images.x[rows])
        image = axis.imshow(energies, cmap="viridis")
        for edge in range(6, 60, 6):
            axis.axhline(edge - 0.5, color="w", lw=0.5)
            axis.axvline(edge - 0.5, color="w", lw=0.5)
        axis.set_xticks(np.arange(2.5, 60, 6), ALL)
        axis.set_yticks(np.arange(2.5, 60, 6), ALL)
        axis.set(title=f"{title} training by InfoNCE", xlabel="digit of y", ylabel="digit of x")
        figure.colorbar(image, ax=axis, label="E(x, y) = 1 - cosine", shrink=0.85)
    shared.save_figure(figure, path, colours=128)


def load(seeds: tuple[int, ...]) -> tuple[Images, Split, dict]:
    """scikit-learn's digits, the rows of each seed, and what the data are."""
    x, label = (np.asarray(a) for a in load_digits(return_X_y=True))
    rows = Split(*(np.stack(part) for part in zip(*(split(label, s) for s in seeds), strict=True)))
    digest = hashlib.sha256(x.tobytes() + label.tobytes()).hexdigest()
    data = {"name": "sklearn.datasets.load_digits", "images": len(x), "checksum": digest}
    data |= {part: r.shape[1] for part, r in zip(Split._fields, rows, strict=True)}
    return Images(jnp.asarray(x / 16, jnp.float32), jnp.asarray(label, jnp.int32)), rows, data


def main(config: Config) -> dict:
    """Run the experiment, write its folder and return the result."""
    start = time.perf_counter()
    if not config.seeds or len(set(config.seeds)) < len(config.seeds):
        shared.fail(f"--seeds needs different numbers, got {list(config.seeds)}")
    images, rows, data = load(config.seeds)
    folder = shared.new_folder(config.out, "contrastive")
    shared.write_json(folder / "config.json", vars(config))
    result, fitted = {}, {}
    with shared.progress_bars() as progress:
        total = len(CASES) * len(methods(network_of(config)))
        bar = progress.add_task("", total=total, note="")
        for name, case in CASES.items():

            def tick(method, name=name):
                progress.update(bar, advance=1, description=f"{name} digits, {method}")

            result[name], fitted[name] = run_case(case, rows, images, config, tick)
    draw_retrieval(fitted, rows, images, folder / "retrieval.png")
    draw_embedding(fitted["seen"], result["seen"], rows.test[0], images, folder / "embedding.png")
    draw_energies(fitted["seen"], rows.test[0], images, folder / "energies.png")
    result |= {
        "collapsed_below": COLLAPSED,
        "tried": SETTINGS | {"rate": RATES},
        "data": data,
        "environment": shared.environment() | {"scikit-learn": sklearn.__version__},
        "seconds": time.perf_counter() - start,
    }
    shared.write_json(folder / "result.json", result)
    report(result, folder)
    return result


def report(result: dict, folder: Path) -> None:
    """Print a table for each case, and how the losses compare with raw pixels."""
    for case, (title, *_) in CASES.items():
        title += ": mean ± spread over seeds, %"
        table = Table("", *METRICS.values(), "spread", "collapsed", title=title)
        for name, figures in result[case].items():
            cells = [shared.mean_and_spread(figures[metric]) for metric in METRICS]
            if "spread" in figures:
                collapsed = f"{sum(figures['collapsed'])} of {len(figures['collapsed'])}"
                cells += [f"{np.mean(figures['spread']):.2g}", collapsed]
            table.add_row(name, *cells)
        shared.console.print(table)
        for metric, words in METRICS.items():
            shared.console.print(f"{words}: {against_raw_pixels(result[case], metric)}")
    shared.console.print(f"{result['seconds']:.0f} s; wrote {folder}")


def against_raw_pixels(figures: dict, metric: str) -> str:
    """How many losses beat raw pixels under the better of their two distances, and by how much the best does."""
    values = {name: np.asarray(f[metric]) for name, f in figures.items()}
    trained = [values[name] for name in figures if "spread" in figures[name]]
    raw = max((values[name] for name in figures if name.startswith("raw")), key=np.mean)
    better = sum(v.mean() > raw.mean() for v in trained)
    gains = list(max(trained, key=np.mean) - raw)
    gain = shared.mean_and_spread(gains)
    return f"{better} of {len(trained)} losses above raw pixels; the best less raw: {gain}"


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))

"""Two views of one thing: a joint embedding finds the other view, with negatives; without them it collapses.

The question: E(x, y) = 1 - cos(G1(x), G2(y)), an encoder for each view. Does it find, among the y of things never seen,
the one that belongs to x? How much of that is the joint embedding, how much the depth of its encoders (linear ones are
the control), and how much does canonical correlation analysis (CCA; Hotelling 1936) or a ridge regression find?

Expected: no figures are published for these data. The energy loss alone collapses; chance and CCA are the yardsticks.

Protocol: two real data sets, three seeds. "digits": upper and lower halves of scikit-learn's 1,797 images, 32 pixels
each, by a stratified split of 60 % training, 20 % validation and 20 % test images. "bibtex": the 1,836 words and the
159 tags of 7,395 publications; its 2,515 test rows are the test, a seeded fifth of the others validates. A query is
a test x and the gallery all different y of the test, or a query is one of these y and the gallery all test x: right at
k where one that belongs to it is among the k of lowest energy. Equal y (entries may have the same tags) stand in a
gallery once, and as a query all x that have them are right; energies that tie come in random order, whose mean is taken
in closed form, so that chance is known. All methods are judged alike. InfoNCE, both ways, has the other pairs of a
batch as negatives; the energy loss has none, and takes all steps. Ridge regression predicts y, and ranks by the cosine
of y and prediction, both less the training mean; CCA ranks by the cosine of the canonical variates. Temperature and
number of steps, the ridge, and CCA's numbers of components and of singular vectors of x before it are those of the
highest mean of right at 1 both ways on a seed's validation rows, on which, of seed 0, dimension, width and rate were
narrowed down (the rows of digits of one seed are among the others of another, as images are few).
*Spread* is the mean over coordinates of the standard deviation of the test x's embeddings, of unit length, over what it
was before training; *contrast* is the mean energy of wrong pairs less that of right ones; *coarse* is y of x at 1 of
energies rounded to 0.01.
Minutes: 4 of one core.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import sklearn
from scipy.special import gammaln
from sklearn.datasets import load_digits

import spen_jax as sx
from experiments import shared
from experiments.lecture import runs, views_figures
from experiments.lecture import views_methods as methods
from experiments.lecture.contrastive import split
from experiments.lecture.views_methods import METHODS, SIZES, Views

KS = 1, 5
DATA = "digits", "bibtex"


@dataclass(frozen=True)
class Config:
    """Joint embeddings of two views."""

    seeds: tuple[int, ...] = (0, 1, 2)  # Splits, initial weights and batches.
    data: tuple[str, ...] = DATA
    steps: float = 1.0  # Training steps, as a share of those of `SIZES`.
    data_dir: Path | None = None  # Folder of the data sets.
    out: Path | None = None  # Folder to write, new or empty; runs/views-<date> by default.


def digits(seed: int) -> Views:
    """Upper and lower halves of images of 8 x 8 pixels."""
    x, label = (np.asarray(a) for a in load_digits(return_X_y=True))
    upper, lower = np.split(np.asarray(x / 16, np.float32), 2, axis=1)
    train, valid, test = split(label, seed)
    return Views(jnp.asarray(upper), jnp.asarray(lower), train, valid, test, seed)


def bibtex(seed: int, data: sx.data.Dataset) -> Views:
    """Words and tags."""
    x, y = (np.concatenate([getattr(p, n) for p in (data.train, data.test)]) for n in ("x", "y"))
    n = len(data.train.x)
    train, valid = sx.data.split(n, 0.2, seed)
    return Views(jnp.asarray(x), jnp.asarray(y), train, valid, np.arange(n, len(x)), seed)


def right_at(E: np.ndarray, belongs: np.ndarray, k: int) -> float:
    """Per cent of queries with one that belongs to them among the k lowest, (Q, N): the mean over orders of ties."""
    lowest = np.min(np.where(belongs, E, np.inf), axis=1, keepdims=True)
    below, tied = np.sum(E < lowest, axis=1), E == lowest
    return 100 * float(np.mean(drawn(tied.sum(1), (tied & belongs).sum(1), k - below)))


def chance(belongs: np.ndarray, k: int) -> float:
    """Per cent right of a random order."""
    return 100 * float(np.mean(drawn(belongs.shape[1], belongs.sum(1), k)))


def drawn(n: Any, good: Any, k: Any) -> np.ndarray:
    """The probability that k of n, at random without replacement, hold one of the good; 0 for k below 1."""
    n, good, k = np.broadcast_arrays(n, good, np.clip(k, 0, n))
    bad = n - good
    possible = k <= bad  # that none is good
    k = np.where(possible, k, 0)
    none = gammaln(bad + 1) - gammaln(bad - k + 1) - gammaln(n + 1) + gammaln(n - k + 1)
    return 1 - np.where(possible, np.exp(none), 0)


class Gallery(NamedTuple):
    """x (Q, D), the different y (N, L), and which belong together, (Q, N)."""

    x: np.ndarray
    y: np.ndarray
    belongs: np.ndarray


def gallery(views: Views, rows: np.ndarray) -> Gallery:
    """Of some rows."""
    x, y = (np.asarray(v)[rows] for v in views[:2])
    _, first, which = np.unique(y, axis=0, return_index=True, return_inverse=True)
    return Gallery(x, y[first], np.ravel(which)[:, None] == np.arange(len(first))[None])


def measured(E: np.ndarray, belongs: np.ndarray) -> dict[str, float]:
    """Both ways, at 1 and at 5."""
    ways = {"y of x": (E, belongs), "x of y": (E.T, belongs.T)}
    found = {f"{way}, at {k}": right_at(*of, k) for way, of in ways.items() for k in KS}
    return found | {"coarse": right_at(np.round(E, 2), belongs, 1)}


def score(E: np.ndarray, belongs: np.ndarray) -> float:
    """What chooses: the mean of right at 1 both ways."""
    return (right_at(E, belongs, 1) + right_at(E.T, belongs.T, 1)) / 2


def best(trials: methods.Trials, held: Gallery) -> methods.Trial:
    """The trial that finds most on validation rows, with what it found there."""
    most = None
    for trial in trials:
        found = score(np.asarray(trial.energies(held.x, held.y)), held.belongs)
        if most is None or found > most.tried["validation"]:
            most = trial._replace(tried=trial.tried | {"validation": found})
    assert most is not None
    return most


def contrast(E: np.ndarray, belongs: np.ndarray) -> float:
    """The mean energy of wrong pairs less that of right ones."""
    return float(np.mean(E[~belongs]) - np.mean(E[belongs]))


def run_seed(name: str, views: Views, sizes: methods.Sizes) -> tuple[dict, dict, Gallery]:
    """{method: figures}, {method: energies of the test}, and the test."""
    held, test = gallery(views, views.valid), gallery(views, views.test)
    ways = {"y of x": test.belongs, "x of y": test.belongs.T}
    figures: dict[str, dict[str, Any]] = {}
    figures["chance"] = {f"{way}, at {k}": chance(b, k) for way, b in ways.items() for k in KS}
    matrices = {}
    for method, trials in methods.contestants(sizes, views).items():
        chosen = best(trials, held)
        E = matrices[method] = np.asarray(chosen.energies(test.x, test.y))
        figures[method] = measured(E, test.belongs) | {"contrast": contrast(E, test.belongs)}
        if method in METHODS:
            spread = methods.spread(METHODS[method], sizes, views, chosen.params)
            figures[method]["spread"] = spread
        figures[method] |= {"chosen": chosen.tried}
    return figures, matrices, test


def load(name: str, config: Config) -> Iterator[Views]:
    """The views of a data set, split by each seed."""
    if name == "digits":
        yield from map(digits, config.seeds)
        return
    try:
        data = sx.data.load(name, config.data_dir)
    except (OSError, sx.data.DataError, sx.data.DownloadError) as error:
        shared.fail(str(error))
    for seed in config.seeds:
        yield bibtex(seed, data)


def together(each: list[dict[str, dict[str, Any]]]) -> dict[str, dict[str, list]]:
    """[{method: {figure: value}}] of seeds as {method: {figure: [values]}}."""
    return {
        method: {name: [of[method][name] for of in each] for name in figures}
        for method, figures in each[0].items()
    }


def main(config: Config) -> dict:
    """Run the experiment, write its folder and return the result."""
    if not config.data or not {*config.data} <= {*DATA}:
        shared.fail(f"--data knows {' and '.join(DATA)}, got {' '.join(config.data)}")
    run, result, tables = runs.begin(config, "views"), {}, []
    for name in config.data:
        sizes, each = SIZES[name], []
        sizes = sizes._replace(steps=max(1, round(config.steps * sizes.steps)))
        seeds = [(name, f"seed {seed}") for seed in config.seeds]
        for _, views in zip(runs.tracked(seeds), load(name, config), strict=True):
            figures, matrices, test = run_seed(name, views, sizes)
            if name == "digits" and not each:
                views_figures.draw(matrices, test, run.folder / "views.png")
            each.append(figures)
        result[name] = together(each)
        columns = [c for c in each[0]["energy loss"] if c != "chosen"]
        title = f"{name}: right in per cent, mean ± spread over seeds"
        tables.append(runs.summary(title, result[name], columns))
    return run.finish(result, *tables, **{"scikit-learn": sklearn.__version__})


if __name__ == "__main__":
    shared.run(main, Config, __doc__, all_cores=False)

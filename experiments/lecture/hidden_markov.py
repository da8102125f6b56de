"""Is a hidden Markov model an energy like any other? Digits by row, by likelihood and by what tells them apart.

The question: E(x, y, z) = -log p(x, z | y), y the digit, z the states of its rows. Its free energy over z is
-log p(x | y) at beta = 1 (the forward algorithm) and Viterbi's at infinity. Each class by Baum-Welch is the generative
way. But an energy need not be normalised: what do the same numbers do, free of all constraints, trained by the NLL of y
or by the hinge loss, from there or from scratch? Is a cold free energy as good as a warm one, in training and in
inference? And is the chain worth anything: what do the same symbols say without it?

Expected (LeCun's lecture; hidden conditional random fields, Gunawardana et al. 2005): trained by what tells classes
apart the answers are better, the more so the poorer the model, and the numbers are no probabilities any more.

Protocol: scikit-learn's 1797 digits, by seed 900 to train, 300 to choose, 597 to test; three seeds. Each of the 8
rows of an image is one of 24 symbols, k-means of the training images' rows. 10 models of 6 states, one model a class.
Baum-Welch: of 3 random starts the best of each class by likelihood, 40 steps, after each a share of all rows spread
evenly. Discriminative: Adam, 600 steps of 100 digits, its rate 0.02, from scratch 0.05; margin 1; with and without a
pull towards the start. That share, pull and the number of steps are chosen by accuracy on the digits to choose, for
each inference by itself. Controls are scikit-learn's on the same symbols, their strengths chosen likewise.
Shifted: the test images a row up or down, which no training image is.
Found: docs/theory/structure.md, "A hidden Markov model as an energy".
Minutes: about 2 on one idle core.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn import cluster, datasets, linear_model, naive_bayes
from sklearn.preprocessing import OneHotEncoder

from experiments import shared
from experiments.lecture import hidden_markov_figures as figures
from experiments.lecture import runs
from spen_jax import losses, training
from spen_jax.exact import HiddenMarkov, expectation_maximisation

CLASSES, SYMBOLS, PLACES = 10, 24, 8
STATES, MANY, COUNTS = 6, 8, (1, 2, 3, 4, 6, 8)  # of the table, there is room for, and of the curve
TRAIN, CHOOSE, MOST = 900, 300, 130  # MOST: training digits of one class
SPREAD, STARTS, EM_STEPS = (0.003, 0.01, 0.03, 0.1), 3, 40
PULLS, BATCH, SNAPSHOTS, SCALE = (0.0, 1e-3), 100, 10, 0.5
WARM, COLD = 1.0, float("inf")
INFERENCE = {"warm": WARM, "cold": COLD}
STRENGTHS = tuple(10.0**n for n in range(-3, 3))


@dataclass(frozen=True)
class Config:
    """Hidden Markov models of digits as energies."""

    seeds: tuple[int, ...] = (0, 1, 2)
    """Of the split, the symbols and the starts."""

    steps: int = 600
    """Of discriminative training."""

    out: Path | None = None
    """Folder to write, new or empty; runs/hidden-markov-<date> by default."""


class Digits(NamedTuple):
    """Symbols (N, 8), classes (N,) and images: those that train, choose, test, and the test ones shifted."""

    x: np.ndarray
    y: np.ndarray
    images: np.ndarray


def load(seed: int) -> Digits:
    """The digits in the order of a seed: TRAIN, CHOOSE, those to test, and these shifted."""
    data: Any = datasets.load_digits()
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(data.target))
    images, y = data.images[order], data.target[order]
    settings: Any = {"n_init": 4, "random_state": seed}
    means = cluster.KMeans(SYMBOLS, **settings)
    means.fit(images[:TRAIN].reshape(-1, PLACES))
    tested = images[TRAIN + CHOOSE :]
    padded = np.pad(tested, ((0, 0), (1, 1), (0, 0)))
    down = rng.random(len(tested)) < 0.5
    shifted = np.where(down[:, None, None], padded[:, :PLACES], padded[:, 2:])
    images = np.concatenate([images, shifted])
    x = np.asarray(means.predict(images.reshape(-1, PLACES))).reshape(-1, PLACES)
    y = np.concatenate([y, y[TRAIN + CHOOSE :]])
    return Digits(x.astype(np.int32), y.astype(np.int32), images)


def energies(models: HiddenMarkov, x: jax.Array, beta: float) -> jax.Array:
    """F(x, y) of each class, (B, 8) -> (B, 10): forward at beta = 1, Viterbi at infinity."""
    return jax.vmap(lambda model: model.chain(x).free_energy(beta), out_axes=1)(models)


def drawn(key: jax.Array, scale: float = SCALE) -> HiddenMarkov:
    """Energies N(0, scale^2), of all classes."""
    shapes = (MANY,), (MANY, MANY), (MANY, SYMBOLS)
    keys = jax.random.split(key, 3)
    each = (jax.random.normal(k, (CLASSES, *s)) for k, s in zip(keys, shapes, strict=True))
    return HiddenMarkov(*(scale * a for a in each))


def limited(models: HiddenMarkov, states: Any) -> HiddenMarkov:
    """The same of the first so many states; the others are forbidden. So one program serves any number."""
    used = jnp.arange(MANY) < states
    return models._replace(
        start=jnp.where(used[None], models.start, jnp.inf),
        transitions=jnp.where(used[None, None], models.transitions, jnp.inf),
    )


def normalised(models: HiddenMarkov) -> HiddenMarkov:
    """The same energies as -log of probabilities, row by row."""
    return jax.tree.map(lambda a: -jax.nn.log_softmax(-a, axis=-1), models)


def spread_out(model: HiddenMarkov, spread: Any) -> HiddenMarkov:
    """A share of each row's probability spread evenly over what is allowed."""

    def of(energies):
        allowed = jnp.isfinite(energies)
        even = allowed / jnp.sum(allowed, -1, keepdims=True)
        return jnp.where(
            allowed, -jnp.log((1 - spread) * jnp.exp(-energies) + spread * even), jnp.inf
        )

    return jax.tree.map(of, model)


@jax.jit
def baum_welch(key: jax.Array, x: jax.Array, y: jax.Array, states: Any) -> HiddenMarkov:
    """Models of each share spread, (SPREAD, classes, ...): of each class the start of highest likelihood."""
    member = y[None] == jnp.arange(CLASSES)[:, None]
    first = jnp.argsort(~member, axis=1, stable=True)[:, :MOST]
    lengths = PLACES * jnp.take_along_axis(member, first, axis=1)  # digits of others have no places

    def of_class(model, x, lengths, spread):
        # Zero would be a trap: what is never seen in a step is kept impossible.
        def step(model, _):
            new, surprise = expectation_maximisation(spread_out(model, spread), x, lengths)
            allowed = jax.tree.map(jnp.isfinite, model)
            kept = jax.tree.map(
                lambda a, m: jnp.where(m, jnp.minimum(a, 50.0), jnp.inf), new, allowed
            )
            return kept, surprise

        model, surprise = jax.lax.scan(step, model, length=EM_STEPS)
        return spread_out(model, spread), surprise[-1]

    def of_spread(spread):
        def of_start(key):
            start = normalised(limited(drawn(key, 1.0), states))
            return jax.vmap(of_class, (0, 0, 0, None))(start, x[first], lengths, spread)

        found, surprise = jax.lax.map(of_start, jax.random.split(key, STARTS))
        best = jnp.argmin(surprise, 0)
        return jax.tree.map(lambda a: a[best, jnp.arange(CLASSES)], found)

    return jax.lax.map(of_spread, jnp.array(SPREAD))


class Training(NamedTuple):
    """How a discriminative training differs: hinge or NLL, of cold or warm free energies, kept probabilities or not."""

    hinge: bool
    beta: float
    keep: bool = False


TRAININGS = {
    "NLL of warm energies": Training(False, WARM),
    "NLL of cold ones": Training(False, COLD),
    "hinge of warm ones": Training(True, WARM),
    "hinge of cold ones": Training(True, COLD),
    "NLL, kept probabilities": Training(False, WARM, keep=True),
}
STANDARD = "NLL of warm energies"
RATES = {"from Baum-Welch": 0.02, "from scratch": 0.05}


def loss_of(e: jax.Array, y: jax.Array, hinge: Any) -> jax.Array:
    """Of energies (B, 10) and right classes: the NLL at beta = 1 or the hinge loss of margin 1, the mean."""
    right = jnp.take_along_axis(e, y[:, None], axis=1)[:, 0]
    by_hinge = losses.hinge(right, losses.most_offending(e, y).energy)
    return jnp.mean(jnp.where(hinge, by_hinge, losses.nll(right, e)))


def discriminate(
    models: HiddenMarkov, digits: Digits, states: int, how: Training, rate: float, steps: int
) -> Any:
    """Trained from these models: (PULLS, SNAPSHOTS, ...)."""
    start = jax.tree.map(lambda a: jnp.where(jnp.isfinite(a), a, 0), models)
    rows = jax.random.randint(jax.random.key(0), (steps, BATCH), 0, TRAIN)
    batches = jnp.asarray(digits.x)[rows], jnp.asarray(digits.y)[rows]
    return _discriminate(start, batches, states, how.hinge, how.keep, rate, how.beta)


@partial(jax.jit, static_argnames="beta")
def _discriminate(start, batches, states, hinge, keep, rate, beta):
    def read(params):
        free = limited(params, states)
        return jax.tree.map(lambda a, b: jnp.where(keep, a, b), normalised(free), free)

    def at(pull):
        def objective(params, batch, _):
            far = optax.tree.norm(optax.tree.sub(params, start), squared=True)
            value = loss_of(energies(read(params), batch[0], beta), batch[1], hinge)
            return value + pull * far, {}

        optimizer = optax.adam(rate)
        state = training.init(start, optimizer, jax.random.key(0))
        at = when(len(batches[1]))
        return jax.vmap(read)(training.scan(objective, optimizer, state, batches, at=at)[2])

    return jax.lax.map(at, jnp.array(PULLS))


def when(steps: int) -> tuple[int, ...]:
    """The numbers of steps among which is chosen."""
    return tuple(np.linspace(0, steps, SNAPSHOTS + 1).astype(int)[1:].tolist())


@partial(jax.jit, static_argnames="beta")
def answers(models: Any, x: jax.Array, beta: float) -> jax.Array:
    """The classes of least free energy by each of several models, (n, ...) -> (n, B)."""
    return jax.lax.map(lambda m: jnp.argmin(energies(m, x, beta), 1), models)


def shares(right: np.ndarray) -> dict[str, float]:
    """Of booleans of the digits to test and of the shifted ones, % right."""
    as_drawn, shifted = np.split(100 * right[CHOOSE:], 2)
    return {"right": float(as_drawn.mean()), "shifted": float(shifted.mean())}


def chosen(models: Any, digits: Digits, axes: int) -> tuple[dict[str, float], HiddenMarkov]:
    """% right by both inferences, of the models best on the digits to choose; the model chosen for the warm one."""
    flat = jax.tree.map(lambda a: a.reshape(-1, *a.shape[axes:]), models)
    found, kept = {}, flat
    for name, beta in INFERENCE.items():
        right = np.asarray(answers(flat, digits.x[TRAIN:], beta)) == digits.y[None, TRAIN:]
        best = int(np.argmax(right[:, :CHOOSE].mean(1)))
        found |= {f"{what}, {name}": share for what, share in shares(right[best]).items()}
        if name == "warm":
            kept = jax.tree.map(lambda a, best=best: a[best], flat)
            again = answers(jax.tree.map(lambda a: a[None], kept), digits.x[:TRAIN], beta)
            found["training, warm"] = 100 * float(np.mean(again == digits.y[None, :TRAIN]))
    return found, kept


def off_probabilities(models: HiddenMarkov) -> float:
    """|log sum exp(-E)| of a row of transitions in nats, the mean of the rows of states that there are."""
    used = jnp.isfinite(models.start)
    off = jnp.abs(jax.nn.logsumexp(-models.transitions, axis=-1))
    return float(jnp.mean(off, where=used))


def logistic(strength: float) -> Any:
    """Of L2 penalty 1 / strength."""
    return linear_model.LogisticRegression(C=strength, max_iter=2000)


def controls(digits: Digits) -> dict[str, dict[str, float]]:
    """% right of scikit-learn's machines on the same symbols, and on pixels."""
    settings: Any = {"categories": [range(SYMBOLS)] * PLACES, "sparse_output": False}
    encoder = OneHotEncoder(**settings)
    places = np.asarray(encoder.fit_transform(digits.x))
    bags = places.reshape(-1, PLACES, SYMBOLS).sum(1)
    machines: dict[str, tuple[np.ndarray, Callable[[float], Any]]] = {
        "bag of symbols, naive Bayes": (bags, lambda s: naive_bayes.MultinomialNB(alpha=s)),
        "bag of symbols, logistic": (bags, logistic),
        "symbols at their places, naive Bayes": (
            digits.x,
            lambda s: naive_bayes.CategoricalNB(alpha=s, min_categories=np.int64(SYMBOLS)),
        ),
        "symbols at their places, logistic": (places, logistic),
        "pixels, logistic": (digits.images.reshape(-1, PLACES**2) / 16, logistic),
    }
    found = {}
    for name, (of, make) in machines.items():
        fitted = [make(s).fit(of[:TRAIN], digits.y[:TRAIN]) for s in STRENGTHS]
        right = np.stack([m.predict(of[TRAIN:]) == digits.y[TRAIN:] for m in fitted])
        best = int(np.argmax(right[:, :CHOOSE].mean(1)))
        found[name] = {f"{what}, warm": share for what, share in shares(right[best]).items()}
    return found


def of_seed(seed: int, steps: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """The rows of the table, accuracies by states, and how far from probabilities; and what the figure needs."""
    digits, key = load(seed), jax.random.key(seed)
    rows, off, curves, by_states = {}, {}, {}, {}
    for states in COUNTS:
        found = baum_welch(key, digits.x[:TRAIN], digits.y[:TRAIN], states)
        right, by_states[states] = chosen(found, digits, 1)
        found = discriminate(by_states[states], digits, states, TRAININGS[STANDARD], 0.02, steps)
        curves[str(states)] = {"Baum-Welch": right, STANDARD: chosen(found, digits, 2)[0]}
    rows["Baum-Welch"], kept = curves[str(STATES)]["Baum-Welch"], {}
    starts = dict(zip(RATES, (by_states[STATES], drawn(jax.random.fold_in(key, 1))), strict=True))
    for (start, models), (name, how) in ((s, t) for s in starts.items() for t in TRAININGS.items()):
        found = discriminate(models, digits, STATES, how, RATES[start], steps)
        rows[f"{name}, {start}"], kept[name, start] = chosen(found, digits, 2)
        off[f"{name}, {start}"] = off_probabilities(kept[name, start])
    seen = {"Baum-Welch": by_states[STATES], STANDARD: kept[STANDARD, "from Baum-Welch"]}
    result = {"rows": rows | controls(digits), "off_probabilities": off, "states": curves}
    return result, {"digits": digits, "models": seen}


def main(config: Config) -> dict:
    """Run the experiment, write its folder and return the result."""
    run = runs.begin(config, "hidden-markov", steps=SNAPSHOTS)
    found, drawings = [], []
    for (seed,) in runs.tracked([(str(seed),) for seed in config.seeds]):
        result, drawing = of_seed(int(seed), config.steps)
        found.append(result)
        drawings.append(drawing)
    result = jax.tree.map(lambda *of: np.array(of), *found)
    figure = figures.draw(drawings[0]["models"], drawings[0]["digits"], result, TRAIN + CHOOSE)
    shared.save_figure(figure, run.folder / "hidden-markov.png")
    by_states = {
        f"{states}, {name}": of
        for states, each in result["states"].items()
        for name, of in each.items()
    }
    off = {name: {"nats": of} for name, of in result["off_probabilities"].items()}
    return run.finish(
        result,
        runs.summary("% right, by inference", result["rows"]),
        runs.summary("% right, by states", by_states),
        runs.summary("Rows of transitions off probabilities", off),
    )


if __name__ == "__main__":
    shared.run(main, Config, __doc__, all_cores=False)

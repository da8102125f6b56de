"""A million features and a million labels: trained on what a batch touches, predicted over shortlists.

The question: can a LabelSPEN be trained where neither an array of all labels for a batch nor a gradient of all weights
is to be had, from files, in a few GiB; is it better than the most popular labels, and than its network alone; and what
does it cost that a step sees few of the labels that its rows do not have?

Expected: far ahead of the popular labels; the global term gains little, for given the topics the labels of these rows
are as good as independent; drawn labels cost a point or two, once the potentials are put right.

Protocol: made-up rows (`zipf.py`) in a folder, trained by `fit` with `training.touching` and Adagrad for a fixed number
of epochs; new rows are predicted by a `Shortlist`. Nothing is chosen on them. The potentials begin at the log odds of
the labels' frequencies, as a step sees them; "as learnt" are those of training, all others have `log_shares` added.
"Who knows the topics" ranks best that can be. Precision@k, propensity-scored precision@k and the F1 of the sets of best
expected F1, in percent. The second table has a hundredth of the labels and features, with all labels in every step and
with few. Milliseconds a step are the processor's in the last epoch, which of one that goes on may be a part; GiB the
largest of the process so far, with what checkpoints take.
"""

import resource
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from rich.table import Table
from scipy.sparse import csr_array
from tyro.conf import arg

import spen_jax as sx
from experiments import shared
from experiments.labels import runs
from experiments.labels.zipf import Task
from spen_jax import metrics, objectives, training
from spen_jax.training import Trained
from spen_jax.training.resuming import checkpoints_of

AT = 1, 3, 5
QUICK = {"rows": 1200, "test_rows": 100, "features": 2000, "labels": 2000, "topics": 20}
QUICK |= {
    "batch_size": 32,
    "least": 200,
    "epochs": 1,
    "small": 600,
    "small_rows": 400,
    "small_least": (200,),
    "shortlist": 50,
}


@dataclass(frozen=True)
class Config:
    """A training on a million labels and beside it the same on ten thousand."""

    rows: int = 100_000
    test_rows: int = 1000
    features: int = 1_000_000
    labels: int = 1_000_000
    topics: int = 500
    hidden: int = 24
    units: Annotated[int, arg(help="Of the global term.")] = 8
    steps: Annotated[int, arg(help="Of inference.")] = 3
    least: Annotated[int, arg(help="Labels that a step sees, at least.")] = 2048
    batch_size: int = 256
    epochs: int = 3
    rate: Annotated[float, arg(help="Adagrad's.")] = 0.1
    shortlist: int = 1000
    small: Annotated[int, arg(help="Labels, and features, of the second table.")] = 10_000
    small_rows: int = 20_000
    small_least: tuple[int, ...] = (1024,)
    seed: int = 0
    out: runs.Out = None
    quick: runs.Quick = False


class Rows(NamedTuple):
    """Training rows, from files, and held-out ones."""

    task: Task
    data: dict[str, csr_array]
    x: csr_array
    truth: csr_array
    about: np.ndarray


def rows_of(config: Config, folder: Path) -> Rows:
    """Stored anew, but for a run that goes on."""
    task = Task(config.features, config.labels, config.topics)
    stored = folder / f"rows-{task.labels}"
    if stored.exists():
        data = sx.data.stored(stored).fields
    else:
        data = task.write(stored, config.rows, config.seed)
    x, truth, about = task.rows(np.random.default_rng([config.seed, 1]), config.test_rows)
    return Rows(task, data, x, truth, about)


def started(spen: Any, data: dict[str, Any], shares: np.ndarray, key: jax.Array) -> Any:
    """Parameters by which labels are as likely as they are frequent, whatever x: what no row tells of stays so.

    Of rows of length 1 the hidden units begin at 0.3 or so, where `init` has the layer for D numbers of that size.
    """
    (rows, labels), features = data["y"].shape, data["x"].shape[1]
    params = jax.jit(spen.init)(key, np.zeros((1, features)), np.zeros((1, labels)))["params"]
    layer = params["network"]["hidden_0"]
    share = (np.bincount(data["y"].indices, minlength=labels) + 0.1) / rows
    bias = np.log(share) - np.log1p(-np.minimum(share, 0.99)) - shares
    network = {"hidden_0": layer | {"kernel": 0.3 * features**0.5 * layer["kernel"]}}
    params |= {"bias": jnp.asarray(bias, jnp.float32), "W": 0 * params["W"]}
    return params | {"network": network}


def optimizer_of(config: Config, least: int | None) -> Any:
    """Adagrad on the words and labels that a batch touches, on all labels where `least` is None."""
    adagrad = optax.adagrad(config.rate, initial_accumulator_value=1e-6)
    tables = {"network/hidden_0/kernel": "x"}
    if least is None:
        return training.touching(adagrad, tables)
    return training.touching(
        adagrad, tables | dict.fromkeys(("W", "bias", "C"), "y"), least={"y": least}
    )


def epochs_of(
    objective: Any, optimizer: Any, state: training.State, data: Any, config: Config
) -> Iterator[Trained]:
    """The epochs of `fit`, with their processor seconds; where there are checkpoints those keep the clock."""
    kept, clock = checkpoints_of(None), np.zeros(0)
    began, used = time.perf_counter(), time.process_time()
    if kept is not None:
        kept.extra = clock
    options: dict[str, Any] = {"epochs": config.epochs, "batch_size": config.batch_size}
    for now, found in training.fit(objective, optimizer, state, data, checkpoints=kept, **options):
        clock = clock if kept is None else kept.extra
        if kept is None or len(clock) < kept.epochs:  # else it went on from its end
            spent = time.perf_counter() - began
            clock = np.append(clock, spent + (clock[-1] if len(clock) else 0))
        if kept is not None:
            kept.extra = clock
        found = found | {"processor_seconds": time.process_time() - used}
        yield Trained(now.params, len(clock), (), tuple(clock.tolist()), found)
        began, used = time.perf_counter(), time.process_time()


def trained(
    config: Config, rows: Rows, units: int, least: int | None, progress: Any, name: str
) -> tuple[Any, Any, np.ndarray, dict[str, Any]]:
    """(module, parameters as learnt, log shares, seconds and memory) of one training."""
    network = sx.FeatureNetwork(rows.task.labels, (config.hidden,))
    spen = sx.energies.LabelSPEN(network, n_global=units, entropy=1.0)
    shares = np.zeros(rows.task.labels)
    if least is not None:
        shares = training.log_shares(rows.data["y"], config.batch_size, least)
    key = jax.random.key(config.seed)
    features, energy = sx.functions_of(spen)
    if units:
        start = sx.logits_of(spen)
        predictor = sx.Predictor(energy, features, start=start, steps=config.steps)
        objective = objectives.end_to_end(predictor)
    else:
        objective = objectives.feed_forward(lambda params, x: features(params, x)["logits"])
    optimizer = optimizer_of(config, least)
    state = training.init(started(spen, rows.data, shares, key), optimizer, key)
    run = epochs_of(objective, optimizer, state, rows.data, config)
    del state
    last = shared.followed(run, progress, name, config.epochs)
    steps = training.steps_per_epoch(config.rows, config.batch_size)
    found = {"seconds": last.seconds, "gib": gib()}
    found["processor_seconds_a_step"] = last.metrics["processor_seconds"] / steps
    return spen, last.params, shares, found | {"loss": last.metrics["loss"]}


def gib() -> float:
    """The largest memory of this process so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**30 if sys.platform == "darwin" else 2**20)


def measured(labels: np.ndarray, rows: Rows) -> dict[str, float]:
    """Both precisions at 1, 3 and 5 of label numbers (N, k), the best first, in percent."""
    ranks = metrics.ranked(labels, rows.task.labels)
    p, found = metrics.propensities(rows.data["y"]), {}
    for k in AT:
        found[f"precision_at_{k}"] = 100 * metrics.precision_at_k(ranks, rows.truth, k)
        scored = metrics.propensity_scored_precision_at_k(ranks, rows.truth, k, p)
        found[f"propensity_scored_at_{k}"] = 100 * scored
    return found


def tested(config: Config, rows: Rows, spen: Any, params: Any, shares: Any) -> dict[str, float]:
    """All measures of the answers over shortlists, the potentials with these log shares added."""
    params = params | {"bias": params["bias"] + np.asarray(shares, np.float32)}
    steps = config.steps if spen.n_global else 0
    began = time.perf_counter()
    short = sx.Shortlist(spen, config.shortlist, steps=steps, batch_size=64)
    found = short(params, rows.x)
    labels, y = np.asarray(found.labels), np.asarray(found.y)
    seconds = (time.perf_counter() - began) / len(y)
    on = metrics.expected_f1_sets(y)
    sets = metrics.label_sets([a[b > 0] for a, b in zip(labels, on, strict=True)], rows.task.labels)
    f1 = 100 * metrics.example_f1(sets, rows.truth)
    return measured(labels, rows) | {"f1": f1, "seconds_an_example": seconds}


def controls(rows: Rows) -> dict[str, dict[str, float]]:
    """The most popular labels for every row, and the best ranking by the topics."""
    counts = np.bincount(rows.data["y"].indices, minlength=rows.task.labels)
    popular = np.argsort(-counts, kind="stable")[: AT[-1]]
    return {
        "most popular": measured(np.tile(popular, (len(rows.x.indptr) - 1, 1)), rows),
        "who knows the topics": measured(rows.task.best(rows.about, AT[-1]), rows),
    }


def both(
    config: Config, rows: Rows, units: int, least: int | None, progress: Any, name: str
) -> dict[str, dict[str, Any]]:
    """A model with its potentials put right, and where labels were drawn also as learnt."""
    spen, params, shares, costs = trained(config, rows, units, least, progress, name)
    found = {name: costs | tested(config, rows, spen, params, shares)}
    if least is not None:
        found[f"{name}, as learnt"] = tested(config, rows, spen, params, 0 * shares)
    return found


def of_million(config: Config, rows: Rows, progress: Any) -> dict[str, dict[str, Any]]:
    """The energy, its network trained alone, and the controls."""
    found = both(config, rows, config.units, config.least, progress, "LabelSPEN")
    found |= both(config, rows, 0, config.least, progress, "network alone")
    return found | controls(rows)


def of_few(config: Config, rows: Rows, progress: Any) -> dict[str, dict[str, Any]]:
    """The energy with all labels in every step, and with few."""
    found: dict[str, dict[str, Any]] = {}
    for least in (None, *config.small_least):
        name = f"{least or 'all'} of {rows.task.labels:,}"
        found |= both(config, rows, config.units, least, progress, name)
    return found | controls(rows)


def main(config: Config) -> dict[str, Any]:
    """Run the experiment, write its folder, print the tables and return the result."""
    began = time.perf_counter()
    if not config.quick:
        sx.parallel.keep_memory()  # of arrays of all labels, which are larger than what `shared.run` keeps
    if config.quick:
        config = replace(config, **QUICK)
    shared.check_least(config, epochs=1, rows=3, test_rows=1, units=1, steps=1, shortlist=AT[-1])
    for name in ("features", "labels", "small"):
        shared.check_least(config, **{name: max(config.topics, config.shortlist)})
    folder = shared.new_folder(config.out, "million")
    shared.write_json(folder / "config.json", vars(config))
    with shared.progress_bars() as progress:
        tables = {"million": of_million(config, rows_of(config, folder), progress)}
        few = replace(config, features=config.small, labels=config.small, rows=config.small_rows)
        tables["few"] = of_few(few, rows_of(few, folder), progress)
    result = {"quick": config.quick, "environment": shared.environment()}
    result |= {"seconds": time.perf_counter() - began, **tables}
    shared.write_json(folder / "result.json", result)
    for name, labels in (("million", config.labels), ("few", config.small)):
        shared.say(table_of(result[name], labels, config))
    shared.say(f"{result['seconds']:.0f} s in all; wrote {folder}")
    return result


def table_of(found: dict[str, dict[str, Any]], labels: int, config: Config) -> Table:
    """A row for each model, with what its training cost."""
    mark = " (quick run: these figures mean nothing)" * config.quick
    columns = *(f"P@{k}" for k in AT), *(f"PSP@{k}" for k in AT), "F1", "ms a step", "GiB"
    title = f"{labels:,} labels, {config.test_rows:,} new rows, %{mark}"
    table = Table("", *columns, title=title, padding=(0, 0))
    keys = *(f"precision_at_{k}" for k in AT), *(f"propensity_scored_at_{k}" for k in AT), "f1"
    for name, one in found.items():
        cells = [f"{one[key]:.1f}" if key in one else "" for key in keys]
        costs = f"{1e3 * one['processor_seconds_a_step']:.0f}" if "gib" in one else ""
        table.add_row(name, *cells, costs, f"{one['gib']:.1f}" if "gib" in one else "")
    return table


if __name__ == "__main__":
    shared.run(main, Config, __doc__, all_cores=False)

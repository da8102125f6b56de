"""Many labels on a real set: Delicious from sparse rows, and inference over shortlists of its 983 labels.

The question: what does a training on sparse x and y cost beside the same on arrays, and how long must a shortlist be
until its answers are those of all labels?

Expected: the same figures, in the arrays' time or less; of the best labels, as few as ten times a row's.

Protocol: end to end by the settings of `bibtex.py --dataset delicious`. A seeded fifth of the training rows chooses the
epoch and tunes every decision rule, for each shortlist anew; then all training rows are trained on for as many epochs.
Nothing is chosen on the test rows. "Arrays" is a SPEN on arrays x and y, "sparse" a LabelSPEN on SciPy matrices.
Precision@k, and propensity-scored precision@k with the propensities of the training rows, are those of the
Extreme Classification Repository; its Delicious has as many rows, words and labels. The table's seconds are the
processor's, of both trainings with their validation scores; result.json also has those of training alone, by the clock.
Minutes: four of one core for each seed, and as many again for tuning the rules of all lengths.
"""

import time
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import numpy as np
from rich.table import Table
from scipy.sparse import csr_array

import spen_jax as sx
from experiments import shared
from experiments.labels import models, protocol, runs
from experiments.labels.protocol import Rules
from experiments.labels.settings import Settings, settings_of
from spen_jax import metrics, objectives
from spen_jax.training import Phase, choose_then_refit

FORMS = "arrays", "sparse"
AT = 1, 3, 5


@dataclass(frozen=True)
class Config:
    """Delicious from arrays and from sparse rows, and its answers over shortlists."""

    dataset: runs.Dataset = "delicious"
    seeds: runs.Seeds = (0,)
    forms: tuple[str, ...] = FORMS
    shortlists: tuple[int, ...] = (10, 20, 50, 100, 200, 400)  # lengths k; all labels come last
    data_dir: runs.DataDir = None
    out: runs.Out = None
    quick: runs.Quick = False


def module_of(form: str, s: Settings, n_labels: int) -> Any:
    """The same energy with its parameters by unit, or by label."""
    spen = models.spen_of(s, n_labels)
    if form == "arrays":
        return spen
    return sx.energies.LabelSPEN(
        spen.network, s.global_units, entropy=1.0, global_scale=spen.global_scale
    )


def phase_of(predictor: sx.Predictor, s: Settings) -> Phase:
    """End to end as `models.end_to_end`, with the label rows at the network's rate."""
    objective = objectives.end_to_end(
        predictor,
        loss=models.task_loss(s.soft_f1_weight),
        weights=(0.1, *[0] * (s.steps - 1), 1),
    )
    recipe = models.from_scratch(s)
    own = ("['W']", 1.0), ("['bias']", 1.0)
    return Phase("all together", objective, replace(recipe, rates=(*own, *recipe.rates)))


def trained(
    form: str, s: Settings, rows: protocol.Rows, seed: int, progress: Any
) -> tuple[Any, Any, dict[str, Any]]:
    """(module, (chosen, final), seconds of both) of a training on rows of this form."""
    n_labels = rows.data.y.shape[1]
    module = module_of(form, s, n_labels)
    predictor = models.predictor_of(module, s.steps)
    params = models.init_of(module)(jax.random.key(seed), rows.part.x[:1], rows.part.y[:1])
    part, data = rows.part, rows.data
    if form == "sparse":
        part, data = (split._replace(y=csr_array(split.y)) for split in (part, data))
    few = protocol.taken(rows.valid, slice(1000))
    score = partial(protocol.validation_f1, predictor, few)
    phases = (phase_of(predictor, s),)
    began = time.process_time()
    run = choose_then_refit(phases, params, part, data, jax.random.key(seed), score=score)
    both = shared.followed(run, progress, f"seed {seed}: {form}", 2 * s.epochs)
    chosen, final = both.chosen[-1], both.final[-1]
    found = {
        "seconds": chosen.seconds + final.seconds,
        "seconds_a_step": step_seconds(chosen, part, s) + step_seconds(final, data, s),
        "processor_seconds_with_validation": time.process_time() - began,
        "epoch": chosen.epoch,
    }
    found["seconds_a_step"] /= 2
    return module, (chosen.params, final.params), found


def step_seconds(one: Any, split: sx.data.Split, s: Settings) -> float:
    """The median epoch's, without the first epoch, which compiles."""
    each = np.diff(one.clock)
    steps = -(-split.y.shape[0] // s.batch_size)
    return float(np.median(each) / steps) if len(each) else float("nan")


def precisions(ranks: Any, truth: np.ndarray, p: np.ndarray) -> dict[str, float]:
    """Both precisions at 1, 3 and 5, in percent."""
    found = {}
    for k in AT:
        found[f"precision_at_{k}"] = 100 * metrics.precision_at_k(ranks, truth, k)
        scored = metrics.propensity_scored_precision_at_k(ranks, truth, k, p)
        found[f"propensity_scored_at_{k}"] = 100 * scored
    return found


def answers(module: Any, k: int | None, steps: int, params: Any, x: Any) -> tuple[np.ndarray, Any]:
    """Relaxed labels y (N, L) over shortlists of k, all others 0, or over all labels; and what ranks them."""
    if k is None:
        y = np.asarray(models.predictor_of(module, steps)(params, x).y)
        return y, y
    found = sx.Shortlist(module, k, steps=steps)(params, x)
    labels = module.network.n_labels
    return found.matrix(labels).toarray(), metrics.ranked(found.labels, labels)


def tested(
    module: Any, k: int | None, s: Settings, both: tuple[Any, Any], rows: protocol.Rows
) -> dict[str, float]:
    """Rules tuned on the validation rows' answers of this kind, and all measures on the test rows."""
    (valid, _), (test, ranks) = (
        answers(module, k, s.steps, params, split.x)
        for params, split in zip(both, (rows.valid, rows.test), strict=True)
    )
    rules = Rules.tune(valid, rows.valid.y, rows.allow_empty)
    f1 = rules.f1(test, rows.test.y, "test")
    return f1 | precisions(ranks, rows.test.y, metrics.propensities(rows.data.y))


def main(config: Config) -> dict[str, Any]:
    """Run the experiment, write its folder, print the tables and return the result."""
    if unknown := [form for form in config.forms if form not in FORMS]:
        shared.fail(f"--forms knows {', '.join(FORMS)}, got {unknown[0]}")
    run = runs.begin(config, "many-{}")
    s, _ = settings_of(config.dataset, "end-to-end", quick=config.quick)
    n_labels = run.dataset.train.y.shape[1]
    lengths = [k for k in config.shortlists if 1 <= k < n_labels][: 1 if config.quick else None]
    forms: dict[str, list[dict[str, Any]]] = {form: [] for form in config.forms}
    shortlists: dict[str, list[dict[str, float]]] = {str(k): [] for k in lengths}
    with shared.progress_bars() as progress:
        for seed in config.seeds:
            for form, done in forms.items():
                rows, _ = protocol.rows_of(run.dataset, seed, dense=form == "arrays")
                module, both, found = trained(form, s, rows, seed, progress)
                done.append(found | tested(module, None, s, both, rows))
                if form == "sparse":
                    for k in lengths:
                        shortlists[str(k)].append(tested(module, k, s, both, rows))
    result: dict[str, Any] = {"forms": {f: runs.by_seed(each) for f, each in forms.items()}}
    result["shortlists"] = {k: runs.by_seed(each) for k, each in shortlists.items() if each}
    result = run.write(result)
    return run.say(result, table_of(result))


def table_of(result: dict[str, Any]) -> Table:
    """A row for each form of the data, then for each length of the shortlists."""
    columns = "tuned", "expect.", *(f"P@{k}" for k in AT), *(f"PSP@{k}" for k in AT)
    mark = " (quick run: these figures mean nothing)" * result["quick"]
    table = Table(
        "F1:", *columns, "s", title=f"{result['data']['name']}, test rows, %{mark}", padding=(0, 0)
    )
    keys = "test_f1_tuned", "test_f1_expected", *(f"precision_at_{k}" for k in AT)
    keys = *keys, *(f"propensity_scored_at_{k}" for k in AT)
    for name, found in result["forms"].items():
        seconds = f"{np.mean(found['processor_seconds_with_validation']):.0f}"
        table.add_row(name, *(shared.mean_and_spread(found[key]) for key in keys), seconds)
    for k, found in result["shortlists"].items():
        cells = (shared.mean_and_spread(found[key]) for key in keys)
        table.add_row(f"best {k}", *cells, "", style="dim")
    return table


if __name__ == "__main__":
    shared.run(main, Config, __doc__)

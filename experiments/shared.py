"""What the experiments share: a run's folder and its files, progress bars, and one way to train."""

import io
import json
import math
import platform
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import jax
import matplotlib
import numpy as np
import optax
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Column
from rich.text import Text

import spen_jax as sx
from spen_jax import inference_networks, metrics, training
from spen_jax.checkpoints import replacing

matplotlib.use("Agg")
console = Console(highlight=False)
synthetic = False  # whether every line that `say` prints must carry that word


def say(what: Any) -> None:
    """Print text or a Rich table, each line marked where the data are a synthetic stand-in."""
    width = console.width - len("synthetic | ") if synthetic else None
    with console.capture() as capture:
        console.print(what, markup=False, width=width)
    for line in capture.get().splitlines():
        line = f"synthetic | {line}" if synthetic else line
        console.print(Text.from_ansi(line), soft_wrap=True)


def new_folder(out: Path | None, name: str) -> Path:
    """Make the folder of a run: `out`, which must be new or empty, or runs/<name>-<date>-<time>."""
    folder = out or Path("runs") / f"{name}-{datetime.now():%Y-%m-%d-%H%M%S}"
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        fail(f"--out {folder} exists and is not an empty folder; name a new one")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def write_json(path: Path, value: Any) -> None:
    """Write `value` as strict JSON: paths become text, numbers that are not finite become null."""

    def plain(v):
        if isinstance(v, dict):
            return {str(k): plain(x) for k, x in v.items()}
        if isinstance(v, list | tuple):
            return [plain(x) for x in v]
        if isinstance(v, np.ndarray | np.generic | jax.Array):
            return plain(np.asarray(v).tolist())
        if isinstance(v, Path):
            return str(v)
        return None if isinstance(v, float) and not math.isfinite(v) else v

    with replacing(path) as file:
        file.write((json.dumps(plain(value), indent=2, allow_nan=False) + "\n").encode())


def save_figure(figure: Any, path: Path, colours: int | None = None) -> None:
    """Write a Matplotlib figure as PNG, of so many colours where a small file is wanted, and close it."""
    import matplotlib.pyplot as plt
    from PIL import Image

    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", dpi=130, bbox_inches="tight")
    plt.close(figure)
    with replacing(path) as file:
        if colours is None:
            file.write(drawn.getbuffer())
        else:
            Image.open(drawn).convert("RGB").quantize(colours).save(file, "PNG", optimize=True)


def environment() -> dict[str, str]:
    """The versions and the device that a figure depends on."""
    device = jax.devices()[0]
    return {
        "spen_jax": sx.__version__,
        "jax": jax.__version__,
        "python": platform.python_version(),
        "device": f"{device.platform} {device.device_kind}",
    }


def mean_and_spread(values: list[float]) -> str:
    """The mean and, for several values, their sample standard deviation: "47.2 ± 0.3"."""
    mean = f"{np.mean(values):.1f}"
    return f"{mean} ± {np.std(values, ddof=1):.1f}" if len(values) > 1 else mean


@contextmanager
def progress_bars() -> Iterator[Progress]:
    """Progress bars with the time left on a terminal, and nothing that moves elsewhere."""
    columns = (
        BarColumn(bar_width=16),
        TextColumn("{task.completed:.0f}/{task.total:.0f}"),
        TimeRemainingColumn(compact=True),
        TextColumn("{task.description}", table_column=Column(no_wrap=True, overflow="ellipsis")),
        TextColumn("{task.fields[note]}", table_column=Column(no_wrap=True)),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        yield progress


def start(context: Any, key: Any = None) -> jax.Array:
    """Inference starts at the feature network's own answer."""
    return jax.nn.sigmoid(context["logits"])


def initial_params(module: Any, data: sx.data.Split, key: jax.Array) -> Any:
    """The parameters of a network or a SPEN before training."""
    example = (data.x[:1], data.y[:1]) if isinstance(module, sx.SPEN) else (data.x[:1],)
    return module.init(key, *example)["params"]


def validation_f1(
    predict: Callable[..., tuple[jax.Array, Any]], valid: sx.data.Split, params: Any
) -> float:
    """Example-averaged F1 of `predict(params, x) -> (y, ...)` at the threshold that is best on the same rows."""
    y = predict(params, valid.x)[0]
    return metrics.example_f1(valid.y, metrics.decide(y, metrics.tune_threshold(valid.y, y)))


Rates = tuple[tuple[str, float], ...]


class Recipe(NamedTuple):
    """How to train: AdamW, clipped gradients, a rate that warms up for a tenth and falls as a cosine.

    Steps whose gradient is not finite are skipped, up to 50 in a row.
    """

    epochs: int
    learning_rate: float
    weight_decay: float
    batch_size: int = 128
    clip: float = 5.0
    average: float | None = None
    """Decay of the moving average of the parameters that is evaluated and kept, or None."""
    alternate: bool = False
    """Whether parameters "energy" and "predictor" take turns."""
    to_the_end: bool = False
    """Whether the last epoch is kept, and not the best."""


class Trained(NamedTuple):
    """Parameters, the epoch they are from, and the validation score of every epoch (or none)."""

    params: Any
    epoch: int
    scores: list[float]
    seconds: float
    clock: tuple[float, ...] = ()
    """Seconds of training, without validation, after each epoch."""


@lru_cache(maxsize=64)
def optimizer_of(recipe: Recipe, steps: int, rates: Rates) -> optax.GradientTransformation:
    """The optimizer of a training; the same object for the same settings, so that nothing compiles twice.

    `rates` are pairs of a text and a factor: the first pair whose text is in a parameter's path sets the
    factor of its learning rate (not of its decay), 0 freezes it; where none is, the factor is 1.
    """

    def factors(params):
        def factor(path, _):
            return next((f for text, f in rates if text in jax.tree_util.keystr(path)), 1.0)

        return jax.tree.map_with_path(factor, params)

    if recipe.alternate:
        steps = -(-steps // 2)  # of each player

    def adamw(factor):
        peak, decay = factor * recipe.learning_rate, recipe.weight_decay / max(factor, 1e-9)
        rate = optax.warmup_cosine_decay_schedule(0, peak, steps // 10 + 1, steps + 1)
        return optax.adamw(rate, weight_decay=decay)

    optimizer = optax.chain(
        optax.masked(optax.set_to_zero(), lambda p: jax.tree.map(lambda f: f == 0, factors(p))),
        optax.clip_by_global_norm(recipe.clip),
        optax.partition({f: adamw(f) for f in {1.0, *(f for _, f in rates)}}, factors),
    )
    if recipe.alternate:
        optimizer = inference_networks.alternating(optimizer, optimizer)
    return training.stable(optimizer, clip=None, skip=50, average=recipe.average)


def train(
    objective: sx.objectives.Objective,
    params: Any,
    data: sx.data.Split,
    recipe: Recipe,
    key: jax.Array,
    *,
    score: Callable[[Any], float] | None = None,
    patience: int = 1_000,
    stop_after: int | None = None,
    rates: Rates = (),
    progress: Progress | None = None,
    name: str = "",
) -> Trained:
    """Train by `recipe`, and keep the epoch with the best validation score.

    That is the mean of its own score and those of the two epochs before it: a single one is noisy.

    Args:
      objective: what to minimise.
      params: where to start.
      data: the training rows.
      recipe: the rates; the schedule always spans all of its epochs.
      key: decides the order of the examples and all that is random.
      score: validation score of parameters, higher is better; without it the last epoch is kept.
      patience: stop when this many epochs brought nothing better.
      stop_after: stop after this epoch, the one that an earlier training found best.
      rates: factors of the learning rate, see `optimizer_of`.
      progress: bars to add one to.
      name: of the bar.
    """
    start = time.perf_counter()
    steps = training.steps_per_epoch(len(data.x), recipe.batch_size) * recipe.epochs
    optimizer = optimizer_of(recipe, steps, rates)
    epochs = recipe.epochs if stop_after is None else stop_after
    name = f"synthetic | {name}" if synthetic else name
    bar = progress.add_task(name, total=epochs, note="") if progress else TaskID(0)
    best, scores, clock, spent = training.Best(params), [], [], 0.0
    first = training.init(params, optimizer, key)
    began = start
    for state, means in training.fit(
        objective, optimizer, first, data, epochs=epochs, batch_size=recipe.batch_size
    ):
        spent += time.perf_counter() - began
        clock.append(spent)
        note = f"loss {means['loss']:.3g}"
        current = state.params
        if recipe.average is not None:
            current = training.average_of(state.opt_state)
        if score is not None:
            scores.append(score(current))
        if score is None or recipe.to_the_end:
            best = best._replace(params=current, epoch=best.epoch + 1)
        else:
            best = best.update(current, float(np.mean(scores[-3:])))
        if scores:
            note = f"F1 {100 * scores[-1]:.1f}"
        began = time.perf_counter()
        if progress:
            progress.update(bar, advance=1, note=note)
        if best.stale >= patience:
            break
    if progress:
        progress.remove_task(bar)
    seconds = time.perf_counter() - start
    return Trained(best.params, best.epoch, scores, seconds, tuple(clock))


def fail(message: str) -> NoReturn:
    """End the program with one line on standard error and exit status 2."""
    print(f"{Path(sys.argv[0]).name}: {message}", file=sys.stderr)
    raise SystemExit(2)

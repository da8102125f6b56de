"""What the experiments share: a run's folder and its files, checks of settings, and progress bars."""

import ctypes
import importlib.util
import io
import json
import math
import os
import platform
import re
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import jax
import matplotlib
import numpy as np
import tyro
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column
from rich.text import Text

import spen_jax as sx
from spen_jax import training
from spen_jax.bundles import replacing
from spen_jax.training import Stopped, Trained
from spen_jax.training.resuming import locked

matplotlib.use("Agg")
console = Console(highlight=False)
synthetic = False  # whether every line that `say` prints must carry that word
BEGUN, KEPT = "begun.json", "checkpoints"  # of a run in its folder, while it is not over
T = TypeVar("T")


def say(what: Any) -> None:
    """Print text or a Rich table, each line marked where the data are a synthetic stand-in."""
    width = console.width - len("synthetic | ") if synthetic else None
    with console.capture() as capture:
        console.print(what, markup=False, width=width)
    for line in capture.get().splitlines():
        line = f"synthetic | {line}" if synthetic else line
        console.print(Text.from_ansi(line), soft_wrap=True)


def fail(message: str) -> NoReturn:
    """End the program with one line on standard error and exit status 2."""
    print(f"{Path(sys.argv[0]).name}: {message}", file=sys.stderr)
    raise SystemExit(2)


def keep_memory() -> None:
    """Lets glibc keep what is freed: a training step's arrays, megabytes each, would else be new pages every time."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        trim_threshold, mmap_threshold = -1, -3  # as malloc.h numbers them
        mallopt(trim_threshold, 2**30)
        mallopt(mmap_threshold, 2**25)


def run(
    main: Callable[[Any], Any], config: type, description: str | None, all_cores: bool = True
) -> None:
    """Call main with the settings of the command line, each core a device, or on one device with threads of its own.

    `--resume DIR` goes on with the run in DIR that was broken off, by its settings: trainings by `fit` and `train` go
    on where they stood, all else is done again. SIGTERM and Ctrl-C end it with 143 and 130, and say so.
    `--tensorboard` writes what `metrics.jsonl` says as TensorBoard's events too, a run for each training.
    """
    arguments = _resumed(sys.argv[1:])
    _run.shown = "--tensorboard" in arguments
    arguments = [a for a in arguments if a != "--tensorboard"]
    about = (
        f"{description}\n--resume DIR goes on with a run that was broken off. --tensorboard writes the lines of "
        "metrics.jsonl as TensorBoard's events too."
    )
    settings = tyro.cli(config, description=about, args=arguments)
    if all_cores:
        sx.parallel.all_cores()
    keep_memory()
    signal.signal(signal.SIGTERM, _end)
    with _run.open:
        if _run.shown and importlib.util.find_spec("tensorboardX") is None:
            fail("--tensorboard needs tensorboardX: pip install 'spen_jax[tensorboard]'")
        try:
            main(settings)
        except (KeyboardInterrupt, Stopped) as end:
            raise SystemExit(_broken_off(getattr(end, "code", 130))) from None
    if _run.folder is not None:
        (_run.folder / BEGUN).unlink()
        shutil.rmtree(_run.folder / KEPT, ignore_errors=True)
        (_run.folder / ".lock").unlink()


class _Run:
    """The run of this process: its folder, whether it goes on with an earlier one, its arguments, what it keeps open.

    A main that is called otherwise than by `run` has no arguments and keeps no checkpoints.
    """

    def __init__(self):
        self.folder: Path | None = None
        self.goes_on = self.locked = self.shown = False
        self.board: tuple[Path, training.TensorBoard] | None = None
        self.arguments: Sequence[str] | None = None
        self.logged: set[tuple[int, int, int]] | None = None
        self.trainings = 0
        self.open = ExitStack()


_run = _Run()


def _resumed(arguments: list[str]) -> list[str]:
    """The arguments of the run that `--resume DIR` names, or those given."""
    if arguments and arguments[0].startswith("--resume="):
        arguments = [*arguments[0].split("=", 1), *arguments[1:]]
    if "--resume" not in arguments:
        _run.arguments = arguments
        return arguments
    if len(arguments) != 2 or arguments[0] != "--resume":
        fail(
            "--resume takes a folder and nothing else: the settings are those of the run that was broken off"
        )
    folder = Path(arguments[1]).absolute()
    if not (folder / BEGUN).is_file():
        fail(
            f"--resume {folder}: no run that was broken off is there; a finished one has its result.json"
        )
    try:
        begun = json.loads((folder / BEGUN).read_text())
        program, arguments, within = (begun[name] for name in ("program", "arguments", "within"))
    except (ValueError, KeyError, TypeError) as error:
        fail(f"--resume {folder}: {BEGUN} is damaged ({error!r}); begin a new run")
    if program != Path(sys.argv[0]).name:
        fail(f"--resume {folder} is a run of {program}")
    os.chdir(within)  # paths among the settings are relative to it
    _run.folder, _run.goes_on, _run.arguments = folder, True, arguments
    return arguments


def _end(number: int, _: Any) -> NoReturn:
    raise SystemExit(_broken_off(128 + number))


def _broken_off(code: int) -> int:
    """The exit code, once it is said how to go on."""
    if _run.folder is not None:
        program = Path(sys.argv[0]).name
        print(f"{program}: broken off; --resume {_run.folder} goes on", file=sys.stderr)
    return code


def check_seeds(seeds: Sequence[int]) -> None:
    """Fail unless there are seeds, all different and none negative."""
    if not seeds or len(set(seeds)) < len(seeds) or min(seeds) < 0:
        fail(f"--seeds needs different numbers, 0 or more, got {list(seeds)}")


def check_least(config: Any, **least: int) -> None:
    """Fail where a setting is below the least it may be: `check_least(config, epochs=1)`."""
    for name, lowest in least.items():
        if (got := getattr(config, name)) < lowest:
            fail(f"--{name.replace('_', '-')} must be at least {lowest}, got {got}")


def new_folder(out: Path | None, name: str) -> Path:
    """Make the folder of a run: `out`, which must be new or empty, or runs/<name>-<date>-<time>.

    From then on trainings keep checkpoints in it. The folder of a run that goes on is the one it had.
    """
    folder = out or Path("runs") / f"{name}-{datetime.now():%Y-%m-%d-%H%M%S}"
    if _run.goes_on and _run.folder is not None:
        folder = _run.folder
        _lock(folder)
        for left in folder.glob(".*.part"):  # of a writer that was killed
            left.unlink()
    elif folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        fail(f"--out {folder} exists and is not an empty folder; name a new one")
    folder.mkdir(parents=True, exist_ok=True)
    if _run.arguments is not None:
        _lock(folder)
        _run.folder = folder.absolute()
        begun = {"program": Path(sys.argv[0]).name, "arguments": _run.arguments}
        write_json(folder / BEGUN, begun | {"within": Path.cwd()})
        _run.open.enter_context(training.resumable(folder / KEPT))
    return folder


def _lock(folder: Path) -> None:
    """Keeps the folder for this process; fail where another one works there."""
    if not _run.locked:
        try:
            _run.open.enter_context(locked(folder))
        except training.CheckpointError as error:
            fail(str(error))
    _run.locked = True


def write_json(path: Path, value: Any) -> None:
    """Write `value` as strict JSON: paths become text, numbers that are not finite become null."""
    with replacing(path) as file:
        file.write((json.dumps(_plain(value), indent=2, allow_nan=False) + "\n").encode())


def _plain(v: Any) -> Any:
    if isinstance(v, dict):
        return {str(k): _plain(x) for k, x in v.items()}
    if isinstance(v, list | tuple):
        return [_plain(x) for x in v]
    if isinstance(v, np.ndarray | np.generic | jax.Array):
        return _plain(np.asarray(v).tolist())
    if isinstance(v, Path):
        return str(v)
    return None if isinstance(v, float) and not math.isfinite(v) else v


def save_figure(figure: Any, path: Path) -> None:
    """Write a Matplotlib figure as PNG in full colour, as small as that can be without loss, and close it."""
    import matplotlib.pyplot as plt
    from PIL import Image

    drawn = io.BytesIO()
    # At 100 dots an inch a page of the README stays light; nothing is transparent, so alpha says nothing.
    figure.savefig(drawn, format="png", dpi=100, bbox_inches="tight")
    plt.close(figure)
    with replacing(path) as file:
        Image.open(drawn).convert("RGB").save(file, "PNG", optimize=True)


def environment() -> dict[str, str]:
    """The versions and the device that a figure depends on."""
    device = jax.devices()[0]
    return {
        "spen_jax": sx.__version__,
        "jax": jax.__version__,
        "python": platform.python_version(),
        "device": f"{device.platform} {device.device_kind}",
    }


def mean_and_spread(values: Sequence[float]) -> str:
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


def followed(training: Iterator[T], progress: Progress | None, name: str, epochs: int) -> T:
    """The last of what a training yields, under a bar called `name` while it runs.

    It yields after each of its epochs, at most so many: `train`, `fit_phases` or `choose_then_refit`. The bar shows
    the newest score in percent, or the loss; where no terminal is, a line says so every half a minute. In the folder
    of a run `metrics.jsonl` gets a line for each epoch.
    """
    last, bar, said = None, None, time.monotonic()
    if progress:
        name = f"synthetic | {name}" if synthetic else name
        bar = progress.add_task(name, total=epochs, note="")
    _run.trainings += 1
    for count, last in enumerate(training, 1):
        stages = _stages(last)
        _log(name, len(stages), stages[-1])
        note = _note(stages[-1])
        if progress and bar is not None:
            progress.update(bar, advance=1, note=note)
        if progress and not console.is_terminal and time.monotonic() - said > 30:
            said = time.monotonic()
            print(f"{name}: {count}/{epochs} {note}", file=sys.stderr, flush=True)
    if progress and bar is not None:
        progress.remove_task(bar)
    if last is None:
        raise ValueError(f"the training {name!r} yielded nothing")
    return last


def _stages(value: Any) -> list[Trained]:
    """The trainings in what was yielded, the one at work last."""
    if isinstance(value, Trained):
        return [value]
    return [trained for part in value for trained in _stages(part)]


def _note(trained: Trained) -> str:
    if trained.scores:
        return f"score {100 * trained.scores[-1]:.1f}"
    return f"loss {trained.metrics['loss']:.3g}" if "loss" in trained.metrics else ""


def _log(name: str, stage: int, trained: Trained) -> None:
    """A line of `metrics.jsonl`, unless a run that goes on has written it before."""
    if _run.folder is None:
        return
    path = _run.folder / "metrics.jsonl"
    if _run.logged is None:
        lines = path.read_text().splitlines(keepends=True) if path.exists() else []
        whole = [line for line in lines if line.endswith("\n")]  # a writer may have been killed
        if whole != lines:
            path.write_text("".join(whole))
        lines = map(json.loads, whole)
        _run.logged = {(line["number"], line["stage"], line["epoch"]) for line in lines}
    key = _run.trainings, stage, len(trained.clock)
    if key in _run.logged or not trained.clock:
        return
    _run.logged.add(key)
    line: dict[str, Any] = {"training": name}
    line |= dict(zip(("number", "stage", "epoch"), key, strict=True))
    figures: dict[str, Any] = {"seconds": trained.seconds, **trained.metrics}
    if trained.scores:
        figures["score"] = trained.scores[-1]
    if _run.shown:
        _board_of(name, *key[:2])(key[2], figures)
    with open(path, "a") as file:
        file.write(json.dumps(_plain(line | figures), allow_nan=False) + "\n")


def _board_of(name: str, number: int, stage: int) -> training.TensorBoard:
    """That of a training's stage; the one before it is closed."""
    assert _run.folder is not None
    words = re.sub(r"[^\w.=-]+", "-", name)
    folder = _run.folder / "tensorboard" / f"{number}-{words}-{stage}"
    if _run.board is None or _run.board[0] != folder:
        if _run.board is not None:
            _run.board[1].close()
        _run.board = folder, _run.open.enter_context(training.TensorBoard(folder))
    return _run.board[1]

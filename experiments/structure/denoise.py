"""Denoising by an energy, and what one learned prior answers besides: missing pixels, holes, a blur.

The question: E(x, y) = |y - x|^2 / (2 s^2) + prior(y / s), its prior the size of what a network finds to be noise, is
trained through a step of its own gradient descent at many levels of noise s. What does it reach beside the network
alone, of equal parameters, and beside methods without learning? And can it, with the SAME weights, fill and deblur?

Measured (docs/results/images.md), grey 256 x 256 centres of four photographs, mean PSNR at noise of 15 / 25 / 50 / 75
of 255: total variation 30.7 / 28.0 / 25.3 / 23.5, BM3D 32.4 / 30.0 / 26.8 / 24.9.

Protocol: learnt from photographs that scikit-image and scikit-learn ship and those of `--images`; constants of all
methods are chosen on two others; camera, astronaut, chelsea and coffee are for testing alone. Noise of 5 to 55 in
training: 75 is beyond it. By default 12 minutes on two cores; docs/results/images.md has the long run.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
from rich.table import Table

from experiments import shared
from experiments.lecture import runs
from experiments.structure import denoise_data, denoise_figures, denoise_peers
from experiments.structure import denoise_problems as problems
from experiments.structure.denoise_data import Photographs, noisy
from experiments.structure.denoise_models import EACH, models, trained
from spen_jax.metrics import psnr
from spen_jax.training import checkpoints

NOISES = 15, 25, 50, 75
WIDTHS = 32, 64


@dataclass(frozen=True)
class Config:
    """A learned prior over images: denoising, filling, deblurring."""

    data: Literal["photographs", "digits"] = "photographs"
    """What images."""

    images: Path | None = None
    """A folder of further photographs to learn from."""

    models: tuple[str, ...] = ("energy", "residual", "tied", "untied")
    """What is trained: these and energy3."""

    seeds: tuple[int, ...] = (0, 1, 2)
    """Of parameters, patches and noise in training."""

    steps: int = 2000
    """Training steps of eight patches of 48 x 48."""

    weights: tuple[Path, ...] = ()
    """Files that a run has written, in place of training."""

    quick: bool = False
    """A run of seconds, to see that everything works; its figures mean nothing."""

    out: Path | None = None
    """Folder to write, new or empty; runs/denoise-<date> by default."""


def main(config: Config) -> dict[str, Any]:
    """Run the experiment, write its folder and return the result."""
    widths = (8, 8) if config.quick else WIDTHS
    known = models(widths)
    if unknown := [m for m in config.models if m not in known]:
        shared.fail(f"--models knows {', '.join(known)}, got {', '.join(unknown)}")
    if config.quick:
        config = replace(config, steps=min(config.steps, 5), data="digits", seeds=config.seeds[:1])
    run = runs.begin(config, "denoise", steps=1)
    if config.data == "photographs":
        images = denoise_data.photographs(config.images)
    else:
        images = denoise_data.digits(4 if config.quick else 32)
    weights = _loaded(config, known) if config.weights else _trained(config, known, images, run)
    cleaned: dict[str, dict[str, list[np.ndarray]]] = {str(level): {} for level in NOISES}
    solved: dict[str, dict[str, list[problems.Found]]] = {name: {} for name in problems.PROBLEMS}
    result: dict[str, Any] = {"learnt from": len(images.learned)}
    first: dict[str, Any] = {}
    for name, _, params in weights:
        model = known[name]
        for level in NOISES:
            y = model.denoise(params, noisy(images.tested, level), level / 255)
            cleaned[str(level)].setdefault(name, []).append(np.clip(np.asarray(y), 0, 1))
        if name in ("energy", "residual"):
            _solve(name, model, params, widths, images, solved)
        first.setdefault(name, params)
        result |= measured(cleaned, solved, images.tested)
        shared.write_json(run.folder / "result.json", result)
    _peers(images, cleaned, solved)
    result |= measured(cleaned, solved, images.tested)
    if "energy" in first:
        denoise_figures.draw(run.folder, images, cleaned, solved, first["energy"], widths)
    return run.finish(result, *tables(result))


def _trained(config: Config, known: Any, images: Photographs, run: Any) -> Iterator[Any]:
    side = min(48, *(min(image.shape) for image in images.learned))
    with shared.progress_bars() as progress:
        for seed in config.seeds:
            for name in config.models:
                training = trained(known[name], images.learned, config.steps, seed, side)
                bar = progress.add_task(f"{name}, {seed}", total=-(-config.steps // EACH), note="")
                params = None
                for average, loss in training:
                    params = average
                    progress.update(bar, advance=1, note=f"loss {loss:.3g}")
                progress.remove_task(bar)
                meta = {"model": name, "seed": seed, "steps": config.steps}
                checkpoints.save(run.folder / f"{name}-{seed}.spen", params, meta)
                yield name, seed, params


def _loaded(config: Config, known: Any) -> list[Any]:
    found = []
    for path in config.weights:
        try:
            _, meta = checkpoints.load(path)
            name = meta.get("model")
            if name not in known:
                shared.fail(f"--weights {path}: expected weights of {', '.join(known)}, got {name}")
            expected = jax.eval_shape(known[name].init, jax.random.key(0))
            params, _ = checkpoints.load(path, like=expected)
        except (OSError, ValueError) as error:
            shared.fail(f"--weights: {error}")
        found.append((name, meta.get("seed"), params))
    return found


def _solve(
    name: str, model: Any, params: Any, widths: Any, images: Photographs, solved: Any
) -> None:
    """All problems by one model; what was chosen for its first seed serves the others."""
    solve = partial(problems.by_network, model, params)
    if name == "energy":
        solve = partial(problems.by_energy, params, widths)
    for problem, of in solved.items():
        before = of.setdefault(name, [])
        tried = [before[0].constants] if before else problems.candidates(problem)
        before.append(problems.found(solve, tried, problem, images))


def _peers(images: Photographs, cleaned: Any, solved: Any) -> None:
    """Methods without learning."""
    for name in denoise_peers.DENOISERS:
        if name == "bm3d" and not denoise_peers.has_bm3d():
            shared.say("BM3D is left out: pip install bm3d, which is free for non-commercial use")
            continue
        for level in NOISES:
            cleaned[str(level)][name] = [denoise_peers.denoised(name, level, images)]
    for level in NOISES:
        seen = np.clip(np.asarray(noisy(images.tested, level)), 0, 1)
        cleaned[str(level)]["noisy"] = [seen]
    for problem, of in solved.items():

        def add(name, solve, tried, of=of, problem=problem):
            of[name] = [problems.found(solve, tried, problem, images)]

        add("start", denoise_peers.filled, [{}])
        variations = problems.candidates(problem, variation=True)
        add("total_variation", problems.by_variation, variations)
        if problem == "blur":
            balances = [{"balance": b} for b in denoise_peers.BALANCES]
            add("wiener", denoise_peers.wiener, balances)
        else:
            add("biharmonic", denoise_peers.biharmonic, [{}])


def measured(cleaned: Any, solved: Any, truth: np.ndarray) -> dict[str, Any]:
    """Means over the images and seeds, the spread over seeds, constants and residuals."""
    each: dict[str, Any] = {
        "psnr": {
            level: {name: [near(y, truth) for y in answers] for name, answers in of.items()}
            for level, of in cleaned.items()
        },
        "ssim": {
            level: {name: [ssim(y, truth) for y in answers] for name, answers in of.items()}
            for level, of in cleaned.items()
        },
    }
    for problem, of in solved.items():
        each[problem] = {name: [near(f.y, truth) for f in found] for name, found in of.items()}

    def mean(value: Any) -> Any:
        return {k: mean(v) for k, v in value.items()} if isinstance(value, dict) else np.mean(value)

    said = {
        problem: {
            name: {
                "constants": found[0].constants,
                "residual_of_255": [f.residual for f in found if f.residual is not None],
            }
            for name, found in of.items()
        }
        for problem, of in solved.items()
    }
    return mean(each) | {"each seed": each, "how": said}


def near(y: np.ndarray, truth: np.ndarray) -> float:
    """The PSNR, not a number where an answer is not finite."""
    return psnr(y, truth) if np.isfinite(y).all() else np.nan


def ssim(y: np.ndarray, truth: np.ndarray) -> float:
    """The mean structural similarity (Wang et al. 2004)."""
    from skimage.metrics import structural_similarity

    pairs = zip(y, truth, strict=True)
    return float(np.mean([structural_similarity(a, b, data_range=1.0) for a, b in pairs]))


def tables(result: dict[str, Any]) -> list[Table]:
    """PSNR at each noise, and of each problem."""
    each = result["each seed"]
    made = []
    for title, columns in (
        ("noise of 255: PSNR in dB", each["psnr"]),
        ("the same weights: PSNR in dB", {k: each[k] for k in problems.PROBLEMS}),
    ):
        table = Table("", *(problems.PROBLEMS.get(c, c) for c in columns), title=title)
        for name in dict.fromkeys(name for of in columns.values() for name in of):
            cells = (of.get(name) for of in columns.values())
            table.add_row(name, *("" if c is None else shared.mean_and_spread(c) for c in cells))
        made.append(table)
    return made


if __name__ == "__main__":
    # One device, whose convolutions take all cores: over several of a CPU a step of these can wait for ever.
    shared.run(main, Config, __doc__, all_cores=False)

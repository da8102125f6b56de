"""Horses cut out of photographs: what an energy over masks adds to a network of pixels.

The question: y (32, 32) says which pixels are horse. The SPEN's energy has the unaries of a U-Net and convolutions
over y at two scales; inference takes ten steps of mirror descent from the U-Net's own answer, and training goes
through them. What do the same layers reach without an energy: once; iterated as often with the same weights; with
weights of each step's own? What a grid whose edges see the colours, and a deep value network? All on whole images
and with a square of 12 x 12 hidden at test time, trained with such squares and without.

Expected: published, 200 horses of 32 x 32 to learn from: fully convolutional network 78.6, deep value network 84.1
mean intersection over union (Gygli, Norouzi & Angelova 2017; reruns by others reach 73 to 76 with the latter).
Measured: docs/results/masks.md.

Protocol: 160 horses to learn from; 40 for what is chosen (epochs and rates were set once); 128 to test, each
with one square where the seed says. A U-Net first, on whole images; what stands on it starts from it and is trained
with it, all alike, on whole images or half of them with a square hidden; "more" is the U-Net alone, trained on so,
and what the grid stands on.
Intersections over union are means over images.
By default the U-Net, "more", "tied" and "spen", three seeds, trained with squares: about 19 minutes of one core, added
up from single trainings (a seed's U-Net 60 seconds, "more" 30, "tied" 130, "spen" 150).
"once", "untied", "crf" and "dvn" by --models.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from rich.table import Table

import spen_jax as sx
from experiments import shared
from experiments.lecture import runs
from experiments.structure import horses_figures
from experiments.structure.horses_models import CONTESTANTS
from experiments.structure.horses_protocol import judged, trained
from experiments.structure.horses_training import prepared
from spen_jax.training import checkpoints

MODELS = tuple(name for name in CONTESTANTS if name != "unet")
Training = Literal["plain", "hidden"]


@dataclass(frozen=True)
class Config:
    """Horses by networks, grids and energies over masks."""

    seeds: tuple[int, ...] = (0, 1, 2)
    """Of parameters, batches, and where squares are hidden."""

    models: tuple[str, ...] = ("more", "tied", "spen")
    """Which beside the U-Net, by their names in horses_models.CONTESTANTS."""

    training: tuple[Training, ...] = ("hidden",)
    """On whole images, or half of them with a square hidden, of all but the U-Net itself, which sees whole ones."""

    epochs: int = 90
    """Of the U-Net, ten steps each; the deep value network takes as many."""

    further: int = 90
    """Of what stands on the U-Net."""

    quick: bool = False
    """A run of seconds on few images, to see that everything works; its figures mean nothing."""

    data_dir: Path | None = None
    """Folder that holds weizmann_horse/; else SPEN_JAX_DATA, else the cache."""

    out: Path | None = None
    """Folder to write, new or empty; runs/horses-<date> by default."""


def measure(config: Config, data: dict[str, Any], save: Any) -> dict[str, Any]:
    """{training: {model: {measure: values of each seed}}}; `save` is called after each."""
    found: dict[str, Any] = {t: {} for t in config.training}
    train = data["train"]

    def take(name, training, seed, ready=None):
        one = CONTESTANTS[name]
        epochs = config.further if one.on_network else config.epochs
        if one.choose:
            params = one.choose(ready, data["validation"])
        else:
            params = trained(one, train, epochs, seed, training == "hidden", ready)
        values = judged(one, params, data["test"], data["validation"], seed)
        kept = found.setdefault(training, {}).setdefault(name, {})
        for what, value in values.items():
            kept.setdefault(what, []).append(value)
        save(found, name, training, seed, params)
        return params

    for seed in config.seeds:
        network = take("unet", "plain", seed)["network"]
        for training in config.training:
            trained_on = network
            for name in config.models:
                one = CONTESTANTS[name]
                ready = trained_on if one.choose else network if one.on_network else None
                params = take(name, training, seed, ready)
                trained_on = params["network"] if name == "more" else trained_on
    return found


def few(split: sx.data.Split) -> sx.data.Split:
    """Some images."""
    return sx.data.Split(split.x[:16], split.y[:16])


def main(config: Config) -> dict[str, Any]:
    """Run the experiment, write its folder and return the result."""
    if unknown := [m for m in config.models if m not in MODELS]:
        shared.fail(f"--models knows {', '.join(MODELS)}, got {', '.join(unknown)}")
    if config.quick:
        config = replace(config, epochs=1, further=1, seeds=config.seeds[:1])
    run = runs.begin(config, "horses", epochs=1, further=1)
    try:
        horses = sx.data.load_horses(config.data_dir)
    except (FileNotFoundError, sx.data.DataError) as error:
        shared.fail(str(error))
    splits = {name: getattr(horses, name) for name in ("train", "validation", "test")}
    if config.quick:
        splits = {name: few(split) for name, split in splits.items()}
    data = {name: prepared(split) for name, split in splits.items()}
    result: dict[str, Any] = {"data": {"name": "weizmann_horse", "checksums": horses.checksums}}

    def save(found, name, training, seed, params):
        result["found"] = found
        shared.say(f"{name}, {training}, seed {seed}: {latest(found[training][name])}")
        meta = {"model": name, "training": training, "seed": seed}
        checkpoints.save(run.folder / f"{name}-{training}-{seed}.spen", params, meta)
        shared.write_json(run.folder / "result.json", result)
        if name == "spen" and seed == config.seeds[0]:
            horses_figures.draw(params, data["test"], splits["test"].x, seed, training, run.folder)

    result["found"] = measure(config, data, save)
    return run.finish(result, *(table(t, of) for t, of in result["found"].items()))


def latest(values: dict[str, list[float]]) -> str:
    """Of the seed that came last."""
    return ", ".join(f"{what} {each[-1]:.1f}" for what, each in values.items())


def table(training: str, found: dict[str, Any]) -> Table:
    """Means and spreads, in per cent."""
    columns = ("IoU", "pixels", "IoU, over flips", "IoU, square hidden", "pixels, square hidden")
    how = {"plain": "on whole images", "hidden": "on half of the images with a square hidden"}
    rows = Table("", *columns, title=f"test horses, %, trained {how[training]}")
    for name, values in found.items():
        shown = [v for w, v in values.items() if w != "iou_validation"]
        each = ["" if np.isnan(v).any() else shared.mean_and_spread(v) for v in shown]
        rows.add_row(CONTESTANTS[name].title, *each)
    return rows


if __name__ == "__main__":
    # One device, whose convolutions take all cores: over several of a CPU a step of these can wait for ever.
    shared.run(main, Config, __doc__, all_cores=False)

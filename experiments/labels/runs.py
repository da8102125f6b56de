"""What the multi-label programs do alike: options, data, a run's folder, tables."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
from tyro.conf import arg

import spen_jax as sx
from experiments import shared
from experiments.labels.protocol import RULES, taken

# Options that several programs have.
Dataset = Annotated[
    Literal["bibtex", "delicious", "scene", "yeast"], arg(help="What is trained on.")
]
Method = Annotated[str, arg(help="How the energy is trained, one of models.METHODS.")]
Seeds = Annotated[
    tuple[int, ...], arg(help="Of the validation rows, the parameters, the batches and the rest.")
]
DATA = (
    "Folder that holds the data set's folder; else SPEN_JAX_DATA, else the cache, else a download."
)
DataDir = Annotated[Path | None, arg(help=DATA)]
OUT = "Folder to write, new or empty; runs/<name>-<date> by default."
Out = Annotated[Path | None, arg(help=OUT)]
QUICK = "A run of seconds on few rows, to see that everything works; its figures mean nothing."
Quick = Annotated[bool, arg(help=QUICK)]


def load(name: str, data_dir: Path | None = None, quick: bool = False) -> sx.data.Dataset:
    """A Mulan data set, of which `quick` takes 600 rows of each part; where BibTeX cannot be had, its stand-in."""
    try:
        dataset = sx.data.load(name, data_dir)
    except sx.data.DownloadError as error:
        if name != "bibtex":
            shared.fail(str(error))
        shared.synthetic = True
        shared.say(
            "The BibTeX data could not be downloaded, so this run uses a made-up tagging corpus of the "
            "same shape; its figures say nothing about BibTeX."
        )
        shared.say(str(error))
        dataset = sx.data.tagging_corpus()
    except (sx.data.DataError, FileNotFoundError) as error:
        shared.fail(str(error))
    few = slice(600 if quick else None)
    return dataset._replace(train=taken(dataset.train, few), test=taken(dataset.test, few))


def by_seed(each: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """One list for each name, with a value of each seed."""
    return {name: [one[name] for one in each] for name in each[0]}


def gains(of: Mapping[str, list], control: Mapping[str, list]) -> dict[str, list[float]]:
    """Test F1 of one model less that of another, seed by seed, by rule."""
    names = {rule: f"test_f1_{rule}" for rule in RULES}
    return {rule: np.subtract(of[n], control[n]).tolist() for rule, n in names.items()}


def cells(f1: Mapping[str, list], rules: Sequence[str] = RULES) -> list[str]:
    """Mean and spread of a model's test F1 by each rule."""
    return [shared.mean_and_spread(f1[f"test_f1_{rule}"]) for rule in rules]


class Run(NamedTuple):
    """A run in progress."""

    config: Any
    dataset: sx.data.Dataset
    folder: Path
    began: float

    def write(self, result: dict[str, Any]) -> dict[str, Any]:
        """Write result.json, with the data, the seeds, the versions and the seconds so far; and return that."""
        head = {
            "data": {"name": self.dataset.name, "checksums": self.dataset.checksums},
            "synthetic": self.dataset.synthetic,
            "quick": self.config.quick,
            "seeds": self.config.seeds,
            "environment": shared.environment(),
            "seconds": time.perf_counter() - self.began,
        }
        result = head | result
        shared.write_json(self.folder / "result.json", result)
        return result

    def say(self, result: dict[str, Any], table: Any, *lines: str) -> dict[str, Any]:
        """Print the table, and what else there is to say; and return the result."""
        for what in (table, *lines, f"{result['seconds']:.0f} s in all; wrote {self.folder}"):
            shared.say(what)
        return result


def begin(config: Any, name: str) -> Run:
    """Check the seeds, load the data, and make the folder with config.json; {} in its name is the data set's."""
    began = time.perf_counter()
    shared.check_seeds(config.seeds)
    shared.synthetic = False
    dataset = load(getattr(config, "dataset", "bibtex"), config.data_dir, config.quick)
    folder = shared.new_folder(config.out, name.format(dataset.name))
    shared.write_json(folder / "config.json", vars(config))
    return Run(config, dataset, folder, began)


def mark(result: Mapping[str, Any]) -> str:
    """What the title of every figure begins with."""
    return "synthetic data: " if result["synthetic"] else "quick run: " if result["quick"] else ""


def title(result: Mapping[str, Any], subject: str) -> str:
    """Of a table of test F1."""
    seeds = len(result["seeds"])
    spread = f", mean ± spread over {seeds} seeds" * (seeds > 1)
    text = f"{result['data']['name']}{subject}: test F1 averaged over examples, %{spread}"
    return text + " (quick run: these figures mean nothing)" * result["quick"]

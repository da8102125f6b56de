"""Kills at random moments: does a training lose a checkpoint, leave a damaged one, or end at other numbers.

Claim: none of the three, whenever it is killed: at the start, in training, while it writes. A small SPEN trains on
made-up label sets by max-margin, and writes a checkpoint after every step, so that it is nearly always writing.
SIGKILL and SIGTERM come at moments drawn evenly over the time that a run takes; then the same command goes on, and may
be killed again, until it ends.

    python benchmarks/reliability.py            # 30 SIGKILL and 20 SIGTERM, about 10 minutes

After each kill every checkpoint that was whole before it must be there or have given way to newer ones, and all that
are there must be readable; at the end the parameters must be those of a run that nobody broke off, to the bit, and
the folder must hold the newest checkpoints and nothing else.
"""

import argparse
import json
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import jax

import spen_jax as sx
from spen_jax import training
from spen_jax.bundles import read
from spen_jax.training import Checkpoints

EPOCHS, KEEP = 4, 2


def train(folder: Path) -> None:
    """The training that is killed; its parameters end in `end.spen` beside the checkpoints."""
    data = sx.data.exclusive_blocks(seed=0, n_train=500).train
    model = sx.SPEN(sx.FeatureNetwork(n_labels=16, widths=(32,)), n_global=16)
    features, energy = sx.functions_of(model)
    params = model.init(jax.random.key(0), data.x[:1], data.y[:1])["params"]
    predictor = sx.Predictor(energy, features, solver=sx.GradientDescent(), steps=10)
    recipe = training.Recipe(epochs=EPOCHS, learning_rate=0.01, weight_decay=0.01, batch_size=32)
    kept = Checkpoints(folder / "checkpoints", every_steps=1, keep=KEEP)
    objective = sx.objectives.max_margin(predictor)
    result = training.train(objective, params, data, recipe, jax.random.key(1), checkpoints=kept)
    training.save(folder / "end.spen", result.last().params)


def whole(folder: Path) -> list[int]:
    """The numbers of the checkpoints that have their final names."""
    return sorted(int(p.name) for p in (folder / "checkpoints").glob("*") if p.name.isdecimal())


def unreadable(folder: Path) -> int:
    """How many checkpoints cannot be read, or are not what was written."""
    kept, wrong = Checkpoints(folder / "checkpoints"), 0
    for number in whole(folder):
        try:
            kept.read(number)
        except Exception as error:  # whatever it is, it is a fault
            print(f"\n{number}: {error!r}", file=sys.stderr)
            wrong += 1
    return wrong


def start(folder: Path) -> subprocess.Popen:
    """A process that trains, or goes on."""
    command = [sys.executable, __file__, "--train", str(folder)]
    return subprocess.Popen(command, stderr=subprocess.DEVNULL)


def campaign(kills: list[int], seconds: float, right: dict, folder: Path) -> Counter:
    """Counts of kills and faults: runs are broken off, one after the other, until all kills are spent."""
    counts: Counter = Counter()
    chance = random.Random(0)
    while kills:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        ended = False
        while not ended:
            process, before = start(folder), whole(folder)
            if kills:
                time.sleep(chance.uniform(0, seconds))
                before = whole(folder)
                number = kills.pop()
                process.send_signal(number)
                counts[signal.Signals(number).name] += 1
            code = process.wait()
            counts[f"exit code {code}"] += 1
            ended = code == 0
            now = whole(folder)
            counts["lost"] += sum(
                n not in now and len([m for m in now if m > n]) < KEEP for n in before
            )
            counts["damaged"] += unreadable(folder)
            print(".", end="", file=sys.stderr, flush=True)
        end = read(folder / "end.spen").arrays
        counts["runs"] += 1
        counts["other parameters"] += any((end[name] != right[name]).any() for name in right)
        names = {p.name for p in (folder / "checkpoints").iterdir()} - {".lock"}
        counts["leftovers"] += len(names - {str(n) for n in whole(folder)[-KEEP:]})
    return counts


def main() -> None:
    """Run the campaign and print its table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--sigkill", type=int, default=30)
    parser.add_argument("--sigterm", type=int, default=20)
    parser.add_argument(
        "--train", type=Path, help="train into this folder, or go on: what is killed"
    )
    parser.add_argument("--json", type=Path, help="write the counts")
    given = parser.parse_args()
    if given.train:
        train(given.train)
        return
    with tempfile.TemporaryDirectory() as name:
        first = Path(name) / "straight"
        first.mkdir()
        began = time.perf_counter()
        if start(first).wait():
            raise SystemExit("the training ends with an error of its own")
        seconds = time.perf_counter() - began
        right = read(first / "end.spen").arrays
        kills = [signal.SIGKILL] * given.sigkill + [signal.SIGTERM] * given.sigterm
        random.Random(1).shuffle(kills)
        counts = campaign(kills, seconds, right, Path(name) / "broken")
    print(f"\na run takes {seconds:.1f} s; {EPOCHS * 16} steps, a checkpoint after each")
    print("\n| | |\n|---|---:|")
    for name, count in counts.items():
        print(f"| {name} | {count} |")
    if given.json:
        given.json.write_text(json.dumps(counts))


if __name__ == "__main__":
    main()

"""Kills at random moments: does a training lose a checkpoint, leave a damaged one, or end at other numbers.

Claim: none of the three, whenever it is killed: at the start, in training, while it writes. A small SPEN trains on
made-up label sets by max-margin, and writes a checkpoint after every step, so that it is nearly always writing.
SIGKILL and SIGTERM come at moments drawn evenly over the time that a run takes; then the same command goes on, and may
be killed again, until it ends.

    python benchmarks/reliability.py            # 30 SIGKILL and 20 SIGTERM, about 10 minutes
    python benchmarks/reliability.py --cost 3   # what checkpoints cost a run of BibTeX, in three pairs of runs
    python benchmarks/reliability.py --hosts    # 10 SIGKILL to all of several processes, about 3 minutes

After each kill every checkpoint that was whole before it must be there or have given way to newer ones, and all that
are there must be readable; at the end the parameters must be those of a run that nobody broke off, to the bit, and
the folder must hold the newest checkpoints and nothing else. With `--hosts` two processes begin, and after each kill
one, two or four go on; at the end the loss of each epoch must be that of one process to 1e-5.

The second claim: at their default interval checkpoints cost a run of `experiments/bibtex.py` with its defaults less
than 3 % of its seconds. Runs with and without them take turns. Where others use the machine two equal runs differ by
more than that, so runs with checkpoints also add up the seconds that training spends in their code and waits for.
"""

import argparse
import contextlib
import json
import random
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from functools import partial
from pathlib import Path

import jax

import spen_jax as sx
from spen_jax import training
from spen_jax.bundles import read
from spen_jax.training import Checkpoints

EPOCHS, KEEP = 4, 2


def train(folder: Path, hosts: list[int] | None = None) -> None:
    """The training that is killed; what it comes to ends in `end.spen` beside the checkpoints.

    Of several processes `hosts` are the port, their number and which of them this is.
    """
    if hosts:
        port, count, number = hosts
        jax.distributed.initialize(f"localhost:{port}", count, number, heartbeat_timeout_seconds=10)
        sx.parallel.all_devices()
    data = sx.data.exclusive_blocks(seed=0, n_train=500).train
    model = sx.SPEN(sx.FeatureNetwork(n_labels=16, widths=(32,)), n_global=16)
    features, energy = sx.functions_of(model)
    params = model.init(jax.random.key(0), data.x[:1], data.y[:1])["params"]
    predictor = sx.Predictor(energy, features, solver=sx.GradientDescent(), steps=10)
    recipe = training.Recipe(epochs=EPOCHS, learning_rate=0.01, weight_decay=0.01, batch_size=32)
    kept = Checkpoints(folder / "checkpoints", every_steps=1, keep=KEEP)
    objective = sx.objectives.max_margin(predictor)
    for result in training.train(
        objective, params, data, recipe, jax.random.key(1), checkpoints=kept
    ):
        loss = float(result.metrics["loss"])
        if sx.parallel.leading():
            with open(folder / "losses.jsonl", "a") as file:
                file.write(json.dumps([len(result.clock), loss]) + "\n")
    if sx.parallel.leading():
        training.save(folder / "end.spen", result.params)


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


def start(folder: Path, count: int = 0) -> list[subprocess.Popen]:
    """A process that trains, or goes on; or so many that do so together."""
    command = [sys.executable, __file__, "--train", str(folder)]
    with socket.socket() as found:
        found.bind(("localhost", 0))
        port = found.getsockname()[1]
    each = [["--processes", str(port), str(count), str(i)] for i in range(count)] or [[]]
    null = subprocess.DEVNULL
    return [subprocess.Popen([*command, *more], stderr=null, stdout=null) for more in each]


def campaign(
    kills: list[int], seconds: float, folder: Path, numbers: tuple[int, ...], check
) -> Counter:
    """Counts of kills and faults: runs are broken off, one after the other, until all kills are spent.

    `numbers` are those of processes that go on, two of several begin; `check(folder)` gives faults at the end.
    """
    counts: Counter = Counter()
    chance = random.Random(0)
    while kills:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        ended, count = False, numbers[0]
        while not ended:
            running, before = start(folder, count), whole(folder)
            if count:
                counts[f"{count} processes"] += 1
            if kills:
                time.sleep(chance.uniform(0, seconds))
                before, number = whole(folder), kills.pop()
                for process in running:
                    process.send_signal(number)
                counts[signal.Signals(number).name] += 1
            codes = [process.wait() for process in running]
            counts[f"exit code {codes[0]}"] += 1
            ended, count = not any(codes), chance.choice(numbers)
            now = whole(folder)
            counts["lost"] += sum(
                n not in now and len([m for m in now if m > n]) < KEEP for n in before
            )
            counts["damaged"] += unreadable(folder)
            print(".", end="", file=sys.stderr, flush=True)
        counts["runs"] += 1
        counts.update(check(folder))
        names = {p.name for p in (folder / "checkpoints").iterdir()} - {".lock"}
        counts["leftovers"] += len(names - {str(n) for n in whole(folder)[-KEEP:]})
    return counts


def other_parameters(right: Path, folder: Path) -> Counter:
    """Whether the parameters are others than those of the folder of a run without a break."""
    one, end = (read(at / "end.spen").arrays for at in (right, folder))
    wrong = any((end[name] != one[name]).any() for name in one)
    return Counter({"other parameters": int(wrong)})


def other_losses(right: Path, folder: Path) -> Counter:
    """How many losses of epochs are others than there by more than 1e-5."""
    lines = [(at / "losses.jsonl").read_text().splitlines() for at in (right, folder)]
    one, found = (dict(map(json.loads, each)) for each in lines)
    gaps = [abs(found[epoch] / one[epoch] - 1) for epoch in found]
    print(f" {len(found)} of {len(one)} losses within {max(gaps):.1e}", file=sys.stderr)
    return Counter({"other losses": sum(gap > 1e-5 for gap in gaps)})


def bibtex(kept: bool, out: Path) -> None:
    """A run of BibTeX as from the command line; without checkpoints all but they is done."""
    from experiments import bibtex, shared
    from spen_jax.training import resuming

    trains = sys.modules["spen_jax.training.fit"]
    own, inside = {"CPU": 0.0, "wall": 0.0}, []

    def timed(owner, name):
        function = getattr(owner, name)

        def measured(*arguments, **named):
            if inside:
                return function(*arguments, **named)
            inside.append(name)
            cpu, wall = time.thread_time(), time.perf_counter()
            try:
                return function(*arguments, **named)
            finally:
                inside.pop()
                own["CPU"] += time.thread_time() - cpu
                own["wall"] += time.perf_counter() - wall

        setattr(owner, name, measured)

    if kept:
        # What a training without checkpoints does not call; the last `_settle` waits for what is still written.
        for owner, name in (
            (trains, "fingerprint"),
            (trains, "_programs"),
            (resuming.Checkpoints, "after_step"),
            (resuming.Checkpoints, "_settle"),
        ):
            timed(owner, name)
    else:
        training.resumable = lambda folder: contextlib.nullcontext()
    sys.argv = ["bibtex.py", "--out", str(out)]
    shared.run(bibtex.main, bibtex.Config, None)
    (out / "own.json").write_text(json.dumps(own))


def cost(pairs: int) -> None:
    """Pairs of BibTeX runs, and their table."""
    found: dict[str, list[dict[str, float]]] = {"with": [], "without": []}
    for pair in range(pairs):
        for kind in (*found,) if pair % 2 else (*found,)[::-1]:
            with tempfile.TemporaryDirectory() as name:
                out = Path(name) / "run"
                before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
                command = [sys.executable, __file__, "--bibtex", kind, "--train", str(out)]
                subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
                after, wall = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
                cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
                own = json.loads((out / "own.json").read_text())
            found[kind].append(
                {"CPU": cpu, "wall": wall - began} | {f"own {k}": own[k] for k in own}
            )
            print(kind, found[kind][-1], file=sys.stderr, flush=True)
    print("\n| seconds | " + " | ".join(f"pair {i + 1}" for i in range(pairs)) + " |")
    print("|---|" + "---:|" * pairs)
    for title, kind, name in (
        ("CPU, without", "without", "CPU"),
        ("CPU, with", "with", "CPU"),
        ("wall, without", "without", "wall"),
        ("wall, with", "with", "wall"),
        ("of these in the code of checkpoints, CPU of the training's thread", "with", "own CPU"),
        ("the same, wall", "with", "own wall"),
    ):
        print(f"| {title} | " + " | ".join(f"{run[name]:.2f}" for run in found[kind]) + " |")
    shares = ", ".join(f"{100 * r['own CPU'] / r['CPU']:.2f} %" for r in found["with"])
    print(f"\nshare of the CPU seconds: {shares}")


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
    parser.add_argument("--processes", type=int, nargs=3, help="of --train: port, number, which")
    parser.add_argument("--hosts", type=int, nargs="?", const=10, help="so many kills of several")
    parser.add_argument("--json", type=Path, help="write the counts")
    parser.add_argument("--cost", type=int, help="so many pairs of BibTeX runs instead")
    parser.add_argument("--bibtex", choices=("with", "without"), help="what --train is then")
    given = parser.parse_args()
    if given.cost:
        cost(given.cost)
        return
    if given.bibtex:
        bibtex(given.bibtex == "with", given.train)
        return
    if given.train:
        train(given.train, given.processes)
        return
    with tempfile.TemporaryDirectory() as name:
        first = Path(name) / "straight"
        first.mkdir()
        if start(first)[0].wait():
            raise SystemExit("the training ends with an error of its own")
        timed, numbers, other = Path(name) / "timed", (0,), other_parameters
        kills = [signal.SIGKILL] * given.sigkill + [signal.SIGTERM] * given.sigterm
        if given.hosts:
            kills, numbers, other = [signal.SIGKILL] * given.hosts, (2, 1, 4), other_losses
        random.Random(1).shuffle(kills)
        timed.mkdir()
        began = time.perf_counter()
        if any([process.wait() for process in start(timed, numbers[0])]):
            raise SystemExit("the training ends with an error of its own")
        seconds = time.perf_counter() - began
        counts = campaign(kills, seconds, Path(name) / "broken", numbers, partial(other, first))
    print(f"\na run takes {seconds:.1f} s; {EPOCHS * 16} steps, a checkpoint after each")
    print("\n| | |\n|---|---:|")
    for name, count in counts.items():
        print(f"| {name} | {count} |")
    if given.json:
        given.json.write_text(json.dumps(counts))


if __name__ == "__main__":
    main()

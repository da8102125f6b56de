"""What benchmarks share: timing turn by turn, processes of so many threads, tables, JSON.

Nothing here imports JAX before it is called, so that a process can fix its threads first.
"""

import argparse
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

PACKAGES = (
    "jax",
    "jaxlib",
    "flax",
    "optax",
    "torch",
    "jaxopt",
    "torchebm",
    "numpy",
    "scipy",
    "pgmpy",
    "pymaxflow",
)


def available_cpus() -> list[int]:
    """The processors this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def pin(threads: int) -> None:
    """Keeps this process to so many processors; call it before JAX or PyTorch is imported."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, available_cpus()[-threads:])


def fresh_process(script: str, arguments: Sequence[str], threads: int) -> Any:
    """What `script` writes to its --json, run as a new process with so many CPU threads.

    Libraries size their thread pools once, so that each number of threads needs a process of its
    own. Compilation caches are off or empty: compile times are those of a first run.

    Raises:
      SystemExit: if the script fails; it has then said why.
    """
    flags = "" if threads > 1 else " --xla_cpu_multi_thread_eigen=false"
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | {
            "JAX_PLATFORMS": "cpu",
            "JAX_ENABLE_COMPILATION_CACHE": "false",
            "XLA_FLAGS": os.environ.get("XLA_FLAGS", "") + flags,
            "OMP_NUM_THREADS": str(threads),
            "MKL_NUM_THREADS": str(threads),
            "TORCHINDUCTOR_CACHE_DIR": folder,
        }
        answer = Path(folder) / "answer.json"
        command = [sys.executable, script, *arguments, "--json", str(answer)]
        if status := subprocess.run(command, env=environment, check=False).returncode:
            raise SystemExit(status)
        return json.loads(answer.read_text())


def on_one_thread(
    script: str,
    description: str | None,
    measure: Callable[..., Any],
    parts: Sequence[str] = (),
) -> Any:
    """What `measure` returns in a fresh process with one thread; also written to --json where asked for.

    That process calls the script once more, with --worker, and ends here. Where there are parts, --only names one of
    them, with which measure is called; without it measure is called with None.
    """
    parser = argparse.ArgumentParser(description=(description or "").splitlines()[0])
    parser.add_argument("--json", help="file for the rows, a list of objects")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    if parts:
        parser.add_argument("--only", choices=parts, help="one part of it")
    options = parser.parse_args()
    only = options.only if parts else None
    if options.worker:
        pin(1)
        write_json(options.json, measure(only) if parts else measure())
        raise SystemExit
    print(machine(PACKAGES))
    rows = fresh_process(script, ["--worker", *(["--only", only] if only else [])], 1)
    if options.json:
        write_json(options.json, rows)
    return rows


def installed(contestant: str) -> bool:
    """Whether the package that a contestant needs is there; says so where it is not."""
    package = contestant.split("_")[0]
    optional = "torch", "jaxopt", "torchebm", "maxflow", "networkx", "pgmpy"
    if package in optional and find_spec(package) is None:
        print(f"{contestant} is left out: {package} is not installed", file=sys.stderr)
        return False
    return True


def first_call(function: Callable[[], Any]) -> tuple[Any, float]:
    """The result of the first call and its seconds, compilation and one run."""
    import jax

    start = time.perf_counter()
    result = jax.block_until_ready(function())
    return result, time.perf_counter() - start


def interleaved(
    contestants: Mapping[str, Callable[[], Any]],
    seconds: float,
    clock: Callable[[], float] = time.perf_counter,
    turn: float = 0.02,
    least: int = 5,
) -> dict[str, float]:
    """The median seconds of one call of each contestant, all of them compiled already.

    They take turns until the time is up and each had `least` of them, so that a machine which slows
    down slows down all. A turn is a pause, in which another contestant's threads that look for work go to sleep, a
    tenth of the calls untimed, after which caches hold the contestant's own
    data, then as many as fill `turn` seconds, timed together until their results are ready. With
    `time.process_time` as the clock, what other processes take of a shared processor does not
    count; it means something for one thread only.
    """
    import jax

    def timed(function, calls):
        time.sleep(0.01)
        jax.block_until_ready([function() for _ in range(math.ceil(calls / 10))])
        start = clock()
        jax.block_until_ready([function() for _ in range(calls)])
        return (clock() - start) / calls

    calls = {name: max(1, int(turn / max(timed(f, 1), 1e-9))) for name, f in contestants.items()}
    turns = {name: [] for name in contestants}
    end = time.perf_counter() + seconds
    rounds = 0
    while rounds < least or time.perf_counter() < end:
        for name, function in contestants.items():
            turns[name].append(timed(function, calls[name]))
        rounds += 1
    return {name: statistics.median(values) for name, values in turns.items()}


def table(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table with aligned columns; the first column is text, the others figures."""
    lines = [list(headers), *map(list, rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]

    def text(line):
        first, *others = (c.rjust(w) for c, w in zip(line, widths, strict=True))
        return "| " + " | ".join([first.strip().ljust(widths[0]), *others]) + " |"

    rule = "|" + "|".join("-" * (w + 1) + (":" if i else "-") for i, w in enumerate(widths)) + "|"
    return "\n".join([text(lines[0]), rule, *map(text, lines[1:])])


def machine(packages: Sequence[str]) -> str:
    """One line: the processor, how busy it is, and the versions of Python and the packages."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        facts = {key.strip(): value.strip() for key, _, value in (x.partition(":") for x in lines)}
        name = f"{facts['model name']} (family {facts['cpu family']}, model {facts['model']})"
    except (OSError, KeyError):
        name = platform.processor() or platform.machine()
    versions = [f"Python {platform.python_version()}"]
    for package in packages:
        try:
            versions.append(f"{package} {metadata.version(package)}")
        except metadata.PackageNotFoundError:
            continue
    load = f"load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "load unknown"
    return f"{name}, {len(available_cpus())} cores, {load}; {', '.join(versions)}"


def write_json(path: str | Path, value: Any) -> None:
    """Writes the file whole or not at all: under a temporary name beside it, then renamed."""
    from spen_jax.training import replacing

    with replacing(path) as file:
        file.write((json.dumps(value, indent=1, allow_nan=False) + "\n").encode())

"""A training by several processes: who started them is found, all train, and the first alone prints and writes."""

import importlib.util
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jax

from spen_jax import parallel
from spen_jax.cli.ending import advised
from spen_jax.cli.saying import Usage, Wrong, one_line

ADDRESS, COUNT, NUMBER = "JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"
ALIKE = {0, 130, 143}
"""Exit codes that all processes have, or none: a signal to one stops all."""
_SLURM = "SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_PROCID", "SLURM_LOCALID"


def settings(environment: Any = os.environ) -> dict[str, Any] | None:
    """Arguments of `jax.distributed.initialize`; None for a process that is alone.

    By hand three variables say it. A step of Slurm of several tasks, and an indexed job of Kubernetes where the package
    `kubernetes` is installed, JAX finds by itself. `Usage` for variables that do not go together.
    """
    given = {name: environment.get(name) for name in (ADDRESS, COUNT, NUMBER)}
    slurm = all(name in environment for name in _SLURM)
    slurm = slurm and environment.get("SLURM_NTASKS", "1") != "1"
    pods = {"KUBERNETES_SERVICE_HOST", "JOB_COMPLETION_INDEX"} <= {*environment}
    if given[COUNT] is None and given[NUMBER] is None:
        found = slurm or (pods and importlib.util.find_spec("kubernetes") is not None)
        return {} if found else None
    if None in given.values() or not f"{given[COUNT]}{given[NUMBER]}".isdecimal():
        shown = ", ".join(f"{name}={value or ''}" for name, value in given.items())
        raise Usage(
            f"several processes need an address host:port and two whole numbers, got {shown}"
        )
    count, number = int(given[COUNT] or 0), int(given[NUMBER] or 0)
    if number >= count:
        raise Usage(f"{NUMBER} is from 0 to less than {COUNT}, got {number} of {count}")
    where = {"coordinator_address": given[ADDRESS], "num_processes": count, "process_id": number}
    return None if count == 1 else where


def join() -> None:
    """Makes this process one of several, where it was started so, and spreads trainings over all their devices."""
    found = settings()
    if found is None or jax.distributed.is_initialized():
        return
    with _no_words_of_others():
        jax.distributed.initialize(**found)
        parallel.all_devices()
        parallel.gathered("")


@contextmanager
def lost() -> Iterator[None]:
    """Of a block of several processes: `Wrong` where another one does not answer any more."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if not parallel.several():
            raise
        words = one_line(error)[:200]
        said = advised(f"another process has ended, or does not answer: {words}")
        raise Wrong(said) from error


def leave(code: int) -> None:
    """Waits for the other processes where all end alike; where not this one ends at once, and with it the others."""
    if not jax.distributed.is_initialized():
        return
    if code in ALIKE:
        jax.distributed.shutdown()
        return
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


@contextmanager
def _no_words_of_others() -> Iterator[None]:
    """Standard output is for results: what libraries in C++ print there goes to standard error."""
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)

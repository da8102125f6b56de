"""Cold starts and memory: what was compiled once is found again, and what was freed is used again."""

import ctypes
import os
from pathlib import Path

import jax


def keep_compiled(folder: str | Path) -> Path:
    """Keeps everything that JAX compiles from now on in a folder, and takes from there what an earlier process left.

    JAX's persistent compilation cache, also for programs that compile in less than a second, as most here do; without
    this function `JAX_COMPILATION_CACHE_DIR` and `JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS=0` say the
    same. A folder is for one kind of machine, and only for those you trust with running code: what lies there is run.

    Returns the folder, which is made where it is missing. NotADirectoryError where it is a file.
    """
    folder = Path(folder).expanduser()
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"keep_compiled needs a folder, but {folder} is a file")
    folder.mkdir(parents=True, exist_ok=True)
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    return folder


def keep_memory() -> bool:
    """Keeps freed memory in this process, for steps on a CPU that make arrays of more than 32 MB; whether it can.

    The C library gives large blocks back to the system, which makes new pages of zeros of them in the next step: half
    of the time of a step that is little but memory. Afterwards the process holds the most that it ever needed. glibc's
    `mallopt` alone: False, and nothing is changed, elsewhere. To be called before anything is computed.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if mallopt is None:
        return False
    # M_MMAP_THRESHOLD, which old ones refuse, then M_ARENA_MAX, M_TRIM_THRESHOLD, M_TOP_PAD
    settings = {-3: 2**30, -8: 1, -1: 2**31 - 1, -2: 2**28}
    return all(mallopt(*setting) == 1 for setting in settings.items())

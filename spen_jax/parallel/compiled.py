"""Cold starts: what was compiled once is found again by later processes."""

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

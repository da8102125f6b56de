"""The command `spen-jax`: train, evaluate and predict from files; `pip install 'spen_jax[cli]'`, see docs/do/cli.md."""

from spen_jax.cli.running import main, run

__all__ = ["main", "run"]

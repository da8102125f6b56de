"""`python -m spen_jax` is the command `spen-jax`."""

from spen_jax.cli import run

if __name__ == "__main__":
    run()

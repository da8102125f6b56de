import jax
import pytest

# Most of a test's time is compilation, and what is compiled runs once.
jax.config.update("jax_disable_most_optimizations", True)
# A sum over the wrong axis is then an error rather than a number.
jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield

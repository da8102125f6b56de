import jax
import pytest

# A sum over the wrong axis is then an error rather than a number.
jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield

import numpy as np
import pytest

from spen_jax import blocks


@pytest.mark.parametrize("batch", [0, 1, 31, 256, 257, 513, 700])
@pytest.mark.parametrize("numbers", [10, 5000])
def test_blocks_join_in_order(batch, numbers):
    count, block = blocks.block_sizes(batch, numbers)
    assert count * block >= batch > (count - 1) * block or batch == 0
    assert count == 1 or block % 8 == 0
    assert block * numbers <= 40960 or block <= 32
    seen = []

    def solve(part):
        seen.append(part["x"].shape[0])
        return {"twice": 2 * part["x"], "row": part["m"].sum(1), "none": None}

    x = np.arange(batch, dtype=np.float32)
    got = blocks.in_blocks(
        lambda _, block: solve(block), None, {"x": x, "m": np.stack([x, x], 1)}, numbers
    )
    np.testing.assert_array_equal(got["twice"], 2 * x)
    np.testing.assert_array_equal(got["row"], 2 * x)
    assert got["none"] is None and set(seen) == {block}

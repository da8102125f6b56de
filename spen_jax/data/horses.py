"""Horses in colour, seen from the side, with the pixels that are horse: the data set `weizmann_horse`.

`load_horses()` is all that most scripts need; `data_dir` is that of `spen_jax.data.files`. NumPy and the standard
library only; nothing is unpickled. Sources: Borenstein and Ullman (2002), "Class-specific, top-down segmentation";
the images of 32 x 32 and their split: Li, Tarlow and Zemel (2013), "Exploring compositional high order pattern
potentials for structured output learning".
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from spen_jax.data.archives import expect, expect_range, read_arrays
from spen_jax.data.files import find, sha256, verify
from spen_jax.data.splits import Split

AXES = {"images": 4, "masks": 3}


class Horses(NamedTuple):
    """Three splits of images: `x` float32 (N, 32, 32, 3), red, green and blue from 0 to 1, `y` float32 (N, 32, 32).

    y is 1 where there is horse, else 0. `train` is to be trained on, `validation` is for what is chosen, `test` for
    what is reported. `checksums` maps file names to SHA-256 in hex.
    """

    train: Split
    validation: Split
    test: Split
    checksums: dict[str, str]


def load_horses(data_dir: str | Path | None = None) -> Horses:
    """Find the 160, 40 and 128 horses of `weizmann_horse`, check the SHA-256 of their files and read them.

    `data_dir` is the folder that holds weizmann_horse/, as for `find`.
    FileNotFoundError, which says how to come by the files, where one is missing: they have no download.
    `DataError` for a file that is not the published one.
    """
    folder = find("weizmann_horse", data_dir)
    verify("weizmann_horse", folder)
    paths = [folder / f"weizmann_horse_{part}.npz" for part in ("train", "val", "test")]
    train, validation, test = map(read_horses, paths)
    return Horses(train, validation, test, {path.name: sha256(path) for path in paths})


def read_horses(path: str | Path) -> Split:
    """Read the `.npz` at `path`, any of this format: `images` (N, H, W, 3), 0 to 255, and `masks` (N, H, W), 0 or 1.

    Both are whole numbers, in the published files uint8. Gives x and y as those of `Horses`, of any N, H and W.
    Raises FileNotFoundError, and `DataError` for anything else.
    """
    path = Path(path)
    images, masks = read_arrays(path, AXES)
    shaped = images.size > 0 and images.shape == (*masks.shape, 3)
    shapes = f"images {images.shape} and masks {masks.shape}"
    expect(path, shaped, "images (N, H, W, 3) and masks (N, H, W), at least one", shapes)
    expect_range(path, "images", images, 255)
    expect_range(path, "masks", masks, 1)
    return Split(images.astype(np.float32) / 255, masks.astype(np.float32))

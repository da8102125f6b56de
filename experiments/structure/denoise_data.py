"""Grey photographs to learn from, to choose constants on and to test on, and patches of the first.

They come with scikit-image and scikit-learn; a folder adds more to learn
from. Grey levels are floats from 0 to 1.
"""

from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from PIL import Image, UnidentifiedImageError
from sklearn.datasets import load_digits, load_sample_images

from experiments import shared

SIDE = 256
LONGEST = 720  # pixels of a photograph's longer side: larger ones are shrunk, and so sharp
LEARNED = ("brick", "grass", "gravel", "moon", "coins", "rocket", "hubble_deep_field", "retina")
CHOSEN = ("stereo_motorcycle", "china")
TESTED = ("camera", "astronaut", "chelsea", "coffee")
IMAGES = ".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp"


class Photographs(NamedTuple):
    """Images (H, W) to learn from, each of its own size; centres (n, SIDE, SIDE) to choose on and to test on."""

    learned: list[np.ndarray]
    chosen: np.ndarray
    tested: np.ndarray


def photographs(folder: Path | None = None) -> Photographs:
    """Those of the libraries, and of a folder and those in it; fails where the folder has none."""
    learned = [_shipped(name) for name in LEARNED]
    learned += [_grey(Image.fromarray(image)) for image in _samples("flower.jpg")]
    chosen = [_shipped(CHOSEN[0]), *(_grey(Image.fromarray(a)) for a in _samples("china.jpg"))]
    tested = [_shipped(name) for name in TESTED]
    if folder is not None:
        learned += of_folder(folder)
    middles = [np.stack([middle(image) for image in images]) for images in (chosen, tested)]
    return Photographs(learned, *middles)


def of_folder(folder: Path) -> list[np.ndarray]:
    """All photographs of a folder and the folders in it, in the order of their names; fails for one of the held."""
    held = [_thumbnail(image) for image in _held()]
    paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in IMAGES)
    found = []
    for path in paths:
        try:
            with Image.open(path) as image:
                grey = _grey(image)
                thumbnail = _thumbnail(image.convert("L"))
        except (UnidentifiedImageError, OSError, Image.DecompressionBombError) as error:
            shared.fail(f"--images {path}: expected a photograph, got {error}; take it out")
        if any(np.corrcoef(thumbnail, other)[0, 1] > 0.97 for other in held):
            shared.fail(f"--images {path} is one that is kept to choose or to test on; take it out")
        if min(grey.shape) >= 64:
            found.append(grey)
    if not found:
        shared.fail(
            f"--images {folder} holds no photograph of 64 x 64 pixels or more, in {', '.join(IMAGES)}"
        )
    return found


def digits(held: int) -> Photographs:
    """The 8 x 8 digits of scikit-learn, sixteen to an image of 32 x 32: `held` to choose on and as many to test on."""
    found: Any = load_digits()
    images = (found.images / 16).astype(np.float32)
    images = images[: len(images) // 16 * 16].reshape(-1, 4, 4, 8, 8)
    images = images.transpose(0, 1, 3, 2, 4).reshape(-1, 32, 32)
    return Photographs([*images[: -2 * held]], images[-2 * held : -held], images[-held:])


def patches(
    images: list[np.ndarray], count: int, side: int, rng: np.random.Generator
) -> np.ndarray:
    """(count, side, side) cut at random, of large images more, turned and mirrored at random.

    Of one patch in four only every second pixel is taken, where the image is large enough: finer textures than
    photographs of this size show, without which the slope of the prior grows at will on some that others show.
    """
    sizes = np.array([image.size for image in images], float)
    cut = np.empty((count, side, side), np.float32)
    for k, i in enumerate(rng.choice(len(images), count, p=sizes / sizes.sum())):
        step = 2 if rng.random() < 0.25 and min(images[i].shape) >= 2 * side else 1
        top, left = (rng.integers(n - step * side + 1) for n in images[i].shape)
        patch = images[i][top : top + step * side : step, left : left + step * side : step]
        patch = np.rot90(patch, int(rng.integers(4)))
        cut[k] = patch[:, ::-1] if rng.random() < 0.5 else patch
    return cut


def middle(image: np.ndarray) -> np.ndarray:
    """The SIDE x SIDE pixels in the middle."""
    top, left = ((n - SIDE) // 2 for n in image.shape)
    return image[top : top + SIDE, left : left + SIDE]


def _shipped(name: str) -> np.ndarray:
    return _grey(_of_skimage(name))


def _of_skimage(name: str) -> Image.Image:
    import skimage.data

    image = getattr(skimage.data, name)()
    return Image.fromarray(image[0] if isinstance(image, tuple) else image)


def _held() -> list[Image.Image]:
    """What is chosen and tested on, whole, in grey."""
    samples = [Image.fromarray(a) for a in _samples("china.jpg")]
    return [a.convert("L") for a in (*map(_of_skimage, (CHOSEN[0], *TESTED)), *samples)]


def _thumbnail(image: Image.Image) -> np.ndarray:
    """16 x 16 grey levels in a row."""
    return np.asarray(image.resize((16, 16), Image.Resampling.BOX), float).ravel()


def _samples(name: str) -> list[np.ndarray]:
    found = load_sample_images()
    return [a for path, a in zip(found.filenames, found.images, strict=True) if path.endswith(name)]


def _grey(image: Image.Image) -> np.ndarray:
    shrunk = LONGEST / max(image.size)
    image = image.convert("L")
    if shrunk < 1:
        width, height = (max(1, round(n * shrunk)) for n in image.size)
        image = image.resize((width, height), Image.Resampling.LANCZOS)
    return np.asarray(image, np.float32) / 255


def noisy(images: np.ndarray, level: float, seed: int = 1) -> jnp.ndarray:
    """Images with Gaussian noise of `level` of 255, the same for a seed: 1 to test, 2 to choose."""
    rng = np.random.default_rng((seed, round(level)))
    noise = rng.standard_normal(images.shape).astype(np.float32)
    return jnp.asarray(images + level / 255 * noise)

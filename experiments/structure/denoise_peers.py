"""Methods without learning, of scikit-image and BM3D: denoisers told the noise, and fillers and a deblurrer."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from scipy import ndimage
from skimage import restoration

from experiments.structure.denoise_data import Photographs, noisy
from experiments.structure.denoise_problems import kernel
from spen_jax.metrics import psnr


class Answer(NamedTuple):
    """Images."""

    y: np.ndarray


def median(x, level, size):
    """The median of size x size pixels."""
    return ndimage.median_filter(x, int(size), mode="reflect")


def total_variation(x, level, weight):
    """Chambolle's (2004) algorithm; the weight in units of the noise."""
    return restoration.denoise_tv_chambolle(x, weight * level, eps=1e-5, max_num_iter=500)


def non_local_means(x, level, h):
    """Patches of 5 x 5 within 13 x 13, told the noise; h in its units (Buades, Coll & Morel 2005)."""
    return restoration.denoise_nl_means(
        x, patch_size=5, patch_distance=6, h=h * level, sigma=level, fast_mode=True
    )


def bm3d(x, level, _):
    """Block matching and 3-D filtering (Dabov et al. 2007), the authors' package."""
    from bm3d import bm3d as of_authors

    return of_authors(x, level)


DENOISERS: dict[str, tuple[Callable[..., Any], tuple[float, ...]]] = {
    "median": (median, (3, 5, 7, 9)),
    "total_variation": (total_variation, (0.4, 0.6, 0.8, 1.0, 1.2, 1.5)),
    "non_local_means": (non_local_means, (0.4, 0.6, 0.8, 1.0)),
    "bm3d": (bm3d, (1.0,)),
}
"""Each with the constants tried."""


def has_bm3d() -> bool:
    """Whether the package is there, which is not free for all uses."""
    try:
        import bm3d  # noqa: F401
    except ImportError:
        return False
    return True


def denoised(name: str, level: float, images: Photographs) -> np.ndarray:
    """The test images with noise of `level` of 255, cleaned by the constant that is best on others."""
    method, constants = DENOISERS[name]

    def all_of(clean, constant, seed):
        seen = np.asarray(noisy(clean, level, seed), np.float64)
        answers = [method(x, level / 255, constant) for x in seen]
        return np.clip(np.stack(answers), 0, 1).astype(np.float32)

    best = constants[0]
    if len(constants) > 1:
        best = max(constants, key=lambda c: psnr(all_of(images.chosen, c, 2), images.chosen))
    return all_of(images.tested, best, 1)


def biharmonic(x: Any) -> Answer:
    """Missing pixels by biharmonic equations (Damelin & Hoang 2018)."""
    pairs = zip(np.asarray(x.image, np.float64), np.asarray(x.seen), strict=True)
    return Answer(np.stack([restoration.inpaint_biharmonic(a, ~seen) for a, seen in pairs]))


def filled(x: Any) -> Answer:
    """Missing pixels by means over ever larger squares: where inference starts; of a blur what was seen."""
    return Answer(np.asarray(x.start()))


def wiener(x: Any, *, balance: float) -> Answer:
    """Wiener's filter, the balance between noise and smoothness chosen."""
    images = np.asarray(x.image, np.float64)
    edge = 24  # it takes an image for repeated beyond its edges: mirrored ones do not jump there
    wide = [np.pad(a, edge, "symmetric") for a in images]
    answers: Any = [restoration.wiener(a, kernel(), balance, clip=False) for a in wide]
    return Answer(np.stack(answers)[:, edge:-edge, edge:-edge])


BALANCES = (0.001, 0.003, 0.01, 0.03, 0.1)

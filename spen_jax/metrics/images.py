"""How good masks and images are, of N images of H rows and W columns.

`y`, the answers, and `truth`, which comes second, have one shape with a leading axis of images. NumPy and JAX arrays
both serve, outside `jit`; other shapes, types or values raise ValueError.
"""

import numpy as np
from jax.typing import ArrayLike

from spen_jax.metrics.cells import number
from spen_jax.numbers import real_array


def mean_iou(y: ArrayLike, truth: ArrayLike) -> float:
    """Mean over the images of |A ∩ B| / |A ∪ B|, A the pixels (N, H, W) that are 1 in y, B in the truth; in [0, 1].

    An image where both are empty counts 1. Both are 0 and 1, or booleans: threshold what is relaxed, y >= 0.5.
    ValueError for other values, and unless y and truth share one shape. Source: Jaccard (1912).
    """
    found, true = (a == 1 for a in _masks(y, truth))
    pixels = tuple(range(1, found.ndim))
    both, either = np.sum(found & true, pixels), np.sum(found | true, pixels)
    return float(np.mean(np.where(either > 0, both / np.maximum(either, 1), 1.0)))


def pixel_accuracy(y: ArrayLike, truth: ArrayLike) -> float:
    """The share of pixels, of all images together, whose label is right, whole numbers or booleans (N, H, W).

    `y` are the answers and `truth` the labels, of one shape; in [0, 1]. ValueError for others.
    """
    found, true = _images(y, truth)
    for name, labels in (("y", found), ("truth", true)):
        if not np.array_equal(labels, np.round(labels)):
            raise ValueError(f"{name} must be labels, whole numbers: round or argmax it first")
    return float(np.mean(found == true))


def psnr(y: ArrayLike, truth: ArrayLike, peak: float = 1.0) -> float:
    """Mean over the images of 10 log10(peak^2 / mean (y - truth)^2), in dB: the peak signal-to-noise ratio.

    The inner mean is over all of an image (N, ...), its channels too. `peak` is the largest value that there can be,
    such as 255. Infinite where an image is without error. ValueError for a peak that is not positive and finite, for
    what is not finite, and unless y and truth share one shape.
    """
    found, true = _images(y, truth)
    if not 0 < (peak := number("peak", peak)) < np.inf:
        raise ValueError(f"peak must be positive and finite, got {peak}")
    errors = np.mean((found - true) ** 2, tuple(range(1, found.ndim)))
    with np.errstate(divide="ignore"):
        return float(np.mean(10 * np.log10(peak**2 / errors)))


def _images(y: ArrayLike, truth: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Both as finite float64 of one shape, an axis of images and others."""
    found, true = (
        real_array(name, a).astype(np.float64) for name, a in (("y", y), ("truth", truth))
    )
    if found.shape != true.shape or found.ndim < 2 or not found.size:
        raise ValueError(
            f"y and truth must share one shape (N, H, W), or (N, ...), with something in it, but have {found.shape} "
            f"and {true.shape}: give a leading axis of images"
        )
    for name, a in (("y", found), ("truth", true)):
        if not np.isfinite(a).all():
            raise ValueError(
                f"{name} must be finite, but {np.sum(~np.isfinite(a))} of {a.size} values are not"
            )
    return found, true


def _masks(y: ArrayLike, truth: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    found, true = _images(y, truth)
    for name, a in (("y", found), ("truth", true)):
        if not np.isin(a, (0, 1)).all():
            raise ValueError(
                f"{name} must be 0 or 1 in every pixel: threshold it first, such as y >= 0.5"
            )
    return found, true

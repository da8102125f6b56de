"""Measures of masks and images: closed forms, and scikit-learn's and scikit-image's."""

import math

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, jaccard_score

from spen_jax.metrics import mean_iou, pixel_accuracy, psnr

RNG = np.random.default_rng(0)
Y, TRUTH = RNG.integers(0, 2, (2, 6, 4, 5))
IMAGES, TRUE_IMAGES = RNG.random((2, 6, 7, 8, 3))


def test_intersection_over_union_is_the_mean_of_each_images_jaccard_index():
    each = [jaccard_score(t.ravel(), y.ravel()) for y, t in zip(Y, TRUTH, strict=True)]
    assert mean_iou(Y, TRUTH) == pytest.approx(np.mean(each))
    assert mean_iou(Y.astype(bool), TRUTH.astype(float)) == pytest.approx(np.mean(each))


def test_an_image_without_any_counts_1_where_that_is_right_and_else_0():
    none, some = np.zeros((1, 3, 3)), np.eye(3)[None]
    assert mean_iou(none, none) == 1
    assert mean_iou(some, none) == mean_iou(none, some) == 0
    assert mean_iou(np.concatenate([none, some]), np.concatenate([none, some])) == 1


def test_pixels_of_all_images_count_together():
    assert pixel_accuracy(Y, TRUTH) == pytest.approx(accuracy_score(TRUTH.ravel(), Y.ravel()))
    assert pixel_accuracy(Y + 3, TRUTH + 3) == pixel_accuracy(Y, TRUTH)


@pytest.mark.parametrize("peak", [1.0, 255.0])
def test_peak_signal_to_noise_is_that_of_scikit_image(peak):
    skimage = pytest.importorskip("skimage.metrics")
    y, truth = peak * IMAGES, peak * TRUE_IMAGES
    each = [
        skimage.peak_signal_noise_ratio(t, a, data_range=peak)
        for a, t in zip(y, truth, strict=True)
    ]
    assert psnr(y, truth, peak) == pytest.approx(np.mean(each))


def test_a_known_error_has_a_known_ratio():
    assert psnr(IMAGES + 0.1, IMAGES) == pytest.approx(20)
    assert psnr(IMAGES, IMAGES) == math.inf


@pytest.mark.parametrize(
    ("measure", "y", "truth", "says"),
    [
        (mean_iou, Y[0], TRUTH, "must share one shape"),
        (mean_iou, Y / 2, TRUTH, "y must be 0 or 1 in every pixel"),
        (mean_iou, Y, 2 * TRUTH, "truth must be 0 or 1"),
        (pixel_accuracy, IMAGES, IMAGES, "y must be labels"),
        (pixel_accuracy, Y[:0], TRUTH[:0], "with something in it"),
        (psnr, np.where(IMAGES > 0.9, np.nan, IMAGES), IMAGES, "y must be finite"),
        (lambda y, t: psnr(y, t, 0.0), IMAGES, IMAGES, "peak must be positive"),
        (psnr, [["a"]], [["b"]], "y must"),
    ],
)
def test_what_cannot_be_measured_is_named(measure, y, truth, says):
    with pytest.raises(ValueError, match=says):
        measure(y, truth)

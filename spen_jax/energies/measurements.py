"""What was measured of an image, as an object: noise of a known level, missing pixels, a known blur.

A measurement x holds a batch: `image` (B, H, W), whatever was recorded, in grey levels from 0 to 1, and `noise` (B,),
the standard deviation of its Gaussian noise in the same units. It says how unlikely that is for an image y, D(x, y) in
nats, where to start, and what a step that is exact in D is. With a prior over images it makes a problem:
`Restoration(prior)`. `energy` and `newton` are of one example, as they stand within `vmap`.
"""

import math
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from spen_jax.exact.arrays import Arrays
from spen_jax.numbers import floats, known, real, real_array, wide


class Measurement(Protocol):
    """What `Restoration` asks of a measurement x of B images; it is a pytree whose arrays have a leading axis of B.

    `image` (B, H, W) is whatever was recorded, in grey levels from 0 to 1. `energy` and `newton` are of one example, as
    they stand within `vmap`. `noise` (B,), the standard deviation of its Gaussian noise in the same units, is asked of
    those alone whose prior is told no level.
    """

    image: Any

    def onto(self, y: jax.Array) -> jax.Array:
        """The images nearest to y (H, W) that are possible at all: y itself, or with what was seen without noise."""
        ...

    def energy(self, y: jax.Array) -> jax.Array:
        """D(x, y) of one possible y (H, W), in nats."""
        ...

    def newton(self, gradient: jax.Array, size: Any, scale: Any) -> jax.Array:
        """(1 / size + scale H)^-1 gradient, H the second derivatives of D; 0 where y cannot move."""
        ...

    def start(self) -> jax.Array:
        """A first guess of the images of a batch, (B, H, W)."""
        ...


class _Anything(Arrays):
    """A measurement that makes no image impossible."""

    image: Any
    arrays = ()

    def onto(self, y):
        """y itself."""
        return y

    def start(self):
        """x itself."""
        return self.image


class Noisy(_Anything):
    """x = y + noise, Gaussian: D = |y - x|^2 / (2 noise^2), in nats; a `Measurement` for `Restoration`.

    `image` x (B, H, W), grey levels from 0 to 1; `noise`, its standard deviation in the same units, one number or (B,),
    above 0: it may take pixels out of [0, 1]. ValueError for other shapes, for NaN, and, of numbers that are known, for
    what cannot be in these units: pixels beyond 1 + 100 noise, an image whose mean lies outside -1 to 2 by more than
    10 noise / sqrt(H W), a noise above 1 beside pixels up to 1.
    """

    arrays = ("image", "noise")

    def __init__(self, image: Any, noise: Any):
        """Arrays: image (B, H, W); noise, one number or (B,), above 0."""
        self.image = _images(image)
        self.noise = _levels(noise, self.image)

    def energy(self, y):
        """|y - x|^2 / (2 noise^2) of one y (H, W), in nats."""
        return jnp.sum((y - self.image) ** 2) / (2 * self.noise**2)

    def newton(self, gradient, size, scale=1.0):
        """The gradient over 1 / size + scale / noise^2, (H, W)."""
        return gradient / (1 / size + scale / self.noise**2)


class Incomplete(Arrays):
    """x = y where it was seen, without noise: no other y is possible, and D = 0; a `Measurement` for `Restoration`.

    `image` x (B, H, W), grey levels from 0 to 1, whose unseen pixels may be anything; `seen`, booleans (B, H, W). It
    has no noise: a `Restoration` of it needs a level. ValueError for other shapes and types, and for NaN, or numbers up
    to 255, where seen.
    """

    arrays = ("image", "seen")

    def __init__(self, image: Any, seen: Any):
        """Arrays: image (B, H, W), whose unseen pixels may be anything; seen, booleans (B, H, W)."""
        images, seen = real("image", image), jnp.asarray(real("seen", seen))
        if seen.dtype != bool or seen.shape != images.shape:
            raise ValueError(
                f"seen must be booleans of the image's shape {images.shape}, True where a pixel was seen, got "
                f"{seen.dtype} {seen.shape}"
            )
        self.seen = seen
        self.image = _images(jnp.where(seen, images, 0))
        found = known(self.image)
        if found is not None and np.abs(found).max(initial=0) > 20:
            raise ValueError(
                f"image must hold grey levels from 0 to 1, got up to {np.abs(found).max():.4g}; of whole numbers up to "
                "255 give image / 255"
            )

    def onto(self, y):
        """y, and x where it was seen."""
        return jnp.where(self.seen, self.image, y)

    def energy(self, y):
        """0, a scalar: every possible y is as likely."""
        return jnp.zeros((), y.dtype)

    def newton(self, gradient, size, scale=1.0):
        """size times the gradient where nothing was seen, else 0."""
        return jnp.where(self.seen, 0, size * gradient)

    def start(self):
        """x where it was seen, elsewhere means over ever larger squares of it; 1/2 for an image without any."""
        return _filled(self.image, self.seen.astype(self.image.dtype))


class Blurred(_Anything):
    """x = k * y + noise: D = |k * y - x|^2 / (2 noise^2), the image mirrored at its edges or repeated beyond them.

    A `Measurement` for `Restoration`, D in nats. `image` x (B, H, W), grey levels from 0 to 1; `kernel` k (h, w), of
    odd sizes up to the image's; `noise`, one number or (B,), above 0; `periodic`, whether the image is repeated.
    Mirrored (as `scipy.ndimage` has it by default, "reflect") the kernel must be its own mirror image in both axes; a
    convolution is then diagonal in cosines, repeated in Fourier's waves, and with it the exact step. ValueError for
    other kernels and shapes, and as in `Noisy`.
    """

    arrays = ("image", "noise", "transfer")
    settings = ("periodic",)

    def __init__(self, image: Any, kernel: Any, noise: Any, *, periodic: bool = False):
        """Arrays: image (B, H, W); kernel (h, w), odd sizes up to the image's; noise, one number or (B,), above 0."""
        self.image = _images(image)
        self.periodic = periodic
        kernel = real_array("kernel", kernel).astype(np.float64)
        _check_kernel(kernel, self.image.shape[1:], periodic)
        self.noise = _levels(noise, self.image, max(1.0, np.abs(kernel).sum()))
        rows, columns = self._extended(self.image.shape[1:])
        spread = np.zeros((rows, columns))
        spread[: kernel.shape[0], : kernel.shape[1]] = kernel
        spread = np.roll(spread, [-(n // 2) for n in kernel.shape], (0, 1))
        transfer = jnp.asarray(np.fft.rfft2(spread), jnp.result_type(self.image, 1j))
        self.transfer = jnp.broadcast_to(transfer, (len(self.image), *transfer.shape))

    def _extended(self, shape):
        return tuple(shape) if self.periodic else tuple(2 * n for n in shape)

    def _filtered(self, y, response):
        """y (H, W), extended, with its waves times `response`."""
        if not self.periodic:
            y = jnp.concatenate([y, y[::-1]], 0)
            y = jnp.concatenate([y, y[:, ::-1]], 1)
        rows, columns = self.image.shape[-2:]
        return jnp.fft.irfft2(jnp.fft.rfft2(y) * response, y.shape)[:rows, :columns]

    def blur(self, y):
        """k * y of one y (H, W)."""
        return self._filtered(y, self.transfer)

    def energy(self, y):
        """|k * y - x|^2 / (2 noise^2) of one y (H, W), in nats."""
        return jnp.sum((self.blur(y) - self.image) ** 2) / (2 * self.noise**2)

    def newton(self, gradient, size, scale=1.0):
        """Each wave of the gradient over 1 / size + scale |response|^2 / noise^2."""
        curvature = scale * jnp.abs(self.transfer) ** 2 / self.noise**2
        return self._filtered(gradient, 1 / (1 / size + curvature))


def _images(image: Any) -> jax.Array:
    image = wide(floats("image", image))
    if image.ndim != 3 or not image.size:
        raise ValueError(
            f"image must be a batch of grey images (B, H, W), got shape {image.shape}; one image is image[None], "
            "colours are images of their own"
        )
    found = known(image)
    if found is not None and not np.isfinite(found).all():
        raise ValueError("image holds NaN or infinities; say by Incomplete which pixels were seen")
    return image


def _levels(noise: Any, image: jax.Array, gain: float = 1.0) -> jax.Array:
    """The noise of each image, whose grey levels are at most `gain` before it is added."""
    noise = floats("noise", noise).astype(image.dtype)
    if noise.shape not in ((), (len(image),)):
        raise ValueError(
            f"noise must be one number or one for each of {len(image)} images, got shape {noise.shape}"
        )
    found, seen = known(noise), known(image)
    if found is not None and not (np.isfinite(found).all() and (found > 0).all()):
        raise ValueError(f"noise, a standard deviation, must be finite and above 0, got {found}")
    if found is not None and seen is not None:
        largest = np.abs(seen).max()
        # A mean moves by noise / sqrt(pixels): it tells units apart also where single pixels may be anywhere.
        beyond = np.abs(np.mean(seen, (1, 2), dtype=float) - 0.5) - 1.5 * gain
        moved = np.any(beyond > 10 * found / math.sqrt(seen[0].size))
        if moved or largest > gain + 100 * found.max() or largest <= 1 < found.max():
            raise ValueError(
                f"image and noise must be in one unit, grey levels from 0 to 1, got pixels up to {largest:.4g} and "
                f"noise up to {found.max():.4g}; of whole numbers up to 255 give image / 255 and noise / 255"
            )
    return jnp.broadcast_to(noise, (len(image),))


def _check_kernel(kernel, shape, periodic):
    odd = kernel.ndim == 2 and all(
        n % 2 == 1 and n <= m for n, m in zip(kernel.shape, shape, strict=True)
    )
    if not odd or not np.isfinite(kernel).all():
        raise ValueError(
            f"kernel must be a finite matrix of odd sizes up to the image's {tuple(shape)}, whose middle stays, "
            f"got shape {kernel.shape}; pad it with zeros, or cut what is negligible"
        )
    mirrored = np.allclose(kernel, kernel[::-1]) and np.allclose(kernel, kernel[:, ::-1])
    if not periodic and not mirrored:
        raise ValueError(
            "a kernel that is not its own mirror image in both axes has no exact step on an image mirrored at its "
            "edges: give periodic=True, for an image repeated beyond them"
        )


def _filled(image: jax.Array, weight: jax.Array) -> jax.Array:
    """Images (B, H, W) where their weights are above 0, elsewhere filled from coarser means."""
    batch, rows, columns = image.shape
    if rows == 1 and columns == 1:
        return jnp.where(weight > 0, image, 0.5)
    edge = [(0, 0), (0, rows % 2), (0, columns % 2)]
    summed = [
        lax.reduce_window(jnp.pad(a, edge), 0.0, lax.add, (1, 2, 2), (1, 2, 2), "VALID")
        for a in (image * weight, weight)
    ]
    there = jnp.minimum(summed[1], 1)
    coarse = _filled(summed[0] / jnp.maximum(summed[1], 1e-6), there)
    fine = jax.image.resize(coarse, (batch, rows + rows % 2, columns + columns % 2), "linear")
    return jnp.where(weight > 0, image, fine[:, :rows, :columns])

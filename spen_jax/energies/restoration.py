"""Problems of images: what was measured, and a prior over images, one energy.

    x = Incomplete(images, seen)                                   # or Noisy, Blurred, one of your own
    features, energy = functions_of(Restoration(Denoising(NoiseNetwork()), level=8 / 255))
    restore = Predictor(energy, features, start=from_measurement, domain=Measured(), solver=ProximalGradient())

The weights of one prior, trained on one problem, serve them all.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from spen_jax.domains import Domain, Reals
from spen_jax.energies.structured import energies_of


class Restoration(nn.Module):
    """E(x, y) = s^2 (D(x, y) + weight prior((y - 1/2) / s)), y (H, W) grey levels from 0 to 1.

    D is the measurement's, in nats; x is a `Measurement` of a batch, such as `Noisy`, `Incomplete` or `Blurred`. s is
    the level of noise that the prior is told: it sees y in units of s. The factor s^2, which moves no minimum, makes a
    derivative, and so a step and the residual, one in grey levels whatever s: of `Noisy` with s its own noise, E = |y -
    x|^2 / 2 + s^2 prior, and y = x - grad E(x), one step of length 1 from x, is what a denoiser trains. ValueError for
    a level or a weight that cannot be, for an x that is no measurement, and where nobody knows a level.

    Attributes:
      prior: a term `energy({}, y) -> scalar` of one image, such as `Denoising`, `DeepVariation`, `FieldOfExperts`,
        `TotalVariation`.
      level: s, in grey levels; None is the measurement's noise, which `Incomplete` has none of.
      weight: of the prior.

    Both stand in the context, (B,): features of one's own, `features(params, x) | {"level": ..., "weight": ...}`, can
    have them from anywhere, and nothing compiles anew for another number.
    """

    prior: Any
    level: float | None = None
    weight: float = 1.0

    def setup(self):
        """ValueError for a level or a weight that cannot be."""
        if not ((self.level is None or self.level > 0) and self.weight >= 0):
            raise ValueError(
                f"level must be above 0, in grey levels, and weight 0 or more, got {self.level} and {self.weight}"
            )

    def features(self, x: Any, train: bool = False) -> dict[str, Any]:
        """The context of a batch: "measurement", "level" and "weight" (B,); ValueError where nobody knows a level."""
        if lacking := [
            n for n in ("image", "onto", "energy", "newton", "start") if not hasattr(x, n)
        ]:
            raise ValueError(
                "Restoration takes what was measured, such as Noisy(images, noise), got "
                f"{type(x).__name__}, which has no {', '.join(lacking)}"
            )
        if self.level is None and not hasattr(x, "noise"):
            raise ValueError(
                f"{type(x).__name__} has no noise that could tell the prior its level: give Restoration a level, such "
                "as 8 / 255"
            )
        ones = jnp.ones(len(x.image), x.image.dtype)
        level = x.noise if self.level is None else self.level * ones
        return {"measurement": x, "level": level, "weight": self.weight * ones}

    def energy(self, context: dict[str, Any], y: jax.Array) -> jax.Array:
        """E(x, y) of one image, y (H, W), of which only what is possible counts; ValueError for another shape."""
        s, x = context["level"], context["measurement"]
        if jnp.shape(y) != x.image.shape:
            raise ValueError(
                f"y must have the shape {x.image.shape} of the image that was measured, got {jnp.shape(y)}"
            )
        y = x.onto(y)
        prior = self.prior.energy({}, (y - 0.5) / s)
        return s**2 * (x.energy(y) + context["weight"] * prior)

    def __call__(self, x: Any, y: jax.Array) -> jax.Array:
        """The energies of a batch, (B,); makes `init` see all parameters."""
        return energies_of(self, self.features(x), y)


@dataclass(frozen=True)
class Measured(Reals):
    """All images that are possible after a measurement, with the exact steps of a `Restoration`.

    A domain of images y (H, W), whose `within` needs the context of a `Restoration` (ValueError). `ProximalGradient`
    takes such steps. `residual` is how far, in grey levels, the next one, of length 1, would move a pixel, the largest.
    """

    def within(self, context: Any) -> Domain:
        """That of one example's measurement; ValueError for a context without one."""
        if not isinstance(context, dict) or "measurement" not in context:
            raise ValueError(
                "Measured needs a context that says what was measured, as the features of a Restoration give it"
            )
        return _Within(context["measurement"], context["level"])


@dataclass(frozen=True, eq=False, repr=False)
class _Within(Reals):
    """Those of one example, while it is being traced."""

    measurement: Any
    level: Any

    def __repr__(self):
        return "Measured()"

    def project(self, y):
        """y, with what was seen without noise."""
        return self.measurement.onto(y)

    def onto_face(self, y, target, scaled, v):
        """0 where y cannot move."""
        return jax.jvp(self.measurement.onto, (y,), (v,))[1]

    def newton(self, gradient, size):
        """(1 / size + second derivatives of s^2 D)^-1 gradient."""
        return self.measurement.newton(gradient, size, self.level**2)

    def gap(self, y, gradient):
        """The largest entry of the step of length 1."""
        return jnp.max(jnp.abs(self.newton(gradient, 1.0)))


def from_measurement(context: dict[str, Any]) -> jax.Array:
    """The measurement's own first guess, (B, H, W): a start for inference; `context` is that of a `Restoration`."""
    return context["measurement"].start()

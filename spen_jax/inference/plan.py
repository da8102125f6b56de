"""How an answer is to be found: what is fixed when a solve is compiled, and the options that say so."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, NamedTuple, TypedDict

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from spen_jax.checks import check_whole
from spen_jax.domains import Box, Domain
from spen_jax.inference.solvers import (
    GradientDescent,
    Solver,
    in_range,
    unrolls,
    with_settings,
)
from spen_jax.numbers import check_array
from spen_jax.types import Energy

TRACES = "y", "energy", "residual"


@dataclass(frozen=True)
class Unrolled:
    """Differentiates the answer through the solver's steps, all or (truncated) the `last` ones; for `differentiate`.

    What lies before the last steps counts as a constant. The backward pass keeps one state for each segment of steps
    and repeats a segment when it comes to it, so that memory holds steps / segment states and what `segment` steps
    compute. None means all steps up to 32 in one segment, beyond that sqrt(steps). ValueError for numbers below 1;
    steps with a search, or that stop early, cannot be unrolled.

    Sources: Domke (2012), of truncated optimisation; Chen et al. (2016), of segments of sqrt(steps).
    """

    last: int | None = None
    segment: int | None = None

    def __post_init__(self):
        for name in ("last", "segment"):
            value = getattr(self, name)
            if value is not None and (value != int(value) or value < 1):
                raise ValueError(f"Unrolled needs {name} >= 1 or None, got {value}")


@dataclass(frozen=True)
class Implicit:
    """Differentiates the answer as a minimiser, by the implicit function theorem, however it was found.

    At a minimum on the domain y = project(y - s grad E(y)) for any s > 0. With P the (symmetric) Jacobian of the
    projection there, which takes out active bounds, and H the Hessian of E, both only ever applied to vectors: dy = -P
    w, ((P - P P) / s + P (H + damping) P) w = P d(grad E), by preconditioned conjugate gradients. Where that does not
    reach 10 times `tolerance` (relative) in so many `steps`, nor as near as rounding lets it (at most 1e-2), the
    derivative of that example is NaN, and `fit` leaves it out and counts it in "left_out". So it is where the Hessian
    is singular and the minimisers form a set, unless all of them share the derivative asked for; a `damping` > 0 then
    gives that of the proximal step argmin E + damping / 2 ||. - y||^2 instead. Derivatives of any order, in forward and
    in reverse mode, in which active bounds stay active. A point on a bound where the gradient is 0 too counts as bound.
    Of a function of y that is constant along a sphere, such as ||y||, the reverse derivative there is NaN: nothing but
    rounding is left of it. ValueError unless steps >= 1, tolerance > 0 and damping >= 0.
    Sources: Krantz & Parks (2002); for fixed points of projections Blondel et al. (2022).
    """

    steps: int = 200
    tolerance: float = 1e-5
    damping: float = 0.0

    def __post_init__(self):
        if not (self.steps >= 1 and self.tolerance > 0 and self.damping >= 0):
            raise ValueError(
                f"Implicit needs steps >= 1, tolerance > 0 and damping >= 0, got {self}"
            )


Differentiate = Literal["stopped", "unrolled", "implicit"] | Unrolled | Implicit
"""What a derivative of an answer means: `Options.differentiate` says which."""
_MODES = {"stopped": None, "unrolled": Unrolled(), "implicit": Implicit()}


class Options(TypedDict, total=False):
    """How `minimize` finds an answer, by keyword; a `Predictor` has the same, with defaults of its own.

    - `domain`: where y lives; `Box()` by default.
    - `solver`: the algorithm; `GradientDescent()` by default. `Exact()` for energies that know their structure: then
      the start and what is said about steps play no part.
    - `steps`: how many steps, at least 0, 30 by default; with `stop_early` at most.
    - `settings`: numbers of the solver by name in place of its own, such as learned ones: scalars, or arrays of one
      number for each step. `{"step_size": schedule(jnp.arange(steps))}` takes any Optax schedule. One out of range
      raises ValueError; a learned one, known only when the program runs, fails every example.
    - `temperature`: of entropy smoothing, E(x, y) - temperature H(y), H the domain's entropy: a scalar, or one number
      for each step. `energy` and `residual` are then those of this objective at the end.
    - `differentiate`: what `jax.grad` makes of the solution. "stopped", the default: `y` is a constant and `energy`
      depends on the parameters at that fixed y, so that its gradient is that of min_y E at an interior or constrained
      optimum (the envelope theorem); a second derivative, in which y moves, is refused. "unrolled", or
      `Unrolled(last, segment)`: `y` and `energy` are differentiated through the steps. "implicit", or `Implicit(...)`:
      `y` as a minimiser; settings and start then have gradient 0. `residual` and `trace` (but for unrolled points) are
      constants.
    - `tolerance`: the residual up to which an example counts as converged, 1e-3 by default.
    - `stop_early`: whether each example stops by itself once it has converged, or failed; examples are looked at every
      4 steps, and those that go on are gathered, so that the time follows the steps taken. Not to be unrolled: a while
      loop has no reverse mode.
    - `precision`: of the energy's products of matrices and convolutions, what `jax.default_matmul_precision` takes:
      "highest" is exact float32, "tensorfloat32" and "bfloat16" round the factors and are faster on accelerators;
      points and sums stay float32. None, the default, is JAX's: float32 on CPUs, which have no other; on GPUs of recent
      years "tensorfloat32", about three digits, of which many steps with momentum leave less.
    - `trace`: which of "y", "energy", "residual" to keep for every step.
    - `progress`: whether to report on stderr while the program runs.
    - `shape`: of one example's y, for a start that is a number or the domain's middle.
    """

    domain: Domain
    solver: Solver
    steps: int
    settings: dict[str, Any] | None
    temperature: Any
    differentiate: Differentiate
    tolerance: float
    precision: str | None
    stop_early: bool
    trace: str | tuple[str, ...] | list[str]
    progress: bool
    shape: tuple[int, ...] | None


class Values(NamedTuple):
    """The numbers of a solve, of all steps or of one: settings and temperature may have one for each step."""

    params: Any
    settings: dict[str, Any]
    temperature: Any


@dataclass(frozen=True, eq=False)
class Plan:
    """What is fixed when a solve is compiled; see `Options`. With `held` some parts of y are known.

    Plans come from `plan_of`, which gives the same options the same object: a call compares them by identity, at once.
    """

    energy: Energy
    domain: Domain = Box()
    solver: Solver = GradientDescent()
    steps: int = 30
    mode: Unrolled | Implicit | None = None
    tolerance: float = 1e-3
    precision: str | None = None
    stop_early: bool = False
    trace: tuple[str, ...] = ()
    progress: bool = False
    held: bool = False

    def __post_init__(self):
        self._check_numbers()
        self._check_parts()
        if self.held and self.domain.needs_context:
            raise ValueError(
                f"what is known of an answer has no place on {self.domain}: make a structure that forbids all else"
            )
        if self.held and not getattr(self.solver, "takes_known", True):
            raise ValueError(
                f"{type(self.solver).__name__} has no steps beside what is known of an answer: say what is known as a "
                "part of the energy, of images by energies.Incomplete, or take another solver"
            )
        if self.stop_early and getattr(self.solver, "entropy", 0):
            raise ValueError(
                "stop_early looks at E, and a solver with an entropy goes down another function: say it as a "
                "temperature, or run all steps"
            )
        if self.stop_early and isinstance(self.mode, Unrolled):
            raise ValueError(
                "stop_early runs in a while loop, which has no reverse mode: differentiate it as 'stopped' or "
                "'implicit', or unroll a fixed number of steps with stop_early=False"
            )
        if isinstance(self.mode, Unrolled) and not unrolls(self.solver):
            raise ValueError(
                f"{self.solver} makes no steps that a derivative could follow: differentiate it as 'stopped' or "
                "'implicit'"
            )

    def _check_numbers(self):
        check_whole("steps", self.steps, 0)
        if not hasattr(self.tolerance, "__float__") or not self.tolerance >= 0:
            raise ValueError(f"tolerance must be a number, 0 or more, got {self.tolerance!r}")
        try:
            jax.default_matmul_precision(self.precision)
        except ValueError as error:
            raise ValueError(
                f'precision must be "highest", "tensorfloat32", "bfloat16" or another that JAX knows, got '
                f"{self.precision!r}"
            ) from error

    def _check_parts(self):
        if not isinstance(self.domain, Domain):
            raise ValueError(
                f"domain must be one of spen_jax.domains, such as Box(), Simplex() or Reals(), got {self.domain!r}"
            )
        methods = [getattr(self.solver, name, None) for name in ("init", "step", "y")]
        if isinstance(self.solver, type) or not all(map(callable, methods)):
            raise ValueError(
                "solver must be one of spen_jax.inference, such as GradientDescent(), MirrorDescent() or "
                f"Optax(optax.adam(0.1)), got {self.solver!r}"
            )
        if unknown := [name for name in self.trace if name not in TRACES]:
            raise ValueError(
                f"trace knows {', '.join(map(repr, TRACES))}, got {', '.join(map(repr, unknown))}"
            )


def plan_of(energy: Energy, held: bool, options: dict[str, Any]) -> Plan:
    """The plan of an energy and options: one object for the same options, which are compiled once.

    ValueError for options out of range; TypeError for unknown names, and values that cannot be fixed.
    """
    trace = options.get("trace")
    if trace is not None and isinstance(trace, list | str):
        options = options | {"trace": (trace,) if isinstance(trace, str) else tuple(trace)}
    try:
        return _plan_in_order(energy, held, tuple(options.items()))
    except TypeError as error:
        if "unhashable" in str(error):
            error.add_note(
                "energy, domain, solver, steps and tolerance must be fixed: arrays go to `settings`"
            )
        raise


@lru_cache(maxsize=1024)
def _plan_in_order(energy, held, options):
    return _plan(energy, held, tuple(sorted(options)))


@lru_cache(maxsize=1024)
def _plan(energy, held, options):
    given = dict(options)
    if unknown := [name for name in given if name not in Options.__annotations__]:
        known = ", ".join(Options.__annotations__)
        raise TypeError(f"minimize has no option {', '.join(unknown)}; its options are {known}")
    trace, mode = given.pop("trace", ()), mode_of(given.pop("differentiate", None))
    trace = trace if isinstance(trace, tuple) else (trace,)
    return Plan(energy, mode=mode, trace=trace, held=held, **given)


def mode_of(differentiate: Differentiate | str | None) -> Unrolled | Implicit | None:
    """What a solution's derivative is; ValueError for another name."""
    if differentiate is None or isinstance(differentiate, Unrolled | Implicit):
        return differentiate
    if differentiate not in _MODES:
        raise ValueError(
            f"differentiate must be one of {', '.join(map(repr, _MODES))}, Unrolled(last=k) for the last k "
            f"steps only, or Implicit(...), got {differentiate!r}"
        )
    return _MODES[differentiate]


def check_numbers(solver: Solver, settings: Any, temperature: Any) -> None:
    """ValueError for unknown names of settings and, of numbers known now, for those out of range.

    - `solver`: whose numbers the settings replace.
    - `settings`: a dict of scalars or arrays, one for each step, as `minimize` takes them.
    - `temperature`: of entropy smoothing, at least 0, a scalar or one for each step; or None.
    """
    if not isinstance(settings, dict):
        raise ValueError(f'settings must be a dict such as {{"step_size": 0.1}}, got {settings!r}')

    def known(a):
        return [] if isinstance(a, Tracer) else np.asarray(a).ravel().tolist()

    for name, value in settings.items():
        check_array(f"settings[{name!r}]", value)
        for number in known(value):
            with_settings(solver, {name: float(number)})
    if temperature is not None:
        check_array("temperature", temperature)
        if any(not number >= 0 for number in known(temperature)):
            raise ValueError(f"temperature must be 0 or more, got {temperature}")


def with_range(plan: Plan, settings: dict[str, Any], temperature: Any) -> tuple[Any, Any]:
    """Both, not a number where a number that is only known when the program runs is out of range."""

    def kept(name, value):
        return jnp.where(in_range(with_settings(plan.solver, {name: value})), value, jnp.nan)

    settings = {name: kept(name, value) for name, value in settings.items()}
    if temperature is not None:
        temperature = jnp.where(temperature >= 0, temperature, jnp.nan)
    return settings, temperature


def check_schedules(plan: Plan, values: Values) -> None:
    """ValueError where settings or temperature have the wrong shape, or a name that the solver lacks."""
    for name, value in {**values.settings, "temperature": values.temperature}.items():
        if value is not None and jnp.shape(value) not in ((), (max(plan.steps, 1),)):
            raise ValueError(
                f"{name} must be one number or one for each of {plan.steps} steps, got shape {jnp.shape(value)}"
            )
    if plan.stop_early and values.temperature is not None and jnp.ndim(values.temperature):
        raise ValueError(
            "a temperature for each step needs all steps: leave stop_early out, or give one temperature"
        )
    if plan.stop_early and "entropy" in values.settings:
        raise ValueError("stop_early looks at E: say an entropy as a temperature, or run all steps")
    with_settings(plan.solver, values.settings)

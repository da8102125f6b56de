"""What is said about arguments before anything is traced."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

from spen_jax.numbers import check_array
from spen_jax.sparse import Matrix
from spen_jax.types import Energy


def check_arrays(**trees: Any) -> None:
    """ValueError, by name and path, for a leaf of one of the trees that is no array of numbers."""
    for name, tree in trees.items():
        for path, leaf in jax.tree.leaves_with_path(tree):
            if not isinstance(leaf, Matrix):  # which was checked as it was made
                check_array(name + jax.tree_util.keystr(path), leaf)


def check_context(context: Any, batch: int) -> None:
    """ValueError where an array of the context has no leading axis of so many examples."""
    for path, leaf in jax.tree.leaves_with_path(context):
        shape = jnp.shape(leaf)
        if not shape or shape[0] != batch:
            raise ValueError(
                f"each array of the context needs a leading axis of {batch} examples, as start has, but "
                f"context{jax.tree_util.keystr(path)} has shape {shape}; what all examples share "
                "belongs in params"
            )


def check_energy(energy: Energy, params: Any, context: Any, y: Any) -> None:
    """ValueError where the energy of one example fails over types and shapes, or is no scalar."""
    of_context, of_y = jax.tree.map(lambda a: a.shape, (context, y))
    shapes = f"with a context of shape {of_context} and y of shape {of_y}"
    try:
        out = jax.eval_shape(energy, params, context, y)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"the energy fails on one example, {shapes}: {error}. It sees one example, without the batch's axis; mend "
            "the shapes of the data, of start or shape, or of the parameters"
        ) from error
    except Exception as error:
        error.add_note(f"in the energy of one example, {shapes}")
        raise
    if not hasattr(out, "shape") or out.shape != () or not jnp.issubdtype(out.dtype, jnp.floating):
        raise ValueError(
            f"the energy must return a float scalar for one example, got {out}, {shapes}; sum over the outputs, the "
            "batch is not its concern"
        )


def loops_without_end(function: Callable[..., Any], *args: Any) -> bool:
    """Whether a function holds a loop of unknown length that a derivative in reverse mode would meet."""

    def met(jaxpr):
        for eqn in jaxpr.eqns:
            if eqn.primitive.name == "while":
                return True
            # One with a derivative of its own hides what is inside.
            if eqn.primitive.name not in (
                "custom_jvp_call",
                "custom_vjp_call",
                "custom_linear_solve",
            ):
                inner = [getattr(p, "jaxpr", p) for p in jax.tree.leaves(eqn.params)]
                if any(met(p) for p in inner if isinstance(p, core.Jaxpr)):
                    return True
        return False

    return met(jax.make_jaxpr(function)(*args).jaxpr)


def as_points(start: Any) -> Any:
    """`start` as arrays; ValueError where NumPy's float64 would be rounded to float32 in silence."""

    def convert(a):
        check_array("start", a)
        if isinstance(a, jax.Array):
            return a
        if getattr(a, "dtype", None) == np.float64 != jnp.result_type(float):
            raise ValueError(
                "start is float64, but JAX's 64-bit mode is off and would round it to float32; give "
                "start.astype(np.float32), or switch the mode on with jax.config.update('jax_enable_x64', True)"
            )
        # jnp.asarray would compile a copy of each new shape.
        return jax.device_put(a) if isinstance(a, np.ndarray) else jnp.asarray(a)

    return start if isinstance(start, jax.Array) else jax.tree.map(convert, start)


def check_whole(name: str, value: Any, least: int) -> None:
    """ValueError for what is no whole number, or below `least`."""
    if not hasattr(value, "__float__") or value % 1 or value < least:
        raise ValueError(f"{name} must be a whole number, {least} or more, got {value!r}")


def check_positive(name: str, value: Any) -> None:
    """ValueError for what is no number, or not positive and finite."""
    if not hasattr(value, "__float__") or not 0 < value < float("inf"):
        raise ValueError(f"{name} must be a number, positive and finite, got {value!r}")


def checked_shape(what: str, value: Any, shape: tuple[int, ...]) -> jax.Array:
    """`value` as an array; ValueError where it has another shape."""
    if jnp.shape(value) != shape:
        raise ValueError(f"{what} must have shape {shape}, got {jnp.shape(value)}")
    return jnp.asarray(value)


def as_floats(y: Any) -> jax.Array:
    """y as floats: booleans and integers would be added as such."""
    return jnp.asarray(y, jnp.result_type(y, 0.0))


def check_function(name: str, function: Any, what: str) -> None:
    """ValueError for what is no function, and for a Flax module in its place."""
    if any(kind.__module__.startswith("flax.") for kind in type(function).__mro__):
        raise ValueError(
            f"{name} must be a function {what}, got the Flax module {type(function).__name__}: functions_of(module) "
            "makes the two functions of a Linen one, docs/do/flavours.md shows those of an NNX one"
        )
    if not callable(function):
        raise ValueError(
            f"Predictor needs {'an' if name == 'energy' else ''} {name}, a function {what}, got {function!r}"
        )

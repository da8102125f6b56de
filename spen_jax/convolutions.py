"""Convolutions that are fast inside loops on a CPU.

XLA's CPU compiler brings a convolution into the layout that its fast kernel takes only outside of loops (JAX issue
12868). The convolution of an `nn.Conv` is in that layout already; those of its derivatives are not, and run ten to
thirty times slower in `lax.scan`. `fast(function)` has every convolution in a function written as a primitive of our
own that means the same, but is brought into that layout, with the transposes said in full, where it is lowered for
a CPU.

A convolution y = x * w and its two transposes are the three ways to read one trilinear form <x * w, y>. A derivative
of any of them is another of them, so that three primitives are all that derivatives of any order need, in both modes,
whatever the strides, dilations, groups and padding; a second derivative is as fast as a first one. JAX, which writes a
transpose as a convolution and transposes that once more, comes to dilated kernels of the images' size.
"""

from collections.abc import Callable
from functools import partial, wraps
from typing import Any
from weakref import WeakKeyDictionary

import jax
import jax.numpy as jnp
from jax import lax
from jax.core import ShapedArray, Tracer
from jax.extend import core
from jax.extend.core.primitives import conv_general_dilated_p
from jax.interpreters import ad, batching, mlir

convolution_p = core.Primitive("convolution")
"""JAX's `conv_general_dilated`, with its operands and parameters: (x, w) -> y."""
to_images_p = core.Primitive("convolution_to_images")
"""Its transpose in x, (y, w) -> x; like both of the next with `like`, the shape and type of the result."""
to_kernel_p = core.Primitive("convolution_to_kernel")
"""Its transpose in w, (x, y) -> w."""


FEW = 100
"""Numbers of a group's kernel up to which XLA's own loop is faster than its fast kernel (measured)."""


def fast(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function`, whose convolutions, and those of its derivatives, are fast in a loop on a CPU.

    `fast(energy)`, `fast(features)`, `fast(loss)`: of arguments and with a result that are pytrees of arrays. The
    library does so with what it is given; this is for a loop of your own, around the function that is
    differentiated. A derivative rule of the function's own (`jax.custom_vjp`) stays as it is. On other devices, where
    nothing is traced, and within a `jax.shard_map` with `check_vma`, the function is called as it stands. It raises
    what the function raises.
    """
    if hasattr(function, "has_fast_convolutions"):
        return function

    @wraps(function)
    def called(*args: Any, **kwargs: Any) -> Any:
        leaves, structure = jax.tree.flatten((args, kwargs))
        traced = [i for i, a in enumerate(leaves) if isinstance(a, Tracer)]
        if jax.default_backend() != "cpu" or not traced or any(map(_varies, leaves)):
            return function(*args, **kwargs)

        # What is known stays known; a new function, which no cache takes for an old one.
        def of_traced(*values):
            args, kwargs = structure.unflatten(_with(leaves, traced, values))
            return function(*args, **kwargs)

        values = [leaves[i] for i in traced]
        closed, out = jax.make_jaxpr(of_traced, return_shape=True)(*values)
        replaced = core.ClosedJaxpr(_replaced(closed.jaxpr), closed.consts)
        results = core.jaxpr_as_fun(replaced)(*values)
        arrays = [
            a if isinstance(a, jax.Array) else jnp.asarray(a, v.aval.dtype)
            for a, v in zip(results, closed.jaxpr.outvars, strict=True)
        ]
        return jax.tree.unflatten(jax.tree.structure(out), arrays)

    called.has_fast_convolutions = True  # pyright: ignore[reportAttributeAccessIssue]
    return called


def _varies(a):
    """Whether it varies over the devices of a `jax.shard_map` that checks this, which our primitives do not know of."""
    if not isinstance(a, Tracer):
        return False
    kind = jax.typeof(a)
    return bool(getattr(getattr(kind, "mat", kind), "varying", None) or getattr(kind, "vma", None))


def _with(leaves, places, values):
    changed = list(leaves)
    for place, value in zip(places, values, strict=True):
        changed[place] = value
    return changed


def result_and_kernel(eqn: Any) -> tuple[Any, Any] | None:
    """The shapes of y and w in `eqn`, an equation of a jaxpr that is a convolution or a transpose of one, else None."""
    inputs, (output, *_) = [v.aval for v in eqn.invars], [v.aval for v in eqn.outvars] or [None]
    if eqn.primitive in (convolution_p, conv_general_dilated_p):
        return output, inputs[1]
    if eqn.primitive is to_images_p:
        return inputs[0], inputs[1]
    return (inputs[1], output) if eqn.primitive is to_kernel_p else None


_KNOWN: WeakKeyDictionary[Any, Any] = WeakKeyDictionary()
"""Jaxpr -> the same with our convolutions, None where it has none: equal programs stay the same object."""


def _replaced(jaxpr):
    """A jaxpr with our convolution in place of JAX's, itself where it has none."""
    if jaxpr not in _KNOWN:
        eqns = [_replaced_equation(eqn) for eqn in jaxpr.eqns]
        same = all(a is b for a, b in zip(eqns, jaxpr.eqns, strict=True))
        _KNOWN[jaxpr] = None if same else jaxpr.replace(eqns=eqns)
    found = _KNOWN[jaxpr]
    return jaxpr if found is None else found


def _replaced_equation(eqn):
    if eqn.primitive is conv_general_dilated_p:
        return eqn.replace(primitive=convolution_p)
    if eqn.params.get("check_vma"):  # a `jax.shard_map` that checks what varies
        return eqn
    params = {name: _replaced_parameter(value) for name, value in eqn.params.items()}
    if all(params[name] is value for name, value in eqn.params.items()):
        return eqn
    return eqn.replace(params=params)


def _replaced_parameter(value):
    if isinstance(value, core.Jaxpr):
        return _replaced(value)
    if isinstance(value, core.ClosedJaxpr):
        inner = _replaced(value.jaxpr)
        return value if inner is value.jaxpr else value.replace(jaxpr=inner)
    if isinstance(value, tuple):
        parts = [_replaced_parameter(v) for v in value]
        if all(a is b for a, b in zip(parts, value, strict=True)):
            return value
        return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
    return value


# The rules of the primitives


def _convolution(x, w, **params):
    return conv_general_dilated_p.bind(x, w, **params)


def _to_images(y, w, *, like, **params):
    return jax.linear_transpose(lambda x: _convolution(x, w, **params), like)(y)[0]


def _to_kernel(x, y, *, like, **params):
    return jax.linear_transpose(lambda w: _convolution(x, w, **params), like)(y)[0]


def _like(primal):
    return jax.ShapeDtypeStruct(primal.aval.shape, primal.aval.dtype)


ad.defbilinear(
    convolution_p,
    lambda y, x, w, **params: to_images_p.bind(y, w, like=_like(x), **params),
    lambda y, x, w, **params: to_kernel_p.bind(x, y, like=_like(w), **params),
)
ad.defbilinear(
    to_images_p,
    lambda x, y, w, like, **params: convolution_p.bind(x, w, **params),
    lambda x, y, w, like, **params: to_kernel_p.bind(x, y, like=_like(w), **params),
)
ad.defbilinear(
    to_kernel_p,
    lambda w, x, y, like, **params: to_images_p.bind(y, w, like=_like(x), **params),
    lambda w, x, y, like, **params: convolution_p.bind(x, w, **params),
)


def _batched(args, axes, **params):
    return _as_ours(jax.vmap(partial(_convolution, **params), axes))(*args), 0


def _batched_transpose(of_images, args, axes, *, like, **params):
    """The transpose of the batched convolution: its cotangent y has the batch, and so has the result."""
    (size,) = {a.shape[axis] for a, axis in zip(args, axes, strict=True) if axis is not None}
    args = [
        a if axis is None else jnp.moveaxis(a, axis, 0) for a, axis in zip(args, axes, strict=True)
    ]
    (y, other), axis = (args, axes[1]) if of_images else (args[::-1], axes[0])
    if axes[0 if of_images else 1] is None:
        y = jnp.broadcast_to(y, (size, *y.shape))
    at = None if axis is None else 0
    convolve = partial(convolution_p.bind, **params)

    def batched(own):
        if of_images:
            return jax.vmap(convolve, (0, at))(own, other)
        return jax.vmap(convolve, (at, 0))(other, own)

    like = jax.ShapeDtypeStruct((size, *like.shape), like.dtype)
    return jax.linear_transpose(batched, like)(y)[0], 0


batching.primitive_batchers[convolution_p] = _batched
batching.primitive_batchers[to_images_p] = partial(_batched_transpose, True)
batching.primitive_batchers[to_kernel_p] = partial(_batched_transpose, False)


def _as_ours(function):
    """A function of arrays, with our convolution in place of JAX's."""

    def called(*args):
        closed = jax.make_jaxpr(function)(*args)
        replaced = core.ClosedJaxpr(_replaced(closed.jaxpr), closed.consts)
        return core.jaxpr_as_fun(replaced)(*args)[0]

    return called


def _in_the_fast_layout(x, w, *, dimension_numbers, **params):
    """The convolution of examples first, features last, by a kernel (space, features in, features out).

    For small kernels, as of one feature to a group, XLA's own loop is faster, which it takes where the kernel's
    features out come before those in.
    """
    of_x, of_w, of_result = dimension_numbers
    groups = params["feature_group_count"] * params["batch_group_count"]
    few = w.size <= FEW * groups
    rank = len(of_x)
    images = 0, rank - 1, *range(1, rank - 1)
    kernels = rank - 2 + (not few), rank - 2 + few, *range(rank - 2)
    result = conv_general_dilated_p.bind(
        lax.transpose(x, _moves(of_x, images)),
        lax.transpose(w, _moves(of_w, kernels)),
        dimension_numbers=lax.ConvDimensionNumbers(images, kernels, images),
        **params,
    )
    return lax.transpose(result, _moves(images, of_result))


def _moves(old, new):
    """The permutation that takes axes which stand at `old` to `new`."""
    return [old[new.index(place)] for place in range(len(new))]


def _register(primitive, function, of_shape, for_cpu):
    primitive.def_impl(function)
    primitive.def_abstract_eval(of_shape)
    mlir.register_lowering(primitive, mlir.lower_fun(function, multiple_results=False))
    mlir.register_lowering(
        primitive, mlir.lower_fun(for_cpu, multiple_results=False), platform="cpu"
    )


def _shape_of_result(x, w, **params):
    return conv_general_dilated_p.abstract_eval(x, w, **params)[0]


def _shape_of_transpose(*_, like, **params):
    return ShapedArray(like.shape, like.dtype)


def _to_images_fast(*args, **params):
    return _as_ours(partial(_to_images, **params))(*args)


def _to_kernel_fast(x, y, *, like, **params):
    """Where zeros stand between the images' points, by the strided convolution that this one transposes."""
    plain = {*params["window_strides"]} == {params["feature_group_count"]} == {1}
    if {*params["lhs_dilation"]} == {1} or not plain or params["batch_group_count"] > 1:
        return _as_ours(partial(_to_kernel, like=like, **params))(x, y)
    of_x, of_w, of_y = params["dimension_numbers"]
    padding = []
    for i, (low, _) in enumerate(params["padding"]):
        reach = (like.shape[of_w[2 + i]] - 1) * params["rhs_dilation"][i] + 1
        covered = params["lhs_dilation"][i] * (x.shape[of_x[2 + i]] - 1) + reach
        low = reach - 1 - low
        padding.append((low, covered - y.shape[of_y[2 + i]] - low))
    strided = {
        "window_strides": params["lhs_dilation"],
        "lhs_dilation": params["window_strides"],
        "padding": tuple(padding),
        "dimension_numbers": lax.ConvDimensionNumbers(of_y, (of_w[1], of_w[0], *of_w[2:]), of_x),
    }
    return lax.rev(to_kernel_p.bind(y, x, like=like, **params | strided), of_w[2:])


_register(convolution_p, _convolution, _shape_of_result, _in_the_fast_layout)
_register(to_images_p, _to_images, _shape_of_transpose, _to_images_fast)
_register(to_kernel_p, _to_kernel, _shape_of_transpose, _to_kernel_fast)

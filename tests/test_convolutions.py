"""Convolutions that are fast in loops: they and their derivatives are JAX's, and the library puts them in place."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from jax import lax
from jax.extend.core import jaxprs_in_params
from jax.sharding import Mesh

import spen_jax as sx
from spen_jax import objectives, training
from spen_jax.convolutions import fast

ONES = (1, 1)
CASES = {
    "plain": {},
    "valid, NCHW": {"padding": "VALID", "spec": ("NCHW", "OIHW", "NCHW")},
    "odd layouts": {"spec": ("CHNW", "HOWI", "WCHN")},
    "strides": {"window_strides": (2, 3)},
    "padding": {"padding": ((3, 0), (-1, 2)), "window_strides": (2, 1)},
    "dilated kernel": {"rhs_dilation": (2, 1), "padding": ((2, 2), (1, 1))},
    "transposed": {"lhs_dilation": (2, 3), "padding": ((1, 2), (0, 3))},
    "transposed, dilated": {
        "lhs_dilation": (2, 2),
        "rhs_dilation": (1, 2),
        "padding": ((2, -1), (3, 3)),
    },
    "transposed, strides": {
        "lhs_dilation": (2, 1),
        "window_strides": (3, 2),
        "padding": ((1, 1), (1, 1)),
    },
    "groups": {"feature_group_count": 2},
    "groups, strides": {"feature_group_count": 2, "window_strides": (2, 2)},
    "depthwise": {"feature_group_count": 4},
    "batch groups": {"batch_group_count": 2},
    "large features": {"features": (4, 32)},
    "line": {"size": (9,), "kernel": (3,), "spec": ("NWC", "WIO", "NWC"), "window_strides": (2,)},
    "space": {
        "size": (4, 5, 4),
        "kernel": (2, 3, 2),
        "spec": ("NDHWC", "DHWIO", "NDHWC"),
        "window_strides": (1, 2, 1),
    },
}
QUICK = "strides", "transposed"


def problem(size=(6, 7), kernel=(3, 2), spec=("NHWC", "HWIO", "NHWC"), features=(4, 4), **options):
    """(convolution of x and w, x, w)."""
    groups = options.get("feature_group_count", 1)
    rng = np.random.default_rng(0)
    names = "DHW"[3 - len(size) :] if len(size) > 1 else "W"
    of_x = dict(zip(names, size, strict=True)) | {"N": 2, "C": features[0]}
    of_w = dict(zip(names, kernel, strict=True)) | {"I": features[0] // groups, "O": features[1]}
    x = jnp.asarray(rng.standard_normal([of_x[c] for c in spec[0]]), "float32")
    w = jnp.asarray(rng.standard_normal([of_w[c] for c in spec[1]]), "float32")
    options = {"window_strides": (1,) * len(size), "padding": "SAME"} | options

    def convolve(x, w):
        return lax.conv_general_dilated(x, w, dimension_numbers=spec, **options)

    return convolve, x, w


def everything(convolve):
    """The convolution, and derivatives up to the third order in both modes, batched in all ways."""

    def value(x, w):
        return jnp.sum(jnp.sin(convolve(x, w)))

    def of(x, w, dx, dw):
        first = jax.grad(value, (0, 1))

        def along(x, w):
            gx, gw = first(x, w)
            return jnp.sum(jnp.cos(gx) * dx) + jnp.sum(jnp.cos(gw) * dw)

        xs, ws = jnp.stack([x, dx]), jnp.stack([w, dw])
        batched = [
            jax.vmap(jax.grad(value, (0, 1)), axes)(*pair)
            for axes, pair in (((0, None), (xs, w)), ((None, 0), (x, ws)), ((0, 0), (xs, ws)))
        ]
        second = jax.grad(along, (0, 1))
        return (
            convolve(x, w),
            first(x, w),
            jax.jvp(first, (x, w), (dx, dw)),
            second(x, w),
            jax.jvp(second, (x, w), (dx, dw))[1],
            batched,
            jax.vmap(second, (0, None))(xs, w),
            jax.vmap(second, (0, 0))(xs, ws),
        )

    return of


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.long) for n in CASES]
)
def test_all_derivatives_are_those_of_jax(name):
    convolve, x, w = problem(**CASES[name])
    dx, dw = x[::-1] + 1, jnp.flip(w) - 0.5
    ours = jax.jit(everything(fast(convolve)))
    assert {"convolution", "convolution_to_images", "convolution_to_kernel"} <= primitives(
        ours, x, w, dx, dw
    )
    assert "conv_general_dilated" not in primitives(ours, x, w, dx, dw)
    for a, b in zip(
        jax.tree.leaves(ours(x, w, dx, dw)),
        jax.tree.leaves(jax.jit(everything(convolve))(x, w, dx, dw)),
        strict=True,
    ):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5 * float(jnp.abs(b).max()))


def primitives(function, *args):
    """The names of all primitives of a function, those in loops and calls included."""

    def of(jaxpr):
        inner = [of(j) for eqn in jaxpr.eqns for j in jaxprs_in_params(eqn.params)]
        return {eqn.primitive.name for eqn in jaxpr.eqns}.union(*inner)

    return of(jax.make_jaxpr(function)(*args).jaxpr)


def test_a_network_in_a_loop_is_replaced_whole_and_a_rule_of_its_own_stays():
    convolve, x, w = problem()

    @jax.custom_vjp
    def own(x, w):
        return convolve(x, w)

    own.defvjp(lambda x, w: (own(x, w), None), lambda _, g: (jnp.ones_like(x), jnp.ones_like(w)))

    def loops(x, w):
        y = lax.scan(lambda a, _: (jax.checkpoint(convolve)(a, w), None), x, length=2)[0]
        y = lax.fori_loop(0, 2, lambda _, a: jax.jit(convolve)(a, w), y)
        return lax.cond(jnp.sum(y) > 0, lambda: convolve(y, w), lambda: y)

    assert "conv_general_dilated" not in primitives(fast(loops), x, w)
    np.testing.assert_allclose(jax.jit(fast(loops))(x, w), jax.jit(loops)(x, w), rtol=1e-4)
    np.testing.assert_array_equal(jax.grad(lambda x: fast(own)(x, w).sum())(x), 1)


def test_outside_of_tracing_the_function_itself_is_called_and_nothing_is_wrapped_twice():
    seen = []
    function = fast(seen.append)
    function(np.ones(2))
    assert isinstance(seen[0], np.ndarray)
    assert fast(function) is function


class Images(nn.Module):
    """Two convolutions over (image, y) as an energy, one more as features."""

    def setup(self):
        self.own = nn.Conv(1, (3, 3))
        self.first = nn.Conv(8, (3, 3))
        self.second = nn.Conv(4, (3, 3), strides=2)

    def features(self, x, train=False):
        return self.own(x[..., None])[..., 0]

    def energy(self, context, y):
        h = nn.tanh(self.second(nn.tanh(self.first(jnp.stack([context, y], -1)))))
        return jnp.sum(h) - jnp.sum(context * y)

    def __call__(self, x, y):
        return jax.vmap(self.energy)(self.features(x), y)


@pytest.fixture(scope="module")
def images():
    module, key = Images(), jax.random.key(0)
    x, y = jax.random.uniform(key, (2, 3, 6, 6))
    params = jax.jit(module.init)(key, x, y)["params"]
    features, energy = sx.functions_of(module)
    return sx.Predictor(energy, features, steps=2), params, {"x": x, "y": jnp.round(y)}


@pytest.mark.slow
def test_inference_sampling_and_training_have_fast_convolutions(images):
    predictor, params, data = images
    context, key = predictor.features(params, data["x"]), jax.random.key(0)

    def solve(differentiate):
        return lambda params, context: sx.minimize(
            predictor.energy, params, context, data["y"], steps=2, differentiate=differentiate
        )

    def draw(params, context):
        return sx.sample(predictor.energy, params, context, data["y"][:, None], key, steps=2)

    optimizer = optax.sgd(0.1)
    state = training.init(params, optimizer, key)

    def trained(objective):
        def run(state, data):
            batches = jax.tree.map(lambda a: a[None], data)
            return training.scan(objective, optimizer, state, batches)

        return run

    def own(params, batch, key):
        return jnp.sum(predictor.features(params, batch["x"]) ** 2), {}

    objective = objectives.end_to_end(predictor)
    slope = jax.grad(objective, has_aux=True)
    for function, args in (
        (solve("stopped"), (params, context)),
        (jax.grad(lambda *a: solve("unrolled")(*a).y.sum()), (params, context)),
        (jax.grad(lambda *a: solve("implicit")(*a).y.sum()), (params, context)),
        (draw, (params, context)),
        (slope, (params, data, key)),
        (trained(objective), (state, data)),
        (trained(own), (state, data)),
    ):
        used = primitives(function, *args)
        assert "convolution" in used
        assert "conv_general_dilated" not in used


@pytest.mark.long
@pytest.mark.slow
def test_answers_and_gradients_are_those_of_a_plain_loop(images):
    predictor, params, data = images

    def plain(params):
        context = predictor.features(params, data["x"])
        y = jnp.full_like(data["y"], 0.5)
        z = jnp.zeros_like(y)
        for _ in range(2):
            slope = jax.vmap(jax.grad(predictor.energy, 2), (None, 0, 0))(params, context, y)
            z = z - 0.1 * slope * y * (1 - y)
            y = nn.sigmoid(z)
        return y

    solver = sx.OnLogits(sx.GradientDescent(0.1, momentum=0.0))
    found = sx.Predictor(
        predictor.energy,
        predictor.features,
        solver=solver,
        steps=2,
        differentiate="unrolled",
        shape=(6, 6),
    )
    ours = jax.grad(lambda p: jnp.sum(jnp.sin(found(p, data["x"]).y)))(params)
    theirs = jax.grad(lambda p: jnp.sum(jnp.sin(plain(p))))(params)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


# What functions may be


def slope_of(function):
    return jax.grad(lambda p, *more, **named: jnp.sum(fast(function)(p, *more, **named)))


def test_what_a_function_reads_from_outside_is_read_each_time():
    outside = {"scale": 1.0}

    def loss(p):
        return outside["scale"] * p

    def scaled(s):
        outside["scale"] = s  # a value that is being differentiated
        return fast(loss)(jnp.float32(3) * s)

    assert slope_of(loss)(2.0) == 1
    outside["scale"] = 5.0
    assert slope_of(loss)(2.0) == 5
    np.testing.assert_allclose([jax.grad(scaled)(s) for s in (1.0, 2.0)], [6, 12])


def test_what_is_known_stays_known_and_arguments_come_by_name_too():
    def loss(p, name, rows, *, key):
        assert name == "x"
        assert isinstance(rows, np.ndarray)
        return p * sum(range(int(rows[0]))) + jax.random.uniform(key)

    key = jax.random.key(0)
    assert slope_of(loss)(2.0, "x", np.array([4]), key=key) == 6


def test_constant_results_are_arrays():
    def loss(p):
        return jnp.sum(p), {"flag": jnp.array(True), "n": jnp.array(3)}

    (_, metrics), _ = jax.value_and_grad(fast(loss), has_aux=True)(jnp.ones(2))
    assert all(isinstance(a, jax.Array) for a in metrics.values())
    assert metrics["flag"].dtype == bool
    assert metrics["n"] == 3


def test_in_a_shard_map_that_checks_what_varies_convolutions_are_those_of_jax():
    convolve, x, w = problem()
    mesh = Mesh(np.array(jax.devices()[:1]), ("batch",))
    split, whole = jax.P("batch"), jax.P()

    def loss(w, x):
        return jnp.sum(jnp.sin(fast(convolve)(x, w)))

    def within(w, x):
        return lax.psum(jax.grad(loss)(w, x), "batch")

    def around(w, x):
        of_all = jax.shard_map(
            lambda w, x: lax.psum(loss(w, x), "batch"),
            mesh=mesh,
            in_specs=(whole, split),
            out_specs=whole,
        )
        return jax.grad(fast(of_all))(w, x)

    inside = jax.shard_map(within, mesh=mesh, in_specs=(whole, split), out_specs=whole)
    want = jax.grad(lambda w: jnp.sum(jnp.sin(convolve(x, w))))(w)
    np.testing.assert_allclose(jax.jit(around)(w, x), want, rtol=1e-5)
    np.testing.assert_allclose(jax.jit(inside)(w, x), want, rtol=1e-5)

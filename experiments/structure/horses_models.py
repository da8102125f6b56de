"""What finds horses: a U-Net, a grid on it, an energy over masks, the energy's layers without one, a value network.

B images of H x W; x (B, H, W, 3), y (B, H, W), z and s its logits.
"""

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

import spen_jax as sx
from experiments.structure.horses_training import loss
from experiments.structure.sequences import from_network
from spen_jax.energies import ImageSPEN, Patches, softplus
from spen_jax.exact import Grid, MinCut, potts
from spen_jax.networks import UNet, mean_pool

STEPS = 10
LAST_HALF = (0.0,) * 6 + (0.2,) * 5
WIDTHS, SIZES, SCALES = (16, 32, 32), (5, 5, 3), (1, 4, 4)
NETWORK = UNet((16, 32, 64, 64))
SPEN = ImageSPEN(NETWORK, (Patches(WIDTHS, SIZES, SCALES),))
NEIGHBOURS = ((1, 0), (0, 1), (1, 1), (1, -1))


class Layers(nn.Module):
    """f(y), (B, H, W) -> (B, H, W): the energy's convolutions, and as many back, as its gradient has."""

    @nn.compact
    def __call__(self, y):
        """Logits to add."""
        h, before = y[..., None], 1
        for width, size, scale in zip(WIDTHS, SIZES, SCALES, strict=True):
            h = mean_pool(h, scale // before) if scale > before else h
            h, before = softplus(nn.Conv(width, (size, size))(h)), scale
        h = softplus(nn.Conv(WIDTHS[2], (SIZES[2],) * 2)(h))
        h = softplus(nn.Conv(WIDTHS[0], (SIZES[1],) * 2)(h))
        h = jnp.repeat(jnp.repeat(h, before, 1), before, 2)
        small = nn.initializers.normal(0.1 / (WIDTHS[0] * SIZES[0] ** 2) ** 0.5)
        return nn.Conv(1, (SIZES[0],) * 2, kernel_init=small)(h)[..., 0]


class Step(nn.Module):
    """z <- z + a (s + f(sigmoid(z)) - z)."""

    size: float

    @nn.compact
    def __call__(self, z, s):
        """The next z, twice."""
        z = z + self.size * (s + Layers()(jax.nn.sigmoid(z)) - z)
        return z, z


class Iterated(nn.Module):
    """From z = s of the U-Net so many steps, with the same layers each time or with layers of their own."""

    steps: int = STEPS
    size: float = 0.5
    tied: bool = True

    def setup(self):
        """The network and the layers."""
        self.network = UNet(NETWORK.widths)
        to_all: Any = nn.broadcast
        scanned = nn.scan(
            Step,
            variable_broadcast="params" if self.tied else False,
            variable_axes={} if self.tied else {"params": 0},
            split_rngs={"params": not self.tied},
            in_axes=to_all,
            length=self.steps,
        )
        self.step = scanned(self.size)

    def path(self, x):
        """All z, (steps + 1, B, H, W)."""
        s = self.network(x)
        return jnp.concatenate([s[None], self.step(s, s)[1]])

    def __call__(self, x, train=False):
        """The last z, (B, H, W)."""
        return self.path(x)[-1]


class Value(nn.Module):
    """E(x, y) = -logit of how good y is, by convolutions over image and mask together and two dense layers.

    After Gygli et al. (2017), at about a quarter of their widths; what of the first layer depends on x alone is done
    once for all y.
    """

    def setup(self):
        """Its layers."""
        self.of_x, self.of_y = nn.Conv(16, (5, 5)), nn.Conv(16, (5, 5), use_bias=False)
        self.convolutions = nn.Conv(32, (5, 5)), nn.Conv(64, (3, 3))
        self.dense, self.last = nn.Dense(128), nn.Dense(1)

    def features(self, x, train=False):
        """The context, (B, H, W, 16)."""
        return self.of_x(x)

    def energy(self, context, y):
        """Of one mask (H, W)."""
        h = softplus(context + self.of_y(y[None, ..., None])[0])
        for convolution in self.convolutions:
            h = softplus(convolution(mean_pool(h, 2)[None])[0])
        return -self.last(softplus(self.dense(h.reshape(-1))))[0]

    def __call__(self, x, y):
        """Energies (B,)."""
        context = self.features(x)
        return jnp.stack([self.energy(c, m) for c, m in zip(context, y, strict=True)])


class Contestant(NamedTuple):
    """A model, what trains it, and the masks that it answers."""

    title: str
    init: Callable[[jax.Array, Any, Any], Any]  # (key, x, y) -> parameters
    objective: Any
    answer: Callable[..., Any]  # (params, x) -> (B, H, W), from 0 to 1
    on_network: bool = True
    rate: float = 5e-3
    rates: tuple[tuple[str, float], ...] = (("network", 0.1),)
    choose: Any = (
        None  # (network's parameters, images to choose) -> parameters, where nothing is trained
    )


def init_of(module: Any, with_y: bool = False) -> Callable[[jax.Array, Any, Any], Any]:
    """(key, x, y) -> the parameters of a Flax module, compiled."""
    of_both = jax.jit(lambda key, x, y: module.init(key, x, *(y,) * with_y)["params"])
    return lambda key, x, y: of_both(key, x[:1], y[:1])


def of_network(title: str, module: Any, **options: Any) -> Contestant:
    """A U-Net alone."""
    logits = sx.logits_of(module)
    answer = jax.jit(lambda params, x: jax.nn.sigmoid(logits(params["network"], x)))
    trained = sx.objectives.feed_forward(lambda p, x: logits(p["network"], x), loss=loss)
    init = init_of(module)
    return Contestant(title, lambda *a: {"network": init(*a)}, trained, answer, **options)


def iterated(title: str, module: Any) -> Contestant:
    """A network whose iterates of the last half are all judged, as the SPEN's are."""
    weights = LAST_HALF if module.steps == STEPS else (0.0,) * module.steps + (1.0,)

    def path(params, x):
        return jax.nn.sigmoid(module.apply({"params": params}, x, method="path"))

    def objective(params, batch, key):
        judge = jax.vmap(jax.vmap(loss), (0, None))
        each = jnp.mean(judge(path(params, batch["x"]), batch["y"]), 1)
        value = jnp.asarray(weights) @ each
        return value, {"loss": value, "last": each[-1]}

    answer = jax.jit(lambda params, x: path(params, x)[-1])
    return Contestant(title, init_of(module), objective, answer)


def spen(title: str, module: Any) -> Contestant:
    """An energy, through the unrolled steps of inference."""
    predictor = from_network(module, STEPS, domain=sx.Box())
    objective = sx.objectives.end_to_end(predictor, loss=loss, weights=LAST_HALF)
    answer = jax.jit(lambda params, x: predictor(params, x).y)
    return Contestant(title, init_of(module, True), objective, answer)


def value_network(title: str) -> Contestant:
    """A deep value network, whose answer is searched for from the middle."""
    features, energy = sx.functions_of(Value())
    solver = sx.GradientDescent(0.3, momentum=0.9)
    predictor = sx.Predictor(energy, features, shape=(32, 32), solver=solver, steps=20)
    error = sx.losses.soft_iou_error
    objective = sx.objectives.deep_value(predictor, oracle_error=error)
    answer = jax.jit(lambda params, x: predictor(params, x).y)
    return Contestant(title, init_of(Value(), True), objective, answer, False, 1e-3, ())


def contrasts(x: jax.Array) -> list[jax.Array]:
    """Of each kind of neighbours exp(-d / mean of d), d their squared difference in colour, (B, H', W') each."""
    found = []
    for down, right in NEIGHBOURS:
        height, width = x.shape[1] - down, x.shape[2] - abs(right)
        left = max(-right, 0)
        first = x[:, :height, left : left + width]
        second = x[:, down:, left + right : left + right + width]
        d = jnp.sum((first - second) ** 2, -1)
        found.append(jnp.exp(-d / jnp.mean(d, (1, 2), keepdims=True)))
    return found


def grid_of(params: Any, context: Any) -> Grid:
    """Of one image: the network's logits, and neighbours that like to be alike, more so where colours are."""
    p, s = params["grid"], context["logits"]
    tables = [potts(p["alike"] + p["contrast"] * c, 2) for c in context["contrasts"]]
    return Grid(jnp.stack([s, -s], -1) / 2, *tables, method=MinCut())


def crf(title: str) -> Contestant:
    """A grid on the trained network, answered by minimum cuts, its two weights those that are best on images to choose.

    (Bethe's likelihood on the network's logits, tried on one seed, weighs these down to an eighth, which costs 7
    points.)
    """
    logits = sx.logits_of(NETWORK)

    @jax.jit
    def features(params, x):
        return {"logits": logits(params["network"], x), "contrasts": contrasts(x)}

    def answer(params, x):
        context = features(params, x)
        each = (jax.tree.map(lambda a, i=i: a[i], context) for i in range(len(x)))
        return jnp.stack([grid_of(params, c).best().y for c in each]).astype(float)

    def choose(network, data):
        pairs = itertools.product((0.0, 0.25, 0.5, 1.0), (0.0, 0.5, 1.0, 2.0, 4.0))
        tried = [{"network": network, "grid": {"alike": a, "contrast": c}} for a, c in pairs]
        return max(tried, key=lambda p: sx.metrics.mean_iou(answer(p, data["x"]), data["y"]))

    return Contestant(title, features, None, answer, choose=choose)


CONTESTANTS = {
    "unet": of_network("U-Net", NETWORK, on_network=False, rate=2e-3, rates=()),
    "more": of_network("U-Net, trained on as those below", NETWORK),
    "crf": crf("grid with contrasts on the U-Net, minimum cut"),
    "once": iterated("the energy's layers once", Iterated(1, 1.0)),
    "tied": iterated("the same, iterated, no energy", Iterated()),
    "untied": iterated("iterated, each step with its own", Iterated(tied=False)),
    "spen": spen("SPEN", SPEN),
    "dvn": value_network("deep value network"),
}

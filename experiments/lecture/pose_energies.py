"""E(x, y, z) = 1/2 ||G(x) - T_z U_ym||^2 at all places, angles and scales of a grid, as one matrix product.

z = (template m, pose). G is the image itself beside what two convolutions with a pointwise nonlinearity between make of
it, 0 where an image is empty. Convolutions commute with shifts. Filters that are the same in all directions make G
commute with turns as well, up to the pixels' own; with scaling only nearly, since filters keep their size. For every
angle and scale T U is a linear map of U and does not depend on x; all places come by the inner product of T U with
windows of G(x): E = 1/2 ||G(x)||^2 + 1/2 ||T U||^2 - <G(x), T U>.
"""

from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from sklearn.cluster import KMeans

from experiments.lecture.pose_images import CANVAS, NARROW, TOLERANCE, WIDE, rendered
from spen_jax import LineSearch, exact, inference, losses
from spen_jax.energies import Posed, moved

REFERENCE, KERNEL, WIDTH = (
    12,
    5,
    8,
)  # pixels of a side of U, and of a filter; filters of the first layer
CHANNELS = {"radial": 2, "free": 2, "pixels": 1}  # of G(x); "pixels" is the image alone
MAPS = 8  # channels of all templates of a class, the same for all kinds of G
EDGE = 4  # pixels about the features where `POSED` looks for an object, which may stick out
BETAS = (1.0, float("inf"))
WEIGHT, BLOCK = 0.03, 20  # of the energy itself in the loss; images at once
RINGS = (
    3  # numbers of a radially symmetric filter: its weights at 0, 1 and 2 pixels from the middle
)


class Grid(NamedTuple):
    """Nodes of z: angles and log scales, spread evenly, and places up to `reach` pixels in steps; T U's side."""

    angles: tuple[float, ...]
    log_scales: tuple[float, ...]
    reach: int
    step: int
    window: int

    @property
    def shifts(self) -> list[int]:
        """Pixels down, or right."""
        return list(range(-self.reach, self.reach + 1, self.step))

    def turns(self) -> np.ndarray:
        """(angle, log scale) of all pairs, (P, 2)."""
        pairs = np.meshgrid(self.angles, self.log_scales, indexing="ij")
        return np.stack([a.ravel() for a in pairs], axis=-1)

    def poses(self) -> np.ndarray:
        """All nodes in the order of `energies`, (P S, 4)."""
        turns = self.turns()
        places = np.stack(np.meshgrid(self.shifts, self.shifts, indexing="ij"), -1).reshape(-1, 2)
        many = np.repeat(turns, len(places), axis=0)
        return np.column_stack([np.tile(places, (len(turns), 1)), many]).astype(np.float32)


def spread(limits: np.ndarray, angles: int, scales: int, step: int, window: int) -> Grid:
    """A grid over limits like WIDE."""
    low, high = limits.T
    of_angle = np.linspace(low[2], high[2], angles)
    of_scale = np.linspace(low[3], high[3], scales)
    return Grid(tuple(of_angle.tolist()), tuple(of_scale.tolist()), int(limits[0, 1]), step, window)


LEARN = spread(NARROW, 3, 3, 1, 16)
LOOK = spread(WIDE, 13, 7, 1, 22)


@lru_cache
def turned(grid: Grid) -> np.ndarray:
    """The linear maps T of all pairs of angle and scale, (P, window^2, REFERENCE^2)."""
    unit = jnp.eye(REFERENCE**2).reshape(REFERENCE, REFERENCE, -1)
    z = jnp.pad(jnp.asarray(grid.turns(), jnp.float32), [(0, 0), (2, 0)])
    of = jax.jit(jax.vmap(lambda z: moved(unit, z, (grid.window, grid.window))))
    return np.asarray(of(z)).reshape(len(z), grid.window**2, -1)


def rings() -> np.ndarray:
    """A bump at 0, 1 and 2 pixels from the middle of a filter, zero outside a disc, (RINGS, KERNEL, KERNEL)."""
    places = np.arange(KERNEL) - KERNEL // 2
    radius = np.hypot(places[:, None], places[None])
    bumps = np.exp(-((radius - np.arange(RINGS)[:, None, None]) ** 2) / (2 * 0.6**2))
    bumps = bumps * (radius < KERNEL / 2)
    return (bumps / np.linalg.norm(bumps, axis=(1, 2), keepdims=True)).astype(np.float32)


def filters(kind: str, weights: jax.Array) -> jax.Array:
    """(KERNEL, KERNEL, in, out) of the weights, (RINGS, in, out) where they are radially symmetric."""
    return jnp.einsum("rij,rab->ijab", rings(), weights) if kind == "radial" else weights


def features(params: Any, kind: str, x: jax.Array) -> jax.Array:
    """G(x) of images (N, h, h), (N, h, h, CHANNELS); 0 where an image is empty."""
    if kind == "pixels":
        return params["scale"] * x[..., None]
    convolve = partial(
        lax.conv_general_dilated,
        window_strides=(1, 1),
        padding="SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    bias = params["bias"][None, None, None]
    h = convolve(x[..., None], filters(kind, params["first"])) + bias
    h = jax.nn.softplus(4 * h) / 4 - jax.nn.softplus(4 * bias) / 4
    h = convolve(h, filters(kind, params["second"]))
    return jnp.concatenate([params["scale"] * x[..., None], h], axis=-1)


def first_network(kind: str, key: jax.Array) -> dict[str, jax.Array]:
    """Parameters of G before training."""
    scale = {"scale": jnp.ones(())}
    if kind == "pixels":
        return scale
    space = (RINGS,) if kind == "radial" else (KERNEL, KERNEL)
    keys = jax.random.split(key)
    of = jax.nn.initializers.he_normal(in_axis=-2, out_axis=-1)
    first = of(keys[0], (*space, 1, WIDTH))
    second = of(keys[1], (*space, WIDTH, CHANNELS[kind] - 1)) / 10
    return scale | {"first": first, "bias": jnp.zeros(WIDTH), "second": second}


def first_parameters(kind: str, x: np.ndarray, label: np.ndarray, seed: int) -> dict[str, Any]:
    """G, and references that are means of G over clusters of the digits (N, 8, 8) of a class, as they are."""
    network = first_network(kind, jax.random.key(seed))
    g = np.asarray(features(network, kind, rendered(jnp.asarray(x), jnp.zeros((len(x), 4)))))
    edge = (CANVAS - REFERENCE) // 2
    g = g[:, edge:-edge, edge:-edge]
    count, references = MAPS // CHANNELS[kind], []
    for digit in range(10):
        rows = np.flatnonzero(label == digit)
        clusters: Any = {"n_clusters": count, "n_init": 4, "random_state": seed}
        cluster = KMeans(**clusters).fit_predict(x[rows].reshape(len(rows), -1))
        references.append([g[rows[cluster == m]].mean(axis=0) for m in range(count)])
    return {"network": network, "references": jnp.asarray(np.array(references))}


def windows(g: jax.Array, grid: Grid) -> jax.Array:
    """What of G(x) lies under T U at all places, (N, S, window^2, C)."""
    first = (g.shape[1] - grid.window) // 2  # where the window in the middle starts
    edge = max(grid.reach - first, 0)
    g = jnp.pad(g, [(0, 0), (edge, edge), (edge, edge), (0, 0)])
    starts = [edge + first + s for s in grid.shifts]
    each = [g[:, d:, r:][:, : grid.window, : grid.window] for d in starts for r in starts]
    return jnp.stack(each, axis=1).reshape(len(g), len(each), -1, g.shape[-1])


def energies(params: Any, g: jax.Array, grid: Grid, maps: jax.Array) -> jax.Array:
    """E of all classes, templates and nodes, (N, 10, M, P S), of features G(x), (N, h, h, C); maps of `turned`."""
    u = params["references"].reshape(10, -1, REFERENCE**2, g.shape[-1])
    each = jnp.einsum("pkr,ymrc->ympkc", maps, u)
    inner = jnp.einsum("nskc,ympkc->nymps", windows(g, grid), each)
    of_x = jnp.sum(g**2, axis=(1, 2, 3))[:, None, None, None, None]
    of_u = jnp.sum(each**2, axis=(3, 4))[None, ..., None]
    return (of_x / 2 + of_u / 2 - inner).reshape(*inner.shape[:3], -1)


def free_energies(each: jax.Array, beta: Any, weights: jax.Array | None = None) -> jax.Array:
    """F_beta(x, y), (N, 10), of energies (N, 10, M, K); over nodes with their weights (N, 1, K), all alike if None."""
    if weights is not None:
        weights = jnp.broadcast_to(weights[:, None], each.shape).reshape(*each.shape[:2], -1)
    return exact.softmin(each.reshape(*each.shape[:2], -1), beta, weights=weights, average=False)


def near(pose: jax.Array, grid: Grid) -> jax.Array:
    """Which node is next to poses (N, 4), one of them each, (N, K)."""
    difference = (pose[:, None] - grid.poses()[None]) / jnp.asarray(TOLERANCE)[None, None]
    return jax.nn.one_hot(jnp.argmin(jnp.sum(difference**2, axis=-1), axis=-1), len(grid.poses()))


def loss(each: jax.Array, label: jax.Array, nodes: jax.Array | None) -> jax.Array:
    """-log P(y | x) + WEIGHT F(x, y), (N,), up to a constant; where `nodes` tell z, (N, K), -log P(y, z | x) + ...

    The likelihood leaves all energies of an x free to rise together; the second term holds that of the right y low.
    """
    free = free_energies(each, 1.0)
    right = free if nodes is None else free_energies(each, 1.0, nodes[:, None])
    right, of_y = (jnp.take_along_axis(f, label[:, None], 1)[:, 0] for f in (right, free))
    return losses.nll(right, free) + WEIGHT * of_y


class Looked(NamedTuple):
    """Of N images free energies of classes (B, N, 10) at `BETAS`, least energies' templates (N, 10) and poses.

    Poses are (N, 10, 4) at the least energy of every class; the mean (B, N, 4) under the posterior of the answer.
    """

    free: Any
    template: Any
    pose: Any
    mean: Any


@partial(jax.jit, static_argnames="kind")
def _looked(params, kind, x, maps, poses):
    each = energies(params, features(params["network"], kind, x), LOOK, maps)
    free = jnp.stack([free_energies(each, beta) for beta in BETAS])
    template, node = jnp.divmod(
        jnp.argmin(each.reshape(*each.shape[:2], -1), axis=-1), each.shape[-1]
    )
    means = []
    for beta, answer in zip(BETAS, jnp.argmin(free, axis=-1), strict=True):
        mine = each[jnp.arange(len(x)), answer]
        p = exact.softargmin(mine.reshape(len(x), -1), beta).reshape(mine.shape)
        means.append(p.sum(axis=1) @ poses)
    return Looked(free, template, poses[node], jnp.stack(means))


def look(params: Any, kind: str, x: jax.Array) -> Looked:
    """What all nodes of LOOK say of images (N, CANVAS, CANVAS), in blocks."""
    maps, poses = jnp.asarray(turned(LOOK)), jnp.asarray(LOOK.poses())
    starts = range(0, len(x), BLOCK)
    blocks = [_looked(params, kind, x[i : i + BLOCK], maps, poses) for i in starts]
    axes = Looked(1, 0, 0, 1)
    return Looked(
        *(np.concatenate(p, axis=a) for p, a in zip(zip(*blocks, strict=True), axes, strict=True))
    )


def given(params: Any, x: jax.Array) -> jax.Array:
    """Features that were computed before."""
    return x


def placed(reference: jax.Array, z: jax.Array) -> jax.Array:
    """T_z U on the canvas and EDGE pixels about it."""
    return moved(reference, z, (CANVAS + 2 * EDGE, CANVAS + 2 * EDGE))


POSED = Posed(given, placed)


def surrounded(g: jax.Array) -> jax.Array:
    """Features with EDGE zeros about them, as `POSED` takes them."""
    return jnp.pad(g, [(0, 0), (EDGE, EDGE), (EDGE, EDGE), (0, 0)])


def refined(params: Any, kind: str, x: jax.Array, y: np.ndarray, start: np.ndarray) -> np.ndarray:
    """Poses (N, 4) of least energy near a start (N, 4), of templates y (N,), counted through all classes."""
    g = surrounded(features(params["network"], kind, x))
    references = params["references"]
    flat = {"g": None, "references": references.reshape(-1, *references.shape[2:])}
    found = inference.infer(
        POSED, flat, g, jnp.asarray(y), jnp.asarray(start)[:, None], solver=LineSearch(), steps=12
    )
    return np.asarray(found.y)

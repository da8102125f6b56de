"""Snakes after Nowozin et al. (2011): ten pixels of a walk, each coloured by where it goes on, to be numbered.

N grids of H x W pixels; colours 0 up, 1 down, 2 left, 3 right, 4 background; labels 0 background, 1 to 10 the places.
A walk takes a free neighbour at random until it has LENGTH pixels and knows where it would go on; one that is stuck, or
does not fit, starts again. Each lies somewhere on the grid. `box` is the smallest rectangle that holds it and a pixel
all around, of which about a quarter is snake: background elsewhere is no news.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

HEIGHT, WIDTH, LENGTH = 10, 12, 10
COLOURS, LABELS, BACKGROUND = 5, LENGTH + 1, 4
MOVES = np.array([(-1, 0), (1, 0), (0, -1), (0, 1)])


class Snakes(NamedTuple):
    """N grids."""

    x: np.ndarray  # colours, one-hot, (N, H, W, 5)
    y: np.ndarray  # labels, one-hot, (N, H, W, 11)
    box: np.ndarray  # booleans (N, H, W)

    @property
    def labels(self) -> np.ndarray:
        """(N, H, W)."""
        return self.y.argmax(-1)


def walk(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Pixels (LENGTH, 2), no two alike, and the move from each of them (LENGTH,); the last one leads off the snake."""
    pixels, moves = [(0, 0)], []
    while len(pixels) <= LENGTH:
        steps = [tuple(np.add(pixels[-1], move)) for move in MOVES]
        free = [i for i, step in enumerate(steps) if step not in pixels]
        if not free:
            return walk(rng)
        moves.append(int(rng.choice(free)))
        pixels.append(steps[moves[-1]])
    snake = np.array(pixels[:LENGTH])
    return snake - snake.min(0), np.array(moves)


def room_of(pixels: np.ndarray) -> np.ndarray:
    """By how much the grid is higher, and wider, than the snake with a pixel all around."""
    return np.array([HEIGHT, WIDTH]) - (pixels.max(0) + 3)


def generate(rng: np.random.Generator, n: int) -> Snakes:
    """n grids with a snake each."""
    colours = np.full((n, HEIGHT, WIDTH), BACKGROUND)
    labels = np.zeros((n, HEIGHT, WIDTH), int)
    box = np.zeros((n, HEIGHT, WIDTH), bool)
    for i in range(n):
        pixels, moves = walk(rng)
        while np.any((room := room_of(pixels)) < 0):
            pixels, moves = walk(rng)
        size = np.array([HEIGHT, WIDTH]) - room
        top, left = rng.integers(0, room + 1)
        rows, columns = (pixels + (top + 1, left + 1)).T
        colours[i, rows, columns], labels[i, rows, columns] = moves, np.arange(1, LENGTH + 1)
        box[i, top : top + size[0], left : left + size[1]] = True
    x, y = (np.eye(k, dtype=np.float32)[a] for k, a in ((COLOURS, colours), (LABELS, labels)))
    return Snakes(x, y, box)


def windows(x: Any) -> jax.Array:
    """The colours of 3 x 3 pixels around each, background beyond the edge, (B, H, W, 5) -> (B, H, W, 45)."""
    height, width = x.shape[1:3]
    beyond = jnp.pad(x, [(0, 0), (1, 1), (1, 1), (0, 0)])
    outside = 1 - jnp.sum(beyond, -1, keepdims=True)
    wide = beyond + outside * jax.nn.one_hot(BACKGROUND, COLOURS)[None, None, None]
    shifts = [wide[:, i : i + height, j : j + width] for i in range(3) for j in range(3)]
    return jnp.concatenate(shifts, -1)


class Right(NamedTuple):
    """Per cent of what is right."""

    pixels: float
    """Of the boxes."""

    snake: float
    """Pixels of snakes."""

    grids: float
    """Whole ones."""


def judged(found: np.ndarray, data: Snakes) -> Right:
    """Of labels (N, H, W)."""
    right = np.asarray(found) == data.labels
    shares = right[data.box].mean(), right[data.labels > 0].mean(), right.all((1, 2)).mean()
    return Right(*(100 * float(share) for share in shares))

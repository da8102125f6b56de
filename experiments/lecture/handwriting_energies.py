"""The energies of handwriting.py: of segments of a strip, of a word, of all answers and of all wrong ones."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import spen_jax as sx
from experiments.lecture.handwriting_strips import HEIGHT, LETTERS, LONGEST, resampling
from spen_jax.exact import Segments

COLUMNS, HIDDEN = 10, 64  # of a window after resampling; units of both hidden layers
REST = sx.FeatureNetwork(LETTERS, (HIDDEN,))
LENGTHS = range(1, LONGEST + 1)
RESAMPLE = np.zeros((LONGEST, LONGEST + 2, COLUMNS), np.float32)
for _l in LENGTHS:  # a segment with a column on either side
    RESAMPLE[_l - 1, : _l + 2] = resampling(_l + 2, COLUMNS)


def first_params(key: jax.Array) -> Any:
    """Random weights."""
    first, rest = jax.random.split(key)
    scale = (HEIGHT * COLUMNS / 4) ** -0.5  # about a quarter of the pixels are ink
    return {
        "window": scale * jax.random.normal(first, (HEIGHT, COLUMNS, HIDDEN)),
        "length": jnp.zeros((LONGEST, HIDDEN)),
        "rest": REST.init(rest, jnp.ones(HIDDEN))["params"],
    }


def table(params: Any, image: Any, begin: Any = None) -> jax.Array:
    """Energies of the segments of strips (B, 16, T) by start, length - 1 and letter, (B, T, L, 26).

    Of those that `begin` at some columns, (B, n), where they are given: (B, n, L, 26). A network of two hidden layers
    of the segment and a column on either side, resampled to 10 columns, and of the length. The first layer is one
    matrix product for all segments: of the columns from one before a start to the last that may count, by the
    weights resampled for each length.
    """
    size, _, steps = image.shape
    wide = jnp.pad(image, [(0, 0), (0, 0), (1, LONGEST)])
    columns = jnp.stack([wide[:, :, c : c + steps] for c in range(LONGEST + 2)], -1)
    columns = jnp.swapaxes(columns, 1, 2).reshape(size, steps, HEIGHT * (LONGEST + 2))
    if begin is not None:
        columns = jnp.take_along_axis(columns, jnp.minimum(begin, steps - 1)[..., None], 1)
    weights = jnp.einsum("lwc,rch->rwlh", RESAMPLE, params["window"])
    sums = columns @ weights.reshape(HEIGHT * (LONGEST + 2), LONGEST * HIDDEN)
    hidden = jax.nn.relu(
        sums.reshape(*sums.shape[:-1], LONGEST, HIDDEN) + params["length"][None, None]
    )
    return sx.logits_of(REST)(params["rest"], hidden)


def every(energies: Any, width: Any) -> Segments:
    """All cuts and all letters."""
    return Segments(energies, lengths=width)


def of_word(energies: jax.Array, width: jax.Array, word: jax.Array) -> Segments:
    """All cuts of one word, (..., n): the labels are its letters' places, each followed by the next."""
    n = word.shape[-1]
    own = jnp.einsum("...tlk,...nk->...tln", energies, jax.nn.one_hot(word, LETTERS))
    places = jnp.arange(n)
    place, last = jnp.broadcast_to(places, word.shape), jnp.sum(word >= 0, -1, keepdims=True) - 1
    return Segments(
        own,
        jnp.where(places[:, None] + 1 == places[None], 0.0, jnp.inf),
        start=jnp.where(places == 0, 0.0, jnp.inf),
        end=jnp.where(place == last, 0.0, jnp.inf),
        lengths=width,
    )


def of_others(energies: jax.Array, width: jax.Array, word: jax.Array) -> Segments:
    """All cuts of all strings of letters but one word, (..., n), each once.

    Labels are places of the word while a string is still as it, and letters from where it is not.
    """
    n, batch = word.shape[-1], word.shape[:-1]
    one_hot = jax.nn.one_hot(
        word, LETTERS
    )  # beyond the last letter of zeros: whatever stands there is another word
    own = jnp.einsum("...tlk,...nk->...tln", energies, one_hot)
    place, count = (
        jnp.broadcast_to(jnp.arange(n), word.shape),
        jnp.sum(word >= 0, -1, keepdims=True),
    )
    follows = (place[..., :, None] + 1 == place[..., None, :]) & (place < count)[..., None, :]
    same = jnp.where(follows, 0.0, jnp.inf)
    differs = jnp.where(one_hot > 0, jnp.inf, 0.0)  # of a letter that stands at a place of the word
    leaves = jnp.concatenate([differs[..., 1:, :], jnp.zeros((*batch, 1, LETTERS))], -2)
    never, free = jnp.full((*batch, LETTERS, n), jnp.inf), jnp.zeros((*batch, LETTERS, LETTERS))
    as_it_is, another = jnp.concatenate([same, leaves], -1), jnp.concatenate([never, free], -1)
    first = jnp.where(place == 0, 0.0, jnp.inf)
    last = jnp.where(place == count - 1, jnp.inf, 0.0)
    return Segments(
        jnp.concatenate([own, energies], -1),
        jnp.concatenate([as_it_is, another], -2),
        start=jnp.concatenate([first, differs[..., 0, :]], -1),
        end=jnp.concatenate([last, jnp.zeros((*batch, LETTERS))], -1),
        lengths=width,
    )


def of_lexicon(energies: jax.Array, width: jax.Array, lexicon: jax.Array, beta: Any) -> jax.Array:
    """The free energy of each word of the lexicon (V, n), at infinity the least energy, (B, V)."""

    def of_strip(given):
        energies, width = given
        return jax.vmap(lambda word: of_word(energies, width, word).free_energy(beta))(lexicon)

    return jax.lax.map(of_strip, (energies, width), batch_size=8)


def between(params: Any, image: Any, cuts: Any) -> jax.Array:
    """Energies of the segments between given cuts (B, n + 1), of all letters, (B, n, 26); any where one is empty."""
    length = jnp.clip(jnp.diff(cuts), 1, LONGEST) - 1
    energies = table(params, image, cuts[:, :-1])
    return jnp.take_along_axis(energies, length[..., None, None], 2)[:, :, 0]

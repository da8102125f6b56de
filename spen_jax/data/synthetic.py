"""Synthetic multi-label data whose labels depend on each other in a known way.

NumPy only.
"""

import hashlib
from numbers import Real

import numpy as np

from spen_jax.data.splits import Dataset, Split, whole


def exclusive_blocks(seed: int, n_train: int, n_test: int = 10_000, noise: float = 0.0) -> Dataset:
    """x ~ N(0, 1)^64, z = x A with A (64, 16) ~ N(0, 1); y_j = 1 where z_j is the largest of its block.

    `n_train` and `n_test` rows, x (N, 64) and y (N, 16), float32. The 16 labels stand in 4 blocks of 4, of each of
    which exactly one is on: a linear classifier of each label alone cannot say so, the energy can. `seed` draws A, then
    x; the test rows of a seed do not depend on n_train. Each training label is flipped with probability `noise`,
    independently, which leaves the structure in the mean of y only; test labels never. ValueError for a noise outside
    [0, 1/2), and for a seed or a size that is no whole number of 0 or more. Source: Belanger & McCallum (2016).
    """
    if not (isinstance(noise, Real) and 0 <= noise < 0.5):
        raise ValueError(f"noise must be a probability from 0 to below 1/2, got {noise!r}")
    seed, n_train, n_test = whole("seed", seed), whole("n_train", n_train), whole("n_test", n_test)
    rng = np.random.default_rng(seed)
    weights = rng.standard_normal((64, 16))

    def draw(n: int) -> Split:
        x = rng.standard_normal((n, 64)).astype(np.float32)
        z = (x @ weights).reshape(n, 4, 4)
        y = (z == z.max(axis=2, keepdims=True)).reshape(n, 16)
        return Split(x, y.astype(np.float32))

    test, train = draw(n_test), draw(n_train)
    if noise:
        flipped = rng.random(train.y.shape) < noise
        train = Split(train.x, np.where(flipped, 1 - train.y, train.y))
    features = tuple(f"x_{i}" for i in range(64))
    labels = tuple(f"block_{j // 4}_label_{j % 4}" for j in range(16))
    return _dataset("exclusive blocks", train, test, features, labels)


def tagging_corpus(seed: int = 0, n_train: int = 4880, n_test: int = 2515) -> Dataset:
    """Draw a tagging corpus of BibTeX's shape: x (N, 1836) words, y (N, 159) tags, 2.4 an example.

    N is `n_train` of its train split, `n_test` of its test split; by default those of BibTeX. An example is about one
    of twenty topics, at times also about the next one. Of topic k's tags

    - at most one of three is on: tags 3k, 3k + 1, 3k + 2 (tags 0 to 59);
    - two go together: tag 60 + 2k, and 61 + 2k in 80 % of its examples only (tags 60 to 99);
    - two or three are free: tags 100 + k, 120 + k, 140 + k (tags 100 to 158).

    Topics and tags make words of their own likelier, over a background of Zipf's frequencies.
    Those of a topic tell more than those of a tag, so that which tags it gets is half a guess. ValueError for a seed
    or a size that is no whole number of 0 or more.
    """
    seed, n_train, n_test = whole("seed", seed), whole("n_train", n_train), whole("n_test", n_test)
    rng = np.random.default_rng(seed)
    n, words, tags, topics = n_train + n_test, 1836, 159, 20
    topic_of = np.concatenate(
        [np.repeat(np.arange(topics), 3), np.repeat(np.arange(topics), 2), np.arange(59) % topics]
    )
    # These rates give BibTeX's 69 words and 2.4 tags, and a linear classifier an F1 near 45 %.
    popularity = rng.uniform(0.1, 0.5, tags)
    background = np.minimum(0.95, 8.2 / rng.permutation(np.arange(4, words + 4)))
    topic_words = 0.15 * (rng.random((topics, words)) < 0.04)
    tag_words = 0.16 * (rng.random((tags, words)) < 0.01)

    main = (topics * rng.random(n) ** 1.5).astype(int)
    about = np.zeros((n, topics), bool)
    about[np.arange(n), main] = True
    about[np.arange(n), (main + 1) % topics] |= rng.random(n) < 0.2

    y = about[:, topic_of] & (rng.random((n, tags)) < popularity)
    edges = np.zeros((topics, 4))
    edges[:, 1:] = 0.5 * popularity[:60].reshape(topics, 3).cumsum(1)
    draw = rng.random((n, topics, 1))
    one_of_three = about[..., None] & (edges[:, :-1] <= draw) & (draw < edges[:, 1:])
    y[:, :60] = one_of_three.reshape(n, 60)  # from (n, topics, 3)
    y[:, 61:100:2] = y[:, 60:100:2] & (rng.random((n, topics)) < 0.8)
    untagged = np.flatnonzero(~y.any(1))
    y[untagged, 3 * main[untagged] + rng.integers(0, 3, len(untagged))] = True

    likelihood = _exact(background) + about @ _exact(topic_words) + y @ _exact(tag_words)
    length = rng.uniform(0.2, 1.8, (n, 1)).astype(np.float32)
    x = (rng.random((n, words), np.float32) < likelihood * length).astype(np.float32)
    y = y.astype(np.float32)
    train, test = Split(x[:n_train], y[:n_train]), Split(x[n_train:], y[n_train:])
    word_names = tuple(f"word_{word:04}" for word in range(words))
    tag_names = tuple(f"tag_{tag:03}" for tag in range(tags))
    return _dataset("synthetic", train, test, word_names, tag_names)


def _exact(rates: np.ndarray) -> np.ndarray:
    # Multiples of 2^-16 below 256 add up exactly in float32, whatever the order of a product.
    return (np.round(rates * 2**16) / 2**16).astype(np.float32)


def _dataset(
    name: str, train: Split, test: Split, features: tuple[str, ...], labels: tuple[str, ...]
) -> Dataset:
    checksums = {
        part: hashlib.sha256(rows.x.tobytes() + rows.y.tobytes()).hexdigest()
        for part, rows in (("train", train), ("test", test))
    }
    return Dataset(name, train, test, features, labels, checksums, synthetic=True)

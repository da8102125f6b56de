import hashlib

import numpy as np
import pytest

from spen_jax import data


@pytest.fixture(scope="module")
def tags():
    return data.tagging_corpus()


def test_synthetic_tags_have_the_shape_and_density_of_bibtex(tags):
    assert tags.synthetic
    assert (tags.train.x.shape, tags.train.y.shape) == ((4880, 1836), (4880, 159))
    assert (tags.test.x.shape, tags.test.y.shape) == ((2515, 1836), (2515, 159))
    assert (len(tags.feature_names), len(tags.label_names)) == (1836, 159)
    for part in (tags.train, tags.test):
        assert part.x.dtype == part.y.dtype == np.float32
        assert all(((array == 0) | (array == 1)).all() for array in (part.x, part.y))
        assert 2.2 <= part.y.sum(1).mean() <= 2.6
        assert part.y.sum(1).min() >= 1
        assert part.y.sum(0).min() >= 1
        assert 60 <= part.x.sum(1).mean() <= 75


def test_synthetic_tags_exclude_and_attract_each_other_as_documented(tags):
    y = np.concatenate([tags.train.y, tags.test.y])
    triples = y[:, :60].reshape(-1, 20, 3)
    assert triples.sum(-1).max() == 1
    first, second = y[:, 60:100].reshape(-1, 20, 2).transpose(2, 0, 1)
    assert np.all(second <= first)
    assert 0.7 < second.sum() / first.sum() < 0.9
    free = y[:, 100:120] * y[:, 120:140]  # of one topic each, and no rule between them
    assert free.sum() > 0


def test_synthetic_words_tell_about_the_tags(tags):
    means = (tags.train.y.T @ tags.train.x + 1) / (tags.train.y.sum(0)[:, None] + 20)
    weights = np.log(means / (tags.train.x.mean(0) + 0.05))
    scores = tags.test.x @ weights.T
    best = tags.test.y[np.arange(len(scores)), scores.argmax(1)].mean()
    assert 0.2 < best < 0.9, best
    assert tags.test.y[:, tags.train.y.sum(0).argmax()].mean() < 0.1


def test_a_seed_determines_the_synthetic_data():
    first, again, other = (data.tagging_corpus(seed, 300, 100) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first.train.x, again.train.x)
    np.testing.assert_array_equal(first.test.y, again.test.y)
    assert first.checksums == again.checksums
    assert first.checksums != other.checksums
    content = first.train.x.tobytes() + first.train.y.tobytes()
    assert first.checksums["train"] == hashlib.sha256(content).hexdigest()


def test_each_exclusive_block_has_its_largest_score_on_and_nothing_else():
    blocks = data.exclusive_blocks(seed=0, n_train=200, n_test=50)
    assert blocks.train.x.shape == (200, 64)
    weights = np.random.default_rng(0).standard_normal((64, 16))
    for part in (blocks.train, blocks.test):
        of_block = part.y.reshape(-1, 4, 4)
        np.testing.assert_array_equal(of_block.sum(axis=2), 1)
        z = (part.x @ weights).reshape(-1, 4, 4)
        np.testing.assert_array_equal(of_block.argmax(axis=2), z.argmax(axis=2))


def test_the_test_rows_do_not_depend_on_the_training_size():
    small, large = (data.exclusive_blocks(1, n, 30) for n in (10, 20))
    np.testing.assert_array_equal(small.test.x, large.test.x)


def test_label_noise_flips_its_share_of_the_training_labels_and_no_test_label():
    clean = data.exclusive_blocks(seed=3, n_train=2000, n_test=100)
    noisy = data.exclusive_blocks(seed=3, n_train=2000, n_test=100, noise=0.1)
    np.testing.assert_array_equal(noisy.train.x, clean.train.x)
    np.testing.assert_array_equal(noisy.test.y, clean.test.y)
    flipped = noisy.train.y != clean.train.y
    assert abs(flipped.mean() - 0.1) < 0.01
    assert abs(flipped[clean.train.y == 1].mean() - 0.1) < 0.02
    for wrong in (-0.1, 0.5):
        with pytest.raises(ValueError, match="from 0 to below 1/2"):
            data.exclusive_blocks(seed=3, n_train=10, noise=wrong)

from dataclasses import replace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spen_jax.training import (
    Phase,
    Recipe,
    Refitted,
    Trained,
    choose_then_refit,
    fit_phases,
    train,
)


class Data(NamedTuple):
    y: jax.Array
    drawn: jax.Array | None = None


ALL = Data(np.float32(np.random.default_rng(0).normal(size=12)))
PART = Data(ALL.y[:8])
PARAMS = {"w": np.float32(1)}
KEY = jax.random.key(7)


def plain(params, batch, key):
    value = jnp.mean((params["w"] - batch.y) ** 2) + params["w"] * jax.random.normal(key)
    return value, {"loss": value}


def with_draws(params, batch, key):
    return plain(params, Data(batch.y + batch.drawn), key)


def prepare(data, key):
    return data._replace(drawn=jax.random.normal(key, data.y.shape))


RECIPE = Recipe(epochs=4, learning_rate=0.3, weight_decay=0.1, batch_size=4)
PHASES = (
    Phase("first", plain, RECIPE),
    Phase("second", with_draws, replace(RECIPE, epochs=3), prepare),
)


def by_hand(params, data, stops=(None, None), key=KEY, **settings):
    """The two phases, one after the other, with the keys that the docstring promises."""
    first_key, second_key = (jax.random.fold_in(key, i) for i in (1, 2))
    *_, first = train(plain, params, data, RECIPE, first_key, stop_after=stops[0], **settings)
    drawn = prepare(data, jax.random.fold_in(second_key, 0))
    recipe = PHASES[1].recipe
    *_, second = train(
        with_draws, first.params, drawn, recipe, second_key, stop_after=stops[1], **settings
    )
    return first, second


def without_clock(trained):
    """What is to be the same again: numbers in place of arrays, no times."""
    params = {name: float(value) for name, value in trained.params.items()}
    return trained._replace(params=params, clock=len(trained.clock), metrics=dict(trained.metrics))


def assert_same(got, want):
    assert list(map(without_clock, got)) == list(map(without_clock, want))


def score(params):
    """Highest where training passes it by, so that neither the first nor the last epoch is best."""
    return -abs(float(params["w"]) - 0.6)


@pytest.mark.slow
def test_phases_go_on_from_one_another_and_show_each_epoch():
    history = list(fit_phases(PHASES, PARAMS, PART, KEY, score=score))
    assert [[len(t.scores) for t in done] for done in history] == [
        [1], [2], [3], [4], [4, 1], [4, 2], [4, 3]
    ]  # fmt: skip
    assert_same(history[-1], by_hand(PARAMS, PART, score=score))


@pytest.mark.slow
def test_epochs_are_chosen_on_a_part_and_all_rows_trained_on_for_as_many():
    history = list(choose_then_refit(PHASES, PARAMS, PART, ALL, KEY, score=score))
    chosen, final = history[-1]
    assert_same(chosen, by_hand(PARAMS, PART, score=score))
    stops = [trained.epoch for trained in chosen]
    assert stops[0] not in (0, 4)
    assert_same(final, by_hand(PARAMS, ALL, stops))
    assert [trained.epoch for trained in final] == stops and final[0].scores == ()
    assert len(history) == 7 + sum(stops)
    assert all(type(found) is Refitted for found in history)
    assert history[6] == Refitted(chosen) and history[7].chosen == chosen


@pytest.mark.slow
def test_what_is_ready_is_taken_as_it_is_and_trained_again_on_all_rows():
    known = Trained({"w": np.float32(0.2)}, epoch=2)
    options = {"score": score, "ready": {"first": known}}
    history = list(choose_then_refit(PHASES, PARAMS, PART, ALL, KEY, **options))
    chosen, final = history[-1]
    assert history[0] == Refitted((known,)) and chosen[0] is known
    [*_, (_, second)] = fit_phases(PHASES, PARAMS, PART, KEY, **options)
    assert_same([chosen[1]], [second])
    assert_same(final, by_hand(PARAMS, ALL, (2, second.epoch)))


def test_the_second_training_can_start_elsewhere():
    elsewhere = {"w": np.float32(-1)}
    [*_, (chosen, final)] = choose_then_refit(
        PHASES, PARAMS, PART, ALL, KEY, score=score, again=elsewhere
    )
    assert_same(chosen, by_hand(PARAMS, PART, score=score))
    assert_same(final, by_hand(elsewhere, ALL, [trained.epoch for trained in chosen]))


def test_no_phases_are_refused():
    with pytest.raises(ValueError, match="at least one phase"):
        next(fit_phases((), PARAMS, PART, KEY))

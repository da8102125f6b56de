"""Several trainings in a row, and the protocol of choosing epochs on a part of the rows and refitting on all."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax

from spen_jax.training.epochs import epochs
from spen_jax.training.recipe import Recipe, Trained, train
from spen_jax.types import Objective


class Phase(NamedTuple):
    """One training of several, for `fit_phases`: the `objective` that it minimises, by `recipe`, a `Recipe`.

    `name` is the key of `ready` there.
    """

    name: str
    objective: Objective
    recipe: Recipe
    prepare: Callable[[Any, jax.Array], Any] | None = None
    """(data, key) -> the data with what the objective keeps of each row, such as Markov chains."""


class Refitted(NamedTuple):
    """A `Trained` for each phase: of the training that chose the epochs, and of the one on all rows.

    What `choose_then_refit` yields; `final` is empty while epochs are being chosen.
    """

    chosen: tuple[Trained, ...]
    final: tuple[Trained, ...] = ()


@epochs
def fit_phases(
    phases: Sequence[Phase],
    params: Any,
    data: Any,
    key: jax.Array,
    *,
    score: Callable[[Any], float] | None = None,
    stops: Sequence[int] | None = None,
    ready: Mapping[str, Trained] | None = None,
) -> Iterator[tuple[Trained, ...]]:
    """After each epoch a `Trained` for each phase so far; `fit_phases(...).last()` are the result.

    Each phase starts from the parameters that the one before it kept. Phase i, from 0, draws by `fold_in(key, i + 1)`,
    and is prepared by a fold of that with 0.

    Args:
      phases: at least one.
      params: where the first phase starts.
      data: the training examples, as for `fit`.
      key: of all that is random.
      score: validation score of parameters, `(params) -> float`, higher is better; without it each phase keeps its last
        epoch.
      stops: the epoch after which each phase stops, a whole number for each; None for those of its recipe.
      ready: phases by name that are trained already, and taken as they are.

    ValueError for no phases, once it is looped over; else what `train` raises.
    """
    if not phases:
        raise ValueError("fit_phases needs at least one phase, got none")
    done: tuple[Trained, ...] = ()
    for index, phase in enumerate(phases):
        phase_key = jax.random.fold_in(key, index + 1)
        if ready and phase.name in ready:
            results: Iterable[Trained] = [ready[phase.name]]
        else:
            chains_key = jax.random.fold_in(phase_key, 0)
            results = train(
                phase.objective,
                params,
                phase.prepare(data, chains_key) if phase.prepare else data,
                phase.recipe,
                phase_key,
                score=score,
                stop_after=None if stops is None else stops[index],
            )
        before = done
        for trained in results:
            params, done = trained.params, (*before, trained)
            yield done


@epochs
def choose_then_refit(
    phases: Sequence[Phase],
    params: Any,
    part: Any,
    data: Any,
    key: jax.Array,
    *,
    score: Callable[[Any], float],
    ready: Mapping[str, Trained] | None = None,
    again: Any = None,
) -> Iterator[Refitted]:
    """Choose each phase's epoch by training on `part`, then train again on all of `data` for as many epochs.

    Yields after each epoch of either; `chosen, final = choose_then_refit(...).last()` is the result. The score
    is to be that of the rows of `data` that are not in `part`: so none that is trained on chooses, and none is lost.

    Args:
      phases: as for `fit_phases`.
      params: where both trainings start.
      part: the examples that are trained on while epochs are chosen.
      data: all training examples.
      key: of all that is random, (), the same for both.
      score: validation score of parameters, `(params) -> float`, higher is better.
      ready: phases by name that are chosen already; the second training trains them too.
      again: where the second training starts, if not from `params`: a model that builds on another one, which
        is itself trained again.

    Raises what `fit_phases` does.
    """
    chosen: tuple[Trained, ...] = ()
    for chosen in fit_phases(phases, params, part, key, score=score, ready=ready):
        yield Refitted(chosen)
    stops = [trained.epoch for trained in chosen]
    start = params if again is None else again
    for final in fit_phases(phases, start, data, key, stops=stops):
        yield Refitted(chosen, final)

"""Hidden Markov models as energies, and their estimation from expected counts."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from spen_jax.exact.arguments import read_mask
from spen_jax.exact.chain import Chain
from spen_jax.numbers import indices, real


class HiddenMarkov(NamedTuple):
    """-log p(x, z) = start[z_1] + sum_t transitions[z_t, z_t+1] + sum_t emissions[z_t, x_t], z_t of K states.

    Energies are -log probabilities: `start` (K,) of the first state, `transitions` (K, K) of the next state in each
    row, `emissions` (K, V) of V symbols in each row. Other observations, continuous ones too, need no model: their
    energies -log p(x_t | z_t), (..., T, K), are the unary energies of a `Chain`, 0 for an observation that is missing.
    Source: Rabiner (1989).
    """

    start: jax.Array
    transitions: jax.Array
    emissions: jax.Array

    def chain(self, observations: Any, lengths: Any = None) -> Chain:
        """The states given symbols (..., T), whole numbers below V, of which the first `lengths` (...) count.

        At beta = 1 its free energy is -log p(observations), its marginals the posterior of the states, and its best
        answer Viterbi's path. ValueError for shapes that do not fit, and symbols known to be none.
        """
        labels, symbols = self.emissions.shape
        if self.start.shape != (labels,) or self.transitions.shape != (labels, labels):
            raise ValueError(
                f"start and transitions must be of shapes ({labels},) and ({labels}, {labels}) beside emissions of "
                f"{labels} states, got {self.start.shape} and {self.transitions.shape}"
            )
        observations = real("observations", observations)
        if not observations.ndim:
            raise ValueError("observations must have an axis of time, got one number")
        mask = read_mask(None, lengths, observations.shape)
        if mask is not None:
            observations = jnp.where(mask, observations, 0)
        observations = indices("observations", observations, symbols)
        unary = self.emissions.T[observations]
        return Chain(unary, self.transitions, start=self.start, lengths=lengths)


def expectation_maximisation(
    model: HiddenMarkov, observations: Any, lengths: Any = None
) -> tuple[HiddenMarkov, jax.Array]:
    """One step (Baum-Welch): the model of expected counts, and -log p of all sequences under the old one, their sum.

    `observations` are symbols (..., T), whole numbers below V, of which the first `lengths` (...) count. Expected
    counts of states, transitions and symbols are the derivatives of the free energy in their energies. From step to
    step -log p does not rise; it may end in a local minimum, so that several starts are worth it. A state that is never
    left, or never seen, keeps its row; what is never seen in the row of another gets an infinite energy, and keeps it.
    Sequences that the model does not allow count nothing, but make -log p infinite. Source: Baum, Petrie, Soules &
    Weiss (1970).

    ValueError for shapes that do not fit, and symbols known to be none of the V.
    """

    def total(model):
        return jnp.sum(model.chain(observations, lengths).free_energy())

    free, counts = jax.value_and_grad(total)(model)
    return jax.tree.map(_from_counts, model, counts), free


def _from_counts(old, counts):
    """-log of the frequencies in each row, of a row without counts the old ones."""
    total = jnp.sum(counts, -1, keepdims=True)
    seen = counts > 0
    energies = jnp.log(jnp.where(total > 0, total, 1)) - jnp.log(jnp.where(seen, counts, 1))
    return jnp.where(total > 0, jnp.where(seen, energies, jnp.inf), old)

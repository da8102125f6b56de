"""One max-margin step by hand: one paper, five tags, numbers that a pocket calculator can check.

"NLP" and "Deep Learning" are true of the paper:

    tag           NLP   Databases   Deep Learning   Biology   Vision
    truth t        1        0             1            0         0
    score s       1.2      0.4          -0.2         -1.0       0.6

The scores come from a feature network, which for itself would answer "NLP, Databases, Vision", the
tags with a positive score. The energy adds what the tags know of each other, in two global units:

    E(y) = -s.y - 1.5 softplus(y_NLP + y_DeepLearning - 1)
                + 1.0 softplus(y_Databases + y_Biology + y_Vision - 1)

The first unit lowers the energy where NLP and Deep Learning stand together, the second raises it
where several others do. Lower is better, and y may be anything in [0, 1]^5.

Training asks for the most offending answer y_hat, low in energy and yet far from the truth. It is
found by loss-augmented inference: projected gradient steps on E(y) - D(y), with the cost
D(y) = sum_i (y_i - t_i)^2. The truth should have a lower energy than y_hat by at least D(y_hat);
what is missing, max(0, D(y_hat) + E(t) - E(y_hat)), is the structured hinge loss.

Each test is one step of this: plain Python arithmetic first, then the library's answer.
"""

from math import exp, log

import jax
import jax.numpy as jnp
import numpy as np
from problems import Batch
from pytest import approx

from spen_jax import (
    SPEN,
    FeatureNetwork,
    GradientDescent,
    Predictor,
    functions_of,
    losses,
    minimize,
)
from spen_jax.objectives import loss_augmented, max_margin

NLP, DATABASES, DEEP_LEARNING, BIOLOGY, VISION = range(5)
TRUTH = [1.0, 0.0, 1.0, 0.0, 0.0]
SCORES = [1.2, 0.4, -0.2, -1.0, 0.6]
Y_HAT = [1.0, 1.0, 0.0, 0.0, 1.0]  # what steps 3 and 4 find

# The same energy as a SPEN: its feature network is one layer, whose bias is s while x is 0.
FEATURES, ENERGY = functions_of(SPEN(FeatureNetwork(n_labels=5, widths=()), n_global=2))
PARAMS = {
    "network": {"output": {"kernel": jnp.zeros((1, 5)), "bias": jnp.array(SCORES)}},
    "C1": jnp.array([[1.0, 0, 1, 0, 0], [0, 1, 0, 1, 1]]),
    "b": jnp.array([-1.0, -1.0]),
    "c2": jnp.array([-1.5, 1.0]),
}
PAPER = Batch(x=jnp.zeros((1, 1)), y=jnp.array([TRUTH]))
CONTEXT = {"logits": jnp.array([SCORES])}
SOLVER = GradientDescent(step_size=0.6, momentum=0.0)
LEARNER = jax.jit(
    jax.value_and_grad(
        max_margin(Predictor(ENERGY, FEATURES, solver=SOLVER, steps=5)), has_aux=True
    )
)
ONE_ENERGY = jax.jit(ENERGY)


def softplus(u):
    return log(1 + exp(u))


def sigmoid(u):
    return 1 / (1 + exp(-u))


def library_energy(y):
    return float(ONE_ENERGY(PARAMS, {"logits": jnp.array(SCORES)}, jnp.array(y)))


def test_0_the_context_is_the_scores():
    np.testing.assert_array_equal(FEATURES(PARAMS, PAPER.x)["logits"], CONTEXT["logits"])


def descend(steps):
    """Loss-augmented inference from y = 0.5 by the library."""
    return minimize(
        loss_augmented(ENERGY, losses.squared_error),
        PARAMS,
        (CONTEXT, PAPER.y),
        jnp.full((1, 5), 0.5),
        solver=SOLVER,
        steps=steps,
        trace="y",
    )


def test_1_at_the_start_no_tag_is_preferred_and_the_energy_is_this():
    unary = -(1.2 * 0.5 + 0.4 * 0.5 - 0.2 * 0.5 - 1.0 * 0.5 + 0.6 * 0.5)
    together = -1.5 * softplus(0.5 + 0.5 - 1)
    others = 1.0 * softplus(0.5 + 0.5 + 0.5 - 1)
    assert (unary, together, others) == approx((-0.5, -1.0397, 0.9741), abs=1e-4)
    assert library_energy([0.5] * 5) == approx(unary + together + others, rel=1e-6)


def test_2_the_gradient_at_the_start_pulls_towards_nlp_and_deep_learning():
    together = -1.5 * sigmoid(0)  # -0.75 for each of NLP, Deep Learning
    others = 1.0 * sigmoid(0.5)  # 0.6225 for each of the rest
    by_hand = [0.0] * 5
    by_hand[NLP] = -1.2 + together
    by_hand[DATABASES] = -0.4 + others
    by_hand[DEEP_LEARNING] = 0.2 + together
    by_hand[BIOLOGY] = 1.0 + others
    by_hand[VISION] = -0.6 + others
    assert by_hand == approx([-1.95, 0.2225, -0.55, 1.6225, 0.0225], abs=1e-4)
    slope = jax.jit(jax.grad(ENERGY, argnums=2))
    gradient = slope(PARAMS, {"logits": jnp.array(SCORES)}, jnp.full(5, 0.5))
    np.testing.assert_allclose(gradient, by_hand, rtol=1e-5)


def test_3_the_first_loss_augmented_step_goes_away_from_the_truth_and_is_projected():
    energy_gradient = [-1.95, -0.4 + sigmoid(0.5), -0.55, 1 + sigmoid(0.5), -0.6 + sigmoid(0.5)]
    cost_gradient = [2 * (0.5 - t) for t in TRUTH]  # -1 for the true tags, +1 for the others
    moved = [0.5 - 0.6 * (e - d) for e, d in zip(energy_gradient, cost_gradient, strict=True)]
    assert moved == approx([1.07, 0.9665, 0.23, 0.1265, 1.0865], abs=1e-4)
    projected = [min(1.0, max(0.0, y)) for y in moved]
    assert projected[NLP] == projected[VISION] == 1
    np.testing.assert_allclose(descend(steps=1).y[0], projected, rtol=1e-5)


def test_4_further_steps_end_in_the_most_offending_answer_of_all():
    y = [0.5] * 5
    path = [y]
    for _ in range(5):
        together = -1.5 * sigmoid(y[NLP] + y[DEEP_LEARNING] - 1)
        others = 1.0 * sigmoid(y[DATABASES] + y[BIOLOGY] + y[VISION] - 1)
        unit = [together, others, together, others, others]
        y = [
            min(1.0, max(0.0, y[i] - 0.6 * (unit[i] - SCORES[i] - 2 * (y[i] - TRUTH[i]))))
            for i in range(5)
        ]
        path.append(y)
    assert y == Y_HAT  # NLP, Databases, Vision
    found = descend(steps=5)
    np.testing.assert_allclose(found.trace["y"][0], path, rtol=1e-4, atol=1e-5)
    assert found.residual[0] == 0 and found.converged[0]

    # No other of the 32 sets of tags is as low in E - D.
    corners = [[float(n >> i & 1) for i in range(5)] for n in range(32)]
    offence = [
        library_energy(c) - sum((a - t) ** 2 for a, t in zip(c, TRUTH, strict=True))
        for c in corners
    ]
    assert corners[offence.index(min(offence))] == Y_HAT


def energy_of_the_truth():
    return -(1.2 - 0.2) - 1.5 * softplus(1 + 1 - 1) + 1.0 * softplus(0 + 0 + 0 - 1)


def energy_of_y_hat():
    return -(1.2 + 0.4 + 0.6) - 1.5 * softplus(1 + 0 - 1) + 1.0 * softplus(1 + 0 + 1 - 1)


def test_5_the_truth_is_better_than_it_but_not_by_the_cost():
    truth, wrong = energy_of_the_truth(), energy_of_y_hat()
    assert (truth, wrong) == approx((-2.6566, -1.9265), abs=1e-4)
    assert library_energy(TRUTH) == approx(truth, rel=1e-6)
    assert library_energy(Y_HAT) == approx(wrong, rel=1e-6)

    cost = 1 + 1 + 1  # Databases and Vision are wrong, Deep Learning is missing
    assert losses.squared_error(jnp.array(Y_HAT), jnp.array(TRUTH)) == cost
    assert float(descend(steps=5).energy[0]) == approx(wrong - cost, rel=1e-6)

    hinge = max(0.0, cost + truth - wrong)
    assert hinge == approx(2.2699, abs=1e-4)
    assert float(losses.hinge(truth, wrong, cost)) == approx(hinge, rel=1e-6)
    (loss, metrics), _ = LEARNER(PARAMS, PAPER, jax.random.key(0))
    assert float(loss) == approx(hinge, rel=1e-6)
    assert float(metrics["cost"]) == cost
    assert float(metrics["gap"]) == approx(wrong - truth, rel=1e-6)
    assert float(metrics["violated"]) == 1


def test_6_the_gradient_raises_the_scores_of_missing_tags_and_lowers_those_of_wrong_ones():
    """The loss is 3 + E(t) - E(y_hat), and s stands in E as -s.y: its gradient in s is y_hat - t.

    In the unary potentials -s it is t - y_hat, and in the weights c2 the difference of the units.
    """
    by_scores = [h - t for h, t in zip(Y_HAT, TRUTH, strict=True)]
    assert by_scores == [0, 1, -1, 0, 1]
    by_weights = [softplus(1) - softplus(0), softplus(-1) - softplus(1)]
    assert by_weights == approx([0.6201, -1.0], abs=1e-4)

    _, gradient = LEARNER(PARAMS, PAPER, jax.random.key(0))
    np.testing.assert_allclose(gradient["network"]["output"]["bias"], by_scores, atol=1e-6)
    np.testing.assert_allclose(gradient["c2"], by_weights, rtol=1e-5)

    # A step of 0.1 against it raises Deep Learning and lowers Databases and Vision by 0.1 each.
    learned = [s - 0.1 * g for s, g in zip(SCORES, by_scores, strict=True)]
    assert learned == approx([1.2, 0.3, -0.1, -1.0, 0.5])
    network = {"output": PARAMS["network"]["output"] | {"bias": jnp.array(learned)}}
    (loss, _), _ = LEARNER(PARAMS | {"network": network}, PAPER, jax.random.key(0))
    # The answer y_hat is still the worst, and the truth has gained 0.1 on it three times.
    assert float(loss) == approx(3 + energy_of_the_truth() - energy_of_y_hat() - 0.3, rel=1e-5)

"""What inference did to the labels of one row, and which label pulled which in or out: closed forms, nothing compiles.

L labels, T of them looked at, K members, of the energies in `spen_jax.estimators.model`.
"""

from typing import Any, NamedTuple

import numpy as np

from spen_jax.estimators.interactions import Member, check_relates, logits_at, read, sigmoid
from spen_jax.estimators.model import Shape, model_of
from spen_jax.estimators.targets import is_sets, read_labels

START = float(np.log(1e6))
"""Inference keeps the logits that it starts from within this, see `MirrorDescent`."""
STEEPEST = float(np.log(1e7))
"""The entropy's gradient stays within this, see `spen_jax.domains.binary_entropy`."""


class Explanation(NamedTuple):
    """What inference did to the labels of one row; its text has a line for each label that counts.

    z(y) = -dE/dy without the entropy are the logits that the energy asks for at y,
    z_i = s_i - sum_m C_mi k_m sigmoid(C y + U h + d)_m [+ sum over j != i of (A + A')_ij y_j / 2],
    here in the mean over the members, each at the y where its own inference ends.
    """

    labels: np.ndarray
    """(L,) names."""
    before: np.ndarray
    """(L,) what the feature network alone says, sigmoid(s)."""
    after: np.ndarray
    """(L,) y as inference leaves it."""
    path: np.ndarray
    """(steps + 1, L) the points of inference, the last of which is `after`; known labels stand still."""
    offset: np.ndarray
    """(L,) z(0) - s in nats: what the energy adds to the network's logits where no label is on; it depends on x."""
    pulls: np.ndarray
    """(T, T) z_i(y) - z_i(y with y_j = 0) in nats of logit: label j at its y_j pulls label i in (+) or out (-); 0 for
    i = j."""
    of: np.ndarray
    """(T,) the numbers of the labels in `pulls`, the largest of before and after first."""
    known: np.ndarray
    """(L,) which labels were given."""

    def __str__(self) -> str:
        shown = np.maximum(self.before, self.after)[self.of] >= 0.05
        places = np.flatnonzero(shown)[:10] if shown.any() else np.arange(min(1, len(self.of)))
        return "\n".join(self._line(place) for place in places)

    def _line(self, place):
        i = self.of[place]
        alone = f"{self.labels[i]}: {_share(self.before[i])} alone"
        if self.known[i]:
            return f"{alone}, known to be {'on' if self.after[i] > 0.5 else 'off'}"
        ranked = np.argsort(self.pulls[place])
        pulling = [j for j in ranked[::-1] if self.pulls[place, j] >= 0.05][:3]
        pushing = [j for j in ranked if self.pulls[place, j] <= -0.05][:3]
        line = f"{alone}, {_share(self.after[i])} after"
        for word, others in ("in", pulling), ("out", pushing):
            if others:
                named = (
                    f"{self.labels[self.of[j]]} ({_nats(self.pulls[place, j])})" for j in others
                )
                line += f"; {word} by {', by '.join(named)}"
        return line


def _share(p):
    return f"{p:.2f}".removeprefix("0") if p >= 0.005 else "<.01"


def _nats(value):
    return (
        f"{value:+.1f}".replace("0.", ".")
        if abs(value) >= 0.1
        else f"{value:+.2f}".replace("0.", ".")
    )


def explanation_of(
    shape: Shape,
    flats: np.ndarray,
    x: Any,
    names: np.ndarray,
    *,
    known: tuple[np.ndarray, np.ndarray] | None = None,
    top: int | None = 20,
) -> Explanation:
    """What inference does to one row x (1, D), scaled, dense or CSR; known is (mask, y) of it, (L,) each.

    `pulls` are among the `top` labels alone, or among all with None.
    ValueError for classes, and for a top below 1.
    """
    check_relates(shape)
    if top is not None and top < 1:
        raise ValueError(f"top must be at least 1, or None for all labels, got {top}")
    none = np.zeros(shape.outputs)
    held, given = (none.astype(bool), none) if known is None else known
    members = [read(shape, flat, x) for flat in flats]
    paths = [_path(shape, member, held, given) for member in members]
    before = np.mean([sigmoid(member.s[0]) for member in members], axis=0)
    path = np.mean(paths, axis=0)
    after = path[-1]
    order = np.argsort(-np.maximum(before, after), kind="stable")[:top]
    return Explanation(
        np.asarray(names),
        before,
        after,
        path,
        np.mean([logits_at(m, none) - m.s[0] for m in members], axis=0),
        np.mean([_pulls(m, p[-1], order) for m, p in zip(members, paths, strict=True)], axis=0),
        order,
        held,
    )


# What is given of one row


def row_of(x: Any) -> Any:
    """One row, (D,) or (1, D), as (1, D): an array, a list, a frame's row, or sparse. ValueError for several."""
    if hasattr(x, "to_frame") and np.ndim(x) == 1:
        return x.to_frame().T
    if not hasattr(x, "shape"):
        x = np.asarray(x)
    if len(x.shape) == 1:
        return x.reshape(1, -1)
    if x.shape[0] != 1:
        raise ValueError(f"one row is explained at a time, got {x.shape[0]}: give x[i : i + 1]")
    return x


def known_of(known: Any, names: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """(mask, y), (L,) each, of what is known of one row: a set of names that are on, or numbers with NaN for unknown.

    ValueError for labels of several rows, and for those that `read_labels` does not take.
    """
    if known is None:
        return None
    if isinstance(known, set | frozenset):
        known = list(known)
    if isinstance(known, list | tuple) and all(isinstance(name, str) for name in known):
        known = [known]
    elif not is_sets(known) and np.ndim(known) == 1:
        known = np.asarray(known, float)[None]
    labels = read_labels(known, names, chosen=True)
    if len(labels.y) != 1:
        raise ValueError(
            f"known must be of the one row that is explained, got {len(labels.y)} rows"
        )
    mask = np.ones(len(names), bool) if labels.mask is None else labels.mask[0]
    return mask, labels.y[0]


# One member


def _path(shape: Shape, member: Member, held, given):
    """The points of inference, (steps + 1, L), as the predictor of this shape takes them."""
    predictor: Any = model_of(shape).predictor
    logits = np.clip(member.s[0], -START, START)
    points = [np.where(held, given, sigmoid(logits))]
    for _ in range(shape.steps):
        ascent = logits_at(member, points[-1]) - np.clip(logits, -STEEPEST, STEEPEST)
        logits = logits + predictor.solver.step_size * ascent
        points.append(np.where(held, given, sigmoid(logits)))
    return np.stack(points)


def _pulls(member, y, at):
    """How much each of the labels `at` pulls each of them at y, (T, T)."""
    of = member.of
    C = of.C[:, at]
    units = (of.C @ y + member.shift[0] + of.d)[:, None]
    pulls = -C.T @ (of.k[:, None] * (sigmoid(units) - sigmoid(units - C * y[at])))
    if of.A is not None:
        pulls += of.A[np.ix_(at, at)] * y[at]
    np.fill_diagonal(pulls, 0)
    return pulls

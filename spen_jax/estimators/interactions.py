"""Which labels a fitted energy relates: a labelled matrix, in closed form and NumPy, so that nothing compiles.

N rows, L labels, M global units, K members, of the energies in `spen_jax.estimators.model`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, NamedTuple

import numpy as np

from spen_jax.estimators.model import Shape, unravel_of

MOST = 1000
"""Rows that the mean shift is taken over, at most."""


@dataclass(frozen=True, eq=False)
class Interactions:
    """The mean over members of d^2 E / dy_i dy_j, (L, L): negative where labels attract, positive where they repel.

    C' diag(k sigmoid'(C y + U h + d)) C [- (A + A') / 2] off the diagonal, which is 0, at one point: the mean answer
    and the mean U h of the training rows. In nats, of L labels. NumPy takes it as its `values`, which are computed when
    they are asked for. `SPENClassifier.interactions_` is one.
    """

    names: np.ndarray
    """(L,) of the labels."""
    members: Sequence["Curvature"]
    """What each member's values are made of."""

    @cached_property
    def values(self) -> np.ndarray:
        """(L, L), symmetric."""
        return np.mean([_values(member) for member in self.members], axis=0)

    @cached_property
    def agreement(self) -> float:
        """The mean correlation between the values of two members: near 0 they are chance; NaN for one member."""
        pairs = np.triu_indices(len(self.names), 1)
        each = np.stack([_values(member)[pairs] for member in self.members])
        if len(each) < 2 or each.shape[1] < 2 or not np.all(np.ptp(each, axis=1)):
            return float("nan")
        return float(np.mean(np.corrcoef(each)[np.triu_indices(len(each), 1)]))

    def strongest(
        self, n: int = 10, kind: Literal["attract", "repel"] | None = None
    ) -> list[tuple[Any, Any, float]]:
        """At most n pairs (label, label, value), the largest first: of those that attract, that repel, or of both.

        ValueError for another kind.
        """
        if kind not in ("attract", "repel", None):
            raise ValueError(f'kind must be "attract", "repel" or None, got {kind!r}')
        first, second = np.triu_indices(len(self.names), 1)
        values = self.values[first, second]
        size = {"attract": -values, "repel": values, None: np.abs(values)}[kind]
        order = [at for at in np.argsort(-size, kind="stable")[:n] if size[at] > 0]
        names = self.names.tolist()
        return [(names[first[at]], names[second[at]], float(values[at])) for at in order]

    def to_frame(self) -> Any:
        """A pandas DataFrame (L, L) with the labels as rows and columns; ImportError without pandas."""
        import pandas as pd

        return pd.DataFrame(self.values, index=self.names, columns=self.names)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self.values, dtype=dtype, copy=copy)

    def __repr__(self) -> str:
        # A notebook shows the attributes of an estimator: that is not to build a matrix of many labels.
        return f"Interactions of {len(self.names)} labels"

    def __str__(self) -> str:
        kinds: tuple[Literal["attract", "repel"], ...] = ("attract", "repel")
        lines = [f"{self!r}; agreement of members {self.agreement:.2f}"]
        for kind in kinds:
            pairs = (f"{a} and {b} ({value:+.2g})" for a, b, value in self.strongest(5, kind))
            lines.append(f"{kind}: {', '.join(pairs) or 'none'}")
        return "\n".join(lines)


class NothingToRelateError(ValueError, AttributeError):
    """Of classes, exactly one of which is on; an AttributeError too, so that `hasattr` of a property says no."""


def check_relates(shape: Shape) -> None:
    """ValueError, which is an AttributeError too, for classes."""
    if shape.kind == "classes":
        raise NothingToRelateError(
            "one column of classes has nothing to relate: explanations and interactions are of several labels"
        )


def means_of(
    shape: Shape, flats: np.ndarray, x: Any, y: np.ndarray, mask: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """(mean y (L,), mean U h (K, M)) of training rows, where `interactions_of` looks.

    x (N, D) as scaled, dense or CSR; y (N, L); mask (N, L), whether y is known, of which rows alone a label's mean is.
    A label that is known of no row has mean 0. U h is that of at most 1,000 rows, spread evenly over all.
    """
    known = np.ones(y.shape, bool) if mask is None else np.asarray(mask, bool)
    mean_y = np.sum(np.where(known, y, 0), axis=0, dtype=float) / np.maximum(known.sum(axis=0), 1)
    n = len(y)
    rows = x if n <= MOST else x[np.linspace(0, n - 1, MOST).astype(int)]
    shifts = [read(shape, flat, rows).shift.mean(axis=0) for flat in flats]
    return mean_y, np.stack(shifts)


def interactions_of(
    shape: Shape, flats: np.ndarray, mean_y: np.ndarray, mean_shift: np.ndarray, names: np.ndarray
) -> Interactions:
    """The interactions at that mean answer (L,) and those mean U h (K, M).

    ValueError, which is an AttributeError too, for classes, of which exactly one is on.
    """
    check_relates(shape)
    members = []
    for flat, shift in zip(flats, mean_shift, strict=True):
        of = _relating(unravel_of(shape)(np.asarray(flat)))
        on = sigmoid(of.C @ mean_y + shift + of.d)
        members.append(Curvature(of.C, of.k * on * (1 - on), of.A))
    return Interactions(np.asarray(names), members)


# One member


class Relating(NamedTuple):
    """Of the global term C (M, L), d, k (M,); of pairs A (L, L), symmetric with diagonal 0, or None."""

    C: np.ndarray
    d: np.ndarray
    k: np.ndarray
    A: np.ndarray | None


class Member(NamedTuple):
    """What a member makes of rows: s (N, L), U h (N, M), and what relates labels."""

    s: np.ndarray
    shift: np.ndarray
    of: Relating


def _relating(params):
    C = params.get("C", np.zeros((0, params["c"].size))).astype(float)
    d, k = (params.get(name, np.zeros(0)).astype(float) for name in "dk")
    A = params.get("A")
    if A is not None:
        A = (A + A.T).astype(float) / 2
        np.fill_diagonal(A, 0)
    return Relating(C, d, k, A)


def read(shape: Shape, flat: np.ndarray, x: Any) -> Member:
    """The member with those flat parameters (P,), of rows x (N, D), scaled, dense or CSR."""
    params = unravel_of(shape)(np.asarray(flat))
    h = np.maximum(x @ params["W"] + params["b"], 0).astype(float)
    shift = h @ params["U"] if "U" in params else np.zeros((len(h), 0))
    return Member(h @ params["V"] + params["c"], shift, _relating(params))


def logits_at(member: Member, y: np.ndarray) -> np.ndarray:
    """z(y) = -dE/dy without the entropy, of the member's first row, (L,) -> (L,)."""
    of = member.of
    z = member.s[0] - (of.k * sigmoid(of.C @ y + member.shift[0] + of.d)) @ of.C
    return z if of.A is None else z + of.A @ y


class Curvature(NamedTuple):
    """d^2 E / dy dy = C' diag(weights) C - A at one point, but for the diagonal."""

    C: np.ndarray
    weights: np.ndarray
    A: np.ndarray | None


def _values(member):
    values = member.C.T @ (member.weights[:, None] * member.C)
    if member.A is not None:
        values -= member.A
    np.fill_diagonal(values, 0)
    return values


def sigmoid(z: np.ndarray) -> np.ndarray:
    """1 / (1 + exp(-z)), without overflow."""
    return np.exp(-np.logaddexp(0, -z))

"""Optimizers that move only those rows of a table of weights which a batch touches.

D columns of a sparse field, a table (D, H), U columns touched by a batch.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from spen_jax.checks import check_whole
from spen_jax.sparse import Matrix, Rows, is_scipy
from spen_jax.training.fields import fields_of


@dataclass(frozen=True)
class Touching:
    """An optimizer with `init` and `update` as Optax's, that `fit` and `step` give the touched rows only: `touching`.

    Attributes:
      inner: the optimizer of the rows and of everything else.
      tables: pairs of the path of a table among the parameters, and the field whose columns are its rows.
      least: pairs of a field and the least number of columns that a batch takes of it.
    """

    inner: optax.GradientTransformation
    tables: tuple[tuple[str, str], ...]
    least: tuple[tuple[str, int], ...] = ()

    def init(self, params: Any) -> Any:
        """The state of the inner optimizer, of all rows; ValueError where a table is not among the parameters."""
        self._sizes(params)
        return self.inner.init(params)

    def update(self, updates: Any, state: Any, params: Any = None) -> Any:
        """That of the inner optimizer."""
        return self.inner.update(updates, state, params)

    def check(self, params: Any, data: Any) -> None:
        """ValueError unless each table's field is sparse and has a column for each of its rows."""
        sizes = self._sizes(params)
        for path, name in self.tables:
            field = fields_of(data).get(name)
            if not isinstance(field, Matrix) or sizes[path][0] != field.shape[1]:
                got = f"{type(field).__name__} of shape {getattr(field, 'shape', None)}"
                raise ValueError(
                    f"the table {path!r} of shape {sizes[path]} needs a field {name!r} of the data that is a SciPy "
                    f"matrix with a column for each of its rows, got {got}"
                )

    def _sizes(self, params):
        """The shapes of the parameters by path; ValueError where a table is none of them."""
        sizes = {_path(path): np.shape(a) for path, a in jax.tree.leaves_with_path(params)}
        for path, _ in self.tables:
            if not sizes.get(path):
                raise ValueError(
                    f"the table {path!r} is none of the parameters' arrays: {', '.join(sizes)}"
                )
        return sizes

    def cut(self, data: Any, rows: Any) -> tuple[dict[int, Rows], dict[str, np.ndarray]]:
        """The rows of each table's field over the touched columns alone, by the field's id; these columns by field."""
        # A label that is none would be seen as another one's copy, and learned from.
        fields, least = fields_of(data), {"y": 1, **dict(self.least)}
        found = {name: fields[name].touched(rows, least.get(name, 0)) for _, name in self.tables}
        parts = {id(fields[name]): part for name, (part, _) in found.items()}
        return parts, {name: ids for name, (_, ids) in found.items()}


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["tables", "others", "key"],
    meta_fields=["structure", "places"],
)
@dataclass(frozen=True)
class Packed:
    """A training's state whose tables of one field lie side by side, so that a row is found in memory once.

    Attributes:
      tables: arrays (D, ...) by field and type.
      others: the leaves of parameters and the optimizer's state that are no tables, None for those that are.
      key: of the state.
      structure: of (params, opt_state).
      places: of each leaf of it None, or where it stands: in which of the tables, from which column on, and its shape.
    """

    tables: dict[tuple[str, str], jax.Array]
    others: list[Any]
    key: jax.Array
    structure: Any
    places: tuple[Any, ...]

    def rows(self, columns: dict[str, Any]) -> "Packed":
        """The same with the touched rows alone of each table."""
        found = {at: a.at[columns[at[0]]].get(mode="clip") for at, a in self.tables.items()}
        return replace(self, tables=found)

    def with_rows(self, columns: dict[str, Any], new: "Packed", sound: jax.Array) -> "Packed":
        """The new state, of each table the old rows but for those touched; where it is not sound the old tables."""

        def put(at, a):
            rows = jnp.where(sound, columns[at[0]], len(a))  # beyond the end: dropped
            return a.at[rows].set(new.tables[at], mode="drop")

        return replace(new, tables={at: put(at, a) for at, a in self.tables.items()})

    def parts(self) -> tuple[Any, Any]:
        """Copies of the parameters and of the optimizer's state, of as many rows as the tables have."""

        def leaf(other, place):
            if place is None:
                return jnp.copy(other)
            at, start, shape = place
            table, size = self.tables[at], math.prod(shape)
            # All columns of an array are that array itself.
            part = jnp.copy(table) if size == table.shape[1] else table[:, start : start + size]
            return part.reshape(len(table), *shape)

        return self.structure.unflatten(map(leaf, self.others, self.places))


def packed(optimizer: Touching, params: Any, opt_state: Any, key: jax.Array) -> Packed:
    """A copy of a state with its tables side by side."""
    tables, names = dict(optimizer.tables), [_path(p) for p, _ in jax.tree.leaves_with_path(params)]
    sizes = {_path(p): len(a) for p, a in jax.tree.leaves_with_path(params) if np.ndim(a)}
    leaves, structure = jax.tree.flatten_with_path((params, opt_state))
    columns: dict[tuple[str, str], list[Any]] = {}
    places, others = [], []
    for path, leaf in leaves:
        a = jnp.asarray(leaf)  # of the type that steps have
        # What an optimizer keeps of a parameter stands under its path.
        ours = (name for name in names if f"/{_path(path)}".endswith(f"/{name}"))
        name = max(ours, key=len, default="")
        if name not in tables or np.shape(a)[:1] != (sizes[name],):
            places.append(None)
            others.append(jnp.copy(a))
            continue
        beside = columns.setdefault((tables[name], str(a.dtype)), [])
        start = sum(part.shape[1] for part in beside)
        beside.append(a.reshape(len(a), -1))
        places.append(((tables[name], str(a.dtype)), start, a.shape[1:]))
        others.append(None)
    # Of one array concatenate gives that itself.
    whole = {
        at: jnp.copy(beside[0]) if len(beside) == 1 else jnp.concatenate(beside, axis=1)
        for at, beside in columns.items()
    }
    return Packed(whole, others, jnp.copy(key), structure, tuple(places))


def touching(
    optimizer: optax.GradientTransformation,
    tables: Mapping[str, str],
    *,
    least: Mapping[str, int] | None = None,
) -> Touching:
    """`optimizer` for tables of which a batch touches few rows: gradient, update and what it remembers of these alone.

    With x (N, D) a SciPy matrix, `fit` gives the objective, in place of the batch's x (B, D) and a first layer (D, H),
    x over the U columns that hold a number in one of its rows, and the U rows of the layer; the new rows go back in
    place. A step's time does not depend on D. For `optax.sgd` that is the same training; what another optimizer does to
    rows that no gradient reaches is left undone: Adam's moments of a row fall, and weights decay, in the steps that
    touch it (as in TensorFlow's LazyAdam and PyTorch's SparseAdam).

    The labels' own tables, (L, H), are touched by a sparse y (N, L): the objective sees the labels that the batch has
    and others, drawn evenly, U in all and at least `least["y"]`, with a y (B, U) and the tables' U rows. That shifts
    what potentials learn, by `log_shares`.

    Args:
      optimizer: any whose memory of a table has a number for each of its weights, or for each of its rows.
      tables: the field of the data, such as "x", whose columns are the rows of a table, by the table's path among the
        parameters, such as "network/hidden_0/kernel".
      least: the least number of columns that a batch takes of a field.

    Raises ValueError for no tables and a `least` below 1 or of another field; `training.init` for a table that is not
    among the parameters; `fit` for data that do not fit.
    """
    least = {} if least is None else dict(least)
    for name, number in least.items():
        check_whole(f"least[{name!r}]", number, 1)
    if not tables or not {*least} <= {*tables.values()}:
        raise ValueError(
            'touching needs tables, such as {"network/hidden_0/kernel": "x"}, and in least fields among theirs, got '
            f"{tables} and {least}"
        )
    return Touching(optimizer, tuple(tables.items()), tuple(least.items()))


def log_shares(y: Any, batch_size: int, least: int) -> np.ndarray:
    """log w_l (L,): in what share of the steps that see a row without label l they see the label, with `touching`.

    A label that a row has is seen with it; one that it has not only where another row of the batch has it, or it is
    drawn. So of two thousand of a million labels the potentials learn log odds that are those of the data - log w_l:
    most for rare labels, and not at all for those in every batch. With a bias by label they begin well at the log odds
    of the labels' frequencies - log w, and are potentials over all labels with bias + log w. The sum over labels of
    what they expect is then, in the mean, the one that was seen in training.

    Args:
      y: the training's truth (N, L), a SciPy matrix.
      batch_size: of `fit`.
      least: of `touching`, least["y"].

    Returns NumPy's (L,), in nats, each 0 or less. ValueError for what is no SciPy matrix, or no whole numbers from 1
    on.
    """
    from scipy.special import gammaln

    check_whole("batch_size", batch_size, 1)
    check_whole("least", least, 1)
    if not is_scipy(y):
        raise ValueError(f"log_shares needs y as a SciPy matrix, got a {type(y).__name__}")
    matrix = Matrix("y", y)
    n, labels = matrix.shape
    others = min(int(batch_size), n) - 1
    counts = np.bincount(matrix.parts[1], minlength=labels)

    def without(rows, drawn):
        """The log of how often none of so many drawn rows is one of those with the label."""
        left = np.maximum(rows - counts - drawn, 0)
        found = gammaln(rows - counts + 1) - gammaln(left + 1)
        found -= gammaln(rows + 1) - gammaln(rows - drawn + 1)
        return np.where(rows - counts >= drawn, found, -np.inf)

    none, absent = np.exp(without(n - 1, others)), np.exp(without(n, others + 1))
    size, seen = matrix.room(others + 1, int(least)), labels - absent.sum()
    drawn = (size - seen) / max(labels - seen, 1e-9)
    return np.log1p(-none * (1 - np.clip(drawn, 0, 1)))


def _path(path):
    return jax.tree_util.keystr(path, simple=True, separator="/")

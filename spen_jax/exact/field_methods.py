"""What a method of answering a field's questions offers, and what it promises."""

from typing import Any, NamedTuple, Protocol

import jax

EXACT, BOUND, APPROXIMATE = "exact", "bound", "approximate"


class Promises(NamedTuple):
    """What a method promises of each question, in words; None where it has no answer.

    `best`: "exact"; "bound", an answer and a lower bound of the least energy; "approximate", without a bound.
    `marginals` and `samples`: "exact" or "approximate". `free_energy`: "exact", "lower bound", "upper bound" or
    "approximate".
    """

    best: str | None = None
    marginals: str | None = None
    free_energy: str | None = None
    samples: str | None = None


class Tables(NamedTuple):
    """Energies or marginals of single values, (B, *nodes, K), and of joint ones, an array for each kind of factors."""

    nodes: jax.Array
    links: Any


class Method(Protocol):
    """How a field's questions are answered.

    A method has those of the following functions that it promises answers of:

    - `best(field, tables)`: an answer in whole numbers (B, *nodes), and a lower bound of the least energy (B,);
    - `expectations(field, tables)`: F (B,), the marginals arranged as `spread` has the tables, and the residual (B,);
    - `drawn(field, tables, key, n)`: n answers for each example, (B, n, *nodes), and infinity where nothing is allowed;
    - `recursion(field, tables, algebra)`: what an algebra makes of all answers, (B,).
    """

    def promises(self, field: Any) -> Promises:
        """What it promises of the questions of this field."""
        ...

    def check(self, field: Any) -> None:
        """ValueError where it cannot answer for such a field."""
        ...


def read_method(method: Any, default: Method) -> Method:
    """A method, the default for None; ValueError for what is none."""
    if method is None:
        return default
    if isinstance(method, type) or not hasattr(method, "promises"):
        raise ValueError(f"method must be one such as BeliefPropagation(), got {method!r}")
    return method

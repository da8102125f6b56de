"""What a method of answering a field's questions offers, and what it promises."""

from typing import Any, NamedTuple, Protocol

import jax

EXACT, BOUND, APPROXIMATE = "exact", "bound", "approximate"


class Promises(NamedTuple):
    """What a method promises of each question; None where it has no answer."""

    best: str | None = None
    marginals: str | None = None
    free_energy: str | None = None
    samples: str | None = None


class Tables(NamedTuple):
    """Energies of single values, (B, *nodes, K), and of joint ones, an array for each kind of factors."""

    nodes: jax.Array
    links: tuple[jax.Array, ...]


class Method(Protocol):
    """How a field's questions are answered; one that has no answer is not asked."""

    def promises(self, field: Any) -> Promises:
        """What it promises."""
        ...

    def check(self, field: Any) -> None:
        """ValueError where it cannot answer for such a field."""
        ...

    def best(self, field: Any, tables: Tables) -> tuple[jax.Array, jax.Array]:
        """An answer in whole numbers (B, *nodes), and a lower bound of the least energy (B,)."""
        ...

    def expectations(self, field: Any, tables: Tables) -> tuple[jax.Array, Tables, jax.Array]:
        """F (B,), the marginals arranged as `spread` has the tables, and the residual (B,)."""
        ...

    def drawn(
        self, field: Any, tables: Tables, key: jax.Array, n: int
    ) -> tuple[jax.Array, jax.Array]:
        """n answers for each example, (B, n, *nodes), and infinity where nothing is allowed, (B,)."""
        ...

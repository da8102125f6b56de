"""What a step of each design takes on one device, by formula: docs/do/scale.md has them in words, scale.py checks them.

n weights of four bytes, of which Adam keeps three numbers each; b = B / P examples of the batch on each of P devices.
Arguments, operations and collectives were derived, the factors of temporaries fitted to compiled programs.
"""

from typing import NamedTuple


class Size(NamedTuple):
    """Of a batch and a model on P devices, T steps, shortlists of k, `on` features and `own` labels of a row.

    `blocks` of a batch run one after another, several on a CPU alone: (how many, of how many examples), None for one.
    """

    B: int
    L: int
    D: int
    H: int
    M: int
    T: int = 5
    k: int = 16
    on: int = 20
    own: int = 3
    P: int = 8
    blocks: tuple[int, int] | None = None


class Counts(NamedTuple):
    """Of one program on one device: bytes, operations, runs of collectives and bytes of their results."""

    arguments: float
    temporaries: float
    operations: float
    collectives: float
    result_bytes: float


def by_label(s: Size) -> int:
    """Weights that labels have: rows of W, bias and C."""
    return s.L * (s.H + 1 + s.M)


def others(s: Size) -> int:
    """Weights that labels do not have: the hidden layer, b and c2."""
    return (s.D + 1) * s.H + 2 * s.M


def steps_operations(s: Size, trained: bool, again: bool = False) -> float:
    """Of an example: the potentials and T steps; and the way back through them, which may make the steps `again`."""
    passes = (16 if again else 12) if trained else 4
    return (6 if trained else 2) * s.H * s.L + passes * s.T * s.L * s.M


def layer_operations(s: Size, trained: bool) -> float:
    """Of an example: the hidden layer, whose inputs need no derivative."""
    return (4 if trained else 2) * s.D * s.H


def kept(s: Size, numbers: float) -> float:
    """Bytes of what T steps leave for the way back, four and a half arrays each, for so many numbers of a batch."""
    return 18 * numbers * (s.T + 4)


def data_parallel(s: Size, trained: bool) -> Counts:
    """Everything everywhere, the batch cut: of training one sum of the gradient and the loss."""
    n, b = by_label(s) + others(s), s.B / s.P
    work = b * (steps_operations(s, trained) + layer_operations(s, trained))
    if not trained:
        return Counts(4 * n + 4 * b * s.D, 4 * s.M * s.L + 12 * b * s.L, work, 0, 0)
    arguments = 12 * n + 12 + 4 * b * (s.D + s.L)
    return Counts(arguments, 5 * n + kept(s, b * s.L), work, 1, 4 * n + 4)


def in_parts(s: Size, trained: bool) -> Counts:
    """`parallel.sharded`: seven arrays gathered, seven sums, of their gradients and of the checks."""
    n, b = by_label(s) + others(s), s.B / s.P
    whole = data_parallel(s, True)
    arguments = 12 * n / s.P + 12 + 4 * b * (s.D + s.L)
    return Counts(arguments, whole.temporaries + 8 * n, whole.operations, 14, 8 * n + 104)


def of_labels(s: Size, trained: bool) -> Counts:
    """`parallel.by_label`: of each step of inference a sum (B, M), and one of the way back through it."""
    blocks, block = s.blocks or (1, s.B)
    again = blocks > 1  # and more than 12 MB to keep, which these sizes have
    n = by_label(s) / s.P + others(s)
    layer = layer_operations(s, trained) * s.B
    work = steps_operations(s, trained, again) * s.B / s.P + layer
    sums = s.T * blocks * (2 + again if trained else 1)
    each = 4.0 * block * s.M
    if not trained:
        temporaries = (4 * s.M * s.L + 12 * s.B * s.L) / s.P
        return Counts(4 * n + 4 * s.B * s.D, temporaries, work, sums, sums * each)
    arguments = 12 * n + 12 + 4 * s.B * (s.D + s.L)
    temporaries = 5 * n + kept(s, block * s.L / s.P) + 4 * s.B * s.L
    return Counts(arguments, temporaries, work, sums + 1, sums * each + 4 * s.B * (s.H + 1) + 48)


def shortlists(s: Size, trained: bool) -> Counts:
    """A `Shortlist` on a batch that is cut: the choice of labels gathers what it chooses among, on every device."""
    b, n = s.B / s.P, by_label(s) + others(s)
    work = b * (layer_operations(s, trained) + 2 * s.H * s.L + 4 * s.T * s.k * s.M)
    scores, gathered, calls = s.L, 0, 1
    while scores > 64 * s.k:  # the maxima of 32 neighbours, and the neighbours of the best of them
        scores, gathered, calls = -(-scores // 32), gathered + 32 * s.k, calls + 1
    said = 4 * s.B * (scores + gathered)
    return Counts(4 * n + 4 * b * s.D, said + 4 * b * s.L, work, calls, said)


def touched_rows(s: Size, trained: bool, entries: tuple[int, int], rows: tuple[int, int]) -> Counts:
    """`training.touching` on one device: the state whole, all else of the touched rows, `entries` stored for them."""
    small = s._replace(D=rows[0], L=rows[1])
    n = by_label(s) + others(s)
    part = by_label(small) + others(small)
    batch = sum(
        16 * e + 4 * (s.B + 1) + 4 * (u + 1) + 4 * u for e, u in zip(entries, rows, strict=True)
    )
    blocks, block = s.blocks or (1, s.B)
    work = s.B * steps_operations(
        small, True, blocks > 1
    )  # the hidden layer is no product of arrays
    temporaries = 24 * part + kept(s, block * small.L) * 5 / 3
    return Counts(12 * n + 12 + batch, temporaries, work, 0, 0)

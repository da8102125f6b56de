"""Files of the UAI competitions: networks, evidence and most probable answers."""

import decimal
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from spen_jax.exact.network import Network, read_network

EASY = 700.0  # exp(-E) is a normal float64 for energies of up to that, either way.
PIECE = 600.0  # A constant is written in parts of up to that.
# Of potentials that no float64 holds.
WIDE = decimal.Context(
    prec=25, Emin=decimal.MIN_EMIN, Emax=decimal.MAX_EMAX, traps=[decimal.InvalidOperation]
)


class _Tokens:
    """The words of a file in turn, without comments, from # to the end of a line."""

    def __init__(self, path: str | Path):
        self.path = Path(path)
        try:
            text = self.path.read_bytes().decode("utf-8-sig")
        except UnicodeDecodeError:
            raise ValueError(f"{self.path}: expected text in ASCII or UTF-8") from None
        self.words = [word for line in text.split("\n") for word in line.split("#")[0].split()]
        self.at = 0

    def refusal(self, expected: str, at: int | None = None) -> ValueError:
        """What to raise: the file, what was expected, which token came."""
        at = self.at if at is None else at
        got = repr(self.words[at][:40]) if at < len(self.words) else "the end of the file"
        return ValueError(f"{self.path}: expected {expected} at token {at + 1}, got {got}")

    def word(self, expected: str) -> str:
        """The next word."""
        if self.at >= len(self.words):
            raise self.refusal(expected)
        self.at += 1
        return self.words[self.at - 1]

    def whole(self, name: str, least: int = 0, most: float = math.inf) -> int:
        """The next word as a whole number of a range."""
        span = f"from {least} to {most}" if most < math.inf else f"of {least} or more"
        expected = f"{name}, a whole number {span}"
        word = self.word(expected)
        # Python would take underscores and the digits of other scripts.
        if len(word) > 18 or not (word.isascii() and word.isdigit()):
            raise self.refusal(expected, self.at - 1)
        if not least <= int(word) <= most:
            raise self.refusal(expected, self.at - 1)
        return int(word)

    def energies(self, name: str, count: int) -> np.ndarray:
        """-log of the next numbers; infinite for 0."""
        words = self.words[self.at : self.at + count]
        expected = f"{name}, {count} potentials of 0 or more"
        if len(words) < count:
            raise self.refusal(expected, len(self.words))
        try:
            values = np.array([float(word) for word in words])
        except ValueError:
            values = np.array([_float(word) for word in words])
        odd = (values < np.finfo(float).tiny) | ~np.isfinite(values) | ["_" in w for w in words]
        with np.errstate(divide="ignore", invalid="ignore"):
            found = 0.0 - np.log(values)
        for k in np.flatnonzero(odd):
            found[k] = _energy(words[k])
            if np.isnan(found[k]):
                raise self.refusal(expected, self.at + int(k))
        self.at += count
        return found

    def end(self) -> None:
        """ValueError for words that are left."""
        if self.at < len(self.words):
            raise self.refusal("the end of the file")


def _float(word: str) -> float:
    try:
        return float(word)
    except ValueError:
        return math.nan


def _energy(word: str) -> float:
    """-log of a number that no normal float64 is; NaN for what is no potential."""
    try:
        value = decimal.Decimal(word)
    except decimal.InvalidOperation:
        return math.nan
    if not value.is_finite() or value < 0 or "_" in word or not word.isascii():
        return math.nan
    return -float(WIDE.ln(value)) if value else math.inf


def read_uai(path: str | Path) -> Network:
    """A network of energies -log p, from a UAI file of potentials p: MARKOV or BAYES; a potential 0 is infinity.

    The file at `path` holds the kind of network, the number of variables and their sizes, the number of factors and
    their scopes, then for each factor the number of its potentials and these, the last variable of the scope the
    fastest. In a BAYES network the last variable of a scope is the child, the potentials are probabilities, and the
    energies sum to -log P(y). Comments run from # to the end of a line. Potentials beyond float64 such as 1e-500 keep
    their energy. Source: UAI inference competitions, 2008 to 2022.

    Raises:
      ValueError: that names the file, what was expected, and the token that came instead: another kind of file, one cut
        short or too long, a wrong number of potentials, a variable unknown or repeated, potentials below 0 or NaN.
      OSError: where the file cannot be read.
    """
    tokens = _Tokens(path)
    if tokens.word("a UAI file that begins with MARKOV or BAYES") not in ("MARKOV", "BAYES"):
        raise tokens.refusal("a UAI file that begins with MARKOV or BAYES", 0)
    n = tokens.whole("the number of variables")
    sizes = []
    for i in range(n):
        sizes.append(tokens.whole(f"the number of states of variable {i}", 1))
    scopes = []
    for f in range(tokens.whole("the number of factors")):
        count = tokens.whole(f"the number of variables of factor {f}", 0, n)
        scope = []
        for _ in range(count):
            i = tokens.whole(f"a variable of factor {f}", 0, n - 1)
            if i in scope:
                raise tokens.refusal(f"each variable of factor {f} once", tokens.at - 1)
            scope.append(i)
        scopes.append(tuple(scope))
    tables = []
    for f, scope in enumerate(scopes):
        shape = [sizes[i] for i in scope]
        count = math.prod(shape)
        tokens.whole(f"the number of potentials of factor {f} on variables {scope}", count, count)
        tables.append(tokens.energies(f"the table of factor {f}", count).reshape(shape))
    tokens.end()
    return Network(tuple(sizes), scopes, tables)


def write_uai(network: Network, path: str | Path) -> None:
    """Potentials exp(-E) of a network, as a MARKOV file that `read_uai` reads with the energies to 16 digits.

    A table with energies beyond 700 either way is written less its least energy, and these constants as factors of no
    variables, 600 at most in each, so that the potentials suit readers of float64; what still lies below is written
    with its exponent, such as 1e-500, which such readers take for 0. The file takes its name, `path`, once it is whole.

    Raises:
      ValueError: for scopes and tables that do not fit, NaN, -infinity, and energies that differ by more than 1e18.
      OSError: where the file cannot be written.
    """
    sizes, scopes, tables = read_network(*network)
    constant, blocks = 0.0, []
    for f, table in enumerate(tables):
        finite = table[np.isfinite(table)]
        if finite.size and np.max(np.abs(finite)) > EASY:
            constant += float(np.min(finite))
            table = table - np.min(finite)
        blocks.append(_written(f, table))
    pieces = min(math.ceil(abs(constant) / PIECE), 1000)
    scopes = [*scopes, *[()] * pieces]
    blocks += [_written(len(tables), np.array(constant / max(pieces, 1)))] * pieces
    lines = ["MARKOV", str(len(sizes)), _line(sizes), str(len(scopes))]
    lines += [_line([len(scope), *scope]) for scope in scopes]
    _replace(path, "\n".join([*lines, *blocks]) + "\n")


def _written(f: int, table: np.ndarray) -> str:
    """The number of potentials and these, a line for each state of all variables but the last."""
    words = [_potential(f, energy) for energy in table.reshape(-1).tolist()]
    length = table.shape[-1] if table.ndim else 1
    rows = [" ".join(words[k : k + length]) for k in range(0, len(words), length)]
    return "\n".join([f"\n{table.size}", *rows])


def _potential(f: int, energy: float) -> str:
    if energy == math.inf:
        return "0"
    if abs(energy) <= EASY:
        return repr(math.exp(-energy))
    # Beyond that exponents do not fit, nor do energies keep a digit after the point.
    if abs(energy) > 1e18:
        raise ValueError(
            f"energies of factor {f} differ by {energy}, too much for potentials exp(-energy); divide all energies by "
            "a number, or write infinity where that is what is meant"
        )
    return f"{WIDE.exp(decimal.Decimal(-energy)):.17e}"


def read_evidence(path: str | Path) -> dict[int, int]:
    """Observed values by variable, from an evidence file: `k v1 x1 ... vk xk`, or the number of samples, 1, before it.

    A dict {variable: value} of whole numbers from 0, as `FactorGraph.given` takes it; comments run from # to the end of
    a line. The format is that of the UAI inference competitions, 2008 to 2022.

    ValueError, which names the file, for more than one sample, one cut short or too long, and a variable observed
    twice; OSError where the file at `path` cannot be read.
    """
    tokens = _Tokens(path)
    count = tokens.whole("the number of observed variables, or of samples")
    length = len(tokens.words)
    if length != 2 * count + 1 and count == 1:
        count = tokens.whole("the number of observed variables")
    elif length > 2 * count + 1:
        raise ValueError(
            f"{tokens.path}: expected {count} observed variables and their values, or one sample of evidence, got "
            f"{length} numbers"
        )
    found: dict[int, int] = {}
    for _ in range(count):
        i = tokens.whole("an observed variable")
        if i in found:
            raise tokens.refusal("each observed variable once", tokens.at - 1)
        found[i] = tokens.whole(f"the value of variable {i}")
    tokens.end()
    return found


def write_evidence(evidence: Mapping[int, int], path: str | Path) -> None:
    """The observed values `evidence`, {variable: value}, as a file `k v1 x1 ... vk xk`, which `read_evidence` reads.

    The file takes its name, `path`, once it is whole. ValueError for what are no whole numbers of 0 or more; OSError
    where it cannot be written.
    """
    words = [_number("evidence", part) for pair in evidence.items() for part in pair]
    _replace(path, _line([len(evidence), *words]) + "\n")


def read_solution(path: str | Path) -> np.ndarray:
    """An answer y (n,), from a file of a most probable one: `MPE`, then `n y1 ... yn`, or 1, for one sample, before it.

    Whole numbers, NumPy; the format is that of the UAI inference competitions, 2008 to 2022. ValueError, which names
    the file, for another kind of result, and one cut short or too long; OSError where the file at `path` cannot be
    read.
    """
    tokens = _Tokens(path)
    if tokens.word("a file of results that begins with MPE") != "MPE":
        raise tokens.refusal("a file of results that begins with MPE", 0)
    n = tokens.whole("the number of variables")
    if n == 1 and len(tokens.words) != 3:
        n = tokens.whole("the number of variables")
    y = []
    for i in range(n):
        y.append(tokens.whole(f"the value of variable {i}"))
    tokens.end()
    return np.array(y, int)


def write_solution(y: Sequence[int] | np.ndarray, path: str | Path) -> None:
    """An answer y (n,), whole numbers, as a file of `MPE` and `n y1 ... yn`, which `read_solution` reads.

    The file takes its name, `path`, once it is whole. ValueError for what are no whole numbers of 0 or more; OSError
    where it cannot be written.
    """
    values = [_number("y", value) for value in y]
    _replace(path, "MPE\n" + _line([len(values), *values]) + "\n")


def _number(name: str, value: Any) -> int:
    if int(value) != value or value < 0:
        raise ValueError(f"{name} must hold whole numbers of 0 or more, got {value}")
    return int(value)


def _line(numbers: Sequence[int]) -> str:
    return " ".join(map(str, numbers))


def _replace(path: str | Path, text: str) -> None:
    """The text under a name of its own, which then is `path`."""
    path = Path(path)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.write_text(text)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)

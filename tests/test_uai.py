import random
import re
from decimal import Decimal

import numpy as np
import pytest

from spen_jax.exact.network import Network, energy_at
from spen_jax.exact.uai import (
    read_evidence,
    read_solution,
    read_uai,
    write_evidence,
    write_solution,
    write_uai,
)

HAND_MADE = """MARKOV  # a network
3
2 2 3
3
1 0
2 1 0
2 1 2 # the last variable changes fastest

2
 0.5 1
4
 4 2.4
 1 0.0

6
 1 2 3 4.0 5e-1 .25
"""


def write(path, text):
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_a_hand_made_file_is_read(tmp_path):
    found = read_uai(write(tmp_path / "a.uai", HAND_MADE))
    assert found.sizes == (2, 2, 3) and found.scopes == [(0,), (1, 0), (1, 2)]
    potentials = [np.exp(-table) for table in found.tables]
    np.testing.assert_allclose(potentials[0], [0.5, 1])
    np.testing.assert_allclose(potentials[1], [[4, 2.4], [1, 0]])
    np.testing.assert_allclose(potentials[2], [[1, 2, 3], [4, 0.5, 0.25]])
    assert found.tables[1][1, 1] == np.inf and found.tables[0][1] == 0


def test_a_bayesian_network_sums_to_one(tmp_path):
    text = "BAYES 2 2 3 2 1 0 2 0 1\n2 .2 .8\n6 .1 .2 .7 .3 .3 .4"
    found = read_uai(write(tmp_path / "b.uai", text))
    answers = [(i, j) for i in range(2) for j in range(3)]
    total = sum(np.exp(-energy_at(found, np.array(y))) for y in answers)
    np.testing.assert_allclose(total, 1)
    np.testing.assert_allclose(energy_at(found, np.array([1, 2])), -np.log(0.8 * 0.4))


def random_network(rng, size=1.0):
    n = int(rng.integers(0, 6))
    sizes = tuple(rng.integers(1, 4, n).tolist())
    scopes = [
        tuple(rng.choice(n, rng.integers(0, min(n, 3) + 1), replace=False).tolist())
        for _ in range(rng.integers(0, 6))
    ]
    tables = [size * rng.normal(size=[sizes[i] for i in scope]) for scope in scopes]
    tables = [np.where(rng.random(table.shape) < 0.1, np.inf, table) for table in tables]
    return Network(sizes, scopes, tables)


def test_what_is_written_is_read_again_as_it_was(tmp_path):
    rng = np.random.default_rng(0)
    for _ in range(50):
        network = random_network(rng, 10.0 ** rng.integers(-9, 2))
        write_uai(network, tmp_path / "c.uai")
        found = read_uai(tmp_path / "c.uai")
        assert found[:2] == network[:2]
        for a, b in zip(found.tables, network.tables, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-15, atol=3e-16)
    assert [path.name for path in tmp_path.iterdir()] == ["c.uai"]


@pytest.mark.parametrize("size", [1e3, 1e5, 1e15])
def test_energies_beyond_floats_keep_their_sums(tmp_path, size):
    rng = np.random.default_rng(1)
    for _ in range(10):
        network = random_network(rng, size)
        write_uai(network, tmp_path / "d.uai")
        found = read_uai(tmp_path / "d.uai")
        m = len(network.scopes)
        assert found.scopes[:m] == network.scopes and not any(found.scopes[m:])
        for _ in range(5):
            y = rng.integers(0, network.sizes)
            expected = energy_at(network, y)
            np.testing.assert_allclose(energy_at(found, y), expected, rtol=1e-13, atol=1e-14 * size)
    for table, scope in zip(found.tables, found.scopes, strict=True):
        if size < 1e6 and not scope:
            assert np.abs(table) <= 600


def test_constants_are_within_floats_of_other_readers(tmp_path):
    table = np.array([[-5000.0, -4999], [-4500, np.inf]])
    write_uai(Network((2, 2), [(0, 1)], [table]), tmp_path / "e.uai")
    numbers = [float(word) for word in (tmp_path / "e.uai").read_text().split()[1:]]
    assert max(numbers) < 1e300
    found = read_uai(tmp_path / "e.uai")
    np.testing.assert_allclose(sum(found.tables[1:]) + found.tables[0], table, rtol=1e-14)


def test_energies_that_no_potential_holds_are_refused(tmp_path):
    for energies in ([0, 1e19], [0, -1e300]):
        with pytest.raises(ValueError, match="differ by .* divide all energies"):
            write_uai(Network((2,), [(0,)], [np.array(energies)]), tmp_path / "f.uai")
    with pytest.raises(ValueError, match="must hold energies"):
        write_uai(Network((2,), [(0,)], [np.array([np.nan, 0])]), tmp_path / "f.uai")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "expected a UAI file that begins with MARKOV or BAYES at token 1, got the end"),
        ("MPE 1 0", "begins with MARKOV or BAYES at token 1, got 'MPE'"),
        (b"\xff\xfe\x00", "expected text in ASCII or UTF-8"),
        ("MARKOV 2 2", "expected the number of states of variable 1"),
        ("MARKOV 1 0 0", "states of variable 0, a whole number of 1 or more at token 3, got '0'"),
        ("MARKOV 1 2 1 1 1 2 1 1", "a variable of factor 0, a whole number from 0 to 0 at token 6"),
        ("MARKOV 2 2 2 1 2 1 1 4 1 1 1 1", "each variable of factor 0 once at token 8, got '1'"),
        ("MARKOV 1 2 1 1 0 3 1 1 1", "number of potentials of factor 0 .* from 2 to 2 at token 7"),
        ("MARKOV 1 2 1 1 0 2 1", "the table of factor 0, 2 potentials .* token 9, got the end"),
        ("MARKOV 1 2 1 1 0 2 1 -1", "potentials of 0 or more at token 9, got '-1'"),
        ("MARKOV 1 2 1 1 0 2 nan 1", "potentials of 0 or more at token 8, got 'nan'"),
        ("MARKOV 1 2 1 1 0 2 1 inf", "potentials of 0 or more at token 9, got 'inf'"),
        ("MARKOV 1 2 1 1 0 2 1 1_0", "potentials of 0 or more at token 9, got '1_0'"),
        ("MARKOV 1 2 1 1 0 2 1 one", "potentials of 0 or more at token 9, got 'one'"),
        ("MARKOV 1 2 1 1 0 2 1 1 1", "expected the end of the file at token 10, got '1'"),
        ("MARKOV 1 2.0 0", "states of variable 0"),
        ("MARKOV 99999999999 2", "states of variable 1"),
    ],
)
def test_what_is_wrong_is_named_with_its_file_and_place(tmp_path, text, message):
    path = write(tmp_path / "wrong.uai", text)
    with pytest.raises(ValueError, match=f"wrong.uai: .*{message}"):
        read_uai(path)


def minus_log(word):
    value = Decimal(word)
    return np.nan if value < 0 else -float(value.ln()) if value else np.inf


def slowly(text):
    """What a file says, read by another reader; None where it is no network."""
    number = r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?"
    words = re.sub("#[^\n]*", "", text).split()[::-1]
    try:
        if words.pop() not in ("MARKOV", "BAYES"):
            return None

        def whole():
            word = words.pop()
            if not re.fullmatch("[0-9]+", word):
                raise IndexError
            return int(word)

        sizes = [whole() for _ in range(whole())]
        scopes = [[whole() for _ in range(whole())] for _ in range(whole())]
        tables = []
        for scope in scopes:
            count = np.prod([sizes[i] for i in scope])
            if whole() != count or len(set(scope)) < len(scope):
                return None
            given = [words.pop() for _ in range(int(count))]
            if not all(re.fullmatch(number, word, re.ASCII) for word in given):
                return None
            tables.append(np.reshape([minus_log(p) for p in given], [sizes[i] for i in scope]))
    except IndexError:
        return None
    if words or 0 in sizes or any(np.any(np.isnan(table)) for table in tables):
        return None
    return sizes, scopes, tables


def test_mutations_are_read_right_or_refused_by_name(tmp_path):
    rng, read = random.Random(0), 0
    small = "BAYES\n2\n2 3\n2\n1 0\n2 0 1\n\n2\n .25 .75\n6\n .1 .2 .7\n 1 0 0\n"
    bits = [
        *"0123459-+.#e_\n \t",
        "",
        " 1",
        "nan",
        "inf",
        "1e9",
        "1e-400",
        "-0",
        "MARKOV",
        "é",
        "\0",
    ]
    for k in range(500):
        text = rng.choice([HAND_MADE, small])
        for _ in range(rng.randint(1, 2)):
            at, length = rng.randint(0, len(text)), rng.randint(0, 2)
            text = text[:at] + rng.choice(bits) + text[at + length :]
        if k % 20 == 0:
            text = text[: rng.randint(0, len(text))]
        path, expected = write(tmp_path / "mutated.uai", text), slowly(text)
        try:
            found = read_uai(path)
        except ValueError as error:
            assert expected is None and "mutated.uai: expected" in str(error), (text, error)
            continue
        assert expected is not None, text
        read += 1
        sizes, scopes, tables = expected
        assert list(found.sizes) == sizes and list(map(list, found.scopes)) == scopes
        for table, energies in zip(found.tables, tables, strict=True):
            np.testing.assert_allclose(table, energies, rtol=1e-14, atol=3e-16)
    assert 50 < read < 450


@pytest.mark.parametrize(
    "text, expected",
    [
        ("2 0 1 3 0", {0: 1, 3: 0}),
        ("1\n2 0 1 3 0\n", {0: 1, 3: 0}),
        ("1 4 2", {4: 2}),
        ("1\n1 4 2", {4: 2}),
        ("0", {}),
        ("1\n0", {}),
        ("# none\n 0 \r\n", {}),
    ],
)
def test_both_layouts_of_evidence_are_read(tmp_path, text, expected):
    assert read_evidence(write(tmp_path / "a.evid", text)) == expected


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "the number of observed variables"),
        ("2\n1 0 1\n2 1 1 2 0", "or one sample of evidence"),
        ("2 0 1 3", "the value of variable 3"),
        ("2 0 1 0 1", "each observed variable once at token 4"),
        ("1 0 -1", "the end of the file|value of variable|number of observed"),
    ],
)
def test_wrong_evidence_is_refused_by_name(tmp_path, text, message):
    with pytest.raises(ValueError, match=f"wrong.evid: .*({message})"):
        read_evidence(write(tmp_path / "wrong.evid", text))


def test_evidence_and_solutions_are_written_and_read(tmp_path):
    for evidence in ({}, {3: 0}, {3: 0, 1: 2, 0: 1}):
        write_evidence(evidence, tmp_path / "a.evid")
        assert read_evidence(tmp_path / "a.evid") == evidence
    for y in ([], [0], [1], [1, 0, 2]):
        write_solution(y, tmp_path / "a.MPE")
        assert read_solution(tmp_path / "a.MPE").tolist() == y
    assert read_solution(write(tmp_path / "b.MPE", "MPE\n1\n3 0 1 2\n")).tolist() == [0, 1, 2]
    with pytest.raises(ValueError, match="whole numbers of 0 or more, got -1"):
        write_solution([-1], tmp_path / "c.MPE")
    for text in ("PR 1 2", "MPE 3 0 1", "MPE 2 0 1 1", ""):
        with pytest.raises(ValueError, match="d.MPE: expected"):
            read_solution(write(tmp_path / "d.MPE", text))

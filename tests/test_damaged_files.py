"""Files with a few bytes changed, packed in every way: each reader gives what they say or raises `DataError`."""

import bz2
import gzip
import io
import lzma
import random
import tarfile
import time
import tracemalloc
import zipfile
from collections import Counter

import numpy as np
import pytest

from spen_jax import data
from spen_jax.data.archives import arrays_of
from spen_jax.data.lines import ROOM

ARFF = (
    "@relation 'r: -C -1'\n@attribute a numeric\n@attribute 'b c' {0,1}\n@attribute c {red,'dark green'}\n"
    "@attribute L1 {0,1}\n@data\n"
)
TREE = "1\tthe\tthe\tDET\tDT\t_\t2\tdet\t_\t_\n2\tdog\tdog\tNOUN\tNN\tCase=Nom\t0\troot\t_\t_\n\n"
CSV = (
    'id,size,"a, b",day,note,tags\n1,2.5,x,2020-01-02,"so it is, with these and those",p;q\n'
    '2,,y,,"more of these\nwords and those",\n'
)
TEXTS = {
    "dense.arff": ARFF + "1.5,0,red,1\n-2e-1,1,'dark green',0\n?,0,red,1\n",
    "sparse.arff": ARFF + "{0 1.5,3 1}\n{}\n{1 1, 2 'dark green'}\n{0 ?}\n",
    "rows.svm": "4 9 3\n0 1:1 4:2\n2,1 0:-.5\n\n 3:1\n",
    "rows.csv": CSV,
    "dates.tsv": "sep=;\nwhen;l\n0001-01-01T00:00+01:00;1\n2020-02-29;0\n",
    "tree.conllu": "# text\n" + TREE * 2,
    "words.txt": "-DOCSTART- O\n\nthe DET\ndog NOUN\n\na DET\n",
    "labels.xml": '<?xml version="1.0" encoding="utf-8"?>\n<labels>\n<label name="L1"></label></labels>\n',
}


def zipped(content):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a", content)
    return file.getvalue()


def in_tar(content):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as archive:
        entry = tarfile.TarInfo("a")
        entry.size = len(content)
        archive.addfile(entry, io.BytesIO(content))
    return file.getvalue()


PACKINGS = {
    "": bytes,
    "gz": gzip.compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "zip": zipped,
    "tar.gz": in_tar,
}
ENCODINGS = None, None, None, "utf-16", "utf-7", "cp037", "idna", "no such"


def mulan(path):
    """Both splits of a data set whose .xml, or training split, is the file."""
    folder = path.parent
    for name in ("t-train.arff", "t-test.arff"):
        (folder / name).write_text(TEXTS["sparse.arff"])
    (folder / "t.xml").write_text(TEXTS["labels.xml"])
    (folder / ("t.xml" if "xml" in path.name else "t-train.arff")).write_bytes(path.read_bytes())
    return data.read_mulan(folder, "t")


def in_some_encoding(path):
    return data.read(path, text=data.Text(encoding=ENCODINGS[path.stat().st_size % len(ENCODINGS)]))


def tables(path):
    return data.read_table(path, labels=-1)


def columns(path):
    return data.read_columns(path, ["word", "tag"])


READERS = {
    "arff": [data.read_arff, in_some_encoding, mulan],
    "svm": [data.read_svmlight, in_some_encoding],
    "csv": [tables, in_some_encoding],
    "tsv": [tables, in_some_encoding],
    "conllu": [data.read_conllu, in_some_encoding],
    "txt": [columns, in_some_encoding],
    "xml": [mulan, in_some_encoding],
    "npz": [arrays_of, data.read_letters, data.read_horses, in_some_encoding],
    "parquet": [tables, in_some_encoding],
}
BITS = [
    *(bytes([value]) for value in (0, 9, 10, 13, 32, 34, 37, 39, 40, 44, 45, 58, 64, 91, 92, 123)),
    *(b"\xff", b"\xff\xff\xff\xff", b"\x80", b"\xef\xbb\xbf", b"\xff\xfe", b"\xe9", b"1e999", b"-1"),
    *(b"9" * 11, b"9" * 5000, b"(" * 300, b"@data\n", b"{}", b"?", b"nan", b"inf", b"\n\n", b"PK"),
    *(b"<a>" * 300, b"<!DOCTYPE a>", b"encoding='utf-7'", b"encoding='idna'", b"sep= \n", b'sep="\n'),
]  # fmt: skip


def mutated(rng, whole):
    changed = whole
    for _ in range(rng.choice([1, 1, 2])):
        at, length = (
            rng.randint(0, len(changed)),
            rng.choice([0, 0, 1, 1, 1, 2, 4] + [len(changed)] * (rng.random() < 0.2)),
        )
        own = rng.randint(0, len(whole) - 1)
        random_byte = bytes([rng.randint(0, 255)])
        piece = rng.choice([rng.choice(BITS), random_byte, b"", whole[own : own + 1]])
        if rng.random() < 0.1:
            piece = changed[at : at + 40] * rng.choice([2, 50])
        changed = changed[:at] + piece + changed[at + length :]
    return changed


def archives():
    """The archives of arrays, and a table in Parquet where pyarrow is there."""
    letters = {
        "pixels": np.zeros((3, 128), np.uint8),
        "labels": np.array([1, 2, 3], np.uint8),
        "word_offsets": np.array([0, 2, 3], np.int32),
        "folds": np.array([0, 1], np.uint8),
    }
    horses = {"images": np.ones((1, 2, 2, 3), np.uint8), "masks": np.ones((1, 2, 2), np.uint8)}
    made = {}
    for name, arrays in (("letters.npz", letters), ("horses.npz", horses)):
        for save in (np.savez, np.savez_compressed):
            save(file := io.BytesIO(), **arrays)
            made[save.__name__ + name] = file.getvalue()
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        return made
    frame = pyarrow.table(
        {"a": [1.5, None, 3.0], "day": np.array(["2020-01-02"] * 3, "M8[us]"), "b": ["x", "é", "x"]}
    )
    frame = frame.replace_schema_metadata({"pandas": '{"index_columns": []}'})
    for packing in ("none", "gzip", "snappy", "zstd"):
        parquet.write_table(frame, file := io.BytesIO(), compression=packing)
        made[f"{packing}.parquet"] = file.getvalue()
    return made


def cases(rng, count):
    """(name, bytes) of files that were changed within, before they were packed, or outside."""
    whole = {name: text.encode() for name, text in TEXTS.items()}
    others = archives()
    for i in range(count):
        name = [*whole, *others][i % (len(whole) + len(others))]
        if name in others:
            yield name, mutated(rng, others[name])
            continue
        packing = rng.choice([*PACKINGS])
        within = rng.random() < 0.5
        packed = PACKINGS[packing](mutated(rng, whole[name]) if within else whole[name])
        yield f"{name}.{packing}".rstrip("."), packed if within else mutated(rng, packed)


def tried(folder, count, seed):
    """How many changed files were read and refused; everything else is a failure that says the seed."""
    rng, outcomes = random.Random(seed), Counter()
    for i, (name, content) in enumerate(cases(rng, count)):
        path = folder / name
        path.write_bytes(content)
        kind = next(kind for kind in READERS if f".{kind}" in name)
        for reader in READERS[kind]:
            began = time.process_time()
            tracemalloc.start()
            try:
                reader(path)
                outcomes[kind, "read"] += 1
            except data.DataError as error:
                assert path.name in str(error) or reader is mulan, (seed, i, error)
                assert "\n" not in str(error), (seed, i, error)
                outcomes[kind, "refused"] += 1
            except Exception as error:
                kept = folder / f"escaped-{i}-{name}"
                kept.write_bytes(content)
                raise AssertionError(f"{kept}, {reader.__name__}: {error!r}") from error
            finally:
                peak = tracemalloc.get_traced_memory()[1]
                tracemalloc.stop()
            assert peak < 2**25, (seed, i, name, reader.__name__, peak)
            assert time.process_time() - began < 5, (seed, i, name, reader.__name__)
        path.unlink()
    return outcomes


def test_two_hundred_changed_files_are_read_or_refused(tmp_path):
    found = tried(tmp_path, 200, seed=1)
    assert min(found[kind, "refused"] for kind in READERS if kind != "parquet") > 0


@pytest.mark.long
def test_two_thousand_changed_files_are_read_or_refused(tmp_path):
    found = tried(tmp_path, 2000, seed=2)
    print(dict(sorted(found.items())))


# Bombs, and headers that claim much


@pytest.mark.parametrize("packing", ["gz", "bz2", "xz"])
@pytest.mark.parametrize(
    ("reader", "beginning"),
    [(data.read_arff, b"@relation"), (data.read_svmlight, b"1 1:1"), (tables, b"a,b\n1,2\n")],
)
def test_a_bomb_is_refused_with_the_limit_and_the_way_round(tmp_path, packing, reader, beginning):
    path = tmp_path / "bomb"
    pack = {
        "gz": gzip.compress,
        "bz2": bz2.compress,
        "xz": lambda raw: lzma.compress(raw, preset=0),
    }
    path.write_bytes(pack[packing](beginning + bytes([32]) * (ROOM + 1)))
    began = time.process_time()
    with pytest.raises(
        data.DataError, match="bomb: expected at most .* once unpacked, .*unpack it first"
    ):
        reader(path)
    assert time.process_time() - began < 10


def test_an_archive_that_claims_what_no_file_of_its_size_holds_is_refused(tmp_path):
    path = tmp_path / "a.npz"
    np.savez_compressed(path, a=np.zeros(2**27, np.uint8))
    with pytest.raises(data.DataError, match="claim 134,.* are the limit; np.savez"):
        arrays_of(path)


def test_gaps_in_a_column_of_many_values_take_no_more_memory_than_fits(tmp_path):
    path, values = tmp_path / "a.arff", ",".join(f"v{i}" for i in range(20_000))
    head = f"@relation r\n@attribute a {{{values}}}\n@attribute b numeric\n@data\n"
    path.write_text(head + "?,1\n" * 20_000)
    with pytest.raises(data.DataError, match="a.arff: expected few gaps .* got 400,000,000 NaN"):
        data.read_arff(path)


def test_words_that_pad_to_much_more_than_their_letters_are_refused(tmp_path):
    path, n = tmp_path / "a.npz", 4000
    offsets = np.r_[np.arange(n // 2), n].astype(np.int32)
    arrays = {"pixels": np.zeros((n, 128), np.uint8), "labels": np.zeros(n, np.uint8)}
    np.savez(path, **arrays, word_offsets=offsets, folds=np.zeros(n // 2, np.uint8))
    with pytest.raises(data.DataError, match="at most 100 times 4000 letters"):
        data.read_letters(path)


def test_a_long_number_takes_no_longer_than_its_digits(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("a,b\n" + "9" * 200_000 + "x,1\n")
    began = time.process_time()
    data.read(path, "b")
    assert time.process_time() - began < 5

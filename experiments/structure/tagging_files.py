"""The files of tagging.py: treebanks in, trained taggers kept, and files of one's own tagged."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from tyro.conf import arg

import spen_jax as sx
from experiments import shared
from experiments.structure.tagging_data import TESTED, Tested
from experiments.structure.tagging_models import models
from spen_jax.data import Lexicon, Treebank, Vocabulary, by_length, read_conllu
from spen_jax.data.lines import read_lines
from spen_jax.networks import WordEncoder
from spen_jax.training import checkpoints

FOLDER = "Folder that holds ud_english_ewt; else SPEN_JAX_DATA, else the cache, else a download."
DataDir = Annotated[Path | None, arg(help=FOLDER)]


def treebank_of(paths: Sequence[Path], data_dir: Path | None, quick: bool) -> Treebank:
    """English EWT, or the three files named; `quick` measures on 200 sentences."""
    if paths and len(paths) != 3:
        shared.fail(f"--treebank needs three files, TRAIN DEV TEST, got {len(paths)}")
    try:
        if paths:
            train, valid, test = map(read_conllu, paths)
            checksums = {path.name: sx.data.sha256(path) for path in paths}
            bank = Treebank(paths[0].stem, train, valid, test, checksums)
        else:
            bank = sx.data.load_treebank(data_dir=data_dir)
    except (sx.data.DataError, OSError) as error:
        shared.fail(str(error))
    if quick:
        bank = bank._replace(**{s: getattr(bank, s)[:200] for s in ("valid", "test")})
    return bank


def file_of(folder: Path, model: str, n: int) -> Path:
    """Where a model trained on n sentences is kept."""
    return folder / f"{model}-{n}.spen"


def save(folder: Path, trial: Any, n: int, units: int) -> None:
    """Keep the models of one seed, each with the words and tags that it knows."""
    lexicon, tags = trial.task.lexicon, trial.task.tags
    names = {k: getattr(lexicon, k).items for k in ("words", "suffixes", "characters")}
    for name, params in trial.params.items():
        metadata = {"lexicon": names, "tags": tags.items, "units": units, "sentences": n}
        checkpoints.save(file_of(folder, name, n), params, metadata)


def tag_file(folder: Path | None, model: str, source: Path | None, out: Path | None) -> None:
    """Write `source` with the tags of a saved model: UPOS of a CoNLL-U file, else a second column."""
    if folder is None or source is None or out is None:
        shared.fail("to tag a file give --run FOLDER --tag FILE --out FILE")
    if out.exists():
        shared.fail(f"--out {out} exists; name a new file")
    try:
        lines = read_lines(source)
        files = sorted(folder.glob(f"{model}-*.spen"), key=lambda p: int(p.stem.split("-")[-1]))
        if not files:
            shared.fail(f"--run {folder} has no model {model!r}")
        params, known = checkpoints.load(files[-1])  # of most sentences
    except (OSError, ValueError) as error:
        shared.fail(str(error))
    lexicon = Lexicon(**{k: Vocabulary(tuple(v)) for k, v in known["lexicon"].items()})
    in_columns = any(len(line.split("\t")) == 10 for line in lines)
    rows = [word_of(line, in_columns) for line in lines]
    sentences, at = [[]], [[]]
    for i, word in enumerate(rows):
        if word is not None:
            sentences[-1].append(word)
            at[-1].append(i)
        elif not lines[i].strip() and sentences[-1]:
            sentences.append([])
            at.append([])
    if not sentences[-1]:
        sentences, at = sentences[:-1], at[:-1]
    if not sentences:
        shared.fail(f"--tag {source} has no words")
    built = models(WordEncoder(lexicon.sizes, known["units"]), len(known["tags"]))
    x, mask = lexicon(sentences)
    widths = [w for w in TESTED if w < mask.shape[1]] + [mask.shape[1]]
    groups = by_length({"x": x, "mask": mask}, mask, widths)
    of = Tested(groups, np.zeros(mask.shape, int), mask, ~mask).tags(built[model].answer, params)
    for places, tags in zip(at, of, strict=True):
        for i, tag in zip(places, tags, strict=False):
            lines[i] = with_tag(lines[i], known["tags"][tag])
    out.write_text("\n".join(lines), encoding="utf-8")
    shared.say(f"tagged {sum(map(len, at))} words of {len(at)} sentences; wrote {out}")


def word_of(line: str, in_columns: bool) -> str | None:
    """The word of a line, in CoNLL-U its second column; None for what is no word."""
    if not line.strip() or line.startswith("#" if in_columns else "# "):
        return None
    columns = line.split("\t")
    if len(columns) == 10:
        return columns[1] if columns[0].isdigit() else None
    return columns[0].strip()


def with_tag(line: str, tag: str) -> str:
    """The line with its tag, in CoNLL-U in the fourth column, else behind the word."""
    columns = line.split("\t")
    if len(columns) == 10:
        return "\t".join([*columns[:3], tag, *columns[4:]])
    return f"{columns[0].strip()}\t{tag}"

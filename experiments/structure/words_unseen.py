"""Words never seen: of the data's 55 words 15 are kept for the test, and the others must not be learnt by heart.

What can help is to learn from other strings than the words at hand, put together from images of their letters: random
letters, which know of no word, or English words (of the treebank EWT, less their first letters, and without all 55).
Both ends of that knob are measured, words alone and hardly any, on words that were learnt and on those that were not.
In each split a fifth of the 40 other words chooses for each model the strings with which it reads most letters of these
right; the model is then trained again with all 40.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.table import Table

import spen_jax as sx
from experiments import shared
from experiments.structure import words_figures
from experiments.structure.words_models import CONTESTANTS
from experiments.structure.words_protocol import Right, grouped, judged, trained

READERS = ("cnn", "crf", "spen")
STRINGS = {
    "words": ("", 0.0),
    "most random": ("random", 0.9),
    "half English": ("english", 0.5),
    "most English": ("english", 0.9),
}
EXAMPLES, EPOCHS = 8192, 3


class Words(NamedTuple):
    """The 55 words of a split: to learn from, to choose by, to test."""

    learnt: list[str]
    held: list[str]
    unseen: list[str]


def drawn(words: Sequence[str], seed: int) -> Words:
    """32, 8 and 15 of them, by seed."""
    kinds = sorted({*words})
    order = [kinds[i] for i in np.random.default_rng(seed).permutation(len(kinds))]
    return Words(order[:32], order[32:40], order[40:])


def english(letters: sx.data.Letters, data_dir: Path | None) -> list[str]:
    """Words of the treebank's training part as the data have words: without the first letter, of 3 to 14 others."""
    sentences = sx.data.load_treebank(data_dir=data_dir).train
    kinds = {word.lower()[1:] for sentence in sentences for word in sentence.words}
    most, known = letters.y.shape[1], {*letters.words}
    plain = (w for w in kinds if w.isascii() and w.isalpha() and 3 <= len(w) <= most)
    return sorted({*plain} - known)


def strings(
    kind: str, n: int, letters: sx.data.Letters, words: list[str], rng: np.random.Generator
) -> np.ndarray:
    """n strings (n, T) of letters that the data have, -1 beyond: English words, or drawn, as long as its words."""
    if kind == "random":
        masks = letters.mask[rng.integers(0, len(letters.mask), n)]
        return np.where(masks, rng.choice(letters.y[letters.mask], masks.shape), -1)
    there = {letters.alphabet[k] for k in np.unique(letters.y[letters.mask])}
    ids = [[letters.alphabet.index(c) for c in word] for word in words if {*word} <= there]
    chosen = [np.array(ids[i]) for i in rng.integers(0, len(ids), n)]
    return sx.data.padded(chosen, letters.y.shape[1], -1)[0]


def written(y: np.ndarray, letters: sx.data.Letters, rng: np.random.Generator) -> sx.data.Letters:
    """Strings (n, T), each letter one of its images in the data, drawn at random."""
    images, kinds = letters.x[letters.mask], letters.y[letters.mask]
    x = np.zeros((*y.shape, images.shape[-1]), np.float32)
    for kind in np.unique(y[y >= 0]):
        places = y == kind
        x[places] = images[rng.choice(np.flatnonzero(kinds == kind), places.sum())]
    return letters._replace(x=x, y=y, mask=y >= 0, folds=np.zeros(len(y), np.int32))


def mixed(setting: str, letters: sx.data.Letters, words: list[str], seed: int) -> sx.data.Groups:
    """EXAMPLES to learn from: words of these letters, and strings of them, in the shares of the setting."""
    kind, share = STRINGS[setting]
    rng = np.random.default_rng(seed)
    made = round(share * EXAMPLES)
    rows = rng.integers(0, len(letters.y), EXAMPLES - made)
    parts = (
        [letters]
        if not made
        else [letters, written(strings(kind, made, letters, words, rng), letters, rng)]
    )
    taken = [rows, np.arange(made)][: len(parts)]
    both = {
        name: np.concatenate([getattr(a, name)[r] for a, r in zip(parts, taken, strict=True)])
        for name in ("x", "y", "mask", "folds")
    }
    return grouped(letters._replace(**both), np.ones(EXAMPLES, bool))


def only(letters: sx.data.Letters, rows: np.ndarray) -> sx.data.Letters:
    """Those of its words."""
    return letters._replace(**{k: getattr(letters, k)[rows] for k in ("x", "y", "mask", "folds")})


def measure(config: Any, letters: sx.data.Letters, folder: Path) -> dict[str, Any]:
    """{"settings": {setting: {model: {"known": ..., "unseen": ...}}}, "chosen": {model: {...}}}, an entry a split.

    "known" are images of fold 0, never learnt from, of words that were learnt; "unseen" those kept for the test.
    """
    texts, words = np.array(letters.words), english(letters, config.data_dir)
    models = [m for m in READERS if m in config.models]
    none = {m: {w: {"letters": [], "words": []} for w in ("known", "unseen")} for m in models}
    found: dict[str, Any] = {"settings": {s: copied(none) for s in STRINGS}, "chosen": copied(none)}
    found["strings"] = {m: [] for m in models}
    with shared.progress_bars() as progress:
        for seed in config.seeds:
            split = drawn(letters.words, seed)

            def part(of, fold0, texts=texts):
                return np.flatnonzero(np.isin(texts, of) & ((letters.folds == 0) == fold0))

            def both(learnt, texts=texts, split=split):
                unseen = np.flatnonzero(np.isin(texts, split.unseen))
                return {
                    "known": grouped(letters, part(learnt, True)),
                    "unseen": grouped(letters, unseen),
                }

            held = grouped(letters, part(split.held, False))
            first = only(letters, part(split.learnt, False))
            every = only(letters, part(split.learnt + split.held, False))
            for name in models:
                one, scores = CONTESTANTS[name], {}
                for setting in STRINGS:
                    groups = mixed(setting, first, words, seed)
                    params = trained(one, groups, epochs_of(config), seed, progress)
                    scores[setting] = judged(one, params, held).letters
                    add(found["settings"][setting][name], one, params, both(split.learnt))
                best = max(scores, key=lambda s: scores[s])
                groups = mixed(best, every, words, seed)
                params = trained(one, groups, epochs_of(config), seed, progress)
                add(found["chosen"][name], one, params, both(split.learnt + split.held))
                found["strings"][name].append(best)
                shared.write_json(folder / "unseen.json", found)
    words_figures.draw_unseen(found["settings"], folder / "unseen.png")
    return found


def epochs_of(config: Any) -> int:
    """Passes over the examples."""
    return 1 if config.quick else EPOCHS


def copied(tree: Any) -> Any:
    """Dicts of dicts of lists, all its own."""
    return {k: copied(v) for k, v in tree.items()} if isinstance(tree, dict) else [*tree]


def add(found: dict[str, Any], one: Any, params: Any, tests: dict[str, Any]) -> None:
    """Appends what the model reads right of each test."""
    for what, groups in tests.items():
        for name, value in judged(one, params, groups)._asdict().items():
            found[what][name].append(value)


def tables(found: dict[str, Any]) -> list[Table]:
    """What each knows of both kinds of words, in per cent."""
    columns = [f"{kind}: {what}" for kind in ("known", "unseen") for what in Right._fields]
    made = []
    for title, rows in [("chosen", {"": found["chosen"]}), ("by setting", found["settings"])]:
        shown = Table("", *columns, title=f"unseen words, {title}: mean ± spread over splits, %")
        for setting, models in rows.items():
            for name, of in models.items():
                each = [of[kind][what] for kind in ("known", "unseen") for what in Right._fields]
                label = f"{CONTESTANTS[name].title}{', ' * bool(setting)}{setting}"
                shown.add_row(label, *map(shared.mean_and_spread, each))
        made.append(shown)
    return made

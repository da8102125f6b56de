import warnings

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spen_jax import metrics
from spen_jax.metrics import attachment, entities, entity_f1, token_accuracy, whole_accuracy

TRUTH = np.array([[1, 2, 3], [4, 5, -1], [6, -1, -1], [-1, -1, -1]])
MASK = TRUTH >= 0
Y = np.array([[1, 2, 3], [4, 0, 9], [0, 6, 6], [0, 1, 2]])

# Places of labels


def test_accuracies_of_a_small_table_are_those_counted_by_hand():
    assert token_accuracy(Y, TRUTH, MASK) == pytest.approx(4 / 6)
    assert whole_accuracy(Y, TRUTH, MASK) == pytest.approx(1 / 3)
    assert token_accuracy(Y, TRUTH) == pytest.approx(4 / 12)
    assert whole_accuracy(Y, TRUTH) == pytest.approx(1 / 4)


def test_what_does_not_count_may_be_anything():
    rng = np.random.default_rng(0)
    for _ in range(5):
        y, truth = (np.where(MASK, a, rng.integers(-9, 9, MASK.shape)) for a in (Y, TRUTH))
        for metric in token_accuracy, whole_accuracy:
            assert metric(y, truth, MASK) == metric(Y, TRUTH, MASK)
        assert attachment(y, truth, MASK, y, truth) == attachment(Y, TRUTH, MASK, Y, TRUTH)


@pytest.mark.parametrize("dtype", [np.int8, np.int64, np.uint16])
def test_whole_numbers_of_any_type_and_library_are_read_alike(dtype):
    y, truth = Y.astype(dtype), np.where(MASK, TRUTH, 0).astype(np.int32)
    for a, b, mask in (y, truth, MASK), (jnp.asarray(y), truth.tolist(), jnp.asarray(MASK, int)):
        value = token_accuracy(a, b, mask)
        assert type(value) is float
        assert value == token_accuracy(Y, TRUTH, MASK)


# Trees


def test_attachment_of_a_small_table_is_that_counted_by_hand():
    heads = np.array([[2, 0, 2], [0, 1, 0], [2, 0, 0]])
    truth = np.array([[2, 0, 2], [0, 1, 9], [0, 1, 9]])
    mask = np.array([[True] * 3, [True, True, False], [True, True, False]])
    relations = np.array([[1, 2, 3], [4, 5, 6], [7, 8, 9]])
    true_relations = np.array([[1, 2, 0], [4, 5, 0], [7, 8, 0]])
    assert attachment(heads, truth, mask) == (pytest.approx(5 / 7), None, pytest.approx(2 / 3))
    both = attachment(heads, truth, mask, relations, true_relations)
    assert both == (pytest.approx(5 / 7), pytest.approx(4 / 7), pytest.approx(2 / 3))
    assert both == metrics.Attachment(*both)


def test_relations_come_in_pairs_of_the_shape_of_heads():
    for options in {"relations": Y}, {"true_relations": Y}:
        with pytest.raises(ValueError, match="must both be given, or neither"):
            attachment(Y, TRUTH, MASK, **options)
    with pytest.raises(ValueError, match="relations and true_relations must share one shape"):
        attachment(Y, TRUTH, None, Y, TRUTH[:2])
    with pytest.raises(ValueError, match=r"relations must have the shape \(4, 3\) of heads"):
        attachment(Y, TRUTH, MASK, Y[:2], TRUTH[:2])


@pytest.mark.parametrize("metric", [token_accuracy, whole_accuracy, attachment])
def test_what_is_no_table_of_whole_numbers_is_refused(metric):
    for other in Y[:1], Y[:, :1], Y[0], Y[..., None]:
        with pytest.raises(ValueError, match=r"must share one shape \(N, T\).*row to each example"):
            metric(other, TRUTH)
    for flat in Y[0], Y[:0], Y[:, :0]:
        with pytest.raises(ValueError, match=r"must share one shape \(N, T\)"):
            metric(flat, flat)
    for soft in Y + 0.0, Y > 0:
        with pytest.raises(ValueError, match="^(y|heads) must be whole numbers, such as argmax"):
            metric(soft, TRUTH)
        with pytest.raises(ValueError, match="^truth must be whole numbers"):
            metric(Y, soft)
    for text in Y.astype(str), np.ma.array(Y):
        with pytest.raises(ValueError, match="^(y|heads) must"):
            metric(text, TRUTH)
    wrong = (MASK[:2], r"shape \(4, 3\)"), (0.5 * Y, "only 0 and 1"), (0 * Y, "all False")
    for mask, said in wrong:
        with pytest.raises(ValueError, match=f"mask must .*{said}"):
            metric(Y, TRUTH, mask)


# Spans


@pytest.mark.parametrize(
    ("tags", "spans"),
    [
        ("", []),
        ("O O", []),
        ("B-PER I-PER O B-LOC", [("PER", 0, 2), ("LOC", 3, 4)]),
        ("I-PER I-PER O I-LOC", [("PER", 0, 2), ("LOC", 3, 4)]),
        ("I-PER B-PER I-PER", [("PER", 0, 1), ("PER", 1, 3)]),
        ("B-PER I-LOC I-LOC", [("PER", 0, 1), ("LOC", 1, 3)]),
        ("B-A B-A B-A", [("A", 0, 1), ("A", 1, 2), ("A", 2, 3)]),
        ("B-A I-A E-A S-A", [("A", 0, 3), ("A", 3, 4)]),
        ("E-A E-A I-A", [("A", 0, 1), ("A", 1, 2), ("A", 2, 3)]),
        ("B-a-b I-a-b I-a", [("a-b", 0, 2), ("a", 2, 3)]),
        ("B I O I", [("_", 0, 2), ("_", 3, 4)]),
    ],
)
def test_entities_of_tags_in_all_their_styles(tags, spans):
    assert entities(tags.split()) == spans


TAGS = ["O"] + [f"{prefix}-{kind}" for prefix in "BIES" for kind in ("A", "B-C")] + ["B", "I"]
tag = st.sampled_from(TAGS)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.lists(st.tuples(tag, tag), min_size=1, max_size=8), min_size=1, max_size=4))
def test_entities_agree_with_seqeval(sentences):
    seqeval = pytest.importorskip("seqeval.metrics")
    labeling = pytest.importorskip("seqeval.metrics.sequence_labeling")
    answers = [[a for a, _ in sentence] for sentence in sentences]
    truth = [[b for _, b in sentence] for sentence in sentences]
    for tags in answers:
        spans = [(kind, start, stop - 1) for kind, start, stop in entities(tags)]
        assert spans == labeling.get_entities(tags)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns where nothing is true or predicted
        assert entity_f1(answers, truth) == pytest.approx(seqeval.f1_score(truth, answers))


def test_f1_of_entities_is_over_all_sentences_at_once():
    truth = [["B-A", "I-A", "O"], ["B-B"], ["O"]]
    answers = [["B-A", "I-A", "B-B"], ["B-A"], ["O"]]
    assert entity_f1(answers, truth) == pytest.approx(2 / 5)
    assert entity_f1(truth, truth) == 1
    assert entity_f1([["O"]], [["O"]]) == entity_f1([], []) == 0


def test_other_tags_and_lengths_are_refused():
    for tags in ["B-A", "X-A"], ["o"], ["O-A"], ["BA"], [""], [1], [None]:
        with pytest.raises(
            ValueError, match="tags must be O, or B-, I-, E- or S- with a kind, got"
        ):
            entities(tags)
    with pytest.raises(ValueError, match="must be a list of tags, got the text 'O'"):
        entities("O")
    with pytest.raises(ValueError, match=r"truth\[1\] must be O.*got 'x'"):
        entity_f1([["O"], ["O"]], [["O"], ["x"]])
    with pytest.raises(ValueError, match="the same sentences, but hold 1 and 2"):
        entity_f1([["O"]], [["O"], ["O"]])
    with pytest.raises(ValueError, match=r"tags\[1\] and truth\[1\] .* 1 and 2 tags"):
        entity_f1([["O"], ["O"]], [["O"], ["O", "O"]])
    with pytest.raises(ValueError, match="the same sentences"):
        entity_f1("O", "O")
    with pytest.raises(ValueError, match="a list of tags, got the text 'O'"):
        entity_f1(["O"], ["O"])

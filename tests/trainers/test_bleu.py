"""BLEU against its formula, written out anew."""

import math
import random
from collections import Counter
from collections.abc import Callable, Sequence

import pytest

from nasrepro.trainers.bleu import bleu, multi_bleu, signature

REFERENCE = ["eine", "gruppe", "von", "männern", "lädt", "baumwolle", "auf", "einen", "lastwagen"]


def papineni(hypotheses: Sequence[Sequence[str]], references: Sequence[Sequence[str]]) -> float:
    """Papineni et al. 2002, equations 2 and 3, one reference each: counts over the corpus, no smoothing."""

    def grams(words: Sequence[str], n: int) -> Counter[tuple[str, ...]]:
        return Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))

    logs = 0.0
    for n in range(1, 5):
        pairs = [(grams(h, n), grams(r, n)) for h, r in zip(hypotheses, references, strict=True)]
        matched = sum(sum((ours & theirs).values()) for ours, theirs in pairs)
        total = sum(sum(ours.values()) for ours, _ in pairs)
        if not matched:
            return 0.0
        logs += math.log(matched / total) / 4
    ours, theirs = sum(map(len, hypotheses)), sum(map(len, references))
    return 100 * math.exp(logs + min(0.0, 1 - theirs / ours))


@pytest.mark.parametrize("seed", range(20))
def test_multi_bleu_is_the_formula(seed: int) -> None:
    rng = random.Random(seed)
    references = [[rng.choice("abcdefg") for _ in range(rng.randint(1, 12))] for _ in range(15)]
    hypotheses = [
        [rng.choice("abc") if rng.random() < 0.3 else word for word in words][: rng.randint(1, 14)]
        for words in references
    ]
    assert multi_bleu(hypotheses, references) == pytest.approx(papineni(hypotheses, references), abs=1e-9)


def test_an_order_without_a_match_is_zero_as_in_multi_bleu() -> None:
    assert multi_bleu([["eine", "frau", "steht", "."]], [REFERENCE]) == 0.0
    assert multi_bleu([REFERENCE], [REFERENCE]) == pytest.approx(100)


def test_sacrebleu_reads_the_sentence_as_published() -> None:
    """Tokens are put together again: a hyphen split by the tokeniser costs nothing, nor do capitals."""
    tokens = ["der", "junge", "trägt", "ein", "t", "@-@", "shirt", ",", "das", "rot", "ist", "."]
    assert bleu([tokens], ["Der Junge trägt ein T-Shirt, das rot ist."]) == pytest.approx(100)
    assert bleu([tokens], ["Der Junge trägt ein Hemd, das rot ist."]) < 80


def test_the_signature_says_how_it_was_counted() -> None:
    for part in ("nrefs:1", "case:lc", "tok:13a", "smooth:exp", "version:"):
        assert part in signature()


@pytest.mark.parametrize("function", [bleu, multi_bleu])
def test_every_translation_needs_a_reference(function) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match="got 1 for 2"):
        function([REFERENCE, REFERENCE], [REFERENCE])
    with pytest.raises(ValueError, match="got 0 for 0"):
        function([], [])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: bleu(["ein hund ."], ["ein hund ."]), r"hypotheses\[0\] is the string .*: pass its tokens"),
        (lambda: bleu([["ein", "hund"], "ein hund"], ["ein hund"] * 2), r"hypotheses\[1\] is the string"),
        (lambda: bleu("ein", ["e", "i", "n"]), "hypotheses is the string 'ein'"),
        (lambda: bleu([["a"], ["b"]], "ab"), "text is the string 'ab'"),
        (lambda: bleu([["ein"]], [["ein"]]), r"text\[0\] is \['ein'\]: pass the sentence as published"),  # type: ignore[list-item]
        (lambda: multi_bleu(["ein hund"], [["ein", "hund"]]), r"hypotheses\[0\] is the string"),
        (lambda: multi_bleu([["ein", "hund"]], ["ein hund"]), r"tokens\[0\] is the string 'ein hund'"),
    ],
)
def test_letters_are_not_counted_for_words(call: Callable[[], float], message: str) -> None:
    with pytest.raises(TypeError, match=message):
        call()

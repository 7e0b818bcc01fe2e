"""BLEU, the two ways that matter here: as sacrebleu defines it, and as papers of 2017 counted it.

S17 does not say which one its Table 3 holds. OpenNMT's recipe of the time scored tokenised, lower-cased text with
Moses' multi-bleu.perl, so that is the number to hold beside the paper's; sacrebleu's is the one to hold beside anybody
else's.
"""

import reprlib
from collections.abc import Sequence
from functools import cache, partial

from sacrebleu.metrics.bleu import BLEU
from sacremoses import MosesDetokenizer

from nasrepro.datasets.strings import refuse_sentences_as_strings, refuse_string

_sacrebleu = partial(BLEU, lowercase=True)


def bleu(hypotheses: Sequence[Sequence[str]], text: Sequence[str], language: str = "de") -> float:
    """sacrebleu's BLEU, 0 to 100, without case: tokens put back together, against the sentences as published.

    `signature()` says what it stands for. Raises ValueError where there is not one reference for each hypothesis,
    TypeError where a hypothesis is a string or a reference is none.
    """
    refuse_sentences_as_strings(hypotheses, "hypotheses")
    refuse_string(text, "text", "a list of sentences")
    _check(hypotheses, text)
    for place, sentence in enumerate(text):
        if not isinstance(sentence, str):
            raise TypeError(f"text[{place}] is {reprlib.repr(sentence)}: pass the sentence as published, a string")
    detokenise = _detokeniser(language).detokenize
    return float(_sacrebleu().corpus_score([detokenise(list(tokens)) for tokens in hypotheses], [list(text)]).score)


def multi_bleu(hypotheses: Sequence[Sequence[str]], tokens: Sequence[Sequence[str]]) -> float:
    """BLEU as Moses' multi-bleu.perl counts it, 0 to 100: on tokens as they are, 0 where some order has no match.

    Raises ValueError where there is not one reference for each hypothesis, TypeError where one of either is a string.
    """
    refuse_sentences_as_strings(hypotheses, "hypotheses")
    refuse_sentences_as_strings(tokens, "tokens")
    _check(hypotheses, tokens)
    metric = BLEU(tokenize="none", smooth_method="none", force=True)
    return float(metric.corpus_score([" ".join(one) for one in hypotheses], [[" ".join(one) for one in tokens]]).score)


def signature() -> str:
    """sacrebleu's own description of what `bleu` computes, its version included."""
    metric = _sacrebleu()
    metric.corpus_score(["."], [["."]])  # a signature names the number of references, known after a first score
    return str(metric.get_signature())


def _check(hypotheses: Sequence[object], references: Sequence[object]) -> None:
    if len(hypotheses) != len(references) or not hypotheses:
        raise ValueError(f"BLEU needs a reference for each translation, got {len(references)} for {len(hypotheses)}")


@cache
def _detokeniser(language: str) -> MosesDetokenizer:
    return MosesDetokenizer(lang=language)

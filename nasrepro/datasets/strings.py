"""A string is a sequence of its letters: refuse one where a list of strings is meant, before letters are counted."""

import reprlib
from collections.abc import Iterable


def refuse_string(value: object, what: str, instead: str) -> None:
    """Raise TypeError where `value` is one string; `what` names the argument, `instead` says what to pass."""
    if isinstance(value, str | bytes):
        raise TypeError(f"{what} is the string {reprlib.repr(value)}, whose letters would be taken: pass {instead}")


def refuse_sentences_as_strings(sentences: Iterable[object], what: str) -> None:
    """Raise TypeError where tokenised sentences, or one of them, are strings. `sentences` is read once."""
    refuse_string(sentences, what, "a list of sentences, each a list of tokens")
    for place, sentence in enumerate(sentences):
        refuse_string(sentence, f"{what}[{place}]", "its tokens, such as sentence.split()")

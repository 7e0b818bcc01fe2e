"""The vocabulary behaves as torchtext 0.18's; expected values are those of its documentation and source."""

import sys
from collections import Counter, OrderedDict
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nasrepro.datasets import Vocab, build_vocab_from_iterator, vocab

TOKENS = st.lists(st.text("abcß", max_size=3), unique=True, max_size=10)


def test_documented_example_of_vocab():
    counts = Counter(["a", "a", "b", "b", "b"])
    v1 = vocab(OrderedDict(sorted(counts.items(), key=lambda item: item[1], reverse=True)))
    assert v1["a"] == 1
    with pytest.raises(RuntimeError, match="out of vocab"):
        v1["out of vocab"]

    v2 = vocab(OrderedDict((token, 1) for token in ["e", "d", "c", "b", "a"]), specials=["<unk>"])
    v2.set_default_index(-1)
    assert v2["<unk>"] == 0
    assert v2["out of vocab"] == -1
    v2.set_default_index(v2["<unk>"])
    assert v2["out of vocab"] == v2["<unk>"]


def test_specials_last_and_min_freq():
    made = vocab({"a": 3, "<pad>": 9, "b": 1}, min_freq=2, specials=["<unk>", "<pad>"], special_first=False)
    assert made.get_itos() == ["a", "<unk>", "<pad>"]


def test_most_frequent_first_then_alphabetical():
    lines = [["b", "a", "c"], ["c", "a", "b"], ["d", "c"]]
    assert build_vocab_from_iterator(lines).get_itos() == ["c", "a", "b", "d"]
    assert build_vocab_from_iterator(lines, min_freq=2, specials=["<unk>"]).get_itos() == [
        "<unk>",
        "c",
        "a",
        "b",
    ]
    assert build_vocab_from_iterator(lines, max_tokens=3, specials=["<unk>"]).get_itos() == [
        "<unk>",
        "c",
        "a",
    ]
    with pytest.raises(AssertionError, match="entirely special"):
        build_vocab_from_iterator(lines, max_tokens=1, specials=["<unk>"])


@given(TOKENS)
def test_tokens_and_indices_are_inverse(tokens):
    made = Vocab(tokens)
    assert made.lookup_tokens(range(len(tokens))) == tokens
    assert made.lookup_indices(tokens) == made(tokens) == list(range(len(tokens)))
    assert made.get_stoi() == {token: index for index, token in enumerate(tokens)}
    assert all(token in made for token in tokens)
    assert len(made) == len(tokens)


@given(TOKENS, st.data())
def test_insert_is_list_insert(tokens, data):
    index = data.draw(st.integers(0, len(tokens)))
    made = Vocab(tokens)
    made.insert_token("a longer token", index)
    assert made.get_itos() == [*tokens[:index], "a longer token", *tokens[index:]]
    assert made["a longer token"] == index
    with pytest.raises(RuntimeError, match="already exists"):
        made.append_token("a longer token")


@given(TOKENS)
def test_a_loop_over_it_gives_the_tokens_as_over_their_list(tokens):
    made = Vocab(tokens, default_index=0)  # a default index once made any number a token: the loop had no end
    assert list(zip(made, range(len(tokens) + 1), strict=False)) == list(zip(tokens, range(len(tokens)), strict=True))
    assert list(reversed(made)) == tokens[::-1]
    assert [made[token] for token in made] == list(range(len(tokens)))
    assert bool(made) == bool(tokens)
    assert 0 not in made


@pytest.mark.parametrize("index", [0, -1, slice(1), None])
@pytest.mark.parametrize("default", [None, 0])
def test_it_is_indexed_by_token_alone(index, default):
    # as torchtext's, which takes no number either
    with pytest.raises(TypeError, match="indexed by token"):
        Vocab(["<unk>", "a"], default_index=default)[index]


@pytest.mark.parametrize(
    ("call", "place"),
    [
        (lambda: Vocab("ab"), "tokens is the string 'ab'"),
        (lambda: Vocab(["<unk>"], 0).lookup_indices("ab cd"), "tokens is the string 'ab cd'"),
        (lambda: Vocab(["<unk>"], 0)("ab"), "tokens is the string 'ab'"),
        (lambda: Vocab(["<unk>"], 0).lookup_indices(b"ab"), "tokens is the string b'ab'"),
        (lambda: Vocab(["<unk>"], 0).lookup_tokens("00"), "indices is the string '00'"),
        (lambda: vocab({"a": 1}, specials="<unk>"), "specials is the string '<unk>'"),
        (lambda: build_vocab_from_iterator([["a"]], specials="<unk>"), "specials is the string '<unk>'"),
        (lambda: build_vocab_from_iterator("a dog"), "iterator is the string 'a dog'"),
        (lambda: build_vocab_from_iterator(iter([["a"], "a dog"])), r"item 1 of iterator .*: pass line\.split\(\)"),
        (lambda: Vocab("a" * 100_000), "^.{1,200}$"),
    ],
)
def test_a_string_is_no_list_of_tokens(call, place):
    with pytest.raises(TypeError, match=place):
        call()


def test_errors():
    made = Vocab(["a"])
    for index in (-1, 1):
        with pytest.raises(RuntimeError, match="out of range"):
            made.lookup_token(index)
    with pytest.raises(RuntimeError, match="out of range"):
        made.insert_token("b", 2)
    with pytest.raises(RuntimeError, match=r"Duplicate token.*'a'"):
        Vocab(["a", "b", "a"])


class TorchtextVocab:
    """What a `torchtext.vocab.Vocab` answers, as far as conversion asks."""

    def __init__(self, tokens):
        self.tokens, self.default = tokens, None

    def get_itos(self):
        return self.tokens

    def get_default_index(self):
        return self.default

    def set_default_index(self, index):
        self.default = index


@pytest.mark.parametrize("default", [None, 0])
def test_torchtext_both_ways(monkeypatch, default):
    stand_in = ModuleType("torchtext.vocab")
    stand_in.vocab = lambda ordered, min_freq=1: TorchtextVocab([t for t in ordered if ordered[t] >= min_freq])
    monkeypatch.setitem(sys.modules, "torchtext", ModuleType("torchtext"))
    monkeypatch.setitem(sys.modules, "torchtext.vocab", stand_in)

    ours = Vocab(["<unk>", "b", "a"], default_index=default)
    theirs = ours.to_torchtext()
    assert isinstance(theirs, TorchtextVocab)
    back = Vocab.from_torchtext(theirs)
    assert back.get_itos() == ["<unk>", "b", "a"]
    assert back.get_default_index() == default

"""A vocabulary with the names and behaviour of torchtext 0.18, which current torch cannot load."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from nasrepro.datasets.strings import refuse_string


class Vocab:
    """Tokens and their indices, both ways: `vocab[token]` is an index, a loop over `vocab` gives the tokens in order.

    As in torchtext, an unknown token has the default index if one is set and is a RuntimeError otherwise, and one
    string in place of a list of tokens is a TypeError.
    """

    def __init__(self, tokens: Sequence[str], default_index: int | None = None) -> None:
        refuse_string(tokens, "tokens", "a list of tokens")
        self._itos = list(tokens)
        self._stoi = {token: index for index, token in enumerate(self._itos)}
        self._default_index = default_index
        if len(self._stoi) != len(self._itos):
            twice = [token for token, count in Counter(self._itos).items() if count > 1]
            raise RuntimeError(f"Duplicate token in the vocabulary: {twice[0]!r:.100}.")

    def __len__(self) -> int:
        return len(self._itos)

    def __contains__(self, token: object) -> bool:
        return token in self._stoi

    def __iter__(self) -> Iterator[str]:
        return iter(self._itos)

    def __reversed__(self) -> Iterator[str]:
        return reversed(self._itos)

    def __getitem__(self, token: str) -> int:
        if not isinstance(token, str):  # with a default index, any number would be an unknown token
            raise TypeError(f"a Vocab is indexed by token, got {token!r:.100}: lookup_token gives the one at an index")
        if token in self._stoi:
            return self._stoi[token]
        if self._default_index is None:
            raise RuntimeError(f"Token {token!r:.100} not found and default index is not set.")
        return self._default_index

    def __call__(self, tokens: Iterable[str]) -> list[int]:
        """`lookup_indices`, as torchtext's module does when called."""
        return self.lookup_indices(tokens)

    def __repr__(self) -> str:
        first = ", ".join(map(repr, self._itos[:5]))
        return f"Vocab({len(self)} tokens: {first}{', ...' if len(self) > 5 else ''})"

    def set_default_index(self, index: int | None) -> None:
        """The index given for tokens that are not in the vocabulary; None makes them an error again."""
        self._default_index = index

    def get_default_index(self) -> int | None:
        """The index given for unknown tokens, or None."""
        return self._default_index

    def insert_token(self, token: str, index: int) -> None:
        """Put `token` at `index`, move the later ones up. Raises RuntimeError if present or out of range."""
        if token in self._stoi:
            raise RuntimeError(f"Token {token!r:.100} already exists in the vocabulary at {self._stoi[token]}.")
        if not 0 <= index <= len(self):
            raise RuntimeError(f"Index {index} is out of range [0, {len(self)}].")
        self._itos.insert(index, token)
        self._stoi = {token: index for index, token in enumerate(self._itos)}

    def append_token(self, token: str) -> None:
        """Add `token` at the end. Raises RuntimeError if it is already there."""
        self.insert_token(token, len(self))

    def lookup_token(self, index: int) -> str:
        """The token at `index`. Raises RuntimeError if there is none."""
        if not 0 <= index < len(self):
            raise RuntimeError(f"Index {index} is out of range [0, {len(self)}).")
        return self._itos[index]

    def lookup_tokens(self, indices: Iterable[int]) -> list[str]:
        """The tokens at `indices`. Raises RuntimeError if one is out of range."""
        refuse_string(indices, "indices", "a list of numbers")
        return [self.lookup_token(index) for index in indices]

    def lookup_indices(self, tokens: Iterable[str]) -> list[int]:
        """The indices of `tokens`. Raises RuntimeError for an unknown one unless a default index is set."""
        refuse_string(tokens, "tokens", "a list of tokens, such as sentence.split(), or vocab[token] for one")
        return [self[token] for token in tokens]

    def get_stoi(self) -> dict[str, int]:
        """A copy of the mapping from token to index."""
        return dict(self._stoi)

    def get_itos(self) -> list[str]:
        """A copy of the list of tokens by index."""
        return list(self._itos)

    def to_torchtext(self) -> Any:
        """The same vocabulary as a `torchtext.vocab.Vocab`. Needs the extra `nasrepro[torchtext]`."""
        from torchtext.vocab import vocab as torchtext_vocab

        converted = torchtext_vocab(dict.fromkeys(self._itos, 1))
        converted.set_default_index(self._default_index)
        return converted

    @classmethod
    def from_torchtext(cls, other: Any) -> Vocab:
        """The same vocabulary as torchtext's `other`."""
        return cls(other.get_itos(), other.get_default_index())


def vocab(
    ordered_dict: Mapping[str, int],
    min_freq: int = 1,
    specials: Sequence[str] | None = None,
    special_first: bool = True,
) -> Vocab:
    """A Vocab from token counts, in their order, with `specials` before (or after) them.

    Unlike torchtext's function of this name it leaves `ordered_dict` as it was.
    """
    refuse_string(specials, "specials", "a list of tokens")
    special = list(specials or ())
    tokens = [token for token, count in ordered_dict.items() if count >= min_freq and token not in special]
    return Vocab(special + tokens if special_first else tokens + special)


def build_vocab_from_iterator(
    iterator: Iterable[Iterable[str]],
    min_freq: int = 1,
    specials: Sequence[str] | None = None,
    special_first: bool = True,
    max_tokens: int | None = None,
) -> Vocab:
    """A Vocab of the tokens in `iterator`, the most frequent first, ties in alphabetical order.

    `max_tokens` bounds the size, specials included. As in torchtext, an AssertionError if they fill it alone. Unlike
    torchtext it takes no line for a list of its letters: that is a TypeError.
    """
    refuse_string(iterator, "iterator", "an iterator over lists of tokens")
    refuse_string(specials, "specials", "a list of tokens")
    counts: Counter[str] = Counter()
    for place, tokens in enumerate(iterator):
        refuse_string(tokens, f"item {place} of iterator", "line.split() for words, or list(line) for characters")
        counts.update(tokens)
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    if max_tokens is not None:
        room = max_tokens - len(specials or ())
        assert room > 0, "len(specials) >= max_tokens, so the vocab will be entirely special tokens."
        ranked = ranked[:room]
    return vocab(dict(ranked), min_freq, specials, special_first)

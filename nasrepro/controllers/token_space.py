"""Spaces of token strings: what a controller chooses, one token after the other (ZL17 sections 3.1, 3.2).

ZL17 writes an architecture as a string of tokens, each one of a few choices. What a token stands for depends on its
place. In the simplest space all strings have the same places; in others, which place comes next may depend on the
tokens so far, as where one token says how many layers there are.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod
from numbers import Integral
from typing import Protocol

Tokens = tuple[int, ...]
"""A token string: at each place the number of the choice, from 0."""


@dataclass(frozen=True)
class Place:
    """A place of a token string, where one of a few words is chosen."""

    name: str
    """What is chosen, for messages and figures: such as "activation of node 3"."""
    words: tuple[str, ...]
    """The choices; token k is the k-th of them."""


class TokenSpace(Protocol):
    """Which token strings there are."""

    @property
    def places(self) -> Sequence[Place]:
        """All places that a string may have."""

    def next_place(self, tokens: Sequence[int], /) -> int | None:
        """Which of the places comes after these tokens, by its number; None where the string is complete.

        The same place may come more than once: then the controller chooses there by the same softmax each time.
        """


@dataclass(frozen=True)
class FixedSpace:
    """A space whose strings all have the same places, in the same order."""

    places: tuple[Place, ...]
    """One for each token."""

    @property
    def size(self) -> int:
        """How many token strings there are."""
        return prod(len(place.words) for place in self.places)

    def next_place(self, tokens: Sequence[int], /) -> int | None:
        """As many tokens as there are, so many places are filled."""
        return len(tokens) if len(tokens) < len(self.places) else None


def check_space(space: TokenSpace) -> None:
    """Raise ValueError for a space in which nothing can be chosen, at all or at one place."""
    if not space.places:
        raise ValueError("the space has no places: a token string needs one place at least")
    for place in space.places:
        if not place.words:
            raise ValueError(f"the space has no choices for the {place.name}: name one word at least")


def places_of(space: TokenSpace, tokens: Sequence[int]) -> Iterator[int]:
    """The number of the place of each token.

    Raises ValueError for a token string that is too short or too long for the space, or has a token that names no
    choice: which one, and what there is to choose.
    """
    for number, token in enumerate(tokens):
        place = space.next_place(tokens[:number])
        if place is None:
            raise ValueError(f"the token string is too long: {len(tokens)} tokens, but it is complete after {number}")
        name, words = space.places[place].name, space.places[place].words
        if not isinstance(token, Integral) or not 0 <= token < len(words):
            raise ValueError(
                f"token {number} is {token!r:.100}, but the {name} is one of {len(words)} choices, "
                f"0 to {len(words) - 1}: {', '.join(words)}"
            )
        yield place
    missing = space.next_place(tokens)
    if missing is not None:
        raise ValueError(
            f"the token string is too short: after {len(tokens)} tokens the {space.places[missing].name} is missing"
        )


def draw_tokens(space: TokenSpace, rng: random.Random) -> Tokens:
    """A token string whose tokens are drawn uniformly, one after the other."""
    tokens: list[int] = []
    while (place := space.next_place(tokens)) is not None:
        tokens.append(rng.randrange(len(space.places[place].words)))
    return tuple(tokens)

"""Spaces of token strings small enough to be enumerated."""

from collections.abc import Sequence

from nasrepro.controllers.token_space import FixedSpace, Place, Tokens, TokenSpace

PAIRS = FixedSpace((Place("colour", ("red", "green", "blue")), Place("size", ("small", "large"))))


class Layers:
    """Strings of several lengths: one layer or two, each with a width, and a filter if it is wide."""

    places = (
        Place("number of layers", ("1", "2")),
        Place("width", ("narrow", "wide")),
        Place("filter", ("1", "3", "5")),
    )

    def next_place(self, tokens: Sequence[int], /) -> int | None:
        if not tokens:
            return 0
        left, place = tokens[0] + 1, 1
        for token in tokens[1:]:
            place = 2 if place == 1 and token == 1 else 1
            left -= place == 1
        return place if left else None


LAYERS = Layers()


def every_string(space: TokenSpace, begun: Tokens = ()) -> list[Tokens]:
    """All token strings of the space that begin so."""
    place = space.next_place(begun)
    if place is None:
        return [begun]
    choices = range(len(space.places[place].words))
    return [string for token in choices for string in every_string(space, (*begun, token))]

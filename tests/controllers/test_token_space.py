"""Token strings: which places they have, and what is wrong with those that are not of a space."""

import math
import random
from collections import Counter

import numpy as np
import pytest
from scipy.stats import chisquare

from nasrepro.controllers.token_space import FixedSpace, Place, check_space, draw_tokens, places_of
from tests.controllers.token_spaces import LAYERS, PAIRS, every_string


def test_a_fixed_space_counts_its_strings():
    assert PAIRS.size == 6 == len(every_string(PAIRS))
    assert [*places_of(PAIRS, (2, 1))] == [0, 1]


def test_where_a_token_decides_which_places_follow():
    # One layer or two; a layer has a width and, if it is wide, a filter.
    assert [*places_of(LAYERS, (0, 0))] == [0, 1]
    assert [*places_of(LAYERS, (1, 1, 2, 0))] == [0, 1, 2, 1]
    # By hand: a layer is narrow, or wide with one of three filters.
    assert len(every_string(LAYERS)) == 4 + 4 * 4


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        ((), "too short: after 0 tokens the colour is missing"),
        ((1,), "too short: after 1 tokens the size is missing"),
        ((1, 0, 0), "too long: 3 tokens, but it is complete after 2"),
        ((3, 0), "token 0 is 3, but the colour is one of 3 choices, 0 to 2: red, green, blue"),
        ((0, -1), "token 1 is -1, but the size is one of 2 choices, 0 to 1: small, large"),
        ((0, 0.5), r"token 1 is 0\.5"),
        (("red", 0), "token 0 is 'red'"),
    ],
)
def test_what_is_no_token_string(tokens, message):
    with pytest.raises(ValueError, match=message):
        list(places_of(PAIRS, tokens))


def test_whole_numbers_of_any_library_are_tokens():
    assert [*places_of(PAIRS, np.array([2, 1]))] == [0, 1]


@pytest.mark.parametrize(
    ("places", "message"),
    [
        ((), "the space has no places"),
        ((Place("colour", ("red",)), Place("size", ())), "no choices for the size"),
    ],
)
def test_a_space_in_which_nothing_can_be_chosen(places, message):
    with pytest.raises(ValueError, match=message):
        check_space(FixedSpace(places))


def test_random_tokens_are_uniform_where_they_stand():
    rng = random.Random(1)
    drawn = Counter(draw_tokens(PAIRS, rng) for _ in range(3000))
    assert chisquare([drawn[tokens] for tokens in every_string(PAIRS)]).pvalue > 1e-4
    # In the other space a string is the less likely, the more tokens it has.
    drawn = Counter(draw_tokens(LAYERS, rng) for _ in range(8000))
    strings = every_string(LAYERS)
    chances = [
        math.prod(1 / len(LAYERS.places[place].words) for place in places_of(LAYERS, tokens)) for tokens in strings
    ]
    assert chisquare([drawn[tokens] for tokens in strings], [8000 * chance for chance in chances]).pvalue > 1e-4

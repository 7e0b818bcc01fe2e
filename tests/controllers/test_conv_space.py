"""The space of convolutional networks: token strings to networks and back, and its size by counting."""

import doctest
import random
from itertools import product

import pytest

from nasrepro.controllers import conv_space
from nasrepro.controllers.conv_space import ConvSpace
from nasrepro.convnet import ConvNet, Layer, zoo

TINY = ConvSpace(heights=(1, 3), widths=(3,), filters=(4, 8))


def every_string(space: ConvSpace, depth: int) -> list[tuple[int, ...]]:
    counts = []
    for number in range(depth):
        counts += [len(place.words) for place in space.choices] + [2] * (number if space.skips else 0)
    return list(product(*map(range, counts)))


def test_the_example_of_the_module():
    assert doctest.testmod(conv_space).failed == 0


def test_figure_7_is_a_string_of_the_papers_space():
    """150 tokens: height, width and filters of each of 15 layers, and 14 + 13 + ... + 1 at the anchors."""
    space = ConvSpace()
    tokens = space.tokens(zoo["Figure 7"])
    assert len(tokens) == 15 * 3 + 15 * 14 // 2 == space.length(15)
    assert space.network(tokens).hash == zoo["Figure 7"].hash


def test_choices_are_the_papers_in_the_order_of_figure_2():
    assert [(place.name, place.words) for place in ConvSpace(strides=(1, 2, 3)).choices] == [
        ("filter height", ("1", "3", "5", "7")),
        ("filter width", ("1", "3", "5", "7")),
        ("stride height", ("1", "2", "3")),
        ("stride width", ("1", "2", "3")),
        ("number of filters", ("24", "36", "48", "64")),
    ]


@pytest.mark.parametrize("space", [TINY, ConvSpace((1,), (1, 3), (1, 2), (4,)), ConvSpace((1,), (1, 3), skips=False)])
@pytest.mark.parametrize("depth", [1, 2, 3])
def test_strings_and_networks_are_one_to_one(space, depth):
    strings = every_string(space, depth)
    assert len(strings) == space.size(depth)
    assert {len(tokens) for tokens in strings} == {space.length(depth)}
    networks = {space.network(tokens) for tokens in strings}
    assert len(networks) == len(strings)
    for tokens in random.Random(0).sample(strings, min(100, len(strings))):
        assert space.tokens(space.network(tokens)) == tokens
        assert space.depth(tokens) == depth


def test_without_skips_layers_are_a_chain():
    space = ConvSpace(skips=False)
    net = space.network(space.draw(5, random.Random(1)))
    assert net.connections == ((0,), (1,), (2,), (3,), (4,))


def test_what_is_drawn_is_uniform_over_strings():
    """Each of the 32 strings of two layers is drawn as often as the others, by the chi-square test."""
    rng, draws = random.Random(3), 6400
    seen = dict.fromkeys(every_string(TINY, 2), 0)
    for _ in range(draws):
        seen[TINY.draw(2, rng)] += 1
    expected = draws / len(seen)
    assert len(seen) == 32
    assert sum((found - expected) ** 2 / expected for found in seen.values()) < 61.1  # 99.9 % of 31 degrees


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        ((), "no whole number of layers"),
        ((0, 0), "no whole number of layers"),
        ((0, 0, 0, 0), "no whole number of layers"),
        ((0, 0, 2), "number of filters of layer_1"),
        ((0, 0, 0, 1, 0, 1, 2), "connection from layer_1 to layer_2"),
        ((0, 0, -1), "0 to 1"),
        ((0, 0, 0.5), "0.5"),
    ],
)
def test_what_is_not_of_the_space_is_refused(tokens, message):
    with pytest.raises(ValueError, match=message):
        TINY.network(tokens)


@pytest.mark.parametrize(
    ("net", "message"),
    [
        (ConvNet((Layer("conv", (), 5, 3, filters=4),)), "filter height of 5, none of 1, 3"),
        (ConvNet((Layer("conv", (), 3, 3, filters=5),)), "number of filters of 5"),
        (ConvNet((Layer("conv", (), 3, 3, 2, 1, filters=4),)), "none of the space"),
        (ConvNet((Layer("max_pool", (), 3, 3),)), "number of filters of 0"),
        (ConvNet((Layer("conv", (), 3, 3, filters=4), Layer("conv", (0, 1), 3, 3, filters=4))), "none of the space"),
    ],
)
def test_networks_of_another_space_are_refused(net, message):
    with pytest.raises(ValueError, match=message):
        TINY.tokens(net)


@pytest.mark.parametrize("wrong", [{"heights": ()}, {"widths": (3, 3)}, {"filters": (0, 4)}, {"strides": (-1,)}])
def test_spaces_of_nothing_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        ConvSpace(**wrong)

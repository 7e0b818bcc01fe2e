"""The space of convolutional networks: token strings to networks and back, and its size by counting."""

import doctest
import random
from dataclasses import asdict, replace
from itertools import product

import pytest

from nasrepro.controllers import conv_space
from nasrepro.controllers.conv_space import V1, V2, V3, ConvSpace
from nasrepro.convnet import ConvNet, Layer, parse, zoo
from nasrepro.convnet.zoo import blocks, with_more_filters

TINY = ConvSpace(heights=(1, 3), widths=(3,), filters=(4, 8))


TYPED = ConvSpace(
    (1, 3),
    (3,),
    filters=(4, 8),
    types=("conv", "max_pool", "batch_norm"),
    pool_strides=(2,),
    learning_rates=(0.1, 0.02),
)
ALL_TYPES = ConvSpace((3,), (1, 3), (1, 2), (4,), types=("contrast_norm", "batch_norm", "max_pool", "conv"))


def every_string(space: ConvSpace, depth: int) -> list[tuple[int, ...]]:
    """All token strings, layer by layer: each of a type, its sizes, and what it reads."""
    strides = [space.strides] * 2 if len(space.strides) > 1 else []
    pool_strides = [space.pool_strides] if len(space.pool_strides) > 1 else []
    sizes = {
        "conv": [space.heights, space.widths, *strides, space.filters],
        "max_pool": [space.pool_sizes, *pool_strides],
        "batch_norm": [],
        "contrast_norm": [],
    }
    strings: list[tuple[int, ...]] = [()]
    for number in range(depth):
        anchor = [2] * (number if space.skips else 0)
        layers = []
        for kind, name in enumerate(space.types):
            own = product(*(range(n) for n in [*map(len, sizes[name]), *anchor]))
            layers += [(kind, *tokens) if len(space.types) > 1 else tokens for tokens in own]
        strings = [(*before, *layer) for before in strings for layer in layers]
    rates = [(token,) for token in range(len(space.learning_rates))] or [()]
    return [(*tokens, *rate) for tokens in strings for rate in rates]


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


@pytest.mark.parametrize(
    "space",
    [
        TINY,
        ConvSpace((1,), (1, 3), (1, 2), (4,)),
        ConvSpace((1,), (1, 3), skips=False),
        ConvSpace((1,), (1, 3), filters=(4, 8), block=2, pools=(3,)),
        TYPED,
        replace(TYPED, skips=False),
        replace(ALL_TYPES, widths=(3,)),
        ConvSpace((3,), (3,), filters=(4, 8), learning_rates=(0.1, 0.01, 0.001)),
    ],
)
@pytest.mark.parametrize("depth", [1, 2, 3])
def test_strings_and_networks_are_one_to_one(space, depth):
    strings = every_string(space, depth)
    assert len(strings) == space.size(depth)
    assert max(len(tokens) for tokens in strings) == space.length(depth)
    if len(space.types) == 1:
        assert min(len(tokens) for tokens in strings) == space.length(depth)
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
        (ConvNet((Layer("max_pool", (), 3, 3),)), "layer_1 is a max_pool, none of conv"),
        (ConvNet((Layer("conv", (), 3, 3, filters=4),), learning_rate=0.1), "none of the space"),
        (ConvNet((Layer("conv", (), 3, 3, filters=4),), classes=9), "none of the space"),
        (ConvNet((Layer("conv", (), 3, 3, filters=4), Layer("conv", (0, 1), 3, 3, filters=4))), "none of the space"),
    ],
)
def test_networks_of_another_space_are_refused(net, message):
    with pytest.raises(ValueError, match=message):
        TINY.tokens(net)


@pytest.mark.parametrize(
    "wrong",
    [
        {"heights": ()},
        {"widths": (3, 3)},
        {"filters": (0, 4)},
        {"strides": (-1,)},
        {"pool_sizes": ()},
        {"types": ()},
        {"types": ("conv", "conv")},
        {"types": ("conv", "add")},  # ResNets', not ZL17's
        {"learning_rates": (0.1, 0.10)},
        {"learning_rates": (0.0,)},
        {"learning_rates": (float("nan"),)},
        {"block": 0},
        {"pools": (0,)},
    ],
)
def test_spaces_of_nothing_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        ConvSpace(**wrong)


# ---- types of layers, and the learning rate (section 3.4)


def test_the_step_for_the_type_says_which_sizes_follow():
    space = ConvSpace(
        strides=(1, 2, 3), types=("conv", "max_pool", "batch_norm", "contrast_norm"), learning_rates=(0.1, 0.05)
    )
    named = [[space.choices[place].name for place in space.chosen(kind)] for kind in range(4)]
    assert named == [
        ["layer type", "filter height", "filter width", "stride height", "stride width", "number of filters"],
        ["layer type", "pool size", "pool stride"],
        ["layer type"],
        ["layer type"],
    ]
    assert space.places[-1].words == ("0.1", "0.05")
    net = space.network((*(0, 1, 3, 2, 0, 1), *(1, 1, 0, 1), *(2, 0, 1), *(3, 0, 0, 1), 1))
    assert net == ConvNet(
        (
            Layer("conv", (), 3, 7, 3, 1, 36),
            Layer("max_pool", (1,), 3, 3, 1, 1),
            Layer("batch_norm", (2,)),
            Layer("contrast_norm", (3,)),
        ),
        learning_rate=0.05,
    )
    assert parse(str(net)) == ConvNet.from_json(net.to_json()) == net
    assert net.hash != replace(net, learning_rate=0.1).hash


def test_each_type_is_drawn_as_often_and_then_each_size():
    rng, count = random.Random(5), 6000
    layers = [TYPED.network(TYPED.draw(1, rng)) for _ in range(count)]
    kinds = [net.layers[0].type for net in layers]
    assert [kinds.count(kind) / count for kind in TYPED.types] == pytest.approx([1 / 3] * 3, abs=0.03)
    sides = [net.layers[0].filter_height for net in layers if net.layers[0].type == "max_pool"]
    assert sides.count(2) / len(sides) == pytest.approx(0.5, abs=0.05)
    assert sum(net.learning_rate == 0.1 for net in layers) / count == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        ((3, 0), "layer type of layer_1 is one of 3 choices"),
        ((2, 2), "learning rate is one of 2 choices"),
        ((2,), "one is cut off"),
        ((), "one is cut off"),
        ((0, 1, 0), "one is cut off"),
        ((1, 2, 0), "pool size of layer_1"),
        ((2, 1, 1, 2, 0), "connection from layer_1 to layer_2"),
    ],
)
def test_strings_of_no_typed_network_are_refused(tokens, message):
    with pytest.raises(ValueError, match=message):
        TYPED.network(tokens)


@pytest.mark.parametrize(
    ("net", "message"),
    [
        (ConvNet((Layer("batch_norm"),)), "the network has a learning rate of None, none of 0.1, 0.02"),
        (ConvNet((Layer("batch_norm"),), learning_rate=0.3), "learning rate of 0.3"),
        (ConvNet((Layer("contrast_norm"),), learning_rate=0.1), "layer_1 is a contrast_norm"),
        (ConvNet((Layer("max_pool", (), 4, 4, 2, 2),), learning_rate=0.1), "pool size of 4"),
        (ConvNet((Layer("max_pool", (), 2, 3, 2, 2),), learning_rate=0.1), "none of the space"),
        (ConvNet((Layer("max_pool", (), 2, 2, 1, 1),), learning_rate=0.1), "none of the space"),
    ],
)
def test_typed_networks_of_another_space_are_refused(net, message):
    with pytest.raises(ValueError, match=message):
        TYPED.tokens(net)


# ---- the paper's three spaces


def test_the_second_space_predicts_strides():
    tokens = V2.draw(20, random.Random(1))  # Table 1: 20 layers
    net = V2.network(tokens)
    assert V2.tokens(net) == tokens
    assert {layer.stride_height for layer in net.layers} == {1, 2, 3}
    assert len(V2.choices) == len(V1.choices) + 2


def test_the_third_space_makes_39_layers_of_13_predictions():
    """Section 4.1: blocks of 3 layers, pools at layers 13 and 24, filters of [6, 12, 24, 36], 40 more afterwards."""
    tokens = V3.draw(13, random.Random(2))
    net = V3.network(tokens)
    convolutions = [layer for layer in net.layers if layer.type == "conv"]
    assert len(convolutions) == 39  # Table 1: its depth
    assert {layer.filters for layer in convolutions} == {6, 12, 24, 36}
    assert {high for _, high, _ in net.shapes(3, 32, 32)} == {32, 16, 8}
    assert net == blocks(V1_LIKE.network(tokens), 3, (13, 24))
    assert V3.tokens(net) == tokens
    wide = with_more_filters(net, 40)
    assert {layer.filters for layer in wide.layers if layer.type == "conv"} == {46, 52, 64, 76}
    with pytest.raises(ValueError, match="number of filters of"):
        V3.tokens(wide)


V1_LIKE = ConvSpace(filters=(6, 12, 24, 36))


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize(("block", "pools"), [(3, (13, 24)), (2, (3,)), (1, (2, 4)), (3, ()), (2, (1, 2, 2))])
def test_blocks_come_back_as_the_tokens_that_made_them(block, pools, seed):
    space = ConvSpace((1, 3), (3,), filters=(4, 8), block=block, pools=pools)
    tokens = space.draw(random.Random(seed).randint(1, 9), random.Random(seed))
    assert space.tokens(space.network(tokens)) == tokens


def test_other_networks_are_not_taken_for_blocks():
    space = ConvSpace((3,), (3,), filters=(4,), block=2)
    for net in (zoo["ResNet, 20 layers"], ConvNet((Layer("conv", (), 3, 3, filters=4),) * 2)):
        with pytest.raises(ValueError, match="none of"):
            space.tokens(net)


@pytest.mark.parametrize("more", [{"strides": (1, 2)}, {"types": ("conv", "max_pool")}])
def test_blocks_are_of_convolutions_without_strides(more):
    for blocked in ({"block": 3}, {"pools": (2,)}):
        with pytest.raises(ValueError, match="convolutions of stride 1"):
            ConvSpace(**more, **blocked)


# ---- what makes two spaces the same one


def test_the_identity_of_a_space_names_later_choices_only_where_they_are_made_use_of():
    older = ["classes", "filters", "heights", "skips", "strides", "widths"]
    assert sorted(ConvSpace().identity()) == sorted(TINY.identity()) == older
    assert set(TYPED.identity()) - set(older) == {"types", "pool_strides", "learning_rates"}
    assert set(V3.identity()) - set(older) == {"block", "pools"}
    for space in (TINY, TYPED, V3):
        assert ConvSpace(**space.identity()) == space
        assert {**asdict(ConvSpace()), **space.identity()} == asdict(space)

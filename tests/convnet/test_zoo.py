"""The zoo: counts against the paper's, and networks built from others."""

import math

import pytest

from nasrepro.convnet import ConvNet, ConvNetError, Layer, zoo
from nasrepro.convnet.zoo import (
    blocks,
    of_size,
    plain,
    resnet,
    scaled,
    with_all_skips,
    with_more_filters,
    without_skips,
)
from nasrepro.report import papers

WEIGHTS = papers.load()["zl17.fig7.conv_weights"].value


def convolutions(net):
    return [layer for layer in net.layers if layer.type == "conv"]


# ---- Figure 7


def test_figure_7_has_the_weights_that_table_1_prints():
    assert zoo["Figure 7"].conv_weights() == WEIGHTS
    assert len(zoo["Figure 7"].layers) == 15  # Table 1: depth
    assert {layer.filters for layer in zoo["Figure 7"].layers} <= {24, 36, 48, 64}  # the choices of section 4.1
    assert {layer.filter_height for layer in zoo["Figure 7"].layers} <= {1, 3, 5, 7}
    assert zoo["Figure 7"].read_by_classifier == (15,)


def test_each_connection_of_figure_7_counts():
    net = zoo["Figure 7"]
    for number, layer in enumerate(net.layers):
        for left_out in layer.inputs if len(layer.inputs) > 1 else ():
            fewer = tuple(i for i in layer.inputs if i != left_out)
            layers = list(net.layers)
            layers[number] = Layer("conv", fewer, layer.filter_height, layer.filter_width, filters=layer.filters)
            assert ConvNet(tuple(layers)).conv_weights() != WEIGHTS


def test_the_controls_of_figure_7():
    # Figures of the table of its layers, worked out apart: 0.81M and 6.63M.
    assert zoo["Figure 7, no skips"].conv_weights() == pytest.approx(0.81e6, abs=0.005e6)
    assert zoo["Figure 7, all skips"].conv_weights() == pytest.approx(6.63e6, abs=0.005e6)
    assert [*zoo["Figure 7, no skips"].edges()] == [(n, n + 1) for n in range(15)]
    assert len([*zoo["Figure 7, all skips"].edges()]) == 1 + 15 * 14 // 2
    for change in (without_skips, with_all_skips):
        assert change(change(zoo["Figure 7"])) == change(zoo["Figure 7"])


# ---- rivals


def test_the_resnet_is_that_of_he_et_al():
    net = resnet(16)
    assert len(convolutions(net)) + 1 == 20
    assert net.parameters() == pytest.approx(0.27e6, rel=0.02)  # He et al. 2016, Table 6: ResNet-20
    assert resnet(16, 18).parameters() == pytest.approx(1.7e6, rel=0.02)  # ResNet-110; ZL17's Table 1 has it too
    assert net.shapes()[-1] == (64, 8, 8)
    assert net.multiply_adds() == pytest.approx(41e6, rel=0.02)  # 40.6M by their count of multiply-adds
    sums = [n for n, layer in enumerate(net.layers, 1) if layer.type == "add"]
    assert len(sums) == 9
    assert all(len(net.connections[n - 1]) == 2 for n in sums)


@pytest.mark.parametrize("name", ["ResNet, 20 layers", "plain, 20 layers"])
def test_rivals_are_of_figure_7s_size(name):
    assert zoo[name].conv_weights() == pytest.approx(WEIGHTS, rel=0.05)
    assert zoo[name].shapes()[-1][1:] == (8, 8)


def test_the_plain_stack_is_the_resnet_without_additions():
    one, other = resnet(8), plain(8)
    sizes = [(each.filter_height, each.filter_width, each.stride_height, each.filters) for each in convolutions(one)]
    assert sizes == [(each.filter_height, each.filter_width, each.stride_height, each.filters) for each in other.layers]
    assert {each.activation for each in other.layers} == {"relu"}
    assert len(plain(8, 2, stages=2).layers) == 9
    assert resnet(8, 2, stages=2).shapes(1, 8, 8)[-1] == plain(8, 2, stages=2).shapes(1, 8, 8)[-1] == (16, 4, 4)
    assert [*other.edges()] == [(n, n + 1) for n in range(19)]


@pytest.mark.parametrize("weights", [1_000, 123_456, 4_199_868])
def test_no_other_width_comes_closer(weights):
    found = of_size(resnet, weights)
    distance = abs(found.conv_weights() - weights)
    width = found.layers[0].filters
    assert found == resnet(width)
    assert all(abs(resnet(other).conv_weights() - weights) >= distance for other in range(1, 2 * width + 5))


# ---- v3


def thirteen(*inputs_of_last):
    """Thirteen predictions, each of which reads the one before it."""
    sizes = [(3, 3, 24), (1, 5, 12), (7, 3, 36), (5, 5, 6)]
    layers = [Layer("conv", (n,), h, w, filters=f) for n in range(13) for h, w, f in [sizes[n % 4]]]
    layers[-1] = Layer("conv", (*layers[-1].inputs, *inputs_of_last), 3, 3, filters=24)
    return ConvNet(tuple(layers))


def test_thirteen_predictions_make_39_layers_with_two_pools():
    net = blocks(thirteen())
    shapes = net.shapes(3, 32, 32)
    conv = [number for number, layer in enumerate(net.layers, 1) if layer.type == "conv"]
    assert len(conv) == 39  # Table 1: depth of v3
    assert [shapes[n][1:] for n in conv] == [(32, 32)] * 12 + [(16, 16)] * 11 + [(8, 8)] * 16
    read = [net.read_shape(n, shapes)[1:] for n in conv]
    assert read == [shapes[n][1:] for n in conv]  # nothing that was halved is padded to its former size
    assert net.canonical().hash == net.hash


def test_a_block_is_fully_connected():
    net = blocks(thirteen(), pools=())
    assert [layer.type for layer in net.layers] == ["conv"] * 39
    assert net.connections[:6] == ((0,), (0, 1), (0, 1, 2), (1, 2, 3), (1, 2, 3, 4), (1, 2, 3, 4, 5))
    assert net.read_by_classifier == (37, 38, 39)
    assert blocks(thirteen(), size=1, pools=()).connections == thirteen().connections


def test_what_is_far_below_is_halved_twice():
    net = blocks(thirteen(0, 1))
    shapes = net.shapes(3, 32, 32)
    pools = [n for n, layer in enumerate(net.layers, 1) if layer.type == "max_pool"]
    assert {shapes[n][0] for n in pools} >= {3, 3 * 24}  # the image, and all maps of the first block
    assert all(math.prod(shapes[n][1:]) in (16 * 16, 8 * 8) for n in pools)
    assert shapes[net.connections[-1][0]][1:] == (8, 8)


@pytest.mark.parametrize("layer", [Layer("max_pool", (1,), 2, 2), Layer("conv", (1,), 3, 3, 2, 1, filters=4)])
def test_blocks_are_of_convolutions_without_strides(layer):
    with pytest.raises(ConvNetError, match="layer_2"):
        blocks(ConvNet((Layer("conv", (0,), 3, 3, filters=4), layer)))


def test_forty_more_filters():
    small = blocks(thirteen())
    large = with_more_filters(small, 40)
    assert [b.filters - a.filters for a, b in zip(convolutions(small), convolutions(large), strict=True)] == [40] * 39
    assert [layer.type for layer in large.layers] == [layer.type for layer in small.layers]
    assert large.connections == small.connections
    # Table 1: 7.1M weights become 37.4M. The factor lies between those of the largest and of the least filters.
    assert ((36 + 40) / 36) ** 2 < large.conv_weights() / small.conv_weights() < ((6 + 40) / 6) ** 2


def test_a_scaled_network_keeps_its_form():
    net = scaled(zoo["Figure 7"], 1 / 12)
    assert {layer.filters for layer in net.layers} == {3, 4}
    assert net.connections == zoo["Figure 7"].connections
    assert {layer.filters for layer in scaled(net, 0.01).layers} == {1}

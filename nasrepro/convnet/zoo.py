"""Networks by name: the one of ZL17's Figure 7, its two controls, and two of people's design of like size.

>>> zoo["Figure 7"].conv_weights()                                     # the 4.2M of Table 1
4199868
>>> zoo["Figure 7, no skips"].conv_weights(), zoo["Figure 7, all skips"].conv_weights()
(807372, 6629148)
"""

from collections.abc import Mapping
from dataclasses import replace

from nasrepro.convnet.layers import CONV, Layer
from nasrepro.convnet.network import ConvNet

_FIGURE_7 = (
    (3, 3, 36, (0,)),
    (3, 3, 48, (1,)),
    (3, 3, 36, (1, 2)),
    (5, 5, 36, (1, 2, 3)),
    (3, 7, 48, (3, 4)),
    (7, 7, 48, (2, 3, 4, 5)),
    (7, 7, 48, (2, 3, 4, 5, 6)),
    (7, 3, 36, (1, 6, 7)),
    (7, 1, 36, (1, 5, 6, 8)),
    (7, 7, 36, (1, 3, 4, 5, 6, 7, 8, 9)),
    (5, 7, 36, (1, 2, 5, 6, 7, 8, 9, 10)),
    (7, 7, 48, (1, 2, 3, 4, 6, 11)),
    (7, 5, 48, (1, 3, 6, 7, 8, 9, 10, 11, 12)),
    (7, 5, 48, (3, 7, 12, 13)),
    (7, 5, 48, (2, 7, 11, 12, 13, 14)),
)
"""Filter height, filter width, filters and inputs of each layer, read off the drawing of Figure 7."""


def figure_7() -> ConvNet:
    """The network that ZL17's controller found without strides and pooling (Figure 7, Table 1: 5.50 % error)."""
    return ConvNet(tuple(Layer(CONV, inputs, high, wide, filters=n) for high, wide, n, inputs in _FIGURE_7))


def without_skips(net: ConvNet) -> ConvNet:
    """The same layers in a chain: each reads the one before it (ZL17 section 4.1: 7.97 % for Figure 7's)."""
    layers = tuple(replace(layer, inputs=(number,)) for number, layer in enumerate(net.layers))
    return replace(net, layers=layers, output=())


def with_all_skips(net: ConvNet) -> ConvNet:
    """The same layers, each of which reads all before it, but not the image (ZL17 section 4.1: 5.56 %)."""
    layers = tuple(replace(layer, inputs=tuple(range(1, n)) or (0,)) for n, layer in enumerate(net.layers, 1))
    return replace(net, layers=layers, output=())


def scaled(net: ConvNet, by: float) -> ConvNet:
    """The same layers, each with `by` times as many filters, rounded, one at least."""
    layers = (replace(each, filters=max(1, round(each.filters * by))) for each in net.layers if each.type == CONV)
    return replace(net, layers=tuple(next(layers) if each.type == CONV else each for each in net.layers))


zoo: Mapping[str, ConvNet] = {
    "Figure 7": figure_7(),
    "Figure 7, no skips": without_skips(figure_7()),
    "Figure 7, all skips": with_all_skips(figure_7()),
}

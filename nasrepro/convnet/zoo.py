"""Networks by name: the one of ZL17's Figure 7, its two controls, and two of people's design of like size.

>>> zoo["Figure 7"].conv_weights()                                     # the 4.2M of Table 1
4199868
>>> zoo["Figure 7, no skips"].conv_weights(), zoo["Figure 7, all skips"].conv_weights()
(807372, 6629148)

The ResNet and the plain stack are as wide as it takes to have about as many convolution weights as Figure 7's.
"""

from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from nasrepro.convnet.errors import ConvNetError
from nasrepro.convnet.layers import ADD, CONV, IDENTITY, MAX_POOL, RELU, Layer
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
    """The same layers, each convolution with `by` times as many filters, rounded, one at least."""
    return _with_filters(net, lambda filters: max(1, round(filters * by)))


def with_more_filters(net: ConvNet, more: int) -> ConvNet:
    """The same layers, each convolution with so many filters more (ZL17 section 4.1: 40, from 4.47 to 3.65 % error)."""
    return _with_filters(net, lambda filters: filters + more)


def _with_filters(net: ConvNet, change: Callable[[int], int]) -> ConvNet:
    layers = [replace(each, filters=change(each.filters)) if each.type == CONV else each for each in net.layers]
    return replace(net, layers=tuple(layers))


def blocks(net: ConvNet, size: int = 3, pools: Sequence[int] = (13, 24)) -> ConvNet:
    """Each convolution made a fully connected block of `size` like it, and maps halved before some of them.

    ZL17's "v3 max pooling" (section 4.1): 13 predictions make 39 convolutions, with pools at layers 13 and 24. What
    the paper leaves open is read so: as in DenseNet's blocks, a convolution reads what its block reads and all
    convolutions before it in the block, and a block hands on the maps of all of them. Convolutions are numbered from 1,
    pools not counted; convolution p of `pools`, and each after it, reads all earlier maps and the image through a
    2 x 2 pool of stride 2, so that rule 3 does not enlarge what was halved.

    Raises ConvNetError where the network has strides or anything but convolutions.
    """
    for number, layer in enumerate(net.layers, 1):
        if layer.type != CONV or (layer.stride_height, layer.stride_width) != (1, 1):
            raise ConvNetError(f"layer_{number} is no convolution of stride 1, of which blocks are made")
    built = _Halving()
    made: list[tuple[int, ...]] = [(0,)]  # the image, and the layers of each block
    count = 0
    for layer, inputs in zip(net.layers, net.connections, strict=True):
        block: tuple[int, ...] = ()
        for _ in range(size):
            count += 1
            built.stage += pools.count(count)
            read = [number for i in inputs for number in built.seen(made[i])]
            block += (built.append(replace(layer, inputs=(*read, *built.seen(block)))),)
        made.append(block)
    output = [number for i in net.read_by_classifier for number in built.seen(made[i])]
    return replace(net, layers=tuple(built.layers), output=tuple(output))


def unblocked(net: ConvNet, size: int = 3) -> ConvNet:
    """The network of which `blocks` makes this one, if there is such a one; else some other.

    Each block is the first of its convolutions, and reads the blocks which that reads, be it through pools.
    """
    heads: list[Layer] = []
    of: list[frozenset[int]] = [frozenset()]  # the blocks whose maps the image and each layer hand on
    count = 0
    for layer, inputs in zip(net.layers, net.connections, strict=True):
        read = frozenset[int]().union(*(of[i] for i in inputs))
        if layer.type == CONV and count % size == 0:
            heads.append(replace(layer, inputs=tuple(sorted(read))))
        count += layer.type == CONV
        of.append(frozenset({len(heads)}) if layer.type == CONV else read)
    return replace(net, layers=tuple(heads), output=())


class _Halving:
    """Layers as `blocks` makes them: what was made before a pool is read through one."""

    def __init__(self) -> None:
        self.layers: list[Layer] = []
        self.stage = 0  # how often maps are halved by now
        self.made_at = {0: 0}  # layer -> the stage at which it was made
        self.pools: dict[tuple[tuple[int, ...], int], int] = {}  # layers, and the stage at which a pool hands them on

    def append(self, layer: Layer) -> int:
        """Add a layer of this stage: its number."""
        self.layers.append(layer)
        self.made_at[len(self.layers)] = self.stage
        return len(self.layers)

    def seen(self, numbers: tuple[int, ...], stage: int | None = None) -> tuple[int, ...]:
        """The layers from which those of a stage, this one if not given, read the maps of others."""
        stage = self.stage if stage is None else stage
        earlier = tuple(number for number in numbers if self.made_at[number] < stage)
        same = tuple(number for number in numbers if self.made_at[number] == stage)
        if not earlier:
            return same
        if (earlier, stage) not in self.pools:
            pool = self.append(Layer(MAX_POOL, self.seen(earlier, stage - 1), 2, 2, 2, 2))
            self.made_at[pool] = stage
            self.pools[earlier, stage] = pool
        return self.pools[earlier, stage], *same


def resnet(width: int, blocks: int = 3, stages: int = 3) -> ConvNet:
    """He et al. 2016's network for CIFAR-10 (section 4.2): of 6 * blocks + 2 layers, the linear one counted.

    Three stages of `blocks` pairs of 3 x 3 convolutions with width, 2 * width and 4 * width filters; the first of a
    stage but the first has stride 2. Each pair is added to what it read: where the sizes differ, to every second pixel
    of it and zeros for the maps that it lacks (their option A). Images of 8 x 8 pixels leave room for two `stages`.
    """
    layers = [Layer(CONV, (0,), 3, 3, filters=width)]
    for stage in range(stages):
        for block in range(blocks):
            stride, filters, start = 2 if stage and not block else 1, width * 2**stage, len(layers)
            layers.append(Layer(CONV, (start,), 3, 3, stride, stride, filters))
            layers.append(Layer(CONV, (start + 1,), 3, 3, filters=filters, activation=IDENTITY))
            if stride > 1:
                layers.append(Layer(MAX_POOL, (start,), 1, 1, stride, stride))
            layers.append(Layer(ADD, (start + 3 if stride > 1 else start, start + 2)))
    return ConvNet(tuple(layers))


def plain(width: int, blocks: int = 3, stages: int = 3) -> ConvNet:
    """The convolutions of `resnet` in a chain, as He et al. 2016 compare it with their plain network."""
    found = (each for each in resnet(width, blocks, stages).layers if each.type == CONV)
    return ConvNet(tuple(replace(each, inputs=(n,), activation=RELU) for n, each in enumerate(found)))


_WIDEST = 10_000
"""Where `of_size` gives up: the least filters of a layer."""


def of_size(build: Callable[[int], ConvNet], weights: int) -> ConvNet:
    """The network, of all that `build` makes of a width, whose convolution weights come closest to a number."""
    wider = bisect_left(range(_WIDEST), weights, lo=2, key=lambda width: build(width).conv_weights())
    return min(build(wider - 1), build(wider), key=lambda net: abs(net.conv_weights() - weights))


zoo: Mapping[str, ConvNet] = {
    "Figure 7": figure_7(),
    "Figure 7, no skips": without_skips(figure_7()),
    "Figure 7, all skips": with_all_skips(figure_7()),
    "ResNet, 20 layers": of_size(resnet, figure_7().conv_weights()),
    "plain, 20 layers": of_size(plain, figure_7().conv_weights()),
}

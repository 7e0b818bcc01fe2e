"""A network as a torch module: convolutions, batch normalisation, rectifiers, and the rules that join maps.

What ZL17 leaves open is read so: a convolution is followed by batch normalisation and then a rectifier; images are
padded with zeros so that strides alone make maps smaller; smaller maps are padded at the right and at the bottom; the
classifier averages each map over its pixels before its linear layer.

On a GPU maps are stored pixel by pixel (channels_last), and the number of a convolution's maps is rounded up to a
multiple of 8, which its tensor cores want. The maps added are zero and stay zero in training: their filters start at
zero and get no gradient.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nasrepro.convnet.layers import ADD, BATCH_NORM, CONV, MAX_POOL, RELU, Layer, Shape
from nasrepro.convnet.network import ConvNet

_EPSILON = 1e-5
"""Added to the variance by batch normalisation: torch's, and DenseNet's."""


class ImageClassifier(nn.Module):
    """A network that tells images of `shape` (channels, height, width) apart.

    Filters are drawn from N(0, 2 / (height * width * filters)), as DenseNet's, the classifier's weights from
    U(-1/sqrt(n), 1/sqrt(n)), all by the generator, on the processor. `multiple` is what the number of a convolution's
    maps is rounded up to. Raises ConvNetError where the images are too small for the network.
    """

    def __init__(
        self, network: ConvNet, shape: Shape = (3, 32, 32), *, generator: torch.Generator, multiple: int = 1
    ) -> None:
        super().__init__()
        self.network = network
        self.read_by_classifier = network.read_by_classifier
        network.shapes(*shape)  # raises where the images are too small
        types = {layer.type for layer in network.layers}
        self.multiple = multiple if types <= {CONV, MAX_POOL, ADD} else 1  # others would fill the maps that are added
        depths = _depths(network, shape[0], self.multiple)
        layers: list[nn.Module] = []
        for number, (layer, inputs) in enumerate(zip(network.layers, network.connections, strict=True), 1):
            layers.append(_module(layer, [depths[i] for i in inputs], depths[number], generator))
        self.layers = nn.ModuleList(layers)
        read = _Depth.joined([depths[i] for i in self.read_by_classifier])
        self.classifier = nn.utils.skip_init(nn.Linear, read.width, network.classes)  # drawn below, from the generator
        reach = 1 / math.sqrt(len(read.real))
        with torch.no_grad():
            drawn = torch.empty(network.classes, len(read.real)).uniform_(-reach, reach, generator=generator)
            self.classifier.weight.zero_()[:, read.real] = drawn
            self.classifier.bias.zero_()

    def forward(self, images: Tensor) -> Tensor:
        """images (B, C, H, W) -> a score for each class (B, classes), before the softmax."""
        added = -images.shape[1] % self.multiple
        maps = [F.pad(images, (0, 0, 0, 0, 0, added)) if added else images]
        for layer, inputs in zip(self.layers, self.network.connections, strict=True):
            read = [maps[i] for i in inputs]
            maps.append(layer(read if isinstance(layer, Addition) else _joined(read)))
        last = _joined([maps[i] for i in self.read_by_classifier])  # (B, C, H, W)
        return self.classifier(last.mean((2, 3)))


class _Depth:
    """The maps of a layer as they are stored: how many, and which of them are the network's."""

    def __init__(self, width: int, real: list[int]) -> None:
        self.width, self.real = width, real

    @classmethod
    def of(cls, maps: int, multiple: int) -> "_Depth":
        return cls(-(-maps // multiple) * multiple, list(range(maps)))

    @classmethod
    def joined(cls, depths: Sequence["_Depth"]) -> "_Depth":
        real, width = [], 0
        for each in depths:
            real += [width + number for number in each.real]
            width += each.width
        return cls(width, real)


def _depths(network: ConvNet, channels: int, multiple: int) -> list[_Depth]:
    """The maps of the image and of each layer."""
    depths = [_Depth.of(channels, multiple)]
    for layer, inputs in zip(network.layers, network.connections, strict=True):
        read = [depths[i] for i in inputs]
        if layer.type == CONV:
            depths.append(_Depth.of(layer.filters, multiple))
        else:
            depths.append(max(read, key=lambda each: len(each.real)) if layer.type == ADD else _Depth.joined(read))
    return depths


def _module(layer: Layer, read: list[_Depth], made: _Depth, generator: torch.Generator) -> nn.Module:
    if layer.type == CONV:
        return Convolution(layer, _Depth.joined(read), made, generator)
    if layer.type == ADD:
        return Addition(layer, read, made)
    if layer.type == MAX_POOL:
        return MaxPool(layer)
    return nn.BatchNorm2d(made.width, eps=_EPSILON) if layer.type == BATCH_NORM else ContrastNorm()


class Convolution(nn.Module):
    """Filters, batch normalisation and a rectifier: maps (B, read, H, W) -> (B, filters, ceil(H/s), ceil(W/s)).

    The rectifier is left out where the layer's activation is the identity.
    """

    def __init__(self, layer: Layer, read: _Depth, made: _Depth, generator: torch.Generator) -> None:
        super().__init__()
        self.stride = (layer.stride_height, layer.stride_width)
        high, wide = layer.filter_height, layer.filter_width
        self.window = (high, wide)
        spread = math.sqrt(2 / (high * wide * layer.filters))
        drawn = torch.empty(layer.filters, len(read.real), high, wide).normal_(0, spread, generator=generator)
        weight = torch.zeros(made.width, read.width, high, wide)
        weight[: layer.filters, read.real] = drawn
        self.weight = nn.Parameter(weight)
        self.norm = nn.BatchNorm2d(made.width, eps=_EPSILON)
        self.is_rectified = layer.activation == RELU

    def forward(self, maps: Tensor) -> Tensor:
        """maps (B, read, H, W) -> (B, filters, ceil(H/s), ceil(W/s))."""
        maps, padding = _padded(maps, self.window)
        made = self.norm(F.conv2d(maps, self.weight, None, self.stride, padding))
        return F.relu(made) if self.is_rectified else made


class Addition(nn.Module):
    """The sum of maps of several layers, padded with zeros to the largest in number and size, and a rectifier."""

    def __init__(self, layer: Layer, read: Sequence[_Depth], made: _Depth) -> None:
        super().__init__()
        # Maps that were added to shallower inputs would meet maps of the network: they are cut off.
        self.cut = [None if len(each.real) == len(made.real) else len(each.real) for each in read]
        self.width = made.width
        self.is_rectified = layer.activation == RELU

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Maps (B, C_i, H_i, W_i) -> (B, largest C, largest H, largest W)."""
        high, wide = _largest(maps)
        total = _padded_to(maps[0][:, : self.cut[0]], self.width, high, wide)
        for each, kept in zip(maps[1:], self.cut[1:], strict=True):
            total = total + _padded_to(each[:, :kept], self.width, high, wide)
        return F.relu(total) if self.is_rectified else total


class MaxPool(nn.Module):
    """The largest value of each window of each map."""

    def __init__(self, layer: Layer) -> None:
        super().__init__()
        self.window = (layer.filter_height, layer.filter_width)
        self.stride = (layer.stride_height, layer.stride_width)

    def forward(self, maps: Tensor) -> Tensor:
        """maps (B, C, H, W) -> (B, C, ceil(H/s), ceil(W/s))."""
        high, wide = self.window
        before = ((high - 1) // 2, (wide - 1) // 2)
        outside = (before[1], wide - 1 - before[1], before[0], high - 1 - before[0])
        return F.max_pool2d(F.pad(maps, outside, value=-math.inf), self.window, self.stride)


class ContrastNorm(nn.Module):
    """Local contrast normalisation (Jarrett et al. 2009, section 2.1): the mean of all maps around a pixel is taken
    away, weighted by a Gaussian of 9 x 9 pixels, and the rest divided by its deviation there, but by no less than the
    deviation's mean over the image."""

    SIZE, SPREAD = 9, 1.591
    """Pixels of the window's side, and the Gaussian's standard deviation in pixels."""

    def __init__(self) -> None:
        super().__init__()
        steps = torch.arange(self.SIZE, dtype=torch.float64) - self.SIZE // 2
        line = torch.exp(-(steps**2) / (2 * self.SPREAD**2))
        window = torch.outer(line, line)[None, None] / line.sum() ** 2  # (1, 1, 9, 9)
        self.register_buffer("window", window, persistent=False)
        self.window: Tensor

    def forward(self, maps: Tensor) -> Tensor:
        """maps (B, C, H, W) -> the same shape."""
        centred = maps - self._around(maps)
        deviation = self._around(centred**2).clamp(min=1e-12).sqrt()  # (B, 1, H, W)
        return centred / torch.maximum(deviation, deviation.mean((2, 3), keepdim=True))

    def _around(self, maps: Tensor) -> Tensor:
        """The weighted mean of all maps around each pixel, (B, 1, H, W)."""
        return F.conv2d(maps.mean(1, keepdim=True), self.window.to(maps.dtype), padding=self.SIZE // 2)


def _joined(maps: Sequence[Tensor]) -> Tensor:
    """Maps (B, C_i, H_i, W_i) -> (B, sum of C_i, H, W), the smaller ones padded with zeros (rule 3)."""
    high, wide = _largest(maps)
    padded = [_padded_to(each, each.shape[1], high, wide) for each in maps]
    return torch.cat(padded, 1) if len(padded) > 1 else padded[0]


def _largest(maps: Sequence[Tensor]) -> tuple[int, int]:
    return max(each.shape[2] for each in maps), max(each.shape[3] for each in maps)


def _padded_to(maps: Tensor, depth: int, high: int, wide: int) -> Tensor:
    """Maps with zeros behind them, below them and at their right up to (B, depth, high, wide)."""
    missing = (depth - maps.shape[1], high - maps.shape[2], wide - maps.shape[3])
    return F.pad(maps, (0, missing[2], 0, missing[1], 0, missing[0])) if any(missing) else maps


def _padded(maps: Tensor, window: tuple[int, int]) -> tuple[Tensor, tuple[int, int]]:
    """Maps and what a convolution shall pad them by on every side; windows of even size pad one more at the end."""
    high, wide = window
    if high % 2 and wide % 2:
        return maps, (high // 2, wide // 2)
    before = ((high - 1) // 2, (wide - 1) // 2)
    return F.pad(maps, (before[1], wide - 1 - before[1], before[0], high - 1 - before[0])), (0, 0)

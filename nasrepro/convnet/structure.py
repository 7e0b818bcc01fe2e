"""What a convolutional network is made of: layers, what connects them, and what follows from that.

Layers are numbered from 1, in an order in which each reads only the image, which is 0, and layers before it. What a
network leaves open is closed by the three rules of ZL17, section 3.4:

1. a layer without inputs reads the image;
2. what no layer reads is concatenated for the classifier;
3. maps of different sizes are padded with zeros, to the largest, before they are concatenated (see `module`).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from numbers import Real
from typing import Any

from nasrepro.convnet.errors import ConvNetError
from nasrepro.convnet.layers import ADD, BATCH_NORM, CONV, Layer, Shape, check_layer, joined

MAX_LAYERS = 1000
"""More layers than this are refused: no network of either paper has more than 39."""


@dataclass(frozen=True)
class Structure:
    """Layers, the number of classes, what the classifier reads, and the learning rate if it is predicted too.

    `network.ConvNet` is this with its identity and its dresses.
    """

    layers: tuple[Layer, ...]
    classes: int = 10
    output: tuple[int, ...] = ()
    learning_rate: float | None = None

    def __post_init__(self) -> None:
        if not 1 <= len(self.layers) <= MAX_LAYERS:
            raise ConvNetError(f"a network has 1 to {MAX_LAYERS:,} layers, this one has {len(self.layers):,}")
        if type(self.classes) is not int or self.classes < 2:
            raise ConvNetError(f"a classifier tells 2 classes or more apart, got num_class = {self.classes!r:.100}")
        if self.learning_rate is not None:
            object.__setattr__(self, "learning_rate", _rate(self.learning_rate))
        for number, layer in enumerate(self.layers, 1):
            check_layer(layer, number)
        for number in self.output:
            if type(number) is not int or not 0 <= number <= len(self.layers):
                raise ConvNetError(f"the classifier reads layer_{number}, which is no layer of this network")
        if self.output and not any(self.output):
            number = len(self.layers) + 1
            raise ConvNetError("the classifier reads the image alone, no layer", layer=number, key="connect_to")
        self._check_sums()

    def _check_sums(self) -> None:
        """An addition pairs maps by their order, which a concatenation leaves open: it may not read one."""
        ordered = {0}
        for number, (layer, inputs) in enumerate(zip(self.layers, self.connections, strict=True), 1):
            open_ones = [i for i in inputs if i not in ordered]
            if layer.type == ADD and open_ones:
                raise ConvNetError(
                    f"layer_{number} adds layer_{open_ones[0]}, which hands on concatenated maps, in no certain order",
                    hint="put a convolution between them",
                    layer=number,
                    key="connect_to",
                )
            if layer.type in (CONV, ADD) or (len(inputs) == 1 and not open_ones):
                ordered.add(number)

    # ---- what is connected

    @cached_property
    def connections(self) -> tuple[tuple[int, ...], ...]:
        """What each layer reads, sorted, by rule 1: the image where nothing was chosen."""
        return tuple(tuple(sorted(set(layer.inputs))) or (0,) for layer in self.layers)

    @cached_property
    def read_by_classifier(self) -> tuple[int, ...]:
        """The layers that the classifier reads, sorted, by rule 2: all that no layer reads where none was chosen."""
        if self.output:
            return tuple(sorted(set(self.output)))
        read = {number for inputs in self.connections for number in inputs}
        return tuple(number for number in range(1, len(self.layers) + 1) if number not in read)

    def edges(self) -> Iterator[tuple[int, int]]:
        """(from, to) of every connection between the image, 0, and the layers."""
        for number, inputs in enumerate(self.connections, 1):
            for i in inputs:
                yield i, number

    # ---- sizes

    def shapes(self, channels: int = 3, height: int = 32, width: int = 32) -> list[Shape]:
        """The shape of the image and of each layer's maps, by number. Images are padded so that strides alone shrink.

        Raises ConvNetError where a filter or a stride is larger than what it reads.
        """
        found = [(channels, height, width)]
        for number, (layer, inputs) in enumerate(zip(self.layers, self.connections, strict=True), 1):
            read, high, wide = layer.read([found[i] for i in inputs])
            layer.check_fit(number, high, wide, (height, width))
            found.append((layer.depth(read), -(-high // layer.stride_height), -(-wide // layer.stride_width)))
        return found

    def read_shape(self, number: int, shapes: list[Shape]) -> Shape:
        """The shape of what a layer reads, joined; of what the classifier reads for the number after the last layer."""
        if number > len(self.layers):
            return joined([shapes[i] for i in self.read_by_classifier])
        return self.layers[number - 1].read([shapes[i] for i in self.connections[number - 1]])

    def conv_weights(self, channels: int = 3) -> int:
        """Weights of all filters, biases and batch normalisation not counted: the figure of ZL17's Table 1."""
        shapes = self.depths(channels)
        return sum(
            layer.filter_height * layer.filter_width * self.read_shape(number, shapes)[0] * layer.filters
            for number, layer in enumerate(self.layers, 1)
            if layer.type == CONV
        )

    def parameters(self, channels: int = 3) -> int:
        """All trained numbers: filters, a gain and a shift for each normalised map, and the classifier."""
        shapes = self.depths(channels)
        normalised = sum(shapes[n][0] for n, layer in enumerate(self.layers, 1) if layer.type in (CONV, BATCH_NORM))
        read = self.read_shape(len(self.layers) + 1, shapes)[0]
        return self.conv_weights(channels) + 2 * normalised + (read + 1) * self.classes

    def multiply_adds(self, channels: int = 3, height: int = 32, width: int = 32) -> int:
        """Multiply-adds of all filters for one image."""
        shapes = self.shapes(channels, height, width)
        total = 0
        for number, layer in enumerate(self.layers, 1):
            if layer.type == CONV:
                made, high, wide = shapes[number]
                read = self.read_shape(number, shapes)[0]
                total += layer.filter_height * layer.filter_width * read * made * high * wide
        return total

    def depths(self, channels: int) -> list[Shape]:
        """Shapes of which only the number of maps counts, for images of any size, which are taken as one pixel."""
        found = [(channels, 1, 1)]
        for layer, inputs in zip(self.layers, self.connections, strict=True):
            found.append((layer.depth(layer.read([found[i] for i in inputs])[0]), 1, 1))
        return found


def _rate(value: Any) -> float:
    """A learning rate as Python's float: equal networks have one text. Raises ConvNetError for what is none."""
    is_number = isinstance(value, Real) and not isinstance(value, bool)
    if not is_number or not 0 < value < float("inf"):
        raise ConvNetError(f"a learning rate is a positive number, got {value!r:.100}")
    return float(value)

"""A convolutional network as an immutable value: layers, what connects them, and its identity.

Layers are numbered from 1, in an order in which each reads only the image, which is 0, and layers before it. What a
network leaves open is closed by the three rules of ZL17, section 3.4:

1. a layer without inputs reads the image;
2. what no layer reads is concatenated for the classifier;
3. maps of different sizes are padded with zeros, to the largest, before they are concatenated (see `module`).

>>> net = ConvNet((Layer("conv", (), 3, 3, filters=36), Layer("conv", (0, 1), 3, 5, filters=48)))
>>> net.connections, net.read_by_classifier
(((0,), (0, 1)), (2,))
>>> net.shapes(3, 32, 32)
[(3, 32, 32), (36, 32, 32), (48, 32, 32)]
"""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from hashlib import sha256
from typing import Any

from nasrepro.convnet.errors import ConvNetError

CONV, MAX_POOL, BATCH_NORM, CONTRAST_NORM = "conv", "max_pool", "batch_norm", "contrast_norm"
TYPES = (CONV, MAX_POOL, BATCH_NORM, CONTRAST_NORM)
"""What a layer can be: ZL17's convolutions, and the three further types of section 3.4."""

WINDOWED = (CONV, MAX_POOL)
"""The types that have a filter's height and width, and strides."""

MAX_LAYERS = 1000
"""More layers than this are refused: no network of either paper has more than 39."""

_SIZES = ("filter_height", "filter_width", "stride_height", "stride_width")

Shape = tuple[int, int, int]
"""Channels, height and width of a map."""


@dataclass(frozen=True)
class Layer:
    """One layer: its type, the numbers of the layers that it reads, and its sizes in pixels.

    `filters` is how many maps a convolution makes, 0 for the other types. A convolution is followed by batch
    normalisation and a rectifier (ZL17, section 4.1).
    """

    type: str
    inputs: tuple[int, ...] = ()
    filter_height: int = 1
    filter_width: int = 1
    stride_height: int = 1
    stride_width: int = 1
    filters: int = 0


@dataclass(frozen=True)
class ConvNet:
    """A convolutional network: its layers, the number of classes, and the learning rate if it is predicted too.

    `output` names the layers that the classifier reads; () leaves it to rule 2. Networks compare and hash by value;
    `convnet.parse` reads their text, `str` writes it.

    Raises ConvNetError for an unknown type, sizes below 1, an input that is no earlier layer, no layer or more than
    MAX_LAYERS.
    """

    layers: tuple[Layer, ...]
    classes: int = 10
    output: tuple[int, ...] = ()
    learning_rate: float | None = None

    def __post_init__(self) -> None:
        if not 1 <= len(self.layers) <= MAX_LAYERS:
            raise ConvNetError(f"a network has 1 to {MAX_LAYERS} layers, this one has {len(self.layers):,}")
        if self.classes < 2:
            raise ConvNetError(f"a classifier tells 2 classes or more apart, got num_class = {self.classes}")
        if self.learning_rate is not None and not 0 < self.learning_rate < float("inf"):
            raise ConvNetError(f"a learning rate is a positive number, got {self.learning_rate}")
        for number, layer in enumerate(self.layers, 1):
            check_layer(layer, number)
        for number in self.output:
            if not 0 <= number <= len(self.layers):
                raise ConvNetError(f"the classifier reads layer_{number}, which is no layer of this network")

    def __str__(self) -> str:
        from nasrepro.convnet.text import to_text  # which reads this module: the text is a form of the value

        return to_text(self)

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

    # ---- sizes

    def shapes(self, channels: int = 3, height: int = 32, width: int = 32) -> list[Shape]:
        """The shape of the image and of each layer's maps, by number. Images are padded so that strides alone shrink.

        Raises ConvNetError where a filter is larger than what it reads.
        """
        found = [(channels, height, width)]
        for number, (layer, inputs) in enumerate(zip(self.layers, self.connections, strict=True), 1):
            read, high, wide = joined([found[i] for i in inputs])
            if layer.type in WINDOWED and (layer.filter_height > high or layer.filter_width > wide):
                raise ConvNetError(
                    f"layer_{number} has a filter of {layer.filter_height} x {layer.filter_width} pixels and reads "
                    f"maps of {high} x {wide}",
                    hint="use a smaller filter, or smaller strides before it",
                )
            if layer.stride_height > high or layer.stride_width > wide:
                raise ConvNetError(
                    f"layer_{number} has strides of {layer.stride_height} x {layer.stride_width} pixels and reads maps "
                    f"of {high} x {wide}: no pixel would be left to stride over",
                    hint="use smaller strides",
                )
            made = layer.filters if layer.type == CONV else read
            found.append((made, -(-high // layer.stride_height), -(-wide // layer.stride_width)))
        return found

    def read_shape(self, number: int, shapes: list[Shape]) -> Shape:
        """The shape of what a layer reads, joined; of what the classifier reads for the number after the last layer."""
        inputs = self.connections[number - 1] if number <= len(self.layers) else self.read_by_classifier
        return joined([shapes[i] for i in inputs])

    def conv_weights(self, channels: int = 3) -> int:
        """Weights of all filters, biases and batch normalisation not counted: the figure of ZL17's Table 1."""
        depths = self._depths(channels)
        return sum(
            layer.filter_height * layer.filter_width * sum(depths[i] for i in inputs) * layer.filters
            for layer, inputs in zip(self.layers, self.connections, strict=True)
            if layer.type == CONV
        )

    def parameters(self, channels: int = 3) -> int:
        """All trained numbers: filters, a gain and a shift for each normalised map, and the classifier."""
        depths = self._depths(channels)
        normalised = sum(depths[n] for n, layer in enumerate(self.layers, 1) if layer.type in (CONV, BATCH_NORM))
        read = sum(depths[i] for i in self.read_by_classifier)
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

    def _depths(self, channels: int) -> list[int]:
        """The number of maps of the image and of each layer."""
        depths = [channels]
        for layer, inputs in zip(self.layers, self.connections, strict=True):
            depths.append(layer.filters if layer.type == CONV else sum(depths[i] for i in inputs))
        return depths

    # ---- identity

    def canonical(self) -> "ConvNet":
        """The one network that all share which a reader would call the same.

        Connections are written out and sorted, layers that do not reach the classifier are left out, and the others
        stand in an order that does not depend on how they were numbered.
        """
        order = _canonical_order(self)
        new = {0: 0} | {old: number for number, old in enumerate(order, 1)}
        layers = tuple(
            replace(self.layers[old - 1], inputs=tuple(sorted(new[i] for i in self.connections[old - 1])))
            for old in order
        )
        return replace(self, layers=layers, output=tuple(sorted(new[i] for i in self.read_by_classifier)))

    @cached_property
    def hash(self) -> str:
        """The first 16 hex digits of the SHA-256 of the canonical form's text."""
        return sha256(str(self.canonical()).encode()).hexdigest()[:16]

    # ---- JSON

    def to_json(self) -> str:
        """JSON text: {"format", "hash", and the fields}. `from_json` reads it back."""
        return json.dumps({"format": 1, "hash": self.hash, **asdict(self)})

    @staticmethod
    def from_json(text: str) -> "ConvNet":
        """The network that `to_json` wrote. Raises ConvNetError for any other text."""
        try:
            data = json.loads(text)
            layers = tuple(Layer(**{**each, "inputs": tuple(each["inputs"])}) for each in data["layers"])
            net = ConvNet(layers, data["classes"], tuple(data["output"]), data["learning_rate"])
        except ConvNetError:
            raise
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ConvNetError(f"not a network's JSON: {error!r}", hint="write one with net.to_json()") from None
        if data.get("hash", net.hash) != net.hash:
            raise ConvNetError(f"the JSON contradicts itself: its layers have the hash {net.hash}, not {data['hash']}")
        return net


def joined(shapes: list[Shape]) -> Shape:
    """The shape of maps that are padded to the largest and concatenated (rule 3)."""
    return sum(c for c, _, _ in shapes), max(h for _, h, _ in shapes), max(w for _, _, w in shapes)


def check_layer(layer: Layer, number: int) -> None:
    """Raise ConvNetError, which names the layer, where it cannot be layer `number` of any network."""
    name = f"layer_{number}"
    if layer.type not in TYPES:
        raise ConvNetError(f"{name} has the type {layer.type!r:.100}", hint=f"types are {', '.join(TYPES)}")
    for field in (*_SIZES, *(("filters",) if layer.type == CONV else ())):
        value: Any = getattr(layer, field)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ConvNetError(f"{name} has {_WORDS.get(field, field)} = {value!r:.100}: a whole number from 1 on")
    if layer.type != CONV and layer.filters:
        raise ConvNetError(f"{name} is a {layer.type}, which makes as many maps as it reads: it has no num_filters")
    for other in layer.inputs:
        if other == number:
            raise ConvNetError(f"{name} reads itself: a cycle", hint="a layer reads the image and earlier layers")
        if not 0 <= other < number:
            raise ConvNetError(f"{name} reads layer_{other}, which is no earlier layer", hint="order layers by inputs")


_WORDS = {"filters": "num_filters"}


def _canonical_order(net: ConvNet) -> list[int]:
    """The layers that reach the classifier, by their depth and then by all that surrounds them.

    A layer is told from another of equal depth by what it is, reads and is read by; where rounds of telling leave two
    alike, exchanging them changes nothing.
    """
    alive = _reaching(net)
    depth = {0: 0}
    for number in alive:
        depth[number] = 1 + max(depth[i] for i in net.connections[number - 1])
    readers: dict[int, list[int]] = {number: [] for number in (0, *alive)}
    for number in alive:
        for i in net.connections[number - 1]:
            readers[i].append(number)
    output = set(net.read_by_classifier)
    mark = {0: "image"} | {n: f"{depth[n]} {replace(net.layers[n - 1], inputs=())} {n in output}" for n in alive}
    for _ in range(len(alive)):
        told = {
            n: _told(mark[n], [mark[i] for i in net.connections[n - 1]], [mark[r] for r in readers[n]]) for n in alive
        }
        finer = len(set(told.values())) > len({mark[n] for n in alive})
        mark |= told
        if not finer:
            break
    return sorted(alive, key=lambda n: (depth[n], mark[n]))


def _told(own: str, read: list[str], readers: list[str]) -> str:
    return sha256(repr((own, sorted(read), sorted(readers))).encode()).hexdigest()


def _reaching(net: ConvNet) -> list[int]:
    """The numbers of the layers from which a path leads to the classifier, in order."""
    found: set[int] = set()
    waiting = [number for number in net.read_by_classifier if number]
    while waiting:
        number = waiting.pop()
        if number not in found:
            found.add(number)
            waiting += [i for i in net.connections[number - 1] if i]
    return sorted(found)


def edges(net: ConvNet) -> Iterator[tuple[int, int]]:
    """(from, to) of every connection between the image, 0, and the layers."""
    for number, inputs in enumerate(net.connections, 1):
        for i in inputs:
            yield i, number
